"""Progress: what is counted, what is guessed, and what a terminal shows."""

import os
import re
import select
import subprocess
import sys
import time

import pytest
import trio

from pipeline_engine import Engine, Hedge, Pipeline, Price, Usage
from pipeline_engine.cli.progress import Activity, time_left
from pipeline_engine.providers.scripted import Reply, ScriptedModel
from pipeline_engine.values import Cost, HedgeFinished

pty = pytest.importorskip("pty")


@pytest.mark.parametrize(
    ("finished", "total", "elapsed", "left"),
    [(50, 100, 10.0, 10.0), (2, 4, 10.0, None), (9, 100, 10.0, None), (100, 100, 10.0, None)],
)
def test_nothing_is_guessed_from_too_little(finished, total, elapsed, left):
    """The first documents take as long as all those that are under way with them."""
    assert time_left(finished, total, elapsed) == left


async def test_activity_follows_documents_attempts_and_tokens(autojump_clock):
    """What the picture shows is read from the records that everybody reads."""
    pipeline = Pipeline("two", inputs={"text": str})

    @pipeline.llm("fast", str)
    def first(text: str) -> str:
        return text

    @pipeline.llm("fast", str)
    def second(text: str, first: str) -> str:
        return text

    activity = Activity()
    model = ScriptedModel({"*": Reply("x", usage=Usage(10, 2))}, latency=1.0)
    async with Engine(models={"fast": model}, sinks=[activity]) as engine, trio.open_nursery() as nursery:
        for text in ("a", "b"):
            nursery.start_soon(engine.run, pipeline, {"text": text})
        await trio.sleep(0.5)
        early = (activity.documents, +activity.attempts, activity.usage)
        await trio.sleep(1.0)
        late = (activity.documents, +activity.attempts, activity.usage)

    assert early == (2, {"first": 2}, Usage())
    assert late == (2, {"second": 2}, Usage(20, 4))
    assert (activity.documents, +activity.attempts, activity.usage) == (0, {}, Usage(40, 8))


async def test_activity_follows_what_was_spent_lost_calls_included(autojump_clock):
    """A budget is watched while it is being spent, not afterwards."""
    pipeline = Pipeline("one", inputs={"text": str})

    @pipeline.llm("fast", str, hedge=Hedge(after=1.0, max_extra=1.0))
    def first(text: str) -> str:
        return text

    activity = Activity()
    model = ScriptedModel(
        {"*": Reply("x", usage=Usage(1_000_000, 0))}, latency=3.0, price=Price(input_usd=2, output_usd=0)
    )
    async with Engine(models={"fast": model}, sinks=[activity]) as engine:
        result = await engine.run(pipeline, {"text": "word " * 100})

    lost = [record.cost for record in result.records if isinstance(record, HedgeFinished)]
    assert len(lost) == 1
    assert activity.cost == Cost(2.0) + lost[0]
    assert lost[0].usd > 0


def watch(folder, *argv, **environment):
    """Run the command line on a terminal of its own and return its exit code and what it wrote there."""
    controller, terminal = pty.openpty()
    base = {key: value for key, value in os.environ.items() if key not in {"CI", "NO_COLOR", "COLUMNS", "LINES"}}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline_engine", *argv],
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        cwd=folder,
        env={**base, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
        start_new_session=True,
    )
    os.close(terminal)
    written = b""
    give_up_at = time.perf_counter() + 60
    while time.perf_counter() < give_up_at:
        ready, _, _ = select.select([controller], [], [], 1.0)
        if not ready:
            continue
        try:
            part = os.read(controller, 65536)
        except OSError:  # Linux' way to say that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(controller)
    return process.wait(10), written.decode()


def test_a_terminal_shows_a_live_picture_and_then_the_results(folder, write, notes):
    """Drawn and taken away again: what stays are the results."""
    write(
        "script.json",
        {"answers": {"title": {"text": "A [bold]title"}, "summary": "s", "mood": {"value": "good"}}, "latency": 0.3},
    )
    for number in range(3):
        write(f"docs/{number}.md", "Some text.")

    code, written = watch(folder, "run", "notes.py", "docs", *notes, "--max-documents", "1", "--budget-usd", "5")

    assert code == 0
    assert "in flight · $0.00 of $5.00" in written
    assert "in flight" in written
    assert "now: " in written
    assert "3 documents in " in written
    assert "\x1b[?25h" in written  # the cursor is back
    assert "[1/3]" not in written
    after = written.rpartition("\x1b[?25h")[2]
    assert "✓ completed" in after
    assert "in flight" not in after


def test_no_color_is_honoured(folder, write, notes):
    """https://no-color.org"""
    write("a.md", "Some text.")
    write("b.md", "")
    has_colour = re.compile(r"\x1b\[(\d+;)*[39]\dm").search

    _, coloured = watch(folder, "run", "notes.py", "a.md", "b.md", *notes)
    _, plain = watch(folder, "run", "notes.py", "a.md", "b.md", *notes, NO_COLOR="1")

    assert has_colour(coloured)
    assert not has_colour(plain)
    assert "✓ completed" in plain


def test_a_terminal_in_ci_gets_lines(folder, write, notes):
    """A build log keeps every redrawing."""
    write("a.md", "Some text.")

    _, written = watch(folder, "run", "notes.py", "a.md", *notes, CI="true")

    assert "[1/1] a.md completed in " in written
    assert "\x1b" not in written
