"""Language models from and to folders of Hugging Face: config.json and model.safetensors, of GPT-2, Llama and Qwen2.

Radford et al., 2019; Touvron et al., 2023 (arXiv:2302.13971) and Grattafiori et al., 2024 (arXiv:2407.21783); Yang et al., 2024
(arXiv:2407.10671). Each is a choice of `LanguageModel`'s fields, so a folder is a translation of names.

Tokens of a folder keep their numbers, but that 0 is PAD and 1 is END here (`rljax.tokens`): the rows of the embedding and of the
head at 0 and 1 are exchanged with those at the folder's pad_token_id and eos_token_id (`order`), and back when it is written. A
folder without a token for padding, or with the same for both, has one row more here, of zeros, which nobody reads or draws.
"""

import functools
import json
import pathlib
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Int

from rljax.errors import UserError
from rljax.networks.language_model import LanguageModel, check
from rljax.tokens import END, PAD
from rljax.types import Params

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
BESIDE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)
EMBEDDING, HEAD = "params/Embed_0/embedding", "params/head/kernel"

# Parts of a layer: theirs, and ours, side by side where theirs is one
GPT2 = {
    "ln_1": ("attention_norm",),
    "attn.c_attn": ("query", "key", "value"),
    "attn.c_proj": ("out",),
    "ln_2": ("norm",),
    "mlp.c_fc": ("up",),
    "mlp.c_proj": ("down",),
}
LLAMA = {
    "input_layernorm": ("attention_norm",),
    "self_attn.q_proj": ("query",),
    "self_attn.k_proj": ("key",),
    "self_attn.v_proj": ("value",),
    "self_attn.o_proj": ("out",),
    "post_attention_layernorm": ("norm",),
    "mlp.gate_proj": ("gate",),
    "mlp.up_proj": ("up",),
    "mlp.down_proj": ("down",),
}


class Layout(NamedTuple):
    """How an architecture names its tensors. Kernels of Conv1D, which GPT-2 has, lie as ours do; those of others are `turned`."""

    prefix: str
    layers: str
    parts: dict[str, tuple[str, ...]]
    whole: dict[str, str]
    turned: bool


class Special(NamedTuple):
    """Tokens of a folder, by its own numbers. pad: None where it has none apart from `end`."""

    pad: int | None = PAD
    end: int = END


OF_GPT2 = Layout("transformer.", "h", GPT2, {"wte": "Embed_0", "wpe": "positions", "ln_f": "final_norm"}, turned=False)
OF_LLAMA = Layout("model.", "layers", LLAMA, {"embed_tokens": "Embed_0", "norm": "final_norm"}, turned=True)
NOT_WEIGHTS = r"h\.\d+\.attn\.(masked_)?bias|layers\.\d+\.self_attn\.rotary_emb\.inv_freq"  # constants in older files


def architecture(folder: str | pathlib.Path) -> LanguageModel:
    """The model that a folder's config.json describes.

    Raises:
      UserError: there is no such folder or file, or it describes what `LanguageModel` cannot be.
    """
    config = _read_config(folder)
    name = config.get("model_type")
    if name is None and "agent" in config:
        raise UserError(f"{folder} is a run's folder: write its model by rljax.experiments.export, and give that.")
    if name not in READERS:
        raise UserError(f"{folder} is of the architecture {name!r}; those that can be read are {', '.join(READERS)}.")
    reader, only = READERS[name]
    for key, value in only.items():
        if config.get(key, value) != value:
            raise UserError(f"{folder}: a {name} with {key}={config[key]!r} cannot be read, only with {value!r}.")
    try:
        fields = reader(folder, config)
        rows = config["vocab_size"] + (special_tokens(folder).pad is None)
    except KeyError as missing:
        raise UserError(f"{pathlib.Path(folder) / CONFIG} does not say {missing}.") from None
    except (TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{pathlib.Path(folder) / CONFIG} has a setting of the wrong kind ({error}).") from None
    model = LanguageModel(rows, **fields)
    check(model)
    return model


def special_tokens(folder: str | pathlib.Path) -> Special:
    """Which tokens of a folder are PAD and END; of several that end a text the first.

    Raises:
      UserError: as `architecture`, or there is no token that ends a text.
    """
    config = _read_config(folder)
    end, pad = config.get("eos_token_id"), config.get("pad_token_id")
    end = end[0] if isinstance(end, list) and end else end
    known = range(config["vocab_size"])
    if end not in known:
        raise UserError(
            f"{folder}: eos_token_id={end} must be one of its {len(known)} tokens; completions end with it."
        )
    return Special(None if pad not in known or pad == end else pad, end)


def order(vocabulary: int, special: Special) -> Int[np.ndarray, " V"]:
    """The folder's number of each token here; `vocabulary`, ours, counts PAD, which is one past the last where the folder has none.

    PAD changes places with 0, then END with 1; all others keep their numbers.
    """
    theirs = np.arange(vocabulary)
    for ours, number in ((PAD, vocabulary - 1 if special.pad is None else special.pad), (END, special.end)):
        there = int(np.flatnonzero(theirs == number)[0])
        theirs[[ours, there]] = theirs[[there, ours]]
    return theirs


def load(folder: str | pathlib.Path, dtype: str = "float32") -> tuple[LanguageModel, Params]:
    """A folder's model and its parameters, on the host, as `dtype` whatever they were written in.

    Raises:
      UserError: as `architecture` and `check_weights`.
    """
    model = architecture(folder)
    check_weights(folder, model)
    special, found = special_tokens(folder), {}
    with _Tensors(folder) as tensors:
        for name, paths, turned in _names(model):
            value = np.asarray(tensors.read(name)).astype(jnp.dtype(dtype))
            value = value.T if turned else value
            sizes = [_shapes(model)[path][-1] for path in paths]
            for path, part in zip(paths, np.split(value, np.cumsum(sizes)[:-1] if len(sizes) > 1 else [], axis=-1)):
                found[path] = _to_ours(path, part, model.vocabulary, special)
    return model, traverse_util.unflatten_dict(found, sep="/")


def read_when_run(folder: str | pathlib.Path, dtype: str = "float32") -> Params:
    """`load`'s parameters within a traced program, which reads them when it runs: as constants they would be part of it.

    Raises:
      UserError: as `load`, when traced.
    """
    model = architecture(folder)
    check_weights(folder, model)
    kind = jnp.dtype(dtype)
    shapes = {path: jax.ShapeDtypeStruct(shape, kind) for path, shape in _shapes(model).items()}
    return jax.pure_callback(lambda: load(folder, dtype)[1], traverse_util.unflatten_dict(shapes, sep="/"))


def check_weights(folder: str | pathlib.Path, model: LanguageModel) -> None:
    """Reads no more than names and shapes.

    Raises:
      UserError: there are no safetensors; tensors are missing, of another shape than `model` has, or it has no place for them.
    """
    special = special_tokens(folder)
    wanted = {name: _their_shape(model, special, paths, turned) for name, paths, turned in _names(model)}
    with _Tensors(folder) as tensors:
        found = {name: tensors.shape(name) for name in tensors.names}
    found = {name: shape for name, shape in found.items() if not re.fullmatch(NOT_WEIGHTS, name)}
    if model.tied:
        found.pop("lm_head.weight", None)  # a copy of the embedding
    for what, names in (("lacks", wanted.keys() - found.keys()), ("has no use for", found.keys() - wanted.keys())):
        if names:
            raise UserError(f"{folder}: the model that {CONFIG} describes {_said(what, sorted(names))}.")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise UserError(f"{folder}: {name} is of shape {found[name]}, which by {CONFIG} must be {shape}.")


def save(
    folder: str | pathlib.Path, model: LanguageModel, params: Params, like: str | pathlib.Path | None = None
) -> None:
    """Write a model so that `transformers` and `load` read it, in the dtype that the parameters have.

    Args:
      like: the folder that the model began from, whose config.json, and so whose tokens' numbers, are kept, and whose tokenizer
        comes along. Without, PAD and END keep the numbers they have here.
    Raises:
      UserError: there is something else in the folder; the model is none of the three kinds, or not that of `like`.
    """
    from safetensors.numpy import save_file

    folder = pathlib.Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds other files; a model needs a folder of its own.")
    if like is not None and architecture(like) != model.clone(dtype="float32", num_drawn=0):
        raise UserError(f"The model is not of the shape of {like}, whose {CONFIG} would not describe it.")
    config = _config(model) if like is None else _read_config(like)
    special = Special() if like is None else special_tokens(like)
    flat = {path: np.asarray(x) for path, x in traverse_util.flatten_dict(params, sep="/").items()}
    dtype = flat[EMBEDDING].dtype
    for key in {"torch_dtype", "dtype"} & config.keys() or {"torch_dtype"}:
        config[key] = str(dtype)
    layout, tensors = _layout(model), {}
    for name, paths, turned in _names(model):
        value = np.concatenate([_to_theirs(path, flat[path], special) for path in paths], axis=-1)
        full = name if name.startswith("lm_head.") else layout.prefix + name
        tensors[full] = np.ascontiguousarray(value.T if turned else value)
    folder.mkdir(parents=True, exist_ok=True)
    for file in BESIDE if like is not None else ():
        if (pathlib.Path(like) / file).is_file():
            shutil.copy(pathlib.Path(like) / file, folder)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def _of_gpt2(folder, config) -> dict[str, Any]:
    return dict(
        width=config["n_embd"],
        num_layers=config["n_layer"],
        num_heads=config["n_head"],
        hidden=config.get("n_inner") or 4 * config["n_embd"],
        norm="layer",
        gated=False,
        tied=config.get("tie_word_embeddings", True),
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        bias="all",
        positions="learned",
        num_positions=config["n_positions"],
    )


def _of_llama(bias, folder, config) -> dict[str, Any]:
    rotary = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind, scaling = rotary.get("rope_type", rotary.get("type", "default")), ()
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        scaling = tuple(float(rotary[name]) for name in names)
    elif kind != "default":
        raise UserError(f"{folder}: rotary positions of the kind {kind!r} cannot be read, only default and llama3.")
    head_size = config.get("head_dim") or 0
    return dict(
        width=config["hidden_size"],
        num_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        num_kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        hidden=config["intermediate_size"],
        tied=config.get("tie_word_embeddings", False),
        rotary_base=float(rotary.get("rope_theta", config.get("rope_theta", 10_000.0))),
        norm_eps=config.get("rms_norm_eps", 1e-6),
        head_size=0 if head_size * config["num_attention_heads"] == config["hidden_size"] else head_size,
        bias=bias,
        num_positions=config.get("max_position_embeddings", 0),
        rotary_scaling=scaling,
    )


WHOLE = {"quantization_config": None}
GATED = {"hidden_act": "silu", "mlp_bias": False, "attention_bias": False, "use_sliding_window": False} | WHOLE
PLAIN = {
    "activation_function": "gelu_new",
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
} | WHOLE
READERS: dict[str, tuple[Callable, dict[str, Any]]] = {  # and what config.json may say besides
    "gpt2": (_of_gpt2, PLAIN),
    "llama": (functools.partial(_of_llama, ""), GATED),
    "qwen2": (functools.partial(_of_llama, "qkv"), GATED),
}


def _config(model: LanguageModel) -> dict[str, Any]:
    """The config.json of a model that began here."""
    tokens = dict(vocab_size=model.vocabulary, bos_token_id=None, eos_token_id=END, pad_token_id=PAD)
    kind = (model.positions, model.norm, model.gated, model.bias)
    one_size = not model.head_size and model.num_kv_heads in (0, model.num_heads)
    if kind == ("learned", "layer", False, "all") and one_size:
        return tokens | dict(
            model_type="gpt2",
            architectures=["GPT2LMHeadModel"],
            n_embd=model.width,
            n_layer=model.num_layers,
            n_head=model.num_heads,
            n_inner=model.hidden or 4 * model.width,
            n_positions=model.num_positions,
            layer_norm_epsilon=model.norm_eps,
            activation_function="gelu_new",
            tie_word_embeddings=model.tied,
        )
    names = {"": ("llama", "LlamaForCausalLM"), "qkv": ("qwen2", "Qwen2ForCausalLM")}
    if kind[:3] != ("rotary", "rms", True) or model.bias not in names:
        raise UserError(
            f"A model of positions={model.positions}, norm={model.norm}, gated={model.gated} and bias={model.bias!r} is neither "
            "a GPT-2 nor a Llama nor a Qwen2, and cannot be written as one."
        )
    scaling = None
    if model.rotary_scaling:
        names_of = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        scaling = {"rope_type": "llama3", **dict(zip(names_of, model.rotary_scaling))}
        scaling["original_max_position_embeddings"] = int(model.rotary_scaling[3])
    return tokens | dict(
        model_type=names[model.bias][0],
        architectures=[names[model.bias][1]],
        hidden_size=model.width,
        num_hidden_layers=model.num_layers,
        num_attention_heads=model.num_heads,
        num_key_value_heads=model.num_kv_heads or model.num_heads,
        head_dim=model.head_size or model.width // model.num_heads,
        intermediate_size=model.hidden or 8 * model.width // 3,
        max_position_embeddings=model.num_positions or 2048,
        rms_norm_eps=model.norm_eps,
        rope_theta=model.rotary_base,
        rope_scaling=scaling,
        hidden_act="silu",
        tie_word_embeddings=model.tied,
    )


def _layout(model: LanguageModel) -> Layout:
    return OF_GPT2 if model.positions == "learned" else OF_LLAMA


@functools.cache
def _shapes(model: LanguageModel) -> dict[str, tuple[int, ...]]:
    """Of our parameters, by path."""
    tokens = jnp.ones((1, 1), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens > 0)
    return {path: x.shape for path, x in traverse_util.flatten_dict(params, sep="/").items()}


def _names(model: LanguageModel) -> Iterator[tuple[str, tuple[str, ...], bool]]:
    """A folder's tensors, without prefix; our parameters that are side by side in each; and whether it lies the other way round."""
    layout, shapes = _layout(model), _shapes(model)
    parts = {theirs: (ours,) for theirs, ours in layout.whole.items()} | {"lm_head": ("head",)}
    for layer in range(model.num_layers):
        parts |= {
            f"{layout.layers}.{layer}.{theirs}": tuple(f"{name}_{layer}" for name in ours)
            for theirs, ours in layout.parts.items()
        }
    for theirs, ours in parts.items():
        for leaf in ("embedding", "scale", "kernel", "bias"):
            paths = tuple(f"params/{name}/{leaf}" for name in ours)
            if paths[0] in shapes:
                turned = leaf == "kernel" and (layout.turned or theirs == "lm_head")
                yield f"{theirs}.{'bias' if leaf == 'bias' else 'weight'}", paths, turned


def _their_shape(model, special, paths, turned) -> tuple[int, ...]:
    shapes = [_shapes(model)[path] for path in paths]
    shape = [*shapes[0][:-1], sum(shape[-1] for shape in shapes)]
    if paths[0] in (EMBEDDING, HEAD):
        shape[0 if paths[0] == EMBEDDING else 1] -= special.pad is None
    return tuple(shape[::-1] if turned else shape)


def _to_ours(path, value, vocabulary, special):
    """Rows of the embedding, and columns of the head, in our order."""
    if path not in (EMBEDDING, HEAD):
        return value
    axis = 0 if path == EMBEDDING else 1
    more = [(0, vocabulary - value.shape[axis] if i == axis else 0) for i in (0, 1)]
    return np.take(np.pad(value, more), order(vocabulary, special), axis)


def _to_theirs(path, value, special):
    """The inverse of `_to_ours`."""
    if path not in (EMBEDDING, HEAD):
        return value
    axis = 0 if path == EMBEDDING else 1
    theirs = np.argsort(order(value.shape[axis], special))
    return np.take(value, theirs[:-1] if special.pad is None else theirs, axis)


def _said(what: str, names: list[str]) -> str:
    return f"{what} {', '.join(names[:3])}" + (f" and {len(names) - 3} others" if len(names) > 3 else "")


def _read_config(folder) -> dict[str, Any]:
    path = pathlib.Path(folder) / CONFIG
    if not path.parent.is_dir():
        raise UserError(f"There is no folder {folder}; a model's has {CONFIG} and {WEIGHTS}.")
    if not path.is_file():
        raise UserError(f"{folder} is not a model's folder: it has no {CONFIG}.")
    return _read_json(path)


def _read_json(path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise UserError(f"{path} is no JSON of a model ({error}).") from None


class _Tensors:
    """The tensors of a folder by their names without prefix, in one file or several; read one at a time.

    Raises:
      UserError: there are no safetensors, or a file is missing or damaged.
    """

    def __init__(self, folder: str | pathlib.Path):
        from safetensors import SafetensorError, safe_open

        folder = pathlib.Path(folder)
        if (folder / INDEX).is_file():
            placed = _read_json(folder / INDEX).get("weight_map")
            if not isinstance(placed, dict):
                raise UserError(f"{folder / INDEX} has no weight_map, which says where each tensor is.")
            files = sorted(set(placed.values()))
        elif (folder / WEIGHTS).is_file():
            files = [WEIGHTS]
        else:
            pickled = " Its pickles are not read: they can run any code." * bool(list(folder.glob("*.bin")))
            raise UserError(f"{folder} has neither {WEIGHTS} nor {INDEX}.{pickled}")
        self._at, self._open = {}, []
        prefix = re.compile(f"^({OF_GPT2.prefix}|{OF_LLAMA.prefix})".replace(".", r"\."))
        for file in files:
            try:
                opened = safe_open(folder / file, framework="numpy")
            except (OSError, SafetensorError) as error:
                raise UserError(f"{folder / file} cannot be read ({error}).") from None
            self._open.append(opened)
            self._at |= {prefix.sub("", name): (opened, name) for name in opened.keys()}

    def __enter__(self) -> "_Tensors":
        return self

    def __exit__(self, *error) -> None:
        for opened in self._open:
            opened.__exit__(None, None, None)

    @property
    def names(self) -> list[str]:
        return list(self._at)

    def shape(self, name: str) -> tuple[int, ...]:
        opened, full = self._at[name]
        return tuple(opened.get_slice(full).get_shape())

    def read(self, name: str) -> np.ndarray:
        opened, full = self._at[name]
        return opened.get_tensor(full)
