"""Exchanges over real sockets on the loopback, with both parsers: what is kept, replayed, refused and closed."""

import errno
from contextlib import aclosing

import httpx2
import pytest
import trio
import trio.testing

from pipeline_engine.providers.transport import PoolStatistics, PoolTransport
from tests.providers.transport.loopback import CHUNKED, END, OK, answer_ok, answering, ask, request, whole

settled = trio.testing.wait_all_tasks_blocked


async def test_one_connection_carries_all_requests_of_a_sequence(pool, serve):
    """Each new connection costs a handshake, which is more than the request."""
    server = await serve(answer_ok)
    answers = [await ask(pool, server, b"%d" % number) for number in range(20)]

    assert answers == [(200, b"ok")] * 20
    assert [body for _, _, body in server.requests] == [b"%d" % number for number in range(20)]
    assert (server.accepted, pool.statistics()) == (1, PoolStatistics(1, 1, 1, 19, 0))
    assert repr(pool) == "<PoolTransport: 1 open, 1 of them idle>"


async def test_the_connection_given_back_last_is_taken_first(pool, serve):
    """A few stay in use and the others can expire: that is how a pool shrinks after a rush."""
    server = await serve(answer_ok)
    responses = [await pool.send(request(server)) for _ in range(3)]
    for response in responses:
        await whole(response)
    for _ in range(5):
        await ask(pool, server)

    assert [number for number, _, _ in server.requests] == [1, 2, 3, 3, 3, 3, 3, 3]


async def test_the_request_is_sent_as_it_was_given(pool, serve):
    """A header that is missing, or there twice, is a refusal by the provider."""
    server = await serve(answer_ok)
    await ask(pool, server, b"body", headers=((b"authorization", b"Bearer key"),))
    await ask(pool, server, b"", method=b"GET")

    assert [head for _, head, _ in server.requests] == [
        b"POST /path HTTP/1.1\r\nhost: loopback\r\nauthorization: Bearer key\r\ncontent-length: 4",
        b"GET /path HTTP/1.1\r\nhost: loopback",
    ]


async def test_what_it_took_to_connect_is_known_of_new_connections_only(pool, serve):
    """A trace that shows a handshake where there was none misleads whoever reads it."""
    server = await serve(answer_ok)
    first = await pool.send(request(server))
    await whole(first)
    second = await pool.send(request(server))
    await whole(second)

    assert 0 < first.connect_seconds < 1
    assert (second.connect_seconds, first.replays, second.replays) == (None, 0, 0)


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_kept_connection_that_dies_unanswered_is_replaced_once(pool, serve, how):
    """Servers close what is idle when they like, also while a request is under way: nobody's failure."""

    async def close_upon_the_second_request(peer):
        await peer.request()
        await peer.send(OK)
        await peer.request()
        if how == "RST":
            peer.reset()

    server = await serve(close_upon_the_second_request, answer_ok)
    await ask(pool, server)
    response = await pool.send(request(server, b"again"))

    assert (response.status, response.replays, await whole(response)) == (200, 1, b"ok")
    assert response.connect_seconds > 0
    assert [(number, body) for number, _, body in server.requests] == [(1, b"{}"), (1, b"again"), (2, b"again")]
    assert pool.statistics() == PoolStatistics(1, 1, 2, 0, 1)


async def test_a_replay_trusts_no_other_kept_connection(pool, serve):
    """If one is dead, so are the others: the server was restarted."""

    async def close_upon_the_second_request(peer):
        await peer.request()
        await peer.send(OK)
        await peer.request()

    server = await serve(close_upon_the_second_request, close_upon_the_second_request, answer_ok)
    first, second = [await pool.send(request(server)) for _ in range(2)]
    await whole(first)
    await whole(second)
    response = await pool.send(request(server))

    assert ([number for number, _, _ in server.requests], response.replays) == ([1, 2, 2, 3], 1)


async def test_a_replay_that_dies_too_is_an_error_that_counts_it(pool, serve):
    """One replay is courtesy; a second one would be a retry that nobody has allowed."""

    async def answer_one(peer):
        await peer.request()
        await peer.send(OK)
        await peer.request()

    async def answer_none(peer):
        await peer.request()

    server = await serve(answer_one, answer_none)
    await ask(pool, server)
    with pytest.raises(httpx2.ReadError, match=r"^the server ended the connection before the response began$") as error:
        await pool.send(request(server))

    assert (error.value.replays, server.accepted, pool.statistics()) == (1, 2, PoolStatistics(0, 0, 2, 0, 1))


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_a_kept_connection_that_dies_after_a_byte_is_an_error(pool, serve, said):
    """With the first byte the request was taken, and may be billed: to send it again is not ours to decide."""
    server = await serve(answering(OK, said), answer_ok)
    await ask(pool, server)
    with pytest.raises(httpx2.ReadError):
        await pool.send(request(server))

    assert (server.accepted, pool.statistics()) == (1, PoolStatistics(0, 0, 1, 0, 0))


@pytest.mark.parametrize("how", ["FIN", "RST"])
async def test_a_new_connection_that_dies_unanswered_is_an_error(pool, serve, how):
    """A server that takes a request and dies may have done the work."""

    async def die(peer):
        await peer.request()
        if how == "RST":
            peer.reset()

    server = await serve(die)
    with pytest.raises(httpx2.ReadError) as error:
        await pool.send(request(server))

    assert (server.accepted, len(server.requests), pool.statistics().open) == (1, 1, 0)
    assert isinstance(error.value.__cause__, ConnectionResetError if how == "RST" else type(None))


async def test_a_connection_that_has_died_while_idle_is_not_used(pool, serve):
    """It is noticed before anything is sent, so nothing has to be replayed."""
    server = await serve(answering(OK), answer_ok)
    await ask(pool, server)
    await settled(0.01)
    response = await pool.send(request(server))

    assert (response.replays, server.accepted, await whole(response)) == (0, 2, b"ok")


async def test_an_answer_that_nobody_asked_for_is_never_given_to_the_next_request(pool, serve):
    """It would be another document's answer."""

    async def answer_twice(peer):
        await peer.request()
        await peer.send(OK)
        await peer.send(OK.replace(b"ok", b"no"))
        await peer.hung_up()

    server = await serve(answer_twice, answer_ok)
    await ask(pool, server)
    await settled(0.01)

    assert await ask(pool, server) == (200, b"ok")
    assert server.accepted == 2


@pytest.mark.parametrize(
    ("answer", "body", "kept"),
    [
        (OK, b"ok", 1),
        (CHUNKED + b"2\r\nok\r\n" + END, b"ok", 1),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n" + OK, b"ok", 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b"", 1),
        (b"HTTP/1.1 200 OK\r\n\r\nok", b"ok", 0),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok", b"ok", 0),
    ],
)
async def test_a_response_of_any_framing_is_read_whole(pool, serve, answer, body, kept):
    """Providers, proxies and local servers use all of them."""
    ended = trio.Event()

    async def script(peer):
        await peer.request()
        await peer.send(answer)
        if kept:
            await ended.wait()

    server = await serve(script)
    response = await pool.send(request(server))

    assert await whole(response) == body
    assert (pool.statistics().idle, pool.statistics().open) == (kept, kept)
    ended.set()


async def test_a_response_in_slices_of_a_byte_is_the_same(pool, serve):
    """The parsers are fed by the socket here, and by nothing else."""
    answer = CHUNKED + b"5\r\nhello\r\n" + END

    async def drip(peer):
        await peer.request()
        for at in range(len(answer)):
            await peer.send(answer[at : at + 1])
            await trio.testing.wait_all_tasks_blocked()
        await peer.hung_up()

    server = await serve(drip)

    assert await ask(pool, server) == (200, b"hello")
    assert pool.statistics().idle == 1


async def test_the_response_to_head_leaves_a_usable_connection(pool, serve):
    """`httpx2.AsyncClient.head` is allowed as well."""
    server = await serve(answering(OK.removesuffix(b"ok"), OK))

    assert await ask(pool, server, b"", method=b"HEAD") == (200, b"")
    assert await ask(pool, server) == (200, b"ok")
    assert server.accepted == 1


@pytest.mark.parametrize(
    "half", [OK[:-1], CHUNKED + b"5\r\nhel", CHUNKED + b"5\r\nhello\r\n", CHUNKED + b"5\r\nhello\r\n0\r\n"]
)
async def test_a_body_that_is_cut_short_is_an_error(pool, serve, half):
    """Half an answer must not be taken for an answer."""
    server = await serve(answering(half))
    response = await pool.send(request(server))
    with pytest.raises(httpx2.RemoteProtocolError, match="in the middle of its body"):
        await whole(response)

    assert pool.statistics().open == 0


async def test_a_reset_in_the_body_is_an_error_with_its_cause(pool, serve):
    """Whoever classifies it needs to see what the system said."""

    async def break_off(peer):
        await peer.request()
        await peer.send(OK[:-1])
        await settled(0.01)
        peer.reset()

    server = await serve(break_off)
    response = await pool.send(request(server))
    with pytest.raises(httpx2.ReadError) as error:
        await whole(response)

    assert isinstance(error.value.__cause__, ConnectionResetError)
    assert pool.statistics().open == 0


@pytest.mark.parametrize("flood", [b"x: y\r\n" * 300, b"x: " + b"y" * 2**20 + b"\r\n"])
async def test_a_flood_of_headers_is_refused(pool, serve, flood):
    """A broken server must not fill our memory."""
    server = await serve(answering(b"HTTP/1.1 200 OK\r\n" + flood + b"\r\n"))
    with pytest.raises(httpx2.RemoteProtocolError):
        await pool.send(request(server))

    assert pool.statistics().open == 0


async def test_a_large_body_is_sent_whole(pool, serve):
    """More than a socket holds has to wait for the server, in pieces."""
    server = await serve(answer_ok)
    body = bytes(range(256)) * 40_000

    assert await ask(pool, server, body) == (200, b"ok")
    assert await ask(pool, server) == (200, b"ok")
    assert (server.requests[0][2] == body, server.accepted) == (True, 1)


@pytest.mark.parametrize("then", ["closes", "resets", "waits"])
async def test_a_refusal_before_the_whole_request_was_sent_is_read(pool, serve, then):
    """Otherwise a document that is too long, or a wrong key, looks like a broken network and is tried again."""
    refusal = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 8\r\n\r\ntoo long"

    async def refuse(peer):
        await peer.stream.receive_some(1000)
        await peer.send(refusal)
        if then == "resets":
            await settled(0.01)
            peer.reset()
        elif then == "waits":
            await trio.sleep_forever()

    server = await serve(refuse, answer_ok)

    assert await ask(pool, server, b"x" * 20_000_000) == (413, b"too long")
    assert pool.statistics().open == 0
    assert await ask(pool, server) == (200, b"ok")


async def test_interim_responses_do_not_stop_an_upload(pool, serve):
    """A server that says `100 Continue` wants the rest."""

    async def encourage(peer):
        await peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await settled(0.01)
        await answer_ok(peer)

    server = await serve(encourage)

    assert await ask(pool, server, b"x" * 20_000_000) == (200, b"ok")
    assert pool.statistics().idle == 1


async def test_an_upload_that_breaks_unanswered_says_so(pool, serve):
    """The request was not received whole."""

    async def hang_up(peer):
        await peer.stream.receive_some(1000)
        peer.reset()

    server = await serve(hang_up)
    with pytest.raises(httpx2.WriteError, match=r"^the connection broke while the request was sent$") as error:
        await pool.send(request(server, b"x" * 20_000_000))

    assert isinstance(error.value.__cause__, ConnectionError)
    assert pool.statistics().open == 0


# What is left behind a response


async def test_the_end_of_a_stream_is_read_in_the_background(pool, serve):
    """Whoever stops at the terminal marker leaves a few bytes, and would pay for them with a handshake."""
    may_end = trio.Event()

    async def stream(peer):
        await peer.request()
        await peer.send(CHUNKED + b"6\r\n[DONE]\r\n")
        await may_end.wait()
        await peer.send(END)
        await answer_ok(peer)

    server = await serve(stream)
    response = await pool.send(request(server))
    marker = await response.receive()
    response.release()
    at_once = pool.statistics()
    may_end.set()
    await settled(0.01)

    assert (marker, at_once.idle, at_once.open, pool.statistics().idle) == (b"[DONE]", 0, 1, 1)
    assert await ask(pool, server) == (200, b"ok")
    assert server.accepted == 1


async def test_the_end_of_a_stream_that_is_there_is_read_at_once(pool, serve):
    """The next call may follow immediately."""

    async def stream(peer):
        await peer.request()
        await peer.send(CHUNKED + b"6\r\n[DONE]\r\n")
        await peer.send(END)
        await answer_ok(peer)

    server = await serve(stream)
    response = await pool.send(request(server))
    await response.receive()
    await settled(0.01)
    response.release()

    assert pool.statistics().idle == 1


async def test_a_long_rest_costs_the_connection(pool, serve):
    """To read what nobody wants can cost more than a handshake, and may never end."""

    async def go_on(peer):
        await peer.request()
        await peer.send(CHUNKED + b"6\r\n[DONE]\r\n")
        while True:
            await peer.send(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")

    server = await serve(go_on)
    response = await pool.send(request(server))
    await response.receive()
    response.release()
    while pool.statistics().open:
        await trio.lowlevel.checkpoint()

    assert pool.statistics() == PoolStatistics(0, 0, 1, 0, 0)


async def test_a_rest_that_does_not_come_costs_the_connection_after_half_a_second(pool, serve, still_clock):
    """Meanwhile a descriptor is held for nothing."""

    async def hesitate(peer):
        await peer.request()
        await peer.send(CHUNKED + b"6\r\n[DONE]\r\n")
        await peer.hung_up()

    server = await serve(hesitate)
    response = await pool.send(request(server))
    await response.receive()
    response.release()
    await settled(0.01)
    still_clock.jump(0.4)
    await settled(0.01)
    before = pool.statistics().open
    still_clock.jump(0.2)
    await settled(0.01)

    assert (before, pool.statistics().open, server.open) == (1, 0, 0)


async def test_a_hundred_streams_in_a_row_need_one_connection(pool, serve):
    """This is what the end of a stream is read for."""

    async def stream(peer):
        while await peer.request():
            await peer.send(CHUNKED + b"6\r\n[DONE]\r\n")
            await peer.send(END)

    server = await serve(stream)
    for _ in range(100):
        response = await pool.send(request(server))
        assert await response.receive() == b"[DONE]"
        response.release()
        while not pool.statistics().idle:
            await trio.lowlevel.checkpoint()

    assert (server.accepted, pool.statistics()) == (1, PoolStatistics(1, 1, 1, 99, 0))


async def test_close_ends_the_connection_at_once(pool, serve):
    """A server goes on computing, and billing, until it notices that nobody listens."""

    async def stream(peer):
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.hung_up()

    server = await serve(stream)
    response = await pool.send(request(server))
    response.close()
    response.close()
    response.release()
    await response.aclose()
    await settled(0.01)

    assert (server.open, pool.statistics().open) == (0, 0)
    with pytest.raises(trio.ClosedResourceError):
        await response.receive()


async def test_aclose_after_release_leaves_the_connection(pool, serve):
    """The client closes in any case; what it has given back is no longer its own."""
    server = await serve(answer_ok)
    response = await pool.send(request(server))
    await whole(response)
    await response.aclose()

    assert pool.statistics().idle == 1


# The pool and time


async def test_idle_connections_expire(pool, serve, still_clock):
    """Descriptors go back after a rush, though nobody calls any more."""
    server = await serve(answer_ok)
    first, second = [await pool.send(request(server)) for _ in range(2)]
    await whole(first)
    await settled(0.01)
    still_clock.jump(10)
    await whole(second)
    await settled(0.01)
    counts = []
    for seconds in (19.9, 0.2, 9.7, 0.5):
        still_clock.jump(seconds)
        await settled(0.01)
        counts.append((pool.statistics().idle, server.open))

    assert counts == [(2, 2), (1, 1), (1, 1), (0, 0)]


async def test_the_reaper_lives_only_while_something_is_idle(pool, serve, still_clock):
    """A task that sleeps for ever would drive a virtual clock for ever."""
    server = await serve(answer_ok)
    await ask(pool, server)
    await settled(0.01)
    still_clock.jump(31)
    await settled(0.01)

    assert not pool._pool._is_reaping
    assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")


async def test_an_expired_connection_is_not_taken_before_the_reaper_comes(pool, serve, still_clock):
    """What stands in between may have forgotten it: the request would vanish without an error."""
    server = await serve(answer_ok)
    await ask(pool, server)
    still_clock.jump(30)
    await ask(pool, server)

    assert server.accepted == 2


def test_kept_connections_are_closed_when_the_run_ends(parser):
    """A pool outlives its trio run; sockets that nobody waits for any more must not."""
    from tests.providers.transport.loopback import Server

    pool = PoolTransport(parser=parser)
    clocks = []

    async def run():
        async with trio.open_nursery() as nursery:
            server = await Server([answer_ok]).listen(nursery)
            clocks.append(await ask(pool, server))
            clocks.append(pool.statistics().idle)
            nursery.cancel_scope.cancel()

    trio.run(run)
    between = pool.statistics()
    trio.run(run)

    assert (between.open, pool.statistics().open, pool.statistics().opened) == (0, 0, 2)
    assert clocks == [(200, b"ok"), 1, (200, b"ok"), 1]


async def test_aclose_ends_what_is_in_use_as_well(pool, serve, nursery):
    """Whoever closes an engine does not want to wait for a model."""

    async def be_silent(peer):
        await peer.request()
        await peer.hung_up()

    server = await serve(be_silent)
    raised = []

    async def wait_for_an_answer():
        try:
            await pool.send(request(server))
        except httpx2.TransportError as error:
            raised.append(error)

    nursery.start_soon(wait_for_an_answer)
    await settled(0.01)
    await pool.aclose()
    await settled(0.01)

    assert ([type(error) for error in raised], server.open) == ([httpx2.ReadError], 0)


async def test_a_response_of_a_closed_pool_is_an_error(pool, serve):
    """It may be read by a task that knows nothing of the closing."""

    async def stream(peer):
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.hung_up()

    server = await serve(stream)
    response = await pool.send(request(server))
    await response.receive()
    await pool.aclose()
    with pytest.raises(httpx2.ReadError):
        await response.receive()

    assert await pool.send(request(server)) is not response


async def test_a_virtual_clock_jumps_over_idle_connections(pool, serve, virtual_clock):
    """Tests of whole pipelines jump for hours, with connections kept or not."""
    server = await serve(answer_ok)
    answer = await ask(pool, server, timeout=float("inf"))
    await trio.sleep(3600)

    assert (answer, pool.statistics().open) == ((200, b"ok"), 0)


async def test_beyond_the_cap_a_connection_is_refused_as_the_system_would(pool, serve, monkeypatch):
    """The journal and the logs need descriptors too: a pool that takes the last one breaks them."""
    server, other = await serve(answer_ok), await serve(answer_ok)
    monkeypatch.setattr("pipeline_engine.providers.transport.pool.max_connections", lambda: 2)
    first, second = [await pool.send(request(server)) for _ in range(2)]
    with pytest.raises(httpx2.ConnectError) as error:
        await pool.send(request(server))
    await whole(first)
    elsewhere = await ask(pool, other)

    assert (type(error.value.__cause__), error.value.__cause__.errno) == (OSError, errno.EMFILE)
    assert (elsewhere, pool.statistics().open, await whole(second)) == ((200, b"ok"), 2, b"ok")


# As a transport of httpx2


async def test_an_httpx2_client_works_with_it(pool, serve):
    """Users may put it under a client of their own."""
    server = await serve(answering(OK, CHUNKED + b"2\r\n{}\r\n" + END, OK), answer_ok)
    address = f"http://127.0.0.1:{server.port}/path?query=1"
    async with httpx2.AsyncClient(transport=pool, timeout=5) as client:
        first = await client.post(address, json={"a": 1})
        second = await client.get(address)
        async with client.stream("GET", address) as third:
            pass
        counts = pool.statistics()

    assert (first.status_code, first.text, second.json(), third.status_code) == (200, "ok", {}, 200)
    assert first.headers["Content-Length"] == "2"
    assert first.http_version == "HTTP/1.1"
    assert [head.split(b"\r\n")[0] for _, head, _ in server.requests[:2]] == [
        b"POST /path?query=1 HTTP/1.1",
        b"GET /path?query=1 HTTP/1.1",
    ]
    assert server.requests[0][2] == b'{"a":1}'
    assert server.requests[0][1].lower().count(b"content-length") == 1
    assert (server.accepted, counts.open) == (1, 1)


async def test_an_httpx2_client_that_leaves_a_stream_closes_its_connection(pool, serve):
    """What is left may be long, or never end."""

    async def stream(peer):
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.hung_up()

    server = await serve(stream)
    async with (
        httpx2.AsyncClient(transport=pool) as client,
        client.stream("GET", f"http://127.0.0.1:{server.port}/") as response,
        aclosing(response.aiter_raw()) as pieces,
    ):
        first = await anext(pieces)
    await settled(0.01)

    assert (first, server.open) == (b"hello", 0)


async def test_other_schemes_are_refused(pool):
    """A file is not fetched by the thing that carries keys."""
    async with httpx2.AsyncClient(transport=pool) as client:
        with pytest.raises(httpx2.UnsupportedProtocol):
            await client.get("ftp://127.0.0.1/")


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_an_answer_and_nothing_more(pool, serve, status):
    """Whoever follows it hands the key to somebody else."""
    elsewhere = await serve(answer_ok)
    location = f"http://127.0.0.1:{elsewhere.port}/"
    server = await serve(
        answering(f"HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode())
    )

    assert await ask(pool, server) == (status, b"")
    assert elsewhere.accepted == 0


async def test_proxies_of_the_environment_are_not_asked(pool, serve, monkeypatch):
    """A variable of the shell must not decide who reads keys and documents."""
    proxy, server = await serve(answer_ok), await serve(answer_ok)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    await ask(pool, server)

    assert (proxy.accepted, server.accepted) == (0, 1)
