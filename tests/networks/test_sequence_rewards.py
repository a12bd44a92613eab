"""Rewards with a past: what may depend on what, the preference transformer and the LSTMs against numpy, a step at a time or all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax import parallel
from rljax.errors import UserError
from rljax.networks import sequence_rewards as lib
from rljax.types import Continuous, Discrete, EnvSpec, Transition

SPEC = EnvSpec((3,), Continuous((2,)), 6)
BATCH, STEPS = 4, 6


def steps_of(seed, shape=(BATCH, STEPS)):
    keys = jax.random.split(jax.random.key(seed), 2)
    zeros = jnp.zeros(shape)
    seen, done = jax.random.normal(keys[0], (*shape, 3)), jax.random.normal(keys[1], (*shape, 2))
    return Transition(seen, done, zeros, zeros > 1, zeros > 1, seen)


def model_of(kind):
    if kind == "transformer":
        return lib.attended(SPEC, lib.PreferenceTransformer(STEPS, 8, 1, 2))
    return lib.recurrent(SPEC, lib.Recurrent(kind, (8,), 5, (7,)))


MODELS = {kind: model_of(kind) for kind in (*lib.KINDS, "transformer")}
PARAMS = {kind: jax.jit(model.init)(jax.random.key(1)) for kind, model in MODELS.items()}


def along(kind, steps):
    """Rewards [B, K], told step by step."""
    model, count = MODELS[kind], steps.reward.shape[0]
    memory = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), model.memory)

    def one(memory, step):
        reward, memory = model.reward(PARAMS[kind], step, memory)
        return memory, reward

    return jax.lax.scan(one, memory, jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), steps))[1].T


ALONG = jax.jit(along, static_argnums=0)


@pytest.mark.parametrize("kind", MODELS)
def test_no_reward_depends_on_what_comes_later(kind):
    """A change at step 3 leaves steps 0 to 2 as they were; who remembers, and only he, is paid otherwise at step 4 too."""
    one, other = steps_of(0), steps_of(1)
    swap = lambda a, b: a.at[:, 3].set(b[:, 3])
    found, changed = ALONG(kind, one), ALONG(kind, jax.tree.map(swap, one, other))
    np.testing.assert_array_equal(found[:, :3], changed[:, :3])
    moved = np.abs(np.asarray(found - changed)).min(0)
    assert moved[3] > 1e-6 and (moved[4] > 1e-6) == (kind != "instance")


@pytest.mark.parametrize("kind", MODELS)
def test_padding_does_not_matter(kind):
    """Whatever stands behind the end of a segment, it is worth what it is alone; the gradient knows nothing of it either."""
    steps, mask = steps_of(0), jnp.arange(STEPS) < 4
    padded = jnp.broadcast_to(mask, (BATCH, STEPS))
    other = jax.tree.map(lambda a, b: jnp.where(mask.reshape(-1, *[1] * (a.ndim - 2)), a, b), steps, steps_of(2))
    value = jax.jit(lambda *x: jax.value_and_grad(lambda params: MODELS[kind].score(params, *x).sum())(PARAMS[kind]))
    short = value(jax.tree.map(lambda x: x[:, :4], steps), jnp.ones((BATCH, 4), bool))
    for given in (steps, other):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), value(given, padded), short)
    whole = value(steps, jnp.ones((BATCH, STEPS), bool))[0]
    assert abs(float(whole - short[0])) > 1e-4


@pytest.mark.parametrize("kind", lib.KINDS)
def test_segments_are_worth_the_sum_of_their_rewards(kind):
    steps = steps_of(0)
    score = MODELS[kind].score(PARAMS[kind], steps, jnp.ones((BATCH, STEPS), bool))
    np.testing.assert_allclose(ALONG(kind, steps).sum(1), score, atol=1e-5)


def number(tree):
    return jax.tree.map(np.float64, tree["params"])


def linear(layer, x):
    return x @ layer["kernel"] + layer["bias"]


@pytest.mark.parametrize("kind", ["recurrent", "skip", "embedding"])
def test_an_lstm_by_hand(kind):
    """Gates in numpy (Hochreiter & Schmidhuber, 1997): input, forget, cell and output, then what the kind makes of the state."""
    params, steps = number(PARAMS[kind]), steps_of(0)
    cell = next(x for name, x in params.items() if "LSTM" in name)
    x = np.concatenate([np.float64(steps.observation), np.clip(np.float64(steps.action), -1.0, 1.0)], -1)
    features = np.maximum(linear(params["Torso_1"]["Dense_0"], x), 0.0)
    sigmoid = lambda x: 1.0 / (1.0 + np.exp(-x))
    long, short, worth, expected = np.zeros((BATCH, 5)), np.zeros((BATCH, 5)), np.zeros(BATCH), []
    for t in range(STEPS):
        gate = {x: features[:, t] @ cell[f"i{x}"]["kernel"] + linear(cell[f"h{x}"], short) for x in "ifgo"}
        long = sigmoid(gate["f"]) * long + sigmoid(gate["i"]) * np.tanh(gate["g"])
        short = sigmoid(gate["o"]) * np.tanh(long)
        told = np.concatenate([features[:, t], short], -1) if kind == "skip" else short
        told = linear(params["MLP_0"]["Dense_1"], np.maximum(linear(params["MLP_0"]["Dense_0"], told), 0.0))[:, 0]
        expected.append(told - worth if kind == "embedding" else told)
        worth = told
    np.testing.assert_allclose(ALONG(kind, steps), np.stack(expected, 1), atol=1e-5)


def transformer_by_hand(params, observation, action):
    """Rewards [K] and weights [K] of one segment without padding, in numpy."""
    inner = params["Transformer_0"]

    def norm(layer, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * layer["scale"] + layer["bias"]

    def softmax(x):
        weight = np.exp(x - x.max(-1, keepdims=True))
        return weight / weight.sum(-1, keepdims=True)

    length = len(observation)
    place = params["place"]["embedding"][:length]
    tokens = np.zeros((2 * length, 8))
    tokens[::2] = linear(params["observation"], observation) + place
    tokens[1::2] = linear(params["action"], action) + place
    x = norm(params["LayerNorm_0"], tokens)
    seen, heads = norm(inner["LayerNorm_0"], x), []
    for head in range(2):
        query, key, value = (
            seen @ inner[f"DenseGeneral_{i}"]["kernel"][:, head] + inner[f"DenseGeneral_{i}"]["bias"][head]
            for i in range(3)
        )
        logits = np.where(np.tril(np.ones((2 * length, 2 * length))), query @ key.T / np.sqrt(4.0), -np.inf)
        heads.append(softmax(logits) @ value)
    last = inner["DenseGeneral_3"]
    x = x + np.einsum("hsd,hdo->so", np.stack(heads), last["kernel"]) + last["bias"]
    hidden = linear(inner["Dense_0"], norm(inner["LayerNorm_1"], x))
    hidden = 0.5 * hidden * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (hidden + 0.044715 * hidden**3)))
    read = norm(inner["LayerNorm_2"], x + linear(inner["Dense_1"], hidden))[1::2]
    asked, offered = linear(params["query"], read), linear(params["key"], read)
    return linear(params["reward"], read)[:, 0], softmax(asked @ offered.T / np.sqrt(8.0)).mean(0)


def test_the_preference_transformer_by_hand():
    """Scores of segments of several lengths, and what the last steps of a window are paid when episodes are longer than it."""
    model, params, steps = MODELS["transformer"], PARAMS["transformer"], steps_of(3)
    seen, done, plain = np.float64(steps.observation), np.clip(np.float64(steps.action), -1.0, 1.0), number(params)
    lengths = [6, 1, 4, 2]
    score = model.score(params, steps, jnp.arange(STEPS) < jnp.array(lengths)[:, None])
    for row, length in enumerate(lengths):
        reward, weight = transformer_by_hand(plain, seen[row, :length], done[row, :length])
        np.testing.assert_allclose(score[row], (weight * reward).sum(), atol=1e-5)
    longer = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), steps, steps_of(4))
    found = ALONG("transformer", longer)
    for t in (0, 2, 5, 6, 11):
        rows = slice(max(t - STEPS + 1, 0), t + 1)
        seen, done = np.float64(longer.observation[0, rows]), np.clip(np.float64(longer.action[0, rows]), -1.0, 1.0)
        np.testing.assert_allclose(found[0, t], transformer_by_hand(plain, seen, done)[0][-1], atol=1e-5)


def test_weights_are_shares():
    """They sum to 1 over the steps that there are, also with padding in front, and are not all alike."""
    network, steps = lib.PreferenceTransformer(STEPS, 8, 1, 2), steps_of(0)
    mask = jnp.array([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]], bool)
    reward, weight = network.apply(PARAMS["transformer"], 3.0 * steps.observation, steps.action, mask)
    np.testing.assert_allclose(weight.sum(1), 1.0, atol=1e-5)
    assert (weight >= 0.0).all() and not np.asarray(weight)[~mask].any() and not np.asarray(reward)[~mask].any()
    assert np.ptp(weight[0]) > 1e-3


def test_several_side_by_side_are_each_by_itself():
    """Scores, rewards and memories of an ensemble are those of its members."""
    model, steps, mask = MODELS["skip"], steps_of(0), jnp.ones((BATCH, STEPS), bool)
    both = lib.ensembled(model, 2)
    params = jax.jit(both.init)(jax.random.key(5))
    first = jax.tree.map(lambda x: x[:, 0], steps)

    def told(model):
        blank = jax.tree.map(lambda x: jnp.broadcast_to(x, (BATCH, *x.shape)), model.memory)
        return jax.jit(lambda params: (model.score(params, steps, mask), *model.reward(params, first, blank)))

    score, reward, memory = told(both)(params)
    of_one = told(model)
    for i in range(2):
        worth, expected, after = of_one(parallel.select(params, i))
        np.testing.assert_allclose(score[i], worth, atol=1e-6)
        np.testing.assert_allclose(reward[i], expected, atol=1e-6)
        for both_states, state in zip(memory, after, strict=True):
            np.testing.assert_allclose(both_states[:, i], state, atol=1e-6)
    assert (np.abs(reward[0] - reward[1]) > 1e-4).any()


def test_discrete_actions_and_observations_alone():
    """Actions are read one-hot; without them rewards are of what is seen."""
    spec, steps = EnvSpec((3,), Discrete(4), 6), steps_of(0)
    act = lambda number: steps.replace(action=jnp.full((BATCH, STEPS), number, jnp.int32))
    mask = jnp.ones((BATCH, STEPS), bool)
    for of_actions in (True, False):
        model = lib.recurrent(spec, lib.Recurrent("skip", (8,), 5), of_actions)
        one, other = (model.score(model.init(jax.random.key(0)), act(number), mask) for number in (1, 3))
        assert (np.abs(one - other) > 1e-6).all() == of_actions


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="no kind of reward 'skipped'"):
        lib.recurrent(SPEC, lib.Recurrent("skipped", (8,), 5))
    with pytest.raises(UserError, match="num_heads=3 must divide width=8"):
        lib.attended(SPEC, lib.PreferenceTransformer(STEPS, 8, 1, 3))
    with pytest.raises(UserError, match="Segments of 7 steps are too long for a transformer of 6"):
        MODELS["transformer"].score(PARAMS["transformer"], steps_of(0, (1, 7)), jnp.ones((1, 7), bool))
