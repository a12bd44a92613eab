"""Tasks of tokens: their answers by Python, and what is paid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.check import check_env
from rljax.errors import UserError
from rljax.tokens import END, NUM_SPECIAL, PAD, mask

BY_PYTHON = {
    "copy-4": lambda prompt: prompt,
    "reverse-4": lambda prompt: prompt[::-1],
    "sort-4": lambda prompt: "".join(sorted(prompt)),
    "add-16": lambda prompt: f"{sum(map(int, prompt.split('+'))):017d}",
}


@pytest.mark.parametrize("name", BY_PYTHON)
def test_right_answers(name):
    env = envs.make(f"tokens/{name}")
    check_env(env)
    prompts, answers = jax.vmap(env.example)(jax.random.split(jax.random.key(0), 50))
    assert prompts.shape[1:] == env.spec.observation_shape and answers.shape[1:] == env.spec.action.shape
    assert max(prompts.max(), answers.max()) < env.spec.action.vocabulary
    states, drawn = jax.vmap(env.reset)(jax.random.split(jax.random.key(1), 50))
    np.testing.assert_array_equal(jax.vmap(env.asked)(drawn), states)  # an episode of a prompt is the one that it began
    for prompt, answer in zip(prompts, answers):
        assert env.decode(answer) == BY_PYTHON[name](env.decode(prompt).removesuffix("=")) + "."


def test_sums_modulo():
    env = envs.make("tokens/modular-23")
    prompts, answers = jax.vmap(env.example)(jax.random.split(jax.random.key(0), 50))
    numbers = np.asarray(prompts)[:, :2] - NUM_SPECIAL
    np.testing.assert_array_equal(answers[:, 0] - NUM_SPECIAL, numbers.sum(1) % 23)
    assert (answers[:, 1] == END).all() and env.spec.action.vocabulary == prompts.max() + 1


@pytest.mark.parametrize("name", ["add-2", "modular-7", "modular-23"])
def test_texts_and_their_tokens(name):
    env = envs.make(f"tokens/{name}")
    for tokens in (x for pair in zip(*jax.vmap(env.example)(jax.random.split(jax.random.key(0), 9))) for x in pair):
        assert env.encode(env.decode(tokens)) == np.asarray(tokens).tolist()
    with pytest.raises(UserError, match="'x' is no sign of this task"):
        env.encode("x")


def test_texts_by_hand():
    sort, add, modular = (envs.make(f"tokens/{name}") for name in ("sort-2", "add-2", "modular-23"))
    assert sort.encode("42=") == [6, 4, 12] and sort.encode("24.") == [4, 6, END] and sort.decode([PAD, 6, END]) == "4."
    assert add.encode("1+0=") == [3, 13, 2, 12] and add.spec.action.vocabulary == 14
    assert modular.encode("3 20 =") == [5, 22, 25] and modular.decode([22, END]) == "20 ."
    with pytest.raises(UserError, match="' ' is no sign of this task"):
        sort.encode("4 2")


@pytest.mark.parametrize("dense, paid", [(False, [1.0, 0.0, 0.0, 0.0]), (True, [1.0, 0.6, 0.8, 0.0])])
def test_what_is_paid(dense, paid):
    """Nothing for an answer that goes on, or stops early; densely, for what stands before the first mistake."""
    env = envs.make(f"tokens/copy-4?dense={str(dense).lower()}")
    answer, _ = env.reset(jax.random.key(3))
    early = answer.at[3].set(END).at[4].set(PAD)
    on = answer.at[4].set(answer[0])
    wrong = (answer.at[0].set(END)).at[1:].set(PAD)
    for action, reward in zip((answer, early, on, wrong), paid):
        _, following = env.step(answer, action, jax.random.key(0))
        assert following.reward == pytest.approx(reward) and following.terminated and not following.truncated


def test_slack_is_no_part_of_the_answer():
    env = envs.make("tokens/copy-4?slack=3&dense=true")
    answer, _ = env.reset(jax.random.key(3))
    assert env.spec.action.length == 8 and (answer[5:] == PAD).all() and answer[4] == END
    paid = lambda action: float(env.step(answer, action, jax.random.key(0))[1].reward)
    assert paid(answer) == 1.0 and paid(answer.at[4].set(3).at[5].set(END)) == pytest.approx(0.8)
    with pytest.raises(UserError, match="slack=-1 must be 0 or more"):
        envs.make("tokens/copy-4?slack=-1")


def test_equal_names_are_equal_programs():
    assert jax.tree.structure(envs.make("tokens/sort-8")) == jax.tree.structure(envs.make("tokens/sort-8"))


def test_what_counts_of_a_completion():
    tokens = jnp.array([[5, END, PAD], [5, 6, 7]])
    np.testing.assert_array_equal(mask(tokens), [[True, True, False], [True, True, True]])


def test_throws_are_compared_round_by_round_and_go_in_circles():
    """Where the prompt says rock, it is 0.4 better than scissors, paper 0.2 than rock, scissors 0.1 than paper; the next prompt
    turns this by one."""
    env = envs.make("tokens/rock_paper_scissors-2")
    check_env(env)
    asked = lambda state, one, other: float(
        env.prefer(state, *(jnp.array((env.encode(x) + [PAD])[:2]) for x in (one, other)))
    )
    assert asked(0, "rr", "ss") == pytest.approx(0.9) and asked(0, "pp", "rr") == pytest.approx(0.7)
    assert asked(0, "ss", "pp") == pytest.approx(0.6) and asked(1, "pp", "rr") == pytest.approx(0.9)
    assert asked(2, "rp", "sp") == pytest.approx(
        0.6
    )  # 0.7 and 0.5: there it is scissors that win by 0.4, and rocks by 0.2
    assert asked(0, "r.", "s.") == pytest.approx(0.7) and asked(0, ".", "ss") == 0.0 and asked(0, ".", ".") == 0.5
    for state in range(3):
        payoff = np.asarray(env.payoff(state))
        np.testing.assert_allclose(payoff + payoff.T, 1.0, atol=1e-6)
        nash = env.equilibrium(state)
        np.testing.assert_allclose(payoff[:3, :3] @ nash, 0.5, atol=1e-6)  # no throw is better, all are as good
        assert nash.sum() == pytest.approx(1.0) and len(np.unique(np.round(nash, 3))) == 3


def test_throws_are_paid_against_random_ones():
    env = envs.make("tokens/rock_paper_scissors-2")
    paid = lambda text: float(
        env.step(jnp.int32(0), jnp.array((env.encode(text) + [PAD])[:2]), jax.random.key(0))[1].reward
    )
    assert paid("rr") == pytest.approx((0.5 + 0.3 + 0.9) / 3) and paid("rp") == pytest.approx(((1.7 + 1.6) / 3) / 2)
    assert paid("r.") == pytest.approx(1.7 / 6) and env.decode(env.reset(jax.random.key(0))[1]) in "rps"
    states, prompts = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), 50))
    np.testing.assert_array_equal(prompts[:, 0], states + NUM_SPECIAL)
    with pytest.raises(UserError, match="Unknown option 'slack'"):
        envs.make("tokens/rock_paper_scissors-2?slack=1")
