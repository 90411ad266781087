"""A scripted provider on the loopback: it says what a test tells it to say, byte for byte."""

import itertools
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import trio

KEY_HERE = b"@KEY@"
"""Stands in an answer for the key that came with the request: hostile servers echo it."""
GONE = (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError)
"""What a stream raises whose other end has left without a word."""


class Received(NamedTuple):
    """Hold one request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """Which of the server's connections it came on, counted from 1."""
    number: int = 1
    """Which of the server's requests it is: the answer's `x-request-id` ends in it."""

    @property
    def key(self) -> str:
        """The key in its headers."""
        names = ("authorization", "x-api-key", "x-goog-api-key", "api-key")
        return next((self.headers[name].removeprefix("Bearer ") for name in names if name in self.headers), "")

    @property
    def messages(self) -> list[str]:
        """The text of each message."""
        return [message["content"] for message in json.loads(self.body)["messages"]]


Then = Literal["keep", "close", "leave", "reset", "hang"]
"""Go on; end one's own half and wait for the other's; end both; reset both; say nothing more."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Say what comes back on one request, and what becomes of the connection."""

    pieces: Callable[[Received], Iterable[bytes]]
    """Return the bytes, in the pieces in which they are sent."""
    then: Then = "keep"
    gap: float = 0.0
    """Seconds between two pieces."""
    before: Callable[[], Awaitable[Any]] | None = None
    """Awaited before the first piece."""

    def with_(self, **changes: Any) -> "Answer":
        """Return the same answer, sent in another manner."""
        return replace(self, **changes)


def raw(*pieces: bytes, **manner: Any) -> Answer:
    """Answer with bytes that need not be HTTP."""
    return Answer(lambda _: pieces, **manner)


def reply(
    body: bytes = b"",
    status: int | str = 200,
    headers: dict[str, str] | None = None,
    *,
    framing: Literal["length", "chunked", "close"] = "length",
    **manner: Any,
) -> Answer:
    """Answer with a response; it names the request, and gives the key back where it may."""
    told = {"content-type": "application/json", "x-request-id": "req_{number}", "x-echo": "Bearer @KEY@"}
    told |= {name.lower(): value for name, value in (headers or {}).items()}

    def pieces(received: Received) -> Iterable[bytes]:
        content = body.replace(KEY_HERE, received.key.encode())
        framed = {"length": ("content-length", str(len(content))), "chunked": ("transfer-encoding", "chunked")}
        head = {**told, **dict([framed[framing]] if framing in framed else [("connection", "close")])}
        lines = [f"HTTP/1.1 {status} Told" if isinstance(status, int) else f"HTTP/1.1 {status}"]
        lines += [f"{name}: {value}" for name, value in head.items() if value]
        text = "\r\n".join([*lines, "", ""]).replace("@KEY@", received.key)
        yield text.replace("{number}", str(received.number)).encode("latin-1")
        if framing == "chunked":
            yield from (chunk(part) for part in content.splitlines(keepends=True))
            yield b"0\r\n\r\n"
        elif content:
            yield content

    return Answer(
        pieces, "close" if framing == "close" and "then" not in manner else manner.pop("then", "keep"), **manner
    )


def chunk(data: bytes) -> bytes:
    """Return one chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


# OpenAI's chat completions


def completion(text: str | None = "Hello", finish: str | None = "stop", **fields: Any) -> bytes:
    """Return the body of a whole reply."""
    message = {"role": "assistant", "content": text, **fields.pop("message", {})}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    return json.dumps({"id": "c-1", "model": "m", "choices": [choice], "usage": usage, **fields}).encode()


def chat(text: str | None = "Hello", finish: str | None = "stop", **fields: Any) -> Answer:
    """Answer as OpenAI does."""
    return reply(completion(text, finish, **fields))


def error(
    status: int | str, message: str = "It went wrong", headers: dict[str, str] | None = None, **fields: Any
) -> Answer:
    """Answer with an error in OpenAI's envelope."""
    return reply(json.dumps({"error": {"message": message, **fields}}).encode(), status, headers)


def delta(content: str | None = None, finish: str | None = None, **fields: Any) -> bytes:
    """Return one event of a streamed reply."""
    inner = {} if content is None else {"content": content}
    choice = {"index": 0, "delta": {**inner, **fields.pop("delta", {})}, "finish_reason": finish}
    return event({"id": "c-1", "model": "m", "choices": [choice], **fields})


def event(data: Any, name: str = "", end: bytes = b"\n") -> bytes:
    """Return a server-sent event."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    named = b"event: %s%s" % (name.encode(), end) if name else b""
    return named + b"data: " + text.encode() + end + end


DONE = b"data: [DONE]\n\n"
STREAM = {"content-type": "text/event-stream"}


def streamed(*events: bytes, framing: Literal["chunked", "close"] = "chunked", **manner: Any) -> Answer:
    """Answer with server-sent events, each sent by itself."""
    head = reply(headers=STREAM, framing=framing).pieces

    def pieces(received: Received) -> Iterable[bytes]:
        yield next(iter(head(received)))
        yield from (chunk(sent) if framing == "chunked" else sent for sent in events)
        if framing == "chunked" and manner.get("then", "keep") == "keep":
            yield b"0\r\n\r\n"

    return Answer(pieces, **{"then": "close" if framing == "close" else "keep", **manner})


def spoken(text: str = "Hello", **manner: Any) -> Answer:
    """Answer with a stream that has nothing wrong with it."""
    return streamed(*map(delta, text), delta(finish="stop"), DONE, **manner)


# Other providers


def claude(text: str = "Hello") -> Answer:
    """Answer as Anthropic does."""
    usage = {"input_tokens": 7, "output_tokens": 3}
    content = [{"type": "text", "text": text}]
    body = {"type": "message", "role": "assistant", "model": "m", "content": content, "stop_reason": "end_turn"}
    return reply(json.dumps({**body, "usage": usage}).encode())


def ollama(text: str = "Hello") -> Answer:
    """Answer as Ollama does."""
    body = {"model": "m", "message": {"role": "assistant", "content": text}, "done": True, "done_reason": "stop"}
    return reply(json.dumps({**body, "prompt_eval_count": 7, "eval_count": 3}).encode())


# The server


@dataclass
class Connections:
    """Count what is open, and wait until nothing is."""

    accepted: int = 0
    open: int = 0
    most: int = 0
    _changed: trio.lowlevel.ParkingLot = field(default_factory=trio.lowlevel.ParkingLot, repr=False)

    @asynccontextmanager
    async def one(self):
        """Count a connection for as long as its handler runs."""
        self.accepted += 1
        self.open += 1
        self.most = max(self.most, self.open)
        try:
            yield self.accepted
        finally:
            self.open -= 1
            self._changed.unpark_all()

    async def wait_closed(self) -> None:
        """Return when the other side has hung up everywhere."""
        while self.open:
            await self._changed.park()


class Provider:
    """Answer each request with the next entry of a script; the last one is for all further requests."""

    def __init__(self, *script: Answer, path: str = "/v1") -> None:
        self.script = script or (chat(),)
        self.requests: list[Received] = []
        self.connections = Connections()
        self.sent = 0
        """Bytes that the network took."""
        self.port = 0
        self.base_url = ""
        self._path = path
        self._numbers = itertools.count()
        self._arrived = trio.lowlevel.ParkingLot()

    async def wait_requests(self, count: int) -> None:
        """Return when so many requests have come."""
        while len(self.requests) < count:
            await self._arrived.park()

    async def serve(self, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, *, task_status: Any) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host=host)
        self.port = listeners[0].socket.getsockname()[1]
        self.base_url = f"{'https' if tls else 'http'}://{host}:{self.port}{self._path}"

        async def handle(stream: trio.SocketStream) -> None:
            async with self.connections.one() as number:
                talking = trio.SSLStream(stream, tls, server_side=True, https_compatible=True) if tls else stream
                try:
                    await self._talk(talking, stream, number)
                except GONE:
                    pass  # the client has left, as it may at any time
                finally:
                    await trio.aclose_forcefully(stream)

        await trio.serve_listeners(handle, listeners, task_status=task_status)

    async def _talk(self, stream: trio.abc.Stream, under: trio.SocketStream, number: int) -> None:
        received = b""
        while data := await stream.receive_some(65_536):
            received += data
            while request := _first_request(received, number):
                received = received[request[1] :]
                asked = request[0]._replace(number=len(self.requests) + 1)
                self.requests.append(asked)
                self._arrived.unpark_all()
                if not await self._answer(asked, stream, under):
                    return

    async def _answer(self, request: Received, stream: trio.abc.Stream, under: trio.SocketStream) -> bool:
        """Answer, and return whether the connection goes on."""
        answer = self.script[min(next(self._numbers), len(self.script) - 1)]
        if answer.before is not None:
            await answer.before()
        for index, piece in enumerate(answer.pieces(request)):
            if index and answer.gap:
                await trio.sleep(answer.gap)
            await stream.send_all(piece)
            self.sent += len(piece)
        if answer.then == "keep":
            return True
        if answer.then == "reset":
            reset(under)
            return False
        if answer.then == "leave" or (answer.then == "close" and stream is not under):
            return False
        if answer.then == "close":
            await under.send_eof()
        # Hanging, or half closed: what matters now is that the client hangs up, too.
        while await stream.receive_some(65_536):
            pass
        return False


def _first_request(received: bytes, number: int) -> tuple[Received, int] | None:
    """Return the first request in what has come, and its length; None if it is not whole."""
    head, blank, rest = received.partition(b"\r\n\r\n")
    if not blank:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = int(headers.get("content-length", "0"))
    if len(rest) < length:
        return None
    method, target, _version = first.split(" ")
    return Received(method, target, headers, rest[:length], number), len(head) + 4 + length


def reset(stream: trio.SocketStream) -> None:
    """Close a connection with a reset instead of an end."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()
