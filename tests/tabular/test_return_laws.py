"""Laws of returns by dynamic programming: exact means, an exact law, and where control comes to rest."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.envs import tabular
from rljax.losses.distributional import wasserstein
from rljax.tabular import return_laws, solvers


def test_means_are_the_exact_values(float64):
    """Projection keeps means within the support; so under a policy and, of one step or whole, under control."""
    mdp = tabular.garnet(jax.random.key(0), num_states=6, num_actions=3, discount=0.8)
    arrays = jax.tree.map(lambda x: x.astype(jnp.float64), (mdp.transition, mdp.reward))
    arrays = (arrays[0] / arrays[0].sum(-1, keepdims=True), arrays[1], 0.8)
    support = jnp.linspace(-25.0, 25.0, 201)
    best = solvers.optimal_q(*arrays)
    policy = jax.nn.softmax(jax.random.normal(jax.random.key(1), (6, 3), jnp.float64))
    for one_step in (False, True):
        laws, moved = return_laws.iterate(*arrays, support, 120, one_step=one_step)
        np.testing.assert_allclose(laws.sum(-1), 1.0, atol=1e-9)
        np.testing.assert_allclose(laws @ support, best, atol=1e-6)
        laws, moved = return_laws.iterate(*arrays, support, 120, lambda q, i: policy, one_step)
        value = np.linalg.solve(
            np.eye(6) - 0.8 * np.einsum("sa,sat->st", policy, arrays[0]), (policy * arrays[1]).sum(-1)
        )
        np.testing.assert_allclose((policy * (laws @ support)).sum(-1), value, atol=1e-6)
        assert (np.asarray(moved[2:] / moved[1:-1])[:60] <= np.sqrt(0.8) + 1e-6).all()


def test_a_law_of_coins(float64):
    """Two fair coins, the second counted by a half: four equally likely returns, to within the support's gaps."""
    transition = np.zeros((7, 1, 7))
    transition[0, 0, 1:3] = 0.5  # the first coin, paid by where it led
    transition[1, 0, 3:5] = transition[2, 0, 3:5] = 0.5
    transition[3:, 0, 6] = 1.0
    reward = np.array([0.0, 1.0, -1.0, 0.6, -0.6, 0.0, 0.0])[:, None]
    distances = []
    for size in (21, 401):
        support = jnp.linspace(-2.0, 2.0, size)
        laws, _ = return_laws.iterate(jnp.asarray(transition), jnp.asarray(reward), 0.5, support, 5)
        # paid one step late: 0.5 (+-1 + 0.5 +-0.6)
        exact = 0.5 * jnp.array([a + 0.5 * b for a in (1.0, -1.0) for b in (0.6, -0.6)])
        distances.append(float(wasserstein(support, laws[0, 0], exact, jnp.full(4, 0.25))))
    assert distances[1] < 0.01 < distances[0] < 0.2


def test_control_rests_where_one_step_is_learned_and_not_where_all_is(float64):
    """From 0 to 1, where a sure 0 and a coin of -1 and 1 are equally good. A rule that takes them in turn leaves the means as they
    are and never lets the whole law of state 0 rest."""
    transition = np.zeros((5, 2, 5))
    transition[0, :, 1] = 1.0
    transition[1, 0, 4] = 1.0  # nothing
    transition[1, 1, 2:4] = 0.5  # the coin
    transition[2:, :, 4] = 1.0
    reward = np.array([[0.0] * 2, [0.0] * 2, [1.0] * 2, [-1.0] * 2, [0.0] * 2])
    in_turn = lambda q, i: jax.nn.one_hot(jnp.where(jnp.abs(q[:, 0] - q[:, 1]) < 1e-9, i % 2, q.argmax(-1)), 2)
    given = (jnp.asarray(transition), jnp.asarray(reward), 0.9, jnp.linspace(-1.0, 1.0, 41), 60, in_turn)
    whole, moved = return_laws.iterate(*given)
    of_one, rests = return_laws.iterate(*given, one_step=True)
    assert moved[-10:].min() > 0.3 and rests[-10:].max() < 1e-12
    for laws in (whole, of_one):
        np.testing.assert_allclose(laws[:2] @ given[3], 0.0, atol=1e-9)
