"""Every notebook runs from top to bottom."""

import pathlib

import nbclient
import nbformat
import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook(path):
    notebook = nbformat.read(path, as_version=4)
    done = nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    assert any("image/png" in output.get("data", {}) for cell in done.cells for output in cell.get("outputs", []))


def test_there_is_a_notebook():
    assert NOTEBOOKS
