"""Bounds: what a run could not have been faster than, and the sentence that says so."""

from __future__ import annotations

import pytest

from pipeline_engine.values import Completed, Skipped


def names(spans):
    return [span.name for span in spans]


def test_the_critical_path_leads_from_the_end_back_to_the_first_step(document_trace):
    """Only these spans, made shorter, make the run shorter."""
    assert names(document_trace.critical_path) == ["keywords", "summary"]


def test_the_critical_path_goes_through_the_latest_item_of_each_mapped_step(record_stream):
    """Of 18 items one is late: it is the one to look at, and it had the same index one step before."""
    run = record_stream().declare("chunks").declare("notes", "chunks", each="chunks")
    run.declare("checked", "notes", each="notes").declare("merge", "checked")
    run.simple("chunks", 0, 0, 1).ready(1, "notes", "chunks", width=2).ready(1, "checked", "notes", width=2)
    run.simple("notes", 1, 1, 2, "chunks", item=0).simple("notes", 1, 1, 5, "chunks", item=1).finish(5, "notes")
    run.simple("checked", 2, 2, 3, "notes", item=0).simple("checked", 5, 5, 6, "notes", item=1)
    run.finish(6, "checked").simple("merge", 6, 6, 7, "checked")

    trace = run.trace(7)

    assert names(trace.critical_path) == ["chunks", "notes[1]", "checked[1]", "merge"]
    assert trace.bounds.path == ("chunks", "notes[1]", "checked[1]", "merge")
    assert trace.bounds.critical_path == 7


def test_items_of_a_mapped_chain_do_not_wait_for_each_other(record_stream):
    """The longest note and the longest check of another item are no chain: adding them is no bound."""
    run = record_stream(capacity=4).declare("notes", each="document").declare("checked", "notes", each="notes")
    run.ready(0, "notes", width=2).ready(0, "checked", "notes", width=2)
    run.simple("notes", 0, 0, 5, item=0).simple("checked", 5, 5, 6, "notes", item=0)
    run.simple("notes", 0, 0, 1, item=1).simple("checked", 1, 1, 6, "notes", item=1)
    run.finish(5, "notes").finish(6, "checked")

    assert run.trace(6).bounds.critical_path == 6


def test_a_step_skipped_by_choice_hands_the_path_on_to_what_decided_it(record_stream):
    """Branches join: the path to the reply leads through the classification, not out of nowhere."""
    run = record_stream().declare("category").declare("invoice", "category").declare("reply", "invoice")
    run.simple("category", 0, 0, 2).finish(2, "invoice", Skipped("when", is_by_choice=True))
    run.simple("reply", 2, 2, 3, "invoice")

    trace = run.trace(3)

    assert names(trace.critical_path) == ["category", "reply"]
    assert trace.bounds.critical_path == 3


def test_waits_for_slots_are_not_work(record_stream):
    """They are what more slots would save; back-off and validation are not."""
    run = record_stream().declare("title").ready(0, "title").attempt("title", 2, 3, fault="server")
    run.wait("title", 3, 5).attempt("title", 6, 7, number=2).finish(7.5, "title")

    bounds = run.trace(7.5).bounds

    assert (bounds.critical_path, bounds.retrying, bounds.binding) == (4.5, 3, "critical path")


def test_the_slot_bound_spreads_all_attempts_over_the_slots(record_stream):
    """Six seconds of calls over two slots take three, however they are arranged."""
    run = record_stream(capacity=2).declare("a").declare("b").declare("c")
    run.simple("a", 0, 0, 2).simple("b", 0, 0, 2).simple("c", 0, 2, 4)

    bounds = run.trace(4).bounds

    assert (bounds.slots, bounds.critical_path, bounds.binding, bounds.lower_bound) == (3, 2, "slots", 3)


def test_a_fallback_steps_work_counts_where_it_was_waited_for(record_stream):
    """A step that fell back was not idle: its helper worked for it."""
    run = record_stream().declare("summary").declare("cheap", is_on_demand=True)
    run.ready(0, "summary").attempt("summary", 0, 1, fault="server").wait("summary", 1, 4, "fallback")
    run.simple("cheap", 1, 2, 4, "summary").finish(4, "summary", Completed("x", via="fallback:cheap"))

    trace = run.trace(4)

    assert trace.bounds.critical_path == 3
    assert {kind: seconds for kind, seconds in trace.waits.items() if seconds} == {"slot": 1, "fallback": 3}


def test_a_stream_that_unblocks_itself_in_a_circle_ends(record_stream):
    """Records may come from a damaged file: a report must not hang."""
    run = record_stream().declare("a").declare("b")
    run.simple("a", 0, 0, 1, "b").simple("b", 0, 0, 1, "a")

    assert names(run.trace(1).critical_path) == ["a", "b"]


def verdict_of(run, end, status="completed"):
    return run.trace(end, status).verdict


def test_the_verdict_says_what_more_slots_could_save(record_stream):
    """The one question that every user asks of a timing picture."""
    run = record_stream().declare("title").declare("summary", "title")
    run.simple("title", 0, 0, 1.5).simple("summary", 1.5, 1.7, 4.2, "title")

    assert verdict_of(run, 4.2) == (
        "makespan 4.2 s; the critical path title → summary needs 4.0 s of it; more slots can save at most 0.2 s"
    )


def test_the_verdict_says_when_more_slots_cannot_help(document_trace):
    """It also says how much of the path was lost to retries, because that is what would help."""
    assert document_trace.verdict == (
        "makespan 4.5 s; the critical path keywords → summary needs all of it "
        "(1.4 s in failed attempts and back-off); more slots cannot help"
    )


def test_the_verdict_names_the_slots_where_they_bind(record_stream):
    """At 100 % of the slot bound no schedule is better: only slots are."""
    run = record_stream(capacity=1).declare("a").declare("b").declare("c")
    run.simple("a", 0, 0, 20).simple("b", 0, 20, 40).simple("c", 0, 40, 50)

    assert verdict_of(run, 50) == (
        "makespan 50.0 s; 1 slot cannot do it in less than 50.0 s (100 % of it); more slots can save at most "
        "30.0 s, as the critical path a needs 20.0 s"
    )


def test_the_verdict_blames_no_slots_for_time_lost_elsewhere(record_stream):
    """A gap that no slot wait explains is not cured by slots."""
    run = record_stream().declare("title").declare("summary", "title")
    run.simple("title", 0, 0, 1).simple("summary", 2, 2, 4, "title")

    assert verdict_of(run, 4) == (
        "makespan 4.0 s; the critical path title → summary needs 3.0 s of it; no time was lost to slots, so more "
        "of them cannot help"
    )


@pytest.mark.parametrize(
    ("cause", "waited", "cure"),
    [
        (
            "requests",
            "requests per minute",
            "raise the model's requests per minute, Limits(rpm=…), or bind more models",
        ),
        ("tokens", "tokens per minute", "raise the model's tokens per minute, Limits(tpm=…), or send shorter prompts"),
        (
            "concurrency",
            "a model's concurrency",
            "raise the model's concurrency, Limits(max_concurrency=…), or bind more models",
        ),
        (
            "cooldown",
            "a model to cool down",
            "its provider asked for fewer calls, so lower Limits(rpm=…) or bind more models",
        ),
        (
            "breaker",
            "a breaker to close",
            "its model kept failing, so bind a second model or give the step a fallback=",
        ),
        (
            "budget",
            "budget that calls in flight had reserved",
            "raise the budget, or reserve less of it by a lower max_tokens",
        ),
    ],
)
def test_the_verdict_says_what_would_shorten_a_wait_for_a_limit(record_stream, cause, waited, cure):
    """More slots are the wrong answer to a model that may be asked no faster."""
    run = record_stream().declare("title").ready(0, "title")
    run = run.wait("title", 0, 8, cause) if cause == "budget" else run.queue("title", 8, (cause, 8.0))
    trace = run.attempt("title", 8, 10).finish(10, "title").trace(10)

    assert trace.verdict == (
        f"makespan 10.0 s; the critical path title needs 2.0 s of it; the run waited 8.0 s for {waited}: {cure}; "
        "more slots cannot help"
    )
    assert trace.bounds.binding == cause
    assert trace.bounds.limits == {cause: 8}


def test_the_verdict_cures_the_longest_wait_and_names_the_others(record_stream):
    """One thing at a time: curing the shorter wait first may change nothing."""
    run = record_stream().declare("title").ready(0, "title")
    run.queue("title", 50, ("tokens", 10.0), ("requests", 30.0), ("breaker", 1.0), ("cooldown", 4.0), ("slot", 5.0))
    trace = run.attempt("title", 50, 60).finish(60, "title").trace(60)

    assert trace.verdict == (
        "makespan 1 min 00 s; the critical path title needs 10.0 s of it; the run waited 30.0 s for requests per "
        "minute, 10.0 s for tokens per minute and 4.0 s for a model to cool down: raise the model's requests per "
        "minute, Limits(rpm=…), or bind more models; more slots can save at most 5.0 s"
    )


def test_a_short_wait_for_a_limit_is_not_what_bound_a_run(record_stream):
    """Nobody should buy a higher limit for the three seconds of a hundred."""
    run = record_stream().declare("title").ready(0, "title").queue("title", 3, ("requests", 3.0))
    trace = run.attempt("title", 3, 100).finish(100, "title").trace(100)

    assert trace.bounds.binding == "critical path"
    assert "requests" not in trace.verdict


def test_slots_and_limits_may_both_bind(record_stream):
    """One slot, and a model that is asked too fast for it: the verdict says both."""
    run = record_stream(capacity=1).declare("a").declare("b")
    run.ready(0, "b").simple("a", 0, 0, 6).queue("b", 9, ("slot", 6.0), ("requests", 3.0))
    trace = run.attempt("b", 9, 14).finish(14, "b").trace(14)

    assert trace.verdict == (
        "makespan 14.0 s; 1 slot cannot do it in less than 11.0 s (79 % of it); the run waited 3.0 s for requests "
        "per minute: raise the model's requests per minute, Limits(rpm=…), or bind more models; more slots can save "
        "at most 6.0 s, as the critical path a needs 6.0 s"
    )


@pytest.mark.parametrize(
    ("end", "expected"),
    [(None, "still running after 0 s; no step took any time"), (0, "makespan 0 s; no step took any time")],
)
def test_a_run_without_work_has_a_verdict_too(record_stream, end, expected):
    """An empty pipeline and a first look at a run that just began must not break the report."""
    assert verdict_of(record_stream().declare("title"), end) == expected
