"""trio's clock, going on from one event loop to the next, for objects that outlive their loop."""

from __future__ import annotations

import time

import trio

__all__ = ["LoopClock"]


class LoopClock:
    """Tell the time in seconds, on a scale that holds across event loops.

    Each `trio.run` begins its clock at a random instant. A limiter made at a module's top meets many of them,
    one for each `run_async(…)`: an instant remembered from one loop would be days off in the next. Within the
    first loop the time is exactly `trio.current_time()`; between two loops the machine's own clock counts.

    Example:
        >>> async def look(clock):
        ...     return clock.now()
        >>> clock = LoopClock()
        >>> first, second = trio.run(look, clock), trio.run(look, clock)
        >>> 0 < second - first < 60
        True
    """

    __slots__ = ("_loop", "_seen_at", "_shift", "_told")

    def __init__(self) -> None:
        self._loop: trio.lowlevel.TrioToken | None = None
        self._shift = 0.0
        self._told = 0.0
        """The last instant that was told, and …"""
        self._seen_at = 0.0
        """… what the machine's clock said then."""

    def now(self) -> float:
        """Return the present instant.

        Raises:
            RuntimeError: If trio is not running here.
        """
        loop = trio.lowlevel.current_trio_token()
        seen_at = time.monotonic()  # noqa: TID251 - the time between two loops is on no clock of trio's
        if loop is not self._loop:
            if self._loop is not None:
                self._shift = self._told + (seen_at - self._seen_at) - trio.current_time()
            self._loop = loop
        self._seen_at = seen_at
        self._told = trio.current_time() + self._shift
        return self._told

    @property
    def is_elsewhere(self) -> bool:
        """Whether the time was last told to another event loop than the one that runs here."""
        return self._loop is not None and self._loop is not trio.lowlevel.current_trio_token()
