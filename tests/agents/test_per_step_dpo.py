"""Per-step DPO: its pairs and its loss by hand, how often a mistake is found, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, steps, train
from rljax.agents.alignment import per_step_dpo, sft, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.steps import Continued

SIZES = dict(width=16, num_layers=1, num_heads=2)
SMALL = SIZES | dict(num_prompts=4, group_size=4, max_grad_norm=1e9, step_length=1, num_continuations=4)


def by_hand():
    """Six completions to one prompt of copying four digits, steps of two tokens, and of each what was written on, two from each
    step; and, of those that have a pit, the better one with what is learned of both, of the next step and of all the rest."""
    asked = [2, 3, 4, 5]
    right, wrong = [*asked, 1], [2, 3, 9, 5, 1]
    own = [wrong, right, [8, 3, 4, 5, 1], [8, 3, 4, 5, 1], [2, 3, 9, 1, 0], [2, 3, 4, 4, 1]]
    nothing, half = [[7, 7, 7, 7, 7]] * 2, [[7, 7, 7, 7, 7], right]
    later = lambda row, n: [[*row[:n], *[7] * (5 - n)]] * 2
    further = [
        [half, half, later(wrong, 4)],  # falls with the second step
        [half, half, later(right, 4)],
        [half, nothing, nothing],  # with the first
        [nothing, nothing, nothing],  # nobody came to a right answer
        [half, [[2, 3, 4, 6, 1], right], later(own[4], 4)],  # ends within the second
        [half, [right, nothing[0]], [[2, 3, 4, 4, 1]] * 2],
    ]
    next_step = [(2, 4), None, (0, 2), None, (2, 4), (2, 4)]
    return asked, own, further, next_step


@pytest.mark.parametrize("span, beta_scale", [("step", 5.0), ("rest", 1.0)])
def test_pairs_and_loss_by_hand(span, beta_scale, two_policies):
    """And its gradient, told by the optimiser's first moment."""
    env, (asked, own, further, next_step) = envs.make("tokens/copy-4"), by_hand()
    own, further, right = jnp.array(own)[None], jnp.array(further)[None], jnp.array([*asked, 1])
    paid = lambda tokens: (tokens == right).all(axis=-1).astype(jnp.float32)
    batch = Completions(jnp.array([[*asked, 12]]), own, jnp.zeros(own.shape), paid(own))
    config = per_step_dpo.Config(**SMALL | dict(step_length=2, span=span, beta_scale=beta_scale))
    step = steps.of_tokens(config, own)
    given = Continued(batch, step, steps.begins(step, own != 0, 3), further, paid(further))
    agent, parts, state = per_step_dpo.make(env.spec, config), writer.make(env.spec, config), two_policies(env.spec)
    pairs = per_step_dpo.paired(config, given)
    np.testing.assert_array_equal(pairs.there[0], [part is not None for part in next_step])

    rows = [(np.asarray(own[0, i]), *part) for i, part in enumerate(next_step) if part]
    tokens = np.stack([np.stack([np.asarray(right), row]) for row, *_ in rows])
    place = np.arange(5)
    learned = np.stack([(place >= first) & (place < (last if span == "step" else 5)) for _, first, last in rows])
    learned = learned[:, None] & (tokens > 0)
    np.testing.assert_array_equal(pairs.tokens[pairs.there], tokens)
    np.testing.assert_array_equal(pairs.learned[pairs.there], learned)

    prompt, flat = jnp.repeat(batch.prompt, 8, axis=0), jnp.asarray(tokens.reshape(8, 5))

    def value(params):
        ahead = parts.score(params, prompt, flat).log_prob - parts.score(state.reference, prompt, flat).log_prob
        better, worse = (ahead.reshape(4, 2, 5) * learned).sum(-1).T
        return jnp.log1p(jnp.exp(-0.1 * beta_scale * (better - worse))).mean()

    expected, slope = jax.jit(jax.value_and_grad(value))(state.model.params)
    after, metrics = jax.jit(agent.update)(state, given, jax.random.key(0))
    assert float(metrics["loss/policy"]) == pytest.approx(float(expected), rel=1e-4)
    assert float(metrics["preference/pairs"]) == pytest.approx(4 / 6)
    moments = [
        x for x in jax.tree.leaves(after.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")
    ]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a / 0.1, b, atol=2e-5), moments[0].mu, slope)


def test_of_a_pair_each_has_its_own_step():
    """Steps that end with a 9: the better one's is shorter than the worse one's; the pit is the last; where the better one began
    with the pit there is no pair."""
    right, nothing = [2, 9, 3, 4, 1], [2, 9, 7, 7, 7]
    own = jnp.array([[[2, 3, 9, 4, 1], [2, 9, 3, 5, 1], [2, 9, 3, 5, 1]]])
    further = jnp.array(
        [[[[nothing, right], [own[0, 0]] * 2], [[right, nothing]] * 2, [[nothing, right], [nothing] * 2]]]
    )
    paid = lambda tokens: (tokens == jnp.array(right)).all(axis=-1).astype(jnp.float32)
    batch = Completions(jnp.array([[*right[:4], 12]]), own, jnp.zeros(own.shape), paid(own))
    config = per_step_dpo.Config(**SMALL | dict(separator=9, max_steps=2))
    step = steps.of_tokens(config, own)
    given = Continued(batch, step, steps.begins(step, own != 0, 2), further, paid(further))
    pairs = per_step_dpo.paired(config, given)
    assert pairs.there.tolist() == [[True, True, False]]
    np.testing.assert_array_equal(pairs.tokens[0, :2], [[right, own[0, 0]], [right, own[0, 1]]])
    learned = [[[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]], [[0, 0, 1, 1, 1], [0, 0, 1, 1, 1]]]
    np.testing.assert_array_equal(pairs.learned[0, :2], np.array(learned, bool))


def test_where_there_is_no_pair_nothing_moves(two_policies):
    env, (asked, own, further, _) = envs.make("tokens/copy-4"), by_hand()
    own, further = jnp.array(own)[None, 1:2], jnp.array(further)[None, 1:2]
    batch = Completions(jnp.array([[*asked, 12]]), own, jnp.zeros(own.shape), jnp.ones((1, 1)))
    config = per_step_dpo.Config(**SMALL | dict(step_length=2))
    step = steps.of_tokens(config, own)
    given = Continued(batch, step, steps.begins(step, own != 0, 3), further, jnp.zeros(further.shape[:-1]))
    state = two_policies(env.spec)
    after, metrics = jax.jit(per_step_dpo.make(env.spec, config).update)(state, given, jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, after.model.params, state.model.params)
    assert metrics["loss/policy"] == 0.0 and metrics["preference/pairs"] == 0.0


def test_the_pit_is_the_first_mistake_as_often_as_chance_has_it(two_signs, two_policies):
    """Where one answer is right. It is found if some came to that from before it, and not from each step before that only by
    chance: by the reference's own law of what is right."""
    env = two_signs()
    config = per_step_dpo.Config(**SMALL | dict(num_prompts=1000))
    state, source = two_policies(env.spec), per_step_dpo.source(env, config)
    agent = per_step_dpo.make(env.spec, config)

    @jax.jit
    def draw(key):
        _, continued, _ = source.next((), agent, state, key)
        return continued.batch, per_step_dpo.paired(config, continued)

    batch, pairs = draw(jax.random.key(0))
    right = np.concatenate([np.asarray(batch.prompt), np.ones((1000, 1), int)], axis=1)
    law = writer.make(env.spec, config).score(state.reference, batch.prompt, jnp.asarray(right)).log_prob
    finds = (
        1.0 - (1.0 - np.exp(np.cumsum(np.float64(law)[:, ::-1], axis=1)[:, ::-1])) ** 4
    )  # someone, before each token
    good = np.asarray(batch.tokens) == right[:, None]
    mistake = np.where(good.all(-1), -1, (~good).argmax(-1))
    there, tokens = np.asarray(pairs.there), np.asarray(pairs.tokens)
    assert source.env_steps == 4000 * (1 + 3 * 4) and not there[mistake < 0].any()
    for place in range(3):
        here = mistake == place
        chance = np.zeros(1000)
        for first in range(place + 1):  # nobody before each of so many tokens, and from there on always someone
            chance += (1.0 - finds[:, :first]).prod(axis=1) * finds[:, first : place + 1].prod(axis=1)
        expected = np.broadcast_to(chance[:, None], here.shape)[here]
        error = np.sqrt((expected * (1.0 - expected)).sum()) / here.sum()
        assert here.sum() > 200 and there[here].mean() == pytest.approx(expected.mean(), abs=4.0 * error)
        found = here & there
        np.testing.assert_array_equal(tokens[found][:, 0], np.broadcast_to(right[:, None], (1000, 4, 3))[found])
        np.testing.assert_array_equal(pairs.learned[found], np.broadcast_to(np.arange(3) == place, (found.sum(), 2, 3)))


def test_runs_side_by_side_are_as_alone(two_signs, two_policies):
    """What is drawn and what is learned, each by its own level and key."""
    env = two_signs(dense=True)

    def step(level, key):
        config = per_step_dpo.Config(**SMALL, pit_level=level)
        agent, source = per_step_dpo.make(env.spec, config), per_step_dpo.source(env, config)
        _, given, _ = source.next((), agent, two_policies(env.spec), key)
        after, metrics = agent.update(two_policies(env.spec), given, key)
        return given.batch.tokens, after.model.params, metrics["preference/pairs"]

    asked = jnp.array([0.0, 0.4]), jax.random.split(jax.random.key(3))
    beside, alone = jax.jit(jax.vmap(step))(*asked), jax.jit(step)
    for i in range(2):
        found = jax.tree.map(lambda x, i=i: x[i], beside)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, alone(*(x[i] for x in asked)))
    assert (beside[2] > 0.0).all()


def test_it_learns():
    """Paid for whole answers alone, it goes on from a policy that was shown some."""
    env, sizes = envs.make("tokens/copy-2"), SIZES | dict(width=32, learning_rate=3e-3)
    begin = sft.Config(**sizes, num_prompts=32)
    config = per_step_dpo.Config(**sizes, num_prompts=16, group_size=4, step_length=1, beta_scale=5.0)
    agent, shown_by = per_step_dpo.make(env.spec, config), sft.make(env.spec, begin)
    before = train.make(shown_by, sft.source(env, begin))
    after = train.make(agent, per_step_dpo.source(env, config))

    @jax.jit
    def run(key):
        shown, _ = before.run(before.init(key), 60)
        return shown.agent, after.run(after.init(key).replace(agent=shown.agent), 60)[0].agent

    shown, state = run(jax.random.key(0))
    prompt, answer = jax.vmap(env.example)(jax.random.split(jax.random.key(1), 400))
    writes = jax.jit(lambda state: (agent.act(state, prompt, (), jax.random.key(2))[0] == answer).all(axis=1).mean())
    assert writes(shown) < 0.25 and writes(state) > writes(shown) + 0.3


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(method="dop"), "There is no method 'dop'"),
        (dict(span="steps"), "There is no span 'steps'; nearest: step"),
        (dict(num_continuations=0), "num_continuations=0 must be at least 1"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence, two_signs):
    with pytest.raises(UserError, match=sentence):
        per_step_dpo.make(two_signs().spec, per_step_dpo.Config(**SMALL | changes))
