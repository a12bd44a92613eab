"""What agents that write share: a language model, the policy that it is compared with, and acting.

A completion is one action (`rljax.types.Tokens`), so prompts are observations and environments, evaluation and binaries are those
of all other agents. The model is new, or that of a Hugging Face folder (`rljax.networks.pretrained`), where all seeds begin alike.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from rljax import completions, steps
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.networks import language_model, pretrained
from rljax.networks.language_model import LanguageModel
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Params, Source


@record
class Config:
    """A small model, for tasks of digits."""

    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    temperature: float = 1.0  # of exploring completions, and of all log-probabilities
    model: str = static("")  # folder of a model to begin from; sizes are then its own, and not read here
    width: int = static(64)
    num_layers: int = static(2)
    num_heads: int = static(4)
    num_kv_heads: int = static(0)  # 0: as many as heads
    score_chunk: int = static(0, of_state=False)  # tokens scored at a time, whose logits are in memory; 0: all
    dtype: str = static("float32")

    @property
    def num_controls(self) -> int:
        """Tokens that a model knows beside the environment's, from `vocabulary` on, of which it reads one after a prompt and
        draws none."""
        return 0


@record
class GroupConfig(Config):
    """Of agents that learn from groups of their own completions."""

    learning_rate: float = 3e-4
    reference_rate: float = 0.0  # by which the reference follows the policy at each update; 0: never
    num_prompts: int = static(32)
    group_size: int = static(8)


class State(NamedTuple):
    """Agents of this folder begin as each other (`--start_from`): supervised first, then by reward. The reference comes along; of
    one that was supervised it is the policy itself. Who learns more than a policy has this as the `policy` of its state."""

    model: Model
    reference: Params  # of the policy that one should stay near to


class Writer(NamedTuple):
    """network: its logits are those of `language_model.completion_logits`. init, act, log_prob, token_log_probs: of an `Agent`.
    score: (params, prompt [Q, P], tokens [B, T]) -> language_model.Scored [B, T] at the temperature. whole: (params, Completions
    [Q, K]) -> log-probabilities [Q, K] of whole completions. complete: (params, prompt [Q, P], key, beginning [B, T] or None,
    greedy) -> language_model.Completed [B, T] at the temperature. length: T."""

    network: LanguageModel
    optimiser: optax.GradientTransformation
    init: Any
    act: Any
    log_prob: Any
    score: Any
    token_log_probs: Any
    whole: Any
    complete: Any
    length: int


def make(spec: EnvSpec, config: Config) -> Writer:
    """The parts of an agent that writes.

    Raises:
      UserError: actions are no completions, or sizes do not go together.
    """
    completions.check(spec)
    if config.score_chunk < 0:
        raise UserError(f"score_chunk={config.score_chunk} must be a number of tokens, or 0 for all at once.")
    if isinstance(config.temperature, float) and config.temperature <= 0.0:
        raise UserError(
            "temperature must be above 0; the likeliest tokens are those of evaluation without --eval_explore."
        )
    network = network_of(spec, config)
    optimiser = optimiser_of(config, config.learning_rate)

    def init(key: Key) -> State:
        model = begin(network, optimiser, spec, key, config.model)
        return State(model, model.params)

    def complete(params: Params, prompt, key: Key, beginning=None, greedy: bool = False) -> language_model.Completed:
        asked = network, params, prompt, spec.action.length, key
        return language_model.complete(*asked, config.temperature, greedy, beginning=beginning)

    def act(state: State, observation, memory, key: Key, explore: bool = True, beginning=None):
        written = complete(state.model.params, observation, key, beginning, not explore)
        return written.tokens, memory, {"log_prob": written.log_prob}

    def score(params: Params, prompt, tokens) -> language_model.Scored:
        return language_model.score(network, params, prompt, tokens, config.temperature, config.score_chunk)

    def log_prob(state: State, observation, action, explore: bool = True):
        if explore:
            return score(state.model.params, observation, action).log_prob.sum(axis=-1)
        logits = language_model.completion_logits(network, state.model.params, observation, action)
        greedy = jnp.where(mask(action), logits.argmax(axis=-1) == action, True).all(axis=-1)
        return jnp.where(greedy, 0.0, -jnp.inf)

    def token_log_probs(state: State, prompt, tokens):
        return tuple(score(params, prompt, tokens).log_prob for params in (state.model.params, state.reference))

    def whole(params: Params, batch: Completions):
        return score(params, *batch.flat()).log_prob.sum(axis=-1).reshape(batch.reward.shape)

    return Writer(network, optimiser, init, act, log_prob, score, token_log_probs, whole, complete, spec.action.length)


def agent(parts: Writer, update: Callable, init: Callable | None = None, **more: Callable) -> Agent:
    """An agent that writes.

    Args:
      init: of an agent whose state has more than a policy, and has that as its `policy`; None: its state is a `State`.
      more: what the agent has besides.
    """
    of = (lambda f: f) if init is None else lambda f: lambda state, *args, **named: f(state.policy, *args, **named)
    own = {"log_prob": of(parts.log_prob), "token_log_probs": of(parts.token_log_probs)}
    return Agent(init or parts.init, of(parts.act), update, **own, **more)


def network_of(spec: EnvSpec, config: Config, outputs: int = 0) -> LanguageModel:
    """The model that a config describes, by its sizes or by a folder: of the next token or, with `outputs`, of so many numbers.

    Raises:
      UserError: sizes do not go together, the folder cannot be read, or its model has not enough tokens or positions.
    """
    drawn, longest = spec.action.vocabulary, math.prod(spec.observation_shape) + spec.action.length
    vocabulary = drawn + config.num_controls
    if config.model:
        network = pretrained.architecture(config.model).clone(dtype=config.dtype, num_drawn=drawn, outputs=outputs)
        if network.vocabulary < vocabulary:
            whose = "of the environment" + " and of control" * (config.num_controls > 0)
            raise UserError(f"{config.model} knows {network.vocabulary} tokens, fewer than the {vocabulary} {whose}.")
    else:
        sizes = config.width, config.num_layers, config.num_heads, config.num_kv_heads
        some = drawn if config.num_controls else 0
        network = LanguageModel(vocabulary, *sizes, dtype=config.dtype, outputs=outputs, num_drawn=some)
    language_model.check(network, longest + (config.num_controls > 0))
    return network


def optimiser_of(config: Config, learning_rate) -> optax.GradientTransformation:
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.adamw(learning_rate, b2=0.95, weight_decay=config.weight_decay),
    )


def begin(
    network: LanguageModel, optimiser: optax.GradientTransformation, spec: EnvSpec, key: Key, folder: str = ""
) -> Model:
    """New parameters, or those of a folder; a head for `outputs` is always new."""
    prompt = jnp.ones((1, *spec.observation_shape), jnp.int32)
    params = network.init(key, prompt, mask(prompt))
    if folder:
        head = {"head": params["params"]["head"]} if network.outputs else {}
        params = {"params": {**pretrained.read_when_run(folder)["params"], **head}}
    return Model(params, optimiser.init(params))


def after(config: GroupConfig, state: State, model: Model, batch: Completions) -> tuple[State, Metrics]:
    """The state once the model has learned from a batch, and what all agents tell of groups."""
    reference = optax.incremental_update(model.params, state.reference, config.reference_rate)
    mixed = (batch.reward != batch.reward[:, :1]).any(axis=1)
    return State(model, reference), {"group/mixed": mixed.mean(), "group/best": batch.reward.max(axis=1).mean()}


def source(env: Env, config: GroupConfig) -> Source:
    """`num_prompts` prompts, each answered `group_size` times by the present policy; steps are completions."""
    return completions.groups(env, config.num_prompts, config.group_size)


def continued(groups: Source, env: Env, config: Config) -> Source:
    """As `steps.source`, whose options the config has: the reference goes on from where each step of the groups begins.

    Raises:
      UserError: as `make` or `steps.source`.
    """
    parts = make(env.spec, config)
    return steps.source(groups, env, lambda state, *asked: parts.complete(state.reference, *asked), config)
