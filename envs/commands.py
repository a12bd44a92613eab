"""Grids with things in them and commands about these: families of finite MDPs for whoever learns what commands mean.

After Fu, Korattikara, Levine & Guadarrama, 2019, "From language to goals", arXiv:1902.07742, whose houses are seen from cameras;
here layouts are finite MDPs, `num_objects` things of different looks in a square without walls. A state is a cell and what is
carried (nothing, or one thing for good); actions are up, right, down, left, take what is here, and wait. "Go to the X" is done
where X lies, "bring the X to the Y" where Y lies with X carried. Nothing ends: who has arrived is paid as long as it waits.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rljax.envs.tabular import MOVES
from rljax.errors import UserError
from rljax.record import record
from rljax.types import Key

NUM_ACTIONS = len(MOVES) + 2


@record
class Commanded:
    """One layout and one command in it.

    features: of states, by which rewards are told: colour and shape of what lies here, and of what is carried, one-hot.
    command: verb (go, bring), colour and shape of the X, and of the Y (0 for go), one-hot.
    view: of states: colour and shape of what lies where, the own cell, and the colour and shape of what is carried, in all cells.
    goal: states in which the command is done.
    """

    transition: Float[Array, "S A S"]
    start: Float[Array, " S"]
    features: Float[Array, "S F"]
    command: Float[Array, " L"]
    view: Float[Array, "S H W C"]
    goal: Bool[Array, " S"]


def commanded(
    key: Key, size: int = 4, num_objects: int = 3, num_looks: int = 3, bring: bool = True, novel: bool = False
) -> Commanded:
    """A random layout and command. May be vmapped over the key.

    There are `num_looks` colours and as many shapes. Commands name things of unlike colour and shape (by index), `novel` ones
    things of like ones, which lie about in all layouts: novel commands are new compositions of known words.

    Args:
      bring: half of the commands are to bring something.
    Raises:
      UserError: things do not fit, or are too many for the looks that commands may name.
    """
    num_named = num_looks if novel else num_looks * (num_looks - 1)
    least = 2 if bring else 1
    if not least <= num_objects <= size * size or num_named < least or num_objects > num_looks**2:
        raise UserError(
            f"{num_objects} things must be at least {least}, at most {size * size} (cells) and at most {num_looks**2} (looks), "
            f"of which commands name {num_named}."
        )
    place_key, look_key, verb_key, start_key = jax.random.split(key, 4)
    num_cells = size * size
    place = jax.random.permutation(place_key, num_cells)[:num_objects]
    colours, shapes = jnp.divmod(jnp.arange(num_looks**2), num_looks)
    named = (colours == shapes) == novel
    # the first things are those that commands name: looks in random order, but named ones before others for the first `least`
    order = jnp.argsort(jax.random.uniform(look_key, (num_looks**2,)) + ~named)
    rest = jax.random.permutation(jax.random.fold_in(look_key, 1), order[least:])
    look = jnp.concatenate([order[:least], rest])[:num_objects]
    brings = jax.random.bernoulli(verb_key) & bring
    looks = jnp.concatenate(
        [jax.nn.one_hot(colours[look], num_looks), jax.nn.one_hot(shapes[look], num_looks)], axis=-1
    )

    # states: carried * cells + cell, with carried 0 for nothing
    cell, carried = jnp.arange(num_cells), jnp.arange(num_objects + 1)
    row, column = jnp.divmod(cell, size)
    moves = [jnp.clip(row + down, 0, size - 1) * size + jnp.clip(column + right, 0, size - 1) for down, right in MOVES]
    here = cell[:, None] == place  # [cells, M]
    taken = jnp.where(here.any(1), here.argmax(1) + 1, 0)
    walked = [carried[:, None] * num_cells + move for move in moves]
    take = jnp.where(carried[:, None] > 0, carried[:, None], taken) * num_cells + cell
    wait = carried[:, None] * num_cells + cell
    successor = jnp.stack([*walked, take, wait], axis=-1).reshape(-1, NUM_ACTIONS)

    lies = here[None] & (carried[:, None] != jnp.arange(num_objects) + 1)[:, None]  # [carried, cells, M]
    holds = jnp.broadcast_to((carried[:, None] == jnp.arange(num_objects) + 1)[:, None], lies.shape)
    features = jnp.concatenate([lies @ looks, holds @ looks], axis=-1).reshape(successor.shape[0], -1)
    shape = (*lies.shape[:2], num_cells)
    things = jnp.broadcast_to((lies @ looks)[:, None], (*shape, looks.shape[-1]))
    own = jnp.broadcast_to(jnp.eye(num_cells), shape)
    carries = jnp.broadcast_to((holds @ looks)[:, :, None], things.shape)
    view = jnp.concatenate([things, own[..., None], carries], axis=-1)
    second = min(1, num_objects - 1)
    goal = jnp.where(brings, lies[..., second] & holds[..., 0], lies[..., 0]).ravel()
    verb = jax.nn.one_hot(brings.astype(int), 2)
    starts = jax.nn.one_hot(jax.random.choice(start_key, num_cells), successor.shape[0])
    return Commanded(
        transition=jax.nn.one_hot(successor, successor.shape[0]),
        start=starts,
        features=features,
        command=jnp.concatenate([verb, looks[0], looks[second] * brings]),
        view=view.reshape(successor.shape[0], size, size, -1),
        goal=goal,
    )
