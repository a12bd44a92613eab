"""TD3. docs/results says what was run with these."""

TUNED = {
    "gymnax/Pendulum-v1": {
        "num_envs": 4,
        "rollout_length": 2,
        "hidden": (64, 64),
        "batch_size": 128,
        "warmup": 1_000,
        "capacity": 50_000,
        "gamma": 0.98,
        "exploration_noise": 0.2,
        "policy_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
    },
}
