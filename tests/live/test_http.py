"""The small server: who is answered, who is refused, and who is cut off."""

from contextlib import asynccontextmanager

import pytest
import trio

from pipeline_engine.live.http import Events, Reply, Request, listen, serve_connections


@asynccontextmanager
async def served(answer):
    """Serve on a port of its own, and give what sends bytes there and returns what comes back."""
    listener = await listen(0)
    port = listener.socket.getsockname()[1]

    async def ask(data, host=None):
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        async with stream:
            await stream.send_all(data.replace(b"HOST", (host or f"127.0.0.1:{port}").encode()))
            received = b""
            with trio.fail_after(30):
                try:
                    async for part in stream:
                        received += part
                except trio.BrokenResourceError:
                    pass
            return received

    ask.port = port
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_connections, listener, answer)
        yield ask
        nursery.cancel_scope.cancel()


async def hello(request):
    return Reply(f"{request.path} {dict(request.query)}".encode())


def status(received):
    return int(received.split(b" ", 2)[1]) if received else None


async def test_a_request_is_answered_with_headers_that_forbid_every_other_use():
    """A page that another site could read, frame or run would be a hole in the machine."""
    async with served(hello) as ask:
        received = await ask(b"GET /a?x=1&y=%20 HTTP/1.1\r\nHost: HOST\r\n\r\n")

    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b"/a {'x': '1', 'y': ' '}"
    assert b"content-security-policy: default-src 'none'; frame-ancestors 'none'" in head
    assert b"x-content-type-options: nosniff" in head
    assert b"cross-origin-resource-policy: same-origin" in head
    assert b"cache-control: no-store" in head
    assert b"access-control" not in head.lower()


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "localhost", "", "127.0.0.1.evil.example"]
)
async def test_another_name_for_this_machine_is_not_served(host):
    """A site whose name resolves to 127.0.0.1 could read all documents (DNS rebinding)."""
    async with served(hello) as ask:
        received = await ask(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())

    assert status(received) == 421


async def test_this_machine_may_be_called_localhost():
    """That is what many people type."""
    async with served(hello) as ask:
        received = await ask(b"GET / HTTP/1.1\r\nHost: HOST\r\n\r\n", host=f"LocalHost:{ask.port}")

    assert status(received) == 200


@pytest.mark.parametrize(
    ("request_head", "expected"),
    [
        (b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n", 405),
        (b"DELETE / HTTP/1.1\r\nHost: HOST\r\n\r\n", 405),
        (b"OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n", 405),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: HOST\r\n\r\n", 405),
        (b"POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 5\r\n\r\nhello", 413),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 999999999\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nOrigin: https://evil.example\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nOrigin: null\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nSec-Fetch-Site: same-site\r\nSec-Fetch-Mode: cors\r\n\r\n", 403),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n", 400),
        (b"GET http://evil.example/ HTTP/1.1\r\nHost: HOST\r\n\r\n", 400),
        (b"GET //evil.example/ HTTP/1.1\r\nHost: HOST\r\n\r\n", 400),
        (b"GET /?" + b"a=1&" * 50 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", 400),
        (b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nX: " + b"a" * 40_000, 431),
        (b"hello there\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: HOST\r\nBad Header\r\n\r\n", 400),
    ],
)
async def test_what_is_no_plain_get_is_refused(request_head, expected):
    """Nothing can be changed here, and nobody needs more than an address to ask for something."""
    async with served(hello) as ask:
        assert status(await ask(request_head)) == expected


async def test_a_head_is_answered_without_its_body():
    """A tool that only looks whether a page is there gets no page."""
    async with served(hello) as ask:
        received = await ask(b"HEAD / HTTP/1.1\r\nHost: HOST\r\n\r\n")

    assert b"content-length: 4" in received
    assert received.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "fetch",
    [
        b"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty",
        b"Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document",
        b"Sec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document",
    ],
)
async def test_our_own_pages_and_links_that_people_follow_are_answered(fetch):
    """A browser says of every request who asks: an image in another site's page is refused, a bookmark is not."""
    async with served(hello) as ask:
        assert status(await ask(b"GET / HTTP/1.1\r\nHost: HOST\r\n" + fetch + b"\r\n\r\n")) == 200


async def test_a_head_of_events_is_answered_without_any():
    """Asking what is there must not end the server."""

    async def pieces():
        yield b"data: now\n\n"

    async def answer(_request):
        return Events(pieces())

    async with served(answer) as ask:
        received = await ask(b"HEAD / HTTP/1.1\r\nHost: HOST\r\n\r\n")
        again = await ask(b"GET / HTTP/1.1\r\nHost: HOST\r\n\r\n")

    assert (status(received), status(again)) == (200, 200)
    assert received.endswith(b"\r\n\r\n")
    assert b"data: now" in again


async def test_events_that_fail_end_nothing_but_themselves(caplog):
    """An open page whose journal is damaged must not close all the others."""

    async def pieces():
        yield b"data: now\n\n"
        raise RuntimeError("a damaged entry")

    async def answer(request):
        return Events(pieces()) if request.path == "/live" else Reply(b"fine")

    async with served(answer) as ask:
        broken = await ask(b"GET /live HTTP/1.1\r\nHost: HOST\r\n\r\n")
        good = await ask(b"GET / HTTP/1.1\r\nHost: HOST\r\n\r\n")

    assert b"data: now" in broken
    assert status(good) == 200
    assert "a damaged entry" in caplog.text


@pytest.mark.parametrize("key", ["a b&c=d#e?f", "ü/😀", "nul\0", "not-text-\udcff.md", "lone\ud800", "%2e", ""])
async def test_any_key_has_an_address(key):
    """A key is often a file's name, which need not even be text."""
    asked = Request("/document", {"key": key})
    received = []

    async def answer(request):
        received.append(request)
        return Reply(b"")

    async with served(answer) as ask:
        await ask(f"GET {asked.address} HTTP/1.1\r\nHost: HOST\r\n\r\n".encode())

    assert received == [asked]


async def test_a_page_that_fails_ends_nothing_but_itself(caplog):
    """A damaged entry of the journal must not end the view of all others."""

    async def answer(request):
        if request.path == "/bad":
            raise RuntimeError("secret detail")
        return Reply(b"fine")

    async with served(answer) as ask:
        bad = await ask(b"GET /bad HTTP/1.1\r\nHost: HOST\r\n\r\n")
        good = await ask(b"GET / HTTP/1.1\r\nHost: HOST\r\n\r\n")

    assert (status(bad), status(good)) == (500, 200)
    assert b"secret" not in bad
    assert "secret detail" in caplog.text


async def test_events_end_with_the_client_who_asked_for_them():
    """A tab that is closed must leave no reader of the journal behind."""
    ended = trio.Event()

    async def pieces():
        try:
            while True:
                yield b"data: now\n\n"
                await trio.sleep(0.01)
        finally:
            ended.set()

    async def answer(_request):
        return Events(pieces())

    async with served(answer) as ask:
        stream = await trio.open_tcp_stream("127.0.0.1", ask.port)
        async with stream:
            await stream.send_all(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{ask.port}\r\n\r\n".encode())
            received = await stream.receive_some()
            while b"data: now" not in received:
                received += await stream.receive_some()
        with trio.fail_after(10):
            await ended.wait()

    assert b"content-type: text/event-stream" in received


async def test_whoever_says_nothing_is_cut_off(monkeypatch):
    """A connection that is held open by nobody takes the place of somebody."""
    monkeypatch.setattr("pipeline_engine.live.http._REQUEST_SECONDS", 0.1)
    async with served(hello) as ask:
        assert await ask(b"GET / HTTP/1.1\r\nHos") == b""


async def test_there_is_an_end_to_the_connections_that_are_held(monkeypatch):
    """One program that opens a thousand connections must not take the machine's descriptors."""
    monkeypatch.setattr("pipeline_engine.live.http._MAX_CONNECTIONS", 3)
    async with served(hello) as ask:
        held = [await trio.open_tcp_stream("127.0.0.1", ask.port) for _ in range(3)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        refused = await ask(b"GET / HTTP/1.1\r\nHost: HOST\r\n\r\n")
        for stream in held:
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.05)
        answered = await ask(b"GET / HTTP/1.1\r\nHost: HOST\r\n\r\n")

    assert (status(refused), status(answered)) == (None, 200)


async def test_only_this_machine_can_reach_it():
    """The listener is bound to the loopback address, whatever the machine's others are."""
    listener = await listen(0)
    async with listener:
        assert listener.socket.getsockname()[0] == "127.0.0.1"
