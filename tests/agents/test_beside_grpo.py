"""EPO, AEPO, KDRL and P3O: their updates by hand, what they read, and an entropy that is held.

What an update descends is told by its optimiser's first moment, and is in each case a sum over tokens of numbers of numpy's times
the gradients of their log-probabilities and entropies.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs
from rljax.agents.alignment import aepo, epo, kdrl, p3o, policy_gradient, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.networks import language_model
from rljax.networks.language_model import LanguageModel, Scored
from rljax.sources import Demonstrator
from rljax.types import Agent

ENV = envs.make("tokens/copy-2?dense=true")
SMALL = dict(width=16, num_layers=1, num_heads=2, num_prompts=4, group_size=4, max_grad_norm=1e9)
POLICY = LanguageModel(ENV.spec.action.vocabulary, 16, 1, 2)
RIGHT = np.array([[1, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 1, 0]], bool)


@functools.cache
def begun():
    """A policy that is surer of some tokens than of others, and its reference, another one."""
    rng, parts = np.random.default_rng(0), writer.make(ENV.spec, aepo.Config(**SMALL))
    leaf = lambda x: jnp.float32((x.ndim == 1) + 0.3 * rng.normal(size=x.shape))  # scales about 1, matrices about 0
    draw = lambda: jax.tree.map(leaf, shape.model.params)
    shape = jax.eval_shape(parts.init, jax.random.key(0))
    opt_state = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape.model.opt_state)
    return writer.State(shape.model._replace(params=draw(), opt_state=opt_state), draw())


@jax.jit
def read(params, prompt, tokens):
    """Log-probabilities and entropies [B, T]."""
    log_probs = jax.nn.log_softmax(language_model.completion_logits(POLICY, params, prompt, tokens))
    return language_model.taken(log_probs, tokens), -(jnp.exp(log_probs) * log_probs).sum(axis=-1)


@jax.jit
def slope(prompt, tokens, of_log_prob, of_entropy):
    """The gradient of the sum of log-probabilities and entropies, each times a number [B, T]."""

    def value(params):
        log_prob, entropy = read(params, prompt, tokens)
        return (of_log_prob * log_prob + of_entropy * entropy).sum()

    return jax.grad(value)(begun().model.params)


def expected(batch, of_log_prob, of_entropy=0.0):
    there = there_in(batch)
    numbers = (np.float32(np.where(there, x, 0.0)).reshape(16, 3) for x in (of_log_prob, of_entropy))
    return slope(*batch.flat(), *numbers)


@functools.cache
def groups(seed):
    """Four prompts with four completions each, drawn evenly, as if by the policy."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, 12, (4, 4, 3))
    tokens = jnp.int32(np.where(np.cumsum(tokens == 1, axis=2) - (tokens == 1) > 0, 0, tokens))
    batch = Completions(jnp.int32(rng.integers(2, 12, (4, 3))), tokens, None, jnp.float32(RIGHT))
    return batch.replace(log_prob=read(begun().model.params, *batch.flat())[0].reshape(tokens.shape))


def there_in(batch):
    return np.asarray(batch.tokens) > 0


def step_of(module, batch, **changes):
    agent = module.make(ENV.spec, module.Config(**SMALL | changes))
    after, metrics = jax.jit(agent.update)(begun(), batch, jax.random.key(2))
    return after, metrics


def close(after, *expected):
    kept = [x for x in jax.tree.leaves(after.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]
    check = lambda mu, *parts: np.testing.assert_allclose(mu / 0.1, sum(np.float64(x) for x in parts), atol=3e-5)
    jax.tree.map(check, kept[0].mu, *expected)


def gains(batch):
    """GRPO's advantages over the tokens of each completion [Q, K, 1]."""
    reward = np.float64(batch.reward)
    advantage = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, ddof=1, keepdims=True) + 1e-6)
    return advantage[..., None] / there_in(batch).sum(2, keepdims=True)


def random_writer(length=3):
    """Who writes anything."""

    def act(state, prompt, memory, key, explore, beginning):
        tokens = jax.random.randint(key, (len(beginning), length), 2, 12)
        return tokens, memory, {"log_prob": -jnp.ones(tokens.shape)}

    return Agent(lambda key: (), act, None)


# --- EPO.


def test_entropies_outside_of_the_band_are_led_back():
    """Of a band that has tokens on either side. Where all costs the same outside, as released, it would move nothing."""
    batch = groups(1)
    entropy = np.asarray(read(begun().model.params, *batch.flat())[1]).reshape(4, 4, 3)
    low, high = np.quantile(entropy[there_in(batch)], [0.3, 0.7]).astype(np.float32)
    assert high - low > 0.05
    banded = epo.Banded(batch, low, high)
    after, _ = step_of(epo, banded, entropy_coefficient=0.1, band_weight=3.0)
    led = np.where(entropy < low, 4.0, np.where(entropy > high, -2.0, 1.0))
    of_entropy = -0.1 * led / there_in(batch).sum(2, keepdims=True) / 16
    close(after, expected(batch, -gains(batch) / 16, of_entropy))


def test_the_band_is_made_of_all_batches_before():
    """The first has none."""
    config = epo.Config(**SMALL, band_low=0.25, band_high=2.0)
    source = epo.source(ENV, config)
    state, before = source.init(random_writer(), jax.random.key(0)), []
    draw = jax.jit(lambda *x: source.next(x[0], random_writer(), *x[1:]))
    for i in range(3):
        params = jax.tree.map(lambda x, i=i: (1.0 - 0.3 * i) * x, begun().model.params)
        written_by = writer.State(begun().model._replace(params=params), params)
        state, banded, metrics = draw(state, written_by, jax.random.key(i))
        entropy = np.asarray(read(params, *banded.batch.flat())[1]).mean()
        assert float(metrics["entropy/written"]) == pytest.approx(entropy, rel=1e-5)
        band = [0.25 * np.mean(before), 2.0 * np.mean(before)] if before else [0.0, np.inf]
        np.testing.assert_allclose([banded.low, banded.high], band, rtol=1e-5)
        before.append(entropy)
    assert np.ptp(before) > 0.1


def test_the_mean_entropy_is_over_what_was_drawn():
    batch = groups(3).replace(forced=jnp.full((4, 4), 1))
    entropy = np.float32(np.random.default_rng(0).random((16, 3)))
    parts = writer.make(ENV.spec, epo.Config(**SMALL))._replace(score=lambda *asked: Scored(None, entropy))
    expected = entropy.reshape(4, 4, 3)[there_in(batch) & (np.arange(3) > 0)].mean()
    assert float(policy_gradient.mean_entropy(parts, None, batch)) == pytest.approx(expected, rel=1e-5)


# --- AEPO.


def test_what_was_paid_at_another_temperature_is_learned_by_reinforce():
    """Whatever its group was paid, and as if the policy had written it; the others count, but are not learned. Of one's own the
    first token was given, and those that have no other are none."""
    own, tempered = groups(1).replace(forced=jnp.ones((4, 4), jnp.int32)), groups(2)
    both = aepo.Both(own, tempered.replace(log_prob=tempered.log_prob + 0.5))
    after, metrics = step_of(aepo, both, alpha=0.7, num_tempered=4)
    drawn = there_in(own) & (np.arange(3) > 0)
    count = 16 + drawn.any(2).sum()
    gain = gains(own) * there_in(own).sum(2, keepdims=True) * drawn / np.maximum(drawn.sum(2, keepdims=True), 1)
    paid = RIGHT[..., None] / there_in(tempered).sum(2, keepdims=True)
    close(after, expected(own, -gain / count), expected(tempered, -0.7 * paid / count))
    assert count < 32
    assert float(metrics["tempered/paid"]) == RIGHT.mean()


def test_an_entropy_is_held_at_its_target():
    """Where all is paid nothing but the temperature moves it: from far above it comes to either target, and stays."""
    config = aepo.Config(**SMALL | dict(learning_rate=3e-3), num_tempered=16, temperature_high=2.0, temperature_low=0.5)

    @jax.jit
    def run(target):
        chosen = config.replace(entropy_target=target)
        agent, source = aepo.make(ENV.spec, chosen), aepo.source(ENV, chosen)

        def step(state, key):
            _, both, metrics = source.next((), agent, state, key)
            paid = both.tempered.replace(reward=jnp.ones((16, 4)))
            both = aepo.Both(both.own.replace(reward=jnp.zeros((4, 4))), paid)
            return agent.update(state, both, key)[0], (metrics["entropy/written"], metrics["tempered/temperature"])

        return jax.lax.scan(step, agent.init(jax.random.key(0)), jax.random.split(jax.random.key(1), 110))[1]

    for target in np.float32([1.5, 0.7]):
        entropy, temperature = (np.asarray(x) for x in run(target))
        np.testing.assert_array_equal(temperature, np.where(entropy < target, 2.0, 0.5))
        assert entropy[0] > 2.3 and entropy[70:].mean() == pytest.approx(target, abs=0.2)


# --- KDRL.


@pytest.mark.parametrize("kl, asked", [("k2", "wrong"), ("k3", "failed")])
def test_a_teacher_is_held_to_where_it_is_asked(kl, asked):
    """GRPO's gradient, and the estimator's own at each token of completions that the teacher is asked of."""
    batch, rng = groups(1), np.random.default_rng(4)
    teacher = np.where(there_in(batch), -rng.uniform(0.5, 4.0, (4, 4, 3)), 0.0)
    taught = kdrl.Taught(batch, jnp.float32(teacher), jnp.float32(0.3))
    after, metrics = step_of(kdrl, taught, kl=kl, asked=asked)
    held = {"wrong": ~RIGHT, "failed": ~RIGHT & ~RIGHT.any(1, keepdims=True)}[asked][..., None]
    ahead = np.float64(batch.log_prob) - teacher
    pull = held * {"k2": ahead, "k3": 1.0 - np.exp(-ahead)}[kl] / there_in(batch).sum(2, keepdims=True)
    close(after, expected(batch, (0.3 * pull - gains(batch)) / 16))
    assert float(metrics["teacher/asked"]) == held.mean()


def test_a_teacher_reads_what_was_written_and_fades():
    """Its coefficient falls on a straight line and stays."""
    config = kdrl.Config(**SMALL, kl_coefficient=0.5, kl_last=0.1, annealing_batches=2.0)
    opinion = lambda state, prompt, tokens: (
        state * (tokens + jnp.repeat(prompt, len(tokens) // len(prompt), axis=0)[:, :1]),
        None,
    )
    source = kdrl.source(ENV, config, Demonstrator(jnp.float32(-0.1), None, opinion))
    state = source.init(random_writer(), jax.random.key(0))
    draw = jax.jit(lambda state, key: source.next(state, random_writer(), (), key))
    for i, coefficient in enumerate([0.5, 0.3, 0.1, 0.1]):
        state, (batch, teacher, found), _ = draw(state, jax.random.key(i))
        np.testing.assert_allclose(teacher, -0.1 * (batch.tokens + batch.prompt[:, :1, None]), rtol=1e-6)
        assert float(found) == pytest.approx(coefficient, rel=1e-6)


def test_who_writes_nothing_is_no_teacher():
    source = kdrl.source(ENV, kdrl.Config(**SMALL), Demonstrator((), lambda *asked: None))
    with pytest.raises(UserError, match="must write some itself: --demonstrator must be a run of sft"):
        jax.eval_shape(lambda key: source.next(((), 0.0), random_writer(), (), key), jax.random.key(0))


# --- P3O.


def test_on_policy_p3o_is_rloo():
    """Rewards less the divergence of whole completions, each against the mean of the others."""
    batch = groups(1)
    after, metrics = step_of(p3o, batch, kl_coefficient=0.5)
    before, reference = (
        np.float64(read(params, *batch.flat())[0]).sum(1).reshape(4, 4)
        for params in (begun().model.params, begun().reference)
    )
    paid = np.float64(batch.reward) - 0.5 * (before - reference)
    advantage = paid - (paid.sum(1, keepdims=True) - paid) / 3.0
    close(after, expected(batch, np.broadcast_to(-advantage[..., None] / 16, (4, 4, 3))))
    assert float(metrics["reference/kl"]) == pytest.approx((before - reference).mean(), rel=1e-4)


def test_what_a_prompt_adds_does_not_matter():
    """To the bit, on policy and off it: in the second of two passes as well."""
    config = p3o.Config(**SMALL, kl_coefficient=0.0, clip="separate", num_epochs=2, num_minibatches=2)
    update, batch = jax.jit(p3o.make(ENV.spec, config).update), groups(1)
    added = batch.replace(reward=batch.reward + jnp.float32([[64.0], [-32.0], [0.0], [7.0]]))
    one, other = (update(begun(), some, jax.random.key(2))[0] for some in (batch, added))
    jax.tree.map(np.testing.assert_array_equal, one.model.params, other.model.params)
    moved = jax.tree.map(
        lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), one.model.params, begun().model.params
    )
    assert min(jax.tree.leaves(moved)) > 0.0


@pytest.mark.parametrize(
    "module, changes, sentence",
    [
        (epo, dict(band_low=1.5, band_high=0.5), "band_low=1.5 must be below band_high=0.5"),
        (epo, dict(advantage="grop"), "There is no advantage 'grop'"),
        (aepo, dict(temperature_low=1.1), "temperature_low=1.1 must be above 0 and at most 1"),
        (aepo, dict(temperature_high=0.9), "temperature_high=0.9 at least 1"),
        (aepo, dict(kl="k3"), "must be in the reward"),
        (kdrl, dict(kl=""), "kl must be an estimator"),
        (kdrl, dict(kl="exact"), "kl must be an estimator"),
        (kdrl, dict(kl="k1", kl_place="reward"), "kl must be an estimator"),
        (kdrl, dict(asked="wrnog"), "A teacher is not asked of 'wrnog'; nearest: wrong"),
        (p3o, dict(clip="jiont"), "P3O has no clip 'jiont'; nearest: joint"),
        (p3o, dict(group_size=1), "group_size=1 leaves no pair"),
    ],
)
def test_what_cannot_be_is_refused(module, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        module.make(ENV.spec, module.Config(**SMALL | changes))
