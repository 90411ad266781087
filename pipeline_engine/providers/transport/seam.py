"""The seam to other HTTP clients: any transport of httpx2's kind, or of httpx's, carries requests as well."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import httpx2
import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from pipeline_engine.providers.transport.exchange import WireRequest

__all__ = ["SeamResponse", "SeamWire"]

MAX_DRAINED_BYTES = 64 * 1024
"""As in our own pool: what is read behind the last byte that was wanted, so that the connection is kept."""
DRAIN_SECONDS = 0.5
CLOSE_SECONDS = 1.0
"""Seconds a foreign transport has to close what is its own, even when the caller is cancelled."""


class SeamWire:
    """Carry requests over somebody else's transport; whoever gives the transport closes it.

    Args:
        transport: An `httpx2.AsyncBaseTransport`; or one of httpx, whose errors are told as those of httpx2.
    """

    def __init__(self, transport: httpx2.AsyncBaseTransport) -> None:
        self._transport: Any = transport
        self._library = _library_of(transport)

    async def send(self, request: WireRequest) -> SeamResponse:
        """Send a request and return the head of its response.

        Raises:
            httpx2.TransportError: If there is no response.
        """
        library = self._library
        scheme, host, port = request.origin
        connect = None if math.isinf(request.connect_timeout) else request.connect_timeout
        asked = library.Request(
            request.method.decode("ascii"),
            library.URL(scheme=scheme, host=host, port=port, raw_path=request.target),
            headers=list(request.headers),
            content=request.body,
            extensions={"timeout": {"connect": connect, "read": None, "write": None, "pool": None}},
        )
        try:
            return SeamResponse(await self._transport.handle_async_request(asked), library)
        except library.TransportError as error:
            told = _told_here(error)
            if told is error:
                raise
            raise told from error

    async def aclose(self) -> None:
        """Leave the transport open: it is somebody else's."""


class SeamResponse:
    """Hold a response of httpx2's kind, its body as it was sent and never inflated.

    Such a response is closed by waiting. So it is closed where there is somebody who waits: in `receive` at
    its end and upon every error, and in `aclose` otherwise. `release` and `close` only say which end `aclose`
    shall make: after `release` it reads the short rest of the response first, within bounds.
    """

    connect_seconds: float | None = None
    replays = 0

    def __init__(self, response: Any, library: Any) -> None:
        self._response = response
        self._library = library
        self._body: AsyncIterator[bytes] = aiter(response.stream)
        self._is_released = False
        self._is_over = False
        """Whether the response has ended, or was closed."""
        self.status: int = response.status_code
        self.headers: Sequence[tuple[bytes, bytes]] = [(name.lower(), value) for name, value in response.headers.raw]

    async def receive(self) -> bytes:
        """Return the next bytes of the body, or b"" at its end.

        Raises:
            httpx2.TransportError: If the connection breaks, or what comes is no HTTP.
        """
        if self._is_over:
            return b""
        try:
            async for data in self._body:
                if data:
                    return data
        except self._library.TransportError as error:
            await self._close()
            told = _told_here(error)
            if told is error:
                raise
            raise told from error
        except BaseException:
            await self._close()
            raise
        await self._close()
        return b""

    def release(self) -> None:
        """Say that nothing more is wanted."""
        self._is_released = True

    def close(self) -> None:
        """Say that the rest shall not be read."""
        self._is_released = False

    async def aclose(self) -> None:
        """Close the response; whoever is cancelled meanwhile waits for a moment at most."""
        if self._is_over:
            return
        if self._is_released:
            with trio.move_on_after(DRAIN_SECONDS):
                await self._drain()
        await self._close()

    async def _drain(self) -> None:
        budget = MAX_DRAINED_BYTES
        try:
            while budget >= 0 and (data := await self.receive()):
                budget -= len(data)
        except httpx2.TransportError:
            pass  # whoever released it has what it wanted

    async def _close(self) -> None:
        self._is_over = True
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_SECONDS):
            if hasattr(self._body, "aclose"):
                await self._body.aclose()
            await self._response.aclose()


def _library_of(transport: object) -> Any:
    """Return the module whose requests the transport takes: httpx2, or httpx if it is of that kind.

    It is found by its class, because httpx is nothing that is installed with this package.
    """
    roots = {
        cls.__module__.partition(".")[0] for cls in type(transport).__mro__ if cls.__name__ == "AsyncBaseTransport"
    }
    return sys.modules["httpx"] if roots == {"httpx"} else httpx2


def _told_here(error: Exception) -> httpx2.TransportError:
    """Return the error as the port tells it: by httpx2's classes, and with an unanswered request as `ReadError`."""
    if str(error).startswith("Server disconnected without"):
        return httpx2.ReadError("the server ended the connection before the response began")
    if isinstance(error, httpx2.TransportError):
        return error
    names = [cls.__name__ for cls in type(error).__mro__]
    kind: type[httpx2.TransportError] = next(getattr(httpx2, name) for name in names if hasattr(httpx2, name))
    return kind(str(error))
