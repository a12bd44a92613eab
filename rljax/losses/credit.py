"""Which steps a judgement of a segment is owed to, and which what was paid for a completion.

Of judgements: a soft prior on rewards beside their likelihood. Verma & Metcalf, 2022, arXiv:2210.09151 (PRIOR), and 2024,
arXiv:2404.08828, in our reading: the return that is predicted of a segment is shared out over its steps in proportion to their
importance, and rewards are held to their shares by a square. A step is important if states like it, of the same symbol, are
frequent in segments that were preferred and rare in those rejected. That a return below 0 is blamed on the others, those more
frequent among the rejected, is ours.

Of completions: how much more is to be expected after a step than before it, if somebody goes on from there.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Scalar = Float[Array, ""]


def credit(
    symbols: Int[Array, "B G K"],
    mask: Bool[Array, "B G K"],
    ranks: Int[Array, "B G"],
    weight: Float[Array, " B"],
    num_symbols: int,
) -> Float[Array, " S"]:
    """(p + 1) / (p + q + 2) of each symbol, which counts p steps in segments that were preferred and q in rejected ones; 1/2 of
    symbols that nobody judged, and in ties.

    A segment of a longer ranking is preferred to each below it and rejected for each above it. Judgements count by their weights.
    """
    above = (ranks[:, :, None] < ranks[:, None, :]).sum(axis=-1)
    below = (ranks[:, :, None] > ranks[:, None, :]).sum(axis=-1)

    def count(times):
        each = jnp.where(mask, (weight[:, None] * times)[..., None], 0.0)
        return jnp.zeros(num_symbols).at[symbols].add(each)

    preferred, rejected = count(above), count(below)
    return (preferred + 1.0) / (preferred + rejected + 2.0)


def sharing_loss(rewards: Float[Array, " K"], owed: Float[Array, " K"], mask: Bool[Array, " K"]) -> Scalar:
    """The mean of (r_t - share_t R)^2 over the steps of the mask, with R the sum of their rewards, a constant to gradients.

    A return R >= 0 is shared in proportion to what steps are `owed`, their credit, one below 0 to 1 - `owed`. The loss and its
    gradient are 0 exactly where rewards are their shares.
    """
    chex.assert_equal_shape([rewards, owed, mask])
    total = jax.lax.stop_gradient(jnp.where(mask, rewards, 0.0).sum())
    importance = jnp.where(mask, jnp.where(total < 0.0, 1.0 - owed, owed), 0.0)
    share = importance / jnp.maximum(importance.sum(), 1e-8)
    return jnp.where(mask, jnp.square(rewards - share * total), 0.0).sum() / jnp.maximum(mask.sum(), 1)


# --- Completions of N - 1 steps, by values [N]: what whoever goes on is paid in the mean, from where each step begins, and at last
# what the completion was paid itself.


def process_advantages(value: Float[Array, " N"]) -> Float[Array, " N-1"]:
    """A(s_h, a_h) = Q(s_h, a_h) - Q(s_{h-1}, a_{h-1}), how much each step changed. Setlur et al., 2024 (PAV, arXiv:2410.08146).

    They add up to what was paid less the value of the prompt: returns to go of them are the outcome less a baseline, whoever goes
    on.
    """
    return value[1:] - value[:-1]


def effective_rewards(outcome: Scalar, progress: Float[Array, " S"], alpha: Scalar | float) -> Float[Array, " S"]:
    """Q(s_h, a_h) + alpha A(s_h, a_h), by which the log-probability of each step is weighed: the Q of the policy, told by what
    came of the completion, and the A of a prover. Setlur et al., 2024 (PAV, arXiv:2410.08146), equation 5. Of either a baseline may
    be taken off that does not know the step.

    Where the prover is the policy itself, the mean is 1 + alpha times the policy gradient: it tells nothing new.
    """
    return outcome + alpha * progress


def first_pit(value: Float[Array, " N"], level: Scalar | float) -> tuple[Int[Array, ""], Bool[Array, ""]]:
    """(which step is the pit, whether there is one): of completions that were paid `level` at most, the first step that the value
    falls with from above the level to it or below.

    Setlur et al., 2024 (arXiv:2406.14532), in our reading: with right and wrong answers and the level 0, the first step from where
    nobody came to a right one, though somebody had from where it begins.
    """
    falls = (value[:-1] > level) & (value[1:] <= level)
    return jnp.argmax(falls), falls.any() & (value[-1] <= level)
