"""The study of circular preferences: all completions, and distances that are 0 where they should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.experiments.studies import preference_games as study
from rljax.tabular import games


def test_distances_of_the_equilibrium_and_of_one_answer():
    env, tau = envs.make("tokens/rock_paper_scissors-1"), jnp.float32(0.1)
    assert (
        study.every(1).tolist() == [[1], [2], [3], [4]]
        and len(study.every(2)) == len(np.unique(study.every(2), axis=0)) == 13
    )
    reference = jnp.full(4, 0.25)
    nash = jax.jit(jax.vmap(lambda payoff: games.equilibrium(games.Game(payoff, reference, tau))))(study.payoffs(env))
    rocks = jnp.tile(jnp.array([0.01, 0.97, 0.01, 0.01]), (3, 1))
    laws = jnp.stack([jnp.tile(reference, (3, 1)), nash, rocks])
    found = jax.jit(lambda laws: study.distances(env, tau, laws))(laws)
    gap, exploitability = np.asarray(found["gap"]), np.asarray(found["exploitability"])
    assert abs(gap[1]) < 1e-5 and gap[0] > 0.05 and gap[2] > 0.2
    assert exploitability[1] == pytest.approx(float(study.at_equilibrium(env, tau)), abs=1e-5)
    payoff = np.asarray([env.payoff(state)[:, 0] for state in range(3)])[:, [3, 0, 1, 2]]  # against rocks
    mixed = np.asarray(study.payoffs(env)) @ np.array([0.01, 0.97, 0.01, 0.01])
    np.testing.assert_allclose(np.asarray(study.payoffs(env))[:, :, 1], payoff, atol=1e-6)
    assert exploitability[2] == pytest.approx(mixed.max(axis=1).mean() - 0.5, abs=1e-5)
