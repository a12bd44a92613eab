"""SMODICE and DemoDICE: their weights against density ratios and against the primal, solved by other means."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from rljax.agents.imitation import smodice
from rljax.errors import UserError
from rljax.losses import dual
from rljax.sources import Beside
from rljax.types import Continuous, Discrete, EnvSpec

SMALL = smodice.Config(
    policy_learning_rate=1e-2, value_learning_rate=1e-2, reward_learning_rate=1e-2, value_weight_decay=0.0, gamma=0.8,
    gradient_penalty=0.0, hidden=(), reward_hidden=(16,), absorbing=False, batch_size=64,
)  # fmt: skip
SPEC = EnvSpec((3,), Discrete(2))


def settled(matching, settle, config, watched):
    data = matching.occupancy(matching.other)
    shown = matching.sample(matching.occupancy(matching.expert))
    if watched:  # what was done is not known
        shown = shown.replace(transition=shown.transition.replace(action=None))
    agent = smodice.make(SPEC, config)
    state = settle(agent, Beside(matching.sample(data), shown), 1500)
    policy = np.exp([agent.log_prob(state, np.eye(3), np.full(3, a)) for a in range(2)]).T
    return state, policy, data


def weights(matching, config, state, data, reward):
    """w [S, A] by the values found, in numpy, given R."""
    v = np.asarray(smodice.networks(SPEC, config)[1].apply(state.value.params["network"], jnp.eye(3)))[:, 0]
    e = (reward + 0.8 * matching.transition @ v - v[:, None]) / config.conservatism
    if config.divergence == "kl":
        return np.exp(e) / (data * np.exp(e)).sum()
    return np.maximum(1.0 + e / 2.0, 0.0)


def test_demodices_weights_are_the_density_ratio_and_its_policy_the_experts(matching, settle):
    config = SMALL.replace(inputs="state_action")
    state, policy, data = settled(matching, settle, config, watched=False)
    ratio = matching.occupancy(matching.expert) / data
    np.testing.assert_allclose(weights(matching, config, state, data, np.log(ratio)), ratio, rtol=0.05)
    np.testing.assert_allclose(policy, matching.expert, atol=0.03)


@pytest.mark.parametrize("divergence", dual.DIVERGENCES)
def test_smodice_finds_the_primals_optimum_without_actions(divergence, matching, settle):
    """max E_d log(d_E(s) / d_O(s)) - 0.3 D(d | d_O) over d >= 0 that flow as the MDP does, by sequential quadratic programming."""
    config = SMALL.replace(divergence=divergence, conservatism=0.3)
    state, policy, data = settled(matching, settle, config, watched=True)
    reward = np.log(matching.occupancy(matching.expert).sum(1) / data.sum(1))[:, None]

    def loss(d):
        d = d.reshape(3, 2)
        apart = d * np.log(d / data) if divergence == "kl" else data * (d / data - 1.0) ** 2
        return (0.3 * apart - d * reward).sum()

    def flow(d):
        d = d.reshape(3, 2)
        return d.sum(1) - 0.2 * np.eye(3)[0] - 0.8 * np.einsum("sa,sat->t", d, matching.transition)

    best = optimize.minimize(
        loss, data.ravel(), bounds=[(1e-9, 1)] * 6, constraints={"type": "eq", "fun": flow}, options={"ftol": 1e-12}
    ).x.reshape(3, 2)
    assert np.abs(best / data - 1.0).max() > 0.2  # it is not the data's
    np.testing.assert_allclose(weights(matching, config, state, data, reward), best / data, rtol=0.05)
    np.testing.assert_allclose(policy, best / best.sum(1, keepdims=True), atol=0.03)


def test_one_episode_among_many_random_ones_is_worth_more_than_all_of_them_cloned(one_shown):
    config = SMALL.replace(
        gamma=0.95, conservatism=0.3, absorbing=True, num_updates=4, reward_hidden=(), batch_size=512
    )
    agent = smodice.make(one_shown.env.spec, config)
    state = one_shown.learn(smodice, agent, config)
    assert one_shown.value_of_cloning < 0.2  # of 0.7, what the shortest path is worth
    assert one_shown.value(one_shown.policy(agent, state)) > 0.45


def test_what_cannot_be_is_said(one_shown):
    with pytest.raises(UserError, match="There is no divergence 'chi'; .*chi_square"):
        smodice.make(SPEC, SMALL.replace(divergence="chi"))
    with pytest.raises(UserError, match="There is no inputs 'states'; nearest: state"):
        smodice.make(SPEC, SMALL.replace(inputs="states"))
    watched = one_shown.demonstrations.replace(
        transition=one_shown.demonstrations.transition.replace(action=None), next_action=None
    )
    smodice.source(one_shown.env, SMALL, one_shown.data, watched)
    with pytest.raises(UserError, match="These data hold no actions"):
        smodice.source(one_shown.env, SMALL.replace(inputs="state_action"), one_shown.data, watched)


def test_continuous_actions_are_copied_by_weight(settle, matching):
    """In both states that were seen 0.5 and -0.5 were done alike; the demonstrations did the one here and the other there."""
    spec = EnvSpec((3,), Continuous((1,)))
    data, yes = matching.sample(np.array([[0.25, 0.25], [0.25, 0.25], [0.0, 0.0]])), np.ones(1000, bool)
    shown = matching.sample(np.array([[0.5, 0.0], [0.0, 0.5], [0.0, 0.0]]))
    as_numbers = lambda sample: sample.replace(
        transition=sample.transition.replace(
            action=(0.5 - sample.transition.action)[:, None].astype(np.float32), terminated=yes
        )
    )
    agent = smodice.make(spec, SMALL.replace(inputs="state_action", absorbing=True, conservatism=0.2))
    state = settle(agent, Beside(as_numbers(data), as_numbers(shown)), 600)
    action, _, _ = agent.act(state, jnp.eye(3)[:2], (), jax.random.key(0), False)
    np.testing.assert_allclose(action[:, 0], [0.5, -0.5], atol=0.1)
