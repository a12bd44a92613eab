"""Policies that others trained: a Gaussian whose mean is a tanh network of standardised observations, read from an HDF5 file.

Read are the logs of `openai/imitation`, the code of GAIL (Ho & Ermon, 2016, arXiv:1606.03476): snapshots of one TRPO run (Schulman
et al., 2015, arXiv:1502.05477), one every so many iterations, from a beginner to an expert. Each is a rung of the ladder. Rolled
out they make real data of any skill (experiments/collect).

The layout: `snapshots/iterNNNNNNN/GaussianPolicy` with `obsnorm/Standardizer` (`mean_1_D` and `meansq_1_D`, the mean and the mean
square of observations), `hidden/FeedforwardNet/layer_I/AffineLayer` and `out/AffineLayer` (`W` [in, out] and `b` [1, out]; tanh
follows every hidden layer) and `logstdevs_1_Da`. Files of policies without a standardiser are not read.
"""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from rljax import distributions
from rljax.data import hdf5
from rljax.errors import UserError
from rljax.record import record
from rljax.types import Agent, Continuous, EnvSpec, Key

SMALLEST_STD = 1e-6  # added to the standard deviation of observations


@record
class GaussianMLP:
    """A policy, which is the agent's state.

    mean, std: of observations [D]. weights, biases: of each layer, [in, out] and [out]; the last gives the mean of actions [A].
    log_std: of actions [A].
    """

    mean: Float[Array, " D"]
    std: Float[Array, " D"]
    weights: tuple[Float[Array, "in out"], ...]
    biases: tuple[Float[Array, " out"], ...]
    log_std: Float[Array, " A"]


def make(policy: GaussianMLP, spec: EnvSpec) -> Agent:
    """An agent that acts by a policy and learns nothing; its state is the policy. Actions are clipped to their box.

    Raises:
      UserError: the policy does not fit the environment.
    """
    shapes = policy.mean.shape, policy.log_std.shape
    if not isinstance(spec.action, Continuous) or (spec.observation_shape, spec.action.shape) != shapes:
        raise UserError(
            f"The policy has observations of shape {shapes[0]} and continuous actions of shape {shapes[1]}, but the "
            f"environment has {spec.observation_shape} and {spec.action}."
        )

    def act(state: GaussianMLP, observation, memory, key: Key, explore: bool = True):
        hidden = (observation - state.mean) / state.std
        for weight, bias in zip(state.weights[:-1], state.biases[:-1]):
            hidden = jnp.tanh(hidden @ weight + bias)
        action = hidden @ state.weights[-1] + state.biases[-1]
        if explore:
            action = action + jnp.exp(state.log_std) * jax.random.normal(key, action.shape)
        return distributions.in_box(spec.action, action), memory, {}

    return Agent(lambda key: policy, act, lambda state, batch, key: (state, {}))


def read(path: str | pathlib.Path, rungs: list[int] | None = None) -> dict[int, GaussianMLP]:
    """The policies of a file by the iteration that they were saved at; those of `rungs`, or all.

    Raises:
      UserError: there is no such file or rung, or it is not what this module describes.
    """
    if not pathlib.Path(path).is_file():
        raise UserError(f"There is no file of policies {path}.")
    with hdf5.opened(path) as file:
        snapshots = file.get("snapshots")
        found = (
            {} if snapshots is None else {int(name[4:]): name for name in snapshots if re.fullmatch(r"iter\d+", name)}
        )
        if not found:
            raise UserError(f"{path} holds no policies: it has no snapshots/iterNNNNNNN.")
        _check_activations(file, path)
        unknown = sorted(set(rungs or ()) - set(found))
        if unknown:
            there = ", ".join(map(str, sorted(found)))
            raise UserError(f"{path} has no rung {unknown[0]}; there are {there}.")
        return {rung: _policy(snapshots[found[rung]], path) for rung in (sorted(found) if rungs is None else rungs)}


def _check_activations(file, path) -> None:
    """The run's arguments say what follows the layers; only tanh is known here."""
    try:
        layers = json.loads(json.loads(file.attrs["args"])["policy_hidden_spec"])
        others = {layer["func"] for layer in layers if layer["type"] == "nonlin"} - {"tanh"}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} does not say what its policies' layers are: args has no policy_hidden_spec."
        ) from error
    if others:
        raise UserError(f"{path} has policies with {' and '.join(sorted(others))} units; only tanh is read.")


def _policy(snapshot, path) -> GaussianMLP:
    read = lambda name: hdf5.array(snapshot, f"GaussianPolicy/{name}", path).astype(np.float64)
    hidden = snapshot.get("GaussianPolicy/hidden/FeedforwardNet") or ()
    numbers = sorted(int(name[6:]) for name in hidden if re.fullmatch(r"layer_\d+", name))
    layers = [*(f"hidden/FeedforwardNet/layer_{i}/AffineLayer" for i in numbers), "out/AffineLayer"]
    mean, square = read("obsnorm/Standardizer/mean_1_D"), read("obsnorm/Standardizer/meansq_1_D")
    weights, biases = [read(f"{layer}/W") for layer in layers], [read(f"{layer}/b") for layer in layers]
    log_std = read("logstdevs_1_Da")
    sizes = [mean.shape[-1:], *(bias.shape[-1:] for bias in biases)]
    wanted = [(1, *sizes[0])] * 2 + [(1, *sizes[-1])] + [(1, *size) for size in sizes[1:]]
    wanted += [(*a, *b) for a, b in zip(sizes, sizes[1:])]
    arrays = [mean, square, log_std, *biases, *weights]
    if [x.shape for x in arrays] != wanted:
        raise UserError(
            f"{path} has layers in {snapshot.name} that do not fit each other: {[x.shape for x in arrays]}."
        )
    if not all(np.isfinite(x).all() for x in arrays):
        raise UserError(f"{path} has NaN or infinite numbers in {snapshot.name}.")
    std = np.sqrt(np.maximum(square - mean**2, 0.0)) + SMALLEST_STD
    policy = GaussianMLP(mean[0], std[0], tuple(weights), tuple(bias[0] for bias in biases), log_std[0])
    return jax.tree.map(lambda x: np.asarray(x, np.float32), policy)
