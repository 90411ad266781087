"""Runs inside steps: who holds a slot never waits for another one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.schedule import SlotRequest, StepRun
from pipeline_engine.values import RUNNING_STEP

if TYPE_CHECKING:
    from pipeline_engine.schedule import Scheduler

__all__ = ["WithoutSlot"]


class WithoutSlot:
    """Let the step that is running here, if there is one, hold no slot within the block.

    Blocks may overlap, when a step waits for several runs: the first gives the slot back, and the
    last one waits for a slot again. A block that is left by a cancellation takes its slot at once.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._caller: StepRun | None = None
        self._attempt = 0

    async def __aenter__(self) -> None:
        caller = RUNNING_STEP.get()
        if not isinstance(caller, StepRun) or caller.execution.scheduler is not self._scheduler:
            return
        if not caller.is_running:
            return
        self._caller, self._attempt = caller, caller.attempt
        caller.runs_inside += 1
        if caller.has_slot:
            caller.has_slot = False
            self._scheduler.release()
            self._scheduler.dispatch()

    async def __aexit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        caller = self._caller
        if caller is None:
            return
        caller.runs_inside -= 1
        if not self._needs_slot(caller):
            return
        if kind is not None and not issubclass(kind, Exception):
            # A cancellation may not wait: the slot is owed, and nothing starts until it is paid.
            self._scheduler.free -= 1
            caller.has_slot = True
            return
        await self._scheduler.take_slot(SlotRequest(caller))
        if self._needs_slot(caller):
            caller.has_slot = True
        else:  # it began another run, or ended, while this one waited
            self._scheduler.release()
            self._scheduler.dispatch()

    def _needs_slot(self, caller: StepRun) -> bool:
        """Whether the attempt that entered the block still runs, outside of any other block."""
        is_same = caller.is_running and caller.attempt == self._attempt
        return is_same and not caller.runs_inside and not caller.has_slot
