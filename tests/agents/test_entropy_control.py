"""EPO and AEPO: their updates by hand, what they are shown, and an entropy that is held."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.agents.alignment import aepo, epo, policy_gradient, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.networks import language_model
from rljax.networks.language_model import LanguageModel

ENV = envs.make("tokens/copy-2?dense=true")
SMALL = dict(width=16, num_layers=1, num_heads=2, num_prompts=4, group_size=4, max_grad_norm=1e9)
POLICY = LanguageModel(ENV.spec.action.vocabulary, 16, 1, 2)


@functools.cache
def begun():
    """A policy that is surer of some tokens than of others."""
    state = jax.jit(writer.make(ENV.spec, aepo.Config(**SMALL)).init)(jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: x + jnp.float32(0.3 * rng.normal(size=x.shape)), state.model.params)
    return writer.State(state.model._replace(params=params), params)


@jax.jit
def read(params, prompt, tokens):
    """Log-probabilities and entropies [B, T]."""
    log_probs = jax.nn.log_softmax(language_model.completion_logits(POLICY, params, prompt, tokens))
    return language_model.taken(log_probs, tokens), -(jnp.exp(log_probs) * log_probs).sum(axis=-1)


def groups(seed):
    """Four prompts with four completions each, drawn evenly, as if by the policy."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 12, (4, 4, 3))
    tokens = np.where(np.cumsum(tokens == 1, axis=2) - (tokens == 1) > 0, 0, tokens)
    batch = Completions(
        jnp.int32(rng.integers(2, 12, (4, 3))), jnp.int32(tokens), None, jnp.float32(rng.random((4, 4)) < 0.5)
    )
    return batch.replace(log_prob=read(begun().model.params, *batch.flat())[0].reshape(tokens.shape))


def step_of(module, batch, **changes):
    """The gradient that an agent descends on a batch, told by its optimiser's first moment."""
    agent = module.make(ENV.spec, module.Config(**SMALL | changes))
    after, metrics = jax.jit(agent.update)(begun(), batch, jax.random.key(2))
    kept = [x for x in jax.tree.leaves(after.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]
    return jax.tree.map(lambda x: x / 0.1, kept[0].mu), metrics


def close(found, expected):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), found, expected)


def advantages(batch):
    reward = np.float64(batch.reward)
    return (reward - reward.mean(1, keepdims=True)) / (reward.std(1, ddof=1, keepdims=True) + 1e-6)


def of_each(batch, tokens):
    """The mean over a batch's completions of the mean over their tokens."""
    there = np.asarray(batch.tokens).reshape(-1, 3) > 0
    return jnp.where(there, tokens, 0.0).sum(1) / there.sum(1)


def test_entropies_outside_of_the_band_are_led_back():
    """By hand, of a band that has tokens on either side; where all costs the same outside, as released, it would move nothing."""
    batch = groups(1)
    entropy = np.asarray(read(begun().model.params, *batch.flat())[1])[np.asarray(batch.tokens.reshape(-1, 3) > 0)]
    low, high = np.quantile(entropy, [0.3, 0.7]).astype(np.float32)
    assert high - low > 0.05

    @jax.jit
    @jax.grad
    def expected(params, slope):
        log_prob, entropy = read(params, *batch.flat())
        outside = jnp.where(entropy < low, low - entropy, jnp.where(entropy > high, entropy - high, 0.0))
        gain = of_each(batch, advantages(batch).reshape(-1, 1) * log_prob).mean()
        return -gain - 0.1 * of_each(batch, entropy - slope * 3.0 * outside).mean()

    found, _ = step_of(epo, epo.Banded(batch, low, high), entropy_coefficient=0.1, band_weight=3.0)
    close(found, expected(begun().model.params, 1.0))
    apart = jax.tree.map(lambda x, y: np.abs(np.asarray(x - y)).max(), found, expected(begun().model.params, 0.0))
    assert max(jax.tree.leaves(apart)) > 1e-2


def test_the_band_is_made_of_all_batches_before():
    """The first has none."""
    config = epo.Config(**SMALL, band_low=0.25, band_high=2.0)
    agent, source = epo.make(ENV.spec, config), epo.source(ENV, config)
    state, before, draw = (
        source.init(agent, jax.random.key(0)),
        [],
        jax.jit(lambda *x: source.next(x[0], agent, *x[1:])),
    )
    for i in range(3):
        params = jax.tree.map(lambda x, i=i: (1.0 - 0.3 * i) * x, begun().model.params)
        written_by = writer.State(begun().model._replace(params=params), params)
        state, banded, metrics = draw(state, written_by, jax.random.key(i))
        there = np.asarray(banded.batch.tokens.reshape(-1, 3) > 0)
        entropy = np.asarray(read(params, *banded.batch.flat())[1])[there].mean()
        assert float(metrics["entropy/written"]) == pytest.approx(entropy, rel=1e-5)
        band = [0.25 * np.mean(before), 2.0 * np.mean(before)] if before else [0.0, np.inf]
        np.testing.assert_allclose([banded.low, banded.high], band, rtol=1e-5)
        before.append(entropy)
    assert np.ptp(before) > 0.1


def test_what_was_paid_at_another_temperature_is_learned_by_reinforce():
    """Whatever its group was paid, and as if the policy had written it; the others count, but are not learned."""
    own, tempered = groups(1), groups(2)
    paid = np.asarray(tempered.reward > 0).reshape(-1)
    assert 0 < paid.sum() < 16

    @jax.jit
    @jax.grad
    def expected(params):
        (mine, _), (theirs, _) = (read(params, *batch.flat()) for batch in (own, tempered))
        gain = of_each(own, advantages(own).reshape(-1, 1) * mine).sum()
        return -(gain + 0.7 * of_each(tempered, paid[:, None] * theirs).sum()) / 32.0

    both = aepo.Both(own, tempered.replace(log_prob=tempered.log_prob + 0.5))
    found, metrics = step_of(aepo, both, alpha=0.7, num_tempered=4, only_mixed=False)
    close(found, expected(begun().model.params))
    assert float(metrics["tempered/paid"]) == paid.mean()


def test_the_temperature_is_by_the_entropy():
    """Cold ones are the likeliest completions, hot ones any; one's own are drawn as ever."""
    config = aepo.Config(**SMALL, num_tempered=16, temperature_low=1e-3, temperature_high=1e3)
    agent = aepo.make(ENV.spec, config)

    @jax.jit
    def draw(target):
        source = aepo.source(ENV, config.replace(entropy_target=target))
        return source.next((), agent, begun(), jax.random.key(0))[1:]

    (cold, found), (hot, other) = draw(0.0), draw(9.0)
    np.testing.assert_array_equal(cold.own.tokens, hot.own.tokens)
    assert cold.tempered.tokens.shape == (16, 4, 3)
    greedy = jax.jit(lambda prompt: agent.act(begun(), prompt, (), jax.random.key(1), False)[0])(cold.tempered.prompt)
    np.testing.assert_array_equal(cold.tempered.tokens, jnp.broadcast_to(greedy[:, None], (16, 4, 3)))
    first = np.bincount(np.asarray(hot.tempered.tokens[..., 0]).ravel(), minlength=13)
    assert first[0] == 0 and first[1:].max() < 16  # of 64, in 12 tokens
    np.testing.assert_allclose([found["tempered/temperature"], other["tempered/temperature"]], [1e-3, 1e3])


def test_an_entropy_is_held_at_its_target():
    """Where all is paid nothing but the temperature moves it: from far above it comes to either target, and stays."""
    config = aepo.Config(**SMALL | dict(learning_rate=3e-3), num_tempered=16, temperature_high=2.0, temperature_low=0.5)

    @jax.jit
    @jax.vmap
    def run(target):
        chosen = config.replace(entropy_target=target)
        agent, source = aepo.make(ENV.spec, chosen), aepo.source(ENV, chosen)

        def step(state, key):
            _, both, metrics = source.next((), agent, state, key)
            paid = both.tempered.replace(reward=jnp.ones((16, 4)))
            both = aepo.Both(both.own.replace(reward=jnp.zeros((4, 4))), paid)
            return agent.update(state, both, key)[0], metrics["entropy/written"]

        return jax.lax.scan(step, agent.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 110))[1]

    entropy = np.asarray(run(jnp.array([1.5, 0.7])))
    assert (entropy[:, 0] > 2.3).all()
    np.testing.assert_allclose(entropy[:, 70:].mean(axis=1), [1.5, 0.7], atol=0.2)


def test_the_mean_is_over_what_was_drawn():
    batch = groups(3).replace(forced=jnp.full((4, 4), 1))
    parts = writer.make(ENV.spec, aepo.Config(**SMALL))
    there = np.asarray(batch.tokens.reshape(-1, 3) > 0) & (np.arange(3) > 0)
    entropy = np.asarray(read(begun().model.params, *batch.flat())[1])[there].mean()
    found = jax.jit(lambda params: policy_gradient.mean_entropy(parts, params, batch))(begun().model.params)
    assert float(found) == pytest.approx(entropy, rel=1e-5)


@pytest.mark.parametrize(
    "module, changes, sentence",
    [
        (epo, dict(band_low=1.5, band_high=0.5), "band_low=1.5 must be below band_high=0.5"),
        (epo, dict(advantage="grop"), "There is no advantage 'grop'"),
        (aepo, dict(temperature_low=1.1), "temperature_low=1.1 must be above 0 and at most 1"),
        (aepo, dict(temperature_high=0.9), "temperature_high=0.9 at least 1"),
        (aepo, dict(kl="k3"), "must be in the reward"),
    ],
)
def test_what_cannot_be_is_refused(module, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        module.make(ENV.spec, module.Config(**SMALL | changes))
