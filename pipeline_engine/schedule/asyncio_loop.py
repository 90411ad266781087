"""Coroutines written for asyncio, on one asyncio loop in a background thread."""

from __future__ import annotations

import asyncio  # noqa: TID251 - this bridge is the one exception in this room
import concurrent.futures
import contextvars
import threading
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from pipeline_engine.schedule.step_run import StepRun

__all__ = ["AsyncioExecutor"]


class AsyncioExecutor:
    """Run coroutine functions on an asyncio loop that is started when the first one comes."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    async def run(self, step_run: StepRun) -> Any:
        """Return what the coroutine returns. On cancellation it is cancelled, and its end awaited."""
        loop = self._running_loop()
        token = trio.lowlevel.current_trio_token()
        ended = trio.Event()
        context = contextvars.copy_context()

        async def perform() -> Any:
            coroutine = step_run.step.function(*step_run.arguments, **(step_run.keywords or {}))
            try:
                return await asyncio.get_running_loop().create_task(coroutine, context=context)
            except (SystemExit, KeyboardInterrupt) as error:
                # It would end the loop, and with it every asyncio step to come.
                raise RuntimeError(f"the step raised {type(error).__name__}") from error
            finally:
                # Told from inside, after the coroutine's own clean-up: a cancelled future is done at once.
                try:
                    token.run_sync_soon(ended.set)
                except trio.RunFinishedError:
                    pass  # nobody waits any more

        future = asyncio.run_coroutine_threadsafe(perform(), loop)
        try:
            await ended.wait()
        except trio.Cancelled:
            future.cancel()
            # The coroutine must have left before its step is over: it may hold what a retry needs.
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 5.0):
                await ended.wait()
            raise
        try:
            # Done but for a moment: the future is set just after its coroutine has left.
            return await trio.to_thread.run_sync(future.result) if not future.done() else future.result()
        except (asyncio.CancelledError, concurrent.futures.CancelledError) as error:
            raise RuntimeError("the asyncio task was cancelled by its own code") from error

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="pipeline_engine asyncio", daemon=True)
            self._thread.start()
        return self._loop

    async def aclose(self) -> None:
        """Stop the loop and its thread, if they were ever started."""
        loop, thread = self._loop, self._thread
        self._loop = self._thread = None
        if loop is None or thread is None:
            return
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 5.0):
            shutdown = asyncio.run_coroutine_threadsafe(_leave_nothing_behind(), loop)
            await trio.to_thread.run_sync(shutdown.result, abandon_on_cancel=True)
            loop.call_soon_threadsafe(loop.stop)
            await trio.to_thread.run_sync(thread.join, abandon_on_cancel=True)
            loop.close()


async def _leave_nothing_behind() -> None:
    """Cancel what the steps left running, and close what the loop itself keeps open."""
    loop = asyncio.get_running_loop()
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()
