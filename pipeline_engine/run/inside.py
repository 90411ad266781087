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
    last one waits for a slot again. A block that is left by a cancellation waits for nothing.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._caller: StepRun | None = None
        self._attempt = 0

    async def __aenter__(self) -> None:
        caller = RUNNING_STEP.get()
        if not isinstance(caller, StepRun) or caller.execution.scheduler is not self._scheduler:
            return
        if not caller.is_running or not (caller.has_slot or caller.runs_inside):
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
        # An attempt that ended meanwhile (its thread went on) has no claim to a slot any more.
        is_over = not caller.is_running or caller.attempt != self._attempt
        if caller.runs_inside or is_over or (kind is not None and not issubclass(kind, Exception)):
            return
        await self._scheduler.take_slot(SlotRequest(caller))
        caller.has_slot = True
