"""A small run that the tests of what reads runs share."""

import pytest

from rljax.experiments import runner
from rljax.experiments.folder import Folder
from rljax.experiments.plan import Plan

TINY = {"num_envs": 4, "rollout_length": 8, "hidden": (8,), "memory": 3, "num_epochs": 1, "num_minibatches": 2}


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """The folder and the summary of a recurrent agent's run: two learning rates, two seeds, evaluated along the way."""
    folder = Folder(tmp_path_factory.mktemp("runs") / "tiny")
    sweep = {"learning_rate": [1e-3, 1e-1]}
    plan = Plan(
        "ppo", "gymnax/CartPole-v1", 640, 2, 5, TINY, sweep, eval_episodes=4, eval_every=320, log_every=64, layout="map"
    )
    return folder, runner.run(plan, folder, quiet=True)
