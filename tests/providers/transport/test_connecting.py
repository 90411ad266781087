"""Reaching a server: look-ups, dead addresses, time limits, the limit on connecting at once, and TLS."""

import datetime as dt
import errno
import resource
import socket
import ssl

import httpx2
import pytest
import trio
import trio.testing
import trustme

from pipeline_engine.providers.transport import Origin, PoolStatistics, PoolTransport, WireRequest, connecting
from tests.providers.transport.loopback import CHUNKED, END, OK, answer_ok, ask, request, whole

settled = trio.testing.wait_all_tasks_blocked
AUTHORITY = trustme.CA()


class Names(trio.abc.HostnameResolver):
    """Know some names, and count who asks."""

    def __init__(self, **known):
        self.known = known
        self.asked = []
        self.may_answer = trio.Event()
        self.may_answer.set()

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # noqa: A002 (trio names it so)
        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        await self.may_answer.wait()
        if name not in self.known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(_family(address), type, 6, "", (address, int(port))) for address in self.known[name]]

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError


def _family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.fixture
async def names():
    resolver = Names(good=["127.0.0.1"])
    trio.socket.set_custom_hostname_resolver(resolver)  # for this test's trio run alone
    return resolver


@pytest.fixture
async def pool():
    transport = PoolTransport()
    yield transport
    await transport.aclose()


@pytest.fixture
def black_hole():
    """An address that never answers: a listener whose queue is full, so that the system drops what comes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.2", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for filler in fillers:
            filler.close()


def to(host, port, scheme="http", timeout=5.0):
    return WireRequest(Origin(scheme, host, port), b"/", ((b"host", b"x"),), b"{}", timeout)


# Names


async def test_an_unknown_name_is_an_error_with_its_cause(pool, names):
    """Whoever reads it must see whether to check the name or the network."""
    with pytest.raises(httpx2.ConnectError, match=r"^there is no connection$") as error:
        await pool.send(to("nowhere", 1))

    assert isinstance(error.value.__cause__, socket.gaierror)


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "a..example"])
async def test_a_name_that_can_be_none_is_unknown(pool, host):
    """Python refuses it before any look-up, with an error that is no OSError."""
    with pytest.raises(httpx2.ConnectError) as error:
        await pool.send(to(host, 1))

    assert isinstance(error.value.__cause__, socket.gaierror)


async def test_one_look_up_serves_all_who_connect(pool, names, serve, nursery):
    """Look-ups run in threads, 40 at a time: ten thousand would be 250 rounds."""
    names.may_answer = trio.Event()
    server = await serve(answer_ok)
    answers = []

    async def call():
        answers.append(await ask(pool, server, host="good"))

    for _ in range(20):
        nursery.start_soon(call)
    await settled(0.01)
    names.may_answer.set()
    while len(answers) < 20:
        await settled(0.001)

    assert (names.asked, answers) == (["good"], [(200, b"ok")] * 20)


async def test_a_failed_look_up_fails_for_all_who_waited_for_it(pool, names, nursery):
    """One after the other they would wait for the same silence again and again."""
    names.may_answer = trio.Event()
    failures = []

    async def call():
        with pytest.raises(httpx2.ConnectError) as error:
            await pool.send(to("nowhere", 1))
        failures.append(error.value)

    for _ in range(10):
        nursery.start_soon(call)
    await settled(0.01)
    names.may_answer.set()
    await settled(0.01)

    assert (names.asked, len(failures)) == (["nowhere"], 10)
    assert len({id(failure) for failure in failures}) == 10


async def test_who_waits_for_a_look_up_survives_the_one_who_began_it(pool, names, serve, nursery):
    """A document that times out must not take others with it."""
    names.may_answer = trio.Event()
    server = await serve(answer_ok)
    answers = []
    began = trio.CancelScope()

    async def begin():
        with began:
            await ask(pool, server, host="good")

    async def follow():
        answers.append(await ask(pool, server, host="good"))

    nursery.start_soon(begin)
    await settled(0.01)
    nursery.start_soon(follow)
    await settled(0.01)
    began.cancel()
    await settled(0.01)
    names.may_answer.set()
    while not answers:
        await settled(0.001)

    assert (answers, names.asked) == ([(200, b"ok")], ["good", "good"])


async def test_addresses_are_kept_for_half_a_minute(pool, names, serve, still_clock):
    """A provider that moves is followed; one that stays is not asked for with each connection."""
    server = await serve(answer_ok)
    for seconds in (0, 29.9, 0.2):
        still_clock.jump(seconds)
        await (await pool.send(request(server, host="good"))).aclose()

    assert names.asked == ["good", "good"]


def test_addresses_of_another_run_are_looked_up_again():
    """Each trio run has a clock of its own: what was kept could be valid for ever."""
    asked = []
    pool = PoolTransport()

    async def run():
        names = Names(good=["127.0.0.1"])
        trio.socket.set_custom_hostname_resolver(names)
        with pytest.raises(httpx2.ConnectError):
            await pool.send(to("good", 1))
        asked.extend(names.asked)

    trio.run(run)
    trio.run(run)

    assert asked == ["good", "good"]


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "fe80::1", "fe80::1%lo", "fd00:ec2::254", "::ffff:169.254.169.254"]
)
async def test_a_name_that_leads_to_this_machines_credentials_is_refused(pool, names, address):
    """Whoever controls a name must not have the cloud's keys fetched for him."""
    names.known["evil"] = [address]
    with pytest.raises(httpx2.ConnectError) as error:
        await pool.send(to("evil", 80))

    assert str(error.value.__cause__) == "[Errno 13] the host has only link-local addresses, which are never asked"


async def test_a_link_local_address_beside_others_is_left_out(pool, names, serve):
    """A machine in the local network may have such an address as well; it is reached by its other one."""
    server = await serve(answer_ok)
    names.known["both"] = ["169.254.169.254", "127.0.0.1"]

    assert await ask(pool, server, host="both") == (200, b"ok")


async def test_the_second_address_is_of_the_other_family(names):
    """However many addresses a dead family has, it costs one quarter of a second."""
    names.known["many"] = ["::1", "::2", "::3", "127.0.0.1", "127.0.0.2"]
    found = await connecting._look_up("many", 1)

    assert [address[0] for _, address in found] == ["::1", "127.0.0.1", "::2", "::3", "127.0.0.2"]


# Addresses


async def test_nobody_listening_is_an_error_with_its_cause(pool, serve):
    """The commonest mistake of all: the local server is not running."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(httpx2.ConnectError) as error:
            await pool.send(to("127.0.0.1", unused.getsockname()[1]))

    assert isinstance(error.value.__cause__, ConnectionRefusedError)
    assert pool.statistics() == PoolStatistics(0, 0, 0, 0, 0)


async def test_if_no_address_answers_all_reasons_are_told(pool, names):
    """The first reason alone is often that of a family which nobody has."""
    names.known["dead"] = ["127.0.0.1", "127.0.0.3"]
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(httpx2.ConnectError) as error:
            await pool.send(to("dead", unused.getsockname()[1]))

    assert [type(reason) for reason in error.value.__cause__.exceptions] == [ConnectionRefusedError] * 2


async def test_an_address_that_refuses_is_followed_by_the_next_at_once(pool, names, serve, still_clock):
    """`localhost` is two addresses, and most servers listen on one."""
    server = await serve(answer_ok)
    names.known["half"] = ["127.0.0.3", "127.0.0.1"]

    assert await ask(pool, server, host="half") == (200, b"ok")


async def test_an_address_that_is_silent_costs_one_stagger_once(pool, names, black_hole, nursery, still_clock):
    """A broken IPv6 must not cost the connect timeout, and not a quarter of a second per connection either."""
    names.known["half"] = [black_hole[0], "127.0.0.1"]
    listeners = await trio.open_tcp_listeners(black_hole[1], host="127.0.0.1")

    async def answer(stream):
        async with stream:
            await stream.receive_some(1000)
            await stream.send_all(OK)

    nursery.start_soon(trio.serve_listeners, answer, listeners)
    seconds = []

    async def call():
        response = await pool.send(to("half", black_hole[1]))
        seconds.append(response.connect_seconds)
        response.close()

    for _ in range(2):
        async with trio.open_nursery() as calls:
            calls.start_soon(call)
            await settled(0.01)
            if not seconds:
                still_clock.jump(connecting.STAGGER)

    assert seconds == [0.25, 0.0]


async def test_a_black_hole_ends_with_the_connect_timeout(pool, black_hole, still_clock, nursery):
    """A firewall that drops packets says nothing: somebody has to stop waiting."""
    raised = []

    async def call():
        with pytest.raises(httpx2.ConnectTimeout, match=r"^there was no connection after 3 s$") as error:
            await pool.send(to(*black_hole, timeout=3))
        raised.append((error.value, trio.current_time()))

    started = trio.current_time()
    nursery.start_soon(call)
    await settled(0.01)
    still_clock.jump(3)
    await settled(0.01)

    assert [at - started for _, at in raised] == [3]
    assert pool.statistics() == PoolStatistics(0, 0, 0, 0, 0)


async def test_the_connect_timeout_includes_tls(pool, serve, still_clock, nursery):
    """A server that accepts and then says nothing is as unreachable as one that does not accept."""

    async def say_nothing(peer):
        await peer.hung_up()

    server = await serve(say_nothing)
    raised = []

    async def call():
        with pytest.raises(httpx2.ConnectTimeout):
            await pool.send(to("127.0.0.1", server.port, scheme="https", timeout=3))
        raised.append(trio.current_time())

    nursery.start_soon(call)
    await settled(0.01)
    still_clock.jump(3)
    await settled(0.01)

    assert (len(raised), server.accepted, server.open) == (1, 1, 0)


async def test_few_connect_at_a_time_and_those_who_wait_do_not_time_out(serve, nursery, still_clock):
    """A rush of our own must not look like a server that does not answer."""

    async def say_nothing(peer):
        await peer.hung_up()

    server = await serve(say_nothing)
    pool = PoolTransport(max_connecting=2)
    raised = []

    async def call():
        with pytest.raises(httpx2.ConnectTimeout):
            await pool.send(to("127.0.0.1", server.port, scheme="https", timeout=3))
        raised.append(trio.current_time())

    started = trio.current_time()
    for _ in range(6):
        nursery.start_soon(call)
    accepted = []
    for _ in range(3):
        await settled(0.01)
        accepted.append(server.accepted)
        still_clock.jump(3)
    await settled(0.01)

    assert accepted == [2, 4, 6]
    assert [at - started for at in raised] == [3, 3, 6, 6, 9, 9]


async def test_who_waits_to_connect_takes_what_becomes_free(serve, nursery):
    """A handshake less, and a descriptor."""
    server = await serve(answer_ok)
    pool = PoolTransport(max_connecting=1)
    answers = []

    async def call():
        answers.append(await ask(pool, server))

    for _ in range(50):
        nursery.start_soon(call)
    while len(answers) < 50:
        await settled(0.001)
    counts = pool.statistics()
    await pool.aclose()

    assert answers == [(200, b"ok")] * 50
    assert counts.opened + counts.reused == 50
    assert counts.opened == server.accepted < 50


async def test_descriptors_that_run_out_are_the_cause(pool, names, serve):
    """It looks like an outage of the provider, and is our own fault."""
    server = await serve(answer_ok)
    names.known["two"] = ["127.0.0.3", "127.0.0.1"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with socket.socket() as probe:
        highest = probe.fileno()
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest, hard))
    try:
        with pytest.raises(httpx2.ConnectError) as one:
            await pool.send(request(server))
        with pytest.raises(httpx2.ConnectError) as two:
            await pool.send(request(server, host="two"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert [error.value.__cause__.errno for error in (one, two)] == [errno.EMFILE, errno.EMFILE]
    assert await ask(pool, server) == (200, b"ok")


# TLS


def certified(authority=AUTHORITY, *, host="127.0.0.1", expired=False, is_self_signed=False):
    """Return a server's context with a certificate for a host."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    if is_self_signed:
        signer = trustme.CA()
        with signer.private_key_pem.tempfile() as key, signer.cert_pem.tempfile() as certificate:
            context.load_cert_chain(certificate, key)
        return context
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    options = {"not_before": past - dt.timedelta(days=9), "not_after": past} if expired else {}
    authority.issue_cert(host, **options).configure_cert(context)
    context.set_alpn_protocols(["http/1.1"])
    return context


def trusting(**options):
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    for name, value in options.items():
        getattr(context, name)(value)
    return context


@pytest.fixture
async def tls_pool(parser):
    transport = PoolTransport(ssl_context=trusting(), parser=parser)
    yield transport
    await transport.aclose()


async def test_tls_carries_all_requests_of_a_sequence_over_one_handshake(tls_pool, serve):
    """A handshake costs ten requests; session tickets must not make a good connection look dead."""

    async def stream(peer):
        while await peer.request():
            await peer.send(CHUNKED + b"6\r\n[DONE]\r\n")
            await peer.send(END)

    server = await serve(stream, tls=certified())
    for _ in range(100):
        response = await tls_pool.send(request(server))
        assert await response.receive() == b"[DONE]"
        response.release()
        while not tls_pool.statistics().idle:
            await trio.lowlevel.checkpoint()

    assert (server.accepted, tls_pool.statistics()) == (1, PoolStatistics(1, 1, 1, 99, 0))


async def test_tickets_that_wait_on_the_socket_are_silence(tls_pool, serve):
    """They come after the handshake, when nobody reads: to a look at the socket they are an answer."""

    async def shake_hands(peer):
        # By hand, because trio's own TLS holds its tickets back.
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = certified().wrap_bio(incoming, outgoing, server_side=True)
        for _ in range(2):
            incoming.write(await peer.stream.receive_some(65536))
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            await peer.send(outgoing.read())
        await peer.hung_up()

    server = await serve(shake_hands)
    connection = await tls_pool._pool.connect(server.origin._replace(scheme="https"), 5)
    await trio.lowlevel.wait_readable(connection._socket)

    assert connection.is_quiet()


async def test_an_unasked_answer_in_tls_is_no_silence(tls_pool, serve):
    """It may be decrypted already and still be another document's."""

    async def answer_twice(peer):
        await peer.request()
        await peer.send(OK)
        await peer.send(OK.replace(b"ok", b"no"))
        await peer.hung_up()

    server = await serve(answer_twice, answer_ok, tls=certified())
    await ask(tls_pool, server)
    await settled(0.01)

    assert await ask(tls_pool, server) == (200, b"ok")
    assert server.accepted == 2


async def test_a_large_exchange_by_tls_is_whole(tls_pool, serve):
    """Records are smaller than bodies, and sockets smaller than both."""
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n" + b"y" * 3_000_000

    async def script(peer):
        while await peer.request():
            await peer.send(answer)

    server = await serve(script, tls=certified())
    body = bytes(range(256)) * 40_000

    assert await ask(tls_pool, server, body) == (200, b"y" * 3_000_000)
    assert (server.requests[0][2] == body, tls_pool.statistics().idle) == (True, 1)


async def test_a_refusal_in_the_middle_of_an_upload_by_tls_is_read(tls_pool, serve):
    """The same as in clear text."""

    async def refuse(peer):
        await peer.stream.receive_some(1000)
        await peer.send(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\nno")
        await trio.sleep_forever()

    server = await serve(refuse, tls=certified())

    assert await ask(tls_pool, server, b"x" * 20_000_000) == (401, b"no")


async def test_a_kept_tls_connection_that_dies_unanswered_is_replaced_once(tls_pool, serve):
    """The same as in clear text."""

    async def close_upon_the_second_request(peer):
        await peer.request()
        await peer.send(OK)
        await peer.request()

    server = await serve(close_upon_the_second_request, answer_ok, tls=certified())
    await ask(tls_pool, server)
    response = await tls_pool.send(request(server))

    assert (response.replays, await whole(response)) == (1, b"ok")


UNTRUSTED = {
    "expired": ({"expired": True}, "certificate has expired"),
    "unknown authority": ({"authority": trustme.CA()}, "unable to get local issuer certificate"),
    "self-signed": ({"is_self_signed": True}, "self-signed certificate"),
    "wrong host": ({"host": "other.example"}, "IP address mismatch, certificate is not valid for '127.0.0.1'."),
}


@pytest.mark.parametrize("case", UNTRUSTED)
async def test_a_server_that_cannot_be_trusted_gets_no_request(tls_pool, serve, case):
    """Whoever goes on without checking hands the key to whoever stands in between."""
    options, reason = UNTRUSTED[case]
    server = await serve(answer_ok, tls=certified(**options))
    with pytest.raises(httpx2.ConnectError) as error:
        await tls_pool.send(request(server))

    assert isinstance(error.value.__cause__, ssl.SSLCertVerificationError)
    assert error.value.__cause__.verify_message == reason
    assert (server.requests, tls_pool.statistics().open) == ([], 0)


async def test_the_systems_certificates_are_checked_without_a_context(pool, serve):
    """Nobody should have to ask for safety."""
    server = await serve(answer_ok, tls=certified())
    with pytest.raises(httpx2.ConnectError) as error:
        await pool.send(request(server))

    assert isinstance(error.value.__cause__, ssl.SSLCertVerificationError)


async def test_one_context_serves_all_connections(serve, monkeypatch):
    """Each costs 23 ms, during which nothing else runs."""
    made = []

    def make(**options):
        made.append(options)
        return trusting()

    monkeypatch.setattr(httpx2, "create_ssl_context", make)
    server = await serve(answer_ok, tls=certified())
    plain = await serve(answer_ok)
    pool = PoolTransport()
    await ask(pool, plain)
    before = list(made)
    for _ in range(3):
        (await pool.send(request(server))).close()
    await pool.aclose()

    assert (before, made) == ([], [{"trust_env": False}])


async def test_the_server_is_told_its_name_and_the_protocol(serve, names):
    """One address serves many names, and a server that is not told may choose HTTP/2."""
    told = []
    context = certified(host="good")
    context.sni_callback = lambda _socket, name, _context: told.append(name)
    protocols = []

    async def look(peer):
        await peer.request()
        protocols.append(peer.stream.selected_alpn_protocol())
        await peer.send(OK)

    server = await serve(look, tls=context)
    pool = PoolTransport(ssl_context=trusting(set_alpn_protocols=["http/1.1"]))
    await ask(pool, server, host="good")
    await pool.aclose()

    assert (told, protocols) == (["good"], ["http/1.1"])


async def test_a_context_that_gets_http2_is_refused(serve):
    """HTTP/1.1 on such a connection is noise to the server."""
    context = certified()
    context.set_alpn_protocols(["h2"])
    server = await serve(answer_ok, tls=context)
    pool = PoolTransport(ssl_context=trusting(set_alpn_protocols=["h2", "http/1.1"]))
    with pytest.raises(httpx2.ConnectError, match="ssl_context= offers 'h2', which is not spoken here"):
        await pool.send(request(server))

    assert pool.statistics().open == 0


async def test_a_reset_in_the_handshake_is_no_fault_of_tls(pool, serve):
    """A certificate is worth a message to the user; a broken network is worth another try."""

    async def reset(peer):
        await peer.stream.receive_some(10)
        peer.reset()

    server = await serve(reset)
    with pytest.raises(httpx2.ConnectError) as error:
        await pool.send(to("127.0.0.1", server.port, scheme="https"))

    assert isinstance(error.value.__cause__, ConnectionResetError)
    assert error.value.__cause__.__context__ is None
