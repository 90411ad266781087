"""The picture for terminals: it fits, it says the most important thing first, and obeys nobody's text."""

import io

import pytest
from rich.console import Console

from pipeline_engine import Usage
from pipeline_engine.live.picture import draw_present, present_line
from pipeline_engine.report import ErrorCount, InFlight, ModelNow, Present
from pipeline_engine.text import display_width
from pipeline_engine.values import Cost

FULL = Present(
    elapsed=72,
    documents={"completed": 158, "failed": 2, "partial": 1},
    kept=40,
    total=500,
    in_flight=64,
    capacity=64,
    attempts={"title": 20, "summary": 18},
    models={"m:quick": ModelNow(30, 32, 12), "m:strong": ModelNow(8, None, 40, "open", 12.0)},
    waits={"slot": 12, "tokens": 40, "backoff": 3},
    retries=12,
    usage=Usage(1_200_000, 80_000),
    cost=Cost(0.12),
    budget_usd=5,
    errors=(ErrorCount("StepTimeoutError", 2, "took too long"),),
    faults=(ErrorCount("rate_limit", 12, "too many"),),
    longest=(InFlight("a.md", 61.2, "summary", None), InFlight("b.md", 45.0, "title", "backoff")),
    rate=1.7,
)


def drawn(present, width=80, height=24, title="document"):
    console = Console(file=io.StringIO(), width=width, height=height, color_system=None)
    console.print(draw_present(present, title, width, height))
    return console.file.getvalue().splitlines()


def test_a_full_picture_says_what_is_going_on():
    """Progress, spend, capacity, waits, errors and models, each on a line of its own."""
    lines = drawn(FULL, width=100)

    assert lines[0].startswith("document  ━")
    assert lines[0].endswith("161/500  1 min 12 s  about 3 min 19 s left")
    assert lines[1:] == [
        "158 completed · 2 failed · 1 partial · 40 from the journal · 64 in flight · 1.7/s · 12 retries",
        "$0.12 of $5.00 · 1.2 M tokens in, 80.0 k out",
        "calls     38 of 64 slots  title 20 · summary 18",
        "waiting   40 tokens/min · 12 slot · 3 back-off",
        "failed    2 × StepTimeoutError: took too long",
        "model     m:quick  30 of 32 · 12 ready",
        "model     m:strong  8 · 40 ready · breaker open · cools down for 12.0 s",
        "attempts  12 failed with rate_limit: too many",
        "longest   1 min 01 s  a.md  summary",
        "longest   45.0 s  b.md  title (back-off)",
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("height", [1, 3, 10, 24, 60])
def test_a_picture_fits_into_its_terminal(width, height):
    """One line too many, or too long, and the terminal scrolls at every redrawing."""
    lines = drawn(FULL, width, height)

    assert len(lines) <= height
    assert max(map(display_width, lines)) <= width


def test_hostile_text_is_shown_and_not_obeyed():
    """A key or an error that clears the screen, or hides a line, would be believed."""
    hostile = "\x1b[2J\x1b]0;owned\x07\u202eevil\nsecond line"
    present = Present(
        elapsed=5,
        in_flight=1,
        documents={"failed": 1},
        attempts={hostile: 1},
        models={hostile: ModelNow(1)},
        waits={hostile: 1},
        errors=(ErrorCount(hostile, 1, hostile),),
        faults=(ErrorCount(hostile, 1, hostile),),
        longest=(InFlight(hostile, 5.0, hostile, hostile),),
        stopped_by=hostile,
    )
    text = "\n".join([*drawn(present, 200, title=hostile), present_line(present)])

    assert not set(text) & {"\x1b", "\x07", "\u202e"}
    assert "\\x1b[2J" in text


def test_at_the_end_nothing_is_in_flight():
    """What stays on the screen is what has come of it."""
    lines = drawn(Present(elapsed=3.0, documents={"completed": 3}, total=3, is_over=True), width=80)

    assert lines[0].endswith("3/3  3.0 s")
    assert lines[1:] == ["3 completed"]


def test_where_the_number_of_documents_is_unknown_there_is_no_bar():
    """A generator of millions has no length; a bar would be a lie."""
    lines = drawn(Present(elapsed=3.0, documents={"completed": 3}, in_flight=2))

    assert lines[0] == "document  3  3.0 s"
