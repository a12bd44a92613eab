"""ReCOIL: its inner optimum against the ratio of the two mixtures, its loss by hand, and one episode among many random ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.imitation import recoil
from rljax.agents.offline import awac
from rljax.data import dataset as dataset_lib
from rljax.errors import UserError
from rljax.types import Continuous, Discrete, EnvSpec

SMALL = recoil.Config(
    policy_learning_rate=0.0, critic_learning_rate=1e-2, gamma=0.8, target_rate=0.05, hidden=(), num_critics=1, batch_size=64,
    target_network=False,
)  # fmt: skip
SPEC = EnvSpec((3,), Discrete(2))


def both(matching):
    """Demonstrations and the dataset, one after the other."""
    halves = [
        matching.sample(matching.occupancy(policy), demonstrated=np.full(1000, shown, np.float32))
        for policy, shown in ((matching.expert, 1.0), (matching.other, 0.0))
    ]
    return jax.tree.map(lambda *x: np.concatenate(x), *halves)


@pytest.mark.parametrize("values_of", recoil.VALUES_OF)
def test_where_q_is_best_it_tells_the_ratio_of_the_mixtures(values_of, matching, settle):
    """1 + y / 2 = (beta d_pi + (1 - beta) d_S) / (beta d_E + (1 - beta) d_S), for the policy that there is."""
    config = SMALL.replace(values_of=values_of, mixture=0.7)
    agent = recoil.make(SPEC, config)
    state = settle(agent, both(matching), 1500)
    policy = np.exp([agent.log_prob(state, np.eye(3), np.full(3, a)) for a in range(2)]).T
    q = np.asarray(awac.networks(SPEC, config)[1].apply(state.critic.params, jnp.eye(3)))[0]
    y = 0.8 * matching.transition @ (policy * q).sum(1) - q
    mixed = lambda policy: 0.7 * matching.occupancy(policy) + 0.3 * matching.occupancy(matching.other)
    ratio = mixed(policy) / mixed(matching.expert)
    assert np.ptp(ratio) > 0.5
    np.testing.assert_allclose(1.0 + y / 2.0, ratio, atol=0.04)


@pytest.mark.parametrize("values_of, target_network", [("all", True), ("demonstrations", True), ("all", False)])
def test_the_loss_by_hand(values_of, target_network, matching):
    """Two critics; with a target network the square has the lower of its values, and the rest the critic's own."""
    config = SMALL.replace(values_of=values_of, target_network=target_network, mixture=0.6, num_critics=2, hidden=(8,))
    agent = recoil.make(SPEC, config)
    state = agent.init(jax.random.key(0))._replace(target_critic=agent.init(jax.random.key(1)).critic.params)
    batch = both(matching)
    ended = np.arange(2000) % 7 == 0
    batch = batch.replace(discount=np.float32(0.8 * ~ended))
    steps, shown = batch.transition, np.arange(2000) < 1000
    policy, critic = awac.networks(SPEC, config)
    probs = lambda at: np.float64(policy.apply(state.policy.params, at).probs)
    value = lambda params, at: (probs(at) * np.float64(critic.apply(params, at))).sum(-1)
    q = np.float64(critic.apply(state.critic.params, steps.observation))[:, np.arange(2000), steps.action]
    v = value(state.critic.params, steps.observation)
    later = batch.discount * value(state.critic.params, steps.next_observation)
    aim = batch.discount * value(state.target_critic, steps.next_observation).min(0) if target_network else later
    over_both = lambda x: 0.6 * x[:, shown].mean() + 0.4 * x[:, ~shown].mean()
    lowered = over_both(v - later) if values_of == "all" else (v - later)[:, shown].mean()
    expected = 0.6 * (lowered + (later - q)[:, shown].mean()) + 0.25 * over_both((aim - q) ** 2)
    _, metrics = jax.jit(agent.update)(state, batch, jax.random.key(2))
    assert float(metrics["loss/critic"]) == pytest.approx(expected, rel=1e-4)


def test_one_episode_among_many_random_ones_is_worth_more_than_all_of_them_cloned(one_shown):
    config = SMALL.replace(
        policy_learning_rate=1e-2, gamma=0.95, num_updates=4, target_network=True, inverse_temperature=10.0
    )
    agent = recoil.make(one_shown.env.spec, config)
    state = one_shown.learn(recoil, agent, config)
    assert one_shown.value_of_cloning < 0.2  # of 0.7, what the shortest path is worth
    assert one_shown.value(one_shown.policy(agent, state)) > 0.5


def test_half_of_each_batch_is_demonstrated(one_shown):
    agent, source = (
        recoil.make(one_shown.env.spec, SMALL),
        recoil.source(one_shown.env, SMALL, one_shown.data, one_shown.demonstrations),
    )
    _, batch, _ = source.next((source.init(agent, jax.random.key(0))), agent, None, jax.random.key(1))
    shown = batch.transition.extras["demonstrated"]
    np.testing.assert_array_equal(shown.sum(-1), np.full(SMALL.num_updates, 32))
    state = np.asarray(batch.transition.observation.argmax(-1))
    assert (
        np.isin(state[np.asarray(shown) > 0], [0, 1, 2, 3, 4, 9, 14, 19]).all()
        and not np.isin(state, [0, 1, 2, 3, 4, 9, 14, 19]).all()
    )


def test_continuous_actions_follow_what_was_demonstrated(settle, matching):
    spec = EnvSpec((3,), Continuous((1,)))
    rng = np.random.default_rng(0)
    batch = both(matching)
    shown = batch.transition.extras["demonstrated"][:, None] > 0
    action = np.where(shown, 0.5, rng.uniform(-1, 1, (2000, 1))).astype(np.float32)
    batch = batch.replace(
        transition=batch.transition.replace(action=action, terminated=np.ones(2000, bool)),
        discount=np.zeros(2000, np.float32),
    )
    config = SMALL.replace(policy_learning_rate=1e-2, critic_learning_rate=3e-3, hidden=(32,), inverse_temperature=3.0)
    agent = recoil.make(spec, config)
    state = settle(agent, batch, 400)
    action, _, _ = agent.act(state, jnp.eye(3), (), jax.random.key(0), False)
    np.testing.assert_allclose(action[:, 0], 0.5, atol=0.1)


def test_what_cannot_be_is_said(one_shown):
    with pytest.raises(UserError, match="There is no values_of 'al'; nearest: all"):
        recoil.make(SPEC, SMALL.replace(values_of="al"))
    watched = dataset_lib.from_transitions(one_shown.demonstrations.transition.replace(action=None))
    with pytest.raises(UserError, match="These data hold no actions"):
        recoil.source(one_shown.env, SMALL, one_shown.data, watched)
