"""Direct calls over HTTP/1.1: a request written, its response read, its connection kept."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import httpx2
import trio

from pipeline_engine.providers.transport.exchange import Origin, WireRequest
from pipeline_engine.providers.transport.parsing import parser_factory
from pipeline_engine.providers.transport.pool import ConnectionPool
from pipeline_engine.providers.transport.writing import RequestWriter

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

    from pipeline_engine.providers.transport.connection import Connection
    from pipeline_engine.providers.transport.parsing import ParserName
    from pipeline_engine.providers.transport.pool import PoolStatistics

__all__ = ["PoolResponse", "PoolTransport"]

_BROKEN = (OSError, trio.ClosedResourceError)
_LENGTH_HEADERS = frozenset({b"content-length", b"transfer-encoding"})


class PoolTransport(httpx2.AsyncBaseTransport):
    """Send requests straight to servers over kept connections, HTTP/1.1 with and without TLS, under trio.

    It reads neither proxies nor `.netrc` nor environment variables, follows no redirect, and limits nothing
    but what this process may hold open. It also works as the transport of an `httpx2.AsyncClient`; of that
    client's timeouts it keeps `connect`, and leaves the others to cancel scopes. Proxies, HTTP/2 and Unix
    sockets are for `httpx2.AsyncHTTPTransport`.

    When a trio run ends, kept connections are closed; in the next one it begins anew.

    Args:
        ssl_context: How servers are checked; by default against the system's certificates. It is not
            changed: one that offers HTTP/2 to a server that takes it is an error.
        parser: "auto" is httptools where it is installed, and h11 otherwise.
        idle_timeout: Seconds for which a connection is kept unused. Servers and what stands before them close
            them after 5 s (uvicorn) to 75 s (nginx), which is noticed; what forgets them unnoticed does so
            after a minute and more. 30 s outlast a pipeline's pauses and stay clear of that.
        max_connecting: How many connections to one origin are made at the same time.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        parser: ParserName = "auto",
        idle_timeout: float = 30.0,
        max_connecting: int = 64,
    ) -> None:
        self._pool = ConnectionPool(ssl_context, parser_factory(parser), idle_timeout, max_connecting)
        self._writer = RequestWriter()

    def __repr__(self) -> str:
        counts = self.statistics()
        return f"<PoolTransport: {counts.open} open, {counts.idle} of them idle>"

    def statistics(self) -> PoolStatistics:
        """Return the present counts of connections."""
        return self._pool.statistics()

    async def send(self, request: WireRequest) -> PoolResponse:
        """Send a request and return the head of its response.

        A kept connection that has died before a single byte of an answer is replaced once by a new one: its
        server had closed it while the request was under way. A caller that is cancelled leaves no connection.

        Raises:
            httpx2.ConnectTimeout: If there is no connection in time.
            httpx2.ConnectError: If there can be none; the system's own error is its cause.
            httpx2.WriteError: If the connection broke while the request was sent.
            httpx2.ReadError: If it broke, or ended, before any answer.
            httpx2.RemoteProtocolError: If the answer is no HTTP, or was cut short in its head.
            httpx2.LocalProtocolError: If the request is none.
        """
        data = self._writer.write(request)
        pool = self._pool
        connection = pool.take(request.origin)
        connect_seconds = None
        replays = 0
        while True:
            if connection is None:
                started = trio.current_time()
                connection = await pool.connect(request.origin, request.connect_timeout, is_replay=replays > 0)
                if not connection.is_reused:
                    connect_seconds = trio.current_time() - started
            try:
                await _exchange(connection, request.method, data)
            except _UnansweredError:
                pool.drop(connection)
                pool.replays += 1
                replays += 1
                connection = None
            except BaseException as error:
                pool.drop(connection)
                if replays and isinstance(error, httpx2.TransportError):
                    error.replays = replays  # type: ignore[attr-defined]  # the port's own word, see `Wire.send`
                raise
            else:
                pool.reused += connection.is_reused
                return PoolResponse(pool, connection, connect_seconds, replays)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Do the same for a request of httpx2's kind; its body is read whole before it is sent."""
        url = request.url
        if url.scheme not in {"http", "https"}:
            raise httpx2.UnsupportedProtocol(f"the scheme {url.scheme!r} is neither http nor https")
        host = url.raw_host.decode("ascii").strip("[]")
        seconds = request.extensions.get("timeout", {}).get("connect")
        response = await self.send(
            WireRequest(
                origin=Origin(url.scheme, host, url.port or (443 if url.scheme == "https" else 80)),
                target=url.raw_path,
                headers=[header for header in request.headers.raw if header[0].lower() not in _LENGTH_HEADERS],
                body=await request.aread(),
                connect_timeout=math.inf if seconds is None else seconds,
                method=request.method.encode("ascii"),
            )
        )
        return httpx2.Response(
            response.status,
            headers=list(response.headers),
            stream=_ResponseStream(response),
            extensions={"http_version": b"HTTP/1.1"},
        )

    async def aclose(self) -> None:
        """Close all connections, those in use as well."""
        self._pool.close()


class PoolResponse:
    """Hold the head of a response, and its body as it comes."""

    __slots__ = ("_connection", "_pool", "connect_seconds", "headers", "replays", "status")

    def __init__(
        self, pool: ConnectionPool, connection: Connection, connect_seconds: float | None, replays: int
    ) -> None:
        self._pool = pool
        self._connection: Connection | None = connection
        self.status = connection.parser.status
        self.headers: Sequence[tuple[bytes, bytes]] = connection.parser.headers
        self.connect_seconds = connect_seconds
        self.replays = replays

    @property
    def is_complete(self) -> bool:
        """Whether all of the response has come."""
        return self._connection is not None and self._connection.parser.is_complete

    async def receive(self) -> bytes:
        """Return the next bytes of the body, or b"" at its end.

        A caller that is cancelled, and every error, closes the connection.

        Raises:
            httpx2.ReadError: If the connection breaks.
            httpx2.RemoteProtocolError: If what comes is no HTTP, or is cut short.
            trio.ClosedResourceError: If the response was released or closed.
        """
        connection = self._connection
        if connection is None:
            raise trio.ClosedResourceError("the response was released or closed")
        parser = connection.parser
        try:
            while True:
                if body := parser.take_body():
                    return body
                if parser.is_complete:
                    return b""
                parser.feed(await connection.receive())
        except _BROKEN as error:
            self.close()
            raise httpx2.ReadError("the connection broke in the middle of the response") from error
        except BaseException:
            self.close()
            raise

    def release(self) -> None:
        """Say that nothing more is wanted, without waiting: the connection is kept where that is possible."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.give_back(connection)

    def close(self) -> None:
        """Close the connection at once, unless it is released already."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.drop(connection)

    async def aclose(self) -> None:
        """Do the same: there is nothing to wait for."""
        self.close()


class _ResponseStream(httpx2.AsyncByteStream, AsyncIterator[bytes]):
    """Hand a response's body to an `httpx2.Response`."""

    def __init__(self, response: PoolResponse) -> None:
        self._response = response

    # No generator: one that is left early would be closed by the garbage collector, with a warning.
    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if data := await self._response.receive():
            return data
        raise StopAsyncIteration

    async def aclose(self) -> None:
        # What is left before its end is closed and not read: it may be long, or never end.
        if self._response.is_complete:
            self._response.release()
        self._response.close()


class _UnansweredError(Exception):
    """A kept connection was dead already: nobody has read the request."""


class _EndedError(ConnectionError):
    """The server has ended the connection instead of answering."""


async def _exchange(connection: Connection, method: bytes, data: bytes) -> None:
    """Send a request and read until the head of its response is there.

    Raises:
        _UnansweredError: If the connection was a kept one, and the server has closed it without a word.
        httpx2.TransportError: If there is no response.
    """
    parser = connection.parser
    parser.restart(method)
    write_failure: Exception | None = None
    try:
        try:
            rest = connection.send_now(data)
            if rest:
                await _send_rest(connection, rest)
        except _BROKEN as error:
            # A server that refuses a request may close before it has read it; its answer may be here already.
            write_failure = error
            connection.is_spent = True
        while not parser.has_head:
            received = await connection.receive()
            if not received:
                raise _EndedError
            parser.feed(received)
    except _BROKEN as error:
        if connection.is_reused and not parser.has_bytes and isinstance(error, ConnectionError):
            raise _UnansweredError from None
        if write_failure is not None:
            raise httpx2.WriteError("the connection broke while the request was sent") from write_failure
        if isinstance(error, _EndedError):
            raise httpx2.ReadError("the server ended the connection before the response began") from None
        raise httpx2.ReadError("the connection broke before the response began") from error


async def _send_rest(connection: Connection, rest: memoryview | bytes) -> None:
    """Send what could not be sent at once, or as much of it as the server takes before it answers."""
    parser = connection.parser
    while rest:
        rest = await connection.send_until_spoken_to(rest)
        said = connection.receive_now() if rest else None
        if said is None:
            continue
        if said:
            parser.feed(said)
        if parser.has_head or not said:
            # An answer to half a request is a refusal. What comes next would be taken for its other half.
            connection.is_spent = True
            return
