"""Policies from files as agents: FILE.h5 (all its rungs), or FILE.h5?rungs=20,40 (see agents/behaviour/gaussian_mlp.py)."""

import urllib.parse
from typing import Any

from rljax.agents.behaviour import gaussian_mlp
from rljax.errors import UserError
from rljax.types import Agent, Env


def load(name: str, env: Env) -> dict[str, tuple[Agent, Any]]:
    """Agents for an environment, with their states, by FILE.h5?rungs=NUMBER.

    Raises:
      UserError: there is no such file, option or rung, the file is not what it should be, or its policies do not fit.
    """
    path, _, query = name.partition("?")
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    if set(options) - {"rungs"}:
        raise UserError(f"Files of policies have the one option rungs=NUMBER,NUMBER,..., not {query!r}.")
    try:
        rungs = [int(rung) for rung in options["rungs"].split(",")] if options else None
    except ValueError:
        raise UserError(f"rungs={options['rungs']} must be whole numbers, as in rungs=20,40.") from None
    if getattr(env, "rescaled", False):
        raise UserError(f"Policies of files act in [-1, 1], but the actions of {env.env_id} lie elsewhere.")
    found = gaussian_mlp.read(path, rungs)
    return {f"{path}?rungs={rung}": (gaussian_mlp.make(policy, env.spec), policy) for rung, policy in found.items()}
