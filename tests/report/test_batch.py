"""Totals of many runs: right, deterministic, and small whatever the number of documents."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline_engine.errors import RejectedError
from pipeline_engine.report import ErrorGroup, Hedges, SlowDocument, Totals
from pipeline_engine.values import (
    AttemptFinished,
    BreakerChanged,
    CooldownStarted,
    Cost,
    CredentialParked,
    Dropped,
    Failed,
    HedgeFinished,
    HedgeStarted,
    LimitChanged,
    OutputJudged,
    Skipped,
    Usage,
)

MINI = "openai:gpt-4o-mini"


def one_document(record_stream, key, seconds, *, error=None):
    run = record_stream(document=key).declare("title").declare("summary", "title")
    if error is None:
        run.simple("title", 0, 0, 1, usage=(10, 2)).simple("summary", 1, 1.5, 1.5 + seconds, "title")
        return run.trace(1.5 + seconds)
    run.ready(0, "title").attempt("title", 0, 1).finish(1, "title", Failed(error))
    return run.finish(1, "summary", Skipped("title", is_by_choice=False)).trace(1, "failed")


def test_totals_add_up_documents_steps_waits_and_tokens(record_stream):
    """The end of a batch is the moment when somebody asks where the time went."""
    totals = Totals()
    for number in range(1, 101):
        totals.add(one_document(record_stream, f"d{number}", float(number)))
    totals.add(one_document(record_stream, "bad", 0, error=ValueError("empty")))

    result = totals.result()
    title, summary = result.steps

    assert result.documents == {"completed": 100, "failed": 1}
    assert (title.count, title.completed, title.failed) == (101, 100, 1)
    assert (summary.count, summary.completed, summary.skipped, summary.attempts) == (101, 100, 1, 100)
    assert (summary.p50, summary.p95, summary.max) == (50.5, 95.5, 100.5)
    assert (summary.total, summary.mean) == (5100.0, 51.0)
    assert {kind: seconds for kind, seconds in result.waits.items() if seconds} == {"slot": 50.0}
    assert (result.input_tokens, result.output_tokens) == (1000, 200)


def test_errors_are_grouped_by_step_and_kind_with_their_first_example(record_stream):
    """Ten thousand failures are usually three reasons."""
    totals = Totals()
    for number in range(3):
        error = RejectedError(f"answered HTTP 401, time {number}", model="a:b", kind="auth")
        totals.add(one_document(record_stream, f"d{number}", 0, error=error))
    totals.add(one_document(record_stream, "empty", 0, error=ValueError("empty")))

    assert totals.result().errors == (
        ErrorGroup("title", "auth", 3, "RejectedError: model 'a:b' answered HTTP 401, time 0", "d0"),
        ErrorGroup("title", "ValueError", 1, "ValueError: empty", "empty"),
    )


def test_a_mapped_step_counts_by_its_items(record_stream):
    """The calls are what takes time and fails; a list of forty is not one of them."""
    run = record_stream().declare("notes", each="document").ready(0, "notes", width=3)
    run.simple("notes", 0, 0, 1, item=0).simple("notes", 0, 0, 3, item=1)
    run.ready(0, "notes", item=2).attempt("notes", 0, 1, item=2)
    run.finish(1, "notes", Dropped(ValueError("empty")), item=2).finish(3, "notes")
    totals = Totals()

    totals.add(run.trace(3))
    (notes,) = totals.result().steps

    assert (notes.count, notes.completed, notes.dropped, notes.attempts) == (3, 2, 1, 3)
    assert (notes.p50, notes.max) == (1, 3)
    assert [group.count for group in totals.result().errors] == [1]


def test_the_slowest_documents_are_kept_slowest_first(record_stream):
    """They are where a batch's tail comes from."""
    totals = Totals(max_slowest=2)
    for key, seconds in (("a", 3.0), ("b", 9.0), ("c", 1.0), ("d", 3.0)):
        totals.add(one_document(record_stream, key, seconds))

    assert totals.result().slowest == (SlowDocument("b", 10.5), SlowDocument("a", 4.5))


def test_the_sample_stays_bounded_and_is_always_the_same(record_stream):
    """A million documents must not fill the memory, nor give another p95 each time."""

    def fill():
        totals = Totals(max_samples=50)
        for number in range(2000):
            totals.add(one_document(record_stream, f"d{number}", number / 100))
        return totals

    first, second = fill(), fill()

    assert first.result() == second.result()
    assert len(first._steps["summary"]._durations.ordered()) == 50
    assert first.result().steps[1].p50 == pytest.approx(10.5, abs=3)


def test_the_table_has_a_row_per_step_in_the_pipelines_order(record_stream):
    """The command line and the page print these rows as they are."""
    totals = Totals()
    totals.add(one_document(record_stream, "a", 2.0))

    assert totals.result().table() == [
        {
            "step": "title",
            "count": 1,
            "completed": 1,
            "failed": 0,
            "skipped": 0,
            "retries": 0,
            "total": 1.0,
            "mean": 1.0,
            "p50": 1.0,
            "p95": 1.0,
            "p99": 1.0,
            "max": 1.0,
            "slot_wait": 0.0,
            "requests_wait": 0.0,
            "tokens_wait": 0.0,
            "concurrency_wait": 0.0,
            "cooldown_wait": 0.0,
            "breaker_wait": 0.0,
            "budget_wait": 0.0,
            "backoff_wait": 0.0,
            "fallback_wait": 0.0,
            "shared_wait": 0.0,
            "warm_wait": 0.0,
            "commit_wait": 0.0,
            "lease_wait": 0.0,
            "input_tokens": 10,
            "output_tokens": 2,
            "cost_usd": 0.0,
        },
        {
            "step": "summary",
            "count": 1,
            "completed": 1,
            "failed": 0,
            "skipped": 0,
            "retries": 0,
            "total": 2.5,
            "mean": 2.5,
            "p50": 2.5,
            "p95": 2.5,
            "p99": 2.5,
            "max": 2.5,
            "slot_wait": 0.5,
            "requests_wait": 0.0,
            "tokens_wait": 0.0,
            "concurrency_wait": 0.0,
            "cooldown_wait": 0.0,
            "breaker_wait": 0.0,
            "budget_wait": 0.0,
            "backoff_wait": 0.0,
            "fallback_wait": 0.0,
            "shared_wait": 0.0,
            "warm_wait": 0.0,
            "commit_wait": 0.0,
            "lease_wait": 0.0,
            "input_tokens": 0,
            "output_tokens": 0,
            "cost_usd": 0.0,
        },
    ]


def telling(record_stream, *records):
    """Return the trace of a document whose calls have told this of their models."""
    return record_stream().declare("title").simple("title", 0, 0, 1).write(*records).trace(10_000)


START = 1_700_000_000
"""When the runs of `telling` have started; the clocks of their engines stood at 0."""


def test_what_many_runs_tell_of_a_model_is_one_history(record_stream):
    """Each change is told by the run that caused it: only together they are the model's history."""
    totals = Totals()
    totals.add(telling(record_stream, LimitChanged(5, MINI, 4), BreakerChanged(8, MINI, "open", "half_open")))
    totals.add(telling(record_stream, LimitChanged(3, MINI, 3), BreakerChanged(2, MINI, "closed", "open")))
    totals.add(telling(record_stream, CooldownStarted(1, MINI, 4), CredentialParked(7, MINI)))
    totals.add(telling(record_stream, CooldownStarted(3, MINI, 6), CredentialParked(6, MINI)))

    result = totals.result()

    assert result.limits == {MINI: ((START + 3, 3), (START + 5, 4))}
    assert result.breakers == {MINI: ((START + 2, "closed", "open"), (START + 8, "open", "half_open"))}
    assert result.cooldowns == {MINI: ((START + 1, START + 6),)}
    assert result.models.parked == {MINI: START + 6}


def test_what_engines_of_two_processes_tell_is_on_one_clock(record_stream):
    """Each has a clock of its own, which says nothing about the other: only the time of day brings them together."""
    totals = Totals()
    early = telling(record_stream, LimitChanged(5, MINI, 4), CooldownStarted(5, MINI, 6), CredentialParked(9, MINI))
    late = telling(record_stream, LimitChanged(2, MINI, 8), BreakerChanged(3, MINI, "closed", "open"))
    totals.add(replace(late, wall_time=START + 100.0))
    totals.add(early)

    result = totals.result()

    assert result.limits == {MINI: ((START + 5, 4), (START + 102, 8))}
    assert result.breakers == {MINI: ((START + 103, "closed", "open"),)}
    assert result.cooldowns == {MINI: ((START + 5, START + 6),)}
    assert result.models.parked == {MINI: START + 9}
    assert early.limits == {MINI: ((5, 4),)}


def test_money_verdicts_and_second_calls_are_added_up(record_stream):
    """The bill comes for the batch, not for a document."""
    totals = Totals()
    for is_accepted in (True, False):
        run = record_stream().declare("title").simple("title", 0, 0, 1)
        run.write(OutputJudged(1, "title", None, MINI, is_accepted), HedgeStarted(1, "title", None, 2, MINI))
        run.write(HedgeFinished(2, "title", None, 2, MINI, False, Cost(0.5)))
        run.write(AttemptFinished(2, "title", None, 2, None, Usage(10, 1), cost=Cost(1.0), model=MINI))
        totals.add(run.trace(2))

    result = totals.result()

    assert result.cost == result.steps[0].cost == Cost(3.0)
    assert result.usage == Usage(20, 2)
    assert result.table()[0]["cost_usd"] == 3.0
    assert result.acceptance == {"title": {MINI: (1, 2)}}
    assert result.hedges == Hedges(calls=2, won=2, lost_cost=Cost(1.0))


def test_a_models_history_stays_small_and_keeps_its_extremes(record_stream):
    """A limit moves with nearly every reply: a million of its points would be the largest thing in memory."""
    totals = Totals()
    for part in range(100):
        changes = [LimitChanged(at, MINI, 100 + at % 7) for at in range(part * 100, part * 100 + 100)]
        peak = [LimitChanged(part * 100 + 50.5, MINI, 1 if part == 3 else 500)] if part in {3, 60} else []
        totals.add(telling(record_stream, *changes, *peak))

    points = totals.result().limits[MINI]

    assert len(points) <= 300
    assert len(totals._notes._limits[MINI]) <= 600
    assert (points[0], points[-1]) == ((START, 100), (START + 9999, 100 + 9999 % 7))
    assert {(START + 350.5, 1), (START + 6050.5, 500)} <= set(points)
    assert [at for at, _limit in points] == sorted(at for at, _limit in points)


def test_of_breakers_and_cool_downs_the_latest_are_kept(record_stream):
    """A model that flaps for days must not fill the memory; what it did last is what matters."""
    totals = Totals()
    for at in range(1000):
        change = BreakerChanged(at, MINI, "closed", "open")
        totals.add(telling(record_stream, change, CooldownStarted(at, MINI, at + 0.5)))

    result = totals.result()

    latest = list(range(START + 700, START + 1000))
    assert [change.at for change in result.breakers[MINI]] == latest
    assert [cooldown.at for cooldown in result.cooldowns[MINI]] == latest
