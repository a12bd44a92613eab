"""What all studies share: numbers read from flags, and the table of scores over seeds."""

import numpy as np
import pytest
from absl import flags

from rljax.errors import UserError
from rljax.experiments import cli


@pytest.fixture
def values(monkeypatch):
    found = flags.FlagValues()
    flags.DEFINE_list("sizes", ["1", "2.5"], "", flag_values=found)
    found.mark_as_parsed()
    monkeypatch.setattr(cli, "FLAGS", found)
    return found


def test_lists_of_numbers(values):
    assert cli.numbers("sizes") == [1.0, 2.5]
    values.sizes = ["3", "4"]
    assert cli.numbers("sizes", int, 2) == [3, 4]
    for wrong, kind, least in ((["3", "x"], float, 1), (["3.5"], int, 1), (["3"], int, 2), ([], float, 1)):
        values.sizes = wrong
        with pytest.raises(UserError, match=f"--sizes={','.join(wrong)} must be {least} or more .*as in --sizes=1,2.5"):
            cli.numbers("sizes", kind, least)


def test_scores_are_summed_up_over_seeds(capsys):
    """The mean of the middle half, the mean, and how many are finite; nothing where none is."""
    cli.print_scores("lost", {"here": np.array([0.0, 1.0, 3.0, 100.0, np.nan]), "nowhere": np.full(5, np.nan)})
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    here, nowhere = [row for row in cells if row]
    low, high = map(float, here[2].split(" to "))
    assert here[:2] + here[3:] == ["here", "2", "26", "4 of 5"] and 0.0 <= low <= 2.0 <= high <= 100.0
    assert nowhere == ["nowhere", "", "", "", "0 of 5"]
