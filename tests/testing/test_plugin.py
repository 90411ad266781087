"""The pytest plugin, in a pytest run of its own: what a user's tests see who has only installed the package."""

import os
import subprocess
import sys
import textwrap

import pytest

PIPELINE = """
from pipeline_engine import Pipeline, run_pipeline, run_pipeline_async
from pipeline_engine.testing import ScriptedModel

pipeline = Pipeline("article", inputs={"document": str})

@pipeline.llm("fast", str)
def title(document: str) -> str:
    return f"Give this a title: {document}"
"""


@pytest.fixture
def run_tests(tmp_path):
    """Return what writes a test module and runs pytest on it, as from a user's shell."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PIPELINE_"))}

    def run(code, *options, **more):
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        (tmp_path / "test_article.py").write_text(PIPELINE + textwrap.dedent(code))
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", *options]
        environ = {**environment, **more}
        return subprocess.run(
            command, cwd=tmp_path, env=environ, capture_output=True, encoding="utf-8", timeout=60, check=False
        )

    return run


CLOCKS = """
def test_a_plain_test(virtual_clock, scripted_model):
    scripted_model.script["title"] = "Tides"
    scripted_model.latency = 60
    result = run_pipeline(pipeline, {"document": "…"}, models={"fast": scripted_model})
    assert (result["title"], result.trace.makespan) == ("Tides", 60)

def test_the_clock_is_real_again():
    assert run_pipeline(pipeline, {"document": "…"}, models={"fast": ScriptedModel({"*": "…"})}).trace.started_at > 0
"""
WITH_TRIO = """
import pytest

@pytest.mark.trio
async def test_an_async_test(virtual_clock, scripted_model):
    scripted_model.script["title"] = "Tides"
    scripted_model.latency = 60
    result = await run_pipeline_async(pipeline, {"document": "…"}, models={"fast": scripted_model})
    assert result.trace.makespan == 60
"""


def test_the_fixtures_serve_plain_and_async_tests(run_tests):
    """One clock for both: what a test is called with must not depend on how it is written."""
    ended = run_tests(CLOCKS + WITH_TRIO)

    assert (ended.returncode, ended.stdout.splitlines()[-1].split(" in ")[0]) == (0, "3 passed")


def test_pytest_trio_is_not_needed(run_tests):
    """It is for async tests; most users write none."""
    ended = run_tests(CLOCKS, "-p", "no:trio")

    assert (ended.returncode, ended.stdout.splitlines()[-1].split(" in ")[0]) == (0, "2 passed")


RECORDED = """
import pathlib

class Real:
    name = "openai:gpt-4o-mini"

    async def complete(self, request):
        from pipeline_engine import Completion
        with open("calls", "a") as calls:
            calls.write("x")
        return Completion("Tides")

def test_the_title(recorded):
    result = run_pipeline(pipeline, {"document": "…"}, models={"fast": recorded(Real())})
    result.raise_for_failure()
    assert result["title"] == "Tides"
"""


def test_replies_are_recorded_beside_the_test(run_tests, tmp_path):
    """Once with a provider, then without: the option says how, and a test names no file."""
    without = run_tests(RECORDED, "--record-replies=none")
    runs = [run_tests(RECORDED), run_tests(RECORDED), run_tests(RECORDED, PIPELINE_ENGINE_RECORD="none")]
    anew = run_tests(RECORDED, "--record-replies=all", PIPELINE_ENGINE_RECORD="none")

    assert without.returncode == 1
    assert "has no recorded reply to its request in" in without.stdout
    assert [ended.returncode for ended in (*runs, anew)] == [0, 0, 0, 0]
    assert (tmp_path / "calls").read_text() == "xx"
    assert (tmp_path / "recordings" / "test_article" / "test_the_title.jsonl").exists()


def test_loading_it_is_cheap(run_tests):
    """It comes with every pytest run on the machine, whatever that tests."""
    code = """
    import subprocess, sys

    def test_nothing_is_loaded():
        code = "import sys, pipeline_engine.testing, pipeline_engine.testing.plugin; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8").stdout.split()
        assert not {"trio", "pydantic", "networkx", "httpx2", "rich", "sqlite3"} & set(loaded)
    """
    ended = run_tests(code.replace("\n    ", "\n"), "-p", "no:trio")

    assert ended.returncode == 0, ended.stdout


def test_the_options_are_explained(run_tests):
    """`pytest --help` is where people look."""
    shown = run_tests("", "--help").stdout

    assert "--record-replies" in shown
    assert "PIPELINE_ENGINE_RECORD" in shown
    assert "virtual_clock" in run_tests("", "--fixtures").stdout
