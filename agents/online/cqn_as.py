"""Coarse-to-fine Q-networks with action sequences, CQN-AS. Seo & Abbeel, 2024, "Reinforcement learning with action sequence for
data-efficient robot learning", arXiv:2411.12155.

Continuous actions are found level by level: each cuts every dimension of what the one before has chosen into a few bins and
takes the best. Values are not of one action but of this and the next ones as a sequence, whose consequences are plainer where data
are noisy; each bin of each dimension of each action has a law of returns of its own. At each step the sequences told before have
a say in what is done. Demonstrations (`--dataset`) are half of each batch, and what was done in them shall be worth more than all
else. Settings:

  sequence_length    1: CQN, single actions. Seo et al., 2024, arXiv:2407.07787
  temporal_ensemble  False: of each sequence the first action alone is done
  head               categorical (C51, arXiv:1707.06887), or mean, as the authors have it for locomotion
  dueling            arXiv:1511.06581
  clone_weight       of two losses on demonstrations: by a margin, and of categorical laws by dominance; 0: they are data alone

As in the authors' code a sequence that is longer than what is left of its episode goes on with the last action, since targets ask
for values of all places at every step. What is not known yet, because the step is among the newest, counts for nothing.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from rljax import action_sequences, coarse_to_fine, distributions, sources
from rljax.agents.online import q_learning
from rljax.agents.online.q_learning import State
from rljax.coarse_to_fine import Grid
from rljax.errors import UserError
from rljax.losses import distributional, value
from rljax.networks import heads
from rljax.networks.action_sequences import SequenceCritic
from rljax.networks.feed_forward import structure
from rljax.networks.heads import Law
from rljax.record import record, signed, static
from rljax.types import Agent, Discrete, Env, EnvSpec, Key, Metrics, Sample, Source
from rljax.updates import descend


@record
class Config(heads.Config):
    """Defaults: the authors' for demonstrations and rewards of 0 and 1 (github.com/younggyoseo/CQN-AS), with the short sequences of
    their locomotion. Returns as scaled must lie between `lowest_return` and `highest_return`. From scratch and for single actions
    their noise is 0.1."""

    learning_rate: float = 5e-5
    weight_decay: float = 0.1
    gamma: float = 0.99
    target_rate: float = 0.02  # share of the new parameters in the target's, every `target_period` updates; that acts
    target_period: int = 1
    reward_scale: float = 1.0
    exploration_noise: float = 0.01  # standard deviation, of actions in [-1, 1]
    ensemble_gain: float = signed(0.01)  # a sequence counts exp(gain) times the one told after it
    critic_weight: float = 0.1
    clone_weight: float = 1.0
    clone_margin: float = 0.1  # by which what was demonstrated shall be worth more, of returns as scaled
    lowest_return: float = signed(-2.0)
    highest_return: float = 2.0
    head: str = static("categorical")
    sequence_length: int = static(4)
    num_levels: int = static(3)
    num_bins: int = static(5)
    temporal_ensemble: bool = static(True)
    dueling: bool = static(True)
    hidden: tuple[int, ...] = static((512, 512))
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("silu")
    layer_norm: bool = static(True)
    dtype: str = static("float32")
    num_envs: int = static(1)
    rollout_length: int = static(1)  # steps in each environment between updates
    num_updates: int = static(1)  # after each rollout
    num_steps: int = static(1)  # that a sample spans, however long its sequence
    batch_size: int = static(256)  # half of it demonstrations, where there are any
    capacity: int = static(1_000_000)
    warmup: int = static(1_000)  # random steps before the first update


def grid_of(spec: EnvSpec, config: Config) -> Grid:
    """The cells of each dimension. Raises UserError where actions are discrete, or there are too few or too many cells."""
    if isinstance(spec.action, Discrete):
        raise UserError("CQN cuts continuous actions into bins, and this environment's are discrete: take DQN.")
    if config.sequence_length < 1:
        raise UserError(f"sequence_length={config.sequence_length} must be at least 1, single actions.")
    return coarse_to_fine.grid(spec.action.low, spec.action.high, config.num_bins, config.num_levels)


def network(spec: EnvSpec, config: Config) -> SequenceCritic:
    return SequenceCritic(
        config.num_levels,
        config.num_bins,
        heads.of(config).size,
        **structure(spec, config),
        layer_norm=config.layer_norm,
        dueling=config.dueling,
    )


def chosen(x: Float[Array, "*B bins size"], digits: Int[Array, "*B"]) -> Float[Array, "*B size"]:
    """What belongs to one bin of each dimension."""
    return jnp.take_along_axis(x, digits[..., None, None], axis=-2)[..., 0, :]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """CQN-AS for continuous actions. Reads a `Sample` [B] with `segment` and `mask` [B, K] among its extras, and `from_data` [B]
    where some of it are demonstrations (see `source`).

    Raises:
      UserError: actions are discrete, a number of bins, levels or actions cannot be, or there is no such head.
    """
    grid, critic, head = grid_of(spec, config), network(spec, config), heads.of(config)
    optimiser = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)
    shape = config.sequence_length, spec.action.size  # K, D
    ensembled = config.temporal_ensemble and config.sequence_length > 1
    categorical = config.head == "categorical"  # all laws stand on the same atoms, and so do their targets

    def values(params, observation, digits: Int[Array, "B K D L"]) -> Float[Array, "B K D L bins size"]:
        """Of all bins of each level, where those before have chosen `digits`."""
        of_level = lambda middle, level: critic.apply(params, observation, middle, level)
        return jax.vmap(of_level, (3, 0), 3)(coarse_to_fine.middles(grid, digits), jnp.arange(config.num_levels))

    def best(params, observation) -> Int[Array, "B K D L"]:
        """The sequence that is worth most, found from the coarsest level on."""
        digits = jnp.zeros((len(observation), *shape, 0), jnp.int32)
        for level in range(config.num_levels):
            laws = head.law(critic.apply(params, observation, coarse_to_fine.decode(grid, digits), level))
            digits = jnp.concatenate([digits, heads.preferred(laws).argmax(axis=-1, keepdims=True)], axis=-1)
        return digits

    def init(key: Key) -> State:
        blank = jnp.zeros((1, *spec.observation_shape)), jnp.zeros((1, *shape)), 0
        return q_learning.begin(critic.init(key, *blank), optimiser)

    def act(state: State, observation, memory, key: Key, explore: bool = True):
        """By the target network, with noise where it explores."""
        sequence = coarse_to_fine.decode(grid, best(state.target, observation))
        action = sequence[:, 0]
        if ensembled:
            action, memory = jax.vmap(action_sequences.act, (0, 0, None))(memory, sequence, config.ensemble_gain)
        if explore:
            scale = 0.5 * (spec.action.high - spec.action.low) * config.exploration_noise
            action += scale * jax.random.normal(key, action.shape)
        return distributions.in_box(spec.action, action), memory, {}

    def targets_of(state: State, batch: Sample) -> Law:
        """For each level of each dimension of each action, by its own value after: probabilities [B, K * D * L, N], and atoms alike
        or, where all have the same, [B, N]."""
        steps = batch.transition
        digits = best(state.q.params, steps.next_observation)
        after = head.law(chosen(values(state.target, steps.next_observation, digits), digits))
        after = jax.tree.map(lambda x: x.reshape(len(x), -1, x.shape[-1]), after)
        paid = config.reward_scale * steps.reward, batch.discount
        if categorical:
            return heads.bellman(*paid, after._replace(atoms=after.atoms[:, 0]))
        return jax.vmap(heads.bellman, (None, None, 1), 1)(*paid, after)

    def update(state: State, batch: Sample, key: Key) -> tuple[State, Metrics]:
        del key
        steps, extras, target = batch.transition, batch.transition.extras, targets_of(state, batch)
        segment, mask = extras["segment"], extras["mask"]
        digits = coarse_to_fine.encode(grid, jax.vmap(action_sequences.held)(segment.action, mask))
        known = mask | (mask & segment.done).any(axis=1, keepdims=True)
        over = lambda losses, weight: (weight * losses.mean(axis=(2, 3))).sum() / jnp.maximum(weight.sum(), 1.0)

        def loss(params):
            output = values(params, steps.observation, digits)
            taken = chosen(output, digits)
            of_all = jax.vmap(head.loss, (0, Law(None if categorical else 0, 0)))
            losses = jax.vmap(of_all)(taken.reshape(*target.probs.shape[:2], -1), target)
            loss = over(losses.reshape(digits.shape), known)
            q = heads.preferred(head.law(taken))
            metrics = {"loss/q": loss, "q/mean": q.mean()}
            if "from_data" not in extras:
                return config.critic_weight * loss, metrics
            laws, demonstrated = head.law(output), known * extras["from_data"][:, None]
            of_one = lambda q, index: value.margin(q, index, config.clone_margin)
            margins = jnp.vectorize(of_one, signature="(a),()->()")(heads.preferred(laws), digits)
            metrics["loss/margin"] = clone = over(margins, demonstrated)
            if categorical:
                behind = jnp.vectorize(distributional.dominance, signature="(a,n),()->()")(laws.probs, digits)
                metrics["loss/dominance"] = over(behind, demonstrated)
                clone += metrics["loss/dominance"]
            return config.critic_weight * loss + config.clone_weight * clone, metrics

        model, metrics = descend(optimiser, state.q, loss)
        return q_learning.follow(config, state, model), metrics

    return Agent(init, act, update, memory=action_sequences.begin(*shape) if ensembled else ())


def source(env: Env, config: Config = Config(), dataset=None) -> Source:
    """Steps of the present policy into a replay, sequences out of it; where there is a dataset, half of each batch is of that."""
    grid_of(env.spec, config)
    if dataset is None:
        return sources.replay_of(env, config, segment_steps=config.sequence_length)
    return sources.half_and_half(env, config, dataset, segment_steps=config.sequence_length)
