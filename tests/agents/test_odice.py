"""ODICE against exact answers: its fixed points where they can be computed, and its gradient part by part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.offline import odice
from rljax.data import dataset as dataset_lib
from rljax.envs import probes, tabular
from rljax.errors import UserError
from rljax.losses.implicit import chi_square_loss, chi_square_weight
from rljax.types import Discrete, EnvSpec
from rljax.updates import orthogonal_part

SMALL = odice.Config(
    policy_learning_rate=3e-3, value_learning_rate=3e-3, gamma=0.9, target_rate=0.05, hidden=(32,), batch_size=64,
    num_updates=4, layer_norm=False,
)  # fmt: skip
GRID = tabular.gridworld(3, 3, discount=0.9)


def values(env, config, state, observation):
    return odice.networks(env.spec, config)[1].apply(state.value.params, observation)[:, 0]


@pytest.mark.parametrize(
    "env, observation, value",
    [
        (probes.ObservationReward(), [-1.0, 1.0], [-1.0, 1.0]),
        (probes.TwoStepCredit(), [0.0, 1.0], [0.9, 1.0]),
        (probes.TimeLimit(), [0.0], [10.0]),
    ],
    ids=lambda x: type(x).__name__,
)
def test_values_where_there_is_one_action(env, observation, value, random_data, learn_offline):
    """With Lambda 1/2 and half gradients (f*)' must be 1 everywhere: V solves Bellman's equation."""
    config = SMALL.replace(lean=0.5, gradient="semi", value_learning_rate=1e-2)
    _, state = learn_offline(odice, config, env, random_data(env), 1500)
    v = values(env, config, state, jnp.array(observation)[:, None])
    np.testing.assert_allclose(v, value, atol=0.05 * max(np.abs(value)))


def test_the_true_gradient_finds_the_minimum_of_the_dual(random_data, learn_offline):
    """A value for each state (a linear network on one-hot states), against gradient descent in float64 on the whole dataset."""
    config = SMALL.replace(gradient="true", hidden=(), target_rate=1.0, batch_size=512, value_learning_rate=1e-2)
    data = random_data(GRID, 32, 64)
    _, state = learn_offline(odice, config, GRID, data, 1500)
    steps = jax.tree.map(np.asarray, data.transition)
    here, there = steps.observation.astype(float), steps.next_observation * 0.9 * (1.0 - steps.terminated)[:, None]
    exact = np.zeros(9)
    for _ in range(20_000):
        weight = np.maximum(1.0 + 0.5 * (steps.reward + there @ exact - here @ exact), 0.0)
        exact -= 0.5 * (0.4 * here + 0.6 * weight[:, None] * (there - here)).mean(0)
    visited = here.sum(0) > 0
    np.testing.assert_allclose(values(GRID, config, state, jnp.eye(9))[visited], exact[visited], atol=0.1)


def test_the_backward_gradient_is_kept_where_it_does_not_pull_against_the_forward_one():
    forward, backward = (
        {"a": jnp.array([1.0, 2.0]), "b": jnp.array(2.0)},
        {"a": jnp.array([3.0, 0.0]), "b": jnp.array(-1.0)},
    )
    left = orthogonal_part(backward, forward)
    flat = lambda tree: np.concatenate([np.ravel(tree["a"]), np.ravel(tree["b"])])
    np.testing.assert_allclose(flat(left), [3.0 - 1.0 / 9.0, -2.0 / 9.0, -1.0 - 2.0 / 9.0], rtol=1e-6)
    assert abs(flat(left) @ flat(forward)) < 1e-6
    jax.tree.map(
        np.testing.assert_array_equal, orthogonal_part(backward, jax.tree.map(jnp.zeros_like, forward)), backward
    )


def test_updates_move_along_the_gradient_that_was_asked_for(random_data):
    """Adam's first moment after one update is a tenth of the gradient; it is compared with one put together here."""
    data = dataset_lib.read(random_data(GRID, 4, 16), jnp.arange(64), 0.9)
    _, network = odice.networks(GRID.spec, SMALL)
    steps = data.transition
    v = lambda params, observation: network.apply(params, observation)[:, 0]
    difference = lambda here, there: (
        steps.reward + data.discount * v(there, steps.next_observation) - v(here, steps.observation)
    )
    conjugate = lambda x: jax.vmap(lambda d: chi_square_loss(d, 1.0))(x).mean()
    moments = {}
    for gradient in odice.GRADIENTS:
        agent = odice.make(GRID.spec, SMALL.replace(gradient=gradient, backward=0.5))
        state = agent.init(jax.random.key(0))
        moments[gradient] = jax.jit(agent.update)(state, data, jax.random.key(1))[0].value.opt_state[0].mu
    params = state.value.params
    first = jax.grad(lambda p: 0.4 * v(p, steps.observation).mean())(params)
    forward = jax.grad(lambda p: 0.6 * conjugate(difference(p, params)))(params)
    backward = jax.grad(lambda p: 0.6 * conjugate(difference(params, p)))(params)
    for gradient, back in (
        ("semi", jax.tree.map(jnp.zeros_like, backward)),
        ("true", backward),
        ("orthogonal", orthogonal_part(backward, forward)),
    ):
        expected = jax.tree.map(lambda a, b, c: 0.1 * (a + b + 0.5 * c), first, forward, back)
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), moments[gradient], expected)


def test_the_weight_is_the_slope_of_the_conjugate():
    for d in (-5.0, -1.0, 0.0, 3.0):
        slope = jax.grad(chi_square_loss)(jnp.float32(d), 1.0)
        assert float(chi_square_weight(jnp.float32(d), 100.0)) == pytest.approx(float(slope), abs=1e-6)
    assert float(chi_square_weight(jnp.float32(1e3), 100.0)) == 100.0


@pytest.mark.parametrize("gradient", odice.GRADIENTS)
def test_policy_follows_the_observation(gradient, random_data, learn_offline):
    env = probes.ObservationActionReward()
    agent, state = learn_offline(odice, SMALL.replace(gradient=gradient), env, random_data(env), 300)
    action, _, _ = agent.act(state, jnp.array([[-1.0], [1.0]]), (), jax.random.key(0), False)
    assert action.tolist() == [0, 1]


def test_an_unknown_gradient_is_one_sentence():
    with pytest.raises(UserError, match="Unknown gradient 'ortho'; .*orthogonal"):
        odice.make(EnvSpec((3,), Discrete(2)), SMALL.replace(gradient="ortho"))
