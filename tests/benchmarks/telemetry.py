"""What telemetry adds to a step: sinks for spans, metrics and logs, against an engine that nobody listens to.

The five steps of the document pipeline do nothing; measured is the CPU time from handing in a document to its
result. Each step is two spans, its own and its attempt's, and a fifth of the run's. "Spans to nobody" has the SDK
and no exporter; "batch exporter" is the SDK's own, which gives the spans to one that drops them, on its thread.
"""

import logging
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec

import trio

from pipeline_engine import Engine, LogRecords, OpenTelemetry
from pipeline_engine.values import RunStarted, Sink
from tests.benchmarks.measuring import Timing, cpu_seconds, in_turns, print_table
from tests.benchmarks.overhead import DOCUMENT, STEPS, document_pipeline

DOCUMENTS = 1_000


class Nothing:
    """A sink that reads nothing: what the fan-out alone costs."""

    def open_run(self, started: RunStarted):
        return lambda record: None


def with_sinks(sinks: Sequence[Sink]) -> float:
    async def measured() -> float:
        async with Engine(sinks=sinks) as engine:
            plan = engine.bind(document_pipeline(None)).plan
            await engine.run(plan, {"document": DOCUMENT})
            started = cpu_seconds()
            for _ in range(DOCUMENTS):
                await engine.run(plan, {"document": DOCUMENT})
            return (cpu_seconds() - started) / (DOCUMENTS * STEPS) * 1e6

    return trio.run(measured)


def contenders() -> dict[str, Sequence[Sink]]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    class Dropping(SpanExporter):
        def export(self, spans):
            return SpanExportResult.SUCCESS

    batched = TracerProvider()
    batched.add_span_processor(BatchSpanProcessor(Dropping(), max_queue_size=100_000))
    silent = logging.Logger("silent", logging.INFO)  # noqa: LOG001 - nobody else's: no parent
    silent.addHandler(logging.NullHandler())
    return {
        "no sink": (),
        "a sink that reads nothing": (Nothing(),),
        "OpenTelemetry without an SDK": (OpenTelemetry(),),
        "spans that are not sampled": (OpenTelemetry(TracerProvider(ALWAYS_OFF)),),
        "spans to nobody": (OpenTelemetry(TracerProvider()),),
        "spans to a batch exporter": (OpenTelemetry(batched),),
        "and metrics": (OpenTelemetry(batched, MeterProvider([InMemoryMetricReader()])),),
        "log lines at INFO": (LogRecords(silent),),
    }


def main() -> None:
    if find_spec("opentelemetry.sdk") is None:
        print("\nOpenTelemetry's SDK is not installed: skipped")
        return
    timings = in_turns({name: partial(with_sinks, sinks) for name, sinks in contenders().items()})
    _print(timings)


def _print(timings: dict[str, Timing]) -> None:
    alone = timings["no sink"]
    rows = [
        (name, timing.median, timing / alone, timing.median - alone.median if timing is not alone else "")
        for name, timing in timings.items()
    ]
    print_table("Telemetry, no-op steps: CPU us per step", ("", "median", "x no sink", "us added"), rows)
