"""RLGF: AggreVaTeD's step against sums over all completions, who writes which tokens, when it is whose turn, and that it learns."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, train
from rljax.agents.alignment import grpo, rlgf, rloo, writer
from rljax.completions import Completions
from rljax.envs.tokens import Task, Verified
from rljax.errors import UserError
from rljax.sources import Demonstrator
from rljax.tokens import END, PAD
from rljax.types import Agent

SIZES = dict(width=16, num_layers=1, num_heads=2)
SMALL = SIZES | dict(num_prompts=4, group_size=2, max_grad_norm=1e9)
EVERY = [x for x in itertools.product((0, 1, 2, 3), repeat=3) if all((t == 0) == (1 in x[:i]) for i, t in enumerate(x))]
EVERY = np.array(EVERY, np.int32)  # all 15 completions
LENGTH = (EVERY > 0).sum(axis=1)
BEGINNINGS = [x for n in range(3) for x in itertools.product((2, 3), repeat=n)]  # all 7 that a token can follow


@functools.cache
def begun(spec, seed):
    """A policy that is surer of some tokens than of others."""
    rng, parts = np.random.default_rng(seed), writer.make(spec, rlgf.Config(**SMALL))
    leaf = lambda x: np.float32((x.ndim == 1) + 0.3 * rng.normal(size=x.shape))  # scales about 1, matrices about 0
    shape = jax.eval_shape(parts.init, jax.random.key(0))
    opt_state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shape.model.opt_state)
    params = jax.tree.map(leaf, shape.model.params)
    return writer.State(shape.model._replace(params=params, opt_state=opt_state), params)


def made(env, **changes):
    config = rlgf.Config(**SMALL | changes)
    return rlgf.make(env.spec, config), config


def guide_of(env, seed=1):
    agent, _ = made(env)
    return Demonstrator(begun(env.spec, seed), agent.act, agent.token_log_probs)


@functools.cache
def tree(env, prompt, seed):
    """Of a prompt and a guide: how likely the policy (seed 0) comes to each beginning and chooses each token there, and what the
    guide is paid that goes on from it: {beginning: (chance, law [3], values [3])}; and what completions [15] are paid, and their
    chances."""
    score = jax.jit(writer.make(env.spec, rlgf.Config(**SMALL)).score)
    asked = jnp.tile(jnp.array(prompt, jnp.int32), (15, 1))
    law, of_guide = (np.exp(np.float64(score(begun(env.spec, s).model.params, asked, EVERY)[0])) for s in (0, seed))
    paid = np.float64(jax.vmap(lambda p, t: env.step(env.asked(p), t, None)[1].reward)(asked, EVERY))
    found = {}
    for beginning in BEGINNINGS:
        n = len(beginning)
        alike = lambda tokens: (EVERY[:, : len(tokens)] == np.array(tokens, int)).all(axis=1)
        rows = [alike((*beginning, token)) for token in (1, 2, 3)]
        value = np.array([of_guide[row, n + 1 :].prod(axis=1) @ paid[row] for row in rows])
        reached = law[alike(beginning)][0, :n].prod()
        found[beginning] = reached, np.array([law[row][0, n] for row in rows]), value
    return found, paid, law.prod(axis=1)


def padded(*tokens):
    return np.pad(np.array(tokens, np.int32), (0, 3 - len(tokens)))


@pytest.mark.parametrize("seed", [1, 0])
def test_the_mean_step_is_the_gradient_of_advantages_at_all_places(seed, two_signs):
    """Over all answers of the policy, switches and pairs of choices, each as often as it is drawn. With itself as its guide the
    gradient is also that of the mean reward."""
    env, prompt = two_signs(dense=True), (2, 3)
    found, paid, chance = tree(env, prompt, seed)
    groups = []
    for row, length, likely in zip(EVERY, LENGTH, chance):
        for switch in range(length):
            beginning = tuple(row[:switch])
            _, law, value = found[beginning]
            for pair in itertools.product(range(3), repeat=2):
                tokens = [padded(*beginning, choice + 1) for choice in pair]
                log_prob = [np.where(np.arange(3) == switch, np.log(law[choice]), 0.0) for choice in pair]
                drawn = likely / length * law[list(pair)].prod()
                groups.append((tokens, log_prob, value[list(pair)], [switch] * 2, length * drawn))
    tokens, log_prob, reward, forced, weight = (np.array(x) for x in zip(*groups))
    prompts = jnp.tile(jnp.array(prompt, jnp.int32), (len(groups), 1))
    batch = Completions(prompts, jnp.int32(tokens), *map(jnp.float32, (log_prob, reward)), jnp.int32(forced))
    agent, _ = made(env)
    guided = rlgf.Guided(batch, jnp.float32(weight * len(groups)))
    after, _ = jax.jit(agent.update)(begun(env.spec, 0), guided, jax.random.key(2))

    score = writer.make(env.spec, rlgf.Config(**SMALL)).score
    rows = np.array([padded(*b, token) for b in BEGINNINGS for token in (1, 2, 3)])
    place = np.repeat([len(b) for b in BEGINNINGS], 3)
    reached = np.repeat([found[b][0] for b in BEGINNINGS], 3)
    ahead = np.concatenate([found[b][2] - found[b][2].mean() for b in BEGINNINGS])  # any baseline of the beginning

    def at_all_places(params):
        asked = jnp.tile(jnp.array(prompt, jnp.int32), (21, 1))
        chosen = jnp.exp(score(params, asked, rows).log_prob[jnp.arange(21), place])
        return -(jnp.float32(reached * ahead) * chosen).sum()

    def mean_reward(params):
        asked = jnp.tile(jnp.array(prompt, jnp.int32), (15, 1))
        return -(jnp.float32(paid) * jnp.exp(score(params, asked, EVERY).log_prob.sum(axis=1))).sum()

    kept = [x for x in jax.tree.leaves(after.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")]
    check = lambda mu, expected: np.testing.assert_allclose(mu / 0.1, expected, atol=2e-5)
    slope = jax.jit(jax.grad(at_all_places))(begun(env.spec, 0).model.params)
    jax.tree.map(check, kept[0].mu, slope)
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(slope)) > 1e-2
    if seed == 0:
        jax.tree.map(check, kept[0].mu, jax.jit(jax.grad(mean_reward))(begun(env.spec, 0).model.params))


def test_what_is_drawn_has_that_mean(two_signs):
    """Choices at all beginnings of all prompts, each by its weight and advantage: the policy begins and chooses, the guide ends and
    is paid for it."""
    env = two_signs(dense=True)
    agent, config = made(env, num_prompts=6000, method="aggrevated")
    source = rlgf.source(env, config, guide_of(env))
    _, guided, _ = jax.jit(lambda key: source.next(0.0, agent, begun(env.spec, 0), key))(jax.random.key(0))
    batch, weight = guided
    tokens, reward, forced = (np.asarray(x) for x in (batch.tokens, batch.reward, batch.forced))
    assert ((tokens > 0).sum(axis=-1) == forced + 1).all()
    gain, off = np.asarray(weight)[:, None] * (reward - reward[:, ::-1]) / 2.0, []
    for prompt in itertools.product((2, 3), repeat=2):
        here = (np.asarray(batch.prompt) == prompt).all(axis=1)
        for beginning, (reached, law, value) in tree(env, prompt, 1)[0].items():
            expected = reached * law * (value - law @ value)
            for token, mean in zip((1, 2, 3), expected):
                chosen = (tokens[here] == padded(*beginning, token)).all(axis=-1)
                sample = (gain[here] * chosen).sum(axis=1)
                off.append((sample.mean() - mean) / (sample.std() / np.sqrt(len(sample)) + 1e-3))
                at = np.asarray(batch.log_prob)[here][chosen]
                likely = np.where(np.arange(3) == len(beginning), np.log(law[token - 1]), 0.0)
                np.testing.assert_allclose(at, np.broadcast_to(likely, at.shape), atol=1e-4)
    assert len(off) == 84 and np.abs(off).max() < 4.0 and np.std(off) > 0.2


# --- Whose tokens they are.

COPY = envs.make("tokens/copy-4")


def pattern(signs):
    """(state, prompt, memory, key, explore, beginning) of one who writes some signs alone: five, or two and END where the prompt's
    first is even."""

    def act(state, prompt, memory, key, explore, beginning=None):
        prompt = prompt if beginning is None else jnp.repeat(prompt, len(beginning) // len(prompt), axis=0)
        drawn = jax.random.choice(key, jnp.array(signs), (len(prompt), 5))
        short = prompt[:, :1] % 2 == 0
        drawn = jnp.where(short & (jnp.arange(5) == 2), END, jnp.where(short & (jnp.arange(5) > 2), PAD, drawn))
        given = jnp.zeros_like(drawn) if beginning is None else beginning
        ended = (given == END).any(axis=1, keepdims=True)
        tokens = jnp.where((given != PAD) | ended, given, drawn)
        return tokens, memory, {"log_prob": jnp.where((tokens != PAD) & (given == PAD), -1.0, 0.0)}

    return act


POLICY, GUIDE = Agent(None, pattern([2, 4, 6]), None), Demonstrator((), pattern([3, 5, 7]), lambda *asked: None)


def near(found, expected, number):
    """A share of draws within four deviations."""
    assert abs(found - expected) <= 4.0 * np.sqrt(expected * (1.0 - expected) / number) + 1e-9


def drawn(**changes):
    config = rlgf.Config(**SMALL | dict(num_prompts=4000) | changes)
    source = rlgf.source(COPY, config, GUIDE)
    _, (batch, weight), told = jax.jit(lambda key: source.next(0.0, POLICY, (), key))(jax.random.key(0))
    return batch, np.asarray(weight), told


def test_the_guide_begins_as_many_as_asked_and_each_length_as_likely():
    batch, weight, told = drawn(method="ppo_pp", reset_share=0.7)
    tokens, forced = np.asarray(batch.tokens), np.asarray(batch.forced)
    assert (forced == forced[:, :1]).all() and (weight == 1.0).all() and told["guide/ends"] == 0.0
    given, own = np.arange(5) < forced[..., None], np.asarray(batch.drawn)
    assert (tokens[given] % 2 == 1).all() and (tokens[given] > END).all()
    assert (own == ((tokens != PAD) & ~given)).all() and np.isin(tokens[own], [2, 4, 6, END]).all()
    np.testing.assert_array_equal(batch.log_prob, np.where(own, -1.0, 0.0))
    near((forced[:, 0] > 0).mean(), 0.7, 4000)
    short = np.asarray(batch.prompt)[:, 0] % 2 == 0
    for which, most in ((short, 2), (~short, 4)):
        found = forced[which, 0][forced[which, 0] > 0]
        for count in range(1, most + 1):
            near((found == count).mean(), 1.0 / most, len(found))
    for name, where in (("episode/return", forced == 0), ("episode/return_from_within", forced > 0)):
        assert told[name].count == where.sum()
    assert told["episode/return_ended"].count == 0.0


def test_the_policy_begins_and_chooses_where_the_guide_ends():
    """The switch is as likely at any place of the policy's own answer, of which there are as many as it weighs."""
    batch, weight, told = drawn(method="lols", imitation_share=0.6)
    tokens, forced = np.asarray(batch.tokens), np.asarray(batch.forced)
    ended = ((tokens[:, :, 0] % 2 == 0) | (tokens[:, :, 0] == END))[:, 0] & ((tokens > 0).sum(-1) == forced + 1).all(1)
    near(ended.mean(), 0.6, 4000)
    assert told["guide/ends"] == pytest.approx(ended.mean())
    assert np.isin(tokens[ended], [2, 4, 6, END, PAD]).all() and (forced == forced[:, :1]).all()
    at = np.arange(5) == forced[..., None]
    np.testing.assert_array_equal(np.asarray(batch.drawn)[ended], at[ended])
    np.testing.assert_array_equal(np.asarray(batch.log_prob)[ended], np.where(at[ended], -1.0, 0.0))
    short = np.asarray(batch.prompt)[:, 0] % 2 == 0
    for which, places in ((short, 3), (~short, 5)):
        found = forced[ended & which, 0]
        assert (weight[ended & which] == places).all()
        for place in range(places):
            near((found == place).mean(), 1.0 / places, len(found))
    assert (weight[~ended] == 1.0).all() and told["episode/return_ended"].count == 2 * ended.sum()
    whole = np.where(short, 3, 5).repeat(2)  # of who is cut off where the switch is, the guide wrote the rest
    assert told["completion/length"].total == whole.sum()


def test_what_the_policy_goes_on_with_is_learned_as_from_right_answers(two_signs):
    """PPO++'s step is that of the same groups under resets, to the bit: nothing of the guide's is in it."""
    env = two_signs(dense=True)
    agent, config = made(env, method="ppo_pp", num_prompts=16)
    source = rlgf.source(env, config, guide_of(env))
    _, guided, _ = jax.jit(lambda key: source.next(0.0, agent, begun(env.spec, 0), key))(jax.random.key(0))
    fields = dict(advantage="rloo", aggregation="sequence_mean_token_sum", resets="uniform", num_prompts=16)
    plain = grpo.make(env.spec, grpo.Config(**SMALL | fields))
    step = lambda agent, batch: jax.jit(agent.update)(begun(env.spec, 0), batch, jax.random.key(2))[0]
    jax.tree.map(np.testing.assert_array_equal, step(agent, guided), step(plain, guided.batch))
    assert (np.asarray(guided.batch.forced) > 0).any()


# --- Whose turn it is.


def test_imitation_ends_when_due_and_it_goes_on_to_the_bit(two_signs):
    """How many batches there were is a part of the state of a run, so what was saved after two has one more of them."""
    env = two_signs(dense=True)
    agent, config = made(env, method="d2lols", imitation_batches=3.0)
    learner = train.make(agent, rlgf.source(env, config, guide_of(env)))
    step, state = jax.jit(learner.step), jax.jit(learner.init)(jax.random.key(0))
    raw = lambda state: jax.tree.map(np.asarray, state.replace(key=jax.random.key_data(state.key)))

    def run(state, length):
        ends = []
        for _ in range(length):
            state, metrics = step(state)
            ends.append(float(metrics["guide/ends"]))
        return state, ends

    whole, ends = run(state, 5)
    assert ends == [1.0, 1.0, 1.0, 0.0, 0.0]
    saved = raw(run(state, 2)[0])
    again, ends = run(saved.replace(key=jax.random.wrap_key_data(saved.key)), 3)
    assert ends == [1.0, 0.0, 0.0] and saved.source == 2.0
    jax.tree.map(np.testing.assert_array_equal, raw(again), raw(whole))


def test_runs_side_by_side_are_as_alone(two_signs):
    """One whose guide is due beside one whose is not, each by its own share and key."""
    env = two_signs(dense=True)

    def step(share, batches, key):
        config = rlgf.Config(**SMALL, method="d2lols", reset_share=share, imitation_batches=batches)
        agent, source = rlgf.make(env.spec, config), rlgf.source(env, config, guide_of(env))
        count, guided, _ = source.next(jnp.float32(1.0), agent, begun(env.spec, 0), key)
        return count, guided, agent.update(begun(env.spec, 0), guided, key)[0].model.params

    asked = jnp.array([0.3, 1.0]), jnp.array([2.0, 1.0]), jax.random.split(jax.random.key(3))
    beside, alone = jax.jit(jax.vmap(step))(*asked), jax.jit(step)
    for i in range(2):
        found = jax.tree.map(lambda x, i=i: x[i], beside)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), found, alone(*(x[i] for x in asked)))
    assert (beside[1].weight[0] > 1.0).any() and (beside[1].weight[1] == 1.0).all()


# --- That it learns.


def right_guide(env):
    """Who goes on with the right answer, whatever was written."""

    def act(state, prompt, memory, key, explore, beginning=None):
        right = jax.vmap(env.asked)(prompt)
        if beginning is not None:
            right = jnp.repeat(right, len(beginning) // len(right), axis=0)
            ended = (beginning == END).any(axis=1, keepdims=True)
            right = jnp.where((beginning != PAD) | ended, beginning, right)
        return right, memory, {}

    return Demonstrator((), act, lambda *asked: None)


def test_it_learns():
    """Three of eight signs to be said, whatever the prompt, and nothing is paid for fewer: from a guide that knows them, at first
    place by place. Alone it finds them in none of as many batches."""
    task = Task(
        lambda key: jax.random.randint(key, (1,), 2, 10), lambda prompt: jnp.array([2, 5, 3]), tuple("abcdefgh")
    )
    env, sizes = Verified(task), SIZES | dict(width=32, learning_rate=3e-3, num_prompts=32, group_size=8)
    guided = rlgf.Config(**sizes, method="d2lols", imitation_batches=110.0, entropy_coefficient=0.03)
    alone = rloo.Config(**sizes, kl="", entropy_coefficient=0.03)

    def run(module, config, *guide):
        agent = module.make(env.spec, config)
        learner = train.make(agent, module.source(env, config, *guide))
        state = jax.jit(lambda key: learner.run(learner.init(key), 150)[0].agent)(jax.random.key(0))
        prompt, answer = jax.vmap(env.example)(jax.random.split(jax.random.key(1), 400))
        writes = jax.jit(lambda state: agent.act(state, prompt, (), jax.random.key(2))[0])(state)
        return float((writes == answer).all(axis=1).mean())

    assert run(rloo, alone) < 0.05 and run(rlgf, guided, right_guide(env)) > 0.6


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(method="d2lol"), "There is no guidance 'd2lol'; nearest: d2lols"),
        (dict(resets="curriculum"), "resets must be uniform"),
        (dict(imitation_share=1.5), "imitation_share=1.5 is a share"),
        (dict(reset_share=1.5), "reset_share=1.5 is a share"),
        (dict(overlong_buffer=2.0), "overlong_buffer must be 0"),
        (dict(advantage="rlo"), "There is no advantage 'rlo'"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        rlgf.make(COPY.spec, rlgf.Config(**SMALL | changes))


def test_who_writes_nothing_is_no_guide():
    source = rlgf.source(COPY, rlgf.Config(**SMALL), Demonstrator((), lambda *asked: None))
    with pytest.raises(UserError, match="must write some itself: --demonstrator must be a run of sft"):
        jax.eval_shape(lambda key: source.next(0.0, POLICY, (), key), jax.random.key(0))
