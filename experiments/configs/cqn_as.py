"""CQN-AS in small networks, for returns that are not 0 or 1 and with noise enough to learn from scratch."""

TUNED = {
    "gymnax/Pendulum-v1": {
        "num_envs": 4,
        "hidden": (64, 64),
        "batch_size": 128,
        "capacity": 50_000,
        "learning_rate": 1e-3,
        "weight_decay": 1e-3,
        "exploration_noise": 0.1,
        "num_steps": 3,
        "reward_scale": 0.01,
        "lowest_return": -10.0,
        "highest_return": 0.0,
    },
}
