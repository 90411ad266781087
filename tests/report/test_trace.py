"""The trace: what each instant of a step went to, and what it says of a run."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_engine import Breaker, Engine, Hedge, Limits, Pipeline
from pipeline_engine.errors import OutputError, RateLimitError, RejectedError, UnavailableError
from pipeline_engine.report import Hedges, Trace
from pipeline_engine.testing import ScriptedModel
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    BreakerChanged,
    Completed,
    CooldownStarted,
    Cost,
    CredentialParked,
    Dropped,
    Failed,
    Fault,
    HedgeFinished,
    HedgeStarted,
    LimitChanged,
    OutputJudged,
    QueueLeft,
    RepairAsked,
    Skipped,
    StepFinished,
    StepReady,
    Stopped,
    Usage,
    WaitEnded,
    WaitStarted,
)

MINI = "openai:gpt-4o-mini"
SONNET = "anthropic:claude-sonnet-4-5"


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
    assert document_trace.waits == {
        "slot": 0.6,
        "requests": 0.0,
        "tokens": 0.0,
        "concurrency": 0.0,
        "cooldown": 0.0,
        "breaker": 0.0,
        "budget": 0.0,
        "backoff": pytest.approx(0.8),
        "fallback": 0.0,
        "shared": 0.0,
        "warm": 0.0,
        "commit": 0.0,
        "lease": 0.0,
    }


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


# Waits for what a model allows


def test_a_wait_in_the_queue_is_told_by_its_causes_in_their_order(record_stream):
    """More slots are bought in vain where the requests per minute are what is missing."""
    run = record_stream().declare("title").ready(1, "title")
    run.queue("title", 10, ("slot", 2.0), ("cooldown", 3.0), ("requests", 4.0))
    run.attempt("title", 10, 11).finish(11, "title")

    assert kinds(run.trace(11)["title"]) == [
        ("cooldown", 1, 4),
        ("requests", 4, 8),
        ("slot", 8, 10),
        ("attempt", 10, 11),
    ]


def test_the_last_cause_ends_where_the_wait_did(record_stream):
    """Ten times a tenth is not one: a gap of rounding would be time that nobody accounts for."""
    run = record_stream().declare("title").ready(0, "title")
    run.queue("title", 1.0, *[("tokens", 0.1)] * 9, ("breaker", 0.1)).attempt("title", 1.0, 2).finish(2, "title")

    segments = run.trace(2)["title"].segments

    assert segments[-2].kind == "breaker"
    assert segments[-2].end == segments[-1].start == 1.0


def test_what_the_causes_do_not_explain_stays_what_it_was(record_stream):
    """A reply is validated before its step stands in the queue of the next model."""
    run = record_stream().declare("title").ready(0, "title").attempt("title", 0, 2)
    run.queue("title", 7, ("requests", 4.0)).attempt("title", 7, 8, number=2).finish(8, "title")

    assert kinds(run.trace(8)["title"]) == [
        ("attempt", 0, 2),
        ("validate", 2, 3),
        ("requests", 3, 7),
        ("attempt", 7, 8),
    ]


def test_after_a_failure_the_next_model_is_waited_for_not_validated(record_stream):
    """There was no output to validate: the time went to the queue."""
    run = record_stream().declare("title").ready(0, "title").attempt("title", 0, 2, fault="server")
    run.attempt("title", 5, 6, number=2, model=SONNET).finish(6, "title")

    assert kinds(run.trace(6)["title"]) == [("failed", 0, 2), ("slot", 2, 5), ("attempt", 5, 6)]


def test_an_output_that_was_not_accepted_is_waited_for_again(record_stream):
    """From the judgement on a cascade waits for its next model's turn."""
    run = record_stream().declare("title").ready(0, "title").attempt("title", 0, 2)
    run.write(OutputJudged(3, "title", None, MINI, False)).attempt("title", 5, 6, number=2, model=SONNET)
    run.write(OutputJudged(7, "title", None, SONNET, True)).finish(8, "title")

    assert kinds(run.trace(8)["title"]) == [
        ("attempt", 0, 2),
        ("validate", 2, 3),
        ("slot", 3, 5),
        ("attempt", 5, 6),
        ("validate", 6, 8),
    ]


def test_a_wait_for_budget_is_a_wait_of_its_own(record_stream):
    """Its cure is money, or a lower max_tokens: no limit and no slot."""
    run = record_stream().declare("title").ready(0, "title").wait("title", 0, 3, "budget")
    run.attempt("title", 3, 4).finish(4, "title")

    assert kinds(run.trace(4)["title"]) == [("budget", 0, 3), ("attempt", 3, 4)]
    assert run.trace(4).waits["budget"] == 3


# Models and money


def test_models_are_followed_over_time(record_stream):
    """A limit that finds itself and a breaker that opened explain a run that no step explains."""
    run = record_stream().declare("title").simple("title", 0, 0, 9)
    run.write(LimitChanged(1, MINI, 2), LimitChanged(3, MINI, 3), LimitChanged(4, SONNET, 1))
    run.write(BreakerChanged(2, MINI, "closed", "open"), BreakerChanged(7, MINI, "open", "half_open"))
    run.write(CooldownStarted(5, SONNET, 8.5), CredentialParked(6, SONNET))

    trace = run.trace(9)

    assert trace.limits == {MINI: ((1, 2), (3, 3)), SONNET: ((4, 1),)}
    assert trace.breakers == {MINI: ((2, "closed", "open"), (7, "open", "half_open"))}
    assert trace.cooldowns == {SONNET: ((5, 8.5),)}
    assert trace.models.parked == {SONNET: 6}
    assert kinds(trace["title"]) == [("attempt", 0, 9)]


def test_what_is_told_late_is_put_where_it_belongs(record_stream):
    """A change is told by whichever run meets it first: time must not run backwards because of it."""
    run = record_stream().declare("title").simple("title", 0, 0, 9)
    written = run.records(9)
    late = [LimitChanged(4, MINI, 3), LimitChanged(-2, MINI, 2), BreakerChanged(1, MINI, "open", "closed")]

    trace = Trace.from_records([*written[:-1], *late])

    assert trace.limits == {MINI: ((-2, 2), (4, 3))}
    assert (trace.last_at, trace.makespan) == (9, 9)


def test_a_cascade_says_how_often_each_model_was_good_enough(record_stream):
    """A cheap model whose outputs nobody accepts is no saving."""
    run = record_stream().declare("title").simple("title", 0, 0, 5).declare("notes").simple("notes", 0, 0, 5)
    for is_accepted in (True, False, True):
        run.write(OutputJudged(2, "title", None, MINI, is_accepted))
    run.write(OutputJudged(2, "notes", 0, MINI, False), OutputJudged(3, "notes", 0, SONNET, True))

    acceptance = run.trace(5).acceptance

    assert acceptance == {"title": {MINI: (2, 3)}, "notes": {MINI: (0, 1), SONNET: (1, 1)}}
    assert acceptance["title"][MINI].share == 2 / 3


def hedged(record_stream):
    """Return a run of two hedged items: of one the second call won, of the other it lost."""
    run = record_stream().declare("notes", each="document").ready(0, "notes", width=2)
    for item in (0, 1):
        run.ready(0, "notes", item=item).write(AttemptStarted(0, "notes", item, 1, MINI))
        run.write(HedgeStarted(2, "notes", item, 1, SONNET))
    run.write(HedgeFinished(3, "notes", 0, 1, MINI, False, Cost(0.25)))
    run.write(AttemptFinished(3, "notes", 0, 1, None, Usage(10, 2), cost=Cost(2.0), model=SONNET))
    run.write(HedgeFinished(4, "notes", 1, 1, SONNET, True, Cost(0.5)))
    run.write(AttemptFinished(4, "notes", 1, 1, None, Usage(20, 4), cost=Cost(1.0)))
    return run.finish(3, "notes", item=0).finish(4, "notes", item=1).finish(4, "notes")


def test_second_calls_are_counted_with_what_the_lost_ones_cost(record_stream):
    """Hedging trades money for time: both sides of the trade must be seen."""
    trace = hedged(record_stream).trace(4)

    assert trace.hedges == Hedges(calls=2, won=1, lost_cost=Cost(0.75))


def test_lost_calls_are_part_of_the_spend(record_stream):
    """They are on the bill, too."""
    trace = hedged(record_stream).trace(4)

    assert trace.cost == Cost(3.75)
    assert trace.usage == Usage(30, 6)
    assert [item.cost for item in trace.items("notes")] == [Cost(2.25), Cost(1.5)]
    assert trace["notes"].cost == Cost(3.75)


def test_the_model_is_the_one_whose_reply_counts(record_stream):
    """Who reads a bad answer must not blame the model that was too slow to give it."""
    first, second = hedged(record_stream).trace(4).items("notes")

    assert (first.model, first.segments[0].model) == (SONNET, SONNET)
    assert (second.model, second.segments[0].model) == (MINI, MINI)


def test_a_run_that_goes_on_tells_what_it_has_spent_so_far(record_stream):
    """Who watches a run wants to stop it before the money is gone, not after."""
    run = record_stream().declare("title").ready(0, "title").write(AttemptStarted(0, "title", None, 1, MINI))
    run.write(AttemptFinished(1, "title", None, 1, Fault("server", ""), cost=Cost(0.1)))
    run.write(AttemptStarted(1, "title", None, 2, MINI))

    assert run.trace().cost == Cost(0.1)


def test_json_tells_of_models_and_money(record_stream):
    """Dashboards read this, and no drawing."""
    run = hedged(record_stream).write(OutputJudged(3, "notes", 0, MINI, True), LimitChanged(1, MINI, 2))
    run.write(BreakerChanged(2, MINI, "closed", "open"), CooldownStarted(2, MINI, float("inf")))
    run.write(CredentialParked(3, SONNET))

    read = json.loads(run.trace(4).to_json(), parse_constant=pytest.fail)

    assert read["cost"] == {"usd": 3.75, "saved_usd": 0, "unpriced_calls": 0}
    assert read["usage"] == {"input_tokens": 30, "output_tokens": 6}
    assert read["hedges"] == {"calls": 2, "won": 1, "lost_cost": {"usd": 0.75, "saved_usd": 0, "unpriced_calls": 0}}
    assert read["acceptance"] == {"notes": {MINI: {"accepted": 1, "judged": 1}}}
    assert read["models"] == {
        SONNET: {"limits": [], "breaker": [], "cooldowns": [], "parked_at": 3},
        MINI: {
            "limits": [{"at": 1, "limit": 2}],
            "breaker": [{"at": 2, "before": "closed", "after": "open"}],
            "cooldowns": [{"at": 2, "until": None}],
            "parked_at": None,
        },
    }


# Every second


CAUSES = ("breaker", "cooldown", "requests", "tokens", "concurrency", "slot")
gaps = st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 2.0])


@st.composite
def streams_of_one_step(draw, step, item=None):
    """Draw records of one step by the grammar, from ready to finished, or cut anywhere."""
    at = draw(gaps)
    records = [StepReady(at, step, item, None)]
    for number in range(1, draw(st.integers(1, 6)) + 1):
        if draw(st.booleans()):
            cause = draw(st.sampled_from(["backoff", "fallback", "budget"]))
            records.append(WaitStarted(at := at + draw(gaps), step, item, cause))
            records.append(WaitEnded(at := at + draw(gaps), step, item))
        else:
            if draw(st.booleans()):
                waits = draw(st.lists(st.tuples(st.sampled_from(CAUSES), gaps), min_size=1, max_size=6))
                for _cause, seconds in waits:
                    at += seconds  # summed in another order than the trace does: rounding must not leave a gap
                records.append(QueueLeft(at := at + draw(gaps), step, item, tuple(waits[::-1])))
            records.append(AttemptStarted(at := at + draw(gaps), step, item, number, "openai:m"))
            if draw(st.booleans()):
                records.append(HedgeStarted(at := at + draw(gaps), step, item, number, "openai:n"))
                records.append(HedgeFinished(at := at + draw(gaps), step, item, number, "openai:n", True, None))
            if draw(st.booleans()):
                records.append(LimitChanged(at, "openai:m", number))
            fault = draw(st.sampled_from([None, Fault("server", "HTTP 500"), Fault("cancelled", "")]))
            records.append(AttemptFinished(at := at + draw(gaps), step, item, number, fault))
            if draw(st.booleans()):
                records.append(OutputJudged(at := at + draw(gaps), step, item, "openai:m", draw(st.booleans())))
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
        run.write(*(record._replace(item=item) if hasattr(record, "item") else record for record in records))
    written = run.records()

    trace = Trace.from_records(written[: data.draw(st.integers(2, len(written)))])

    assert_tiled(trace)


def assert_tiled(trace):
    """Hold every span to its promise."""
    for span in trace.spans:
        assert all(segment.start < segment.end for segment in span.segments)
        assert all(before.end == after.start for before, after in pairwise(span.segments))
        if span.segments:
            assert span.segments[0].start == span.ready_at
            assert span.segments[-1].end == span.ended_at
        elif not span.is_mapped:
            assert span.ready_at in {None, span.ended_at}


@given(
    st.builds(
        Limits,
        rpm=st.sampled_from([None, 30, 600]),
        tpm=st.sampled_from([None, 2000]),
        max_concurrency=st.sampled_from([1, 3, 8]),
        adaptive=st.booleans(),
    ),
    st.lists(st.sampled_from(["fine", "fine", "server", "rate"]), min_size=1, max_size=6),
    st.integers(1, 4),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_a_run_against_a_model_that_limits_and_fails_is_tiled(limits, answers, capacity, is_hedged):
    """What the engine really emits must add up, not only what the grammar allows."""
    troubles = {
        "server": UnavailableError("failed.", model="scripted:model", kind="server"),
        "rate": RateLimitError("is busy.", model="scripted:model", kind="rate", retry_after=3.0),
    }
    pipeline = Pipeline("notes", inputs={"parts": list[str]})

    @pipeline.llm("fast", str, each="parts", hedge=Hedge(after=1.5, max_extra=1.0) if is_hedged else None)
    def note(part: str) -> str:
        return part

    turns = iter(range(10_000))

    def answer(request):
        return troubles.get(answers[next(turns) % len(answers)], "fine")

    model = ScriptedModel(
        {"*": answer},
        latency=lambda context: 1.0 + context.item % 3,
        limits=limits,
        breaker=Breaker(failure_threshold=3, timeout=4.0),
    )

    async def main():
        async with Engine(models={"fast": model}, capacity=capacity, seed=0) as engine:
            return await engine.run(pipeline, {"parts": [f"part {number}" for number in range(8)]}, timeout=60)

    trace = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)).trace

    assert_tiled(trace)
    # On this clock deciding takes no time: what is left there would be a wait that nobody has told.
    assert all(segment.kind != "validate" for span in trace.spans for segment in span.segments)
