"""The rig that every fault is played on."""

import pytest
import trio

from tests.faults.rig import Rig


@pytest.fixture
async def rig(caplog, tmp_path):
    """The real stack on the loopback: engine, model, transport, and servers that misbehave."""
    async with trio.open_nursery() as nursery:
        yield Rig(nursery, caplog, tmp_path)
        nursery.cancel_scope.cancel()
