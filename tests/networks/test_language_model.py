"""The language model against numpy, and completions against what it says of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rljax.errors import UserError
from rljax.networks import language_model
from rljax.networks.language_model import LanguageModel, Mixture
from rljax.tokens import END, PAD, mask

MODEL = LanguageModel(7, width=16, num_layers=2, num_heads=4, num_kv_heads=2, hidden=24)


@pytest.fixture(scope="module")
def params():
    return of(MODEL)


def of(model):
    """Matrices larger than they begin, so that it matters what is read."""
    tokens = jnp.ones((1, 3), jnp.int32)
    params = model.init(jax.random.key(0), tokens, mask(tokens))
    return jax.tree.map(lambda x: 15.0 * x if x.ndim > 1 else x, params)


@pytest.fixture(scope="module")
def prompt():
    """Six prompts of up to four tokens, padded before them."""
    tokens = np.random.default_rng(0).integers(2, 7, (6, 4))
    tokens[1, :2] = tokens[2, :1] = PAD
    return jnp.asarray(tokens, jnp.int32)


def in_numpy(params, tokens, model):
    """The logits [S, V] of one sequence without padding, a head and a place at a time."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), params["params"])
    normed = lambda x, name: x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * p[name]["scale"]
    width, size = model.width, model.width // model.num_heads
    x = p["Embed_0"]["embedding"][tokens]

    def turned(vector, place):
        angle = place * model.rotary_base ** (-np.arange(size // 2) / (size // 2))
        z = (vector[: size // 2] + 1j * vector[size // 2 :]) * np.exp(1j * angle)
        return np.concatenate([z.real, z.imag])

    for layer in range(model.num_layers):
        h = normed(x, f"attention_norm_{layer}")
        query, key, value = (h @ p[f"{name}_{layer}"]["kernel"] for name in ("query", "key", "value"))
        attended = np.zeros((len(tokens), width))
        for head in range(model.num_heads):
            mine = slice(head * size, (head + 1) * size)
            shared = head // (model.num_heads // model.num_kv_heads)
            theirs = slice(shared * size, (shared + 1) * size)
            for s in range(len(tokens)):
                score = [turned(query[s, mine], s) @ turned(key[t, theirs], t) / np.sqrt(size) for t in range(s + 1)]
                weight = np.exp(score - np.max(score))
                attended[s, mine] = (weight / weight.sum()) @ value[: s + 1, theirs]
        x = x + attended @ p[f"out_{layer}"]["kernel"]
        h = normed(x, f"norm_{layer}")
        gate = h @ p[f"gate_{layer}"]["kernel"]
        x = x + (gate / (1.0 + np.exp(-gate)) * (h @ p[f"up_{layer}"]["kernel"])) @ p[f"down_{layer}"]["kernel"]
    return normed(x, "final_norm") @ p["Embed_0"]["embedding"].T


def test_logits_by_hand(params):
    tokens = np.array([3, 2, 6, 5, 2])
    logits, _ = MODEL.apply(params, tokens[None], jnp.ones((1, 5), bool))
    expected = in_numpy(params, tokens, MODEL)
    assert expected.std() > 0.5
    np.testing.assert_allclose(logits[0], expected, rtol=1e-4, atol=1e-4)


def test_padding_changes_nothing_and_nobody_sees_ahead(params, prompt):
    completion = jnp.array([[3, 4, END]] * 6)
    logits = language_model.completion_logits(MODEL, params, prompt, completion)
    padded = jnp.pad(prompt, ((0, 0), (3, 0)), constant_values=PAD)
    also = language_model.completion_logits(MODEL, params, padded, completion)
    np.testing.assert_allclose(logits, also, atol=1e-4)
    changed = language_model.completion_logits(MODEL, params, prompt, completion.at[:, 1].set(6))
    np.testing.assert_array_equal(logits[:, :2], changed[:, :2])
    assert np.abs(logits[:, 2] - changed[:, 2]).max() > 0.1


@pytest.mark.parametrize("norm, gated, tied", [("rms", True, True), ("layer", False, False)])
def test_drawn_as_it_is_scored(prompt, norm, gated, tied):
    """Log-probabilities told while drawing with the cache are those of the whole completion read at once."""
    model = LanguageModel(7, width=16, num_layers=2, num_heads=2, norm=norm, gated=gated, tied=tied)
    params = of(model)
    many = jnp.tile(prompt, (20, 1))
    draw = jax.jit(lambda key: language_model.complete(model, params, many, 5, key, 0.7))
    written = draw(jax.random.key(1))
    logits = language_model.completion_logits(model, params, many, written.tokens)
    np.testing.assert_allclose(written.log_prob, language_model.taken(logits, written.tokens, 0.7), atol=1e-4)
    tokens = np.asarray(written.tokens)
    ended = (np.cumsum(tokens == END, axis=1) - (tokens == END)) > 0
    assert ended.any() and not ended.all(axis=1).any()
    np.testing.assert_array_equal(tokens == PAD, ended)  # after END and nowhere else
    assert (np.asarray(written.log_prob)[ended] == 0.0).all()


def test_drawn_as_often_as_likely(params, prompt):
    """The first token, and the second after each first, of 8,000 completions of one prompt; four standard deviations."""
    one = jnp.tile(prompt[:1], (8_000, 1))
    tokens = np.asarray(
        jax.jit(lambda key: language_model.complete(MODEL, params, one, 2, key, 2.0).tokens)(jax.random.key(2))
    )
    every = jnp.stack([jnp.arange(1, 7), jnp.full(6, END)], axis=1)
    logits = language_model.completion_logits(MODEL, params, jnp.tile(prompt[:1], (6, 1)), every)
    law = np.asarray(jax.nn.softmax(logits / 2.0))
    assert law[0, 0, PAD] == 0.0 and (law[0, 0, 1:] > 0.01).sum() > 2
    check(tokens[:, 0], law[0, 0])
    for first in range(2, 7):
        check(tokens[tokens[:, 0] == first, 1], law[first - 1, 1])


def check(drawn, law):
    frequency = np.bincount(drawn, minlength=7) / max(len(drawn), 1)
    assert (np.abs(frequency - law) <= 4.0 * np.sqrt(law * (1 - law) / max(len(drawn), 1)) + 1e-6).all()


@pytest.mark.parametrize("options", [dict(top_k=3), dict(top_p=0.6), dict(top_k=3, top_p=0.7)])
def test_drawn_from_the_likeliest(params, prompt, options):
    """As often as the law without the others says, with the log-probabilities of the law with them."""
    one = jnp.tile(prompt[:1], (4_000, 1))
    draw = lambda key: language_model.complete(MODEL, params, one, 1, key, 2.0, **options)
    written = jax.jit(draw)(jax.random.key(3))
    logits = language_model.completion_logits(MODEL, params, prompt[:1], jnp.array([[END]]))
    full = np.float64(jax.nn.softmax(logits[0, 0] / 2.0))
    law = np.zeros(7)
    for token in np.argsort(-full)[: options.get("top_k", 7)]:
        law[token] = full[token]
    law /= law.sum()
    before = 0.0
    for token in np.argsort(-law):
        before, law[token] = before + law[token], law[token] if before < options.get("top_p", 1.0) else 0.0
    law /= law.sum()
    assert 1 < (law > 0).sum() < 6
    drawn = np.asarray(written.tokens)[:, 0]
    check(drawn, law)
    np.testing.assert_allclose(written.log_prob[:, 0], np.log(full[drawn]), atol=1e-5)


def test_likeliest_refuses(params, prompt):
    for options in (dict(top_k=-1), dict(top_p=0.0), dict(top_p=1.5)):
        with pytest.raises(UserError, match="must be 0, for all tokens, or more, and top_p"):
            language_model.complete(MODEL, params, prompt, 2, jax.random.key(0), **options)


def test_greedy_is_the_likeliest(params, prompt):
    written = language_model.complete(MODEL, params, prompt, 4, jax.random.key(0), greedy=True)
    logits = language_model.completion_logits(MODEL, params, prompt, written.tokens)
    where = np.asarray(mask(written.tokens))
    np.testing.assert_array_equal(np.asarray(logits.argmax(-1))[where], np.asarray(written.tokens)[where])


def test_what_is_begun_is_gone_on_with(params, prompt):
    """What was given stands and was not drawn; what follows is drawn as if it had been, END too ending it. By the same key what one
    would have written anyway is."""
    draw = jax.jit(lambda begun: language_model.complete(MODEL, params, prompt, 5, jax.random.key(4), beginning=begun))
    given = np.arange(5) < np.array([0, 1, 2, 3, 4, 2])[:, None]
    plain = language_model.complete(MODEL, params, prompt, 5, jax.random.key(4))
    unbegun, again = draw(jnp.full((6, 5), PAD)), draw(jnp.where(given, plain.tokens, PAD))
    np.testing.assert_array_equal(unbegun.tokens, plain.tokens)
    np.testing.assert_array_equal(again.tokens, plain.tokens)
    np.testing.assert_array_equal(again.log_prob, np.where(given, 0.0, unbegun.log_prob))
    beginning = np.where(given, np.random.default_rng(1).integers(2, 7, (6, 5)), PAD)
    beginning[5, 1] = END
    written = draw(jnp.asarray(beginning, jnp.int32))
    tokens = np.asarray(written.tokens)
    np.testing.assert_array_equal(tokens[given], beginning[given])
    assert (tokens[:5][~given[:5]][::4] != PAD).any() and (tokens[5, 2:] == PAD).all()
    logits = language_model.completion_logits(MODEL, params, prompt, written.tokens)
    scored = np.where(given, 0.0, language_model.taken(logits, written.tokens))
    assert (scored < -0.1).sum() > 5
    np.testing.assert_allclose(written.log_prob, scored, atol=1e-4)


def test_a_prompt_is_read_once_for_all_of_its_completions(params, prompt):
    """By scores, their gradients and what is drawn, as if it were read for each; with fewer products."""
    each = jnp.repeat(prompt, 3, axis=0)
    completion = jnp.asarray(np.random.default_rng(1).integers(1, 7, (18, 5)), jnp.int32).at[::2, 3:].set(PAD)
    valued = LanguageModel(7, width=16, num_layers=1, num_heads=2, outputs=1)
    values = of(valued)

    @jax.jit
    @jax.value_and_grad
    def read(params, prompt):
        told = language_model.score(MODEL, params[0], prompt, completion, 0.7, chunk=7)
        plain = language_model.completion_logits(MODEL, params[0], prompt, completion)
        paid = language_model.completion_values(valued, params[1], prompt, completion)
        whole = language_model.completion_score(valued, params[1], prompt, completion)
        weight = jnp.arange(90.0).reshape(18, 5)
        return (weight * (told.log_prob + told.entropy + paid + plain[..., 4])).sum() / 90.0 + (whole[::2] ** 2).sum()

    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)
    jax.tree.map(close, read((params, values), prompt), read((params, values), each))
    shared, apart = (read.lower((params, values), x).compile().cost_analysis()["flops"] for x in (prompt, each))
    assert shared < 0.8 * apart

    beginning = jnp.full((18, 5), PAD).at[4, :2].set(3)
    draw = jax.jit(
        lambda prompt: language_model.complete(MODEL, params, prompt, 5, jax.random.key(1), beginning=beginning)
    )
    once, often = draw(prompt), draw(each)
    np.testing.assert_array_equal(once.tokens, often.tokens)
    np.testing.assert_allclose(once.log_prob, often.log_prob, atol=1e-4)
    assert len(np.unique(once.tokens[:3], axis=0)) == 3 and (once.tokens[4, :2] == 3).all()


def test_entropy(params, prompt):
    logits = language_model.completion_logits(MODEL, params, prompt, jnp.full((6, 1), END))[:, 0]
    law = np.float64(jax.nn.softmax(logits))[:, 1:]
    np.testing.assert_allclose(language_model.entropy(logits), -(law * np.log(law)).sum(1), rtol=1e-4)


@pytest.mark.parametrize("tied, num_drawn", [(True, 0), (False, 5)])
def test_scored_in_chunks_as_at_once(prompt, tied, num_drawn):
    """Values and gradients, also where the last chunk is not full; and no logits of all tokens are ever made."""
    model = LanguageModel(7, width=16, num_layers=1, num_heads=2, tied=tied, num_drawn=num_drawn)
    params = of(model)
    completion = jnp.asarray(np.random.default_rng(1).integers(1, 5, (6, 5)), jnp.int32).at[:2, 3:].set(PAD)

    def scored(params, chunk):
        log_prob, entropy = language_model.score(model, params, prompt, completion, 0.7, chunk)
        return (log_prob * jnp.arange(5.0)).sum() + 0.3 * entropy.sum(), (log_prob, entropy)

    value = jax.jit(jax.value_and_grad(scored, has_aux=True), static_argnums=1)
    at_once, in_chunks = value(params, 0), value(params, 7)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), at_once, in_chunks)
    assert (np.asarray(in_chunks[0][1][0])[:2, 3:] == 0.0).all()
    made = str(jax.make_jaxpr(lambda params: jax.grad(lambda p: scored(p, 7)[0])(params))(params))
    assert ",7,7]" in made or "[7,7]" in made
    assert "[30,7]" not in made and "[6,5,7]" not in made and "[54,7]" not in made


@pytest.mark.parametrize(
    "sizes, sentence",
    [
        (dict(width=20, num_heads=4), "width=20 must be a multiple of twice num_heads=4"),
        (dict(num_heads=4, num_kv_heads=3), "num_kv_heads=3 must divide num_heads=4"),
        (dict(norm="batch"), "norm='batch' must be rms or layer"),
    ],
)
def test_sizes_that_do_not_go_together(sizes, sentence):
    with pytest.raises(UserError, match=sentence):
        language_model.check(LanguageModel(7, **sizes))


def test_a_mixture_of_two_policies_is_drawn_as_it_is_scored(params, prompt):
    """Each token by the geometric mean of both, normalised; with the share 0 it is the first, with 1 the other."""
    other = jax.tree.map(lambda x: 3.0 * x, params)
    mixed = Mixture(MODEL, 0.3)
    drawn = jax.jit(lambda: language_model.complete(mixed, (params, other), prompt, 4, jax.random.key(0), 0.7))()
    read = jax.jit(language_model.completion_logits, static_argnums=0)
    laws = [read(MODEL, x, prompt, drawn.tokens) for x in (params, other)]
    one, two = (np.float64(jax.nn.log_softmax(x / 0.7)) for x in laws)
    weights = np.exp(0.7 * one + 0.3 * two)
    chances = weights / weights.sum(axis=-1, keepdims=True)
    chosen = np.take_along_axis(chances, np.asarray(drawn.tokens)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(np.exp(drawn.log_prob), np.where(mask(drawn.tokens), chosen, 1.0), atol=1e-5)
    for share, alone in zip((0.0, 1.0), laws):
        found = read(Mixture(MODEL, share), (params, other), prompt, drawn.tokens)
        np.testing.assert_allclose(found, alone, atol=1e-5)
