"""What a network can do to a call, from the engine down to the socket: faults 36 to 51 of the catalogue."""

import datetime as dt
import json
import resource
import socket
import ssl
import sys
from contextlib import contextmanager

import httpx2
import trio
import trio.testing
import trustme

from pipeline_engine import RejectedError, StepTimeoutError, Timeout
from pipeline_engine.errors import StreamTruncatedError, UnavailableError
from pipeline_engine.providers.transport import PoolTransport
from tests.faults.catalogue import fault
from tests.faults.proxy import DEAD, HEALTHY, Link, Toxics
from tests.faults.rig import SOON, asking
from tests.faults.servers import chat, completion, raw, reply, spoken
from tests.faults.test_server_faults import told

RESET = Link(down=Toxics(reset_after=1))
"""The server has the request and answers; the client gets a byte and a reset."""


@contextmanager
def nobody():
    """Hold an address at which nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}/v1"


@contextmanager
def black_hole(family=socket.AF_INET, host="127.0.0.1"):
    """Hold a port whose connections are never made: its queue is full, and the system drops what comes."""
    with socket.socket(family) as full:
        full.bind((host, 0))
        full.listen(0)
        waiting = [socket.socket(family) for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        yield full.getsockname()[1]
        for one in waiting:
            one.close()


class Names(trio.abc.HostnameResolver):
    """Know the addresses of one name, and no other."""

    def __init__(self, name, *addresses):
        self.name = name
        self.addresses = addresses

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002 - the port's own names
        if (host.decode() if isinstance(host, bytes) else host) != self.name:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        families = {True: socket.AF_INET6, False: socket.AF_INET}
        kinds = [families[":" in address] for address in self.addresses]
        return [
            (kind, socket.SOCK_STREAM, 6, "", (address, port, 0, 0)[: 4 if kind == socket.AF_INET6 else 2])
            for kind, address in zip(kinds, self.addresses, strict=True)
            if family in (0, kind)
        ]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


# No connection


@fault(36, "nothing.invalid", "x" * 64 + ".invalid", ids=["unknown", "no name at all"])
async def test_an_unknown_host_is_said_so_and_nothing_was_billed(rig, case):
    """A slip in an address, or a network that is down: another try may help, and neither costs anything."""
    address = f"https://{case}/v1"
    ran = await rig.run(address)

    assert (ran.status, type(ran.error), ran.attempts) == ("failed", UnavailableError, 2)
    told(ran.error, kind="connect", billed="no", is_transient=True, status=None)
    assert str(ran.error) == (
        f"model 'openai:m' cannot be reached at {address}: its host name is not known. "
        "Check the address and the network."
    )


@fault(37)
async def test_after_refused_connections_the_next_model_answers(rig, case):
    """One endpoint that is down must not end a document that another can serve."""
    server = await rig.serve()
    with nobody() as address:
        ran = await rig.run([rig.model(address), rig.model(server, "openai:n")])

    assert (ran.status, ran.value, ran.via) == ("completed", "Hello", "fallback:openai:n")
    assert (ran.kinds, len(server.requests)) == (["connect", "connect", None], 1)
    assert "the connection was refused. Is the server running?" in ran.faults[0].message


@fault(38, "TCP", "TLS")
async def test_a_black_hole_runs_into_the_timeout_for_connecting(rig, case):
    """Without one of its own the system tries for two minutes, and the attempt's timeout is for answers."""
    silent = await rig.serve()
    with black_hole() as port:
        address = f"http://127.0.0.1:{port}/v1" if case == "TCP" else silent.base_url.replace("http:", "https:")
        ran = await rig.run(address, asking(timeout=Timeout(connect=0.15)))

    assert (ran.status, type(ran.error), ran.attempts) == ("failed", UnavailableError, 2)
    told(ran.error, kind="timeout", billed="no", is_transient=True, status=None)
    assert 0.3 <= ran.took < 1.5
    assert str(ran.error) == (
        f"model 'openai:m' could not be reached at {address} within 0.15 s. "
        "Check the address, or raise Timeout(connect=…)."
    )


# TLS


AUTHORITY = trustme.CA()
STRANGER = trustme.CA()
PAST = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)


def certified(authority=AUTHORITY, name="127.0.0.1", **options):
    """Return a server's side of TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name, **options).configure_cert(context)
    return context


def trusting():
    """Return connections that trust our own authority, as those of a machine that an administrator has set up."""
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return PoolTransport(ssl_context=context)


UNTRUSTED = {
    "expired": ({"not_after": PAST}, "certificate has expired"),
    "self-signed": ({"authority": STRANGER}, "unable to get local issuer certificate"),
    "unknown here": ({}, "unable to get local issuer certificate"),
    "wrong host": ({"name": "elsewhere.example"}, "IP address mismatch"),
}


@fault(39, *UNTRUSTED)
async def test_a_certificate_that_cannot_be_trusted_is_permanent_and_sends_nothing(rig, case):
    """Whoever goes on without verifying hands the key to whoever is in between."""
    options, reason = UNTRUSTED[case]
    server = await rig.serve(tls=certified(**options))
    ran = await rig.run(server, transport=None if case == "unknown here" else trusting())

    assert (ran.status, type(ran.error), ran.attempts, server.requests) == ("failed", RejectedError, 1, [])
    told(ran.error, kind="tls", billed="no", is_transient=False, status=None)
    before, _, advice = str(ran.error).partition(f"TLS with {server.base_url} failed")
    assert before == "model 'openai:m' could not be called safely: "
    assert reason.lower() in advice.lower()
    assert advice.endswith(". Check the address, its certificate and this machine's trusted certificates.")


@fault(39, "trusted")
async def test_a_certificate_of_a_trusted_authority_is_accepted(rig, case):
    """Otherwise the other tests would pass without any TLS at all."""
    server = await rig.serve(chat(), spoken(), tls=certified())
    ran = await rig.run(server, transport=trusting())
    followed = await rig.run(server, asking(stream=True), transport=trusting())

    assert (ran.status, ran.value, followed.value, len(server.requests)) == ("completed", "Hello", "Hello", 2)


# Connections that break


@fault(40, "reset", "end")
async def test_a_connection_that_breaks_before_the_request_was_sent_costs_nothing(rig, case):
    """What has not left the house cannot be billed, and a handshake that breaks off is no verdict on a certificate."""
    server = await rig.serve(tls=certified())
    broken = Link(Toxics(reset_after=1)) if case == "reset" else Link(down=Toxics(cut_after=1))
    proxy = await rig.spoil(server, broken, HEALTHY, broken)
    ran = await rig.run(proxy, transport=trusting())
    failed = await rig.run(proxy, transport=trusting())

    assert (ran.status, ran.value, ran.kinds) == ("completed", "Hello", ["connect", None])
    assert (failed.status, type(failed.error), failed.attempts) == ("failed", UnavailableError, 2)
    assert (ran.replays, len(server.requests)) == ([0, 0], 1)
    told(failed.error, kind="connect", billed="no", is_transient=True, status=None)
    assert str(failed.error).startswith(f"model 'openai:m' cannot be reached at {proxy.base_url}: ")


@fault(41, "in the upload")
async def test_a_reset_in_the_upload_may_have_been_billed(rig, case):
    """Nobody here can see how much of it arrived, and a server may begin before it has everything."""
    server = await rig.serve()
    in_upload = Link(Toxics(reset_after=100_000))
    proxy = await rig.spoil(server, in_upload, HEALTHY, in_upload)
    ran = await rig.run(proxy, document="x" * 2**20)
    failed = await rig.run(proxy, document="x" * 2**20)

    assert (ran.status, ran.kinds, ran.replays, len(server.requests)) == ("completed", ["server", None], [0, 0], 1)
    assert (failed.status, type(failed.error), failed.attempts) == ("failed", UnavailableError, 2)
    told(failed.error, kind="server", billed="maybe", is_transient=True, status=None)


OVER_HTTPX = {
    "nothing": (raw(then="close"), "server", UnavailableError),
    "a reset": (raw(then="reset"), "server", UnavailableError),
    "no HTTP": (raw(b"garbage\r\n\r\n", then="close"), "bad_response", UnavailableError),
    "half a body": (
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{", then="close"),
        "stream_truncated",
        StreamTruncatedError,
    ),
}


@fault(41, *[f"{name}, over httpx2" for name in OVER_HTTPX])
async def test_what_breaks_is_called_the_same_over_a_transport_of_httpx2(rig, case):
    """Whoever needs a proxy brings such a transport, and reads the same messages about it."""
    answer, kind, expected = OVER_HTTPX[case.partition(",")[0]]
    server = await rig.serve(answer)
    failed = await rig.run(server, transport=httpx2.AsyncHTTPTransport(trust_env=False))

    assert (failed.status, type(failed.error), len(server.requests)) == ("failed", expected, 2)
    assert (failed.error.kind, failed.error.billed, failed.error.is_transient) == (kind, "maybe", True)


@fault(41, "reset", "end")
async def test_a_connection_that_breaks_after_the_request_may_have_been_billed(rig, case):
    """The model may have worked for a minute; whoever calls that free is surprised by the bill."""
    broken = raw(then="reset" if case == "reset" else "close")
    server = await rig.serve(broken, chat(), broken)
    ran = await rig.run(server)
    failed = await rig.run(server)

    assert (ran.status, ran.kinds, ran.replays) == ("completed", ["server", None], [0, 0])
    assert (failed.status, type(failed.error), len(server.requests)) == ("failed", UnavailableError, 4)
    told(failed.error, kind="server", billed="maybe", is_transient=True, status=None)
    assert str(failed.error) == (
        f"model 'openai:m' was sent the request, but the connection to {server.base_url} broke before it answered. "
        "The call may have been billed; try again."
    )


@fault(41, "in the head", "in the body", "in the body, cut")
async def test_a_reply_that_breaks_off_is_truncated(rig, case):
    """The reply was on its way, so it was paid for."""
    server = await rig.serve()
    toxics = {
        "in the head": Toxics(reset_after=20),
        "in the body": Toxics(reset_after=len(completion())),
        "in the body, cut": Toxics(cut_after=len(completion())),
    }
    link = Link(down=toxics[case])
    proxy = await rig.spoil(server, link, HEALTHY, link)
    ran = await rig.run(proxy)
    failed = await rig.run(proxy)

    expected = ("server", UnavailableError) if case == "in the head" else ("stream_truncated", StreamTruncatedError)
    assert (ran.status, ran.kinds, ran.replays) == ("completed", [expected[0], None], [0, 0])
    assert (failed.status, type(failed.error), len(server.requests)) == ("failed", expected[1], 4)
    assert (failed.error.kind, failed.error.billed, failed.error.is_transient) == (expected[0], "maybe", True)


@fault(42, "close", "reset")
async def test_a_kept_connection_that_died_is_replayed_once_and_counted(rig, case):
    """Servers close what is idle when they like: that is nobody's failure, but it must not be a secret."""
    server = await rig.serve(chat("first"), raw(then=case), chat("second"))
    async with rig.engine() as engine:
        first = await rig.ask(engine, server, asking(retry=None))
        second = await rig.ask(engine, server, asking(retry=None))

    assert (first.value, second.value) == ("first", "second")
    assert (first.attempts, first.replays, second.attempts, second.replays) == (1, [0], 1, [1])
    assert [request.connection for request in server.requests] == [1, 1, 2]


@fault(42, "no second time")
async def test_a_replay_that_dies_too_is_a_failure(rig, case):
    """One replay is courtesy; two would be a retry that no policy has allowed."""
    server = await rig.serve(chat("first"), raw(then="close"))
    async with rig.engine() as engine:
        await rig.ask(engine, server, asking(retry=None))
        failed = await rig.ask(engine, server, asking(retry=None))

    assert (failed.status, type(failed.error), failed.attempts) == ("failed", UnavailableError, 1)
    assert (failed.error.kind, failed.error.billed, failed.error.replays, failed.replays) == ("server", "maybe", 1, [1])
    assert len(server.requests) == 3


@fault(42, "after a byte")
async def test_a_kept_connection_that_dies_in_its_answer_is_not_replayed(rig, case):
    """With the first byte of an answer the request was taken, and its model is at work."""
    server = await rig.serve(chat("first"), raw(b"HTTP/1.1 2", then="close"), chat("second"))
    async with rig.engine() as engine:
        await rig.ask(engine, server, asking(retry=None))
        failed = await rig.ask(engine, server, asking(retry=None))

    assert (failed.status, failed.error.billed, failed.replays, len(server.requests)) == ("failed", "maybe", [0], 2)


@fault(42, "while idle")
async def test_a_kept_connection_that_was_closed_meanwhile_is_not_used(rig, case):
    """What is known to be dead needs no replay."""
    server = await rig.serve(chat("first").with_(then="leave"), chat("second"))
    async with rig.engine() as engine:
        await rig.ask(engine, server, asking(retry=None))
        await server.connections.wait_closed()
        second = await rig.ask(engine, server, asking(retry=None))

    assert (second.value, second.replays, len(server.requests)) == ("second", [0], 2)


@fault(43, "whole", "streamed")
async def test_a_half_open_connection_runs_into_a_timeout_and_the_retry_connects_anew(rig, case):
    """After sleep or a roamed network nobody tells either side that the other has gone."""
    is_streamed = case == "streamed"
    server = await rig.serve(spoken("Hi") if is_streamed else chat("Hi"))
    proxy = await rig.spoil(server)
    timeout = Timeout(first_token=0.15) if is_streamed else Timeout(attempt=0.15)
    async with rig.engine() as engine:
        await rig.ask(engine, proxy, asking(stream=is_streamed))
        await trio.testing.wait_all_tasks_blocked(0.01)  # what follows a stream's last event is read meanwhile
        proxy.change(DEAD)
        ran = await rig.ask(engine, proxy, asking(stream=is_streamed, timeout=timeout))

    assert (ran.status, ran.value, ran.kinds) == ("completed", "Hi", ["StepTimeoutError", None])
    assert (ran.faults[0].is_transient, ran.replays, len(server.requests)) == (True, [0, 0], 2)
    assert proxy.connections.accepted == 2


@fault(43, "in mid-stream")
async def test_a_stream_that_falls_silent_is_idle(rig, case):
    """Bytes that were sent before the network went away do not make the rest arrive."""
    server = await rig.serve(spoken("Hello, world"))
    half = Link(down=Toxics(hang_after=400))
    proxy = await rig.spoil(server, half, HEALTHY)
    ran = await rig.run(proxy, asking(stream=True, timeout=Timeout(idle=0.2)))

    assert (ran.status, ran.value, ran.kinds) == ("completed", "Hello, world", ["StepTimeoutError", None])
    assert "ran into its idle timeout of 0.2 s" in ran.faults[0].message


# Slow and strange networks


@fault(44)
async def test_a_slow_upload_is_no_failure_but_counts_as_the_attempt(rig, case):
    """Long documents over a thin line take their time; a line that is too thin must not hold one for ever."""
    server = await rig.serve()
    proxy = await rig.spoil(server, Link(Toxics(bandwidth=1_000_000)))
    ran = await rig.run(proxy, document="x" * 250_000)
    failed = await rig.run(proxy, asking(timeout=Timeout(attempt=0.1)), document="x" * 250_000)

    assert (ran.status, ran.value, ran.attempts) == ("completed", "Hello", 1)
    assert ran.took >= 0.25
    assert (failed.status, type(failed.error), failed.error.which) == ("failed", StepTimeoutError, "attempt")
    assert (failed.error.is_transient, failed.attempts) == (True, 2)


@fault(45, "http", "https")
async def test_a_proxy_that_wants_a_key_of_its_own_is_named(rig, case):
    """No retry and no key of the provider helps; the message must not send anybody to the wrong one."""
    headers = {"proxy-authenticate": "Basic realm=x", "content-type": "text/html", "x-echo": ""}
    proxy = await rig.serve(reply(b"<html>Proxy Authentication Required</html>", 407, headers), path="")
    address = f"{case}://provider.example/v1"
    transport = httpx2.AsyncHTTPTransport(proxy=proxy.base_url.replace("://", "://user:CANARY@"), trust_env=False)
    ran = await rig.run(address, transport=transport)

    assert (ran.status, type(ran.error), ran.attempts, len(proxy.requests)) == ("failed", RejectedError, 1, 1)
    assert (ran.error.kind, ran.error.billed, ran.error.is_transient) == ("invalid", "no", False)
    assert "407" in str(ran.error)
    assert "proxy" in str(ran.error)


@fault(46, "page", "redirect", "511")
async def test_a_captive_portal_is_recognised(rig, case):
    """In trains and hotels everything answers, and none of it is the model."""
    page = b"<html><title>Welcome on board</title></html>"
    html = {"content-type": "text/html"}
    portal = {
        "page": reply(page, 200, html),
        "redirect": reply(page, 302, {**html, "location": "http://portal.example/?to=@KEY@"}),
        "511": reply(page, 511, html),
    }
    server = await rig.serve(portal[case])
    ran = await rig.run(server)

    expected = {
        "page": (UnavailableError, "bad_response", 2),
        "redirect": (RejectedError, "redirect", 1),
        "511": (UnavailableError, "server", 2),
    }
    assert (ran.status, (type(ran.error), ran.error.kind, len(server.requests))) == ("failed", expected[case])
    if case != "redirect":
        assert "Welcome on board" in str(ran.error)


@fault(47, 300, 301, 302, 303, 304, 307, 308)
async def test_a_redirect_is_refused_and_nobody_else_is_asked(rig, case):
    """The key would travel along, to whoever the answer names."""
    elsewhere = await rig.serve()
    server = await rig.serve(reply(b"", case, {"location": f"{elsewhere.base_url}/chat/completions?key=@KEY@"}))
    ran = await rig.run(server)

    assert (ran.status, type(ran.error), len(server.requests), ran.attempts) == ("failed", RejectedError, 1, 1)
    told(ran.error, kind="redirect", billed="no", is_transient=False, status=case)
    assert elsewhere.connections.accepted == 0
    assert str(ran.error) == (
        f"model 'openai:m' redirected the call (HTTP {case}). "
        "Redirects are not followed, because the key would travel along. "
        f"Give the final address as base_url instead of {server.base_url}. (request req_1)"
    )


@fault(48, "refused", "black hole")
async def test_broken_ipv6_costs_a_moment_and_no_call(rig, case):
    """Half of the world's IPv6 is announced and leads nowhere."""
    server = await rig.serve()
    trio.socket.set_custom_hostname_resolver(Names("two.example", "::1", "127.0.0.1"))
    address = f"http://two.example:{server.port}/v1"
    if case == "black hole":
        with full_port(server.port):
            ran = await rig.run(address)
    else:
        ran = await rig.run(address)

    assert (ran.status, ran.value, ran.attempts) == ("completed", "Hello", 1)
    assert ran.took < 1.0
    assert server.requests[0].headers["host"] == f"two.example:{server.port}"


@contextmanager
def full_port(port):
    """Make the same port a black hole on IPv6."""
    with socket.socket(socket.AF_INET6) as full:
        full.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        full.bind(("::1", port))
        full.listen(0)
        waiting = [socket.socket(socket.AF_INET6) for _ in range(4)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(("::1", port))
        yield
        for one in waiting:
            one.close()


@fault(49)
async def test_five_hundred_calls_go_out_at_once(rig, case):
    """A pool that queues would be a second, hidden limit below the scheduler's slots."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard) if hard > 0 else 4096, hard))
    all_there = trio.Event()
    server = await rig.serve(chat().with_(before=all_there.wait))
    results = []

    async def one(engine, number):
        results.append(await rig.ask(engine, server, document=f"Text {number}."))

    try:
        async with rig.engine(capacity=500) as engine, trio.open_nursery() as nursery:
            for number in range(500):
                nursery.start_soon(one, engine, number)
            await server.wait_requests(500)
            assert engine.statistics().in_flight == 500
            all_there.set()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert {(ran.status, ran.attempts) for ran in results} == {("completed", 1)}
    assert (len(results), len(server.requests), server.connections.accepted) == (500, 500, 500)


FULL_HOUSE = """
import json, os, resource, sys, trio
from pipeline_engine import Engine, Model, Pipeline, Retry

def asking(max_throttled):
    pipeline = Pipeline("full", inputs={"document": str})
    retry = Retry(attempts=1, base_delay=0.001, max_delay=0.05, max_throttled=max_throttled)

    @pipeline.llm("fast", str, retry=retry)
    def answer(document: str) -> str:
        return document

    return pipeline

def all_descriptors():
    held = []
    try:
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return held

async def main():
    model = Model("openai:m", base_url=sys.argv[1], api_key="k")
    async with Engine(capacity=100, models={"fast": model}) as engine:
        async def told_of(documents, max_throttled):
            results, pipeline = [], asking(max_throttled)
            async def one(number):
                results.append(await engine.run(pipeline, {"document": f"Text {number}."}))
            async with trio.open_nursery() as nursery:
                for number in range(documents):
                    nursery.start_soon(one, number)
            errors = [result.outcome("answer").error for result in results if result.status != "completed"]
            attempts = sum(type(record).__name__ == "AttemptStarted" for result in results for record in result.records)
            told = sorted({(error.kind, error.billed, error.is_transient, str(error)) for error in errors})
            return len(results) - len(errors), attempts, told
        few = await told_of(100, 1000)
        held = all_descriptors()
        none = await told_of(2, 3)
        for descriptor in held:
            os.close(descriptor)
        again = await told_of(2, 0)
        print(json.dumps([few, none, again, engine.statistics().in_flight]))

resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
trio.run(main)
"""


@fault(49, "no descriptors left")
async def test_descriptors_that_run_out_are_our_own_fault(rig, case):
    """It looks like an outage of the provider, but is waited out, spends no attempt, and is not said of it."""
    server = await rig.serve(reply(completion(), framing="close", then="leave"))
    command = [sys.executable, "-c", FULL_HOUSE, server.base_url]
    with trio.fail_after(20):
        ended = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)

    assert ended.returncode == 0, ended.stderr.decode()
    few, none, again, in_flight = json.loads(ended.stdout)
    assert ((few[0], few[2]), again, in_flight) == ((100, []), [2, 2, []], 0)
    completed, attempts, ((kind, billed, is_transient, message),) = none
    assert (completed, attempts, kind, billed, is_transient) == (0, 8, "local", "no", True)
    assert message == (
        "model 'openai:m' could not be called because this process has too many open files. "
        "Lower capacity=, or raise the limit of open files (ulimit -n)."
    )
    assert len(server.requests) == 102


@fault(50, "whole", "streamed")
async def test_a_kilobyte_a_second_is_slow_and_nothing_else(rig, case):
    """Only silence is a fault: bytes that come slowly are an answer that comes."""
    body = b'{"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}'
    bare = {"x-echo": "", "x-request-id": ""}
    short = reply(body, headers=bare) if case == "whole" else spoken("Hi")
    server = await rig.serve(short)
    proxy = await rig.spoil(server, Link(down=Toxics(bandwidth=1024 if case == "whole" else 4096)))
    timeout = Timeout(attempt=SOON) if case == "whole" else Timeout(first_token=SOON, idle=0.5)
    ran = await rig.run(proxy, asking(stream=case == "streamed", timeout=timeout))

    assert (ran.status, ran.value, ran.attempts, len(server.requests)) == ("completed", "Hi", 1, 1)
    assert ran.took >= 0.1


@fault(51, "whole", "streamed")
async def test_slices_of_one_byte_give_the_same_result_as_the_whole(rig, case):
    """How a network cuts what it carries must not be seen by anybody above."""
    text = "Grüße 👋🏽, \u2028 and more"
    server = await rig.serve(chat(text) if case == "whole" else spoken(text))
    proxy = await rig.spoil(server, Link(Toxics(slice=1), Toxics(slice=1)))
    pipeline = asking(stream=case == "streamed")
    whole = await rig.run(server, pipeline)
    sliced = await rig.run(proxy, pipeline)

    assert (whole.value, sliced.value, sliced.attempts) == (text, text, 1)
    (expected,), (found,) = whole.result.calls("answer"), sliced.result.calls("answer")
    assert (found.messages, found.completion.usage) == (expected.messages, expected.completion.usage)
    assert server.requests[0].body == server.requests[1].body


@fault(51, "odd links")
async def test_latency_and_slow_ends_change_nothing(rig, case):
    """What is late is not lost, and an end that is late ends nothing twice."""
    server = await rig.serve(chat().with_(then="close"))
    late = Toxics(latency=0.02, jitter=0.02, slice=200, slow_close=0.05)
    proxy = await rig.spoil(server, Link(late, late))
    ran = await rig.run(proxy)

    assert (ran.status, ran.value, ran.attempts) == ("completed", "Hello", 1)


def test_every_network_fault_of_the_catalogue_is_played():
    """A number that is dropped in silence is a promise that nobody keeps."""
    import tests.faults.test_network_faults as here

    marks = [mark for test in vars(here).values() for mark in getattr(test, "pytestmark", ())]
    numbers = {int(name[:2]) for mark in marks if mark.name == "parametrize" for name in mark.kwargs["ids"]}
    assert numbers == set(range(36, 52))
