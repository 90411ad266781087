"""What a simulation has found: how long it would take, what it would cost, and what binds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any

from pipeline_engine.report.batch_bounds import BatchBounds, draw_batch_verdict
from pipeline_engine.report.legend import SHORT_NAMES
from pipeline_engine.report.numbers import count_text, seconds_text, tokens_text
from pipeline_engine.report.spans import WAIT_KINDS
from pipeline_engine.text import one_line
from pipeline_engine.values import Cost, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline_engine.report import SegmentKind
    from pipeline_engine.values import Status

__all__ = ["Percentiles", "SimulatedStep", "Simulation", "columns"]

_MAX_NAME = 24


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Say how long things took: half of them, 95 and 99 in a hundred no longer than this.

    Example:
        >>> Percentiles.of([4.0, 1.0, 2.0, 3.0])
        Percentiles(p50=2.0, p95=4.0, p99=4.0, max=4.0)
    """

    p50: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Percentiles:
        """Return the percentiles of durations, exactly; zeros if there are none."""
        ordered = sorted(seconds)
        if not ordered:
            return cls(0.0, 0.0, 0.0, 0.0)
        return cls(*(ordered[max(0, ceil(share * len(ordered)) - 1)] for share in (0.5, 0.95, 0.99, 1.0)))


@dataclass(frozen=True, slots=True)
class SimulatedStep:
    """Add up one step over all documents; of a mapped step, its items."""

    step: str
    """The step's name."""
    count: int
    """How many steps or items became ready."""
    attempts: int
    """How many attempts were started."""
    failures: int
    """How many of them failed."""
    duration: Percentiles
    """Seconds from ready to outcome."""
    waits: Mapping[SegmentKind, float]
    """Seconds spent waiting, by what for."""
    usage: Usage
    """The tokens of its calls."""
    cost: Cost
    """What its calls cost, as far as prices are known."""


@dataclass(frozen=True, slots=True)
class Simulation:
    """Hold what a simulated batch came to.

    Equal arguments give an equal simulation.

    Example:
        >>> from pipeline_engine import Pipeline, simulate
        >>> pipeline = Pipeline("article", inputs={"document": str})
        >>> @pipeline.llm("fast", str)
        ... def title(document: str) -> str:
        ...     return f"Give this document a title: {document}"
        >>> print(simulate(pipeline, documents=100, latency=2, capacity=10).verdict)
        100 documents in 20.0 s; 10 slots allow no less than 20.0 s (100 % of it); more slots gain at most 90 %
    """

    documents: int
    """How many documents were run."""
    counts: Mapping[Status, int]
    """How many of them ended how."""
    capacity: int
    """The slots."""
    makespan: float
    """Seconds from the start to the end of the last document."""
    latency: Percentiles
    """Seconds of a document: from its arrival, where documents arrive at a rate, else from when it was let in."""
    bounds: BatchBounds
    """What it could not be faster than."""
    steps: tuple[SimulatedStep, ...] = field(repr=False)
    """Each step over all documents."""
    stopped_by: str | None = None
    """What has ended it early, such as its budget."""

    @property
    def throughput(self) -> float:
        """Documents per second."""
        return self.documents / self.makespan if self.makespan > 0 else 0.0

    @property
    def waits(self) -> dict[SegmentKind, float]:
        """Seconds that all steps together spent waiting, by what for."""
        return {kind: sum(step.waits[kind] for step in self.steps) for kind in WAIT_KINDS}

    @property
    def usage(self) -> Usage:
        """The tokens of all calls."""
        return sum((step.usage for step in self.steps), Usage(0, 0))

    @property
    def cost(self) -> Cost:
        """What all calls cost, as far as prices and tokens are known."""
        return sum((step.cost for step in self.steps), Cost())

    @property
    def attempts(self) -> int:
        """How many attempts were made."""
        return sum(step.attempts for step in self.steps)

    @property
    def verdict(self) -> str:
        """One sentence: what binds it, and what would shorten it."""
        return draw_batch_verdict(self.bounds, self.documents, self.waits)

    def table(self) -> list[dict[str, Any]]:
        """Return a row per step, under plain names."""
        return [
            {
                "step": step.step,
                "count": step.count,
                "attempts": step.attempts,
                "failures": step.failures,
                "p50": step.duration.p50,
                "p95": step.duration.p95,
                "p99": step.duration.p99,
                "max": step.duration.max,
                **{f"{kind}_wait": step.waits[kind] for kind in WAIT_KINDS},
                "input_tokens": step.usage.input_tokens,
                "output_tokens": step.usage.output_tokens,
                "cost_usd": step.cost.usd if step.cost.is_known else None,
            }
            for step in self.steps
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in JSON's types."""
        return {
            "documents": self.documents,
            "counts": dict(self.counts),
            "capacity": self.capacity,
            "makespan": self.makespan,
            "throughput": self.throughput,
            "latency": {name: getattr(self.latency, name) for name in ("p50", "p95", "p99", "max")},
            "attempts": self.attempts,
            "input_tokens": self.usage.input_tokens,
            "output_tokens": self.usage.output_tokens,
            "cost_usd": self.cost.usd if self.cost.is_known else None,
            "waits": self.waits,
            "bounds": [{"kind": bound.kind, "seconds": bound.seconds, "by": bound.by} for bound in self.bounds.bounds],
            "reached": self.bounds.reached,
            "verdict": self.verdict,
            "stopped_by": self.stopped_by,
            "steps": self.table(),
        }

    def __str__(self) -> str:
        latency = ", ".join(
            f"{name} {seconds_text(getattr(self.latency, name))}" for name in ("p50", "p95", "p99", "max")
        )
        tokens = tokens_text(self.usage)
        lines = [
            self.verdict,
            f"document: {latency}; {_rate(self.throughput)}",
            f"cost: {self.cost}{f'; {tokens}' if tokens else ''}",
            *([f"stopped: {one_line(self.stopped_by)}"] if self.stopped_by else []),
            f"ended: {', '.join(f'{count_text(count)} {status}' for status, count in self.counts.items())}",
            "",
            *columns(self._rows()),
        ]
        return "\n".join(lines)

    def _rows(self) -> list[list[str]]:
        waits = [kind for kind, seconds in self.waits.items() if seconds > 0]
        rows = [["step", "count", "attempts", "failed", "p50", "p95", "max", *(SHORT_NAMES[kind] for kind in waits)]]
        rows += [
            [
                one_line(step.step, _MAX_NAME),
                count_text(step.count),
                count_text(step.attempts),
                count_text(step.failures),
                *(seconds_text(seconds) for seconds in (step.duration.p50, step.duration.p95, step.duration.max)),
                *(seconds_text(step.waits[kind]) for kind in waits),
            ]
            for step in self.steps
        ]
        return rows


def _rate(per_second: float) -> str:
    if per_second >= 1000:
        return f"{count_text(round(per_second))} documents per second"
    if per_second >= 1 or not per_second:
        return f"{per_second:.3g} documents per second"
    return f"{60 * per_second:.3g} documents per minute"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines of text: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
