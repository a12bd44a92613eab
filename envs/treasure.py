"""A treasure whose worth depends on something that cannot be seen: how late it is, or whether a key was fetched.

The timer and key tasks of Early et al., 2022, "Non-Markovian Reward Modelling from Trajectory Labels via Interpretable Multiple
Instance Learning", with their map, speed and times. A square [0, 1]^2 without walls; boxes are [[x, y], [x, y]], lowest and
highest corner.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rljax.errors import UserError
from rljax.record import record, static
from rljax.types import Continuous, EnvSpec, Key, TimeStep

STARTS = ((0.1, 0.4), (0.8, 0.4))  # lowest corners of two boxes, one is drawn
START_SIZE = (0.1, 0.2)
TREASURE = ((0.4, 0.7), (0.6, 0.9))
KEY = ((0.4, 0.1), (0.6, 0.3))


@record
class TreasureState:
    position: Float[Array, "2"]
    has_key: Bool[Array, ""]
    time: Int[Array, ""]


@record
class Treasure:
    """Go to the treasure. Observation [x, y], and with `reveal` whether it pays, 0 or 1; the action in [-1, 1]^2 is the step to
    take, in units of `speed`.

    Reward: of where one stands before the step. Of the treasure with a timer -1 in the first `wait` steps of an episode and 1
    after them; of the one with a key 1 once one has stood where the key is, and 0 before. Elsewhere 0.
    Ends: truncated after `episode_length` steps, never terminated. Start: anywhere in one of two boxes, left and right.
    """

    treasure: Float[Array, "2 2"]
    key: Float[Array, "2 2"]
    speed: Float[Array, ""]
    wait: Int[Array, ""]
    needs_key: bool = static(False)  # a key opens it, rather than time
    reveal: bool = static(False)
    episode_length: int = static(100)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec((3 if self.reveal else 2,), Continuous((2,)), self.episode_length)

    def reset(self, key: Key) -> tuple[TreasureState, Float[Array, " X"]]:
        box_key, place_key = jax.random.split(key)
        corner = jax.random.choice(box_key, jnp.array(STARTS))
        position = corner + jnp.array(START_SIZE) * jax.random.uniform(place_key, (2,))
        state = TreasureState(position, inside(self.key, position), jnp.int32(0))
        return state, self._observe(state)

    def step(self, state: TreasureState, action: Float[Array, "2"], key: Key) -> tuple[TreasureState, TimeStep]:
        del key
        pays, here = self._pays(state), inside(self.treasure, state.position)
        position = jnp.clip(state.position + self.speed * jnp.clip(action, -1.0, 1.0), 0.0, 1.0)
        following = TreasureState(position, state.has_key | inside(self.key, position), state.time + 1)
        worth = jnp.where(pays, 1.0, 0.0 if self.needs_key else -1.0)
        return following, TimeStep(
            observation=self._observe(following),
            reward=jnp.where(here, worth, 0.0),
            terminated=jnp.bool_(False),
            truncated=following.time >= self.episode_length,
        )

    def _pays(self, state: TreasureState) -> Bool[Array, ""]:
        """Whether the treasure is worth something to one who stands there now."""
        return state.has_key if self.needs_key else state.time >= self.wait

    def _observe(self, state: TreasureState) -> Float[Array, " X"]:
        return jnp.append(state.position, self._pays(state)) if self.reveal else state.position


def inside(box: Float[Array, "2 2"], position: Float[Array, "2"]) -> Bool[Array, ""]:
    """Whether a position lies in a box, its border included."""
    return ((box[0] <= position) & (position <= box[1])).all()


def timer_treasure(wait: int = 50, speed: float = 0.1, episode_length: int = 100, reveal: bool = False) -> Treasure:
    """A treasure that is poisoned for the first `wait` steps. Raises UserError where a time or the speed is not above 0."""
    return _treasure(False, wait, speed, episode_length, reveal)


def key_treasure(speed: float = 0.1, episode_length: int = 100, reveal: bool = False) -> Treasure:
    """A treasure that must be unlocked: a key lies on the other side. Raises UserError as `timer_treasure` does."""
    return _treasure(True, 1, speed, episode_length, reveal)


def _treasure(needs_key: bool, wait: int, speed: float, episode_length: int, reveal: bool) -> Treasure:
    if min(wait, speed, episode_length) <= 0:
        raise UserError(f"wait={wait}, speed={speed} and episode_length={episode_length} must be above 0.")
    return Treasure(
        treasure=jnp.array(TREASURE),
        key=jnp.array(KEY),
        speed=jnp.float32(speed),
        wait=jnp.int32(wait),
        needs_key=needs_key,
        reveal=reveal,
        episode_length=episode_length,
    )


ENVIRONMENTS = {"TimerTreasure": timer_treasure, "KeyTreasure": key_treasure}
