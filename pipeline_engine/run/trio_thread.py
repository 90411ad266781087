"""A thread with a trio loop of its own, for callers that live outside of trio."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["TrioThread"]

T = TypeVar("T")


class TrioThread:
    """Run async functions on one background thread; safe to use from any other thread.

    Context variables and exceptions cross. Cancelling a returned future cancels the work.
    """

    def __init__(self, name: str, *, is_daemon: bool = False) -> None:
        self._thread = threading.Thread(target=self._main, name=name, daemon=is_daemon)
        self._started = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._closing: trio.Event | None = None
        self._lock = threading.Lock()
        self._is_open = False

    def start(self) -> None:
        """Start the thread and return once its loop is running."""
        self._thread.start()
        self._started.wait()

    @property
    def is_open(self) -> bool:
        """Whether work can be given to it."""
        return self._is_open

    def _main(self) -> None:
        try:
            trio.run(self._serve)
        finally:
            self._is_open = False

    async def _serve(self) -> None:
        self._closing = trio.Event()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._token = trio.lowlevel.current_trio_token()
            self._is_open = True
            self._started.set()
            await self._closing.wait()
        self._is_open = False

    def submit(
        self,
        function: Callable[..., Awaitable[T]],
        *arguments: Any,
        in_order: Callable[[], Any] | None = None,
    ) -> Future[T]:
        """Start `function` there and return at once.

        Args:
            function: What to await on the thread; the future has its result.
            arguments: Its arguments.
            in_order: Called on the thread in the order of submissions, before the function, which gets its
                result as a last argument: trio starts tasks in an order of its own.

        Raises:
            RuntimeError: If the thread is closed.
        """
        return self.submit_tracked(function, *arguments, in_order=in_order)[0]

    def submit_tracked(
        self,
        function: Callable[..., Awaitable[T]],
        *arguments: Any,
        in_order: Callable[[], Any] | None = None,
    ) -> tuple[Future[T], threading.Event]:
        """Start `function` there; return its future, and an event that is set when it has left.

        Raises:
            RuntimeError: If the thread is closed.
        """
        if self._token is None or not self._is_open:
            raise RuntimeError("the trio thread is closed")
        future: Future[T] = Future()
        scope = trio.CancelScope()
        ended = threading.Event()
        context = contextvars.copy_context()

        async def perform(*more: Any) -> None:
            try:
                with scope:
                    result = await function(*arguments, *more)
                if not scope.cancelled_caught and future.set_running_or_notify_cancel():
                    future.set_result(result)
                elif scope.cancelled_caught:
                    _tell_cancelled(future)
            except trio.Cancelled:
                _tell_cancelled(future)
                raise
            except BaseException as error:  # noqa: BLE001 - it crosses to the caller's thread, whatever it is
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
            finally:
                ended.set()

        def begin() -> None:
            more = () if in_order is None else (in_order(),)
            if self._nursery is None or (self._closing is not None and self._closing.is_set()):
                _tell_cancelled(future)
                ended.set()
            else:
                context.run(self._nursery.start_soon, perform, *more)

        def cancel(done: Future[T]) -> None:
            if done.cancelled():
                self._tell(scope.cancel)

        future.add_done_callback(cancel)
        if not self._tell(begin):  # the loop ended in this very moment
            _tell_cancelled(future)
            ended.set()
        return future, ended

    def _tell(self, callback: Callable[[], object]) -> bool:
        """Have something called on the thread; return False if its loop is gone, and the work with it."""
        if self._token is None:
            return False
        try:
            self._token.run_sync_soon(callback)
        except trio.RunFinishedError:
            return False
        return True

    def call(
        self,
        function: Callable[..., Awaitable[T]],
        *arguments: Any,
        in_order: Callable[[], Any] | None = None,
    ) -> T:
        """Run `function` there and wait for it. An interrupt cancels it and waits until it has left.

        Raises:
            RuntimeError: If the thread is closed, or is the one that calls: it would wait for itself.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "this call would wait for its own thread. Inside an async step use `await run_pipeline_async(…)`."
            )
        future, ended = self.submit_tracked(function, *arguments, in_order=in_order)
        try:
            return future.result()
        except (KeyboardInterrupt, SystemExit):
            future.cancel()
            ended.wait()
            raise

    def close(self) -> None:
        """Wait for the work that is under way, then end the thread. Does nothing the second time."""
        with self._lock:
            was_open, self._is_open = self._is_open, False
        if was_open and self._closing is not None:
            self._tell(self._closing.set)
            self._thread.join()


def _tell_cancelled(future: Future[Any]) -> None:
    """Cancel a future and tell everybody who waits for it."""
    future.cancel()
    future.set_running_or_notify_cancel()
