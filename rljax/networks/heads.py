"""What a value network's last layer says of the return: its mean, or its whole law in some form.

A head reads `size` numbers for each action. Losses and targets know laws alone (atoms and their probabilities), so that heads are
interchangeable under any agent with critics, and a law learned by one can be the target of another.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.errors import UserError
from rljax.losses import distributional, value
from rljax.names import nearest
from rljax.record import record, signed, static


class Law(NamedTuple):
    """Of returns: atoms [..., N] and their probabilities [..., N]; of D rewards together: atoms [..., N, D]."""

    atoms: Array
    probs: Array


class Levels(NamedTuple):
    """Of quantiles [..., N]: which each is, and how much of the law it stands for."""

    middle: Array
    width: Array


class Head(NamedTuple):
    """
    size: numbers that the network gives for each action.
    law: (output [..., size], levels) -> Law [..., N].
    loss: (output [size], Law [M], levels) -> how far the action's law is from the target's.
    total: (Law) -> that of the scalar return: of the sum over sources, where a law is of several rewards together.

    `levels` are those of the quantiles that the network was asked for; None: the head's own.
    """

    size: int
    law: Callable[..., Law]
    loss: Callable[..., Float[Array, ""]]
    total: Callable[[Law], Law] = lambda law: law


def mean(delta=1e6) -> Head:
    """The mean alone, by Huber's loss of the difference of means."""

    def law(output, levels=None):
        return Law(output, jnp.ones_like(output))

    def loss(output, target: Law, levels=None):
        return value.huber(distributional.mean(*target) - output[0], delta)

    return Head(1, law, loss)


def categorical(num_atoms: int, low, high) -> Head:
    """C51: probabilities of returns fixed evenly from `low` to `high`. Bellemare et al., 2017, arXiv:1707.06887."""
    support = jnp.linspace(low, high, num_atoms)

    def law(output, levels=None):
        return Law(jnp.broadcast_to(support, output.shape), jax.nn.softmax(output))

    def loss(output, target: Law, levels=None):
        return distributional.categorical_loss(output, distributional.project(*target, support))

    return Head(num_atoms, law, loss)


def even_levels(num_atoms: int) -> Levels:
    """The middles of equal parts of (0, 1)."""
    return Levels((jnp.arange(num_atoms) + 0.5) / num_atoms, jnp.full(num_atoms, 1.0 / num_atoms))


def quantile(num_atoms: int, kappa=1.0) -> Head:
    """Quantiles of even levels (QR-DQN, Dabney et al., 2017, arXiv:1710.10044), or of those that a network was asked for."""

    def law(output, levels=None):
        levels = levels or even_levels(num_atoms)
        return Law(output, jnp.broadcast_to(levels.width, output.shape))

    def loss(output, target: Law, levels=None):
        levels = levels or even_levels(num_atoms)
        return distributional.quantile_loss(output, levels.middle, *target, kappa)

    return Head(num_atoms, law, loss)


def particles(num_atoms: int, bandwidths=tuple(range(1, 11))) -> Head:
    """MMD-DQN: equally likely particles, anywhere. Nguyen-Tang et al., 2020, arXiv:2007.12354; kernels of widths 1 to 10."""
    bandwidths = jnp.array(bandwidths, jnp.float32)

    def law(output, levels=None):
        return Law(output, jnp.full(output.shape, 1.0 / num_atoms))

    def loss(output, target: Law, levels=None):
        return distributional.mmd(output[:, None], target.atoms[:, None], target.probs, bandwidths)

    return Head(num_atoms, law, loss)


def joint(num_atoms: int, num_rewards: int, bandwidths=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0)) -> Head:
    """MD3QN: equally likely particles in R^D, the returns of D rewards together. Zhang et al., 2021, arXiv:2110.13578.

    The kernels' widths are ours, for returns of about 1 to 10. Much narrower ones hold particles where they are: too many in one
    place and too few in another.
    """
    bandwidths = jnp.array(bandwidths, jnp.float32)

    def law(output, levels=None):
        atoms = output.reshape(*output.shape[:-1], num_atoms, num_rewards)
        return Law(atoms, jnp.full(atoms.shape[:-1], 1.0 / num_atoms))

    def loss(output, target: Law, levels=None):
        return distributional.mmd(output.reshape(num_atoms, num_rewards), *target, bandwidths)

    return Head(num_atoms * num_rewards, law, loss, lambda law: Law(law.atoms.sum(axis=-1), law.probs))


ASKING = {"implicit": "implicit", "fractions": "proposed"}  # heads that ask for levels, and how these are chosen


@record
class Config:
    """What a config has that chooses a head; those of agents with critics extend it."""

    huber_delta: float = 1e6  # error from which on losses are linear: here none; of quantiles it is kappa
    lowest_return: float = signed(-100.0)  # of the categorical head, discounted and as scaled
    highest_return: float = 100.0
    head: str = static("mean")  # categorical, quantile, particles; of DQN also implicit, fractions and joint
    num_atoms: int = static(51)  # of heads that learn a law


def of(config, asked: bool = False, num_rewards: int | None = None) -> Head:
    """The head that a config chooses; one that is no such `Config` learns means.

    asked: the network can be asked for quantiles at any levels (rljax/networks/values.py).
    num_rewards: of the environment, for agents that can learn what each source pays; None: this one cannot.
    Raises:
      UserError: there is no such head, or it needs a network that can be asked, or an agent that learns several rewards.
    """
    if not isinstance(config, Config):
        return mean()
    if config.head in ASKING and not asked:
        raise UserError(f"The head {config.head!r} asks its network for levels, as DQN's can be: take 'quantile' here.")
    if config.head == "joint" and num_rewards is None:
        raise UserError("The head 'joint' learns several rewards together, as DQN can: take 'particles' here.")
    heads = {
        "mean": lambda: mean(config.huber_delta),
        "categorical": lambda: categorical(config.num_atoms, config.lowest_return, config.highest_return),
        "quantile": lambda: quantile(config.num_atoms, config.huber_delta),
        "implicit": lambda: quantile(config.num_atoms, config.huber_delta),
        "fractions": lambda: quantile(config.num_atoms, config.huber_delta),
        "particles": lambda: particles(config.num_atoms),
        "joint": lambda: joint(config.num_atoms, num_rewards),
    }
    if config.head not in heads:
        raise UserError(f"There is no head {config.head!r}; {nearest(config.head, heads)}")
    return heads[config.head]()


def certain(value: Float[Array, "*B"]) -> Law:
    """The law of a return that is known, [*B, 1]."""
    return Law(value[..., None], jnp.ones((*value.shape, 1)))


def bellman(reward: Float[Array, " B *D"], discount: Float[Array, " B"], after: Law) -> Law:
    """Of reward + discount times what follows, [B, N *D] (see `losses.distributional.bellman`)."""
    return Law(jax.vmap(distributional.bellman)(reward, discount, after.atoms), after.probs)


def lowest(laws: Law) -> Law:
    """Of several critics' laws [E, N] that of the lowest mean, [N]: of means alone, the lowest of them."""
    one = preferred(laws).argmin()
    return jax.tree.map(lambda x: x[one], laws)


def truncated(laws: Law, num_dropped: int) -> Law:
    """All of several critics' equally likely atoms [E, N], without the highest `num_dropped` for each critic. Kuznetsov et al.,
    2020 (arXiv:2005.04269), section 4.2."""
    num_critics, num_atoms = laws.atoms.shape
    kept = num_critics * (num_atoms - num_dropped)
    return Law(jnp.sort(laws.atoms, axis=None)[:kept], jnp.full(kept, 1.0 / kept))


PREFERENCES = {
    "mean": lambda atoms, probs, number: distributional.mean(atoms, probs),
    "cvar": distributional.cvar,
    "wang": distributional.wang,
    "mean_variance": distributional.mean_variance,
}


def preferred(law: Law, preference: str = "mean", number=1.0) -> Array:
    """What a law [..., N] is worth to a policy that has such a preference (its number: see rljax.losses.distributional), [...].

    Raises:
      UserError: there is no such preference.
    """
    if preference not in PREFERENCES:
        raise UserError(f"There is no preference {preference!r}; {nearest(preference, PREFERENCES)}")
    one = lambda atoms, probs: PREFERENCES[preference](atoms, probs, number)
    return jnp.vectorize(one, signature="(n),(n)->()")(*law)
