"""One request, sent and received: against a fake transport, and against a real server on the loopback."""

import copy
import errno
import gzip
import json
import logging
import socket
import ssl
import traceback
from contextlib import asynccontextmanager

import httpx2
import pytest
import trio
import trio.testing

from pipeline_engine.errors import ProviderError, RejectedError, StreamTruncatedError, UnavailableError
from pipeline_engine.providers import Secret, client
from pipeline_engine.providers.adapters.adapter import Endpoint, Settings
from pipeline_engine.providers.adapters.openai_chat import ADAPTER
from pipeline_engine.values import Message, Request

KEY = "sk-canary-5f1d"
REQUEST = Request((Message("user", "Hi"),))
BODY = b'{"model":"m","messages":[{"role":"user","content":"Hi"}]}'
REPLY = b'{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}'
ADDRESS = "http://127.0.0.1:9/v1"


def opened(handler=None, *, base_url=ADDRESS, key=KEY, transport=None, **options):
    if handler is not None:
        transport = httpx2.MockTransport(handler)
    endpoint = Endpoint("openai:m", base_url, secret=Secret(key) if key else None)
    return client.HttpModel(endpoint, ADAPTER, Settings("m"), transport=transport, **options)


def answering(body=REPLY, status=200, headers=None):
    return opened(lambda _: httpx2.Response(status, headers=headers, content=body))


def raising(error):
    def handler(_):
        raise error

    return opened(handler)


async def failure(model, request=REQUEST):
    with pytest.raises(ProviderError) as caught:
        await model.complete(request)
    return caught.value


def answer(body=REPLY, status="200 OK", headers=""):
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


class Server:
    """Answer every connection's requests with the same bytes and remember what was asked."""

    def __init__(self, reply, *, is_closing=False):
        self.reply = reply
        self.is_closing = is_closing
        self.requests = []
        self.connections = 0
        self.asked = trio.Event()
        self.hung_up = trio.Event()
        self.base_url = ""

    async def handle(self, stream):
        self.connections += 1
        received = b""
        while chunk := await self.receive(stream):
            received += chunk
            head, blank, body = received.partition(b"\r\n\r\n")
            length = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
            if not blank or not length or len(body) < int(length[0]):
                continue
            self.requests.append(received)
            received = b""
            self.asked.set()
            await stream.send_all(self.reply)
            if self.is_closing:
                await stream.aclose()
                return
        self.hung_up.set()

    @staticmethod
    async def receive(stream):
        try:
            return await stream.receive_some()
        except trio.BrokenResourceError:  # a client that closes with our bytes unread resets the connection
            return b""


@asynccontextmanager
async def served(server):
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    server.base_url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/v1"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.handle, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def asked_over(server, request=REQUEST):
    """Ask a real server once and give back what came of it."""
    async with served(server):
        model = opened(base_url=server.base_url)
        try:
            return await model.complete(request)
        except ProviderError as error:
            return error
        finally:
            await model.aclose()


async def test_a_call_is_one_request_with_the_key_in_its_header():
    """The header is the only place where the key may be."""
    seen = []

    def handler(request):
        seen.append(request)
        return httpx2.Response(200, content=REPLY, headers={"X-Request-Id": "req_1"})

    completion = await opened(handler).complete(REQUEST)

    assert (completion.text, completion.request_id) == ("Hello", "req_1")
    assert len(seen) == 1
    assert (seen[0].method, str(seen[0].url)) == ("POST", f"{ADDRESS}/chat/completions")
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert seen[0].headers["accept-encoding"] == "identity"
    assert seen[0].content == BODY


async def test_without_a_key_no_authorization_is_sent():
    """Some local servers reject a header that they do not expect."""
    seen = []

    def handler(request):
        seen.append(request)
        return httpx2.Response(200, content=REPLY)

    await opened(handler, key=None).complete(REQUEST)

    assert "authorization" not in seen[0].headers


@pytest.mark.parametrize(
    ("model_timeout", "step_timeout", "sent"), [(None, None, 10.0), (3.0, None, 3.0), (3.0, 1.5, 1.5)]
)
async def test_the_connect_timeout_of_the_step_goes_first(model_timeout, step_timeout, sent):
    """And nothing but connecting is timed here: the rest belongs to the step's own scopes."""
    seen = []

    def handler(request):
        seen.append(request.extensions["timeout"])
        return httpx2.Response(200, content=REPLY)

    model = opened(handler, connect_timeout=model_timeout)
    await model.complete(Request(REQUEST.messages, connect_timeout=step_timeout))

    assert seen == [{"connect": sent, "read": None, "write": None, "pool": None}]


@pytest.mark.parametrize(
    ("error", "expected", "kind", "billed", "message"),
    [
        (
            httpx2.ConnectTimeout("x"),
            UnavailableError,
            "timeout",
            "no",
            f"could not be reached at {ADDRESS} within 10 s. Check the address, or raise Timeout(connect=…).",
        ),
        (
            httpx2.ConnectError("x"),
            UnavailableError,
            "connect",
            "no",
            f"cannot be reached at {ADDRESS}: no connection could be made. Check the address and the network.",
        ),
        (
            httpx2.ReadError("x"),
            UnavailableError,
            "server",
            "maybe",
            (
                f"was sent the request, but the connection to {ADDRESS} broke before it answered. "
                "The call may have been billed; try again."
            ),
        ),
        (
            httpx2.RemoteProtocolError("x"),
            UnavailableError,
            "bad_response",
            "maybe",
            (
                "answered with something that is no HTTP (x). "
                f"If it happens again, check that {ADDRESS} is the base URL of this provider's interface."
            ),
        ),
    ],
)
async def test_a_broken_connection_is_a_typed_error(error, expected, kind, billed, message):
    """Whether it was sent decides whether it may have been billed."""
    found = await failure(raising(error))

    assert (type(found), found.kind, found.billed) == (expected, kind, billed)
    assert str(found) == f"model 'openai:m' {message}"


def wrapped(cause):
    """Return `cause` as clients hand it on: wrapped twice, in a group."""
    error = httpx2.ConnectError("all attempts to connect failed")
    error.__cause__ = OSError("all attempts to connect failed")
    error.__cause__.__cause__ = ExceptionGroup("attempts", [cause])
    return error


@pytest.mark.parametrize(
    ("cause", "expected", "kind", "said"),
    [
        (
            OSError(errno.EMFILE, "x"),
            UnavailableError,
            "local",
            "this process has too many open files. Lower capacity=",
        ),
        (OSError(errno.ENFILE, "x"), UnavailableError, "local", "too many open files on this machine"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), UnavailableError, "connect", "Is the server running?"),
        (socket.gaierror(socket.EAI_NONAME, "x"), UnavailableError, "connect", "its host name is not known"),
        (ConnectionResetError(errno.ECONNRESET, "x"), UnavailableError, "connect", "the connection was reset"),
        (OSError(errno.ENETUNREACH, "x"), UnavailableError, "connect", "no connection could be made (ENETUNREACH)"),
        (ssl.SSLCertVerificationError("x"), RejectedError, "tls", "Check the address, its certificate"),
        (ssl.SSLEOFError("x"), UnavailableError, "connect", "no connection could be made"),
    ],
)
async def test_what_the_operating_system_said_is_found_under_the_clients_words(cause, expected, kind, said):
    """Running out of files looks like an outage of the provider, and must not open its breaker."""
    found = await failure(raising(wrapped(cause)))

    assert (type(found), found.kind, found.billed) == (expected, kind, "no")
    assert said in str(found)


async def test_a_tls_connection_that_breaks_later_is_no_refusal():
    """Its certificate was accepted before, so another try may well succeed."""
    error = httpx2.ReadError("x")
    error.__cause__ = ssl.SSLError("bad record")
    found = await failure(raising(error))

    assert (type(found), found.kind, found.billed) == (UnavailableError, "server", "maybe")


async def test_a_reply_in_an_encoding_that_was_not_asked_for_is_read():
    """Some proxies compress whatever the request says."""
    body = gzip.compress(REPLY)

    assert (await answering_raw(body, {"content-encoding": "gzip"}).complete(REQUEST)).text == "Hello"


class RawStream(httpx2.AsyncByteStream):
    def __init__(self, *chunks):
        self.chunks = chunks
        self.is_closed = False

    async def __aiter__(self):
        for chunk in self.chunks:
            yield chunk

    async def aclose(self):
        self.is_closed = True


def answering_raw(body, headers=None):
    return opened(lambda _: httpx2.Response(200, headers=headers, stream=RawStream(body)))


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(bytes(client.MAX_REPLY_BYTES + 1)), "gzip"),
        (gzip.compress(REPLY)[:-9], "gzip"),
        (REPLY, "gzip"),
        (REPLY, "br"),
    ],
    ids=["bomb", "cut", "not compressed", "unknown"],
)
async def test_a_decompression_bomb_is_a_bad_response(body, encoding):
    """Some kilobytes become gigabytes, and the whole batch dies with the process."""
    found = await failure(answering_raw(body, {"content-encoding": encoding}))

    assert found.kind == "bad_response"
    assert "with a body in an encoding that was not asked for. " in str(found)


async def test_a_reply_is_read_up_to_a_limit_and_then_closed():
    """An endless reply must not fill the memory."""
    stream = RawStream(*[b"x" * 2**20] * 1000)
    found = await failure(opened(lambda _: httpx2.Response(200, stream=stream)))

    assert found.kind == "bad_response"
    assert "answered HTTP 200 with more than 32 MiB, which is more than is read. " in str(found)
    assert stream.is_closed


async def test_a_shared_transport_is_left_open():
    """Other models of the same engine still use it."""

    class Transport(httpx2.MockTransport):
        is_closed = False

        async def aclose(self):
            self.is_closed = True

    transport = Transport(lambda _: httpx2.Response(200, content=REPLY))
    model = opened(transport=transport)
    await model.complete(REQUEST)
    await model.aclose()

    assert not transport.is_closed


async def test_a_real_server_answers():
    """Everything between here and the wire, once for real."""
    server = Server(answer())
    completion = await asked_over(server)

    assert completion.text == "Hello"
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/chat/completions HTTP/1.1\r\n")
    assert body == BODY


async def test_calls_share_a_connection():
    """Each handshake costs time and CPU."""
    server = Server(answer())
    async with served(server):
        model = opened(base_url=server.base_url)
        for _ in range(3):
            await model.complete(REQUEST)
        await model.aclose()

    assert (len(server.requests), server.connections) == (3, 1)


async def test_a_closed_model_opens_its_connections_anew():
    """A model outlives a run when its pipeline is run twice."""
    server = Server(answer())
    async with served(server):
        model = opened(base_url=server.base_url)
        await model.complete(REQUEST)
        await model.aclose()
        await model.complete(REQUEST)
        await model.aclose()
        await model.aclose()

    assert server.connections == 2


async def test_many_calls_run_at_once():
    """The pool must not be a second, hidden limit below the scheduler's."""
    server = Server(b"")
    waiting = trio.Event()
    waiting_calls = 0

    async def handle(stream):
        nonlocal waiting_calls
        await stream.receive_some()
        waiting_calls += 1
        if waiting_calls == 150:
            waiting.set()
        await trio.sleep_forever()

    server.handle = handle
    async with served(server):
        model = opened(base_url=server.base_url)
        async with trio.open_nursery() as nursery:
            for _ in range(150):
                nursery.start_soon(model.complete, REQUEST)
            await waiting.wait()
            nursery.cancel_scope.cancel()
        await model.aclose()

    assert waiting_calls == 150


async def test_a_refused_connection_names_the_address():
    """A local server that is not running is the commonest failure of all."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        base_url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
        model = opened(base_url=base_url)
        found = await failure(model)
        await model.aclose()

    assert (type(found), found.kind, found.billed) == (UnavailableError, "connect", "no")
    assert str(found) == (
        f"model 'openai:m' cannot be reached at {base_url}: the connection was refused. Is the server running?"
    )


@pytest.mark.parametrize(
    ("reply", "expected", "kind"),
    [
        (answer()[:-5], StreamTruncatedError, "stream_truncated"),
        (
            b'HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{"cho',
            StreamTruncatedError,
            "stream_truncated",
        ),
        (b"HTTP/1.1 200 OK\r\ncontent-le", UnavailableError, "server"),
        (b"", UnavailableError, "server"),
        (b"garbage\r\n\r\n", UnavailableError, "bad_response"),
    ],
    ids=["body", "chunk", "head", "nothing", "no HTTP"],
)
async def test_a_reply_that_is_cut_may_have_been_billed(reply, expected, kind):
    """The server had the whole request, so the model may have worked."""
    found = await asked_over(Server(reply, is_closing=True))

    assert (type(found), found.kind, found.billed) == (expected, kind, "maybe")


async def test_a_page_instead_of_a_reply_is_quoted():
    """A login page of a proxy is recognised at a glance."""
    page = b"<html><title>Log in</title></html>"
    found = await asked_over(Server(answer(page, headers="content-type: text/html\r\n")))

    assert found.kind == "bad_response"
    assert "something that is not JSON (text/html) that begins “<html><title>Log in</title></html>”" in str(found)


EVENTS = [
    b'data: {"choices":[{"delta":{"content":"Hel"}}]}\n\n',
    b": ping\n\n",
    b'data: {"choices":[{"delta":{"content":"lo"}}]}\n\n',
    b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
    b"data: [DONE]\n\n",
]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def streaming(*events):
    headers = {"content-type": "text/event-stream"}
    return opened(lambda _: httpx2.Response(200, headers=headers, stream=RawStream(*events)))


async def followed(model):
    """Stream one reply, and return it with its pieces."""
    pieces = []

    async def take(piece):
        pieces.append(piece)

    return await model.stream(REQUEST, take), pieces


async def test_a_stream_hands_on_each_piece_and_returns_the_whole(autojump_clock):
    """Whoever follows sees what dependents will get, as it comes; a ping is no piece."""
    completion, pieces = await followed(streaming(*EVENTS))

    assert (completion.text, completion.finish, pieces) == ("Hello", "stop", ["Hel", "lo"])
    assert (completion.timings.first_token, completion.timings.total) == (0.0, 0.0)


async def test_a_server_that_cannot_stream_gives_one_piece():
    """Some answer with the whole reply, whatever they were asked for."""
    headers = {"content-type": "application/json"}
    completion, pieces = await followed(opened(lambda _: httpx2.Response(200, headers=headers, content=REPLY)))

    assert (completion.text, pieces) == ("Hello", ["Hello"])


async def test_a_stream_without_its_end_is_truncated():
    """Half of a reply is no answer."""
    with pytest.raises(StreamTruncatedError) as caught:
        await followed(streaming(*EVENTS[:3]))

    assert (caught.value.kind, caught.value.billed, caught.value.status) == ("stream_truncated", "maybe", 200)


async def test_what_the_follower_raises_ends_the_stream():
    """It is cancelled with its step, and nobody reads on for nobody."""
    stream = RawStream(*EVENTS)
    headers = {"content-type": "text/event-stream"}
    model = opened(lambda _: httpx2.Response(200, headers=headers, stream=stream))

    async def take(piece):
        raise LookupError(piece)

    with pytest.raises(LookupError, match="Hel"):
        await model.stream(REQUEST, take)
    assert stream.is_closed


async def test_streams_share_a_connection():
    """One that is left at its marker, before its last chunk, would cost a handshake each time."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(event), event) for event in EVENTS)
    server = Server(STREAM_HEAD + chunks + b"0\r\n\r\n")
    async with served(server):
        model = opened(base_url=server.base_url)
        for _ in range(3):
            completion, pieces = await followed(model)
            assert (completion.text, pieces) == ("Hello", ["Hel", "lo"])
            await trio.testing.wait_all_tasks_blocked(0.01)
        await model.aclose()

    assert (len(server.requests), server.connections) == (3, 1)


async def test_a_model_without_embeddings_says_so():
    """A role for vectors that is bound to a chat model must not fail with a riddle."""
    with pytest.raises(RejectedError) as caught:
        await opened().embed(["Hi"])

    assert str(caught.value) == "model 'openai:m' has no embeddings. Bind the role to another one."
    assert caught.value.kind == "invalid"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_not_followed(status):
    """It would carry the key to whoever the answer names."""
    elsewhere = Server(answer())
    async with served(elsewhere):
        headers = f"location: {elsewhere.base_url}\r\n"
        found = await asked_over(Server(answer(b"", f"{status} Elsewhere", headers)))

    assert (type(found), found.kind, found.status) == (RejectedError, "redirect", status)
    assert elsewhere.connections == 0


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    """A proxy would see every document; whoever wants one says so."""
    proxy, server = Server(answer()), Server(answer())
    async with served(proxy):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.base_url.removesuffix("/v1"))
        await asked_over(server)

    assert (proxy.connections, server.connections) == (0, 1)


async def test_a_cancelled_call_hangs_up():
    """A server that goes on writing for nobody still sends its bill."""
    server = Server(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{")
    async with served(server):
        model = opened(base_url=server.base_url)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(model.complete, REQUEST)
            await server.asked.wait()
            nursery.cancel_scope.cancel()
        await server.hung_up.wait()
        server.reply = answer()
        assert (await model.complete(REQUEST)).text == "Hello"
        await model.aclose()


async def test_plain_http_behind_an_https_address_is_a_tls_error():
    """Trying again does not help against a wrong scheme."""

    async def handle(stream):
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")

    server = Server(b"")
    server.handle = handle
    async with served(server):
        model = opened(base_url=server.base_url.replace("http://", "https://"))
        found = await failure(model)
        await model.aclose()

    assert (type(found), found.kind, found.billed) == (RejectedError, "tls", "no")


def shown(error):
    """Return everything that a log, a debugger or an error reporter might print of `error`."""
    lines = traceback.TracebackException.from_exception(error, capture_locals=True).format()
    seen, chain = set(), [error]
    for link in chain:
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            chain += [link.__cause__, link.__context__]
            lines = [*lines, repr(link), repr(vars(link))]
    return "".join(lines)


@pytest.mark.parametrize(
    "model",
    [
        answering(json.dumps({"error": {"message": f"bad key {KEY}"}}).encode(), 401, {"x-request-id": KEY}),
        answering(f"<html>{KEY}</html>".encode(), 502),
        answering(KEY.encode()),
        answering(b"", 307, {"location": f"https://elsewhere.example/?key={KEY}"}),
        raising(httpx2.ConnectError(f"Bearer {KEY}")),
        raising(httpx2.ReadError(f"Bearer {KEY}")),
        raising(wrapped(OSError(errno.EMFILE, KEY))),
        raising(wrapped(ssl.SSLCertVerificationError(KEY))),
    ],
)
async def test_no_error_shows_the_key(model, caplog):
    """Errors go to logs, journals, pages and tickets; the key goes nowhere."""
    caplog.set_level(logging.DEBUG)
    error = await failure(model)

    assert KEY not in shown(error)
    assert error.__cause__ is None
    assert KEY not in caplog.text


async def test_no_refusal_shows_the_key():
    """It is quoted in the error that a step makes of it, and kept in the record of the call."""
    refusing = answering(json.dumps({"choices": [{"message": {"refusal": f"I will not say {KEY}"}}]}).encode())

    assert (await refusing.complete(REQUEST)).refusal == "I will not say [secret]"


def test_no_part_of_a_model_shows_the_key():
    """Models are printed, compared and copied together with everything they are bound to."""
    model = answering()

    assert KEY not in repr((model, vars(model), copy.copy(model), vars(model)["_endpoint"]))
