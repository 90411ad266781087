"""A run's records as bytes, and back: all that a trace is made of, and none of the texts.

Prompts, replies and outputs are left out, so that a journal can keep every run's records in a few hundred bytes.
An error keeps its names and what it said; it comes back as an `EarlierError`.
"""

from __future__ import annotations

import json
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline_engine.errors import EarlierError, ProviderError
from pipeline_engine.values.outcomes import Completed, Dropped, Failed, Outcome, Skipped, Stopped
from pipeline_engine.values.records import (
    AttemptFinished,
    AttemptStarted,
    BreakerChanged,
    CooldownStarted,
    CredentialParked,
    Fault,
    HedgeFinished,
    HedgeStarted,
    LimitChanged,
    Outline,
    OutlineModel,
    OutlineStep,
    OutputJudged,
    OutputRestored,
    QueueLeft,
    Record,
    RepairAsked,
    RunFinished,
    RunStarted,
    StepFinished,
    StepMapped,
    StepReady,
    WaitEnded,
    WaitStarted,
)
from pipeline_engine.values.usage import Cost, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["pack_records", "unpack_records"]

_VERSION = 1
_LEVEL = 1
"""Of compression: higher ones take three times as long, and save a tenth."""
_MAX_MESSAGE = 2000
_KINDS: dict[str, type[Record]] = {
    "run": RunStarted,
    "ready": StepReady,
    "mapped": StepMapped,
    "wait": WaitStarted,
    "waited": WaitEnded,
    "queued": QueueLeft,
    "try": AttemptStarted,
    "tried": AttemptFinished,
    "hedge": HedgeStarted,
    "hedged": HedgeFinished,
    "repair": RepairAsked,
    "judged": OutputJudged,
    "restored": OutputRestored,
    "limit": LimitChanged,
    "breaker": BreakerChanged,
    "cooldown": CooldownStarted,
    "parked": CredentialParked,
    "done": StepFinished,
    "end": RunFinished,
}
"""The names under which records are kept. They are in files: they never change, and their fields only grow."""
_NAMES = {kind: name for name, kind in _KINDS.items()}


def pack_records(records: Iterable[Record]) -> bytes:
    """Return a run's records as bytes, without prompts, replies and outputs.

    `Trace.from_records` makes the same trace of what `unpack_records` returns as of the records themselves.

    Example:
        >>> unpack_records(pack_records([StepReady(1.5, "title", None, None)]))
        [StepReady(at=1.5, step='title', item=None, unblocked_by=None)]
    """
    rows: list[Any] = [_VERSION]
    for record in records:
        to_row = _TO_ROW.get(type(record))
        rows.append([_NAMES[type(record)], *(record if to_row is None else to_row(record))])
    return zlib.compress(json.dumps(rows, separators=(",", ":")).encode(), _LEVEL)


def unpack_records(data: bytes) -> list[Record]:
    """Return the records that `pack_records` has made bytes of.

    Raises:
        ValueError: If these are no such bytes, or a newer engine has made them.
    """
    try:
        version, *rows = json.loads(zlib.decompress(data))
    except zlib.error as error:
        raise ValueError("these bytes are no packed records") from error
    if version != _VERSION:
        raise ValueError(f"these records were packed as version {version}, and this engine reads {_VERSION}.")
    found: list[Record] = []
    for name, *fields in rows:
        from_row = _FROM_ROW.get(name)
        found.append(_KINDS[name](*fields) if from_row is None else from_row(*fields))
    return found


def _cut(message: str) -> str:
    return message if len(message) <= _MAX_MESSAGE else " ".join(message.split())[:_MAX_MESSAGE]


def _started_row(record: RunStarted) -> tuple[Any, ...]:
    return (*record[:3], _outline_text(record.outline), *record[4:])


@lru_cache(maxsize=64)
def _outline_text(outline: Outline) -> str:
    """Return an outline as a text of its own: all runs of a pipeline have the same one, and share it when read."""
    return json.dumps(outline, separators=(",", ":"))


@lru_cache(maxsize=64)
def _outline(text: str) -> Outline:
    pipeline, inputs, steps, models = json.loads(text)
    outlined = (
        OutlineStep(name, kind, tuple(needs), layer, each, on_demand, tuple(bound))
        for name, kind, needs, layer, each, on_demand, bound in steps
    )
    return Outline(pipeline, tuple(inputs), tuple(outlined), tuple(OutlineModel(*model) for model in models))


def _started(at: float, run_id: str, document: str, outline: str, wall_time: float, capacity: int) -> RunStarted:
    return RunStarted(at, run_id, document, _outline(outline), wall_time, capacity)


def _queued(at: float, step: str, item: int | None, waits: list[Any]) -> QueueLeft:
    return QueueLeft(at, step, item, tuple((cause, seconds) for cause, seconds in waits))


def _tried_row(record: AttemptFinished) -> tuple[Any, ...]:
    fault, usage = record.fault, record.usage
    return (
        *record[:4],
        None if fault is None else (fault.kind, _cut(fault.message), *fault[2:]),
        None
        if usage is None
        else (
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
        ),
        None,  # the call: its texts are not kept
        _cost_row(record.cost),
        *record[8:],
    )


def _tried(*fields: Any) -> AttemptFinished:
    at, step, item, attempt, fault, usage, call, cost, *others = fields
    return AttemptFinished(
        at,
        step,
        item,
        attempt,
        None if fault is None else Fault(*fault),
        None if usage is None else Usage(*usage),
        call,
        _cost(cost),
        *others,
    )


def _cost_row(cost: Cost | None) -> tuple[float, float, int] | None:
    return None if cost is None else (cost.usd, cost.saved_usd, cost.unpriced_calls)


def _cost(row: list[Any] | None) -> Cost | None:
    return None if row is None else Cost(*row)


def _hedged_row(record: HedgeFinished) -> tuple[Any, ...]:
    return (*record[:-1], _cost_row(record.cost))


def _hedged(*fields: Any) -> HedgeFinished:
    return HedgeFinished(*fields)._replace(cost=_cost(fields[-1]))


def _repair_row(record: RepairAsked) -> tuple[Any, ...]:
    return (*record[:3], ())  # the reasons quote the reply


def _done_row(record: StepFinished) -> tuple[Any, ...]:
    return (*record[:3], _outcome_row(record.outcome))


def _outcome_row(outcome: Outcome[object]) -> tuple[Any, ...]:
    if isinstance(outcome, Completed):
        return ("completed", outcome.via)
    if isinstance(outcome, Skipped):
        return ("skipped", outcome.because, outcome.is_by_choice)
    if isinstance(outcome, Stopped):
        return ("stopped", outcome.reason)
    error = outcome.error
    if isinstance(error, EarlierError):
        told = (error.kind, _cut(error.message), error.provider_kind)
    else:
        told = (type(error).__name__, _cut(str(error)), error.kind if isinstance(error, ProviderError) else None)
    return ("failed" if isinstance(outcome, Failed) else "dropped", *told)


def _done(at: float, step: str, item: int | None, outcome: list[Any]) -> StepFinished:
    return StepFinished(at, step, item, _outcome(*outcome))


def _outcome(kind: str, *told: Any) -> Outcome[object]:
    if kind == "completed":
        return Completed(None, *told)
    if kind == "skipped":
        return Skipped(*told)
    if kind == "stopped":
        return Stopped(*told)
    error = EarlierError(*told)
    return Failed(error) if kind == "failed" else Dropped(error)


def _repair(at: float, step: str, item: int | None, reasons: list[str]) -> RepairAsked:
    return RepairAsked(at, step, item, tuple(reasons))


_TO_ROW: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    RunStarted: _started_row,
    AttemptFinished: _tried_row,
    HedgeFinished: _hedged_row,
    RepairAsked: _repair_row,
    StepFinished: _done_row,
}
_FROM_ROW: dict[str, Callable[..., Record]] = {
    "run": _started,
    "queued": _queued,
    "tried": _tried,
    "hedged": _hedged,
    "repair": _repair,
    "done": _done,
}
