"""The worker's example, in a real Celery worker process: jobs from a real broker, one runner, tries at job level."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from typing import NamedTuple

import pytest

from tests.house.pages import ROOT

# What the worker's process loads: the example, with a broker of files and a model that writes down what it is asked.
_APP = """
import json, os, threading
from pathlib import Path

import trio

import celery_worker
from celery.signals import worker_shutdown
from celery_worker import app, summarise
from pipeline_engine import Completion, Limits, RejectedError, Retry, Runner, UnavailableError, current_step

FOLDER = Path(__file__).parent
for name in ("queue", "control", "results"):
    (FOLDER / name).mkdir(exist_ok=True)
app.conf.update(
    broker_url="filesystem://",
    broker_transport_options={
        "data_folder_in": str(FOLDER / "queue"),
        "data_folder_out": str(FOLDER / "queue"),
        "control_folder": str(FOLDER / "control"),
        "polling_interval": 0.02,
    },
    result_backend=f"file://{FOLDER / 'results'}",
    worker_enable_remote_control=False,
)
summarise.default_retry_delay = 0.05


class Model:
    name = "fake:model"
    limits = Limits(max_concurrency=2)

    def __init__(self):
        self.in_flight, self.calls = 0, {}
        self.both = trio.Event()

    async def complete(self, request):
        context = current_step()
        key = context.document
        count = self.calls[key] = self.calls.get(key, 0) + 1
        self.in_flight += 1
        call = [key, context.step, context.run_id, os.getpid(), threading.get_ident(), self.in_flight]
        with (FOLDER / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps(call) + "\\n")
        try:
            if key.startswith("plain"):
                if self.in_flight == 2:
                    self.both.set()
                await self.both.wait()
            if key == "flaky" and count <= 3:  # one more than a step has attempts
                raise UnavailableError("failed (HTTP 502).", model=self.name, kind="server", status=502)
            if key == "refused":
                raise RejectedError("refused to answer.", model=self.name, kind="refusal")
            return Completion(f"{context.step} of {key}", model=self.name)
        finally:
            self.in_flight -= 1


celery_worker.runner = Runner(models={"fast": Model()}, capacity=64)


@worker_shutdown.connect
def note(**_):
    (FOLDER / "runner.txt").write_text(repr(celery_worker.runner))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A worker process with eight threads; its folder, and the example's task, bound to its broker."""
    folder = tmp_path_factory.mktemp("celery")
    (folder / "app_of_test.py").write_text(_APP, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT / "examples")])}
    command = [sys.executable, "-m", "celery", "--app", "app_of_test", "worker"]
    options = ["--pool=threads", "--concurrency=8", "--without-gossip", "--without-mingle", "--without-heartbeat"]
    log = (folder / "worker.log").open("w")
    process = subprocess.Popen([*command, *options], cwd=folder, env=environment, stdout=log, stderr=log)
    try:
        yield Worker(folder, environment)
        process.send_signal(signal.SIGTERM)  # the warm shutdown
        assert process.wait(20) == 0, (folder / "worker.log").read_text()
        assert (folder / "runner.txt").read_text() == "<Runner closed, 0 of at most 1024 runs pending>"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.wait()
        log.close()


class Worker:
    def __init__(self, folder, environment):
        self.folder = folder
        self._environment = environment

    def perform(self, *keys):
        """Queue a job for each key from another process, as a web server would, and return how each ended."""
        code = (
            "import json, sys; from app_of_test import summarise\n"
            "jobs = [summarise.delay(key, 'text') for key in sys.argv[1:]]\n"
            "for job in jobs:\n"
            "    ended = job.get(timeout=20, propagate=False, interval=0.02)\n"
            "    print(json.dumps([job.state, ended if job.successful() else f'{type(ended).__name__}: {ended}']))\n"
        )
        command = [sys.executable, "-c", code, *keys]
        ended = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            encoding="utf-8",
            timeout=60,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr + (self.folder / "worker.log").read_text()
        return [tuple(json.loads(line)) for line in ended.stdout.splitlines()]

    def calls(self):
        """Return each call of a model, in order."""
        lines = (self.folder / "calls.jsonl").read_text(encoding="utf-8").splitlines()
        return [Call(*json.loads(line)) for line in lines]


class Call(NamedTuple):
    document: str
    step: str
    run: str
    process: int
    thread: int
    in_flight: int


PLAIN = [f"plain-{number}" for number in range(12)]


@pytest.fixture(scope="module")
def performed(worker):
    """How each job ended, and the calls: all jobs at once, because processes take seconds to start."""
    ended = worker.perform(*PLAIN, "flaky", "refused")
    return dict(zip([*PLAIN, "flaky", "refused"], ended, strict=True)), worker.calls()


def test_jobs_are_performed_and_their_results_stored(performed):
    """A queue's worker is where most documents are processed."""
    ended, calls = performed

    assert [ended[key] for key in PLAIN] == [
        ("SUCCESS", {"summary": f"summary of {key}", "title": f"title of {key}"}) for key in PLAIN
    ]
    assert sum(call.document in PLAIN for call in calls) == 24


def test_a_transient_failure_is_tried_again_as_a_job(performed):
    """The step's two attempts were not enough; a second run, later, had to be."""
    ended, calls = performed
    flaky = [call for call in calls if call.document == "flaky"]

    assert ended["flaky"][0] == "SUCCESS"
    assert [call.step for call in flaky] == ["summary", "summary", "summary", "summary", "title"]
    runs = list(dict.fromkeys(call.run for call in flaky))
    assert [[call.run for call in flaky].count(run) for run in runs] == [2, 3]


def test_a_permanent_failure_is_not_tried_again(performed):
    """A refusal would be a refusal again, and paid for again."""
    ended, calls = performed
    state, error = ended["refused"]

    assert state == "FAILURE"
    assert error.endswith("step 'summary' of document 'refused' failed: model 'fake:model' refused to answer.")
    assert [call.step for call in calls if call.document == "refused"] == ["summary"]


def test_the_threads_of_the_worker_share_one_runner(performed):
    """Eight threads with a limit of two calls each would be sixteen calls at once."""
    _ended, calls = performed

    assert len({(call.process, call.thread) for call in calls}) == 1
    assert max(call.in_flight for call in calls) == 2
