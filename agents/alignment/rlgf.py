"""RLGF: a guide that writes well begins what a policy goes on with, or ends what it began. Chang et al., 2023, "Learning to
generate better than your LLM", arXiv:2306.11816.

train --agent=sft --env=tokens/sort-8 --steps=20000 --config.width=128 --run_dir=runs/guide
train --agent=rlgf --env=tokens/sort-8 --demonstrator=runs/guide --config.method=d2lols

    ppo_pp       PPO++: of `reset_share` of the prompts the guide writes an answer, and the policy goes on from a part of it, of any
                 length; what the policy wrote is learned from
    aggrevated   AggreVaTeD: the policy writes up to a switch that is drawn evenly from the places of its own answer, chooses the
                 token there, and the guide goes on to the end; that token alone is learned from
    lols         the one or the other, AggreVaTeD for `imitation_share` of the prompts
    d2lols       AggreVaTeD for the first `imitation_batches`, then PPO++, which can come to be better than the guide

All of a group begin alike, so what a token at the switch is worth by the guide is told by the others of its group, which chose
there as well. With the weight of as many places as the switch was drawn from, the mean step is the gradient of the sum, over
all places, of the guide's advantage of what the policy chooses there; with itself as its guide that is the policy gradient.

Groups in the place of critics, that sum in the place of a mean over places, and a mixture of prompts where the released code
tosses one coin for a batch are our reading; that code also learns, by a critic, from all that stands before the switch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax import completions
from rljax import resets as resets_lib
from rljax.agents.alignment import grpo, writer
from rljax.completions import Completions
from rljax.errors import UserError
from rljax.metrics import average
from rljax.names import nearest
from rljax.record import record, static
from rljax.sources import Demonstrator
from rljax.tokens import PAD, mask
from rljax.types import Agent, Env, EnvSpec, Key, Metrics, Source, initial_memory

__all__ = ["METHODS", "Config", "Guided", "make", "source"]

# (config, batches before) -> of which share of prompts the guide ends the answers; of the others it begins some
METHODS = {
    "ppo_pp": lambda config, count: jnp.float32(0.0),
    "aggrevated": lambda config, count: jnp.float32(1.0),
    "lols": lambda config, count: config.imitation_share,
    "d2lols": lambda config, count: jnp.where(count < config.imitation_batches, 1.0, 0.0),
}


@record
class Config(grpo.Config):
    """Defaults: RLOO's advantages under PPO's clip, and the released code's shares and batches."""

    method: str = static("d2lols")  # of METHODS
    imitation_share: float = 0.2  # lols
    imitation_batches: float = 20.0  # d2lols
    resets: str = static("uniform")
    reset_share: float = 0.8
    advantage: str = static("rloo")
    aggregation: str = static("sequence_mean_token_sum")


class Guided(NamedTuple):
    """Groups, of which the guide's part is given where it begins them, and cut off where it ends them, and how much each weighs."""

    batch: Completions
    weight: Float[Array, " Q"]


def make(spec: EnvSpec, config: Config = Config()) -> Agent:
    """For completions. Reads `Guided`; its state is a `writer.State`.

    Raises:
      UserError: as `grpo.make`, there is no such method, or settings do not go together.
    """
    parts = writer.make(spec, config)
    grpo.check(config)
    if config.method not in METHODS:
        raise UserError(f"There is no guidance {config.method!r}; {nearest(config.method, METHODS)}")
    if config.resets != "uniform":
        raise UserError("The policy goes on from any part of a guide's answer: resets must be uniform.")
    if isinstance(config.imitation_share, float) and config.imitation_share > 1.0:
        raise UserError(f"imitation_share={config.imitation_share} is a share: it must lie between 0 and 1.")
    if isinstance(config.overlong_buffer, float) and config.overlong_buffer > 0.0 and config.method != "ppo_pp":
        raise UserError("How long an answer is that a guide ends is not the policy's doing: overlong_buffer must be 0.")

    def update(state: writer.State, guided: Guided, key: Key) -> tuple[writer.State, Metrics]:
        batch, weight = guided
        written = grpo.read(parts, config, state, batch)
        written = written._replace(advantage=jnp.repeat(weight, batch.tokens.shape[1]) * written.advantage)
        return grpo.learn(parts, config, state, batch, written, key)

    return writer.agent(parts, update)


def source(env: Env, config: Config, demonstrator: Demonstrator) -> Source:
    """`num_prompts` prompts of the environment, each answered `group_size` times by policy and guide; batches are counted, and
    steps are completions that were paid. Returns are told of three kinds: of what the policy wrote alone, of what it went on with
    from within the guide's answers, and of what the guide ended.

    Raises:
      UserError: actions of the environment are no completions, or the guide writes none.
    """
    completions.check(env.spec)
    place = jnp.arange(env.spec.action.length)

    def next_batch(count, agent, agent_state, key):
        reset_key, method_key, own_key, guide_key, switch_key, part_key, key = jax.random.split(key, 7)
        begun = jax.vmap(env.reset)(jax.random.split(reset_key, config.num_prompts))
        ends = jax.random.uniform(method_key, (config.num_prompts,)) < METHODS[config.method](config, count)

        def own(prompt, key, beginning):
            memory = initial_memory(agent, len(beginning))
            tokens, _, extras = agent.act(agent_state, prompt, memory, key, True, beginning)
            return tokens, extras["log_prob"]

        def go_on(prompt, key, beginning):
            own_key, guide_key = jax.random.split(key)
            tokens, log_prob = own(prompt, own_key, beginning)
            chosen = jnp.where(place <= mask(beginning).sum(axis=-1, keepdims=True), tokens, PAD)
            handed_over = jnp.repeat(ends, config.group_size)
            return _where(handed_over, lambda: demonstrator.write(prompt, guide_key, chosen), tokens), log_prob

        answer = completions.nothing(env.spec, config.num_prompts)
        answer = _where(ends, lambda: own(begun[1], own_key, answer)[0], answer)
        answer = _where(~ends, lambda: demonstrator.write(begun[1], guide_key), answer)
        length = mask(answer).sum(axis=-1)
        switch = jax.random.randint(switch_key, length.shape, 0, length)
        _, part = resets_lib.draw(config, (), length, part_key)
        beginning = jnp.where(place < jnp.where(ends, switch, part)[:, None], answer, PAD)
        batch = completions.continued_in(env, go_on, begun, beginning, config.group_size, key)
        learned = (place <= batch.forced[..., None]) | ~ends[:, None, None]
        cut = lambda x: jnp.where(learned, x, 0)
        guided = Guided(
            batch.replace(tokens=cut(batch.tokens), log_prob=cut(batch.log_prob)), jnp.where(ends, length, 1.0)
        )
        return count + 1.0, guided, _told(batch, ends)

    return Source(lambda agent, key: jnp.float32(0.0), next_batch, env_steps=config.num_prompts * config.group_size)


def _where(which: Bool[Array, " B"], write, otherwise: Int[Array, "B T"]) -> Int[Array, "B T"]:
    """What is written of some completions, and otherwise of the rest. In a loop of one turn or none, so that nobody is asked where
    none is due."""
    turn = lambda _, tokens: jnp.where(which[:, None], write(), tokens)
    return jax.lax.fori_loop(0, which.any().astype(jnp.int32), turn, otherwise)


def _told(batch: Completions, ends: Bool[Array, " Q"]) -> Metrics:
    """Of whole completions, the guide's part and all."""
    ended = jnp.broadcast_to(ends[:, None], batch.forced.shape)
    within = ~ended & (batch.forced > 0)
    length = mask(batch.tokens).sum(axis=-1).astype(jnp.float32)
    return {
        "episode/return": average(batch.reward, ~ended & ~within),
        "episode/return_from_within": average(batch.reward, within),
        "episode/return_ended": average(batch.reward, ended),
        "episode/forced": average(batch.forced.astype(jnp.float32), within | ended),
        "completion/length": average(length, jnp.ones(length.shape, bool)),
        "guide/ends": ends.mean(),
    }
