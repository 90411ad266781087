"""Decide what may run (pure), and run it (trio)."""

from pipeline_engine.schedule.estimates import PlanEstimates
from pipeline_engine.schedule.execution import Execution
from pipeline_engine.schedule.executors import StepExecutors
from pipeline_engine.schedule.following import Event, Follower
from pipeline_engine.schedule.judging import only_error
from pipeline_engine.schedule.scheduler import Scheduler, SchedulerStatistics, SlotRequest
from pipeline_engine.schedule.state import RunState
from pipeline_engine.schedule.step_run import BoundBudget, BoundModel, Candidate, StepRun

__all__ = [
    "BoundBudget",
    "BoundModel",
    "Candidate",
    "Event",
    "Execution",
    "Follower",
    "PlanEstimates",
    "RunState",
    "Scheduler",
    "SchedulerStatistics",
    "SlotRequest",
    "StepExecutors",
    "StepRun",
    "only_error",
]
