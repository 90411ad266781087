"""Totals of many runs: right, deterministic, and small whatever the number of documents."""

from __future__ import annotations

import pytest

from pipeline_engine.errors import RejectedError
from pipeline_engine.report import ErrorGroup, SlowDocument, Totals
from pipeline_engine.values import Dropped, Failed, Skipped


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
    assert result.waits == {"slot": 50.0, "backoff": 0.0, "fallback": 0.0, "shared": 0.0, "warm": 0.0}
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
    assert len(first._steps["summary"]._sample) == 50
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
            "max": 1.0,
            "slot_wait": 0.0,
            "backoff_wait": 0.0,
            "fallback_wait": 0.0,
            "shared_wait": 0.0,
            "warm_wait": 0.0,
            "input_tokens": 10,
            "output_tokens": 2,
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
            "max": 2.5,
            "slot_wait": 0.5,
            "backoff_wait": 0.0,
            "fallback_wait": 0.0,
            "shared_wait": 0.0,
            "warm_wait": 0.0,
            "input_tokens": 0,
            "output_tokens": 0,
        },
    ]
