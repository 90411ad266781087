"""The commands `watch` and `serve`: a journal that another process writes, shown while it does."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing, contextmanager

import pytest

from pipeline_engine import Document, run_batch
from pipeline_engine.testing import ScriptedModel
from tests.house.pages import ROOT
from tests.live.conftest import a_pipeline, fill

RUNNING = """
import sys
from pipeline_engine import Document, run_batch
from pipeline_engine.testing import ScriptedModel
from tests.live.conftest import a_pipeline

def documents():
    for number in range(int(sys.argv[2])):
        yield Document(f"{number}.md", {"document": "Some text."})
        print(number, flush=True)

model = ScriptedModel({"*": "x"}, latency=float(sys.argv[3]))
run_batch(a_pipeline(), list(documents()), models={"fast": model}, capacity=4, journal=sys.argv[1])
print("ended", flush=True)
"""


@pytest.fixture
def another(folder):
    """Run a batch in another process, which ends with the test at the latest."""
    started = []

    def start(journal, count, latency):
        process = subprocess.Popen(
            [sys.executable, "-c", RUNNING, str(journal), str(count), str(latency)],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@contextmanager
def command(folder, *argv, **options):
    """Start a command, and end it whatever happens: a test that fails must not wait for it for ever."""
    with subprocess.Popen(
        [sys.executable, "-m", "pipeline_engine", *map(str, argv)],
        cwd=folder,
        stdout=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def test_a_batch_that_another_process_runs_is_watched_to_its_end(folder, another):
    """Somebody has started it on a server, and looks after it from another shell."""
    process = another("runs.db", 12, 0.3)
    while process.stdout.readline().strip() != "11":
        pass
    _wait_for_batch(folder / "runs.db")

    with command(folder, "watch", "runs.db", "--json") as watching:
        moments = [json.loads(line) for line in watching.stdout]

    assert watching.returncode == 0
    assert {moment["state"] for moment in moments[:-1]} == {"running"}
    assert any(moment["now"].get("attempts") for moment in moments)
    assert any(moment["now"].get("waits") for moment in moments)
    assert all(moment["now"].get("total", 12) == 12 for moment in moments)
    assert (moments[-1]["state"], moments[-1]["documents"]) == ("done", {"completed": 12})
    finished = [moment["finished"] for moment in moments]
    assert finished == sorted(finished)


def _wait_for_batch(path):
    """Ask until the other process has begun its batch: that is bounded by the test's own end."""
    from pipeline_engine.errors import JournalError
    from pipeline_engine.journal import journal_place, read_journal

    while True:
        try:
            with read_journal(journal_place(str(path))) as reader:
                if reader.progress(reader.batch("last").batch):
                    return
        except (JournalError, LookupError):
            pass


def test_a_batch_whose_process_was_killed_is_interrupted(folder, another, cli):
    """Who watches must learn that nothing happens any more, and how to go on."""
    process = another("runs.db", 12, 30)
    _wait_for_batch(folder / "runs.db")
    before = cli("watch", "runs.db", "--once")
    process.kill()
    process.wait()

    ran = cli("watch", "runs.db")

    assert before.out.splitlines()[-1].endswith("of pipeline 'notes' is running in 1 process.")
    assert ran.code == 1
    last = ran.out.splitlines()[-1]
    assert last.endswith(
        "is not done: its process has ended. A program has started it: run that again, and it does what is missing."
    )

    with closing(sqlite3.connect(folder / "runs.db")) as journal, journal:
        journal.execute("update batches set command = ?", (b'{"argv": ["run"], "cwd": "."}',))
    last = cli("watch", "runs.db").out.splitlines()[-1]
    assert "is not done: its process has ended. Go on with: pipeline-engine resume " in last
    assert last.endswith(" --journal runs.db")


def test_a_batch_that_has_ended_is_told_at_once(folder, cli):
    """The exit code says whether every document is completed, so that a script can wait for a batch."""
    model = ScriptedModel({"*": "x"})
    run_batch(a_pipeline(), [Document("a", {"document": "x"})], models={"fast": model}, journal=folder / "good.db")
    fill(folder / "bad.db")

    good, bad, once = cli("watch", "good.db"), cli("watch", "bad.db"), cli("watch", "bad.db", "--once")

    assert (good.code, bad.code, once.code) == (0, 1, 0)
    assert good.out.splitlines()[0] == "[1/1] 1 completed"
    assert good.out.splitlines()[-1].endswith(" of pipeline 'notes' is done.")


def test_what_cannot_be_watched_is_said_in_one_line(folder, cli):
    """The first thing that somebody does is to mistype a name."""
    fill(folder / "runs.db")

    assert cli("watch", "runs.db", "--batch", "nope").code == 2
    assert cli("watch", "none.db").code == 2
    assert cli("serve", "none.db").code == 2
    assert "is no port" in cli("serve", "runs.db", "--port", "x").err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_page_is_served_until_somebody_ends_it(folder, number, code):
    """Ctrl-C ends it at once, also while a page is followed."""
    fill(folder / "runs.db")
    with command(folder, "serve", "runs.db", "--port", "0", stderr=subprocess.PIPE) as serving:
        line = serving.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/", line)[0]
        with urllib.request.urlopen(f"{address}batch") as page:
            html = page.read().decode()
        with urllib.request.urlopen(f"{address}live/batch") as events:
            first = events.readline()
            serving.send_signal(number)
            ended = serving.wait(20)

    assert "on this machine alone" in line
    assert "2 completed" in html
    assert first.startswith(b"data: ")
    assert ended == code


def test_a_port_that_is_taken_is_said(folder):
    """The second `serve` is mostly a mistake."""
    fill(folder / "runs.db")
    with command(folder, "serve", "runs.db", "--port", "0", stderr=subprocess.PIPE) as serving:
        port = re.search(r":(\d+)/", serving.stdout.readline())[1]
        with command(folder, "serve", "runs.db", "--port", port, stderr=subprocess.PIPE) as second:
            said = second.stderr.read()
        serving.kill()

    assert second.returncode == 2
    assert f"port {port} cannot be used" in said
