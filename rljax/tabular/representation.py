"""How features move under TD learning of two linear layers, V = Phi W, in continuous time.

Tang & Munos, 2023, "Towards a better understanding of representation dynamics under TD-learning", arXiv:2305.18491. W is TD's
solution for the features at each instant, and the features follow TD's expected step. Where the chain is reversible a quadratic
form of the error falls all the time; where it is not nothing says so. With many random rewards the features turn to the chain's
uppermost eigenvectors. A chain is P[s, s'] under a policy, `weight` [S] how often states are updated, rewards [S, H] are of H tasks
at once, whose updates are averaged.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rljax.tabular.solvers import Number
from rljax.types import Key

Chain = Float[Array, "S S"]
Weight = Float[Array, " S"]
Rewards = Float[Array, "S H"]
Features = Float[Array, "S K"]


def reversible_chain(key: Key, num_states: int) -> Chain:
    """A random walk on a graph of random symmetric weights: pi(s) P(s, s') = pi(s') P(s', s)."""
    drawn = jax.random.exponential(key, (num_states, num_states))
    return _normalised(drawn + drawn.T)


def irreversible_chain(key: Key, num_states: int, spread: Number = 1.0) -> Chain:
    """Each row by itself: exponential numbers to the power `spread`, normalised; the larger, the nearer to one successor each."""
    return _normalised(jax.random.exponential(key, (num_states, num_states)) ** spread)


def symmetric_chain(key: Key, num_states: int) -> Chain:
    """Reversible, and all states alike often: symmetric exponential numbers; what a row lacks, a tenth or more, stays."""
    drawn = jax.random.exponential(key, (num_states, num_states))
    drawn = (drawn + drawn.T) * (1.0 - jnp.eye(num_states))
    moves = 0.9 * drawn / drawn.sum(-1).max()
    return moves + jnp.diag(1.0 - moves.sum(-1))


def cycle(num_states: int, slip: Number) -> Chain:
    """Round and round, and anywhere with probability `slip`: as far from reversible as there is."""
    return (1.0 - slip) * jnp.roll(jnp.eye(num_states), 1, axis=1) + slip / num_states


def stationary(chain: Chain) -> Weight:
    """pi = pi P, of a chain with one."""
    size = len(chain)
    matrix = jnp.eye(size) - chain.T + jnp.ones((size, size))
    return jnp.linalg.solve(matrix, jnp.ones(size))


def orthonormal_features(key: Key, num_states: int, num_features: int) -> Features:
    return jnp.linalg.qr(jax.random.normal(key, (num_states, num_features)))[0]


def td_weights(
    chain: Chain, rewards: Rewards, discount: Number, weight: Weight, features: Features
) -> Float[Array, "K H"]:
    """Where TD of the last layer comes to rest: Phi^T D (R + discount P Phi W - Phi W) = 0."""
    weighed = features.T * weight
    return jnp.linalg.solve(weighed @ (features - discount * chain @ features), weighed @ rewards)


def flow(chain: Chain, rewards: Rewards, discount: Number, weight: Weight, features: Features) -> Features:
    """dPhi/dt = D (R + discount P Phi W - Phi W) W^T / H, no gradient flowing through the target. It keeps Phi^T Phi.

    With the indicators of states as rewards, the identity, it is 1 / S times its mean over independent random rewards of unit
    variance.
    """
    w = td_weights(chain, rewards, discount, weight, features)
    v = features @ w
    errors = rewards + discount * chain @ v - v
    return weight[:, None] * errors @ w.T / rewards.shape[1]


def error(chain: Chain, rewards: Rewards, discount: Number, weight: Weight, features: Features) -> Float[Array, ""]:
    """(V - V_pi)^T D (I - discount P) (V - V_pi) / 2, the mean over tasks.

    Where D P is symmetric it falls by |D errors W^T|^2 / H and nothing else.
    """
    matrix = jnp.eye(len(chain)) - discount * chain
    v = features @ td_weights(chain, rewards, discount, weight, features)
    apart = v - jnp.linalg.solve(matrix, rewards)
    return 0.5 * (apart * (weight[:, None] * (matrix @ apart))).sum(0).mean()


def squared_error(
    chain: Chain, rewards: Rewards, discount: Number, weight: Weight, features: Features
) -> Float[Array, ""]:
    """sum_s D(s) (V(s) - V_pi(s))^2, the mean over tasks."""
    v = features @ td_weights(chain, rewards, discount, weight, features)
    apart = v - jnp.linalg.solve(jnp.eye(len(chain)) - discount * chain, rewards)
    return (weight @ apart**2).mean()


def follow(
    chain: Chain,
    rewards: Rewards,
    discount: Number,
    weight: Weight,
    features: Features,
    times: int,
    step: Number,
    substeps: int = 10,
) -> Float[Array, "T S K"]:
    """The features at `times` times, `step` apart, the first of them as given; by Runge & Kutta's fourth-order rule."""
    size = step / substeps
    move = lambda x: flow(chain, rewards, discount, weight, x)

    def substep(x, _):
        a = move(x)
        b = move(x + 0.5 * size * a)
        c = move(x + 0.5 * size * b)
        d = move(x + size * c)
        return x + size * (a + 2.0 * b + 2.0 * c + d) / 6.0, None

    def one(x, _):
        return jax.lax.scan(substep, x, length=substeps)[0], x

    return jax.lax.scan(one, features, length=times)[1]


def uppermost_eigenvectors(chain: Chain, num_features: int) -> Features:
    """Of a symmetric chain: those of the largest eigenvalues (with their sign)."""
    return jnp.linalg.eigh(chain)[1][:, ::-1][:, :num_features]


def largest_angle(features: Features, others: Features) -> Float[Array, ""]:
    """Between two subspaces, the largest principal angle, in degrees from 0 to 90."""
    basis, other = jnp.linalg.qr(features)[0], jnp.linalg.qr(others)[0]
    sine = jnp.linalg.norm(other - basis @ (basis.T @ other), ord=2)  # the cosine rounds small angles off
    return jnp.degrees(jnp.arcsin(jnp.clip(sine, 0.0, 1.0)))


def _normalised(rows: Chain) -> Chain:
    return rows / rows.sum(-1, keepdims=True)
