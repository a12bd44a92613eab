"""Models of Hugging Face folders against the numbers of transformers (make_pretrained_golden.py), and against themselves."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util
from safetensors import numpy as safetensors

from rljax.errors import UserError
from rljax.networks import language_model, pretrained
from rljax.networks.language_model import LanguageModel
from rljax.networks.pretrained import CONFIG, INDEX, WEIGHTS, Special
from rljax.tokens import END, PAD, mask

FOLDER = pathlib.Path(__file__).with_name("pretrained")
NAMES = ("gpt2", "llama", "llama_grouped", "qwen2", "qwen2_tied")
SPECIAL = dict(zip(NAMES, [Special(None, 39), Special(1, 0), Special(7, 5), Special(0, 1), Special(None, 4)]))


@pytest.fixture(scope="module")
def golden():
    with np.load(FOLDER / "logits.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def loaded():
    return {name: pretrained.load(FOLDER / name) for name in NAMES}


def read(model, params, tokens):
    return jax.jit(lambda params, tokens: model.apply(params, tokens, mask(tokens))[0])(params, tokens)


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(golden, loaded, name):
    """Of every token that the folder knows, by its own numbers."""
    model, params = loaded[name]
    theirs, expected = golden[f"{name}/tokens"], golden[f"{name}/logits"]
    order = pretrained.order(model.vocabulary, SPECIAL[name])
    ours = np.argsort(order)
    tokens = np.where(theirs < 0, PAD, ours[theirs])
    logits = np.asarray(read(model, params, tokens))[..., ours[:40]]
    there = theirs >= 0
    assert expected[there].std() > 1.0 and there.sum() == 20
    np.testing.assert_allclose(logits[there], expected[there], atol=1e-5, rtol=1e-5)


def test_order():
    """Two numbers change places at a time, and again where the second move disturbs the first."""
    for special, first in (
        (Special(0, 1), [0, 1, 2, 3, 4, 5]),
        (Special(1, 0), [1, 0, 2, 3, 4, 5]),
        (Special(4, 2), [4, 2, 1, 3, 0, 5]),
        (Special(None, 3), [5, 3, 2, 1, 4, 0]),  # of five tokens: 5 is the row that was added
        (Special(None, 0), [5, 0, 2, 3, 4, 1]),
        (Special(3, 0), [3, 0, 2, 1, 4, 5]),
    ):
        np.testing.assert_array_equal(pretrained.order(6, special), first)


def test_special_tokens():
    assert {name: pretrained.special_tokens(FOLDER / name) for name in NAMES} == SPECIAL
    assert pretrained.architecture(FOLDER / "gpt2").vocabulary == 41
    assert pretrained.architecture(FOLDER / "llama").vocabulary == 40


@pytest.mark.parametrize("name", NAMES)
def test_written_as_it_was_read(loaded, tmp_path, name):
    """With the folder's own numbers of tokens, and of a half-precision file without a loss."""
    model, params = loaded[name]
    pretrained.save(tmp_path / "copy", model, params, like=FOLDER / name)
    files = lambda folder: folder.glob("*.safetensors")
    tensors = lambda folder: {k: v for path in files(folder) for k, v in safetensors.load_file(path).items()}
    before, after = tensors(FOLDER / name), tensors(tmp_path / "copy")
    assert before.keys() == after.keys()
    for key, value in before.items():
        np.testing.assert_array_equal(value.astype(np.float32), after[key])
    described = [json.loads((folder / CONFIG).read_text()) for folder in (FOLDER / name, tmp_path / "copy")]
    assert described[0] | {"dtype": "float32"} == described[1]


@pytest.mark.parametrize(
    "model",
    [
        LanguageModel(13, 16, 2, 4),
        LanguageModel(13, 16, 1, 4, 2, hidden=20, tied=False, bias="qkv", head_size=6, norm_eps=1e-5, rotary_base=50.0),
        LanguageModel(13, 16, 1, 2, 2, head_size=8, rotary_scaling=(8.0, 1.0, 4.0, 16.0), num_positions=64),
        LanguageModel(13, 18, 2, 2, norm="layer", gated=False, bias="all", positions="learned", num_positions=9),
    ],
)
def test_models_that_began_here(tmp_path, model):
    params = jittered(model)
    pretrained.save(tmp_path / "model", model, params)
    found, same = pretrained.load(tmp_path / "model")
    assert pretrained.special_tokens(tmp_path / "model") == Special(PAD, END)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    tokens = np.random.default_rng(0).integers(1, 13, (3, 6))
    logits = [np.asarray(read(m, params, tokens)) for m in (model, found)]
    assert logits[0].std() > 0.5
    np.testing.assert_allclose(*logits, atol=1e-6)
    pretrained.save(tmp_path / "again", found, same, like=tmp_path / "model")
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (tmp_path / "model" / WEIGHTS).read_bytes()


def jittered(model, seed=0):
    """Parameters of which all matter: biases and scales too."""
    tokens = jnp.ones((1, 3), jnp.int32)
    flat = traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(seed), tokens, mask(tokens)))
    rng = np.random.default_rng(seed)
    noise = lambda path, x: (1.0 * (path[-1] == "scale") + 0.3 * rng.standard_normal(x.shape)).astype(np.float32)
    return traverse_util.unflatten_dict({path: noise(path, x) for path, x in flat.items()})


@pytest.mark.parametrize("name", ["gpt2", "llama_grouped", "qwen2"])
def test_drawn_as_it_is_scored_and_padding_changes_nothing(loaded, name):
    model, params = loaded[name]
    model = model.clone(num_drawn=12)
    prompt = np.random.default_rng(1).integers(2, 12, (40, 4)).astype(np.int32)
    prompt[:10, :1] = prompt[10:20, :3] = PAD
    written = jax.jit(lambda key: language_model.complete(model, params, prompt, 5, key, 0.8))(jax.random.key(0))
    score = jax.jit(lambda p: language_model.completion_logits(model, params, p, written.tokens))
    log_prob = language_model.taken(score(prompt), written.tokens, 0.8)
    np.testing.assert_allclose(written.log_prob, log_prob, atol=1e-4)
    tokens = np.asarray(written.tokens)
    assert tokens.max() == 11 and (tokens == END).any() and tokens[:, -1].any()
    padded = np.pad(prompt, ((0, 0), (3, 0)), constant_values=PAD)
    also = language_model.taken(score(padded), written.tokens, 0.8)
    np.testing.assert_allclose(log_prob, also, atol=1e-4)
    shifted = language_model.taken(score(np.where(padded == PAD, 2, padded)), written.tokens, 0.8)
    assert np.abs(np.asarray(shifted - log_prob)).max() > 0.1  # padding is not seen, but what stands in its place is


def test_half_precision(loaded, tmp_path):
    """Of a bfloat16 file the numbers are exact as float32; of a float32 file they are rounded once, if so asked."""
    stored = safetensors.load_file(FOLDER / "qwen2" / WEIGHTS)["model.norm.weight"]
    assert stored.dtype == ml_dtypes.bfloat16
    scale = loaded["qwen2"][1]["params"]["final_norm"]["scale"]
    np.testing.assert_array_equal(scale, stored.astype(np.float32))
    for dtype in ("float32", "bfloat16", "float16"):
        _, params = pretrained.load(FOLDER / "llama", dtype)
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, y.astype(x.dtype)), params, loaded["llama"][1])
        assert {str(x.dtype) for x in jax.tree.leaves(params)} == {dtype}


def test_read_when_run(loaded):
    """Nothing of the folder is in the program; runs side by side all begin alike."""
    init = lambda seeds: jax.vmap(lambda seed: (pretrained.read_when_run(FOLDER / "gpt2"), seed))(seeds)
    program = jax.jit(init).lower(jnp.arange(3))
    assert len(program.as_text()) < 12_000  # characters; the parameters would be more than 60,000
    params = program.compile()(jnp.arange(3))[0]
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x, np.stack([y] * 3)), params, loaded["gpt2"][1])


def changed(tmp_path, name="llama", **changes):
    """A copy of a folder with another config.json."""
    shutil.copytree(FOLDER / name, tmp_path / "changed")
    path = tmp_path / "changed" / CONFIG
    config = {k: v for k, v in (json.loads(path.read_text()) | changes).items() if v != "gone"}
    path.write_text(json.dumps(config))
    return tmp_path / "changed"


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (dict(model_type="mamba"), "of the architecture 'mamba'; those that can be read are gpt2, llama, qwen2"),
        (dict(hidden_act="gelu"), "a llama with hidden_act='gelu' cannot be read, only with 'silu'"),
        (dict(attention_bias=True), "a llama with attention_bias=True cannot be read"),
        (dict(rope_parameters={"rope_type": "yarn"}), "rotary positions of the kind 'yarn' cannot be read"),
        (dict(vocab_size="40"), "config.json has a setting of the wrong kind"),
        (dict(rope_parameters=[1]), "config.json has a setting of the wrong kind"),
        (dict(num_attention_heads=0), "num_heads=0 must be a whole number above 0"),
        (dict(hidden_size="gone"), "does not say 'hidden_size'"),
        (dict(eos_token_id=None), "eos_token_id=None must be one of its 40 tokens"),
        (dict(num_hidden_layers=3), "lacks layers.2.input_layernorm.weight, .* and 6 others"),
        (dict(num_hidden_layers=1), "has no use for layers.1.input_layernorm.weight, .* and 6 others"),
        (
            dict(intermediate_size=20),
            r"mlp.gate_proj.weight is of shape \(24, 16\), which by config.json must be \(20, 16\)",
        ),
    ],
)
def test_folders_that_cannot_be_read(tmp_path, changes, sentence):
    folder = changed(tmp_path, **changes)
    with pytest.raises(UserError, match=sentence):
        pretrained.load(folder)


def test_files_that_cannot_be_read(tmp_path, loaded):
    with pytest.raises(UserError, match="There is no folder .*nowhere"):
        pretrained.load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it has no config.json"):
        pretrained.load(tmp_path / "empty")
    folder = changed(tmp_path)
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="has neither model.safetensors nor .* Its pickles are not read"):
        pretrained.load(folder)
    (folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(UserError, match="model.safetensors cannot be read"):
        pretrained.load(folder)
    (folder / CONFIG).write_text("[1]")
    with pytest.raises(UserError, match="config.json is no JSON of a model"):
        pretrained.load(folder)
    shutil.copytree(FOLDER / "llama_grouped", tmp_path / "sharded")
    assert len(set(json.loads((tmp_path / "sharded" / INDEX).read_text())["weight_map"].values())) == 3
    (tmp_path / "sharded" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(UserError, match="model-00002-of-00003.safetensors cannot be read"):
        pretrained.load(tmp_path / "sharded")
    (tmp_path / "sharded" / INDEX).write_text('{"weight_map": []}')
    with pytest.raises(UserError, match="has no weight_map"):
        pretrained.load(tmp_path / "sharded")
    with pytest.raises(UserError, match="holds other files"):
        pretrained.save(tmp_path / "sharded", *loaded["llama"])
    with pytest.raises(UserError, match="is neither a GPT-2 nor a Llama nor a Qwen2"):
        pretrained.save(tmp_path / "new", LanguageModel(13, norm="layer"), {})
    with pytest.raises(UserError, match="is not of the shape of"):
        pretrained.save(tmp_path / "new", *loaded["llama"], like=FOLDER / "gpt2")
    assert not (tmp_path / "new").exists()


def test_older_files(tmp_path, loaded):
    """Names without the prefix, copies of the embedding, constants that are no weights, and older words for rotary positions."""
    folder = changed(tmp_path, "gpt2")
    tensors = safetensors.load_file(folder / WEIGHTS)
    tensors = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    more = {"h.0.attn.bias": np.ones((1, 1, 16, 16), bool), "lm_head.weight": tensors["wte.weight"].copy()}
    safetensors.save_file(tensors | more, folder / WEIGHTS)
    jax.tree.map(np.testing.assert_array_equal, pretrained.load(folder)[1], loaded["gpt2"][1])
    config = json.loads((FOLDER / "llama_grouped" / CONFIG).read_text())
    scaling = config["rope_parameters"]
    base = scaling.pop("rope_theta")
    shutil.rmtree(folder)
    folder = changed(tmp_path, "llama_grouped", rope_parameters="gone", rope_scaling=scaling, rope_theta=base)
    assert pretrained.architecture(folder) == loaded["llama_grouped"][0] and base == 100.0
