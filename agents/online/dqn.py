"""Deep Q-learning. Mnih et al., 2015, "Human-level control through deep reinforcement learning", Nature 518.

Q regresses onto r + gamma max_a Q'(s', a) over a replay of past experience, where Q' is an older copy of Q. What is learned of the
return, its mean or its law, is the head's (rljax/networks/heads.py; agents/distributional has each under its name). Switches:

  double       van Hasselt et al., 2015, arXiv:1509.06461
  dueling      Wang et al., 2015, arXiv:1511.06581
  prioritised  Schaul et al., 2015, arXiv:1511.05952
  noisy        Fortunato et al., 2017, arXiv:1706.10295; without epsilon
  munchausen   Vieillard et al., 2020, arXiv:2007.14430: soft values, and a bonus for actions the policy was sure of
  one_step     the next return by its mean: only one step's chance is learned as a law. Achab et al., 2023, arXiv:2304.14421
  q_weight     DQNReg: a price on Q itself. Co-Reyes et al., 2021, arXiv:2101.03958
  num_steps    targets over several steps
  preference   acts, and is followed, by another number of the law than its mean: CVaR, Wang's, mean less variance
"""

import jax
import jax.numpy as jnp
import optax

from rljax import distributions
from rljax.agents.online import q_learning
from rljax.agents.online.q_learning import State
from rljax.errors import UserError
from rljax.losses import distributional
from rljax.networks import heads
from rljax.networks.feed_forward import structure
from rljax.networks.heads import Law
from rljax.networks.values import Output, QNetwork
from rljax.record import record, signed, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Sample, Source
from rljax.updates import descend


@record
class Config(heads.Config, q_learning.Config):
    """Defaults: CleanRL's for classic control, but an update for a step in each of 16 environments, and Double. The paper's
    `huber_delta` is 1, for rewards clipped to [-1, 1]."""

    proposal_learning_rate: float = 1e-5  # of the levels that `fractions` proposes
    proposal_entropy: float = 1e-3  # weight, which keeps them apart
    q_weight: float = 0.0
    munchausen_weight: float = 0.9
    munchausen_temperature: float = 0.03
    munchausen_low: float = signed(-1.0)  # the bonus is no lower, before its weight
    preference_number: float = signed(1.0)  # CVaR's share, Wang's eta, variance's price
    preference: str = static("mean")  # cvar, wang, mean_variance
    dueling: bool = static(False)
    noisy: bool = static(False)
    munchausen: bool = static(False)
    one_step: bool = static(False)


def q_network(spec: EnvSpec, config: Config) -> QNetwork:
    """Raises UserError where levels are asked for and there are no features that they could be joined with."""
    if config.head in heads.ASKING and len(config.hidden) < 2 and not config.channels:
        raise UserError(f"The head {config.head!r} needs two hidden layers or more, here are {len(config.hidden)}.")
    return QNetwork(
        spec.action.num_actions,
        heads.of(config, asked=True, num_rewards=spec.num_rewards).size,
        **structure(spec, config),
        layer_norm=config.layer_norm,
        dueling=config.dueling,
        noisy=config.noisy,
        levels=heads.ASKING.get(config.head, "fixed"),
    )


def law(config: Config, output: Output, num_rewards: int = 1) -> Law:
    """Of the returns of all actions, [B, A, N], or of several rewards' together, [B, A, N, D]."""
    head = heads.of(config, asked=True, num_rewards=num_rewards)
    return head.law(output.values, jax.tree.map(lambda x: x[:, None], output.levels))


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """DQN for discrete actions. Reads a `Sample` [B] at a time.

    Raises:
      UserError: actions are continuous, a head or a preference is not known, or a switch is at odds with another.
    """
    if isinstance(spec.action, Continuous):
        raise UserError("DQN is for discrete actions and this environment's are continuous: take SAC or TD3.")
    if config.munchausen and config.num_steps != 1:
        raise UserError(
            f"num_steps={config.num_steps} must be 1 with munchausen=True: each step has a bonus of its own."
        )
    if config.head == "joint" and (config.munchausen or config.one_step):
        raise UserError(
            "The head 'joint' has no munchausen and no one_step: a bonus, or a mean, is of the rewards' sum."
        )
    head, network = heads.of(config, asked=True, num_rewards=spec.num_rewards), q_network(spec, config)
    heads.preferred(Law(jnp.zeros(1), jnp.ones(1)), config.preference)  # known by name
    optimiser = q_learning.adam(config)
    if config.head == "fractions":
        slow = optax.adam(config.proposal_learning_rate)
        labels = lambda params: {"params": {name: name == "proposal" for name in params["params"]}}
        optimiser = optax.multi_transform({False: optimiser, True: slow}, labels)

    def apply(params, observation, noise_key=None, levels_key=None) -> Output:
        rngs = {"noise": noise_key} if config.noisy and noise_key is not None else {}
        return network.apply(params, observation, levels_key, rngs=rngs)

    def worth(output: Output):
        """[B, A], by what the policy prefers."""
        return heads.preferred(
            head.total(law(config, output, spec.num_rewards)), config.preference, config.preference_number
        )

    def paid(steps):
        """[B], or by each source, [B, D]."""
        if config.head != "joint":
            return config.reward_scale * steps.reward
        return config.reward_scale * (steps.extras["rewards"] if spec.num_rewards > 1 else steps.reward[:, None])

    def init(key: Key) -> State:
        return q_learning.begin(network.init(key, jnp.zeros((1, *spec.observation_shape))), optimiser)

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        if not config.noisy:
            q = worth(apply(state.q.params, observation))
        else:
            key, noise_key = jax.random.split(key)
            q = worth(apply(state.q.params, observation, noise_key if explore else None))
        return distributions.epsilon_greedy(q, q_learning.epsilon(config, state, explore), key), memory, {}

    def log_prob(state: State, observation, action, explore: bool = True):
        if config.noisy and explore:
            raise UserError("The actions of noisy networks have no likelihood that is known; let it not explore.")
        q = worth(apply(state.q.params, observation))
        return distributions.epsilon_greedy_log_prob(q, q_learning.epsilon(config, state, explore), action)

    def target_law(state: State, batch: Sample, key: Key) -> Law:
        """Of the return from each step on, [B, M]."""
        steps, keys = batch.transition, jax.random.split(key, 4)
        output = apply(state.target, steps.next_observation, *keys[:2])
        after, reward = law(config, output, spec.num_rewards), paid(steps)
        if config.munchausen:
            price = config.munchausen_temperature
            log_probs = lambda output: jax.nn.log_softmax(worth(output) / price)
            next_log_probs = log_probs(output)
            atoms = after.atoms - price * next_log_probs[..., None]
            probs = jnp.exp(next_log_probs)[..., None] * after.probs
            after = Law(*(x.reshape(len(x), -1) for x in (atoms, probs)))
            taken = taken_of(log_probs(apply(state.target, steps.observation, *keys[2:])), steps.action)
            reward += config.munchausen_weight * jnp.clip(price * taken, config.munchausen_low, 0.0)
        else:
            selector = apply(state.q.params, steps.next_observation, *keys[2:]) if config.double else output
            best = worth(selector).argmax(axis=-1)
            after = jax.tree.map(lambda x: taken_of(x, best), after)
        if config.one_step:
            after = heads.certain(heads.preferred(after))
        return heads.bellman(reward, batch.discount, after)

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        target_key, *keys = jax.random.split(key, 3)
        steps, target = batch.transition, target_law(state, batch, target_key)

        def loss(params):
            output = apply(params, steps.observation, *keys)
            taken = taken_of(output.values, steps.action)
            losses = jax.vmap(head.loss)(taken, target, output.levels)
            q = heads.preferred(head.total(head.law(taken, output.levels)))
            error = jnp.abs(heads.preferred(head.total(target)) - q)
            loss = (batch.weight * losses).mean() + config.q_weight * q.mean()
            metrics = {"loss/q": loss, "q/mean": q.mean(), "q/error": error.mean()}
            if config.head == "fractions":
                inner, at_inner = output.inner
                moves = jax.vmap(distributional.fraction_loss)(inner, taken_of(at_inner, steps.action), taken)
                share = jnp.diff(inner, axis=-1, prepend=0.0, append=1.0)
                loss += (moves - config.proposal_entropy * -(share * jnp.log(share + 1e-12)).sum(axis=-1)).mean()
            if config.prioritised:
                metrics["priority"] = error if config.head == "mean" else losses
            return loss, metrics

        model, metrics = descend(optimiser, state.q, loss)
        return q_learning.follow(config, state, model), metrics | {"policy/epsilon": q_learning.epsilon(config, state)}

    return Agent(init, act, update, log_prob=log_prob)


def taken_of(x, action):
    """Of x [B, A, ...] those of the actions [B]: [B, ...]."""
    return jax.vmap(lambda row, one: row[one])(x, action)


def source(env: Env, config: Config = Config()) -> Source:
    """Steps of the present policy into a replay, batches out of it."""
    return q_learning.replay_of(env, config, keep_rewards=config.head == "joint" and env.spec.num_rewards > 1)
