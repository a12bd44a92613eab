"""The table of offline agents: its cells are runs, its scores lie between random actions and the best policy."""

import pytest

from rljax.errors import UserError
from rljax.experiments import catalog, ladders, offline_suite

PENDULUM = "gymnax/Pendulum-v1/medium"


@pytest.mark.parametrize("row", offline_suite.ROWS)
def test_every_row_is_an_agent_and_settings_that_it_has(row):
    agent, changes, _ = offline_suite.ROWS[row]
    for dataset in offline_suite.DATASETS:
        catalog.configure(agent, {**catalog.tuned(agent, dataset.rpartition("/")[0]), **changes})
    assert catalog.takes_data(agent)


def test_scores_lie_between_random_actions_and_the_best_policy():
    low, high = ladders.references("gymnax/Pendulum-v1")
    assert offline_suite.score(PENDULUM, low) == 0.0 and offline_suite.score(PENDULUM, high) == 100.0
    assert offline_suite.score("rljax/PointMaze-medium/stitch", 0.25) == 25.0


def test_a_cell_is_run_once_and_shown(tmp_path):
    first = offline_suite.run("bc", PENDULUM, tmp_path, 64, 2)
    assert offline_suite.run("bc", PENDULUM, tmp_path, 64, 2) == first  # read, not run: its seconds are the same
    lines = offline_suite.report(tmp_path, ["bc", "iql"], [PENDULUM]).splitlines()
    data = offline_suite.score(PENDULUM, first["dataset"]["mean_return"])
    assert lines[0] == f"| | {PENDULUM} |" and lines[2] == f"| data | {data:.0f} |" and lines[4] == "| iql |  |"
    assert lines[3].startswith(f"| bc | **{offline_suite.score(PENDULUM, first['return']['iqm']):.0f}** (")


def test_what_there_is_not_is_said():
    with pytest.raises(UserError, match="The table has no row 'iq'.*iql"):
        offline_suite.chosen(["iq"], offline_suite.ROWS, "row")
