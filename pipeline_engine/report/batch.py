"""Many runs as totals: fed with one trace at a time, in memory that grows with the steps, not the documents."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING

from pipeline_engine.report.batch_bounds import BatchBounds, BoundSums, draw_batch_verdict
from pipeline_engine.report.kept import KeptTraces
from pipeline_engine.report.models import MAX_POINTS, Acceptance, Hedges, ModelHistory, ModelNotes
from pipeline_engine.report.spans import WAIT_KINDS
from pipeline_engine.report.timeline import Timeline, TimelineSums
from pipeline_engine.values.usage import Cost, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from pipeline_engine.report.models import BreakerChange, Cooldown, LimitPoint
    from pipeline_engine.report.spans import Origin, SegmentKind, Span
    from pipeline_engine.report.trace import Trace

__all__ = ["BatchTrace", "ErrorGroup", "SlowDocument", "StepTotals", "Totals"]

_NOTHING = Cost()


@dataclass(frozen=True, slots=True)
class StepTotals:
    """Add up one step over many documents; of a mapped step, its items."""

    step: str
    """The step's name."""
    count: int
    """How many steps or items were settled."""
    completed: int
    """How many have an output, fallbacks included."""
    failed: int
    """How many failed."""
    dropped: int
    """How many items failed and were done without."""
    skipped: int
    """How many did not run."""
    stopped: int
    """How many were ended from outside."""
    attempts: int
    """How many attempts were started."""
    retries: int
    """How many of them were not the first one."""
    total: float
    """Seconds from ready to outcome, added up."""
    mean: float
    """The mean of these seconds over those that were ready."""
    p50: float
    """Half of them took no longer; exact up to the size of the sample."""
    p95: float
    """95 in a hundred took no longer; exact up to the size of the sample."""
    p99: float
    """99 in a hundred took no longer; exact up to the size of the sample."""
    max: float
    """The longest of them."""
    waits: Mapping[SegmentKind, float]
    """Seconds spent waiting, by what for."""
    input_tokens: int
    """Tokens sent, as far as they are known."""
    output_tokens: int
    """Tokens received, as far as they are known."""
    cost: Cost = field(default_factory=Cost)
    """What its calls cost, as far as prices are known; the lost ones of second calls are among them."""
    busy: float = 0.0
    """Seconds of its attempts, failed ones among them."""
    first_token: float | None = None
    """In half of its streamed attempts the first piece came no later, in seconds; None if none was streamed."""
    origins: Mapping[Origin, int] = field(default_factory=dict)
    """Where the outputs came from: how many were executed, restored, replayed or shared."""


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Count the errors of one kind at one step."""

    step: str
    """The step that failed."""
    kind: str
    """The error's class name, or a provider error's kind."""
    count: int
    """How often."""
    example: str
    """The first of them, on one line, safe to print."""
    document: str
    """The key of the document that had it."""


@dataclass(frozen=True, slots=True)
class SlowDocument:
    """Name a document that took long."""

    document: str
    """Its key."""
    makespan: float
    """The seconds that its run took."""


@dataclass(frozen=True, slots=True)
class BatchTrace:
    """Hold the totals of many runs."""

    documents: Mapping[str, int]
    """How many runs ended with each status."""
    steps: tuple[StepTotals, ...]
    """The totals of each step, in the outline's order."""
    waits: Mapping[SegmentKind, float]
    """Seconds spent waiting in all runs together, by what for."""
    input_tokens: int
    """Tokens sent, as far as they are known."""
    output_tokens: int
    """Tokens received, as far as they are known."""
    slowest: tuple[SlowDocument, ...]
    """The documents that took longest, slowest first."""
    errors: tuple[ErrorGroup, ...]
    """What failed, commonest first."""
    models: ModelHistory = field(default_factory=ModelHistory)
    """What happened to the models: `limits`, thinned out to a few hundred points for each model, and the latest
    few hundred changes of each breaker and cool-downs of each model, those that overlap as one. Its instants are in
    seconds since the epoch."""
    acceptance: Mapping[str, Mapping[str, Acceptance]] = field(default_factory=dict)
    """For each cascade and each of its models, how many outputs were `(accepted, judged)`."""
    hedges: Hedges = field(default_factory=Hedges)
    """The second calls: how many there were, how many won, and what the lost calls cost."""
    started_at: float = 0.0
    """When the first run started, in seconds since the epoch."""
    ended_at: float = 0.0
    """When the last run had ended, in seconds since the epoch."""
    timeline: Timeline = field(default_factory=Timeline)
    """How many segments of each kind there were at once, over the time."""
    bounds: BatchBounds = field(default_factory=BatchBounds)
    """What the batch could not have been faster than."""
    traces: tuple[Trace, ...] = field(default=(), repr=False)
    """Runs in full, in the order in which they came: all of them if there are few, else the slowest, the first that
    failed, and a random sample of the others."""

    @property
    def count(self) -> int:
        """How many runs there were."""
        return sum(self.documents.values())

    @property
    def has_all(self) -> bool:
        """Whether `traces` holds every run."""
        return len(self.traces) == self.count

    @property
    def makespan(self) -> float:
        """Seconds in which at least one document was in flight."""
        return self.bounds.makespan

    @property
    def verdict(self) -> str:
        """One sentence: what bounded the batch, how near it came to that, and what would shorten it."""
        return draw_batch_verdict(self.bounds, self.count, self.waits)

    @property
    def cost(self) -> Cost:
        """What all calls cost, as far as prices are known; the lost ones of second calls are among them."""
        return sum((step.cost for step in self.steps), Cost())

    @property
    def usage(self) -> Usage:
        """The tokens of all calls, as far as they are known."""
        return Usage(self.input_tokens, self.output_tokens)

    @property
    def limits(self) -> Mapping[str, tuple[LimitPoint, ...]]:
        """Each model's adaptive limit over time: `(at, limit)`, `at` in seconds since the epoch."""
        return self.models.limits

    @property
    def breakers(self) -> Mapping[str, tuple[BreakerChange, ...]]:
        """The changes of each model's breaker: `(at, before, after)`, `at` in seconds since the epoch."""
        return self.models.breakers

    @property
    def cooldowns(self) -> Mapping[str, tuple[Cooldown, ...]]:
        """The cool-downs of each model: `(at, until)`, both in seconds since the epoch."""
        return self.models.cooldowns

    def to_chrome(self, path: str | PathLike[str]) -> Path:
        """Write `traces` as trace events, a JSON file for Perfetto or chrome://tracing, and return its path.

        Raises:
            ValueError: If no document was run.
        """
        from pipeline_engine.report.chrome import write_chrome

        return write_chrome(self.traces, path)

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the batch as one self-contained page and return its path.

        The page loads nothing, and shows hostile text as text. Without script it has everything but the waterfall, and
        that too of few documents. It is written beside its place and then moved there.
        """
        from pipeline_engine.report.html import write_html

        return write_html(self, path)

    def _repr_html_(self) -> str:
        from pipeline_engine.report.notebook import batch_trace_html

        return batch_trace_html(self)

    def table(self) -> list[dict[str, str | int | float]]:
        """Return a row per step: its counts, its seconds and its tokens, under plain names."""
        return [
            {
                "step": step.step,
                "count": step.count,
                "completed": step.completed,
                "failed": step.failed + step.dropped,
                "skipped": step.skipped,
                "retries": step.retries,
                "total": step.total,
                "mean": step.mean,
                "p50": step.p50,
                "p95": step.p95,
                "p99": step.p99,
                "max": step.max,
                **{f"{kind}_wait": step.waits[kind] for kind in WAIT_KINDS},
                "input_tokens": step.input_tokens,
                "output_tokens": step.output_tokens,
                "cost_usd": step.cost.usd,
            }
            for step in self.steps
        ]


class Totals:
    """Take in one finished trace after the other, and keep only totals.

    The same traces in the same order always give the same totals: which durations the sample keeps is
    drawn with a fixed seed.

    Example:
        >>> totals = Totals()
        >>> totals.result().documents
        {}
    """

    def __init__(self, *, max_samples: int = 1000, max_slowest: int = 100, max_spans: int = 10_000) -> None:
        self._max_samples = max_samples
        self._max_slowest = max_slowest
        self._documents: Counter[str] = Counter()
        self._steps: dict[str, _StepSums] = {}
        self._slowest: list[tuple[float, int, str]] = []
        self._errors: dict[tuple[str, str], _ErrorSums] = {}
        self._notes = ModelNotes()
        self._timeline = TimelineSums()
        self._bounds = BoundSums()
        self._kept = KeptTraces(max_spans)
        self._count = 0

    def add(self, trace: Trace) -> None:
        """Take in the trace of one run; it is kept only as long as there is room."""
        self._count += 1
        self._documents[trace.status or "running"] += 1
        to_wall_time = trace.wall_time - trace.started_at
        self._notes.add(trace.models.shifted(to_wall_time), trace.acceptance, trace.hedges)
        self._bounds.add(trace)
        self._kept.add(trace)
        # Of two equally slow documents the earlier one stays: the heap drops the later one first.
        entry = (trace.makespan, -self._count, trace.document)
        if len(self._slowest) < self._max_slowest:
            heapq.heappush(self._slowest, entry)
        elif self._slowest:
            heapq.heappushpop(self._slowest, entry)
        for step in trace.outline.steps:
            self._step(step.name)
        for span in trace.spans:
            # A mapped step is its items; one that never had any counts as itself, as skipped or failed.
            if not trace.items(span.step) or span.item is not None:
                self._step(span.step).add(span)
            for segment in span.segments:
                self._timeline.add(segment.kind, segment.start + to_wall_time, segment.end + to_wall_time)
            if span.error is not None and not (span.is_mapped and trace.items(span.step)):
                key = (span.step, span.error_kind or "")
                group = self._errors.setdefault(key, _ErrorSums(span.error, trace.document))
                group.count += 1

    def result(self) -> BatchTrace:
        """Return the totals so far, frozen; more traces may be added afterwards."""
        steps = tuple(sums.result() for sums in self._steps.values())
        errors = [
            ErrorGroup(step, kind, sums.count, sums.example, sums.document)
            for (step, kind), sums in self._errors.items()
        ]
        return BatchTrace(
            documents=dict(self._documents),
            steps=steps,
            waits={kind: sum(step.waits[kind] for step in steps) for kind in WAIT_KINDS},
            input_tokens=sum(step.input_tokens for step in steps),
            output_tokens=sum(step.output_tokens for step in steps),
            slowest=tuple(
                SlowDocument(document, makespan) for makespan, _, document in sorted(self._slowest, reverse=True)
            ),
            errors=tuple(sorted(errors, key=lambda group: -group.count)),
            models=self._notes.history(MAX_POINTS),
            acceptance=self._notes.acceptance(),
            hedges=self._notes.hedges,
            started_at=self._bounds.started_at,
            ended_at=self._bounds.ended_at,
            timeline=self._timeline.result(),
            bounds=self._bounds.result(),
            traces=self._kept.result(),
        )

    def _step(self, name: str) -> _StepSums:
        sums = self._steps.get(name)
        if sums is None:  # most exist already: one that is made to be thrown away would be half of all the work
            sums = self._steps[name] = _StepSums(name, self._max_samples)
        return sums


@dataclass(slots=True)
class _ErrorSums:
    example: str
    document: str
    count: int = 0


class _StepSums:
    """Add up one step, with a sample of its durations that stays bounded."""

    def __init__(self, name: str, max_samples: int) -> None:
        self._name = name
        self._outcomes: Counter[str] = Counter()
        self._attempts = self._retries = self._input_tokens = self._output_tokens = 0
        self._ready = 0
        self._total = self._max = 0.0
        self._waits = dict.fromkeys(WAIT_KINDS, 0.0)
        self._cost = Cost()
        self._busy = 0.0
        self._origins: Counter[Origin] = Counter()
        self._durations = _Sample(max_samples, f"durations of {name}")
        self._first_tokens = _Sample(max_samples, f"first tokens of {name}")

    def add(self, span: Span) -> None:
        self._outcomes[span.outcome or "running"] += 1
        self._attempts += span.attempts
        self._retries += span.retries
        for segment in span.segments:
            if segment.kind in self._waits:
                self._waits[segment.kind] += segment.duration
            elif segment.kind != "validate":
                self._busy += segment.duration
                if segment.first_token_at is not None:
                    self._first_tokens.add(segment.first_token_at - segment.start)
        if span.outcome == "completed":
            self._origins[span.origin] += 1
        if span.usage is not None:
            self._input_tokens += span.usage.input_tokens or 0
            self._output_tokens += span.usage.output_tokens or 0
        if span.cost != _NOTHING:
            self._cost += span.cost
        if span.has_time:
            self._ready += 1
            self._total += span.duration
            self._max = max(self._max, span.duration)
            self._durations.add(span.duration)

    def result(self) -> StepTotals:
        ordered, first_tokens = self._durations.ordered(), self._first_tokens.ordered()
        outcomes = self._outcomes
        return StepTotals(
            step=self._name,
            count=outcomes.total(),
            completed=outcomes["completed"],
            failed=outcomes["failed"],
            dropped=outcomes["dropped"],
            skipped=outcomes["skipped"],
            stopped=outcomes["stopped"],
            attempts=self._attempts,
            retries=self._retries,
            total=self._total,
            mean=self._total / self._ready if self._ready else 0.0,
            p50=_percentile(ordered, 0.5),
            p95=_percentile(ordered, 0.95),
            p99=_percentile(ordered, 0.99),
            max=self._max,
            waits=dict(self._waits),
            input_tokens=self._input_tokens,
            output_tokens=self._output_tokens,
            cost=self._cost,
            busy=self._busy,
            first_token=_percentile(first_tokens, 0.5) if first_tokens else None,
            origins=dict(self._origins),
        )


class _Sample:
    """Keep each of many numbers with the same chance, however many there are: reservoir sampling."""

    def __init__(self, max_size: int, seed: str) -> None:
        self._max_size = max_size
        self._count = 0
        self._kept: list[float] = []
        # A name may hold what is no text: bytes can be made of it all the same.
        self._random = random.Random(seed.encode(errors="surrogatepass"))

    def add(self, number: float) -> None:
        self._count += 1
        if len(self._kept) < self._max_size:
            self._kept.append(number)
            return
        index = self._random.randrange(self._count)
        if index < self._max_size:
            self._kept[index] = number

    def ordered(self) -> list[float]:
        return sorted(self._kept)


def _percentile(ordered: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)] if ordered else 0.0
