"""One run's records as spans: one for the run, for each step and item, and for each attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.report.spans import WAIT_KINDS
from pipeline_engine.report.telemetry import conventions as names
from pipeline_engine.report.trace import SpanDraft, span_of
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

if TYPE_CHECKING:
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.trace import Span, TracerProvider

    from pipeline_engine.report.telemetry.conventions import Attributes
    from pipeline_engine.report.telemetry.metrics import Metrics
    from pipeline_engine.values.records import Record
    from pipeline_engine.values.usage import Cost

    _OfStep = (
        StepReady
        | WaitStarted
        | WaitEnded
        | QueueLeft
        | AttemptStarted
        | AttemptFinished
        | HedgeStarted
        | HedgeFinished
        | RepairAsked
        | OutputJudged
        | OutputRestored
        | StepFinished
    )

__all__ = ["RunSpans", "Tracing"]


class Tracing:
    """Make spans with times of their own, and say which one is current."""

    def __init__(self, tracer_provider: TracerProvider | None) -> None:
        from opentelemetry import context, trace

        self._tracer = trace.get_tracer(names.SCOPE, tracer_provider=tracer_provider)
        self._kinds = trace.SpanKind
        self._error = trace.StatusCode.ERROR
        self.within = trace.set_span_in_context
        """Returns a context in which a span is current."""
        self.attach = context.attach
        """Makes a context current in the task that is running; returns what `detach` takes."""
        self.detach = context.detach
        """Makes current what was so before."""

    def start(
        self, name: str, at: int, attributes: Attributes, within: Context | None = None, *, is_call: bool = False
    ) -> Span:
        """Start a span at an instant in nanoseconds, as a child of what is current in a context."""
        kind = self._kinds.CLIENT if is_call else self._kinds.INTERNAL
        return self._tracer.start_span(name, within, kind, attributes, start_time=at)

    def fail(self, span: Span, kind: str, message: str, status: int | None = None) -> None:
        """Say that what a span stands for has failed, and why."""
        span.set_attributes(names.error_attributes(kind, status))
        span.set_status(self._error, names.text_of(message))


class _Call:
    """An attempt, or the second call of one, while it goes on."""

    def __init__(self, span: Span, started_at: float, model: str | None) -> None:
        self.span = span
        self.started_at = started_at
        self.model = model
        """None for an attempt that sends nothing to a model."""


class _Step:
    """A step or item between its first record and its outcome."""

    def __init__(self, span: Span, context: Context, draft: SpanDraft) -> None:
        self.span = span
        self.context = context
        """In which its span is current."""
        self.draft = draft
        self.width: int | None = None
        """The number of its items, if it is mapped."""
        self.first: _Call | None = None
        """The attempt that goes on."""
        self.second: _Call | None = None
        """The call that was sent beside it."""
        self.token: Token[Context] | None = None
        """What makes the attempt's span current no longer."""


class RunSpans:
    """Follow one run, and tell its spans as they begin and end."""

    def __init__(self, started: RunStarted, tracing: Tracing, metrics: Metrics | None, *, has_content: bool) -> None:
        self._tracing = tracing
        self._metrics = metrics
        self._has_content = has_content
        self._outline = started.outline
        self._kinds = {step.name: step.kind for step in started.outline.steps}
        self._started_at = started.at
        self._wall_time = round(started.wall_time * 1e9)
        self._steps: dict[tuple[str, int | None], _Step] = {}
        self._error: tuple[str, str] | None = None
        self._span = tracing.start(names.run_name(started), self._wall_time, names.run_attributes(started))
        self._context = tracing.within(self._span)
        # The engine tells of a run in the task that runs it, and of an attempt in the attempt's own task: what is
        # made current there is so for the code that they call, and for nobody else.
        self._token = tracing.attach(self._context)

    def read(self, record: Record) -> None:
        """Take in one record."""
        match record:
            case RunFinished():
                self._end_run(record)
            case StepMapped():
                step = self._steps.get((record.step, None))
                if step is not None:
                    step.width = record.width
            case BreakerChanged() | CooldownStarted() | CredentialParked():
                name, attributes = names.model_event(record)
                self._span.add_event(name, attributes, self._time(record.at))
            case RunStarted() | LimitChanged():
                pass  # the one was told; the other comes too often, and is a figure rather than an event
            case _:
                step = self._step_of(record)
                step.draft.read(record)
                self._read_step(step, record)

    def _read_step(self, step: _Step, record: _OfStep) -> None:
        match record:
            case AttemptStarted():
                self._start_attempt(step, record)
            case AttemptFinished():
                self._end_attempt(step, record)
            case StepFinished():
                self._end_step(step, record)
            case HedgeStarted():
                attributes = names.attempt_attributes(record, "executed")
                step.second = self._start_call(step, record.model, record.at, attributes)
            case HedgeFinished():
                self._end_one_of_two(step, record)
            case RepairAsked():
                step.span.add_event(names.REPAIR_ASKED, timestamp=self._time(record.at))
            case _:
                pass  # the draft makes segments of it

    def _time(self, at: float) -> int:
        # Each part is rounded by itself, so that how long a span is does not depend on the date.
        return self._wall_time + round((at - self._started_at) * 1e9)

    # Steps and items

    def _step_of(self, record: _OfStep) -> _Step:
        """Return the step or item that a record tells of; its first record begins it."""
        key = record.step, record.item
        step = self._steps.get(key)
        if step is None:
            whole = None if record.item is None else self._steps.get((record.step, None))
            parent = self._context if whole is None else whole.context
            span = self._tracing.start(names.span_name(*key), self._time(record.at), {}, parent)
            step = self._steps[key] = _Step(span, self._tracing.within(span, parent), SpanDraft(*key))
        return step

    def _end_step(self, step: _Step, record: StepFinished) -> None:
        del self._steps[record.step, record.item]
        span = span_of(step.draft, record.at, step.width)
        waits = () if span.is_mapped else [segment for segment in span.segments if segment.kind in WAIT_KINDS]
        for segment in waits:
            attributes = names.wait_attributes(segment.kind, segment.duration)
            step.span.add_event(names.wait_name(segment.kind), attributes, self._time(segment.start))
            if self._metrics is not None:
                self._metrics.waited(self._outline, record.step, segment)
        step.span.set_attributes(names.span_attributes(span))
        if span.error_kind is not None:
            self._error = span.error_kind, f"{span.name}: {span.error}"
            self._tracing.fail(step.span, span.error_kind, span.error or "")
        step.span.end(self._time(record.at))

    # Attempts and calls

    def _start_attempt(self, step: _Step, record: AttemptStarted) -> None:
        attributes = names.attempt_attributes(record, step.draft.origin)
        is_executed = not (record.is_shared or record.is_replayed)
        if is_executed and record.model is not None:
            step.first = self._start_call(step, record.model, record.at, attributes)
        else:
            name, start = names.attempt_name(record.step), self._time(record.at)
            step.first = _Call(self._tracing.start(name, start, attributes, step.context), record.at, None)
        if is_executed:
            step.token = self._tracing.attach(self._tracing.within(step.first.span, step.context))

    def _start_call(self, step: _Step, model: str, at: float, attributes: Attributes) -> _Call:
        kind = self._kinds[step.draft.step]
        name, attributes = names.call_name(model, kind), names.call_attributes(model, kind) | attributes
        if self._metrics is not None:
            self._metrics.call_started(model)
        return _Call(self._tracing.start(name, self._time(at), attributes, step.context, is_call=True), at, model)

    def _end_attempt(self, step: _Step, record: AttemptFinished) -> None:
        # An attempt names a model of its own only where the second call's reply counts.
        counting, lost = (step.first, step.second) if record.model is None else (step.second, step.first)
        step.first = step.second = None
        if lost is not None:
            self._lose(lost, record.step, record.at, None)
        if counting is not None:
            if counting.model is not None:
                self._tell_reply(counting, counting.model, record)
            if record.fault is not None:
                self._tracing.fail(counting.span, record.fault.kind, record.fault.message, record.fault.status)
            counting.span.end(self._time(record.at))
        if step.token is not None:
            self._tracing.detach(step.token)
            step.token = None

    def _tell_reply(self, call: _Call, model: str, record: AttemptFinished) -> None:
        first = None if record.first_token_at is None else record.first_token_at - call.started_at
        call.span.set_attributes(names.reply_attributes(record, first))
        if self._has_content and record.call is not None:
            call.span.set_attributes(names.content_attributes(record.call))
        if self._metrics is not None:
            seconds = record.at - call.started_at
            self._metrics.call_ended(self._outline, model, self._kinds[record.step], seconds, first, record)

    def _end_one_of_two(self, step: _Step, record: HedgeFinished) -> None:
        if record.is_second:
            lost, step.second = step.second, None
        else:
            lost, step.first = step.first, None
        if lost is not None:
            self._lose(lost, record.step, record.at, record.cost)

    def _lose(self, call: _Call, step: str, at: float, cost: Cost | None) -> None:
        """End one of an attempt's two calls: the other one's reply counts."""
        call.span.set_attributes(names.lost_attributes(cost))
        call.span.end(self._time(at))
        if self._metrics is not None and call.model is not None:
            self._metrics.call_lost(self._outline, call.model, step, cost)

    # The run

    def _end_run(self, record: RunFinished) -> None:
        self._span.set_attributes(names.status_attributes(record.status))
        if record.status == "failed" and self._error is not None:
            self._tracing.fail(self._span, *self._error)
        self._span.end(self._time(record.at))
        self._tracing.detach(self._token)
        if self._metrics is not None:
            self._metrics.run_ended(self._outline, record.status)
