"""Synthetic people: from what segments were worth to a judgement. Pure functions, vmapped over whatever a `Teacher` holds.

A judgement is made in three steps: a utility of each segment (here: `partial_return`, `regret`; or any numbers), a choice among
them, noisy or not, and flaws. After Lee et al., 2021 (B-Pref, arXiv:2111.03026) and Knox et al., 2022 (arXiv:2206.02231).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax.record import record, signed, static
from rljax.types import Key

Scalar = Float[Array, ""]
Steps = Float[Array, " K"]


@record
class Teacher:
    """How somebody chooses, and what goes wrong.

    temperature: of the choice, in units of utility; 0 takes the best. With Gumbel noise it is Boltzmann's (Bradley & Terry,
      Plackett & Luce), with Gaussian noise Thurstone's.
    flip: share of judgements that are turned round.
    equal: utilities that lie no further apart count as equal: a tie.
    skip: no judgement where even the best utility lies below.
    """

    temperature: float = 0.0
    flip: float = 0.0
    equal: float = 0.0
    skip: float = signed(-jnp.inf)
    noise: str = static("gumbel")


def partial_return(reward: Steps, mask: Bool[Array, " K"], discount=1.0) -> Scalar:
    """The rewards of a segment, the last of them undiscounted: with a discount below 1 a short-sighted memory of how it ended."""
    after = jnp.cumsum(mask[::-1])[::-1] - 1  # steps of the segment that follow
    return jnp.where(mask, reward * discount**after, 0.0).sum()


def regret(reward: Steps, mask: Bool[Array, " K"], first_value: Scalar, last_value: Scalar, discount=1.0) -> Scalar:
    """How much better than the best could be, so 0 at most in the mean: sum discount^t A*(s_t, a_t), which comes to what was paid
    and what was left in the end less what could be had at first.

    Args:
      first_value: optimal value of the first observation.
      last_value: that of the observation which follows the last step; 0 after a termination.
    """
    steps = mask.sum()
    earned = jnp.where(mask, reward * discount ** jnp.arange(len(reward)), 0.0).sum()
    return earned + discount**steps * last_value - first_value


def mixed_utility(
    criteria: Float[Array, "G C"], first: Float[Array, " C"], last: Float[Array, " C"], share
) -> Float[Array, " G"]:
    """Several criteria weighed, by weights that drift from `first` to `last` as `share` goes from 0 to 1."""
    return criteria @ (first + share * (last - first))


def judge(teacher: Teacher, utility: Float[Array, " G"], key: Key) -> tuple[Int[Array, " G"], Float[Array, ""]]:
    """Ranks (0 the best, equal for a tie) and weight (0 where nothing is said) of one judgement."""
    noise_key, flip_key = jax.random.split(key)
    noise = (jax.random.gumbel if teacher.noise == "gumbel" else jax.random.normal)(noise_key, utility.shape)
    perceived = utility + teacher.temperature * noise
    perceived = jnp.where(jax.random.uniform(flip_key) < teacher.flip, -perceived, perceived)
    # a tie is no matter of noise: those are equal whose utilities are, from the best down
    order = jnp.argsort(-perceived)
    gap = jnp.abs(jnp.diff(utility[order])) > teacher.equal
    rank = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(gap).astype(jnp.int32)])
    return jnp.zeros_like(rank).at[order].set(rank), jnp.float32(utility.max() >= teacher.skip)
