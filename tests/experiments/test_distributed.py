"""Two processes joined on this machine do what one does, and share one run folder."""

import os
import socket
import subprocess
import sys

import numpy as np

from rljax import logging

FLAGS = (
    "--agent=ppo --env=gymnax/CartPole-v1 --num_seeds=3 --steps=512 --log_every=128 --eval_episodes=4 --quiet "
    "--config.num_envs=4 --config.rollout_length=16 --config.hidden=(8,) --config.normalize_observations=True "
    "--sweep=learning_rate=1e-3,3e-3"
).split()


def free_port():
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


def command(folder, *flags):
    return [sys.executable, "-m", "rljax.experiments.train", f"--run_dir={folder}", *FLAGS, *flags]


def two_processes(folder, environment, *flags):
    """Run the binary as two hosts with two virtual devices each."""
    port = free_port()
    devices = f"{environment['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    hosts = [
        subprocess.Popen(
            command(
                folder,
                *flags,
                "--distributed",
                f"--coordinator=localhost:{port}",
                "--num_processes=2",
                f"--process_id={i}",
            ),
            env=environment | {"XLA_FLAGS": devices},
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    outputs = [host.communicate(timeout=400)[1] for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(outputs)


def test_two_processes_agree_with_one_and_resume(tmp_path, plain):
    one, two = tmp_path / "one", tmp_path / "two"
    subprocess.run(command(one), check=True, env=plain)
    two_processes(two, plain)
    a, b = logging.read_table(one / "metrics.csv"), logging.read_table(two / "metrics.csv")
    assert a.keys() == b.keys() and len(a["step"]) == 6 * 4
    for name in a:
        # the first iterations, before rounding grows
        first = a["step"] <= 256
        np.testing.assert_allclose(a[name][first], b[name][first], rtol=1e-3, atol=1e-4, err_msg=name)

    table = (two / "metrics.csv").read_bytes()
    os.remove(two / "summary.json")
    two_processes(two, plain, "--resume")  # finds nothing left to do, and writes the summary again
    assert (two / "metrics.csv").read_bytes() == table and (two / "summary.json").exists()
