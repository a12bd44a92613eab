"""PEBBLE: what an episode of 200 steps and a small budget ask for."""

from rljax.experiments.configs import sac

TUNED = {
    "gymnax/Pendulum-v1": {
        **sac.TUNED["gymnax/Pendulum-v1"],
        "initial_temperature": 1.0,
        "target_rate": 0.005,
        "reward_hidden": (64, 64),
        "reward_learning_rate": 1e-3,
        "reward_epochs": 50,
        "pretraining": 1_000,
        "among": 256,
        "segment": 25,
        "query_every": 1_000,
        "query_size": 40,
        "max_judgements": 400,
        "selection": "disagreement",
    },
}
