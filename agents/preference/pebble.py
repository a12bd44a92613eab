"""PEBBLE: a policy and its reward, from judgements asked for while it acts. Lee et al., 2021, arXiv:2106.05091.

Before anybody is asked SAC goes where it has not been, paid by the distance to near states. Then, every so many steps while the
budget lasts, a synthetic person judges pairs of segments of its own experience (B-Pref, Lee et al., 2021, arXiv:2111.03026), some
networks learn from all judgements so far, and SAC climbs their mean. Steps are paid anew whenever they are drawn from the replay,
which is to relabel all of it after each change of the reward. What the environment paid is the person's to see, and a metric's.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rljax import normalize
from rljax.agents.online import sac
from rljax.agents.preference import asking, reward_model
from rljax.agents.preference.asking import Batch
from rljax.data import queries
from rljax.data.feedback import Judged
from rljax.errors import UserError
from rljax.networks.policies import blank_action
from rljax.record import record, signed, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import when

FLOOR = 1e-3  # of distances, whose logarithm is paid


@record
class Config(sac.Config):
    """Defaults: github.com/rll-research/BPref, config/train_PEBBLE.yaml, config/agent/sac.yaml and reward_model.py."""

    policy_learning_rate: float = 1e-4
    critic_learning_rate: float = 1e-4
    temperature_learning_rate: float = 1e-4
    initial_temperature: float = 0.1
    target_rate: float = 0.0025  # theirs is 0.005 every other update
    hidden: tuple[int, ...] = static((1024, 1024))
    batch_size: int = static(1024)
    warmup: int = static(1_000)

    reward_learning_rate: float = 3e-4
    reward_weight_decay: float = 0.0
    reward_accuracy: float = 0.97  # of judgements foretold, at which an ensemble has learned enough from them
    num_models: int = static(3)
    reward_hidden: tuple[int, ...] = static((256, 256, 256))
    reward_activation: str = static("relu")
    reward_batch_size: int = static(128)  # of judgements
    reward_epochs: int = static(200)  # at most, after each query

    pretraining: int = static(5_000)  # steps before the first query
    neighbour: int = static(5)  # which of the nearest states tells how new one is
    among: int = static(1_024)  # states of the replay that are looked at for it
    segment: int = static(50)  # steps
    query_every: int = static(5_000)  # steps
    query_size: int = static(128)  # pairs judged at a time
    max_judgements: int = static(1_400)  # pairs in all
    candidates: int = static(10)  # pairs to choose from, for each that is judged
    selection: str = static("uniform")  # of queries.SELECTIONS

    teacher_temperature: float = 0.0  # as in labellers.Teacher; so are the next three, in units of what segments paid
    teacher_flip: float = 0.0
    teacher_equal: float = 0.0
    teacher_skip: float = signed(-1e9)
    teacher_discount: float = 1.0  # of what a segment paid, from its end back


class State(NamedTuple):
    policy: sac.State
    reward: Model
    judged: Judged  # [max_judgements, 2, K], of which `count` are there
    count: Int[Array, ""]
    accuracy: Float[Array, ""]  # with which the ensemble tells what it was last taught
    newness: normalize.RunningStatistics


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For any actions. Reads a `Batch`.

    Raises:
      UserError: samples span several steps, whose sum of rewards cannot be learned anew; or there is no such selection.
    """
    if config.num_steps != 1:
        raise UserError(f"num_steps={config.num_steps} must be 1: each step is paid anew whenever it is drawn.")
    queries.check(config.selection)
    policy = sac.make(spec, config)
    model = reward_model.make(spec, reward_model.beside_policy(config))
    act, log_prob, learned_reward = reward_model.by_parts(policy, model)
    batch_size = min(config.reward_batch_size, config.max_judgements)

    def nothing_judged() -> Judged:
        shape = (config.max_judgements, 2, config.segment)
        observation, no = jnp.zeros((*shape, *spec.observation_shape)), jnp.zeros(shape, bool)
        steps = Transition(observation, blank_action(spec, *shape), jnp.zeros(shape), no, no, observation)
        return Judged(steps, no, jnp.zeros(shape[:2], jnp.int32), jnp.zeros(shape[0]), jnp.zeros(shape[0], jnp.int32))

    def init(key: Key) -> State:
        policy_key, reward_key = jax.random.split(key)
        reward, newness = model.init(reward_key), normalize.init(())
        return State(policy.init(policy_key), reward, nothing_judged(), jnp.int32(0), jnp.float32(0.0), newness)

    def fit(reward: Model, judged: Judged, count, key: Key) -> tuple[Model, Array]:
        """The ensemble after epochs over the judgements, until it tells enough of them; and how many it told in the last."""
        num_batches = (count + batch_size - 1) // batch_size

        def epoch(carry):
            reward, _, number = carry

            def step(i, carry):
                reward, told = carry
                choice_key, update_key = jax.random.split(jax.random.fold_in(jax.random.fold_in(key, number), i))
                chosen = jax.random.randint(choice_key, (batch_size,), 0, count)
                reward, metrics = model.update(reward, jax.tree.map(lambda x: x[chosen], judged), update_key)
                return reward, told + metrics["preference/agreement"]

            reward, told = jax.lax.fori_loop(0, num_batches, step, (reward, jnp.float32(0.0)))
            return reward, told / num_batches, number + 1

        def unfinished(carry):
            _, accuracy, number = carry
            return (number < config.reward_epochs) & (accuracy <= config.reward_accuracy)

        return jax.lax.while_loop(unfinished, epoch, (reward, jnp.float32(0.0), 0))[:2]

    def learn_from(state: State, batch: Batch, key: Key) -> State:
        """A query's judgements are kept, the ensemble learns from all there are, and the first begins the critics anew."""
        reward_key, critic_key = jax.random.split(key)
        rows = state.count + jnp.arange(batch.judged.weight.shape[0])
        put = lambda kept, new: kept.at[rows].set(new.astype(kept.dtype), mode="drop")
        judged, count = jax.tree.map(put, state.judged, batch.judged), state.count + batch.asked
        reward, accuracy = fit(state.reward, judged, count, reward_key)
        new = policy.init(critic_key)
        begun = state.policy._replace(critic=new.critic, target_critic=new.target_critic)
        chosen = jax.tree.map(lambda a, b: jnp.where(batch.first, a, b), begun, state.policy)
        return state._replace(policy=chosen, reward=reward, judged=judged, count=count, accuracy=accuracy)

    def update(state: State, batch: Batch, key: Key) -> tuple[State, Metrics]:
        query_key, policy_key = jax.random.split(key)
        state = when(batch.asked > 0, learn_from, state, batch, query_key)
        steps = batch.sample.transition
        far = jnp.log(jnp.clip(batch.newness, FLOOR, 1.0 / FLOOR))
        newness = jax.tree.map(
            lambda a, b: jnp.where(batch.exploring, a, b), normalize.update(state.newness, far), state.newness
        )
        learned = learned_reward(state, steps)
        pay = jnp.where(batch.exploring, far / jnp.sqrt(newness.variance + 1e-8), learned)
        sample = batch.sample.replace(transition=steps.replace(reward=jax.lax.stop_gradient(pay)))
        new, metrics = policy.update(state.policy, sample, policy_key)
        metrics |= {
            "reward/learned": learned.mean(),
            "reward/correlation": correlation(learned, steps.reward),
            "preference/accuracy": state.accuracy,
            "preference/judged": state.count.astype(jnp.float32),
        }
        return state._replace(policy=new, newness=newness), metrics

    return Agent(init, act, update, policy.memory, policy.receive, log_prob, learned_reward)


def correlation(x: Float[Array, " B"], y: Float[Array, " B"]) -> Float[Array, ""]:
    """Pearson's; 0 where one of the two does not vary."""
    x, y = x - x.mean(), y - y.mean()
    return (x * y).mean() / jnp.maximum(jnp.sqrt(jnp.square(x).mean() * jnp.square(y).mean()), 1e-12)


def source(env: Env, config: Config = Config()) -> Source:
    """A replay of the agent's own steps, and now and then judgements of segments from it; its steps are the environment's."""
    model = reward_model.networks(env.spec, reward_model.beside_policy(config))
    rewards = lambda params, steps: model.reward(params, steps)[0]
    return asking.source(env, sac.source(env, config), rewards, config)
