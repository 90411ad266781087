"""A result as rows of one flat schema, a row for each step: what tables, data frames and Parquet files are made of."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline_engine.errors import EarlierError
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Completed,
    Cost,
    Dropped,
    Failed,
    HedgeFinished,
    OutputRestored,
    RunStarted,
    Skipped,
    StepFinished,
    StepReady,
    Stopped,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline_engine.run.results import RunResult
    from pipeline_engine.values import Outcome, Record

__all__ = ["COLUMNS", "rows_of"]

COLUMNS = {
    "pipeline": str,
    "document": str,
    "document_status": str,
    "step": str,
    "kind": str,
    "status": str,
    "via": str,
    "output": str,
    "error": str,
    "error_kind": str,
    "items": int,
    "items_lost": int,
    "model": str,
    "attempts": int,
    "input_tokens": int,
    "output_tokens": int,
    "cost_usd": float,
    "started_at": float,
    "seconds": float,
    "is_restored": bool,
    "run_id": str,
}
"""The columns of every row, in order, with the type of what is in them; each may also hold null, for "unknown" or
"there is none"."""


def rows_of(result: RunResult) -> Iterator[dict[str, Any]]:
    """Yield a row for each step of a document, all with the same columns.

    Figures are those of this run: a step that was taken from a journal has made no attempts and cost nothing.
    A figure that nobody knows is null, which is not zero.

    Example:
        >>> from pipeline_engine import Pipeline, run_pipeline
        >>> pipeline = Pipeline("halve", inputs={"number": int})
        >>> @pipeline.step
        ... def half(number: int) -> float:
        ...     return 1 / number
        >>> [row] = rows_of(run_pipeline(pipeline, {"number": 2}, key="two"))
        >>> row["document"], row["step"], row["status"], row["output"], row["attempts"], row["cost_usd"]
        ('two', 'half', 'completed', '0.5', 1, 0.0)
    """
    told: dict[str, list[Record]] = {step.name: [] for step in result.plan.steps}
    wall_time = None
    for record in result.records:
        if isinstance(record, RunStarted):
            wall_time = record.wall_time - record.at
        step = getattr(record, "step", None)
        if step in told:
            told[step].append(record)
    outputs = result.to_dict()["outputs"]
    for step in result.plan.steps:
        outcome = result.outcome(step.name)
        error, kind = _error(result, outcome)
        items = result.state.items(step.index) if step.is_mapped else None
        yield {
            "pipeline": result.plan.name,
            "document": result.document,
            "document_status": result.status,
            "step": step.name,
            "kind": step.kind,
            "status": type(outcome).__name__.lower(),
            "via": outcome.via if isinstance(outcome, Completed) else None,
            "output": json.dumps(outputs[step.name], ensure_ascii=False) if isinstance(outcome, Completed) else None,
            "error": error,
            "error_kind": kind,
            "items": None if items is None else len(items),
            "items_lost": None if items is None else sum(not isinstance(item, Completed) for item in items),
            **_calls(told[step.name], is_llm=step.kind != "function"),
            **_times(told[step.name], wall_time),
            "is_restored": result.is_restored or any(isinstance(record, OutputRestored) for record in told[step.name]),
            "run_id": result.run_id or None,
        }


def _error(result: RunResult, outcome: Outcome[Any]) -> tuple[str | None, str | None]:
    if isinstance(outcome, Failed | Dropped):
        return str(outcome.error), _kind(outcome.error)
    if isinstance(outcome, Stopped):
        return f"stopped: {outcome.reason}", None
    if result.error is not None:
        return str(result.error), _kind(result.error)
    if isinstance(outcome, Skipped) and not outcome.is_by_choice:
        return f"skipped, because {outcome.because!r} has no output", None
    return None, None


def _kind(error: Exception) -> str:
    return error.kind if isinstance(error, EarlierError) else type(error).__name__


def _calls(records: Sequence[Record], *, is_llm: bool) -> dict[str, Any]:
    attempts = [r for r in records if isinstance(r, AttemptStarted) and not (r.is_shared or r.is_replayed)]
    finished = [r for r in records if isinstance(r, AttemptFinished)]
    paid = [r.cost for r in records if isinstance(r, AttemptFinished | HedgeFinished) and r.cost is not None]
    cost = sum(paid, Cost())
    usage = sum((r.usage for r in finished if r.usage is not None), Usage())
    is_unknown = bool(attempts) and is_llm
    models = [r.model for r in attempts if r.model is not None] + [r.model for r in finished if r.model is not None]
    return {
        "model": models[-1] if models else None,
        "attempts": len(attempts),
        "input_tokens": usage.input_tokens if is_unknown else usage.input_tokens or 0,
        "output_tokens": usage.output_tokens if is_unknown else usage.output_tokens or 0,
        "cost_usd": round(cost.usd, 9) if cost.is_known else None,
    }


def _times(records: Sequence[Record], wall_time: float | None) -> dict[str, float | None]:
    ready = next((r.at for r in records if isinstance(r, StepReady) and r.item is None), None)
    ended = next((r.at for r in records if isinstance(r, StepFinished) and r.item is None), None)
    if ready is None or ended is None or wall_time is None:
        return {"started_at": None, "seconds": None}
    return {"started_at": round(wall_time + ready, 6), "seconds": round(ended - ready, 6)}
