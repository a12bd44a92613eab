"""IQ-Learn: soft values learned from demonstrations, without a reward and without a discriminator. Garg et al., 2021,
arXiv:2106.12142.

Any Q is right for the reward r = Q(s, a) - gamma V(s'), so Q is moved until that reward pays what was demonstrated and, by
E[V(s) - gamma V(s')], nothing beyond it; the policy is SAC's. With `online` False it learns from the demonstrations alone. The
reward is r, which knows the demonstrator's dynamics.

The authors' third form of the second term, (1 - gamma) E V(s_0), is not here: over a demonstrator's steps it is what
`values_of="demonstrations"` comes to.
"""

import jax
import jax.numpy as jnp

from rljax import sources
from rljax.agents.online import sac
from rljax.errors import UserError
from rljax.losses import inverse
from rljax.names import nearest
from rljax.networks.policies import q_taken
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Sample, Source, Transition

VALUES_OF = ("all", "demonstrations")
DRAWS = 16  # of the policy's actions, for the value of a state where a reward is asked for


@record
class Config(sac.Config):
    """SAC's, with one critic and a fixed price of entropy, as the authors have it for bodies."""

    alpha: float = 0.5  # of the chi-square divergence: rewards above 2 alpha are too much of a good thing
    initial_temperature: float = 0.01
    learn_temperature: bool = static(False)
    num_critics: int = static(1)
    divergence: str = static("chi_square")
    values_of: str = static("all")  # steps over which V(s) - gamma V(s') is lowered
    penalise_all: bool = static(True)  # own steps' squared rewards as well as the demonstrations'; chi_square alone
    target_network: bool = static(True)  # V(s') is a target network's, a constant
    online: bool = static(True)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For any actions. Reads a `Sample` [B] whose extras say what was `demonstrated`.

    Raises:
      UserError: there is no such divergence, or no such steps to take values of; or samples span several steps.
    """
    for name, known in (("divergence", inverse.DIVERGENCES), ("values_of", VALUES_OF)):
        if getattr(config, name) not in known:
            raise UserError(f"There is no {name} {getattr(config, name)!r}; {nearest(getattr(config, name), known)}")
    if config.num_steps != 1:
        raise UserError(f"num_steps={config.num_steps} must be 1: a reward is of one step.")
    _, critic = sac.networks(spec, config)
    soft_values = sac.value_function(spec, config)
    phi = inverse.DIVERGENCES[config.divergence]

    def critic_loss(params, state: sac.State, batch: Sample, key: Key):
        steps, shown = batch.transition, batch.transition.extras["demonstrated"]
        key, next_key = jax.random.split(key)
        temperature = jnp.exp(state.temperature.params)
        value_of = lambda params, observation, key: soft_values(
            state.policy.params, params, temperature, observation, key
        )[0]
        value = value_of(params, steps.observation, key)
        if config.target_network:
            next_value = jax.lax.stop_gradient(value_of(state.target_critic, steps.next_observation, next_key))
        else:
            next_value = value_of(params, steps.next_observation, next_key)
        q = q_taken(critic, spec, params, steps.observation, steps.action)  # [E, B]
        reward = jax.vmap(jax.vmap(inverse.soft_reward), (0, None, None))(q, next_value, batch.discount)
        earned = value - batch.discount * next_value
        over = lambda x, where: (where * x).sum(-1) / jnp.maximum(where.sum(), 1.0)
        everything = jnp.ones_like(shown)
        pays = over(jax.vmap(jax.vmap(phi, (0, None)), (0, None))(reward, config.alpha), shown)
        if config.divergence == "chi_square" and config.penalise_all:
            pays = over(reward, shown) - over(jnp.square(reward), everything) / (4.0 * config.alpha)
        loss = over(earned, everything if config.values_of == "all" else shown) - pays.mean()
        metrics = {
            "loss/critic": loss,
            "critic/q": q.mean(),
            "reward/demonstrations": over(reward, shown).mean(),
            "reward/own": over(reward, 1.0 - shown).mean(),
        }
        return loss, metrics

    def learned_reward(state: sac.State, steps: Transition):
        def value(key):
            temperature = jnp.exp(state.temperature.params)
            values = soft_values(state.policy.params, state.critic.params, temperature, steps.next_observation, key)
            return values[0]

        next_value = jax.vmap(value)(jax.random.split(jax.random.key(0), DRAWS)).mean(0)
        q = q_taken(critic, spec, state.critic.params, steps.observation, steps.action).mean(0)
        return jax.vmap(inverse.soft_reward)(q, next_value, config.gamma * (1.0 - steps.terminated))

    return sac.make(spec, config, critic_loss=critic_loss)._replace(reward=learned_reward)


def source(env: Env, config: Config, dataset) -> Source:
    """Half of each batch from the demonstrations, half from a replay of the agent's own steps, and its steps are the
    environment's; or, with `online` False, all of it from the demonstrations."""
    own_size = config.batch_size // 2 if config.online else 0
    batch = dict(batch_size=config.batch_size - own_size, num_batches=config.num_updates, gamma=config.gamma)
    data = sources.labelled(sources.at_rest(dataset, **batch), demonstrated=1.0)
    if not config.online:
        return data
    own = sources.labelled(sources.replay_of(env, config, batch_size=own_size), demonstrated=0.0)
    return sources.mixed(own, data)
