"""Cancel an exchange at each of its checkpoints: nothing stays open, half-read or taken."""

import ssl
from contextlib import contextmanager

import pytest
import trio
import trio.testing
import trustme

from pipeline_engine.providers.transport import PoolTransport
from tests.providers.transport.loopback import CHUNKED, END, OK, ask, request

settled = trio.testing.wait_all_tasks_blocked
AUTHORITY = trustme.CA()


class CancelAtCheckpoint(trio.abc.Instrument):
    """Cancel a scope when a task has come to its n-th checkpoint, and count how many it came to."""

    def __init__(self, task, scope, number):
        self._task = task
        self._scope = scope
        self._number = number
        self.passed = 0

    def after_task_step(self, task):
        if task is self._task:
            self.passed += 1
            if self.passed == self._number:
                self._scope.cancel()


@contextmanager
def cancelled_at(number):
    """Cancel what runs inside at its n-th checkpoint."""
    with trio.CancelScope() as scope:
        instrument = CancelAtCheckpoint(trio.lowlevel.current_task(), scope, number)
        trio.lowlevel.add_instrument(instrument)
        try:
            yield instrument
        finally:
            trio.lowlevel.remove_instrument(instrument)


async def in_pieces(peer):
    """Answer slowly enough for a checkpoint in the head, in the body, and before the end."""
    while received := await peer.request():
        pieces = [b"HTTP/1.1 100 Continue\r\n\r\n", CHUNKED[:20], CHUNKED[20:], b"5\r\nhello\r\n", END]
        for piece in [OK] if received[1] == b"plain" else pieces:
            await settled()
            await peer.send(piece)


def secured():
    server, client = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    AUTHORITY.issue_cert("127.0.0.1").configure_cert(server)
    AUTHORITY.configure_trust(client)
    return server, client


async def sweep(pool, server, exchange, body):
    """Cancel the exchange at its first checkpoint, then at its second, and so on; return how many it has."""
    number = 0
    while True:
        number += 1
        with cancelled_at(number) as instrument:
            await exchange(pool, server, body)
        await settled(0.001)
        counts = pool.statistics()
        busy = counts.open - counts.idle
        permits = pool._pool._origins[server.origin].connector.permits
        assert (busy, permits.value, pool._pool._connecting) == (0, 64, 0), f"after checkpoint {number}: {counts}"
        assert server.open == counts.open, f"after checkpoint {number} the server still has a connection"
        assert await ask(pool, server, b"plain") == (200, b"ok")
        await settled(0.001)
        if instrument.passed < number:
            return number - 1


async def read_whole(pool, server, body):
    await ask(pool, server, body)


async def leave_at_the_marker(pool, server, body):
    response = await pool.send(request(server, body))
    await response.receive()
    response.release()


async def read_over_a_new_connection(pool, server, body):
    await pool.aclose()
    await ask(pool, server, body)


@pytest.mark.parametrize("is_secure", [False, True])
@pytest.mark.parametrize("exchange", [read_whole, leave_at_the_marker, read_over_a_new_connection])
async def test_a_cancelled_exchange_leaves_nothing_behind(parser, serve, exchange, is_secure):
    """Timeouts, hedges and Ctrl-C cancel all the time; a pool that loses a slot each time ends up refusing all."""
    tls, context = secured() if is_secure else (None, None)
    server = await serve(in_pieces, tls=tls)
    pool = PoolTransport(parser=parser, ssl_context=context)
    checkpoints = await sweep(pool, server, exchange, b"{}")
    await pool.aclose()
    await settled(0.001)

    assert checkpoints >= 3
    assert (server.open, pool.statistics().open) == (0, 0)


async def test_a_cancelled_upload_leaves_nothing_behind(parser, serve):
    """A large body has waits of its own, with a task beside it that looks for an early answer."""
    server = await serve(in_pieces)
    pool = PoolTransport(parser=parser)
    body = b"x" * 8_000_000

    number, passed = 0, 1
    while passed > number:
        number = number * 2 + 1  # there are too many of them to stop at each
        with cancelled_at(number) as instrument:
            await ask(pool, server, body)
        passed = instrument.passed
        await settled(0.001)
        counts = pool.statistics()
        assert (counts.open - counts.idle, server.open - counts.open) == (0, 0)
        assert await ask(pool, server, b"plain") == (200, b"ok")
    await pool.aclose()

    assert number > 3


async def test_an_exchange_that_is_cancelled_before_it_begins_sends_nothing(parser, serve):
    """A document that has timed out while it waited must not be paid for."""
    server = await serve(in_pieces)
    pool = PoolTransport(parser=parser)
    with trio.CancelScope() as scope:
        scope.cancel()
        await ask(pool, server)
    await settled(0.001)

    assert (scope.cancelled_caught, server.requests, pool.statistics().open) == (True, [], 0)
