"""What `agents` tells of agents and their settings."""

import pytest
from rich.console import Console

from rljax.errors import UserError
from rljax.experiments import agents, catalog
from rljax.record import record, static


def text_of(table):
    console = Console(width=400)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_every_agent_is_told_of():
    lines = text_of(agents.of_agents()).splitlines()
    shown = {line.split()[0]: line for line in lines if line.strip()}
    assert set(catalog.AGENTS) <= shown.keys() and "imitation" in shown
    assert "Dr. GRPO: GRPO without its two biases" in shown["dr_grpo"]
    assert all(
        line.rstrip().endswith(".") and len(line.split()) > 3 for name, line in shown.items() if name in catalog.AGENTS
    )


@pytest.mark.parametrize(
    "name, given",
    [
        ("ppo", "its own steps"),
        ("iql", "dataset"),
        ("sft", "(dataset)"),
        ("smodice", "dataset, demonstrations"),
        ("dagger", "demonstrator"),
    ],
)
def test_what_they_read(name, given):
    assert agents.reads(name) == given


@record
class Base:
    first: float = 1.0  # of the base
    second: int = static(2)
    third: float = static(3.0)  # on three lines


@record
class Extended(Base):
    first: float = 4.0
    second: int = static(5)  # of the other
    text: str = static("a # b")


def test_comments_are_those_beside_fields():
    assert agents.comments(Extended) == {"first": "of the base", "second": "of the other", "third": "on three lines"}


def test_settings_say_what_differs_where_and_what_is_swept():
    rows = {line.split()[0]: line for line in text_of(agents.of_settings("iql", "brax/hopper")).splitlines()}
    assert set(catalog.fields(catalog.agent("iql").Config())) < rows.keys()
    assert "0.001 (elsewhere 0.0003)" in rows["learning_rate"] and "swept" in rows["learning_rate"]
    assert "'expectile'" in rows["value_loss"] and "swept" not in rows["value_loss"]
    assert "share of the new critics in the target critics" in rows["target_rate"]
    assert "elsewhere" not in text_of(agents.of_settings("iql"))


def test_one_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="Unknown agent 'iq'; nearest: "):
        agents.of_settings("iq")
