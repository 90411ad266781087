"""How columns share a terminal."""

import io

import pytest

from pipeline_engine import Pipeline, compile_pipeline, run_pipeline
from pipeline_engine.cli.progress import console_for
from pipeline_engine.cli.summary import Summary
from pipeline_engine.cli.tables import closing_lines, fair_widths, fit_tail, results_table
from pipeline_engine.declare import Budget
from pipeline_engine.text import display_width
from pipeline_engine.values import Cost


@pytest.mark.parametrize(
    ("wanted", "available", "widths"),
    [
        ([5, 5], 80, [5, 5]),
        ([200, 5], 50, [45, 5]),
        ([200, 100, 4], 64, [30, 30, 4]),
        ([200, 200], 1, [1, 1]),
    ],
)
def test_short_columns_are_whole_and_long_ones_share_the_rest(wanted, available, widths):
    """A score of four digits must not be cut so that a summary gets four more letters."""
    assert fair_widths(wanted, available) == widths


def test_of_a_path_the_end_is_kept():
    """`archive/2024/…` on every row would tell no file from another."""
    assert fit_tail("archive/2024/漢字.pdf", 10) == "…/漢字.pdf"
    assert fit_tail("a.pdf", 10) == "a.pdf"


@pytest.mark.parametrize("width", [40, 60, 100, 200])
def test_no_row_is_wider_than_the_terminal(width):
    """A row that wraps makes a table unreadable."""
    pipeline = Pipeline("long", inputs={"text": str})
    for name in ("first", "second"):

        @pipeline.step(name=name)
        async def repeated(text: str) -> str:
            return text * 20

    summary = Summary(compile_pipeline(pipeline))
    for text in ("many words ", "漢字"):
        summary.add(run_pipeline(pipeline, {"text": text}))
    screen = io.StringIO()
    console = console_for(screen)
    console.width = width

    console.print(results_table(summary, console.width))

    lines = screen.getvalue().splitlines()
    assert len(lines) == 4
    assert max(display_width(line) for line in lines) <= width


def test_figures_name_what_never_started():
    """Documents that are in no count would look as if they had never been asked for."""
    pipeline = Pipeline("length", inputs={"text": str})

    @pipeline.step
    async def length(text: str) -> int:
        return len(text)

    summary = Summary(compile_pipeline(pipeline))
    summary.add(run_pipeline(pipeline, {"text": "a"}))

    assert closing_lines(summary, 3, 61.0) == ["3 documents in 1 min 01 s: 1 completed, 2 not started"]


def test_the_end_says_what_was_spent_and_what_stopped_a_run():
    """Documents that were not run look like a mistake, unless the budget is named as the reason."""
    pipeline = Pipeline("length", inputs={"text": str})

    @pipeline.step
    async def length(text: str) -> int:
        return len(text)

    summary = Summary(compile_pipeline(pipeline), Budget(usd=5))
    summary.add(run_pipeline(pipeline, {"text": "a"}))
    summary.cost = Cost(4.96)
    summary.stopped_by = "the batch's budget of $5 has no room for another call"

    assert closing_lines(summary, 3, 61.0) == [
        "3 documents in 1 min 01 s: 1 completed, 2 not started · $4.96 of $5.00",
        "stopped: the batch's budget of $5 has no room for another call",
    ]
