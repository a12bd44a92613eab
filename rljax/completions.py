"""Completions of prompts and where they come from: a policy that is asked several times the same, the right answers, or a file.

Q counts prompts, K completions of each, P and T tokens of prompts and completions.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax import resets as resets_lib
from rljax.errors import UserError
from rljax.metrics import average
from rljax.parallel import spread
from rljax.record import record
from rljax.tokens import PAD, mask
from rljax.types import Env, EnvSpec, Key, Metrics, Source, Tokens, initial_memory


@record
class Completions:
    """Groups of completions, each of one prompt, and what they were paid."""

    prompt: Int[Array, "Q P"]
    tokens: Int[Array, "Q K T"]
    log_prob: Float[Array, "Q K T"] | None  # of each token when it was drawn, 0 where none was; None: data at rest
    reward: Float[Array, "Q K"]
    forced: Int[Array, "Q K"] | None = None  # tokens that each began with, which nobody drew; None: none

    @property
    def drawn(self) -> Bool[Array, "Q K T"]:
        """Where tokens stand that were drawn."""
        return mask(self.tokens, self.forced)

    def flat(self) -> tuple[Int[Array, "Q P"], Int[Array, "B T"]]:
        """Prompts, and completions one by one, [Q K], as `networks.language_model` reads them."""
        return self.prompt, self.tokens.reshape(-1, self.tokens.shape[-1])


@record
class Compared(Completions):
    """Groups, and what a judge thinks of each pair."""

    # P(the row's completion is better than the column's); 1/2 with itself
    preference: Float[Array, "Q K K"] = dataclasses.field(kw_only=True)


def groups(
    env: Env,
    num_prompts: int,
    group_size: int,
    resets: resets_lib.Options | None = None,
    data: Completions | None = None,
) -> Source:
    """Fresh `Completions` [num_prompts, group_size] of the present policy; a completion is a step of the environment.

    The agent's `act` is given prompts [num_prompts, P] and what their completions begin with, [num_prompts group_size, T], as
    `networks.language_model.complete`, and tells the `log_prob` [B, T] of what it wrote among its extras.

    Args:
      resets: how some of the groups begin as a right answer does, all of a group alike. None: all begin with nothing.
      data: right answers are what was paid here, drawn uniformly, each with its prompt; None: the environment tells examples.
    Raises:
      UserError: actions of the environment are no completions, or the agent does not tell; or with resets the environment cannot
        be asked a prompt, or tells no example.
    """
    check(env.spec)
    if resets is not None:
        needs(env, "Resets", "asked", *() if data is not None else ("example",))

    def begin(begun, depth, key):
        """Some prompts changed for others whose answers are begun: (begun, which [Q], beginning [Q, T], its lengths [Q])."""
        right_key, draw_key = jax.random.split(key)
        prompt, answer = right_answers(env, data, num_prompts, right_key)
        within, forced = resets_lib.draw(resets, depth, mask(answer).sum(axis=-1), draw_key)
        chosen = lambda x, y: jnp.where(within.reshape(-1, *[1] * (x.ndim - 1)), x, y)
        begun = jax.tree.map(chosen, (jax.vmap(env.asked)(prompt), prompt), begun)
        beginning = jnp.where(jnp.arange(answer.shape[1]) < forced[:, None], answer, PAD)
        return begun, within, beginning, forced

    def next_batch(state, agent, agent_state, key):
        reset_key, act_key, step_key, *begin_key = jax.random.split(key, 3 if resets is None else 4)
        begun = jax.vmap(env.reset)(jax.random.split(reset_key, num_prompts))
        beginning = nothing(env.spec, num_prompts)
        repeated = lambda x: jnp.repeat(x, group_size, axis=0)
        if resets is not None:
            begun, within, beginning, forced = begin(begun, state, *begin_key)

        def write(prompt, key, beginning):
            memory = initial_memory(agent, len(beginning))
            tokens, _, extras = agent.act(agent_state, prompt, memory, key, True, beginning)
            if "log_prob" not in extras:
                raise UserError(
                    "Who learns from groups must tell the `log_prob` [B, T] of what it wrote, among the extras of `act`."
                )
            return tokens, extras["log_prob"]

        batch = _answered(env, begun, repeated(beginning), write, act_key, step_key)
        finished = _finished(batch)
        if resets is None:
            return state, batch, finished
        reward, within = batch.reward.reshape(-1), repeated(within)
        paid = average(reward, within)
        finished |= {
            "episode/return": average(reward, ~within),
            "episode/return_from_within": paid,
            "episode/forced": average(repeated(forced), within),
        }
        if resets.resets == "curriculum":
            finished["reset/depth"], state = state, resets_lib.moved(resets, state, paid)
        return state, batch.replace(forced=repeated(forced).reshape(batch.reward.shape)), finished

    init = lambda agent, key: () if resets is None else resets_lib.init(resets)
    return Source(init, next_batch, env_steps=num_prompts * group_size)


def right_answers(
    env: Env, data: Completions | None, number: int, key: Key
) -> tuple[Int[Array, "Q P"], Int[Array, "Q T"]]:
    """Prompts and what is right, as the environment tells by `example`; of data completions that were paid more than 0, drawn
    uniformly."""
    if data is None:
        return jax.vmap(env.example)(jax.random.split(key, number))
    _, tokens = data.flat()
    paid = (data.reward > 0.0).reshape(-1).astype(jnp.float32)
    rows = jax.random.choice(key, tokens.shape[0], (number,), p=paid / paid.sum())
    return data.prompt[rows // data.tokens.shape[1]], tokens[rows]


def compared(
    env: Env, num_prompts: int, group_size: int, writers: Sequence[Callable], noise=1.0, drawn: bool = False
) -> Source:
    """Fresh `Compared` [num_prompts, len(writers) group_size]: for each prompt those of the first writer, then of the next.

    The judge is the environment's `prefer`: (state, tokens [T], other [T]) -> P(the former is better), which no reward need
    explain. It is asked in both orders, and what it says for standing first or second cancels. Without one it is Bradley & Terry's
    of the rewards, sigmoid(what was paid more / noise). Episodes told of are those of the first writer.

    Args:
      writers: (agent_state, prompt [Q, P], key, beginning [Q K, T]) -> tokens [Q K, T] and their log_prob [Q K, T].
      noise: 0 is a judge without doubts.
      drawn: a judgement is one draw, 0 or 1, in the place of its probability.
    Raises:
      UserError: actions of the environment are no completions, or `prefer` does not tell one number for a pair.
    """
    check(env.spec)

    def next_batch(state, agent, agent_state, key):
        reset_key, judge_key, *keys = jax.random.split(key, 2 + 2 * len(writers))
        begun = jax.vmap(env.reset)(jax.random.split(reset_key, num_prompts))
        answers, beginning = [], nothing(env.spec, num_prompts * group_size)
        for i, write in enumerate(writers):
            written = lambda *asked, write=write: write(agent_state, *asked)
            answers.append(_answered(env, begun, beginning, written, *keys[2 * i : 2 * i + 2]))
        joined = lambda name: jnp.concatenate([getattr(x, name) for x in answers], axis=1)
        tokens, reward = joined("tokens"), joined("reward")
        judged = jax.vmap(lambda *group: _preferences(env, *group, noise))(begun[0], tokens, reward)
        if drawn:
            judged = jax.vmap(_antisymmetric)(jax.random.bernoulli(judge_key, judged).astype(jnp.float32))
        return state, Compared(begun[1], tokens, joined("log_prob"), reward, preference=judged), _finished(answers[0])

    return Source(lambda agent, key: (), next_batch, env_steps=num_prompts * group_size * len(writers))


def continued(
    env: Env, write: Callable, prompt: Int[Array, "N P"], beginning: Int[Array, "N T"], number: int, key: Key
) -> Completions:
    """`number` completions [N, number] of each beginning; one that has ended already is all of them.

    Args:
      write: (prompt [N, P], key, beginning [B, T]) -> tokens [B, T] and their log_prob [B, T], B = N number.
    Raises:
      UserError: the environment cannot be asked a prompt.
    """
    needs(env, "Continuations", "asked")
    return continued_in(env, write, (jax.vmap(env.asked)(prompt), prompt), beginning, number, key)


def continued_in(
    env: Env, write: Callable, begun: tuple[Any, Int[Array, "N P"]], beginning: Int[Array, "N T"], number: int, key: Key
) -> Completions:
    """`continued` in episodes that have `begun`, by the states and prompts of `env.reset`."""
    act_key, step_key = jax.random.split(key)
    batch = _answered(env, begun, jnp.repeat(beginning, number, axis=0), write, act_key, step_key)
    forced = jnp.repeat(mask(beginning).sum(axis=-1)[:, None], number, axis=1)
    return batch.replace(forced=forced)


# What an environment may tell beside its episodes.
ASKED = {"asked": "(prompt) -> state", "example": "(key) -> (prompt, right completion)"}


def needs(env: Env, who: str, *names: str) -> None:
    """Raises UserError where the environment lacks one of `ASKED`."""
    for name in names:
        if not hasattr(env, name):
            raise UserError(
                f"{who} need {name} {ASKED[name]} of the environment, which {type(env).__name__} has not, unless options or "
                "--reward_from hide it."
            )


def nothing(spec: EnvSpec, number: int) -> Int[Array, "number T"]:
    """What completions begin with that are written from the first token on."""
    return jnp.full((number, spec.action.length), PAD, jnp.int32)


def _answered(env, begun, beginning, write, act_key, step_key) -> Completions:
    """What `write` (prompt [Q, P], key, beginning [Q K, T]) -> tokens, log_prob [Q K, T] answers to prompts that have begun."""
    (env_state, prompt), beginning = begun, spread(beginning)
    group_size = len(beginning) // len(prompt)
    env_state = spread(jax.tree.map(lambda x: jnp.repeat(x, group_size, axis=0), env_state))
    tokens, log_prob = write(prompt, act_key, beginning)
    _, following = jax.vmap(env.step)(env_state, tokens, jax.random.split(step_key, len(tokens)))
    grouped = lambda x: x.reshape(-1, group_size, *x.shape[1:])
    return Completions(prompt, grouped(tokens), grouped(log_prob), grouped(following.reward))


def _finished(batch: Completions) -> Metrics:
    done = jnp.ones(batch.reward.size, bool)
    lengths = mask(batch.tokens).sum(axis=-1).reshape(-1)
    return {"episode/return": average(batch.reward.reshape(-1), done), "completion/length": average(lengths, done)}


def _preferences(env, state, tokens, reward, noise) -> Float[Array, "K K"]:
    if not hasattr(env, "prefer"):
        return jax.nn.sigmoid((reward[:, None] - reward) / jnp.maximum(noise, 1e-6))
    each = jax.vmap(jax.vmap(lambda one, other: env.prefer(state, one, other), (None, 0)), (0, None))
    found = each(tokens, tokens)
    if found.shape != 2 * tokens.shape[:1]:
        raise UserError(
            f"`prefer` of {type(env).__name__} must tell one probability for a pair, not an array {found.shape[2:]}."
        )
    return 0.5 * (found + 1.0 - found.T)


def _antisymmetric(drawn: Float[Array, "K K"]) -> Float[Array, "K K"]:
    """Each pair as it stands above the diagonal."""
    return jnp.triu(drawn, 1) + jnp.tril(1.0 - drawn.T, -1) + 0.5 * jnp.eye(len(drawn))


def examples(env: Env, num_prompts: int) -> Source:
    """Prompts and the right answers to them, which the environment tells by `example`: `Completions` [num_prompts, 1] of reward 1.

    Raises:
      UserError: actions of the environment are no completions, or it does not tell what would be right.
    """
    check(env.spec)
    if not hasattr(env, "example"):
        raise UserError(
            f"{type(env).__name__} has no `example` (key) -> (prompt, right completion), unless options or --reward_from hide it."
        )

    def next_batch(state, agent, agent_state, key):
        prompt, answer = jax.vmap(env.example)(jax.random.split(key, num_prompts))
        log_prob = jnp.zeros((*answer.shape[:1], 1, *answer.shape[1:]))
        return state, spread(Completions(prompt, answer[:, None], log_prob, jnp.ones((num_prompts, 1)))), {}

    return Source(lambda agent, key: (), next_batch, env_steps=num_prompts)


def recorded(data: Completions, num_prompts: int) -> Source:
    """Prompts of data at rest, drawn uniformly, each with all its completions: `Completions` [num_prompts, K], as if these had been
    certain. Its steps are updates."""

    def next_batch(state, agent, agent_state, key):
        rows = jax.random.randint(key, (num_prompts,), 0, data.prompt.shape[0])
        batch = jax.tree.map(lambda x: x[rows], data)
        return state, spread(batch.replace(log_prob=jnp.zeros(batch.tokens.shape))), {}

    return Source(lambda agent, key: (), next_batch)


def check_paid(data: Completions | tuple[()], what_for: str, above: Float[Array, ""] | float = 0.0) -> None:
    """Raises UserError where none of the data was paid more than `above`; says nothing of numbers that are not at hand yet."""
    if isinstance(data, Completions) and not any(isinstance(x, jax.core.Tracer) for x in (data.reward, above)):
        if not (data.reward > above).any():
            raise UserError(f"Nothing in these data was paid more than {above:g}, so there is nothing to {what_for}.")


def check(spec: EnvSpec) -> None:
    """Raises UserError where actions are no completions, or an episode may have more than one."""
    if not isinstance(spec.action, Tokens):
        raise UserError(
            f"Who writes tokens needs an environment of them, as tokens/sort-8; here they are {type(spec.action).__name__.lower()}."
        )
    if spec.episode_length != 1:
        raise UserError(f"A completion ends its episode: episode_length must be 1, not {spec.episode_length}.")
