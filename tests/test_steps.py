"""Steps of completions by hand, and who goes on from where they begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import completions, envs, steps
from rljax.errors import UserError
from rljax.resets import Options as Resets
from rljax.tokens import END, PAD
from rljax.types import Agent

ENV = envs.make("tokens/copy-4")
TOKENS = jnp.array([[5, 9, 3, 9, 1], [9, 9, 2, 1, 0], [1, 0, 0, 0, 0], [4, 4, 4, 4, 4]])


@pytest.mark.parametrize(
    "options, step, begin",
    [
        (dict(step_length=2), [[0, 0, 1, 1, 2]] * 4, [[0, 2, 4, 5], [0, 2, 4, 4], [0, 1, 1, 1], [0, 2, 4, 5]]),
        (
            dict(separator=9, max_steps=4),
            [[0, 0, 1, 1, 2], [0, 1, 2, 2, 2], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
            [[0, 2, 4, 5, 5], [0, 1, 2, 4, 4], [0, 1, 1, 1, 1], [0, 5, 5, 5, 5]],
        ),
        (  # what follows the most steps belongs to the last
            dict(separator=9, max_steps=2),
            [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]],
            [[0, 2, 5], [0, 1, 4], [0, 1, 1], [0, 5, 5]],
        ),
    ],
)
def test_steps_by_hand(options, step, begin):
    options, there = steps.Options(**options), np.asarray(TOKENS) != PAD
    found = steps.of_tokens(options, TOKENS)
    np.testing.assert_array_equal(np.where(there, found, 0), np.where(there, step, 0))
    number = steps.count(options, 5)
    assert number == len(begin[0]) - 1 and found.max() < number
    np.testing.assert_array_equal(steps.begins(found, TOKENS != PAD, number), begin)


def drawn(resets, options, num_prompts=30):
    """Who draws writes anything; who goes on writes digits of 5, and is told by its state how likely it should say they are."""

    def act(state, prompt, memory, key, explore, beginning):
        digits = jax.random.randint(key, (len(beginning), 5), 2, 6)
        digits = jnp.where(
            jnp.cumsum(digits == 2, axis=1) - (digits == 2) > 0, PAD, jnp.where(digits == 2, END, digits)
        )
        tokens = jnp.where(beginning != PAD, beginning, digits)
        return tokens, memory, {"log_prob": -jnp.ones(tokens.shape)}

    def write(state, prompt, key, beginning):
        ended = (beginning == END).any(axis=1, keepdims=True)
        tokens = jnp.where((beginning != PAD) | ended, beginning, state)
        return tokens, -jnp.ones(tokens.shape)

    groups = completions.groups(ENV, num_prompts, 3, resets)
    source = steps.source(groups, ENV, write, options)
    next_batch = jax.jit(lambda key: source.next((), Agent(None, act, None), jnp.int32(7), key)[1])
    return source, next_batch(jax.random.key(0))


def test_who_goes_on_is_given_what_stands_before_each_step():
    """And is paid by the task, of its prompt; all are counted."""
    source, continued = drawn(None, steps.Options(step_length=2, num_continuations=4))
    tokens, begin = np.asarray(continued.batch.tokens), np.asarray(continued.begin)
    assert source.env_steps == 30 * 3 * (1 + 3 * 4) and continued.tokens.shape == (30, 3, 3, 4, 5)
    given = np.arange(5) < begin[..., :-1, None]
    ended = ((tokens[..., None, :] == END) & given).any(axis=-1, keepdims=True)
    expected = np.where(given, tokens[..., None, :], np.where(ended, PAD, 7))
    np.testing.assert_array_equal(continued.tokens, np.broadcast_to(expected[..., None, :], continued.tokens.shape))
    right = np.concatenate([np.asarray(continued.batch.prompt)[:, :4], np.full((30, 1), END)], axis=1)
    np.testing.assert_array_equal(continued.reward, (continued.tokens == right[:, None, None, None]).all(axis=-1))
    assert ended.any() and not ended.all()
    np.testing.assert_array_equal(continued.there, begin[..., :-1] < (tokens != PAD).sum(axis=-1)[..., None])


def test_no_step_begins_before_what_was_drawn():
    _, continued = drawn(Resets(reset_share=1.0, resets="uniform"), steps.Options(step_length=2, num_continuations=1))
    forced, begin = np.asarray(continued.batch.forced), np.asarray(continued.begin)
    length = (np.asarray(continued.batch.tokens) != PAD).sum(axis=-1)
    ends = np.minimum(np.array([0, 2, 4, 6]), length[..., None])
    np.testing.assert_array_equal(begin, np.maximum(ends, forced[..., None]))
    assert {1, 2, 3, 4} == set(forced.ravel())
    np.testing.assert_array_equal(continued.there, ends[..., 1:] > np.maximum(ends[..., :-1], forced[..., None]))


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(step_length=0), "step_length=0 must be at least 1"),
        (dict(num_continuations=0), "num_continuations=0 must be"),
        (dict(max_steps=0), "max_steps=0 must be"),
        (dict(separator=13), "separator=13 is none of the 13 tokens"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        steps.check(steps.Options(**changes), ENV.spec)


def test_an_environment_must_tell_its_states():
    game = envs.make("tokens/rock_paper_scissors-2")
    with pytest.raises(UserError, match="Continuations need asked .* RockPaperScissors has not"):
        completions.continued(game, None, jnp.ones((1, 1)), jnp.ones((1, 2)), 2, jax.random.key(0))
