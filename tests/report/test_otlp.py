"""Spans and metrics on the wire: sent by OTLP over HTTP to a receiver on the loopback, which reads what arrives."""

import threading
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import trio
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from pipeline_engine import Completion, Document, OpenTelemetry, Pipeline, Usage, run_batch_async

REQUESTS = {"/v1/traces": ExportTraceServiceRequest, "/v1/metrics": ExportMetricsServiceRequest}


class Receiver:
    """An OTLP receiver: what has arrived, decoded."""

    def __init__(self) -> None:
        self.received = defaultdict(list)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                message = REQUESTS[self.path]()
                message.ParseFromString(body)
                receiver.received[self.path].append(message)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self):
        return [
            span
            for message in self.received["/v1/traces"]
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    @property
    def metrics(self):
        return {
            metric.name
            for message in self.received["/v1/metrics"]
            for resource in message.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def receiver():
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()


@pytest.fixture
def providers(receiver):
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(f"{receiver.url}/v1/traces")))
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(f"{receiver.url}/v1/metrics"))
    meters = MeterProvider([reader], shutdown_on_exit=False)
    yield tracers, meters
    tracers.shutdown()
    meters.shutdown()


class Client:
    """A model that gives way to other tasks, so that the documents' calls are mixed."""

    name = "openai:gpt-4o-mini"

    async def complete(self, request):
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        return Completion("A title", usage=Usage(100, 10))


async def test_spans_of_many_documents_arrive_with_the_right_parents(receiver, providers):
    """Twenty runs are mixed on one trio thread, and the exporter sends from another: nothing may get mixed up."""
    tracers, meters = providers
    tracer = tracers.get_tracer("a library of the user's")
    pipeline = Pipeline("document", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return document

    @pipeline.step
    async def length(document: str) -> int:
        await trio.lowlevel.checkpoint()
        with tracer.start_as_current_span(f"inside {document}"):
            return len(document)

    @pipeline.step
    def together(title: str, length: int) -> str:
        return f"{title}: {length}"

    documents = [Document(f"{number}.txt", {"document": f"text {number}"}) for number in range(20)]
    with tracer.start_as_current_span("nightly batch"):
        batch = await run_batch_async(
            pipeline, documents, models={"fast": Client()}, sinks=[OpenTelemetry(tracers, meters)]
        )
    assert batch.is_complete
    await trio.to_thread.run_sync(tracers.force_flush)
    await trio.to_thread.run_sync(meters.force_flush)

    spans = {span.span_id: span for span in receiver.spans}

    def path(span):
        return [*(path(spans[span.parent_span_id]) if span.parent_span_id else []), span.name]

    root = ["nightly batch", "invoke_workflow document"]
    expected = [
        ["nightly batch"],
        *[root] * 20,
        *[[*root, "step title"]] * 20,
        *[[*root, "step title", "chat gpt-4o-mini"]] * 20,
        *[[*root, "step length"]] * 20,
        *[[*root, "step length", "attempt length"]] * 20,
        *[[*root, "step length", "attempt length", f"inside text {number}"] for number in range(20)],
        *[[*root, "step together"]] * 20,
        *[[*root, "step together", "attempt together"]] * 20,
    ]
    assert sorted(path(span) for span in spans.values()) == sorted(expected)
    assert len({span.trace_id for span in spans.values()}) == 1
    for span in spans.values():
        if span.name.startswith("inside "):
            run = spans[spans[spans[span.parent_span_id].parent_span_id].parent_span_id]
            [key] = [pair.value.string_value for pair in run.attributes if pair.key == "pipeline.document.key"]
            assert key == f"{span.name.removeprefix('inside text ')}.txt"
    assert {"gen_ai.client.operation.duration", "gen_ai.client.token.usage", "pipeline.documents"} <= receiver.metrics


async def test_hostile_text_arrives(receiver, providers):
    """A text that no encoder takes would cost all the spans that are sent with it."""
    tracers, meters = providers
    pipeline = Pipeline("document", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return document

    hostile = "\ud800\x00\x1b[31m\u202e"
    sink = OpenTelemetry(tracers, meters, content=True)
    documents = [Document(hostile, {"document": hostile})]
    await run_batch_async(pipeline, documents, models={"fast": Client()}, sinks=[sink])
    await trio.to_thread.run_sync(tracers.force_flush)

    assert sorted(span.name for span in receiver.spans) == [
        "chat gpt-4o-mini",
        "invoke_workflow document",
        "step title",
    ]


async def test_a_receiver_that_is_gone_disturbs_no_run():
    """The collector of a cluster is down more often than the cluster."""
    exporter = OTLPSpanExporter("http://127.0.0.1:9/v1/traces", timeout=1)
    tracers = TracerProvider(shutdown_on_exit=False)
    tracers.add_span_processor(BatchSpanProcessor(exporter))
    pipeline = Pipeline("document", inputs={"document": str})

    @pipeline.step
    def length(document: str) -> int:
        return len(document)

    batch = await run_batch_async(pipeline, [{"document": "text"}], sinks=[OpenTelemetry(tracers)])
    exporter.shutdown()
    await trio.to_thread.run_sync(tracers.shutdown)

    assert batch.is_complete
