"""Rewards of whole paths, learned around SAC: guided cost learning and f-IRL.

With a reward goes a law over paths of T steps, in proportion to exp(summed reward / temperature) and to what the dynamics allow.
SAC is the sampler, paid the reward and its entropy at that temperature. What differs is `objective`, how the reward is improved:

  likelihood       of the demonstrated paths; the partition function is an importance-weighted mean over sampled paths.
                   Finn, Levine & Abbeel, 2016, arXiv:1603.00448 (gcl.py)
  forward_kl, reverse_kl, jensen_shannon
                   the divergence between what demonstrations and the law visit, by its gradient, a covariance over paths.
                   Ni et al., 2020, arXiv:2011.04709 (f_irl.py)

The GAN-GCL of adversarial.py has the same optimum, but tells single steps apart and knows no path's weight. A path ends at the time
limit by definition; one that terminated before stays in an absorbing state until then, whose reward is learned like any other's,
so all paths have T steps, and neither an early end nor a long life pays in itself. SAC does not know of the time limit: it goes on
beyond it at a discount. Weights make up for what it does differently; where dynamics are random they count luck, as the law does.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax import rollout
from rljax.agents.imitation import reward_model
from rljax.agents.imitation.reward_model import Step
from rljax.agents.online import sac
from rljax.data import dataset as dataset_lib
from rljax.data import replay as replay_lib
from rljax.data.dataset import Dataset
from rljax.errors import UserError
from rljax.losses import adversarial, paths
from rljax.names import nearest
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Sample, Source, Transition, initial_memory
from rljax.updates import descend

LIKELIHOOD = "likelihood"


@record
class Config(sac.Config):
    """SAC's, of which `rollout_length` is the time limit and `warmup` is not read, and those of the reward."""

    reward_learning_rate: float = 1e-3
    reward_weight_decay: float = 1e-3
    objective: str = static(LIKELIHOOD)
    demonstrations_sampled: bool = static(True)  # likelihood: they are among the sampled paths too
    weighted: bool = static(
        False
    )  # divergences: correct for the sampler by paths' weights, or trust that it has the law
    inputs: str = static("state_action")
    spectral_norm: bool = static(False)
    reward_hidden: tuple[int, ...] = static((64, 64))
    reward_activation: str = static("tanh")
    reward_updates: int = static(1)  # on the paths of one rollout
    density_updates: int = static(20)  # of the logit that tells states of demonstrations, before each of the reward
    num_demonstrations: int = static(16)  # whole episodes drawn for an update
    learn_temperature: bool = static(False)
    num_envs: int = static(16)  # paths for an update
    num_updates: int = static(64)  # of SAC, after the reward's
    absorbing = True  # as reward_model reads it; no setting


class Paths(NamedTuple):
    """M paths of T steps; where not `alive` an episode had terminated, and the step is of no meaning."""

    steps: Transition  # [T, M]
    alive: Array  # [T, M]


class Batch(NamedTuple):
    own: Paths  # of the present policy
    demonstrated: Paths
    replayed: Sample  # [num_updates, B]


class State(NamedTuple):
    policy: sac.State
    reward: Model
    density: Model  # of the logit: demonstrations' visits by the policy's; unused for the likelihood


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """Inverse RL for any actions. Reads a `Batch` at a time.

    Raises:
      UserError: a switch has no such setting, or episodes have no time limit.
    """
    for name, known in (("objective", (LIKELIHOOD, *paths.SCORES)), ("inputs", reward_model.INPUTS)):
        if getattr(config, name) not in known:
            raise UserError(f"There is no {name} {getattr(config, name)!r}; {nearest(getattr(config, name), known)}")
    if spec.episode_length is None:
        raise UserError("Paths need an environment with a time limit.")
    if isinstance(config.gamma, float) and config.gamma >= 1.0:
        raise UserError(f"gamma={config.gamma} must be below 1: the policy goes on beyond the time limit.")
    policy, model = sac.make(spec, config), reward_model.make(spec, config)
    optimiser = optax.adamw(config.reward_learning_rate, weight_decay=config.reward_weight_decay)
    absorbing_state = reward_model.nothing(spec, absorbed=1.0)

    def init(key: Key) -> State:
        policy_key, *keys = jax.random.split(key, 3)
        reward, density = (Model(params, optimiser.init(params)) for params in map(model.init, keys))
        return State(policy.init(policy_key), reward, density)

    def seen(policy_state: sac.State, these: Paths) -> Step:
        """The steps [T, M] as the reward sees them: in the absorbing state once terminated, where nothing is done."""
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), these.steps)
        log_prob = policy.log_prob(policy_state, flat.observation, flat.action).reshape(these.alive.shape)
        step = reward_model.step_of(spec, these.steps, log_prob)
        return jax.tree.map(lambda absorbed, x: rollout.where(these.alive, x, absorbed), absorbing_state, step)

    def likelihood(params, own: Step, demos: Step, temperature):
        returns, demonstrated = (model.reward(params, step).sum(0) / temperature for step in (own, demos))
        log_density, sampled = own.log_prob.sum(0), returns
        if config.demonstrations_sampled:
            share = demonstrated.size / (returns.size + demonstrated.size)
            partition = paths.log_partition(returns, log_density)
            sampled = jnp.concatenate([returns, demonstrated])
            log_probs = jnp.concatenate([log_density, demos.log_prob.sum(0)])
            log_density = jax.vmap(paths.joint_log_density, (0, 0, None, None))(sampled, log_probs, partition, share)
        return paths.log_partition(sampled, log_density) - demonstrated.mean(), paths.path_weights(sampled, log_density)

    def own_weights(params, own: Step, temperature):
        returns = model.reward(params, own).sum(0) / temperature
        if not config.weighted:
            return returns, jnp.full(returns.shape, 1.0 / returns.size)
        return returns, paths.path_weights(returns, own.log_prob.sum(0))

    def divergence(params, density_params, own: Step, temperature):
        score = jnp.vectorize(paths.SCORES[config.objective])(model.reward(density_params, own)).mean(0)
        returns, weight = own_weights(params, own, temperature)
        return paths.covariance(score, returns, weight), weight

    def density_loss(params, own: Step, demos: Step, weight: Float[Array, " M"]):
        logit = lambda step, label: jnp.vectorize(adversarial.logistic_loss)(
            model.reward(params, step), jnp.float32(label)
        )
        loss = logit(demos, 1.0).mean() + (weight * logit(own, 0.0).mean(0)).sum()
        return loss, {"loss/density": loss}

    def learned_reward(state: State, steps: Transition) -> Float[Array, " B"]:
        """What a step is worth and, where it terminated, all that follows: to the time limit, where `left` says how far that is."""
        step = reward_model.step_of(spec, steps, jnp.zeros_like(steps.reward))
        discounted = config.gamma * (1.0 - config.gamma ** steps.extras.get("left", jnp.inf)) / (1.0 - config.gamma)
        rest = discounted * model.reward(state.reward.params, absorbing_state)
        return model.reward(state.reward.params, step) + step.terminated * rest

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        own, demos = seen(state.policy, batch.own), seen(state.policy, batch.demonstrated)
        temperature = jnp.exp(state.policy.temperature.params)

        def improve(models, _):
            reward, density = models
            metrics = {}
            if config.objective != LIKELIHOOD:
                _, weight = own_weights(reward.params, own, temperature)
                tell = lambda density, _: descend(optimiser, density, lambda p: density_loss(p, own, demos, weight))
                density, metrics = jax.lax.scan(tell, density, length=config.density_updates)

            def loss(params):
                if config.objective == LIKELIHOOD:
                    value, weight = likelihood(params, own, demos, temperature)
                else:
                    value, weight = divergence(params, density.params, own, temperature)
                return value, {"loss/reward": value, "reward/effective_paths": 1.0 / jnp.square(weight).sum()}

            reward, found = descend(optimiser, reward, loss)
            return (reward, density), metrics | found

        models, metrics = jax.lax.scan(improve, (state.reward, state.density), length=config.reward_updates)
        state = State(state.policy, *models)

        def follow(policy_state, sample_and_key):
            sample, key = sample_and_key
            pay = learned_reward(state, sample.transition)
            paid = sample.replace(transition=sample.transition.replace(reward=jax.lax.stop_gradient(pay)))
            new, found = policy.update(policy_state, paid, key)
            found.pop("priority")
            return new, found

        keys = jax.random.split(key, config.num_updates)
        new, found = jax.lax.scan(follow, state.policy, (batch.replayed, keys))
        own_reward, demo_reward = (model.reward(state.reward.params, step).mean() for step in (own, demos))
        metrics = jax.tree.map(jnp.mean, metrics | found)
        return state._replace(policy=new), metrics | {"reward/own": own_reward, "reward/demonstrations": demo_reward}

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return policy.act(state.policy, observation, memory, key, explore)

    def log_prob(state: State, observation, action, explore: bool = True):
        return policy.log_prob(state.policy, observation, action, explore)

    return Agent(init, act, update, log_prob=log_prob, reward=learned_reward)


def source(env: Env, config: Config, dataset: Any) -> Source:
    """New episodes of the present policy, whole demonstrated ones beside them, and batches from a replay of all steps so far.

    Raises:
      UserError: no demonstrated episode is whole: to its termination or the time limit.
    """
    length, num_envs = env.spec.episode_length, config.num_envs
    if isinstance(dataset, Dataset):  # a source that only acts has none
        dataset_lib.require_whole(dataset, length)

    def episodes(agent, agent_state, key):
        start_key, key = jax.random.split(key)
        act = lambda observation, memory, key: agent.act(agent_state, observation, memory, key, True)
        actors = rollout.start(env, agent, num_envs, start_key)
        _, batch, finished = rollout.unroll(env, act, initial_memory(agent, num_envs), actors, key, length)
        time = jnp.arange(length)[:, None]
        ended = jax.lax.cummax(jnp.where(batch.steps.done, time + 1, 0))
        began = jnp.concatenate([jnp.zeros_like(ended[:1]), ended[:-1]])
        return batch.steps.replace(extras={"left": length - 1 - (time - began)}), finished

    def init(agent, key):
        steps, _ = jax.eval_shape(lambda: episodes(agent, agent.init(key), key))
        example = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), steps)
        return replay_lib.init(example, length * max(1, config.capacity // (length * num_envs)))

    def next_batch(ring, agent, agent_state, key):
        own_key, demo_key, replay_key = jax.random.split(key, 3)
        steps, finished = episodes(agent, agent_state, own_key)
        ring = replay_lib.add(ring, steps)
        slots = replay_lib.sample_uniform(ring, replay_key, config.num_updates * config.batch_size)
        replayed = replay_lib.read(ring, slots, config.gamma)
        replayed = jax.tree.map(lambda x: x.reshape(config.num_updates, -1, *x.shape[1:]), replayed)
        own = Paths(steps, jnp.cumsum(steps.done, axis=0) - steps.done == 0)
        demonstrated = Paths(*dataset_lib.draw_whole(dataset, demo_key, config.num_demonstrations, length))
        return ring, Batch(own, demonstrated, replayed), finished

    return Source(init, next_batch, env_steps=length * num_envs)
