"""Retries, limits, breakers and bridges for any async code under trio; an engine uses the same cores itself.

The public names are live objects for other people's functions. They load when they are used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline_engine.errors import CircuitOpenError
    from pipeline_engine.resilience.breaker import CircuitBreaker
    from pipeline_engine.resilience.bridging import async_to_sync, run_async, run_in_executor, sync_to_async
    from pipeline_engine.resilience.circuit import CircuitState
    from pipeline_engine.resilience.gathering import (
        gather_with_limit,
        run_with_shield,
        run_with_timeout,
        timeout_after,
    )
    from pipeline_engine.resilience.limiter import RateLimiter
    from pipeline_engine.resilience.retrying import BackoffStrategy, retry

__all__ = [
    "BackoffStrategy",
    "CircuitBreaker",
    "CircuitOpenError",
    "CircuitState",
    "RateLimiter",
    "async_to_sync",
    "gather_with_limit",
    "retry",
    "run_async",
    "run_in_executor",
    "run_with_shield",
    "run_with_timeout",
    "sync_to_async",
    "timeout_after",
]

_ROOM_OF = {
    "BackoffStrategy": "resilience.retrying",
    "CircuitBreaker": "resilience.breaker",
    "CircuitOpenError": "errors",
    "CircuitState": "resilience.circuit",
    "RateLimiter": "resilience.limiter",
    "async_to_sync": "resilience.bridging",
    "gather_with_limit": "resilience.gathering",
    "retry": "resilience.retrying",
    "run_async": "resilience.bridging",
    "run_in_executor": "resilience.bridging",
    "run_with_shield": "resilience.gathering",
    "run_with_timeout": "resilience.gathering",
    "sync_to_async": "resilience.bridging",
    "timeout_after": "resilience.gathering",
}


def __getattr__(name: str) -> Any:
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"pipeline_engine.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
