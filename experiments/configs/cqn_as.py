"""CQN-AS in small networks, with noise enough to learn from scratch, for the returns of each environment."""

_SMALL = {
    "num_envs": 4,
    "hidden": (64, 64),
    "batch_size": 128,
    "capacity": 50_000,
    "learning_rate": 1e-3,
    "weight_decay": 1e-3,
    "exploration_noise": 0.1,
}
_PENDULUM = {"num_steps": 3, "reward_scale": 0.01, "lowest_return": -10.0, "highest_return": 0.0}
_MAZE = {"lowest_return": 0.0, "highest_return": 1.0}

TUNED = {
    "gymnax/Pendulum-v1": _SMALL | _PENDULUM,
    "rljax/PointMaze-umaze": _SMALL | _MAZE,
    "rljax/PointMaze-medium": _SMALL | _MAZE,
}
