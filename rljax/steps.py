"""Steps of completions, and what is paid to whoever goes on from where each begins: the values that Monte Carlo tells.

A step is `step_length` tokens or, where there is a `separator`, all tokens up to one, itself included; what follows `max_steps` of
those belongs to the last. Who goes on from a step is given all tokens before it (`completions.continued`), and is paid by the task
as anybody.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax import completions
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.record import record, static
from rljax.tokens import PAD
from rljax.types import Env, EnvSpec, Source


@record
class Options:
    step_length: int = static(4)  # tokens of a step
    separator: int = static(PAD)  # the token that a step ends with, instead; 0: none
    max_steps: int = static(8)  # of a completion, where a separator ends them
    num_continuations: int = static(8)  # from where each step begins


class Continued(NamedTuple):
    """Groups, the step that each token belongs to, how many tokens stand before each of S = N - 1 steps and in all, and the M
    completions that go on from where each step begins, with what they were paid."""

    batch: Completions
    step: Int[Array, "Q K T"]
    begin: Int[Array, "Q K N"]
    tokens: Int[Array, "Q K S M T"]
    reward: Float[Array, "Q K S M"]

    @property
    def there(self) -> Bool[Array, "Q K S"]:
        """Which steps have tokens that were drawn."""
        return self.begin[..., 1:] > self.begin[..., :-1]


def check(options: Options, spec: EnvSpec) -> None:
    """Raises UserError where there are no steps, or nobody goes on from them."""
    for name in ("step_length", "max_steps", "num_continuations"):
        if getattr(options, name) < 1:
            raise UserError(f"{name}={getattr(options, name)} must be at least 1.")
    if not 0 <= options.separator < spec.action.vocabulary:
        raise UserError(
            f"separator={options.separator} is none of the {spec.action.vocabulary} tokens, nor 0 for none."
        )


def count(options: Options, length: int) -> int:
    """S, the most steps of a completion of so many tokens."""
    return min(options.max_steps, length) if options.separator else -(-length // options.step_length)


def of_tokens(options: Options, tokens: Int[Array, "*B T"]) -> Int[Array, "*B T"]:
    """The step of each token; what is padded belongs to any."""
    length = tokens.shape[-1]
    if not options.separator:
        return jnp.broadcast_to(jnp.arange(length) // options.step_length, tokens.shape)
    ends = tokens == options.separator
    return jnp.minimum(jnp.cumsum(ends, axis=-1) - ends, count(options, length) - 1)


def begins(step: Int[Array, "*B T"], there: Bool[Array, "*B T"], number: int) -> Int[Array, "*B N"]:
    """How many tokens stand before each of `number` = N - 1 steps, and in all."""
    before = step[..., None, :] < jnp.arange(number + 1)[:, None]
    return (before & there[..., None, :]).sum(axis=-1)


def source(groups: Source, env: Env, write: Callable, options: Options) -> Source:
    """The batches of `groups`, which are `Completions`, as `Continued`; steps are all completions. Of completions that began as a
    right one no step begins before what was drawn.

    Args:
      write: (agent_state, prompt [N, P], key, beginning [B, T]) -> tokens [B, T] and their log_prob [B, T], who goes on.
    Raises:
      UserError: as `check`, or `completions.continued`.
    """
    check(options, env.spec)
    number = count(options, env.spec.action.length)

    def next_batch(state, agent, agent_state, key):
        key, further_key = jax.random.split(key)
        state, batch, metrics = groups.next(state, agent, agent_state, key)
        step = of_tokens(options, batch.tokens)
        begin = begins(step, batch.tokens != PAD, number)
        if batch.forced is not None:
            begin = jnp.maximum(begin, batch.forced[..., None])
        before = jnp.arange(batch.tokens.shape[-1]) < begin[..., :-1, None]
        beginning = jnp.where(before, batch.tokens[..., None, :], PAD)
        prompt = jnp.repeat(batch.prompt, beginning.shape[1] * number, axis=0)
        go_on = lambda *asked: write(agent_state, *asked)
        flat = beginning.reshape(-1, beginning.shape[-1])
        further = completions.continued(env, go_on, prompt, flat, options.num_continuations, further_key)
        shaped = lambda x: x.reshape(*beginning.shape[:3], *x.shape[1:])
        return state, Continued(batch, step, begin, shaped(further.tokens), shaped(further.reward)), metrics

    all_of = 1 + number * options.num_continuations
    return groups._replace(next=next_batch, env_steps=groups.env_steps * all_of)
