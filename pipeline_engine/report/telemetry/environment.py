"""Where telemetry goes if no code has said so: what OpenTelemetry's standard variables name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["providers_from_environment"]


def providers_from_environment() -> tuple[TracerProvider, MeterProvider, Callable[[], None]]:
    """Return providers that send by OTLP over HTTP to where the variables say, and what ends them.

    Where the program has global providers already, as under `opentelemetry-instrument`, those are returned,
    and are not ended.

    Raises:
        ImportError: If OpenTelemetry's SDK or its exporter is not installed.
    """
    try:
        from opentelemetry import metrics, trace
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise ImportError(
            "OpenTelemetry's SDK or its exporter is not installed. Install both with "
            "`pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http`."
        ) from error
    known = trace.get_tracer_provider()
    if not isinstance(known, trace.ProxyTracerProvider):
        return known, metrics.get_meter_provider(), lambda: None
    spans = TracerProvider(shutdown_on_exit=False)
    spans.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    figures = MeterProvider([PeriodicExportingMetricReader(OTLPMetricExporter())], shutdown_on_exit=False)

    def shut_down() -> None:
        spans.shutdown()
        figures.shutdown()

    return spans, figures, shut_down
