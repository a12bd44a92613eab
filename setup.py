"""Installs `rljax`; the folders agents/, envs/ and experiments/ become rljax.agents, rljax.envs and rljax.experiments."""

import pathlib

import setuptools

TOP_LEVEL = ("agents", "envs", "experiments")


def packages():
    found = ["rljax", *(f"rljax.{name}" for name in setuptools.find_packages("rljax"))]
    for folder in TOP_LEVEL:
        found += [f"rljax.{folder}", *(f"rljax.{folder}.{name}" for name in setuptools.find_packages(folder))]
    return found


setuptools.setup(
    name="rljax-suite",  # the name rljax is taken on PyPI
    version="0.2.0",
    description="Reinforcement learning as pure JAX functions, compiled whole",
    long_description=pathlib.Path(__file__).with_name("README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=packages(),
    package_dir={"rljax": "rljax", **{f"rljax.{folder}": folder for folder in TOP_LEVEL}},
    package_data={"rljax.experiments": ["rungs/*"]},
    install_requires=[
        "jax>=0.10,<0.11",
        "flax>=0.12,<0.13",
        "optax>=0.2.8,<0.3",
        "chex>=0.1.92,<0.2",
        "orbax-checkpoint>=0.12,<0.13",
        "brax>=0.14,<0.15",
        "gymnax>=1.0,<1.1",
        "distrax>=0.1.9,<0.2",
        "jaxtyping>=0.3,<0.4",
        "absl-py>=2.1",
        "ml_collections>=1.0,<2",
        "numpy>=2.0",
        "safetensors>=0.5",
        "scipy>=1.13",
        "tensorboardX>=2.6,<3",
        "rich>=13",
        "matplotlib>=3.9",
    ],
    extras_require={
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.8",
            "beartype>=0.19",
            "ruff>=0.8",
            "setuptools>=77",
            "build>=1.2",
            "nbclient>=0.10",
            "ipykernel>=6",
            "tokenizers>=0.20",
        ],
        "cuda": ["jax[cuda13]>=0.10,<0.11"],
        "tpu": ["jax[tpu]>=0.10,<0.11"],
        "gymnasium": ["gymnasium[mujoco]>=1.1,<1.4", "minari[hdf5]>=0.5"],
        "text": ["tokenizers>=0.20"],
        "wandb": ["wandb>=0.18"],
    },
)
