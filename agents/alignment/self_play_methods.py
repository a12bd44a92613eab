"""What each method of self-play asks for and minimises of one prompt's group. Papers are named in `self_play`.

Losses are (config, Seen) -> loss, where config has the numbers of `self_play.Config`.
"""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax.losses import listwise, preference, self_play


class Seen(NamedTuple):
    """A group of one prompt [K], own completions first; K is twice `group_size` where another writes."""

    log_prob: Float[Array, "K T"]
    reference: Float[Array, "K T"]
    last: Float[Array, "K T"]  # by the first anchor; where there is none, 0
    mask: Bool[Array, "K T"]
    preference: Float[Array, "K K"]


class Method(NamedTuple):
    """writers: of those in `self_play.source`. anchors: how many. loss: (config, Seen) -> loss. reads_all: what the other wrote,
    too."""

    writers: tuple[str, ...]
    anchors: int
    loss: Callable
    reads_all: bool = False


def _nash_md(config, seen):
    return _against(config, seen, seen.reference, config.tau)


def _nash_mp(config, seen):
    """Both divergences are, but for a constant, one from the geometric mixture of who one is held to."""
    weight = config.tau + 1.0 / config.rate
    near = (config.tau * seen.reference + seen.last / config.rate) / weight
    return _against(config, seen, near, weight)


def _against(config, seen, reference, tau):
    own = len(seen.log_prob)
    won = seen.preference[:own, own:].mean(axis=1)
    loss = lambda *one: self_play.nash_md(*one, tau, config.credit)
    return jax.vmap(loss)(seen.log_prob, reference, seen.mask, won).mean()


def _inpo(config, seen):
    log_prob, reference, last = (x.sum(axis=-1) for x in (seen.log_prob, seen.reference, seen.last))
    loss = lambda pair: self_play.inpo(
        log_prob[pair], reference[pair], last[pair], jnp.arange(2), 1.0 / config.rate, config.tau
    )
    return preference.over_judgements(loss, seen.preference, preference.pairs_among(len(log_prob)))


def _dno(config, seen):
    log_prob, last, won = seen.log_prob.sum(axis=-1), seen.last.sum(axis=-1), preference.win_rates(seen.preference)
    loss = lambda pair: self_play.dno(log_prob[pair], last[pair], won[pair], 1.0 / config.rate)
    return jax.vmap(loss)(jnp.asarray(preference.pairs_among(len(won)))).mean()


def _sppo(config, seen):
    loss = lambda *one: self_play.sppo(*one, config.rate)
    return jax.vmap(loss)(
        seen.log_prob.sum(axis=-1), seen.last.sum(axis=-1), preference.win_rates(seen.preference)
    ).mean()


def _dpo(config, seen):
    return _direct(config, seen, preference.pairs_among(len(seen.log_prob)))


def _vpo(config, seen):
    return _direct(config, seen, preference.pairs_among(config.group_size)) + _optimism(config, seen, config.tau)


def _xpo(config, seen):
    size = config.group_size
    across = jnp.array(list(itertools.product(range(size), range(size, 2 * size))))
    return _direct(config, seen, across) + _optimism(config, seen, 1.0)


def _direct(config, seen, pairs):
    log_prob, reference, length = seen.log_prob.sum(axis=-1), seen.reference.sum(axis=-1), seen.mask.sum(axis=-1)

    def loss(pair):
        group = log_prob[pair], reference[pair], length[pair]
        return listwise.direct_loss("dpo", *group, jnp.arange(2), beta=config.tau)

    return preference.over_judgements(loss, seen.preference, pairs)


def _optimism(config, seen, beta):
    log_prob, reference = (x[config.group_size :].sum(axis=-1) for x in (seen.log_prob, seen.reference))
    bias = lambda *one: self_play.value_bias(*one, "optimistic", config.optimism, beta)
    return jax.vmap(bias)(log_prob, reference).mean()


METHODS = {
    "nash_md": Method(("policy", "mixture"), 0, _nash_md),
    "nash_mp": Method(("policy", "newest"), 2, _nash_mp),
    "inpo": Method(("last",), 1, _inpo),
    "dno": Method(("last",), 1, _dno),
    "sppo": Method(("last",), 1, _sppo),
    "dpo": Method(("policy",), 0, _dpo),
    "vpo": Method(("policy", "reference"), 0, _vpo, reads_all=True),
    "xpo": Method(("policy", "reference"), 0, _xpo, reads_all=True),
}
