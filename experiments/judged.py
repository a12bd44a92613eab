"""Judgements of data by synthetic people: options of a dataset's name (see experiments/datasets.py).

  preferences=500     how many judgements
  segment=64          steps of each segment; an episode that is shorter is one by itself
  ranked=2            segments in a judgement
  teacher=return      by what was paid; or
                      `regret`, by how much less than the environment's best policy would have got (of its ladder, not exploring,
                      by one rollout from each end of a segment, discounted by 0.99; of data that are made); or
                      by the rank of whole episodes, of which segments are cut: `ranking` by what an episode was paid (T-REX,
                      Brown et al., 2019, arXiv:1904.06387), `noise` by how little noise there was in who made it (D-REX, Brown
                      et al., 2019, arXiv:1907.03976; see `collect --noise`)
  margin=0            how much more an episode must have been paid, or have had of noise, to be ranked above or below another
  rationality=10      of Boltzmann's choice, in units of the standard deviation of utilities; without it the best is chosen
  flip=0.2            share of judgements turned round
  equal=0.1           utilities so near, in the same units, are a tie

The same name gives the same judgements; `judges=1` and so on give others of the same data, to test what was learned on.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rljax import parallel
from rljax.data import feedback as feedback_lib
from rljax.data import files, labellers
from rljax.data.dataset import Dataset
from rljax.data.feedback import Feedback
from rljax.errors import UserError
from rljax.evaluate import returns_from
from rljax.experiments import ladders
from rljax.names import nearest
from rljax.types import Key

OPTIONS = ("preferences", "segment", "ranked", "teacher", "margin", "rationality", "flip", "equal", "judges")
GAMMA = 0.99
HORIZON = 500  # steps of a rollout; what follows counts less than 1 %


def feedback(dataset: Dataset, options: dict[str, str], env_name: str, env, key: Key) -> Feedback:
    """Judgements as the options say, of segments drawn from the dataset; `env` is None of data from files.

    Raises:
      UserError: options that cannot be.
    """
    whole = lambda name, default, least: _at_least(files.number(options, name, default), name, least)
    count, length, ranked = whole("preferences", 0, 1), whole("segment", 64, 1), whole("ranked", 2, 2)
    key = jax.random.fold_in(key, whole("judges", 0, 0))
    teacher = options.get("teacher", "return")
    segment_key, value_key, judge_key = jax.random.split(key, 3)
    if teacher in RANKINGS:
        if ranked != 2:
            raise UserError(f"The teacher {teacher!r} judges pairs, not ranked={ranked} segments.")
        score, later = RANKINGS[teacher](dataset)
        margin = files.number(options, "margin", 0.0)
        start, steps = feedback_lib.snippets(dataset, score, segment_key, count, length, margin, later)
        utility = jnp.asarray(score)[dataset.episode[start]]
    elif teacher in TEACHERS:
        if "margin" in options:
            raise UserError(f"?margin is of the teachers {' and '.join(RANKINGS)}, who rank whole episodes.")
        start, steps = feedback_lib.segments(dataset, segment_key, (count, ranked), length)
        utility = TEACHERS[teacher](dataset, start, steps, length, env_name, env, value_key)
    else:
        raise UserError(f"There is no teacher {teacher!r}; {nearest(teacher, (*TEACHERS, *RANKINGS))}")
    spread = float(utility.std())
    rationality = files.number(options, "rationality", np.inf)
    if not rationality > 0.0:
        raise UserError(f"rationality={rationality} must be above 0.")
    person = labellers.Teacher(
        temperature=spread / rationality,
        flip=_share(files.number(options, "flip", 0.0), "flip"),
        equal=spread * max(files.number(options, "equal", 0.0), 0.0),
    )
    judge = jax.jit(jax.vmap(labellers.judge, (None, 0, 0)))
    rank, weight = judge(person, utility, jax.random.split(judge_key, count))
    told = Feedback(start, steps, rank, weight, jnp.zeros(count, jnp.int32), min(length, int(steps.max())))
    if feedback_lib.ties(told).all():
        raise UserError(
            f"All {count} judgements are ties: segments of {length} steps are worth the same by {teacher}; make them longer, "
            "or ask the other teacher."
        )
    return told


def _rewards(dataset: Dataset, start, steps, length: int):
    """Of the segments [P, G, K], and where they are."""
    time = jnp.arange(length)
    mask = time < steps[..., None]
    return dataset.transition.reward[start[..., None] + jnp.where(mask, time, 0)], mask


def by_return(dataset: Dataset, start, steps, length: int, *_):
    return jax.vmap(jax.vmap(labellers.partial_return))(*_rewards(dataset, start, steps, length))


def by_regret(dataset: Dataset, start, steps, length: int, env_name: str, env, key: Key):
    if env is None:
        raise UserError(
            "The teacher 'regret' asks what the environment would have paid, so the data must be made, as ENVIRONMENT/TIER."
        )
    ladder = ladders.load(env_name, env.spec)
    best = parallel.select(ladder.states, -1)

    @jax.jit
    def returns(rows, key, first_action=None):
        state = jax.tree.map(lambda x: x[rows], dataset.env_state)
        observation = dataset.transition.observation[rows]
        return returns_from(env, ladder.agent, best, state, observation, key, HORIZON, GAMMA, first_action)

    last = (start + steps - 1).reshape(-1)
    first_key, last_key = jax.random.split(key)
    first_value = returns(start.reshape(-1), first_key).reshape(start.shape)
    last_return = returns(last, last_key, dataset.transition.action[last]).reshape(start.shape)
    reward, mask = _rewards(dataset, start, steps, length)
    mask = mask & (jnp.arange(length) < steps[..., None] - 1)  # the last reward is in the last return
    regret = lambda *args: labellers.regret(*args, GAMMA)
    return jax.vmap(jax.vmap(regret))(reward, mask, first_value, last_return)


TEACHERS: dict[str, Callable] = {"return": by_return, "regret": by_regret}


def of_episodes(dataset: Dataset):
    """What they were paid. Of a better one later parts are shown."""
    return np.asarray(dataset.episode_return), True


def of_noise(dataset: Dataset):
    """How little of it there was. Parts are shown from anywhere, as in the authors' code for bodies."""
    if "noise" not in dataset.transition.extras:
        raise UserError(
            "These data do not say how noisy those were who made them: record some by `collect --noise=0,0.5,1`."
        )
    return -np.asarray(dataset.transition.extras["noise"][dataset.start]), False


RANKINGS: dict[str, Callable] = {
    "ranking": of_episodes,
    "noise": of_noise,
}  # scores of episodes, and whether better is later


def _at_least(number: float, name: str, least: int) -> int:
    if number != int(number) or number < least:
        raise UserError(f"{name}={number:g} must be a whole number, at least {least}.")
    return int(number)


def _share(number: float, name: str) -> float:
    if not 0.0 <= number <= 1.0:
        raise UserError(f"{name}={number:g} must be a share, from 0 to 1.")
    return number
