"""Cancelled from outside, a run keeps what is finished and gives everything back."""

import threading

import pytest
import trio

from pipeline_engine import Engine, Pipeline, Retry, StepTimeoutError, iter_batch_async
from pipeline_engine.testing import ScriptedModel
from pipeline_engine.values import AttemptFinished, AttemptStarted, RunFinished, StepFinished, StepReady, Stopped


class Keep:
    """A sink that keeps the records of every run."""

    def __init__(self):
        self.runs = []

    def open_run(self, started):
        self.runs.append([started])
        return self.runs[-1].append


def slow_pipeline():
    pipeline = Pipeline("slow", inputs={"document": str})

    @pipeline.llm("fast", str)
    def first(document: str) -> str:
        return document

    @pipeline.llm("fast", str, retry=Retry(attempts=9, jitter="none"))
    def second(first: str) -> str:
        return first

    return pipeline


async def test_a_cancellation_propagates_and_every_record_has_its_end(autojump_clock):
    """A dashboard that shows calls which ended long ago as running is worse than none."""
    keep = Keep()
    model = ScriptedModel({"*": "x"}, latency=10)
    async with Engine(models={"fast": model}, sinks=[keep]) as engine:
        with trio.move_on_after(15) as scope:
            await engine.run(slow_pipeline(), {"document": "x"})
        assert scope.cancelled_caught
        statistics = engine.statistics()
    assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
    [records] = keep.runs
    outcomes = {record.step: record.outcome for record in records if isinstance(record, StepFinished)}
    assert outcomes["first"].value == "x"
    assert outcomes["second"] == Stopped("cancelled")
    last_attempt = [record for record in records if isinstance(record, AttemptFinished)][-1]
    assert (last_attempt.step, last_attempt.fault.kind) == ("second", "cancelled")
    starts = sum(isinstance(record, AttemptStarted) for record in records)
    assert starts == sum(isinstance(record, AttemptFinished) for record in records)
    assert isinstance(records[-1], RunFinished)
    assert records[-1].status == "stopped"


async def test_cancelled_while_it_waits_for_a_slot_it_leaves_the_queue(autojump_clock):
    """A forgotten entry would start a call for a caller who has gone."""
    pipeline = slow_pipeline()
    model = ScriptedModel({"*": "x"}, latency=10)
    async with Engine(models={"fast": model}, capacity=1) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.run, pipeline, {"document": "a"})
        await trio.sleep(1)
        with trio.move_on_after(2):
            await engine.run(pipeline, {"document": "b"})
        assert engine.statistics().ready == 0
    assert [request.messages[0].text for request in model.requests] == ["a", "x"]


async def test_the_engine_serves_on_after_many_cancelled_runs(autojump_clock):
    """A slot lost with each impatient user stops the service some day."""
    model = ScriptedModel({"*": "x"}, latency=1)
    async with Engine(models={"fast": model}, capacity=2) as engine:
        pipeline = slow_pipeline()
        for number in range(50):
            with trio.move_on_after(0.1 * (number % 25)):
                await engine.run(pipeline, {"document": str(number)})
        result = await engine.run(pipeline, {"document": "last"})
        assert result.status == "completed"
        assert engine.statistics().in_flight == 0


async def test_leaving_a_batch_early_cancels_what_is_in_flight(autojump_clock):
    """The first good answer is often all that is wanted; the rest must not be paid for."""
    model = ScriptedModel({"*": "x"}, latency=lambda context: float(context.document))
    from pipeline_engine import Document

    documents = [Document(str(number), {"document": "d"}) for number in range(1, 50)]
    async with Engine(models={"fast": model}, capacity=100) as engine:
        async with iter_batch_async(slow_pipeline(), documents, engine=engine) as results:
            async for result in results:
                assert result.document == "1"
                break
        assert engine.statistics().in_flight == 0
        assert trio.current_time() - result.trace.started_at == 2


async def test_what_an_impatient_caller_raises_in_the_block_comes_out_as_it_is(autojump_clock):
    """A bare group of exceptions is a riddle to the user."""
    model = ScriptedModel({"*": "x"}, latency=1)
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - what the block raises is the point
        async with iter_batch_async(
            slow_pipeline(), [{"document": "a"}, {"document": "b"}], models={"fast": model}
        ) as results:
            async for _ in results:
                raise ZeroDivisionError


async def test_a_thread_that_timed_out_keeps_its_slot_until_it_returns():
    """It cannot be stopped: counting it out would let more work run than the capacity allows."""
    pipeline = Pipeline("stuck", inputs={"document": str})
    may_return, returned = threading.Event(), threading.Event()

    @pipeline.step(timeout=0.05)
    def stuck(document: str) -> str:
        may_return.wait(10)
        returned.set()
        return document

    async with Engine(capacity=1) as engine:
        result = await engine.run(pipeline, {"document": "x"})
        error = result.outcome(stuck).error
        assert isinstance(error, StepTimeoutError)
        assert error.is_abandoned
        assert engine.statistics().in_flight == 1
        may_return.set()
        await trio.to_thread.run_sync(returned.wait)
        with trio.fail_after(5):
            await engine.scheduler.wait_for_room()
        assert engine.statistics().in_flight == 0


async def test_items_that_wait_are_ended_too(autojump_clock):
    """Each item that was ready has an outcome, also when the run is cut."""
    keep = Keep()
    pipeline = Pipeline("items", inputs={"numbers": list[int]})

    @pipeline.step(each="numbers")
    async def work(number: int) -> int:
        await trio.sleep(10)
        return number

    async with Engine(capacity=2, sinks=[keep]) as engine:
        result = await engine.run(pipeline, {"numbers": list(range(6))}, timeout=15)
    assert [type(item).__name__ for item in result.items(work)] == ["Completed"] * 2 + ["Stopped"] * 4
    [records] = keep.runs
    ready = {record.item for record in records if isinstance(record, StepReady)}
    ended = {record.item for record in records if isinstance(record, StepFinished)}
    assert ready <= ended
