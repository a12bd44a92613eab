"""Linear systems with quadratic costs, whose optimal controller is known exactly: a testbed for cloning and for control."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rljax.errors import UserError
from rljax.record import record, static
from rljax.types import Continuous, EnvSpec, Key, TimeStep


@record
class LinearState:
    position: Float[Array, " X"]  # x, in the state's own space
    time: Int[Array, ""]


@record
class LinearQuadratic:
    """x' = A x + B u + noise. The observation is x, the action u, clipped to [-1, 1]; a step pays -(x' Q x + u' R u).

    Ends: truncated after `episode_length` steps, never terminated. Start: uniform in a box around 0, half as wide as `start`.

    discount: the problem's own, under which it is to be solved; stepping does not use it.
    noise: standard deviation of each entry of what is added to the next state.
    """

    dynamics: Float[Array, "X X"]  # A
    control: Float[Array, "X U"]  # B
    state_cost: Float[Array, "X X"]  # Q
    control_cost: Float[Array, "U U"]  # R
    start: Float[Array, " X"]
    discount: Float[Array, ""]
    noise: Float[Array, ""]
    episode_length: int = static(100)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec(self.start.shape, Continuous((self.control.shape[1],)), self.episode_length)

    def reset(self, key: Key) -> tuple[LinearState, Float[Array, " X"]]:
        position = self.start * jax.random.uniform(key, self.start.shape, minval=-1.0)
        return LinearState(position, jnp.int32(0)), position

    def step(self, state: LinearState, action: Float[Array, " U"], key: Key) -> tuple[LinearState, TimeStep]:
        here, action = state.position, jnp.clip(action, -1.0, 1.0)
        noise = self.noise * jax.random.normal(key, here.shape)
        following = LinearState(self.dynamics @ here + self.control @ action + noise, state.time + 1)
        return following, TimeStep(
            observation=following.position,
            reward=-(here @ self.state_cost @ here + action @ self.control_cost @ action),
            terminated=jnp.bool_(False),
            truncated=following.time >= self.episode_length,
        )


def riccati(
    env: LinearQuadratic, tolerance: float = 1e-6, max_iterations: int = 10_000
) -> tuple[Float[Array, "U X"], Float[Array, "X X"]]:
    """The optimal controller u = -K x without end, and x' P x, what it costs from x on without noise; by value iteration.

    It is optimal where it never asks for more than the box of actions. Noise does not change K. P solves the discrete algebraic
    Riccati equation, with sqrt(discount) A and B in place of A and B (Bertsekas, "Dynamic programming and optimal control").

    Args:
      tolerance: relative change of P at which the iteration stops.
    """
    a, b = jnp.sqrt(env.discount) * env.dynamics, jnp.sqrt(env.discount) * env.control

    def gain(cost):
        return jnp.linalg.solve(env.control_cost + b.T @ cost @ b, b.T @ cost @ a)

    def better(carry):
        cost, _, count = carry
        new = env.state_cost + a.T @ cost @ (a - b @ gain(cost))
        return new, jnp.abs(new - cost).max() / jnp.abs(new).max(), count + 1

    unfinished = lambda carry: (carry[1] > tolerance) & (carry[2] < max_iterations)
    cost, _, _ = jax.lax.while_loop(unfinished, better, (env.state_cost, jnp.asarray(jnp.inf, a.dtype), 0))
    return gain(cost), cost


def double_integrator(
    dimensions: int = 1,
    dt: float = 0.1,
    force: float = 1.0,
    velocity_cost: float = 0.1,
    control_cost: float = 0.5,
    start: float = 0.3,
    discount: float = 0.99,
    noise: float = 0.0,
    episode_length: int = 100,
) -> LinearQuadratic:
    """Push a mass, in one direction or more, to rest at 0. Observation [positions, velocities]; the action is the force.

    Args:
      force: of the action 1, for a mass of 1.
      start: positions and velocities lie between its negative and it.
    Raises:
      UserError: no dimensions, or controls that cost nothing.
    """
    if dimensions < 1 or control_cost <= 0.0:
        raise UserError(f"dimensions={dimensions} must be at least 1, and control_cost={control_cost} above 0.")
    each, none = jnp.eye(dimensions), jnp.zeros((dimensions, dimensions))
    return LinearQuadratic(
        dynamics=jnp.block([[each, dt * each], [none, each]]),
        control=force * jnp.concatenate([0.5 * dt**2 * each, dt * each]),
        state_cost=jnp.block([[each, none], [none, velocity_cost * each]]),
        control_cost=control_cost * each,
        start=jnp.full(2 * dimensions, start),
        discount=jnp.float32(discount),
        noise=jnp.float32(noise),
        episode_length=episode_length,
    )


ENVIRONMENTS = {"DoubleIntegrator": double_integrator}
