"""Ctrl-C, SIGTERM, a closed pipe, and errors that nobody foresaw: how the process ends."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import trio

from pipeline_engine.cli import main
from pipeline_engine.cli.failing import explain
from pipeline_engine.cli.stopping import Stopping
from pipeline_engine.journal import journal_place
from pipeline_engine.journal.reading import read_journal


def start(folder, *argv):
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline_engine", *argv],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


ANSWERS = {"title": {"text": "t"}, "summary": "s", "mood": {"value": "good"}}
SLOW = """
import sys
from pathlib import Path

import trio

from pipeline_engine import Pipeline
from pipeline_engine.testing import ScriptedModel

answer = ScriptedModel.complete


async def complete(self, request):
    print("sent", file=sys.stderr, flush=True)
    with trio.CancelScope(shield=Path("stuck").exists()):
        while not Path("go").exists():
            await trio.sleep(0.005)
    return await answer(self, request)


ScriptedModel.complete = complete
pipeline = Pipeline("slow", inputs={"document": str})


@pipeline.llm("fast", str)
def title(document: str) -> str:
    return f"Title?\\n\\n{document}"


@pipeline.llm("fast", str)
def summary(document: str, title: str) -> str:
    return f"Summary of {title}?\\n\\n{document}"
"""


@pytest.fixture
def slow(write):
    """Six documents for a pipeline whose calls are answered when there is a file called "go"; returns the command."""
    write("slow.py", SLOW)
    write("script.json", {"answers": {"title": "A title", "summary": "A summary."}})
    for number in range(6):
        write(f"docs/{number}.md", f"Text {number}.")
    return ["run", "slow.py", "docs", "--model", "fast=scripted:script.json", "--capacity", "2"]


def lines_until(process, sign, count=1):
    """Read standard error up to a line that says this for the so-manieth time: by then it has happened."""
    lines = []
    while sum(sign in line for line in lines) < count:
        line = process.stderr.readline()
        assert line, "".join(lines)
        lines.append(line.rstrip("\n"))
    return lines


def documents_in(journal):
    with read_journal(journal_place(journal)) as reader:
        return {stored.document: stored.status for stored in reader.documents("slow")}


def calls_in(journal):
    with read_journal(journal_place(journal)) as reader:
        return reader.batch("last").calls


SIGNALS = pytest.mark.parametrize(
    ("number", "named", "again", "code"),
    [
        (signal.SIGINT, "Ctrl-C", "60 s to finish. Press Ctrl-C again to cancel them.", 130),
        (signal.SIGTERM, "SIGTERM", "8 s to finish. A second signal cancels them.", 143),
    ],
)


@SIGNALS
def test_the_first_signal_lets_calls_finish_and_keeps_them(folder, write, slow, number, named, again, code):
    """They are paid for as soon as they are sent; and whoever stops a run wants to know how to go on."""
    process = start(folder, *slow, "--journal", "runs.db", "--out", "out.jsonl")
    lines_until(process, "sent", 2)

    process.send_signal(number)
    said = lines_until(process, "nothing more is started")
    write("go", "")
    out, err = process.communicate(timeout=30)

    assert said[-1] == f"pipeline-engine: {named}: nothing more is started, and calls in flight have {again}"
    assert (process.returncode, out) == (code, "")
    with read_journal(journal_place(folder / "runs.db")) as reader:
        batch = reader.batch("last")
    assert (batch.state, batch.calls) == ("stopped", 2)
    assert set(documents_in(folder / "runs.db").values()) == {"queued"}
    assert err.splitlines()[-2:] == [
        f"pipeline-engine: stopped by {named} after 0 of 6 documents. What is finished is in runs.db. Go on with:",
        f"  pipeline-engine resume {batch.batch} --journal runs.db",
    ]


def test_the_second_signal_cancels_calls_in_flight(folder, slow):
    """Sixty seconds may be too long; what was finished is in the journal all the same."""
    process = start(folder, *slow, "--journal", "runs.db")
    lines_until(process, "sent", 2)
    process.send_signal(signal.SIGINT)
    lines_until(process, "nothing more is started")

    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130  # the first one is what ended it
    cancelled, stopped, _ = err.splitlines()
    assert cancelled == "pipeline-engine: calls in flight are cancelled."
    assert stopped.startswith("pipeline-engine: stopped by Ctrl-C after 0 of 6 documents. What is finished is in")
    assert calls_in(folder / "runs.db") == 0
    assert set(documents_in(folder / "runs.db").values()) == {"queued"}


def test_the_third_signal_kills(folder, write, slow):
    """Whatever hangs on its way out does not hang for ever."""
    write("stuck", "")
    process = start(folder, *slow, "--journal", "runs.db")
    lines_until(process, "sent", 2)
    process.send_signal(signal.SIGINT)
    lines_until(process, "nothing more is started")
    process.send_signal(signal.SIGINT)
    lines_until(process, "are cancelled")

    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)

    assert process.returncode == -signal.SIGINT


def test_without_a_journal_results_are_kept_in_files_only(folder, write, slow):
    """What is stopped there is run again from its beginning: one should know."""
    process = start(folder, *slow, "--max-documents", "2", "--out", "out.jsonl", "--rows", "rows.jsonl")
    lines_until(process, "sent", 2)
    process.send_signal(signal.SIGTERM)
    lines_until(process, "nothing more is started")
    write("go", "")
    out, err = process.communicate(timeout=30)

    assert (process.returncode, out) == (143, "")
    assert err.splitlines()[-1] == (
        "pipeline-engine: stopped by SIGTERM after 0 of 6 documents; their results are in out.jsonl and rows.jsonl. "
        "With --journal they would not be run again."
    )
    results = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert [(result["status"], result["outputs"]) for result in results] == [("stopped", {"title": "A title"})] * 2
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]
    assert [(row["step"], row["status"]) for row in rows] == [("title", "completed"), ("summary", "stopped")] * 2
    assert [path.name for path in folder.glob(".*")] == []


def test_a_signal_that_comes_before_anything_has_begun_ends_at_once():
    """There is nothing that could finish."""
    stopping = Stopping()

    stopping.receive(signal.SIGTERM)

    assert stopping.scope.cancel_called
    assert (stopping.cause, stopping.exit_code) == ("SIGTERM", 143)


@pytest.mark.parametrize(("number", "patience"), [(signal.SIGINT, 60), (signal.SIGTERM, 8)])
async def test_calls_that_do_not_finish_are_cancelled_in_time(virtual_clock, capsys, number, patience):
    """A container's manager kills ten seconds after SIGTERM: by then the journal is closed."""
    stopping, drained = Stopping(), []
    at = trio.current_time()

    with stopping.scope:
        stopping.let_finish(drained.append)
        stopping.receive(number)
        await trio.sleep_forever()

    assert trio.current_time() - at == patience
    assert drained == [stopping.cause]


def test_a_terminal_that_goes_away_ends_nothing(folder, write, slow):
    """The connection to a server broke, the run did not; and whoever has put its progress into a file reads on."""
    process = start(folder, *slow, "--journal", "runs.db", "--out", "out.jsonl")
    lines_until(process, "sent", 2)

    process.send_signal(signal.SIGHUP)
    write("go", "")
    _, err = process.communicate(timeout=30)

    assert process.returncode == 0
    assert err.count(" completed in ") == 6
    assert len((folder / "out.jsonl").read_text().splitlines()) == 6


def test_a_reader_of_progress_may_leave(folder, write, notes):
    """`2> >(head -1)`: what was paid for does not end because of it."""
    write("script.json", {"answers": ANSWERS, "latency": 0.05})
    for number in range(4):
        write(f"docs/{number}.md", "Some text.")
    process = start(folder, "run", "notes.py", "docs", *notes, "--max-documents", "1")
    lines_until(process, "completed")

    process.stderr.close()
    out = process.stdout.read()
    process.stdout.close()

    assert process.wait(30) == 0
    assert "\n4 documents in" in out


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no such terminals")
def test_a_terminal_may_be_closed_while_the_picture_is_drawn(folder, write, slow):
    """Each write to it fails from then on."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline_engine", *slow, "--journal", "runs.db"],
        cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    while b"in flight" not in seen:
        seen += os.read(ours, 4096)

    os.close(ours)
    process.send_signal(signal.SIGHUP)  # as the system does for those that were started from it
    write("go", "")

    assert process.wait(30) == 0
    assert set(documents_in(folder / "runs.db").values()) == {"completed"}


def test_a_step_that_blocks_does_not_hold_up_who_wants_to_leave(folder, write):
    """A thread cannot be stopped, but it need not be waited for."""
    source = 'import time\nfrom pipeline_engine import Pipeline\np = Pipeline("p", inputs={"t": str})\n'
    step = "@p.step\ndef slow(t: str) -> int:\n    print('begun', flush=True)\n    time.sleep(60)\n    return 1\n"
    write("p.py", source + step)
    write("a.md", "Some text.")
    process = start(folder, "run", "p.py", "a.md")
    assert process.stdout.readline() == "begun\n"
    at = time.perf_counter()
    process.send_signal(signal.SIGINT)
    lines_until(process, "nothing more is started")

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert err.splitlines()[-1] == (
        "pipeline-engine: stopped by Ctrl-C after 0 of 1 document; nothing is kept without --journal, --out or --rows."
    )
    assert time.perf_counter() - at < 20


def test_ctrl_c_while_a_pipeline_is_imported_is_no_traceback(cli, write):
    """Imports take seconds, too."""
    write("p.py", "raise KeyboardInterrupt\n")

    ran = cli("check", "p.py")

    assert (ran.code, ran.err) == (130, "pipeline-engine: interrupted.\n")


def test_a_reader_that_has_seen_enough_is_no_error(folder, write, notes):
    """`pipeline-engine graph big.py | head -1` must not end in a traceback."""
    process = start(folder, "graph", "notes.py")
    process.stdout.close()

    assert process.stderr.read() == ""
    assert process.wait(30) == 141
    process.stderr.close()


def test_a_reader_of_both_streams_may_leave_in_the_middle(folder, write, notes):
    """`pipeline-engine run … 2>&1 | head -1`."""
    for index in range(50):
        write(f"docs/{index:03}.md", "Some text.")
    command = [sys.executable, "-m", "pipeline_engine", "run", "notes.py", "docs", *notes]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    line = process.stdout.readline()
    process.stdout.close()

    assert line.startswith("[1/50] docs/")
    assert process.wait(30) == 141


def test_an_interrupt_among_other_errors_is_an_interrupt(capsys):
    """A second Ctrl-C meets a run that is being taken apart."""
    group = BaseExceptionGroup("", [ValueError("x"), BaseExceptionGroup("", [KeyboardInterrupt()])])

    assert explain(group, is_debug=False) == 130
    assert capsys.readouterr().err == "pipeline-engine: interrupted.\n"


def test_what_nobody_foresaw_is_one_line_too(cli, notes, monkeypatch):
    """It is our bug; the traceback is for those who ask for it."""

    def explode(_):
        raise ZeroDivisionError("no\x1b[31m")

    monkeypatch.setattr("pipeline_engine.cli.checking.compile_pipeline", explode)

    plain, debug = cli("check", "notes.py"), cli("check", "notes.py", "--debug")

    assert plain.code == debug.code == 1
    said = "pipeline-engine: something that should not happen: ZeroDivisionError: no\\x1b[31m."
    assert plain.err == f"{said} Run it again with --debug for the traceback.\n"
    assert debug.err.startswith("Traceback (most recent call last):\n")
    assert debug.err.endswith(f"{said}\n")
    assert "\x1b" not in debug.err


def test_a_full_disk_is_told_with_its_file(cli, write, notes, monkeypatch):
    """The operating system knows what is wrong; the user wants to know where."""

    def full(*_):
        raise OSError(28, "No space left on device", "out.jsonl")

    write("a.md", "Some text.")
    monkeypatch.setattr("pipeline_engine.cli.running._write", full)

    ran = cli("run", "notes.py", "a.md", *notes, "--out", "out.jsonl")

    assert ran.code == 1
    assert ran.err.splitlines()[-1] == "pipeline-engine: 'out.jsonl': No space left on device. The run ended there."


def test_the_module_is_the_same_command(folder):
    """`python -m pipeline_engine` works where scripts are not on the path."""
    process = start(folder, "--version")

    out, err = process.communicate(timeout=30)

    assert (process.returncode, out, err) == (0, "pipeline-engine 0.1.0\n", "")


def test_arguments_are_those_of_the_process_unless_given(monkeypatch, capsys):
    """What the console script calls."""
    monkeypatch.setattr(sys, "argv", ["pipeline-engine", "graph", "no.py"])

    assert main() == 2
    assert capsys.readouterr().err.startswith("pipeline-engine: pipeline file 'no.py' does not exist.")
