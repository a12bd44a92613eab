"""A path that forks, and rewards from several sources whose returns are correlated by where one goes.

In the manner of the mazes of Zhang et al., 2021 (arXiv:2110.13578), small enough that the law of all returns together is known
(rljax.tabular.return_laws.joint).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rljax.envs import tabular
from rljax.envs.tabular import TabularMDP, TabularState
from rljax.errors import UserError
from rljax.record import record
from rljax.types import EnvSpec, Key, TimeStep


@record
class Forks:
    """A finite MDP whose reward is the sum of D sources'.

    mdp: its reward is the sum over `rewards`.
    rewards: [S, A, D], what each source pays.
    """

    mdp: TabularMDP
    rewards: Float[Array, "S A D"]

    @property
    def spec(self) -> EnvSpec:
        return dataclasses.replace(self.mdp.spec, num_rewards=self.rewards.shape[-1])

    def reset(self, key: Key) -> tuple[TabularState, Array]:
        return self.mdp.reset(key)

    def step(self, state: TabularState, action: Array, key: Key) -> tuple[TabularState, TimeStep]:
        following, step = self.mdp.step(state, action, key)
        return following, step.replace(info={"rewards": self.rewards[state.index, action]})


def forks(
    length: int = 2,
    num_rewards: int = 2,
    together: float = 1.0,
    apart: float = 0.8,
    discount: float = 0.9,
    one_hot: bool = True,
) -> Forks:
    """`length` forks one after another. Action 0 leads to a room where, by a fair coin, all sources pay or none: their returns are
    positively correlated. Action 1 leads to a room where one of them pays, any as likely: negatively. A room pays as it is left
    by either action, to the next fork or, from the last, to the end; so every chance is one of states.

    Args:
      together: what each source pays where all do; the first action is worth num_rewards * together / 2.
      apart: what the one pays; the second action is worth this.
    Raises:
      ValueError: no fork, or fewer than two sources.
    """
    if length < 1 or num_rewards < 2:
        raise UserError(f"Forks need a length of at least 1 and two rewards or more, not {length} and {num_rewards}.")
    rooms = 2 + num_rewards  # all pay, none does, the first, the second ...
    num_states = length * (1 + rooms) + 1
    transition, rewards = np.zeros((num_states, 2, num_states)), np.zeros((num_states, 2, num_rewards))
    for fork in range(0, num_states - 1, 1 + rooms):
        transition[fork, 0, fork + 1 : fork + 3] = 0.5
        transition[fork, 1, fork + 3 : fork + 1 + rooms] = 1.0 / num_rewards
        transition[fork + 1 : fork + 1 + rooms, :, fork + 1 + rooms] = 1.0
        rewards[fork + 1] = together
        rewards[fork + 3 : fork + 1 + rooms] = apart * np.eye(num_rewards)[:, None]
    transition[-1, :, -1] = 1.0
    mdp = TabularMDP(
        transition=jnp.asarray(transition, jnp.float32),
        reward=jnp.asarray(rewards.sum(-1), jnp.float32),
        discount=jnp.float32(discount),
        start=jax.nn.one_hot(0, num_states),
        terminal=jnp.arange(num_states) == num_states - 1,
        episode_length=2 * length,
        one_hot=one_hot,
    )
    return Forks(tabular.check(mdp), jnp.asarray(rewards, jnp.float32))


ENVIRONMENTS = {"Forks": forks}
