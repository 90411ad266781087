"""What a batch could not have been faster than: its slots, its models' limits, its longest document; and a verdict."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pipeline_engine.report.bounds import draw_path, find_bounds
from pipeline_engine.report.legend import CURES
from pipeline_engine.report.numbers import count_text, counted, seconds_text
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline_engine.report.spans import SegmentKind
    from pipeline_engine.report.trace import Trace
    from pipeline_engine.values.records import OutlineModel

__all__ = ["BatchBounds", "Bound", "BoundKind", "BoundSums", "draw_batch_verdict"]

BoundKind = Literal["slots", "requests", "tokens", "concurrency", "critical path"]
"""What a batch cannot be faster than: all its attempts on the slots there were; its calls, their tokens or their
seconds within a model's limits; the work along one document's longest chain of needs."""

_RUNNING = frozenset({"attempt", "failed"})
_ROUNDING = 1e-6
_EXPLAINED = 0.8
"""From this part of the makespan on, a bound explains it."""


@dataclass(frozen=True, slots=True)
class Bound:
    """One lower bound of a makespan."""

    kind: BoundKind
    """What it comes from."""
    seconds: float
    """No schedule of the same attempts is shorter."""
    by: str
    """What sets it, in words: "64 slots", a model's limit, or a document."""


@dataclass(frozen=True, slots=True)
class BatchBounds:
    """Hold the lower bounds of a batch's makespan.

    They are *lower* bounds: they ignore what they do not model, such as documents that come late. One that is
    longer than the makespan is left out: then several processes have worked at once, each with slots of its own.
    """

    makespan: float = 0.0
    """Seconds in which a document was in flight."""
    idle: float = 0.0
    """Seconds between the first start and the last end in which none was."""
    bounds: tuple[Bound, ...] = ()
    """The bounds, longest first."""

    @property
    def binding(self) -> Bound | None:
        """The longest of them; None if nothing took any time."""
        return self.bounds[0] if self.bounds else None

    @property
    def reached(self) -> float:
        """The part of the makespan that the longest bound explains, from 0 to 1."""
        return self.bounds[0].seconds / self.makespan if self.bounds and self.makespan > 0 else 0.0

    def gain_without(self, kind: BoundKind) -> float:
        """Return the part of the makespan, from 0 to 1, that can be saved at most by lifting the bounds of a kind.

        Nobody waits for slots but while all of them are taken, and that is no longer than their bound: all attempts
        on all of them. The same holds for a model's concurrency.
        """
        if self.makespan <= 0:
            return 0.0
        left = max((bound.seconds for bound in self.bounds if bound.kind != kind), default=0.0)
        lifted = [bound.seconds for bound in self.bounds if bound.kind == kind]
        most = sum(lifted) if lifted and kind in ("slots", "concurrency") else self.makespan
        return max(0.0, min(self.makespan - left, most) / self.makespan)


@dataclass(slots=True)
class _ModelSums:
    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0


class BoundSums:
    """Take in one run after the other, and keep what the bounds of all of them together are made of."""

    def __init__(self) -> None:
        self._busy = 0.0
        self._capacity = 0
        self._calls: dict[str, _ModelSums] = {}
        self._models: dict[str, OutlineModel] = {}
        self._longest = 0.0
        self._longest_by = ""
        # When documents were in flight: intervals that do not touch, in order. Few, as most overlap.
        self._starts: list[float] = []
        self._ends: list[float] = []

    @property
    def longest(self) -> float:
        """The seconds of the longest chain so far."""
        return self._longest

    @property
    def started_at(self) -> float:
        """When the first run started, in seconds since the epoch; 0 if there was none."""
        return self._starts[0] if self._starts else 0.0

    @property
    def ended_at(self) -> float:
        """When the last run had ended."""
        return self._ends[-1] if self._ends else 0.0

    def add(self, trace: Trace) -> None:
        """Take in one run."""
        self.allow(trace.capacity, trace.outline.models)
        for span in trace.spans:
            for segment in span.segments:
                if segment.kind in _RUNNING:
                    tokens = None if segment.usage is None else segment.usage.total_tokens
                    self.add_attempt(segment.duration, segment.model, tokens)
        if trace.makespan > self._longest:  # its chain is no longer than that: few are worth looking at
            bounds = find_bounds(trace)
            self.add_chain(bounds.critical_path, trace.document, bounds.path)
        self.cover(trace.wall_time, trace.wall_time + trace.makespan)

    def allow(self, capacity: int, models: Iterable[OutlineModel]) -> None:
        """Take in how many slots there were, and how much the models might be asked."""
        self._capacity = max(self._capacity, capacity)
        self._models.update((model.name, model) for model in models)

    def add_chain(self, seconds: float, document: str, path: Sequence[str]) -> None:
        """Take in the work along a document's longest chain of needs."""
        if seconds > self._longest:
            self._longest = seconds
            self._longest_by = f"{one_line(document, 40)} ({draw_path(path)})"

    def add_attempt(self, seconds: float, model: str | None, tokens: int | None) -> None:
        """Take in an attempt, and the call of a model that it was."""
        self._busy += seconds
        if model is None:
            return
        sums = self._calls.get(model)
        if sums is None:
            sums = self._calls[model] = _ModelSums()
        sums.calls += 1
        sums.seconds += seconds
        sums.tokens += tokens or 0

    def cover(self, start: float, end: float) -> None:
        """Note that a document was in flight: what the interval touches becomes one with it."""
        first, last = bisect_left(self._ends, start), bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last], self._ends[first:last] = [start], [end]

    def result(self) -> BatchBounds:
        """Return the bounds of what was taken in so far."""
        makespan = sum(self._ends) - sum(self._starts)
        bounds = [Bound("critical path", self._longest, self._longest_by)] if self._longest else []
        if self._capacity:
            bounds.append(Bound("slots", self._busy / self._capacity, counted(self._capacity, "slot")))
        for name, sums in self._calls.items():
            if name in self._models:
                bounds += _model_bounds(self._models[name], sums)
        kept = [bound for bound in bounds if 0 < bound.seconds <= makespan * (1 + _ROUNDING) + _ROUNDING]
        return BatchBounds(
            makespan,
            max(0.0, self.ended_at - self.started_at - makespan),
            tuple(sorted(kept, key=lambda bound: -bound.seconds)),
        )


def _model_bounds(model: OutlineModel, sums: _ModelSums) -> list[Bound]:
    name = one_line(model.name)
    found = []
    if model.rpm:
        seconds = (sums.calls - model.burst_requests) / model.rpm * 60
        found.append(Bound("requests", seconds, f"{model.rpm:g} requests per minute of {name}"))
    if model.tpm:
        seconds = (sums.tokens - model.burst_tokens) / model.tpm * 60
        found.append(Bound("tokens", seconds, f"{model.tpm:,.0f} tokens per minute of {name}"))
    if model.max_concurrency:
        seconds = sums.seconds / model.max_concurrency
        found.append(Bound("concurrency", seconds, f"{counted(model.max_concurrency, 'call')} at once to {name}"))
    return found


def draw_batch_verdict(bounds: BatchBounds, documents: int, waits: Mapping[SegmentKind, float]) -> str:
    """Return one sentence: what bounded a batch, how near it came to that, and what would shorten it.

    Args:
        bounds: The batch's bounds.
        documents: How many documents were run.
        waits: The seconds that all steps together have waited, by what for.
    """
    if not documents:
        return "no document was run"
    head = f"{count_text(documents)} document{'' if documents == 1 else 's'} in {seconds_text(bounds.makespan)}"
    if bounds.idle >= 0.01 * bounds.makespan and bounds.idle >= 1:
        head += f" (and {seconds_text(bounds.idle)} in which none was in flight)"
    binding = bounds.binding
    if binding is None:
        return f"{head}; no step took any time"
    least = seconds_text(binding.seconds, is_part=bounds.makespan >= 1)
    if binding.kind == "critical path":
        told = f"{head}; {binding.by} alone needs {least} ({_percent(bounds.reached)} of it)"
    else:
        told = f"{head}; {binding.by} allow no less than {least} ({_percent(bounds.reached)} of it)"
    if bounds.reached < _EXPLAINED and any(waits.values()):
        kind = max(waits, key=lambda kind: waits[kind])
        told += f"; steps waited {seconds_text(waits[kind])} for {_NAMES.get(kind, kind)}"
    return f"{told}; {_cure(bounds, binding)}"


_NAMES: dict[str, str] = {
    "slot": "slots",
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "concurrency": "a model's concurrency",
    "cooldown": "models to cool down",
    "breaker": "breakers to close",
    "backoff": "their own back-off",
    "shared": "equal calls",
    "warm": "a warm cache",
    "commit": "the journal",
    "lease": "the journal's lease",
    "fallback": "fallbacks",
}


def _cure(bounds: BatchBounds, binding: Bound) -> str:
    slots = _percent(bounds.gain_without("slots"))
    if binding.kind == "slots":
        return f"more slots gain at most {slots}"
    is_vain = bounds.gain_without("slots") < 0.005
    effect = "more slots cannot help" if is_vain else f"more slots gain at most {slots}"
    if binding.kind == "critical path":
        return f"{effect}; only shorter or fewer steps in a row {'can' if is_vain else 'gain more'}"
    gain = _percent(bounds.gain_without(binding.kind))
    return f"{effect}; to gain up to {gain}, {CURES[binding.kind]}"


def _percent(share: float) -> str:
    return f"{round(100 * share)} %"
