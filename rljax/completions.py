"""Completions of prompts and where they come from: a policy that is asked several times the same, the right answers, or a file.

Q counts prompts, K completions of each, P and T tokens of prompts and completions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rljax.errors import UserError
from rljax.metrics import average
from rljax.parallel import spread
from rljax.record import record
from rljax.tokens import mask
from rljax.types import Env, EnvSpec, Source, Tokens, initial_memory


@record
class Completions:
    """Groups of completions, each of one prompt, and what they were paid."""

    prompt: Int[Array, "Q P"]
    tokens: Int[Array, "Q K T"]
    log_prob: Float[Array, "Q K T"] | None  # of each token when it was drawn, 0 where none stands; None: data at rest
    reward: Float[Array, "Q K"]

    def flat(self) -> tuple[Int[Array, "B P"], Int[Array, "B T"]]:
        """Prompts and completions one by one, [Q K]."""
        return jnp.repeat(self.prompt, self.tokens.shape[1], axis=0), self.tokens.reshape(-1, self.tokens.shape[-1])


def groups(env: Env, num_prompts: int, group_size: int) -> Source:
    """Fresh `Completions` [num_prompts, group_size] of the present policy; a completion is a step of the environment.

    The agent's `act` tells the `log_prob` [B, T] of what it wrote among its extras.

    Raises:
      UserError: actions of the environment are no completions, or the agent does not tell.
    """
    check(env.spec)

    def next_batch(state, agent, agent_state, key):
        reset_key, act_key, step_key = jax.random.split(key, 3)
        begun = jax.vmap(env.reset)(jax.random.split(reset_key, num_prompts))
        env_state, prompt = spread(jax.tree.map(lambda x: jnp.repeat(x, group_size, axis=0), begun))
        size = num_prompts * group_size
        tokens, _, extras = agent.act(agent_state, prompt, initial_memory(agent, size), act_key, True)
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
        return state, batch, finished

    return Source(lambda agent, key: (), next_batch, env_steps=num_prompts * group_size)


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


def check(spec: EnvSpec) -> None:
    """Raises UserError where actions are no completions, or an episode may have more than one."""
    if not isinstance(spec.action, Tokens):
        raise UserError(
            f"Who writes tokens needs an environment of them, as tokens/sort-8; here they are {type(spec.action).__name__.lower()}."
        )
    if spec.episode_length != 1:
        raise UserError(f"A completion ends its episode: episode_length must be 1, not {spec.episode_length}.")
