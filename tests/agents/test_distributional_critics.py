"""Laws under actor-critic agents: TQC's targets by hand, and one value that each critic must find."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.distributional import d4pg, dsac, tqc
from rljax.agents.offline import cql, iql
from rljax.networks import heads
from rljax.networks.policies import q_taken
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SPEC = EnvSpec((1,), Continuous((1,)))
SMALL = dict(hidden=(16, 16), gamma=0.5)


def batch(size=32):
    """Of each of eight actions four steps: rewards of 0 or 2, after which it ends or goes on to where all is the same."""
    index = jnp.arange(size)
    action = jnp.linspace(-1.0, 1.0, size // 4).repeat(4)[:, None]
    ended = index % 2 == 0
    reward = jnp.where(index % 4 < 2, 2.0, 0.0)
    steps = Transition(jnp.ones((size, 1)), action, reward, ended, ended & False, jnp.ones((size, 1)))
    return Sample(steps, 0.5 * (1.0 - ended), jnp.ones(size), index)


def test_truncated_laws_by_hand():
    laws = heads.Law(jnp.array([[1.0, 5.0, 3.0], [9.0, 2.0, 4.0]]), jnp.full((2, 3), 1 / 3))
    atoms, probs = heads.truncated(laws, 1)
    np.testing.assert_allclose(atoms, [1.0, 2.0, 3.0, 4.0])
    np.testing.assert_allclose(probs, 0.25)
    np.testing.assert_allclose(heads.truncated(laws, 0).atoms, [1.0, 2.0, 3.0, 4.0, 5.0, 9.0])
    np.testing.assert_allclose(heads.lowest(laws).atoms, [1.0, 5.0, 3.0])


@pytest.mark.parametrize(
    "module, changes",
    [
        (
            tqc,
            dict(
                num_dropped=0,
                huber_delta=0.0,
                initial_temperature=1e-6,
                learn_temperature=False,
                critic_learning_rate=3e-3,
            ),
        ),
        (dsac, dict(huber_delta=0.0, initial_temperature=1e-6, learn_temperature=False, critic_learning_rate=3e-3)),
        (d4pg, dict(critic_learning_rate=3e-3, lowest_return=-1.0, highest_return=5.0)),
        (iql, dict(head="quantile", num_atoms=16, huber_delta=0.0, lean=0.5, learning_rate=3e-3)),
    ],
    ids=["tqc", "dsac", "d4pg", "iql"],
)
def test_a_critic_s_law_has_the_right_mean(module, changes):
    """Q = 1 + 0.5 / 2 Q: 4/3 for all actions. With kappa above 0 the mean of quantiles is another one."""
    config = module.Config(**SMALL, **changes, target_rate=0.05)
    agent = module.make(SPEC, config)
    step = lambda state, key: (agent.update(state, batch(), key)[0], ())
    keys = jax.random.split(jax.random.key(1), 1_500)
    state = jax.jit(lambda keys: jax.lax.scan(step, agent.init(keys[0]), keys)[0])(keys)
    networks = {tqc: tqc.sac, dsac: dsac.sac, d4pg: d4pg.td3, iql: iql}[module].networks(SPEC, config)
    q = q_taken(networks[-1], SPEC, state.critic.params, jnp.ones((5, 1)), jnp.zeros((5, 1)), heads.of(config))
    np.testing.assert_allclose(q, 4 / 3, atol=0.15)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="num_dropped=25 must be from 0 to 24"):
        tqc.make(SPEC, tqc.Config(num_dropped=25))
    with pytest.raises(ValueError, match="head='categorical' must be"):
        tqc.make(SPEC, tqc.Config(head="categorical"))
    with pytest.raises(ValueError, match="Soft critics of discrete actions learn means alone"):
        dsac.make(EnvSpec((1,), Discrete(2)), dsac.Config())
    with pytest.raises(ValueError, match="The head 'implicit' asks its network for levels"):
        iql.make(SPEC, iql.Config(head="implicit"))
    with pytest.raises(ValueError, match="CQL of discrete actions learns means alone"):
        cql.make(EnvSpec((1,), Discrete(2)), cql.Config(head="quantile"))
