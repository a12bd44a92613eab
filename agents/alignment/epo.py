"""EPO: entropies that are held within a band around those of before. Xu et al., 2025, arXiv:2509.22576.

GRPO's loss less lambda (H - beta P): lambda is `entropy_coefficient`, beta `band_weight`, and P how far the entropy at a token lies
outside of `band_low` to `band_high` times the mean over all batches before. As the code was released P is a constant outside of the
band, which moves nothing; that it is the distance, whose slope leads back, is our reading. A turn is a whole completion here, the
first batch has no band, and beta is a number: its schedule over the phases of training is not here.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.agents.alignment import grpo, policy_gradient, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import surrogate
from rljax.record import record
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source

__all__ = ["Banded", "Config", "make", "source"]


@record
class Config(grpo.Config):
    """Defaults: the released code's, but for `band_weight`: what lies above the band falls only where it is above 1."""

    entropy_coefficient: float = 0.001
    band_low: float = 0.5  # times the mean entropy of before
    band_high: float = 1.5
    band_weight: float = 2.0


class Banded(NamedTuple):
    """A batch, and the band that entropies should lie in."""

    batch: Completions
    low: Float[Array, ""]
    high: Float[Array, ""]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Banded`; its state is a `writer.State`.

    Raises:
      UserError: as `grpo.make`, or the band has no inside.
    """
    parts = writer.make(spec, config)
    grpo.check(config)
    numbers = config.band_low, config.band_high
    if all(isinstance(x, float) for x in numbers) and not config.band_low < config.band_high:
        raise UserError(f"band_low={config.band_low} must be below band_high={config.band_high}.")

    def update(state: writer.State, banded: Banded, key: Key) -> tuple[writer.State, Metrics]:
        batch, *band = banded

        def cost(entropy):
            return config.entropy_coefficient * (config.band_weight * surrogate.outside_band(entropy, *band) - entropy)

        return grpo.learn(parts, config, state, batch, grpo.read(parts, config, state, batch), key, cost=cost)

    return writer.agent(parts, update)


def source(env: Env, config: Config, dataset: Completions | None = None) -> Source:
    """As `grpo.source`. The mean over the batches before is the source's, so that runs go on with it.

    Raises:
      UserError: as `grpo.source`.
    """
    parts, groups = writer.make(env.spec, config), grpo.source(env, config, dataset)

    def init(agent, key):
        return groups.init(agent, key), (jnp.float32(0.0), jnp.float32(0.0))

    def next_batch(state, agent, agent_state, key):
        inner, (mean, count) = state
        inner, batch, metrics = groups.next(inner, agent, agent_state, key)
        entropy = policy_gradient.mean_entropy(parts, agent_state.model.params, batch)
        low = jnp.where(count > 0, config.band_low * mean, 0.0)
        high = jnp.where(count > 0, config.band_high * mean, jnp.inf)
        metrics |= {"entropy/written": entropy, "entropy/before": mean}
        history = mean + (entropy - mean) / (count + 1.0), count + 1.0
        return (inner, history), Banded(batch, low, high), metrics

    return groups._replace(init=init, next=next_batch)
