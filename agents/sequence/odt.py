"""Online decision transformer. Zheng, Zhang & Grover, 2022, arXiv:2202.05607.

A decision transformer whose policy is random enough to explore, and that learns from what it does. It maximises the likelihood of
the actions in its replay while the entropy of its policy, on average over their steps, stays above a target; the price of entropy
(the temperature) is learned. Episodes are labelled with the returns that they came to, whatever was asked for when they were made.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from rljax import sources
from rljax.agents.sequence import dt
from rljax.data import episodes as episodes_lib
from rljax.data.dataset import Segment
from rljax.losses.actor_critic import temperature_loss
from rljax.networks.policies import soft_policy, soft_policy_size
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Source
from rljax.updates import descend


@record
class Config(dt.Config):
    """Defaults: for locomotion, those of github.com/facebookresearch/online-dt. Give `target_return`: evaluation asks for it.

    Exploring asks for more than that by `exploration_factor` - 1 times its size: with 2, for twice a positive target.
    """

    exploration_factor: float = 2.0
    weight_decay: float = 5e-4
    temperature_learning_rate: float = 1e-4
    initial_temperature: float = 0.1
    entropy_per_dimension: float = -1.0  # target entropy of continuous actions, times their number of dimensions
    entropy_share: float = 0.2  # the same of discrete ones, as a share of the largest possible; not in the paper
    acting_context: int = static(5)  # steps that are seen while acting
    embed_time: bool = static(False)  # whether tokens tell a step's place in its episode
    num_layers: int = static(4)
    num_heads: int = static(4)
    width: int = static(512)
    batch_size: int = static(256)
    num_envs: int = static(1)
    rollout_length: int = static(100)  # steps in each environment between updates
    num_updates: int = static(30)  # after each rollout
    capacity: int = static(1000)  # episodes; the newest are kept
    random_steps: int = static(0)  # before the first update, where there is no dataset; at least one episode


class State(NamedTuple):
    policy: Model
    temperature: Model  # its logarithm


class Network(nn.Module):
    """(return_to_go [B, K], observation [B, K, ...], action [B, K, ...], time [B, K], mask [B, K]) -> [B, K, soft_policy_size]."""

    spec: EnvSpec
    config: Config

    @nn.compact
    def __call__(self, return_to_go, observation, action, time, mask, key=None):
        steps = (return_to_go[..., None] / self.config.return_scale, observation, action, time, mask)
        seen = dt.read(self.spec, self.config, *steps, key, self.config.embed_time)
        return nn.Dense(soft_policy_size(self.spec), kernel_init=nn.initializers.orthogonal())(seen)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """Online decision transformer for any actions, continuous ones in [-1, 1]. Reads a `Segment` [B, K] at a time.

    Raises:
      UserError: episodes have no time limit, or num_heads does not divide width.
    """
    dt.check(spec, config)
    network, continuous = Network(spec, config), isinstance(spec.action, Continuous)
    optimiser = optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.lamb(dt.rising(config), eps=1e-8, weight_decay=config.weight_decay),
    )
    temperature_optimiser = optax.adam(config.temperature_learning_rate)
    if continuous:
        target_entropy = config.entropy_per_dimension * spec.action.size
    else:
        target_entropy = config.entropy_share * jnp.log(spec.action.num_actions)

    def init(key: Key) -> State:
        steps = (1, config.context)
        params = network.init(key, *dt.blank(spec, *steps), jnp.zeros(steps, jnp.int32), jnp.ones(steps, bool))
        log_temperature = jnp.log(jnp.float32(config.initial_temperature))
        temperature = Model(log_temperature, temperature_optimiser.init(log_temperature))
        return State(Model(params, optimiser.init(params)), temperature)

    memory = dt.Memory(*dt.blank(spec, config.acting_context), time=jnp.int32(0), left=jnp.float32(0.0))

    def act(state: State, observation, memory: dt.Memory, key: Key, explore: bool = True):
        more = config.exploration_factor - 1.0 if explore else 0.0
        asked = config.target_return + more * jnp.abs(config.target_return)
        memory = memory._replace(left=jnp.where(memory.time == 0, asked, memory.left)).seeing(observation)
        policy = soft_policy(spec, network.apply(state.policy.params, *memory.steps())[:, -1])
        action = policy.sample(seed=key) if explore else policy.mode()
        return action, memory.having_done(action), {}

    def update(state: State, batch: Segment, key: Key) -> tuple[State, Metrics]:
        dropout_key, entropy_key = jax.random.split(key)
        steps = batch.transition
        temperature = jnp.exp(state.temperature.params)
        mean = lambda x: jnp.where(batch.mask, x, 0.0).sum() / batch.mask.sum()

        def loss(params):
            output = network.apply(
                params, batch.return_to_go, steps.observation, steps.action, batch.time, batch.mask, dropout_key
            )
            policy = soft_policy(spec, output)
            likelihood = mean(policy.log_prob(steps.action))
            if continuous:  # an estimate from one action at each step
                entropy = mean(-policy.sample_and_log_prob(seed=entropy_key)[1])
            else:
                entropy = mean(policy.entropy())
            value = -(likelihood + temperature * entropy)
            return value, {"loss/policy": value, "policy/log_likelihood": likelihood, "policy/entropy": entropy}

        policy, metrics = descend(optimiser, state.policy, loss)

        def dual(log_temperature):
            loss = temperature_loss(log_temperature, metrics["policy/entropy"], target_entropy)
            return loss, {"policy/temperature": temperature}

        temperature_model, temperature_metrics = descend(temperature_optimiser, state.temperature, dual)
        return State(policy, temperature_model), metrics | temperature_metrics

    return Agent(init, act, update, memory, dt.receive)


def source(env: Env, config: Config, dataset=None) -> Source:
    """Segments of the newest episodes, longer ones giving more of them; at first those of the dataset, if there is one."""

    def read(episodes, key):
        row, time = episodes_lib.draw_steps(episodes, key, config.batch_size)
        return episodes_lib.read_segments(episodes, row, time, config.context)

    return sources.episodes_of(env, config, read, keep_best=False, dataset=dataset)
