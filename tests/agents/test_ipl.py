"""IPL and reward models: the optimum of a finite MDP from judgements by returns, and their losses by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import sources
from rljax.agents.offline import iql
from rljax.agents.preference import ipl, reward_model
from rljax.check import check_agent
from rljax.data import feedback as feedback_lib
from rljax.data import labellers
from rljax.data.feedback import Feedback
from rljax.envs import tabular
from rljax.errors import UserError
from rljax.evaluate import agreement

GRID = tabular.gridworld(3, 3, discount=0.9)
SMALL = ipl.Config(
    learning_rate=3e-3,
    gamma=0.9,
    target_rate=0.05,
    lean=0.98,
    inverse_temperature=20.0,
    regularisation=0.1,
    hidden=(64,),
    batch_size=64,
    num_judgements=64,
    num_updates=4,
    segment=4,
)


@pytest.fixture(scope="module")
def data(random_data):
    """Random walks, with judgements by what segments of four steps were paid, Boltzmann's."""
    found = random_data(GRID, 32, 128)
    key, label_key = jax.random.split(jax.random.key(5))
    start, length = feedback_lib.segments(found, key, (4000, 2), 4)
    time = jnp.arange(4)
    mask = time < length[..., None]
    reward = found.transition.reward[start[..., None] + jnp.where(mask, time, 0)]
    utility = 3.0 * jax.vmap(jax.vmap(labellers.partial_return))(reward, mask)
    teacher = labellers.Teacher(temperature=1.0)
    rank, weight = jax.vmap(labellers.judge, (None, 0, 0))(teacher, utility, jax.random.split(label_key, 4000))
    return found.replace(feedback=Feedback(start, length, rank, weight, jnp.zeros(4000, jnp.int32), 4))


@pytest.mark.parametrize("values", ipl.VALUES)
def test_values_of_judgements_have_the_optimal_policy(data, learn_offline, optimal_q, values):
    config = SMALL.replace(values=values)
    agent, state = learn_offline(ipl, config, GRID, data, 600)
    check_agent(agent, GRID, ipl.source(GRID, config, data))
    num_states = GRID.spec.observation_shape[0]
    action, _, _ = agent.act(state, jnp.eye(num_states), (), jax.random.key(0), False)
    best = optimal_q(GRID)
    chosen = best[np.arange(num_states), np.asarray(action)]
    np.testing.assert_allclose(chosen, best.max(1), atol=1e-4)


@pytest.mark.parametrize("values", ipl.VALUES)
def test_its_loss_by_hand(data, values):
    """Q - gamma V, 0 after a termination; both halves of the squares; each critic by itself. AWAC's V is the mean, over
    what the policy does, of the lower target critic."""
    agent = ipl.make(GRID.spec, SMALL.replace(values=values))
    state = jax.jit(agent.init)(jax.random.key(0))
    order = np.asarray(data.feedback.rank[:, 0] - data.feedback.rank[:, 1])
    some = np.concatenate([np.flatnonzero(order == x)[:3] for x in (-1, 0, 1)])
    judged = feedback_lib.read(data, jnp.asarray(some), jax.random.key(0))
    rows = jnp.arange(5)
    sample = sources.dataset_lib.read(data, rows, 0.9)
    if values == "awac":  # its target is another network than its critic
        state = state._replace(target_critic=jax.tree.map(lambda x: 1.3 * x, state.target_critic))
    # V learns before Q: its parameters after the update are those that Q's loss sees
    after, metrics = jax.jit(agent.update)(state, sources.Beside(judged, sample), jax.random.key(1))
    policy, value, critic = iql.networks(GRID.spec, SMALL)

    def next_values(following):
        if values == "iql":
            return np.asarray(value.apply(after.value.params, following))[:, 0]
        does = jax.nn.softmax(policy.apply(state.policy.params, following).logits)
        return np.asarray((does * critic.apply(state.target_critic, following).min(0)).sum(-1))

    def rewards(steps):
        flat = lambda x: np.asarray(x).reshape(-1, *x.shape[steps.reward.ndim :])
        observation, following, action = flat(steps.observation), flat(steps.next_observation), flat(steps.action)
        q = np.asarray(critic.apply(state.critic.params, observation))[:, np.arange(len(action)), action]
        v = np.clip(next_values(following), -1 / (0.1 * 0.1), 1 / (0.1 * 0.1))
        return (q - 0.9 * (1 - flat(steps.terminated)) * v).reshape(2, *steps.reward.shape)

    reward = rewards(judged.transition)
    score = np.where(judged.mask, reward, 0.0).sum(-1)
    ahead, rank = score[..., 0] - score[..., 1], np.asarray(judged.rank)
    first, second = np.log1p(np.exp(-ahead)), np.log1p(np.exp(ahead))  # losses where one was better
    order = np.sign(rank[:, 0] - rank[:, 1])
    assert set(order) == {-1, 0, 1}
    told = np.select([order < 0, order > 0], [first, second], 0.5 * (first + second)).mean(1).sum()
    squares = (np.square(reward) * np.asarray(judged.mask)).sum((1, 2, 3)) / judged.mask.sum()
    squares = 0.5 * (squares + np.square(rewards(sample.transition)).mean(1)).sum()
    np.testing.assert_allclose(metrics["loss/critic"], told + 0.1 * squares, rtol=1e-4)


def test_values_of_nobody_are_refused():
    with pytest.raises(UserError, match="There are no values 'awak'; .*awac"):
        ipl.make(GRID.spec, SMALL.replace(values="awak"))


def test_a_reward_model_finds_what_is_paid_and_ignores_nothing_it_was_told(data, learn_offline):
    """Against the exact rewards of the cells that matter, in the scale that the teacher has; and on judgements it has not seen."""
    config = reward_model.Config(
        learning_rate=3e-3, hidden=(32,), batch_size=128, num_updates=4, segment=4, bounded=False, num_models=2
    )
    told = data.feedback
    half = lambda part: jax.tree.map(lambda x: x[part], told)
    agent, state = learn_offline(reward_model, config, GRID, data.replace(feedback=half(slice(0, 3000))), 400)
    check_agent(agent, GRID, reward_model.source(GRID, config, data))
    steps = data.transition
    found, paid = np.asarray(agent.reward(state, steps)), 3.0 * np.asarray(steps.reward)
    goal = paid > 0
    assert goal.any() and abs((found[goal].mean() - found[~goal].mean()) - 3.0) < 0.5
    score = jax.jit(lambda data: agreement(agent, state, data))
    assert float(score(data.replace(feedback=half(slice(3000, 4000))))) > 0.7
