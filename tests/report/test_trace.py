"""The trace: what each instant of a step went to, and what it says of a run."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.errors import OutputError, RejectedError
from pipeline_engine.report import Trace
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Completed,
    Dropped,
    Failed,
    Fault,
    RepairAsked,
    Skipped,
    StepFinished,
    StepReady,
    Stopped,
    Usage,
    WaitEnded,
    WaitStarted,
)


def kinds(span):
    return [(segment.kind, segment.start, segment.end) for segment in span.segments]


def test_a_retried_step_accounts_for_every_instant(document_trace):
    """Unexplained time is what the report exists to abolish."""
    assert kinds(document_trace["keywords"]) == [
        ("failed", 0.0, 0.6),
        ("backoff", 0.6, 1.4),
        ("attempt", 1.4, 2.2),
    ]


def test_a_repair_is_an_attempt_between_two_validations(document_trace):
    """A model that is asked again costs time twice: both calls must be seen."""
    assert kinds(document_trace["summary"]) == [
        ("attempt", 2.2, 3.4),
        ("validate", 3.4, 3.5),
        ("attempt", 3.5, 4.4),
        ("validate", 4.4, 4.5),
    ]


def test_a_step_waits_for_a_slot_from_ready_to_its_attempt(document_trace):
    """This wait, and no other, is what more slots would save."""
    category = document_trace["category"]

    assert kinds(category) == [("slot", 0.0, 0.6), ("attempt", 0.6, 1.5)]
    assert (category.ready_at, category.started_at, category.ended_at) == (0.0, 0.6, 1.5)


def test_a_failed_attempt_keeps_its_fault_and_its_model(document_trace):
    """A red bar without its reason sends people to the logs."""
    failed = document_trace["keywords"].segments[0]

    assert failed.fault == Fault("server", "HTTP 503", True, 503)
    assert (failed.attempt, failed.model, failed.duration) == (1, "openai:gpt-4o-mini", 0.6)


def test_a_skipped_step_has_a_reason_and_no_time(document_trace):
    """It never was ready: drawing it as an instant bar would be a lie."""
    invoice = document_trace["invoice"]

    assert (invoice.outcome, invoice.because) == ("skipped", "when")
    assert (invoice.ready_at, invoice.started_at, invoice.ended_at) == (None, None, 1.5)
    assert (invoice.segments, invoice.duration, invoice.has_time) == ((), 0.0, False)


def test_spans_stand_in_the_order_in_which_steps_became_ready(document_trace):
    """A waterfall reads from its top left to its bottom right."""
    names = [span.name for span in document_trace.spans]

    assert names == ["title", "keywords", "category", "quality", "invoice", "summary"]


def test_tokens_of_all_attempts_are_added_up(document_trace):
    """A repair is paid for, too."""
    assert document_trace["summary"].usage == Usage(4400, 350)
    assert document_trace.usage == Usage(8065, 412)


def test_waits_are_added_up_by_what_was_waited_for(document_trace):
    """Slots, limits and back-off have different cures."""
    waits = {"slot": 0.6, "backoff": pytest.approx(0.8), "fallback": 0.0, "shared": 0.0, "warm": 0.0}
    assert document_trace.waits == waits


def test_the_head_of_a_trace_says_which_run_it_is(document_trace):
    """A report that is found a week later must say what it is about."""
    trace = document_trace

    assert (trace.run_id, trace.document, trace.pipeline) == ("run-1", "a.txt", "document")
    assert (trace.status, trace.started_at, trace.finished_at) == ("completed", 0.0, 4.5)
    assert (trace.makespan, trace.capacity, trace.wall_time) == (4.5, 2, 1_700_000_000.0)
    assert repr(trace) == "Trace(run_id='run-1', document='a.txt', status='completed', spans=6)"


def test_a_mapped_step_is_tiled_by_its_items(record_stream):
    """Its own span says when; what was done is the items' to say."""
    run = record_stream().declare("chunks").declare("notes", "chunks", each="chunks")
    run.simple("chunks", 0, 0, 1).ready(1, "notes", "chunks", width=2)
    run.simple("notes", 1, 1, 3, "chunks", item=1, usage=(10, 1))
    run.simple("notes", 1, 2, 5, "chunks", item=0, usage=(20, 2)).finish(5, "notes")

    trace = run.trace(5)
    notes = trace["notes"]

    assert (notes.is_mapped, notes.width, notes.segments) == (True, 2, ())
    assert (notes.ready_at, notes.started_at, notes.ended_at, notes.attempts) == (1, 1, 5, 2)
    assert notes.usage == Usage(30, 3)
    assert [item.name for item in trace.items("notes")] == ["notes[0]", "notes[1]"]
    assert kinds(trace.items("notes")[0]) == [("slot", 1, 2), ("attempt", 2, 5)]
    assert trace.seconds_by_kind("notes")["attempt"] == 5
    assert trace.usage == Usage(30, 3)


def test_an_empty_list_makes_a_mapped_step_without_items(record_stream):
    """A document without chunks is no reason for a report to break."""
    run = record_stream().declare("notes", each="document").ready(0, "notes", width=0).finish(0, "notes")

    trace = run.trace(0)

    assert (trace["notes"].width, trace.items("notes"), trace["notes"].outcome) == (0, (), "completed")


@pytest.mark.parametrize(
    ("outcome", "name", "error", "kind", "because"),
    [
        (Completed("x", via="fallback:value"), "completed", None, None, None),
        (Failed(ValueError("no\x1b[2J\nway")), "failed", "ValueError: no\\x1b[2J way", "ValueError", None),
        (
            Dropped(RejectedError("answered HTTP 401", model="a:b", kind="auth")),
            "dropped",
            "RejectedError: model 'a:b' answered HTTP 401",
            "auth",
            None,
        ),
        (Skipped("title", is_by_choice=False), "skipped", None, None, "title"),
        (Stopped("its run's timeout"), "stopped", None, None, "its run's timeout"),
    ],
)
def test_every_outcome_is_named_and_explained_on_one_safe_line(record_stream, outcome, name, error, kind, because):
    """Error texts come from documents and providers: they are shown, never obeyed."""
    run = record_stream().declare("title").ready(0, "title").finish(1, "title", outcome)

    span = run.trace(1)["title"]

    assert (span.outcome, span.error, span.error_kind, span.because) == (name, error, kind, because)


def test_a_run_that_goes_on_is_drawn_up_to_its_last_record(record_stream):
    """`watch` draws the same trace every second."""
    run = record_stream().declare("title").declare("keywords").simple("title", 0, 0, 3)
    run.ready(0, "keywords").write(AttemptStarted(1, "keywords", None, 1, None))

    trace = run.trace()

    assert (trace.status, trace.finished_at, trace.makespan) == (None, None, 3)
    assert trace["keywords"].outcome is None
    assert kinds(trace["keywords"]) == [("slot", 0, 1), ("attempt", 1, 3)]


def test_a_step_that_was_not_reached_is_told_from_one_that_does_not_exist(record_stream):
    """A misspelt name and a run that ended early need different cures."""
    trace = record_stream().declare("title").trace(0)

    with pytest.raises(KeyError) as not_reached:
        trace["title"]
    with pytest.raises(KeyError) as unknown:
        trace["titel"]

    assert not_reached.value.args == ("step 'title' was not reached in run 'run-1'.",)
    assert unknown.value.args == ("pipeline 'document' has no step 'titel'. Its steps are ['title'].",)
    assert "title" not in trace
    assert trace.get("title") is None


@pytest.mark.parametrize(
    ("records", "found"),
    [([], "there are none"), ([StepReady(0, "title", None, None)], "these begin with StepReady")],
)
def test_records_without_their_beginning_are_refused(records, found):
    """Without the outline nothing could be drawn, and half a trace would look like a whole one."""
    with pytest.raises(ValueError, match="RunStarted") as refused:
        Trace.from_records(records)

    expected = f"the records of a run begin with RunStarted, but {found}. Hand in the whole stream."
    assert str(refused.value) == expected


def test_json_has_the_spans_and_no_content(record_stream):
    """It is shared with other tools and people: what documents say stays at home."""
    run = record_stream().declare("title").ready(0, "title").attempt("title", 0, 1, fault="server")
    run.attempt("title", 1, 2, number=2, usage=(10, 2)).finish(2, "title", Completed("the secret title"))

    text = run.trace(2).to_json()
    read = json.loads(text)

    assert "secret" not in text
    assert read["spans"][0]["segments"] == [
        {
            "kind": "failed",
            "start": 0,
            "end": 1,
            "attempt": 1,
            "model": "openai:gpt-4o-mini",
            "fault": {"kind": "server", "message": "it did not answer", "status": None},
        },
        {"kind": "attempt", "start": 1, "end": 2, "attempt": 2, "model": "openai:gpt-4o-mini", "fault": None},
    ]
    assert (read["makespan"], read["spans"][0]["output_tokens"], read["critical_path"]) == (2, 2, ["title"])


def test_json_has_no_numbers_that_other_languages_refuse(record_stream):
    """NaN and infinity are no JSON: one of them would make the whole file unreadable."""
    run = record_stream(capacity=float("inf")).declare("title").simple("title", 0, 0, 1)

    read = json.loads(run.trace(1).to_json(), parse_constant=pytest.fail)

    assert read["capacity"] is None


gaps = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 2.0])


@st.composite
def streams_of_one_step(draw, step, item=None):
    """Draw records of one step by the grammar, from ready to finished, or cut anywhere."""
    at = draw(gaps)
    records = [StepReady(at, step, item, None)]
    for number in range(1, draw(st.integers(1, 6)) + 1):
        if draw(st.booleans()):
            cause = draw(st.sampled_from(["backoff", "fallback"]))
            records.append(WaitStarted(at := at + draw(gaps), step, item, cause))
            records.append(WaitEnded(at := at + draw(gaps), step, item))
        else:
            records.append(AttemptStarted(at := at + draw(gaps), step, item, number, "openai:m"))
            fault = draw(st.sampled_from([None, Fault("server", "HTTP 500"), Fault("cancelled", "")]))
            records.append(AttemptFinished(at := at + draw(gaps), step, item, number, fault))
            if draw(st.booleans()):
                records.append(RepairAsked(at := at + draw(gaps), step, item, ("no",)))
    outcome = draw(st.sampled_from([Completed(1), Failed(OutputError(step, ["no"])), Stopped("cancelled")]))
    records.append(StepFinished(at + draw(gaps), step, item, outcome))
    return records[: draw(st.integers(1, len(records)))]


@given(st.lists(streams_of_one_step("notes"), min_size=1, max_size=4), st.data())
def test_segments_tile_every_span_without_gap_or_overlap(record_stream, streams, data):
    """Promise 5: every second is accounted for, whatever happened and wherever the stream was cut."""
    run = record_stream().declare("notes", each="document")
    for item, records in enumerate(streams):
        run.write(*(record._replace(item=item) for record in records))
    written = run.records()

    trace = Trace.from_records(written[: data.draw(st.integers(2, len(written)))])

    for span in trace.spans:
        assert all(segment.start < segment.end for segment in span.segments)
        assert all(before.end == after.start for before, after in pairwise(span.segments))
        if span.segments:
            assert span.segments[0].start == span.ready_at
            assert span.segments[-1].end == span.ended_at
        else:
            assert span.ready_at == span.ended_at
