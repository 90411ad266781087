"""A TCP proxy that spoils connections, with toxiproxy's verbs."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

import trio

from tests.faults.servers import GONE, Connections, reset

Way = Literal["up", "down"]


@dataclass(frozen=True, slots=True)
class Toxics:
    """Say what happens to the bytes that go one way; those numbers that count bytes count from the first one."""

    latency: float = 0.0
    """Seconds by which each piece is late."""
    jitter: float = 0.0
    """Seconds by which each piece may be later still."""
    bandwidth: float | None = None
    """Bytes in a second."""
    slice: int | None = None
    """The longest piece."""
    slow_close: float = 0.0
    """Seconds by which the end is late."""
    cut_after: int | None = None
    """The connection ends here as if the server had closed it."""
    reset_after: int | None = None
    """The connection is reset here."""
    hang_after: int | None = None
    """From here on nothing arrives, and nobody is told."""


@dataclass(frozen=True, slots=True)
class Link:
    """Say what happens to one connection."""

    up: Toxics = Toxics()
    """From the client to the server."""
    down: Toxics = Toxics()
    """From the server to the client."""


HEALTHY = Link()
DEAD = Link(Toxics(hang_after=0), Toxics(hang_after=0))


@dataclass
class _Pair:
    """Hold both halves of a connection."""

    client: trio.SocketStream
    server: trio.SocketStream
    link: Link

    def reset(self) -> None:
        for stream in (self.client, self.server):
            reset(stream)


class Proxy:
    """Stand between a client and a server; each connection takes the next link, and the last one is for the rest."""

    def __init__(self, port: int, *links: Link, scheme: str = "http", path: str = "/v1") -> None:
        self.links = links or (HEALTHY,)
        self.connections = Connections()
        self.base_url = ""
        self._port = port
        self._scheme, self._path = scheme, path
        self._pairs: list[_Pair] = []

    def change(self, link: Link) -> None:
        """Let this happen to all connections that are open."""
        for pair in self._pairs:
            pair.link = link

    async def serve(self, *, task_status: Any) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listeners[0].socket.getsockname()[1]
        self.base_url = f"{self._scheme}://127.0.0.1:{port}{self._path}"
        await trio.serve_listeners(self._handle, listeners, task_status=task_status)

    async def _handle(self, client: trio.SocketStream) -> None:
        async with self.connections.one() as number, client:
            link = self.links[min(number, len(self.links)) - 1]
            try:
                server = await trio.open_tcp_stream("127.0.0.1", self._port)
            except OSError:
                return
            async with server, trio.open_nursery() as nursery:
                pair = _Pair(client, server, link)
                self._pairs.append(pair)
                nursery.start_soon(self._pump, pair, "up")
                nursery.start_soon(self._pump, pair, "down")
            self._pairs.remove(pair)

    async def _pump(self, pair: _Pair, way: Way) -> None:
        source, sink = (pair.client, pair.server) if way == "up" else (pair.server, pair.client)
        try:
            await self._pass_on(pair, way, source, sink)
            await sink.send_eof()
        except GONE:
            await trio.aclose_forcefully(sink)  # one half without the other is of no use

    async def _pass_on(self, pair: _Pair, way: Way, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Return when this way has come to its end."""
        passed = 0
        dice = Random(way)
        while data := await source.receive_some(65_536):
            for piece in _pieces(data, getattr(pair.link, way)):
                toxics: Toxics = getattr(pair.link, way)
                last = min(n for n in (toxics.cut_after, toxics.reset_after, toxics.hang_after, 2**62) if n is not None)
                arriving = piece[: max(0, last - passed)]
                delay = toxics.latency + dice.uniform(0, toxics.jitter)
                delay += len(arriving) / toxics.bandwidth if toxics.bandwidth else 0
                if delay:
                    await trio.sleep(delay)
                if arriving:
                    await sink.send_all(arriving)
                passed += len(arriving)
                if passed == toxics.reset_after:
                    pair.reset()
                    return
                if passed == toxics.cut_after:
                    return
        if toxics_end := getattr(pair.link, way).slow_close:
            await trio.sleep(toxics_end)


def _pieces(data: bytes, toxics: Toxics) -> Iterator[bytes]:
    size = toxics.slice or (max(1, int(toxics.bandwidth / 50)) if toxics.bandwidth else len(data))
    for start in range(0, len(data), size):
        yield data[start : start + size]
