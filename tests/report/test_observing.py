"""Whoever looks on: what it counts at every instant of a run, and that nothing is left when all has ended."""

import gc
import sys

import pytest
import trio

from pipeline_engine import Engine, Hedge, Pipeline, Policy, Price, Retry, Usage
from pipeline_engine.errors import RejectedError, UnavailableError
from pipeline_engine.providers.scripted import Reply, ScriptedModel, in_turn
from pipeline_engine.report import ErrorCount, InFlight, Observer
from pipeline_engine.values import Cost, HedgeFinished, RunFinished, RunStarted, StepReady


def now(observer):
    return observer.present(trio.current_time())


async def test_documents_attempts_and_tokens_are_known_at_every_instant(autojump_clock):
    """What a picture shows is read from the records that everybody reads."""
    pipeline = Pipeline("two", inputs={"text": str})

    @pipeline.llm("fast", str)
    def first(text: str) -> str:
        return text

    @pipeline.llm("fast", str)
    def second(text: str, first: str) -> str:
        return text

    observer = Observer()
    model = ScriptedModel({"*": Reply("x", usage=Usage(10, 2))}, latency=1.0)
    async with Engine(models={"fast": model}, sinks=[observer], capacity=8) as engine, trio.open_nursery() as nursery:
        for text in ("a", "b"):
            nursery.start_soon(engine.run, pipeline, {"text": text})
        await trio.sleep(0.5)
        early = now(observer)
        await trio.sleep(1.0)
        late = now(observer)

    assert (early.in_flight, early.attempts, early.usage, early.capacity) == (2, {"first": 2}, Usage(), 8)
    assert (late.in_flight, late.attempts, late.usage) == (2, {"second": 2}, Usage(20, 4))
    end = now(observer)
    assert (end.in_flight, end.attempts, end.waits, end.usage) == (0, {}, {}, Usage(40, 8))
    assert (end.documents, end.ended_attempts, end.elapsed) == ({"completed": 2}, 4, 2.0)


async def test_a_wait_is_known_by_its_cause_while_it_lasts(autojump_clock):
    """Whoever sees a batch stand still wants to know why now, and not in the report afterwards."""
    pipeline = Pipeline("one", inputs={"text": str}, policy=Policy(retry=Retry(base_delay=10, jitter="none")))

    @pipeline.llm("fast", str)
    def title(text: str) -> str:
        return text

    observer = Observer()
    fault = UnavailableError("is down", model="m:m", kind="server_error", status=500)
    model = ScriptedModel({"*": in_turn(fault, "x")}, latency=1.0)
    async with Engine(models={"fast": model}, sinks=[observer], capacity=1) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.run, pipeline, {"text": "a"})
        await trio.sleep(0.5)
        nursery.start_soon(engine.run, pipeline, {"text": "b"})
        await trio.sleep(0.25)
        queued = now(observer)
        await trio.sleep(5)
        backing_off = now(observer)

    assert (queued.attempts, queued.waits) == ({"title": 1}, {"slot": 1})
    assert (backing_off.attempts, backing_off.waits) == ({}, {"backoff": 2})
    assert backing_off.longest[0] == InFlight(backing_off.longest[0].document, 5.75, "title", "backoff")
    assert backing_off.faults == (ErrorCount("server_error", 2, "model 'm:m' is down"),)
    assert (now(observer).retries, now(observer).errors) == (2, ())


async def test_a_scheduler_that_knows_better_is_believed(autojump_clock):
    """Records tell afterwards what a turn was waited for; the queue knows it meanwhile."""
    observer = Observer()
    read = observer.open_run(RunStarted(0.0, "r", "a", None, 0.0, 4))
    for step in ("a", "b", "c"):
        read(StepReady(0.0, step, None, None))

    assert observer.present(1.0).waits == {"slot": 3}
    assert observer.present(1.0, queued={"tokens": 2, "slot": 1}).waits == {"tokens": 2, "slot": 1}


async def test_what_was_spent_is_known_lost_calls_included(autojump_clock):
    """A budget is watched while it is being spent, not afterwards."""
    pipeline = Pipeline("one", inputs={"text": str})

    @pipeline.llm("fast", str, hedge=Hedge(after=1.0, max_extra=1.0))
    def first(text: str) -> str:
        return text

    observer = Observer()
    model = ScriptedModel(
        {"*": Reply("x", usage=Usage(1_000_000, 0))}, latency=3.0, price=Price(input_usd=2, output_usd=0)
    )
    async with Engine(models={"fast": model}, sinks=[observer]) as engine:
        result = await engine.run(pipeline, {"text": "word " * 100})

    lost = [record.cost for record in result.records if isinstance(record, HedgeFinished)]
    assert len(lost) == 1
    assert observer.present(3.0).cost == Cost(2.0) + lost[0]
    assert lost[0].usd > 0


async def test_an_item_that_fails_is_one_error_not_two(autojump_clock):
    """A mapped step fails because its item does: that is one thing to look at."""
    pipeline = Pipeline("mapped", inputs={"texts": list[str]})

    @pipeline.llm("fast", str, each="texts")
    def note(text: str) -> str:
        return text

    observer = Observer()
    fault = RejectedError("has no such thing", model="m:m", kind="not_found", status=404)
    model = ScriptedModel({"*": lambda request: fault if request.messages[-1].text == "b" else "x"}, latency=1.0)
    async with Engine(models={"fast": model}, sinks=[observer]) as engine:
        await engine.run(pipeline, {"texts": ["a", "b", "c"]})

    assert [(error.kind, error.times) for error in now(observer).errors] == [("not_found", 1)]
    assert now(observer).documents == {"failed": 1}


async def test_a_run_that_is_cancelled_leaves_nothing_behind(autojump_clock):
    """A picture that still shows calls in flight of a run that was cancelled would never come to rest."""
    pipeline = Pipeline("one", inputs={"text": str})

    @pipeline.llm("fast", str)
    def title(text: str) -> str:
        return text

    observer = Observer()
    async with Engine(models={"fast": ScriptedModel({"*": "x"}, latency=60.0)}, sinks=[observer]) as engine:
        with trio.move_on_after(1):
            await engine.run(pipeline, {"text": "a"})

    end = now(observer)
    assert (end.in_flight, end.attempts, end.waits, end.longest) == (0, {}, {}, ())


@pytest.mark.parametrize("count", [2000])
def test_memory_does_not_grow_with_what_has_ended(count):
    """A batch of a million documents is watched for hours."""
    observer = Observer()

    def run_all(start):
        for number in range(start, start + count):
            read = observer.open_run(RunStarted(float(number), f"r{number}", f"d{number}", None, 0.0, 4))
            read(StepReady(float(number), "a", None, None))
            read(RunFinished(float(number), "completed"))

    run_all(0)
    gc.collect()
    before = sys.getallocatedblocks()
    run_all(count)
    gc.collect()

    assert sys.getallocatedblocks() - before < 200
    assert observer.present(2.0 * count).documents == {"completed": 2 * count}


def test_kinds_of_errors_are_bounded():
    """An error's kind may come from a provider's reply: each of a million could be a new one."""
    from pipeline_engine.values import AttemptFinished, Fault

    observer = Observer()
    read = observer.open_run(RunStarted(0.0, "r", "a", None, 0.0, 4))
    for number in range(100):
        read(AttemptFinished(1.0, "a", None, 1, Fault(f"kind {number}", "said " + "x" * 9999)))

    faults = observer.present(2.0).faults
    assert len(faults) == 20
    assert sum(fault.times for fault in faults) == 100
    assert faults[0].kind == "others"
    assert all(len(fault.message) <= 200 for fault in faults)


def test_the_rate_forgets_what_is_long_ago():
    """After an hour's stall the estimate must speak of now."""
    observer = Observer()

    def end(number, at):
        observer.open_run(RunStarted(at, f"r{number}", "d", None, 0.0, 4))(RunFinished(at, "completed"))

    observer.started_at = 0.0
    for number in range(60):
        end(number, float(number))
    steady = observer.present(60.0).rate

    assert steady == pytest.approx(1.0, rel=0.03)
    assert observer.present(3600.0).rate < 0.01
