"""Reaching a server: its addresses looked up once, raced against each other, and TLS on top."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from typing import TYPE_CHECKING, Any

import httpx2
import trio

from pipeline_engine.providers.transport.connection import Connection, TlsConnection

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from pipeline_engine.providers.transport.exchange import Origin
    from pipeline_engine.providers.transport.parsing import ResponseParser

__all__ = ["LOOKUP_LIFETIME", "STAGGER", "Connector"]

LOOKUP_LIFETIME = 30.0
"""Seconds for which a server's addresses are kept."""
STAGGER = 0.25
"""Seconds one address has before the next is tried beside it, as RFC 8305 recommends."""

_METADATA_ADDRESS = ipaddress.ip_address("fd00:ec2::254")
# Our own house is full: this is what the caller must see, whatever else went wrong beside it.
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL})
# A reply may take minutes without a byte. Routers forget such connections; this reminds them.
_KEEPALIVE = [
    (getattr(socket, name), value)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 60), ("TCP_KEEPCNT", 5))
    if hasattr(socket, name)
]

_Address = tuple[int, Any]
"""A family and what that family calls an address."""


class Connector:
    """Open connections to one origin: so many at a time, and with one look-up for all of them."""

    def __init__(self, origin: Origin, context: Callable[[], ssl.SSLContext], max_connecting: int) -> None:
        self._origin = origin
        self._context = context
        self.permits = trio.Semaphore(max_connecting, max_value=max_connecting)
        self._addresses: list[_Address] = []
        self._valid_until = 0.0
        self._run: object = None
        self._lookup: _Lookup | None = None

    async def connect(self, parser: ResponseParser, timeout: float) -> Connection:
        """Return a new connection; a caller that is cancelled leaves no socket open.

        Raises:
            httpx2.ConnectTimeout: If there is none after `timeout` seconds.
            httpx2.ConnectError: If there can be none; the system's own error is its cause.
        """
        try:
            with trio.fail_after(timeout):
                connected = await self._race(await self._resolved())
                return await self._secured(connected, parser)
        except trio.TooSlowError as error:
            raise httpx2.ConnectTimeout(f"there was no connection after {timeout:g} s") from error
        except OSError as error:  # those of TLS are among them
            raise httpx2.ConnectError("there is no connection") from error
        except ExceptionGroup as error:
            raise httpx2.ConnectError("there is no connection: no address of the server answers") from error

    async def _resolved(self) -> list[_Address]:
        """Return the server's addresses; one look-up serves all who wait for it, and fails for all of them."""
        run = trio.lowlevel.current_trio_token()  # each run has a clock of its own
        if self._run is run and trio.current_time() < self._valid_until:
            return self._addresses
        while (pending := self._lookup) is not None:
            await pending.done.wait()
            if pending.failure is not None:
                raise pending.failure
            if pending.addresses:
                return pending.addresses
            # Whoever had begun it was cancelled: the first to wake begins anew.
        lookup = self._lookup = _Lookup()
        try:
            lookup.addresses = await _look_up(self._origin.host, self._origin.port)
        except OSError as error:
            lookup.failure = error
            raise
        finally:
            self._lookup = None
            lookup.done.set()
        self._addresses = lookup.addresses
        self._valid_until = trio.current_time() + LOOKUP_LIFETIME
        self._run = run
        return self._addresses

    async def _race(self, addresses: list[_Address]) -> socket.socket:
        """Return a socket connected to the address that answers first, each being tried a little after the last.

        Raises:
            OSError: If the only address, or this machine, cannot do it.
            ExceptionGroup: If none of several answers.
        """
        if len(addresses) == 1:
            return await _connected(*addresses[0])
        winners: list[tuple[socket.socket, _Address]] = []
        failures: list[OSError] = []

        async def attempt(address: _Address, failed: trio.Event) -> None:
            try:
                connected = await _connected(*address)
            except OSError as error:
                failures.append(error)
                failed.set()
            else:
                winners.append((connected, address))
                nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                for address in addresses:
                    failed = trio.Event()
                    nursery.start_soon(attempt, address, failed)
                    with trio.move_on_after(STAGGER):
                        await failed.wait()
        except BaseException:
            for connected, _address in winners:
                connected.close()
            raise
        if not winners:
            raise next((error for error in failures if error.errno in _EXHAUSTED), None) or ExceptionGroup(
                "no address of the server answers", failures
            )
        (winner, preferred), *late = winners
        for connected, _address in late:
            connected.close()
        # What has worked is tried first next time: a broken IPv6 costs its quarter of a second once.
        self._addresses = [preferred, *(address for address in addresses if address != preferred)]
        return winner

    async def _secured(self, connected: socket.socket, parser: ResponseParser) -> Connection:
        if self._origin.scheme != "https":
            return Connection(connected, parser)
        try:
            connection = TlsConnection(connected, parser, self._context(), self._origin.host)
        except BaseException:
            connected.close()
            raise
        try:
            await connection.shake_hands()
        except BaseException:
            connection.close()
            raise
        if connection.protocol not in {None, "http/1.1"}:
            connection.close()
            raise httpx2.ConnectError(
                f"there is no connection: ssl_context= offers {connection.protocol!r}, which is not spoken here"
            )
        return connection


class _Lookup:
    """One look-up for which others may wait."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.addresses: list[_Address] = []
        self.failure: OSError | None = None


async def _look_up(host: str, port: int) -> list[_Address]:
    """Return a host's addresses, the first two of different families where there are such.

    Raises:
        OSError: If it is not known, or has only addresses that may not be asked.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # too long, or of characters that no name has
        raise socket.gaierror(socket.EAI_NONAME, "no host can have this name") from error
    addresses = [(int(family), address) for family, _type, _protocol, _name, address in found]
    allowed = [address for address in addresses if not _is_forbidden(address[1][0])]
    if not allowed:
        # A name that leads there is somebody's attempt to have this machine's own credentials fetched.
        raise PermissionError(errno.EACCES, "the host has only link-local addresses, which are never asked")
    others = [address for address in allowed if address[0] != allowed[0][0]]
    if not others:
        return allowed
    # RFC 8305: so that a dead family delays the other by one stagger, however many addresses it has.
    return [allowed[0], others[0], *(address for address in allowed[1:] if address is not others[0])]


def _is_forbidden(address: object) -> bool:
    found = ipaddress.ip_address(str(address).partition("%")[0])
    plain = (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found
    return plain.is_link_local or plain == _METADATA_ADDRESS


async def _connected(family: int, address: Any) -> socket.socket:
    """Return a socket that is connected and does not block."""
    connecting = socket.socket(family, socket.SOCK_STREAM)
    try:
        connecting.settimeout(0)
        connecting.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connecting.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE:
            connecting.setsockopt(socket.IPPROTO_TCP, option, value)
        try:
            connecting.connect(address)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(connecting)
            error = connecting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                raise OSError(error, os.strerror(error)) from None
    except BaseException:
        connecting.close()
        raise
    return connecting
