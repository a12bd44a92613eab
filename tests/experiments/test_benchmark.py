"""What a benchmark measures is what its cases say."""

import pytest

from rljax.errors import UserError
from rljax.experiments import benchmark


def test_a_case_names_agent_environment_and_settings():
    found = benchmark.parsed("dqn?prioritised=True&num_atoms=8&head=quantile:gymnax/CartPole-v1?observe=0,2")
    assert found == (
        "dqn",
        "gymnax/CartPole-v1?observe=0,2",
        {"prioritised": True, "num_atoms": 8, "head": "quantile"},
    )
    assert benchmark.parsed("ppo:brax/hopper") == ("ppo", "brax/hopper", {})


@pytest.mark.parametrize("text", ["dqn", "dqn?prioritised:gymnax/CartPole-v1", "dqn?prioritised=:gymnax/CartPole-v1"])
def test_what_is_no_case_is_refused(text):
    with pytest.raises(UserError, match="is no AGENT:ENVIRONMENT"):
        benchmark.parsed(text)
