"""Where the engine starts trio for callers outside of it, and on which clock: a real one, but for tests."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

__all__ = ["clocks_from", "has_clock_of_its_own", "run_loop"]

T = TypeVar("T")

_new_clock: Callable[[], trio.abc.Clock] | None = None


def run_loop(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """Run an async function on a new trio loop of this thread, and return what it returns."""
    return trio.run(function, *arguments, clock=None if _new_clock is None else _new_clock())


def has_clock_of_its_own() -> bool:
    """Return whether a loop that is started now is on another clock than trio's."""
    return _new_clock is not None


@contextmanager
def clocks_from(new_clock: Callable[[], trio.abc.Clock]) -> Iterator[None]:
    """Put each loop that is started meanwhile, by whichever thread, on a clock that `new_clock` makes for it."""
    global _new_clock  # noqa: PLW0603 - threads and hosts that a test starts know nothing of its context
    before, _new_clock = _new_clock, new_clock
    try:
        yield
    finally:
        _new_clock = before
