"""Rewards that depend on the past, from nothing but what whole episodes came to.

Early et al., 2022, "Non-Markovian Reward Modelling from Trajectory Labels via Interpretable Multiple Instance Learning".

An episode is a bag of steps and its return the bag's label: rewards are learned of each step whose sum is the return, in squared
error. What a reward may depend on is `kind` (rljax/networks/sequence_rewards.py):

  instance    the step alone; the baseline that cannot remember
  embedding   an LSTM tells the return so far, and rewards are what steps add to it
  recurrent   an LSTM's state (Instance Space LSTM)
  skip        that state beside the step's features (CSC Instance Space LSTM: concatenated skip connections)

It acts at random; others are trained on what it found by `--reward_from=RUN`. Of a dataset's rewards it sees the sums alone. Their
dropout and early stopping are not here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax import distributions, normalize, sources
from rljax.errors import UserError
from rljax.networks import sequence_rewards
from rljax.networks.feed_forward import structure
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import descend


@record
class Config:
    """Defaults: the authors' for the timer and the key (github.com/JAEarly/MIL-for-Non-Markovian-Reward-Modelling), who take one
    episode at a time."""

    learning_rate: float = 5e-4
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0  # errors of whole returns are large
    total_steps: float = 0.0  # updates over which the learning rate falls to 0, if it falls; the binary sets it
    anneal_learning_rate: bool = static(False)
    kind: str = static("skip")
    of_actions: bool = static(False)  # rewards are of what is seen and done, or of what is seen alone
    normalize_observations: bool = static(True)
    hidden: tuple[int, ...] = static((64, 32, 32))  # of the features
    units: int = static(2)  # of the LSTM
    head: tuple[int, ...] = static((32, 16))  # hidden layers from there to the reward
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    dtype: str = static("float32")
    batch_size: int = static(32)  # of episodes
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    reward: Model
    statistics: normalize.RunningStatistics  # of observations


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """Multiple-instance learning of rewards, for any actions. Reads `sources.Trajectories` [B, T] at a time.

    Raises:
      UserError: there is no such kind of reward, or episodes have no time limit.
    """
    if spec.episode_length is None:
        raise UserError("Returns of whole episodes need an environment with a time limit.")
    network = sequence_rewards.Recurrent(config.kind, units=config.units, head=config.head, **structure(spec, config))
    model = sequence_rewards.recurrent(spec, network, config.of_actions)
    learning_rate = lambda count: config.learning_rate * jnp.maximum(1.0 - count / config.total_steps, 0.0)
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(
            learning_rate if config.anneal_learning_rate else config.learning_rate, weight_decay=config.weight_decay
        ),
    )

    def init(key: Key) -> State:
        params = model.init(key)
        return State(Model(params, optimiser.init(params)), normalize.init(spec.observation_shape))

    def seen(statistics, steps: Transition) -> Transition:
        if not config.normalize_observations:
            return steps
        return steps.replace(observation=normalize.normalize(statistics, steps.observation))

    def update(state: State, batch: sources.Trajectories, key: Key) -> tuple[State, Metrics]:
        steps, mask = batch
        statistics = normalize.update(state.statistics, steps.observation)
        returns = jnp.where(mask, steps.reward, 0.0).sum(axis=1)

        def loss(params):
            error = jnp.square(model.score(params, seen(statistics, steps), mask) - returns).mean()
            return error, {"loss/reward": error, "return/variance": returns.var()}

        reward, metrics = descend(optimiser, state.reward, loss)
        return State(reward, statistics), metrics

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return distributions.uniform_action(spec.action, observation.shape[0], key), memory, {}

    def reward(state: State, steps: Transition, memory: Any = ()):
        found, after = model.reward(state.reward.params, seen(state.statistics, steps), memory)
        return (found, after) if jax.tree.leaves(memory) else found

    def score(state: State, steps: Transition, mask) -> Float[Array, " B"]:
        return model.score(state.reward.params, seen(state.statistics, steps), mask)

    return Agent(init, act, update, reward=reward, reward_memory=model.memory, score=score)


def source(env: Env, config: Config, dataset) -> Source:
    """Whole episodes of the dataset; the environment is only evaluated in."""
    return sources.trajectories(
        dataset, length=env.spec.episode_length or 1, batch_size=config.batch_size, num_batches=config.num_updates
    )
