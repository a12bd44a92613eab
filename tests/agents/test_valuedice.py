"""ValueDICE: its inner optimum against the log density ratio, its policy against the demonstrator's, and where gradients flow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import train
from rljax.agents.imitation import valuedice
from rljax.agents.online import sac
from rljax.data import dataset as dataset_lib
from rljax.envs import probes
from rljax.errors import UserError
from rljax.sources import Beside
from rljax.types import Continuous, Discrete, EnvSpec, Sample, Transition
from rljax.updates import off_diagonal

SMALL = valuedice.Config(
    policy_learning_rate=0.0, critic_learning_rate=1e-2, gamma=0.8, gradient_penalty=0.0, orthogonality=0.0, starts="first",
    online=False, hidden=(),
)  # fmt: skip
SPEC = EnvSpec((3,), Discrete(2))


def settled(matching, settle, config, own, updates):
    shown = matching.sample(matching.occupancy(matching.expert))
    agent = valuedice.make(SPEC, config)
    state = settle(agent, Beside(shown if own is None else matching.sample(own), shown), updates)
    policy = np.exp([agent.log_prob(state, np.eye(3), np.full(3, a)) for a in range(2)]).T
    return state, policy


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_where_nu_is_best_its_difference_is_the_log_density_ratio(share, matching, settle):
    """And a constant; with own steps mixed in, log((1 - share) d_pi + share d_own) - log((1 - share) d_E + share d_own)."""
    own = matching.occupancy(matching.other)
    config = SMALL.replace(own_share=share, online=share > 0)
    state, policy = settled(matching, settle, config, own if share else None, 1200)
    nu = np.asarray(sac.networks(SPEC, config)[1].apply(state.critic.params["network"], jnp.eye(3)))[0]
    x = nu - 0.8 * matching.transition @ (policy * nu).sum(1)
    mixed = lambda d: (1.0 - share) * d + share * own
    ratio = np.log(mixed(matching.occupancy(policy)) / mixed(matching.occupancy(matching.expert)))
    assert np.ptp(ratio) > 0.5
    np.testing.assert_allclose(x - x.mean(), ratio - ratio.mean(), atol=0.05)


def test_the_policy_becomes_the_demonstrators_from_its_steps_alone(matching, settle):
    _, policy = settled(matching, settle, SMALL.replace(policy_learning_rate=2e-3), None, 3000)
    np.testing.assert_allclose(policy, matching.expert, atol=0.05)


@pytest.mark.parametrize("starts", valuedice.STARTS)
def test_the_loss_by_hand(starts, matching):
    """With terminations, which lead to a state of its own; exact expectations over discrete actions."""
    config = SMALL.replace(online=True, own_share=0.2, absorbing=True, hidden=(8,), starts=starts)
    agent = valuedice.make(SPEC, config)
    state = agent.init(jax.random.key(0))
    params = state.critic.params | {"absorbed": jnp.float32(0.7)}
    state = state._replace(critic=state.critic._replace(params=params))
    ended = np.arange(1000) % 10 == 0
    samples = []
    for policy in (matching.other, matching.expert):
        sample = matching.sample(matching.occupancy(policy))
        samples.append(sample.replace(transition=sample.transition.replace(terminated=ended)))
    actor, critic = sac.networks(SPEC, config)
    probs = lambda at: np.float64(jax.nn.softmax(actor.apply(state.policy.params, at)))
    table = lambda at: np.float64(critic.apply(params["network"], at))[0]
    value = lambda at: (probs(at) * table(at)).sum(-1)
    x, mean = [], lambda x: (x[:1000].sum() + 4.0 * 100 * x[1000]) / 1400.0  # gamma / (1 - gamma) is 4
    for sample in samples:
        steps = sample.transition
        following = np.where(ended, 0.7 / 0.2, value(steps.next_observation))
        here = table(steps.observation)[np.arange(1000), steps.action]
        x.append(np.append(here - 0.8 * following, 0.7))
    begin = (
        samples[1].transition.extras["first_observation"] if starts == "first" else samples[1].transition.observation
    )
    expected = np.log(0.8 * mean(np.exp(x[1])) + 0.2 * mean(np.exp(x[0]))) - 0.2 * mean(x[0])
    expected -= 0.8 * 0.2 * value(begin).mean()
    _, metrics = jax.jit(agent.update)(state, Beside(*samples), jax.random.key(3))
    assert float(metrics["loss/critic"]) == pytest.approx(expected, rel=1e-4)


def test_the_penalty_keeps_nu_from_being_steep(matching, settle):
    """In one dimension, demonstrations at 1 of the action 1, own steps at -1 of -1: where it is heavy, nu's slope is near 1."""
    spec = EnvSpec((1,), Continuous((1,)))
    ones, no = np.ones(64, np.float32), np.zeros(64, bool)
    at = lambda x: Transition(x * ones[:, None], x * ones[:, None], 0 * ones, no, no, x * ones[:, None])
    sample = lambda x: matching.sample(matching.occupancy(matching.other)).replace(transition=at(x))
    config = SMALL.replace(gradient_penalty=1000.0, online=True, hidden=(16,), starts="all", policy_learning_rate=1e-3)
    state = settle(valuedice.make(spec, config), Beside(sample(-1.0), sample(1.0)), 500)
    _, critic = sac.networks(spec, config)
    nu = lambda at: critic.apply(state.critic.params["network"], at[None, :1], at[None, 1:])[0, 0, 0]
    slopes = jax.vmap(jax.grad(nu))(jnp.linspace(-0.8, 0.8, 9)[:, None] * jnp.ones(2))
    np.testing.assert_allclose(jnp.linalg.norm(slopes, axis=1), 1.0, atol=0.1)


def test_orthogonality_by_hand():
    weight = jnp.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0]])
    assert float(off_diagonal({"kernel": weight, "bias": jnp.ones(3)})) == pytest.approx(2 * (2.0**2 + 0.0**2 + 3.0**2))
    assert float(off_diagonal({"kernel": 5.0 * jnp.eye(3)})) == 0.0


@pytest.mark.parametrize("online, continuous", [(True, False), (False, True)])
def test_what_was_demonstrated_is_learned(online, continuous):
    """It depends on the observation. Each step is an episode."""
    env = probes.ObservationActionReward(continuous=continuous)
    seen = np.where(np.arange(64) % 2 == 0, -1.0, 1.0).astype(np.float32)[:, None]
    yes = np.ones(64, bool)
    action = -0.5 * seen if continuous else (seen[:, 0] < 0).astype(np.int32)
    data = dataset_lib.from_transitions(Transition(seen, action, np.zeros(64, np.float32), yes, ~yes, seen))
    config = SMALL.replace(
        online=online, policy_learning_rate=3e-3, critic_learning_rate=3e-3, gradient_penalty=1.0, hidden=(32,),
        num_envs=8, num_updates=2, batch_size=64, capacity=2000, warmup=80, starts="all",
    )  # fmt: skip
    agent = valuedice.make(env.spec, config)

    @jax.jit
    def run(data, key):
        learner = train.make(agent, valuedice.source(env, config, data))
        return learner.run(learner.init(key), 400)[0].agent

    action, _, _ = agent.act(run(data, jax.random.key(0)), jnp.array([[-1.0], [1.0]]), (), jax.random.key(0), False)
    if continuous:
        np.testing.assert_allclose(action[:, 0], [0.5, -0.5], atol=0.25)
    else:
        assert action.tolist() == [1, 0]


def test_no_gradient_is_held_back():
    """The policy's gradient is that of finite differences of the whole objective, through starts and through what follows."""
    config = SMALL.replace(policy_learning_rate=1.0, hidden=(), absorbing=False)
    agent = valuedice.make(SPEC, config)
    state = agent.init(jax.random.key(0))
    actor, critic = sac.networks(SPEC, config)
    one_hot, no = np.eye(3, dtype=np.float32), np.zeros(3, bool)
    steps = Transition(
        one_hot,
        np.array([0, 1, 0]),
        np.zeros(3, np.float32),
        no,
        no,
        one_hot[[1, 2, 0]],
        {"first_observation": one_hot},
    )
    batch = Beside(*[Sample(steps, np.full(3, 0.8, np.float32), np.ones(3, np.float32), np.arange(3))] * 2)
    new, _ = jax.jit(agent.update)(state, batch, jax.random.key(1))
    first_moment = jax.tree.leaves(new.policy.opt_state[0].mu)  # a tenth of the gradient
    nu = np.float64(critic.apply(new.critic.params["network"], one_hot))[0]

    def minus_objective(leaves):
        logits = actor.apply(jax.tree.unflatten(jax.tree.structure(state.policy.params), leaves), one_hot)
        probs = np.exp(np.float64(logits)) / np.exp(np.float64(logits)).sum(1, keepdims=True)
        value = (probs * nu).sum(1)
        x = nu[np.arange(3), steps.action] - 0.8 * value[[1, 2, 0]]
        return -(np.log(np.exp(x).mean()) - 0.2 * value.mean())

    leaves = [np.asarray(x) for x in jax.tree.leaves(state.policy.params)]
    for i, leaf in enumerate(leaves):
        for j in np.ndindex(leaf.shape):
            moved = [[x.copy() for x in leaves] for _ in range(2)]
            moved[0][i][j] += 0.01
            moved[1][i][j] -= 0.01
            slope = (minus_objective(moved[0]) - minus_objective(moved[1])) / 0.02
            assert float(first_moment[i][j]) == pytest.approx(0.1 * slope, abs=1e-4)


def test_what_cannot_be_is_said():
    with pytest.raises(UserError, match="There is no starts 'firsts'; nearest: first"):
        valuedice.make(SPEC, SMALL.replace(starts="firsts"))
    with pytest.raises(UserError, match="gamma=1.0 must be below 1"):
        valuedice.make(SPEC, SMALL.replace(gamma=1.0))
