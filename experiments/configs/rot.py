"""ROT. docs/results says what was run with these."""

from rljax.experiments.configs import td3

TUNED = {
    "gymnax/Pendulum-v1": {
        **td3.TUNED["gymnax/Pendulum-v1"],
        "num_updates": 2,
        "warmup": 0,
        "clone_updates": 500.0,
        "cost": "euclidean",
        "episode_scale": 100.0,
    },
}
