"""`run --log`, `--chrome` and `--otel`: who else is told of a run."""

import json
import logging
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@pytest.fixture
def two_documents(write, notes):
    write("docs/a.md", "Some text.")
    write("docs/b.md", "Some other text.")
    return ["run", "notes.py", "docs", *notes]


def test_a_log_has_a_line_of_json_for_each_step(cli, folder, two_documents):
    """A night's run is looked through with jq in the morning."""
    assert cli(*two_documents, "--log", "run.jsonl").code == 0

    lines = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    steps = sorted((line["document"], line["step"], line["outcome"]) for line in lines if "step" in line)
    assert steps == [
        (document, step, "completed")
        for document in ("docs/a.md", "docs/b.md")
        for step in ("mood", "summary", "title")
    ]
    assert {line["level"] for line in lines} == {"INFO"}
    assert sum(line["message"] == "run completed" for line in lines) == 2


def test_the_level_of_a_log_can_be_set_and_is_put_back(cli, folder, two_documents):
    """At debug each attempt is told; the program that called the command line keeps its own settings."""
    logger = logging.getLogger("pipeline_engine")
    before = logger.level, list(logger.handlers)

    cli(*two_documents, "--log", "run.jsonl", "--log-level", "debug")
    cli(*two_documents, "--log", "none.jsonl", "--log-level", "error")

    lines = [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]
    assert sum("attempt" in line for line in lines) == 6
    assert (folder / "none.jsonl").read_text() == ""
    assert (logger.level, logger.handlers) == before


def test_a_log_keeps_the_lines_of_earlier_runs(cli, folder, two_documents):
    """A batch that is resumed goes on with its log."""
    cli(*two_documents, "--log", "run.jsonl")
    once = len((folder / "run.jsonl").read_text().splitlines())
    cli(*two_documents, "--log", "run.jsonl")

    assert len((folder / "run.jsonl").read_text().splitlines()) == 2 * once


def test_trace_events_of_all_documents_are_written(cli, folder, two_documents):
    """Which documents ran at the same time is seen in Perfetto."""
    ran = cli(*two_documents, "--chrome", "trace.json")

    assert "trace events: trace.json" in ran.out.splitlines()
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    names = sorted(event["args"]["name"] for event in events if event["name"] == "process_name")
    assert names == ["docs/a.md", "docs/b.md", "engine"]


@pytest.mark.parametrize("option", ["--log", "--chrome"])
def test_a_place_that_cannot_be_written_is_told_before_anything_runs(cli, two_documents, option):
    """An hour later would be a bad time to find out."""
    ran = cli(*two_documents, option, "nowhere/file")

    assert ran.code == 2
    assert f"{option} 'nowhere/file' lies in the folder 'nowhere', which does not exist. Make it first." in ran.err


def test_two_outputs_are_not_written_to_one_file(cli, two_documents):
    """The second one would be in the middle of the first."""
    ran = cli(*two_documents, "--out", "file", "--log", "file")

    assert ran.code == 2
    assert "--out and --log are both 'file'" in ran.err


def test_spans_are_sent_to_where_the_variables_say(cli, two_documents, monkeypatch):
    """No code is written for it: the variables are those of every OpenTelemetry program."""
    names = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                message = ExportTraceServiceRequest()
                message.ParseFromString(body)
                spans = message.resource_spans[0].scope_spans[0].spans
                names.extend(span.name for span in spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert cli(*two_documents, "--otel").code == 0
    finally:
        server.shutdown()
        thread.join()
        server.server_close()

    assert sorted(names) == sorted(
        2
        * [
            "invoke_workflow notes",
            *(f"step {step}" for step in ("title", "summary", "mood")),
            *3 * ["chat script.json"],
        ]
    )


def test_what_is_not_installed_is_named(cli, two_documents, monkeypatch):
    """Two packages are missing, and which ones is not guessed by anybody."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)

    ran = cli(*two_documents, "--otel")

    assert ran.code == 2
    assert "Install both with `pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http`." in ran.err
