"""Runs that a journal has recorded, as traces: those of a batch as totals, or the latest one of a document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline_engine.report.batch import Totals
from pipeline_engine.report.trace import Trace
from pipeline_engine.values.recording import unpack_records

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pipeline_engine.journal.reading import StoredRun
    from pipeline_engine.report.batch import BatchTrace

__all__ = ["StoredTraces"]


@dataclass(slots=True)
class StoredTraces:
    """Read recorded runs as traces, one at a time, and leave out those that cannot be read any more."""

    runs: Iterable[StoredRun]
    """The runs, as a journal's reader yields them."""
    lost: int = 0
    """How many were left out so far: another version has written them, or they are damaged."""

    def __iter__(self) -> Iterator[Trace]:
        for run in self.runs:
            try:
                yield Trace.from_records(unpack_records(run.records))
            except ValueError:
                self.lost += 1

    def totals(self, max_spans: int) -> BatchTrace:
        """Return the totals of the runs, of which about `max_spans` steps and items are kept in full."""
        totals = Totals(max_spans=max_spans)
        for trace in self:
            totals.add(trace)
        return totals.result()

    def latest(self) -> Trace | None:
        """Return the last one of the runs; None if none can be read."""
        latest = None
        for trace in self:
            latest = trace
        return latest
