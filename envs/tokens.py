"""Questions in tokens with one right answer: `tokens/sort-8`; and a game without one. A whole completion is one action, and its
episode ends with it.

    copy-N, reverse-N, sort-N    N digits, to be said as they are, backwards, in order
    add-N                        the sum of two numbers of N digits, in N + 1 digits
    modular-N                    the sum of two numbers below N, modulo N; a number is one token

The answer ends with END. Reward 1 for the right answer and 0 for any other; with `dense=true` the share of the answer's tokens that
stand before the first mistake. `slack=4` allows so many tokens more than the answer has.

    rock_paper_scissors-N        N throws, judged against another's: what is better goes round in circles (`RockPaperScissors`)

As text a prompt is `42=`, its answer in order `24.`; where numbers may have two digits there are blanks: `3 20 =` and `0 .`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rljax.errors import UserError
from rljax.names import nearest
from rljax.record import record, static
from rljax.tokens import END, NUM_SPECIAL, PAD, mask
from rljax.types import EnvSpec, Key, TimeStep, Tokens

DIGITS = 10
EQUALS, PLUS = NUM_SPECIAL + DIGITS, NUM_SPECIAL + DIGITS + 1
DIGIT_SIGNS = tuple(map(str, range(DIGITS)))
SIZES = (2, 3, 4, 5, 6, 8, 10, 12, 16)
MODULI = (7, 23, 59, 97)


class Task(NamedTuple):
    """draw: (key) -> prompt [P]. answer: (prompt [P]) -> the right one [T], without its END. signs: how its own tokens are written,
    in their order."""

    draw: Callable[[Key], Array]
    answer: Callable[[Array], Array]
    signs: tuple[str, ...]


@record
class Verified:
    """A task whose answers are verified. The state is the right one."""

    task: Task = static()
    dense: bool = static(False)
    slack: int = static(0)  # tokens that a completion may have beside those of the answer

    @property
    def spec(self) -> EnvSpec:
        prompt, answer = jax.eval_shape(self.example, jax.random.key(0))
        return EnvSpec(prompt.shape, Tokens(NUM_SPECIAL + len(self.task.signs), answer.shape[0]), episode_length=1)

    def example(self, key: Key) -> tuple[Int[Array, " P"], Int[Array, " T"]]:
        """A prompt and its right answer."""
        prompt = self.task.draw(key).astype(jnp.int32)
        return prompt, self.asked(prompt)

    def asked(self, prompt: Int[Array, " P"]) -> Int[Array, " T"]:
        """The state of an episode whose prompt is this one, of as many numbers as the task's."""
        return jnp.pad(jnp.append(self.task.answer(prompt), END), (0, self.slack)).astype(jnp.int32)

    def reset(self, key: Key) -> tuple[Int[Array, " T"], Int[Array, " P"]]:
        prompt, answer = self.example(key)
        return answer, prompt

    def step(self, state: Int[Array, " T"], action: Int[Array, " T"], key: Key) -> tuple[Int[Array, " T"], TimeStep]:
        del key
        right, there = jnp.cumprod(action == state), mask(state)
        return state, TimeStep(
            observation=jnp.zeros(self.spec.observation_shape, jnp.int32),
            reward=((right * there).sum() / there.sum() if self.dense else right[-1]).astype(jnp.float32),
            terminated=jnp.bool_(True),
            truncated=jnp.bool_(False),
        )

    def encode(self, text: str) -> list[int]:
        return encode(self.task.signs, text)

    def decode(self, tokens: Array) -> str:
        return decode(self.task.signs, tokens)


@record
class RockPaperScissors:
    """`rounds` throws, compared round by round with those of another: each throw of three is better than the one before it in
    the circle, by margins that differ and that the prompt turns: it names the throw that wins by the most. Whoever ends early
    loses the rounds that are left.

    `prefer` is the mean over rounds of P(throw better), and no reward explains it. The reward is what the throws are worth against
    random ones, so who learns from it alone comes to one throw that another beats. The equilibrium is that of each round by itself:
    a throw in proportion to the margin between the other two. The state is the throw that the prompt names.
    """

    rounds: int = static()

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec((1,), Tokens(NUM_SPECIAL + len(THROWS), self.rounds), episode_length=1)

    def reset(self, key: Key) -> tuple[Int[Array, ""], Int[Array, " 1"]]:
        first = jax.random.randint(key, (), 0, len(THROWS))
        return first, first[None] + NUM_SPECIAL

    def step(self, state: Int[Array, ""], action: Int[Array, " T"], key: Key) -> tuple[Int[Array, ""], TimeStep]:
        del key
        return state, TimeStep(
            observation=jnp.zeros(1, jnp.int32),
            reward=self.payoff(state)[_throw(action), :-1].mean(),
            terminated=jnp.bool_(True),
            truncated=jnp.bool_(False),
        )

    def prefer(self, state: Int[Array, ""], tokens: Int[Array, " T"], other: Int[Array, " T"]) -> Float[Array, ""]:
        """P(tokens are better than other)."""
        return self.payoff(state)[_throw(tokens), _throw(other)].mean()

    def payoff(self, state: Int[Array, ""]) -> Float[Array, "4 4"]:
        """P(the row's throw is better than the column's) in a round; the last is that there was none."""
        ahead = jnp.diag(jnp.roll(jnp.array(MARGINS), state))[:, jnp.array([1, 2, 0])]  # of each, over the one before
        return jnp.full((4, 4), 0.5).at[:3, :3].add(ahead - ahead.T).at[:3, 3].set(1.0).at[3, :3].set(0.0)

    def equilibrium(self, state: Int[Array, ""]) -> Float[Array, " 3"]:
        """How likely each throw is where no other does better, in every round."""
        margins = jnp.roll(jnp.array(MARGINS), state + 1)
        return margins / margins.sum()

    def encode(self, text: str) -> list[int]:
        return encode(THROWS, text)

    def decode(self, tokens: Array) -> str:
        return decode(THROWS, tokens)


THROWS = ("r", "p", "s")  # each is better than the one before it, and the first than the last
MARGINS = (
    0.4,
    0.2,
    0.1,
)  # above 1/2: of the throw that the prompt names over the one before it, of the next, of the last


def _throw(tokens: Int[Array, " T"]) -> Int[Array, " T"]:
    return jnp.where(mask(tokens) & (tokens >= NUM_SPECIAL), tokens - NUM_SPECIAL, len(THROWS))


def encode(signs: tuple[str, ...], text: str) -> list[int]:
    """The tokens of a text. Raises UserError where it has a sign that is none of the task's."""
    known = {sign: i + NUM_SPECIAL for i, sign in enumerate(signs)} | {".": END}
    written = text.split() if _blank(signs) else text
    for sign in written:
        if sign not in known:
            raise UserError(f"{sign!r} is no sign of this task; {nearest(sign, known)}")
    return [known[sign] for sign in written]


def decode(signs: tuple[str, ...], tokens: Array) -> str:
    """Tokens as a text, for reading; END is a full stop."""
    own = lambda token: signs[token - NUM_SPECIAL]
    return _blank(signs).join("." if x == END else own(x) for x in map(int, tokens) if x != PAD)


def _blank(signs: tuple[str, ...]) -> str:
    return " " if any(len(sign) > 1 for sign in signs) else ""


def rearrange(order: Callable[[Array], Array], size: int) -> Task:
    def draw(key):
        return jnp.append(jax.random.randint(key, (size,), 0, DIGITS) + NUM_SPECIAL, EQUALS)

    return Task(draw, lambda prompt: order(prompt[:-1]), (*DIGIT_SIGNS, "="))


def add(size: int) -> Task:
    def draw(key):
        first, second = jax.random.randint(key, (2, size), 0, DIGITS) + NUM_SPECIAL
        return jnp.concatenate([first, jnp.array([PLUS]), second, jnp.array([EQUALS])])

    def answer(prompt):
        numbers = jnp.stack([prompt[:size], prompt[size + 1 : -1]]) - NUM_SPECIAL
        carried = lambda carry, digits: jnp.divmod(carry + digits.sum(), DIGITS)
        carry, total = jax.lax.scan(carried, jnp.int32(0), numbers.T, reverse=True)
        return jnp.append(carry, total) + NUM_SPECIAL

    return Task(draw, answer, (*DIGIT_SIGNS, "=", "+"))


def modular(modulus: int) -> Task:
    equals = NUM_SPECIAL + modulus

    def draw(key):
        return jnp.append(jax.random.randint(key, (2,), 0, modulus) + NUM_SPECIAL, equals)

    def answer(prompt):
        return (prompt[:2] - NUM_SPECIAL).sum(keepdims=True) % modulus + NUM_SPECIAL

    return Task(draw, answer, (*map(str, range(modulus)), "="))


TASKS: dict[str, tuple[Callable[[int], Task], tuple[int, ...]]] = {
    "copy": (functools.partial(rearrange, lambda digits: digits), SIZES),
    "reverse": (functools.partial(rearrange, lambda digits: digits[::-1]), SIZES),
    "sort": (functools.partial(rearrange, jnp.sort), SIZES),
    "add": (add, SIZES),
    "modular": (modular, MODULI),
}


GAME, ROUNDS = "rock_paper_scissors", (1, 2, 3, 4, 8)


def names() -> list[str]:
    sizes = {task: sizes for task, (_, sizes) in TASKS.items()} | {GAME: ROUNDS}
    return [f"{task}-{size}" for task in sizes for size in sizes[task]]


def options(name: str) -> dict[str, Any]:
    return {} if name.startswith(GAME) else {"dense": False, "slack": 0}


def make(name: str, dense: bool = False, slack: int = 0) -> Verified | RockPaperScissors:
    """Raises UserError where `slack` is below 0."""
    if slack < 0:
        raise UserError(f"slack={slack} must be 0 or more tokens.")
    task, size = name.split("-")
    return RockPaperScissors(int(size)) if task == GAME else Verified(_task(task, int(size)), dense, slack)


@functools.cache  # equal names are equal programs
def _task(task: str, size: int) -> Task:
    return TASKS[task][0](size)
