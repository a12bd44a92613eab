"""ReCOIL: demonstrations imitated with the help of any data, by matching mixtures. Sikchi et al., 2023, "Dual RL",
arXiv:2302.08560.

What is matched is beta d_E + (1 - beta) d_S with d_pi in the place of d_E, where S is the dataset: so the dataset need not cover
what was demonstrated, and no discriminator is needed. With the chi-square divergence f(w) = (w - 1)^2 and
y = gamma Q(s', pi) - Q(s, a), Q minimises

  beta ((1 - gamma) E Q(s_0, pi) + E_E y) + 1/4 (beta E_E y^2 + (1 - beta) E_S y^2),

and there 1 + y / 2 is the ratio of the two mixtures. By telescoping, (1 - gamma) E Q(s_0, pi) is the mean of V(s) - gamma V(s'),
with V(s) = Q(s, pi), over the steps that `values_of` names. The policy copies the actions of both by their advantage, as AWAC's
does.

What the authors add to keep values in bounds (a target value for demonstrations, a floor, a gradient penalty) is not here. What
follows a termination is worth 0.
"""

import jax
import jax.numpy as jnp

from rljax import sources
from rljax.agents.offline import awac
from rljax.errors import UserError
from rljax.names import nearest
from rljax.networks.policies import q_taken, sample_or_mode
from rljax.record import record, static
from rljax.types import Agent, Discrete, Env, EnvSpec, Key, Sample, Source

VALUES_OF = ("all", "demonstrations")


@record
class Config(awac.Config):
    """AWAC's; half of a batch are demonstrations. Temperature: as cleanil has it (github.com/ran-weii/cleanil)."""

    mixture: float = 0.5  # beta
    inverse_temperature: float = 10.0
    values_of: str = static("all")  # steps over which V(s) - gamma V(s') is lowered
    target_network: bool = static(True)  # Q(s', pi) in the square is a target network's, a constant


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For any actions. Reads a `Sample` [B] whose extras say what was `demonstrated`.

    Raises:
      UserError: there are no such steps to take values of; or as `awac.make` does.
    """
    if config.values_of not in VALUES_OF:
        raise UserError(f"There is no values_of {config.values_of!r}; {nearest(config.values_of, VALUES_OF)}")
    policy, critic = awac.networks(spec, config)

    def q_of_policy(policy_params, params, observation, key):
        """Each critic's Q(s, pi) [E, B]: exact with discrete actions, else of one action."""
        acting = policy.apply(policy_params, observation)
        if isinstance(spec.action, Discrete):
            return (jax.nn.softmax(acting.logits) * critic.apply(params, observation)).sum(-1)
        return q_taken(critic, spec, params, observation, sample_or_mode(acting, spec, key, True))

    def critic_loss(params, state: awac.State, batch: Sample, key: Key):
        steps, shown = batch.transition, batch.transition.extras["demonstrated"]
        key, next_key, target_key = jax.random.split(key, 3)
        pi = state.policy.params
        mean = lambda x, where: (where * x).sum(-1) / jnp.maximum(where.sum(), 1.0)
        over_both = lambda x: config.mixture * mean(x, shown) + (1.0 - config.mixture) * mean(x, 1.0 - shown)
        q = q_taken(critic, spec, params, steps.observation, steps.action)
        value = q_of_policy(pi, params, steps.observation, key)
        later = batch.discount * q_of_policy(pi, params, steps.next_observation, next_key)
        bootstrap = later
        if config.target_network:
            target = q_of_policy(pi, state.target_critic, steps.next_observation, target_key).min(0)
            bootstrap = jax.lax.stop_gradient(batch.discount * target)
        lowered = over_both(value - later) if config.values_of == "all" else mean(value - later, shown)
        linear = config.mixture * (lowered + mean(later - q, shown))
        loss = (linear + 0.25 * over_both(jnp.square(bootstrap - q))).mean()
        metrics = {
            "loss/critic": loss,
            "critic/q": q.mean(),
            "reward/demonstrations": mean(q - later, shown).mean(),
            "reward/dataset": mean(q - later, 1.0 - shown).mean(),
        }
        return loss, metrics

    return awac.make(spec, config, critic_loss)


def source(env: Env, config: Config, dataset, demonstrations) -> Source:
    """Half of each batch from the demonstrations, half from the dataset; with `online`, its half is a mixture of it and of the
    agent's own steps."""
    half = config.batch_size // 2
    batch = dict(batch_size=config.batch_size - half, num_batches=config.num_updates, gamma=config.gamma)
    data = sources.labelled(sources.of_data(env, config, dataset, batch_size=half), demonstrated=0.0)
    return sources.mixed(data, sources.labelled(sources.at_rest(demonstrations, **batch), demonstrated=1.0))
