"""What is kept of simulated documents: sums, read from each one's records when it ends; the records are let go."""

from __future__ import annotations

from array import array
from collections import Counter
from typing import TYPE_CHECKING

from pipeline_engine.report.batch_bounds import BoundSums
from pipeline_engine.report.spans import BUSY_KINDS, WAIT_KINDS
from pipeline_engine.simulation.result import Percentiles, SimulatedStep, Simulation
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Cost,
    HedgeFinished,
    QueueLeft,
    Record,
    RepairAsked,
    RunFinished,
    RunStarted,
    StepFinished,
    StepMapped,
    StepReady,
    Usage,
    WaitEnded,
    WaitStarted,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline_engine.plan import Plan
    from pipeline_engine.report import SegmentKind
    from pipeline_engine.values import Status

__all__ = ["Tally"]


class _StepSums:
    """Add up one step over all documents; of a mapped step, its items."""

    def __init__(self) -> None:
        self.attempts = 0
        self.failures = 0
        self.durations = array("d")
        self.waits: dict[SegmentKind, float] = dict.fromkeys(WAIT_KINDS, 0.0)
        self.input_tokens = 0
        self.output_tokens = 0
        self.cost = Cost()


class _Unit:
    """Follow one step, or one item, of one document."""

    __slots__ = ("busy", "kind", "mark", "model", "ready_at")

    def __init__(self, at: float) -> None:
        self.ready_at = self.mark = at
        self.kind: SegmentKind | None = "slot"
        self.busy = 0.0
        self.model: str | None = None


class Tally:
    """Add up simulated documents, in memory that grows by a few numbers with each of them."""

    def __init__(self, plan: Plan, capacity: int) -> None:
        self._capacity = capacity
        self._outline = plan.outline
        self._steps = {step.name: _StepSums() for step in plan.steps}
        self._bounds = BoundSums()
        self._counts: Counter[Status] = Counter()
        self._latencies = array("d")

    @property
    def documents(self) -> int:
        """How many were added."""
        return len(self._latencies)

    def add(self, records: Sequence[Record], arrived_at: float | None) -> None:
        """Take in a document that has ended.

        Args:
            records: All of its records.
            arrived_at: Since when it has waited to be let in, if that counts as a part of its time.
        """
        started = records[0]
        if not isinstance(started, RunStarted):
            raise AssertionError("the records of a run begin with RunStarted")
        if not self._latencies:
            self._bounds.allow(self._capacity, started.outline.models)
        units: dict[tuple[str, int | None], _Unit] = {}
        for record in records:
            kind = type(record)
            if isinstance(record, StepReady):
                units[record.step, record.item] = _Unit(record.at)
            elif isinstance(record, StepMapped):
                units.pop((record.step, None), None)  # its items are counted
            elif isinstance(record, RunFinished):
                self._counts[record.status] += 1
                self._latencies.append(record.at - (started.at if arrived_at is None else arrived_at))
                self._bounds.cover(started.at, record.at)
            elif kind in _OF_UNITS:
                unit = units.get((record.step, record.item))  # type: ignore[union-attr]  # all of these have both
                if unit is not None:  # what never was ready has taken no time
                    self._read(record, unit)
        self._add_chain(started.document, units)

    def _read(self, record: Record, unit: _Unit) -> None:
        sums = self._steps[record.step]  # type: ignore[union-attr]  # all of these have one
        at = record.at
        if isinstance(record, AttemptStarted):
            sums.attempts += 1
            self._wait(sums, unit, at)
            unit.kind, unit.model = None, record.model
        elif isinstance(record, AttemptFinished):
            self._end_attempt(record, sums, unit)
        elif isinstance(record, StepFinished):
            self._wait(sums, unit, at)
            sums.durations.append(at - unit.ready_at)
        elif isinstance(record, WaitStarted):
            self._wait(sums, unit, at)
            unit.kind = record.cause
        elif isinstance(record, WaitEnded | RepairAsked):
            self._wait(sums, unit, at)
            unit.kind = "slot"
        elif isinstance(record, QueueLeft):
            for cause, seconds in record.waits:
                if cause != "slot":
                    sums.waits[cause] += seconds
                    unit.mark += seconds
        elif isinstance(record, HedgeFinished) and record.cost is not None:
            sums.cost += record.cost

    @staticmethod
    def _wait(sums: _StepSums, unit: _Unit, at: float) -> None:
        kind, seconds = unit.kind, at - unit.mark
        unit.mark, unit.kind = at, None
        if kind is not None:
            sums.waits[kind] += seconds
            if kind in BUSY_KINDS:
                unit.busy += seconds

    def _end_attempt(self, record: AttemptFinished, sums: _StepSums, unit: _Unit) -> None:
        seconds, unit.mark = record.at - unit.mark, record.at
        unit.busy += seconds
        usage = record.usage
        tokens = None if usage is None else usage.total_tokens
        self._bounds.add_attempt(seconds, unit.model, tokens)
        if record.fault is not None:
            sums.failures += 1
        if usage is not None:
            sums.input_tokens += usage.input_tokens or 0
            sums.output_tokens += usage.output_tokens or 0
        if record.cost is not None:
            sums.cost += record.cost

    def _add_chain(self, document: str, units: dict[tuple[str, int | None], _Unit]) -> None:
        """Find the most work in a row, over the needs: of a mapped step the longest item counts."""
        busy: dict[str, float] = {}
        for (step, _item), unit in units.items():
            busy[step] = max(busy.get(step, 0.0), unit.busy)
        chains: dict[str, tuple[float, str | None]] = {}
        longest = 0.0, ""
        for outlined in self._outline.steps:
            before = max(((chains[need][0], need) for need in outlined.needs if need in chains), default=(0.0, None))
            seconds = before[0] + busy.get(outlined.name, 0.0)
            chains[outlined.name] = seconds, before[1]
            longest = max(longest, (seconds, outlined.name))
        if longest[0] > self._bounds.longest:
            path = list(_backwards(chains, longest[1]))[::-1]
            self._bounds.add_chain(longest[0], f"document {document}", path)

    def result(self, makespan: float, stopped_by: str | None) -> Simulation:
        """Return what came of all documents.

        Args:
            makespan: Seconds until the last of them had ended.
            stopped_by: What has ended the simulation early.
        """
        steps = [
            SimulatedStep(
                step=name,
                count=len(sums.durations),
                attempts=sums.attempts,
                failures=sums.failures,
                duration=Percentiles.of(sums.durations),
                waits=sums.waits,
                usage=Usage(sums.input_tokens, sums.output_tokens),
                cost=sums.cost,
            )
            for name, sums in self._steps.items()
        ]
        return Simulation(
            documents=len(self._latencies),
            counts=dict(sorted(self._counts.items())),
            capacity=self._capacity,
            makespan=makespan,
            latency=Percentiles.of(self._latencies),
            bounds=self._bounds.result(),
            steps=tuple(steps),
            stopped_by=stopped_by,
        )


_OF_UNITS = frozenset(
    {AttemptStarted, AttemptFinished, StepFinished, WaitStarted, WaitEnded, RepairAsked, QueueLeft, HedgeFinished}
)


def _backwards(chains: dict[str, tuple[float, str | None]], name: str | None) -> Iterator[str]:
    while name is not None:
        yield name
        name = chains[name][1]
