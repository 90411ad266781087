"""What a recorded run would have taken otherwise: more slots, other limits, a faster step, no failures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from math import ceil, isfinite
from typing import TYPE_CHECKING

from pipeline_engine.declare import Limits
from pipeline_engine.report import Scenario
from pipeline_engine.report.numbers import counted, seconds_text
from pipeline_engine.simulation.admissions import Admission, admissions_of
from pipeline_engine.simulation.parts import Work, altered, take_apart
from pipeline_engine.simulation.recorded import recorded_runs
from pipeline_engine.simulation.replaying import ReplayedDocument, Settings, replay
from pipeline_engine.simulation.simulating import on_virtual_time
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline_engine.simulation.parts import Part
    from pipeline_engine.simulation.recorded import Recorded, Runs
    from pipeline_engine.values import Outline, OutlineModel

__all__ = ["WhatIf", "scenarios", "what_if"]

_MAX_SPANS = 10_000
"""How many steps and items are replayed at most: a second or so for each change."""
_DOCUMENTS_PER_SLOT = 4
"""How many documents a batch lets in for each slot, if nobody says otherwise."""
_SLOWEST = 2
"""How many steps the usual changes make faster."""


@dataclass(frozen=True, slots=True)
class WhatIf:
    """Hold what a recorded run or batch would have taken otherwise."""

    recorded: float
    """The seconds that it took; of a batch, those in which a document was in flight."""
    replayed: float
    """The seconds of its replay as it was: how near that comes says how far the other one can be believed."""
    changed: float
    """The seconds of its replay with the changes."""
    documents: int
    """How many documents were replayed: all of them, or a random sample if there are very many."""
    count: int
    """How many documents there were."""

    @property
    def makespan(self) -> float:
        """The seconds that it would have taken: what it took, by as much as its replay has changed."""
        return self.recorded * (1 - self.gain)

    @property
    def gain(self) -> float:
        """The part of the makespan that is saved: 0.25 for a quarter; negative if it would have taken longer."""
        return 1 - self.changed / self.replayed if self.replayed > 0 else 0.0

    def __str__(self) -> str:
        saved = f"{self.gain:.0%} less" if self.gain >= 0 else f"{-self.gain:.0%} more"
        told = f"{seconds_text(self.makespan)} instead of {seconds_text(self.recorded)}, {saved}"
        if self.documents < self.count:
            told += f" (from {self.documents} of {counted(self.count, 'document')}, drawn at random)"
        return told


def what_if(
    recorded: Recorded,
    *,
    batch: str = "last",
    capacity: int | None = None,
    max_documents: int | None = None,
    limits: Mapping[str, Limits | None] | None = None,
    faster: Mapping[str, float] | None = None,
    retries: bool = True,
) -> WhatIf:
    """Return what a recorded run or batch would have taken otherwise.

    Its attempts are put to the real scheduler on a virtual clock: each takes as long as it took and fails as it
    failed; back-off, cool-downs and the journal take what they took. When an attempt gets a slot, and when its model's
    limits let it through, is decided anew. Nothing is run and nothing of the pipeline's code is needed.

    A document of a batch that was not there when there was room for it comes as long after the one before it as it
    did; others come as soon as there is room. What shared the engine with the run is not there.

    Args:
        recorded: A result or trace of a run or a batch, several traces, or a journal.
        batch: Which batch of a journal: its id, the beginning of it, or "last".
        capacity: Attempts in flight at once; as it was if not given.
        max_documents: Documents in flight at once; if not given, as many as there were, and in proportion if
            the capacity changes.
        limits: For models, by their names, what they would have borne; None lifts a model's limits.
        faster: For steps, how many times as fast their attempts would have been: 2.0 is twice as fast.
        retries: Whether attempts fail as they did; if not, each first one is as the last one was.

    Raises:
        ValueError: If there is no run there, a name is that of nothing in it, or a figure makes no sense.
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
        ...     batch = run_batch(pipeline, [{"document": text} for text in "abcd"], models={"fast": model}, capacity=2)
        >>> print(what_if(batch, capacity=4))
        3.0 s instead of 6.0 s, 50% less
    """
    past = _Past(recorded_runs(recorded, batch, max_spans=_MAX_SPANS))
    return past.what_if(_Changes(capacity, max_documents, limits or {}, faster or {}, retries))


def scenarios(recorded: Recorded, *, batch: str = "last") -> tuple[Scenario, ...]:
    """Return what the usual changes would have made of a recorded run or batch, for a table in its report.

    Twice the capacity and no bound on it, no limits of models, each of the two steps with the most seconds twice as
    fast, and no failed attempts; what changes nothing by its nature is left out. It takes some seconds for a batch.

    Args:
        recorded: A result or trace of a run or a batch, several traces, or a journal.
        batch: Which batch of a journal: its id, the beginning of it, or "last".

    Raises:
        ValueError: If there is no run there.
        TypeError: If it is nothing that runs can be read from.
        LookupError: If a journal has no such batch.
        JournalError: If it cannot be read.
    """
    past = _Past(recorded_runs(recorded, batch, max_spans=_MAX_SPANS))
    twice = 2 * past.capacity
    changes = {
        f"twice the capacity ({twice})": _Changes(capacity=twice),
        "no bound on capacity": _Changes(capacity=past.most_at_once, max_documents=len(past.runs.traces)),
    }
    if past.limits or past.is_throttled:
        changes["no limits of models"] = _Changes(limits=dict.fromkeys(past.models))
    for step in past.slowest[:_SLOWEST]:
        changes[f"{one_line(step, 40)} twice as fast"] = _Changes(faster={step: 2.0})
    if past.has_failures:
        changes["no failed attempts"] = _Changes(has_retries=False)
    found = ((name, past.what_if(change)) for name, change in changes.items())
    return tuple(Scenario(name, would.makespan, would.gain) for name, would in found)


@dataclass(frozen=True, slots=True)
class _Changes:
    """What is otherwise."""

    capacity: int | None = None
    max_documents: int | None = None
    limits: Mapping[str, Limits | None] = field(default_factory=dict)
    faster: Mapping[str, float] = field(default_factory=dict)
    has_retries: bool = True


class _Past:
    """Hold recorded runs taken apart, and replay them."""

    def __init__(self, runs: Runs) -> None:
        traces = runs.traces
        self.runs = runs
        self.capacity = max(trace.capacity for trace in traces)
        # Runs of earlier versions do not tell their models' limits.
        self._outline: Outline = max((trace.outline for trace in traces), key=lambda outline: len(outline.models))
        self._parts = [take_apart(trace) for trace in traces]
        if len(traces) == runs.count:
            self._admissions, self._max_documents = admissions_of(traces, self.capacity)
        else:  # who was let in after whom cannot be told from a sample
            self._admissions = (Admission(),) * len(traces)
            self._max_documents = _DOCUMENTS_PER_SLOT * self.capacity
        works = [
            (part.name[0], phase)
            for parts in self._parts
            for part in parts
            for phase in part.phases
            if isinstance(phase, Work)
        ]
        self.most_at_once = max(1, len(works))
        self.has_failures = any(work.has_failed for _step, work in works)
        self.is_throttled = any(work.is_throttled for _step, work in works)
        self.limits = {model.name: limits for model in self._outline.models if (limits := _limits_of(model))}
        self.models = {model.name for model in self._outline.models}
        self.models |= {work.model for _step, work in works if work.model is not None}
        seconds: dict[str, float] = {}
        for step, work in works:
            seconds[step] = seconds.get(step, 0.0) + work.seconds
        self.slowest = sorted(seconds, key=lambda step: -seconds[step])
        self._replayed = self._replay(_Changes())

    def what_if(self, changes: _Changes) -> WhatIf:
        """Return what the runs would have taken with some changes.

        Raises:
            ValueError: If a change names nothing here, or is no sensible figure.
        """
        self._check(changes)
        return WhatIf(
            self.runs.makespan,
            self._replayed,
            self._replay(changes),
            len(self.runs.traces),
            self.runs.count,
        )

    def _replay(self, changes: _Changes) -> float:
        capacity = changes.capacity or self.capacity
        in_proportion = ceil(self._max_documents * capacity / self.capacity)
        models = {**dict.fromkeys(self.models), **self.limits, **changes.limits}
        lifted = {model for model, said in changes.limits.items() if said is None}
        documents = [
            ReplayedDocument(admission, tuple(_altered(part, changes, lifted) for part in parts))
            for admission, parts in zip(self._admissions, self._parts, strict=True)
        ]
        settings = Settings(capacity, changes.max_documents or in_proportion, models)
        return on_virtual_time(partial(replay, documents, self._outline, settings))

    def _check(self, changes: _Changes) -> None:
        steps = {step.name for step in self._outline.steps}
        counts = {"capacity": changes.capacity, "max_documents": changes.max_documents}
        problems = [
            f"{name}={value!r}: it is a whole number, 1 or more."
            for name, value in counts.items()
            if value is not None and value < 1
        ]
        problems += [
            f"limits= names {model!r}, but only {sorted(self.models)} were called."
            for model in sorted(set(changes.limits) - self.models)
        ]
        problems += [
            f"faster= names {step!r}, but the steps are {sorted(steps)}."
            for step in sorted(set(changes.faster) - steps)
        ]
        problems += [
            f"faster={{{step!r}: {speed!r}}}: it is a positive number; 2.0 is twice as fast."
            for step, speed in changes.faster.items()
            if not (isfinite(speed) and speed > 0)
        ]
        if problems:
            raise ValueError(" ".join(problems))


def _altered(part: Part, changes: _Changes, lifted: set[str]) -> Part:
    speed = changes.faster.get(part.name[0], 1.0)
    is_lifted = any(isinstance(phase, Work) and phase.model in lifted for phase in part.phases)
    if speed == 1.0 and changes.has_retries and not is_lifted:
        return part
    phases = altered(part.phases, speed=speed, has_retries=changes.has_retries, has_throttling=not is_lifted)
    return replace(part, phases=phases)


def _limits_of(model: OutlineModel) -> Limits | None:
    """Return what a model bore, as its limits were declared; None if it had none."""
    if model.rpm is None and model.tpm is None and model.max_concurrency is None and not model.is_adaptive:
        return None
    return Limits(
        rpm=model.rpm,
        tpm=model.tpm,
        max_concurrency=model.max_concurrency,
        adaptive=model.is_adaptive,
        burst_requests=None if model.rpm is None else max(1.0, model.burst_requests),
        burst_tokens=None if model.tpm is None else model.burst_tokens or None,
    )
