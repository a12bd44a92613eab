"""Model-based offline policy optimisation. Yu et al., 2020, arXiv:2005.13239.

First an ensemble learns what steps lead to (rljax/networks/dynamics.py); from then on it stays as it is, and soft actor-critic
(rljax.agents.online.sac) learns from a mixture of the data and of short rollouts in it, which begin in states of the data. Their
steps are paid lambda times less for what the model does not know of them.

Rollouts are made anew for every batch, by the policy of the moment: as many steps an update as theirs, who make 50,000 rollouts
every 1,000 updates and keep them for a while, but none of a policy that is past. Terminations are learned from the data; theirs
are known. Others put the price of not knowing elsewhere and hand in what pays for steps (mobile.py) or who learns (combo.py).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax import sources
from rljax.agents.online import sac
from rljax.errors import UserError
from rljax.names import nearest
from rljax.networks import dynamics, heads
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Sample, Source, Transition
from rljax.updates import when

UNCERTAINTIES = ("spread", "deviation")


@record
class Learner(heads.Config, dynamics.Config):
    """What the configs of this agent and of its relatives have: a model, how it is rolled out, and soft actor-critic."""

    model_updates: float = 20_000.0  # of the model alone, at first; theirs end when its held-out error no longer falls
    horizon: int = static(5)  # steps of a rollout in the model
    real_share: float = static(0.05)  # of a batch, from the data
    policy_learning_rate: float = 1e-4
    critic_learning_rate: float = 3e-4
    temperature_learning_rate: float = 1e-4
    gamma: float = 0.99
    target_rate: float = 0.005  # share of the new critics in the target critics, each update
    reward_scale: float = 1.0
    initial_temperature: float = 1.0
    entropy_per_dimension: float = -1.0  # target entropy of continuous actions, times their number of dimensions
    entropy_share: float = 0.98  # target entropy of discrete actions, as a share of the largest possible
    learn_temperature: bool = static(True)
    num_critics: int = static(2)
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions: none, since observations are vectors
    activation: str = static("relu")
    layer_norm: bool = static(False)  # in the critics
    dtype: str = static("float32")
    batch_size: int = static(256)
    num_updates: int = static(8)  # on batches drawn together


@record
class Config(Learner):
    """Defaults: those of a later implementation for D4RL's locomotion (github.com/yihaosun1124/OfflineRL-Kit,
    run_example/run_mopo.py), where penalties are from 0.5 to 5 and horizons 1 or 5 by dataset."""

    penalty: float = 0.5  # lambda
    entropy_in_target: bool = static(True)
    uncertainty: str = static("spread")  # or "deviation" of means: rljax.losses.dynamics


class State(NamedTuple):
    learner: Any  # soft actor-critic's
    model: dynamics.State


def shares(config: Learner) -> tuple[int, int]:
    """How many steps of the data are in a mixture, and how many rollouts; together at most `batch_size` steps.

    Raises:
      UserError: one of them is none.
    """
    real = round(config.real_share * config.batch_size)
    rollouts = (config.batch_size - real) // config.horizon
    if not real or not rollouts:
        raise UserError(
            f"real_share={config.real_share} of a batch of {config.batch_size} and rollouts of {config.horizon} steps leave "
            "nothing for the data or for the model."
        )
    return real, rollouts


def mixture(batch: Sample, imagined: Transition, gamma, real: int) -> Sample:
    """The first `real` steps of `batch`, and behind them `imagined` ones [B]."""
    steps = jax.tree.map(lambda x: x[:real], batch.transition.replace(extras={}))
    steps = jax.tree.map(lambda *x: jnp.concatenate(x), steps, imagined.replace(extras={}))
    discount = jnp.concatenate([batch.discount[:real], gamma * (1.0 - imagined.terminated)])
    weight = jnp.concatenate([batch.weight[:real], jnp.ones_like(imagined.reward)])
    slot = jnp.concatenate([batch.slot[:real], jnp.full(imagined.reward.shape, -1, batch.slot.dtype)])
    return Sample(steps, discount, weight, slot)


def make(
    spec: EnvSpec,
    config: Learner = Config(),
    learner: Agent | None = None,
    pay: Callable[[State, Transition, Key], Float[Array, " B"]] | None = None,
) -> Agent:
    """MOPO for continuous actions in [-1, 1] or discrete ones, and observations that are vectors. Reads a `Sample` of single
    steps [batch_size] at a time.

    Args:
      learner: who learns from the mixtures, which have `shares(config)[0]` steps of the data first; by default soft actor-critic.
      pay: (state, imagined steps [B], key) -> what they are paid in place of their reward; by default MOPO's penalised one.
    Raises:
      UserError: a share that leaves no room for data or model, no such uncertainty, or observations that are no vectors.
    """
    real, rollouts = shares(config)
    if pay is None and config.uncertainty not in UNCERTAINTIES:
        raise UserError(f"Unknown uncertainty {config.uncertainty!r}; {nearest(config.uncertainty, UNCERTAINTIES)}")
    model = dynamics.make(spec, config)
    learner = learner or sac.make(spec, config, entropy_in_target=config.entropy_in_target)

    def less_the_unknown(state: State, steps: Transition, key: Key) -> Float[Array, " B"]:
        return steps.reward - config.penalty * steps.extras[config.uncertainty]

    pay = pay or less_the_unknown

    def init(key: Key) -> State:
        learner_key, model_key = jax.random.split(key)
        return State(learner.init(learner_key), model.init(model_key))

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return learner.act(state.learner, observation, memory, key, explore)

    def log_prob(state: State, observation, action, explore: bool = True):
        return learner.log_prob(state.learner, observation, action, explore)

    def learn(before: Any, of: Any, batch: Sample, key: Key) -> tuple[Any, Metrics]:
        """The learner's update on a mixture of the batch and of the model's rollouts from the rest of it."""
        state = State(before, of)
        imagine_key, pay_key, update_key = jax.random.split(key, 3)
        imagined = dynamics.imagine(
            lambda observation, action, key: model.step(state.model, observation, action, key),
            lambda observation, key: learner.act(state.learner, observation, (), key)[0],
            batch.transition.observation[real : real + rollouts],
            config.horizon,
            imagine_key,
        )
        imagined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), imagined)
        paid = pay(state, imagined, pay_key)
        new, metrics = learner.update(
            before, mixture(batch, imagined.replace(reward=paid), config.gamma, real), update_key
        )
        told = {
            "model/reward": imagined.reward.mean(),
            "model/penalty": (imagined.reward - paid).mean(),
            "model/terminated": imagined.terminated.mean(),
        }
        return new, metrics | told

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        """Metrics of who does not learn just now are 0."""
        learning = state.model.updates < config.model_updates

        def turn(due, function, before, *arguments):
            """`function(before, *arguments)` where it is due, elsewhere `before` and metrics of 0."""
            metrics = jax.tree.map(
                lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(function, before, *arguments)[1]
            )
            return when(due, lambda kept, *values: function(kept[0], *values), (before, metrics), *arguments)

        new_model, model_metrics = turn(learning, model.learn, state.model, batch)
        new_learner, metrics = turn(~learning, learn, state.learner, state.model, batch, key)
        error = new_model.error[model.elites(new_model)].mean()
        return State(new_learner, new_model), metrics | model_metrics | {"model/error": error}

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset; the environment is only evaluated in."""
    return sources.at_rest(dataset, batch_size=config.batch_size, num_batches=config.num_updates, gamma=config.gamma)
