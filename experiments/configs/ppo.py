"""PPO. docs/results says what was run with these."""

_CLASSIC = {"num_envs": 16, "learning_rate": 1e-3, "anneal_learning_rate": True}

_LOCOMOTION = {
    "num_envs": 256,
    "rollout_length": 32,
    "num_epochs": 8,
    "num_minibatches": 16,
    "learning_rate": 3e-4,
    "entropy_coefficient": 0.0,
    "reward_scale": 0.1,
    "normalize_observations": True,
}

TUNED = {
    "gymnax/CartPole-v1": _CLASSIC,
    "gymnax/CartPole-v1?observe=0,2": {
        **_CLASSIC,
        "num_envs": 32,
        "memory": 64,
        "hidden": (64,),
        "reward_scale": 0.1,  # the value shares the memory: unscaled, its gradient drowns the policy's
    },
    "gymnax/Acrobot-v1": _CLASSIC,
    "gymnax/Pendulum-v1": {**_CLASSIC, "gamma": 0.9, "num_epochs": 10, "entropy_coefficient": 0.0, "reward_scale": 0.1},
    "gymnax/Breakout-MinAtar": {
        "num_envs": 64,
        "num_minibatches": 8,
        "learning_rate": 5e-3,  # at 1e-3 with tanh the policy was sure of a loop worth 7 points after 1M steps, and stayed there
        "anneal_learning_rate": True,
        "activation": "relu",
    },
    "brax/hopper": {**_LOCOMOTION, "gamma": 0.999},  # at 0.99 it runs and falls, at 0.999 it stays up
    "brax/halfcheetah": _LOCOMOTION,
    "brax/walker2d": {**_LOCOMOTION, "gamma": 0.999},
}
