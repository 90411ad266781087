"""Threads that share a runner share a model's limits, its breaker and its connections: all of it is counted."""

import concurrent.futures
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trio.testing

from pipeline_engine import (
    Breaker,
    CircuitOpenError,
    Limits,
    Model,
    OverloadError,
    Pipeline,
    Runner,
    UnavailableError,
    run_pipeline,
)
from pipeline_engine.testing import ScriptedModel
from tests.house.pages import ROOT

THREADS = 24


def asking(**options):
    """A pipeline of one call."""
    pipeline = Pipeline("ask", inputs={"number": int})
    pipeline.llm("fast", str, name="answer", **options)(lambda number: f"What is {number}?")
    return pipeline


def in_threads(function):
    """Call a function with 0, 1, 2 … at the same time, each in a thread of its own."""
    barrier = threading.Barrier(THREADS, timeout=10)

    def main(number):
        barrier.wait()
        return function(number)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(main, range(THREADS)))


def test_the_example_prints_what_it_counts():
    """The figures are its whole point."""
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "plain_threads.py")]
    ended = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=60, check=False, env=environment)

    assert (ended.stdout.splitlines(), ended.stderr) == (
        [
            "200 runs, at most 4 calls at once",
            "provider down: 3 calls made, 200 runs told at once",
            str(OverloadError(40, 40)),
            "40 runs ended well",
        ],
        "",
    )


def test_threads_share_a_limit_of_calls_per_minute():
    """A provider counts per key, not per thread: the sixth call of a minute is refused, whoever makes it."""
    model = ScriptedModel({"answer": "fine"}, limits=Limits(rpm=1, burst_requests=5))

    async def wait_until_blocked(_engine):
        await trio.testing.wait_all_tasks_blocked()

    with Runner(models={"fast": model}) as runner:
        futures = in_threads(lambda number: runner.submit(asking(), {"number": number}))
        runner.call(wait_until_blocked)
        done = [future for future in futures if future.done()]
        statistics = runner.statistics()
        for future in futures:
            future.cancel()

    assert [future.result()["answer"] for future in done] == ["fine"] * 5
    assert len(model.requests) == 5
    assert (statistics.in_flight, statistics.models["scripted:model"].waiting) == (0, THREADS - 5)


def test_threads_share_a_breaker():
    """What one thread has learnt about a provider need not be learnt, and paid for, by the others."""
    down = UnavailableError("failed (HTTP 502).", model="scripted:model", kind="server", status=502)
    limits = Limits(max_concurrency=1)  # else calls that are on the wire already fail, too
    model = ScriptedModel({"answer": down}, limits=limits, breaker=Breaker(failure_threshold=3, timeout=600))

    with Runner(models={"fast": model}) as runner:
        pipeline = asking(retry=None, when_open="fail")
        outcomes = in_threads(lambda number: runner.run(pipeline, {"number": number}).outcome("answer"))

    causes = [type(outcome.error) for outcome in outcomes]
    assert (causes.count(UnavailableError), causes.count(CircuitOpenError)) == (3, THREADS - 3)
    assert len(model.requests) == 3


class Provider(ThreadingHTTPServer):
    """A server that speaks OpenAI's protocol, answers requests two at a time, and counts connections."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, at_once):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.meeting = threading.Barrier(at_once, timeout=10)
        self.connections, self.requests = 0, 0
        self.lock = threading.Lock()

    def model(self, **options):
        return Model("openai:m", base_url=f"http://127.0.0.1:{self.server_port}/v1", api_key="none", **options)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        with self.server.lock:
            self.server.connections += 1

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        with self.server.lock:
            self.server.requests += 1
        self.server.meeting.wait()
        choice = {"index": 0, "message": {"role": "assistant", "content": "fine"}, "finish_reason": "stop"}
        body = json.dumps({"id": "1", "object": "chat.completion", "model": "m", "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        """Tests print nothing."""


@pytest.fixture
def serve():
    """Return a function that starts a provider; all are stopped at the end."""
    servers = []

    def start(at_once):
        servers.append(Provider(at_once))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_threads_share_connections(serve):
    """Each new connection is a handshake of a hundred milliseconds to most providers."""
    provider = serve(at_once=2)
    models = {"fast": provider.model(limits=Limits(max_concurrency=2))}
    with Runner(models=models) as runner:
        answers = in_threads(lambda number: runner.run(asking(), {"number": number})["answer"])

    assert answers == ["fine"] * THREADS
    assert (provider.requests, provider.connections) == (THREADS, 2)


def test_without_a_runner_each_thread_has_its_own(serve):
    """That is what the runner is for; it also shows that the server counts right."""
    provider = serve(at_once=THREADS)
    models = {"fast": provider.model(limits=Limits(max_concurrency=2))}
    answers = in_threads(lambda number: run_pipeline(asking(), {"number": number}, models=models)["answer"])

    assert answers == ["fine"] * THREADS
    assert (provider.requests, provider.connections) == (THREADS, THREADS)
