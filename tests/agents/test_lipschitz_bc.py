"""Cloning under a bound on steepness: its loss by hand, bounds that hold, the best policy under them, what they are good for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.offline import lipschitz_bc
from rljax.data import dataset as dataset_lib
from rljax.envs import probes
from rljax.errors import UserError
from rljax.experiments.studies import lipschitz as study
from rljax.types import Continuous, Discrete, EnvSpec, Model, Sample, Transition

SPEC = EnvSpec((1,), Continuous((1,)), 1)
SMALL = study.SMALL


def sample(observation, action):
    size = len(observation)
    nothing = jnp.zeros(size)
    steps = Transition(observation, action, nothing, nothing > 1, nothing > 1, observation)
    return Sample(steps, nothing, jnp.arange(1.0, size + 1), jnp.arange(size))


def line(slope, size=64):
    """Demonstrations of one step whose action is `slope` times what is seen, on a grid around 0."""
    seen = np.linspace(-0.3, 0.3, size, dtype=np.float32)[:, None]
    yes = np.ones(size, bool)
    steps = Transition(seen, np.float32(slope) * seen, np.zeros(size, np.float32), yes, ~yes, seen)
    return dataset_lib.from_transitions(steps), seen


@pytest.mark.parametrize("by_construction", [False, True])
def test_an_update_by_hand(by_construction):
    """Squared errors by weight, and the steepest pair of the batch at the price of the multiplier, which rises by the excess."""
    spec, rng = EnvSpec((3,), Continuous((2,))), np.random.default_rng(0)
    config = SMALL.replace(bound=0.2, hidden=(4,), by_construction=by_construction, multiplier_learning_rate=0.5)
    agent = lipschitz_bc.make(spec, config)
    state = jax.jit(agent.init)(jax.random.key(0))._replace(multiplier=jnp.float32(0.7))
    seen, action = (rng.uniform(-1, 1, (5, n)).astype(np.float32) for n in (3, 2))
    seen[4] = seen[3]  # the same state twice is no pair
    after, metrics = jax.jit(agent.update)(state, sample(seen, action), jax.random.key(1))

    layers = jax.tree.map(np.float64, state.policy.params["params"])
    first, last = layers["Torso_1"]["Dense_0"], layers["Dense_0"]
    scale = lambda kernel: np.linalg.svd(kernel)[1][0] if by_construction else 1.0
    hidden = seen @ (first["kernel"] / scale(first["kernel"])) + first["bias"]
    hidden = np.sort(hidden.reshape(5, 2, 2)).reshape(5, 4)
    output = hidden @ (last["kernel"] / scale(last["kernel"])) + last["bias"]
    output = 0.2 * output if by_construction else output
    error = (np.arange(1, 6) * np.square(output - action).sum(1)).mean()
    slopes = [
        np.linalg.norm(output[i] - output[j]) / np.linalg.norm(seen[i] - seen[j]) for i in range(4) for j in range(i)
    ]
    np.testing.assert_allclose(metrics["loss/policy"], error, rtol=1e-5)
    np.testing.assert_allclose(metrics["policy/steepest"], max(slopes), rtol=1e-4)
    expected = 0.7 if by_construction else 0.7 + 0.5 * (max(slopes) - 0.2)
    np.testing.assert_allclose(after.multiplier, expected, rtol=1e-5)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(after.policy.params))


def test_the_multiplier_falls_where_the_bound_is_kept_but_not_below_zero():
    agent = lipschitz_bc.make(SPEC, SMALL.replace(bound=100.0, multiplier_learning_rate=1e-3))
    state = jax.jit(agent.init)(jax.random.key(0))._replace(multiplier=jnp.float32(0.15))
    batch = sample(jnp.array([[0.0], [1.0]]), jnp.zeros((2, 1)))
    update = jax.jit(agent.update)
    once, metrics = update(state, batch, jax.random.key(1))
    np.testing.assert_allclose(once.multiplier, 0.15 + 1e-3 * (metrics["policy/steepest"] - 100.0), rtol=1e-5)
    assert 0.0 < float(once.multiplier) < 0.06
    assert float(update(once, batch, jax.random.key(2))[0].multiplier) == 0.0


@pytest.mark.parametrize("by_construction", [False, True])
def test_the_best_policy_under_the_bound_is_found(by_construction, learn_offline):
    """Data on a line of slope 3: under a bound of 1 the line of slope 1 is best, under 4 the data's own."""
    data, seen = line(3.0)
    env = probes.ObservationActionReward(continuous=True)
    for bound, slope in ((1.0, 1.0), (4.0, 3.0)):
        config = SMALL.replace(bound=bound, by_construction=by_construction)
        agent, state = learn_offline(lipschitz_bc, config, env, data, 700)
        action, _, _ = agent.act(state, seen, (), jax.random.key(0))
        np.testing.assert_allclose(action, slope * seen, atol=0.04)
        assert float(np.abs(np.diff(action, axis=0) / np.diff(seen, axis=0)).max()) <= bound * (
            1.001 if by_construction else 1.3
        )
        assert (float(state.multiplier) > 0.02) == (bound == 1.0 and not by_construction)


@pytest.mark.parametrize("activation", ["group_sort", "relu", "tanh", "elu"])
def test_by_construction_no_parameters_break_the_bound(activation):
    """Whatever the parameters, no change of 0.1 in what is seen moves the action by more than the bound allows."""
    spec = EnvSpec((3,), Continuous((2,), low=-100.0, high=100.0))
    config = SMALL.replace(bound=5.0, by_construction=True, activation=activation)
    agent = lipschitz_bc.make(spec, config)
    state = jax.jit(agent.init)(jax.random.key(0))
    wild = jax.tree.map(lambda x: 10.0 * jax.random.normal(jax.random.key(1), x.shape), state.policy.params)
    state = state._replace(policy=Model(wild, state.policy.opt_state))
    seen, push = jax.random.normal(jax.random.key(2), (2, 4000, 3))
    push = 0.1 * push / jnp.linalg.norm(push, axis=-1, keepdims=True)
    act = lambda seen: agent.act(state, seen, (), jax.random.key(0))[0]
    moved = jnp.linalg.norm(act(seen + push) - act(seen), axis=-1)
    assert 0.0 < float(moved.max()) <= 5.0 * 0.1 * 1.001
    slopes = jnp.linalg.norm(jax.vmap(jax.jacobian(lambda x: act(x[None])[0]))(seen), 2, axis=(-2, -1))
    assert float(slopes.max()) <= 5.0 * 1.001


def test_a_bound_trades_what_is_followed_for_what_is_withstood():
    """A few noisy demonstrations of an optimal controller of steepness 2, five seeds: in closed loop a bound of 1.5 follows it
    better than one of 0.25, which cannot, and one of 16, which learns the noise; a sensor that always errs by 0.1 in the worst
    direction does less harm under it than under 16."""
    error, harm = (x.mean(0) for x in study.errors_by_bound(jnp.array([0.25, 1.5, 16.0]), 5))
    assert error[1] < 0.5 * error[0] and error[1] < 0.5 * error[2]
    assert harm[1] < 0.5 * harm[2]


def test_what_it_cannot_do_is_said():
    with pytest.raises(UserError, match="continuous actions and vectors"):
        lipschitz_bc.make(EnvSpec((3,), Discrete(2)))
    with pytest.raises(UserError, match="continuous actions and vectors"):
        lipschitz_bc.make(EnvSpec((3, 3), Continuous((1,))))
    with pytest.raises(UserError, match="'gelu' stretches; one of: relu"):
        lipschitz_bc.make(SPEC, SMALL.replace(by_construction=True, activation="gelu"))
    agent = lipschitz_bc.make(SPEC, SMALL.replace(hidden=(5,)))
    with pytest.raises(UserError, match="must be even, not of 5 units"):
        agent.init(jax.random.key(0))
