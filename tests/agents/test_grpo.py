"""GRPO and its family: one update by hand, what each part is made of, and that they learn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, train
from rljax.agents.alignment import dapo, grpo, max_rl, nft, policy_gradient, rloo, sft, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.experiments import catalog
from rljax.losses import outcome, surrogate

ENV = envs.make("tokens/copy-2?dense=true")
SMALL = dict(width=16, num_layers=1, num_heads=2, num_prompts=4, group_size=4)


def written(agent, state, seed=1, reward=None):
    """Four prompts, answered four times each by the policy."""
    prompt = jnp.asarray(np.random.default_rng(seed).integers(2, 12, (4, 3)), jnp.int32).at[:, 2].set(12)
    draw = jax.jit(lambda state, prompt, key: agent.act(state, prompt, (), key, True))
    tokens, _, extras = draw(state, jnp.repeat(prompt, 4, axis=0), jax.random.key(seed))
    reward = jnp.asarray(np.random.default_rng(seed).integers(0, 2, (4, 4)), jnp.float32) if reward is None else reward
    return Completions(prompt, tokens.reshape(4, 4, 3), extras["log_prob"].reshape(4, 4, 3), reward)


def slope(agent, state, of):
    """The gradient of `of`(log-probabilities [Q, K] of whole completions) with respect to the policy's parameters."""

    def value(params, batch):
        moved = state._replace(model=state.model._replace(params=params))
        flat = batch.tokens.reshape(16, 3)
        return of(agent.log_prob(moved, jnp.repeat(batch.prompt, 4, axis=0), flat).reshape(4, 4), batch)

    return lambda batch: jax.jit(lambda params: jax.grad(value)(params, batch))(state.model.params)


def step_of(module, changes, of):
    """The gradient that an agent descends on a batch, told by its optimiser's first moment, and that of `of`."""
    agent = module.make(ENV.spec, module.Config(**SMALL | dict(max_grad_norm=1e9) | changes))
    state = jax.jit(agent.init)(jax.random.key(0))
    batch = written(agent, state)
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(2))
    moment = next(
        x.mu for x in jax.tree.leaves(after.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")
    )
    return jax.tree.map(lambda m: m / 0.1, moment), slope(agent, state, of)(batch), metrics


def length(batch):
    return (np.asarray(batch.tokens) > 0).sum(-1)


def test_grpo_by_hand():
    """On policy: the mean over answers of A / length times the gradient of their log-probabilities."""

    def of(log_prob, batch):
        reward = np.asarray(batch.reward)
        advantage = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, ddof=1, keepdims=True) + 1e-6)
        return -(log_prob * advantage / length(batch)).mean()

    found, expected, _ = step_of(grpo, {}, of)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def test_rloo_by_hand():
    """The others' mean as a baseline; the reference is the policy itself at first, so nothing is taken off."""

    def of(log_prob, batch):
        reward = np.asarray(batch.reward)
        others = (reward.sum(1, keepdims=True) - reward) / 3.0
        return -(log_prob * (reward - others)).mean()

    found, expected, _ = step_of(rloo, {}, of)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), found, expected)


def test_dapo_counts_tokens_of_mixed_groups_alone():
    reward = np.float32([[0, 1, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 0, 0]])

    def of(log_prob, batch):
        advantage = (reward - reward.mean(1, keepdims=True)) / (reward.std(1, ddof=1, keepdims=True) + 1e-6)
        return -(log_prob * advantage).sum() / length(batch)[[0, 3]].sum()

    agent = dapo.make(ENV.spec, dapo.Config(**SMALL, max_grad_norm=1e9))
    state = jax.jit(agent.init)(jax.random.key(0))
    batch = written(agent, state, reward=jnp.asarray(reward))
    after, metrics = jax.jit(agent.update)(state, batch, jax.random.key(2))
    moment = next(
        x.mu for x in jax.tree.leaves(after.model.opt_state, is_leaf=lambda x: hasattr(x, "mu")) if hasattr(x, "mu")
    )
    expected = slope(agent, state, of)(batch)
    jax.tree.map(lambda m, b: np.testing.assert_allclose(m / 0.1, b, atol=2e-5), moment, expected)
    assert metrics["group/mixed"] == 0.5 and metrics["group/best"] == 0.75


def test_nft_is_grpo_on_policy():
    """With the paper's weights of prompts, at success rates within its bounds; of a deviation with ddof 0."""

    def of(log_prob, batch):
        reward = np.asarray(batch.reward)
        deviation = reward.std(1, keepdims=True)
        advantage = np.divide(reward - reward.mean(1, keepdims=True), deviation, out=0 * reward, where=deviation > 0)
        return -(log_prob * advantage / length(batch)).mean()

    found, expected, _ = step_of(nft, dict(num_minibatches=1), of)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, expected)


@pytest.mark.parametrize("kl, place", [("exact", "loss"), ("k2", "loss"), ("k3", "loss"), ("k3", "weighted_loss")])
def test_the_reference_pulls(kl, place):
    """Nothing is paid, so all that moves the policy is its reference: it comes nearer, by each estimator."""
    config = grpo.Config(**SMALL | dict(num_prompts=16), kl=kl, kl_place=place, kl_coefficient=1.0, learning_rate=3e-3)
    agent, source = grpo.make(ENV.spec, config), grpo.source(ENV, config)
    begun = jax.jit(agent.init)(jax.random.key(0))
    elsewhere = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), begun.reference)
    state = begun._replace(reference=elsewhere)

    @jax.jit
    def learn(state, key):
        def step(state, key):
            _, batch, _ = source.next((), agent, state, key)
            batch = batch.replace(reward=jnp.zeros_like(batch.reward))
            state, metrics = agent.update(state, batch, jax.random.fold_in(key, 1))
            return state, metrics["policy/kl"]

        return jax.lax.scan(step, state, jax.random.split(key, 60))

    after, distance = learn(state, jax.random.key(1))
    assert distance[-10:].mean() < 0.3 * distance[:3].mean()
    jax.tree.map(np.testing.assert_array_equal, after.reference, elsewhere)


def test_a_divergence_in_the_reward_is_taken_off():
    config = rloo.Config(**SMALL, kl_coefficient=0.5, max_grad_norm=1e9)
    agent = rloo.make(ENV.spec, config)
    state = jax.jit(agent.init)(jax.random.key(0))
    state = state._replace(reference=jax.tree.map(lambda x: 2.0 * x, state.reference))
    batch = written(agent, state)
    flat = jnp.repeat(batch.prompt, 4, axis=0), batch.tokens.reshape(16, 3)
    read = jax.jit(lambda params: agent.log_prob(state._replace(model=state.model._replace(params=params)), *flat))
    reference = read(state.reference).reshape(4, 4)
    paid = batch.reward - 0.5 * (batch.log_prob.sum(-1) - reference)
    plain = rloo.make(ENV.spec, config.replace(kl=""))
    expected, _ = jax.jit(plain.update)(state, batch.replace(reward=paid), jax.random.key(2))
    found, _ = jax.jit(agent.update)(state, batch, jax.random.key(2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found.model.params, expected.model.params)


LEARNING = dict(width=32, num_layers=1, num_heads=2, num_prompts=32, learning_rate=3e-3)


def right(agent, state):
    """The share of the answer that a policy's likeliest completions have before the first mistake."""
    prompt, answer = jax.vmap(ENV.example)(jax.random.split(jax.random.key(1), 200))
    greedy = jax.jit(lambda state: agent.act(state, prompt, (), jax.random.key(2), False)[0])(state)
    return float(jnp.cumprod(greedy == answer, axis=1).mean())


@pytest.mark.parametrize("name", ["grpo", "gspo"])
def test_they_learn(name):
    """Two digits to be copied, paid for what is right before the first mistake: from less than 0.1 at random."""
    module = catalog.agent(name)
    config = module.Config(**LEARNING)
    agent = module.make(ENV.spec, config)
    learner = train.make(agent, module.source(ENV, config))
    state, _ = jax.jit(lambda key: learner.run(learner.init(key), 120))(jax.random.key(0))
    assert right(agent, state.agent) > 0.5


def test_nft_learns_from_right_and_wrong():
    """Paid for whole answers alone, it goes on from a policy that was shown some."""
    env = envs.make("tokens/copy-2")
    begin, config = sft.Config(**LEARNING), nft.Config(**LEARNING)
    agent, further = sft.make(env.spec, begin), nft.make(env.spec, config)
    before = train.make(agent, sft.source(env, begin))
    after = train.make(further, nft.source(env, config))

    @jax.jit
    def run(key):
        shown, _ = before.run(before.init(key), 50)
        state, _ = after.run(after.init(key).replace(agent=shown.agent), 60)
        return shown.agent, state.agent

    shown, state = run(jax.random.key(0))
    assert right(agent, shown) < 0.7 and right(further, state) > right(agent, shown) + 0.15


def test_no_number_has_two_meanings():
    """What a config has of the surrogates, of the advantages and of writers are different fields."""
    kinds = (writer.GroupConfig, outcome.Options, surrogate.Options)
    names = [field.name for kind in kinds for field in dataclasses.fields(kind)]
    own = {name for kind in (policy_gradient.Config, grpo.Config) for name in vars(kind)["__annotations__"]}
    assert len(names) == len(set(names)) and not own & set(names)


def test_one_begins_as_another():
    a, b = (jax.eval_shape(module.make(ENV.spec).init, jax.random.key(0)) for module in (sft, max_rl))
    assert isinstance(a, writer.State) and jax.tree.structure(a) == jax.tree.structure(b)


def test_old_answers_are_weighed():
    """Answers of another policy: the ratio's gradient is PPO's, within and outside of the clip."""
    config = grpo.Config(**SMALL, max_grad_norm=1e9)
    agent = grpo.make(ENV.spec, config)
    state = jax.jit(agent.init)(jax.random.key(0))
    batch = written(agent, state)
    batch = batch.replace(log_prob=batch.log_prob + jnp.where(batch.tokens > 0, 0.3, 0.0) * batch.reward[..., None])
    _, metrics = jax.jit(agent.update)(state, batch, jax.random.key(2))
    there = np.asarray(batch.tokens > 0)
    assert metrics["policy/outside"] == pytest.approx(there[np.asarray(batch.reward) > 0].sum() / there.sum(), rel=1e-5)


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(advantage="grop"), "There is no advantage 'grop'"),
        (dict(surrogate="pp"), "There is no surrogate 'pp'"),
        (dict(aggregation="mean"), "There is no aggregation 'mean'"),
        (dict(kl="k1"), "k1 in the loss has the mean gradient 0"),
        (dict(kl="exact", kl_place="reward"), "kl_place must be loss"),
        (dict(advantage="max_rl", kl="k1", kl_place="reward"), "max_rl reads shares of success"),
        (dict(dtype="float31"), "dtype='float31' must be"),
        (dict(score_chunk=-1), "score_chunk=-1 must be"),
        (dict(kl="exact", score_chunk=8), "score_chunk must be 0"),
        (dict(metric="size"), "metric='size' must be entropy or length"),
    ],
)
def test_names_that_cannot_be_are_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        grpo.make(ENV.spec, grpo.Config(**SMALL | changes))
