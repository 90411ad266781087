"""Sync steps in worker threads: a thread that cannot be stopped keeps its slot until it returns."""

from __future__ import annotations

import functools
import threading
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from pipeline_engine.schedule.scheduler import Scheduler
    from pipeline_engine.schedule.step_run import StepRun

__all__ = ["ThreadExecutor"]


class _Work:
    """One function in one thread."""

    def __init__(self, scheduler: Scheduler, step_run: StepRun) -> None:
        self._scheduler = scheduler
        self._call = functools.partial(step_run.step.function, *step_run.arguments, **(step_run.keywords or {}))
        self._token = trio.lowlevel.current_trio_token()
        self._lock = threading.Lock()
        self._has_started = False
        self._has_returned = False
        self._is_abandoned = False

    def __call__(self) -> tuple[Any]:
        with self._lock:
            if self._is_abandoned:
                return (None,)  # cancelled before the thread began: nobody waits for the result
            self._has_started = True
        try:
            # In a tuple: trio refuses a coroutine as a thread's result in words that are not the user's.
            return (self._call(),)
        finally:
            with self._lock:
                self._has_returned = True
                is_abandoned = self._is_abandoned
            if is_abandoned:
                try:
                    self._token.run_sync_soon(self._give_slot_back)
                except trio.RunFinishedError:
                    pass  # the engine is gone, and its slots with it

    def abandon(self) -> bool:
        """Return whether the thread still runs; if so, it will give the slot back itself."""
        with self._lock:
            self._is_abandoned = True
            return self._has_started and not self._has_returned

    def _give_slot_back(self) -> None:
        self._scheduler.release()
        self._scheduler.dispatch()


class ThreadExecutor:
    """Run sync functions in threads of their own; context variables cross."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    async def run(self, step_run: StepRun) -> Any:
        """Return what the function returns. On cancellation the thread is left behind with its slot."""
        work = _Work(self._scheduler, step_run)
        try:
            (value,) = await trio.to_thread.run_sync(
                work,
                thread_name=f"pipeline_engine step {step_run.step.name}",
                abandon_on_cancel=True,
                limiter=self._scheduler.threads,
            )
        except trio.Cancelled:
            if step_run.has_slot and work.abandon():
                step_run.has_slot = False
                step_run.is_abandoned = True
            raise
        return value
