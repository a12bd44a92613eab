"""Direct preference optimisation on one's own completions, ranked by what they were paid; pairs, or whole lists. Rafailov et al.,
2023, arXiv:2305.18290; iterated on policy as by Xiong et al., 2023, arXiv:2312.11456.

Which loss is a name (`rljax.losses.alignment.METHODS`), so each method of the family is a line of configuration. With
`reference_rate` 0 the reference stays where the run began; with 1 it is the policy of the step before, and nothing keeps the run
near its beginning.
"""

import jax
import jax.numpy as jnp

from rljax import completions
from rljax.agents.alignment import writer
from rljax.agents.alignment.writer import State
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import alignment, listwise
from rljax.networks import language_model
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source
from rljax.updates import descend


@record
class Config(writer.Config):
    """Defaults: DPO's temperature; sizes for tasks of digits. Other numbers of a method are those of `alignment.METHODS`."""

    learning_rate: float = 3e-4
    beta: float = 0.1  # of methods that have it
    reference_rate: float = 0.0  # by which the reference follows the policy at each update
    method: str = static("dpo")
    num_prompts: int = static(32)
    group_size: int = static(8)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Completions` [Q, K]: all pairs of a group that were not paid the same are judgements.

    Raises:
      UserError: as `writer.make`, there is no such method, or groups have no pairs.
    """
    parts = writer.make(spec, config)
    alignment.check(config.method)
    if config.group_size < 2:
        raise UserError(f"group_size={config.group_size} leaves no pair to compare; it must be 2 at least.")
    changes = {"beta": config.beta} if "beta" in alignment.METHODS[config.method] else {}

    def of_groups(params, batch: Completions):
        """Log-probabilities [Q, K] of whole completions."""
        groups, size, _ = batch.tokens.shape
        tokens = batch.tokens.reshape(groups * size, -1)
        logits = language_model.completion_logits(parts.network, params, jnp.repeat(batch.prompt, size, 0), tokens)
        return language_model.taken(logits, tokens, config.temperature).sum(-1).reshape(groups, size)

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        reference = of_groups(state.reference, batch)
        length = mask(batch.tokens).sum(axis=-1)
        ranks = jax.vmap(listwise.ranks_of)(batch.reward)
        decided = (batch.reward != batch.reward[:, :1]).any(axis=1)

        def loss(params):
            log_prob = of_groups(params, batch)
            direct = lambda *group: alignment.direct_loss(config.method, *group, **changes)
            each = jax.vmap(direct)(log_prob, reference, length, ranks)
            value = jnp.where(decided, each, 0.0).sum() / jnp.maximum(decided.sum(), 1)
            best = batch.reward == batch.reward.max(axis=1, keepdims=True)
            mean = lambda where: jnp.where(where, log_prob - reference, 0.0).sum() / jnp.maximum(where.sum(), 1)
            told = {"preference/better": mean(best & decided[:, None]), "preference/worse": mean(~best)}
            return value, {"loss/policy": value, **told}

        model, metrics = descend(parts.optimiser, state.model, loss)
        rate = config.reference_rate
        moved = jax.tree.map(lambda old, new: old + rate * (new - old), state.reference, model.params)
        metrics |= {"group/mixed": decided.mean(), "group/best": batch.reward.max(axis=1).mean()}
        return State(model, moved), metrics

    return Agent(parts.init, parts.act, update, log_prob=parts.log_prob)


def source(env: Env, config: Config = Config()) -> Source:
    """`num_prompts` prompts, each answered `group_size` times by the present policy; steps are completions."""
    return completions.groups(env, config.num_prompts, config.group_size)
