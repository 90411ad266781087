"""Decide what may run (pure), and run it (trio)."""

from pipeline_engine.schedule.estimates import PlanEstimates
from pipeline_engine.schedule.execution import Execution
from pipeline_engine.schedule.executors import StepExecutors
from pipeline_engine.schedule.following import Event, Follower
from pipeline_engine.schedule.journaling import BoundJournal
from pipeline_engine.schedule.judging import only_error
from pipeline_engine.schedule.outside import journal_work, outside_work, within_trio
from pipeline_engine.schedule.plan_keys import PlanKeys, changes_between
from pipeline_engine.schedule.recall import Recall
from pipeline_engine.schedule.replies import json_bytes, outcome_parts, unpack_prompt, usage_parts
from pipeline_engine.schedule.scheduler import Scheduler, SchedulerStatistics, SlotRequest
from pipeline_engine.schedule.state import RunState
from pipeline_engine.schedule.step_run import BoundBudget, BoundModel, Candidate, StepRun

__all__ = [
    "BoundBudget",
    "BoundJournal",
    "BoundModel",
    "Candidate",
    "Event",
    "Execution",
    "Follower",
    "PlanEstimates",
    "PlanKeys",
    "Recall",
    "RunState",
    "Scheduler",
    "SchedulerStatistics",
    "SlotRequest",
    "StepExecutors",
    "StepRun",
    "changes_between",
    "journal_work",
    "json_bytes",
    "only_error",
    "outcome_parts",
    "outside_work",
    "unpack_prompt",
    "usage_parts",
    "within_trio",
]
