"""Semi-offline reinforcement learning on completions: right answers in which some tokens are the policy's. Chen et al., 2023,
arXiv:2306.09712.

train --agent=semi_offline --env=tokens/sort-8 --start_from=runs/sft --steps=20000

Of each right answer K copies are made. In each a share of the tokens is replaced by what the policy would write there, told of the
answer's own tokens before; so one pass of the model tells the laws of all, where writing takes a pass a token. The copies are paid
by the task, and the replaced tokens learn from how much more than the mean of their answer's copies; the likelihood of the answer
itself is a term of the loss. With a share of 0 it is `sft`.

The paper's loss is the sum over pairs of copies of -(r_i - r_j) log p_i, which is K sum_i -(r_i - mean) log p_i; here it is the
mean of the latter's terms over copies, times `policy_weight`. Our reading: tokens of copies are replaced independently of each
other, END among them, and what stands behind an END is cut off.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from rljax import completions
from rljax.agents.alignment import sft, writer
from rljax.agents.alignment.writer import State
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import outcome
from rljax.metrics import average
from rljax.networks import language_model
from rljax.record import record, static
from rljax.tokens import END, PAD, mask
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source
from rljax.updates import descend

__all__ = ["Config", "Mixed", "State", "make", "source"]


@record
class Config(sft.Config):
    """The paper's share; its weights are of other sums."""

    share: float = 0.4  # of tokens that are replaced
    policy_weight: float = 1.0
    learning_rate: float = 3e-4
    length_normalised: bool = static(
        True
    )  # a copy's log-probability over how many tokens were replaced, cut off or not
    num_prompts: int = static(32)
    group_size: int = static(8)


class Mixed(NamedTuple):
    """Right answers, their copies with what these were paid, and where tokens of copies were replaced, also behind an END."""

    answer: Int[Array, "Q T"]
    batch: Completions
    replaced: Bool[Array, "Q K T"]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Mixed`; its state is a `writer.State`, whose reference is the policy.

    Raises:
      UserError: as `writer.make`; a share is none; there is one copy alone; or logits should be made in chunks.
    """
    parts = writer.make(spec, config)
    _check(config)

    def update(state: State, mixed: Mixed, key: Key) -> tuple[State, Metrics]:
        answer, batch, replaced = mixed
        advantage, number = outcome.mean_baseline(batch.reward), replaced.sum(axis=-1)
        drawn = replaced & mask(batch.tokens)

        def loss(params):
            log_probs = jax.nn.log_softmax(_logits(parts, config, params, batch.prompt, answer))
            shown = -language_model.taken(log_probs, answer).sum() / mask(answer).sum()
            each = jnp.take_along_axis(log_probs[:, None], batch.tokens[..., None], axis=-1)[..., 0]
            each = jnp.where(drawn, each, 0.0).sum(axis=-1)
            if config.length_normalised:
                each = each / jnp.maximum(number, 1)
            policy = -(advantage * each).mean()
            return shown + config.policy_weight * policy, {"loss/shown": shown, "loss/policy": policy}

        model, metrics = descend(parts.optimiser, state.model, loss)
        return State(model, model.params), metrics | {"mixed/replaced": drawn.sum() / mask(batch.tokens).sum()}

    return writer.agent(parts, update)


def source(env: Env, config: Config = Config(), dataset: Completions | None = None) -> Source:
    """`num_prompts` right answers, of the environment or those of a dataset that were paid, each copied `group_size` times; steps
    are copies.

    Raises:
      UserError: as `make`; the environment cannot be asked a prompt, or tells no example; or nothing of the data was paid.
    """
    parts = writer.make(env.spec, config)
    _check(config)
    completions.needs(env, "Copies of right answers", "asked", *() if dataset is not None else ("example",))
    if dataset is not None:
        completions.check_paid(dataset, "copy")
    shape = config.num_prompts, config.group_size, env.spec.action.length

    def next_batch(state, agent, agent_state, key):
        right_key, where_key, draw_key, pay_key = jax.random.split(key, 4)
        prompt, answer = completions.right_answers(env, dataset, config.num_prompts, right_key)
        logits = _logits(parts, config, agent_state.model.params, prompt, answer)
        drawn = jax.random.categorical(draw_key, logits[:, None], shape=shape)
        replaced = jax.random.bernoulli(where_key, config.share, shape) & mask(answer)[:, None]
        tokens = jnp.where(replaced, drawn, answer[:, None]).astype(jnp.int32)
        ends = tokens == END
        behind = jnp.cumsum(ends, axis=-1) - ends > 0
        said = jnp.where(behind, PAD, tokens).reshape(-1, shape[-1])
        write = lambda *asked: (said, jnp.zeros(said.shape))
        nothing = completions.nothing(env.spec, config.num_prompts)
        batch = completions.continued(env, write, prompt, nothing, config.group_size, pay_key)
        paid = average(batch.reward.reshape(-1), jnp.ones(batch.reward.size, bool))
        return state, Mixed(answer, batch, replaced), {"mixed/return": paid}

    return Source(lambda agent, key: (), next_batch, env_steps=shape[0] * shape[1])


def _logits(parts, config, params, prompt, answer):
    """Of what may stand at each token of an answer, told of those before."""
    return language_model.completion_logits(parts.network, params, prompt, answer) / config.temperature


def _check(config: Config) -> None:
    if isinstance(config.share, float) and config.share > 1.0:
        raise UserError(f"share={config.share} must be a share, 1 at most.")
    if config.group_size < 2:
        raise UserError(f"group_size={config.group_size} leaves no copy to compare with; it must be 2 at least.")
    if config.score_chunk:
        raise UserError("Copies are drawn from the laws of all tokens: score_chunk must be 0.")
