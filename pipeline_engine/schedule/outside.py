"""Work outside of trio's loop, which a virtual clock takes for waiting: meanwhile it stands still."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import trio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio.testing import MockClock

__all__ = ["outside_work"]

_PATIENCE = 5.0
"""Real seconds after which a virtual clock jumps all the same: what hangs must run into its timeout."""
_under_way: trio.lowlevel.RunVar[int] = trio.lowlevel.RunVar("pipeline_engine work outside")


@contextmanager
def outside_work() -> Iterator[None]:
    """Keep a virtual clock from jumping while a thread, a process or another loop works.

    So that work takes no virtual time, and nothing becomes due before it is done; but work of more than five
    seconds, in real time, is jumped over. Real clocks go on as ever.
    """
    clock = trio.lowlevel.current_clock()
    if getattr(clock, "autojump_threshold", None) not in (0, _PATIENCE):
        yield  # it does not jump, or not at once
        return
    virtual = cast("MockClock", clock)
    _under_way.set(_under_way.get(0) + 1)
    virtual.autojump_threshold = _PATIENCE
    try:
        yield
    finally:
        left = _under_way.get() - 1
        _under_way.set(left)
        if not left:
            virtual.autojump_threshold = 0
