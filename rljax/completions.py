"""Completions of prompts and where they come from: a policy that is asked several times the same, the right answers, or a file.

Q counts prompts, K completions of each, P and T tokens of prompts and completions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax import resets as resets_lib
from rljax.errors import UserError
from rljax.metrics import average
from rljax.parallel import spread
from rljax.record import record
from rljax.tokens import PAD, mask
from rljax.types import Env, EnvSpec, Key, Source, Tokens, initial_memory


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

    def flat(self) -> tuple[Int[Array, "B P"], Int[Array, "B T"]]:
        """Prompts and completions one by one, [Q K]."""
        return jnp.repeat(self.prompt, self.tokens.shape[1], axis=0), self.tokens.reshape(-1, self.tokens.shape[-1])


def groups(
    env: Env,
    num_prompts: int,
    group_size: int,
    resets: resets_lib.Options | None = None,
    data: Completions | None = None,
) -> Source:
    """Fresh `Completions` [num_prompts, group_size] of the present policy; a completion is a step of the environment.

    The agent's `act` tells the `log_prob` [B, T] of what it wrote among its extras.

    Args:
      resets: how some of the groups begin as a right answer does, all of a group alike; `act` takes these `beginning` [B, T] last.
        None: none.
      data: right answers are what was paid here, drawn uniformly, each with its prompt; None: the environment tells examples.
    Raises:
      UserError: actions of the environment are no completions, or the agent does not tell; or with resets the environment cannot
        be asked a prompt, or tells no example.
    """
    check(env.spec)
    for name, told in {"asked": "(prompt) -> state", "example": "(key) -> (prompt, right completion)"}.items():
        if resets is not None and not hasattr(env, name) and not (name == "example" and data is not None):
            raise UserError(
                f"Resets need {name} {told} of the environment, which {type(env).__name__} has not, unless options or "
                "--reward_from hide it."
            )

    def begin(begun, depth, key):
        """Some prompts changed for others whose answers are begun: (begun, which [Q], beginning [Q, T], its lengths [Q])."""
        right_key, draw_key = jax.random.split(key)
        prompt, answer = (
            jax.vmap(env.example)(jax.random.split(right_key, num_prompts))
            if data is None
            else _paid(data, num_prompts, right_key)
        )
        within, forced = resets_lib.draw(resets, depth, mask(answer).sum(axis=-1), draw_key)
        chosen = lambda x, y: jnp.where(within.reshape(-1, *[1] * (x.ndim - 1)), x, y)
        begun = jax.tree.map(chosen, (jax.vmap(env.asked)(prompt), prompt), begun)
        beginning = jnp.where(jnp.arange(answer.shape[1]) < forced[:, None], answer, PAD)
        return begun, within, beginning, forced

    def next_batch(state, agent, agent_state, key):
        reset_key, act_key, step_key, *begin_key = jax.random.split(key, 3 if resets is None else 4)
        begun, beginning, forced = jax.vmap(env.reset)(jax.random.split(reset_key, num_prompts)), (), None
        if resets is not None:
            begun, within, *beginning, forced = begin(begun, state, *begin_key)
        repeated = lambda x: jnp.repeat(x, group_size, axis=0)
        (env_state, prompt), beginning = spread(jax.tree.map(repeated, (begun, beginning)))
        size = num_prompts * group_size
        tokens, _, extras = agent.act(agent_state, prompt, initial_memory(agent, size), act_key, True, *beginning)
        if "log_prob" not in extras:
            raise UserError(
                "Who learns from groups must tell the `log_prob` [B, T] of what it wrote, among the extras of `act`."
            )
        _, following = jax.vmap(env.step)(env_state, tokens, jax.random.split(step_key, size))
        grouped = lambda x: x.reshape(num_prompts, group_size, *x.shape[1:])
        batch = Completions(begun[1], grouped(tokens), grouped(extras["log_prob"]), grouped(following.reward))
        done = jnp.ones(size, bool)
        lengths = mask(tokens).sum(axis=-1)
        finished = {"episode/return": average(following.reward, done), "completion/length": average(lengths, done)}
        if resets is None:
            return state, batch, finished
        within, forced = repeated(within), repeated(forced)
        paid = average(following.reward, within)
        finished |= {
            "episode/return": average(following.reward, ~within),
            "episode/return_from_within": paid,
            "episode/forced": average(forced, within),
        }
        if resets.resets == "curriculum":
            finished["reset/depth"], state = state, resets_lib.moved(resets, state, paid)
        return state, batch.replace(forced=grouped(forced)), finished

    init = lambda agent, key: () if resets is None else resets_lib.init(resets)
    return Source(init, next_batch, env_steps=num_prompts * group_size)


def _paid(data: Completions, number: int, key: Key) -> tuple[Int[Array, "Q P"], Int[Array, "Q T"]]:
    """Prompts and completions that were paid more than 0, drawn uniformly."""
    _, tokens = data.flat()
    paid = (data.reward > 0.0).reshape(-1).astype(jnp.float32)
    rows = jax.random.choice(key, tokens.shape[0], (number,), p=paid / paid.sum())
    return data.prompt[rows // data.tokens.shape[1]], tokens[rows]


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


def check_paid(data: Completions | tuple[()], what_for: str) -> None:
    """Raises UserError where none of the data was paid; says nothing of data that are not at hand yet."""
    if isinstance(data, Completions) and not isinstance(data.reward, jax.core.Tracer):
        if not (data.reward > 0.0).any():
            raise UserError(f"Nothing in these data was paid more than 0, so there is nothing to {what_for}.")


def check(spec: EnvSpec) -> None:
    """Raises UserError where actions are no completions, or an episode may have more than one."""
    if not isinstance(spec.action, Tokens):
        raise UserError(
            f"Who writes tokens needs an environment of them, as tokens/sort-8; here they are {type(spec.action).__name__.lower()}."
        )
    if spec.episode_length != 1:
        raise UserError(f"A completion ends its episode: episode_length must be 1, not {spec.episode_length}.")
