"""The notebook, run by a real kernel from its first cell to its last: it shows what it was committed with."""

import copy
from itertools import groupby

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
    """Return the texts below each code cell, those of warnings too; what a cell prints may come in several pieces."""
    return [list(texts_of(cell)) for cell in notebook.cells if cell.cell_type == "code"]


def texts_of(cell):
    for name, outputs in groupby(cell.outputs, key=lambda output: output.get("name")):
        texts = [output.get("text") or output["data"]["text/plain"] for output in outputs if "ename" not in output]
        yield from ["".join(texts)] if name is not None else texts


def test_a_real_kernel_shows_what_the_page_shows(committed, executed):
    """Readers see the outputs on the web before they have run a cell."""
    assert shown(executed) == shown(committed)
    assert shown(executed)[-1] == ["<Runner closed, 0 of at most 1000 runs pending>"]


def test_the_notebook_was_committed_after_a_clean_run(committed):
    """Cells run out of order show what nobody can repeat."""
    counts = [cell.execution_count for cell in committed.cells if cell.cell_type == "code"]

    assert counts == list(range(1, len(counts) + 1))
    assert [cell.metadata for cell in committed.cells if cell.metadata] == []


def test_pipelines_and_results_are_shown_as_drawings(executed):
    """A notebook asks a value for its HTML: what comes of it in a real kernel is what readers see."""
    shown_as = [
        output.data.get("text/html")
        for cell in executed.cells
        for output in cell.get("outputs", ())
        if cell.source in ("pipeline", "result") and output.output_type == "execute_result"
    ]

    assert ["<svg" in html and "<script" not in html for html in shown_as] == [True, True]
    assert ["pe-waterfall" in html for html in shown_as] == [False, True]
