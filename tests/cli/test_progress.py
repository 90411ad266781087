"""Progress: what a terminal shows, and what is shown where there is none."""

import os
import re
import select
import subprocess
import sys
import time

import pytest

pty = pytest.importorskip("pty")


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
    assert "1 in flight" in written
    assert "$0.00 of $5.00" in written
    assert "2 of 64 slots  title 1 · mood 1" in written
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
