"""Every head under DQN: its network's output by hand, and the law of a return that chance decides."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.distributional import c51, fqf, iqn, mmd_dqn, os_c51, qr_dqn, rainbow
from rljax.agents.online import dqn
from rljax.losses import distributional
from rljax.networks import heads
from rljax.types import Discrete, EnvSpec, Sample, Transition

RANGE = dict(lowest_return=-3.0, highest_return=3.0)
HEADS = {
    "c51": c51.Config(**RANGE, num_atoms=25),
    "qr_dqn": qr_dqn.Config(num_atoms=24, huber_delta=0.0),
    "iqn": iqn.Config(huber_delta=0.0),
    "fqf": fqf.Config(huber_delta=0.0),
    "mmd_dqn": mmd_dqn.Config(num_atoms=24),
    "rainbow": rainbow.Config(**RANGE, num_atoms=25),
}


SPEC = EnvSpec((1,), Discrete(2))
STEPS = [  # observation, action, reward, terminated: from [0] to [1] unpaid; there 0.5 for action 0, -2 or 2 by chance for action 1
    (0.0, 0, 0.0, False), (0.0, 0, 0.0, False), (0.0, 1, 0.0, False), (0.0, 1, 0.0, False),
    (1.0, 0, 0.5, True), (1.0, 0, 0.5, True), (1.0, 1, -2.0, True), (1.0, 1, 2.0, True),
]  # fmt: skip


def batch():
    observation, action, reward, terminated = (jnp.array(x) for x in zip(*STEPS))
    steps = Transition(observation[:, None], action, reward, terminated, terminated & False, jnp.ones((len(STEPS), 1)))
    return Sample(steps, 0.9 * (1.0 - terminated), jnp.ones(len(STEPS)), jnp.arange(len(STEPS)))


def learned(config, num_updates=1_500):
    """Laws [2, A, N] of what follows [0] and [1], with discount 0.9, from steps in just the right proportions."""
    config = config.replace(learning_rate=2e-3, target_period=10, hidden=(32, 32))
    agent = dqn.make(SPEC, config)

    def step(state, key):
        return agent.update(state, batch(), key)[0], ()

    keys = jax.random.split(jax.random.key(0), num_updates)
    state = jax.jit(lambda keys: jax.lax.scan(step, agent.init(keys[0]), keys)[0])(keys)
    return dqn.law(config, dqn.q_network(SPEC, config).apply(state.q.params, jnp.array([[0.0], [1.0]])))


def distance(law, atoms, probs):
    return float(distributional.wasserstein(*law, jnp.float32(atoms), jnp.float32(probs)))


def at(law, state, action):
    return jax.tree.map(lambda x: jnp.broadcast_to(x, law.atoms.shape)[state, action], law)


@pytest.mark.parametrize("name", HEADS)
def test_a_law_by_chance_is_learned(name):
    law = learned(HEADS[name], 6_000 if name == "fqf" else 1_500)  # proposed levels move slowly, by their learning rate
    assert distance(at(law, 1, 0), [0.5], [1.0]) < 0.1
    assert distance(at(law, 1, 1), [-2.0, 2.0], [0.5, 0.5]) < 0.25
    assert distance(at(law, 0, 0), [0.45], [1.0]) < 0.25  # it prefers what pays 0.5, which atoms share
    np.testing.assert_allclose(heads.preferred(law), [[0.45, 0.45], [0.5, 0.0]], atol=0.1)


def test_one_step_laws_keep_the_mean_alone_of_what_follows():
    """By one risky action alone: its law is kept where it is paid, and not a step before."""
    config = os_c51.Config(**RANGE, num_atoms=25, preference="wang", preference_number=2.0)  # it seeks the risk
    for one_step, spread in ((True, 0.25), (False, 1.8)):
        law = learned(config.replace(one_step=one_step))
        assert distance(at(law, 1, 1), [-2.0, 2.0], [0.5, 0.5]) < 0.1
        atoms, probs = at(law, 0, 0)
        mean = (atoms * probs).sum()
        np.testing.assert_allclose(mean, 0.0, atol=0.05)
        np.testing.assert_allclose(jnp.abs(atoms - mean) @ probs, spread, atol=0.25)


@pytest.mark.parametrize("preference, number, after", [("cvar", 0.3, 0.45), ("wang", 1.0, 0.0)])
def test_what_a_policy_prefers_is_followed(preference, number, after):
    """The risk is worth -2 by CVaR, and 2 (2 Phi(1) - 1) = 1.4 by Wang's measure with eta 1: more than 0.5."""
    law = learned(HEADS["qr_dqn"].replace(preference=preference, preference_number=number))
    worth = heads.preferred(jax.tree.map(lambda x: x[1], law), preference, number)
    np.testing.assert_allclose(worth, [0.5, -2.0 if preference == "cvar" else 1.365], atol=0.1)
    np.testing.assert_allclose(heads.preferred(law)[0], after, atol=0.1)


def test_levels_need_features():
    with pytest.raises(ValueError, match="'implicit' needs two hidden layers or more, here are 1"):
        dqn.make(SPEC, iqn.Config(hidden=(32,)))
