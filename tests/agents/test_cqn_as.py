"""CQN-AS: one update by numpy from what its network says, of one action and of several; what acting remembers; what it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import rollout, train
from rljax.agents.online import cqn_as
from rljax.envs import probes
from rljax.errors import UserError
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition, initial_memory

SPEC = EnvSpec((3,), Continuous((2,), -2.0, 2.0))
SIZE = 6
SMALL = cqn_as.Config(
    hidden=(8,), num_bins=3, num_levels=2, num_atoms=5, learning_rate=1e-2, weight_decay=0.0, reward_scale=0.7,
    clone_margin=0.05,
)  # fmt: skip


def batch(length):
    """Random steps and what followed them: in each row other steps belong, the last of which ends the episode in even rows."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    mask = np.arange(length) < 1 + np.arange(SIZE)[:, None] % length
    ends = (np.arange(SIZE)[:, None] % 2 == 0) & (np.arange(length) == mask.sum(1, keepdims=True) - 1)
    truncated = ends & (np.arange(SIZE)[:, None] == 4)
    action = rng.uniform(-2.2, 2.2, (SIZE, length, 2)).astype(np.float32)
    segment = Transition(
        normal(SIZE, length, 3), action, normal(SIZE, length), ends & ~truncated, truncated, normal(SIZE, length, 3)
    )
    extras = {"segment": segment, "mask": mask, "from_data": np.float32(np.arange(SIZE) < 3)}
    no = np.zeros(SIZE, bool)
    steps = Transition(normal(SIZE, 3), action[:, 0], normal(SIZE), no, no, normal(SIZE, 3), extras)
    discount = np.float32([0.0, 0.9, 0.9, 0.81, 0.81, 0.0])
    return jax.tree.map(jnp.asarray, Sample(steps, discount, np.ones(SIZE, np.float32), np.arange(SIZE)))


@functools.lru_cache
def said_by(spec, config):
    """(params, observation, middle, level) -> what the network says of a level's bins."""
    return jax.jit(cqn_as.network(spec, config).apply)


def zoomed(config, params, observation, choose, spec=SPEC):
    """What is said of all bins [B, K, D, bins, N], probabilities or means, and which were chosen [B, K, D], level by level; and the
    middles of the last ones."""
    size = len(observation), config.sequence_length, spec.action.size
    low, high, found = np.full(size, spec.action.low), np.full(size, spec.action.high), []
    for level in range(config.num_levels):
        output = np.float64(said_by(spec, config)(params, observation, jnp.float32(0.5 * (low + high)), level))
        if config.head == "categorical":
            output = np.exp(output) / np.exp(output).sum(-1, keepdims=True)
        width = (high - low) / config.num_bins
        index = choose(output, low, width)
        low = low + width * index
        high = low + width
        found.append((output, index))
    return found, 0.5 * (low + high)


def best_by(support):
    return lambda laws, low, width: (laws @ support).argmax(-1)


def taken(x, index):
    return np.take_along_axis(x, index[..., None, None], -2)[..., 0, :]


def projected(target, probs, support):
    """Equation 7 of C51, by loops."""
    result, gap = np.zeros(len(support)), support[1] - support[0]
    for atom, prob in zip(np.clip(target, support[0], support[-1]), probs):
        place = (atom - support[0]) / gap
        below = min(int(place), len(support) - 2)
        result[below] += prob * (1.0 - (place - below))
        result[below + 1] += prob * (place - below)
    return result


CASES = {
    "sequence": SMALL.replace(sequence_length=3),
    "single action": SMALL.replace(sequence_length=1, head="mean", dueling=False),
}


@pytest.mark.parametrize("name", CASES)
def test_one_update_by_numpy(name):
    """Targets by the target network at the sequence that the online one thinks best, losses of the sequence that was done, each
    level of each dimension of each action by itself; with one action that is the action, and what followed it has no part."""
    config = CASES[name]
    support = np.linspace(-2.0, 2.0, 5) if config.head == "categorical" else np.array([1.0])
    agent, given = cqn_as.make(SPEC, config), batch(config.sequence_length)
    init = jax.jit(agent.init)
    louder = jax.tree.map(lambda x: 3.0 * x, init(jax.random.key(1)).target)
    state, steps = init(jax.random.key(0))._replace(target=louder), given.transition
    chosen, middle = zoomed(config, state.q.params, steps.next_observation, best_by(support))
    order = iter([index for _, index in chosen])
    after, _ = zoomed(config, louder, steps.next_observation, lambda *_: next(order))

    segment, mask = steps.extras["segment"], np.asarray(steps.extras["mask"])
    action = np.float64(segment.action)
    if config.sequence_length == 1:
        action = np.float64(steps.action)[:, None]
    for row, count in enumerate(mask.sum(1)):
        action[row, count:] = action[row, count - 1]
    bin_of = lambda laws, low, width: np.clip(np.floor((action - low) / width), 0, 2).astype(int)
    before, _ = zoomed(config, state.q.params, steps.observation, bin_of)

    losses, margins, behind = [], [], []
    for (laws, index), (laws_after, index_after) in zip(before, after):
        law, law_after, q = taken(laws, index), taken(laws_after, index_after), laws @ support
        target = 0.7 * np.float64(steps.reward)[:, None, None, None]
        discount = np.float64(given.discount)[:, None, None, None]
        if config.head == "mean":
            losses.append(0.5 * (target + discount * law_after - law)[..., 0] ** 2)
        else:
            atoms = np.broadcast_to(target + discount * support, law.shape)
            flat = [projected(x, p, support) for x, p in zip(atoms.reshape(-1, 5), law_after.reshape(-1, 5))]
            m = np.array(flat).reshape(law.shape)
            losses.append((m * (np.log(np.maximum(m, 1e-30)) - np.log(law))).sum(-1))
        short = 0.05 - (np.take_along_axis(q, index[..., None], -1) - q)
        margins.append(np.maximum(short, 0.0).mean(-1))
        above = np.cumsum(law, -1)[..., None, :] - np.cumsum(laws, -1)
        behind.append(np.maximum(above, 0.0).sum(-1).mean(-1))
    known = mask | (np.arange(SIZE)[:, None] % 2 == 0)  # what is beyond an end that was seen, and what was seen
    assert config.sequence_length == 1 or not known.all()
    of_data = known * (np.arange(SIZE)[:, None] < 3)
    over = lambda x, weight: (np.mean(x, axis=(0, -1)) * weight).sum() / weight.sum()

    update = jax.jit(lambda config, given: cqn_as.make(SPEC, config).update(state, given, jax.random.key(0)))
    new, metrics = update(config, given)
    np.testing.assert_allclose(metrics["loss/q"], over(losses, known), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss/margin"], over(margins, of_data), rtol=1e-4)
    still, _ = update(config.replace(critic_weight=0.0, clone_weight=0.0), given)
    assert all(jax.tree.leaves(jax.tree.map(lambda a, b: (a == b).all(), still.q.params, state.q.params)))
    assert ("loss/dominance" in metrics) == (name == "sequence")
    if name == "sequence":
        np.testing.assert_allclose(metrics["loss/dominance"], over(behind, of_data), rtol=1e-4)
    assert any("GRU" in name for name in new.q.params["params"]) == (config.sequence_length > 1)
    if name == "single action":
        assert agent.memory == ()
        found, _, _ = agent.act(state._replace(target=state.q.params), steps.next_observation, (), None, False)
        np.testing.assert_allclose(found, middle[:, 0], atol=1e-6)


def test_acting_remembers_the_sequences_of_this_episode_alone():
    """Every observation is the same, so every sequence: a, b, c. With gain log 2 acts are a, (a + 2 b) / 3, (a + 2 b + 4 c) / 7
    until the episode ends; without an ensemble all are a."""
    env = probes.TimeLimit(continuous=True, episode_length=4)
    config = SMALL.replace(num_bins=5, sequence_length=3, ensemble_gain=np.log(2.0))
    agent, first = (cqn_as.make(env.spec, config.replace(temporal_ensemble=yes)) for yes in (True, False))

    @jax.jit
    def run(key):
        state = agent.init(key)
        act = lambda observation, memory, key: agent.act(state, observation, memory, key, False)
        batch = rollout.unroll(env, act, initial_memory(agent, 2), rollout.start(env, agent, 2, key), key, 10)[1]
        return batch.steps.action[..., 0], first.act(state, jnp.zeros((1, 1)), (), key, False)[0], state.target

    actions, alone, params = run(jax.random.key(3))
    _, middle = zoomed(config, params, jnp.zeros((1, 1)), best_by(np.linspace(-2.0, 2.0, 5)), env.spec)
    a, b, c = middle[0, :, 0]
    assert len({a, b, c}) > 1 and first.memory == ()
    np.testing.assert_allclose(alone, [[a]], atol=1e-6)
    third = (a + 2.0 * b + 4.0 * c) / 7.0
    episode = [a, (a + 2.0 * b) / 3.0, third, third]
    np.testing.assert_allclose(actions, np.array([*episode, *episode, *episode[:2]])[:, None] * np.ones(2), atol=1e-5)


def test_the_best_of_a_bandit_is_found_to_the_finest_bin():
    """All of 8 x 8 actions, the nearer to a point the better: values of coarse bins are means over what lies in them."""
    spec, point = EnvSpec((1,), Continuous((2,))), np.array([0.3, -0.55])
    config = SMALL.replace(sequence_length=1, num_bins=2, num_levels=3, hidden=(32,), head="mean", target_rate=1.0)
    middles = (np.arange(8) + 0.5) / 4 - 1.0
    action = np.float32(np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 2))
    yes, blank = np.ones(64, bool), np.ones((64, 1), np.float32)
    steps = Transition(blank, action, np.float32(-10.0 * np.abs(action - point).sum(-1)), yes, ~yes, blank)
    segment = jax.tree.map(lambda x: x[:, None], steps)
    steps = steps.replace(extras={"segment": segment, "mask": yes[:, None]})
    given = Sample(steps, np.zeros(64), np.ones(64), np.arange(64))
    agent = cqn_as.make(spec, config)

    @jax.jit
    def best(keys):
        step = lambda state, key: (agent.update(state, given, key)[0], ())
        state, _ = jax.lax.scan(step, agent.init(keys[0]), keys)
        return agent.act(state, blank[:1], (), keys[0], False)[0][0]

    np.testing.assert_allclose(best(jax.random.split(jax.random.key(0), 200)), [0.375, -0.625], atol=1e-6)


LEARNING = SMALL.replace(
    hidden=(32,), target_rate=0.1, critic_weight=1.0, exploration_noise=0.3, num_atoms=11, reward_scale=1.0, num_envs=4,
    dueling=False, batch_size=32, capacity=800, warmup=100, gamma=0.9,
)  # fmt: skip


def learned(env, config, observations, iterations, dataset=None):
    """Best first actions at some observations, and what each action and level of the best sequences says it is worth [N, K, L]."""
    agent = cqn_as.make(env.spec, config)

    @jax.jit
    def run(dataset, key):
        learner = train.make(agent, cqn_as.source(env, config, dataset))
        return learner.run(learner.init(key), iterations)[0].agent

    params = run(dataset, jax.random.key(0)).target
    support = np.linspace(config.lowest_return, config.highest_return, config.num_atoms)
    found, middle = zoomed(config, params, jnp.array(observations)[:, None], best_by(support), env.spec)
    return middle[:, 0], np.stack([(taken(laws, index) @ support)[..., 0] for laws, index in found], axis=-1)


def test_the_policy_follows_its_observation():
    """Nine cells: 0.5 and -0.5 lie in those around 4 / 9 and -4 / 9. What is said of the action after the end is the one's own."""
    config = LEARNING.replace(sequence_length=2)
    action, q = learned(probes.ObservationActionReward(continuous=True), config, [-1.0, 1.0], 150)
    np.testing.assert_allclose(action, [[-4 / 9], [4 / 9]], atol=1e-6)
    np.testing.assert_allclose(q[..., -1], 0.0, atol=0.05)


def test_a_time_limit_is_no_termination():
    """Over two steps, so that some are cut in between; taken for a termination it is far below."""
    config = LEARNING.replace(sequence_length=2, num_steps=2, gamma=0.7, lowest_return=0.0, highest_return=5.0)
    _, q = learned(probes.TimeLimit(continuous=True), config, [0.0], 250)
    np.testing.assert_allclose(q, np.full((1, 2, 2), 1 / 0.3), atol=0.1)


def test_values_come_from_data_and_own_steps_and_end_with_the_episode(random_data):
    """Both pay 0, then 1: at the second step the sequence goes on past the end, and is worth what the one action is."""
    env, config = probes.TwoStepCredit(continuous=True), LEARNING.replace(sequence_length=2, clone_weight=0.0)
    _, q = learned(env, config, [0.0, 1.0], 150, random_data(env, 4, 8))
    np.testing.assert_allclose(q, np.broadcast_to([[[0.9]], [[1.0]]], (2, 2, 2)), atol=0.05)


def test_demonstrations_are_half_of_each_batch_and_sequences_end_with_their_episode(random_data):
    """The data's rewards are marked by 100. After a first step there is a second, after that nothing."""
    env, config = probes.TwoStepCredit(continuous=True), LEARNING.replace(sequence_length=3, num_updates=2)
    data = random_data(env, 4, 8)
    data = data.replace(transition=data.transition.replace(reward=data.transition.reward + 100.0))
    agent, source = cqn_as.make(env.spec, config), cqn_as.source(env, config, data)
    assert source.num_batches == 2 and source.env_steps == 4 and source.warmup_steps == 100
    steps = jax.jit(lambda key: source.next(source.init(agent, key), agent, agent.init(key), key)[1])(
        jax.random.key(0)
    ).transition
    of_data = np.asarray(steps.extras["from_data"])
    np.testing.assert_array_equal(of_data.sum(axis=1), [16, 16])
    np.testing.assert_array_equal(steps.reward > 50.0, of_data)
    time = np.asarray(steps.observation[..., 0])
    ahead, mask = steps.extras["segment"], np.asarray(steps.extras["mask"])
    full = (time == 0.0) & (ahead.observation[..., 1, 0] == 1.0)  # of the newest steps the next is not known yet
    assert full[of_data == 1.0].sum() == (time == 0.0)[of_data == 1.0].sum()
    np.testing.assert_array_equal(mask.sum(-1), np.where(full, 2, 1))
    np.testing.assert_array_equal((mask * (ahead.reward % 100.0)).sum(-1), np.where(full | (time == 1.0), 1.0, 0.0))


def test_what_cannot_be_is_refused(random_data):
    with pytest.raises(UserError, match="CQN cuts continuous actions into bins, and this environment's are discrete"):
        cqn_as.make(EnvSpec((3,), Discrete(2)))
    with pytest.raises(UserError, match="sequence_length=0 must be at least 1"):
        cqn_as.make(SPEC, cqn_as.Config(sequence_length=0))
    env = probes.TwoStepCredit(continuous=True)
    with pytest.raises(UserError, match="batch_size=1 must be at least 2"):
        cqn_as.source(env, SMALL.replace(batch_size=1), random_data(env, 4, 8))
