"""The model against linear-normal dynamics that are known, its bookkeeping by numpy, and rollouts in models made by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.networks import dynamics
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SPEC = EnvSpec((2,), Continuous((1,)))
SMALL = dynamics.Config(model_learning_rate=3e-3, num_members=3, num_elites=2, model_hidden=(32,), weight_decay=0.0)
MODEL = dynamics.make(SPEC, SMALL)
LEARN = jax.jit(MODEL.learn)
CHANGE = np.array([[0.3, -0.2], [0.1, -0.4], [2.0, 0.5]])  # of (o1, o2, a) on the change of o
NOISE, PAID, PAID_NOISE = np.array([0.1, 0.5]), np.array([50.0, -20.0, 10.0]), 5.0


def data(size=4000, seed=0, ends=True):
    """Linear changes and rewards with normal noise, far apart in scale; a step ends where o1 is above 1."""
    rng = np.random.default_rng(seed)
    observation, action = rng.normal(size=(size, 2)), rng.uniform(-1.0, 1.0, (size, 1))
    seen = np.concatenate([observation, action], axis=1)
    following = observation + seen @ CHANGE + NOISE * rng.normal(size=(size, 2))
    reward = seen @ PAID + PAID_NOISE * rng.normal(size=size)
    terminated = (observation[:, 0] > 1.0) & ends
    steps = Transition(observation, action, reward, terminated, np.zeros(size, bool), following)
    steps = jax.tree.map(lambda x: jnp.float32(x) if x.dtype == np.float64 else jnp.asarray(x), steps)
    return Sample(steps, 1.0 - steps.terminated, jnp.ones(size), jnp.arange(size))


@jax.jit
def learned(batch, updates):
    """The model after so many updates on batches of 256 of these steps, and the loss of the last."""
    size = batch.slot.shape[0]

    def step(i, carry):
        state, _ = carry
        rows = jax.random.randint(jax.random.fold_in(jax.random.key(1), i), (256,), 0, size)
        return MODEL.learn(state, jax.tree.map(lambda x: x[rows], batch))

    state = MODEL.init(jax.random.key(0))
    return jax.lax.fori_loop(0, updates, step, (state, {"loss/model": jnp.float32(0.0)}))


@pytest.fixture(scope="module")
def model():
    return learned(data(), 2000)[0]


def test_recovers_linear_normal_dynamics_and_their_noise(model):
    """Changes, rewards, both noises and where episodes end, in the units of the data, at points that were not learned from."""
    fresh = data(500, seed=1).transition
    found = jax.tree.map(np.asarray, jax.jit(MODEL.predict)(model, fresh.observation, fresh.action))
    seen = np.concatenate([fresh.observation, fresh.action], axis=1)
    near = np.abs(seen[:, :2]).max(axis=1) < 1.5
    np.testing.assert_allclose(found.mean[:, near, :2], np.broadcast_to(seen @ CHANGE, (3, 500, 2))[:, near], atol=0.25)
    error = found.mean[..., :2] - seen @ CHANGE
    assert (np.sqrt(np.square(error[:, near]).mean(axis=(0, 1))) < [0.04, 0.1]).all()
    assert np.sqrt(np.square(found.mean[..., 2] - seen @ PAID)[:, near].mean()) < 1.5
    np.testing.assert_allclose(found.std[:, near].mean(axis=1), np.tile([*NOISE, PAID_NOISE], (3, 1)), rtol=0.15)
    sure = near & (np.abs(seen[:, 0] - 1.0) > 0.2)
    np.testing.assert_array_equal(found.ended[:, sure] > 0.5, np.broadcast_to(seen[sure, 0] > 1.0, (3, sure.sum())))


def test_steps_are_drawn_from_the_elites_laws_alone(model):
    """Moments of many draws at one point; a member whose error is largest is never drawn from, but its uncertainty counts."""
    params = model.network.params
    bias = params["params"]["VmapFeedForward_0"]["Dense_0"]["bias"]
    assert bias.shape == (3, 7)
    off = jax.tree.map(lambda x: x, params)
    off["params"]["VmapFeedForward_0"]["Dense_0"]["bias"] = bias.at[0, 0].add(
        1000.0
    )  # the first believes in a far leap
    state = model._replace(network=model.network._replace(params=off), error=jnp.array([3.0, 1.0, 2.0]))
    np.testing.assert_array_equal(MODEL.elites(state), [1, 2])
    one = jnp.array([[0.2, -0.3]]), jnp.array([[0.4]])
    many = [jnp.repeat(x, 5000, 0) for x in one]
    steps = jax.jit(MODEL.step)(state, *many, jax.random.key(3))
    found = jax.tree.map(lambda x: np.float64(x[1:, 0]), MODEL.predict(state, *one))
    drawn = np.concatenate([steps.next_observation - many[0], steps.reward[:, None]], axis=1)
    mean = found.mean.mean(axis=0)
    std = np.sqrt(np.square(found.std).mean(axis=0) + found.mean.var(axis=0))
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=4.0 * std.max() / np.sqrt(5000))
    np.testing.assert_allclose(drawn.std(axis=0), std, rtol=0.05)
    assert steps.extras["deviation"][0] > 100.0


def test_actions_are_told_to_the_model_as_the_environment_takes_them(model):
    here = jnp.zeros((2, 2))
    found = MODEL.predict(model, here, jnp.array([[1.0], [7.0]]))
    np.testing.assert_array_equal(found.mean[:, 0], found.mean[:, 1])


def test_data_that_never_terminate_never_terminate_in_the_model():
    state, _ = learned(data(ends=False), 5)
    found = MODEL.predict(state, 5.0 * jnp.ones((4, 2)), jnp.ones((4, 1)))
    assert (found.ended == 0.0).all() and (
        MODEL.predict(learned(data(), 5)[0], jnp.ones((4, 2)), jnp.ones((4, 1))).ended > 0
    ).all()


def test_bookkeeping_of_an_update():
    """A tenth of the rows is held out and the others are counted as a Poisson law of mean 1 says, the same each time."""
    out, counts = dynamics.split_and_counts(jnp.uint32(5), jnp.arange(20_000), 0.1, 3)
    again, same = dynamics.split_and_counts(jnp.uint32(5), jnp.arange(20_000)[::-1], 0.1, 3)
    np.testing.assert_array_equal(out, again[::-1])
    np.testing.assert_array_equal(counts, same[:, ::-1])
    other, _ = dynamics.split_and_counts(jnp.uint32(6), jnp.arange(20_000), 0.1, 3)
    assert abs((out & other).mean() - 0.01) < 0.003  # another salt, another split
    np.testing.assert_allclose(out.mean(), 0.1, atol=0.01)
    assert (counts[:, out] == 0.0).all()
    share = (np.asarray(counts)[:, ~np.asarray(out), None] == np.arange(4)).mean(axis=1)
    np.testing.assert_allclose(share, np.tile(np.exp(-1.0) / np.array([1.0, 1.0, 2.0, 6.0]), (3, 1)), atol=0.012)
    assert np.abs(np.corrcoef(counts[:, ~out]) - np.eye(3)).max() < 0.03


def test_loss_and_errors_of_the_first_update_by_numpy():
    batch = data(64)
    before = MODEL.init(jax.random.key(0))
    after, metrics = LEARN(before, batch)
    steps = jax.tree.map(np.float64, batch.transition)
    seen = np.concatenate([steps.observation, steps.action], axis=1)
    target = np.concatenate([steps.next_observation - steps.observation, steps.reward[:, None]], axis=1)
    standard = lambda x: (x - x.mean(axis=0)) / x.std(axis=0)
    network = dynamics.Ensemble(3, 3, (32,))
    mean, log_variance, logit = (
        np.float64(x) for x in network.apply(before.network.params, jnp.float32(standard(seen)))
    )
    out, counts = (np.asarray(x) for x in dynamics.split_and_counts(before.salt, batch.slot, SMALL.held_out, 3))
    assert 0 < out.sum() < 32
    square = np.square(mean - standard(target))
    each = (
        (square * np.exp(-log_variance) + log_variance).mean(axis=-1)
        + np.log1p(np.exp(logit))
        - logit * steps.terminated
    )
    expected = ((counts * each).sum(axis=1) / counts.sum(axis=1)).mean()
    np.testing.assert_allclose(metrics["loss/model"], expected, rtol=1e-4)
    np.testing.assert_allclose(after.error, square.mean(axis=-1)[:, out].mean(axis=1), rtol=1e-4)
    np.testing.assert_allclose(after.targets.mean, target.mean(axis=0), rtol=1e-4)
    assert after.terminations == steps.terminated.sum() and after.updates == 1


def test_held_out_rows_teach_nothing():
    batch = data(64)
    state = MODEL.init(jax.random.key(0))
    out, _ = dynamics.split_and_counts(state.salt, batch.slot, SMALL.held_out, 3)
    # a swap of two of them keeps the statistics of the whole
    first, second = np.flatnonzero(out)[:2]
    swapped = batch.transition.replace(
        reward=batch.transition.reward.at[jnp.array([first, second])].set(
            batch.transition.reward[jnp.array([second, first])]
        )
    )
    a, _ = LEARN(state, batch)
    b, _ = LEARN(state, batch.replace(transition=swapped))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a.network.params, b.network.params)
    assert (a.error != b.error).all()


# --- Rollouts -----------------------------------------------------------------------------------------------------------


def test_rollouts_never_go_on_past_a_termination():
    """Counting from where it begins, a step adds one, and at 3 it ends: then the rollout begins anew where it began."""

    def step(observation, action, key):
        count = observation.shape[0]
        following = observation + action
        ends = following[:, 0] >= 3.0
        return Transition(observation, action, following[:, 0], ends, jnp.zeros(count, bool), following)

    act = lambda observation, key: jnp.ones_like(observation)
    start = jnp.array([[0.0], [2.0], [-9.0]])
    steps = dynamics.imagine(step, act, start, 5, jax.random.key(0))
    np.testing.assert_array_equal(
        steps.observation[..., 0], np.transpose([[0, 1, 2, 0, 1], [2] * 5, [-9, -8, -7, -6, -5]])
    )
    np.testing.assert_array_equal(steps.terminated, np.transpose([[0, 0, 1, 0, 0], [1] * 5, [0] * 5]).astype(bool))
    np.testing.assert_array_equal(steps.next_observation[..., 0], np.asarray(steps.observation[..., 0]) + 1.0)
    np.testing.assert_array_equal(steps.truncated[-1], [True, False, True])
    assert not steps.truncated[:-1].any()


def test_what_cannot_be_foretold_is_one_sentence():
    with pytest.raises(UserError, match=r"observations that are vectors, not of shape \(4, 4, 1\)."):
        dynamics.make(EnvSpec((4, 4, 1), Discrete(2)), SMALL)
    with pytest.raises(UserError, match="num_elites=4 must be at most num_members=3."):
        dynamics.make(SPEC, SMALL.replace(num_elites=4))
