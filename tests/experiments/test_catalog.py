"""Every agent in the catalogue keeps its contract, by tracing alone."""

import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.agents.alignment import grpo, rlhf_ppo, writer
from rljax.agents.imitation import iq_learn
from rljax.agents.online import sac
from rljax.check import check_agent
from rljax.data import dataset as dataset_lib
from rljax.data import feedback as feedback_lib
from rljax.data.collect import collect, uniform
from rljax.envs import make
from rljax.errors import UserError
from rljax.experiments import catalog
from rljax.experiments.plan import Plan, Program
from rljax.sources import Demonstrator

ENVS = {name: make(name) for name in ("gymnax/CartPole-v1", "gymnax/Pendulum-v1", "rljax/Gridworld", "tokens/copy-2")}
CONTINUOUS_ONLY = (
    "td3", "td3_bc", "sac_n", "lipschitz_bc", "rot", "tqc", "dsac", "d4pg", "decqn", "revalued", "cqn_as", "combo",
)  # fmt: skip
DISCRETE_ONLY = ("dqn", "dae", "pqn", "c51", "qr_dqn", "iqn", "fqf", "mmd_dqn", "md3qn", "os_c51", "rainbow")
FINITE_ONLY = ("max_causal_entropy", "max_entropy", "apprenticeship", "max_margin", "bayesian")
ROADS_ONLY = ("rhip",)
WRITERS = tuple(name for name, path in catalog.AGENTS.items() if path.startswith("rljax.agents.alignment."))
NOT_IN = {
    "gymnax/CartPole-v1": CONTINUOUS_ONLY + FINITE_ONLY + ROADS_ONLY + WRITERS,
    "gymnax/Pendulum-v1": (*DISCRETE_ONLY, *FINITE_ONLY, *ROADS_ONLY, *WRITERS),
    "rljax/Gridworld": CONTINUOUS_ONLY + ROADS_ONLY,
    "tokens/copy-2": ("ppo", "sac", "dqn", "td3"),
}

SOME = {"rljax/Gridworld": FINITE_ONLY, "tokens/copy-2": (*WRITERS, *NOT_IN["tokens/copy-2"])}

CASES = [(name, env_name) for env_name in ENVS for name in catalog.AGENTS if name in SOME.get(env_name, catalog.AGENTS)]


@pytest.mark.parametrize("name, env_name", [*CASES, ("td3", "rljax/Gridworld"), ("rhip", "rljax/Gridworld")])
def test_contract(name, env_name):
    env, module = ENVS[env_name], catalog.agent(name)
    config = module.Config()
    record = jax.jit(lambda key: collect(env, uniform(env), (), key, 2, 200, True))
    data = dataset_lib.from_transitions(record(jax.random.key(0))) if catalog.needs_data(name) else ()
    if data:
        pairs = np.zeros((3, 2), np.int32)
        data = data.replace(feedback=feedback_lib.pairs(pairs, pairs + 2, np.array([0.0, 0.5, 1.0])))
    opinion = lambda state, prompt, tokens: 2 * (jnp.zeros(tokens.shape),)

    def ends(state, prompt, memory, key, explore, beginning=None):
        number = len(prompt if beginning is None else beginning)
        return jnp.ones((number, *env.spec.action.shape), jnp.int32), (), {}

    asked = Demonstrator((), ends if name in WRITERS else uniform(env).act, opinion)
    known = {"dataset": data, "demonstrations": data, "demonstrator": asked}
    given = {what: x for what, x in known.items() if catalog.takes(name, what) and (data or what != "dataset")}

    def check():
        check_agent(module.make(env.spec, config), env, module.source(env, config, **given))

    if name in NOT_IN[env_name]:
        with pytest.raises(UserError):
            check()
    else:
        check()


def test_a_config_must_be_a_record(monkeypatch):
    module = types.ModuleType("mine")
    module.Config, module.make, module.source = type("Config", (), {"gamma": 0.9}), None, None
    monkeypatch.setitem(sys.modules, "my.agent", module)
    with pytest.raises(UserError, match="mine.Config must be an rljax.record, with a default for each field"):
        catalog.agent("my.agent")


def test_a_source_that_asks_for_what_nobody_has_is_one_sentence(monkeypatch):
    module = types.ModuleType("asking")
    module.Config, module.make = catalog.agent("bc").Config, catalog.agent("bc").make
    module.source = lambda env, config, data: None
    monkeypatch.setitem(sys.modules, "asking", module)
    monkeypatch.setitem(catalog.AGENTS, "asking", "asking")
    with pytest.raises(UserError, match="asking.source reads 'data', which nobody can give it: .* there are dataset"):
        Program(Plan("asking", "gymnax/CartPole-v1", 100))


def test_what_two_agents_must_have_alike_is_what_shapes_their_state():
    state = writer.State(None, None)
    named = catalog.shared_shape(grpo.Config(), rlhf_ppo.Config(), state)
    assert named == ["model", "width", "num_layers", "num_heads", "num_kv_heads", "dtype"]
    named = catalog.shared_shape(sac.Config(), iq_learn.Config(), sac.State(*[None] * len(sac.State._fields)))
    assert {"hidden", "activation", "num_critics"} <= set(named)
