"""Adversarial imitation around any policy optimiser: what tells demonstrations from own steps is what own steps are paid by.

One network tells steps apart, its logit f becomes a reward, and an ordinary agent (PPO, SAC) climbs it. The methods differ in
switches that can be combined freely:

  GAIL      loss="logistic", reward="survival"                                   Ho & Ermon, 2016, arXiv:1606.03476
  DAC       the same off policy, absorbing=True, gradient_penalty=10             Kostrikov et al., 2018, arXiv:1809.02925
  AIRL      reward="logit", shaped=True, subtract_log_prob=True                  Fu et al., 2017, arXiv:1710.11248
  FAIRL     reward="forward"                                                     Ghasemipour et al., 2019, arXiv:1911.02256
  PUGAIL    positive_unlabelled=True                                             Xu & Denil, 2019, arXiv:1911.00459
  WGAN      loss="wasserstein", reward="logit", gradient_penalty=10              Xiao et al., 2019, arXiv:1906.08113
  GAN-GCL   reward="logit", subtract_log_prob=True                               Finn et al., 2016, arXiv:1611.03852
  FILTER    the Wasserstein form with demonstrated_starts=0.5                    Swamy et al., 2023, arXiv:2303.14623

Rewards are worked out anew whenever steps are learned from, so a replay is never out of date. Demonstrations, own steps and the
policy see observations by one normaliser, which the agent carries.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax import normalize, sources
from rljax.agents.imitation import reward_model
from rljax.agents.imitation.reward_model import Step
from rljax.data.dataset import Dataset
from rljax.errors import UserError
from rljax.losses import adversarial
from rljax.names import nearest
from rljax.record import record, static
from rljax.rollout import StartFrom
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Rollout, Source, Transition
from rljax.updates import descend


@record
class Config(reward_model.Config):
    """What is added to the settings of the policy's agent."""

    loss: str = static("logistic")
    reward: str = static("survival")
    shaped: bool = static(False)  # f = g + gamma h(s') - h(s), where g is the reward
    subtract_log_prob: bool = static(False)  # f is log(exp(reward) / density of the policy's action)
    demonstrated_starts: float = static(0.0)  # share of own episodes that begin in a state that was demonstrated
    normalize_observations: bool = static(True)  # by the agent's own steps so far
    reward_batch_size: int = static(256)  # of demonstrations, and of own steps
    reward_updates: int = static(1)  # for each update of the policy's agent


class State(NamedTuple):
    policy: Any  # of the policy's agent
    reward: Model
    statistics: normalize.RunningStatistics  # of observations


def make(spec: EnvSpec, config: Any, policy: Agent) -> Agent:
    """Imitation by `policy`, an agent for `spec` that learns from a `Rollout` or from `Sample`s. Reads `sources.Beside`.

    Args:
      config: the fields of `Config`, and `gamma`, `channels` and `dtype`.
    Raises:
      UserError: a switch has no such setting; or likelihoods are wanted of a policy that does not know them.
    """
    for name, known in (("loss", adversarial.LOSSES), ("reward", adversarial.REWARDS)):
        if getattr(config, name) not in known:
            raise UserError(f"There is no {name} {getattr(config, name)!r}; {nearest(getattr(config, name), known)}")
    if config.subtract_log_prob and policy.log_prob is None:
        raise UserError("subtract_log_prob needs a policy without a memory, whose actions' likelihoods are known.")
    loss_of, pay_of = adversarial.LOSSES[config.loss], adversarial.REWARDS[config.reward]
    model = reward_model.make(spec, config, config.shaped)
    absorbing_state = reward_model.nothing(spec, absorbed=1.0)
    optimiser = optax.adamw(config.reward_learning_rate, weight_decay=config.reward_weight_decay)

    def logit_of(params, step: Step):
        logit = model.logit(params, step)
        return logit - step.log_prob if config.subtract_log_prob else logit

    def paid(params, step: Step):
        """What the policy is paid [...]: for the step and, where it terminated, for all that follows."""
        pay = jnp.vectorize(pay_of)(logit_of(params, step))
        if config.absorbing:
            pay += reward_model.steps_after(config) * step.terminated * pay_of(model.reward(params, absorbing_state))
        return pay

    reward_loss = reward_model.loss_function(spec, config, model, logit_of, loss_of)

    # --- What is seen of a transition

    def normalized(statistics, observation):
        return normalize.normalize(statistics, observation) if config.normalize_observations else observation

    def seen(state: State, steps: Transition) -> tuple[Transition, Step]:
        """The steps as the policy sees them, and as the reward does."""
        steps = steps.replace(
            observation=normalized(state.statistics, steps.observation),
            next_observation=normalized(state.statistics, steps.next_observation),
        )
        log_prob = jnp.zeros_like(steps.reward)
        if config.subtract_log_prob:
            flat = [x.reshape(-1, *x.shape[steps.reward.ndim :]) for x in (steps.observation, steps.action)]
            log_prob = policy.log_prob(state.policy, *flat).reshape(log_prob.shape)
        return steps, reward_model.step_of(spec, steps, log_prob)

    # --- The agent

    def init(key: Key) -> State:
        policy_key, reward_key = jax.random.split(key)
        params = model.init(reward_key)
        statistics = normalize.init(spec.observation_shape)
        return State(policy.init(policy_key), Model(params, optimiser.init(params)), statistics)

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        return policy.act(state.policy, normalized(state.statistics, observation), memory, key, explore)

    def log_prob(state: State, observation, action, explore: bool = True):
        return policy.log_prob(state.policy, normalized(state.statistics, observation), action, explore)

    def learned_reward(state: State, steps: Transition) -> Float[Array, " B"]:
        """What is paid; where likelihoods are subtracted the network's reward itself, unshaped: that of any policy."""
        _, step = seen(state, steps)
        return model.reward(state.reward.params, step) if config.subtract_log_prob else paid(state.reward.params, step)

    def update(state: State, batch: sources.Beside, key: Key) -> tuple[State, Metrics]:
        reward_key, policy_key = jax.random.split(key)
        name = "steps" if isinstance(batch.own, Rollout) else "transition"
        original = getattr(batch.own, name)
        steps, own = seen(state, original)
        _, demos = seen(state, batch.data.transition)
        own_flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[steps.reward.ndim :]), own)
        demos = jax.tree.map(lambda x: x.reshape(config.reward_updates, -1, *x.shape[1:]), demos)

        def improve(reward, demos_and_key):
            demos, key = demos_and_key
            choice_key, penalty_key = jax.random.split(key)
            chosen = jax.random.randint(choice_key, demos.terminated.shape, 0, own_flat.terminated.size)
            own = jax.tree.map(lambda x: x[chosen], own_flat)
            return descend(optimiser, reward, lambda params: reward_loss(params, demos, own, penalty_key))

        keys = jax.random.split(reward_key, config.reward_updates)
        reward, metrics = jax.lax.scan(improve, state.reward, (demos, keys))
        metrics = jax.tree.map(jnp.mean, metrics)

        pay = jax.lax.stop_gradient(paid(reward.params, own))
        metrics |= {"reward/own": pay.mean(), "reward/demonstrations": paid(reward.params, demos).mean()}
        paid_batch = batch.own.replace(**{name: steps.replace(reward=pay)})
        new, policy_metrics = policy.update(state.policy, paid_batch, policy_key)
        statistics = state.statistics
        if config.normalize_observations:  # after the update: until then policy and data must see the same observations
            statistics = normalize.update(statistics, original.observation)
        return State(new, reward, statistics), metrics | policy_metrics

    known = None if policy.log_prob is None else log_prob
    return Agent(init, act, update, policy.memory, policy.receive, known, learned_reward)


def source(env: Env, policy_source: Callable[[Env], Source], config: Any, dataset: Dataset) -> Source:
    """Batches of the policy's source, each with demonstrations beside it for the updates of the reward.

    Raises:
      UserError: own episodes are to begin where the demonstrations were, but their states were not recorded in this environment.
    """
    if config.demonstrated_starts and isinstance(dataset, Dataset):  # a source that only acts has no dataset
        if not jax.tree.leaves(dataset.env_state):
            raise UserError("demonstrated_starts needs demonstrations with states: made by name, with ?states=1.")
        kind = lambda tree: jax.tree.map(lambda x: (jnp.shape(x), x.dtype), tree)
        one = jax.tree.map(lambda x: x[0], dataset.env_state)
        if kind(one) != kind(jax.eval_shape(env.reset, jax.random.key(0))[0]):
            raise UserError(
                "The demonstrations carry states of another environment; demonstrated_starts needs this one's."
            )
        env = StartFrom(env, dataset.env_state, dataset.transition.observation, config.demonstrated_starts)
    own = policy_source(env)
    size = config.reward_updates * config.reward_batch_size
    data = sources.at_rest(dataset, batch_size=size, num_batches=own.num_batches, gamma=config.gamma)
    return sources.beside(own, data)
