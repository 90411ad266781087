"""Sending bytes and receiving bytes: connections, their pool, and the seam to other HTTP clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.providers.transport.descriptors import ensure_descriptors
from pipeline_engine.providers.transport.exchange import Origin, Wire, WireRequest, WireResponse
from pipeline_engine.providers.transport.pool import PoolStatistics
from pipeline_engine.providers.transport.pool_transport import PoolTransport
from pipeline_engine.providers.transport.seam import SeamWire

if TYPE_CHECKING:
    import httpx2

__all__ = [
    "Origin",
    "PoolStatistics",
    "PoolTransport",
    "SeamWire",
    "Wire",
    "WireRequest",
    "WireResponse",
    "ensure_descriptors",
    "open_wire",
]


def open_wire(transport: httpx2.AsyncBaseTransport | None = None) -> Wire:
    """Return what carries a model's requests: a pool of its own, a pool that is given, or any other transport.

    Args:
        transport: Whoever gives one closes it; a pool made here is closed by the wire's `aclose`.
    """
    if transport is None:
        return PoolTransport()
    return transport if isinstance(transport, PoolTransport) else SeamWire(transport)
