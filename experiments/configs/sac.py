"""SAC. docs/results says what was run with these."""

TUNED = {
    "gymnax/Pendulum-v1": {
        "num_envs": 4,
        "hidden": (64, 64),
        "batch_size": 128,
        "warmup": 1_000,
        "capacity": 50_000,
        "policy_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "temperature_learning_rate": 1e-3,
    },
    "brax/hopper": {
        "num_envs": 64,
        "num_updates": 16,
        "hidden": (128, 128),
        "batch_size": 128,
        "gamma": 0.997,  # at 0.99 it leaps and falls after 150 steps, at 0.999 it stands
        "num_steps": 5,  # so far ahead, values of one step arrive three times as late
        "policy_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
        "temperature_learning_rate": 1e-3,
        "warmup": 8_192,
        "capacity": 500_000,
    },
}
