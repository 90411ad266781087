"""The clients of the load benchmark, each in a process of its own, doing the same work for each call.

That is: a prompt of 2 KB becomes JSON, the reply or the stream's events are parsed, the text is taken out. All
use the same JSON library. A closed loop: each worker makes its next call when its last one has ended. The
first call of each is not measured; the server holds it until all have come, so that every worker has a
connection. Run by `calls.py` as `python -m tests.benchmarks.calls_clients JOB`.
"""

import asyncio  # noqa: TID251 - aiohttp runs on it
import gc
import json
import os
import resource
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

import trio
from pydantic_core import from_json

from tests.benchmarks.calls_server import EVENT_MARK
from tests.benchmarks.memory import resident_kilobytes

try:
    import orjson
except ImportError:
    orjson = None

__all__ = ["CLIENTS", "Job", "Measured"]

Call = Callable[[], Awaitable[None]]
ParserName = Literal["h11", "httptools"]
OpenCall = Callable[["Job", "Arrivals"], AbstractAsyncContextManager[Call]]

PROMPT = "Write a title, five keywords and a summary for the following document. " * 29
"""About 2 KB."""
MODEL = "benchmark-model"
PATH = "/v1/chat/completions"
CONNECTS_PER_SECOND = 4000.0


@dataclass(frozen=True)
class Job:
    """Say what a client's process does."""

    client: str
    port: int
    server: int
    """The server's process."""
    calls: int
    """How many calls run at the same time."""
    rounds: int
    """How many calls each worker makes, not counting the one that warms up."""
    is_streamed: bool
    ramp: float = 0.0
    """Seconds over which the workers start, for streams that are measured while all of them are open; 0 is a
    closed loop with a warm-up."""
    is_tuned: bool = False
    """Whether the garbage collector is tuned as a program with so many streams would tune it."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Measured:
    """What a client's process has found."""

    cpu: float
    """CPU seconds of the measured part."""
    server_cpu: float
    wall: float
    starved: float
    """Seconds for which the client could have run, and something else had its processor."""
    first_tokens: list[float]
    """Seconds from the server's sending of a stream's first piece to the caller's having it, per stream, sorted."""
    grown_kilobytes: float
    """By how much the process grew until all streams were open."""


@dataclass
class Arrivals:
    """Take the pieces of all streams, and note when the first one of each came."""

    seconds: list[float] = field(default_factory=list)

    async def take(self, piece: str) -> None:
        if piece[:1] == EVENT_MARK:
            self.seconds.append(now() - int(piece[1 : piece.index(EVENT_MARK, 1)]) / 1e9)


def now() -> float:
    """Return the clock that all processes of this machine share."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


def cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cpu_seconds_of(process: int) -> float:
    ticks = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")


def starved_seconds() -> float:
    return int(Path("/proc/self/schedstat").read_text(encoding="ascii").split()[1]) / 1e9


def request_body(is_streamed: bool) -> bytes:
    """Write the request, as our own adapter writes it."""
    more = {"stream": True, "stream_options": {"include_usage": True}} if is_streamed else {}
    body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], **more}
    return json.dumps(body, separators=(",", ":")).encode() if orjson is None else orjson.dumps(body)


def text_of(body: bytes) -> str:
    text: str = from_json(body)["choices"][0]["message"]["content"]
    return text


async def take_events(chunks: AsyncIterator[bytes], take: Callable[[str], Awaitable[None]]) -> str:
    """Split a stream and hand on its text, in the quickest way that survives any cut of the bytes."""
    pieces, rest = [], b""
    async for chunk in chunks:
        *events, rest = (rest + chunk).split(b"\n\n")
        for event in events:
            data = event.removeprefix(b"data: ")
            if data == b"[DONE]":
                continue
            choices = from_json(data)["choices"]
            piece = choices[0]["delta"].get("content") if choices else None
            if piece:
                pieces.append(piece)
                await take(piece)
    return "".join(pieces)


@asynccontextmanager
async def open_ours(parser: ParserName, job: Job, arrivals: Arrivals) -> AsyncIterator[Call]:
    from pipeline_engine.providers.adapters.adapter import Endpoint, Settings
    from pipeline_engine.providers.adapters.openai_chat import ADAPTER
    from pipeline_engine.providers.client import HttpModel
    from pipeline_engine.providers.secrets import Secret
    from pipeline_engine.providers.transport import PoolTransport
    from pipeline_engine.values import Message, Request, Text

    endpoint = Endpoint("openai:benchmark", f"http://127.0.0.1:{job.port}/v1", secret=Secret("sk-0123456789"))
    transport = PoolTransport(parser=parser)
    model = HttpModel(endpoint, ADAPTER, Settings(MODEL), transport=transport)

    async def call() -> None:
        request = Request((Message("user", Text(PROMPT)),))
        completion = await (model.stream(request, arrivals.take) if job.is_streamed else model.complete(request))
        assert completion.text, completion

    try:
        yield call
    finally:
        await transport.aclose()


@asynccontextmanager
async def open_wire(parser: ParserName, job: Job, arrivals: Arrivals) -> AsyncIterator[Call]:
    """Yield our transport alone: no request is written, no reply parsed."""
    from pipeline_engine.providers.transport import Origin, PoolTransport, WireRequest

    transport = PoolTransport(parser=parser)
    headers = ((b"host", f"127.0.0.1:{job.port}".encode()), (b"content-type", b"application/json"))
    origin = Origin("http", "127.0.0.1", job.port)
    request = WireRequest(origin, PATH.encode(), headers, request_body(job.is_streamed), 10.0)

    async def call() -> None:
        response = await transport.send(request)
        size = 0
        while data := await response.receive():
            size += len(data)
        response.release()
        assert response.status == 200
        assert size

    try:
        yield call
    finally:
        await transport.aclose()


@asynccontextmanager
async def open_httpx2(job: Job, arrivals: Arrivals) -> AsyncIterator[Call]:
    import httpx2

    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(limits=limits, timeout=None, trust_env=False) as client:
        url = httpx2.URL(f"http://127.0.0.1:{job.port}{PATH}")
        headers = httpx2.Headers({"content-type": "application/json", "authorization": "Bearer sk-0123456789"})

        async def complete() -> None:
            response = await client.post(url, content=request_body(False), headers=headers)
            assert text_of(response.content)

        async def stream() -> None:
            async with client.stream("POST", url, content=request_body(True), headers=headers) as response:
                assert await take_events(response.aiter_raw(), arrivals.take)

        yield stream if job.is_streamed else complete


@asynccontextmanager
async def open_aiohttp(job: Job, arrivals: Arrivals) -> AsyncIterator[Call]:
    import aiohttp

    # What costs time and serves nobody here is off: limits, cookies, timers.
    connector = aiohttp.TCPConnector(limit=0)
    options: dict[str, Any] = {"timeout": aiohttp.ClientTimeout(total=None), "cookie_jar": aiohttp.DummyCookieJar()}
    async with aiohttp.ClientSession(connector=connector, **options) as session:
        url = f"http://127.0.0.1:{job.port}{PATH}"
        headers = {"content-type": "application/json", "authorization": "Bearer sk-0123456789"}

        async def complete() -> None:
            async with session.post(url, data=request_body(False), headers=headers) as response:
                assert text_of(await response.read())

        async def stream() -> None:
            async with session.post(url, data=request_body(True), headers=headers) as response:
                assert await take_events(response.content.iter_any(), arrivals.take)

        yield stream if job.is_streamed else complete


@asynccontextmanager
async def open_sockets(job: Job, arrivals: Arrivals) -> AsyncIterator[Call]:
    """Yield the floor: a trio socket for each worker, fixed bytes out, bytes in until the last ones are known."""
    body = request_body(job.is_streamed)
    head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{job.port}\r\ncontent-length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    end = b"0\r\n\r\n" if job.is_streamed else b"}"
    mark = EVENT_MARK.encode()
    idle: list[trio.socket.SocketType] = []

    async def call() -> None:
        if idle:
            connection = idle.pop()
        else:
            connection = trio.socket.socket()
            await connection.connect(("127.0.0.1", job.port))
            connection.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        await connection.send(request)
        data = await connection.recv(65536)
        if job.is_streamed:
            start = data.index(mark)
            await arrivals.take(data[start : data.index(mark, start + 1) + 1].decode())
        while not data.endswith(end):
            data = await connection.recv(65536)
        idle.append(connection)

    try:
        yield call
    finally:
        for connection in idle:
            connection.close()


CLIENTS: dict[str, OpenCall] = {
    "ours, httptools": partial(open_ours, "httptools"),
    "ours, h11": partial(open_ours, "h11"),
    "our transport alone, httptools": partial(open_wire, "httptools"),
    "our transport alone, h11": partial(open_wire, "h11"),
    "trio sockets": open_sockets,
    "httpx2": open_httpx2,
    "aiohttp": open_aiohttp,
}


class Load:
    """What the workers of a process share; it knows no event loop.

    Args:
        job: What is measured.
        sleep: The event loop's.
        are_warm: An event of the event loop's.
    """

    def __init__(self, job: Job, sleep: Callable[[float], Awaitable[None]], are_warm: Any) -> None:
        self.arrivals = Arrivals()
        self.measured: Measured | None = None
        self._job = job
        self._sleep = sleep
        self._are_warm = are_warm
        self._cold = self._running = job.calls
        self._resident = self._grown = 0.0

    def open(self) -> AbstractAsyncContextManager[Call]:
        return CLIENTS[self._job.client](self._job, self.arrivals)

    async def work(self, number: int, call: Call) -> None:
        """Make one call that is not measured; when all workers have, make those that are."""
        await self._sleep(number / CONNECTS_PER_SECOND)
        await call()
        self._cold -= 1
        if not self._cold:
            gc.collect()
            self._start()
            self._are_warm.set()
        await self._are_warm.wait()
        for _ in range(self._job.rounds):
            await call()
        self._running -= 1
        if not self._running:
            self._stop()

    async def stream(self, number: int, call: Call) -> None:
        """Make calls one after the other, beginning at this worker's moment of the ramp."""
        await self._sleep(number * self._job.ramp / self._job.calls)
        for _ in range(self._job.rounds):
            await call()

    async def watch(self) -> None:
        """Measure as long as the ramp took, from its end on: in that time all workers have a stream open."""
        self._resident = resident_kilobytes()
        await self._sleep(self._job.ramp)
        self._start()
        await self._sleep(self._job.ramp)
        self._grown = resident_kilobytes() - self._resident
        self._stop()

    def _start(self) -> None:
        self.arrivals.seconds.clear()
        self._wall, self._starved = now(), starved_seconds()
        self._cpu, self._server = cpu_seconds(), cpu_seconds_of(self._job.server)

    def _stop(self) -> None:
        cpu, server = cpu_seconds() - self._cpu, cpu_seconds_of(self._job.server) - self._server
        wall, starved = now() - self._wall, starved_seconds() - self._starved
        self.measured = Measured(cpu, server, wall, starved, sorted(self.arrivals.seconds), self._grown)


def tune_collector() -> None:
    """Keep the collector from walking through everything that is alive each time some calls have come and gone."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


async def on_trio(job: Job) -> Measured | None:
    load = Load(job, trio.sleep, trio.Event())
    async with load.open() as call, trio.open_nursery() as nursery:
        if job.ramp:
            nursery.start_soon(load.watch)
            await trio.sleep(0.1)  # so that the workers' tasks are weighed, too
        for number in range(job.calls):
            nursery.start_soon(load.stream if job.ramp else load.work, number, call)
    return load.measured


async def on_asyncio(job: Job) -> Measured | None:
    load = Load(job, asyncio.sleep, asyncio.Event())
    async with load.open() as call, asyncio.TaskGroup() as group:
        if job.ramp:
            group.create_task(load.watch())
            await asyncio.sleep(0.1)
        for number in range(job.calls):
            group.create_task(load.stream(number, call) if job.ramp else load.work(number, call))
    return load.measured


def main(job: Job, processor: int) -> None:
    os.sched_setaffinity(0, {processor})
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if job.is_tuned:
        tune_collector()
    measured = asyncio.run(on_asyncio(job)) if job.client == "aiohttp" else trio.run(on_trio, job)
    print(json.dumps(asdict(measured)) if measured else "")


if __name__ == "__main__":
    main(Job(**json.loads(sys.argv[1])), int(sys.argv[2]))
