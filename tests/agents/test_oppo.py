"""OPPO: its losses by hand, who moves whom, and a policy like what was preferred, however rare."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import sources
from rljax.agents.preference import oppo
from rljax.check import check_agent
from rljax.data import dataset as dataset_lib
from rljax.data import feedback as feedback_lib
from rljax.data.feedback import Feedback
from rljax.envs import tabular
from rljax.errors import UserError
from rljax.types import Continuous, Discrete, EnvSpec, Transition

SMALL = oppo.Config(
    learning_rate=3e-3,
    code_learning_rate=3e-2,
    warmup=1.0,
    segment=4,
    size=2,
    num_layers=1,
    width=16,
    dropout=0.0,
    batch_size=16,
    num_judgements=16,
    num_updates=4,
)
GRID = tabular.gridworld(3, 3, discount=0.9)


def habits(spec, seed=0, share=0.2, count=100):
    """Episodes of four steps in which one action is done throughout: the last that there is in a `share` of them, else the first;
    and judgements that prefer the last."""
    rng = np.random.default_rng(seed)
    rare = np.repeat(np.arange(count) < share * count, 4)
    if isinstance(spec.action, Discrete):
        action = np.where(rare, spec.action.num_actions - 1, 0).astype(np.int32)
    else:
        action = np.where(rare, 0.5, -0.5)[:, None].astype(np.float32) * np.ones((1, spec.action.size), np.float32)
    seen = rng.normal(size=(4 * count, *spec.observation_shape)).astype(np.float32)
    ends = np.tile(np.arange(4) == 3, count)
    steps = Transition(seen, action, np.zeros(4 * count, np.float32), ~ends & ends, ends, seen)
    good, bad = rng.integers(0, share * count, 300), rng.integers(share * count, count, 300)
    start, rank = np.stack([good, bad], 1) * 4, np.tile([0, 1], (300, 1))
    turned = rng.random(300) < 0.5
    start[turned], rank[turned] = start[turned][:, ::-1], rank[turned][:, ::-1]
    told = Feedback(
        jnp.asarray(start), jnp.full((300, 2), 4), jnp.asarray(rank), jnp.ones(300), jnp.zeros(300, jnp.int32), 4
    )
    return dataset_lib.from_transitions(steps).replace(feedback=told)


def test_it_does_what_was_preferred_and_not_what_is_common(learn_offline):
    data = habits(GRID.spec)
    agent, state = learn_offline(oppo, SMALL, GRID, data, 60)
    check_agent(agent, GRID, oppo.source(GRID, SMALL, data))
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (50, *jnp.shape(x))), agent.memory)
    seen = jax.random.normal(jax.random.key(1), (50, *GRID.spec.observation_shape))
    action, _, _ = jax.jit(lambda state: agent.act(state, seen, memory, jax.random.key(2), False))(state)
    assert (action == GRID.spec.action.num_actions - 1).all()


@pytest.fixture(scope="module")
def one_update():
    spec = EnvSpec((3,), Continuous((2,)), episode_length=4)
    config = SMALL.replace(norm_weight=0.3, margin=0.8)
    data = habits(spec)
    judged = feedback_lib.read(data, jnp.arange(6), jax.random.key(0))
    judged = judged.replace(weight=jnp.linspace(0.5, 1.5, 6), rank=judged.rank.at[0].set(0))
    batch = sources.Beside(judged, feedback_lib.unjudged(data, jax.random.key(1), 5, 3))
    state = jax.jit(oppo.make(spec, config).init)(jax.random.key(2))
    update = jax.jit(
        lambda weight, batch: oppo.make(spec, config.replace(preference_weight=weight)).update(
            state, batch, jax.random.key(3)
        )
    )
    return spec, config, batch, state, update


def test_its_losses_by_hand(one_update):
    spec, config, batch, state, update = one_update
    new, metrics = update(0.7, batch)
    encoder, decoder = oppo.networks(spec, config)
    encode, decode = jax.jit(encoder.apply), jax.jit(decoder.apply)

    def codes(params, some):
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        found = encode(
            params["encoder"], flat(some.transition.observation), flat(some.transition.action), flat(some.mask)
        )
        return np.asarray(found).reshape(*some.mask.shape[:2], -1)

    def hinge(params, wanted):
        far = np.linalg.norm(codes(params, batch.own) - wanted, axis=-1)
        order, weight = np.asarray(batch.own.rank), np.asarray(batch.own.weight)
        losses = [0.0 if (r[0] == r[1]) else max(f[r.argmin()] - f[r.argmax()] + 0.8, 0.0) for f, r in zip(far, order)]
        return (weight * losses).mean()

    own, anywhere = (codes(state.networks.params, some) for some in batch)
    steps, mask = jax.tree.map(lambda x: x[:, 0], (batch.data.transition, batch.data.mask))
    decoded = decode(
        state.networks.params["decoder"], anywhere[:, 0], steps.observation, steps.action, steps.extras["time"], mask
    )
    np.testing.assert_allclose(metrics["loss/policy"], np.square(decoded - steps.action).mean(), rtol=1e-4)
    norms = np.linalg.norm(np.concatenate([own.reshape(-1, 2), anywhere.reshape(-1, 2)]), axis=-1)
    np.testing.assert_allclose(metrics["loss/norm"], np.square(norms - 1.0).mean(), rtol=1e-4)
    before = hinge(state.networks.params, np.asarray(state.wanted.params))
    np.testing.assert_allclose(metrics["loss/preference"], before, rtol=1e-4)
    # z* moves after the encoder, and sees it as it is then
    then = hinge(new.networks.params, np.asarray(state.wanted.params))
    np.testing.assert_allclose(metrics["loss/wanted"], then, rtol=1e-4)


def test_judgements_of_no_weight_move_what_is_wanted_alone(one_update):
    """With `preference_weight` 0 the networks do not know of judgements; z* goes by them."""
    *_, batch, _, update = one_update
    turned = batch.own.replace(rank=1 - batch.own.rank)
    one, other = (update(0.0, batch._replace(own=own))[0] for own in (batch.own, turned))
    jax.tree.map(np.testing.assert_array_equal, one.networks, other.networks)
    assert np.abs(one.wanted.params - other.wanted.params).min() > 0.0


def test_it_needs_a_time_limit():
    with pytest.raises(UserError, match="needs an environment with a time limit"):
        oppo.make(EnvSpec((3,), Discrete(2)), SMALL)
