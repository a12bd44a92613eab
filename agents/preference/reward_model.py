"""A reward from judgements of segments. Christiano et al., 2017, arXiv:1706.03741.

It acts at random; policies are trained on what it found by `--reward_from=RUN`, any agent on its own experience or, as P-IQL is, on
the dataset with rewards told anew. Several networks learn from the same judgements; the reward is their mean. By `score`:

  sum           the sum of rewards of single steps
  recurrent     of rewards by an LSTM that remembers the segment, beside each step's own features
  transformer   a weighted sum, the Preference Transformer's: Kim et al., 2023, arXiv:2303.00957. A step is paid by what the last
                `segment` steps make of it

The latter two judge a step by those before it (`Agent.reward_memory`): data are paid episode by episode, in time order, and
environments remember their own. A policy that sees but the present step may then be unable to know what it is paid for.

With `symbols` (rljax/symbols.py) there is a prior beside the likelihood: PRIOR, Verma & Metcalf, 2022, arXiv:2210.09151, in our
reading. A segment's predicted return is shared out by how often states like a step's were preferred (rljax/losses/credit.py), as
counted in the batch, and steps' rewards are drawn towards their shares. It needs rewards whose sum is the score.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from rljax import distributions, sources
from rljax import symbols as symbols_lib
from rljax.data.feedback import Judged
from rljax.errors import UserError
from rljax.losses import credit, preference
from rljax.names import nearest
from rljax.networks import sequence_rewards
from rljax.networks.ensemble import ensemble
from rljax.networks.feed_forward import FeedForward, structure
from rljax.networks.policies import critic_size, init_critic, q_taken
from rljax.networks.sequence_rewards import PreferenceTransformer, Recurrent, SequenceReward
from rljax.record import record, static
from rljax.symbols import Symbols
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Source, Transition
from rljax.updates import descend

SCORES = ("sum", "recurrent", "transformer")


@record
class Config:
    """Defaults: PEBBLE's ensemble (github.com/pokaxpoka/B_Pref, reward_model.py), and a transformer of its authors' size."""

    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    bias: float = 1.0  # the likelihood's number
    prior_weight: float = 1.0  # of the prior, where there is one
    likelihood: str = static("pairwise")
    symbols: str = static("none")  # that the prior counts by: `states` or `projections`
    score: str = static("sum")
    bounded: bool = static(True)  # rewards lie in (-1, 1), by a tanh; not the transformer's, whose weights sum to 1
    segment: int = static(64)  # steps, cut out of longer ones; the transformer's whole memory
    num_models: int = static(3)
    hidden: tuple[int, ...] = static((256, 256, 256))  # of the transformer not read
    channels: tuple[int, ...] = static(())  # of 3 x 3 convolutions before the hidden layers
    activation: str = static("relu")
    dtype: str = static("float32")
    units: int = static(128)  # of the LSTM
    head: tuple[int, ...] = static((128,))  # hidden layers after the LSTM
    width: int = static(256)  # of the transformer, as the next three
    num_layers: int = static(1)
    num_heads: int = static(4)
    dropout: float = static(0.1)
    batch_size: int = static(128)  # of judgements
    num_updates: int = static(8)  # on batches drawn together


def by_parts(policy: Agent, reward: Agent) -> tuple[Callable, Callable, Callable]:
    """`act`, `log_prob` and `reward` of an agent whose state has a policy's as `policy` and a reward model's as `reward`."""

    def act(state, observation, memory, key: Key, explore: bool = True):
        return policy.act(state.policy, observation, memory, key, explore)

    def log_prob(state, observation, action, explore: bool = True):
        return policy.log_prob(state.policy, observation, action, explore)

    def learned_reward(state, steps: Transition) -> Float[Array, "*B"]:
        return reward.reward(state.reward, steps)

    return act, log_prob, learned_reward


def beside_policy(config: Any) -> Config:
    """The settings of the reward among those of an agent that learns it beside a policy (pebble.Config, dip_rl.Config)."""
    return Config(
        learning_rate=config.reward_learning_rate,
        weight_decay=config.reward_weight_decay,
        segment=config.segment,
        num_models=config.num_models,
        hidden=config.reward_hidden,
        channels=config.channels,
        activation=config.reward_activation,
        dtype=config.dtype,
    )


def make(spec: EnvSpec, config: Config = Config(), symbols: Symbols | None = None) -> Agent:
    """A reward of what is seen and done, for any actions. Reads `Judged` [B, G, K] at a time; its state is the networks' Model.

    Args:
      symbols: that the prior counts by, in place of those that `config.symbols` names.
    Raises:
      UserError: there are no such likelihood, score or symbols, num_heads does not divide width, or a prior is wanted of rewards
        whose sum is not the score.
    """
    preference.check(config.likelihood)
    if config.score not in SCORES:
        raise UserError(f"There is no score {config.score!r}; {nearest(config.score, SCORES)}")
    if symbols is None and config.symbols != "none":
        symbols = symbols_lib.make(config.symbols, spec)
    if symbols is not None and config.score != "sum":
        raise UserError(f"Symbols need score=sum, whose returns are shared out over steps, not score={config.score}.")
    model = networks(spec, config)
    optimiser = optax.adamw(config.learning_rate, weight_decay=config.weight_decay)

    def prior(params, batch: Judged):
        """How far rewards are from their shares: over segments the mean by how sure their judgements are, over networks the sum."""
        which = symbols.of(batch.transition.observation)
        owed = credit.credit(which, batch.mask, batch.rank, batch.weight, symbols.number)[which]
        rewards, _ = model.reward(params, batch.transition)  # [M, B, G, K]
        losses = jax.vmap(jax.vmap(jax.vmap(credit.sharing_loss)), (0, None, None))(rewards, owed, batch.mask)
        return (batch.weight[:, None] * losses).mean(axis=(1, 2)).sum()

    def init(key: Key) -> Model:
        params = model.init(key)
        return Model(params, optimiser.init(params))

    def update(state: Model, batch: Judged, key: Key) -> tuple[Model, Metrics]:
        shape = batch.rank.shape
        steps, mask = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), (batch.transition, batch.mask))

        def loss(params):
            found = model.score(params, steps, mask, key).reshape(-1, *shape)  # [M, B, G]
            told = lambda x: preference.batch_loss(config.likelihood, x, batch.rank, batch.weight, config.bias)
            total = jax.vmap(told)(found).sum()
            metrics = {"loss/reward": total, **preference.agreed(found.mean(axis=0), batch.rank)}
            if symbols is None:
                return total, metrics
            held = prior(params, batch)
            return total + config.prior_weight * held, metrics | {"loss/prior": held}

        return descend(optimiser, state, loss)

    def act(state: Model, observation, memory, key: Key, explore: bool = True):
        return distributions.uniform_action(spec.action, observation.shape[0], key), memory, {}

    def reward(state: Model, steps: Transition, memory: Any = ()):
        found, after = model.reward(state.params, steps, memory)
        return (found.mean(axis=0), after) if jax.tree.leaves(memory) else found.mean(axis=0)

    def score(state: Model, steps: Transition, mask) -> Float[Array, " B"]:
        return model.score(state.params, steps, mask).mean(axis=0)

    return Agent(init, act, update, reward=reward, reward_memory=model.memory, score=score)


def scores(rewards: Float[Array, "*B K"], mask: Bool[Array, "#*B K"]) -> Float[Array, "*B"]:
    """Of segments: the sums of their steps' rewards."""
    return jnp.where(mask, rewards, 0.0).sum(axis=-1)


def networks(spec: EnvSpec, config: Config) -> SequenceReward:
    """All of them: parameters, scores and rewards begin with an axis [M]."""
    if config.score == "recurrent":
        network = Recurrent(
            "skip", units=config.units, head=config.head, bounded=config.bounded, **structure(spec, config)
        )
        return sequence_rewards.ensembled(sequence_rewards.recurrent(spec, network), config.num_models)
    if config.score == "transformer":
        network = PreferenceTransformer(
            config.segment,
            config.width,
            config.num_layers,
            config.num_heads,
            config.dropout,
            len(spec.observation_shape),
            config.channels,
            config.activation,
        )
        return sequence_rewards.ensembled(sequence_rewards.attended(spec, network), config.num_models)
    network = ensemble(FeedForward, config.num_models)(critic_size(spec), **structure(spec, config))

    def reward(params, steps: Transition, memory: Any = ()) -> tuple[Array, Any]:
        shape = steps.reward.shape
        flat = [x.reshape(-1, *x.shape[len(shape) :]) for x in (steps.observation, steps.action)]
        found = q_taken(network, spec, params, *flat).reshape(-1, *shape)
        return jnp.tanh(found) if config.bounded else found, memory

    def score(params, steps: Transition, mask, key: Key | None = None) -> Float[Array, "M B"]:
        return scores(reward(params, steps)[0], mask)

    return SequenceReward(lambda key: init_critic(network, spec, key), score, reward)


def source(env: Env, config: Config, dataset) -> Source:
    """Judgements of the dataset."""
    return sources.judged(dataset, batch_size=config.batch_size, num_batches=config.num_updates, length=config.segment)
