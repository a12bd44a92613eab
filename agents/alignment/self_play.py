"""Learning from preferences P(y better than y') between one's own completions, which no reward need explain.

train --agent=self_play --env=tokens/rock_paper_scissors-2 --steps=200000 --config.method=nash_mp

The judge is the environment's `prefer`, or else Bradley & Terry's of what it pays (`rljax.completions.compared`). What is sought is
the policy that no other is preferred to, each held to the reference by tau (`rljax.tabular.games`). `method` is one of

    nash_md  policy gradient against policy^(1 - mixture) reference^mixture, mixed token by token. Munos et al., 2023,
             arXiv:2312.00886. Its rest is an answer to that mixture, beside the equilibrium unless mixture is 0.
    nash_mp  mirror prox: `period` updates against who one was, then as many against who that made, both near who one was. Tiapkin
             et al., 2025, arXiv:2505.19731. The second goes on from the first; what it is held to is the same.
    inpo     a regression on pairs of who one was, towards the reference too. Zhang et al., 2024, arXiv:2407.00617.
    dno      the like of win rates, by a cross-entropy. Rosset et al., 2024, arXiv:2404.03715. Its own completions alone.
    sppo     the like of win rates, by squares, of single completions. Wu et al., 2024, arXiv:2405.00675.
    dpo      pairs of the policy's own, Guo et al., 2024, arXiv:2402.04792; tau is its beta.
    vpo, xpo dpo, less likely what the reference writes. Cen et al., 2024, arXiv:2405.19320; Xie et al., 2024, arXiv:2405.21046,
             whose pairs are one of the policy's and one of the reference's.

Who one was is the policy `period` updates ago, or less; dno and sppo hold on to nothing else, so tau is not theirs. A pair weighs
by both ways that it may be judged, or is judged by a draw (`drawn`).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from rljax import completions
from rljax.agents.alignment import writer
from rljax.agents.alignment.self_play_methods import METHODS, Seen
from rljax.completions import Compared
from rljax.errors import UserError
from rljax.losses import alignment, self_play
from rljax.names import nearest
from rljax.networks import language_model
from rljax.networks.language_model import Mixture
from rljax.record import record, static
from rljax.tokens import mask
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Params, Source
from rljax.updates import descend


@record
class Config(writer.GroupConfig):
    tau: float = 0.1  # of the divergence from the reference
    rate: float = 1.0  # of mirror descent, e^(rate P) a step: eta of sppo, 1 / eta of inpo and dno; nash_mp
    mixture: float = 0.125  # the reference's share in nash_md's opponent
    optimism: float = 0.01  # alpha of vpo and xpo
    noise: float = 1.0  # of the judge, where the environment has none
    drawn: bool = static(False)  # judgements are draws
    method: str = static("nash_md")
    credit: str = static("to_go")  # of self_play.CREDITS, for nash_md and nash_mp
    period: int = static(10)  # updates until who one was is who one is
    group_size: int = static(4)  # of each that writes


class State(NamedTuple):
    """`anchors` are the policies of before that a method asks for: one `period` after another they become the present one."""

    policy: writer.State
    anchors: tuple[Params, ...]
    count: Int[Array, ""]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Compared` [Q, K]. Another agent that writes begins its policy (`--start_from`).

    Raises:
      UserError: as `writer.make`; a name is not one of those it may be; groups have no pairs; or numbers do not go together.
    """
    parts = writer.make(spec, config)
    _check(config)
    method = METHODS[config.method]

    def init(key: Key) -> State:
        policy = parts.init(key)
        return State(policy, method.anchors * (policy.model.params,), jnp.int32(0))

    def update(state: State, batch: Compared, key: Key) -> tuple[State, Metrics]:
        anchors = held(state, config.period)
        read = slice(None if method.reads_all else config.group_size)
        shown = batch.replace(tokens=batch.tokens[:, read], reward=batch.reward[:, read])
        prompt, tokens = shown.flat()

        def each(params):
            return parts.score(params, prompt, tokens).log_prob.reshape(shown.tokens.shape)

        reference = each(state.policy.reference)
        last = each(anchors[0]) if anchors else jnp.zeros_like(reference)

        def loss(params):
            seen = Seen(each(params), reference, last, mask(shown.tokens), batch.preference)
            value = jax.vmap(method.loss, (None, 0))(config, seen).mean()
            own = jnp.s_[:, : config.group_size]
            away = (seen.log_prob - reference)[own].sum(axis=-1).mean()
            return value, {"loss/policy": value, "policy/away": away}

        model, metrics = descend(parts.optimiser, state.policy.model, loss)
        own, other = jnp.s_[:, : config.group_size], jnp.s_[:, : config.group_size, config.group_size :]
        policy, told = writer.after(config, state.policy, model, batch.replace(reward=batch.reward[own]))
        if len(method.writers) > 1:
            told["preference/won"] = batch.preference[other].mean()
        return State(policy, anchors, state.count + 1), metrics | told

    return writer.agent(parts, update, init)


def source(env: Env, config: Config = Config()) -> Source:
    """`num_prompts` prompts, each answered `group_size` times by each that a method asks; steps are completions."""
    _check(config)
    parts = writer.make(env.spec, config)

    def write(network, params, prompt, key, beginning):
        return language_model.complete(
            network, params, prompt, parts.length, key, config.temperature, beginning=beginning
        )

    both = Mixture(parts.network, config.mixture)
    writers = {
        "policy": lambda state, *asked: write(parts.network, state.policy.model.params, *asked),
        "reference": lambda state, *asked: write(parts.network, state.policy.reference, *asked),
        "last": lambda state, *asked: write(parts.network, held(state, config.period)[0], *asked),
        "newest": lambda state, *asked: write(parts.network, newest(state, config.period), *asked),
        "mixture": lambda state, *asked: write(both, (state.policy.model.params, state.policy.reference), *asked),
    }
    asked = [writers[name] for name in METHODS[config.method].writers]
    return completions.compared(env, config.num_prompts, config.group_size, asked, config.noise, config.drawn)


def held(state: State, period: int) -> tuple[Params, ...]:
    """The anchors as this update finds them: the one whose turn begins is the present policy. So they are right at the first
    update, whoever the policy began as."""
    params, count = state.policy.model.params, len(state.anchors)
    turn = lambda i: state.count % (count * period) == i * period
    now = lambda i, old: jax.tree.map(lambda new, old: jnp.where(turn(i), new, old), params, old)
    return tuple(now(i, old) for i, old in enumerate(state.anchors))


def newest(state: State, period: int) -> Params:
    """Of two anchors the one that was made last."""
    first = state.count % (2 * period) < period
    return jax.tree.map(lambda one, other: jnp.where(first, one, other), *held(state, period))


def _check(config: Config) -> None:
    alignment.check(config.method, registry=METHODS)
    if config.credit not in self_play.CREDITS:
        raise UserError(f"There is no credit {config.credit!r}; {nearest(config.credit, self_play.CREDITS)}")
    if config.group_size < 2:
        raise UserError(f"group_size={config.group_size} leaves no pair to compare; it must be 2 at least.")
    for name in ("tau", "rate"):
        number = getattr(config, name)
        if isinstance(number, float) and number <= 0.0:
            raise UserError(f"{name}={number} must be above 0.")
    numbers = config.tau, config.rate
    if config.method == "inpo" and all(isinstance(x, float) for x in numbers) and config.tau * config.rate > 1.0:
        raise UserError(f"tau={config.tau} times rate={config.rate} must be at most 1: it is the reference's share.")
    if isinstance(config.mixture, float) and config.mixture > 1.0:
        raise UserError(f"mixture={config.mixture} must be at most 1: it is the reference's share.")
