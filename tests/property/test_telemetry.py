"""Telemetry says what the trace says: every span has an end, every call is counted, nothing stays current."""

import logging

from hypothesis import given, settings
from opentelemetry import context
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from pipeline_engine import OpenTelemetry
from pipeline_engine.report import Trace
from pipeline_engine.values import AttemptStarted, HedgeStarted
from tests.property.test_tiling import perform, scenes


class Counting(SpanProcessor):
    """Counts the spans that begin, and keeps those that end."""

    def __init__(self):
        self.begun = 0
        self.ended = []

    def on_start(self, span, parent_context=None):
        self.begun += 1

    def on_end(self, span):
        self.ended.append(span)


def points(reader, name):
    data = reader.get_metrics_data()
    metrics = data.resource_metrics[0].scope_metrics[0].metrics if data is not None else []
    return [point for metric in metrics if metric.name == name for point in metric.data.data_points]


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_spans_and_figures_add_up_whatever_happens_to_a_run(scene):
    """A span without an end is never exported, and a counter that drifts is believed."""
    logs = []
    handler = logging.Handler()
    handler.emit = logs.append
    spans, reader = Counting(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(spans)
    before = context.get_current()

    logging.getLogger("opentelemetry").addHandler(handler)
    try:
        runs = perform(scene, OpenTelemetry(tracers, MeterProvider([reader])))
    finally:
        logging.getLogger("opentelemetry").removeHandler(handler)

    assert context.get_current() == before
    assert logs == []
    assert spans.begun == len(spans.ended)
    records = [record for run in runs for record in run]
    expected = [span for run in runs for span in Trace.from_records(run).spans]
    attempts = [record for record in records if isinstance(record, AttemptStarted)]
    seconds = [record for record in records if isinstance(record, HedgeStarted)]
    assert len(spans.ended) == len(runs) + len(expected) + len(attempts) + len(seconds)
    sent = [record for record in attempts if record.model and not (record.is_shared or record.is_replayed)]
    assert sum(point.value for point in points(reader, "pipeline.calls")) == len(sent) + len(seconds)
    assert all(point.value == 0 for point in points(reader, "pipeline.calls.in_flight"))
    known = {span.context.span_id for span in spans.ended}
    assert all(span.parent is None or span.parent.span_id in known for span in spans.ended)
    assert all(span.end_time >= span.start_time for span in spans.ended)
