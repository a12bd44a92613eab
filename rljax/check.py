"""Does an environment or an agent keep its contract? Found by tracing, in a moment, and said in one sentence.

The binaries check what they are given; call these in the tests of your own.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rljax.errors import UserError
from rljax.types import Agent, Continuous, Env, Source, TimeStep, Tokens, initial_memory


def check_env(env: Env) -> None:
    """Hold an environment to the protocol of rljax.types.Env. Raises UserError."""
    name, spec = type(env).__name__, env.spec
    key = jax.eval_shape(lambda: jax.random.key(0))
    result = jax.eval_shape(env.reset, key)
    _require(_is_pair(result), f"{name}.reset must return (state, observation), not {_kind(result)}.")
    state, observation = result
    prompts = jnp.int32 if isinstance(spec.action, Tokens) else None
    _require_shape(f"{name}.reset: the observation", observation, spec.observation_shape, prompts)
    dtype = jnp.float32 if isinstance(spec.action, Continuous) else jnp.int32
    result = jax.eval_shape(env.step, state, jax.ShapeDtypeStruct(spec.action.shape, dtype), key)
    _require(
        _is_pair(result) and isinstance(result[1], TimeStep),
        f"{name}.step must return (state, TimeStep), not {_kind(result)}.",
    )
    following, timestep = result
    _require_same(f"{name}.step: the state", following, state)
    _require_same(f"{name}.step: the observation", timestep.observation, observation)
    _require_shape(f"{name}.step: the reward", timestep.reward, (), jnp.float32)
    if spec.num_rewards > 1:
        rewards = timestep.info.get("rewards")
        _require_shape(f"{name}.step: info['rewards']", rewards, (spec.num_rewards,), jnp.float32)
    _require_shape(f"{name}.step: terminated", timestep.terminated, (), jnp.bool_)
    _require_shape(f"{name}.step: truncated", timestep.truncated, (), jnp.bool_)


def check_prompts(env: Env) -> None:
    """Hold prompts, where actions are completions, to the vocabulary: some are drawn. Raises UserError."""
    if not isinstance(env.spec.action, Tokens):
        return
    prompts = np.asarray(jax.jit(lambda key: jax.vmap(env.reset)(jax.random.split(key, 16))[1])(jax.random.key(0)))
    outside = prompts[(prompts < 0) | (prompts >= env.spec.action.vocabulary)]
    _require(
        not outside.size,
        f"{type(env).__name__} has prompts with token {outside[:1].sum()}, which is none of its vocabulary, 0 to "
        f"{env.spec.action.vocabulary - 1}.",
    )


def check_agent(agent: Agent, env: Env, source: Source) -> None:
    """Hold an agent to the contract of rljax.types.Agent, on the batches of its source. Raises UserError."""
    key, spec = jax.eval_shape(lambda: jax.random.key(0)), env.spec
    state = jax.eval_shape(agent.init, key)
    seen = jnp.int32 if isinstance(spec.action, Tokens) else jnp.float32
    observation = jax.ShapeDtypeStruct((2, *spec.observation_shape), seen)
    memory = jax.eval_shape(lambda: initial_memory(agent, 2))
    result = jax.eval_shape(lambda *args: agent.act(*args, True), state, observation, memory, key)
    _require(
        isinstance(result, tuple) and len(result) == 3,
        f"act must return (action, memory, extras), not {_kind(result)}.",
    )
    action, after, _ = result
    _require_shape("act: the action of a batch of 2", action, (2, *spec.action.shape))
    _require_same("act: the memory", after, memory)
    source_state = jax.eval_shape(lambda key: source.init(agent, key), key)
    _, batch, _ = jax.eval_shape(lambda *args: source.next(args[0], agent, *args[1:]), source_state, state, key)
    if source.num_batches > 1:
        batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batch)
    result = jax.eval_shape(agent.update, state, batch, key)
    _require(
        _is_pair(result) and isinstance(result[1], dict), f"update must return (state, metrics), not {_kind(result)}."
    )
    _require_same("update: the state", result[0], state)
    for metric, value in result[1].items():
        if metric != "priority":
            _require_shape(f"update: the metric {metric!r}", value, ())
            _require(
                not metric.startswith(("episode/", "evaluation/")),
                f"The metric {metric!r} has a name kept for episodes.",
            )


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise UserError(sentence)


def _require_shape(what: str, x: Any, shape: tuple[int, ...], dtype: Any = None) -> None:
    got = tuple(getattr(x, "shape", ("?",)))
    _require(got == tuple(shape), f"{what} must have the shape {tuple(shape)}, not {got}.")
    _require(
        dtype is None or x.dtype == dtype, f"{what} must be {jnp.dtype(dtype).name}, not {getattr(x, 'dtype', '?')}."
    )


def _require_same(what: str, new: Any, old: Any) -> None:
    """The structure, shapes and dtypes of `old`."""
    same = jax.tree.structure(new) == jax.tree.structure(old)
    _require(same, f"{what} must keep its structure: {jax.tree.structure(old)}, not {jax.tree.structure(new)}.")
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(new), jax.tree.leaves(old)):
        where = f"{what}{' at ' + jax.tree_util.keystr(path) if path else ''}"
        _require_shape(where, a, b.shape, None if jax.dtypes.issubdtype(b.dtype, jax.dtypes.extended) else b.dtype)


def _is_pair(x: Any) -> bool:
    return isinstance(x, tuple) and len(x) == 2


def _kind(x: Any) -> str:
    return f"a tuple of {len(x)}" if type(x) is tuple else type(x).__name__
