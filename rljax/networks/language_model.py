"""A decoder-only language model, and completions drawn from it with a cache of keys and values.

Su et al., 2021 (rotary positions, arXiv:2104.09864); Shazeer, 2020 (gated layers, arXiv:2002.05202); Ainslie et al., 2023 (keys
shared by queries, arXiv:2305.13245); Zhang & Sennrich, 2019 (root mean square normalisation, arXiv:1910.07467).

Products are taken of [B * S, width], in which XLA's CPU client makes their gradients at a third of the cost of [B, S, width].

Completions [B, T] may be several of each prompt [Q, P], B = Q K, those of one prompt one after another. Then a prompt is read once
for all of them, in the gradient too.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.tokens import END, PAD, mask
from rljax.types import Key, Params

NEVER = -1e9  # a logit; finite, so that 0 log 0 is 0

# For each layer keys and values, [B, num_kv_heads, S, D], as they are multiplied.
Cache = tuple[tuple[Array, Array], ...]


class LanguageModel(nn.Module):
    """(tokens [B, S], visible [B, S']) -> logits [B, S, vocabulary] of the token after each, and the keys and values.

    Without a cache S' is S. With one, of S' places, tokens are those at `start` and after it; a token sees the visible ones up to
    its own place. Positions count visible tokens, so what is padded before a prompt changes nothing. Without its `head` a model
    tells what that would be told, [B, S, width].

    Args:
      hidden: units between the two products of a layer; by default 4 width, gated 8/3 width.
      num_kv_heads: heads of keys and values, shared by num_heads / num_kv_heads of the queries each; 0: one for each.
      norm: rms or layer.  gated: SwiGLU in the place of GELU.  tied: logits by the embedding.
      outputs: numbers told at each token in the place of logits (values, rewards); 0: logits.
      head_size: 0: width / num_heads.
      bias: which products have one: "", none; qkv, those of queries, keys and values; all, but the head's.
      positions: rotary, or learned and added to the tokens' embedding.
      num_positions: of learned positions; of rotary ones how long a sequence the model was made for, 0: any.
      rotary_scaling: (factor, low, high, P), by which Llama 3.1 reads longer sequences than the P tokens it was first trained on.
      num_drawn: of all tokens the first so many may be drawn, those that the environment knows; 0: all.
    """

    vocabulary: int
    width: int = 64
    num_layers: int = 2
    num_heads: int = 4
    num_kv_heads: int = 0
    hidden: int = 0
    norm: str = "rms"
    gated: bool = True
    tied: bool = True
    rotary_base: float = 10_000.0
    dtype: str = "float32"
    outputs: int = 0
    norm_eps: float = 1e-6
    head_size: int = 0
    bias: str = ""
    positions: str = "rotary"
    num_positions: int = 0
    rotary_scaling: tuple[float, ...] = ()
    num_drawn: int = 0

    @nn.compact
    def __call__(
        self,
        tokens: Int[Array, "B S"],
        visible: Bool[Array, "B C"],
        cache: Cache | None = None,
        start: Int[Array, ""] | int = 0,
        head: bool = True,
    ) -> tuple[Float[Array, "B S V"], Cache]:
        batch, size = tokens.shape
        embed = self._embed(self.vocabulary, "Embed_0")
        place = start + jnp.arange(size)
        position = jnp.maximum(jnp.cumsum(visible, axis=1) - 1, 0)[:, place]
        seen = (jnp.arange(visible.shape[1]) <= place[:, None]) & visible[:, None, :]  # [B, S, C]
        x = embed(tokens)
        if self.positions == "learned":
            x = x + self._embed(self.num_positions, "positions")(position)
        x = x.reshape(batch * size, self.width)
        kept = []
        for layer in range(self.num_layers):
            attended, pair = self._attend(
                self._normed(f"attention_norm_{layer}")(x), position, seen, cache and cache[layer], start, layer
            )
            kept.append(pair)
            x = x + attended
            x = x + self._feed(self._normed(f"norm_{layer}")(x), layer)
        x = self._normed("final_norm")(x)
        if not head:
            return x.reshape(batch, size, -1), tuple(kept)
        own = self.outputs or not self.tied
        logits = self._dense(self.outputs or self.vocabulary, "head")(x) if own else embed.attend(x)
        return logits.astype(jnp.float32).reshape(batch, size, -1), tuple(kept)

    def _attend(self, x, position, seen, cache, start, layer):
        batch, size = position.shape
        head_size = self.head_size or self.width // self.num_heads
        kv_heads = self.num_kv_heads or self.num_heads

        def heads(name, number):
            product = self._dense(number * head_size, f"{name}_{layer}", bias=self.bias != "")
            return product(x).reshape(batch, size, number, head_size)

        query, key, value = heads("query", self.num_heads), heads("key", kv_heads), heads("value", kv_heads)
        if self.positions == "rotary":
            period = periods(head_size, self.rotary_base, self.rotary_scaling)
            query, key = rotated(query, position, period), rotated(key, position, period)
        key, value = key.swapaxes(1, 2), value.swapaxes(1, 2)
        if cache is not None:
            write = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, start, axis=2)
            key, value = write(cache[0], key), write(cache[1], value)
        attended = attention(query, key, value, seen).reshape(batch * size, self.num_heads * head_size)
        return self._dense(self.width, f"out_{layer}", self.bias == "all")(attended), (key, value)

    def _feed(self, x, layer):
        hidden = self.hidden or (8 * self.width // 3 if self.gated else 4 * self.width)
        bias = self.bias == "all"
        up = self._dense(hidden, f"up_{layer}", bias)(x)
        up = jax.nn.silu(self._dense(hidden, f"gate_{layer}", bias)(x)) * up if self.gated else nn.gelu(up)
        return self._dense(self.width, f"down_{layer}", bias)(up)

    def _embed(self, number, name):
        return nn.Embed(number, self.width, self.dtype, embedding_init=nn.initializers.normal(0.02), name=name)

    def _dense(self, size, name, bias=False):
        return nn.Dense(size, use_bias=bias, kernel_init=nn.initializers.normal(0.02), dtype=self.dtype, name=name)

    def _normed(self, name):
        return (nn.RMSNorm if self.norm == "rms" else nn.LayerNorm)(self.norm_eps, dtype=self.dtype, name=name)


class Mixture(NamedTuple):
    """In the place of a model, of two policies by parameters (first, second): each token is drawn in proportion to
    first^(1 - share) second^share. Of whole completions that is the geometric mixture where they have one token; where they have
    more, each token's is normalised by itself."""

    network: LanguageModel
    share: Float[Array, ""] | float

    @property
    def num_drawn(self) -> int:
        return self.network.num_drawn

    def apply(self, params: tuple[Params, Params], tokens, visible, cache=None, start=0):
        first, second = cache or (None, None)
        one, first = self.network.apply(params[0], tokens, visible, first, start)
        other, second = self.network.apply(params[1], tokens, visible, second, start)
        return (1.0 - self.share) * one + self.share * other, (first, second)


def check(model: LanguageModel, longest: int = 0) -> None:
    """Raises UserError for sizes that do not go together, and where it cannot read `longest` tokens, prompt and completion."""
    for name in ("vocabulary", "width", "num_layers", "num_heads"):
        size = getattr(model, name)
        if not isinstance(size, int) or size < 1:
            raise UserError(f"{name}={size} must be a whole number above 0.")
    kv_heads, turned = model.num_kv_heads or model.num_heads, model.positions == "rotary"
    if not model.head_size and model.width % (model.num_heads * (2 if turned else 1)):
        multiple = f"{'twice ' * turned}num_heads={model.num_heads}"
        raise UserError(f"width={model.width} must be a multiple of {multiple}.")
    if turned and model.head_size % 2:
        raise UserError(f"head_size={model.head_size} must be even: rotary positions turn pairs of numbers.")
    if model.num_heads % kv_heads:
        raise UserError(f"num_kv_heads={kv_heads} must divide num_heads={model.num_heads}.")
    if model.dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"dtype={model.dtype!r} must be float32, bfloat16 or float16.")
    if model.norm not in ("rms", "layer"):
        raise UserError(f"norm={model.norm!r} must be rms or layer.")
    if model.bias not in ("", "qkv", "all"):
        raise UserError(f"bias={model.bias!r} must be qkv, all, or '' for none.")
    if model.positions not in ("rotary", "learned"):
        raise UserError(f"positions={model.positions!r} must be rotary or learned.")
    if not turned and model.num_positions < 1:
        raise UserError("Learned positions must be told how many: num_positions must be at least 1.")
    if 0 < model.num_positions < longest:
        raise UserError(
            f"A prompt and its completion may have {longest} tokens here, but the model reads {model.num_positions} at most."
        )


def attention(
    query: Float[Array, "B S H D"],
    key: Float[Array, "B K C D"],
    value: Float[Array, "B K C D"],
    seen: Bool[Array, "B S C"],
) -> Float[Array, "B S H D"]:
    """What tokens read of those that they see, each head of keys and values for H / K heads of queries. Keys lie as they are
    multiplied: those of a cache need not be turned again for each token that is drawn."""
    batch, size, heads, head_size = query.shape
    grouped = query.reshape(batch, size, key.shape[1], -1, head_size)
    logits = jnp.einsum("bskgd,bkcd->bkgsc", grouped, key, preferred_element_type=jnp.float32) * head_size**-0.5
    chance = jax.nn.softmax(jnp.where(seen[:, None, None], logits, NEVER)).astype(value.dtype)
    return jnp.einsum("bkgsc,bkcd->bskgd", chance, value).reshape(query.shape)


def periods(size: int, base: float, scaling: tuple[float, ...] = ()) -> Float[Array, " D/2"]:
    """How many places each pair of a head's numbers takes to turn by one radian, base^(2 i / D).

    scaling: (factor, low, high, P): pairs that turn less than `low` times within P places turn `factor` times slower, those that
    turn more than `high` times as ever, and those between in between (Grattafiori et al., 2024, arXiv:2407.21783).
    """
    half = size // 2
    period = base ** (jnp.arange(half) / half)
    if not scaling:
        return period
    factor, low, high, first = scaling
    turns = first / (2.0 * jnp.pi * period)
    kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
    return period / (kept + (1.0 - kept) / factor)


def rotated(
    x: Float[Array, "B S H D"], position: Int[Array, "B S"], period: Float[Array, " D/2"]
) -> Float[Array, "B S H D"]:
    """Pairs of numbers (i, i + D / 2) turned by an angle of position / period."""
    angle = position[..., None, None] / period
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, second * cosine + first * sine], -1).astype(x.dtype)


def completion_logits(
    model: LanguageModel, params: Params, prompt: Int[Array, "Q P"], completion: Int[Array, "B T"]
) -> Float[Array, "B T V"]:
    """The logits that each token of a completion was to be drawn by, given the prompt and what stands before it."""
    return drawable(_before(model, params, prompt, completion), model.num_drawn)


def completion_values(
    model: LanguageModel, params: Params, prompt: Int[Array, "Q P"], completion: Int[Array, "B T"]
) -> Float[Array, "B T"]:
    """What a model of one output tells before each token of a completion: of the prompt and the tokens so far, not of the token."""
    return _before(model, params, prompt, completion)[..., 0]


def completion_score(
    model: LanguageModel, params: Params, prompt: Int[Array, "Q P"], completion: Int[Array, "B T"]
) -> Float[Array, " B"]:
    """What a model of one output tells of whole completions, at the last token of each."""
    last = mask(completion).sum(axis=1, keepdims=True)
    return jnp.take_along_axis(_read(model, params, prompt, completion)[..., 0], last, axis=1)[:, 0]


def _before(model, params, prompt, completion, **options):
    """What a model tells before each token of a completion; nobody asks after the last."""
    return _read(model, params, prompt, completion[:, :-1], **options)


def _read(model, params, prompt, completion, **options):
    """What a model tells [B, 1 + T, ...] at the last token of the prompt and at each of a completion."""
    size, each = prompt.shape[1], _each(prompt, completion)
    tokens = jnp.concatenate([each(prompt), completion], axis=1)
    if len(prompt) == len(completion):
        return model.apply(params, tokens, mask(tokens), **options)[0][:, size - 1 :]
    asked, cache = model.apply(params, prompt, mask(prompt), **options)
    if not completion.shape[1]:
        return each(asked[:, -1:])
    cache = jax.tree.map(lambda x: _with_room(each(x), completion.shape[1]), cache)
    answered, _ = model.apply(params, completion, mask(tokens), cache, size, **options)
    return jnp.concatenate([each(asked[:, -1:]), answered], axis=1)


def _each(prompt, completion):
    """(of each prompt [Q, ...]) -> of each of its completions [B, ...]."""
    return lambda x: jnp.repeat(x, len(completion) // len(prompt), axis=0)


def _with_room(cached, more):
    """Keys or values, with places for so many tokens more."""
    return jnp.pad(cached, ((0, 0), (0, 0), (0, more), (0, 0)))


class Scored(NamedTuple):
    """Of each token of completions how likely it was, 0 where none stands, and the entropy of what it was drawn from, in nats."""

    log_prob: Float[Array, "B T"]
    entropy: Float[Array, "B T"]


def score(
    model: LanguageModel,
    params: Params,
    prompt: Int[Array, "Q P"],
    completion: Int[Array, "B T"],
    temperature: Float[Array, ""] | float = 1.0,
    chunk: int = 0,
) -> Scored:
    """Completions by a model, at a temperature.

    chunk: logits are those of so many tokens at a time, and made again for the gradient, so that memory grows with chunk times the
    vocabulary rather than with B T times; 0: of all at once, which is faster where there is room for them.
    """
    if not chunk:
        logits = completion_logits(model, params, prompt, completion) / temperature
        return Scored(taken(logits, completion), entropy(logits))
    weights = params["params"]
    kernel = weights["Embed_0"]["embedding"].T if model.tied else weights["head"]["kernel"]
    count = -(-completion.size // chunk)

    def in_chunks(x):
        x = x.reshape(completion.size, -1)
        return jnp.pad(x, ((0, count * chunk - len(x)), (0, 0))).reshape(count, chunk, -1)

    @jax.checkpoint
    def scored(some):
        features, token = some
        logits = (features @ kernel.astype(features.dtype)).astype(jnp.float32)
        logits = drawable(logits, model.num_drawn) / temperature
        return taken(logits[:, None], token)[:, 0], entropy(logits)

    features = _before(model, params, prompt, completion, head=False)
    found = jax.lax.map(scored, (in_chunks(features), in_chunks(completion)))
    return Scored(*(x.reshape(-1)[: completion.size].reshape(completion.shape) for x in found))


def drawable(logits: Float[Array, "*B V"], num_drawn: int = 0) -> Float[Array, "*B V"]:
    """With no chance for PAD, which is no token, nor for those from `num_drawn` on."""
    logits = logits.at[..., PAD].set(NEVER)
    return logits.at[..., num_drawn:].set(NEVER) if num_drawn else logits


def taken(
    logits: Float[Array, "*B T V"], completion: Int[Array, "*B T"], temperature: Float[Array, ""] | float = 1.0
) -> Float[Array, "*B T"]:
    """Log-probabilities of a completion's tokens; 0 where none stands."""
    log_probs = jax.nn.log_softmax(logits / temperature)
    chosen = jnp.take_along_axis(log_probs, completion[..., None], axis=-1)[..., 0]
    return jnp.where(mask(completion), chosen, 0.0)


def entropy(logits: Float[Array, "*B V"]) -> Float[Array, "*B"]:
    """Of the next token, in nats."""
    log_probs = jax.nn.log_softmax(logits)
    return -(jnp.exp(log_probs) * log_probs).sum(axis=-1)


def likeliest(logits: Float[Array, "*B V"], top_k: int = 0, top_p: float = 1.0) -> Float[Array, "*B V"]:
    """With no chance but for the `top_k` likeliest tokens (Fan et al., 2018, arXiv:1805.04833; 0: all), and of these the fewest
    that have `top_p` of the chance together (Holtzman et al., 2020, arXiv:1904.09751). Tokens as likely as the last stay too."""
    if top_k and top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, top_k)[0][..., -1:]
        logits = jnp.where(logits >= least, logits, NEVER)
    if top_p < 1.0:
        falling = -jnp.sort(-logits, axis=-1)
        chance = jax.nn.softmax(falling)
        kept = jnp.cumsum(chance, axis=-1) - chance < top_p
        least = jnp.where(kept, falling, jnp.inf).min(axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, NEVER)
    return logits


class Completed(NamedTuple):
    """Completions, and how likely each token was when it was drawn (0 where none stands, or it was given)."""

    tokens: Int[Array, "B T"]
    log_prob: Float[Array, "B T"]


def complete(
    model: LanguageModel,
    params: Params,
    prompt: Int[Array, "Q P"],
    length: int,
    key: Key,
    temperature: Float[Array, ""] | float = 1.0,
    greedy: bool = False,
    top_k: int = 0,
    top_p: float = 1.0,
    beginning: Int[Array, "B T"] | None = None,
) -> Completed:
    """A completion of at most `length` tokens for each prompt, drawn token by token with a cache, up to END.

    temperature: logits are divided by it; `log_prob` is that of the law drawn from. greedy: the likeliest token instead, whose
    log-probability is that at the temperature.

    top_k, top_p: draw from the likeliest tokens alone (`likeliest`). `log_prob` stays that of all tokens at the temperature, by
    which completions are scored, so what was drawn is likelier than it says.

    beginning: tokens that each completion begins with, PAD after them; what follows is drawn as if they had been. There may be
    several for each prompt, one after another, each with a completion of its own. None: no such, and one completion of each.

    Raises:
      UserError: top_k or top_p leaves no token, or is no such number.
    """
    if top_k < 0 or not 0.0 < top_p <= 1.0:
        raise UserError(f"top_k={top_k} must be 0, for all tokens, or more, and top_p={top_p} above 0 and at most 1.")
    asked = prompt if beginning is None else beginning
    (batch, _), size, each = asked.shape, prompt.shape[1], _each(prompt, asked)
    places = jnp.arange(size + length)
    logits, cache = model.apply(params, prompt, mask(prompt))
    last = each(drawable(logits[:, -1], model.num_drawn))
    cache = jax.tree.map(lambda x: _with_room(each(x), length), cache)
    visible = jnp.concatenate([each(mask(prompt)), jnp.zeros((batch, length), bool)], axis=1)

    def draw(logits, alive, step, given):
        drawn = jax.random.categorical(jax.random.fold_in(key, step), likeliest(logits / temperature, top_k, top_p))
        token = jnp.where(alive, logits.argmax(-1) if greedy else drawn, PAD).astype(jnp.int32)
        log_prob = taken(logits[:, None], token[:, None], temperature)[:, 0]
        if given is None:
            return token, log_prob
        return jnp.where(given != PAD, given, token), jnp.where(given != PAD, 0.0, log_prob)

    def advance(carry, inputs):
        logits, visible, cache, alive = carry
        step, given = inputs
        token, log_prob = draw(logits, alive, step, given)
        visible = jnp.where(places == size + step, alive[:, None], visible)
        logits, cache = model.apply(params, token[:, None], visible, cache, size + step)
        return (drawable(logits[:, 0], model.num_drawn), visible, cache, alive & (token != END)), (token, log_prob)

    start = (last, visible, cache, jnp.ones(batch, bool))
    begun, last_given = (None, None) if beginning is None else (beginning.T[:-1], beginning[:, -1])
    (logits, _, _, alive), written = jax.lax.scan(advance, start, (jnp.arange(length - 1), begun))
    final = draw(logits, alive, length - 1, last_given)  # nobody reads what would follow it
    return Completed(*(jnp.concatenate([xs, x[None]]).T for xs, x in zip(written, final)))
