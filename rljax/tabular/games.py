"""Regularised preference games, solved exactly: two policies over A arms are compared, and each is held to a reference.

    J(pi, pi') = P(pi better than pi') - tau KL(pi || reference) + tau KL(pi' || reference)

Preferences need not come from a reward: they may go round in circles. The equilibrium is one policy, played by both, in proportion
to reference e^(P(. better than pi) / tau). Policies are probabilities above 0.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rljax.errors import UserError
from rljax.record import record

Scalar = Float[Array, ""]
Policy = Float[Array, " A"]
Number = Scalar | float


@record
class Game:
    """Payoffs, the policy that both are held to, and how much."""

    payoff: Float[Array, "A A"]  # P(the row's arm is better than the column's)
    reference: Policy
    tau: Number


def game(payoff, reference, tau) -> Game:
    """A game of arrays. Raises UserError unless payoff + payoff^T is 1, the reference is a law without zeros, and tau > 0."""
    payoff, reference = np.asarray(payoff), np.asarray(reference)
    if payoff.ndim != 2 or payoff.shape[0] != payoff.shape[1]:
        raise UserError(f"payoff must be [A, A], not {payoff.shape}.")
    if not (np.allclose(payoff + payoff.T, 1.0, atol=1e-6) and ((payoff >= 0.0) & (payoff <= 1.0)).all()):
        raise UserError(
            "payoff[i, j] must be the probability that i is better than j, and payoff[j, i] the rest of it."
        )
    if (
        reference.shape != payoff.shape[:1]
        or not (reference > 0.0).all()
        or not np.isclose(reference.sum(), 1.0, atol=1e-6)
    ):
        raise UserError(f"reference must be a probability above 0 of each of {len(payoff)} arms.")
    if not tau > 0.0:
        raise UserError(f"tau must be above 0, not {tau}.")
    return Game(payoff=jnp.asarray(payoff), reference=jnp.asarray(reference), tau=tau)


def kl(policy: Policy, other: Policy) -> Scalar:
    """KL(policy || other) in nats."""
    return (policy * (jnp.log(policy) - jnp.log(other))).sum()


def value(of: Game, policy: Policy, opponent: Policy) -> Scalar:
    """J(policy, opponent); 1/2 against oneself."""
    return policy @ of.payoff @ opponent - of.tau * (kl(policy, of.reference) - kl(opponent, of.reference))


def best_response(of: Game, opponent: Policy) -> Policy:
    """The policy of the highest J against an opponent, in proportion to reference e^(P(. better than opponent) / tau)."""
    return jax.nn.softmax(jnp.log(of.reference) + of.payoff @ opponent / of.tau)


def duality_gap(of: Game, policy: Policy) -> Scalar:
    """max_pi J(pi, policy) - min_pi J(policy, pi): at least 0, and 0 at the equilibrium alone."""
    return 2.0 * value(of, best_response(of, policy), policy) - 1.0


def proximal(of: Game, policy: Policy, opponent: Policy, rate: Number) -> Policy:
    """argmax over pi of P(pi better than opponent) - tau KL(pi || reference) - KL(pi || policy) / rate."""
    logits = jnp.log(policy) + rate * (of.tau * jnp.log(of.reference) + of.payoff @ opponent)
    return jax.nn.softmax(logits / (1.0 + rate * of.tau))


def self_play(of: Game, policy: Policy, rate: Number) -> Policy:
    """Mirror descent against oneself, in proportion to reference^(rate tau) policy^(1 - rate tau) e^(rate P(. better than policy)).

    The minimiser of INPO's loss of eta = 1 / rate (Zhang et al., 2024, arXiv:2407.00617), and `proximal` with the opponent `policy`
    and the rate rate / (1 - rate tau). rate tau is below 1.
    """
    return _towards(of, policy, policy, rate)


def nash_md(of: Game, policy: Policy, rate: Number) -> Policy:
    """Mirror descent from, and against, the mixture in proportion to policy^(1 - rate tau) reference^(rate tau).

    Munos et al., 2023 (Nash-MD, arXiv:2312.00886). With a constant rate it comes to rest beside the equilibrium, the farther the
    higher the rate.
    """
    mixture = jax.nn.softmax((1.0 - rate * of.tau) * jnp.log(policy) + rate * of.tau * jnp.log(of.reference))
    return _towards(of, policy, mixture, rate)


def _towards(of, policy, opponent, rate):
    logits = (1.0 - rate * of.tau) * jnp.log(policy) + rate * of.tau * jnp.log(of.reference)
    return jax.nn.softmax(logits + rate * of.payoff @ opponent)


def nash_mp(of: Game, policy: Policy, rate: Number) -> Policy:
    """A step of mirror prox: first against oneself, then once more from the same policy against who that would have made.

    Tiapkin et al., 2025 (Nash-MP, arXiv:2505.19731).
    """
    return proximal(of, policy, proximal(of, policy, policy, rate), rate)


STEPS = {"self_play": self_play, "nash_md": nash_md, "nash_mp": nash_mp}


def iterate(
    step: Callable[[Game, Policy, Number], Policy], of: Game, policy: Policy, rate: Number, count: int
) -> Float[Array, "N A"]:
    """The policies after each of `count` steps."""

    def advance(policy, _):
        policy = step(of, policy, rate)
        return policy, policy

    return jax.lax.scan(advance, policy, length=count)[1]


def equilibrium(of: Game, count: int = 1000, rate: Number = 1.0) -> Policy:
    """The policy that no other beats, by `count` steps of mirror prox from the reference; see what is left with `duality_gap`."""
    return iterate(nash_mp, of, of.reference, rate, count)[-1]
