"""Films of episodes."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from rljax import envs
from rljax.experiments.drawing import DRAWINGS
from rljax.experiments.folder import Folder
from rljax.experiments.render import animate, innermost, record, render, unwrap, write_page
from rljax.types import Agent, Discrete


def constant(env, value):
    """An agent that always does the same."""
    dtype = jnp.int32 if isinstance(env.spec.action, Discrete) else jnp.float32
    act = lambda state, observation, memory, key, explore: (
        jnp.full((1, *env.spec.action.shape), value, dtype),
        memory,
        {},
    )
    return Agent(None, act, None)


def frames(path):
    film = Image.open(path)
    for i in range(film.n_frames):
        film.seek(i)
        yield np.asarray(film.convert("RGB"))


def test_a_trained_agent_becomes_a_film(run, tmp_path):
    folder, _ = run
    path = tmp_path / "new" / "film.gif"
    said = render(folder, index=3, out=path, max_steps=6)
    assert said == f"{path}: 6 steps, return 6"
    pictures = list(frames(path))
    assert len(pictures) == 7 and (pictures[0] != pictures[-1]).any()


def test_an_episode_is_recorded_from_its_first_state_to_its_last():
    env = envs.make("gymnax/CartPole-v1?frame_stack=2&time_limit=100")
    states, rewards = record(env, constant(env, 1), (), jax.random.key(0), max_steps=200)
    assert 7 < len(rewards) < 13 and len(states) == len(rewards) + 1
    assert abs(states[0].x) <= 0.05 and abs(states[-1].theta) > np.deg2rad(12) > abs(states[-2].theta)
    assert type(unwrap(env)).__name__ == "GymnaxEnv"


@pytest.mark.parametrize("name", DRAWINGS)
def test_everything_that_is_said_to_be_drawn_is(name, tmp_path):
    env = envs.make(name)
    state = innermost(jax.jit(env.reset)(jax.random.key(0))[0])
    animate(DRAWINGS[name], env, [state] * 3, [0.0, 1.0], tmp_path / "film.gif")
    pictures = list(frames(tmp_path / "film.gif"))
    assert len(pictures) == 3 and all((picture < 250).sum() > 1000 for picture in pictures)


def test_the_pole_leans_the_way_it_falls(tmp_path):
    env = envs.make("gymnax/CartPole-v1")
    states, _ = record(env, constant(env, 1), (), jax.random.key(0), max_steps=1)
    leaning = dataclasses.replace(states[0], x=np.float32(0), theta=np.float32(0.5))  # to the right
    animate(DRAWINGS["gymnax/CartPole-v1"], env, [leaning] * 2, [0.0], tmp_path / "film.gif")
    red, green, blue = np.moveaxis(next(frames(tmp_path / "film.gif")).astype(int), -1, 0)
    orange = np.argwhere((red > 200) & (blue < 100))
    top, bottom = orange[orange[:, 0].argmin()], orange[orange[:, 0].argmax()]
    assert top[1] > bottom[1] + 10


def test_brax_becomes_a_page(tmp_path):
    env = envs.make("brax/inverted_pendulum")
    states, _ = record(env, constant(env, 0.0), (), jax.random.key(0), max_steps=2)
    write_page(env, states, tmp_path / "film.html")
    assert len(states) == 3 and states[0].x.pos.ndim == 2
    assert "<html" in (tmp_path / "film.html").read_text()


def test_what_cannot_be_drawn_is_named(run, tmp_path):
    folder, _ = run
    with pytest.raises(ValueError, match="--index=4: .* has 4 agents, from 0"):
        render(folder, index=4)
    with pytest.raises(ValueError, match="--out=film.mp4 must end in .gif"):
        render(folder, out="film.mp4")
    with pytest.raises(ValueError, match="--max_steps=0 must be at least 1"):
        render(folder, max_steps=0)
    config = json.loads(folder.config.read_text()) | {"env": "rljax/Garnet"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        ValueError, match="rljax/Garnet cannot be drawn; these can: all of brax/, gymnax/CartPole-v1, .*"
    ):
        render(Folder(tmp_path))
    shutil.copy(folder.config, tmp_path)
    with pytest.raises(ValueError, match="There is no checkpoint"):
        render(Folder(tmp_path))
