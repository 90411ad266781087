"""What calls are like, learnt from runs that have happened."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from pipeline_engine.declare import Constant, Empirical
from pipeline_engine.simulation.assumptions import MAX_TEXTS, StepAssumptions
from pipeline_engine.simulation.recorded import each_trace

if TYPE_CHECKING:
    from pipeline_engine.declare import Distribution
    from pipeline_engine.report import Segment, Span
    from pipeline_engine.simulation.recorded import Recorded

__all__ = ["learn"]

_MAX_SAMPLES = 2000
"""How many values of a kind are kept for each step: percentiles of so many are steady."""
_THROTTLED = (429, 529)
"""Refusals for rate depend on how fast one asks: limits say that, not the share of failures."""


def learn(recorded: Recorded, *, batch: str = "last") -> dict[str, StepAssumptions]:
    """Return for each step of recorded runs what its attempts were like: seconds, tokens, failures, items, branches.

    Attempts whose reply came from a journal or from an equal call say nothing, and neither do those that were
    refused for rate or cancelled. A step of which nothing is told, because it was restored throughout or never got its
    turn, is left out. It takes time linear in the runs, and memory that does not grow with them.

    Args:
        recorded: A result or trace of a run or a batch, several traces, or a journal.
        batch: Which batch of a journal: its id, the beginning of it, or "last".

    Raises:
        TypeError: If it is nothing that runs can be read from.
        LookupError: If a journal has no such batch.
        JournalError: If it cannot be read.

    Example:
        >>> from pipeline_engine import Pipeline, run_batch
        >>> from pipeline_engine.testing import ScriptedModel, virtual_time
        >>> pipeline = Pipeline("article", inputs={"document": str})
        >>> @pipeline.llm("fast", str)
        ... def title(document: str) -> str:
        ...     return f"Give this document a title: {document}"
        >>> with virtual_time():
        ...     model = ScriptedModel({"title": "Tides"}, latency=3.0)
        ...     batch = run_batch(pipeline, [{"document": text} for text in "abc"], models={"fast": model})
        >>> learn(batch)["title"].latency.samples
        (3.0, 3.0, 3.0)
    """
    lessons: dict[str, _Lessons] = {}
    for trace in each_trace(recorded, batch):
        embedders = {step.name for step in trace.outline.steps if step.kind == "embed"}
        for span in trace.spans:
            if span.step not in lessons:
                lessons[span.step] = _Lessons(span.step, makes_vectors=span.step in embedders)
            lessons[span.step].take_in(span)
        for step, by_model in trace.acceptance.items():
            for acceptance in by_model.values():
                lessons[step].accepted += acceptance.accepted
                lessons[step].judged += acceptance.judged
    return {step: learnt.result() for step, learnt in lessons.items() if learnt.tells_something}


class _Sample:
    """Keep each of many values with the same chance: reservoir sampling."""

    def __init__(self, seed: str) -> None:
        self._values: list[float] = []
        self._count = 0
        self._dice = random.Random(seed)

    def add(self, value: float) -> None:
        self._count += 1
        if len(self._values) < _MAX_SAMPLES:
            self._values.append(value)
        elif (place := self._dice.randrange(self._count)) < _MAX_SAMPLES:
            self._values[place] = value

    @property
    def is_zero(self) -> bool:
        return bool(self._values) and not any(self._values)

    def distribution(self) -> Distribution | None:
        return Empirical(self._values) if self._values else None


class _Lessons:
    """Take in the spans of one step."""

    def __init__(self, step: str, *, makes_vectors: bool) -> None:
        # A call for vectors is an item of its step, and holds many texts.
        self._texts = MAX_TEXTS if makes_vectors else 1
        self._latency = _Sample(f"{step} latency")
        self._failed_latency = _Sample(f"{step} failed")
        self._asked = _Sample(f"{step} asked")
        self._replied = _Sample(f"{step} replied")
        self._items = _Sample(f"{step} items")
        self._counts: Counter[str] = Counter()
        self.accepted = 0
        self.judged = 0

    def take_in(self, span: Span) -> None:
        if span.width is not None:
            self._items.add(span.width * self._texts)
        if span.because == "when":
            self._counts["unwanted"] += 1
        if span.ready_at is None or span.is_mapped or span.origin != "executed":
            return
        self._counts["wanted"] += 1
        self._counts["attempts"] += span.attempts  # one that took no time has no segment
        answered = [segment for segment in span.segments if segment.kind == "attempt"]
        for segment in answered:
            self._counts["answered"] += 1
            self._latency.add(segment.duration)
            if segment.usage is not None and segment.usage.total_tokens is not None:
                self._asked.add(segment.usage.input_tokens or 0)
                self._replied.add(segment.usage.output_tokens or 0)
        # An answer after which the same model was asked again did not validate.
        models = [segment.model for segment in answered]
        self._counts["invalid"] += sum(before == after for before, after in pairwise(models))
        for segment in span.segments:
            if segment.kind == "failed" and _says_something(segment):
                self._counts["failed"] += 1
                self._counts["permanent"] += segment.fault is not None and not segment.fault.is_transient
                self._failed_latency.add(segment.duration)

    @property
    def tells_something(self) -> bool:
        """Whether there was an attempt, or a reason for none: its `when=` said no, or its list was empty."""
        counts = self._counts
        return bool(counts["attempts"] or counts["unwanted"] or self._items.is_zero)

    def result(self) -> StepAssumptions:
        counts = self._counts
        return StepAssumptions(
            latency=self._latency.distribution() or Constant(0),
            failed_latency=self._failed_latency.distribution(),
            input_tokens=self._asked.distribution(),
            output_tokens=self._replied.distribution(),
            failures=_share(counts["failed"], counts["failed"] + counts["answered"]),
            permanent=_share(counts["permanent"], counts["failed"]),
            invalid=_share(counts["invalid"], counts["answered"]),
            items=self._items.distribution() or Constant(0),
            branch=_share(counts["wanted"], counts["wanted"] + counts["unwanted"], otherwise=1.0),
            accepted=_share(self.accepted, self.judged, otherwise=1.0),
        )


def _says_something(segment: Segment) -> bool:
    fault = segment.fault
    return fault is None or (fault.kind != "cancelled" and fault.status not in _THROTTLED)


def _share(part: int, whole: int, *, otherwise: float = 0.0) -> float:
    return part / whole if whole else otherwise
