"""The columns from which a script draws runs: whole numbers, deflated; 10,000 steps take less than 500 KB.

Instants are counted in units of the time axis, ten million or fewer of which are its length; texts stand in one list
and are named by their place in it. A row is a span: a step or an item. A bar is one of its segments, which tile it, so
that lengths are enough. What the first screen shows stands by itself, and is drawn before the rest is read. The script
reads both in `script/columns.js`.
"""

from __future__ import annotations

import heapq
import json
import zlib
from base64 import b64encode
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline_engine.report.legend import KIND_NAMES, MARKS, SHORT_NAMES, reason_text
from pipeline_engine.report.palette import FILLS
from pipeline_engine.report.spans import SEGMENT_KINDS
from pipeline_engine.report.svg import MAX_ROWS
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline_engine.report.page.subject import Subject
    from pipeline_engine.report.spans import OutcomeName, Span
    from pipeline_engine.report.trace import Trace

__all__ = ["Columns", "pack_columns"]

_UNITS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
_MOST_UNITS = 10_000_000
_MAX_TEXT = 300
_FIRST_DOCUMENTS = 30
"""As many as the waterfall shows before it is scrolled."""
_OUTCOMES: tuple[OutcomeName | None, ...] = ("completed", "failed", "skipped", "stopped", "dropped", None)
_ORIGINS = ("executed", "restored", "replayed", "shared")
_STATUSES = ("completed", "partial", "failed", "stopped", "running")
_NONE = -1


class Columns(NamedTuple):
    """Hold the columns in base64: no text in them can end a script."""

    first: str
    """Those of the first screen, as JSON; of a small page those of all runs."""
    rest: str
    """Those of all runs that are kept, as deflated JSON; empty if the first screen shows them all."""


def pack_columns(subject: Subject) -> Columns:
    """Return the columns of the runs that are kept."""
    runs = [(trace, list(_in_order(trace))) for trace in subject.batch.traces]
    if sum(len(spans) for _, spans in runs) <= MAX_ROWS:
        return Columns(_base64(_json(subject, runs, is_whole=True)), "")
    whole = zlib.compress(_json(subject, runs, is_whole=True), 9)
    return Columns(_base64(_json(subject, _first(subject), is_whole=False)), _base64(whole))


def _in_order(trace: Trace) -> Iterator[Span]:
    for step in trace.steps:
        yield step
        yield from trace.items(step.step)


def _first(subject: Subject) -> list[tuple[Trace, list[Span]]]:
    """Return what the first screen draws: documents as their critical paths, or the steps of the only one."""
    if subject.run is not None:
        return [(subject.run, list(subject.run.steps))]
    earliest = heapq.nsmallest(_FIRST_DOCUMENTS, subject.batch.traces, key=lambda trace: trace.wall_time)
    return [(trace, [span for span in _in_order(trace) if _key(span) in _critical(trace)]) for trace in earliest]


def _key(span: Span) -> tuple[str, int | None]:
    return span.step, span.item


def _critical(trace: Trace) -> set[tuple[str, int | None]]:
    """Return the steps and items of the critical path, and the mapped steps of these items."""
    found = {_key(span) for span in trace.critical_path}
    return found | {(step, None) for step, _ in found}


def _json(subject: Subject, runs: Iterable[tuple[Trace, Sequence[Span]]], *, is_whole: bool) -> bytes:
    data = json.dumps(
        _columns(subject, runs, is_whole=is_whole), separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return data.encode(errors="backslashreplace")


def _base64(data: bytes) -> str:
    return b64encode(data).decode()


def _columns(subject: Subject, runs: Iterable[tuple[Trace, Sequence[Span]]], *, is_whole: bool) -> dict[str, Any]:
    unit = next((unit for unit in _UNITS if subject.seconds / unit <= _MOST_UNITS), _UNITS[-1])
    writer = _Writer(subject, unit)
    for trace, spans in runs:
        writer.add(trace, spans)
    return {
        "is_whole": is_whole,
        "unit": unit,
        "length": writer.units(subject.seconds),
        "is_batch": subject.run is None,
        "kinds": [
            {"code": kind, "name": KIND_NAMES[kind], "short": SHORT_NAMES[kind], **FILLS[kind]._asdict()}
            for kind in SEGMENT_KINDS
        ],
        "outcomes": [[outcome or "running", MARKS[outcome]] for outcome in _OUTCOMES],
        "origins": _ORIGINS,
        "statuses": _STATUSES,
        "steps": writer.steps.texts,
        "texts": writer.texts.texts,
        "documents": writer.documents,
        "rows": writer.rows,
        "bars": writer.bars,
        "seconds": writer.second_calls,
    }


class _Texts:
    """Give each text its place in one list."""

    def __init__(self, texts: Sequence[str] = ()) -> None:
        self._places: dict[str, int] = {}
        self.texts: list[str] = []
        for text in texts:
            self.place(text)

    def place(self, text: str | None) -> int:
        if text is None:
            return _NONE
        place = self._places.get(text)
        if place is None:
            place = self._places[text] = len(self.texts)
            self.texts.append(one_line(text, _MAX_TEXT))
        return place


def _empty(names: str) -> dict[str, list[int]]:
    return {name: [] for name in names.split()}


class _Writer:
    """Write one run after the other into the columns."""

    def __init__(self, subject: Subject, unit: float) -> None:
        self._start = subject.start
        self._unit = unit
        self.steps = _Texts([step.name for step in subject.outline.steps] if subject.outline is not None else [])
        self.texts = _Texts()
        self.documents = _empty("key status start length rows")
        self.rows = _empty(
            "step item ready length outcome unblocked attempts cost in out width via why model flags bars"
        )
        self.bars = _empty("kind length attempt model fault first")
        self.second_calls = _empty("row start length model won")

    def units(self, seconds: float) -> int:
        return round(seconds / self._unit)

    def add(self, trace: Trace, spans: Sequence[Span]) -> None:
        critical, documents = _critical(trace), self.documents
        documents["key"].append(self.texts.place(trace.document))
        documents["status"].append(_STATUSES.index(trace.status or "running"))
        documents["start"].append(self.units(trace.wall_time - self._start))
        documents["length"].append(self.units(trace.makespan))
        documents["rows"].append(len(spans))
        for span in spans:
            self._add_span(trace, span, is_critical=_key(span) in critical)

    def _add_span(self, trace: Trace, span: Span, *, is_critical: bool) -> None:
        ready = _NONE if span.ready_at is None else self.units(span.ready_at - trace.started_at)
        why = span.error or (reason_text(span) if not span.has_time and span.outcome != "completed" else None)
        usage = span.usage
        values = {
            "step": self.steps.place(span.step),
            "item": _NONE if span.item is None else span.item,
            "ready": ready,
            "length": 0 if span.segments else self.units(span.duration),
            "outcome": _OUTCOMES.index(span.outcome),
            "unblocked": self.steps.place(span.unblocked_by),
            "attempts": span.attempts,
            "cost": 0 if span.is_mapped else round(span.cost.usd * 1e6),
            "in": 0 if usage is None or span.is_mapped else usage.input_tokens or 0,
            "out": 0 if usage is None or span.is_mapped else usage.output_tokens or 0,
            "width": _NONE if span.width is None else span.width,
            "via": self.texts.place(span.via),
            "why": self.texts.place(why),
            "model": self.texts.place(span.model),
            "flags": int(is_critical) + 2 * _ORIGINS.index(span.origin),
            "bars": len(span.segments),
        }
        for call in span.second_calls:
            start, end = self.units(call.start - trace.started_at), self.units(call.end - trace.started_at)
            row = len(self.rows["step"])
            _append(self.second_calls, (row, start, end - start, self.texts.place(call.model), int(call.has_won)))
        _append(self.rows, values.values())
        last = 0 if ready == _NONE else ready
        for segment in span.segments:
            # The ends are rounded, not the lengths: errors do not add up, and bars stay side by side.
            end = self.units(segment.end - trace.started_at)
            fault = None
            if segment.fault is not None:
                fault = f"{segment.fault.kind}: {segment.fault.message}"
            first = segment.first_token_at
            _append(
                self.bars,
                (
                    SEGMENT_KINDS.index(segment.kind),
                    end - last,
                    segment.attempt or 0,
                    self.texts.place(segment.model),
                    self.texts.place(fault),
                    _NONE if first is None else self.units(first - segment.start),
                ),
            )
            last = end


def _append(columns: dict[str, list[int]], values: Any) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)
