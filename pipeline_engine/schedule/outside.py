"""Work outside of trio's loop, which a virtual clock takes for waiting: meanwhile it stands still."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import trio

from pipeline_engine.journal.writing import ThreadedJournal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio.testing import MockClock

    from pipeline_engine.values import Journal

__all__ = ["hold_clock_for", "journal_work", "outside_work", "within_trio"]

_PATIENCE = 5.0
"""Real seconds after which a virtual clock jumps all the same: what hangs must run into its timeout."""
_under_way: trio.lowlevel.RunVar[int] = trio.lowlevel.RunVar("pipeline_engine work outside")


def hold_clock() -> Callable[[], None]:
    """Keep a virtual clock from jumping until what is returned is called.

    So that work outside takes no virtual time, and nothing becomes due before it is done; but work of more than five
    seconds, in real time, is jumped over. Real clocks go on as ever.
    """
    clock = trio.lowlevel.current_clock()
    if getattr(clock, "autojump_threshold", None) not in (0, _PATIENCE):
        return _leave_it  # it does not jump, or not at once
    virtual = cast("MockClock", clock)
    _under_way.set(_under_way.get(0) + 1)
    virtual.autojump_threshold = _PATIENCE

    def release() -> None:
        left = _under_way.get() - 1
        _under_way.set(left)
        if not left:
            virtual.autojump_threshold = 0

    return release


def _leave_it() -> None:
    """Do nothing: the clock was not held."""


@contextmanager
def outside_work() -> Iterator[None]:
    """Hold a virtual clock while a thread, a process or another loop works."""
    release = hold_clock()
    try:
        yield
    finally:
        release()


def hold_clock_for(journal: Journal) -> Callable[[], None]:
    """Hold a virtual clock until a journal has answered, if it works on a thread; others may wait on the clock."""
    return hold_clock() if isinstance(journal, ThreadedJournal) else _leave_it


@contextmanager
def journal_work(journal: Journal) -> Iterator[None]:
    """Hold a virtual clock while a journal's thread writes."""
    release = hold_clock_for(journal)
    try:
        yield
    finally:
        release()


@contextmanager
def within_trio() -> Iterator[None]:
    """Let a virtual clock jump again while work outside waits for trio: a thread's call of `run_pipeline`."""
    under_way = _under_way.get(0)
    if not under_way:
        yield  # the clock is a real one, or all who work outside wait for trio already
        return
    virtual = cast("MockClock", trio.lowlevel.current_clock())
    _under_way.set(under_way - 1)
    if under_way == 1:
        virtual.autojump_threshold = 0
    try:
        yield
    finally:
        _under_way.set(_under_way.get() + 1)
        virtual.autojump_threshold = _PATIENCE
