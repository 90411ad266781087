"""Fixtures of the transport's tests: servers, a pool for each parser, and a clock that stands still."""

import pytest
import trio.testing

from pipeline_engine.providers.transport import PoolTransport
from tests.providers.transport.loopback import Server


@pytest.fixture
def serve(nursery):
    """Start a server on the loopback; it ends with the test."""

    async def start(*scripts, tls=None):
        return await Server(list(scripts), tls).listen(nursery)

    return start


@pytest.fixture(params=["h11", "httptools"])
def parser(request):
    return request.param


@pytest.fixture
async def pool(parser):
    """A pool that is closed at the end, with nothing left open."""
    transport = PoolTransport(parser=parser)
    yield transport
    await transport.aclose()
    assert transport.statistics().open == 0


@pytest.fixture
def still_clock():
    """Time passes only by `jump`, so that real sockets are waited for and no second is."""
    return trio.testing.MockClock()
