"""ValueDICE: imitation without a reward, by the dual of how far the policy's steps are from the demonstrations'. Kostrikov et al.,
2020, arXiv:1912.05032.

nu minimises log E_E exp(nu(s, a) - gamma nu(s', pi)) - (1 - gamma) E nu(s_0, pi): there that difference is log(d_pi / d_E) and a
constant. The policy maximises the same, through nu and its own actions; no gradient is held back anywhere. Online, own steps from a
replay are mixed into both terms; with `online` False it learns from the demonstrations alone.

The gradient of the logarithm is that of a batch, which leans; a large batch leans less. With discrete actions the expectations over
the policy are exact and the penalty is on nu's gradient in the observation.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from rljax import sources
from rljax.agents.online import sac
from rljax.errors import UserError
from rljax.losses import dual
from rljax.losses.adversarial import gradient_penalty
from rljax.names import nearest
from rljax.networks.policies import init_critic, log_prob_of, q_taken, soft_policy
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import descend, off_diagonal

STARTS = ("all", "first")


@record
class Config:
    """Defaults: the authors', as acme has them (github.com/google-deepmind/acme, agents/jax/value_dice)."""

    policy_learning_rate: float = 1e-5
    critic_learning_rate: float = 1e-3
    gamma: float = 0.99
    own_share: float = 0.05  # of own steps, online; the paper's alpha
    gradient_penalty: float = 10.0  # of nu, between demonstrations and own steps
    orthogonality: float = 1e-4  # weight of what keeps the policy's layers orthogonal
    starts: str = static("all")  # states of the demonstrations that count as starts, "all" or "first"
    absorbing: bool = static(True)  # a termination leads to a state of its own
    online: bool = static(True)
    hidden: tuple[int, ...] = static((256, 256))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    layer_norm: bool = static(False)  # in nu
    dtype: str = static("float32")
    num_envs: int = static(1)
    rollout_length: int = static(1)  # steps in each environment between updates
    num_updates: int = static(1)  # after each rollout
    batch_size: int = static(256)  # of demonstrations, and of own steps
    capacity: int = static(1_000_000)
    warmup: int = static(10_000)  # random steps before the first update
    num_critics = 1  # what `sac.networks` asks for


class State(NamedTuple):
    policy: Model
    critic: Model  # the network, and (1 - gamma) times nu of the absorbing state


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For any actions. Reads own steps, a `Sample` [B], and demonstrations [B] beside it.

    Raises:
      UserError: there are no such starts; or an absorbing state is lived in for ever and nothing is discounted.
    """
    if config.starts not in STARTS:
        raise UserError(f"There is no starts {config.starts!r}; {nearest(config.starts, STARTS)}")
    if config.absorbing and isinstance(config.gamma, float) and config.gamma >= 1.0:
        raise UserError(f"gamma={config.gamma} must be below 1 where an absorbing state is lived in for ever.")
    policy, critic = sac.networks(spec, config)
    values = sac.value_function(spec, config)
    policy_optimiser, critic_optimiser = (
        optax.adam(config.policy_learning_rate),
        optax.adam(config.critic_learning_rate),
    )
    share = config.own_share if config.online else 0.0

    def distribution(policy_params, observation):
        return soft_policy(spec, policy.apply(policy_params, observation))

    def init(key: Key) -> State:
        policy_key, critic_key = jax.random.split(key)
        policy_params = policy.init(policy_key, jnp.zeros((1, *spec.observation_shape)))
        critic_params = {"network": init_critic(critic, spec, critic_key), "absorbed": jnp.zeros(())}
        return State(
            Model(policy_params, policy_optimiser.init(policy_params)),
            Model(critic_params, critic_optimiser.init(critic_params)),
        )

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        acting = distribution(state.policy.params, observation)
        return acting.sample(seed=key) if explore else acting.mode(), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        return log_prob_of(distribution(state.policy.params, observation), spec, action, explore)

    def objective(policy_params, params, batch: sources.Beside, key: Key):
        """What nu minimises and the policy maximises, and x of the demonstrations [N]."""
        demo_key, own_key, start_key = jax.random.split(key, 3)

        def nu_of_policy(observation, key):
            return values(policy_params, params["network"], 0.0, observation, key)[0]

        def differences(steps: Transition, key):
            """nu(s, a) - gamma nu(s', pi), and their mass."""
            nu = q_taken(critic, spec, params["network"], steps.observation, steps.action)[0]
            following = nu_of_policy(steps.next_observation, key)
            end = (0.0, params["absorbed"]) if config.absorbing else ()
            residual, mass = dual.residuals(jnp.zeros_like(nu), nu, following, steps.terminated, config.gamma, *end)
            return -residual, mass

        shown, shown_mass = differences(batch.data.transition, demo_key)
        own, own_mass = differences(batch.own.transition, own_key)
        if config.starts == "first":
            starts = nu_of_policy(batch.data.transition.extras["first_observation"], start_key).mean()
        else:
            starts = nu_of_policy(batch.data.transition.observation, start_key).mean()
        starts *= 1.0 - config.gamma
        return dual.mixture_loss(shown, shown_mass, own, own_mass, starts, share), shown

    def penalty(params, batch: sources.Beside, key: Key):
        """Mean of (|gradient of nu| - 1)^2 somewhere between demonstrations and own steps."""

        def slope_between(share, demo: Transition, own: Transition):
            between = lambda a, b: share * a + (1.0 - share) * b
            observation, action = between(demo.observation, own.observation), demo.action
            nu = lambda *x: q_taken(critic, spec, params["network"], *(y[None] for y in x))[0, 0]
            if isinstance(spec.action, Continuous):
                slope = jax.grad(nu, (0, 1))(observation, between(demo.action, own.action))
            else:
                slope = jax.grad(nu, (0,))(observation, action)
            return jnp.concatenate([x.reshape(-1) for x in slope])

        demos, own = batch.data.transition, batch.own.transition
        slope = jax.vmap(slope_between)(jax.random.uniform(key, demos.reward.shape), demos, own)
        return jax.vmap(gradient_penalty, (0, None))(slope, 1.0).mean()

    def update(state: State, batch: sources.Beside, key: Key) -> tuple[State, Metrics]:
        critic_key, penalty_key, policy_key = jax.random.split(key, 3)

        def loss_of_critic(params):
            value, shown = objective(state.policy.params, params, batch, critic_key)
            loss = value + config.gradient_penalty * penalty(params, batch, penalty_key)
            return loss, {"loss/critic": value, "critic/demonstrations": shown.mean()}

        critic_model, metrics = descend(critic_optimiser, state.critic, loss_of_critic)

        def loss_of_policy(params):
            value, _ = objective(params, critic_model.params, batch, policy_key)
            return config.orthogonality * off_diagonal(params) - value, {"loss/policy": -value}

        policy_model, policy_metrics = descend(policy_optimiser, state.policy, loss_of_policy)
        return State(policy_model, critic_model), metrics | policy_metrics

    return Agent(init, act, update, log_prob=log_prob)


def source(env: Env, config: Config, dataset) -> Source:
    """A replay of the agent's own steps, which are the environment's, and demonstrations from the dataset beside them; with
    `online` False demonstrations in both places."""
    batch = dict(batch_size=config.batch_size, num_batches=config.num_updates, gamma=config.gamma)
    data = sources.at_rest(dataset, **batch)
    own = sources.replay_of(env, config, num_steps=1) if config.online else data
    return sources.beside(own, sources.with_starts(data, dataset) if config.starts == "first" else data)
