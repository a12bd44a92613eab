"""P3O: policy gradients from how much better one of two completions was, so that what a prompt adds to both does not matter. Wu et
al., 2023, "Pairwise proximal policy optimization", arXiv:2310.00212.

Whole completions are steps: rewards are less beta (log pi - log reference) of them, and so are the ratios that are clipped, either
each by itself (`clip=separate`, P3O-V1) or both together (`clip=joint`, P3O-V2; `rljax.losses.surrogate.PAIRWISE`). Of larger
groups all pairs count, and on policy that is RLOO's gradient.
"""

import jax
import jax.numpy as jnp

from rljax.agents.alignment import writer
from rljax.agents.alignment.writer import State, source
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import divergence, preference, surrogate
from rljax.names import nearest
from rljax.record import record, static
from rljax.types import Agent, EnvSpec, Key, Metrics
from rljax.updates import descend, minibatch_epochs

__all__ = ["Config", "make", "source"]


@record
class Config(writer.GroupConfig):
    """Defaults: two completions of each prompt, and PPO's clip."""

    clip_size: float = 0.2
    kl_coefficient: float = 0.02  # beta
    clip: str = static("joint")  # of surrogate.PAIRWISE
    num_epochs: int = static(1)
    num_minibatches: int = static(1)  # of prompts
    num_prompts: int = static(128)
    group_size: int = static(2)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Completions` [Q, K].

    Raises:
      UserError: as `writer.make`, groups have no pairs, or there is no such clip.
    """
    parts = writer.make(spec, config)
    if config.clip not in surrogate.PAIRWISE:
        raise UserError(f"P3O has no clip {config.clip!r}; {nearest(config.clip, surrogate.PAIRWISE)}")
    if config.group_size < 2:
        raise UserError(f"group_size={config.group_size} leaves no pair to compare; it must be 2 at least.")
    pairs = preference.pairs_among(config.group_size)

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        before, reference = (parts.whole(params, batch) for params in (state.model.params, state.reference))
        paid = divergence.penalised("k1", batch.reward, before, reference, config.kl_coefficient)

        def step(model, some):
            batch, before, paid = some
            halves = (paid[:, pairs[:, 0]] - paid[:, pairs[:, 1]]) / 2.0

            def loss(params):
                ratio = jnp.clip(parts.whole(params, batch) - before, -surrogate.LIMIT, surrogate.LIMIT)
                of_pair = lambda ratio, half: surrogate.PAIRWISE[config.clip](ratio, half, config.clip_size)
                value = jax.vmap(jax.vmap(of_pair))(ratio[:, pairs], halves).mean()
                outside = jnp.abs(jnp.exp(ratio) - 1.0) > config.clip_size
                return value, {"loss/policy": value, "policy/outside": outside.mean()}

            return descend(parts.optimiser, model, loss)

        data = batch, before, paid
        model, metrics = minibatch_epochs(step, state.model, data, key, config.num_epochs, config.num_minibatches)
        state, told = writer.after(config, state, model, batch)
        return state, metrics | told | {"reference/kl": (before - reference).mean()}

    return writer.agent(parts, update)
