"""Many calls a few at a time, and one call within a time: what a nursery and a cancel scope are mostly used for."""

from __future__ import annotations

import contextvars
import logging
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import trio

from pipeline_engine.resilience.starting import Work, begin, discard, name_of, require_work

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

__all__ = ["gather_with_limit", "run_with_shield", "run_with_timeout", "timeout_after"]

T = TypeVar("T")

_log = logging.getLogger("pipeline_engine")


@overload
async def gather_with_limit(*work: Work[T], limit: int = 10, return_exceptions: Literal[False] = False) -> list[T]: ...


@overload
async def gather_with_limit(*work: Work[T], limit: int = 10, return_exceptions: bool) -> list[T | Exception]: ...


async def gather_with_limit(*work: Work[Any], limit: int = 10, return_exceptions: bool = False) -> list[Any]:
    """Run many calls, at most `limit` at once, and return their results in the order given.

    They start in that order, each as soon as one before it has ended, and each in a context of its own. The
    first error cancels what runs, closes what has not begun, and is raised as it is, in no group.

    Args:
        work: Coroutines and other awaitables, or async functions without arguments.
        limit: How many run at once.
        return_exceptions: Let the others run on after a failure, and return the errors in place of results.

    Raises:
        TypeError: If something is neither awaitable nor callable; nothing has begun.
        ValueError: If `limit` is less than 1.

    Example:
        >>> import trio.testing
        >>> async def double(number):
        ...     await trio.sleep(1)
        ...     return 2 * number
        >>> async def main():
        ...     return await gather_with_limit(*map(double, range(6)), limit=2), trio.current_time()
        >>> trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        ([0, 2, 4, 6, 8, 10], 3.0)
    """
    gathering = _Gathering(work, return_exceptions=return_exceptions)
    try:
        if limit < 1:
            raise ValueError(f"gather_with_limit(limit={limit!r}): at least one must run at a time.")
        for one in work:
            require_work(one)
        return await gathering.run(limit)
    finally:
        gathering.discard_the_rest()


class _Gathering:
    """Run one `gather_with_limit`."""

    def __init__(self, work: tuple[Work[Any], ...], *, return_exceptions: bool) -> None:
        self._work = work
        self._keeps_errors = return_exceptions
        self._results: list[Any] = [None] * len(work)
        self._tasks = 0
        """How many tasks were started: one for each call, in the end."""
        self._begun = 0
        """How many calls those have begun."""
        self._error: BaseException | None = None
        self._context = contextvars.copy_context()

    async def run(self, limit: int) -> list[Any]:
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            async with trio.open_nursery() as nursery:
                for _ in range(min(limit, len(self._work))):
                    self._start_one_more(nursery)
        except BaseException:
            if self._error is None:
                raise
        # A call that has failed is told of, also when everything is cancelled at the same moment.
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # else it holds its traceback, that this frame, and that the error
        return self._results

    def _start_one_more(self, nursery: trio.Nursery) -> None:
        # A task for each, so that what one of them sets in its context is not seen by the next. Which one it
        # runs is decided when it runs: trio starts tasks in an order of its own.
        self._tasks += 1
        self._context.run(nursery.start_soon, self._run_next, nursery)

    async def _run_next(self, nursery: trio.Nursery) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        number = self._begun
        self._begun += 1
        try:
            self._results[number] = await begin(self._work[number])
        except trio.Cancelled:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised by `run`, bare
            if self._keeps_errors and isinstance(error, Exception):
                self._results[number] = error
            elif self._error is None:
                self._error = error
                nursery.cancel_scope.cancel()
            else:
                _log.warning("gather_with_limit: one more call has failed while it was cancelled", exc_info=error)
        if self._tasks < len(self._work) and self._error is None:
            self._start_one_more(nursery)

    def discard_the_rest(self) -> None:
        """Close what was never begun."""
        for one in self._work[self._begun :]:
            discard(one)


async def run_with_timeout(work: Work[T], timeout: float) -> T:
    """Run one call, and cancel it when it takes longer than `timeout`.

    Only then `TimeoutError` is raised: an error of the call's own passes through, whatever its type.

    Args:
        work: A coroutine or other awaitable, or an async function without arguments.
        timeout: Seconds.

    Raises:
        TimeoutError: If it has taken too long.
        ValueError: If `timeout` is not positive.

    Example:
        >>> async def main():
        ...     await run_with_timeout(trio.sleep(60), timeout=2)
        >>> import trio.testing
        >>> trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        Traceback (most recent call last):
        TimeoutError: 'sleep' took longer than its timeout of 2 s and was cancelled. Raise timeout= if it may.
    """
    try:
        require_work(work)
        _require_positive("run_with_timeout", timeout)
        with trio.move_on_after(timeout):
            return await begin(work)
    finally:
        discard(work)
    raise TimeoutError(
        f"{name_of(work)} took longer than its timeout of {timeout:g} s and was cancelled. Raise timeout= if it may."
    )


@asynccontextmanager
async def timeout_after(seconds: float) -> AsyncIterator[trio.CancelScope]:
    """Bound how long a block takes: when its time is over it is cancelled, and `TimeoutError` is raised.

    It is `trio.fail_after` with the builtin error that other libraries raise and catch. Whatever is raised
    inside passes through.

    Args:
        seconds: How long the block may take.

    Yields:
        The cancel scope, whose `deadline` may be moved.

    Raises:
        TimeoutError: If it has taken too long.
        ValueError: If `seconds` is not positive.

    Example:
        >>> async def main():
        ...     async with timeout_after(2):
        ...         await trio.sleep(60)
        >>> import trio.testing
        >>> trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        Traceback (most recent call last):
        TimeoutError: the block took longer than its timeout of 2 s and was cancelled.
    """
    _require_positive("timeout_after", seconds)
    with trio.move_on_after(seconds) as scope:
        yield scope
    if scope.cancelled_caught:
        raise TimeoutError(f"the block took longer than its timeout of {seconds:g} s and was cancelled.")


async def run_with_shield(work: Work[T], timeout: float = 30.0) -> T:
    """Run one call to its end although what is around it is cancelled, within bounds.

    A cancellation from outside takes effect after it, at the caller's next checkpoint. A shield without bounds
    could hang a program that is asked to end, so this one ends by itself.

    Args:
        work: A coroutine or other awaitable, or an async function without arguments.
        timeout: Seconds after which the call is cancelled in spite of the shield.

    Raises:
        TimeoutError: If it has taken longer.
        ValueError: If `timeout` is not positive.

    Example:
        >>> async def main():
        ...     with trio.move_on_after(1):
        ...         try:
        ...             await trio.sleep(60)
        ...         finally:
        ...             await run_with_shield(trio.sleep(2))
        ...             print("saved at", trio.current_time(), "s")
        >>> import trio.testing
        >>> trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        saved at 3.0 s
    """
    try:
        require_work(work)
        if timeout == math.inf:
            raise ValueError("run_with_shield(timeout=inf): a shield without end could hang the program.")
        _require_positive("run_with_shield", timeout)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + timeout):
            return await begin(work)
    finally:
        discard(work)
    raise TimeoutError(
        f"{name_of(work)} took longer than its shield of {timeout:g} s and was cancelled. Raise timeout= if it may."
    )


def _require_positive(name: str, seconds: float) -> None:
    if not seconds > 0:
        raise ValueError(f"{name}: {seconds!r} is no timeout. Give a positive number of seconds.")
