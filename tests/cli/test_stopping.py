"""Ctrl-C, SIGTERM, a closed pipe, and errors that nobody foresaw: how the process ends."""

import json
import signal
import subprocess
import sys
import time

import pytest

from pipeline_engine.cli import main
from pipeline_engine.cli.failing import explain


def start(folder, *argv):
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline_engine", *argv],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("number", "named", "code"), [(signal.SIGINT, "Ctrl-C", 130), (signal.SIGTERM, "SIGTERM", 143)]
)
def test_a_signal_ends_the_run_in_good_order(folder, write, notes, number, named, code):
    """Whatever was written stays whole, and a script can tell what happened."""
    write(
        "script.json", {"answers": {"title": {"text": "t"}, "summary": "s", "mood": {"value": "good"}}, "latency": 0.2}
    )
    for index in range(500):
        write(f"docs/{index:03}.md", "Some text.")
    process = start(folder, "run", "notes.py", "docs", *notes, "--capacity", "2", "--out", "out.jsonl")
    line = process.stderr.readline()  # the first document is done: the run is under way

    process.send_signal(number)
    out, err = process.communicate(timeout=30)

    assert line.startswith("[1/500] docs/")
    assert process.returncode == code
    assert out == ""
    results = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    assert 1 <= len(results) < 500
    said = f"pipeline-engine: stopped by {named} after {len(results)} of 500 documents; their results are in out.jsonl."
    assert err.splitlines()[-1] == said


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
    _, err = process.communicate(timeout=30)

    assert process.returncode == 130
    assert err == "pipeline-engine: stopped by Ctrl-C after 0 of 1 document.\n"
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
