"""Sync code from async code, by trio's worker threads, and async code from sync code, wherever that runs."""

from __future__ import annotations

import contextvars
import functools
import sys
import threading
import warnings
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import trio

from pipeline_engine.resilience.starting import begin, discard, require_work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

__all__ = ["async_to_sync", "run_async", "run_in_executor", "sync_to_async"]

P = ParamSpec("P")
T = TypeVar("T")

_has_warned = False


def sync_to_async(function: Callable[P, T]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Make an async function of a plain one: each call runs in a worker thread, and the loop goes on.

    Context variables and exceptions cross. A thread cannot be stopped: a caller that is cancelled waits until
    the function returns, so bound what it does by its own means.

    Example:
        >>> @sync_to_async
        ... def total(numbers):
        ...     return sum(numbers)
        >>> trio.run(total, [1, 2, 3])
        6
    """

    @functools.wraps(function)
    async def call(*arguments: P.args, **options: P.kwargs) -> T:
        return await run_in_executor(function, *arguments, **options)

    return call


async def run_in_executor(function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a plain function in a worker thread and wait for its result, while the loop goes on.

    Context variables and exceptions cross. A thread cannot be stopped: a caller that is cancelled waits until
    the function returns. Threads share one interpreter lock: they help where the function waits or computes
    outside of Python.

    Args:
        function: What to call.
        arguments: Its arguments.
        options: Its keyword arguments.

    Example:
        >>> trio.run(run_in_executor, sum, [1, 2, 3])
        6
    """
    return await trio.to_thread.run_sync(functools.partial(function, *arguments, **options))


def async_to_sync(function: Callable[P, Awaitable[T]]) -> Callable[P, T]:
    """Make a plain function of an async one; each call is a `run_async`.

    Example:
        >>> @async_to_sync
        ... async def answer():
        ...     return 42
        >>> answer()
        42
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> T:
        return _run_async(function, *arguments, **options)

    return call


def run_async(work: Awaitable[T] | Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
    """Run async code to its end from sync code, wherever that runs, and return the result.

    In plain code it is a `trio.run`. In a worker thread of trio's the work is done in the loop that the thread
    belongs to, and is cancelled with it. Where an event loop runs in this very thread (trio's, or asyncio's, as
    in a notebook) the work is done by a loop in a thread of its own while this one is blocked, and a warning
    says so, once. Context variables and exceptions cross.

    Args:
        work: A coroutine, or an async function.
        arguments: The function's arguments.
        options: The function's keyword arguments.

    Raises:
        TypeError: If `work` is neither, or arguments are given to a coroutine.

    Example:
        >>> async def add(first, second):
        ...     return first + second
        >>> run_async(add, 1, 2), run_async(add(1, 2))
        (3, 3)
    """
    return _run_async(work, *arguments, **options)


def _run_async(work: Awaitable[T] | Callable[..., Awaitable[T]], *arguments: Any, **options: Any) -> T:
    """Do what `run_async` does; apart, so that a warning names the caller's line for both of its users."""
    try:
        require_work(work)
        if arguments or options:
            if not callable(work):
                raise TypeError(
                    "run_async takes arguments together with a function: run_async(f, 1), or run_async(f(1))."
                )
            work = functools.partial(work, *arguments, **options)
        given = work

        async def main() -> T:
            return await begin(given)

        if trio.lowlevel.in_trio_run() or _is_asyncio_running():
            _warn_once()
            return _run_on_own_thread(main)
        if _is_in_worker_thread():
            return trio.from_thread.run(main)
        return trio.run(main)
    finally:
        discard(work)


def _is_in_worker_thread() -> bool:
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:
        return False
    return True


def _is_asyncio_running() -> bool:
    asyncio = sys.modules.get("asyncio")  # whoever runs its loop has imported it
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_on_own_thread(main: Callable[[], Awaitable[T]]) -> T:
    """Run a loop in a new thread and wait for it. An interrupt cancels it and waits until it has left."""
    future: Future[T] = Future()
    scope = trio.CancelScope()
    loops: list[trio.lowlevel.TrioToken] = []
    started = threading.Event()

    async def cancellable() -> T:
        loops.append(trio.lowlevel.current_trio_token())
        started.set()
        with scope:
            return await main()
        raise KeyboardInterrupt  # what has cancelled it

    def perform() -> None:
        try:
            future.set_result(trio.run(cancellable))
        except BaseException as error:  # noqa: BLE001 - it crosses to the caller's thread, whatever it is
            future.set_exception(error)
        finally:
            started.set()

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(perform,), name="pipeline_engine run_async")
    thread.start()
    try:
        return future.result()
    finally:
        if not future.done():
            started.wait()
            try:
                loops[0].run_sync_soon(scope.cancel)
            except (IndexError, trio.RunFinishedError):
                pass  # it has ended in this very moment
        thread.join()


def _warn_once() -> None:
    global _has_warned  # noqa: PLW0603 - once per process
    if not _has_warned:
        _has_warned = True
        warnings.warn(
            "run_async blocks the event loop that is running here until it returns. Use `await` instead.",
            RuntimeWarning,
            stacklevel=4,
        )
