"""TD3 that stays near the data: TD3+BC and ReBRAC. Fujimoto & Gu, 2021, arXiv:2106.06860; Tarasov et al., 2023, arXiv:2305.09836.

The policy climbs Q and is pulled towards the data's actions; ReBRAC also lowers the target where the next action is far from the
data's. ReBRAC is `Config(alpha=1.0, average_dimensions=False, policy_penalty=0.01, target_penalty=0.01, layer_norm=True,
normalize_observations=False, hidden=(256, 256, 256), batch_size=1024, policy_learning_rate=1e-3, critic_learning_rate=1e-3)`,
with penalties of 0 to 0.5 by dataset. All else is agents/online/td3.py, whose policy climbs the first critic (in the code of
ReBRAC's authors: the lower of the two).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rljax import normalize, sources
from rljax.agents.online import td3
from rljax.losses.behaviour import squared_distance
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Sample, Source


@record
class Config(sources.Online):
    """Defaults: TD3+BC's (arXiv:2106.06860, section 5 and appendix C), which are TD3's where TD3 has them.

    One update is `policy_delay` critic steps, each on a batch of its own, and one policy step after them.
    """

    policy_learning_rate: float = 3e-4
    critic_learning_rate: float = 3e-4
    gamma: float = 0.99
    target_rate: float = 0.005  # share of the new parameters in the target networks, each update
    reward_scale: float = 1.0
    alpha: float = 2.5  # weight of Q in the policy's loss, once Q is scaled to a mean size of 1
    policy_penalty: float = 1.0  # weight of the policy's distance from the data (beta_1)
    target_penalty: float = 0.0  # weight of the target action's distance from the data's next one (beta_2)
    exploration_noise: float = 0.1  # standard deviation, of actions in [-1, 1]
    target_noise: float = 0.2  # standard deviation, of the target's action
    target_noise_clip: float = 0.5
    average_dimensions: bool = static(True)  # distances are means over actions' dimensions (TD3+BC), or sums (ReBRAC)
    normalize_observations: bool = static(True)  # by the data seen so far
    policy_delay: int = static(2)
    num_critics: int = static(2)
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)  # in the critics
    dtype: str = static("float32")
    batch_size: int = static(256)  # of one critic step
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    """Of an agent that sees normalised observations; without, the state is td3's."""

    learner: td3.State
    statistics: normalize.RunningStatistics  # of observations


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """TD3+BC or ReBRAC for continuous actions in [-1, 1]. Reads a `Sample` [policy_delay * B] at a time.

    Raises:
      ValueError: the actions are discrete; or, from `update`, policy_delay does not divide the sample.
    """

    def distance(action, data_action):
        return jax.vmap(squared_distance, (0, 0, None))(action, data_action, config.average_dimensions)

    def policy_loss(policy, q, steps):
        """-lambda Q(s, pi(s)) + beta_1 |pi(s) - a|^2 with lambda = alpha / mean |Q|, a constant. arXiv:2106.06860, section 5."""
        action = policy(steps.observation)
        values, far = q(steps.observation, action), distance(action, steps.action).mean()
        size = jnp.maximum(jnp.abs(values).mean(), 1e-8)
        scale = config.alpha / jax.lax.stop_gradient(size)
        return config.policy_penalty * far - scale * values.mean(), {"policy/distance": far}

    def target_penalty(action, steps):
        """beta_2 |a' - a'_data|^2 [B], and 0 where the data have no next action. arXiv:2305.09836, section 3."""
        far = distance(action, steps.extras["next_action"])
        return jnp.where(steps.extras["has_next"], config.target_penalty * far, 0.0)

    learner = td3.make(spec, config, policy_loss, target_penalty)
    return normalised(learner, spec) if config.normalize_observations else learner


def normalised(learner: Agent, spec: EnvSpec) -> Agent:
    """`learner`, shown observations of mean 0 and variance 1 over the data it has seen.

    TD3+BC takes mean and variance of the whole dataset (arXiv:2106.06860, section 5); with the batches seen these become so.
    """

    def init(key: Key) -> State:
        return State(learner.init(key), normalize.init(spec.observation_shape))

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return learner.act(state.learner, normalize.normalize(state.statistics, observation), memory, key, explore)

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        steps = batch.transition
        statistics = normalize.update(state.statistics, steps.observation)
        steps = steps.replace(
            observation=normalize.normalize(statistics, steps.observation),
            next_observation=normalize.normalize(statistics, steps.next_observation),
        )
        new, metrics = learner.update(state.learner, batch.replace(transition=steps), key)
        return State(new, statistics), metrics

    return Agent(init, act, update)


def source(env: Env, config: Config, dataset) -> Source:
    """Transitions of the dataset, or a mixture with its own (`online`), for `policy_delay` critic steps at a time."""
    return sources.of_data(env, config, dataset, config.policy_delay * config.batch_size)
