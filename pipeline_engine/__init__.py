"""Run documents through DAGs of LLM steps: each step starts the instant its own inputs are ready."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline_engine.declare import (
        Breaker,
        Budget,
        Cache,
        Drop,
        Hedge,
        Limits,
        Model,
        Pipeline,
        Policy,
        Price,
        Retry,
        Role,
        Step,
        Timeout,
        use,
    )
    from pipeline_engine.documents import Chunk, chunk_text, fenced
    from pipeline_engine.errors import (
        BudgetError,
        CircuitOpenError,
        DocumentError,
        DuplicateDocumentError,
        EngineClosedError,
        InputError,
        LimitError,
        OutputError,
        ParkedError,
        PipelineEngineError,
        PlanError,
        ProviderError,
        RateLimitError,
        RejectedError,
        RunError,
        StepCodeError,
        StepError,
        StepTimeoutError,
        StreamTruncatedError,
        UnavailableError,
    )
    from pipeline_engine.plan import Plan, compile_pipeline
    from pipeline_engine.report import Trace
    from pipeline_engine.run.api import run_pipeline, run_pipeline_async
    from pipeline_engine.run.batch import BatchResult, iter_batch, iter_batch_async, run_batch, run_batch_async
    from pipeline_engine.run.document import Document
    from pipeline_engine.run.engine import Engine
    from pipeline_engine.run.results import RunResult
    from pipeline_engine.run.runner import Runner
    from pipeline_engine.values import (
        Call,
        Completed,
        Completion,
        CompletionModel,
        Cost,
        Delta,
        Dropped,
        EmbeddingModel,
        Embeddings,
        Failed,
        File,
        Image,
        Message,
        Problem,
        Request,
        Restarted,
        Skipped,
        StepContext,
        StepFinished,
        Stopped,
        StreamingModel,
        Text,
        Usage,
        current_step,
    )

# Importing the package loads nothing else; each name brings its own room when it is first used.
_ROOMS = {
    "declare": [
        "Breaker",
        "Budget",
        "Cache",
        "Drop",
        "Hedge",
        "Limits",
        "Model",
        "Pipeline",
        "Policy",
        "Price",
        "Retry",
        "Role",
        "Step",
        "Timeout",
        "use",
    ],
    "documents": ["Chunk", "chunk_text", "fenced"],
    "errors": [
        "BudgetError",
        "CircuitOpenError",
        "DocumentError",
        "DuplicateDocumentError",
        "EngineClosedError",
        "InputError",
        "LimitError",
        "OutputError",
        "ParkedError",
        "PipelineEngineError",
        "PlanError",
        "ProviderError",
        "RateLimitError",
        "RejectedError",
        "RunError",
        "StepCodeError",
        "StepError",
        "StepTimeoutError",
        "StreamTruncatedError",
        "UnavailableError",
    ],
    "plan": ["Plan", "compile_pipeline"],
    "report": ["Trace"],
    "run.api": ["run_pipeline", "run_pipeline_async"],
    "run.batch": ["BatchResult", "iter_batch", "iter_batch_async", "run_batch", "run_batch_async"],
    "run.document": ["Document"],
    "run.engine": ["Engine"],
    "run.results": ["RunResult"],
    "run.runner": ["Runner"],
    "values": [
        "Call",
        "Completed",
        "Completion",
        "CompletionModel",
        "Cost",
        "Delta",
        "Dropped",
        "EmbeddingModel",
        "Embeddings",
        "Failed",
        "File",
        "Image",
        "Message",
        "Problem",
        "Request",
        "Restarted",
        "Skipped",
        "StepContext",
        "StepFinished",
        "Stopped",
        "StreamingModel",
        "Text",
        "Usage",
        "current_step",
    ],
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "BatchResult",
    "Breaker",
    "Budget",
    "BudgetError",
    "Cache",
    "Call",
    "Chunk",
    "CircuitOpenError",
    "Completed",
    "Completion",
    "CompletionModel",
    "Cost",
    "Delta",
    "Document",
    "DocumentError",
    "Drop",
    "Dropped",
    "DuplicateDocumentError",
    "EmbeddingModel",
    "Embeddings",
    "Engine",
    "EngineClosedError",
    "Failed",
    "File",
    "Hedge",
    "Image",
    "InputError",
    "LimitError",
    "Limits",
    "Message",
    "Model",
    "OutputError",
    "ParkedError",
    "Pipeline",
    "PipelineEngineError",
    "Plan",
    "PlanError",
    "Policy",
    "Price",
    "Problem",
    "ProviderError",
    "RateLimitError",
    "RejectedError",
    "Request",
    "Restarted",
    "Retry",
    "Role",
    "RunError",
    "RunResult",
    "Runner",
    "Skipped",
    "Step",
    "StepCodeError",
    "StepContext",
    "StepError",
    "StepFinished",
    "StepTimeoutError",
    "Stopped",
    "StreamTruncatedError",
    "StreamingModel",
    "Text",
    "Timeout",
    "Trace",
    "UnavailableError",
    "Usage",
    "chunk_text",
    "compile_pipeline",
    "current_step",
    "fenced",
    "iter_batch",
    "iter_batch_async",
    "run_batch",
    "run_batch_async",
    "run_pipeline",
    "run_pipeline_async",
    "use",
]

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("pipeline-engine")
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{room}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
