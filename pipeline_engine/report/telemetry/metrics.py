"""What calls, waits and documents are counted by: OpenTelemetry's instruments, with labels of few values."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.report.telemetry import conventions as names

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider

    from pipeline_engine.report.spans import Segment
    from pipeline_engine.values.records import AttemptFinished, Outline
    from pipeline_engine.values.usage import Cost

__all__ = ["Metrics"]


class Metrics:
    """Hold the instruments."""

    def __init__(self, meter_provider: MeterProvider | None) -> None:
        from opentelemetry import metrics

        meter = metrics.get_meter(names.SCOPE, meter_provider=meter_provider)
        seconds, counts = list(names.SECONDS_BUCKETS), list(names.TOKEN_BUCKETS)
        self._durations = meter.create_histogram(
            names.DURATION, "s", "Seconds of a call.", explicit_bucket_boundaries_advisory=seconds
        )
        self._first_chunks = meter.create_histogram(
            names.FIRST_CHUNK,
            "s",
            "Seconds until the first piece of a streamed reply.",
            explicit_bucket_boundaries_advisory=seconds,
        )
        self._tokens = meter.create_histogram(
            names.TOKENS, "{token}", "Tokens of a call.", explicit_bucket_boundaries_advisory=counts
        )
        self._waits = meter.create_histogram(
            names.WAITS, "s", "Seconds that a step has waited.", explicit_bucket_boundaries_advisory=seconds
        )
        self._calls = meter.create_counter(names.CALLS, "{call}", "Calls of models that have ended.")
        self._in_flight = meter.create_up_down_counter(names.CALLS_IN_FLIGHT, "{call}", "Calls of models in flight.")
        self._cost = meter.create_counter(names.COST, "USD", "What calls have cost, as far as prices are known.")
        self._documents = meter.create_counter(names.DOCUMENTS, "{document}", "Documents whose run has ended.")

    def call_started(self, model: str) -> None:
        """Count a call that is sent."""
        self._in_flight.add(1, names.model_labels(model))

    def call_ended(
        self, outline: Outline, model: str, kind: str, seconds: float, first: float | None, finished: AttemptFinished
    ) -> None:
        """Count a call whose end is that of its attempt.

        Args:
            outline: That of the run.
            model: The model that was called.
            kind: The step's kind.
            seconds: How long the call took.
            first: Seconds until the first piece of its reply; None if it was not streamed.
            finished: What the attempt has come to.
        """
        fault = finished.fault
        labels = names.call_attributes(model, kind)
        error = {} if fault is None else names.error_attributes(fault.kind)
        self._left(outline, model, finished.step, "answered" if fault is None else "failed", finished.cost)
        self._durations.record(seconds, labels | error)
        if first is not None:
            self._first_chunks.record(first, labels)
        if finished.usage is not None:
            for count, its_labels in names.token_labels(finished.usage, labels):
                self._tokens.record(count, its_labels)

    def call_lost(self, outline: Outline, model: str, step: str, cost: Cost | None) -> None:
        """Count a call whose reply does not count; it may have cost something all the same."""
        self._left(outline, model, step, "lost", cost)

    def _left(self, outline: Outline, model: str, step: str, outcome: str, cost: Cost | None) -> None:
        self._in_flight.add(-1, names.model_labels(model))
        labels = names.step_labels(outline.pipeline, step) | names.model_labels(model)
        self._calls.add(1, labels | names.outcome_labels(outcome))
        if cost is not None and cost.usd > 0:
            self._cost.add(cost.usd, labels)

    def waited(self, outline: Outline, step: str, segment: Segment) -> None:
        """Count a wait that is over."""
        labels = names.step_labels(outline.pipeline, step) | names.wait_labels(segment.kind)
        self._waits.record(segment.duration, labels)

    def run_ended(self, outline: Outline, status: str) -> None:
        """Count a document."""
        self._documents.add(1, names.document_labels(outline.pipeline, status))
