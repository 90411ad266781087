"""A thread with a trio loop of its own, for callers that live outside of trio."""

from __future__ import annotations

import contextvars
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from pipeline_engine.run.loop import run_loop

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
        self._ended = threading.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._closing: trio.Event | None = None
        self._is_open = False
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Start the thread and return once its loop is running.

        Raises:
            RuntimeError: If the loop could not be started, for want of file descriptors for instance.
        """
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise RuntimeError(f"the thread {self._thread.name!r} could not start its trio loop.") from self._failure

    @property
    def is_open(self) -> bool:
        """Whether work can be given to it."""
        return self._is_open

    def _main(self) -> None:
        try:
            run_loop(self._serve)
        except BaseException as error:
            if self._started.is_set():
                raise
            self._failure = error  # told by start(), which waits for it
        finally:
            self._is_open = False
            self._started.set()
            self._ended.set()

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
    ) -> tuple[Future[T], Future[None]]:
        """Start `function` there; return its future, and one that is done when it has left.

        A cancelled future is done at once, while the function may still clean up.

        Raises:
            RuntimeError: If the thread is closed.
        """
        if self._token is None or not self._is_open:
            raise RuntimeError("the trio thread is closed")
        future: Future[T] = Future()
        scope = trio.CancelScope()
        left: Future[None] = Future()
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
                left.set_result(None)

        def begin() -> None:
            more = () if in_order is None else (in_order(),)
            if self._nursery is None or (self._closing is not None and self._closing.is_set()):
                _tell_cancelled(future)
                left.set_result(None)
            else:
                context.run(self._nursery.start_soon, perform, *more)

        def cancel(done: Future[T]) -> None:
            if done.cancelled():
                self.tell(scope.cancel)

        future.add_done_callback(cancel)
        if not self.tell(begin):  # the loop ended in this very moment
            _tell_cancelled(future)
            left.set_result(None)
        return future, left

    def tell(self, callback: Callable[[], object]) -> bool:
        """Have something called on the thread; return False if its loop is gone, and the work with it."""
        if self._token is None:
            return False
        try:
            self._token.run_sync_soon(callback)
        except trio.RunFinishedError:
            return False
        return True

    def spawn(self, function: Callable[[], Awaitable[object]]) -> None:
        """Start `function` from the thread itself; does nothing if it takes no more work."""
        if self._nursery is not None and self._closing is not None and not self._closing.is_set():
            self._nursery.start_soon(function)

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
        self.refuse_itself()
        future, left = self.submit_tracked(function, *arguments, in_order=in_order)
        try:
            return future.result()
        except (KeyboardInterrupt, SystemExit):
            future.cancel()
            left.result()
            raise

    def refuse_itself(self) -> None:
        """Raise if the caller is this thread: what it would wait for could never happen.

        Raises:
            RuntimeError: If it is.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "this call would wait for its own thread. Inside an async step use `await run_pipeline_async(…)`."
            )

    def end(self) -> None:
        """Take no more work; the thread ends when the work that is under way has. Does not wait for it."""
        self._is_open = False
        if self._closing is not None:
            self.tell(self._closing.set)

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the thread has ended, `timeout` seconds at most; return whether it has."""
        # Not Thread.join() alone: in Python 3.11 an interrupted one takes the thread for ended ever after.
        if not self._ended.wait(timeout):
            return False
        self._thread.join()
        return True

    def close(self) -> None:
        """Wait for the work that is under way, then end the thread. Closing again waits for the same end."""
        self.refuse_itself()
        self.end()
        self.join()


def _tell_cancelled(future: Future[Any]) -> None:
    """Cancel a future and tell everybody who waits for it."""
    future.cancel()
    future.set_running_or_notify_cancel()
