"""Bind roles to models and run: wires the floors below together, once."""

from pipeline_engine.run.api import run_pipeline, run_pipeline_async
from pipeline_engine.run.batch import (
    BatchResult,
    iter_batch,
    iter_batch_async,
    run_batch,
    run_batch_async,
)
from pipeline_engine.run.binding import BoundPlan, Models
from pipeline_engine.run.document import Document
from pipeline_engine.run.engine import Engine
from pipeline_engine.run.results import RunResult
from pipeline_engine.run.runner import Runner

__all__ = [
    "BatchResult",
    "BoundPlan",
    "Document",
    "Engine",
    "Models",
    "RunResult",
    "Runner",
    "iter_batch",
    "iter_batch_async",
    "run_batch",
    "run_batch_async",
    "run_pipeline",
    "run_pipeline_async",
]
