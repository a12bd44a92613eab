"""Regularized optimal transport: paid for being like a demonstration, held to cloning while the clone knows better. Haldar et al.,
2022, arXiv:2206.15469.

When an episode ends, its steps are matched to those of each demonstration by an optimal transport plan, and each step is paid minus
what its share of the plan costs; the closest demonstration counts. An episode so comes to minus the cost of its transport, however
long it was. TD3 climbs these rewards in

    -(1 - w) Q(s, pi(s)) + w cloning_scale |pi(s_E) - a_E|^2

over own states s and demonstrations s_E, a_E. At first w is 1: the policy only clones, and what it has then become is kept. From
there on w is the share of demonstrated states where Q prefers the kept clone's action, or follows a schedule, or is 0.

  ROT                     the defaults
  fixed schedule          cloning="schedule"
  finetuning              cloning="none": begins as the clone, then transport alone
  optimal transport only  cloning="none", clone_updates=0

Unlike in the authors' code, which learns from pixels: points are observations, not features of the clone's encoder, and are scaled
but not shifted, since the cosines of what is centred match states near the mean to any other; the first episodes are random and
the next ones those of a policy that is still being cloned; Q is the first critic's, and w is asked for in demonstrated states,
not in own ones.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rljax import sources, transport
from rljax.agents.online import td3
from rljax.data import dataset as dataset_lib
from rljax.data import episodes as episodes_lib
from rljax.data.dataset import Dataset
from rljax.errors import UserError
from rljax.losses.behaviour import prefers, squared_distance
from rljax.names import nearest
from rljax.record import record, static
from rljax.rollout import where
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Params, Source, Transition

CLONING = ("filter", "schedule", "none")
INPUTS = ("next_state", "state", "state_action")


@record
class Config(td3.Config):
    """TD3's, with the numbers of the authors' code where it has some (github.com/siddhanthaldar/ROT)."""

    policy_learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-4
    target_rate: float = 0.01
    target_noise: float = 0.1
    target_noise_clip: float = 0.3
    num_steps: int = static(3)
    warmup: int = static(0)  # random steps before the first update, at least an episode in each environment
    epsilon: float = 0.01  # price of the plan's entropy, in units of the cost
    episode_scale: float = 10.0  # rewards are scaled so that the first episodes cost so much
    clone_updates: float = 1_000.0  # in which the policy only clones
    cloning_scale: float = 1.5  # 0.03 log-likelihoods of a standard deviation of 0.1
    schedule_start: float = 1.0  # w of "schedule", from after `clone_updates` on
    schedule_end: float = 0.1
    schedule_updates: float = 20_000.0
    cloning: str = static("filter")
    cost: str = static("cosine")
    inputs: str = static("next_state")  # what is matched of a step
    scale_inputs: bool = static(True)  # so that each has a mean square of 1 over the demonstrations
    num_iterations: int = static(100)  # for a plan


class State(NamedTuple):
    learner: td3.State
    clone: Params  # of the policy when it had only cloned
    scale: Float[Array, ""]  # of rewards; set by the first batch
    updates: Int[Array, ""]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For continuous actions in [-1, 1]. Reads `Beside`: own steps paid by transport, demonstrations, [policy_delay * B] of each.

    Raises:
      UserError: a switch has no such setting; the filter has no clone to compare with; the actions are discrete.
    """
    for name, known in (("cloning", CLONING), ("cost", transport.COSTS), ("inputs", INPUTS)):
        if getattr(config, name) not in known:
            raise UserError(f"There is no {name} {getattr(config, name)!r}; {nearest(getattr(config, name), known)}")
    if config.cloning == "filter" and isinstance(config.clone_updates, float | int) and config.clone_updates < 1:
        raise UserError('cloning="filter" compares with a clone: clone_updates must be at least 1.')

    def policy_loss(policy, q, steps: Transition):
        shown = steps.extras
        action = policy(shown["demonstrated_observation"])
        far = jax.vmap(squared_distance, (0, 0, None))(action, shown["demonstrated_action"], False).mean()
        values = (q(shown["demonstrated_observation"], a) for a in (shown["cloned_action"], action))
        preferred = jax.vmap(prefers)(*values).mean()
        weight = shown["cloning_weight"].mean()
        if config.cloning == "filter":
            weight = jnp.maximum(weight, preferred)
        climbed = q(steps.observation, policy(steps.observation)).mean()
        loss = weight * config.cloning_scale * far - (1.0 - weight) * climbed
        return loss, {"policy/distance": far, "policy/cloning_weight": weight, "policy/clone_preferred": preferred}

    learner = td3.make(spec, config, policy_loss)
    policy, _ = td3.networks(spec, config)

    def init(key: Key) -> State:
        state = learner.init(key)
        clone = jax.tree.map(jnp.copy, state.policy.params)  # apart, so that the state can be donated
        return State(state, clone, jnp.float32(1.0), jnp.int32(0))

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return learner.act(state.learner, observation, memory, key, explore)

    def least_weight(updates):
        """Of cloning, whatever the filter says."""
        after = jnp.clip((updates - config.clone_updates) / jnp.maximum(config.schedule_updates, 1.0), 0.0, 1.0)
        scheduled = config.schedule_start + after * (config.schedule_end - config.schedule_start)
        return jnp.where(updates < config.clone_updates, 1.0, scheduled if config.cloning == "schedule" else 0.0)

    def update(state: State, batch: sources.Beside, key: Key) -> tuple[State, Metrics]:
        steps, demos = batch.own.transition, batch.data.transition
        cost = jnp.maximum(-steps.extras["episode_return"].mean(), 1e-8)
        scale = jnp.where(state.updates == 0, config.episode_scale / cost, state.scale)
        extras = {
            "demonstrated_observation": demos.observation,
            "demonstrated_action": demos.action,
            "cloned_action": jnp.tanh(policy.apply(state.clone, demos.observation)),
            "cloning_weight": jnp.full_like(steps.reward, least_weight(state.updates)),
        }
        steps = steps.replace(reward=scale * steps.reward, extras=extras)
        new, metrics = learner.update(state.learner, batch.own.replace(transition=steps), key)
        clone = where(state.updates < config.clone_updates, new.policy.params, state.clone)
        return State(new, clone, scale, state.updates + 1), metrics | {"reward/scale": scale}

    return Agent(init, act, update)


def points(steps: Transition, inputs: str) -> Float[Array, "*B D"]:
    """What is matched of steps [*B]: one of INPUTS, as vectors."""
    flat = lambda x: x.reshape(*steps.reward.shape, -1)
    if inputs == "next_state":
        return flat(steps.next_observation)
    return jnp.concatenate([flat(steps.observation)] + [flat(steps.action)] * (inputs == "state_action"), -1)


def transport_rewards(config: Config, dataset: Dataset, length: int):
    """(steps [L], mask [L]) -> reward [L] of an episode: minus the cost of each step's share of the plan to the demonstration
    that it is closest to, of those whose weight is above 0. Demonstrations are cut after `length` steps."""
    shown = points(dataset.transition, config.inputs)
    size = jnp.sqrt(jnp.square(shown).mean(0)) if config.scale_inputs else jnp.ones(shown.shape[1:])
    size = jnp.where(size > 0.0, size, 1.0)
    longest = min(length, dataset.size - dataset.start.shape[0] + 1)
    demos, demo_mask = dataset_lib.by_episode(dataset, shown / size, longest)
    drawn = jnp.diff(dataset.cumulative, prepend=0.0) > 0.0

    def rewards_of(steps: Transition, mask) -> Float[Array, " L"]:
        own = points(steps, config.inputs) / size
        to = lambda demo, there: transport.step_costs(
            own, mask, demo, there, transport.COSTS[config.cost], config.epsilon, config.num_iterations
        )
        costs = jax.vmap(to)(demos, demo_mask)  # [E, L]
        return -costs[jnp.argmin(jnp.where(drawn, costs.sum(-1), jnp.inf))]

    return rewards_of


def source(env: Env, config: Config, dataset) -> Source:
    """Own steps of whole episodes, paid when these have ended, and demonstrations beside them; its steps are the environment's.

    Raises:
      UserError: episodes have no time limit.
    """
    size, length = config.policy_delay * config.batch_size, env.spec.episode_length or 1

    def read(episodes, key):
        row, time = episodes_lib.draw_steps(episodes, key, size)
        return episodes_lib.read_samples(episodes, row, time, config.gamma, config.num_steps)

    # a source that only acts has no dataset
    rewards_of = transport_rewards(config, dataset, length) if isinstance(dataset, Dataset) else None
    own = sources.episodes(
        env,
        read,
        num_envs=config.num_envs,
        length=config.rollout_length,
        capacity=max(1, config.capacity // length),
        warmup=config.warmup,
        num_batches=config.num_updates,
        keep_best=False,
        rewards_of=rewards_of,
    )
    return sources.beside(
        own, sources.at_rest(dataset, batch_size=size, num_batches=config.num_updates, gamma=config.gamma)
    )
