"""Where functions run that are not trio's: threads, processes, asyncio. Each is started when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline_engine.schedule.outside import outside_work

if TYPE_CHECKING:
    from pipeline_engine.schedule.asyncio_loop import AsyncioExecutor
    from pipeline_engine.schedule.processes import ProcessExecutor
    from pipeline_engine.schedule.scheduler import Scheduler
    from pipeline_engine.schedule.step_run import StepRun

__all__ = ["StepExecutors"]


class StepExecutors:
    """Send each step's function where it belongs."""

    def __init__(self, scheduler: Scheduler) -> None:
        from pipeline_engine.schedule.threads import ThreadExecutor

        self._threads = ThreadExecutor(scheduler)
        self._processes: ProcessExecutor | None = None
        self._asyncio: AsyncioExecutor | None = None

    async def run(self, step_run: StepRun) -> Any:
        """Return what the step's function returns, wherever it runs."""
        with outside_work():
            return await self._run(step_run)

    async def _run(self, step_run: StepRun) -> Any:
        executor = step_run.step.executor
        if executor == "thread":
            return await self._threads.run(step_run)
        if executor == "process":
            if self._processes is None:
                from pipeline_engine.schedule.processes import ProcessExecutor

                self._processes = ProcessExecutor()
            return await self._processes.run(step_run)
        if self._asyncio is None:
            # asyncio alone takes 65 ms to import: only for those who use it.
            from pipeline_engine.schedule.asyncio_loop import AsyncioExecutor

            self._asyncio = AsyncioExecutor()
        return await self._asyncio.run(step_run)

    async def aclose(self) -> None:
        """End processes and the asyncio loop."""
        with outside_work():
            if self._processes is not None:
                await self._processes.aclose()
            if self._asyncio is not None:
                await self._asyncio.aclose()
