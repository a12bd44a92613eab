"""Judgements by name: always the same, what teachers see, and what cannot be asked for; and agents paid by what was judged."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import parallel
from rljax.agents.offline import iql
from rljax.data import dataset as dataset_lib
from rljax.data import files, pairs
from rljax.data.collect import collect, uniform
from rljax.envs import make
from rljax.errors import UserError
from rljax.experiments import collect as collect_binary
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
        (DATA + "&teacher=noise", "These data do not say how noisy those were who made them: .*collect --noise"),
        (DATA + "&teacher=ranking&ranked=3", "The teacher 'ranking' judges pairs, not ranked=3 segments"),
        (DATA + "&teacher=ranking&margin=1e9", "No two of the .* episodes have scores more than 1e.09 apart"),
        (DATA + "&margin=1", "margin is of the teachers ranking and noise, who rank whole episodes"),
        ("some.npz?transitions=10", "Only datasets that are made take `transitions`"),
        (f"{DATA} + {NAME}/random", "judgements of their segments cannot be joined"),
    ],
    ids=lambda x: x[-24:],
)
def test_what_cannot_be_judged_is_one_sentence(name, sentence):
    with pytest.raises(UserError, match=sentence):
        datasets.load(name, make(NAME).spec)


def test_episodes_rank_their_segments():
    """T-REX: the better episode's snippet begins no earlier; flaws are those of the other teachers."""
    data = load("&teacher=ranking&preferences=300")
    told, paid = data.feedback, np.asarray(data.episode_return)
    episode = np.asarray(data.episode[told.start])
    into = np.asarray(told.start - data.start[episode])
    assert (told.rank == np.array([0, 1])).all() and (np.asarray(told.length) == 16).all()
    assert (paid[episode[:, 0]] > paid[episode[:, 1]]).all() and (into[:, 0] >= into[:, 1]).all()
    assert (load("&teacher=ranking&flip=1").feedback.rank == np.array([1, 0])).all()


def test_noise_ranks_what_a_policy_does(tmp_path):
    """D-REX, on the host's side of a file: shares of random actions are what they should be, are kept, and rank the episodes."""
    env = make(NAME)
    ladder = ladders.load(NAME, env.spec)
    best = parallel.select(ladder.states, -1)
    steps = collect_binary.roll(NAME, env, [(ladder.agent, best)], 2400, 2, explore=False, noise=(0.0, 0.4, 1.0))
    own, _, _ = jax.jit(lambda seen: ladder.agent.act(best, seen, (), jax.random.key(0), False))(steps.observation)
    random = (np.abs(np.clip(own, -1.0, 1.0) - steps.action) > 1e-5).any(-1)
    np.testing.assert_allclose(
        [random[steps.extras["noise"] == x].mean() for x in (0.0, 0.4, 1.0)], [0.0, 0.4, 1.0], atol=0.05
    )
    path = tmp_path / "ranked.npz"
    files.save(path, steps)
    data = datasets.load(f"{path}?preferences=200&segment=16&teacher=noise&margin=0.5", env.spec)
    noise = np.asarray(data.transition.extras["noise"])[np.asarray(data.feedback.start)]
    assert set(map(tuple, noise.tolist())) == {(0.0, 1.0), (np.float32(0.4), 1.0)}
    assert (data.feedback.rank == np.array([0, 1])).all()
    with pytest.raises(UserError, match="The teacher 'regret' asks what the environment would have paid"):
        datasets.load(f"{path}?preferences=200&teacher=regret", env.spec)
    with pytest.raises(UserError, match="--noise=0,1.5 must be shares of actions, from 0 to 1"):
        collect_binary.roll(NAME, env, [(ladder.agent, best)], 2400, 2, noise=(0.0, 1.5))


def test_a_file_of_judgements_is_not_judged_again(tmp_path):
    data = load()
    pairs.save(tmp_path / "pairs.npz", data)
    with pytest.raises(UserError, match="pairs.npz holds judgements already: leave out .preferences"):
        datasets.load(f"{tmp_path}/pairs.npz?preferences=10", make(NAME).spec)


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
