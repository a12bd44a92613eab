"""Names to environments, and what is said of wrong names."""

import jax
import pytest

from rljax.envs import make, names, wrappers


def test_every_family_has_names():
    assert {name.partition("/")[0] for name in names()} == {"gymnax", "brax", "rljax", "tokens"}
    assert {"gymnax/CartPole-v1", "brax/hopper", "rljax/PointMaze-umaze"} <= set(names())
    assert len(set(names())) == len(names())


@pytest.mark.parametrize("name", ["rljax/PointMaze-umaze", "rljax/Gridworld", "rljax/Garnet", "rljax/Probe-TimeLimit"])
def test_our_own_environments_are_made(name):
    env = make(name)
    assert jax.eval_shape(env.reset, jax.random.key(0))[1].shape == env.spec.observation_shape


def test_parameters_reach_the_environment():
    env = make("gymnax/CartPole-v1?max_steps_in_episode=200&gravity=5")
    assert env.spec.episode_length == 200
    assert env.params["gravity"] == 5.0


def test_constructor_options_reach_the_environment():
    assert make("gymnax/Catch-bsuite?rows=7").spec.observation_shape == (7, 5)
    assert make("gymnax/FourRooms-misc?use_visual_obs=true").spec.observation_shape == (13, 13, 2)


def test_wrappers_go_around_in_the_order_written():
    env = make("gymnax/CartPole-v1?observe=0,2&frame_stack=4&time_limit=9")
    assert isinstance(env, wrappers.TimeLimit) and isinstance(env.env, wrappers.FrameStack)
    assert env.spec.observation_shape == (8,)
    assert env.spec.episode_length == 9
    assert make("gymnax/CartPole-v1?frame_stack=4&observe=0,2").spec.observation_shape == (2,)
    assert make("gymnax/CartPole-v1?action_repeat=2").spec.episode_length == 250


@pytest.mark.parametrize(
    "name", ["gymnax/CartPole-v1?gravity=5", "gymnax/Catch-bsuite?rows=7", "brax/inverted_pendulum"]
)
def test_the_same_name_makes_the_same_program(name):
    """Static parts compare equal, so that a jitted function is not compiled again for a second environment."""
    assert jax.tree.structure(make(name)) == jax.tree.structure(make(name))


def test_environments_can_be_made_under_jit():
    """The objects behind an environment are kept for the next one, and must not keep a tracer."""
    observe = jax.jit(lambda key: make("gymnax/DeepSea-bsuite?size=3").reset(key)[1])
    assert observe(jax.random.key(0)).shape == (3, 3)
    env = make("gymnax/DeepSea-bsuite?size=3")
    _, following = env.step(env.reset(jax.random.key(0))[0], 1, jax.random.key(0))
    assert following.observation.shape == (3, 3)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("gymnax/CartPole-v2", "Unknown environment 'gymnax/CartPole-v2'; nearest: gymnax/CartPole-v1, "),
        ("CartPole-v1", "Unknown environment 'CartPole-v1'; nearest: gymnax/CartPole-v1"),
        ("brx/hopper", "Unknown environment 'brx/hopper'; nearest: brax/hopper, "),
        ("rljax/PointMaze-big", "Unknown environment 'rljax/PointMaze-big'; nearest: rljax/PointMaze-"),
        ("zzz", "Unknown environment 'zzz'; there are: brax/ant, "),
        (
            "gymnax/CartPole-v1?max_steps=9",
            "Unknown option 'max_steps' of 'gymnax/CartPole-v1'; nearest: max_steps_in_episode",
        ),
        ("gymnax/CartPole-v1?gravity=low", "Option 'gravity' takes a number, got 'low'."),
        (
            "gymnax/CartPole-v1?max_steps_in_episode=0.5",
            "Option 'max_steps_in_episode' takes a whole number, got '0.5'.",
        ),
        ("gymnax/FourRooms-misc?use_visual_obs=2", "Option 'use_visual_obs' takes true or false, got '2'."),
        ("gymnax/CartPole-v1?frame_stack=0", "Option 'frame_stack' takes whole numbers from 1, got '0'."),
        ("gymnax/CartPole-v1?frame_stack", "Option 'frame_stack' takes whole numbers from 1, got ''."),
        ("gymnax/CartPole-v1?observe=0,x", "Option 'observe' takes whole numbers from 0, got 'x'."),
        ("gymnax/CartPole-v1?observe=4", "Cannot keep entries [4] of an observation with entries 0 to 3."),
        ("brax/reacher?backend=warp", "Unknown backend 'warp' of 'brax/reacher'; "),
    ],
)
def test_a_wrong_name_gives_one_clear_sentence(name, sentence):
    with pytest.raises(ValueError) as error:
        make(name)
    assert str(error.value).startswith(sentence)
    assert str(error.value).endswith(".") and "\n" not in str(error.value)
