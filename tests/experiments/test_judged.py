"""Judgements by name: always the same, what teachers see, and what cannot be asked for; and agents paid by what was judged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import parallel
from rljax.agents.offline import iql
from rljax.data import dataset as dataset_lib
from rljax.data import files
from rljax.data.collect import collect, uniform
from rljax.envs import make
from rljax.errors import UserError
from rljax.experiments import datasets, judged, ladders, runner
from rljax.experiments.folder import Folder, learned_rewards
from rljax.experiments.plan import Plan, Program

NAME = "gymnax/Pendulum-v1"
DATA = f"{NAME}/random?transitions=2000&preferences=40&segment=16"


def load(options=""):
    return datasets.load(DATA + options, make(NAME).spec)


def returns(data):
    rows = np.asarray(data.feedback.start)[..., None] + np.arange(16)
    return np.asarray(data.transition.reward)[rows].sum(-1)


def test_by_return_and_always_the_same():
    data, again, others, flipped = load(), load(), load("&judges=1"), load("&flip=1")
    jax.tree.map(np.testing.assert_array_equal, data.feedback, again.feedback)
    assert (data.feedback.length == 16).all() and data.feedback.longest == 16
    np.testing.assert_array_equal(returns(data).argmax(1), data.feedback.rank.argmin(1))
    np.testing.assert_array_equal(returns(flipped).argmin(1), flipped.feedback.rank.argmin(1))
    assert (others.feedback.start != data.feedback.start).any()
    ranked = load("&ranked=4").feedback
    assert ranked.rank.shape == (40, 4) and (np.sort(ranked.rank, 1) == np.arange(4)).all()
    assert 0.0 < files.describe(load("&equal=1"))["ties"] < 1.0
    mostly = load("&rationality=1&judges=2")
    right = (returns(mostly).argmax(1) == np.asarray(mostly.feedback.rank).argmin(1)).mean()
    assert 0.55 < right < 1.0


def test_who_acts_as_the_best_policy_has_nothing_to_regret():
    """Its own steps come to what it could have; random ones to much less."""
    env = make(NAME)
    ladder = ladders.load(NAME, env.spec)
    best = parallel.select(ladder.states, -1)
    key, start = jax.random.key(0), jnp.array([[0, 100], [50, 150]])

    def regrets(agent, state, explore):
        record = jax.jit(lambda state, key: collect(env, agent, state, key, 1, 200, explore, True))
        data = dataset_lib.from_transitions(record(state, key))
        return np.asarray(judged.by_regret(data, start, jnp.full((2, 2), 32), 32, NAME, env, key))

    own, random = regrets(ladder.agent, best, False), regrets(uniform(env), (), True)
    np.testing.assert_allclose(own, 0.0, atol=0.05)
    assert (random < -10.0).all()


@pytest.mark.parametrize(
    "name, sentence",
    [
        (f"{NAME}/random?segment=4", ".segment is of judgements: say how many by .preferences=NUMBER"),
        (DATA + "&teacher=regrets", "There is no teacher 'regrets'; .*regret"),
        (DATA + "&flip=2", "flip=2 must be a share"),
        (DATA + "&rationality=0", "rationality=0.0 must be above 0"),
        (DATA + "&equal=100", "All 40 judgements are ties: segments of 16 steps are worth the same by return"),
        (DATA + "&ranked=1", "ranked=1 must be a whole number, at least 2"),
        (f"{NAME}/random?preferences=0.5", "preferences=0.5 must be a whole number, at least 1"),
        ("some.npz?preferences=10", "Only datasets that are made take `preferences`"),
        (f"{DATA} + {NAME}/random", "judgements of their segments cannot be joined"),
    ],
    ids=lambda x: x[-24:],
)
def test_what_cannot_be_judged_is_one_sentence(name, sentence):
    with pytest.raises(UserError, match=sentence):
        datasets.load(name, make(NAME).spec)


def told(reward, steps):
    """What a learned reward pays for steps [N] of a dataset; where it remembers, one after another."""
    if not jax.tree.leaves(reward.memory):
        return reward.function(reward.state, steps)

    def one(memory, step):
        found, after = reward.function(reward.state, *jax.tree.map(lambda x: x[None], (step, memory)))
        after = jax.tree.map(lambda new, old: jnp.where(step.done, old, new[0]), after, reward.memory)
        return after, found[0]

    return jax.lax.scan(one, reward.memory, steps)[1]


@pytest.mark.parametrize("score", ["sum", "recurrent"])
def test_a_dataset_is_paid_by_what_was_learned_seed_by_seed(score, tmp_path, monkeypatch):
    """IQL on the rewards of a reward model: what its source reads is paid by the network of its seed, and evaluation is not."""
    where = Folder(tmp_path / "judged")
    settings = {"hidden": (8,), "segment": 16, "score": score, "units": 4, "head": (4,)}
    plan = Plan("reward_model", NAME, 8, 2, 3, settings, eval_episodes=2, dataset=DATA)
    runner.run(plan, where, quiet=True)
    settings = {"hidden": (8,), "batch_size": 5, "num_steps": 3}
    paid = Plan("iql", NAME, 16, 1, 4, settings, dataset=DATA, reward_from=str(where.path), eval_episodes=2)
    program = Program(paid)
    rewards, given = learned_rewards(where.path, program), program.given
    own = jax.tree.map(lambda x: x[0], rewards)
    read, source = [], iql.source
    monkeypatch.setattr(
        iql, "source", lambda env, config, dataset: read.append(dataset) or source(env, config, dataset)
    )
    found = jax.jit(lambda given, own: (program.learner({}, given, own), read[-1])[1])(given, own)
    steps = given["dataset"].transition
    expected = np.asarray(jax.jit(told)(own, steps))
    np.testing.assert_allclose(found.transition.reward, expected, rtol=1e-5, atol=1e-6)
    assert np.ptp(expected) > 0.0 and (steps.reward < -1.0).any() and (expected > -1.0).all()
    first = slice(0, int(found.length[0]))
    np.testing.assert_allclose(found.return_to_go[first], np.cumsum(expected[first][::-1])[::-1], rtol=1e-4, atol=1e-4)
    monkeypatch.undo()
    summary = runner.run(paid, Folder(tmp_path / "paid"), quiet=True)
    assert summary["return"]["per_seed"][0] < -10.0  # told by the environment
