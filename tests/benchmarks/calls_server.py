"""The server that the load benchmark calls: one loop over epoll that parses next to nothing and sends ready-made bytes.

It has no objects for requests, no tasks and no timers: what is due in one millisecond stands in one list. So
it costs a fraction of any client, and the benchmark prints how busy it was.
"""

import json
import os
import random
import re
import resource
import select
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from heapq import heappop, heappush

__all__ = ["EVENT_MARK", "Serving", "serve"]

EVENT_MARK = "@"
"""Stands around the instant at which a stream's first piece was sent, in nanoseconds of CLOCK_MONOTONIC."""

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_HEADERS = {
    "date": "Sat, 21 Nov 2026 06:00:00 GMT",
    "server": "benchmark",
    "x-request-id": "req_0123456789abcdef0123456789abcdef",
    "openai-organization": "organization",
    "openai-processing-ms": "412",
    "openai-version": "2020-10-01",
    "x-ratelimit-limit-requests": "10000",
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-requests": "9999",
    "x-ratelimit-remaining-tokens": "1998765",
    "x-ratelimit-reset-requests": "6ms",
}
_ANSWER = "A short answer with some words, repeated until it has the length of a summary. "


@dataclass(frozen=True)
class Serving:
    """Say how the server answers."""

    latency: float
    """Seconds to a reply, or to a stream's first chunk."""
    spread: float = 0.0
    """By which part of itself a latency and a pause may be longer or shorter, drawn for each."""
    chunks: int = 0
    """The pieces of text in a stream; 0 answers with a whole reply."""
    pause: float = 0.0
    """Seconds between two chunks."""
    held: int = 0
    """So many requests are answered at once when the last of them has come: so that all have a connection."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def whole_reply() -> bytes:
    """Return a chat completion of about 1.3 KB behind 13 headers."""
    body = {
        "id": "chatcmpl-0123456789abcdef0123456789",
        "object": "chat.completion",
        "created": 1795240800,
        "model": "benchmark-model",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": _ANSWER * 12}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 512, "completion_tokens": 200, "total_tokens": 712},
        "system_fingerprint": "fp_0123456789",
    }
    encoded = json.dumps(body).encode()
    return _head({"content-type": "application/json", "content-length": str(len(encoded))}) + encoded


def _head(more: dict[str, str]) -> bytes:
    headers = "".join(f"{name}: {value}\r\n" for name, value in (_HEADERS | more).items())
    return f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode()


def _chunk(fields: dict[str, object]) -> bytes:
    """Return a server-sent event as one chunk of HTTP/1.1."""
    document = {
        "id": "chatcmpl-0123456789abcdef0123456789",
        "object": "chat.completion.chunk",
        "created": 1795240800,
        "model": "benchmark-model",
        "system_fingerprint": "fp_0123456789",
        **fields,
    }
    event = f"data: {json.dumps(document)}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(event), event)


def _piece(text: str) -> bytes:
    return _chunk({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})


class Stream:
    """The bytes of a stream: a head with a first chunk that says when it was sent, chunks of 250 bytes, an end."""

    def __init__(self) -> None:
        head = _head({"content-type": "text/event-stream", "transfer-encoding": "chunked"})
        self._before, self._after = (head + _piece(f"{EVENT_MARK}{'?' * 20}{EVENT_MARK}")).split(b"?" * 20)
        self.chunk = _piece("some words, ")
        usage = {"prompt_tokens": 512, "completion_tokens": 200, "total_tokens": 712}
        self.end = b"".join(
            (
                _chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}),
                _chunk({"choices": [], "usage": usage}),
                b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
            )
        )

    def first(self) -> bytes:
        return b"%b%020d%b" % (self._before, time.clock_gettime_ns(time.CLOCK_MONOTONIC), self._after)


class Wheel:
    """What is due, in lists of one millisecond."""

    def __init__(self) -> None:
        self._lists: dict[int, list[Callable[[], object]]] = {}
        self._due: list[int] = []

    def put(self, seconds: float, do: Callable[[], object]) -> None:
        due = int((time.perf_counter() + seconds) * 1000) + 1
        if due not in self._lists:
            self._lists[due] = []
            heappush(self._due, due)
        self._lists[due].append(do)

    def run(self) -> float:
        """Do what is due, and return the seconds until the next is."""
        now = time.perf_counter() * 1000
        while self._due and self._due[0] <= now:
            for do in self._lists.pop(heappop(self._due)):
                do()
        return max(self._due[0] / 1000 - time.perf_counter(), 0.0) if self._due else 1.0


class Server:
    """Answer requests on one address until standard input ends."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._random = random.Random(7)
        self._wheel = Wheel()
        self._whole = whole_reply()
        self._stream = Stream()
        self._held: list[Callable[[], None]] = []
        self._left_to_hold = serving.held
        self._epoll = select.epoll()
        self._connections: dict[int, socket.socket] = {}
        self._unfinished: dict[int, bytes] = {}
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]

    def run(self) -> None:
        own, end = self._listener.fileno(), sys.stdin.fileno()
        self._epoll.register(own, select.EPOLLIN)
        self._epoll.register(end, select.EPOLLIN)
        while True:
            for descriptor, _event in self._epoll.poll(self._wheel.run(), 1024):
                if descriptor == own:
                    self._accept()
                elif descriptor == end:
                    return
                else:
                    self._receive(descriptor)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            while True:
                connection, _address = self._listener.accept()
                connection.setblocking(False)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._connections[connection.fileno()] = connection
                self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _receive(self, descriptor: int) -> None:
        connection = self._connections[descriptor]
        try:
            data = connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._unfinished.pop(descriptor, None)
            self._connections.pop(descriptor).close()
            return
        data = self._unfinished.pop(descriptor, b"") + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) < end + 4 + int(_LENGTH.findall(data, 0, end)[0]):
            self._unfinished[descriptor] = data
        else:
            self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        if self._left_to_hold:
            self._left_to_hold -= 1
            self._held.append(partial(self._warm_up, connection))
            if not self._left_to_hold:
                for answer in self._held:
                    answer()
                self._held.clear()
        elif self._serving.chunks:
            self._wheel.put(self._drawn(self._serving.latency), partial(self._next, connection, self._pieces()))
        else:
            self._wheel.put(self._drawn(self._serving.latency), partial(self._send, connection, self._whole))

    def _warm_up(self, connection: socket.socket) -> None:
        is_streamed = self._serving.chunks > 0
        self._send(connection, self._stream.first() + self._stream.end if is_streamed else self._whole)

    def _pieces(self) -> Iterator[bytes]:
        yield self._stream.first()
        for _ in range(self._serving.chunks - 1):
            yield self._stream.chunk
        yield self._stream.end

    def _next(self, connection: socket.socket, pieces: Iterator[bytes]) -> None:
        """Send one piece of a stream and put down when the next one is due."""
        piece = next(pieces)
        if self._send(connection, piece) and piece is not self._stream.end:
            self._wheel.put(self._drawn(self._serving.pause), partial(self._next, connection, pieces))

    def _send(self, connection: socket.socket, data: bytes) -> bool:
        try:
            sent = connection.send(data)
        except OSError:  # the client has hung up
            return False
        if sent != len(data):
            raise RuntimeError(f"the client has left {len(data) - sent} bytes unread, more than a socket holds")
        return True

    def _drawn(self, seconds: float) -> float:
        spread = self._serving.spread
        return seconds if not spread else seconds * self._random.uniform(1 - spread, 1 + spread)


def serve(serving: Serving, processor: int) -> None:
    """Serve on one processor until standard input ends; what is printed is the port."""
    os.sched_setaffinity(0, {processor})
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = Server(serving)
    print(server.port, flush=True)
    server.run()


if __name__ == "__main__":
    serve(Serving(**json.loads(sys.argv[1])), int(sys.argv[2]))
