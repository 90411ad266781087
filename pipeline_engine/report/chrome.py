"""Runs as Chrome's trace events, for Perfetto and chrome://tracing.

The events are of the kinds that both of them read, as the Trace Event Format defines them: nestable async events
for what overlaps ("b" and "e", matched by category and id), counters ("C"), and names for processes ("M").
"""

from __future__ import annotations

import json
from itertools import count
from typing import TYPE_CHECKING, Any

from pipeline_engine.report.spans import WAIT_KINDS
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from os import PathLike
    from pathlib import Path

    from pipeline_engine.report.spans import Segment, Span
    from pipeline_engine.report.trace import Trace

__all__ = ["chrome_trace", "write_chrome"]

_MAX_TEXT = 200
_ENGINE = 1
"""The process of the counters; those of documents follow."""
_CALL_KINDS = frozenset({"attempt", "failed"})

Event = dict[str, Any]


def chrome_trace(traces: Iterable[Trace]) -> dict[str, Any]:
    """Return runs as one object of the Trace Event Format: what a JSON file for Perfetto holds.

    Each document is a process, each step or item a row of it with its segments inside, and second calls have
    rows of their own. Counters show the calls in flight by model, what waits by cause, and adaptive limits.
    Instants are microseconds since the first run's start.

    Raises:
        ValueError: If there is no trace.

    Example:
        >>> from pipeline_engine import Pipeline, run_pipeline
        >>> pipeline = Pipeline("greeting", inputs={"name": str})
        >>> @pipeline.step
        ... def hello(name: str) -> str:
        ...     return f"Hello, {name}!"
        >>> trace = run_pipeline(pipeline, {"name": "Ada"}, key="a.txt").trace
        >>> events = chrome_trace([trace])["traceEvents"]
        >>> [event["name"] for event in events if event["ph"] == "b"][:3]
        ['greeting', 'hello', 'attempt 1']
    """
    runs = [_Run(trace, process) for process, trace in enumerate(traces, start=_ENGINE + 1)]
    if not runs:
        raise ValueError("there is no trace to write. Give those of one run or of several.")
    origin = min(run.wall_time for run in runs)
    events = [_process(_ENGINE, "engine"), *_counters(runs, origin)]
    ids = count(1)
    for run in runs:
        events += _run_events(run, origin, ids)
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_chrome(traces: Iterable[Trace], path: str | PathLike[str]) -> Path:
    """Write runs as a JSON file for Perfetto or chrome://tracing, and return its path.

    Raises:
        ValueError: If there is no trace.
    """
    from pathlib import Path

    place = Path(path)
    place.write_text(json.dumps(chrome_trace(traces), separators=(",", ":"), allow_nan=False), encoding="ascii")
    return place


class _Run:
    """One run on the axis of all: engines of different processes have clocks of their own."""

    def __init__(self, trace: Trace, process: int) -> None:
        self.trace = trace
        self.process = process
        self.wall_time = trace.wall_time

    def time(self, at: float, origin: float) -> float:
        """Return an instant in microseconds since the origin."""
        seconds = (self.wall_time - origin) + (at - self.trace.started_at)
        return round(seconds * 1e6, 3)


def _process(process: int, name: str) -> Event:
    return {"ph": "M", "name": "process_name", "pid": process, "tid": 0, "ts": 0, "args": {"name": name}}


def _pair(name: str, category: str, of: tuple[int, int], start: float, end: float, args: Event) -> tuple[Event, Event]:
    process, number = of
    common = {"name": name, "cat": category, "pid": process, "tid": process, "id": f"0x{number:x}"}
    return {"ph": "b", "ts": start, **common, "args": args}, {"ph": "e", "ts": end, **common}


def _run_events(run: _Run, origin: float, ids: Iterator[int]) -> Iterator[Event]:
    trace = run.trace
    document = one_line(trace.document, _MAX_TEXT)
    yield _process(run.process, document)
    of = run.process, next(ids)
    facts = {"run": trace.run_id, "document": document, "status": trace.status, "verdict": trace.verdict}
    yield from _pair(
        one_line(trace.pipeline, _MAX_TEXT),
        "run",
        of,
        run.time(trace.started_at, origin),
        run.time(trace.last_at, origin),
        facts,
    )
    for span in trace.spans:
        if span.ready_at is not None:
            yield from _span_events(run, span, span.ready_at, origin, ids)


def _span_events(run: _Run, span: Span, ready_at: float, origin: float, ids: Iterator[int]) -> Iterator[Event]:
    of = run.process, next(ids)
    begin, end = _pair(
        one_line(span.name, _MAX_TEXT),
        "item" if span.item is not None else "step",
        of,
        run.time(ready_at, origin),
        run.time(span.ended_at, origin),
        _facts(span),
    )
    yield begin
    # Within one id events nest by their order: a segment ends before the next one begins.
    for segment in () if span.is_mapped else span.segments:
        name = f"{segment.kind} {segment.attempt}" if segment.kind in _CALL_KINDS else segment.kind
        start, stop = run.time(segment.start, origin), run.time(segment.end, origin)
        yield from _pair(name, begin["cat"], of, start, stop, _segment_facts(segment))
    yield end
    for call in span.second_calls:
        name = f"{one_line(span.name, _MAX_TEXT)}: second call of attempt {call.attempt}"
        start, stop = run.time(call.start, origin), run.time(call.end, origin)
        facts = {"model": one_line(call.model, _MAX_TEXT), "has_won": call.has_won}
        yield from _pair(name, "second call", (run.process, next(ids)), start, stop, facts)


def _facts(span: Span) -> Event:
    facts = {
        "outcome": span.outcome,
        "via": None if span.via is None else one_line(span.via, _MAX_TEXT),
        "origin": span.origin,
        "unblocked_by": span.unblocked_by,
        "attempts": span.attempts,
        "error": span.error,
        "because": span.because,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _segment_facts(segment: Segment) -> Event:
    facts: Event = {}
    if segment.model is not None:
        facts["model"] = one_line(segment.model, _MAX_TEXT)
    if segment.fault is not None:
        facts["error"] = one_line(f"{segment.fault.kind}: {segment.fault.message}", _MAX_TEXT)
    if segment.usage is not None:
        facts["input_tokens"] = segment.usage.input_tokens
        facts["output_tokens"] = segment.usage.output_tokens
    if segment.cost is not None and segment.cost.is_known:
        facts["cost_usd"] = segment.cost.usd
    return facts


# Counters


def _counters(runs: Sequence[_Run], origin: float) -> Iterator[Event]:
    calls: list[tuple[float, str, int]] = []
    waits: list[tuple[float, str, int]] = []
    for run in runs:
        for span in run.trace.spans:
            if span.is_mapped:
                continue
            for segment in span.segments:
                start, end = run.time(segment.start, origin), run.time(segment.end, origin)
                if segment.kind in WAIT_KINDS:
                    waits += [(start, segment.kind, 1), (end, segment.kind, -1)]
                elif segment.kind in _CALL_KINDS and segment.model is not None:
                    model = one_line(segment.model, _MAX_TEXT)
                    calls += [(start, model, 1), (end, model, -1)]
            for call in span.second_calls:
                model = one_line(call.model, _MAX_TEXT)
                calls += [(run.time(call.start, origin), model, 1), (run.time(call.end, origin), model, -1)]
    yield from _running_totals("calls in flight", calls)
    yield from _running_totals("waiting", waits)
    # A change of a limit that another run has caused may be told late: it may be older than all of these.
    limits = [
        (max(0.0, run.time(point.at, origin)), one_line(model, _MAX_TEXT), point.limit)
        for run in runs
        for model, points in run.trace.limits.items()
        for point in points
    ]
    for at, model, limit in sorted(limits):
        yield _counter(f"limit of {model}", at, {"calls": limit})


def _running_totals(name: str, changes: list[tuple[float, str, int]]) -> Iterator[Event]:
    """Yield the counts after each instant at which any of them has changed."""
    totals = dict.fromkeys(sorted({series for _at, series, _change in changes}), 0)
    changes.sort()
    for index, (at, series, change) in enumerate(changes):
        totals[series] += change
        if index + 1 == len(changes) or changes[index + 1][0] != at:
            yield _counter(name, at, dict(totals))


def _counter(name: str, at: float, values: dict[str, int]) -> Event:
    return {"ph": "C", "name": name, "pid": _ENGINE, "tid": 0, "ts": at, "args": values}
