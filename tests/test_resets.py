"""Completions that begin as right ones do: with how much of them, whose, and that what was given is no part of what is learned."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import completions, envs, resets, train
from rljax.agents.alignment import grpo, policy_gradient, rlhf_ppo, rloo, writer
from rljax.completions import Completions
from rljax.envs.wrappers import Rewarded
from rljax.errors import UserError
from rljax.metrics import Average
from rljax.networks import language_model
from rljax.resets import Options
from rljax.tokens import END, PAD, mask

ENV = envs.make("tokens/copy-4")
SMALL = dict(width=16, num_layers=1, num_heads=2, num_prompts=6, group_size=4)


def near(found, expected, number):
    """A share of draws within four deviations."""
    assert abs(found - expected) <= 4.0 * np.sqrt(expected * (1.0 - expected) / number) + 1e-9


def test_as_many_as_asked_and_each_length_as_likely():
    length = jnp.tile(jnp.array([5, 3, 1]), 10_000)
    within, forced = resets.draw(Options(0.3, resets="uniform"), (), length, jax.random.key(0))
    near(within.mean(), 0.3, 30_000)
    assert (forced[~within] == 0).all() and (forced[within & (length == 1)] == 0).all()
    for size in (3, 5):
        there = np.asarray(forced[within & (length == size)])
        assert there.min() == 1 and there.max() == size - 1
        for count in range(1, size):
            near((there == count).mean(), 1.0 / (size - 1), len(there))


def test_depths():
    """Of five tokens four can be given: a depth of 0.3 is 1.2 of them."""
    lengths = lambda depth: resets.draw(
        Options(1.0, resets="curriculum"), jnp.float32(depth), jnp.full(10_000, 5), jax.random.key(1)
    )[1]
    assert (lengths(1.0) == 4).all() and (lengths(0.0) == 0).all()
    forced = lengths(0.3)
    assert ((forced == 1) | (forced == 2)).all()
    near((forced == 2).mean(), 0.2, 10_000)


def test_a_curriculum_moves_by_hand():
    options = Options(reset_target=0.4, reset_rate=0.5, reset_depth=0.7, resets="curriculum")
    assert resets.init(options) == pytest.approx(0.7) and resets.init(Options(resets="uniform")) == ()
    moved = lambda depth, total, count: float(resets.moved(options, jnp.float32(depth), Average(total, count)))
    assert moved(0.7, 6.0, 8.0) == pytest.approx(0.7 - 0.5 * (0.75 - 0.4))
    assert moved(0.7, 0.0, 8.0) == pytest.approx(0.7 + 0.5 * 0.4)
    assert moved(0.7, 0.0, 0.0) == pytest.approx(0.7)  # nobody began there
    assert moved(0.1, 8.0, 8.0) == 0.0 and moved(0.9, 0.0, 8.0) == 1.0


def drawn(config, state=None, data=None):
    agent, source = grpo.make(ENV.spec, config), grpo.source(ENV, config, data)
    begun = jax.jit(agent.init)(jax.random.key(0))
    state = source.init(agent, jax.random.key(0)) if state is None else state
    return jax.jit(lambda state, key: source.next(state, agent, begun, key))(state, jax.random.key(1))


def test_groups_begin_as_the_right_answer_does():
    config = grpo.Config(**SMALL | dict(num_prompts=40), resets="curriculum", reset_share=0.6, reset_rate=0.1)
    state, batch, told = drawn(config, jnp.float32(1.0))
    right = jnp.concatenate([batch.prompt[:, :4], jnp.full((40, 1), END)], axis=1)[:, None]
    forced = np.asarray(batch.forced)
    assert forced.shape == (40, 4) and (forced == forced[:, :1]).all()
    within = forced[:, 0] > 0
    near(within.mean(), 0.6, 40)
    assert (forced[within] == 4).all()
    given = np.arange(5) < forced[..., None]
    np.testing.assert_array_equal((batch.tokens == right)[given], True)
    assert (np.asarray(batch.log_prob)[given] == 0.0).all() and (
        np.asarray(batch.log_prob)[~given & batch.drawn] < 0.0
    ).all()
    reward = (batch.tokens == right).all(-1)  # by the task, of the prompt that stands there
    np.testing.assert_array_equal(batch.reward, reward)
    paid = reward[within].mean()
    assert 0.0 < paid < 0.4 and told["episode/return"].count == 4 * (~within).sum()
    assert (
        told["episode/return_from_within"].total == reward[within].sum()
        and told["episode/forced"].count == 4 * within.sum()
    )
    assert told["reset/depth"] == 1.0 and state == pytest.approx(min(1.0, 1.0 - 0.1 * (paid - 0.5)))
    assert told["completion/length"].total == mask(batch.tokens).sum()


def test_groups_begin_as_what_was_paid_in_data():
    """Whether right or not; others have the environment's prompts, here of digits that those of the data have not."""
    rows = np.arange(2, 7)
    prompt = np.tile(rows[:, None], (1, 5))
    prompt[:, 4] = 12
    tokens = np.stack([np.tile(rows[:, None] + 5, (1, 5)), np.full((5, 5), 2)], axis=1)  # paid, and not
    paid = np.stack([np.ones(5), np.array([0.0, -1.0, 0.0, 0.0, 0.0])], axis=1)
    data = Completions(jnp.asarray(prompt), jnp.asarray(tokens), None, jnp.asarray(paid, jnp.float32))
    config = grpo.Config(**SMALL | dict(num_prompts=200, group_size=2), resets="uniform")
    _, batch, told = drawn(config, data=data)
    forced, first = np.asarray(batch.forced[:, 0]), np.asarray(batch.prompt)
    within = forced > 0
    near(within.mean(), 0.5, 200)
    assert (first[within, :4] == first[within, :1]).all()
    for row in rows:
        near((first[within, 0] == row).mean(), 0.2, within.sum())
    given = np.arange(5) < forced[:, None, None]
    expected = np.broadcast_to(first[:, :1, None] + 5, batch.tokens.shape)
    np.testing.assert_array_equal(np.where(given, batch.tokens, 0), np.where(given, expected, 0))
    assert (first[~within, 0] > 6).any() and len(np.unique(first[~within], axis=0)) > 90
    assert "reset/depth" not in told and not np.asarray(batch.reward)[within].any()


CONFIGS = {
    "grpo": (grpo, dict(kl="k3", entropy_coefficient=0.3, kl_coefficient=0.2)),
    "rloo": (rloo, dict(kl_coefficient=0.5)),
    "rlhf_ppo": (rlhf_ppo, dict(kl_coefficient=0.5, num_epochs=2, num_minibatches=1)),
}


def batch_of(forced):
    """Six groups of four, as if they had been drawn by another policy; `forced` [6]."""
    numbers = np.random.default_rng(0)
    tokens = numbers.integers(2, 12, (6, 4, 5))
    tokens[:, :, :4] = np.where(np.arange(4) < forced[:, None, None], tokens[:, :1, :4], tokens[:, :, :4])
    tokens[:, ::2, 4] = END
    given = np.arange(5) < forced[:, None, None]
    log_prob = np.where(given, 0.0, numbers.uniform(-3.0, -2.0, (6, 4, 5)))
    prompt = np.concatenate([numbers.integers(2, 12, (6, 4)), np.full((6, 1), 12)], axis=1)
    prompt[1, :2] = PAD
    reward = jnp.asarray(numbers.integers(0, 2, (6, 4)), jnp.float32)
    counts = jnp.asarray(np.broadcast_to(forced[:, None], (6, 4)))
    return Completions(
        jnp.asarray(prompt, jnp.int32), jnp.asarray(tokens, jnp.int32), jnp.float32(log_prob), reward, counts
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_what_was_given_is_a_part_of_the_prompt(name):
    """The step is the one of shorter completions to prompts that have it."""
    module, changes = CONFIGS[name]
    agent = module.make(ENV.spec, module.Config(**SMALL | changes))
    state = jax.jit(agent.init)(jax.random.key(0))
    apart = lambda state: state._replace(reference=jax.tree.map(lambda x: 2.0 * x, state.reference))
    state = apart(state) if isinstance(state, writer.State) else state._replace(policy=apart(state.policy))
    batch = batch_of(np.full(6, 2))
    group = lambda x: x.reshape(24, 1, *x.shape[2:])
    if name == "rlhf_ppo":  # which asks no group, so prompts may differ
        alone = map(group, (batch.tokens, batch.log_prob, batch.reward, batch.forced))
        batch = Completions(jnp.repeat(batch.prompt, 4, axis=0), *alone)
    longer = jnp.concatenate([batch.prompt, batch.tokens[:, 0, :2]], axis=1)
    shorter = batch.replace(prompt=longer, tokens=batch.tokens[..., 2:], log_prob=batch.log_prob[..., 2:], forced=None)
    update = jax.jit(agent.update)
    found, told = update(state, batch, jax.random.key(2))
    expected, also = update(state, shorter, jax.random.key(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)
    for metric in ("policy/entropy", "loss/policy"):
        assert float(told[metric]) == pytest.approx(float(also[metric]), abs=1e-5)
    other, _ = update(state, batch.replace(forced=None), jax.random.key(2))
    away = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found, other)
    if (
        name == "rloo"
    ):  # advantages that add up to nothing leave nothing of what a group has in common, where tokens are summed
        assert max(jax.tree.leaves(away)) < 1e-5
    else:
        assert max(jax.tree.leaves(away)) > 1e-4


def test_what_was_given_has_no_gradient(monkeypatch):
    """Exactly none, by divergence and entropy neither; what was drawn has."""
    config = grpo.Config(**SMALL, kl="exact", kl_coefficient=0.2, entropy_coefficient=0.3)
    parts, batch = writer.make(ENV.spec, config), batch_of(np.array([0, 1, 2, 3, 4, 2]))
    state = jax.jit(parts.init)(jax.random.key(0))
    original, flat = language_model.completion_logits, lambda x: x.reshape(24, *x.shape[2:])

    @jax.jit
    def slope(bump):
        log_prob, reference = policy_gradient.log_probs(parts, config, state, batch)
        each = flat(batch.reward) - 0.5, flat(batch.reward), flat(batch.reward), jnp.ones(24, bool)
        written = policy_gradient.Written(*batch.flat(), log_prob, 0.5 * reference, *each, flat(batch.forced))

        def value(bump):
            monkeypatch.setattr(language_model, "completion_logits", lambda *args: original(*args) + bump)
            return policy_gradient.loss(parts, config, state.model.params, written)[0]

        return jax.grad(value)(bump)

    size = np.abs(slope(jnp.zeros((24, 5, ENV.spec.action.vocabulary)))).max(axis=-1).reshape(6, 4, 5)
    assert (size[~np.asarray(batch.drawn)] == 0.0).all() and (size[np.asarray(batch.drawn)] > 1e-6).all()


def test_it_goes_on_to_the_bit():
    """The curriculum is a part of the state of a run."""
    config = grpo.Config(**SMALL, resets="curriculum", reset_rate=0.5)
    learner = train.make(grpo.make(ENV.spec, config), grpo.source(ENV, config))
    step = jax.jit(lambda state: jax.lax.scan(lambda state, _: (learner.step(state)[0], None), state, length=2)[0])
    four = jax.jit(lambda state: jax.lax.scan(lambda state, _: (learner.step(state)[0], None), state, length=4)[0])
    begun = jax.jit(learner.init)(jax.random.key(0)).replace(source=jnp.float32(0.8))
    once = step(begun)
    assert once.source != begun.source
    raw = lambda state: jax.tree.leaves(state.replace(key=jax.random.key_data(state.key)))
    jax.tree.map(np.testing.assert_array_equal, raw(step(once)), raw(four(begun)))


def test_runs_side_by_side_draw_as_alone():
    """Each by its own share, depth and key."""
    agent = grpo.make(ENV.spec, grpo.Config(**SMALL))
    begun = jax.jit(agent.init)(jax.random.key(0))

    def draw(share, depth, key):
        config = grpo.Config(**SMALL, resets="curriculum", reset_share=share)
        depth, batch, _ = grpo.source(ENV, config).next(depth, agent, begun, key)
        return depth, batch

    asked = jnp.array([0.5, 1.0]), jnp.array([0.9, 0.4]), jax.random.split(jax.random.key(3))
    beside, alone = jax.jit(jax.vmap(draw))(*asked), jax.jit(draw)
    for i in range(2):
        expected = alone(*(x[i] for x in asked))
        found = jax.tree.map(lambda x, i=i: x[i], beside)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    forced = np.asarray(beside[1].forced)
    assert (forced[0] == 0).any() and set(forced[1].ravel()) <= {1, 2}


def test_what_cannot_be_is_refused():
    hidden = Rewarded(ENV, (), lambda state, steps: steps.reward)
    with pytest.raises(UserError, match="Resets need asked .* Rewarded has not"):
        grpo.source(hidden, grpo.Config(resets="uniform"))
    data = Completions(jnp.full((2, 5), 2), jnp.full((2, 1, 5), 2), None, jnp.zeros((2, 1)))
    with pytest.raises(UserError, match="there is nothing to begin from"):
        grpo.source(ENV, grpo.Config(resets="uniform"), data)
    with pytest.raises(UserError, match="may begin them as those of a --dataset: say how"):
        rlhf_ppo.source(ENV, rlhf_ppo.Config(), data)
    for changes, sentence in {
        ("uniformly", 0.5): "no resets 'uniformly'; nearest: uniform",
        ("uniform", 1.5): "reset_share=1.5 is a share",
    }.items():
        with pytest.raises(UserError, match=sentence):
            rloo.make(ENV.spec, rloo.Config(resets=changes[0], reset_share=changes[1]))
    assert completions.groups(ENV, 2, 2).init(None, None) == ()
