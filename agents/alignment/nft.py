"""NFT: fine-tuning that is aware of what was wrong, by the policy that is left of the old one without the new. Chen et al., 2025,
arXiv:2505.18116.

Right answers are made likelier, wrong ones by the likelihood that the old policy's remainder gave them; on policy that is GRPO's
gradient (`weight="grpo"`, of ddof 0) or Dr. GRPO's.
"""

from rljax.agents.alignment import grpo
from rljax.agents.alignment.grpo import source
from rljax.errors import UserError
from rljax.losses import surrogate
from rljax.names import nearest
from rljax.record import record, static
from rljax.types import Agent, EnvSpec

__all__ = ["Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: four updates on each batch. Neither advantages nor surrogates move it, nor what is taken off rewards."""

    floor: float = 1e-2  # below which the value of a wrong answer's remainder stays
    weight: str = static("grpo")  # of prompts by their success: of surrogate.NFT_WEIGHTS
    num_minibatches: int = static(4)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions that are right (reward 1) or wrong (0). Reads `Completions`.

    Raises:
      UserError: as `grpo.make`, or there is no such weight.
    """
    if config.weight not in surrogate.NFT_WEIGHTS:
        raise UserError(f"NFT has no weight {config.weight!r}; {nearest(config.weight, surrogate.NFT_WEIGHTS)}")

    def objective(config, log_prob, written, there):
        right = written.reward > 0.5
        return surrogate.nft(log_prob, written.log_prob, right, written.success, there, config.weight, config.floor)

    return grpo.make(spec, config, objective)
