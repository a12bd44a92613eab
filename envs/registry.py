"""Environments by name: `family/environment?option=value&option=value`.

    gymnax/CartPole-v1?max_steps_in_episode=200
    gymnax/CartPole-v1?observe=0,2&frame_stack=4
    brax/hopper?backend=mjx&episode_length=500
    rljax/PointMaze-umaze
    tokens/sort-8?dense=true                   completions of tokens, verified
    prompts/FILE.jsonl?length=32               questions of a file, see envs/prompts.py
    my_package.my_module:MyEnv?size=7          your own: anything callable that gives an environment
    gymnasium/Hopper-v5                        any of Gymnasium's, stepped on the host: to evaluate and record in

An option is the environment's own (a parameter, an option of its constructor) or one of WRAPPERS, which every
environment has and which go around it in the order in which they are written.
"""

import importlib
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from rljax.envs import wrappers
from rljax.errors import UserError
from rljax.names import nearest
from rljax.types import Env


class Family(NamedTuple):
    """Environments that are made in one way. Family modules have these functions; names are without the prefix."""

    names: Callable[[], list[str]]
    options: Callable[[str], dict[str, Any]]  # the options of an environment with their defaults
    make: Callable[..., Env]  # (name, **options)


FAMILIES = ("gymnax", "brax", "rljax", "tokens")
PROMPTS = "prompts"
GYMNASIUM = "gymnasium/"
OWN_MODULES = (
    "pointmaze",
    "tabular",
    "roads",
    "linear",
    "treasure",
    "forks",
    "probes",
)  # each has ENVIRONMENTS: a factory by name

WRAPPERS: dict[str, Callable[[Env, str], Env]] = {
    "time_limit": lambda env, text: wrappers.TimeLimit(env, _whole("time_limit", text, 1)),
    "action_repeat": lambda env, text: wrappers.ActionRepeat(env, _whole("action_repeat", text, 1)),
    "frame_stack": lambda env, text: wrappers.FrameStack(env, _whole("frame_stack", text, 1)),
    "observe": lambda env, text: wrappers.MaskObservation(env, tuple(_whole("observe", x, 0) for x in text.split(","))),
}


def names() -> list[str]:
    """The names of all environments, without options."""
    return [f"{family}/{name}" for family in FAMILIES for name in _family(family).names()]


def make(name: str) -> Env:
    """The environment `name`, see the top of this file.

    Raises ValueError, which names what was wrong and the nearest valid names, for an unknown environment or option and
    for a value that an option cannot take.
    """
    path, _, query = name.partition("?")
    if on_host(name):
        if query:
            raise UserError(f"{path} takes no options, got {query!r}.")
        return _gymnasium(path.removeprefix(GYMNASIUM))
    prefix, _, base = path.partition("/")
    if ":" in prefix:
        family = _foreign(prefix)
        base = prefix
    elif prefix == PROMPTS:
        family = _prompts(base)
    elif prefix not in FAMILIES:
        raise UserError(f"Unknown environment {path!r}; {nearest(path, names())}")
    else:
        family = _family(prefix)
    if base not in family.names():
        raise UserError(f"Unknown environment {path!r}; {nearest(path, [f'{prefix}/{x}' for x in family.names()])}")

    written = [item.partition("=") for item in query.split("&") if item]
    known = _scalars(family.options(base)) if written else {}
    for key, _, _ in written:
        if key not in known and key not in WRAPPERS:
            raise UserError(f"Unknown option {key!r} of {path!r}; {nearest(key, [*known, *WRAPPERS])}")
    env = family.make(base, **{key: _value(key, text, known[key]) for key, _, text in written if key in known})
    for key, _, text in written:
        if key not in known:
            env = WRAPPERS[key](env, text)
            _ = env.spec  # raises where the wrapper does not suit the environment
    return env


def on_host(name: str) -> bool:
    """Whether the environment `name` is stepped on the host, step by step: it has a spec, but cannot be reset in a program."""
    return name.startswith(GYMNASIUM)


def _gymnasium(env_id: str) -> Env:
    try:
        from rljax.envs.gymnasium import from_gymnasium
    except ImportError as error:
        raise UserError(str(error)) from error
    return from_gymnasium(env_id)


def _family(name: str) -> Family:
    """Imports what the family needs, and nothing of the others."""
    if name != "rljax":
        module = importlib.import_module(f"rljax.envs.{name}")
        return Family(module.names, module.options, module.make)
    factories = {}
    for own in OWN_MODULES:
        factories |= importlib.import_module(f"rljax.envs.{own}").ENVIRONMENTS
    return Family(
        names=lambda: list(factories),
        options=lambda name: _defaults(factories[name]),
        make=lambda name, **options: factories[name](**options),
    )


def _foreign(name: str) -> Family:
    """The factory `module:attribute`, as a family of one."""
    module, _, attribute = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"Unknown environment {name!r}: {error}.") from error
    if not hasattr(found, attribute):
        raise UserError(f"Unknown environment {name!r}; {nearest(attribute, [x for x in vars(found) if x[0] != '_'])}")
    factory = getattr(found, attribute)
    return Family(lambda: [name], lambda _: _defaults(factory), lambda _, **options: factory(**options))


def _prompts(file: str) -> Family:
    """The questions of a file, as a family of one."""
    from rljax.envs.prompts import prompts

    known = {name: default for name, default in _defaults(prompts).items() if name != "file"}
    return Family(lambda: [file], lambda _: known, lambda file, **options: prompts(file, **options))


def _defaults(factory: Callable) -> dict[str, Any]:
    return {x.name: x.default for x in inspect.signature(factory).parameters.values()}


def _scalars(options: dict[str, Any]) -> dict[str, Any]:
    """The options that a name can set."""
    return {key: default for key, default in options.items() if isinstance(default, bool | int | float | str | None)}


def _value(option: str, text: str, default: Any) -> bool | int | float | str:
    """`text` as the type of `default`; where that is None, as what it looks like."""
    for kind in (bool, int, float, str) if default is None else (type(default),):
        try:
            return {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            continue
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
    raise UserError(f"Option {option!r} takes {wanted}, got {text!r}.")


def _whole(option: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"Option {option!r} takes whole numbers from {least}, got {text!r}.")
    return int(text)
