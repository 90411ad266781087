"""Decide what may run (pure), and run it (trio)."""

from pipeline_engine.schedule.execution import BoundModel, Candidate, Execution, StepRun, only_error
from pipeline_engine.schedule.executors import StepExecutors
from pipeline_engine.schedule.scheduler import Scheduler, SchedulerStatistics, SlotRequest
from pipeline_engine.schedule.state import RunState

__all__ = [
    "BoundModel",
    "Candidate",
    "Execution",
    "RunState",
    "Scheduler",
    "SchedulerStatistics",
    "SlotRequest",
    "StepExecutors",
    "StepRun",
    "only_error",
]
