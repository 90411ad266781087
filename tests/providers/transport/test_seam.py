"""The seam: other transports of httpx2's kind are told of, and closed, as our own pool is."""

import gzip
import sys
import types

import httpx2
import pytest
import trio
import trio.testing

from pipeline_engine.providers.transport import Origin, PoolTransport, SeamWire, WireRequest, open_wire
from tests.providers.transport.loopback import CHUNKED, END, OK, answer_ok, answering, ask, request, whole

settled = trio.testing.wait_all_tasks_blocked
HEADERS = ((b"host", b"host.example"), (b"x-api-key", b"key"))
ASKED = WireRequest(Origin("https", "host.example", 443), b"/path?a=b", HEADERS, b"{}", 7.0)


class Body(httpx2.AsyncByteStream):
    """Yield pieces, wait or raise, and know how it was closed."""

    def __init__(self, *pieces, closing=0.0):
        self._pieces = pieces
        self._closing = closing
        self.taken = 0
        self.closed = 0

    async def __aiter__(self):
        for piece in self._pieces:
            self.taken += 1
            if isinstance(piece, Exception):
                raise piece
            if piece is None:
                await trio.sleep_forever()
            yield piece

    async def aclose(self):
        await trio.sleep(self._closing)
        self.closed += 1


def over(answer):
    """Return a wire over a transport that answers with this."""
    return open_wire(httpx2.MockTransport(answer))


def streaming(body, **options):
    return over(lambda _request: httpx2.Response(200, stream=body, **options))


def test_our_own_pool_needs_no_seam():
    """The quick way must not lead through the slow one."""
    pool = PoolTransport()

    assert open_wire(pool) is pool
    assert isinstance(open_wire(None), PoolTransport)
    assert isinstance(open_wire(httpx2.MockTransport(lambda _request: httpx2.Response(200))), SeamWire)


async def test_a_foreign_transport_gets_the_same_request():
    """A test with a `MockTransport` must see what a provider would see."""
    seen = []

    def answer(request):
        seen.append((request.method, str(request.url), request.headers.raw, request.content, request.extensions))
        return httpx2.Response(201, headers={"X-Name": "value"}, content=b"hello")

    response = await over(answer).send(ASKED)
    headers, body = response.headers, await whole(response)

    method, url, raw, content, extensions = seen[0]
    assert (method, url, content) == ("POST", "https://host.example/path?a=b", b"{}")
    assert sorted(raw) == sorted([*HEADERS, (b"Content-Length", b"2")])
    assert extensions["timeout"] == {"connect": 7.0, "read": None, "write": None, "pool": None}
    assert (response.status, dict(headers)[b"x-name"], body) == (201, b"value", b"hello")
    assert (response.connect_seconds, response.replays) == (None, 0)


async def test_bodies_are_not_inflated():
    """A decompression bomb is the client's to bound, which it cannot if it is inflated before."""
    packed = gzip.compress(b"x" * 1000)
    response = await streaming(Body(packed), headers={"content-encoding": "gzip"}).send(ASKED)

    assert await whole(response) == packed


async def test_a_body_read_to_its_end_is_closed_there():
    """The connection goes back before the reply is parsed."""
    body = Body(b"hel", b"", b"lo")
    response = await streaming(body).send(ASKED)
    pieces = [await response.receive() for _ in range(4)]
    closed = body.closed
    response.release()
    await response.aclose()

    assert (pieces, closed, body.closed) == ([b"hel", b"lo", b"", b""], 1, 1)


async def test_the_short_rest_of_a_released_stream_is_read():
    """Over a stock transport that is what keeps its connection."""
    body = Body(b"[DONE]", b"rest")
    response = await streaming(body).send(ASKED)
    await response.receive()
    response.release()
    await response.aclose()

    assert (body.taken, body.closed) == (2, 1)


async def test_the_rest_of_a_closed_stream_is_not_read():
    """Whoever closes wants the server to stop."""
    body = Body(b"hello", b"rest")
    response = await streaming(body).send(ASKED)
    await response.receive()
    response.close()
    await response.aclose()
    await response.aclose()

    assert (body.taken, body.closed) == (1, 1)


async def test_a_long_rest_is_not_read():
    """It may never end."""
    body = Body(*[b"x" * 1024] * 1000)
    response = await streaming(body).send(ASKED)
    await response.receive()
    response.release()
    await response.aclose()

    assert (body.taken <= 70, body.closed) == (True, 1)


async def test_a_rest_that_does_not_come_is_waited_for_half_a_second(virtual_clock):
    """That is the most a stream can cost its caller."""
    body = Body(b"[DONE]", None)
    response = await streaming(body).send(ASKED)
    await response.receive()
    response.release()
    started = trio.current_time()
    await response.aclose()

    assert (trio.current_time() - started, body.closed) == (0.5, 1)


async def test_a_cancelled_caller_still_closes_the_response(virtual_clock):
    """Otherwise a stock pool loses a connection with each cancelled call."""
    body = Body(b"hello", None)
    response = await streaming(body).send(ASKED)
    with trio.move_on_after(3) as scope:
        try:
            while await response.receive():
                pass
        finally:
            await response.aclose()

    assert (scope.cancelled_caught, body.closed) == (True, 1)


async def test_closing_is_waited_for_a_second_at_most(virtual_clock):
    """A transport that hangs must not hang the run."""
    body = Body(b"hello", closing=60)
    response = await streaming(body).send(ASKED)
    started = trio.current_time()
    await response.aclose()

    assert (trio.current_time() - started, body.closed) == (1.0, 0)


async def test_an_error_in_the_body_closes_the_response_and_stays_itself():
    """Its cause says what the system said."""
    broken = httpx2.ReadError("broken")
    broken.__cause__ = ConnectionResetError()
    body = Body(b"hello", broken)
    response = await streaming(body).send(ASKED)
    with pytest.raises(httpx2.ReadError) as error:
        await whole(response)

    assert (error.value is broken, body.closed) == (True, 1)
    assert isinstance(error.value.__cause__, ConnectionResetError)


async def test_an_error_instead_of_an_answer_stays_itself():
    """The same before the head."""
    broken = httpx2.ConnectError("no")

    def refuse(_request):
        raise broken

    with pytest.raises(httpx2.ConnectError) as error:
        await over(refuse).send(ASKED)

    assert (error.value is broken, error.value.__cause__) == (True, None)


async def test_the_transport_is_left_to_whoever_gave_it():
    """It may serve others."""

    class Transport(httpx2.AsyncBaseTransport):
        closed = 0

        async def aclose(self):
            self.closed += 1

    transport = Transport()
    await open_wire(transport).aclose()

    assert transport.closed == 0


# Over the stock transport


@pytest.fixture
async def stock():
    async with httpx2.AsyncHTTPTransport(trust_env=False) as transport:
        yield open_wire(transport)


@pytest.mark.parametrize("answer", [OK, CHUNKED + b"2\r\nok\r\n" + END])
async def test_the_stock_transport_keeps_its_connection(stock, serve, answer):
    """Proxies need it, and are slow enough already."""
    server = await serve(answering(*[answer] * 10), answer_ok)
    answers = [await ask(stock, server) for _ in range(10)]

    assert (answers, server.accepted) == ([(200, b"ok")] * 10, 1)


async def test_the_stock_transport_keeps_its_connection_behind_a_terminal_marker(stock, serve):
    """This is what its released streams are read to the end for."""

    async def stream(peer):
        while await peer.request():
            await peer.send(CHUNKED + b"6\r\n[DONE]\r\n")
            await settled()
            await peer.send(END)

    server = await serve(stream)
    for _ in range(10):
        response = await stock.send(request(server))
        assert await response.receive() == b"[DONE]"
        response.release()
        await response.aclose()

    assert server.accepted == 1


@pytest.mark.parametrize("wire", ["pool", "stock"])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"", httpx2.ReadError),
        (b"HTTP/1.1 20", httpx2.ReadError),
        (b"garbage\r\n\r\n", httpx2.RemoteProtocolError),
        (OK[:-1], httpx2.RemoteProtocolError),
    ],
)
async def test_both_ways_call_a_failure_by_the_same_name(stock, serve, wire, answer, expected):
    """Whoever needs a proxy reads the same messages."""
    server = await serve(answering(answer))
    pool = PoolTransport()
    with pytest.raises(expected) as error:
        await ask({"pool": pool, "stock": stock}[wire], server)

    assert type(error.value) is expected
    await pool.aclose()


# Over httpx


async def test_a_transport_of_httpx_gets_its_own_requests_and_its_errors_are_translated(monkeypatch):
    """Users have such transports still; httpx itself is not installed with this package."""
    httpx = types.ModuleType("httpx")
    httpx.URL, httpx.TransportError = httpx2.URL, type("TransportError", (Exception,), {"__module__": "httpx"})
    httpx.Request = type("Request", (httpx2.Request,), {})
    too_late = type("ConnectTimeout", (httpx.TransportError,), {"__module__": "httpx"})("too late")
    monkeypatch.setitem(sys.modules, "httpx", httpx)
    base = type("AsyncBaseTransport", (), {"__module__": "httpx._transports.base"})
    asked = []

    class Transport(base):
        async def handle_async_request(self, request):
            asked.append(type(request))
            raise too_late

    with pytest.raises(httpx2.ConnectTimeout, match=r"^too late$") as error:
        await open_wire(Transport()).send(ASKED)

    assert (asked, error.value.__cause__) == ([httpx.Request], too_late)
