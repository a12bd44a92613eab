"""Lifelong inverse RL in finite MDPs whose dynamics are known: tasks that come one after another and share what their rewards are
made of. Mendez, Shivkumar & Eaton, 2018, "Lifelong inverse reinforcement learning" (ELIRL), after Ruvolo & Eaton, 2013, "ELLA".

The weights of a task's features are a basis that all tasks share times few numbers of its own, basis @ code. A new task is first
fitted alone, by maximum entropy (`max_causal_entropy.causal`); what its demonstrations say of weights is then kept as a parabola,
about that fit with its Hessian, and with all tasks' parabolas the basis is a linear system:

    code  = argmin |fit - basis code|^2_Hessian + sparsity |code|_1
    basis = argmin mean over tasks of |fit - basis code|^2_Hessian + basis_decay |basis|^2

All losses are negative log-likelihoods of a step. An agent here is of one MDP and acts as in the task that it met last; its batch
is a `Task`, so it has no name in the catalogue, whose sources are of one dataset.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from rljax.agents.inverse import finite, max_causal_entropy
from rljax.agents.inverse.finite import Demonstrations
from rljax.errors import UserError
from rljax.record import record, static
from rljax.types import Agent, EnvSpec, Key, Metrics


@record
class Config:
    temperature: float = 1.0  # of the demonstrators; rewards are found in units of it
    weight_decay: float = 1e-2  # of a task that is fitted alone: times half the squared weights, their sum
    sparsity: float = 1e-3
    basis_decay: float = 1e-4
    num_tasks: int = static(10)  # at most
    num_basis: int = static(3)
    num_steps: int = static(30)  # of L-BFGS in the fit of a task
    num_sweeps: int = static(50)  # of coordinate descent for codes
    finite_horizon: bool = static(True)  # demonstrators know of the time limit
    tolerance: float = static(1e-6)  # of values without a horizon, see `rljax.tabular.solvers.optimal_q`


@record
class Task:
    index: Int[Array, ""]  # one that was met before is fitted again
    shown: Demonstrations


class State(NamedTuple):
    basis: Float[Array, "K D"]
    code: Float[Array, "N D"]  # of the tasks
    fit: Float[Array, "N K"]  # of each alone
    hessian: Float[Array, "N K K"]  # half of that of a fit's loss; 0 where a task was not met
    met: Bool[Array, " N"]
    policy: Float[Array, "*T S A"]  # of the task met last


def weights_of(state: State) -> Float[Array, "N K"]:
    """What the features of each task pay."""
    return state.code @ state.basis.T


def make(spec: EnvSpec, config: Config, features: Float[Array, "S A K"] | None = None) -> Agent:
    """Lifelong inverse RL for a finite MDP with one-hot observations. Reads a `Task` at a time.

    Args:
      features: of which rewards are linear, of all tasks; None: which state it is. Nothing is paid in terminal states.
    Raises:
      UserError: actions are not discrete, observations not one-hot, a finite horizon is asked for where there is no time limit, or
        there are more parts of the basis than features.
    """
    features = finite.features_of(spec, features)
    times = (finite.time_limit(spec),) if config.finite_horizon else ()
    num_features = features.shape[-1]
    if config.num_basis > num_features:
        raise UserError(f"num_basis={config.num_basis} must be at most the number of features, {num_features}.")

    def init(key: Key) -> State:
        return State(
            jnp.zeros((num_features, config.num_basis)),
            jnp.zeros((config.num_tasks, config.num_basis)),
            jnp.zeros((config.num_tasks, num_features)),
            jnp.zeros((config.num_tasks, num_features, num_features)),
            jnp.zeros(config.num_tasks, bool),
            jnp.full((*times, *features.shape[:2]), 1.0 / features.shape[1]),
        )

    def update(state: State, batch: Task, key: Key) -> tuple[State, Metrics]:
        index, shown = batch.index, batch.shown
        model = lambda weights: max_causal_entropy.causal(config, shown, reward_of(features, weights, shown))
        loss = lambda weights: -model(weights)[0] + 0.5 * config.weight_decay * jnp.square(weights).sum()
        fit = fitted(loss, state.fit[index], config.num_steps)
        hessian = 0.5 * jax.hessian(loss)(fit)

        num_met = state.met.at[index].set(False).sum()  # the first tasks are the first basis
        fresh = (jnp.arange(config.num_basis) == num_met) & ~state.met[index]
        basis = jnp.where(fresh, fit[:, None], state.basis)
        state = State(
            basis,
            state.code.at[index].set(encoded(config, basis, fit, hessian)),
            state.fit.at[index].set(fit),
            state.hessian.at[index].set(hessian),
            state.met.at[index].set(True),
            state.policy,
        )
        state = state._replace(basis=shared_basis(config, state))
        weights = weights_of(state)[index]
        likelihood, policy = model(weights)
        metrics = {"loss/reward": -likelihood, "loss/alone": -model(fit)[0]}
        return state._replace(policy=policy), metrics

    return finite.agent(init, update, finite.by_time if config.finite_horizon else finite.by_state)


def reward_of(features: Float[Array, "S A K"], weights: Float[Array, " K"], shown: Demonstrations):
    """R(s, a): nothing is paid in terminal states."""
    return jnp.where(shown.terminal[:, None], 0.0, features @ weights)


def fitted(loss, initial: Float[Array, " K"], num_steps: int) -> Float[Array, " K"]:
    """Where L-BFGS with a line search comes in so many steps."""
    optimiser = optax.lbfgs()

    def step(carry, _):
        weights, opt_state = carry
        value, slope = optax.value_and_grad_from_state(loss)(weights, state=opt_state)
        move, opt_state = optimiser.update(slope, opt_state, weights, value=value, grad=slope, value_fn=loss)
        return (optax.apply_updates(weights, move), opt_state), None

    return jax.lax.scan(step, (initial, optimiser.init(initial)), length=num_steps)[0][0]


def encoded(
    config: Config, basis: Float[Array, "K D"], fit: Float[Array, " K"], hessian: Float[Array, "K K"]
) -> Float[Array, " D"]:
    """The code of a task, by coordinate descent. A part of the basis that is 0 has the code 0."""
    gram, target = basis.T @ hessian @ basis, basis.T @ hessian @ fit

    def coordinate(d, code):
        left = target[d] - gram[d] @ code + gram[d, d] * code[d]
        shrunk = jnp.sign(left) * jnp.maximum(jnp.abs(left) - 0.5 * config.sparsity, 0.0)
        return code.at[d].set(jnp.where(gram[d, d] > 0.0, shrunk / jnp.where(gram[d, d] > 0.0, gram[d, d], 1.0), 0.0))

    sweep = lambda _, code: jax.lax.fori_loop(0, config.num_basis, coordinate, code)
    return jax.lax.fori_loop(0, config.num_sweeps, sweep, jnp.zeros_like(target))


def shared_basis(config: Config, state: State) -> Float[Array, "K D"]:
    """The basis that is best for all tasks met, with the codes that they have."""
    num_met = state.met.sum()
    matrix = jnp.einsum("nd,ne,nkl->kdle", state.code, state.code, state.hessian) / num_met
    target = jnp.einsum("nd,nkl,nl->kd", state.code, state.hessian, state.fit) / num_met
    size = target.size
    found = jnp.linalg.solve(matrix.reshape(size, size) + config.basis_decay * jnp.eye(size), target.ravel())
    return found.reshape(target.shape)


def recoded(config: Config, state: State, num_rounds: int = 1) -> State:
    """All tasks' codes by the basis of today, and the basis by these, in turn: what later tasks teach of earlier ones.

    One round of codes alone is the reverse transfer of the paper; more come to a minimum of all tasks' parabolas.
    """

    def again(_, state):
        code = jax.vmap(lambda fit, hessian: encoded(config, state.basis, fit, hessian))(state.fit, state.hessian)
        state = state._replace(code=jnp.where(state.met[:, None], code, 0.0))
        return state._replace(basis=shared_basis(config, state))

    return jax.lax.fori_loop(0, num_rounds, again, state)
