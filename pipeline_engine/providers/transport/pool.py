"""The pool of connections: each is taken, given back and closed in the same short time, however many there are."""

from __future__ import annotations

import errno
import os
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import trio

from pipeline_engine.providers.transport.connecting import Connector
from pipeline_engine.providers.transport.descriptors import max_connections

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from pipeline_engine.providers.transport.connection import Connection
    from pipeline_engine.providers.transport.exchange import Origin
    from pipeline_engine.providers.transport.parsing import ResponseParser

__all__ = ["ConnectionPool", "PoolStatistics"]

MAX_DRAINED_BYTES = 64 * 1024
"""So much is read behind the last byte that was wanted, to keep the connection."""
DRAIN_SECONDS = 0.5
"""So long is waited for it, in the background."""

_REAP_SECONDS = 1.0
"""The reaper sleeps at least so long, however many connections expire one by one."""


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Count a pool's connections and what became of them."""

    open: int
    """Connections that exist, in use or not."""
    idle: int
    """Those of them that wait for a request."""
    opened: int
    """Connections made so far, with a handshake each."""
    reused: int
    """Requests answered over a kept connection."""
    replays: int
    """Requests sent once more because a kept connection had died unanswered."""


class ConnectionPool:
    """Keep connections for the next request to the same origin.

    It never queues and never refuses below the limit of open files: how many calls run is the scheduler's
    business. It belongs to the trio run that uses it: what is idle when that run ends is closed.
    """

    def __init__(
        self,
        ssl_context: ssl.SSLContext | None,
        new_parser: Callable[[], ResponseParser],
        idle_timeout: float,
        max_connecting: int,
    ) -> None:
        self._ssl_context = ssl_context
        self._new_parser = new_parser
        self._idle_timeout = idle_timeout
        self._max_connecting = max_connecting
        self._origins: dict[Origin, _Kept] = {}
        self._open: set[Connection] = set()
        self._connecting = 0
        self._is_reaping = False
        self._opened = 0
        self.reused = 0
        self.replays = 0

    def statistics(self) -> PoolStatistics:
        """Return the present counts."""
        idle = sum(len(kept.idle) for kept in self._origins.values())
        return PoolStatistics(len(self._open), idle, self._opened, self.reused, self.replays)

    def take(self, origin: Origin) -> Connection | None:
        """Return the connection that was given back last and still lives; None if there is none.

        The last one, so that a few are always in use and the others expire. Only the one that is taken is
        looked at: asking all whether they live is what makes other pools slow.
        """
        kept = self._origins.get(origin)
        if kept is None:
            return None
        while kept.idle:
            connection = kept.idle.pop()
            if connection.expires_at > trio.current_time() and connection.is_quiet():
                return connection
            self.drop(connection)
        return None

    async def connect(self, origin: Origin, timeout: float, *, is_replay: bool = False) -> Connection:
        """Return a new connection, or one that has become free while others were made.

        Args:
            origin: Whom to reach.
            timeout: Seconds for name look-up, TCP and TLS; waiting for others to connect is not among them,
                because a rush of our own must not look like a server that does not answer.
            is_replay: Whether no kept connection is to be trusted.

        Raises:
            httpx2.ConnectTimeout: If there is none in time.
            httpx2.ConnectError: If there can be none.
        """
        kept = self._origins.get(origin)
        if kept is None:
            kept = self._origins[origin] = _Kept(Connector(origin, self._context, self._max_connecting))
        async with kept.connector.permits:
            connection = None if is_replay else self.take(origin)
            if connection is not None:
                return connection
            self._make_room()
            self._connecting += 1
            try:
                connection = await kept.connector.connect(self._new_parser(), timeout)
            finally:
                self._connecting -= 1
        connection.home = kept.idle
        self._open.add(connection)
        self._opened += 1
        return connection

    def give_back(self, connection: Connection) -> None:
        """Keep the connection, now or once the short rest of its response has come; or close it."""
        budget = MAX_DRAINED_BYTES
        parser = connection.parser
        try:
            while not parser.is_complete and connection.may_be_kept and budget >= 0:
                data = connection.receive_now()
                if data is None:
                    trio.lowlevel.spawn_system_task(self._drain, connection, budget)
                    return
                budget -= len(data)
                parser.feed(data)
        except (OSError, httpx2.RemoteProtocolError):
            pass  # whoever gives it back has what it wanted
        self._keep_or_drop(connection)

    def drop(self, connection: Connection) -> None:
        """Close the connection at once."""
        self._open.discard(connection)
        connection.close()

    def close(self) -> None:
        """Close all connections, those in use as well."""
        for connection in [*self._open]:
            self.drop(connection)
        for kept in self._origins.values():
            kept.idle.clear()

    def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            # 23 ms of CPU: made once, and only where there is TLS.
            self._ssl_context = httpx2.create_ssl_context(trust_env=False)
            self._ssl_context.set_alpn_protocols(["http/1.1"])
        return self._ssl_context

    def _make_room(self) -> None:
        """Close what has been idle for longest if there is no room for another connection.

        Raises:
            httpx2.ConnectError: If all are in use.
        """
        if len(self._open) + self._connecting < max_connections():
            return
        oldest = min(self._oldest_idle(), key=lambda connection: connection.expires_at, default=None)
        if oldest is None:
            full = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            raise httpx2.ConnectError("there is no room for another connection in this process") from full
        oldest.home.popleft()
        self.drop(oldest)

    def _oldest_idle(self) -> Iterator[Connection]:
        return (kept.idle[0] for kept in self._origins.values() if kept.idle)

    def _keep_or_drop(self, connection: Connection) -> None:
        if not (connection.parser.is_complete and connection.may_be_kept):
            self.drop(connection)
            return
        connection.parser.take_body()  # what nobody wanted
        connection.is_reused = True
        connection.expires_at = trio.current_time() + self._idle_timeout
        connection.home.append(connection)
        if not self._is_reaping:
            self._is_reaping = True
            trio.lowlevel.spawn_system_task(self._reap)

    async def _drain(self, connection: Connection, budget: int) -> None:
        parser = connection.parser
        try:
            with trio.move_on_after(DRAIN_SECONDS):
                while not parser.is_complete and connection.may_be_kept and budget >= 0:
                    data = await connection.receive()
                    budget -= len(data)
                    parser.feed(data)
        except (OSError, trio.ClosedResourceError, httpx2.RemoteProtocolError):
            pass  # nobody waits for this response any more
        finally:
            self._keep_or_drop(connection)

    async def _reap(self) -> None:
        """Close what expires while anything is idle, and all that is idle when the trio run ends."""
        try:
            while expiring := [connection.expires_at for connection in self._oldest_idle()]:
                await trio.sleep_until(max(min(expiring), trio.current_time() + _REAP_SECONDS))
                now = trio.current_time()
                for connection in [*self._oldest_idle()]:
                    idle = connection.home
                    while idle and idle[0].expires_at <= now:
                        self.drop(idle.popleft())
        finally:
            self._is_reaping = False
            for connection in [*self._oldest_idle()]:  # only if the run ends
                while connection.home:
                    self.drop(connection.home.pop())


class _Kept:
    """Hold what is idle of one origin, the last one given back at the right end; and how to make more."""

    __slots__ = ("connector", "idle")

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.idle: deque[Connection] = deque()
