"""KTO: its update by numpy, where it goes, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, train
from rljax.agents.alignment import kto
from rljax.completions import Completions
from rljax.errors import UserError

ENV = envs.make("tokens/copy-2")
SMALL = dict(width=16, num_layers=1, num_heads=2)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    prompt, tokens = rng.integers(2, 12, (3, 3)), rng.integers(2, 12, (3, 2, 3))
    tokens[0, 1, 1:], tokens[2, 0, 2] = (1, 0), 1
    reward = jnp.float32([[1.0, 0.0], [0.0, 0.0], [0.75, 0.25]])
    return Completions(jnp.asarray(prompt, jnp.int32), jnp.asarray(tokens, jnp.int32), jnp.zeros((3, 2, 3)), reward)


@pytest.mark.parametrize("nearer", [False, True])
def test_its_loss_and_gradient_by_hand(batch, nearer):
    """Against completions of the prompt before, of a policy that is no longer its reference; on average these are likelier than
    under the reference, or the other way round, where they count as 0."""
    numbers = dict(beta=0.5, desirable=1.5, undesirable=0.75)
    agent = kto.make(ENV.spec, kto.Config(**SMALL, **numbers, max_grad_norm=1e9))
    state = jax.jit(agent.init)(jax.random.key(0))
    elsewhere = jax.tree.map(lambda x: x + 0.2 * jax.random.normal(jax.random.key(x.size), x.shape), state.reference)
    models = (elsewhere, state.reference) if nearer else (state.reference, elsewhere)
    state = state._replace(model=state.model._replace(params=models[0]), reference=models[1])

    def read(params, prompt, tokens):
        moved = state._replace(model=state.model._replace(params=params))
        prompts = jnp.repeat(prompt, 2, axis=0)
        return agent.log_prob(moved, prompts, tokens.reshape(6, 3)).reshape(3, 2)

    read_now = jax.jit(read)
    other = batch.tokens[jnp.array([2, 0, 1])]
    unlike = np.float64(read_now(models[0], batch.prompt, other)) - np.float64(read_now(models[1], batch.prompt, other))
    assert abs(unlike.mean()) > 0.1
    point = max(unlike.mean(), 0.0)
    reference = np.float64(read_now(models[1], batch.prompt, batch.tokens))
    sign = np.array([[1, -1], [-1, -1], [1, -1]])
    weight = np.where(sign > 0, 1.5, 0.75)

    def loss(params):
        ahead = 0.5 * (read(params, batch.prompt, batch.tokens) - reference - point)
        return (weight * (1.0 - 1.0 / (1.0 + jnp.exp(-sign * ahead)))).mean()

    value, slope = jax.jit(jax.value_and_grad(loss))(models[0])
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(1))
    assert float(metrics["loss/policy"]) == pytest.approx(float(value), rel=1e-5)
    assert float(metrics["preference/usual"]) == pytest.approx(point, abs=1e-5)
    ahead = np.float64(read_now(models[0], batch.prompt, batch.tokens)) - reference
    assert float(metrics["preference/better"]) == pytest.approx(ahead[sign > 0].mean(), abs=1e-5)
    assert float(metrics["preference/worse"]) == pytest.approx(ahead[sign < 0].mean(), abs=1e-5)
    assert float(metrics["completion/good"]) == pytest.approx(1 / 3)
    moments = [
        x for x in jax.tree.leaves(after.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")
    ]
    jax.tree.map(lambda m, g: np.testing.assert_allclose(m / 0.1, g, atol=2e-5), moments[0].mu, slope)


def test_the_good_become_likelier_and_the_bad_less(batch, learn_offline):
    """From data at rest, whose groups have fewer completions than one's own would."""
    config = kto.Config(**SMALL, num_prompts=8, learning_rate=3e-3)
    data = batch.replace(log_prob=None)
    agent, state = learn_offline(kto, config, ENV, data, iterations=40)
    begun = jax.jit(agent.init)(jax.random.key(0))
    begun = begun._replace(model=begun.model._replace(params=state.reference))
    prompt, tokens = batch.flat()
    log_prob = jax.jit(agent.log_prob)
    ahead = np.asarray(log_prob(state, prompt, tokens) - log_prob(begun, prompt, tokens)).reshape(3, 2)
    good = np.asarray(batch.reward) > 0.5
    assert ahead[good].min() > 0.3 and ahead[~good].max() < -0.3


def test_it_learns_from_its_own():
    """Good is what was paid above the threshold: answers that are right beyond their first token."""
    env = envs.make("tokens/copy-2?dense=true")
    config = kto.Config(width=32, num_layers=1, num_heads=2, learning_rate=3e-3, threshold=0.2)
    learner = train.make(kto.make(env.spec, config), kto.source(env, config))
    state = jax.jit(learner.init)(jax.random.key(0))
    run = jax.jit(lambda state: learner.run(state, 60))
    (state, begun), (_, after) = (first := run(state)), run(first[0])
    assert begun["completion/good"] < 0.3 and after["completion/good"] > begun["completion/good"] + 0.2


def test_a_prompt_alone_is_refused():
    with pytest.raises(UserError, match="num_prompts=1 leaves no completion of another prompt"):
        kto.make(ENV.spec, kto.Config(num_prompts=1))
