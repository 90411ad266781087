"""What a page is about: one run or a batch of them, as one thing, with its own unit of time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from pipeline_engine.report.batch import BatchTrace, Totals
from pipeline_engine.report.numbers import seconds_text

if TYPE_CHECKING:
    from pipeline_engine.report.trace import Trace
    from pipeline_engine.values.records import Outline

__all__ = ["Subject", "moment_text", "subject_of"]

_LAST_MOMENT = 253_402_300_000
_NO_END = 1 << 62


@dataclass(frozen=True)
class Subject:
    """Hold what a page is about."""

    batch: BatchTrace
    """The totals of all runs."""
    run: Trace | None
    """The run, if there is only one."""

    @property
    def start(self) -> float:
        """The left end of the time axis, in seconds since the epoch."""
        return self.batch.started_at

    @property
    def seconds(self) -> float:
        """The length of the time axis."""
        return max(0.0, self.batch.ended_at - self.batch.started_at) if self.run is None else self.run.makespan

    @cached_property
    def outline(self) -> Outline | None:
        """The pipeline, as the last run had it; None if there was no run."""
        return self.batch.traces[-1].outline if self.batch.traces else None

    def part(self, seconds: float) -> str:
        """Return a duration in the unit of the whole."""
        return seconds_text(seconds, is_part=self.seconds >= 1)

    def percent(self, at: float) -> float:
        """Return where an instant, in seconds since the epoch, is on the axis, from 0 to 100."""
        passed = 100 * (at - self.start) / self.seconds if self.seconds > 0 else 0.0
        return min(100.0, max(0.0, passed))


def subject_of(trace: Trace | BatchTrace) -> Subject:
    """Return what a page of a run or of a batch is about; a batch of one run is that run."""
    if isinstance(trace, BatchTrace):
        is_single = trace.count == 1 and trace.has_all
        return Subject(trace, trace.traces[0] if is_single else None)
    totals = Totals(max_spans=_NO_END)
    totals.add(trace)
    return Subject(totals.result(), trace)


def moment_text(wall_time: float) -> str:
    """Return a time of day; nothing for one that cannot be: virtual clocks start where they like."""
    if not 0 < wall_time < _LAST_MOMENT:
        return ""
    return datetime.fromtimestamp(wall_time, tz=UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
