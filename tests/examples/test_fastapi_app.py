"""The web server's example, behind a real uvicorn and real sockets: one runner, runs that end with clients."""

import json
import socket
import threading
from contextlib import contextmanager

import httpx2
import pytest
import trio
import uvicorn

from pipeline_engine import Completion, EngineClosedError

DOCUMENT = {"document": "Tea is hot. Tea is made of leaves. People drink it in the morning."}


class Writing:
    """A model that writes one piece each time it is allowed to, and tells when it was cancelled."""

    name = "fake:writing"

    def __init__(self, pieces=()):
        self.pieces = pieces
        self.began, self.cancelled = threading.Semaphore(0), threading.Event()
        self.has_ended = False

    async def complete(self, request):
        return Completion("A title", model=self.name)

    async def stream(self, request, take):
        self._token = trio.lowlevel.current_trio_token()
        self._allowed = trio.Semaphore(0)
        self.began.release()
        try:
            for piece in self.pieces:
                await self._allowed.acquire()
                await take(piece)
            if not self.pieces:
                await trio.sleep_forever()
        except trio.Cancelled:
            self.cancelled.set()
            raise
        self.has_ended = True
        return Completion("".join(self.pieces), model=self.name)

    def write_one(self):
        self._token.run_sync_soon(self._allowed.release)


@contextmanager
def serving(app, **options):
    """Serve an app on a port of the loopback, in a thread; stop it at the end."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, lifespan="on", log_config=None, **options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        app.state.server = server
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=10) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


@contextmanager
def posting(client, path):
    """Send a request over a socket of its own, and close it at the end of the block without reading the answer."""
    body = json.dumps(DOCUMENT)
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection((client.base_url.host, client.base_url.port)) as connection:
        connection.sendall((head + body).encode())
        yield


def runner_threads():
    return [thread.name for thread in threading.enumerate() if thread.name == "pipeline_engine runner"]


def events_of(response):
    """Yield the server-sent events of a response, as they arrive."""
    name = None
    for line in response.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def test_the_server_opens_one_runner_and_closes_it_when_it_stops(example):
    """A runner for each request would have connections and limits of its own: none that hold."""
    app = example("fastapi_app").app
    with serving(app) as client:
        answers = [client.post("/articles", json=DOCUMENT).json() for _ in range(3)]
        assert runner_threads() == ["pipeline_engine runner"]
        runner = app.state.runner
    assert [answer["status"] for answer in answers] == ["completed"] * 3
    assert set(answers[0]["outputs"]) == {"summary", "title"}
    assert runner_threads() == []
    with pytest.raises(EngineClosedError):
        runner.run(None, {})


def test_a_client_that_goes_away_cancels_its_run(example):
    """What nobody will read need not be paid for; the model itself sees the cancellation."""
    model = Writing()
    app = example("fastapi_app").create_app({"fast": model})
    with serving(app) as client:
        with posting(client, "/articles"):
            assert model.began.acquire(timeout=5)
            assert not model.cancelled.is_set()
        assert model.cancelled.wait(5)


def test_pieces_arrive_one_by_one_before_the_run_has_ended(example):
    """Each is read here before the next one may be written: a server that collected them would hang."""
    model = Writing(["Tea", " is", " hot."])
    app = example("fastapi_app").create_app({"fast": model})
    with serving(app) as client, client.stream("POST", "/articles/stream", json=DOCUMENT) as response:
        assert (response.status_code, response.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        events = events_of(response)
        assert model.began.acquire(timeout=5)
        for piece in model.pieces:
            assert not model.has_ended
            model.write_one()
            assert next(events) == ("delta", {"step": "summary", "text": piece})
        name, result = next(events)
        assert (name, result["status"], result["outputs"]) == (
            "result",
            "completed",
            {"summary": "Tea is hot.", "title": "A title"},
        )
        assert list(events) == []


def test_a_client_that_leaves_a_stream_cancels_its_run(example):
    """Most readers of a chat close the page before the end."""
    model = Writing(["Tea", " is", " hot."])
    app = example("fastapi_app").create_app({"fast": model})
    with serving(app) as client:
        with client.stream("POST", "/articles/stream", json=DOCUMENT) as response:
            assert model.began.acquire(timeout=5)
            model.write_one()
            events = events_of(response)  # kept: a generator that is dropped closes the connection
            assert next(events) == ("delta", {"step": "summary", "text": "Tea"})
            assert not model.cancelled.is_set()
        assert model.cancelled.wait(5)
        assert not model.has_ended


@pytest.mark.parametrize("path", ["/articles", "/articles/stream"])
def test_a_full_server_answers_503_and_says_when_to_come_back(example, path):
    """A client that waits in a queue without an end is worse off than one that is told."""
    model = Writing(["done"])
    app = example("fastapi_app").create_app({"fast": model}, max_pending=1)
    with serving(app) as client, client.stream("POST", "/articles/stream", json=DOCUMENT) as first:
        assert model.began.acquire(timeout=5)
        refused = client.post(path, json=DOCUMENT)
        model.write_one()
        assert [name for name, _ in events_of(first)] == ["delta", "result"]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "2")
    assert refused.json() == {"detail": "Too many documents are waiting."}


def test_a_server_that_stops_cancels_the_runs_of_its_last_requests(example):
    """Its patience is bounded; the run must not outlive the request that it belongs to."""
    model = Writing()
    app = example("fastapi_app").create_app({"fast": model})
    with serving(app, timeout_graceful_shutdown=0) as client, posting(client, "/articles"):
        assert model.began.acquire(timeout=5)
        app.state.server.should_exit = True
        assert model.cancelled.wait(5)
    assert runner_threads() == []
