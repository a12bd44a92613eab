"""Direct preference optimisation on policy: its update by hand, and where it comes to."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import envs, train
from rljax.agents.alignment import dpo
from rljax.completions import Completions
from rljax.data import jsonl
from rljax.errors import UserError
from rljax.losses import listwise
from rljax.types import EnvSpec, Tokens

ENV = envs.make("tokens/copy-2?dense=true")
SMALL = dict(width=16, num_layers=1, num_heads=2, num_prompts=4, group_size=3)


def test_its_loss_by_hand():
    """All pairs of a group that differ, of a policy that is no longer its reference; a group without a difference is left out."""
    agent = dpo.make(ENV.spec, dpo.Config(**SMALL, beta_scale=7.0))
    state = jax.jit(agent.init)(jax.random.key(0))
    state = state._replace(reference=jax.tree.map(lambda x: 1.5 * x, state.reference))
    prompt = jnp.asarray(np.random.default_rng(0).integers(2, 12, (4, 3)), jnp.int32)
    many = jnp.repeat(prompt, 3, axis=0)
    tokens, _, extras = jax.jit(lambda state: agent.act(state, many, (), jax.random.key(1), True))(state)
    reward = jnp.float32([[1, 0, 0], [0.5, 1, 0], [1, 1, 1], [0, 1, 1]])
    batch = Completions(prompt, tokens.reshape(4, 3, 3), extras["log_prob"].reshape(4, 3, 3), reward)
    _, metrics = jax.jit(agent.update)(state, batch, jax.random.key(2))

    read = jax.jit(
        lambda params: agent.log_prob(state._replace(model=state.model._replace(params=params)), many, tokens)
    )
    ahead = (np.float64(read(state.model.params)) - np.float64(read(state.reference))).reshape(4, 3)
    pairs = {0: [(0, 1), (0, 2)], 1: [(1, 0), (1, 2), (0, 2)], 3: [(1, 0), (2, 0)]}
    losses = [np.mean([np.log1p(np.exp(-0.7 * (ahead[q, i] - ahead[q, j]))) for i, j in p]) for q, p in pairs.items()]
    assert float(metrics["loss/policy"]) == pytest.approx(np.mean(losses), rel=1e-4)
    assert np.abs(ahead).max() > 0.05 and metrics["group/mixed"] == 0.75


def test_it_learns():
    config = dpo.Config(width=32, num_layers=1, num_heads=2, learning_rate=3e-3)
    agent, source = dpo.make(ENV.spec, config), dpo.source(ENV, config)
    learner = train.make(agent, source)
    state, _ = jax.jit(lambda key: learner.run(learner.init(key), 120))(jax.random.key(0))
    prompt, answer = jax.vmap(ENV.example)(jax.random.split(jax.random.key(1), 200))
    greedy = jax.jit(lambda state: agent.act(state, prompt, (), jax.random.key(2), False)[0])(state.agent)
    assert jnp.cumprod(greedy == answer, axis=1).mean() > 0.5


@pytest.mark.parametrize("method", ["ipo", "simpo", "orpo", "plackett_luce", "lipo"])
def test_a_method_has_its_own_numbers(method):
    """At a scale of 1 a group's loss is that of the method by its name, whatever its beta."""
    agent = dpo.make(ENV.spec, dpo.Config(**SMALL, method=method))
    state = jax.jit(agent.init)(jax.random.key(0))
    prompt = jnp.asarray([[2, 3, 12]], jnp.int32)
    tokens = jnp.asarray([[2, 3, 1], [4, 1, 0], [5, 6, 7]], jnp.int32)
    batch = Completions(prompt, tokens[None], jnp.zeros((1, 3, 3)), jnp.float32([[1.0, 0.0, 0.5]]))
    _, metrics = jax.jit(agent.update)(state, batch, jax.random.key(0))
    log_prob = jax.jit(agent.log_prob)(state, jnp.repeat(prompt, 3, axis=0), tokens)
    expected = listwise.direct_loss(method, log_prob, log_prob, jnp.array([3, 2, 3]), jnp.array([0, 2, 1]))
    assert float(metrics["loss/policy"]) == pytest.approx(float(expected), rel=1e-5)


def test_pairs_of_a_file_lead_to_the_optimum_in_closed_form(tmp_path, settle):
    """One prompt, three answers of a token, one better than another in so many of 84 judgements as Bradley & Terry's odds 1 : 2 : 6
    say: log ratios differ by the logarithms of the odds over beta."""
    spec, odds = EnvSpec((1,), Tokens(5, 1), episode_length=1), {2: 1, 3: 2, 4: 6}
    lines = []
    for one, other in ((2, 3), (2, 4), (3, 4)):
        better = 84 * odds[one] // (odds[one] + odds[other])
        lines += better * [{"prompt": [2], "chosen": [one], "rejected": [other]}]
        lines += (84 - better) * [{"prompt": [2], "chosen": [other], "rejected": [one]}]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    data = jsonl.load([path], spec)
    config = dpo.Config(width=16, num_layers=1, num_heads=1, learning_rate=1e-2, beta_scale=5.0)
    agent = dpo.make(spec, config)
    state = settle(agent, data.replace(log_prob=jnp.zeros(data.tokens.shape)), 600)
    prompt, tokens = jnp.full((3, 1), 2), jnp.asarray([[2], [3], [4]])
    read = jax.jit(
        lambda params: agent.log_prob(state._replace(model=state.model._replace(params=params)), prompt, tokens)
    )
    ahead = read(state.model.params) - read(state.reference)
    np.testing.assert_allclose(ahead - ahead[0], np.log([1.0, 2.0, 6.0]) / 0.5, atol=0.02)


def test_from_data_the_chosen_become_likelier_and_the_rejected_less(learn_offline):
    rng = np.random.default_rng(0)
    prompt, tokens = rng.integers(2, 12, (5, 3)), rng.integers(2, 12, (5, 2, 3))
    reward = jnp.tile(jnp.float32([1.0, 0.0]), (5, 1))
    data = Completions(jnp.asarray(prompt, jnp.int32), jnp.asarray(tokens, jnp.int32), None, reward)
    config = dpo.Config(**SMALL, learning_rate=3e-3)
    agent, state = learn_offline(dpo, config, ENV, data, iterations=40)
    log_prob = jax.jit(agent.log_prob)
    ahead = log_prob(state, *data.flat()) - log_prob(
        state._replace(model=state.model._replace(params=state.reference)), *data.flat()
    )
    better, worse = np.asarray(ahead).reshape(5, 2).T
    assert better.min() > 0.3 and worse.max() < -0.3


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="There is no method 'dop'"):
        dpo.make(ENV.spec, dpo.Config(method="dop"))
    with pytest.raises(UserError, match="group_size=1 leaves no pair to compare"):
        dpo.make(ENV.spec, dpo.Config(group_size=1))
    one = Completions(jnp.ones((2, 3), jnp.int32), jnp.ones((2, 1, 3), jnp.int32), None, jnp.ones((2, 1)))
    with pytest.raises(UserError, match="one completion a prompt, and DPO compares several"):
        dpo.source(ENV, dpo.Config(), one)
