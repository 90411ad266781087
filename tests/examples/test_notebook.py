"""The notebook, run by a real kernel from its first cell to its last: it shows what it was committed with."""

import copy

import nbformat
import pytest
from nbclient import NotebookClient

from tests.house.pages import ROOT

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(committed, tmp_path_factory):
    """The notebook after a run in a kernel of this Python, with warnings shown as outputs."""
    notebook = copy.deepcopy(committed)
    place = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    NotebookClient(notebook, timeout=60, kernel_name="python3", resources=place).execute()
    return notebook


def shown(notebook):
    """Return the texts below each code cell, those of warnings too."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [
        [output.get("text") or output["data"]["text/plain"] for output in cell.outputs if output.output_type != "error"]
        for cell in cells
    ]


def test_a_real_kernel_shows_what_the_page_shows(committed, executed):
    """Readers see the outputs on the web before they have run a cell."""
    assert shown(executed) == shown(committed)
    assert shown(executed)[-1] == ["<Runner closed, 0 of at most 1000 runs pending>"]


def test_the_notebook_was_committed_after_a_clean_run(committed):
    """Cells run out of order show what nobody can repeat."""
    counts = [cell.execution_count for cell in committed.cells if cell.cell_type == "code"]

    assert counts == list(range(1, len(counts) + 1))
    assert [cell.metadata for cell in committed.cells if cell.metadata] == []
