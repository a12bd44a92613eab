"""Every notebook runs from top to bottom."""

import os
import pathlib

import nbclient
import nbformat
import pytest

REAL = pathlib.Path(__file__).parents[2] / "shared" / "data" / "hopper_medium_expert_human_train.npz"
NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path, monkeypatch):
    if path.stem == "04_preferences":  # the only one that reads a file, and steps MuJoCo
        pairs = os.environ.get("HOPPER_PAIRS", REAL)
        if not pathlib.Path(pairs).exists():
            pytest.skip("people's judgements of hoppers are not here")
        pytest.importorskip("mujoco", reason="gymnasium[mujoco]")
        monkeypatch.setenv("HOPPER_PAIRS", str(pairs))
    notebook = nbformat.read(path, as_version=4)
    done = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    assert any("image/png" in output.get("data", {}) for cell in done.cells for output in cell.get("outputs", []))


def test_there_is_a_notebook():
    assert NOTEBOOKS
