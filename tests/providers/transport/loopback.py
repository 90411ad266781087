"""A server on the loopback whose every byte a test decides, and short ways to ask it."""

import socket
import ssl
import struct
from dataclasses import dataclass, field

import trio

from pipeline_engine.providers.transport import Origin, WireRequest

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


@dataclass
class Peer:
    """One connection, seen from the server."""

    server: "Server"
    stream: trio.abc.Stream
    raw: socket.socket
    number: int
    _unread: bytes = b""

    async def request(self):
        """Read one request and return its head and body; None if the client has hung up."""
        data = self._unread
        while b"\r\n\r\n" not in data:
            if not (received := await self._receive()):
                return None
            data += received
        head, _, body = data.partition(b"\r\n\r\n")
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        length = int(fields.get(b"content-length", 0))
        pieces, missing = [body], length - len(body)
        while missing > 0:
            if not (received := await self._receive()):
                return None
            pieces.append(received)
            missing -= len(received)
        body = b"".join(pieces)
        self._unread = body[length:]
        self.server.requests.append((self.number, head, body[:length]))
        return head, body[:length]

    async def _receive(self):
        try:
            return await self.stream.receive_some(65536)
        except trio.BrokenResourceError:
            return b""

    async def send(self, data):
        await self.stream.send_all(data)

    def reset(self):
        """End with RST instead of FIN."""
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def hung_up(self):
        """Wait until the client has closed the connection."""
        while await self._receive():
            pass


async def answer_ok(peer):
    """Answer every request."""
    while await peer.request():
        await peer.send(OK)


def answering(*answers):
    """Answer the requests of each connection with these bytes, one after the other, then close it."""

    async def script(peer):
        for answer in answers:
            if not await peer.request():
                return
            await peer.send(answer)

    return script


@dataclass
class Server:
    """Listen, and let the n-th script talk to the n-th connection; the last one talks to all others."""

    scripts: list
    tls: ssl.SSLContext | None = None
    accepted: int = 0
    open: int = 0
    port: int = 0
    requests: list = field(default_factory=list)

    @property
    def origin(self):
        return Origin("https" if self.tls else "http", "127.0.0.1", self.port)

    async def listen(self, nursery):
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.port = listeners[0].socket.getsockname()[1]
        nursery.start_soon(trio.serve_listeners, self._talk, listeners)
        return self

    async def _talk(self, stream):
        self.accepted += 1
        self.open += 1
        number = self.accepted
        talking = trio.SSLStream(stream, self.tls, server_side=True, https_compatible=True) if self.tls else stream
        script = self.scripts[min(number, len(self.scripts)) - 1]
        try:
            await script(Peer(self, talking, stream.socket, number))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has hung up, or TLS was refused: the test looks at the client
        finally:
            self.open -= 1
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(stream)


def request(server, body=b"{}", *, method=b"POST", timeout=5.0, host=None, headers=()):
    origin = server.origin if host is None else server.origin._replace(host=host)
    return WireRequest(origin, b"/path", ((b"host", b"loopback"), *headers), body, timeout, method)


async def whole(response):
    """Read a response to its end and give the connection back."""
    body = b""
    while data := await response.receive():
        body += data
    response.release()
    return body


async def ask(wire, server, body=b"{}", **options):
    """Return status and body of a whole exchange."""
    response = await wire.send(request(server, body, **options))
    return response.status, await whole(response)
