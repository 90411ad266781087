"""Each example runs by itself: offline, without a warning, and with something to see."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.house.pages import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SCRIPTS = [path for path in EXAMPLES if path.stem[0].isdecimal()]
"""Those that run by themselves; tests/examples runs the others, each in its real host."""

# Runs a script, and ends it if it calls anything that is not on this machine.
_WITHOUT_NETWORK = """
import runpy, sys

def refuse(event, arguments):
    if event == "socket.getaddrinfo" or (event == "socket.connect" and isinstance(arguments[1], tuple)):
        raise SystemExit(f"an example called {arguments}")

sys.addaudithook(refuse)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(example):
    command = [sys.executable, "-W", "error", "-c", _WITHOUT_NETWORK, str(example)]
    environment = {**os.environ, "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False, env=environment)


@pytest.fixture(scope="module")
def runs():
    """All examples at once: each waits more than it works."""
    with ThreadPoolExecutor(max_workers=4) as threads:
        return dict(zip(SCRIPTS, threads.map(run, SCRIPTS), strict=True))


@pytest.mark.parametrize("example", SCRIPTS, ids=lambda path: path.stem)
def test_each_example_runs_offline_and_shows_something(runs, example):
    """An example is the first thing that a newcomer runs; it must not fail, warn or call out."""
    ended = runs[example]

    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.strip()


def test_examples_are_numbered_without_a_gap():
    """The numbers are a reading order; those without one are for a host, and read when it is needed."""
    first = [path.stem.partition("_")[0] for path in EXAMPLES]
    numbers = [int(number) for number in first if number.isdecimal()]

    assert numbers == list(range(1, len(numbers) + 1))


def test_each_example_for_a_host_has_its_test_in_that_host():
    """What nobody runs rots; these cannot run by themselves."""
    hosts = [path.stem for path in (ROOT / "examples").iterdir() if not path.stem[0].isdecimal() and path.is_file()]
    tested = [path.stem.removeprefix("test_") for path in (ROOT / "tests" / "examples").glob("test_*.py")]

    assert sorted(hosts) == sorted(tested)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_each_example_says_what_it_shows(example):
    """The first line is what a reader decides by."""
    assert re.match(r'""".{20,}?("""|\n)', example.read_text(encoding="utf-8"))
