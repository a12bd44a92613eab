"""MR.Q: one update by numpy, what may move what, and what it must learn on probes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from rljax import train
from rljax.agents.online import mrq
from rljax.data import priorities
from rljax.envs import probes
from rljax.errors import UserError
from rljax.losses import value
from rljax.networks.policies import action_vector
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition

SIZES = dict(state_size=8, action_size=4, pair_size=8, hidden=(8,), num_bins=9, log_reward_range=3.0)
STILL = dict(encoder_learning_rate=0.0, critic_learning_rate=0.0, policy_learning_rate=0.0)
SPECS = {"continuous": EnvSpec((3,), Continuous((2,))), "discrete": EnvSpec((3,), Discrete(4))}
CONFIG = mrq.Config(target_period=3, horizon=4, gamma=0.9, **SIZES)
SIZE = 12


def sample(spec, size=SIZE, horizon=4):
    """Random segments, every third of which ends after two steps: by turns it terminates and is cut off."""
    rng = np.random.default_rng(0)
    normal = lambda *shape: rng.normal(size=shape).astype(np.float32)
    if isinstance(spec.action, Continuous):
        action = rng.uniform(-1.0, 1.0, (size, horizon, 2)).astype(np.float32)
    else:
        action = rng.integers(0, 4, (size, horizon)).astype(np.int32)
    terminated, truncated = np.zeros((2, size, horizon), bool)
    terminated[::6, 1] = truncated[3::6, 1] = True
    done = terminated | truncated
    mask = np.cumsum(done, 1) - done == 0
    observation = normal(size, horizon + 1, 3)
    segment = Transition(
        observation[:, :-1], action, 3.0 * normal(size, horizon), terminated, truncated, observation[:, 1:]
    )
    first = jax.tree.map(lambda x: x[:, 0], segment)
    every = lambda x: np.full(size, x)
    extras = {"segment": segment, "mask": mask, "reward_size": every(np.float32(2.5)), "terminates": every(True)}
    steps = first.replace(reward=normal(size), next_observation=normal(size, 3), extras=extras)
    discount = np.where(np.arange(size) % 4 == 0, 0.0, 0.729).astype(np.float32)
    return Sample(steps, discount, np.ones(size, np.float32), np.arange(size))


@functools.partial(jax.jit, static_argnums=0)
def initial(spec, config):
    return mrq.make(spec, config).init(jax.random.key(0))


def begin(spec, config, scale=1.0, logits=None):
    """The first state, of whose policy the output is `logits` everywhere, if any."""
    state = initial(spec, config)._replace(reward_scale=jnp.float32(scale))
    if logits is None:
        return state
    params = jax.tree.map(jnp.zeros_like, state.policy.params)
    params["params"]["Dense_0"]["bias"] = jnp.float32(logits)
    return state._replace(policy=state.policy._replace(params=params))


@functools.partial(jax.jit, static_argnums=0)
def update(spec, config, state, batch, key=1):
    return mrq.make(spec, config).update(state, batch, jax.random.key(key))


def moved(a, b):
    return any(bool((x != y).any()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def vectors(spec, action):
    return action if isinstance(spec.action, Continuous) else np.eye(4, dtype=np.float32)[action]


@functools.partial(jax.jit, static_argnums=0)
def outputs(spec, config, state, batch, taken, segment_actions):
    """What the networks of a state say: of segments, of values of the actions taken and of the policy's, here and after."""
    (encoder, policy, critic), steps = mrq.networks(spec, config), batch.transition
    apply = lambda method, *inputs: encoder.apply(state.encoder.params, *inputs, method=method)
    q_values = lambda *inputs: critic.apply(state.critic.params, apply("join", *inputs))[..., 0]
    here, after = apply("encode", steps.observation), apply("encode", steps.next_observation)
    predicted, features = [], here
    for t in range(4):
        predicted.append(apply("predict", apply("join", features, segment_actions[:, t])))
        features = predicted[-1][0]
    output = policy.apply(state.policy.params, jnp.concatenate([here, after]))
    sure = jax.nn.one_hot(output.argmax(axis=-1), 4)
    chosen = jnp.tanh(output) if isinstance(spec.action, Continuous) else sure
    chosen_q = q_values(jnp.concatenate([here, after]), chosen)
    return predicted, apply("encode", steps.extras["segment"].next_observation), q_values(here, taken), chosen_q, output


def loss_of_segments(segment, mask, predicted, following):
    """By features, by rewards, by terminations, [B] each, by loops in numpy."""
    even = np.linspace(-3, 3, 9)
    support = np.sign(even) * (np.exp(np.abs(even)) - 1)
    dynamics, reward, termination = np.zeros((3, SIZE))
    for t in range(4):
        features, logits, ends = (np.float64(x) for x in predicted[t])
        for i in np.flatnonzero(mask[:, t]):
            dynamics[i] += ((features[i] - np.float64(following[i, t])) ** 2).mean()
            termination[i] += (ends[i] - segment.terminated[i, t]) ** 2
            r = float(segment.reward[i, t])
            above = np.flatnonzero(support > r)[0]
            weight = (r - support[above - 1]) / (support[above] - support[above - 1])
            log_probs = logits[i] - np.log(np.exp(logits[i]).sum())
            reward[i] += (1 - weight) * (np.log(1 - weight) - log_probs[above - 1])
            reward[i] += weight * (np.log(weight) - log_probs[above])
    return dynamics, reward, termination


@pytest.mark.parametrize("kind", SPECS)
def test_losses_from_the_networks_outputs(kind):
    """Nothing moves; what the networks say, put together in numpy. The critics' values were of rewards divided by 5 and are to be
    of rewards divided by 2.5. The policy of discrete actions is sure of one, so that it is no matter what is drawn."""
    spec, config = SPECS[kind], CONFIG.replace(temperature=1.0, target_noise=0.0, **STILL)
    before = begin(spec, config, 5.0, None if kind == "continuous" else [0.0, 0.0, 1e3, 0.0])
    batch = sample(spec)
    after, metrics = update(spec, config, before, batch)
    assert not moved([x.params for x in before[:3]], [x.params for x in after[:3]]) and after.reward_scale == 2.5
    steps, segment, mask = batch.transition, batch.transition.extras["segment"], batch.transition.extras["mask"]
    taken = vectors(spec, steps.action), vectors(spec, segment.action)
    predicted, following, q, chosen_q, output = outputs(spec, config, before, batch, *taken)

    dynamics, reward, termination = loss_of_segments(segment, mask, predicted, following)
    expected = {"dynamics": dynamics, "reward": reward, "termination": termination}
    expected["encoder"] = dynamics + 0.1 * reward + 0.1 * termination
    for name, losses in expected.items():
        np.testing.assert_allclose(metrics[f"loss/{name}"], losses.mean(), rtol=5e-5)

    q, chosen_q, output = np.float64(q), np.float64(chosen_q), np.float64(output)
    target = (np.float64(steps.reward) + np.float64(batch.discount) * 5.0 * chosen_q[:, SIZE:].min(axis=0)) / 2.5
    errors = np.abs(target - q)
    assert (errors.max(axis=0) > 1.0).any() and (errors.max(axis=0) < 1.0).any()
    np.testing.assert_allclose(metrics["priority"], np.maximum(errors.max(axis=0), 1.0), rtol=1e-4)
    np.testing.assert_allclose(metrics["critic/q"], 2.5 * q.mean(), rtol=1e-4, atol=1e-6)
    huber = np.where(errors < 1.0, 0.5 * errors**2, errors - 0.5)
    np.testing.assert_allclose(metrics["loss/critic"], huber.mean(), rtol=1e-5)
    loss = -chosen_q[:, :SIZE].mean() + 1e-5 * (output[:SIZE] ** 2).mean()
    np.testing.assert_allclose(metrics["loss/policy"], loss, rtol=1e-5, atol=1e-6)


def test_targets_and_their_scale_are_copied_once_a_period():
    """Two periods of three steps against six steps written out, whose targets, scale and all, are copied before the first and the
    fourth. The encoder of a whole period is the one that it ends with, the targets' the one that it began with."""
    spec = SPECS["continuous"]
    config = CONFIG.replace(target_noise=0.0, encoder_learning_rate=1e-2, critic_learning_rate=1e-2)
    (encoder, policy, critic), batch = mrq.networks(spec, config), sample(spec)
    optimiser = optax.chain(optax.clip_by_global_norm(20.0), optax.adamw(1e-2, weight_decay=1e-4))

    @jax.jit
    def step(model, state, targets, steps, discount):
        """One step of the critics, which read the encoder of `state`."""

        def join(state, observation, action):
            features = encoder.apply(state.encoder.params, observation, method="encode")
            action = jnp.tanh(policy.apply(state.policy.params, features)) if action is None else action
            return encoder.apply(state.encoder.params, features, action, method="join")

        lowest = critic.apply(targets.critic.params, join(targets, steps.next_observation, None)).min(axis=0)[:, 0]
        target = (steps.reward + discount * targets.reward_scale * lowest) / 2.5
        pair = join(state, steps.observation, steps.action)
        loss = lambda params: optax.huber_loss(critic.apply(params, pair)[..., 0], target).mean()
        moves, opt_state = optimiser.update(jax.grad(loss)(model.params), model.opt_state, model.params)
        return model._replace(params=optax.apply_updates(model.params, moves), opt_state=opt_state)

    def furthest(a, b):
        return max(float(jnp.abs(x - y).max()) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    state = begin(spec, config, 5.0)
    for period in range(2):
        after, _ = update(spec, config, state, batch, period)
        model = following = state.critic
        for i in range(3):
            part = jax.tree.map(lambda x, i=i: x[i::3], (batch.transition, batch.discount))
            model = step(model, after, state, *part)
            scale = state.reward_scale if i == 0 else jnp.float32(2.5)
            following = step(following, after, state._replace(critic=following, reward_scale=scale), *part)
        assert furthest(after.critic.params, model.params) < 1e-4
        assert (
            furthest(after.critic.params, following.params) > 1e-3
        )  # targets that are copied at each step lead elsewhere
        assert after.reward_scale == 2.5
        state = after


def test_critics_and_policy_leave_the_encoder_as_it_is():
    spec, names = SPECS["discrete"], ("encoder", "policy", "critic")
    off = dict(dynamics_weight=0.0, reward_weight=0.0, termination_weight=0.0, weight_decay=0.0)
    for changes, expected in (({}, [True] * 3), (off, [False, True, True])):
        config = CONFIG.replace(**changes)
        before = begin(spec, config)
        after, _ = update(spec, config, before, sample(spec))
        assert [moved(getattr(before, x).params, getattr(after, x).params) for x in names] == expected


@pytest.mark.parametrize("kind", SPECS)
def test_what_follows_the_end_of_an_episode_changes_nothing(kind):
    batch, spec = sample(SPECS[kind]), SPECS[kind]
    extras = batch.transition.extras
    after_end = lambda x: ~extras["mask"].reshape(SIZE, 4, *[1] * (x.ndim - 2))
    other = jax.tree.map(
        lambda x: np.where(after_end(x), (~x if x.dtype == bool else x[::-1] + 1), x), extras["segment"]
    )
    other = other.replace(action=np.where(after_end(other.action), extras["segment"].action[::-1], other.action))
    assert moved(other, extras["segment"])
    changed = batch.replace(transition=batch.transition.replace(extras=extras | {"segment": other}))
    state = begin(spec, CONFIG)
    assert not moved(update(spec, CONFIG, state, batch), update(spec, CONFIG, state, changed))
    seen = extras | {"segment": other, "mask": np.ones((SIZE, 4), bool)}  # were they not masked
    changed = batch.replace(transition=batch.transition.replace(extras=seen))
    assert moved(update(spec, CONFIG, state, batch)[0].encoder, update(spec, CONFIG, state, changed)[0].encoder)


def test_without_a_termination_in_the_replay_none_is_learned():
    spec, batch = SPECS["discrete"], sample(SPECS["discrete"])
    extras = batch.transition.extras | {"terminates": np.zeros(SIZE, bool)}
    never = batch.replace(transition=batch.transition.replace(extras=extras))
    config = CONFIG.replace(**STILL)
    state = begin(spec, config)
    losses = [update(spec, config, state, x)[1] for x in (batch, never)]
    assert losses[0]["loss/termination"] > 0.0 == losses[1]["loss/termination"]
    less = losses[0]["loss/encoder"] - losses[1]["loss/encoder"]
    np.testing.assert_allclose(less, 0.1 * losses[0]["loss/termination"], rtol=1e-3)


def test_drawing_by_priority_with_hubers_loss_is_a_loss_of_higher_power():
    """Large errors are drawn by |error|^alpha, small ones alike; the mean gradient is that of |error|^(1 + alpha) / (1 + alpha)
    beyond 1 and of half the square within, over the mean priority (arXiv:2007.06049)."""
    errors = np.array([-4.0, -0.3, 0.9, 2.0, 7.5, 0.0, -1.5])
    alpha, priority = 0.4, jnp.maximum(jnp.abs(jnp.float32(errors)), 1.0)
    tree = priorities.update(priorities.init(len(errors)), jnp.arange(len(errors)), priority, alpha)
    leaves = np.float64(tree.levels[0]).ravel()[: len(errors)]
    slopes = jax.vmap(jax.grad(value.huber), (0, None))(jnp.float32(errors), 1.0)
    drawn = leaves / leaves.sum() * slopes
    size = np.abs(errors)
    uniform = np.where(size <= 1.0, errors, np.sign(errors) * size**alpha) / np.maximum(size**alpha, 1.0).mean()
    np.testing.assert_allclose(drawn, uniform / len(errors), rtol=1e-5)


def test_exploration():
    observation, key = jnp.zeros((20_000, 3)), jax.random.key(1)

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def act(spec, config, state, explore):
        return mrq.make(spec, config).act(state, observation, (), key, explore)[0]

    acts = lambda spec, config, logits, explore: np.asarray(
        act(spec, config, begin(spec, config, 1.0, logits), explore)
    )
    box, two = SPECS["continuous"], EnvSpec((3,), Discrete(2))
    np.testing.assert_allclose(
        acts(box, CONFIG, [0.3, 2.0], False), np.tile(np.tanh([0.3, 2.0]), (20_000, 1)), rtol=1e-6
    )
    noisy = acts(box, CONFIG, [0.3, 2.0], True)
    np.testing.assert_allclose(noisy[:, 0].std(), 0.2, atol=0.004)
    assert np.abs(noisy).max() == 1.0
    # the largest entry is at a draw from softmax(logits); noise of half the size: y = softmax([0, 0.1]), whose gap is 0.05
    quiet = CONFIG.replace(exploration_noise=0.0)
    np.testing.assert_allclose(acts(two, quiet, [0.0, 1.0], True).mean(), 1 / (1 + np.exp(-1.0)), atol=0.01)
    sure = CONFIG.replace(temperature=1e6)
    gap = np.tanh(0.05)
    expected = scipy.stats.norm.cdf(gap / (0.1 * np.sqrt(2)))
    np.testing.assert_allclose(acts(two, sure, [0.0, 1e5], True).mean(), expected, atol=0.01)
    assert (acts(two, CONFIG, [0.0, 1e-3], False) == 1).all()


def test_refusals():
    with pytest.raises(UserError, match="target_period=5 must divide the 12 transitions"):
        update(
            SPECS["discrete"],
            CONFIG.replace(target_period=5),
            begin(SPECS["discrete"], CONFIG),
            sample(SPECS["discrete"]),
        )
    with pytest.raises(UserError, match="num_bins=1 must be at least 2"):
        mrq.make(SPECS["discrete"], CONFIG.replace(num_bins=1))


SMALL = mrq.Config(
    gamma=0.9,
    encoder_learning_rate=3e-3,
    critic_learning_rate=3e-3,
    policy_learning_rate=3e-3,
    exploration_noise=0.4,
    target_period=10,
    num_envs=4,
    rollout_length=10,
    batch_size=32,
    capacity=800,
    warmup=100,
    **SIZES | dict(state_size=16, pair_size=16, hidden=(16,)),
)


def learned(env, observations, iterations):
    """Best actions [N] at some observations, and what the critics say of them [N], after training."""
    agent = mrq.make(env.spec, SMALL)
    learner = train.make(agent, mrq.source(env, SMALL))
    state = jax.jit(lambda key: learner.run(learner.init(key), iterations)[0].agent)(jax.random.key(0))
    encoder, _, critic = mrq.networks(env.spec, SMALL)
    observation = jnp.array(observations)[:, None]
    action, _, _ = agent.act(state, observation, (), jax.random.key(0), False)
    features = encoder.apply(state.encoder.params, observation, method="encode")
    pair = encoder.apply(state.encoder.params, features, action_vector(env.spec, action), method="join")
    return action, state.reward_scale * critic.apply(state.critic.params, pair).mean(axis=0)[:, 0]


@pytest.mark.parametrize("continuous", [False, True])
def test_probes(continuous):
    """The policy follows the observation, and the critics know what it earns."""
    env = probes.ObservationActionReward(continuous=continuous)
    action, q = learned(env, [-1.0, 1.0], 100 if continuous else 50)
    np.testing.assert_allclose(action, [[-0.5], [0.5]] if continuous else [0, 1], atol=0.15)
    np.testing.assert_allclose(q, [0.0, 0.0] if continuous else [1.0, 1.0], atol=0.05)


def test_what_a_batch_is_made_of():
    """Rewards of 1, episodes cut off after ten steps: targets of up to three steps that go on with a value, segments of up to five.
    All is new, so that every step is drawn as likely, and none counts less for it; strata make each of a period's batches of all
    that is kept."""
    env = probes.TimeLimit(continuous=True)
    source = mrq.source(env, SMALL)
    agent = mrq.make(env.spec, SMALL)
    state = initial(env.spec, SMALL)

    @jax.jit
    def first(key):
        found = source.next(source.init(agent, key), agent, state, key)
        return found[1], found[0][1].filled

    batch, filled = first(jax.random.key(0))
    steps = batch.transition
    assert (source.env_steps, source.warmup_steps, filled) == (40, 120, 40)
    assert batch.weight.shape == (320,) and (batch.weight == 1.0).all() and (steps.extras["reward_size"] == 1.0).all()
    left = 10 - np.asarray(batch.slot) // 4 % 10  # until the limit: its 4 environments began together
    np.testing.assert_allclose(batch.discount, 0.9 ** np.minimum(left, 3), rtol=1e-6)
    np.testing.assert_allclose(steps.reward, (1.0 - 0.9 ** np.minimum(left, 3)) / 0.1, rtol=1e-5)
    np.testing.assert_array_equal(steps.extras["mask"].sum(1), np.minimum(left, 5))
    assert not steps.extras["terminates"].any()
    np.testing.assert_array_equal(
        np.asarray(batch.slot) // 2, np.arange(320) // 4
    )  # 160 slots, four draws from each two
