"""What can be run: agents by name, and their settings for an environment."""

import dataclasses
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from rljax.errors import UserError
from rljax.names import nearest
from rljax.record import is_static, shapes_state

AGENTS = {
    "ppo": "rljax.agents.online.ppo",
    "sac": "rljax.agents.online.sac",
    "td3": "rljax.agents.online.td3",
    "dqn": "rljax.agents.online.dqn",
    "pqn": "rljax.agents.online.pqn",
    "mrq": "rljax.agents.online.mrq",
    "dae": "rljax.agents.online.dae",
    "decqn": "rljax.agents.online.decqn",
    "revalued": "rljax.agents.online.revalued",
    "cqn_as": "rljax.agents.online.cqn_as",
    "c51": "rljax.agents.distributional.c51",
    "qr_dqn": "rljax.agents.distributional.qr_dqn",
    "iqn": "rljax.agents.distributional.iqn",
    "fqf": "rljax.agents.distributional.fqf",
    "mmd_dqn": "rljax.agents.distributional.mmd_dqn",
    "md3qn": "rljax.agents.distributional.md3qn",
    "os_c51": "rljax.agents.distributional.os_c51",
    "rainbow": "rljax.agents.distributional.rainbow",
    "tqc": "rljax.agents.distributional.tqc",
    "dsac": "rljax.agents.distributional.dsac",
    "d4pg": "rljax.agents.distributional.d4pg",
    "bc": "rljax.agents.offline.bc",
    "lipschitz_bc": "rljax.agents.offline.lipschitz_bc",
    "iql": "rljax.agents.offline.iql",
    "td3_bc": "rljax.agents.offline.td3_bc",
    "awac": "rljax.agents.offline.awac",
    "cql": "rljax.agents.offline.cql",
    "sac_n": "rljax.agents.offline.sac_n",
    "odice": "rljax.agents.offline.odice",
    "rlpd": "rljax.agents.offline.rlpd",
    "mopo": "rljax.agents.offline.mopo",
    "combo": "rljax.agents.offline.combo",
    "mobile": "rljax.agents.offline.mobile",
    "dt": "rljax.agents.sequence.dt",
    "rvs": "rljax.agents.sequence.rvs",
    "odt": "rljax.agents.sequence.odt",
    "udrl": "rljax.agents.sequence.udrl",
    "iterative_inversion": "rljax.agents.sequence.iterative_inversion",
    "gail": "rljax.agents.imitation.gail",
    "dac": "rljax.agents.imitation.dac",
    "gcl": "rljax.agents.imitation.gcl",
    "f_irl": "rljax.agents.imitation.f_irl",
    "dagger": "rljax.agents.imitation.dagger",
    "sqil": "rljax.agents.imitation.sqil",
    "iq_learn": "rljax.agents.imitation.iq_learn",
    "cpl": "rljax.agents.preference.cpl",
    "dppo": "rljax.agents.preference.dppo",
    "oppo": "rljax.agents.preference.oppo",
    "ipl": "rljax.agents.preference.ipl",
    "pebble": "rljax.agents.preference.pebble",
    "dip_rl": "rljax.agents.preference.dip_rl",
    "reward_model": "rljax.agents.preference.reward_model",
    "mil": "rljax.agents.preference.mil",
    "rot": "rljax.agents.imitation.rot",
    "ls_iq": "rljax.agents.imitation.ls_iq",
    "valuedice": "rljax.agents.imitation.valuedice",
    "smodice": "rljax.agents.imitation.smodice",
    "recoil": "rljax.agents.imitation.recoil",
    "max_causal_entropy": "rljax.agents.inverse.max_causal_entropy",
    "max_entropy": "rljax.agents.inverse.max_entropy",
    "apprenticeship": "rljax.agents.inverse.apprenticeship",
    "max_margin": "rljax.agents.inverse.max_margin",
    "bayesian": "rljax.agents.inverse.bayesian",
    "rhip": "rljax.agents.inverse.rhip",
    "sft": "rljax.agents.alignment.sft",
    "semi_offline": "rljax.agents.alignment.semi_offline",
    "iq_language": "rljax.agents.alignment.iq_language",
    "dpo": "rljax.agents.alignment.dpo",
    "per_step_dpo": "rljax.agents.alignment.per_step_dpo",
    "kto": "rljax.agents.alignment.kto",
    "phf": "rljax.agents.alignment.phf",
    "self_play": "rljax.agents.alignment.self_play",
    "grpo": "rljax.agents.alignment.grpo",
    "rloo": "rljax.agents.alignment.rloo",
    "dr_grpo": "rljax.agents.alignment.dr_grpo",
    "dapo": "rljax.agents.alignment.dapo",
    "gspo": "rljax.agents.alignment.gspo",
    "gmpo": "rljax.agents.alignment.gmpo",
    "cispo": "rljax.agents.alignment.cispo",
    "reinforce_plus_plus": "rljax.agents.alignment.reinforce_plus_plus",
    "opo": "rljax.agents.alignment.opo",
    "gpg": "rljax.agents.alignment.gpg",
    "bnpo": "rljax.agents.alignment.bnpo",
    "canon": "rljax.agents.alignment.canon",
    "max_rl": "rljax.agents.alignment.max_rl",
    "nft": "rljax.agents.alignment.nft",
    "epo": "rljax.agents.alignment.epo",
    "aepo": "rljax.agents.alignment.aepo",
    "kdrl": "rljax.agents.alignment.kdrl",
    "rlgf": "rljax.agents.alignment.rlgf",
    "p3o": "rljax.agents.alignment.p3o",
    "f_dpg": "rljax.agents.alignment.f_dpg",
    "pav": "rljax.agents.alignment.pav",
    "rlhf_ppo": "rljax.agents.alignment.rlhf_ppo",
    "pf_ppo": "rljax.agents.alignment.pf_ppo",
    "rto": "rljax.agents.alignment.rto",
    "completion_reward": "rljax.agents.alignment.completion_reward",
}


GIVEN = (
    "dataset",
    "demonstrations",
    "demonstrator",
)  # what sources read besides the environment, by their arguments' names


def agent(name: str) -> ModuleType:
    """The module of an agent: its Config, make(spec, config) and source(env, config).

    Args:
      name: one of AGENTS, or the module of an agent of your own, as in `my_agent` or `my_package.my_agent`.
    Raises:
      UserError: there is no such agent, or the module lacks what an agent's has.
    """
    if name not in AGENTS and "." not in name and importlib.util.find_spec(name) is None:
        raise UserError(f"Unknown agent {name!r}; {nearest(name, AGENTS)}")
    try:
        module = importlib.import_module(AGENTS.get(name, name))
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        raise UserError(f"Unknown agent {name!r}: there is no module {error.name!r}.") from None
    missing = [part for part in ("Config", "make", "source") if not hasattr(module, part)]
    if missing:
        raise UserError(f"The module {module.__name__} is not an agent's: it has no {' and no '.join(missing)}.")
    if not dataclasses.is_dataclass(module.Config) or not hasattr(module.Config, "replace"):
        raise UserError(f"{module.__name__}.Config must be an rljax.record, with a default for each field.")
    return module


def takes(agent_name: str, what: str) -> bool:
    """Whether an agent's source has an argument `what`: a dataset, demonstrations beside it, a demonstrator."""
    return what in inspect.signature(agent(agent_name).source).parameters


def takes_data(agent_name: str) -> bool:
    """Whether an agent's source can be made of a dataset: `source(env, config, dataset)`."""
    return takes(agent_name, "dataset")


def needs_data(agent_name: str) -> bool:
    """Whether it cannot do without: `dataset` has no default."""
    return takes_data(agent_name) and (
        inspect.signature(agent(agent_name).source).parameters["dataset"].default is inspect.Parameter.empty
    )


def asks(agent_name: str) -> bool:
    """Whether an agent's source asks a demonstrator what to do: `source(env, config, demonstrator)`."""
    return takes(agent_name, "demonstrator")


def check_source(agent_name: str, given: Iterable[str]) -> None:
    """Raises UserError where an agent's source must be told what is none of `given`, besides the environment and the config."""
    module = agent(agent_name)
    for argument in list(inspect.signature(module.source).parameters.values())[2:]:
        if argument.default is argument.empty and argument.name not in given:
            raise UserError(
                f"{module.__name__}.source reads {argument.name!r}, which nobody can give it: after env and config there are "
                f"{', '.join(given)}."
            )


def tuned(agent_name: str, env_name: str) -> dict[str, Any]:
    """Settings of an agent for an environment that differ from its defaults; {} where none are kept."""
    if agent_name not in AGENTS:
        return {}
    if importlib.util.find_spec(f"rljax.experiments.configs.{agent_name}") is None:
        return {}
    return dict(importlib.import_module(f"rljax.experiments.configs.{agent_name}").TUNED.get(env_name, {}))


def shared_shape(first: Any, second: Any, state: Any) -> list[str]:
    """Names of the fields that shape what agents of two configs have in common, a `state`: those of the Config that stands beside
    its type, or else of the nearest kind that both configs are."""
    beside = getattr(sys.modules[type(state).__module__], "Config", ())
    both = (kind for kind in type(first).__mro__ if isinstance(second, kind))
    kind = beside if beside and isinstance(first, beside) and isinstance(second, beside) else next(both)
    return (
        [field.name for field in dataclasses.fields(kind) if shapes_state(field)]
        if dataclasses.is_dataclass(kind)
        else []
    )


def fields(config: Any) -> dict[str, Any]:
    """A config as a plain dictionary."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}


def configure(agent_name: str, values: dict[str, Any]) -> Any:
    """The agent's Config with these values, checked.

    Raises:
      ValueError: an unknown field, a wrong type, a negative or NaN number.
    """
    config = agent(agent_name).Config()
    known = {field.name: field for field in dataclasses.fields(config)}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{agent_name} has no config field {name!r}; {nearest(name, known)}")
        _check(agent_name, name, value, getattr(config, name), known[name].metadata.get("signed", False))
    return config.replace(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def is_swept(agent_name: str, name: str) -> bool:
    """Whether a field may differ between the runs of one program: whether it is a traced number."""
    config = agent(agent_name).Config()
    known = {field.name: field for field in dataclasses.fields(config)}
    swept = [name for name, field in known.items() if not is_static(field)]
    if name not in known:
        raise UserError(f"{agent_name} has no config field {name!r} to sweep; {nearest(name, swept)}")
    return name in swept


def _check(agent_name: str, name: str, value: Any, default: Any, signed: bool) -> None:
    where = f"{agent_name}'s {name}={value!r}"
    if isinstance(default, bool):
        if not isinstance(value, bool):
            raise UserError(f"{where} must be True or False.")
    elif isinstance(default, int | float):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{where} must be a number.")
        if isinstance(default, int) and not isinstance(value, int):
            raise UserError(f"{where} must be a whole number.")
        positive = default >= 0 and not signed
        if not abs(value) < float("inf") or (positive and value < 0):
            raise UserError(f"{where} must be finite{' and not negative' if positive else ''}.")
        if isinstance(default, int) and default > 0 and value == 0:
            raise UserError(f"{where} must be at least 1.")
    elif isinstance(default, tuple) and not (
        isinstance(value, tuple | list) and all(isinstance(x, int) and x > 0 for x in value)
    ):
        raise UserError(f"{where} must be a tuple of positive whole numbers, as in (64, 64).")
    elif isinstance(default, str) and not isinstance(value, str):
        raise UserError(f"{where} must be a name.")
