"""A reward of whole completions, from rankings of them. Stiennon et al., 2020, arXiv:2009.01325; Ouyang et al., 2022,
arXiv:2203.02155.

Prompts are answered several times by a policy that stays as it is (`--start_from` a supervised one), a judge ranks the answers to
each by what the environment pays them, and Bradley & Terry's likelihood of all pairs of a group is learned at once, each group
but once. Others are trained on what was learned by `--reward_from`, while their evaluation is by the environment:

train --agent=sft --env=tokens/sort-8 --steps=10000 --run_dir=runs/sft
train --agent=completion_reward --env='tokens/sort-8?dense=true' --start_from=runs/sft --run_dir=runs/reward
train --agent=grpo --env=tokens/sort-8 --start_from=runs/sft --reward_from=runs/reward

Several networks learn from the same rankings; what one reward is made of theirs is `ensemble`: their mean, the worst case, or the
mean less the variance (Coste et al., 2023, arXiv:2310.02743). Comparisons tell a reward up to a constant, and each network has its
own: they are centred, each by its mean over what the policy writes.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax import completions
from rljax.agents.alignment import writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import outcome, preference
from rljax.losses.listwise import ranks_of
from rljax.networks import language_model
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import descend


@record
class Config(writer.Config):
    """Networks have the policy's sizes, and begin as its folder where there is one (`model`); learning_rate, weight_decay and
    max_grad_norm are theirs."""

    noise: float = 0.0  # of the judge: P(better) = sigmoid(what was paid more / noise)
    bias: float = 1.0  # the likelihood's number
    centre_rate: float = 0.05  # by which the networks' means follow those of a batch
    uncertainty_weight: float = 0.5  # of the variance, where it is taken off
    ensemble: str = static("mean")  # of outcome.ENSEMBLES
    likelihood: str = static("decided")  # of preference.LIKELIHOODS
    num_models: int = static(3)
    num_prompts: int = static(32)
    group_size: int = static(4)


class State(NamedTuple):
    """`reward` and `centre` begin with an axis [M]."""

    policy: writer.State  # who writes
    reward: Model
    centre: Float[Array, " M"]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Completions` [Q, K], whose rewards are the judge's to see.

    Raises:
      UserError: as `writer.make`; there is no such likelihood or ensemble; groups have no pairs; or one network has no variance.
    """
    parts = writer.make(spec, config)
    preference.check(config.likelihood)
    outcome.check_ensemble(config.ensemble)
    if config.group_size < 2:
        raise UserError(f"group_size={config.group_size} leaves no pair to compare; it must be 2 at least.")
    if config.ensemble == "uncertainty_weighted" and config.num_models < 2:
        raise UserError(
            "One network tells nothing of uncertainty: ensemble=uncertainty_weighted needs num_models=2 or more."
        )
    network = writer.network_of(spec, config, outputs=1)

    def init(key: Key) -> State:
        policy_key, reward_key = jax.random.split(key)
        begin = lambda key: writer.begin(network, parts.optimiser, spec, key, config.model)
        reward = jax.vmap(begin)(jax.random.split(reward_key, config.num_models))
        return State(parts.init(policy_key), reward, jnp.zeros(config.num_models))

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        prompt, tokens = batch.flat()
        found = batch.reward + config.noise * jax.random.gumbel(key, batch.reward.shape)  # ranked by Plackett & Luce
        ranks = jax.vmap(ranks_of)(found)
        decided = (ranks != ranks[:, :1]).any(axis=1)
        weight = decided * (decided.size / jnp.maximum(decided.sum(), 1))  # the mean is over these groups

        def loss(params):
            scores = language_model.completion_score(network, params, prompt, tokens).reshape(ranks.shape)
            value = preference.batch_loss(config.likelihood, scores, ranks, weight, config.bias)
            return value, {"loss/reward": value, "scores": scores}

        reward, metrics = jax.vmap(lambda model: descend(parts.optimiser, model, loss))(state.reward)
        scores = metrics.pop("scores")  # [M, Q, K]
        centre = state.centre + config.centre_rate * (scores.mean(axis=(1, 2)) - state.centre)
        centred = scores - state.centre[:, None, None]
        metrics = {"loss/reward": metrics["loss/reward"].mean(), "reward/spread": centred.std(axis=0).mean()}
        metrics |= {"group/decided": decided.mean(), **preference.agreed(scores.mean(axis=0), ranks)}
        return State(state.policy, reward, centre), metrics

    def reward(state: State, steps: Transition) -> Float[Array, " B"]:
        score = lambda params: language_model.completion_score(network, params, steps.observation, steps.action)
        rewards = jax.vmap(score)(state.reward.params) - state.centre[:, None]
        return outcome.ENSEMBLES[config.ensemble](rewards, config.uncertainty_weight)

    return writer.agent(parts, update, init, reward=reward)


def source(env: Env, config: Config = Config()) -> Source:
    """`num_prompts` prompts, each answered `group_size` times; steps are completions."""
    return completions.groups(env, config.num_prompts, config.group_size)
