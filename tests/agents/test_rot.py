"""ROT: what an episode is paid, the policy's loss by hand, when it clones and when it does not, and walks that it repeats."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from rljax import sources, train
from rljax.agents.imitation import rot
from rljax.agents.online import td3
from rljax.data import dataset as dataset_lib
from rljax.errors import UserError
from rljax.record import record
from rljax.types import Continuous, Discrete, EnvSpec, Sample, TimeStep, Transition

SMALL = rot.Config(
    policy_learning_rate=3e-3, critic_learning_rate=3e-3, gamma=0.9, target_rate=0.05, epsilon=0.02, policy_delay=1,
    hidden=(32,), num_envs=8, rollout_length=1, batch_size=64, capacity=2000, warmup=80, cost="euclidean",
    scale_inputs=False, num_iterations=60,
)  # fmt: skip
SPEC = EnvSpec((3,), Continuous((2,)))
LENGTH = 5


@record
class Walk:
    """x moves by the action for LENGTH steps; seen are x and the share of time that has passed. Nothing is paid."""

    @property
    def spec(self):
        return EnvSpec((2,), Continuous((1,)), LENGTH)

    def reset(self, key):
        return jnp.zeros(2), jnp.zeros(2)

    def step(self, state, action, key):
        state = state + jnp.array([action[0], 1.0 / LENGTH])
        over = state[1] > 1.0 - 0.5 / LENGTH
        return state, TimeStep(state, jnp.float32(0.0), jnp.bool_(False), over)


def walks(*paces, action=None, lengths=None):
    """Demonstrations, one of each pace; actions are told as they were, or all as `action`."""
    steps = []
    for pace, length in zip(paces, lengths or [LENGTH] * len(paces)):
        x = pace * np.arange(length + 1)
        seen = np.stack([x, np.arange(length + 1) / LENGTH], 1).astype(np.float32)
        told = np.full((length, 1), pace if action is None else action, np.float32)
        last = np.arange(length) == length - 1
        steps.append(Transition(seen[:-1], told, np.zeros(length, np.float32), ~last & False, last, seen[1:]))
    return dataset_lib.from_transitions(jax.tree.map(lambda *x: np.concatenate(x), *steps))


# --- What an episode is paid


def least_cost(cost):
    """Of moving equal weights, by a linear program."""
    n, m = cost.shape
    sums = np.vstack([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    return scipy.optimize.linprog(
        cost.ravel(), A_eq=sums, b_eq=np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    ).fun


def test_an_episode_is_paid_minus_its_transport_to_the_closest_demonstration():
    """Three steps of an own episode against two demonstrations of 5 and 3 steps and one that is closer but has no weight."""
    data = walks(0.5, -0.5, 0.1, lengths=[5, 3, 4])
    data = dataset_lib.weighted(data, np.array([1.0, 1.0, 0.0]))
    config = SMALL.replace(epsilon=1e-3, num_iterations=2000)
    rewards_of = jax.jit(rot.transport_rewards(config, data, 6))
    x = np.float32([0.0, 0.3, 0.4, 0.7])
    seen = np.zeros((6, 2), np.float32)
    seen[:4] = np.stack([x, np.arange(4) / LENGTH], 1)
    following = np.vstack([seen[1:4], np.full((3, 2), 50.0, np.float32)])  # of padding: anything
    steps = Transition(seen, np.zeros((6, 1)), np.zeros(6), np.zeros(6, bool), np.zeros(6, bool), following)
    reward = np.float64(rewards_of(steps, jnp.arange(6) < 3))
    ends = np.float64(data.transition.next_observation)
    distance = np.linalg.norm(np.float64(following)[:3, None] - ends, axis=-1)
    costs = [least_cost(distance[:, part]) for part in (slice(0, 5), slice(5, 8), slice(8, 12))]
    assert np.argsort(costs).tolist() == [2, 0, 1]
    np.testing.assert_allclose(reward.sum(), -costs[0], atol=2e-3)
    assert (reward[:3] < 0.0).all() and not reward[3:].any()
    # the first two of five weigh 2/5, of which 1/3 is the first own step's: the cheapest share for a line of points
    np.testing.assert_allclose(reward[0], -(distance[0, 0] / 5 + distance[0, 1] * (1 / 3 - 1 / 5)), atol=2e-3)


def test_inputs_are_scaled_to_a_mean_square_of_1():
    """So units do not matter, where a shift would; what is 0 throughout stays."""
    data, units = walks(0.5, 0.1), jnp.array([100.0, 0.01])
    config = SMALL.replace(scale_inputs=True)

    def total(data, other, units):
        rescaled = lambda steps: steps.replace(next_observation=steps.next_observation * units)
        rewards_of = rot.transport_rewards(config, data.replace(transition=rescaled(data.transition)), LENGTH)
        return rewards_of(rescaled(other.transition), jnp.ones(LENGTH, bool)).sum()

    costs = [float(-jax.jit(total)(data, walks(0.3), x)) for x in (jnp.ones(2), units, jnp.array([1.0, 0.0]))]
    root = np.sqrt((np.float64(data.transition.next_observation) ** 2).mean(0))
    ends = np.float64([data.transition.next_observation[:5], data.transition.next_observation[5:]]) / root
    own = np.float64(walks(0.3).transition.next_observation) / root
    distance = np.linalg.norm(own[:, None] - ends[:, None], axis=-1)
    assert costs[0] == pytest.approx(min(least_cost(distance[i]) for i in range(2)), abs=0.02)
    assert costs[1] == pytest.approx(costs[0], rel=1e-4) and 0.0 < costs[2] < costs[0]


def test_a_repeated_demonstration_costs_nothing():
    """Whatever its length, padding and the scale of what is seen; and states are told apart from actions."""
    data = walks(0.5)
    steps = data.transition
    other = steps.replace(action=-steps.action)
    for inputs, same in (("next_state", True), ("state_action", False)):
        config = SMALL.replace(inputs=inputs, scale_inputs=True, epsilon=1e-3)
        rewards_of = jax.jit(rot.transport_rewards(config, data, LENGTH))
        np.testing.assert_allclose(rewards_of(steps, jnp.ones(LENGTH, bool)), 0.0, atol=1e-3)
        assert (float(rewards_of(other, jnp.ones(LENGTH, bool)).sum()) > -1e-3) == same


def test_batches_are_paid_by_their_whole_episodes():
    """Each step of the source's batches is paid what its own episode's plan says, found again from the start."""
    env, data = Walk(), walks(0.5)
    config = SMALL.replace(num_steps=1, num_envs=2, capacity=40, batch_size=32)
    agent, source = rot.make(env.spec, config), rot.source(env, config, data)

    @jax.jit
    def run(key):
        state = source.init(agent, key)
        agent_state = agent.init(key)

        def step(state, key):
            state, *found = source.next(state, agent, agent_state, key)
            return state, found

        return jax.lax.scan(step, state, jax.random.split(key, 12))

    ((_, episodes), _), (batches, metrics) = run(jax.random.key(0))
    batch = jax.tree.map(lambda x: x[-1], batches)
    rewards_of = jax.jit(rot.transport_rewards(config, data, LENGTH))
    expected = jax.vmap(rewards_of)(episodes.data, jnp.arange(LENGTH) < episodes.steps[:, None])
    kept = np.asarray(episodes.kept)
    assert kept.sum() == 8 and expected[kept].max() < 0.0
    np.testing.assert_allclose(episodes.data.reward[kept], expected[kept], atol=1e-6)
    np.testing.assert_allclose(episodes.episode_return[kept], expected[kept].sum(1), atol=1e-5)
    assert metrics["episode/judged"].count.tolist() == [0, 0, 0, 0, 2] * 2 + [0, 0]  # of two environments
    row, time = batch.own.slot // LENGTH, batch.own.slot % LENGTH  # nothing ended since
    assert kept[row].all() and set(time.tolist()) == set(range(LENGTH))
    np.testing.assert_array_equal(batch.own.transition.reward, episodes.data.reward[row, time])
    np.testing.assert_array_equal(batch.own.discount, np.float32(0.9))  # truncated, never terminated
    assert batch.data.transition.action.shape == (32, 1) and bool((batch.data.transition.action == 0.5).all())


# --- The policy's loss


def batch(size=12):
    """Own steps and demonstrations, of random numbers."""
    keys = jax.random.split(jax.random.key(0), 6)
    normal = lambda key, width: jax.random.normal(key, (size, width))
    no = jnp.zeros(size, bool)
    own = Transition(
        normal(keys[0], 3),
        jnp.tanh(normal(keys[1], 2)),
        -jax.random.uniform(keys[2], (size,)),
        no,
        no,
        normal(keys[3], 3),
    )
    own = own.replace(extras={"episode_return": jnp.linspace(-1.0, -4.0, size)})
    shown = own.replace(observation=normal(keys[4], 3), action=jnp.clip(2.0 * normal(keys[5], 2), -1.0, 1.0), extras={})
    sample = lambda steps: Sample(steps, jnp.full(size, 0.9), jnp.ones(size), jnp.arange(size))
    return sources.Beside(sample(own), sample(shown))


@jax.jit
def one_update(config, updates):
    """The states before and after the update of this number, and its metrics. The clone is another policy."""
    agent = rot.make(SPEC, config)
    before, other = agent.init(jax.random.key(0)), agent.init(jax.random.key(7))
    before = before._replace(clone=other.clone, scale=jnp.float32(3.0), updates=jnp.int32(updates))
    return before, *agent.update(before, batch(), jax.random.key(1))


def in_numpy(config, before):
    """Distance, share of states where the clone is preferred, and mean Q of the policy's actions."""
    policy, critic = td3.networks(SPEC, config)
    own, shown = batch().own.transition, batch().data.transition
    acts = lambda params, observation: jnp.tanh(policy.apply(params, observation))
    q = lambda observation, action: np.float64(critic.apply(before.learner.critic.params, observation, action))[0, :, 0]
    params, seen = before.learner.policy.params, shown.observation
    far = (np.float64(acts(params, seen) - shown.action) ** 2).sum(1).mean()
    share = np.mean(q(seen, acts(before.clone, seen)) > q(seen, acts(params, seen)))
    return far, share, q(own.observation, acts(params, own.observation)).mean()


STILL = SMALL.replace(critic_learning_rate=0.0, policy_learning_rate=0.0, clone_updates=10.0, cloning_scale=0.7)
WEIGHTS = [
    ("filter", 9, lambda share: 1.0),  # still cloning
    ("filter", 10, lambda share: share),
    ("schedule", 10, lambda share: 0.8),
    ("schedule", 60, lambda share: 0.5),  # half way from 0.8 to 0.2
    ("schedule", 999, lambda share: 0.2),
]


@pytest.mark.parametrize("cloning, updates, weight", WEIGHTS)
def test_the_policys_loss_by_hand(cloning, updates, weight):
    config = STILL.replace(cloning=cloning, schedule_start=0.8, schedule_end=0.2, schedule_updates=100.0)
    before, _, metrics = one_update(config, updates)
    far, share, climbed = in_numpy(config, before)
    assert 0.1 < share < 0.9
    w = weight(share)
    assert float(metrics["policy/cloning_weight"]) == pytest.approx(w)
    assert float(metrics["policy/clone_preferred"]) == pytest.approx(share)
    np.testing.assert_allclose(metrics["policy/distance"], far, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss/policy"], w * 0.7 * far - (1.0 - w) * climbed, rtol=1e-5, atol=1e-6)


def test_while_it_clones_values_do_not_move_the_policy_and_afterwards_they_do():
    """The gradient (Adam's first moment) of the first ten updates is that of the distance alone; then not."""
    config, shown = SMALL.replace(clone_updates=10.0), batch().data.transition
    policy, _ = td3.networks(SPEC, config)

    def distance(params):
        far = jnp.tanh(policy.apply(params, shown.observation)) - shown.action
        return config.cloning_scale * jnp.square(far).sum(1).mean()

    for updates, only_cloning in ((9, True), (10, False)):
        before, after, _ = one_update(config, updates)
        gradient = jax.jit(jax.grad(distance))(before.learner.policy.params)
        moment = after.learner.policy.opt_state[0].mu
        pairs = zip(jax.tree.leaves(moment), jax.tree.leaves(gradient))
        assert all(np.allclose(m, 0.1 * g, atol=1e-6) for m, g in pairs) == only_cloning


def test_the_clone_is_the_policy_as_it_was_when_it_last_only_cloned():
    same = lambda a, b: all(bool((x == y).all()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)))
    config = SMALL.replace(clone_updates=10.0)
    before, after, _ = one_update(config, 9)
    assert same(after.clone, after.learner.policy.params) and int(after.updates) == 10
    before, after, _ = one_update(config, 10)
    assert same(after.clone, before.clone) and not same(after.clone, after.learner.policy.params)


def test_the_first_batch_sets_the_scale_of_rewards():
    """Episodes of the batch came to -2.5 in the mean, and are to come to -10; later batches leave the scale (here 3)."""
    config = STILL.replace(target_noise=0.0)
    targets = []
    for updates, scale in ((0, 4.0), (1, 3.0)):
        before, after, metrics = one_update(config, updates)
        assert float(after.scale) == float(metrics["reward/scale"]) == pytest.approx(scale)
        policy, critic = td3.networks(SPEC, config)
        own = batch().own.transition
        action = jnp.tanh(policy.apply(before.learner.target_policy, own.next_observation))
        value = np.float64(critic.apply(before.learner.target_critic, own.next_observation, action))[..., 0].min(0)
        q = np.float64(critic.apply(before.learner.critic.params, own.observation, own.action))[..., 0]
        errors = scale * np.float64(own.reward) + 0.9 * value - q
        np.testing.assert_allclose(metrics["loss/critic"], 0.5 * (errors**2).sum(0).mean(), rtol=1e-5)
        targets.append(float(metrics["loss/critic"]))
    assert targets[0] != pytest.approx(targets[1], rel=1e-2)


# --- What it learns


@functools.partial(jax.jit, static_argnums=2)
def learn(config, data, iterations, seed=0):
    env = Walk()
    learner = train.make(rot.make(env.spec, config), rot.source(env, config, data))
    state, metrics = learner.run(learner.init(jax.random.key(seed)), iterations)
    return state.agent, metrics


def test_transport_alone_repeats_the_walk_and_cloning_the_actions():
    """The demonstration went up by 0.3 a step, and its actions are told as -0.3: whoever is paid for states goes up, who clones
    does as told."""
    env, data = Walk(), walks(0.3, action=-0.3)
    config = SMALL.replace(cloning="none", num_steps=1, exploration_noise=0.3)
    agent = rot.make(env.spec, config)
    act = lambda state, observation: agent.act(state, observation, (), jax.random.key(0), False)[0]
    state, metrics = learn(config.replace(clone_updates=0.0), data, 1500)
    seen = [jnp.zeros(2)]
    for _ in range(LENGTH):
        seen.append(env.step(seen[-1], act(state, seen[-1][None])[0], jax.random.key(0))[0])
    np.testing.assert_allclose(
        np.array(seen)[1:, 0], 0.3 * np.arange(1, LENGTH + 1), atol=0.2
    )  # over seeds within 0.14
    assert float(metrics["policy/cloning_weight"]) == 0.0
    state, metrics = learn(config.replace(clone_updates=1e9), data, 1500)
    np.testing.assert_allclose(act(state, data.transition.observation), -0.3, atol=0.02)
    assert float(metrics["policy/cloning_weight"]) == 1.0


# --- What is refused


def test_settings_that_do_not_exist_are_refused():
    with pytest.raises(UserError, match="no cloning 'filtr'; .*filter"):
        rot.make(SPEC, SMALL.replace(cloning="filtr"))
    with pytest.raises(UserError, match="no cost 'cosinus'"):
        rot.make(SPEC, SMALL.replace(cost="cosinus"))
    with pytest.raises(UserError, match="no inputs 'action'"):
        rot.make(SPEC, SMALL.replace(inputs="action"))
    with pytest.raises(UserError, match="clone_updates must be at least 1"):
        rot.make(SPEC, SMALL.replace(clone_updates=0.0))
    with pytest.raises(UserError, match="continuous actions"):
        rot.make(EnvSpec((3,), Discrete(2)), SMALL)


def test_without_a_time_limit_there_are_no_episodes_to_judge():
    class Endless(Walk):
        @property
        def spec(self):
            return EnvSpec((2,), Continuous((1,)), None)

    with pytest.raises(UserError, match="time limit"):
        rot.source(Endless(), SMALL, walks(0.5))
