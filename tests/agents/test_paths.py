"""Guided cost learning and f-IRL: what paths are, updates by hand, and rewards that come to what the demonstrations say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.imitation import f_irl, gcl, paths
from rljax.data import dataset as dataset_lib
from rljax.envs import probes
from rljax.envs.tabular import gridworld
from rljax.errors import UserError
from rljax.types import Agent, Discrete, EnvSpec, Sample, Transition

SMALL = dict(
    hidden=(16,), reward_hidden=(16,), policy_learning_rate=1e-2, critic_learning_rate=1e-2, target_rate=1.0,
    num_critics=1, num_envs=64, num_demonstrations=64, num_updates=8, batch_size=64, capacity=256,
    reward_learning_rate=3e-3, reward_weight_decay=0.0,
)  # fmt: skip
SPEC = EnvSpec((3,), Discrete(2), 4)
LAST = np.array([2, 4, 1, 4, 4])  # steps of the paths by hand; the shorter ones terminate


def some_paths(seed):
    rng = np.random.default_rng(seed)
    time = np.arange(4)[:, None]
    terminated = (time == LAST - 1) & (LAST < 4)
    observation = rng.normal(size=(5, 5, 3)).astype(np.float32)
    steps = Transition(
        observation[:-1], rng.integers(0, 2, (4, 5)), np.zeros((4, 5), np.float32), terminated, terminated & False, observation[1:]
    )  # fmt: skip
    return jax.tree.map(jnp.asarray, paths.Paths(steps, time < LAST))


def network(params, these, inputs):
    """The reward of each step [T, M] by numpy, the absorbing state's where a path is over."""
    params = params["reward"]["params"]
    alive = np.asarray(these.alive, np.float64)[..., None]
    action = [np.eye(2)[np.asarray(these.steps.action)]] * ("action" in inputs)
    rows = np.concatenate([np.asarray(these.steps.observation), *action], -1) * alive
    hidden, last = (jax.tree.map(np.float64, x["Dense_0"]) for x in (params["Torso_1"], params))
    features = np.tanh(np.concatenate([rows, 1.0 - alive], -1) @ hidden["kernel"] + hidden["bias"])
    return (features @ last["kernel"] + last["bias"])[..., 0]


def log_sum(x):
    return np.log(np.exp(x).sum())


@pytest.mark.parametrize(
    "module, changes",
    [
        (gcl, {"demonstrations_sampled": False}),
        (gcl, {}),
        (f_irl, {"objective": "reverse_kl", "weighted": True, "density_updates": 1}),
        (f_irl, {"objective": "jensen_shannon", "density_updates": 1}),
    ],
)
def test_losses_by_hand(module, changes):
    """Sums over whole paths, the absorbing state's after a termination, in units of the temperature, 0.5."""
    config = module.Config(**SMALL, **changes).replace(initial_temperature=0.5, num_updates=1)
    agent = module.make(SPEC, config)
    state, own, demos = jax.jit(agent.init)(jax.random.key(0)), some_paths(0), some_paths(1)
    flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), own.steps)
    replayed = Sample(flat, 0.99 * (1.0 - flat.terminated), jnp.ones(20), jnp.arange(20))
    batch = paths.Batch(own, demos, jax.tree.map(lambda x: x[None], replayed))
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))

    def log_prob(these):
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), these.steps)
        each = np.asarray(agent.log_prob(state, flat.observation, flat.action)).reshape(4, 5)
        return (each * np.asarray(these.alive)).sum(0)

    returns, demonstrated = (network(state.reward.params, x, config.inputs).sum(0) / 0.5 for x in (own, demos))
    if module is gcl:
        density = log_prob(own)
        partition = log_sum(returns - density) - np.log(5)
        if config.demonstrations_sampled:
            returns = np.concatenate([returns, demonstrated])
            log_probs = np.concatenate([density, log_prob(demos)])
            density = np.log(0.5 * np.exp(returns - partition) + 0.5 * np.exp(log_probs))
            partition = log_sum(returns - density) - np.log(10)
        expected = partition - demonstrated.mean()
        weight = np.exp(returns - density) / np.exp(returns - density).sum()
    else:
        weight = np.exp(returns - log_prob(own)) if config.weighted else np.ones(5)
        weight /= weight.sum()
        before, logit = (network(x.density.params, own, config.inputs) for x in (state, after))
        told = np.log1p(np.exp(-network(state.density.params, demos, config.inputs))).mean()
        np.testing.assert_allclose(
            metrics["loss/density"], told + (weight * np.log1p(np.exp(before)).mean(0)).sum(), rtol=1e-4
        )
        score = {"reverse_kl": -logit, "jensen_shannon": -np.log1p(np.exp(logit))}[config.objective].mean(0)
        expected = (weight * (score - (weight * score).sum()) * returns).sum()
    np.testing.assert_allclose(metrics["loss/reward"], expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(metrics["reward/effective_paths"], 1.0 / (weight**2).sum(), rtol=1e-3)


def test_a_termination_pays_all_that_follows_up_to_the_time_limit():
    agent = gcl.make(SPEC, gcl.Config(**SMALL, gamma=0.8))
    state, these = jax.jit(agent.init)(jax.random.key(0)), some_paths(0)
    last = jax.tree.map(lambda x: x[1:2, 0], these.steps)  # of the first path, which terminates after two steps of four
    alone = network(state.reward.params, paths.Paths(last, jnp.ones(1, bool)), "state_action")
    nowhere = network(state.reward.params, paths.Paths(last, jnp.zeros(1, bool)), "state_action")
    for extras, count in (({"left": jnp.array([2])}, 0.8 + 0.8**2), ({}, 4.0), ({"left": jnp.array([0])}, 0.0)):
        paid = agent.reward(state, last.replace(extras=extras))
        np.testing.assert_allclose(paid, alone + count * nowhere, rtol=1e-4)


@pytest.mark.parametrize("module, objective", [(gcl, "likelihood"), (f_irl, "forward_kl")])
def test_the_reward_says_how_often_it_was_demonstrated(module, objective):
    """3 of 4 demonstrations take the second of two actions: it is worth log 3 more, and so often it is taken."""
    env, action = probes.ActionReward(), np.array([1, 1, 0, 1] * 16)
    yes, seen = np.ones(64, bool), np.zeros((64, 1), np.float32)
    data = dataset_lib.from_transitions(Transition(seen, action, np.float32(~yes), yes, ~yes, seen))
    config = module.Config(**SMALL, inputs="state_action", objective=objective)
    agent = module.make(env.spec, config)
    learner = train.make(agent, module.source(env, config, data))
    state = jax.jit(lambda key: learner.run(learner.init(key), 400)[0].agent)(jax.random.key(0))
    nothing = jnp.zeros(2)
    steps = Transition(jnp.zeros((2, 1)), jnp.arange(2), nothing, nothing > 1, nothing > 1, jnp.zeros((2, 1)))
    worth = agent.reward(state, steps)
    assert float(worth[1] - worth[0]) == pytest.approx(np.log(3.0), abs=0.15)
    assert float(jnp.exp(agent.log_prob(state, jnp.zeros((1, 1)), jnp.array([1])))[0]) == pytest.approx(0.75, abs=0.04)


# --- Paths -----------------------------------------------------------------------------------------------------------------


def always_right(env):
    act = lambda state, observation, memory, *_: (jnp.ones(len(observation), jnp.int32), memory, {})
    return Agent(lambda key: (), act, None)


def test_own_paths_are_new_episodes_and_nothing_after_their_end_counts():
    """In a corridor of four cells to the goal's left, with five steps: three to the goal, then another episode's first two."""
    env, config = gridworld(1, 4, start=(0, 0), episode_length=5), gcl.Config(**SMALL).replace(num_envs=2)
    yes = np.array([False, False, True])
    seen = np.eye(4, dtype=np.float32)
    data = dataset_lib.from_transitions(
        Transition(seen[:3], np.ones(3, int), np.zeros(3, np.float32), yes, ~yes & yes, seen[1:])
    )
    source, agent = gcl.source(env, config, data), always_right(env)
    _, batch, _ = source.next(source.init(agent, jax.random.key(0)), agent, (), jax.random.key(1))
    np.testing.assert_array_equal(batch.own.steps.observation.argmax(-1)[:, 0], [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(batch.own.alive[:, 0], [True, True, True, False, False])
    np.testing.assert_array_equal(batch.own.steps.extras["left"][:, 0], [4, 3, 2, 4, 3])
    np.testing.assert_array_equal(batch.demonstrated.alive[:, 0], [True, True, True, False, False])
    np.testing.assert_array_equal(batch.demonstrated.steps.observation.argmax(-1)[:, 0], [0, 1, 2, 2, 2])
    assert batch.replayed.transition.reward.shape == (8, 64) and source.env_steps == 10


def test_only_whole_episodes_are_demonstrated_by_their_weights():
    """Of 2 steps up to the limit, of 1 that terminates, of 1 whose recording stopped, of 2 again; weights 1, 3, 5, 0."""
    number = np.array([0, 0, 1, 2, 3, 3], np.float32)
    terminated = np.array([0, 0, 1, 0, 0, 0], bool)
    truncated = np.array([0, 1, 0, 1, 0, 1], bool)
    data = dataset_lib.from_transitions(
        Transition(number[:, None], np.zeros(6, int), number, terminated, truncated, number[:, None])
    )
    data = dataset_lib.weighted(data, np.array([1.0, 3.0, 5.0, 0.0]))
    np.testing.assert_array_equal(dataset_lib.whole(data, 2), [True, True, False, True])
    steps, alive = dataset_lib.draw_whole(data, jax.random.key(0), 4000, 2)
    np.testing.assert_array_equal(steps.reward[0], steps.reward[1])
    np.testing.assert_allclose(
        np.bincount(np.int32(steps.reward[0]), minlength=4) / 4000, [0.25, 0.75, 0.0, 0.0], atol=0.03
    )
    np.testing.assert_array_equal(alive, [np.ones(4000, bool), steps.reward[0] == 0])


def test_what_it_cannot_do_is_said():
    for changes, sentence in (
        ({"objective": "reverse"}, "no objective 'reverse'"),
        ({"inputs": "action"}, "no inputs 'action'"),
    ):
        with pytest.raises(UserError, match=sentence):
            gcl.make(SPEC, gcl.Config(**{**SMALL, **changes}))
    with pytest.raises(UserError, match="time limit"):
        gcl.make(EnvSpec((3,), Discrete(2)))
    with pytest.raises(UserError, match="gamma=1.0 must be below 1"):
        gcl.make(SPEC, gcl.Config(gamma=1.0))
    yes, seen = np.ones(2, bool), np.zeros((2, 4), np.float32)
    cut = dataset_lib.from_transitions(Transition(seen, np.zeros(2, int), np.zeros(2, np.float32), ~yes, yes, seen))
    with pytest.raises(UserError, match="No episode of the data is whole: terminated, or of all 5 steps"):
        gcl.source(gridworld(1, 4, episode_length=5), gcl.Config(**SMALL), cut)
