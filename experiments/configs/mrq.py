"""MR.Q in small networks, whose rates are higher than those of the paper's large ones."""

_SMALL = {
    "state_size": 64,
    "action_size": 32,
    "pair_size": 64,
    "hidden": (64, 64),
    "encoder_learning_rate": 1e-3,
    "critic_learning_rate": 1e-3,
    "policy_learning_rate": 1e-3,
    "target_period": 100,
    "num_envs": 4,
    "rollout_length": 25,
    "batch_size": 64,
    "warmup": 1_000,
    "capacity": 50_000,
}

TUNED = {"gymnax/Pendulum-v1": _SMALL, "gymnax/CartPole-v1": _SMALL}
