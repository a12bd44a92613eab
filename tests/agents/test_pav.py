"""PAV: values against sums over all completions, an update by hand, and that it learns."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, steps, train
from rljax.agents.alignment import pav, rloo, sft, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.steps import Continued

SIZES = dict(width=16, num_layers=1, num_heads=2)
SMALL = SIZES | dict(num_prompts=4, group_size=4, max_grad_norm=1e9, kl="")
TOKENS = SMALL | dict(step_length=1)
EVERY = [x for x in itertools.product((0, 1, 2, 3), repeat=3) if all((t == 0) == (1 in x[:i]) for i, t in enumerate(x))]
EVERY = np.array(EVERY, np.int32)  # all 15 completions


def parts_of(env, **changes):
    return writer.make(env.spec, pav.Config(**SMALL | changes))


def exact_values(law, paid, best_of):
    """{tokens that a completion begins with: what the best of so many is paid in the mean}, from the law of each token [15, 3]."""
    found = {}
    for row, size in itertools.product(EVERY, range(4)):
        alike = (EVERY[:, :size] == row[:size]).all(axis=1)
        chance = law[alike, size:].prod(axis=1)
        order = np.argsort(paid[alike])
        below = np.cumsum(chance[order]) ** best_of
        found[tuple(row[:size])] = paid[alike][order] @ np.diff(below, prepend=0.0)
    return found


@pytest.mark.parametrize("best_of, resets", [(1, ""), (3, "uniform")])
def test_values_are_unbiased(best_of, resets, two_signs, two_policies):
    """Of each beginning of each prompt, by the reference and not by the policy; at the end they are what was paid."""
    env = two_signs(dense=True)
    changes = dict(num_prompts=1500, group_size=2, best_of=best_of, num_continuations=4, resets=resets)
    config = pav.Config(**TOKENS | changes)
    state, source = two_policies(env.spec), pav.source(env, config)
    agent = pav.make(env.spec, config)
    _, continued, _ = jax.jit(lambda key: source.next((), agent, state, key))(jax.random.key(0))
    value, begin, tokens = (
        np.asarray(x).reshape(3000, -1)
        for x in (pav.values(config, continued), continued.begin, continued.batch.tokens)
    )
    prompts, off = np.repeat(np.asarray(continued.batch.prompt), 2, axis=0), []
    score = jax.jit(parts_of(env).score)
    for prompt in itertools.product((2, 3), repeat=2):
        asked = jnp.tile(jnp.array(prompt, jnp.int32), (15, 1))
        law = np.exp(np.float64(score(state.reference, asked, EVERY).log_prob))
        step = jax.vmap(lambda prompt, tokens: env.step(env.asked(prompt), tokens, None)[1].reward)
        exact = exact_values(law, np.float64(step(asked, EVERY)), best_of)
        here = (prompts == prompt).all(axis=1)
        told = [(tuple(t[:b]), v) for t, bs, vs in zip(tokens[here], begin[here], value[here]) for b, v in zip(bs, vs)]
        for beginning, expected in exact.items():
            found = np.array([v for b, v in told if b == beginning])
            if 1 in beginning or len(beginning) == 3:
                np.testing.assert_allclose(found, expected, atol=1e-6)
            elif len(found) > 50:
                off.append((found.mean() - expected) / (found.std() / np.sqrt(len(found)) + 1e-3))
    assert len(off) > 15 and np.abs(off).max() < 4.0


def continued(spec, params, step_length):
    """Four prompts with four completions each, as if by the policy, and what was paid of three from each of their steps."""
    rng, options = np.random.default_rng(1), steps.Options(step_length=step_length)
    tokens = jnp.asarray(EVERY[rng.integers(0, 15, (4, 4))])
    prompt = jnp.asarray(rng.integers(2, 4, (4, 2)), jnp.int32)
    paid = lambda *shape: jnp.asarray(rng.integers(0, 3, shape) / 2.0, jnp.float32)
    batch = Completions(prompt, tokens, None, paid(4, 4))
    log_prob = jax.jit(writer.make(spec, pav.Config(**SMALL)).score)(params, *batch.flat()).log_prob
    number, step = steps.count(options, 3), steps.of_tokens(options, tokens)
    begin = steps.begins(step, tokens != 0, number)
    batch = batch.replace(log_prob=log_prob.reshape(4, 4, 3))
    return Continued(batch, step, begin, jnp.zeros((4, 4, number, 3, 3), jnp.int32), paid(4, 4, number, 3))


def updated(module, env, state, batch, **changes):
    agent = module.make(env.spec, module.Config(**SMALL | changes))
    return jax.jit(agent.update)(state, batch, jax.random.key(2))


def test_an_update_by_hand(two_signs, two_policies):
    """Each token by its completion's reward, less the mean of the others', and by what its step added to the best of
    two, less the mean of the others' as well; told by the optimiser's first moment."""
    env, state = two_signs(), two_policies(two_signs().spec)
    given = continued(env.spec, state.model.params, 2)
    changes = dict(step_length=2, best_of=2, num_continuations=3, alpha=0.7)
    after, metrics = updated(pav, env, state, given, **changes)
    reward, further = np.float64(given.batch.reward), np.float64(given.reward)
    before = np.mean([further[..., list(two)].max(axis=-1) for two in itertools.combinations(range(3), 2)], axis=0)
    progress = np.stack([before[..., 1] - before[..., 0], reward - before[..., 1]], axis=-1)
    ahead = lambda x: x - (x.sum(1, keepdims=True) - x) / 3.0
    weight = np.float32(ahead(reward)[..., None] + 0.7 * ahead(progress)[..., [0, 0, 1]]).reshape(16, 3)
    score = parts_of(env).score
    value = lambda params: -(weight * score(params, *given.batch.flat()).log_prob).sum() / 16
    expected = jax.jit(jax.grad(value))(state.model.params)
    moments = [
        x for x in jax.tree.leaves(after.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a / 0.1, b, atol=2e-5), moments[0].mu, expected)
    there = np.asarray(given.begin)[..., -1:] > np.array([0, 2])
    assert float(metrics["prover/value"]) == pytest.approx(before[..., 0].mean(), rel=1e-5)
    assert float(metrics["prover/advantage"]) == pytest.approx(np.abs(progress)[there].mean(), rel=1e-5)


def test_without_progress_it_is_rloo_to_the_bit(two_signs, two_policies):
    env, state = two_signs(), two_policies(two_signs().spec)
    given = continued(env.spec, state.model.params, 1)
    found, _ = updated(pav, env, state, given, step_length=1, alpha=0.0, best_of=2, num_continuations=3)
    expected, _ = updated(rloo, env, state, given.batch)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    other, _ = updated(pav, env, state, given, step_length=1, alpha=0.1, best_of=2, num_continuations=3)
    away = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), other.model.params, found.model.params)
    assert max(jax.tree.leaves(away)) > 1e-5


def test_runs_side_by_side_are_as_alone(two_signs, two_policies):
    """What is drawn and what is learned, each by its own alpha and key."""
    env = two_signs()

    def step(alpha, key):
        config = pav.Config(**TOKENS, alpha=alpha, num_continuations=4)
        agent, source = pav.make(env.spec, config), pav.source(env, config)
        _, batch, _ = source.next((), agent, two_policies(env.spec), key)
        return batch, agent.update(two_policies(env.spec), batch, key)[0].model.params

    asked = jnp.array([0.3, 2.0]), jax.random.split(jax.random.key(3))
    beside, alone = jax.jit(jax.vmap(step))(*asked), jax.jit(step)
    for i in range(2):
        found = jax.tree.map(lambda x, i=i: x[i], beside)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, alone(*(x[i] for x in asked)))
    assert (beside[0].tokens[0] != beside[0].tokens[1]).any()


def test_it_learns():
    """Paid for whole answers alone, it goes on from a policy that was shown some."""
    env, sizes = envs.make("tokens/copy-2"), SIZES | dict(width=32, learning_rate=3e-3)
    begin, config = (
        sft.Config(**sizes, num_prompts=32),
        pav.Config(**sizes, num_prompts=16, group_size=4, kl="", step_length=1),
    )
    agent = pav.make(env.spec, config)
    before, after = (
        train.make(sft.make(env.spec, begin), sft.source(env, begin)),
        train.make(agent, pav.source(env, config)),
    )

    @jax.jit
    def run(key):
        shown, _ = before.run(before.init(key), 60)
        state, metrics = after.run(after.init(key).replace(agent=shown.agent), 60)
        return shown.agent, state.agent, metrics["prover/value"]

    shown, state, value = run(jax.random.key(0))
    prompt, answer = jax.vmap(env.example)(jax.random.split(jax.random.key(1), 400))
    writes = jax.jit(lambda state: (agent.act(state, prompt, (), jax.random.key(2))[0] == answer).all(axis=1).mean())
    assert writes(shown) < 0.25 and writes(state) > writes(shown) + 0.2
    assert 1.0 - (1.0 - float(writes(shown))) ** 4 == pytest.approx(float(value), abs=0.1)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(best_of=9), "best_of=9 must lie between 1 and num_continuations=8"),
        (dict(best_of=0), "best_of=0 must lie between 1"),
        (dict(group_size=1), "group_size=1 leaves no others"),
        (dict(step_length=0), "step_length=0 must be at least 1"),
        (dict(advantage="rlo"), "There is no advantage 'rlo'"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence, two_signs):
    with pytest.raises(UserError, match=sentence):
        pav.make(two_signs().spec, pav.Config(**SMALL | changes))
