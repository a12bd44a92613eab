"""DPPO: its losses by hand, and the optimal actions from plentiful judgements by regret."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import sources
from rljax.agents.preference import dppo
from rljax.check import check_agent
from rljax.data import dataset as dataset_lib
from rljax.data.feedback import Feedback, Judged
from rljax.envs import tabular
from rljax.errors import UserError
from rljax.networks.policies import distance
from rljax.types import Continuous, Discrete, EnvSpec, Transition

GRID = tabular.gridworld(3, 3, discount=0.9)
SMALL = dppo.Config(
    learning_rate=3e-3, predictor_learning_rate=3e-3, hidden=(32,), width=16, num_heads=2, dropout=0.0, segment=2
)


def by_regret(pairs_of_segments, optimal_q, count=4000, seed=0):
    """Segments of two steps from anywhere, and judgements of pairs of them by their sums of optimal advantages."""
    advantage = optimal_q(GRID) - optimal_q(GRID).max(1, keepdims=True)
    steps, start, score = pairs_of_segments(advantage, count, seed)
    rank = (score < score.max(1, keepdims=True) - 1e-6).astype(np.int32)
    whole = jnp.full(start.shape, 2)
    feedback = Feedback(jnp.asarray(start), whole, jnp.asarray(rank), jnp.ones(count), jnp.zeros(count, jnp.int32), 2)
    return dataset_lib.from_transitions(steps).replace(feedback=feedback)


def test_plentiful_judgements_by_regret_give_optimal_actions(learn_offline, optimal_q, pairs_of_segments):
    data = by_regret(pairs_of_segments, optimal_q)
    agent, state = learn_offline(dppo, SMALL.replace(bias=1.0), GRID, data, 80)
    check_agent(agent, GRID, dppo.source(GRID, SMALL, data))
    q, going_on = optimal_q(GRID), ~np.asarray(GRID.terminal)
    action, _, _ = agent.act(state, jnp.eye(len(q)), (), jax.random.key(0), False)
    chosen = q[np.arange(len(q)), np.asarray(action)]
    np.testing.assert_allclose(chosen[going_on], q.max(1)[going_on], atol=1e-4)


@pytest.mark.parametrize("spec", [EnvSpec((2,), Continuous((2,))), EnvSpec((2,), Discrete(3))], ids=["box", "discrete"])
def test_its_losses_by_hand(spec):
    """The predictor's: judgements, and what differs between overlapping segments. The policy's: all pairs, as the predictor orders
    them."""
    config = SMALL.replace(segment=3, smoothness=0.7, temperature=0.2, bias=0.5)
    agent, keys = dppo.make(spec, config), iter(jax.random.split(jax.random.key(0), 9))

    def some(count):
        shape = (count, 2, 3)
        if isinstance(spec.action, Continuous):
            action = jax.random.uniform(next(keys), (*shape, 2), minval=-1.0)
        else:
            action = jax.random.randint(next(keys), shape, 0, 3)
        observation, zeros = jax.random.normal(next(keys), (*shape, 2)), jnp.zeros(shape)
        steps = Transition(observation, action, zeros, zeros > 0, zeros > 0, observation)
        mask = jnp.ones(shape, bool).at[0, :, -1].set(False)
        return Judged(steps, mask, jnp.zeros((count, 2), int), jnp.zeros(count), jnp.zeros(count, int))

    judged, anywhere = some(4), some(5)
    rank = jnp.array([[0, 1], [1, 0], [0, 0], [0, 1]])
    judged = judged.replace(rank=rank, weight=jnp.array([1.0, 0.5, 1.0, 2.0]))
    state = jax.jit(agent.init)(next(keys))
    new, metrics = jax.jit(agent.update)(state, sources.Beside(judged, anywhere), next(keys))
    policy, predictor = dppo.networks(spec, config)
    apply = jax.jit(predictor.apply)

    def predicted(params, x):
        flat = lambda x: x.reshape(-1, *x.shape[2:])
        steps = x.transition
        out = apply(params, flat(steps.observation), flat(steps.action), flat(x.mask))
        return np.asarray(out).reshape(-1, 2)

    ahead = -np.diff(predicted(state.predictor.params, judged))[:, 0]
    first, second = np.log1p(np.exp(-ahead)), np.log1p(np.exp(ahead))
    order = np.array([-1, 1, 0, -1])
    told = np.select([order < 0, order > 0], [first, second], 0.5 * (first + second))
    np.testing.assert_allclose(metrics["loss/predictor"], (told * judged.weight).mean(), rtol=1e-4)
    rough = np.square(np.diff(predicted(state.predictor.params, anywhere))).mean()
    np.testing.assert_allclose(metrics["predictor/roughness"], rough, rtol=1e-4)

    steps, mask = jax.tree.map(lambda x: x[:, 0], (anywhere.transition, anywhere.mask))
    if isinstance(spec.action, Continuous):
        mode = jax.jit(lambda *args: policy.apply(*args).mode())(state.policy.params, steps.observation)
        far = np.linalg.norm(np.asarray(mode - steps.action), axis=-1) / 2.0
    else:
        probs = jax.jit(lambda *args: policy.apply(*args).probs)(state.policy.params, steps.observation)
        far = 1.0 - np.take_along_axis(np.asarray(probs), np.asarray(steps.action)[..., None], -1)[..., 0]
    score = -(far * mask).sum(-1) / np.asarray(mask).sum(-1) / 0.2
    best_first = np.argsort(-predicted(new.predictor.params, anywhere)[:, 0])
    losses = [
        np.log1p(np.exp(0.5 * score[j] - score[i])) for at, i in enumerate(best_first) for j in best_first[at + 1 :]
    ]
    np.testing.assert_allclose(metrics["loss/policy"], np.mean(losses), rtol=1e-4)


def test_smoothness_makes_the_predictor_smooth_and_nothing_else():
    """The policy's gradient never reaches the predictor: with judgements of no weight only smoothness moves it."""
    spec = EnvSpec((2,), Continuous((2,)))
    steps = Transition(
        jax.random.normal(jax.random.key(0), (60, 2)),
        jax.random.uniform(jax.random.key(1), (60, 2)),
        jnp.zeros(60),
        jnp.zeros(60, bool),
        jnp.zeros(60, bool),
        jnp.zeros((60, 2)),
    )
    none = jnp.zeros((3, 2), jnp.int32)
    told = Feedback(none, none + 8, none, jnp.zeros(3), none[:, 0], 8)
    data = dataset_lib.from_transitions(steps).replace(feedback=told)
    config = SMALL.replace(segment=8, shift=3.0, num_updates=1)

    @jax.jit
    @jax.vmap
    def run(smoothness):
        agent = dppo.make(spec, config.replace(smoothness=smoothness))
        batch = dppo.source(None, config, data).next(((), ()), agent, (), jax.random.key(2))[1]
        update = lambda state, key: agent.update(state, batch, key)
        state = agent.init(jax.random.key(3))
        new, metrics = jax.lax.scan(update, state, jax.random.split(jax.random.key(4)))
        return state.predictor.params, new.predictor.params, metrics["predictor/roughness"]

    before, after, roughness = run(jnp.array([0.0, 10.0]))
    moved = jax.tree.map(lambda x, y: np.abs(x - y).max(axis=tuple(range(1, x.ndim))), before, after)
    assert max(x[0] for x in jax.tree.leaves(moved)) == 0.0
    assert roughness[0, 1] == roughness[0, 0] and roughness[1, 1] < 0.9 * roughness[1, 0]


def test_a_policy_at_the_data_has_a_gradient_and_acts_as_it_is_scored():
    """The norm has none at 0. It takes its most likely action also where it explores: the spread is never learned."""
    spec, observation = EnvSpec((2,), Continuous((2,))), jnp.ones((4, 2))
    agent, (policy, _) = dppo.make(spec, SMALL), dppo.networks(spec, SMALL)

    @jax.jit
    def run(key):
        state = agent.init(key)
        action, other = (agent.act(state, observation, (), key, explore)[0] for explore in (True, False))
        far = lambda params: distance(policy.apply(params, observation), spec, action).sum()
        return action, other, jax.grad(far)(state.policy.params)

    action, other, gradient = run(jax.random.key(0))
    np.testing.assert_array_equal(action, other)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(gradient))
    assert agent.log_prob is None and dppo.make(GRID.spec, SMALL).log_prob is not None


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"likelihood": "pairwize"}, "There is no likelihood 'pairwize'; .*pairwise"),
        ({"num_heads": 3}, "num_heads=3 must divide width=16"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        dppo.make(GRID.spec, SMALL.replace(**changes))
