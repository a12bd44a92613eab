"""Rewards that depend on a command, learned from demonstrations of many tasks in many finite MDPs. Fu, Korattikara, Levine &
Guadarrama, 2019, "From language to goals: inverse reinforcement learning for vision-based instruction following", arXiv:1902.07742.

One network tells what states pay, of their features and of the command. Each task, a layout and a command, is solved exactly for
it, all of a batch side by side, and the likelihood of what was demonstrated there is differentiated through the solutions: maximum
causal entropy. In a new layout, or for a new command, the reward is solved again. A clone conditioned on the command (`cloning`)
sees the layout whole and must have learned to plan in it.

A learner reads `Tasks` and acts in none of them before it has planned there, so it is no Agent: `policy` tells what it would do.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax.agents.inverse import max_causal_entropy
from rljax.agents.inverse.finite import Demonstrations
from rljax.networks.feed_forward import FeedForward
from rljax.record import record, static
from rljax.types import Key, Metrics, Model
from rljax.updates import descend


@record
class Config:
    learning_rate: float = 1e-3
    temperature: float = 1.0  # of the demonstrators; rewards are found in units of it
    hidden: tuple[int, ...] = static((64, 64))
    channels: tuple[int, ...] = static(())  # of the clone's 3 x 3 convolutions
    activation: str = static("relu")
    tolerance: float = static(1e-3)  # of values, see `rljax.tabular.solvers.optimal_q`
    finite_horizon: bool = static(False)


@record
class Tasks:
    """Of B layouts and commands. `shown` are the demonstrations in each and its dynamics.

    features: of states. command: any vector. view: the layout and the state in it, as images; read by clones alone.
    """

    shown: Demonstrations  # [B]
    features: Float[Array, "B S F"]
    command: Float[Array, "B L"]
    view: Float[Array, "B S H W C"]


class Learner(NamedTuple):
    """init: (key, Tasks) -> state. update: (state, Tasks) -> state, metrics. policy: (state, Tasks) -> [B, S, A]."""

    init: Callable[[Key, Tasks], Model]
    update: Callable[[Model, Tasks], tuple[Model, Metrics]]
    policy: Callable[[Model, Tasks], Float[Array, "B S A"]]


def make(config: Config = Config()) -> Learner:
    """Language-conditioned inverse RL. Where it is to act it reads dynamics, features and commands, no demonstrations."""
    network = FeedForward(1, config.hidden, activation=config.activation)
    seen = lambda tasks: (tasks.features, _at_states(tasks))

    def model(params, tasks: Tasks):
        def one(shown, reward):
            reward = jnp.where(shown.terminal[:, None], 0.0, jnp.broadcast_to(reward, shown.visits.shape))
            return max_causal_entropy.causal(config, shown, reward)

        return jax.vmap(one)(tasks.shown, network.apply(params, *seen(tasks)))

    return _learner(config, network, seen, model)


def cloning(num_actions: int, config: Config = Config()) -> Learner:
    """A policy network of the view and the command: what inverse RL is held to."""
    network = FeedForward(num_actions, config.hidden, 3, config.channels, config.activation)
    seen = lambda tasks: (tasks.view, _at_states(tasks))

    def model(params, tasks: Tasks):
        log_prob = jax.nn.log_softmax(network.apply(params, *seen(tasks)))
        visits = tasks.shown.visits
        return (visits * log_prob).sum((1, 2)) / visits.sum((1, 2)), jnp.exp(log_prob)

    return _learner(config, network, seen, model)


def _at_states(tasks: Tasks) -> Float[Array, "B S L"]:
    return jnp.broadcast_to(tasks.command[:, None], (*tasks.features.shape[:2], tasks.command.shape[-1]))


def _learner(config: Config, network: FeedForward, seen: Callable, model: Callable) -> Learner:
    """Of the mean likelihood of tasks. `model`: (params, Tasks) -> log-likelihoods of a step [B], policies [B, S, A]."""
    optimiser = optax.adam(config.learning_rate)

    def init(key: Key, tasks: Tasks) -> Model:
        params = network.init(key, *(x[:1, :1] for x in seen(tasks)))
        return Model(params, optimiser.init(params))

    def update(state: Model, tasks: Tasks) -> tuple[Model, Metrics]:
        def loss(params):
            value = -model(params, tasks)[0].mean()
            return value, {"loss/reward": value}

        return descend(optimiser, state, loss)

    return Learner(init, update, lambda state, tasks: model(state.params, tasks)[1])
