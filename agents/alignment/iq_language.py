"""IQ-Learn on completions: the likelihood of right answers, and a bound on the rewards that it implies. Wulfmeier et al., 2024,
arXiv:2409.01369.

train --agent=iq_language --env=tokens/sort-8 --steps=10000 --run_dir=runs/iq
train --agent=grpo --env=tokens/sort-8 --reward_from=runs/iq ...

A model's logits are values Q(s, a) of what was written so far and the next token, V(s) = log sum exp Q, and log pi = Q - V. So the
reward for which they are right is r = Q(s, a) - gamma V(s'), with V = 0 after the last token, be it END or the limit's, since the
task is paid for what stands there. The loss is -log pi + r^2 / (4 alpha), or what another divergence of IQ-Learn makes of r
(`rljax.losses.inverse`); with a large alpha it is `sft`'s. Offline: values are of demonstrations alone.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.agents.alignment import sft, writer
from rljax.agents.alignment.sft import State, source
from rljax.errors import UserError
from rljax.losses import inverse
from rljax.names import nearest
from rljax.networks import language_model
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Agent, EnvSpec, Transition

__all__ = ["Config", "State", "make", "source"]


@record
class Config(sft.Config):
    gamma: float = 1.0
    alpha: float = 0.5  # of the chi-square divergence: rewards above 2 alpha are too much of a good thing
    divergence: str = static("chi_square")  # of inverse.DIVERGENCES


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Completions` and copies those that were paid more than 0; its state is `sft`'s, and its reward that
    of whole completions, the sum over their tokens.

    Raises:
      UserError: as `writer.make`; there is no such divergence; alpha is not above 0; or logits should be made in chunks.
    """
    network = writer.make(spec, config).network
    if config.divergence not in inverse.DIVERGENCES:
        raise UserError(
            f"There is no divergence {config.divergence!r}; {nearest(config.divergence, inverse.DIVERGENCES)}"
        )
    if isinstance(config.alpha, float) and config.alpha <= 0.0:
        raise UserError(f"alpha={config.alpha} must be above 0.")
    if config.score_chunk:
        raise UserError("IQ-Learn reads the values of all tokens: score_chunk must be 0.")

    def values(params, prompt, tokens) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Of the tokens that were taken, and of what stood before each."""
        logits = language_model.completion_logits(network, params, prompt, tokens) / config.temperature
        value = jax.nn.logsumexp(logits, axis=-1)
        return language_model.taken(logits, tokens) + value, value

    def loss_of(params, prompt, tokens) -> Float[Array, "B T"]:
        of = lambda *each: inverse.iq_of_tokens(*each, config.gamma, config.alpha, config.divergence)
        return jax.vmap(of)(*values(params, prompt, tokens), mask(tokens))

    def reward(state: State, steps: Transition) -> Float[Array, " B"]:
        q, value = values(state.model.params, steps.observation, steps.action)
        each = jax.vmap(inverse.token_rewards, (0, 0, 0, None))(q, value, mask(steps.action), jnp.float32(config.gamma))
        return each.sum(axis=-1)

    return sft.make(spec, config, loss_of)._replace(reward=reward)
