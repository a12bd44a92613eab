"""Contracts: what is ours keeps them, and each way to break one is named."""

import jax
import jax.numpy as jnp
import pytest

from rljax import envs
from rljax.agents.online import dqn, ppo, sac, td3
from rljax.check import check_agent, check_env, check_prompts
from rljax.envs import tokens
from rljax.errors import UserError
from rljax.record import record
from rljax.types import Discrete, EnvSpec, TimeStep, initial_memory


@pytest.mark.parametrize("name", [name for name in envs.names() if not name.startswith("brax/")])
def test_environments_keep_the_contract(name):
    check_env(envs.make(name))


@pytest.mark.parametrize(
    "module, name",
    [
        (ppo, "gymnax/CartPole-v1"),
        (dqn, "gymnax/CartPole-v1"),
        (sac, "gymnax/Pendulum-v1"),
        (td3, "gymnax/Pendulum-v1"),
    ],
)
def test_agents_keep_the_contract(module, name):
    env, config = envs.make(name), module.Config()
    check_agent(module.make(env.spec, config), env, module.source(env, config))


@pytest.mark.parametrize("changes", [{}, {"memory": 4}, {"channels": (4,)}])
def test_networks_compute_in_bfloat16_and_keep_float32_parameters(changes):
    env, config = envs.make("gymnax/Breakout-MinAtar"), ppo.Config(dtype="bfloat16", hidden=(8,), **changes)
    agent = ppo.make(env.spec, config)
    check_agent(agent, env, ppo.source(env, config))
    state = jax.eval_shape(agent.init, jax.random.key(0))
    assert {x.dtype for x in jax.tree.leaves(state.model.params)} == {jnp.dtype("float32")}
    act = jax.make_jaxpr(lambda s, o: agent.act(s, o, initial_memory(agent, 2), jax.random.key(0), False)[0])
    assert "bf16" in str(act(state, jnp.zeros((2, 10, 10, 4))))


@record
class Counter:
    """Counts its steps."""

    spec = EnvSpec((1,), Discrete(2), 5)

    def reset(self, key):
        return jnp.int32(0), jnp.zeros(1)

    def step(self, state, action, key):
        return state + 1, TimeStep(jnp.zeros(1), jnp.float32(1.0), state > 3, jnp.bool_(False))


def broken(**changes):
    """Counter with fields of its TimeStep changed."""

    class Broken(Counter):
        def step(self, state, action, key):
            state, timestep = super().step(state, action, key)
            return state, timestep.replace(**changes)

    return Broken()


@pytest.mark.parametrize(
    "changes, sentence",
    [
        ({"terminated": jnp.float32(0.0)}, "Broken.step: terminated must be bool, not float32."),
        ({"reward": jnp.zeros(1)}, r"Broken.step: the reward must have the shape \(\), not \(1,\)."),
        ({"reward": jnp.int32(1)}, "Broken.step: the reward must be float32, not int32."),
        ({"observation": jnp.zeros(2)}, r"Broken.step: the observation must have the shape \(1,\), not \(2,\)."),
    ],
)
def test_a_time_step_of_the_wrong_kind(changes, sentence):
    check_env(Counter())
    with pytest.raises(UserError, match=sentence):
        check_env(broken(**changes))


def test_wrong_returns_of_an_environment(monkeypatch):
    monkeypatch.setattr(Counter, "step", lambda self, state, action, key: (state, 0.0, False, False, {}))
    with pytest.raises(UserError, match=r"Counter.step must return \(state, TimeStep\), not a tuple of 5."):
        check_env(Counter())
    monkeypatch.setattr(Counter, "reset", lambda self, key: (jnp.int32(0), jnp.zeros(3)))
    with pytest.raises(UserError, match=r"Counter.reset: the observation must have the shape \(1,\), not \(3,\)."):
        check_env(Counter())


def test_prompts_are_of_the_vocabulary():
    task = tokens.make("copy-4")
    check_prompts(task)
    check_prompts(Counter())
    small = task.replace(task=task.task._replace(signs=tuple("01")))
    with pytest.raises(UserError, match="Verified has prompts with token .*, which is none of its vocabulary, 0 to 3."):
        check_prompts(small)


def test_wrong_returns_of_an_agent():
    env, config = Counter(), ppo.Config(num_envs=2, rollout_length=4, hidden=(4,))
    agent, source = ppo.make(env.spec, config), ppo.source(env, config)

    def changed(**functions):
        return lambda: check_agent(agent._replace(**functions), env, source)

    act = lambda *args: agent.act(*args)[:2]
    update = lambda state, batch, key: (state, {"loss": jnp.zeros(3)})
    grown = lambda state, batch, key: (state._replace(model=None), {})
    named = lambda state, batch, key: (state, {"episode/return": jnp.zeros(())})
    for check, sentence in (
        (changed(act=act), r"act must return \(action, memory, extras\), not a tuple of 2."),
        (changed(update=update), r"the metric 'loss' must have the shape \(\), not \(3,\)."),
        (changed(update=grown), "update: the state must keep its structure"),
        (changed(update=named), "'episode/return' has a name kept for episodes"),
    ):
        with pytest.raises(UserError, match=sentence):
            check()
