"""Objectives of the tokens of one completion [T], as losses to be minimised: from log-probs, advantages and masks, never a
model.

`mask` says which tokens the policy chose; its end-of-sequence token is one of them, or it never learns to stop. What stands at
other places counts for nothing, whatever it is. Log-probs are of what was sampled from (the temperature's logits, nothing cut
off). All surrogates are interchangeable (`SURROGATES`); `aggregate` makes of tokens a sum and a count, to be divided once.

On policy, the value of most is -A whatever the policy does: it is the gradient that counts.
"""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.losses.multistep import lambda_advantages
from rljax.losses.policy_gradient import clipped_surrogate
from rljax.metrics import Average
from rljax.names import nearest
from rljax.record import record

Scalar = Float[Array, ""]
Number = Scalar | float  # a hyperparameter, traced or not
Tokens = Float[Array, " T"]
Mask = Bool[Array, " T"]
LIMIT = 20.0  # of log ratios: a larger one has no gradient, and no infinity


def log_ratios(log_prob: Tokens, behaviour_log_prob: Tokens, mask: Mask) -> Tokens:
    """log pi - log mu, within 20 of 0 and 0 where there is no token."""
    chex.assert_equal_shape([log_prob, behaviour_log_prob, mask])
    there = lambda x: jnp.where(mask, x, 0.0)
    return jnp.clip(there(log_prob) - there(jax.lax.stop_gradient(behaviour_log_prob)), -LIMIT, LIMIT)


def masked_mean(x: Tokens, mask: Mask) -> Scalar:
    """The mean over tokens; 0 where there is none."""
    return jnp.where(mask, x, 0.0).sum() / jnp.maximum(mask.sum(), 1)


# --- One token: log ratio and advantage to a loss.


def dual_clip(log_ratio: Scalar, advantage: Scalar, low: Number, high: Number, most: Number) -> Scalar:
    """PPO's, but a bad token never costs more than `most` |A|. Ye et al., 2019 (arXiv:1912.09729); usually 3."""
    loss = clipped_surrogate(log_ratio, advantage, low, high)
    return jnp.where(advantage < 0.0, jnp.minimum(loss, -most * advantage), loss)


def two_sided(log_ratio: Scalar, advantage: Scalar, low: Number, high: Number, delta: Number) -> Scalar:
    """PPO's with a ratio that is `delta` at most where it is not clipped, so that bad tokens stop paying too. TRL's `delta`;
    above 1 + high."""
    chex.assert_rank([log_ratio, advantage], 0)
    ratio = jnp.exp(log_ratio)
    return -jnp.minimum(jnp.minimum(ratio, delta) * advantage, jnp.clip(ratio, 1.0 - low, 1.0 + high) * advantage)


def weighted_likelihood(
    log_prob: Scalar, log_ratio: Scalar, advantage: Scalar, lowest: Number, highest: Number
) -> Scalar:
    """-ratio A log pi, its ratio a constant within two absolute bounds: CISPO, in MiniMax-M1 (arXiv:2506.13585). No token is
    dropped."""
    chex.assert_rank([log_prob, log_ratio, advantage], 0)
    return -jax.lax.stop_gradient(jnp.clip(jnp.exp(log_ratio), lowest, highest)) * advantage * log_prob


def sapo(log_ratio: Scalar, advantage: Scalar, positive: Number, negative: Number) -> Scalar:
    """-(4 / tau) sigmoid(tau (ratio - 1)) A with tau by the sign of A: a soft gate whose slope at 1 is that of the ratio. SAPO
    (2025), from public codes; tau 1 for good tokens, 1.05 for bad ones."""
    chex.assert_rank([log_ratio, advantage], 0)
    tau = jnp.where(advantage > 0.0, positive, negative)
    return -4.0 / tau * jax.nn.sigmoid(tau * (jnp.exp(log_ratio) - 1.0)) * advantage


def drifted(log_ratio: Scalar, advantage: Scalar, drift: Scalar) -> Scalar:
    """-(ratio A - drift): mirror learning, Kuba et al., 2022 (arXiv:2201.02373), with a drift that is not below 0, and flat
    and 0 at 1."""
    chex.assert_rank([log_ratio, advantage, drift], 0)
    return drift - jnp.exp(log_ratio) * advantage


def clip_drift(log_ratio: Scalar, advantage: Scalar, low: Number, high: Number) -> Scalar:
    """The drift that makes PPO of `drifted`: ReLU((ratio - clipped ratio) A)."""
    ratio = jnp.exp(log_ratio)
    return jax.nn.relu((ratio - jnp.clip(ratio, 1.0 - low, 1.0 + high)) * advantage)


def discovered_drift(log_ratio: Scalar, advantage: Scalar, alpha: Number = 2.0, beta: Number = 0.6) -> Scalar:
    """Discovered policy optimisation's: Lu et al., 2022 (arXiv:2210.05639).

    ReLU(x - alpha tanh(x / alpha)) with x = (ratio - 1) A for good tokens, ReLU(x - beta tanh(x / beta)) with x = A log ratio
    for others."""
    good, bad = (jnp.exp(log_ratio) - 1.0) * advantage, log_ratio * advantage
    return jax.nn.relu(
        jnp.where(advantage >= 0.0, good - alpha * jnp.tanh(good / alpha), bad - beta * jnp.tanh(bad / beta))
    )


def kl_drift(log_ratio: Scalar, advantage: Scalar, coefficient: Number) -> Scalar:
    """coefficient (u log u - u + 1), u the ratio, whose mean over the old policy's actions is KL(pi, old): the step of mirror
    descent, Tomar et al., 2020 (MDPO, arXiv:2005.09814), with `coefficient` 1 over its step size."""
    ratio = jnp.exp(log_ratio)
    return coefficient * (ratio * log_ratio - ratio + 1.0)


def implicit_negative(
    log_ratio: Scalar, correct: Bool[Array, ""], success_rate: Scalar, weight: Scalar, floor: Number = 1e-2
) -> Scalar:
    """Negative-aware fine-tuning, NFT: Chen et al., 2025 (arXiv:2505.18116).

    -weight log u for a token of a correct completion, -weight log((1 - q u) / (1 - q)) for one of a wrong one: the likelihood
    of what is left of the old policy without q of the new one. Where that is below `floor` the value stays there, but not the
    gradient.

    Args:
      success_rate: q, the share of the prompt's samples that were correct, between 0 and 1.
    """
    chex.assert_rank([log_ratio, correct, success_rate, weight], 0)
    left = (1.0 - success_rate * jnp.exp(log_ratio)) / (1.0 - success_rate)
    left = left + jax.lax.stop_gradient(jnp.maximum(left, floor) - left)
    return -weight * jnp.where(correct, log_ratio, jnp.log(left))


# What prompts weigh under NFT by their success rate. On policy it has then the gradient of the advantages of that name (GRPO
# with ddof 0).
NFT_WEIGHTS = {
    "uniform": lambda q: jnp.ones_like(q),
    "dr_grpo": lambda q: 1.0 - q,
    "grpo": lambda q: jnp.sqrt((1.0 - q) / q),
}


def nft(
    log_prob: Tokens,
    behaviour_log_prob: Tokens,
    correct: Bool[Array, ""],
    success_rate: Scalar,
    mask: Mask,
    weight: str = "grpo",
    floor: Number = 1e-2,
) -> Tokens:
    """NFT's loss of the tokens of a completion, with success rates kept within 0.02 and 0.98. Prompts all of whose samples are
    correct, or none, count for nothing.

    Raises UserError where there is no weight of the name.
    """
    if weight not in NFT_WEIGHTS:
        raise UserError(f"NFT has no weight {weight!r}; {nearest(weight, NFT_WEIGHTS)}")
    q = jnp.clip(success_rate, 0.02, 0.98)
    weight = jnp.where((success_rate > 0.0) & (success_rate < 1.0), NFT_WEIGHTS[weight](q), 0.0)
    ratio = log_ratios(log_prob, behaviour_log_prob, mask)
    loss = jax.vmap(implicit_negative, (0, None, None, None, None))(ratio, correct, q, weight, floor)
    return jnp.where(mask, loss, 0.0)


# --- One completion: its ratio is the geometric mean of its tokens'.


def gspo(log_ratio: Tokens, advantage: Tokens, mask: Mask, low: Number, high: Number) -> Tokens:
    """PPO's clip of the ratio of the whole completion, exp(mean of log ratios): GSPO, Zheng et al., 2025 (arXiv:2507.18071)."""
    whole = jnp.broadcast_to(masked_mean(log_ratio, mask), log_ratio.shape)
    return _tokenwise(clipped_surrogate)(whole, advantage, low, high)


def gspo_token(log_ratio: Tokens, advantage: Tokens, mask: Mask, low: Number, high: Number) -> Tokens:
    """GSPO's values, with each token's gradient its own, so that tokens may have advantages of their own. arXiv:2507.18071."""
    whole = jax.lax.stop_gradient(masked_mean(log_ratio, mask) - log_ratio) + log_ratio
    return _tokenwise(clipped_surrogate)(whole, advantage, low, high)


def gmpo(log_ratio: Tokens, advantage: Tokens, mask: Mask, low: Number, high: Number) -> Tokens:
    """-A exp(mean of clipped log ratios), the clip of each token pessimistic by the sign of A and in logarithms. GMPO, Zhao et
    al., 2025 (arXiv:2507.20673). One number of the completion: the mean of its advantages, the same for all its tokens."""
    sign = jnp.sign(advantage)
    kept = sign * jnp.minimum(sign * log_ratio, sign * jnp.clip(log_ratio, -low, high))
    loss = -masked_mean(advantage, mask) * jnp.exp(masked_mean(kept, mask))
    return jnp.broadcast_to(loss, log_ratio.shape)


def _tokenwise(loss):
    """Of a loss of one token, its own arguments [T] first and numbers thereafter, that of all."""
    return lambda log_ratio, advantage, *numbers: jax.vmap(lambda r, a: loss(r, a, *numbers))(log_ratio, advantage)


# --- All of them under one signature.


@record
class Options:
    """Hyperparameters; each surrogate reads its own. GSPO's clips are usually 3e-4 and 4e-4, GMPO's 0.4 (in logarithms)."""

    clip_low: float = 0.2  # the ratio pays down to 1 - clip_low
    clip_high: float = 0.2  # and up to 1 + clip_high
    dual: float = 3.0  # dual_clip: what a bad token costs at most, in |A|
    delta: float = 4.0  # two_sided: bound of ratios, absolute
    highest_ratio: float = 5.0  # cispo_absolute: bound of ratios, absolute
    temperature_positive: float = 1.0  # sapo
    temperature_negative: float = 1.05
    drift_alpha: float = 2.0  # discovered
    drift_beta: float = 0.6
    drift_coefficient: float = 1.0  # mirror_descent: one over its step size


def _cispo(log_prob, log_ratio, advantage, lowest, highest):
    return jax.vmap(weighted_likelihood, (0, 0, 0, None, None))(log_prob, log_ratio, advantage, lowest, highest)


# (log_prob, log_ratio, advantage, mask, options) -> loss [T]. CISPO's bound is said in two ways, and either's number is wrong
# in the other: "cispo_absolute" has ratios up to `highest_ratio` (TRL's epsilon_high), "cispo_clip" within 1 - clip_low and 1
# + clip_high (verl's).
SURROGATES = {
    "policy_gradient": lambda p, r, a, m, o: -a * p,
    "importance": lambda p, r, a, m, o: -a * jnp.exp(r),
    "ppo": lambda p, r, a, m, o: _tokenwise(clipped_surrogate)(r, a, o.clip_low, o.clip_high),
    "dual_clip": lambda p, r, a, m, o: _tokenwise(dual_clip)(r, a, o.clip_low, o.clip_high, o.dual),
    "two_sided": lambda p, r, a, m, o: _tokenwise(two_sided)(r, a, o.clip_low, o.clip_high, o.delta),
    "cispo_absolute": lambda p, r, a, m, o: _cispo(p, r, a, 0.0, o.highest_ratio),
    "cispo_clip": lambda p, r, a, m, o: _cispo(p, r, a, 1.0 - o.clip_low, 1.0 + o.clip_high),
    "gspo": lambda p, r, a, m, o: gspo(r, a, m, o.clip_low, o.clip_high),
    "gspo_token": lambda p, r, a, m, o: gspo_token(r, a, m, o.clip_low, o.clip_high),
    "gmpo": lambda p, r, a, m, o: gmpo(r, a, m, o.clip_low, o.clip_high),
    "sapo": lambda p, r, a, m, o: _tokenwise(sapo)(r, a, o.temperature_positive, o.temperature_negative),
    "discovered": lambda p, r, a, m, o: _with_drift(r, a, discovered_drift, o.drift_alpha, o.drift_beta),
    "mirror_descent": lambda p, r, a, m, o: _with_drift(r, a, kl_drift, o.drift_coefficient),
}


def _with_drift(log_ratio, advantage, drift, *numbers):
    return jax.vmap(drifted)(log_ratio, advantage, _tokenwise(drift)(log_ratio, advantage, *numbers))


def surrogate(
    name: str,
    log_prob: Tokens,
    behaviour_log_prob: Tokens,
    advantage: Scalar | Tokens,
    mask: Mask,
    options: Options | None = None,
) -> Tokens:
    """The loss of each token of a completion under the surrogate of a name, 0 where there is no token. Raises UserError as
    `check`.

    Args:
      advantage: of the completion, or of each token; a constant.
    """
    chex.assert_rank(log_prob, 1)  # one completion: vmap over those of a batch
    options = options or Options()
    check(name, options)
    ratio = log_ratios(log_prob, behaviour_log_prob, mask)
    advantage = jax.lax.stop_gradient(jnp.where(mask, advantage, 0.0))
    return jnp.where(mask, SURROGATES[name](jnp.where(mask, log_prob, 0.0), ratio, advantage, mask, options), 0.0)


def check(name: str, options: Options | None = None) -> None:
    """Raises UserError where there is no surrogate of the name, or an absolute bound of ratios is plainly meant as a distance
    from 1."""
    if name not in SURROGATES:
        raise UserError(f"There is no surrogate {name!r}; {nearest(name, SURROGATES)}")
    bound = {"cispo_absolute": "highest_ratio", "two_sided": "delta"}.get(name)
    value = getattr(options, bound) if bound and options is not None else None
    if isinstance(value, (int, float)) and value <= 1.0:
        raise UserError(
            f"{bound} = {value} bounds ratios themselves in {name!r}, not their distance from 1: it must be above 1."
        )


# --- Two completions of one prompt, by the log ratios of each as a whole. Wu et al., 2023 (P3O, arXiv:2310.00212).
#
# Unclipped both have the gradient -(r_1 - r_2) u_1 u_2 grad (log pi(y_1) - log pi(y_2)) / 2 with u the ratios, whose mean over
# pairs of the old policy is that of -E[r] under the new one. `advantage` is (r_1 - r_2) / 2: what a prompt adds to both is nothing.
# The clips are read from secondary text: which factors of the weight are clipped is our reading.


def p3o_separate(log_ratio: Float[Array, " 2"], advantage: Scalar, clip: Number) -> Scalar:
    """P3O-V1: each completion's ratio is clipped as PPO does it, and with it, as a constant, the ratio of the other."""
    ratio = jnp.exp(log_ratio)
    kept = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    each = jnp.stack([advantage, -advantage])
    weighed = lambda ratio: each * jax.lax.stop_gradient(ratio[::-1]) * ratio
    return -jnp.minimum(weighed(ratio), weighed(kept)).sum()


def p3o_joint(log_ratio: Float[Array, " 2"], advantage: Scalar, clip: Number) -> Scalar:
    """P3O-V2: how far the one has moved from the other in logarithms is clipped, and the product of both ratios, a constant."""
    both = jax.lax.stop_gradient(jnp.exp(log_ratio.sum()))
    apart = log_ratio[0] - log_ratio[1]
    kept = jnp.clip(both, 1.0 - clip, 1.0 + clip) * jnp.clip(apart, -clip, clip)
    return -jnp.minimum(advantage * both * apart, advantage * kept)


PAIRWISE = {"separate": p3o_separate, "joint": p3o_joint}


# --- Importance weights, for samples of a policy that is not quite the one that the log-probs say. Constants.


def importance_weight(
    log_prob: Tokens, sampled_log_prob: Tokens, mask: Mask, cap: Number, level: str = "token"
) -> Tokens:
    """min(pi / mu, cap), of each token, or at level "sequence" of their product. Truncated as by Ionides, 2008.

    Raises UserError where the level is neither.
    """
    if level not in ("token", "sequence"):
        raise UserError(f"There are importance weights of each 'token' or of the 'sequence', not of {level!r}.")
    ratio = log_ratios(log_prob, sampled_log_prob, mask)
    ratio = jnp.broadcast_to(jnp.clip(ratio.sum(), -LIMIT, LIMIT), ratio.shape) if level == "sequence" else ratio
    return jax.lax.stop_gradient(jnp.where(mask, jnp.minimum(jnp.exp(ratio), cap), 0.0))


# --- Credit: what each token's advantage is.


def token_gae(
    reward: Tokens,
    value: Tokens,
    mask: Mask,
    last_value: Scalar,
    terminated: Bool[Array, ""],
    gamma: Number,
    trace: Number,
) -> tuple[Tokens, Tokens]:
    """Generalised advantages along the tokens that the policy chose; others (a tool's answer, padding) are as if they were not
    there.

    Args:
      reward: of each token; what stands where there is none is not paid.
      value: of the context before each token.
      last_value: of the context after the last token.
      terminated: it ended by itself, so nothing follows and `last_value` is not read. A completion cut off by the limit of
        length goes on as `last_value` says; where a cut-off answer is a wrong answer and no more, that limit is a part of the
        task: True.
    Returns:
      (advantages, returns), 0 where there is no token. Schulman et al., 2015 (arXiv:1506.02438).
    """
    chex.assert_equal_shape([reward, value, mask])
    end = jnp.where(terminated, 0.0, last_value)

    def before(following, inputs):
        value, there = inputs
        return jnp.where(there, value, following), following

    next_value = jax.lax.scan(before, end, (value, mask), reverse=True)[1]
    decay = lambda number: jnp.where(mask, number, 1.0)  # what is skipped hands on what follows
    value = jnp.where(mask, value, next_value)
    advantage = lambda_advantages(jnp.where(mask, reward, 0.0), decay(gamma), decay(trace), value, next_value)
    return jnp.where(mask, advantage, 0.0), jnp.where(mask, advantage + value, 0.0)


def at_the_end(reward: Scalar, mask: Mask) -> Tokens:
    """A completion's reward as that of its last token; 0 at the others."""
    last = mask.size - 1 - jnp.argmax(mask[::-1])
    return jnp.where(mask & (jnp.arange(mask.size) == last), reward, 0.0)


def returns_to_go(reward: Tokens, mask: Mask, gamma: Number = 1.0) -> Tokens:
    """sum of gamma^(tokens between) r over the tokens from each on: what REINFORCE weighs each token's log-prob by."""
    return token_gae(reward, jnp.zeros_like(reward), mask, jnp.zeros((), reward.dtype), jnp.array(True), gamma, 1.0)[0]


def step_means(
    x: Tokens, step: Int[Array, " T"], mask: Mask, num_steps: int
) -> tuple[Float[Array, " S"], Bool[Array, " S"]]:
    """(mean over the tokens of each step, whether it has any), of tokens that belong to steps 0 to S - 1. Back again:
    `means[step]`."""
    total = jax.ops.segment_sum(jnp.where(mask, x, 0.0), step, num_steps)
    count = jax.ops.segment_sum(mask.astype(x.dtype), step, num_steps)
    return total / jnp.maximum(count, 1.0), count > 0


def entropy_modulated(
    advantage: Float[Array, " B"],
    entropy: Float[Array, "B S"],
    mask: Bool[Array, "B S"],
    confidence: Number = 1.0,
    foresight: Number = 1.0,
    bonus: Number = 0.05,
) -> Float[Array, "B S"]:
    """EMPG's advantages of the steps of a batch, from those of its trajectories; their mean over the steps is 0.

    A g(H_t) + bonus f(H_{t+1}) with g = e^{-confidence H} over its mean, f = e^{-foresight H}, H the entropies scaled to 0..1
    over the batch; the last step has no bonus. "Harnessing uncertainty: entropy-modulated policy gradients for long-horizon
    LLM agents", 2025."""
    chex.assert_equal_shape([entropy, mask])
    count = jnp.maximum(mask.sum(), 1)
    mean = lambda x: jnp.where(mask, x, 0.0).sum() / count
    low = jnp.where(mask, entropy, jnp.inf).min()
    span = jnp.where(mask, entropy, -jnp.inf).max() - low
    scaled = jnp.where(mask, entropy - low, 0.0) / jnp.where(span > 0.0, span, 1.0)
    weight = jnp.exp(-confidence * scaled)
    follows = jnp.pad(mask[:, 1:] & mask[:, :-1], ((0, 0), (0, 1)))
    clear = jnp.where(follows, jnp.exp(-foresight * jnp.roll(scaled, -1, axis=1)), 0.0)
    modulated = advantage[:, None] * weight / jnp.maximum(mean(weight), 1e-8) + bonus * clear
    return jax.lax.stop_gradient(jnp.where(mask, modulated - mean(modulated), 0.0))


def token_hidden_reward(advantage: Tokens, influence: Tokens, exploit: Number, threshold: Number) -> Tokens:
    """A (1 + exploit sign(influence)), and 0 where |influence| is below the threshold: THR, "Token hidden reward", 2025.

    `influence` is what learning from the token does to the likelihood of the correct completions, signed as its advantage has
    it; above 0 it helps them. `exploit` above 0 makes the policy surer of them, below 0 it keeps it exploring. Our reading:
    the paper's exact factor was not at hand.
    """
    chex.assert_equal_shape([advantage, influence])
    return jnp.where(jnp.abs(influence) < threshold, 0.0, advantage * (1.0 + exploit * jnp.sign(influence)))


def telling_tokens(
    advantage: Float[Array, "B T"], entropy: Float[Array, "B T"], mask: Bool[Array, "B T"], share: Number
) -> Bool[Array, "B T"]:
    """The `share` of a batch's tokens, rounded up, with the largest |A| times entropy: those that D3S learns from (see
    `outcome.most_varied`). The mask of these alone; equal ones by position. `share` may be traced, so that it can be
    annealed."""
    chex.assert_equal_shape([advantage, entropy, mask])
    score = jnp.where(mask, jnp.abs(advantage) * entropy, -jnp.inf).reshape(-1)
    rank = jnp.argsort(jnp.argsort(-score)).reshape(mask.shape)
    return mask & (rank < jnp.ceil(share * mask.sum()))


def outside_band(entropy: Float[Array, "*S"], low: Number, high: Number) -> Float[Array, "*S"]:
    """How far entropies lie below `low` or above `high`, 0 within: EPO's smoothing, Xu et al., 2025 (arXiv:2509.22576). Its slope
    outside is 1 in size, so that it moves what it costs."""
    return jax.nn.relu(low - entropy) + jax.nn.relu(entropy - high)


def overlong_penalty(length: Float[Array, "*S"], limit: Number, buffer: Number) -> Float[Array, "*S"]:
    """0 up to limit - buffer tokens, from there straight down to -1 at the limit: to be added to rewards. DAPO,
    arXiv:2503.14476."""
    return -jnp.clip((length - (limit - buffer)) / buffer, 0.0, 1.0)


# --- A batch.


def aggregate(
    loss: Float[Array, "*S T"], mask: Bool[Array, "*S T"], kind: str = "token_mean", max_length: int | None = None
) -> Average:
    """The sum of what is averaged and how many are averaged over. Sums over minibatches and devices first, then one division
    (`metrics.mean`): means of means are another objective. Rows without a token are no completions, and do not count.

        token_mean                 each token counts the same: DAPO
        sequence_mean_token_mean   each completion counts the same: GRPO, GSPO
        sequence_mean_token_sum    the gradient of the expectation: REINFORCE
        fixed_length               the same over `max_length`, of completions, not of the batch: Dr. GRPO

    Raises UserError where there is no such kind, or no `max_length` where it is read.
    """
    check_aggregation(kind)
    if (kind == "fixed_length") != (max_length is not None):
        raise UserError(
            "max_length, the most tokens that a completion may have, belongs to the aggregation 'fixed_length' and to no other."
        )
    chex.assert_equal_shape([loss, mask])
    total = jnp.where(mask, loss, 0.0).sum(-1)
    tokens = mask.sum(-1).astype(loss.dtype)
    completions = (tokens > 0).sum().astype(loss.dtype)
    if kind == "token_mean":
        return Average(total.sum(), tokens.sum())
    if kind == "sequence_mean_token_mean":
        return Average((total / jnp.maximum(tokens, 1.0)).sum(), completions)
    return Average(total.sum(), completions * (max_length if kind == "fixed_length" else 1))


AGGREGATIONS = ("token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "fixed_length")


def check_aggregation(kind: str) -> None:
    """Raises UserError where there is no aggregation of the name."""
    if kind not in AGGREGATIONS:
        raise UserError(f"There is no aggregation {kind!r}; {nearest(kind, AGGREGATIONS)}")
