"""One PPO run on CartPole by a named library, in whatever Python runs this file; prints its times as JSON.

  python peers.py rejax 500000

The same task, budget and settings for all: 16 environments x 128 steps, 4 epochs of
4 minibatches, two layers of 64. The total includes importing and compiling, as a person waits for both.
"""

import json
import sys
import time

NUM_ENVS, LENGTH, EPOCHS, MINIBATCHES, HIDDEN, LEARNING_RATE = 16, 128, 4, 4, (64, 64), 1e-3


def rljax_seconds(steps):
    import jax

    from rljax import envs, train
    from rljax.agents.online import ppo

    env = envs.make("gymnax/CartPole-v1")
    config = ppo.Config(num_envs=NUM_ENVS, rollout_length=LENGTH, hidden=HIDDEN, learning_rate=LEARNING_RATE)
    learner = train.make(ppo.make(env.spec, config), ppo.source(env, config))
    iterations = steps // (NUM_ENVS * LENGTH)
    return compiled_seconds(lambda key: learner.run(learner.init(key), iterations), jax.random.key(0))


def rejax_seconds(steps):
    import jax
    from rejax import PPO

    algorithm = PPO.create(
        env="CartPole-v1",
        num_envs=NUM_ENVS,
        num_steps=LENGTH,
        num_epochs=EPOCHS,
        num_minibatches=MINIBATCHES,
        learning_rate=LEARNING_RATE,
        total_timesteps=steps,
        eval_freq=steps,
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": HIDDEN},
    )
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())  # only training is compared
    return compiled_seconds(algorithm.train, jax.random.PRNGKey(0))


def compiled_seconds(run, key):
    import jax

    start = time.perf_counter()
    executable = jax.jit(run).lower(key).compile()
    compiled = time.perf_counter()
    jax.block_until_ready(executable(key))
    return compiled - start, time.perf_counter() - compiled


def stable_baselines3_seconds(steps):
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env

    model = PPO(
        "MlpPolicy",
        make_vec_env("CartPole-v1", NUM_ENVS),
        n_steps=LENGTH,
        n_epochs=EPOCHS,
        batch_size=NUM_ENVS * LENGTH // MINIBATCHES,
        learning_rate=LEARNING_RATE,
        ent_coef=0.01,
        policy_kwargs={"net_arch": list(HIDDEN)},
        device="cpu",
    )
    start = time.perf_counter()
    model.learn(steps)
    return 0.0, time.perf_counter() - start


if __name__ == "__main__":
    name, steps = sys.argv[1], int(sys.argv[2])
    begin = time.perf_counter()
    measure = {"rljax": rljax_seconds, "rejax": rejax_seconds, "stable-baselines3": stable_baselines3_seconds}[name]
    compile_seconds, train_seconds = measure(steps)
    total = time.perf_counter() - begin
    print(
        json.dumps(
            {
                "env_steps_per_second": round(steps / train_seconds),
                "compile_seconds": round(compile_seconds, 1),
                "train_seconds": round(train_seconds, 1),
                "total_seconds": round(total, 1),
            }
        )
    )
