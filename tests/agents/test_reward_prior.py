"""The prior beside the judgements: what it adds to the loss, and that rewards from few judgements are nearer the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import symbols
from rljax.agents.preference import reward_model
from rljax.data.feedback import Judged
from rljax.errors import UserError
from rljax.experiments.studies import hindsight_prior as study
from rljax.losses import credit
from rljax.types import Discrete, EnvSpec, Transition

SPEC = EnvSpec((4,), Discrete(2))
SMALL = reward_model.Config(hidden=(8,), num_models=2)


def judged():
    """Three pairs of segments of up to five steps; the second is a tie, the third half as sure."""
    rng = np.random.default_rng(0)
    state, action, zeros = rng.integers(0, 4, (3, 2, 5)), rng.integers(0, 2, (3, 2, 5)), jnp.zeros((3, 2, 5))
    seen = jax.nn.one_hot(state, 4)
    mask = jnp.arange(5) < jnp.array([[5, 2], [3, 5], [4, 4]])[..., None]
    steps = Transition(seen, jnp.asarray(action), zeros, zeros > 1, zeros > 1, seen)
    rank, weight = jnp.array([[0, 1], [0, 0], [1, 0]]), jnp.array([1.0, 1.0, 0.5])
    return Judged(steps, mask, rank, weight, jnp.zeros(3, jnp.int32)), state


def test_the_loss_is_that_of_judgements_and_of_shares():
    """By each network's rewards, in a loop over segments; with the weight 0 it is as if there were no prior."""
    batch, state = judged()
    plain, config = reward_model.make(SPEC, SMALL), SMALL.replace(symbols="states", prior_weight=2.0)
    agent, first = reward_model.make(SPEC, config), jax.jit(plain.init)(jax.random.key(0))
    after, metrics = jax.jit(agent.update)(first, batch, jax.random.key(1))
    _, alone = jax.jit(plain.update)(first, batch, jax.random.key(1))
    np.testing.assert_allclose(metrics["loss/reward"], alone["loss/reward"], rtol=1e-6)
    rewards, _ = reward_model.networks(SPEC, config).reward(first.params, batch.transition)
    owed = np.asarray(credit.credit(jnp.asarray(state), batch.mask, batch.rank, batch.weight, 4))
    assert np.ptp(owed) > 0.05
    total = 0.0
    for m, b, g in np.ndindex(2, 3, 2):
        there = np.asarray(batch.mask[b, g])
        paid, importance = np.asarray(rewards[m, b, g])[there], owed[state[b, g]][there]
        importance = importance if paid.sum() >= 0 else 1 - importance
        off = paid - paid.sum() * importance / importance.sum()
        total += float(batch.weight[b]) * np.square(off).mean() / 6
    np.testing.assert_allclose(metrics["loss/prior"], total, rtol=1e-5)
    off, _ = jax.jit(reward_model.make(SPEC, config.replace(prior_weight=0.0)).update)(first, batch, jax.random.key(1))
    same, _ = jax.jit(plain.update)(first, batch, jax.random.key(1))
    difference = lambda a, b: max(float(jnp.abs(x - y).max()) for x, y in zip(*map(jax.tree.leaves, (a, b))))
    assert difference(off.params, same.params) < 1e-6 < 1e-5 < difference(after.params, same.params)


def test_from_few_pairs_the_reward_is_nearer_the_truth():
    """In ten worlds; nearer also than with returns shared out evenly, which is most of it."""
    found = {case: study.learned(case, 10, 20, 3.0, 100) for case in study.CASES}
    better = lambda a, b: (np.array([[1], [-1], [-1]]) * (found[a] - found[b])).mean(1)
    for case in ("Bradley & Terry", "shared evenly"):
        gain = better("prior", case)
        assert (gain > 0).all(), (case, gain)
    correlation, epic, starc = better("prior", "Bradley & Terry")
    assert correlation > 0.08 and epic > 0.04 and starc > 0.015


def test_symbols_of_ones_own_and_what_is_refused():
    batch, _ = judged()
    evenly = symbols.Symbols(1, lambda observation: jnp.zeros(observation.shape[:-1], jnp.int32))
    agent = reward_model.make(SPEC, SMALL, evenly)
    first = jax.jit(agent.init)(jax.random.key(0))
    rewards, _ = reward_model.networks(SPEC, SMALL).reward(first.params, batch.transition)
    _, metrics = jax.jit(agent.update)(first, batch, jax.random.key(1))
    spread = [
        [np.asarray(rewards[m, b, g])[np.asarray(batch.mask[b, g])].var() for b, g in np.ndindex(3, 2)] for m in (0, 1)
    ]
    expected = (np.repeat(batch.weight, 2) * np.array(spread)).mean(1).sum()
    np.testing.assert_allclose(metrics["loss/prior"], expected, rtol=1e-4)  # one symbol: the variance within segments
    with pytest.raises(UserError, match="need score=sum, .* not score=recurrent"):
        reward_model.make(SPEC, SMALL.replace(symbols="projections", score="recurrent"))
    with pytest.raises(UserError, match="no symbols 'cells'"):
        reward_model.make(SPEC, SMALL.replace(symbols="cells"))
