"""Compile and check: from a pipeline to a plan. Pure; the only floor that knows networkx."""

from pipeline_engine.plan.compile import compile_pipeline
from pipeline_engine.plan.fingerprints import fingerprint
from pipeline_engine.plan.outputs import Output, plain_to_json, reasons_of
from pipeline_engine.plan.plan import (
    Condition,
    FallbackStep,
    FallbackValue,
    Need,
    Plan,
    PlannedInput,
    PlannedStep,
)
from pipeline_engine.plan.types import is_assignable, type_name

__all__ = [
    "Condition",
    "FallbackStep",
    "FallbackValue",
    "Need",
    "Output",
    "Plan",
    "PlannedInput",
    "PlannedStep",
    "compile_pipeline",
    "fingerprint",
    "is_assignable",
    "plain_to_json",
    "reasons_of",
    "type_name",
]
