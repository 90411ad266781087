"""Runs that have happened, wherever they are kept: in a result, in a trace, in a journal."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pipeline_engine.journal import journal_place, read_journal
from pipeline_engine.report import BatchTrace, Trace
from pipeline_engine.report.batch_bounds import BoundSums
from pipeline_engine.run.batch import BatchResult
from pipeline_engine.run.results import RunResult
from pipeline_engine.values import unpack_records

if TYPE_CHECKING:
    from pipeline_engine.journal import JournalPlace

__all__ = ["Recorded", "Runs", "each_trace", "recorded_runs"]

Recorded: TypeAlias = "RunResult | Trace | BatchResult | BatchTrace | Iterable[Trace] | str | Path | JournalPlace"
"""Where runs can be read: results, traces, or a journal by its path, its address or as an object."""


@dataclass(frozen=True, slots=True)
class Runs:
    """Hold runs of one batch, or one run alone."""

    traces: tuple[Trace, ...]
    """As many as were asked for, in the order in which they started."""
    count: int
    """How many there were."""
    makespan: float
    """Seconds in which at least one of all of them was in flight."""


def each_trace(recorded: Recorded, batch: str = "last") -> Iterator[Trace]:
    """Yield the runs that can be read there, in no order that means anything.

    Args:
        recorded: Where they are.
        batch: Which batch of a journal: its id, the beginning of it, or "last".

    Raises:
        TypeError: If it is nothing of that kind.
        LookupError: If a journal has no such batch.
        JournalError: If it cannot be read.
    """
    if isinstance(recorded, Trace):
        yield recorded
    elif isinstance(recorded, RunResult):
        yield recorded.trace
    elif isinstance(recorded, BatchResult):
        yield from recorded.trace.traces
    elif isinstance(recorded, BatchTrace):
        yield from recorded.traces
    elif isinstance(recorded, str | Path) or not isinstance(recorded, Iterable):
        with read_journal(journal_place(recorded)) as reader:
            for run in reader.runs(reader.batch(batch).batch):
                yield Trace.from_records(unpack_records(run.records))
    else:
        for trace in recorded:
            if not isinstance(trace, Trace):
                raise TypeError(f"runs are told by traces, not by a {type(trace).__name__}. Give result.trace.")
            yield trace


def recorded_runs(recorded: Recorded, batch: str = "last", *, max_spans: int) -> Runs:
    """Return the runs, or a random sample of them if they have more spans than that.

    Raises:
        ValueError: If there are none.
        TypeError: If it is nothing that runs can be read from.
        LookupError: If a journal has no such batch.
        JournalError: If it cannot be read.
    """
    kept: list[tuple[float, int, Trace]] = []
    dice = random.Random("recorded runs")
    spans = count = 0
    sums = BoundSums()
    for count, trace in enumerate(each_trace(recorded, batch), start=1):
        sums.cover(trace.wall_time, trace.wall_time + trace.makespan)
        kept.append((dice.random(), count, trace))
        spans += len(trace.spans)
        if spans > 2 * max_spans:
            spans = _thin_out(kept, max_spans)
    _thin_out(kept, max_spans)
    if not kept:
        raise ValueError("there is no run here. Runs are kept by a journal, or by the result of a run or batch.")
    makespan = sums.result().makespan
    whole = recorded.trace if isinstance(recorded, BatchResult) else recorded
    if isinstance(whole, BatchTrace):
        count, makespan = whole.count, whole.makespan
    traces = sorted((trace for _chance, _place, trace in kept), key=_arrival)
    return Runs(tuple(traces), count, makespan)


def _arrival(trace: Trace) -> tuple[float, int]:
    """Return what runs are ordered by: engines number theirs in the order of arrival."""
    number = trace.run_id.rpartition("-")[2]
    return trace.wall_time, int(number) if number.isdecimal() else 0


def _thin_out(kept: list[tuple[float, int, Trace]], max_spans: int) -> int:
    """Let go of runs at random until few enough spans are left, but at least one run; return how many spans are."""
    kept.sort(key=lambda chosen: chosen[:2])
    spans = sum(len(trace.spans) for _chance, _place, trace in kept)
    while spans > max_spans and len(kept) > 1:
        spans -= len(kept.pop()[2].spans)
    return spans
