"""The verdict on a batch: which bound held it, how near it came, and what would shorten it."""

from dataclasses import replace

import pytest
import trio
import trio.testing

from pipeline_engine import Limits, Pipeline, run_batch_async
from pipeline_engine.report import Totals
from pipeline_engine.report.batch_bounds import BatchBounds, Bound, draw_batch_verdict
from pipeline_engine.testing import ScriptedModel


def batch_of(documents, latency, *, capacity=4, limits=None, usage=None):
    """Run documents of two steps in a row on the virtual clock, and return the batch's trace."""
    pipeline = Pipeline("two", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"title {document}"

    @pipeline.llm("fast", str)
    def summary(document: str, title: str) -> str:
        return f"summary {document}"

    model = ScriptedModel({"*": "words"}, latency=latency, name="own:model", limits=limits)

    async def main():
        inputs = [{"document": f"d{number}"} for number in range(documents)]
        return await run_batch_async(pipeline, inputs, models={"fast": model}, capacity=capacity)

    return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)).trace


def told(batch):
    return [(bound.kind, round(bound.seconds, 3)) for bound in batch.bounds.bounds]


def test_a_batch_on_too_few_slots_is_bound_by_them():
    """24 attempts of 1 s on 4 slots take 6 s, and a document by itself 2."""
    batch = batch_of(12, 1.0)

    assert batch.makespan == pytest.approx(6.0, abs=1e-3)
    assert told(batch) == [("slots", 6.0), ("critical path", 2.0)]
    told_by = "12 documents in 6.0 s; 4 slots allow no less than 6.0 s (100 % of it); more slots gain at most 67 %"
    assert batch.verdict == told_by


def test_a_batch_at_its_rate_limit_says_so_and_that_slots_cannot_help():
    """The wrong cure costs a day: whoever reads "more slots" buys nothing with them here."""
    batch = batch_of(10, 0.1, capacity=64, limits=Limits(rpm=60, burst_requests=1))

    assert batch.makespan == pytest.approx(19.1, abs=1e-3)
    assert told(batch)[0] == ("requests", 19.0)
    assert "60 requests per minute of own:model allow no less than 19.0 s (99 % of it)" in batch.verdict
    assert "more slots cannot help" in batch.verdict
    assert "raise the model's requests per minute" in batch.verdict


def test_a_models_concurrency_is_a_bound_of_its_own():
    """It looks like a lack of slots, and is none."""
    batch = batch_of(10, 1.0, capacity=64, limits=Limits(max_concurrency=2))
    assert told(batch)[0] == ("concurrency", 10.0)
    assert "2 calls at once to own:model allow no less than 10.0 s (100 % of it)" in batch.verdict


def test_a_batch_of_one_document_is_bound_by_its_longest_chain():
    """Nothing but shorter steps helps there."""
    batch = batch_of(1, 1.0)
    assert told(batch) == [("critical path", 2.0), ("slots", 0.5)]
    assert batch.verdict.endswith(
        "(title → summary) alone needs 2.0 s (100 % of it); more slots cannot help; "
        "only shorter or fewer steps in a row can"
    )


def test_where_slots_would_help_a_little_the_verdict_does_not_deny_it():
    """One sentence that says both "they gain 33 %" and "only something else can" is believed by nobody."""
    bounds = BatchBounds(
        3.0, 0.0, (Bound("critical path", 2.0, "d0 (title → summary)"), Bound("slots", 1.5, "4 slots"))
    )

    verdict = draw_batch_verdict(bounds, 4, {})

    assert verdict.endswith("more slots gain at most 33 %; only shorter or fewer steps in a row gain more")


def test_a_batch_of_which_nothing_was_run_says_just_that():
    """All of its documents had ended before: no time and no bound is to be told."""
    assert Totals().result().verdict == "no document was run"


def test_time_in_which_nothing_was_in_flight_is_not_the_makespan(record_stream):
    """A batch that was interrupted on Friday and resumed on Monday did not take three days."""
    totals = Totals()
    for number, wall_time in enumerate([1000.0, 1001.0, 200_000.0]):
        trace = record_stream(document=f"d{number}").declare("title").simple("title", 0.0, 0.0, 2.0).trace(2.0)
        totals.add(replace(trace, wall_time=wall_time))
    batch = totals.result()

    assert (batch.started_at, batch.ended_at) == (1000.0, 200_002.0)
    assert batch.makespan == 5.0
    assert batch.bounds.idle == pytest.approx(198_997.0)
    assert "3 documents in 5.0 s (and 55 h 17 min in which none was in flight)" in batch.verdict


def test_a_bound_that_was_passed_is_no_bound(record_stream):
    """Two processes have twice the slots: what one of them has says nothing about both together."""
    totals = Totals()
    for number in range(4):
        run = record_stream(document=f"d{number}", capacity=1).declare("title").simple("title", 0.0, 0.0, 2.0)
        totals.add(run.trace(2.0))
    assert told(totals.result()) == [("critical path", 2.0)]


def test_slots_that_were_never_all_taken_are_not_recommended():
    """Documents that trickle in leave slots idle: to buy more of them would change nothing."""
    pipeline = Pipeline("one", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"title {document}"

    async def trickle():
        for number in range(10):
            yield {"document": f"d{number}"}
            await trio.sleep(10)

    async def main():
        model = ScriptedModel({"*": "words"}, latency=1.0)
        return await run_batch_async(pipeline, trickle(), models={"fast": model}, capacity=10)

    batch = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)).trace
    assert batch.bounds.gain_without("slots") == pytest.approx(0.1)
