"""Virtual time: what the engine starts by itself runs on clocks that jump, and real work is not jumped over."""

import asyncio  # noqa: TID251 - one of the ways in which the engine is called
import threading
import time

import pytest
import trio
from trio.testing import MockClock

from pipeline_engine import (
    Pipeline,
    Runner,
    StepTimeoutError,
    iter_batch,
    run_batch,
    run_pipeline,
    run_pipeline_async,
)
from pipeline_engine.schedule import outside
from pipeline_engine.testing import ScriptedModel, virtual_time

pipeline = Pipeline("article", inputs={"document": str})


@pipeline.llm("fast", str)
def title(document: str) -> str:
    return f"Give this a title: {document}"


@pipeline.llm("fast", str)
def summary(document: str, title: str) -> str:
    return f"Summarise “{title}”: {document}"


INPUTS = {"document": "The sea rises."}
MINUTE = 60.0


def slow_models():
    return {"fast": ScriptedModel({"*": "fine"}, latency=MINUTE)}


def test_run_pipeline_takes_virtual_time():
    """A plain test, without async and without trio, can be exact in time."""
    with virtual_time():
        result = run_pipeline(pipeline, INPUTS, models=slow_models())

    trace = result.trace
    assert (trace.started_at, trace["summary"].started_at, trace.makespan) == (0, MINUTE, 2 * MINUTE)


def test_each_run_begins_at_zero():
    """A test must not depend on what ran before it."""
    with virtual_time():
        starts = [run_pipeline(pipeline, INPUTS, models=slow_models()).trace.started_at for _ in range(2)]

    assert starts == [0, 0]


def test_batches_take_virtual_time():
    """run_batch and iter_batch start trio in ways of their own: one of them on a thread."""
    documents = [{"document": str(number)} for number in range(3)]
    with virtual_time():
        batch = run_batch(pipeline, documents, models=slow_models())
        with iter_batch(pipeline, documents, models=slow_models()) as results:
            makespans = [result.trace.makespan for result in results]

    assert batch.counts["completed"] == 3
    assert makespans == [2 * MINUTE] * 3


def test_a_runner_takes_virtual_time():
    """Web applications share one: their tests open it as the application does."""
    with virtual_time(), Runner(models=slow_models()) as runner:
        assert runner.run(pipeline, INPUTS).trace.makespan == 2 * MINUTE


def test_asyncio_callers_take_virtual_time():
    """The process' shared thread has a real clock: a test gets one of its own, and leaves none behind."""
    threads = set(threading.enumerate())

    async def main():
        return await run_pipeline_async(pipeline, INPUTS, models=slow_models())

    with virtual_time():
        result = asyncio.run(main())

    assert result.trace.makespan == 2 * MINUTE
    for thread in set(threading.enumerate()) - threads:
        if thread.name == "pipeline_engine trio of a test":
            thread.join(5)
            assert not thread.is_alive()


def test_threads_that_a_test_starts_are_in_virtual_time_too():
    """A host's own threads know nothing of the test's context."""
    makespans = []
    with virtual_time():
        thread = threading.Thread(
            target=lambda: makespans.append(run_pipeline(pipeline, INPUTS, models=slow_models()).trace.makespan)
        )
        thread.start()
        thread.join()

    assert makespans == [2 * MINUTE]


def test_after_the_block_time_is_real_again():
    """The next test may measure something, and an error must not leave the clock behind."""
    with pytest.raises(ZeroDivisionError), virtual_time():
        _ = 1 / 0

    started = time.perf_counter()
    result = run_pipeline(pipeline, INPUTS, models={"fast": ScriptedModel({"*": "fine"}, latency=0.02)})

    assert time.perf_counter() - started >= 0.04
    assert result.trace.started_at > 0


# Work outside of the loop

mixed = Pipeline("mixed", inputs={"document": str})


@mixed.step
def parsed(document: str) -> str:
    time.sleep(0.1)  # noqa: TID251 - a thread at work, in real time
    return document


@mixed.step(executor="asyncio")
async def fetched(document: str) -> str:
    await asyncio.sleep(0.1)
    return document


@mixed.llm("fast", str)
def quick(document: str) -> str:
    return document


@mixed.llm("fast", str)
def last(parsed: str, fetched: str) -> str:
    return parsed + fetched


def test_work_in_threads_takes_no_virtual_time(virtual_clock):
    """The clock must not jump over a thread to the end of a call that takes a minute, and call that exact."""
    models = {"fast": ScriptedModel({"*": "fine"}, latency={"quick": 60, "last": 5})}

    trace = run_pipeline(mixed, INPUTS, models=models).trace

    assert (trace["parsed"].ended_at, trace["fetched"].ended_at, trace["last"].ended_at) == (0, 0, 5)
    assert trace["quick"].ended_at == 60
    assert not [thread.name for thread in threading.enumerate() if thread.name == "pipeline_engine asyncio"]


def test_reading_documents_takes_no_virtual_time(virtual_clock):
    """An iterator may read files: it is advanced in a thread while the first documents are on their way."""

    def documents():
        for number in range(3):
            time.sleep(0.06)  # noqa: TID251 - a slow disk
            yield {"document": str(number)}

    batch = run_batch(pipeline, documents(), models=slow_models())

    assert [span.makespan for span in batch.trace.slowest] == [2 * MINUTE] * 3


def test_a_thread_that_hangs_still_runs_into_its_timeout(virtual_clock, monkeypatch):
    """The clock waits for work, and not for ever: a test of a hanging step must end."""
    monkeypatch.setattr(outside, "_PATIENCE", 0.05)
    hanging = Pipeline("hanging", inputs={"document": str})
    released = threading.Event()

    @hanging.step(timeout=30)
    def stuck(document: str) -> str:
        released.wait(20)
        return document

    try:
        result = run_pipeline(hanging, INPUTS)
    finally:
        released.set()

    assert isinstance(result.outcome("stuck").error, StepTimeoutError)
    assert result.trace["stuck"].ended_at == 30


def test_a_journals_writing_takes_no_virtual_time(virtual_clock, tmp_path):
    """A claim that waits for the disk must not run into its deadline, nor an output become durable minutes later."""
    models = {"fast": ScriptedModel({"*": "fine"}, latency={"title": MINUTE, "summary": MINUTE})}
    documents = [{"document": str(number)} for number in range(20)]

    batch = run_batch(pipeline, documents, models=models, capacity=5, journal=tmp_path / "journal.db")

    assert batch.counts["completed"] == 20
    single = run_pipeline(pipeline, INPUTS, models=models, journal=tmp_path / "journal.db").trace
    assert (single["summary"].started_at, single.makespan) == (MINUTE, 2 * MINUTE)


def test_a_run_inside_a_threads_step_does_not_wait_for_the_clock(virtual_clock, monkeypatch):
    """The step's thread waits for trio, which must not wait for the thread."""
    monkeypatch.setattr(outside, "_PATIENCE", 60.0)
    nested = Pipeline("nested", inputs={"document": str})

    @nested.step
    def inner(document: str) -> float:
        time.sleep(0.01)  # noqa: TID251 - a thread at work, in real time
        makespan = run_pipeline(pipeline, {"document": document}, models=slow_models()).trace.makespan
        time.sleep(0.01)  # noqa: TID251
        return makespan

    result = run_pipeline(nested, INPUTS)

    assert (result["inner"], result.trace.makespan) == (2 * MINUTE, 2 * MINUTE)


async def test_a_clock_of_pytest_trios_own_stands_still_as_well(autojump_clock):
    """Whoever has such a clock already need not change a test for it."""
    models = {"fast": ScriptedModel({"*": "fine"}, latency={"quick": 60, "last": 5})}

    result = await run_pipeline_async(mixed, INPUTS, models=models)

    assert result.trace["last"].started_at == 0
    assert autojump_clock.autojump_threshold == 0


def test_a_clock_that_does_not_jump_is_left_alone():
    """Its owner moves it by hand."""
    clock = MockClock()
    only_threads = Pipeline("only", inputs={"document": str})
    seen = []

    @only_threads.step
    def parsed(document: str) -> str:
        seen.append(clock.autojump_threshold)
        return document

    trio.run(lambda: run_pipeline_async(only_threads, INPUTS), clock=clock)

    assert seen == [float("inf")]
    assert clock.autojump_threshold == float("inf")
