"""Off-policy direct advantage estimation. Pan & Schölkopf, 2024, "Skill or Luck? Return decomposition via advantage functions",
arXiv:2402.12874.

A return is a value, the advantages of what was done (skill) and of what happened (luck). All three are regressed onto segments of a
replay at once; as neither part is taken for the other, whose actions they were does not matter and there are no importance weights.
The form here: the policy is a softmax of the target network's advantages, under which the online ones are centred; what happened is
one of a few latent outcomes z, which an encoder q(z | s, a, s') tells, and luck is centred under a learned prior,
B = sum_z (q(z | s, a, s') - p(z | s, a)) b(s, a, z). Encoder, prior and a decoder of s' learn by the evidence lower bound alone,
all outcomes summed. All else is DQN (rljax.agents.online.dqn). With `luck=False` there is no B, which is right where nothing is by
chance.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax import distributions
from rljax.agents.online import q_learning
from rljax.agents.online.q_learning import State
from rljax.errors import UserError
from rljax.losses import advantage as advantage_lib
from rljax.losses import value as value_lib
from rljax.networks.feed_forward import FeedForward, structure
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Sample, Source
from rljax.updates import descend


@record
class Config(q_learning.Config):
    """Defaults: DQN's here, with segments of eight steps."""

    temperature: float = 0.1  # of the policy whose values are learned, in units of scaled rewards
    huber_delta: float = 1.0  # error from which on losses are linear
    decoder_scale: float = 0.2  # standard deviation of what an outcome leads to
    luck: bool = static(True)
    num_outcomes: int = static(8)  # latent ones
    double: bool = static(False)
    num_steps: int = static(8)  # of a segment


def check(spec: EnvSpec, config: Config) -> None:
    """Raises UserError where actions are continuous, there are no two outcomes, or `double` is asked for."""
    if isinstance(spec.action, Continuous):
        raise UserError("DAE is for discrete actions and this environment's are continuous: take SAC or TD3.")
    if config.num_outcomes < 2:
        raise UserError(f"num_outcomes={config.num_outcomes} must be at least 2, or luck=False.")
    if config.double:
        raise UserError("DAE takes no maximum that double=True could estimate: leave it out.")


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For discrete actions. Reads a `Sample` [B] with `segment` and `mask` [B, K] among its extras (see `source`).

    Raises:
      UserError: actions are continuous, there are no two outcomes, or `double` is asked for.
    """
    check(spec, config)
    parts, optimiser = Parts(spec, config), q_learning.adam(config)

    def init(key: Key) -> State:
        return q_learning.begin(parts.init(key), optimiser)

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        _, advantage = parts.values(state.q.params, observation)
        return distributions.epsilon_greedy(advantage, q_learning.epsilon(config, state, explore), key), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        _, advantage = parts.values(state.q.params, observation)
        return distributions.epsilon_greedy_log_prob(advantage, q_learning.epsilon(config, state, explore), action)

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        del key
        steps, mask = batch.transition.extras["segment"], batch.transition.extras["mask"]
        rows, last = jnp.arange(len(mask)), mask.sum(axis=-1) - 1
        discount = config.gamma * (1.0 - steps.terminated)
        probs = jax.nn.softmax(parts.values(state.target, steps.observation)[1] / config.temperature)
        after = parts.values(state.target, steps.next_observation[rows, last])[0]

        def loss(params):
            value, raw = parts.values(params, steps.observation)
            centred = jax.vmap(jax.vmap(advantage_lib.centred))(raw, probs)
            advantage = jnp.take_along_axis(centred, steps.action[..., None], axis=-1)[..., 0]
            luck, bound = (
                parts.luck(params, steps) if config.luck else (jnp.zeros_like(advantage), jnp.zeros(mask.shape))
            )
            error = jax.vmap(advantage_lib.decomposition_error, (0, 0, 0, 0, 0, None, 0, 0))(
                config.reward_scale * steps.reward, discount, mask, advantage, luck, config.gamma, value[:, 0], after
            )
            losses = jax.vmap(value_lib.huber, (0, None))(error, config.huber_delta)
            model_loss = (bound * mask).sum() / mask.sum()
            loss = (batch.weight * losses).mean()
            metrics = {
                "loss/decomposition": loss, "loss/outcomes": model_loss, "value/mean": value[:, 0].mean(),
                "luck/size": jnp.abs(luck * mask).sum() / mask.sum(),
            }  # fmt: skip
            return loss + model_loss, metrics | ({"priority": jnp.abs(error)} if config.prioritised else {})

        model, metrics = descend(optimiser, state.q, loss)
        return q_learning.follow(config, state, model), metrics | {"policy/epsilon": q_learning.epsilon(config, state)}

    return Agent(init, act, update, log_prob=log_prob)


class Parts:
    """The networks: of values and advantages; of what may follow an action; of what did."""

    def __init__(self, spec: EnvSpec, config: Config):
        self.spec, self.config, shape = spec, config, structure(spec, config)
        network = lambda size: FeedForward(size, layer_norm=config.layer_norm, **shape)
        self.size = 1 + jnp.zeros(spec.observation_shape).size  # an observation, and whether it is the end
        self.critic = network(1 + spec.action.num_actions)
        self.outcomes = network(config.num_outcomes * (2 + self.size))
        self.encoder = network(config.num_outcomes)

    def init(self, key: Key):
        keys, observation = jax.random.split(key, 3), jnp.zeros((1, *self.spec.observation_shape))
        done = jnp.zeros((1, self.spec.action.num_actions))
        params = {"critic": self.critic.init(keys[0], observation)}
        if self.config.luck:
            params["outcomes"] = self.outcomes.init(keys[1], observation, done)
            params["encoder"] = self.encoder.init(keys[2], observation, done, jnp.zeros((1, self.size)))
        return params

    def values(self, params, observation) -> tuple[Float[Array, "*B"], Float[Array, "*B A"]]:
        """V, and advantages that are not yet centred."""
        output = self.critic.apply(params["critic"], observation)
        return output[..., 0], output[..., 1:]

    def luck(self, params, steps) -> tuple[Float[Array, "*B"], Float[Array, "*B"]]:
        """B of steps, through which only b learns, and minus the evidence lower bound of what followed them."""
        done = jax.nn.one_hot(steps.action, self.spec.action.num_actions)
        flat = steps.next_observation.reshape(*steps.action.shape, -1)
        after = jnp.concatenate([flat, steps.terminated[..., None]], axis=-1).astype(jnp.float32)
        output = self.outcomes.apply(params["outcomes"], steps.observation, done)
        log_prior, b, decoded = jnp.split(output, [self.config.num_outcomes, 2 * self.config.num_outcomes], axis=-1)
        log_prior = jax.nn.log_softmax(log_prior)
        log_told = jax.nn.log_softmax(self.encoder.apply(params["encoder"], steps.observation, done, after))
        told = jnp.exp(log_told)
        decoded = decoded.reshape(*decoded.shape[:-1], self.config.num_outcomes, self.size)
        apart = jnp.square(decoded - after[..., None, :]).sum(axis=-1) / (2.0 * self.config.decoder_scale**2)
        bound = (told * (apart + log_told - log_prior)).sum(axis=-1)
        return (jax.lax.stop_gradient(told - jnp.exp(log_prior)) * b).sum(axis=-1), bound


def source(env: Env, config: Config = Config()) -> Source:
    """Steps of the present policy into a replay, segments of `num_steps` out of it."""
    check(env.spec, config)
    return q_learning.replay_of(env, config, num_steps=1, segment_steps=config.num_steps)
