"""Pre-training with human preferences: objectives that read what each completion was paid, from the first update on. Korbak et al.,
2023, arXiv:2302.08582.

train --agent=phf --env=tokens/sort-8 --dataset=groups.jsonl --steps=10000 --run_dir=runs/phf

`method` is one of

    mle           the likelihood of all that is there.
    filtering     that of the good, which were paid more than `threshold`.
    conditional   that of all, each after a token that says whether it is good; acting is after the one that says so.
    unlikelihood  the likelihood of the good, and alpha times that of not having written each token of the bad.
    rwr           the likelihood, each completion as often as e^(reward / beta).
    awr           the same with advantages over a critic, who is a transformer of its own and tells of what stood before each token.

A segment is a whole completion here, and its reward that of all its tokens. The two tokens of control stand behind the prompt and
beside the environment's vocabulary, so nobody draws them; some completions (`unconditional`) are read without. The paper's critic
is an output of the policy, and its loss has a weight beside the policy's. Without a dataset it learns from its own completions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rljax import completions
from rljax import metrics as metrics_lib
from rljax.agents.alignment import writer
from rljax.agents.alignment.writer import Writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.losses import pretraining, surrogate
from rljax.networks import language_model
from rljax.record import record, static
from rljax.tokens import PAD, mask
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Model, Source
from rljax.updates import descend


@record
class Config(writer.Config, pretraining.Options):
    """An objective's numbers have the names they have there, and are read by it alone."""

    critic_learning_rate: float = 1e-3
    unconditional: float = 0.01  # share of completions read without a token of control
    method: str = static("conditional")  # of pretraining.OBJECTIVES
    num_prompts: int = static(64)
    group_size: int = static(4)  # of its own completions, where there is no dataset

    @property
    def num_controls(self) -> int:
        return 2 if self.method == "conditional" else 0  # good, bad


class State(NamedTuple):
    """Of `awr`; who has no critic has a `writer.State`. A policy's reference is itself, as that of one that was supervised."""

    policy: writer.State
    critic: Model


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Completions` [Q, K], each for itself.

    Raises:
      UserError: as `writer.make`; there is no such method; or a number is none that it may be.
    """
    parts, good_sign = writer.make(spec, config), spec.action.vocabulary
    check(config)
    objective, conditional = pretraining.OBJECTIVES[config.method], config.method == "conditional"

    def update(state: writer.State, batch: Completions, key: Key, value=None) -> tuple[writer.State, Metrics]:
        (prompt, tokens), reward = batch.flat(), batch.reward.reshape(-1)
        there, good = mask(tokens), pretraining.is_good(reward, config)
        if conditional:
            plain = jax.random.bernoulli(key, config.unconditional, good.shape)
            prompt = jnp.repeat(prompt, batch.tokens.shape[1], axis=0)  # no two need have the same behind it
            prompt = jnp.where(
                plain[:, None], without(prompt), ended(prompt, jnp.where(good, good_sign, good_sign + 1))
            )
        if config.method == "filtering":
            there = there & good[:, None]
        value = jnp.zeros(tokens.shape) if value is None else value

        def loss(params):
            log_prob = parts.score(params, prompt, tokens).log_prob
            each = jax.vmap(objective, (0, 0, 0, None))(log_prob, reward, value, config)
            total = metrics_lib.mean(surrogate.aggregate(each, there, "token_mean"))
            return total, {"loss/policy": total}

        model, metrics = descend(parts.optimiser, state.model, loss)
        return writer.State(model, model.params), metrics | {"completion/good": good.mean()}

    if config.method == "awr":
        return _with_critic(spec, config, parts, update)
    return writer.agent(_asking(parts, good_sign) if conditional else parts, update)


def ended(prompt: Int[Array, "B P"], sign: Int[Array, " B"]) -> Int[Array, "B P+1"]:
    """Prompts and a token behind each."""
    return jnp.concatenate([prompt, sign[:, None].astype(prompt.dtype)], axis=1)


def without(prompt: Int[Array, "B P"]) -> Int[Array, "B P+1"]:
    """Prompts as long as those, to which nothing was added."""
    return jnp.pad(prompt, ((0, 0), (1, 0)), constant_values=PAD)


def _asking(parts: Writer, sign: int) -> Writer:
    """Who writes, and tells how likely completions are, after a token that stands behind each prompt."""
    asked = lambda prompt: ended(prompt, jnp.full(len(prompt), sign))
    own = {name: getattr(parts, name) for name in ("act", "log_prob", "token_log_probs")}
    behind = lambda f: lambda state, prompt, *rest, **named: f(state, asked(prompt), *rest, **named)
    return parts._replace(**{name: behind(f) for name, f in own.items()})


def _with_critic(spec: EnvSpec, config: Config, parts: Writer, learn) -> Agent:
    """An agent whose critic tells what a completion will be paid, and is compared with what it was."""
    network = writer.network_of(spec, config, outputs=1)
    optimiser = writer.optimiser_of(config, config.critic_learning_rate)

    def init(key: Key) -> State:
        policy_key, critic_key = jax.random.split(key)
        return State(parts.init(policy_key), writer.begin(network, optimiser, spec, critic_key, config.model))

    def update(state: State, batch: Completions, key: Key) -> tuple[State, Metrics]:
        (prompt, tokens), reward = batch.flat(), batch.reward.reshape(-1, 1)
        values = lambda params: language_model.completion_values(network, params, prompt, tokens)

        def loss(params):
            each = jnp.square(values(params) - reward)
            total = metrics_lib.mean(surrogate.aggregate(each, mask(tokens), "token_mean"))
            return total, {"loss/value": total}

        policy, metrics = learn(state.policy, batch, key, values(state.critic.params))
        critic, of_values = descend(optimiser, state.critic, loss)
        return State(policy, critic), metrics | of_values

    return writer.agent(parts, update, init)


def check(config: Config) -> None:
    """Raises UserError where there is no such method, or a number is none that it may be."""
    pretraining.check(config.method, config)
    if isinstance(config.unconditional, float) and config.unconditional > 1.0:
        raise UserError(f"unconditional={config.unconditional} must be a share, 1 at most.")


def source(env: Env, config: Config = Config(), dataset: Completions | None = None) -> Source:
    """Prompts of a dataset with all their completions; steps are updates. Without one, `num_prompts` prompts, each answered
    `group_size` times by the present policy; steps are completions.

    Raises:
      UserError: there is none, and `mle` would copy whatever it writes; or nothing of it is good, which `filtering` copies alone.
    """
    if dataset is None and config.method == "mle":
        raise UserError(
            "mle copies whatever it is shown, and learns nothing from its own completions: give a --dataset."
        )
    if dataset is None:
        return completions.groups(env, config.num_prompts, config.group_size)
    if config.method == "filtering":
        completions.check_paid(dataset, "copy", config.threshold)
    return completions.recorded(dataset, config.num_prompts)
