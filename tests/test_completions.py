"""Groups of completions: who is asked what, and what comes with the answers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import completions, envs
from rljax.agents.alignment import sft
from rljax.agents.online import ppo
from rljax.check import check_agent
from rljax.errors import UserError
from rljax.networks import language_model
from rljax.types import EnvSpec, TimeStep, Tokens

ENV = envs.make("tokens/copy-2")


def test_a_group_answers_one_prompt():
    agent, source = sft.make(ENV.spec), completions.groups(ENV, 5, 4)
    check_agent(agent, ENV, source)
    state = agent.init(jax.random.key(0))
    _, batch, metrics = jax.jit(lambda key: source.next((), agent, state, key))(jax.random.key(1))
    assert source.env_steps == 20 and batch.tokens.shape == (5, 4, 3)
    assert len(np.unique(batch.prompt, axis=0)) == 5 and len(np.unique(batch.tokens.reshape(20, 3), axis=0)) > 10
    right = jnp.concatenate([batch.prompt[:, :2], jnp.ones((5, 1), jnp.int32)], axis=1)
    np.testing.assert_array_equal(batch.reward, (batch.tokens == right[:, None]).all(-1))
    told = agent.log_prob(state, jnp.repeat(batch.prompt, 4, axis=0), batch.tokens.reshape(20, 3))
    np.testing.assert_allclose(batch.log_prob.sum(-1).reshape(20), told, atol=1e-5)
    assert metrics["episode/return"].count == 20
    assert metrics["completion/length"].total == (np.asarray(batch.tokens) > 0).sum()


def test_examples_are_right():
    source = completions.examples(ENV, 30)
    _, batch, _ = source.next((), None, None, jax.random.key(0))
    np.testing.assert_array_equal(batch.tokens[:, 0, :2], batch.prompt[:, :2])
    assert (batch.reward == 1.0).all()


def test_data_at_rest_are_drawn_uniformly_each_with_its_own():
    """By the key alone: other keys draw other prompts, and the state of the agent changes nothing."""
    prompt = jnp.arange(2, 7, dtype=jnp.int32)[:, None] * jnp.ones((1, 3), jnp.int32)
    tokens = 7 + prompt[:, None] * jnp.ones((1, 2, 1), jnp.int32)
    data = completions.Completions(prompt, tokens, None, prompt[:, :1] + jnp.float32([0.0, 0.5]))
    source = completions.recorded(data, 1000)
    assert source.env_steps == 0 and source.num_batches == 1
    draw = lambda key: source.next((), None, None, jax.random.key(key))[1]
    batch, again, other = draw(0), draw(0), draw(1)
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    first = np.asarray(batch.prompt[:, 0])
    agree = (first == np.asarray(other.prompt[:, 0])).mean()
    assert 0.14 < agree < 0.26  # a fifth, and five deviations
    assert (np.abs(np.bincount(first, minlength=7)[2:] - 200) < 65).all()
    np.testing.assert_array_equal(batch.tokens, np.broadcast_to(7 + first[:, None, None], (1000, 2, 3)))
    np.testing.assert_array_equal(batch.reward, first[:, None] + np.array([0.0, 0.5]))
    assert batch.log_prob.shape == (1000, 2, 3) and not batch.log_prob.any()


def test_what_was_not_paid_is_not_copied():
    """The chosen of a pair alone move the policy: with other rejected ones it is the same."""
    agent = sft.make(ENV.spec, sft.Config(width=16, num_layers=1, num_heads=2))
    state = jax.jit(agent.init)(jax.random.key(0))
    prompt = jnp.asarray([[2, 3, 12], [4, 5, 12]], jnp.int32)
    tokens = jnp.asarray([[[2, 3, 1], [5, 5, 5]], [[6, 1, 0], [4, 5, 1]]], jnp.int32)
    reward = jnp.float32([[1.0, 0.0], [-1.0, 1.0]])
    update = jax.jit(agent.update)
    pairs = completions.Completions(prompt, tokens, jnp.zeros((2, 2, 3)), reward)
    _, metrics = update(state, pairs, jax.random.key(0))
    right = jnp.stack([tokens[0, 0], tokens[1, 1]])
    expected = -float(jax.jit(agent.log_prob)(state, prompt, right).sum()) / 6.0
    assert float(metrics["loss/policy"]) == pytest.approx(expected, rel=1e-5) and metrics["completion/copied"] == 0.5
    after, _ = update(state, pairs.replace(tokens=tokens.at[0, 1].set(9).at[1, 0].set(8)), jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, after, update(state, pairs, jax.random.key(1))[0])


def test_who_does_not_write_is_refused_and_who_writes_elsewhere_too():
    with pytest.raises(UserError, match="Actions here are completions of tokens, which need an agent that writes"):
        agent = ppo.make(ENV.spec)
        check_agent(agent, ENV, ppo.source(ENV))
    elsewhere = envs.make("gymnax/CartPole-v1")
    for begin in (lambda: sft.make(elsewhere.spec), lambda: completions.groups(elsewhere, 2, 2)):
        with pytest.raises(UserError, match="Who writes tokens needs an environment of them, as tokens/sort-8"):
            begin()


def test_what_else_cannot_be_is_refused():
    with pytest.raises(UserError, match="of which 0 is PAD and 1 is END"):
        Tokens(2, 6)
    with pytest.raises(UserError, match="episode_length must be 1, not None"):
        completions.check(EnvSpec((3,), Tokens(9, 4)))
    silent = sft.make(ENV.spec)._replace(
        act=lambda state, prompt, memory, *_: (jnp.ones((6, 3), jnp.int32), memory, {})
    )
    with pytest.raises(UserError, match="must tell the `log_prob`"):
        completions.groups(ENV, 2, 3).next((), silent, (), jax.random.key(0))
    with pytest.raises(UserError, match="temperature must be above 0"):
        sft.make(ENV.spec, sft.Config(temperature=0.0))


def test_supervised_loss_by_hand_and_it_learns():
    config = sft.Config(width=32, num_layers=1, num_prompts=32, learning_rate=3e-3)
    agent, source = sft.make(ENV.spec, config), sft.source(ENV, config)
    state = agent.init(jax.random.key(0))
    _, batch, _ = source.next((), agent, state, jax.random.key(1))
    _, metrics = agent.update(state, batch, jax.random.key(2))
    assert float(metrics["loss/policy"]) == pytest.approx(
        -float(agent.log_prob(state, batch.prompt, batch.tokens[:, 0]).mean()) / 3.0, rel=1e-5
    )

    @jax.jit
    def learn(state, key):
        def step(state, key):
            draw, update = jax.random.split(key)
            return agent.update(state, source.next((), agent, state, draw)[1], update)[0], None

        return jax.lax.scan(step, state, jax.random.split(key, 150))[0]

    after = learn(state, jax.random.key(3))
    _, batch, _ = source.next((), agent, after, jax.random.key(4))
    greedy, _, _ = agent.act(after, batch.prompt, (), jax.random.key(5), False)
    assert (greedy == batch.tokens[:, 0]).all(-1).mean() > 0.95
    np.testing.assert_array_equal(agent.log_prob(after, batch.prompt, greedy, False), np.zeros(32))
    jax.tree.map(np.testing.assert_array_equal, after.reference, after.model.params)
    assert language_model.entropy(jnp.zeros(4)) == pytest.approx(np.log(4.0))


def said(*tokens):
    """A writer that always says the same."""
    line = jnp.array(tokens, jnp.int32)
    return lambda state, prompt, key, beginning: (jnp.tile(line, (len(beginning), 1)), jnp.full(beginning.shape, -1.0))


@pytest.mark.parametrize("noise, ahead", [(0.5, 1.0 / (1.0 + np.exp(-2.0))), (0.0, 1.0)])
def test_where_there_is_no_judge_what_is_paid_more_is_better(noise, ahead):
    @dataclasses.dataclass
    class Counts:  # of how many tokens are 5
        spec = EnvSpec((1,), Tokens(9, 2), episode_length=1)
        reset = staticmethod(lambda key: (jnp.int32(0), jnp.array([3])))

        def step(self, state, action, key):
            end = jnp.bool_(True)
            return state, TimeStep(jnp.array([3]), (action == 5).sum().astype(jnp.float32), end, ~end)

    source = completions.compared(Counts(), 3, 2, [said(5, 4), said(4, 4)], noise)
    _, batch, metrics = source.next((), None, None, jax.random.key(0))
    assert source.env_steps == 12 and batch.tokens.shape == (3, 4, 2) and (batch.log_prob == -1.0).all()
    np.testing.assert_array_equal(batch.reward, np.tile([1.0, 1.0, 0.0, 0.0], (3, 1)))
    expected = np.array([[0.5, 0.5, ahead, ahead]] * 2 + [[1 - ahead, 1 - ahead, 0.5, 0.5]] * 2)
    np.testing.assert_allclose(batch.preference, np.tile(expected, (3, 1, 1)), atol=1e-6)
    assert metrics["episode/return"].total == 6.0 and metrics["episode/return"].count == 6


def test_a_judge_is_asked_in_both_orders_and_may_draw():
    """This one likes what stands first by 0.1, which cancels; of draws the mean is what it thinks, and each pair is one draw."""
    env = envs.make("tokens/rock_paper_scissors-1")
    biased = type("Biased", (), {"prefer": lambda self, *pair: env.prefer(*pair) + 0.1, "spec": env.spec})()
    biased.reset, biased.step = env.reset, env.step
    asked = lambda drawn: jax.jit(
        lambda: completions.compared(biased, 2000, 1, [said(2), said(3), said(1)], drawn=drawn).next(
            (), None, None, jax.random.key(0)
        )[1]
    )()
    batch, draws = asked(False), np.asarray(asked(True).preference)
    expected = np.stack([env.payoff(state)[np.array([0, 1, 3])][:, np.array([0, 1, 3])] for state in range(3)])
    np.testing.assert_allclose(batch.preference, expected[batch.prompt[:, 0] - 2], atol=1e-6)
    np.testing.assert_array_equal(draws + draws.transpose(0, 2, 1), np.ones(draws.shape))
    assert set(np.unique(draws[:, ~np.eye(3, dtype=bool)])) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(axis=0), batch.preference.mean(axis=0), atol=5 * 0.5 / np.sqrt(2000))

    biased.prefer = lambda state, one, other: jnp.zeros(2)
    with pytest.raises(
        UserError, match=r"`prefer` of Biased must tell one probability for a pair, not an array \(2,\)"
    ):
        asked(False)
