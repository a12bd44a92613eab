"""The yardstick: PPO for gymnax by hand, in one file, without this library. What a fast one-file program costs.

In the manner of the well-known one-file JAX PPOs: one network call per step gives action and value, environments reset at
every step and the reset is selected where an episode ended, advantages in a reversed scan, epochs of shuffled minibatches, all
in nested scans. Its time limits are terminations, as they are in its models. Only the benchmark reads this.
"""

from typing import NamedTuple

import flax.linen as nn
import gymnax
import jax
import jax.numpy as jnp
import optax


class Step(NamedTuple):
    observation: jax.Array
    action: jax.Array
    reward: jax.Array
    done: jax.Array
    value: jax.Array
    log_prob: jax.Array


class Network(nn.Module):
    num_actions: int

    @nn.compact
    def __call__(self, x):
        def layer(size, scale):
            return nn.Dense(size, kernel_init=nn.initializers.orthogonal(scale))

        policy = nn.tanh(layer(64, 2**0.5)(nn.tanh(layer(64, 2**0.5)(x))))
        value = nn.tanh(layer(64, 2**0.5)(nn.tanh(layer(64, 2**0.5)(x))))
        return layer(self.num_actions, 0.01)(policy), layer(1, 1.0)(value)[..., 0]


def make(
    env_name: str, num_envs: int, length: int, epochs: int = 4, minibatches: int = 4, learning_rate: float = 2.5e-4
):
    """(init: key -> state, iterate: state -> (state, mean return of finished episodes)); one iteration is one rollout."""
    env, params = gymnax.make(env_name)
    network = Network(env.action_space(params).n)
    optimiser = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(learning_rate, eps=1e-5))

    def init(key):
        network_key, reset_key, key = jax.random.split(key, 3)
        weights = network.init(network_key, jnp.zeros((1, *env.observation_space(params).shape)))
        observation, env_state = jax.vmap(env.reset, (0, None))(jax.random.split(reset_key, num_envs), params)
        return weights, optimiser.init(weights), observation, env_state, jnp.zeros(num_envs), key

    def iterate(state):
        weights, opt_state, observation, env_state, episode_return, key = state

        def env_step(carry, _):
            observation, env_state, episode_return, key = carry
            key, action_key, step_key = jax.random.split(key, 3)
            logits, value = network.apply(weights, observation)
            action = jax.random.categorical(action_key, logits)
            log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), action[:, None], 1)[:, 0]
            following, env_state, reward, terminated, truncated, _ = jax.vmap(env.step, (0, 0, 0, None))(
                jax.random.split(step_key, num_envs), env_state, action, params
            )
            done = terminated | truncated
            episode_return += reward
            finished = (episode_return * done).sum(), done.sum()
            step = Step(observation, action, reward, done, value, log_prob)
            return (following, env_state, episode_return * (1 - done), key), (step, finished)

        carry = observation, env_state, episode_return, key
        carry, (steps, finished) = jax.lax.scan(env_step, carry, None, length)
        observation, env_state, episode_return, key = carry
        last_value = network.apply(weights, observation)[1]

        def advantage_step(carry, step):
            advantage, next_value = carry
            delta = step.reward + 0.99 * next_value * (1 - step.done) - step.value
            advantage = delta + 0.99 * 0.95 * (1 - step.done) * advantage
            return (advantage, step.value), advantage

        start = jnp.zeros(num_envs), last_value
        advantage = jax.lax.scan(advantage_step, start, steps, reverse=True)[1]
        data = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (steps, advantage, advantage + steps.value))

        def loss(weights, batch):
            steps, advantage, target = batch
            logits, value = network.apply(weights, steps.observation)
            log_probs = jax.nn.log_softmax(logits)
            log_prob = jnp.take_along_axis(log_probs, steps.action[:, None], 1)[:, 0]
            ratio = jnp.exp(log_prob - steps.log_prob)
            advantage = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
            surrogate = jnp.minimum(ratio * advantage, jnp.clip(ratio, 0.8, 1.2) * advantage).mean()
            entropy = -(jnp.exp(log_probs) * log_probs).sum(-1).mean()
            return -surrogate + 0.25 * jnp.square(value - target).mean() - 0.01 * entropy

        def epoch(carry, _):
            weights, opt_state, key = carry
            key, shuffle_key = jax.random.split(key)
            order = jax.random.permutation(shuffle_key, num_envs * length)
            batches = jax.tree.map(lambda x: jnp.take(x, order, 0).reshape(minibatches, -1, *x.shape[1:]), data)

            def minibatch(carry, batch):
                weights, opt_state = carry
                gradient = jax.grad(loss)(weights, batch)
                step, opt_state = optimiser.update(gradient, opt_state, weights)
                return (optax.apply_updates(weights, step), opt_state), None

            (weights, opt_state), _ = jax.lax.scan(minibatch, (weights, opt_state), batches)
            return (weights, opt_state, key), None

        (weights, opt_state, key), _ = jax.lax.scan(epoch, (weights, opt_state, key), None, epochs)
        total, count = jax.tree.map(jnp.sum, finished)
        return (weights, opt_state, observation, env_state, episode_return, key), total / jnp.maximum(count, 1)

    return init, iterate
