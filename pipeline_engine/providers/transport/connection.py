"""One connection to a server, in clear text or by TLS: bytes out, bytes in, and an end that never waits."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import socket
    from collections import deque

    from pipeline_engine.providers.transport.parsing import ResponseParser

__all__ = ["Connection", "TlsConnection"]

_READ_BYTES = 64 * 1024


class Connection:
    """Send and receive over a socket that does not block.

    It talks to the socket itself and not to trio's streams: a kept connection sends without a checkpoint, and
    waits before it reads and not after it has tried, because no model answers at once. One task at a time.
    """

    __slots__ = ("_descriptor", "_socket", "expires_at", "home", "is_reused", "is_spent", "parser")

    def __init__(self, connected: socket.socket, parser: ResponseParser) -> None:
        self._socket = connected
        self._descriptor = connected.fileno()
        self.parser = parser
        self.home: deque[Connection]
        """Where it is kept while it is idle."""
        self.is_reused = False
        self.is_spent = False
        """Whether it must not carry another request."""
        self.expires_at = 0.0

    @property
    def may_be_kept(self) -> bool:
        """Whether it may carry another request once this response is complete."""
        return self.parser.is_reusable and not self.is_spent and self._descriptor >= 0

    def close(self) -> None:
        """Close the socket at once; whoever waits for it gets `trio.ClosedResourceError`."""
        if self._descriptor >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._descriptor = -1
            self._socket.close()
            self.parser.discard()

    def is_quiet(self) -> bool:
        """Return whether the server has kept the connection and said nothing unasked."""
        try:
            self._socket.recv(1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def send_now(self, data: bytes) -> memoryview | bytes:
        """Send what can be sent without waiting, and return the rest."""
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            return data
        return b"" if sent == len(data) else memoryview(data)[sent:]

    async def send_until_spoken_to(self, rest: memoryview | bytes) -> memoryview | bytes:
        """Send until all is sent, or there is something to read; return the rest."""
        failure: OSError | trio.ClosedResourceError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_readable, nursery.cancel_scope)
            while rest:
                try:
                    await trio.lowlevel.wait_writable(self._waitable())
                    rest = rest[self._socket.send(rest) :]
                except BlockingIOError:
                    pass
                except (OSError, trio.ClosedResourceError) as error:
                    failure = error
                    break
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return rest

    async def receive(self) -> bytes:
        """Wait for bytes and return them, or b"" if the server has ended the connection."""
        while True:
            await trio.lowlevel.wait_readable(self._waitable())
            try:
                return self._socket.recv(_READ_BYTES)
            except BlockingIOError:
                continue

    def receive_now(self) -> bytes | None:
        """Return the bytes that are there, or None if there are none yet."""
        try:
            return self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return None

    def _waitable(self) -> int:
        """Return the descriptor, unless the connection was closed meanwhile."""
        if self._descriptor < 0:
            raise trio.ClosedResourceError("the connection was closed")
        return self._descriptor

    async def _cancel_when_readable(self, scope: trio.CancelScope) -> None:
        try:
            await trio.lowlevel.wait_readable(self._waitable())
        except (OSError, trio.ClosedResourceError):
            return  # whoever sends meets it as well
        scope.cancel()


class TlsConnection(Connection):
    """Do the same by TLS.

    TLS is spoken here and not by `trio.SSLStream`, which cannot say without waiting whether a kept
    connection is quiet: a server's session tickets look like an answer on the socket, and an unasked answer
    that is already decrypted looks like silence.
    """

    __slots__ = ("_incoming", "_outgoing", "_tls")

    def __init__(
        self, connected: socket.socket, parser: ResponseParser, context: ssl.SSLContext, server_name: str
    ) -> None:
        super().__init__(connected, parser)
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    async def shake_hands(self) -> None:
        """Agree on keys, and check the server's certificate.

        Raises:
            ssl.SSLError: If the server is refused, or refuses.
            OSError: If the connection breaks.
        """
        while not self._has_shaken_hands():
            await self._send_encrypted()
            await trio.lowlevel.wait_readable(self._waitable())
            self._fill()
        await self._send_encrypted()

    @property
    def protocol(self) -> str | None:
        """What was agreed on by ALPN."""
        return self._tls.selected_alpn_protocol()

    def is_quiet(self) -> bool:
        """Return whether the server has kept the connection and said nothing but what TLS needs."""
        try:
            return self.receive_now() is None
        except OSError:
            return False

    def send_now(self, data: bytes) -> memoryview | bytes:
        """Encrypt all, send what can be sent without waiting, and return the rest, encrypted."""
        self._tls.write(data)
        return super().send_now(self._outgoing.read())

    async def receive(self) -> bytes:
        """Wait for bytes and return them, or b"" if the server has ended the connection."""
        while (data := self._decrypted()) is None:
            self._try_flush()
            await trio.lowlevel.wait_readable(self._waitable())
            self._fill()
        return data

    def receive_now(self) -> bytes | None:
        """Return the bytes that are there, or None if there are none yet."""
        while (data := self._decrypted()) is None:
            if not self._fill():
                return None
        return data

    def _has_shaken_hands(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            self._try_flush()  # the alert, which tells the server why
            raise
        return True

    def _decrypted(self) -> bytes | None:
        try:
            return self._tls.read(_READ_BYTES)
        except ssl.SSLWantReadError:
            return None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            # Many servers end without a word. What is cut short by it shows in the length of the body.
            return b""

    def _fill(self) -> bool:
        """Take over what has come; return whether anything has."""
        try:
            encrypted = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return False
        if encrypted:
            self._incoming.write(encrypted)
        else:
            self._incoming.write_eof()
        return True

    def _try_flush(self) -> None:
        """Send what TLS itself wants to say, if it can be sent at once."""
        if self._outgoing.pending:
            try:
                self._socket.send(self._outgoing.read())
            except OSError:
                pass  # a connection that is broken shows it in what is read next

    async def _send_encrypted(self) -> None:
        rest = memoryview(self._outgoing.read())
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._waitable())
