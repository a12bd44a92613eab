"""f-DPG: its step is the exact gradient of each divergence where a group is the policy's law itself, and the law it comes to is the
target."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from rljax import train
from rljax.agents.alignment import f_dpg
from rljax.completions import Completions
from rljax.envs.tokens import RockPaperScissors
from rljax.errors import UserError
from rljax.record import record

SMALL = dict(width=16, num_layers=1, num_heads=2, max_grad_norm=1e9)
THROWS = [list(throws) for throws in itertools.product((2, 3, 4), repeat=2)]
EVERY = np.array([[1, 0], *([x, 1] for x in (2, 3, 4)), *THROWS], np.int32)  # all completions
# A throw and a sign after it, or what follows the prompt would look to the model as what follows the same throw of its own.
PROMPT = np.array([[2, 1], [3, 1], [4, 1]], np.int32)


@record
class Named(RockPaperScissors):
    """Paid 1 for a completion with the throw that the prompt names."""

    @property
    def spec(self):
        return dataclasses.replace(super().spec, observation_shape=(2,))

    def reset(self, key):
        state, prompt = super().reset(key)
        return state, jnp.append(prompt, 1)

    def step(self, state, action, key):
        state, following = super().step(state, action, key)
        return state, following.replace(
            observation=jnp.zeros(2, jnp.int32), reward=(action == state + 2).any().astype(jnp.float32)
        )


ENV = Named(2)
PAID = (EVERY == PROMPT[:, :1, None]).any(axis=2)  # [prompts, completions]


def made(**changes):
    return f_dpg.make(ENV.spec, f_dpg.Config(**SMALL | changes))


AGENT = made()


@jax.jit
def laws(params, state):
    """Log-probabilities [3, 13] of all completions of all prompts."""
    state = state._replace(model=state.model._replace(params=params))
    prompt = jnp.repeat(PROMPT, len(EVERY), axis=0)
    return AGENT.log_prob(state, prompt, jnp.tile(EVERY, (3, 1))).reshape(3, -1)


@pytest.fixture(scope="module")
def counted():
    """A policy whose completions of the first prompt have chances in sixteenths, in which they stand in a group, and another
    reference."""
    count = np.array([1, 1, 1, 1, 2, 1, 1, 1, 1, 1, 3, 1, 1])
    state = jax.jit(AGENT.init)(jax.random.key(0))
    stir = lambda x, seed: x + 0.2 * jax.random.normal(jax.random.key(x.size + seed), x.shape)
    flat, unravel = ravel_pytree(jax.tree.map(lambda x: stir(x, 0), state.model.params))
    law = lambda flat: laws(unravel(flat), state)[0]
    slope = jax.jit(jax.jacrev(law))
    goal, begun = np.log(count / 16), np.asarray(law(flat))
    for share in np.append(np.linspace(0.1, 1.0, 10), [1.0] * 4):  # Gauss and Newton's steps, on a straight line
        ahead = share * goal + (1.0 - share) * begun - law(flat)
        flat = flat + np.linalg.lstsq(np.float64(slope(flat)), ahead, rcond=1e-4)[0]
    np.testing.assert_allclose(law(flat), goal, atol=1e-5)
    params = unravel(jnp.float32(flat))
    state = state._replace(
        model=state.model._replace(params=params), reference=jax.tree.map(lambda x: stir(x, 1), params)
    )
    rows = np.repeat(np.arange(len(EVERY)), count)
    return state, rows


def group(rows, prompt=0):
    tokens = jnp.asarray(EVERY[rows])[None]
    return Completions(
        PROMPT[prompt : prompt + 1], tokens, jnp.zeros(tokens.shape), jnp.float32(PAID[prompt, rows])[None]
    )


def first_moment(state):
    found = [x for x in jax.tree.leaves(state.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]
    return jax.tree.map(lambda x: x / 0.1, found[0].mu)


CASES = [(name, "reward") for name in ("reverse_kl", "jensen_shannon", "alpha")]
CASES += [(name, "constraint") for name in ("kl", "total_variation")]


@pytest.mark.parametrize("name, target", CASES)
def test_a_step_is_the_gradient_of_the_divergence(counted, name, target):
    """Over all completions, by autodiff of its definition; a group's baseline of the others makes it 16 / 15 of it, and its
    partition function is exact."""
    state, rows = counted
    numbers = dict(divergence=name, target=target, beta=0.7, alpha=0.3, group_size=16, num_prompts=1)
    after, metrics = jax.jit(made(**numbers).update)(state, group(rows), jax.random.key(1))
    reference = np.exp(np.float64(laws(state.reference, state)[0]))
    weight = reference * (np.exp(PAID[0] / 0.7) if target == "reward" else PAID[0])
    assert float(metrics["target/log_partition"]) == pytest.approx(np.log(weight.sum()), abs=1e-4)
    p = jnp.asarray(weight / weight.sum(), jnp.float32)
    of = {
        "kl": lambda pi, p: -jnp.where(p > 0.0, p * jnp.log(pi), 0.0),
        "reverse_kl": lambda pi, p: pi * jnp.log(pi / p),
        "jensen_shannon": lambda pi, p: pi * jnp.log(2.0 * pi / (pi + p)) + p * jnp.log(2.0 * p / (pi + p)),
        "alpha": lambda pi, p: -(pi**0.3) * p**0.7 / 0.21,
        "total_variation": lambda pi, p: 0.5 * jnp.abs(pi - p),
    }[name]
    slope = jax.jit(jax.grad(lambda params: of(jnp.exp(laws(params, state)[0]), p).sum()))(state.model.params)
    size = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slope))
    assert size > 1e-3
    close = lambda found, true: np.testing.assert_allclose(found, 16 / 15 * true, atol=1e-3 * size)
    jax.tree.map(close, first_moment(after), slope)


def test_at_the_target_nothing_moves(counted):
    """Whatever was drawn; nor where the target has no chance for any of a group."""
    state, rows = counted
    there = state._replace(reference=state.model.params)
    alike = group(rows[:5]).replace(reward=jnp.full((1, 5), 0.35))
    missed = group(np.flatnonzero(~PAID[0]))
    for batch, changes, begun in (alike, {}, there), (missed, dict(target="constraint"), state):
        after, metrics = jax.jit(made(beta=0.7, **changes).update)(begun, batch, jax.random.key(1))
        assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(first_moment(after))) < 1e-4
        assert float(metrics["target/known"]) == (0.0 if changes else 1.0)
        assert float(metrics["target/log_partition"]) == pytest.approx(0.0 if changes else 0.5, abs=1e-5)


def learned(config, updates):
    """(beta) -> the state after so many updates."""

    def run(beta):
        agent, changed = f_dpg.make(ENV.spec, config.replace(beta=beta)), config.replace(beta=beta)
        learner = train.make(agent, f_dpg.source(ENV, changed))
        return learner.run(learner.init(jax.random.key(0)), updates)[0].agent

    return run


def targets(reference, weight):
    p = np.exp(np.float64(reference)) * weight
    return p / p.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def side_by_side():
    """Two runs, nearer to the reference and further from it."""
    config = f_dpg.Config(**SMALL, learning_rate=1e-2)
    return config, jax.jit(jax.vmap(learned(config, 150)))(jnp.array([0.5, 1.5]))


def test_it_comes_to_its_target(side_by_side):
    """Rewards are as many as the target's, and completions as likely."""
    for i, beta in enumerate([0.5, 1.5]):
        state = jax.tree.map(lambda x, i=i: x[i], side_by_side[1])
        p = targets(laws(state.reference, state), np.exp(PAID / beta))
        law = np.exp(np.float64(laws(state.model.params, state)))
        np.testing.assert_allclose((law * PAID).sum(axis=1), (p * PAID).sum(axis=1), atol=0.03)
        assert (p * np.log(p / law)).sum(axis=1).max() < 0.008


def test_runs_side_by_side_are_those_alone(side_by_side):
    config, both = side_by_side
    alone = jax.jit(learned(config, 150))(1.5)
    close = lambda one, other: np.testing.assert_allclose(one, other[1], atol=1e-3)
    jax.tree.map(close, alone.model.params, both.model.params)


def test_a_constraint_is_kept_and_nothing_else_changed():
    """The paid completions come to be all, each as likely among them as it was (of six seeds none was further than 0.016)."""
    config = f_dpg.Config(**SMALL, learning_rate=3e-3, target="constraint", num_prompts=64)
    state = jax.jit(learned(config, 1000))(0.1)
    p = targets(laws(state.reference, state), PAID)
    law = np.exp(np.float64(laws(state.model.params, state)))
    assert (law * PAID).sum(axis=1).min() > 0.99
    assert (0.5 * np.abs(law - p).sum(axis=1)).max() < 0.04


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(divergence="jensen"), "There is no f-divergence 'jensen'; nearest: jensen_shannon"),
        (dict(target="constrain"), "f-DPG has no target 'constrain'; nearest: constraint"),
        (dict(group_size=1), "group_size=1 leaves no completion to compare with"),
        (dict(beta=0.0), "beta=0.0 must be above 0"),
        (dict(divergence="alpha", alpha=1.0), "alpha=1.0 is a limit"),
        (dict(target="constraint", divergence="reverse_kl"), "reverse_kl is infinite while"),
        (dict(target="constraint", divergence="alpha", alpha=2.0), "divergence=alpha is infinite while"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        made(**changes)
