"""A small HTTP server for this machine alone: it answers GET, one request a connection, and trusts nobody.

A page in a browser can send requests to any port of its own machine, from any site, under any name that resolves
to it. So a request is answered only if it was sent to this address by name (no rebinding), by no other site, and
every answer forbids others to use it. Whoever is slow, or sends too much, is cut off.
"""

from __future__ import annotations

import logging
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import h11
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    Answer = Callable[["Request"], Awaitable["Reply | Events"]]

__all__ = ["Events", "Reply", "Request", "listen", "serve_connections"]

_log = logging.getLogger("pipeline_engine")
_MAX_HEAD = 16 * 1024
_MAX_FIELDS = 20
_REQUEST_SECONDS = 10.0
"""How long a whole request may take to arrive."""
_SEND_SECONDS = 20.0
"""How long one piece of an answer may take to be taken."""
_LINGER_SECONDS = 1.0
_PIECE = 64 * 1024
_MAX_CONNECTIONS = 64
_LOOPBACK = "127.0.0.1"
_REASONS = {
    200: b"OK",
    400: b"Bad Request",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    413: b"Content Too Large",
    421: b"Misdirected Request",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    503: b"Service Unavailable",
}
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
    (b"connection", b"close"),
)
_SURROGATES = "surrogatepass"
"""Keys are often file names, which need not be text: what is no character in them has an address all the same."""
_NOTHING_LOADED = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"


class Request(NamedTuple):
    """What was asked for."""

    path: str
    """As it was sent: nothing is decoded or resolved, so that only exact paths are known."""
    query: Mapping[str, str]
    """The parameters; of one that was sent twice the last."""

    @property
    def address(self) -> str:
        """What is asked for in this way.

        Example:
            >>> Request("/document", {"key": "a b&c"}).address
            '/document?key=a+b%26c'
        """
        return f"{self.path}?{urlencode(self.query, errors=_SURROGATES)}" if self.query else self.path


@dataclass(frozen=True, slots=True)
class Reply:
    """Answer with a body."""

    body: bytes
    type: str = "text/plain; charset=utf-8"
    """The content's type."""
    status: int = 200
    policy: str = _NOTHING_LOADED
    """The content security policy."""


@dataclass(frozen=True, slots=True)
class Events:
    """Answer with server-sent events, as long as there are any and the client stays."""

    pieces: AsyncGenerator[bytes]


class _RefusedError(Exception):
    """Raised for a request that is not answered."""

    def __init__(self, status: int, why: str) -> None:
        self.status = status
        super().__init__(why)


async def listen(port: int) -> trio.SocketListener:
    """Return a listener on this machine's own address, which no other machine can reach.

    Args:
        port: The port; 0 takes any that is free.

    Raises:
        OSError: If the port is taken.
    """
    [listener] = await trio.open_tcp_listeners(port, host=_LOOPBACK)
    return listener


async def serve_connections(listener: trio.SocketListener, answer: Answer) -> None:
    """Answer requests until cancelled.

    Args:
        listener: What `listen` has returned.
        answer: Returns the answer to a request; what it raises is logged, and answered as an error.
    """
    server = _Server(listener.socket.getsockname()[1], answer)
    await trio.serve_listeners(server.serve, [listener])


class _Server:
    def __init__(self, port: int, answer: Answer) -> None:
        names = (_LOOPBACK, "localhost")
        self._hosts = {f"{name}:{port}" for name in names} | (set(names) if port == 80 else set())
        self._answer = answer
        self._connections = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Serve one connection: a request, an answer, and the end."""
        self._connections += 1
        try:
            if self._connections <= _MAX_CONNECTIONS:
                await self._exchange(stream)
        except* (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            pass  # the client has gone, or does not read
        except* Exception:  # noqa: BLE001 - an answer that breaks off ends its own connection alone
            _log.exception("an answer broke off")
        finally:
            self._connections -= 1
            await trio.aclose_forcefully(stream)

    async def _exchange(self, stream: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)
        is_head = False
        try:
            with trio.fail_after(_REQUEST_SECONDS):
                asked = await _received(connection, stream)
            is_head = asked.method == b"HEAD"
            reply = await self._answer(self._checked(asked))
        except _RefusedError as error:
            reply = Reply(f"{error}\n".encode(), status=error.status)
        except h11.RemoteProtocolError as error:
            reply = Reply(b"that is no request.\n", status=error.error_status_hint)
        except (trio.BrokenResourceError, trio.TooSlowError):
            raise
        except Exception:  # noqa: BLE001 - one page's error ends that page alone
            _log.exception("a page could not be made")
            reply = Reply(b"something that should not happen; the terminal says more.\n", status=500)
        if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        if isinstance(reply, Events):
            await _send_events(connection, stream, reply, has_body=not is_head)
        else:
            await _send_reply(connection, stream, reply, has_body=not is_head)

    def _checked(self, asked: h11.Request) -> Request:
        headers: dict[bytes, bytes] = {}
        for name, value in asked.headers:
            if name in headers and name in (b"host", b"origin"):
                raise _RefusedError(400, f"there is more than one {name.decode()}.")
            headers[name] = value
        host = headers.get(b"host", b"").decode("latin-1").lower()
        if host not in self._hosts:
            raise _RefusedError(421, "this address is not the one that was asked for.")
        origin = headers.get(b"origin")
        if _is_asked_elsewhere(headers) or (
            origin is not None and origin.decode("latin-1").lower() != f"http://{host}"
        ):
            raise _RefusedError(403, "another site may not ask.")
        if asked.method not in (b"GET", b"HEAD"):
            raise _RefusedError(405, "nothing can be changed here: only GET and HEAD are answered.")
        try:
            parts = urlsplit(asked.target.decode("ascii"))
            query = parse_qsl(parts.query, keep_blank_values=True, errors=_SURROGATES, max_num_fields=_MAX_FIELDS)
        except ValueError:
            raise _RefusedError(400, "that is no address.") from None
        if parts.scheme or parts.netloc:
            raise _RefusedError(400, "only a path can be asked for.")
        return Request(parts.path, dict(query))


def _is_asked_elsewhere(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a page of another site asks. A link that somebody follows is none: it leaves that page."""
    is_followed = (headers.get(b"sec-fetch-mode"), headers.get(b"sec-fetch-dest")) == (b"navigate", b"document")
    return headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin") and not is_followed


async def _received(connection: h11.Connection, stream: trio.SocketStream) -> h11.Request:
    """Return the head of the request, once it is there and nothing follows it."""
    asked: h11.Request | None = None
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(4096))
        elif isinstance(event, h11.Request):
            asked = event
            names = dict(event.headers)
            if names.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in names:
                raise _RefusedError(413, "a request here has no body.")
        elif isinstance(event, h11.EndOfMessage) and asked is not None:
            return asked
        else:
            raise trio.BrokenResourceError


def _head(status: int, kind: str, policy: str, length: int | None = None) -> h11.Response:
    headers = [(b"content-type", kind.encode()), (b"content-security-policy", policy.encode()), *_HEADERS]
    if length is not None:
        headers.append((b"content-length", str(length).encode()))
    if status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    return h11.Response(status_code=status, headers=headers, reason=_REASONS.get(status, b""))


async def _send_reply(connection: h11.Connection, stream: trio.SocketStream, reply: Reply, *, has_body: bool) -> None:
    data = connection.send(_head(reply.status, reply.type, reply.policy, len(reply.body))) or b""
    if has_body:
        data += connection.send(h11.Data(data=reply.body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
    for start in range(0, len(data), _PIECE):
        with trio.fail_after(_SEND_SECONDS):
            await stream.send_all(data[start : start + _PIECE])
    await stream.send_eof()
    # Closed with something unread, the connection would be reset, and the client might lose its answer.
    with trio.move_on_after(_LINGER_SECONDS):
        while await stream.receive_some(_PIECE):
            pass


async def _send_events(
    connection: h11.Connection, stream: trio.SocketStream, events: Events, *, has_body: bool
) -> None:
    async def leave_with_client() -> None:
        # It has nothing more to say: whatever comes is its end.
        await stream.receive_some(1)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(leave_with_client)
        await _send(stream, connection.send(_head(200, "text/event-stream; charset=utf-8", _NOTHING_LOADED)))
        async with aclosing(events.pieces) as pieces:
            if has_body:
                async for piece in pieces:
                    await _send(stream, connection.send(h11.Data(data=piece)))
        await _send(stream, connection.send(h11.EndOfMessage()))
        nursery.cancel_scope.cancel()


async def _send(stream: trio.SocketStream, data: bytes | None) -> None:
    with trio.fail_after(_SEND_SECONDS):
        await stream.send_all(data or b"")
