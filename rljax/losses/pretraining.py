"""Objectives of pre-training on completions that were rewarded: losses of the tokens of one completion [T], by what all of it was
paid. Korbak et al., 2023, "Pretraining language models with human preferences", arXiv:2302.08582.

All have one signature (`OBJECTIVES`): log-probabilities of the tokens, the reward, a value of what stood before each token, and a
record of numbers. What belongs to no token is anything. Filtering and conditional training are the likelihood too: of the good
alone, and of prompts that say which are good, which is their caller's to do.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax.errors import UserError
from rljax.losses.implicit import advantage_weight
from rljax.names import nearest
from rljax.record import record, signed

Scalar = Float[Array, ""]
Tokens = Float[Array, " T"]
SUREST = 1e-5  # a token of a higher probability than 1 less this has no slope where it is unlearned


@record
class Options:
    """Each objective reads its own."""

    threshold: float = signed(0.5)  # good is what was paid more
    unlikelihood_weight: float = 1.0  # alpha, of tokens of the bad
    beta: float = 0.5  # temperature of rewards and advantages
    max_weight: float = 1000.0  # of a token, by these


def is_good(reward: Float[Array, "*S"], options: Options) -> Bool[Array, "*S"]:
    return reward > options.threshold


def likelihood(log_prob: Tokens, reward: Scalar, value: Tokens, options: Options) -> Tokens:
    """-log p."""
    return -log_prob


def unlikelihood(log_prob: Tokens, reward: Scalar, value: Tokens, options: Options) -> Tokens:
    """-log p of a good completion's tokens, -alpha log (1 - p) of a bad one's. Welleck et al., 2019 (arXiv:1908.04319)."""
    bad = -options.unlikelihood_weight * jax.nn.log1mexp(jnp.maximum(-log_prob, SUREST))
    return jnp.where(is_good(reward, options), -log_prob, bad)


def weighted(log_prob: Tokens, reward: Scalar, value: Tokens, options: Options) -> Tokens:
    """-e^((reward - value) / beta) log p, the weight `max_weight` at most and a constant: AWR, Peng et al., 2019
    (arXiv:1910.00177), and with the value 0 reward-weighted regression, Peters & Schaal, 2007. The best policy is the same, in
    proportion to the data's times e^(reward / beta): what a value takes off is as much for each token that may follow."""
    chex.assert_equal_shape([log_prob, value])
    weight = lambda value: advantage_weight(reward - value, 1.0 / options.beta, options.max_weight)
    return -jax.vmap(weight)(value) * log_prob


OBJECTIVES = {
    "mle": likelihood,
    "filtering": likelihood,
    "conditional": likelihood,
    "unlikelihood": unlikelihood,
    "rwr": weighted,
    "awr": weighted,
}


def check(name: str, options: Options) -> None:
    """Raises UserError where there is no objective of the name, or its temperature is none."""
    if name not in OBJECTIVES:
        raise UserError(f"There is no objective {name!r}; {nearest(name, OBJECTIVES)}")
    if isinstance(options.beta, float) and options.beta <= 0.0:
        raise UserError(f"beta={options.beta} must be above 0.")
