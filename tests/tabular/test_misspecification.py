"""Errors of misspecified inverse RL against numpy: none by a wrong temperature, any by a wrong discount, however little wrong."""

import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.experiments.studies.misspecification import (
    GAMMA,
    SOFT,
    errors_by_behaviour,
    errors_by_discount,
    errors_by_perturbation,
    errors_by_temperature,
    garnet,
)
from rljax.tabular import misspecification as wrong

pytestmark = pytest.mark.usefixtures("float64")


def policy_in_numpy(model, reward):
    transition, value = np.asarray(model.transition), np.zeros(len(reward))
    for _ in range(1000):
        q = reward + model.discount * transition @ value
        if model.behaviour == "causal_entropy":
            value = model.temperature * np.log(np.exp(q / model.temperature).sum(1))
        else:
            value = q.max(1)
    if model.behaviour == "optimal":
        return (q == q.max(1, keepdims=True)) / (q == q.max(1, keepdims=True)).sum(1, keepdims=True)
    chances = np.exp((q - q.max(1, keepdims=True)) / model.temperature)
    return chances / chances.sum(1, keepdims=True)


def starc_in_numpy(first, second, transition, discount):
    """Canonical by the uniform policy's value: advantages."""
    units = []
    for reward in map(np.asarray, (first, second)):
        value = np.linalg.solve(np.eye(len(reward)) - discount * transition.mean(1), reward.mean(1))
        canonical = reward + discount * transition @ value - value[:, None]
        units.append(canonical / np.linalg.norm(canonical))
    return 0.5 * np.linalg.norm(units[0] - units[1])


@pytest.mark.parametrize("behaviour", wrong.BEHAVIOURS)
def test_policies_rewards_and_errors(behaviour):
    """And what is inferred by who is right: the reward, by the distance, with any value; of an optimal demonstrator, one with the
    same policy."""
    model, reward = garnet(0, behaviour)
    policy = policy_in_numpy(model, np.asarray(reward))
    np.testing.assert_allclose(wrong.policy_of(model, reward, 1e-12), policy, atol=1e-8)
    value = jnp.asarray(np.random.default_rng(1).normal(size=8))
    found = wrong.reward_of(model, jnp.asarray(policy), value)
    np.testing.assert_allclose(policy_in_numpy(model, np.asarray(found).round(12)), policy, atol=1e-6)
    if behaviour in SOFT:
        np.testing.assert_allclose(wrong.error(model, model, reward, value, 1e-12), 0.0, atol=1e-6)
    believed = model.replace(discount=0.8)
    expected = starc_in_numpy(
        reward, wrong.reward_of(believed, jnp.asarray(policy), value), np.asarray(model.transition), GAMMA
    )
    np.testing.assert_allclose(wrong.error(model, believed, reward, value, 1e-12), expected, atol=1e-7)
    with pytest.raises(UserError, match="Unknown behaviour 'random'"):
        wrong.policy_of(model.replace(behaviour="random"), reward)


@pytest.mark.parametrize("behaviour", SOFT)
def test_a_wrong_temperature_does_no_harm(behaviour):
    errors = errors_by_temperature(behaviour, jnp.array([0.01, 0.1, 1.0, 10.0]), 3)
    np.testing.assert_allclose(errors, 0.0, atol=1e-6)


@pytest.mark.parametrize("behaviour", SOFT)
def test_a_wrong_discount_may_do_any_harm(behaviour):
    """The smallest reward is the further from the true one the more the discount is wrong. But rewards that are the same to who is
    wrong about it differ: however little it is wrong, the worst is further from the true one than an unrelated one is."""
    discounts = jnp.array([0.5, 0.8, 0.89, 0.899, GAMMA])
    smallest, worst = errors_by_discount(behaviour, discounts, 8)
    assert (np.diff(smallest.mean(0)) < 0.0).all() and smallest[:, 0].mean() > 0.05
    assert (worst[:, :4] > np.sqrt(0.5)).all()
    for errors in (smallest, worst):
        np.testing.assert_allclose(errors[:, 4], 0.0, atol=1e-5)


def test_the_smallest_reward():
    model, reward = garnet(0)
    policy = wrong.policy_of(model, reward)
    found = wrong.reward_of(model, policy, wrong.smallest_value(model, policy))
    for value in np.random.default_rng(0).normal(scale=0.1, size=(20, 8)):
        shaping = GAMMA * np.asarray(model.transition) @ value - value[:, None]
        assert jnp.linalg.norm(found + shaping) > jnp.linalg.norm(found)
        np.testing.assert_allclose(wrong.policy_of(model, found + shaping), policy, atol=1e-5)


def test_behaviours_taken_for_each_other():
    """The two soft ones for each other: an error, small. For optimal: soft policies take all actions, and nothing is learned. An
    optimal demonstrator tells of who is best alone, and taken for a soft one tells of infinite rewards."""
    errors = errors_by_behaviour(8)
    np.testing.assert_allclose(errors[:, [1, 2], [1, 2]], 0.0, atol=1e-5)
    assert (errors[:, [1, 2], [2, 1]] > 1e-3).all() and (errors[:, [1, 2], [2, 1]] < 0.25).all()
    np.testing.assert_allclose(errors[:, [1, 2], 0], 0.5, atol=1e-6)
    assert np.isnan(errors[:, 0, 1:]).all()
    assert (errors[:, 0, 0] > 0.1).all()


def test_policies_seen_a_little_wrongly():
    """Of one reward the error goes to nothing with it; but rewards that are small, whose policies are near each other, may be as
    wrong as any, however small it is: there is no bound for all rewards."""
    sizes, scales = jnp.array([1e-1, 1e-2, 1e-3, 0.0]), jnp.array([1.0, 1e-1, 1e-4])
    errors = errors_by_perturbation(sizes, scales, 8)
    np.testing.assert_allclose(errors[:, :2, 3], 0.0, atol=1e-6)
    assert (np.diff(errors, axis=2) < 0.0).all()
    assert np.median(errors[:, 0, 2]) < 0.01 and (errors[:, 1, 2] < 0.01).all()
    assert (errors[:, 2, 2] > 0.4).all()
    model, reward = garnet(0)
    policy = wrong.policy_of(model, 1e-4 * reward, 1e-9)
    assert jnp.abs(policy - policy.mean(1, keepdims=True)).max() < 1e-2
