"""A run as spans: what each step and item did in every instant between ready and finished."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from math import isfinite
from typing import TYPE_CHECKING, Protocol

from pipeline_engine.errors import EarlierError, ProviderError
from pipeline_engine.report.bounds import Bounds, draw_verdict, find_bounds, find_critical_path
from pipeline_engine.report.models import Acceptance, Hedges, ModelHistory, ModelNotes
from pipeline_engine.report.spans import SEGMENT_KINDS, WAIT_KINDS, SecondCall, Segment, SegmentKind, Span
from pipeline_engine.text import one_line
from pipeline_engine.values.outcomes import Completed, Dropped, Failed, Skipped
from pipeline_engine.values.records import (
    AttemptFinished,
    AttemptStarted,
    BreakerChanged,
    CooldownStarted,
    CredentialParked,
    HedgeFinished,
    HedgeStarted,
    LimitChanged,
    OutputJudged,
    OutputRestored,
    QueueLeft,
    RepairAsked,
    RunFinished,
    RunStarted,
    StepFinished,
    StepMapped,
    StepReady,
    WaitEnded,
    WaitStarted,
)
from pipeline_engine.values.usage import Cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from os import PathLike
    from pathlib import Path

    from pipeline_engine.report.models import BreakerChange, Cooldown, LimitPoint
    from pipeline_engine.report.spans import Origin, OutcomeName
    from pipeline_engine.values.outcomes import Outcome
    from pipeline_engine.values.records import Outline, QueueCause, Record, Status
    from pipeline_engine.values.usage import Usage

__all__ = ["SpanDraft", "Trace", "error_kind", "span_of"]

_MAX_ERROR_WIDTH = 400
_OF_SPANS = (
    AttemptStarted,
    AttemptFinished,
    StepReady,
    StepFinished,
    WaitStarted,
    WaitEnded,
    QueueLeft,
    RepairAsked,
    OutputJudged,
    OutputRestored,
    HedgeStarted,
    HedgeFinished,
)
"""The records of a step or item, the commonest first."""
_TELLING = frozenset(
    {
        LimitChanged,
        BreakerChanged,
        CooldownStarted,
        CredentialParked,
        OutputJudged,
        HedgeStarted,
        HedgeFinished,
        AttemptFinished,
    }
)
"""The records from which the history of models is read."""
_NOTHING = Cost()
_ROUNDING = 1e-6
"""Seconds in a queue that differ by less are equal: sums of floats are not exact."""


class HasName(Protocol):
    """What a step is asked for here: this floor does not know steps, only their names."""

    @property
    def name(self) -> str:
        """The step's name."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Trace:
    """Hold a run as spans, and say what bounded it.

    A trace is built once from the records of one run, and never changes. The records of a run that still
    goes on make a trace too: what is open ends at the last record.

    Example:
        >>> from pipeline_engine.values.outcomes import Completed
        >>> from pipeline_engine.values.records import Outline, OutlineStep
        >>> outline = Outline("document", ("document",), (OutlineStep("title", "llm", ("document",), 1),))
        >>> trace = Trace.from_records([
        ...     RunStarted(0.0, "run-1", "a.txt", outline, wall_time=0.0, capacity=64),
        ...     StepReady(0.0, "title", None, None),
        ...     AttemptStarted(1.0, "title", None, 1, "openai:gpt-4o-mini"),
        ...     AttemptFinished(3.0, "title", None, 1, None),
        ...     StepFinished(3.0, "title", None, Completed("A title")),
        ...     RunFinished(3.0, "completed"),
        ... ])
        >>> [(segment.kind, segment.duration) for segment in trace["title"].segments]
        [('slot', 1.0), ('attempt', 2.0)]
        >>> trace.verdict
        'makespan 3.0 s; the critical path title needs 2.0 s of it; more slots can save at most 1.0 s'
    """

    run_id: str
    """The run's id."""
    document: str
    """The document's key."""
    outline: Outline
    """The plan, as far as drawing needs it."""
    capacity: int
    """The engine's slots."""
    wall_time: float
    """Seconds since the epoch at `started_at`."""
    started_at: float
    """When the run started, on the engine's clock like every instant here."""
    finished_at: float | None
    """When every step had its outcome; None while the run goes on."""
    last_at: float
    """The instant of the last record."""
    status: Status | None
    """How the run ended, judged by its leaves; None while it goes on."""
    spans: tuple[Span, ...]
    """Of every step and item that has become ready or was settled, in that order."""
    models: ModelHistory = field(default_factory=ModelHistory)
    """What this run's calls have changed with their models: `limits`, `breakers`, `cooldowns`, `parked`."""
    acceptance: Mapping[str, Mapping[str, Acceptance]] = field(default_factory=dict)
    """For each cascade and each of its models, how many outputs were `(accepted, judged)`."""
    hedges: Hedges = field(default_factory=Hedges)
    """The second calls: how many there were, how many won, and what the lost calls cost."""
    _steps: dict[str, Span] = field(default_factory=dict, compare=False)
    _items: dict[str, tuple[Span, ...]] = field(default_factory=dict, compare=False)

    @classmethod
    def from_records(cls, records: Iterable[Record]) -> Trace:
        """Return the trace of one run; the records are read once and not kept.

        Raises:
            ValueError: If the first record is not `RunStarted`.
        """
        stream = iter(records)
        started = next(stream, None)
        if not isinstance(started, RunStarted):
            found = "there are none" if started is None else f"these begin with {type(started).__name__}"
            reason = f"the records of a run begin with RunStarted, but {found}. Hand in the whole stream."
            raise ValueError(reason)  # a stream cut at its front is a wrong value
        drafts: dict[tuple[str, int | None], SpanDraft] = {}
        widths: dict[str, int] = {step.name: 0 for step in started.outline.steps if step.each is not None}
        last_at = started.at
        finished: RunFinished | None = None
        notes = ModelNotes()
        for record in stream:
            # What another run's call has changed with a model may be told late: time does not go back.
            last_at = max(last_at, record.at)
            if type(record) in _TELLING:
                notes.read(record)
            if isinstance(record, RunFinished):
                finished = record
            elif isinstance(record, StepMapped):
                widths[record.step] = record.width
            elif isinstance(record, _OF_SPANS):
                key = (record.step, record.item)
                draft = drafts.get(key)
                if draft is None:
                    draft = drafts[key] = SpanDraft(record.step, record.item)
                draft.read(record)
        spans = _finish(drafts, widths, last_at)
        items: dict[str, list[Span]] = {}
        for span in spans:
            if span.item is not None:
                items.setdefault(span.step, []).append(span)
        return cls(
            run_id=started.run_id,
            document=started.document,
            outline=started.outline,
            capacity=started.capacity,
            wall_time=started.wall_time,
            started_at=started.at,
            finished_at=None if finished is None else finished.at,
            last_at=last_at,
            status=None if finished is None else finished.status,
            spans=spans,
            models=notes.history(),
            acceptance=notes.acceptance(),
            hedges=notes.hedges,
            _steps={span.step: span for span in spans if span.item is None},
            _items={step: tuple(sorted(found, key=_by_item)) for step, found in items.items()},
        )

    def __repr__(self) -> str:
        named = f"run_id={self.run_id!r}, document={self.document!r}, status={self.status!r}"
        return f"Trace({named}, spans={len(self.spans)})"

    def _repr_html_(self) -> str:
        from pipeline_engine.report.notebook import trace_html

        return trace_html(self)

    def __getitem__(self, step: str | HasName) -> Span:
        """Return a step's span, by its name or by the step itself.

        Raises:
            KeyError: If there is no such step, or the run did not get to it.
        """
        step = step if isinstance(step, str) else step.name
        try:
            return self._steps[step]
        except KeyError:
            if any(known.name == step for known in self.outline.steps):
                reason = f"step {step!r} was not reached in run {self.run_id!r}."
            else:
                known_names = sorted(known.name for known in self.outline.steps)
                reason = f"pipeline {self.pipeline!r} has no step {step!r}. Its steps are {known_names}."
            raise KeyError(reason) from None

    def __contains__(self, step: object) -> bool:
        return step in self._steps

    def get(self, step: str | HasName) -> Span | None:
        """Return the step's span; None if it was not reached."""
        return self._steps.get(step if isinstance(step, str) else step.name)

    def items(self, step: str | HasName) -> tuple[Span, ...]:
        """Return the spans of a mapped step's items, by index; none if it was not reached."""
        return self._items.get(step if isinstance(step, str) else step.name, ())

    @property
    def steps(self) -> tuple[Span, ...]:
        """The spans of steps, without those of items, in order of readiness."""
        return tuple(self._steps.values())

    @property
    def pipeline(self) -> str:
        """The pipeline's name."""
        return self.outline.pipeline

    @property
    def makespan(self) -> float:
        """The seconds from the run's start to its end, or to the last record if it still goes on."""
        return self.last_at - self.started_at

    @property
    def waits(self) -> dict[SegmentKind, float]:
        """The seconds that all steps and items together spent waiting, by what they waited for."""
        totals = dict.fromkeys(WAIT_KINDS, 0.0)
        for span in self.spans:
            for segment in span.segments:
                if segment.kind in totals:
                    totals[segment.kind] += segment.duration
        return totals

    @property
    def usage(self) -> Usage | None:
        """The tokens of all attempts; None if nobody counted."""
        return _sum_usage(span.usage for span in self.spans if not span.is_mapped)

    @property
    def cost(self) -> Cost:
        """What all calls cost, as far as prices are known; the lost ones of second calls are among them."""
        return sum((span.cost for span in self.spans if not span.is_mapped), Cost())

    @property
    def limits(self) -> Mapping[str, tuple[LimitPoint, ...]]:
        """Each model's adaptive limit over time, as far as this run's calls have changed it: `(at, limit)`."""
        return self.models.limits

    @property
    def breakers(self) -> Mapping[str, tuple[BreakerChange, ...]]:
        """Each model's breaker, as far as this run's calls have changed it: `(at, before, after)`."""
        return self.models.breakers

    @property
    def cooldowns(self) -> Mapping[str, tuple[Cooldown, ...]]:
        """Each model's cool-downs that replies to this run have asked for: `(at, until)`."""
        return self.models.cooldowns

    @property
    def critical_path(self) -> tuple[Span, ...]:
        """The spans that led to the end of the run, first to last: each was unblocked by the one before.

        A mapped step is represented by the item through which it was late.
        """
        return find_critical_path(self)

    @property
    def bounds(self) -> Bounds:
        """What this run could not have been faster than."""
        return find_bounds(self)

    @property
    def verdict(self) -> str:
        """One sentence: what bounded the run, and what would shorten it."""
        return draw_verdict(self)

    def seconds_by_kind(self, step: str) -> dict[SegmentKind, float]:
        """Return what a step's time went to; of a mapped step, that of its items together."""
        totals = dict.fromkeys(SEGMENT_KINDS, 0.0)
        own = self.get(step)
        for span in self.items(step) or (() if own is None else (own,)):
            for segment in span.segments:
                totals[segment.kind] += segment.duration
        return totals

    def waterfall(self, width: int | None = None, *, color: bool | None = None) -> str:
        """Return the run drawn as text for a terminal.

        Args:
            width: The cells of a line, at least 40; None asks the terminal.
            color: Whether to colour it; None does if standard output is a terminal that wants colour.
        """
        from pipeline_engine.report.waterfall import draw_waterfall

        return draw_waterfall(self, width, color=color)

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the run as one self-contained page and return its path.

        The page loads nothing, works without script, and shows hostile text as text. It is written beside its
        place and then moved there: a reader never sees half a page.
        """
        from pipeline_engine.report.html import write_html

        return write_html(self, path)

    def to_chrome(self, path: str | PathLike[str]) -> Path:
        """Write the run as trace events, a JSON file for Perfetto or chrome://tracing, and return its path."""
        from pipeline_engine.report.chrome import write_chrome

        return write_chrome([self], path)

    def to_json(self) -> str:
        """Return the run's spans as JSON, without messages and outputs.

        Instants are on the engine's clock; `wall_time` is that of `started_at`.
        """
        bounds = self.bounds
        return json.dumps(
            {
                "run_id": self.run_id,
                "document": self.document,
                "pipeline": self.pipeline,
                "status": self.status,
                "capacity": _number(self.capacity),
                "wall_time": _number(self.wall_time),
                "started_at": _number(self.started_at),
                "finished_at": _number(self.finished_at),
                "makespan": _number(self.makespan),
                "verdict": self.verdict,
                "bounds": {
                    "critical_path": _number(bounds.critical_path),
                    "slots": _number(bounds.slots),
                    "binding": bounds.binding,
                    "limits": {kind: _number(seconds) for kind, seconds in bounds.limits.items()},
                },
                "usage": _usage_json(self.usage),
                "cost": _cost_json(self.cost),
                "models": _models_json(self.models),
                "acceptance": {
                    step: {model: judged._asdict() for model, judged in by_model.items()}
                    for step, by_model in self.acceptance.items()
                },
                "hedges": {
                    "calls": self.hedges.calls,
                    "won": self.hedges.won,
                    "lost_cost": _cost_json(self.hedges.lost_cost),
                },
                "waits": {kind: _number(seconds) for kind, seconds in self.waits.items()},
                "critical_path": [span.name for span in self.critical_path],
                "spans": [_span_json(span) for span in self.spans],
            },
            allow_nan=False,
        )


class SpanDraft:
    """Follow the records of one step or item, and keep what its span will say."""

    def __init__(self, step: str, item: int | None) -> None:
        self.step = step
        self.item = item
        self.ready_at: float | None = None
        self.started_at: float | None = None
        self.unblocked_by: str | None = None
        self.attempts = 0
        self.segments: list[Segment] = []
        self.usage: Usage | None = None
        self.cost = _NOTHING
        self.model: str | None = None
        self.finished: StepFinished | None = None
        self._mark = 0.0
        self._open_kind: SegmentKind = "slot"
        self._open_attempt: int | None = None
        self._open_model: str | None = None
        self._has_failed = False
        self.origin: Origin = "executed"
        self.second_calls: list[SecondCall] = []
        self._open_call: HedgeStarted | None = None

    def read(self, record: Record) -> None:
        """Take one record in: it closes the open segment at its own instant and opens the next."""
        at = record.at
        if isinstance(record, StepFinished):
            self.finished = record
            self._close(at)
            return
        if self.ready_at is None:
            self.ready_at = self._mark = at
        if isinstance(record, StepReady):
            self.unblocked_by = record.unblocked_by
        elif isinstance(record, AttemptFinished):
            self._read_attempt(record)
        elif isinstance(record, QueueLeft):
            self._tile(at, record.waits)
        elif isinstance(record, AttemptStarted):
            if self._has_failed and self._open_kind == "validate":
                self._open("slot")  # after a failure there was nothing to validate: the next model waited its turn
            self._close(at)
            self.attempts += 1
            self.model = record.model or self.model
            # A replayed reply serves as a shared one does, but it was kept.
            self.origin = "replayed" if record.is_replayed else "shared" if record.is_shared else "executed"
            if self.started_at is None:
                self.started_at = at
            self._open("attempt", record.attempt, record.model)
        elif isinstance(record, HedgeStarted):
            self._open_call = record
        elif isinstance(record, HedgeFinished):
            self._pay(record.cost)
            if record.is_second:
                self._end_second_call(at, has_won=False)
        elif isinstance(record, OutputRestored):
            self.origin = "restored"
        elif isinstance(record, OutputJudged) and record.is_accepted:
            pass  # nothing is waited for
        else:
            self._close(at)
            self._open(record.cause if isinstance(record, WaitStarted) else "slot")

    def _read_attempt(self, record: AttemptFinished) -> None:
        self._has_failed = record.fault is not None
        self._open_kind = "failed" if self._has_failed else "attempt"
        # Of two calls the one counts whose reply is used, though it was sent to another model.
        self._open_model = record.model or self._open_model
        self.model = record.model or self.model
        self._close(record.at, record)
        # An attempt names a model of its own only where the second call's reply counts.
        self._end_second_call(record.at, has_won=record.model is not None)
        self._open("validate", record.attempt)
        if record.usage is not None:
            self.usage = record.usage if self.usage is None else self.usage + record.usage
        self._pay(record.cost)

    def _end_second_call(self, at: float, *, has_won: bool) -> None:
        call, self._open_call = self._open_call, None
        if call is not None:
            self.second_calls.append(SecondCall(call.attempt, call.at, at, call.model, has_won))

    def _pay(self, cost: Cost | None) -> None:
        if cost is not None:
            self.cost = cost if self.cost is _NOTHING else self.cost + cost

    def _tile(self, at: float, waits: Sequence[tuple[QueueCause, float]]) -> None:
        """Close the time in the queue as a segment for each cause, in their order and that for slots last.

        The last one ends exactly where the wait did. What the causes do not explain was before the queue:
        it stays what it was.
        """
        ordered = [wait for wait in waits if wait[0] != "slot"] + [wait for wait in waits if wait[0] == "slot"]
        unexplained = at - self._mark - sum(seconds for _cause, seconds in ordered)
        if unexplained > _ROUNDING:
            self._close(self._mark + unexplained)
        for index, (cause, seconds) in enumerate(ordered, start=1):
            self._open(cause)
            self._close(at if index == len(ordered) else min(at, self._mark + seconds))
        self._close(at)
        self._open("slot")

    def close_open_at(self, at: float) -> None:
        """End what is still open: the run goes on, or its stream was cut."""
        if self.finished is None:
            self._close(at)
            self._end_second_call(at, has_won=False)

    def _open(self, kind: SegmentKind, attempt: int | None = None, model: str | None = None) -> None:
        self._open_kind, self._open_attempt, self._open_model = kind, attempt, model

    def _close(self, at: float, attempt: AttemptFinished | None = None) -> None:
        if self.ready_at is None:
            return
        if at > self._mark:
            place = (self._open_kind, self._mark, at, self._open_attempt)
            if attempt is None:
                segment = Segment(*place, None, self._open_model)
            else:
                told = (attempt.first_token_at, attempt.usage, attempt.cost)
                segment = Segment(*place, attempt.fault, self._open_model, *told)
            self.segments.append(segment)
            self._mark = at


def _finish(
    drafts: Mapping[tuple[str, int | None], SpanDraft], widths: Mapping[str, int], last_at: float
) -> tuple[Span, ...]:
    items: dict[str, list[SpanDraft]] = {}
    for draft in drafts.values():
        draft.close_open_at(last_at)
        if draft.item is not None:
            items.setdefault(draft.step, []).append(draft)
    spans = []
    for draft in drafts.values():
        is_mapped = draft.item is None and (draft.step in widths or draft.step in items)
        if is_mapped:
            own_items = items.get(draft.step, [])
            starts = [item.started_at for item in own_items if item.started_at is not None]
            models = Counter(item.model for item in own_items if item.model is not None)
            draft.segments = []
            draft.started_at = min(starts, default=None)
            draft.attempts = sum(item.attempts for item in own_items)
            draft.usage = _sum_usage(item.usage for item in own_items)
            draft.cost = sum((item.cost for item in own_items), draft.cost)
            draft.model = models.most_common(1)[0][0] if models else None
            origins = {item.origin for item in own_items}
            draft.origin = origins.pop() if len(origins) == 1 else "executed"
        width = max(widths.get(draft.step, 0), len(items.get(draft.step, []))) if is_mapped else None
        spans.append(span_of(draft, last_at, width))
    return tuple(spans)


def span_of(draft: SpanDraft, last_at: float, width: int | None) -> Span:
    """Return a draft as a span; `width` is the number of items of a mapped step."""
    outcome = None if draft.finished is None else draft.finished.outcome
    error = outcome.error if isinstance(outcome, Failed | Dropped) else None
    return Span(
        step=draft.step,
        item=draft.item,
        ready_at=draft.ready_at,
        started_at=draft.started_at,
        ended_at=last_at if draft.finished is None else draft.finished.at,
        outcome=None if outcome is None else _outcome_name(outcome),
        via=outcome.via if isinstance(outcome, Completed) else None,
        unblocked_by=draft.unblocked_by,
        attempts=draft.attempts,
        segments=tuple(draft.segments),
        error=None if error is None else one_line(f"{_error_name(error)}: {error}", _MAX_ERROR_WIDTH),
        error_kind=None if error is None else error_kind(error),
        because=None if outcome is None else _reason(outcome),
        usage=draft.usage,
        cost=draft.cost,
        model=draft.model,
        width=width,
        origin=draft.origin,
        second_calls=tuple(draft.second_calls),
    )


def _outcome_name(outcome: Outcome[object]) -> OutcomeName:
    if isinstance(outcome, Completed):
        return "completed"
    if isinstance(outcome, Failed):
        return "failed"
    if isinstance(outcome, Dropped):
        return "dropped"
    return "skipped" if isinstance(outcome, Skipped) else "stopped"


def _reason(outcome: Outcome[object]) -> str | None:
    if isinstance(outcome, Completed | Failed | Dropped):
        return None
    return one_line(outcome.because if isinstance(outcome, Skipped) else outcome.reason, _MAX_ERROR_WIDTH)


def _error_name(error: Exception) -> str:
    return error.kind if isinstance(error, EarlierError) else type(error).__name__


def error_kind(error: Exception) -> str:
    """Return what an error is counted under: its class's name, or what kind of error its provider answered with."""
    if isinstance(error, EarlierError):
        return one_line(error.provider_kind or error.kind)
    return one_line(error.kind) if isinstance(error, ProviderError) else type(error).__name__


def _sum_usage(usages: Iterable[Usage | None]) -> Usage | None:
    total: Usage | None = None
    for usage in usages:
        if usage is not None:
            total = usage if total is None else total + usage
    return total


def _by_item(span: Span) -> int:
    return -1 if span.item is None else span.item


def _number(value: float | None) -> float | None:
    # NaN and infinity are no JSON: a reader in another language would refuse the whole file.
    return value if value is not None and isfinite(value) else None


def _usage_json(usage: Usage | None) -> dict[str, int | None] | None:
    if usage is None:
        return None
    return {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}


def _cost_json(cost: Cost) -> dict[str, float | None]:
    return {
        "usd": _number(cost.usd),
        "saved_usd": _number(cost.saved_usd),
        "unpriced_calls": cost.unpriced_calls,
    }


def _models_json(history: ModelHistory) -> dict[str, dict[str, object]]:
    return {
        model: {
            "limits": [{"at": _number(at), "limit": limit} for at, limit in history.limits.get(model, ())],
            "breaker": [
                {"at": _number(at), "before": one_line(before), "after": one_line(after)}
                for at, before, after in history.breakers.get(model, ())
            ],
            "cooldowns": [
                {"at": _number(at), "until": _number(until)} for at, until in history.cooldowns.get(model, ())
            ],
            "parked_at": _number(history.parked.get(model)),
        }
        for model in history.models
    }


def _span_json(span: Span) -> dict[str, object]:
    return {
        "step": span.step,
        "item": span.item,
        "ready_at": _number(span.ready_at),
        "started_at": _number(span.started_at),
        "ended_at": _number(span.ended_at),
        "outcome": span.outcome,
        "via": span.via,
        "unblocked_by": span.unblocked_by,
        "attempts": span.attempts,
        "width": span.width,
        "model": span.model,
        "input_tokens": None if span.usage is None else span.usage.input_tokens,
        "output_tokens": None if span.usage is None else span.usage.output_tokens,
        "cost": _cost_json(span.cost),
        "error": span.error,
        "error_kind": span.error_kind,
        "because": span.because,
        "segments": [_segment_json(segment) for segment in span.segments],
    }


def _segment_json(segment: Segment) -> dict[str, object]:
    fault = segment.fault
    return {
        "kind": segment.kind,
        "start": _number(segment.start),
        "end": _number(segment.end),
        "attempt": segment.attempt,
        "model": segment.model,
        "fault": None
        if fault is None
        else {
            "kind": one_line(fault.kind),
            "message": one_line(fault.message, _MAX_ERROR_WIDTH),
            "status": fault.status,
        },
    }
