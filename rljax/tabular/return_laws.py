"""Dynamic programming of return laws in finite MDPs: what distributional agents approximate, without sampling.

Laws are probabilities on an even support, [S, A, N]. Arrays are P [S, A, S'], R [S, A] and a discount, as for the other solvers;
terminal states lead to themselves and pay nothing.
"""

from collections import defaultdict
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from rljax.losses.distributional import project

Laws = Float[Array, "S A N"]
Policy = Float[Array, "S A"]


def backup(
    laws: Laws,
    transition: Float[Array, "S A T"],
    reward: Float[Array, "S A"],
    discount: float | Array,
    policy: Policy,
    support: Float[Array, " N"],
    one_step: bool = False,
) -> Laws:
    """Projected laws of r + discount Z(s', a'), a' by the policy. Bellemare et al., 2017 (arXiv:1707.06887), equations 5 and 7.

    one_step: of r + discount V(s'), the mean in the place of what follows: only where the next step leads is left to chance.
      Achab et al., 2023 (arXiv:2304.14421).
    """
    onto = jax.vmap(jax.vmap(project, (0, 0, None)), (0, 0, None))
    if one_step:
        value = (policy * (laws @ support)).sum(axis=-1)
        return onto(reward[..., None] + discount * value, transition, support)
    after = jnp.einsum("sat,tb,tbn->san", transition, policy, laws)
    return onto(reward[..., None] + discount * support, after, support)


def greedy(q: Float[Array, "S A"], iteration: Int[Array, ""]) -> Policy:
    """The best action by its mean, the first where several are."""
    return jax.nn.one_hot(q.argmax(axis=-1), q.shape[-1])


def iterate(
    transition: Float[Array, "S A T"],
    reward: Float[Array, "S A"],
    discount: float | Array,
    support: Float[Array, " N"],
    num_iterations: int,
    rule: Callable[[Array, Array], Policy] = greedy,
    one_step: bool = False,
) -> tuple[Laws, Float[Array, " I"]]:
    """Laws after so many backups from returns of 0, and how far each backup moved them: the largest distance of two distribution
    functions (the Cramer distance, of which evaluation is a contraction by the root of the discount; Rowland et al., 2018,
    arXiv:1802.08163).

    Args:
      rule: (means [S, A], iteration) -> the policy that is followed: `greedy` for control, a constant for evaluation. Control of
        laws has no fixed point where several actions are best and the rule changes among them; of one-step laws it has.
    """
    gap = support[1] - support[0]
    start = project(jnp.zeros(1, support.dtype), jnp.ones(1, support.dtype), support)

    def step(laws, iteration):
        policy = rule(laws @ support, iteration)
        new = backup(laws, transition, reward, discount, policy, support, one_step)
        moved = jnp.sqrt((jnp.square(jnp.cumsum(new - laws, axis=-1)) * gap).sum(axis=-1)).max()
        return new, moved

    begin = jnp.broadcast_to(start, (*reward.shape, support.size))
    return jax.lax.scan(step, begin, jnp.arange(num_iterations))


def joint(
    transition: Float[np.ndarray, "S A T"],
    rewards: Float[np.ndarray, "S A D"],
    discount: float,
    policy: Float[np.ndarray, "S A"],
    num_steps: int,
) -> list[list[tuple[Float[np.ndarray, "N D"], Float[np.ndarray, " N"]]]]:
    """The laws [S][A] of D rewards' returns together over so many steps, atoms [N, D] and their probabilities [N], by a policy
    after the first action: all that can be collected, counted out on the host. Exact where MDPs end within these steps; the
    number of atoms grows with them, those equal to nine digits being one.
    """
    num_states, num_actions, num_rewards = rewards.shape
    nothing = {(0.0,) * num_rewards: 1.0}
    laws = [[nothing] * num_actions for _ in range(num_states)]

    def before(state, action, laws):
        law = defaultdict(float)
        for after in np.flatnonzero(transition[state, action]):
            for following in np.flatnonzero(policy[after]):
                for atom, prob in laws[after][following].items():
                    collected = np.round(rewards[state, action] + discount * np.array(atom), 9)
                    law[tuple(collected)] += prob * transition[state, action, after] * policy[after, following]
        return law

    for _ in range(num_steps):
        laws = [[before(state, action, laws) for action in range(num_actions)] for state in range(num_states)]
    return [[(np.array(list(law)), np.array(list(law.values()))) for law in row] for row in laws]
