"""Runs as OpenTelemetry's spans and metrics, made of records. The only room that knows OpenTelemetry."""

from __future__ import annotations

from contextvars import copy_context
from typing import TYPE_CHECKING

from pipeline_engine.report.telemetry.environment import providers_from_environment
from pipeline_engine.report.telemetry.metrics import Metrics
from pipeline_engine.report.telemetry.spans import RunSpans, Tracing
from pipeline_engine.values.records import RunStarted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from pipeline_engine.values.records import Record

__all__ = ["OpenTelemetry", "providers_from_environment"]


class OpenTelemetry:
    """Send spans and metrics of runs to OpenTelemetry: `Engine(sinks=[OpenTelemetry()])`.

    A run's span is a child of the span that is current where the run is started, and what the code of a step
    does is a child of its attempt. Prompts and replies stay here unless `content` asks for them. An exporter
    works on a thread of its own, and what goes wrong there stays there.

    Args:
        tracer_provider: Where spans go; OpenTelemetry's global provider if not given.
        meter_provider: Where metrics go; the global one if not given.
        content: Whether prompts and replies are sent, too.

    Raises:
        ImportError: If OpenTelemetry is not installed.

    Example:
        >>> from opentelemetry.sdk.trace import TracerProvider
        >>> from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        >>> from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        >>> from pipeline_engine import Pipeline, run_pipeline
        >>> exporter, provider = InMemorySpanExporter(), TracerProvider()
        >>> provider.add_span_processor(SimpleSpanProcessor(exporter))
        >>> pipeline = Pipeline("greeting", inputs={"name": str})
        >>> @pipeline.step
        ... def hello(name: str) -> str:
        ...     return f"Hello, {name}!"
        >>> result = run_pipeline(pipeline, {"name": "Ada"}, sinks=[OpenTelemetry(provider)])
        >>> [span.name for span in exporter.get_finished_spans()]
        ['attempt hello', 'step hello', 'invoke_workflow greeting']
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        *,
        content: bool = False,
    ) -> None:
        try:
            self._tracing = Tracing(tracer_provider)
            self._metrics = Metrics(meter_provider)
        except ImportError as error:
            raise ImportError(
                "OpenTelemetry is not installed. Install it with `pip install 'pipeline-engine[otel]'`."
            ) from error
        self._has_content = content

    def open_run(self, started: RunStarted) -> Callable[[Record], None]:
        """Start a run's span, and return what reads the run's further records."""
        return RunSpans(started, self._tracing, self._metrics, has_content=self._has_content).read

    def replay(self, records: Iterable[Record]) -> None:
        """Send the spans of a run that was recorded, with the times at which it happened, and no metrics.

        Raises:
            ValueError: If the first record is not `RunStarted`.
        """
        stream = iter(records)
        started = next(stream, None)
        if not isinstance(started, RunStarted):
            raise ValueError("the records of a run begin with RunStarted. Hand in the whole stream.")

        def read() -> None:
            run = RunSpans(started, self._tracing, None, has_content=self._has_content)
            for record in stream:
                run.read(record)

        copy_context().run(read)  # what is current while a run is told again does not stay so
