"""Linear rewards from judgements of K actions, and what is safe to do on their word. Zhu, Jordan & Jiao, 2023, arXiv:2301.11270.

A judgement ranks K things by noisy rewards theta . phi; what is known of each are its features. The maximum likelihood estimate is
taken with |theta| <= bound; a policy that is greedy by it trusts what hardly anybody was asked about, one that is greedy by a lower
confidence bound does not. All functions are pure and can be jitted and vmapped over problems and over data.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rljax.data import labellers
from rljax.types import Key

Number = Float[Array, ""] | float
Features = Float[Array, "N K D"]
Ranks = Int[Array, "N K"]


def draw(theta: Float[Array, " D"], features: Features, key: Key) -> Ranks:
    """Rankings by Plackett & Luce's law of the rewards; of pairs it is Bradley & Terry's."""
    keys = jax.random.split(key, features.shape[0])
    judge = lambda utility, key: labellers.judge(labellers.Teacher(temperature=1.0), utility, key)[0]
    return jax.vmap(judge)(features @ theta, keys)


def derivatives(
    loss: Callable, theta: Float[Array, " D"], features: Features, ranks: Ranks
) -> tuple[Float[Array, " D"], Float[Array, "D D"]]:
    """Gradient and Hessian in theta of the mean loss of judgements; of a likelihood the Hessian is its information.

    loss: one of `losses.preference`, (scores [K], ranks [K]) -> scalar.
    """
    scores = features @ theta
    gradient = jax.vmap(jax.grad(loss))(scores, ranks)
    hessian = jax.vmap(jax.hessian(loss))(scores, ranks)
    count = features.shape[0]
    return (
        jnp.einsum("nk,nkd->d", gradient, features) / count,
        jnp.einsum("nkd,nkl,nle->de", features, hessian, features) / count,
    )


def fit(loss: Callable, features: Features, ranks: Ranks, bound: Number, num_steps: int = 30) -> Float[Array, " D"]:
    """The theta of least mean loss with |theta| <= `bound`, which exists whatever was judged, by Newton's steps within the ball.

    Args:
      loss: `losses.preference.plackett_luce` for the likelihood of whole rankings, `pairwise` for that of their pairs, as if they
        were independent; any other that is convex in the scores.
    """
    mean_loss = lambda theta: jax.vmap(loss)(features @ theta, ranks).mean()

    def step(theta, _):
        gradient, hessian = derivatives(loss, theta, features, ranks)
        # what nobody was asked about has no curvature; a little of it keeps the step finite and its rest where the gradient is 0
        hessian += jnp.sqrt(jnp.finfo(theta.dtype).eps) * jnp.trace(hessian) * jnp.eye(theta.size, dtype=theta.dtype)
        direction = lowest_in_ball(hessian, gradient - hessian @ theta, bound) - theta
        tried = theta + 0.5 ** jnp.arange(12)[:, None] * direction
        losses = jax.vmap(mean_loss)(tried)
        best = losses.argmin()
        return jnp.where(losses[best] <= mean_loss(theta), tried[best], theta), None

    return jax.lax.scan(step, jnp.zeros(features.shape[-1], features.dtype), length=num_steps)[0]


def lowest_in_ball(matrix: Float[Array, "D D"], linear: Float[Array, " D"], radius: Number) -> Float[Array, " D"]:
    """The x with |x| <= `radius` where x' M x / 2 + l' x is least, M positive definite: its multiplier by bisection."""
    values, vectors = jnp.linalg.eigh(matrix)
    along = vectors.T @ linear
    at = lambda multiplier: -along / (values + multiplier)
    inside = jnp.linalg.norm(at(0.0)) <= radius

    def halve(_, ends):
        low, high = ends
        middle = 0.5 * (low + high)
        outside = jnp.linalg.norm(at(middle)) > radius
        return jnp.where(outside, middle, low), jnp.where(outside, high, middle)

    largest = jnp.linalg.norm(linear) / radius
    _, high = jax.lax.fori_loop(0, 60, halve, (jnp.zeros_like(largest), largest))
    return vectors @ at(jnp.where(inside, 0.0, high))


# --- Confidence -------------------------------------------------------------------------------------------------------


def design(features: Features) -> Float[Array, "D D"]:
    """Sigma_D: the mean, over judgements and over the pairs of each, of x x' with x the difference of the pair's features."""
    difference = features[:, :, None] - features[:, None]
    pairs = features.shape[1] * (features.shape[1] - 1)
    return jnp.einsum("nkld,nkle->de", difference, difference) / (features.shape[0] * pairs)


def radius(
    count: Number, dimension: int, ranked: int, failure: Number, ridge: Number, bound: Number, spread: Number
) -> Float[Array, ""]:
    """How far, with probability 1 - `failure`, the truth lies at most from the estimate by rankings, in the norm of `design` +
    `ridge`: the region of Zhu et al., 2023, with its constants worked out.

    The gradient at the truth is sub-Gaussian along any direction, a sum of K - 1 bounded draws, and the loss bends at least so much
    as where the two least likely things of a ranking are.

    Args:
      count: judgements, of `ranked` things each, with features of `dimension`.
      bound: of |theta|, the truth's and the estimate's.
      spread: of |theta . x|, over all pairs that were judged and all such theta.
    """
    log = jnp.log(1.0 / failure)
    deviation = (dimension + 2.0 * jnp.sqrt(dimension * log) + 2.0 * log) / count
    noise = 0.5 * (ranked - 1) * jnp.sqrt(deviation)
    odds = jnp.exp(spread)
    one_low = odds / (1.0 + (ranked - 1) * odds) ** 2
    both_low = 1.0 / (2.0 + (ranked - 2) * odds) ** 2
    curvature = 0.5 * ranked * (ranked - 1) * jnp.minimum(one_low, both_low)
    return noise / curvature + jnp.sqrt((noise / curvature) ** 2 + 4.0 * ridge * bound**2)


def asymptotic_radius(count: Number, dimension: int, failure: Number, ridge: Number, bound: Number) -> Float[Array, ""]:
    """The same for many judgements, in the norm of the information (`derivatives` of `plackett_luce` at the estimate) + `ridge`:
    Wald's region, by the quantile of chi square."""
    from scipy import stats

    return jnp.sqrt(stats.chi2.isf(failure, dimension) / count + 4.0 * ridge * bound**2)


def lower_bound(
    theta: Float[Array, " D"],
    matrix: Float[Array, "D D"],
    radius: Number,
    features: Float[Array, "*A D"],
    reference: Float[Array, " D"],
) -> Float[Array, "*A"]:
    """How much better than `reference` the worst theta within `radius` of the estimate, in the norm of `matrix`, finds `features`
    (of actions, or means over a policy's): theta . x - radius |x| in the norm of the inverse, x the difference from `reference`."""
    x = features - reference
    squared = jnp.einsum("...d,...d->...", x, jnp.linalg.solve(matrix, x[..., None])[..., 0])
    positive = squared > 0.0  # at the reference itself there is no slope
    return x @ theta - radius * jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def pessimistic_policy(
    theta: Float[Array, " D"],
    matrix: Float[Array, "D D"],
    radius: Number,
    features: Float[Array, "S A D"],
    contexts: Float[Array, " S"],
    reference: Float[Array, " D"],
    num_steps: int = 500,
) -> tuple[Float[Array, "S A"], Float[Array, ""]]:
    """The policy, which may draw, whose mean features have the highest `lower_bound`, and by how much at most another's is higher.

    The bound is concave in the policy; by Frank & Wolfe's steps, 1956, each to the best point of its line.

    contexts: how likely each is.
    """
    value = lambda mean: lower_bound(theta, matrix, radius, mean, reference)
    mean_of = lambda policy: jnp.einsum("s,sa,sad->d", contexts, policy, features)
    num_actions = features.shape[1]

    def towards(policy):
        slope = jax.grad(value)(mean_of(policy))
        best = jax.nn.one_hot((features @ slope).argmax(-1), num_actions, dtype=policy.dtype)
        return best, slope @ (mean_of(best) - mean_of(policy))

    def step(policy, _):
        best, _ = towards(policy)
        here, there = mean_of(policy), mean_of(best)

        def halve(_, ends):
            low, high = ends
            middle = 0.5 * (low + high)
            rises = jax.grad(value)(here + middle * (there - here)) @ (there - here) > 0.0
            return jnp.where(rises, middle, low), jnp.where(rises, high, middle)

        share, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(theta[0]), jnp.ones_like(theta[0])))
        return policy + share * (best - policy), None

    actions = jax.nn.one_hot(lower_bound(theta, matrix, radius, features, reference).argmax(-1), num_actions)
    policy, _ = jax.lax.scan(step, actions.astype(theta.dtype), length=num_steps)
    return policy, towards(policy)[1]
