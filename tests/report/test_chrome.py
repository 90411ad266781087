"""Trace events: what Perfetto and chrome://tracing are given."""

import json
from collections import defaultdict

import pytest
from hypothesis import given, settings

from pipeline_engine import Document, Pipeline, chrome_trace, run_batch_async
from pipeline_engine.report import Trace
from pipeline_engine.report.chrome import write_chrome
from pipeline_engine.testing import ScriptedModel
from pipeline_engine.values import HedgeFinished, HedgeStarted, LimitChanged
from tests.property.test_tiling import perform, scenes


def slices(events):
    """Return what a viewer draws: for each row its slices, nested as their begins and ends are."""
    rows = defaultdict(list)
    open_slices = defaultdict(list)
    for event in events:
        row = (event["pid"], event.get("cat"), event.get("id"))
        if event["ph"] == "b":
            depth = len(open_slices[row])
            drawn = [event["name"], event["ts"], None, depth]
            rows[row].append(drawn)
            open_slices[row].append(drawn)
        elif event["ph"] == "e":
            drawn = open_slices[row].pop()
            assert drawn[0] == event["name"]
            drawn[2] = event["ts"]
    assert not any(open_slices.values())
    return [[tuple(drawn) for drawn in row] for row in rows.values()]


def counted(events, name):
    return [(event["ts"], event["args"]) for event in events if event["ph"] == "C" and event["name"] == name]


def test_a_step_is_a_row_with_its_segments_inside(document_trace):
    """A gap in the row has a name, as in our own drawings."""
    events = chrome_trace([document_trace])["traceEvents"]

    assert [
        ("keywords", 0.0, 2_200_000.0, 0),
        ("failed 1", 0.0, 600_000.0, 1),
        ("backoff", 600_000.0, 1_400_000.0, 1),
        ("attempt 2", 1_400_000.0, 2_200_000.0, 1),
    ] in slices(events)


def test_a_document_is_a_process_with_its_name(document_trace):
    """A viewer folds processes: thousands of rows are readable by document."""
    events = chrome_trace([document_trace])["traceEvents"]

    assert [(event["pid"], event["args"]["name"]) for event in events if event["name"] == "process_name"] == [
        (1, "engine"),
        (2, "a.txt"),
    ]


def test_counters_show_the_calls_in_flight_and_what_waits(document_trace):
    """Whether a limit was used up is read off the counters, not off a thousand rows."""
    events = chrome_trace([document_trace])["traceEvents"]

    mini, sonnet = "openai:gpt-4o-mini", "anthropic:claude-sonnet-4-5"
    assert counted(events, "calls in flight")[:3] == [
        (0.0, {sonnet: 0, mini: 2}),
        (600_000.0, {sonnet: 0, mini: 2}),
        (1_200_000.0, {sonnet: 0, mini: 1}),
    ]
    assert counted(events, "calls in flight")[-1] == (4_400_000.0, {sonnet: 0, mini: 0})
    assert counted(events, "waiting") == [
        (0.0, {"backoff": 0, "slot": 1}),
        (600_000.0, {"backoff": 1, "slot": 0}),
        (1_400_000.0, {"backoff": 0, "slot": 0}),
    ]


def test_an_adaptive_limit_and_a_second_call_are_drawn(record_stream):
    """They are what explains the calls in flight."""
    run = record_stream().declare("title").simple("title", 0.0, 0.0, 3.0, model="openai:slow")
    run.write(
        HedgeStarted(1.0, "title", None, 1, "openai:quick"),
        HedgeFinished(2.5, "title", None, 1, "openai:quick", is_second=True, cost=None),
        LimitChanged(2.0, "openai:slow", 7),
    )

    events = chrome_trace([run.trace(3.0)])["traceEvents"]

    assert [("title: second call of attempt 1", 1_000_000.0, 2_500_000.0, 0)] in slices(events)
    assert counted(events, "limit of openai:slow") == [(2_000_000.0, {"calls": 7})]
    assert (1_000_000.0, {"openai:quick": 1, "openai:slow": 1}) in counted(events, "calls in flight")


def test_a_limit_that_is_older_than_the_runs_stands_at_their_beginning(record_stream):
    """A change is told by whichever run comes next; viewers refuse instants before the first one."""
    run = record_stream().declare("title").simple("title", 0.0, 0.0, 3.0)
    run.write(LimitChanged(-2.0, "openai:slow", 7))

    events = chrome_trace([run.trace(3.0)])["traceEvents"]

    assert counted(events, "limit of openai:slow") == [(0.0, {"calls": 7})]


def test_runs_of_different_processes_stand_on_one_axis(record_stream):
    """Each process has a clock that began somewhere else; the wall's is the same for all."""
    early = record_stream(document="early").declare("title").simple("title", 0.0, 0.0, 1.0)
    late = record_stream(document="late").declare("title").simple("title", 50.0, 50.0, 51.0)
    records = late.records(51.0)
    records[0] = records[0]._replace(at=50.0, wall_time=records[0].wall_time + 0.25)

    drawn = slices(chrome_trace([early.trace(1.0), Trace.from_records(records)])["traceEvents"])

    assert [row[0][1:3] for row in drawn if row[0][0] == "title"] == [(0.0, 1_000_000.0), (250_000.0, 1_250_000.0)]


def test_hostile_text_is_text(record_stream, tmp_path):
    """A document's name, and what a provider says, end up in somebody's browser."""
    hostile = "</script>\ud800\x1b[31m\u202e\n" + "x" * 9_000
    run = record_stream(document=hostile, pipeline=hostile).declare(hostile)
    run.ready(0.0, hostile).attempt(hostile, 0.0, 1.0, model=hostile, fault=hostile).finish(1.0, hostile)

    written = run.trace(1.0).to_chrome(tmp_path / "trace.json").read_text(encoding="ascii")

    assert "\\u001b" not in written
    assert len(written) < 10_000
    assert json.loads(written)["displayTimeUnit"] == "ms"


def test_nothing_to_write_is_said():
    """An empty file opens as an empty page, and looks like a bug of the viewer."""
    with pytest.raises(ValueError, match="there is no trace to write"):
        chrome_trace([])


async def test_a_batch_is_written_as_one_file(tmp_path, virtual_clock):
    """Which documents ran at the same time is the question that a viewer answers best."""
    pipeline = Pipeline("document", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return document

    documents = [Document(name, {"document": name}) for name in ("a.txt", "b.txt", "c.txt")]
    model = ScriptedModel({"title": "A title"}, latency=2.0)
    batch = await run_batch_async(pipeline, documents, models={"fast": model}, capacity=1)

    events = json.loads(batch.trace.to_chrome(tmp_path / "batch.json").read_text())["traceEvents"]

    names = [event["args"]["name"] for event in events if event["name"] == "process_name"]
    assert names == ["engine", "a.txt", "b.txt", "c.txt"]
    assert {values["scripted:model"] for _, values in counted(events, "calls in flight")} == {0, 1}


@settings(max_examples=40, deadline=None)
@given(scenes())
def test_events_nest_and_counters_return_to_zero_whatever_happens_to_a_run(scene):
    """A viewer drops what does not nest, and says so nowhere."""
    traces = [Trace.from_records(records) for records in perform(scene)]
    if not traces:
        return

    events = chrome_trace(traces)["traceEvents"]

    slices(events)
    json.dumps(events, allow_nan=False)
    for name in ("calls in flight", "waiting"):
        series = counted(events, name)
        assert all(count >= 0 for _, values in series for count in values.values())
        assert not series or not any(series[-1][1].values())
        assert [at for at, _ in series] == sorted({at for at, _ in series})
    assert all(event["ts"] >= 0 for event in events)


def test_many_runs_are_written_in_the_order_in_which_they_are_given(record_stream, tmp_path):
    """Whoever sorts the documents by slowness keeps that order in the viewer."""
    runs = [record_stream(document=name).declare("title").simple("title", 0.0, 0.0, 1.0) for name in ("b", "a")]

    path = write_chrome([run.trace(1.0) for run in runs], tmp_path / "runs.json")

    events = json.loads(path.read_text())["traceEvents"]
    assert [event["args"]["name"] for event in events if event["name"] == "process_name"] == ["engine", "b", "a"]
