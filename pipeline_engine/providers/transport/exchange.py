"""The port between a model's client and whatever carries its bytes: one request out, one response in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Origin", "Wire", "WireRequest", "WireResponse"]


class Origin(NamedTuple):
    """Say where connections go."""

    scheme: str
    """"http" or "https"."""
    host: str
    """In lower case and ASCII, without brackets."""
    port: int


class WireRequest(NamedTuple):
    """Hold what is sent: made once for a model, but for its body."""

    origin: Origin
    target: bytes
    """Path and query."""
    headers: Sequence[tuple[bytes, bytes]]
    """With `host`; without `content-length` and `transfer-encoding`, which whoever sends it writes.

    A tuple that is the same object for many requests is encoded once.
    """
    body: bytes
    connect_timeout: float
    """Seconds to have a connection: name look-up, TCP and TLS together."""
    method: bytes = b"POST"

    def __repr__(self) -> str:
        # Neither headers nor target nor body: there are keys and documents in them.
        scheme, host, port = self.origin
        return f"<WireRequest {self.method.decode()} to {scheme}://{host}:{port}, {len(self.body)} bytes>"


class WireResponse(Protocol):
    """Hold the head of a response, and its body as it comes.

    Whoever receives it ends it: by `release` once it is read as far as it is wanted, by `close` otherwise,
    and by `aclose` in any case.
    """

    @property
    def status(self) -> int:
        """The HTTP status."""
        ...

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """As they came, with names in lower case."""
        ...

    @property
    def connect_seconds(self) -> float | None:
        """Seconds it took to have a connection; None if a kept one was used."""
        ...

    @property
    def replays(self) -> int:
        """How often the request was sent once more, because a kept connection had died unanswered."""
        ...

    async def receive(self) -> bytes:
        """Return the next bytes of the body, or b"" at its end.

        A caller that is cancelled here leaves no connection half-read: it is closed.

        Raises:
            httpx2.TransportError: If the connection breaks, or what comes is no HTTP.
        """
        ...

    def release(self) -> None:
        """Say that nothing more is wanted, without waiting.

        A connection whose response has ended is kept for the next call. The short rest behind a stream's
        terminal marker is read in the background, within bounds; a longer one costs the connection.
        """
        ...

    def close(self) -> None:
        """Close the connection at once, unless it is released already: what runs there ends."""
        ...

    async def aclose(self) -> None:
        """Do the same, and wait for a moment where a client closes by waiting."""
        ...


class Wire(Protocol):
    """Carry requests and responses."""

    async def send(self, request: WireRequest) -> WireResponse:
        """Send a request and return the head of its response.

        Raises:
            httpx2.TransportError: If there is no response; with the operating system's error as its cause. It
                has an attribute `replays` if the request was sent once more before it failed.
        """
        ...

    async def aclose(self) -> None:
        """Close all connections."""
        ...
