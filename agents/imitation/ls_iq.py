"""LS-IQ: IQ-Learn with its chi-square term over demonstrations and own steps alike, which is least squares. Al-Hafez et al., 2023,
arXiv:2303.00599.

The reward under that term is (1 / c) (d_E - d_pi) / (d_E + d_pi), so it lies in [-1 / c, 1 / c], and values in the same over
1 - gamma. Q is moved by squared errors towards 1 / c + gamma V(s') where a step was demonstrated and towards -1 / c + gamma V(s')
elsewhere, with V(s') in those bounds; or straight to the upper bound where it was demonstrated (`fixed_target`). The policy is
SAC's.

What follows a termination is paid as the step that led there, for ever. The authors' second critic, of the entropy alone, is not
here.
"""

import jax
import jax.numpy as jnp

from rljax.agents.imitation import iq_learn
from rljax.agents.online import sac
from rljax.errors import UserError
from rljax.networks.policies import q_taken
from rljax.record import record, static
from rljax.types import Agent, Env, EnvSpec, Key, Sample, Source


@record
class Config(sac.Config):
    """SAC's, with one critic and a fixed price of entropy. Bound and price: the authors' for most bodies
    (github.com/robfiras/ls-iq)."""

    reward_bound: float = 2.0  # 1 / c
    initial_temperature: float = 1e-3
    learn_temperature: bool = static(False)
    num_critics: int = static(1)
    fixed_target: bool = static(True)  # Q of demonstrations is pulled to the highest value that there can be
    clip_targets: bool = static(True)
    absorbing: bool = static(True)  # a termination leads to a state that is paid for ever
    online = True  # what `iq_learn.source` asks for


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For any actions. Reads a `Sample` [B] whose extras say what was `demonstrated`.

    Raises:
      UserError: samples span several steps, or nothing is discounted.
    """
    if config.num_steps != 1:
        raise UserError(f"num_steps={config.num_steps} must be 1: a reward is of one step.")
    if isinstance(config.gamma, float) and config.gamma >= 1.0:
        raise UserError(f"gamma={config.gamma} must be below 1: values are bounded by rewards over 1 - gamma.")
    _, critic = sac.networks(spec, config)
    soft_values = sac.value_function(spec, config)

    def critic_loss(params, state: sac.State, batch: Sample, key: Key):
        steps, shown = batch.transition, batch.transition.extras["demonstrated"]
        bound = config.reward_bound / (1.0 - config.gamma)
        temperature = jnp.exp(state.temperature.params)
        next_value, _ = soft_values(state.policy.params, state.target_critic, temperature, steps.next_observation, key)
        if config.clip_targets:
            next_value = jnp.clip(next_value, -bound, bound)
        reward = config.reward_bound * (2.0 * shown - 1.0)
        target = reward + batch.discount * next_value
        if config.absorbing:
            target += config.gamma * steps.terminated * reward / (1.0 - config.gamma)
        if config.fixed_target:
            target = jnp.where(shown > 0.0, bound, target)
        q = q_taken(critic, spec, params, steps.observation, steps.action)
        over = lambda x, where: (where * x).sum(-1) / jnp.maximum(where.sum(), 1.0)
        errors = jnp.square(q - jax.lax.stop_gradient(target))
        loss = (over(errors, shown) + over(errors, 1.0 - shown)).mean()
        metrics = {
            "loss/critic": loss,
            "critic/demonstrations": over(q, shown).mean(),
            "critic/own": over(q, 1.0 - shown).mean(),
        }
        return loss, metrics

    return sac.make(spec, config, critic_loss=critic_loss)


def source(env: Env, config: Config, dataset) -> Source:
    """Half of each batch from the demonstrations, half from a replay of the agent's own steps; its steps are the environment's."""
    return iq_learn.source(env, config, dataset)
