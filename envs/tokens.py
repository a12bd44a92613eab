"""Questions in tokens with one right answer: `tokens/sort-8`. A whole completion is one action, and its episode ends with it.

    copy-N, reverse-N, sort-N    N digits, to be said as they are, backwards, in order
    add-N                        the sum of two numbers of N digits, in N + 1 digits
    modular-N                    the sum of two numbers below N, modulo N; a number is one token

The answer ends with END. Reward 1 for the right answer and 0 for any other; with `dense=true` the share of the answer's tokens that
stand before the first mistake. `slack=4` allows so many tokens more than the answer has.

As text a prompt is `42=`, its answer in order `24.`; where numbers may have two digits there are blanks: `3 20 =` and `0 .`.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

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
        """The tokens of a text. Raises UserError where it has a sign that is none of the task's."""
        known = {sign: i + NUM_SPECIAL for i, sign in enumerate(self.task.signs)} | {".": END}
        signs = text.split() if self._blank else text
        for sign in signs:
            if sign not in known:
                raise UserError(f"{sign!r} is no sign of this task; {nearest(sign, known)}")
        return [known[sign] for sign in signs]

    def decode(self, tokens: Array) -> str:
        """Tokens as a text, for reading; END is a full stop."""
        own = lambda token: self.task.signs[token - NUM_SPECIAL]
        return self._blank.join("." if x == END else own(x) for x in map(int, tokens) if x != PAD)

    @property
    def _blank(self) -> str:
        return " " if any(len(sign) > 1 for sign in self.task.signs) else ""


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


def names() -> list[str]:
    return [f"{task}-{size}" for task, (_, sizes) in TASKS.items() for size in sizes]


def options(name: str) -> dict[str, Any]:
    return {"dense": False, "slack": 0}


def make(name: str, dense: bool = False, slack: int = 0) -> Verified:
    """Raises UserError where `slack` is below 0."""
    if slack < 0:
        raise UserError(f"slack={slack} must be 0 or more tokens.")
    return Verified(_task(name), dense, slack)


@functools.cache  # equal names are equal programs
def _task(name: str) -> Task:
    task, size = name.split("-")
    return TASKS[task][0](int(size))
