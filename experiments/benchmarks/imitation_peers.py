"""One GAIL run on CartPole by a named library, in whatever Python runs this file; prints its speed as JSON.

  python imitation_peers.py rljax 1
  python imitation_peers.py rljax 16          so many seeds in one program
  python imitation_peers.py imitation 1

The same task and settings for both: 8 environments x 256 steps, PPO with 5 epochs of minibatches of 64 on two layers of 32 (tanh),
then 8 updates of a reward of states and actions, two layers of 32 (relu), each on 1,024 demonstrated and 1,024 own steps. The
demonstrations are numbers of the right shape: speed does not hang on what they say, but for the length of episodes, which is
told. The other one computes on one thread, which for such small networks is its fastest. Compiling is told apart; the first round
is left out of both.
"""

import json
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

ENVS, LENGTH, EPOCHS, MINIBATCH, HIDDEN, UPDATES, DEMOS = 8, 256, 5, 64, (32, 32), 8, 1024
ROUND = ENVS * LENGTH


def arrays(count: int = 5_000):
    """Observations [count + 1, 4] and actions [count] that look like an expert's: small, both actions as often."""
    random = np.random.default_rng(0)
    observation = random.normal(0.0, 0.1, (count + 1, 4)).astype(np.float32)
    return observation, random.integers(0, 2, count)


def rljax_speed(num_seeds: int, rounds: int = 100) -> dict:
    import jax

    import rljax
    from rljax import envs, parallel, train
    from rljax.agents.imitation import gail
    from rljax.data import dataset
    from rljax.types import Transition

    rljax.runtime.use_cpu_devices(rljax.runtime.cpu_count())
    observation, action = arrays()
    nothing = np.zeros(len(action), bool)
    steps = Transition(observation[:-1], action, np.zeros(len(action), np.float32), nothing, nothing, observation[1:])
    data, env = dataset.from_transitions(steps), envs.make("gymnax/CartPole-v1")
    config = gail.Config(
        num_envs=ENVS,
        rollout_length=LENGTH,
        num_epochs=EPOCHS,
        num_minibatches=ROUND // MINIBATCH,
        hidden=HIDDEN,
        reward_hidden=HIDDEN,
        reward_activation="relu",
        reward_updates=UPDATES,
        reward_batch_size=DEMOS,
        learning_rate=4e-4,
        gamma=0.95,
        entropy_coefficient=0.0,
    )

    def run(data, key):
        learner = train.make(gail.make(env.spec, config), gail.source(env, config, data))
        return learner.run(learner.init(key), rounds)[1]

    fleet = parallel.fleet(num_seeds)
    keys = fleet.keys(range(num_seeds))
    begin = time.perf_counter()
    program = fleet.over(run, num_shared=1).lower(data, keys).compile()
    compile_seconds = time.perf_counter() - begin
    begin = time.perf_counter()
    metrics = jax.block_until_ready(program(data, keys))
    seconds = time.perf_counter() - begin
    return report(num_seeds * rounds, seconds, compile_seconds, np.mean(metrics["episode/length"]))


def imitation_speed(num_seeds: int, rounds: int = 5) -> dict:
    import torch
    from imitation.algorithms.adversarial.gail import GAIL
    from imitation.data.types import Transitions
    from imitation.rewards.reward_nets import BasicRewardNet
    from imitation.util.util import make_vec_env
    from stable_baselines3 import PPO

    torch.set_num_threads(1)
    observation, action = arrays()
    demonstrations = Transitions(
        obs=observation[:-1],
        acts=action,
        infos=np.array([{}] * len(action)),
        next_obs=observation[1:],
        dones=np.zeros(len(action), bool),
    )
    venv = make_vec_env("CartPole-v1", n_envs=ENVS, rng=np.random.default_rng(0))
    policy = PPO(
        "MlpPolicy",
        venv,
        n_steps=LENGTH,
        n_epochs=EPOCHS,
        batch_size=MINIBATCH,
        learning_rate=4e-4,
        gamma=0.95,
        ent_coef=0.0,
        policy_kwargs={"net_arch": list(HIDDEN)},
        device="cpu",
    )
    trainer = GAIL(
        demonstrations=demonstrations,
        demo_batch_size=DEMOS,
        gen_replay_buffer_capacity=ROUND,
        n_disc_updates_per_round=UPDATES,
        venv=venv,
        gen_algo=policy,
        reward_net=BasicRewardNet(venv.observation_space, venv.action_space, hid_sizes=HIDDEN),
        allow_variable_horizon=True,
    )
    trainer.train(ROUND)
    begin = time.perf_counter()
    for _ in range(num_seeds):  # one after another: it has no other way
        trainer.train(rounds * ROUND)
    seconds = time.perf_counter() - begin
    return report(num_seeds * rounds, seconds, 0.0, np.mean([info["l"] for info in policy.ep_info_buffer]))


def report(rounds: int, seconds: float, compile_seconds: float, length: float) -> dict:
    return {
        "env_steps_per_second": round(rounds * ROUND / seconds),
        "compile_seconds": round(compile_seconds, 1),
        "episode_length": round(float(length)),
    }


if __name__ == "__main__":
    library, num_seeds = sys.argv[1], int(sys.argv[2])
    print(json.dumps({"rljax": rljax_speed, "imitation": imitation_speed}[library](num_seeds)))
