"""Offline preference-guided policy optimisation: a policy that is told which trajectories to be like. Kang et al., 2023,
arXiv:2305.16217.

An encoder makes of a segment a code z; a decoder, the decision transformer (agents/sequence/dt.py) with z in the place of returns,
says what was done in the segment from what was seen. One more code, z*, stands for what people want: codes of better segments are
drawn nearer to it than those of worse ones, and it is drawn to them in turn. Acting is decoding z*. There are no rewards anywhere.

Both networks learn together, clipped as one; theirs are clipped apart.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from rljax import distributions, sources
from rljax.agents.sequence import dt
from rljax.data.feedback import Judged
from rljax.losses import preference
from rljax.networks.segments import SegmentEncoder
from rljax.record import record, static
from rljax.types import Agent, Continuous, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import descend


@record
class Config:
    """Defaults: the authors' for scripted judgements of locomotion (github.com/bkkgbkjb/OPPO), but longer segments."""

    learning_rate: float = 1e-4
    code_learning_rate: float = 1e-3  # of z*
    weight_decay: float = 1e-4
    warmup: float = 10_000.0  # updates over which the learning rate rises
    max_grad_norm: float = 0.25
    preference_weight: float = 0.1
    norm_weight: float = 0.1  # of (|z| - 1)^2
    margin: float = 1.0  # by which better segments are to be nearer to z*
    segment: int = static(32)  # steps, cut out of longer ones; so many are seen while acting
    size: int = static(8)  # of a code
    num_layers: int = static(3)
    num_heads: int = static(1)
    width: int = static(128)
    dropout: float = static(0.1)
    batch_size: int = static(64)  # of segments whose actions are decoded
    num_judgements: int = static(32)  # beside them
    num_updates: int = static(8)  # on batches drawn together


class State(NamedTuple):
    networks: Model  # of encoder and decoder
    wanted: Model  # z*, [Z]


class Decoder(nn.Module):
    """(code [B, Z], observation [B, K, ...], action [B, K, ...], time [B, K], mask [B, K]) -> [B, K, A]."""

    spec: EnvSpec
    config: Config

    @nn.compact
    def __call__(self, code, observation, action, time, mask, key=None):
        kind = self.spec.action
        asked = jnp.broadcast_to(code[:, None], (*mask.shape, code.shape[-1]))
        seen = dt.read(self.spec, self.config, asked, observation, action, time, mask, key)
        output = nn.Dense(kind.size if isinstance(kind, Continuous) else kind.num_actions)(seen)
        return jnp.tanh(output) if isinstance(kind, Continuous) else output


def networks(spec: EnvSpec, config: Config) -> tuple[SegmentEncoder, Decoder]:
    """Encoder (observation [B, K, ...], action, mask) -> code [B, Z], and decoder."""
    shape = (config.segment, config.width, config.num_layers, config.num_heads, config.dropout)
    return SegmentEncoder(spec, config.size, *shape), Decoder(spec, config)


def distance(code: Float[Array, "*B Z"], wanted: Float[Array, " Z"]) -> Float[Array, "*B"]:
    """Euclidean, with a gradient also at 0."""
    return jnp.sqrt(jnp.square(code - wanted).sum(axis=-1) + 1e-12)


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """OPPO for any actions. Reads `sources.Beside`: `Judged` [B, G, K], and segments [S, 1, K] that nobody judged.

    Raises:
      UserError: episodes have no time limit, or num_heads does not divide width.
    """
    dt.check(spec, config)
    encoder, decoder = networks(spec, config)
    continuous = isinstance(spec.action, Continuous)
    adam = optax.adamw(dt.rising(config), weight_decay=config.weight_decay)
    optimiser = optax.chain(optax.clip_by_global_norm(config.max_grad_norm), adam)
    code_optimiser = optax.adam(config.code_learning_rate)

    def init(key: Key) -> State:
        encoder_key, decoder_key, code_key = jax.random.split(key, 3)
        _, observation, action = dt.blank(spec, 1, config.segment)
        mask = jnp.ones((1, config.segment), bool)
        code = 2.0 * jax.random.normal(code_key, (config.size,))
        params = {
            "encoder": encoder.init(encoder_key, observation, action, mask),
            "decoder": decoder.init(decoder_key, code[None], observation, action, mask.astype(jnp.int32), mask),
        }
        return State(Model(params, optimiser.init(params)), Model(code, code_optimiser.init(code)))

    memory = dt.Memory(*dt.blank(spec, config.segment), time=jnp.int32(0), left=jnp.float32(0.0))

    def act(state: State, observation, memory: dt.Memory, key: Key, explore: bool = True):
        memory = memory.seeing(observation)
        code = jnp.broadcast_to(state.wanted.params, (observation.shape[0], config.size))
        action = decoder.apply(state.networks.params["decoder"], code, *memory.steps()[1:])[:, -1]
        if not continuous:
            choice = distributions.categorical(action)
            action = choice.sample(seed=key) if explore else choice.mode()
        return action, memory.having_done(action), {}

    def codes(params, steps: Transition, mask, key: Key | None) -> Float[Array, "*B Z"]:
        """Of segments [*B, K]."""
        flat = lambda x: x.reshape(-1, *x.shape[mask.ndim - 1 :])
        found = encoder.apply(params["encoder"], flat(steps.observation), flat(steps.action), flat(mask), key)
        return found.reshape(*mask.shape[:-1], config.size)

    def preferred(code: Float[Array, "B G Z"], wanted, judged: Judged) -> tuple[Float[Array, ""], Array]:
        scores = -distance(code, wanted)
        return preference.batch_loss("hinge", scores, judged.rank, judged.weight, config.margin), scores

    def update(state: State, batch: sources.Beside, key: Key) -> tuple[State, Metrics]:
        judged: Judged = batch.own
        steps, mask = jax.tree.map(lambda x: x[:, 0], (batch.data.transition, batch.data.mask))
        judged_key, encoder_key, decoder_key = jax.random.split(key, 3)

        def loss(params):
            code = codes(params, steps, mask, encoder_key)
            told_of = codes(params, judged.transition, judged.mask, judged_key)
            inputs = (code, steps.observation, steps.action, steps.extras["time"], mask, decoder_key)
            output = decoder.apply(params["decoder"], *inputs)
            if continuous:
                error = jnp.square(output - steps.action).mean(axis=-1)
            else:
                error = optax.softmax_cross_entropy_with_integer_labels(output, steps.action)
            rebuilt = jnp.where(mask, error, 0.0).sum() / mask.sum()
            told, scores = preferred(told_of, state.wanted.params, judged)
            norms = jnp.concatenate([distance(x, 0.0).reshape(-1) for x in (code, told_of)])
            norm = jnp.square(norms - 1.0).mean()
            metrics = {"loss/policy": rebuilt, "loss/preference": told, "loss/norm": norm}
            total = rebuilt + config.preference_weight * told + config.norm_weight * norm
            return total, metrics | preference.agreed(scores, judged.rank)

        model, metrics = descend(optimiser, state.networks, loss)
        code = codes(model.params, judged.transition, judged.mask, None)

        def code_loss(wanted):
            told, _ = preferred(code, wanted, judged)
            return told, {"loss/wanted": told}

        wanted, code_metrics = descend(code_optimiser, state.wanted, code_loss)
        return State(model, wanted), metrics | code_metrics

    return Agent(init, act, update, memory)


def source(env: Env, config: Config, dataset) -> Source:
    """Judgements of the dataset, and segments from anywhere in it beside them; the environment is only evaluated in."""
    batches = dict(num_batches=config.num_updates, length=config.segment)
    judged = sources.judged(dataset, batch_size=config.num_judgements, **batches)
    return sources.beside(judged, sources.unjudged(dataset, batch_size=config.batch_size, **batches))
