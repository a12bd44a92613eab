"""Common sense from demonstrations of several tasks, MT-CSIRL: one reward beside each task's own, for all of them. Glazer, Navon,
Shamsian & Fetaya, 2024, "Multi task inverse reinforcement learning for common sense reward", arXiv:2402.11367.

Each task pays a known reward of its own; demonstrators also heed what no task says. That common part g is sought by telling
demonstrations from own steps in all tasks at once, while each task's policy climbs its own reward and g. Of one task alone much
else explains what was done; a new agent in a new task shows whether g is right.

Steps are told apart by AIRL's logit, r_i + g + gamma h_i(s') - h_i(s) - log pi_i(a|s): the reward r_i of task i stands in it as it
is, g is shared, and each task has a shaping potential h_i, as its values differ. So demonstrators are soft-optimal for r_i + g at
temperature 1. This form of the discriminator is ours.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax import parallel, sources
from rljax.agents.imitation import reward_model
from rljax.agents.online import ppo
from rljax.data.dataset import Dataset
from rljax.errors import UserError
from rljax.losses import adversarial
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import descend


@record
class Config(ppo.Config):
    """PPO's for each task, and those of the common reward."""

    reward_learning_rate: float = 1e-3
    reward_weight_decay: float = 0.0
    num_tasks: int = static(2)
    inputs: str = static("state_action")
    spectral_norm: bool = static(False)
    reward_hidden: tuple[int, ...] = static((64, 64))
    reward_activation: str = static("tanh")
    reward_batch_size: int = static(256)  # of demonstrations, and of own steps, in each task
    absorbing = False  # as reward_model reads it; no setting


class State(NamedTuple):
    policies: Any  # of PPO [K]
    reward: Model  # the common reward, and potentials [K]


def make(spec: EnvSpec, config: Config = Config(), task: Any = 0) -> Agent:
    """Learns K = num_tasks tasks in environments of one `spec`; acts as in `task`. Reads `Beside` with a leading axis [K].

    Its `reward` is the common one. It has no name in the catalog, since its source is of several environments.

    Raises:
      UserError: there is no such task, or policies have a memory.
    """
    if isinstance(task, int) and not 0 <= task < config.num_tasks:
        raise UserError(f"There is no task {task}; num_tasks={config.num_tasks}, counted from 0.")
    if config.memory:
        raise UserError(f"memory={config.memory} must be 0: likelihoods are needed of policies without one.")
    policy, model = ppo.make(spec, config), reward_model.make(spec, config, shaped=True)
    optimiser = optax.adamw(config.reward_learning_rate, weight_decay=config.reward_weight_decay)

    def init(key: Key) -> State:
        policy_key, reward_key = jax.random.split(key)
        each = jax.vmap(model.init)(jax.random.split(reward_key, config.num_tasks))
        params = {"reward": parallel.select(each["reward"], 0), "potential": each["potential"]}
        policies = jax.vmap(policy.init)(jax.random.split(policy_key, config.num_tasks))
        return State(policies, Model(params, optimiser.init(params)))

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return policy.act(parallel.select(state.policies, task), observation, memory, key, explore)

    def log_prob(state: State, observation, action, explore: bool = True):
        return policy.log_prob(parallel.select(state.policies, task), observation, action, explore)

    def learned_reward(state: State, steps: Transition) -> Float[Array, " B"]:
        step = reward_model.step_of(spec, steps, jnp.zeros_like(steps.reward))
        return model.reward(state.reward.params, step)

    def logits(params, policies, steps: Transition) -> Float[Array, "K B"]:
        """Of steps [K, B], each by its own task's policy and potential."""

        def of_task(policy_state, potential, steps):
            log_prob = policy.log_prob(policy_state, steps.observation, steps.action)
            step = reward_model.step_of(spec, steps, log_prob)
            both = {"reward": params["reward"], "potential": potential}
            return steps.reward + model.logit(both, step) - log_prob

        return jax.vmap(of_task)(policies, params["potential"], steps)

    def update(state: State, batch: sources.Beside, key: Key) -> tuple[State, Metrics]:
        choice_key, policy_key = jax.random.split(key)
        own, demos = batch.own.steps, batch.data.transition
        shape = own.reward.shape  # [K, T, N]
        flat = jax.tree.map(lambda x: x.reshape(shape[0], -1, *x.shape[3:]), own.replace(extras={}))
        chosen = jax.random.randint(choice_key, demos.reward.shape, 0, flat.reward.shape[1])
        some = jax.tree.map(lambda x: jax.vmap(lambda x, rows: x[rows])(x, chosen), flat)

        def loss(params):
            demonstrated, done = (logits(params, state.policies, steps) for steps in (demos, some))
            each = jnp.vectorize(adversarial.logistic_loss)
            value = each(demonstrated, jnp.float32(1.0)).mean() + each(done, jnp.float32(0.0)).mean()
            told = {"reward/demonstrations_told": (demonstrated > 0).mean(), "reward/own_told": (done < 0).mean()}
            return value, {"loss/reward": value} | told

        reward, metrics = descend(optimiser, state.reward, loss)
        pay = jax.lax.stop_gradient(logits(reward.params, state.policies, flat)).reshape(shape)
        paid = batch.own.replace(steps=own.replace(reward=pay))
        keys = jax.random.split(policy_key, config.num_tasks)
        policies, found = jax.vmap(policy.update)(state.policies, paid, keys)
        return State(policies, reward), metrics | jax.tree.map(jnp.mean, found)

    return Agent(init, act, update, log_prob=log_prob, reward=learned_reward)


def source(envs: Sequence[Env], config: Config, datasets: Sequence[Dataset]) -> Source:
    """Rollouts in each task by its own policy, with demonstrations of it beside them, [K, ...]; a demonstration's reward is the
    task's own.

    Args:
      envs: of one kind, differing in their numbers alone.
    Raises:
      UserError: there are not as many environments and datasets as tasks, or the environments are not of one kind.
    """
    if not len(envs) == len(datasets) == config.num_tasks:
        raise UserError(
            f"{len(envs)} environments and {len(datasets)} datasets do not make num_tasks={config.num_tasks} tasks."
        )
    kinds = [jax.tree.map(jnp.shape, env) for env in envs]
    if any(kind != kinds[0] for kind in kinds):
        raise UserError("The environments of all tasks must be of one kind, with arrays of the same shapes.")
    together, tasks = jax.tree.map(lambda *x: jnp.stack(x), *envs), jnp.arange(config.num_tasks)
    size = config.reward_batch_size
    data = [sources.at_rest(dataset, batch_size=size, num_batches=1, gamma=config.gamma) for dataset in datasets]
    split = lambda key: jax.random.split(key, config.num_tasks)

    def init(agent, key):
        return jax.vmap(lambda env, key: ppo.source(env, config).init(agent, key))(together, split(key))

    def next_batch(state, agent, agent_state, key):
        own_key, data_key = jax.random.split(key)

        def in_task(env, task, state, key):
            return ppo.source(env, config).next(state, make(env.spec, config, task), agent_state, key)

        state, own, finished = jax.vmap(in_task)(together, tasks, state, split(own_key))
        samples = [source.next((), agent, agent_state, key)[1] for source, key in zip(data, split(data_key))]
        samples = jax.tree.map(lambda *x: jnp.stack(x), *samples)
        return state, sources.Beside(own, samples), jax.tree.map(lambda x: x.sum(0), finished)

    return Source(init, next_batch, env_steps=config.num_tasks * config.num_envs * config.rollout_length)
