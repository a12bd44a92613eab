"""RvS does as it is asked, and reads the reward a step that was left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.sequence import rvs
from rljax.envs import make, probes
from rljax.errors import UserError
from rljax.types import Discrete, EnvSpec, Sample, Transition

SMALL = rvs.Config(learning_rate=3e-3, return_scale=1.0, hidden=(32, 32), batch_size=64, num_updates=4)


@pytest.mark.parametrize("target", [1.0, -1.0])
def test_it_does_as_it_is_asked(target, random_data, learn_offline):
    env = probes.ObservationActionReward()
    agent, state = learn_offline(rvs, SMALL.replace(target_return=target), env, random_data(env), 150)
    action, _, _ = agent.act(state, jnp.array([[-1.0], [1.0]]), (), jax.random.key(0), False)
    assert action.tolist() == ([0, 1] if target > 0 else [1, 0])


def test_what_is_left_of_the_time_limit_counts():
    """A return of 6 over the last three of ten steps is that of 20 over all ten."""
    spec = EnvSpec((1,), Discrete(2), 10)
    agent = rvs.make(spec, SMALL.replace(target_return=20.0))
    state = agent.init(jax.random.key(0))
    zeros, yes = jnp.zeros((1, 1)), jnp.ones(1, bool)
    batch = lambda to_go, time: Sample(
        Transition(zeros, jnp.zeros(1, int), jnp.zeros(1), yes, ~yes, zeros, {"return_to_go": to_go, "time": time}),
        jnp.zeros(1), jnp.ones(1), jnp.zeros(1, int),
    )  # fmt: skip
    late, early, other = (
        agent.update(state, batch(jnp.array([to_go]), jnp.array([time])), jax.random.key(1))[1]["loss/policy"]
        for to_go, time in ((6.0, 7), (20.0, 0), (6.0, 0))
    )
    assert float(late) == pytest.approx(float(early), rel=1e-6) and float(late) != pytest.approx(float(other), rel=1e-3)
    action, _, _ = jax.vmap(lambda key: agent.act(state, zeros, (), key, True))(
        jax.random.split(jax.random.key(2), 4000)
    )
    assert np.mean(np.asarray(action) == 0) == pytest.approx(np.exp(-float(early)), abs=0.03)


def test_what_it_cannot_do_is_said():
    with pytest.raises(UserError, match="time limit and vectors"):
        rvs.make(make("gymnax/Breakout-MinAtar").spec, SMALL)
