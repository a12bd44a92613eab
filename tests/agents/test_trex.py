"""T-REX: the reward of ranked demonstrations orders episodes that it has not seen, also those better than all of them."""

import jax
import jax.numpy as jnp
import numpy as np

from rljax.agents.preference import reward_model
from rljax.data import dataset as dataset_lib
from rljax.data import feedback as feedback_lib
from rljax.data.feedback import Feedback
from rljax.types import Continuous, EnvSpec, Transition

SPEC, LENGTH = EnvSpec((3,), Continuous((1,))), 20


class World:
    spec = SPEC


def episodes(skill, seed):
    """What is seen: how well it goes, about `skill` [E]; the time that has passed; and something else. Paid is the first."""
    rng = np.random.default_rng(seed)
    count = len(skill) * LENGTH
    time = np.tile(np.linspace(0.0, 1.0, LENGTH), len(skill))
    well = np.repeat(skill, LENGTH) + 0.3 * rng.normal(size=count)
    seen = np.stack([well, time, rng.normal(size=count)], 1).astype(np.float32)
    action = rng.uniform(-1.0, 1.0, (count, 1)).astype(np.float32)
    ends = np.tile(np.arange(LENGTH) == LENGTH - 1, len(skill))
    return dataset_lib.from_transitions(Transition(seen, action, well.astype(np.float32), ~ends & ends, ends, seen))


def test_it_orders_unseen_episodes_and_looks_beyond_the_best(learn_offline):
    data = episodes(np.linspace(-1.0, 0.0, 12), 0)
    key = jax.random.key(0)
    start, length = feedback_lib.snippets(data, np.asarray(data.episode_return), key, 500, 8)
    rank = jnp.tile(jnp.array([0, 1]), (500, 1))
    told = Feedback(start, length, rank, jnp.ones(500), jnp.zeros(500, jnp.int32), 8)
    config = reward_model.Config(
        learning_rate=3e-3, hidden=(16,), batch_size=64, num_updates=4, segment=8, bounded=False, num_models=1
    )
    agent, state = learn_offline(reward_model, config, World, data.replace(feedback=told), 100)
    reward = jax.jit(lambda steps: agent.reward(state, steps))

    def returns(data):
        return np.asarray(reward(data.transition)).reshape(-1, LENGTH).sum(1)

    unseen = episodes(np.linspace(0.2, 1.0, 9), 1)
    found, paid = returns(unseen), np.asarray(unseen.episode_return)
    order = lambda x: x.argsort().argsort()
    assert np.corrcoef(order(found), order(paid))[0, 1] > 0.95
    assert found.min() > returns(data).max()
