"""A slot is held only while an attempt runs."""

import pytest
import trio

from pipeline_engine import Engine, Pipeline, Retry
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.values import AttemptFinished, AttemptStarted


def flaky_pipeline(seconds, failures, delay):
    """One step; documents whose name begins with "flaky" fail at first."""
    pipeline = Pipeline("flaky", inputs={"name": str})
    tries: dict[str, int] = {}

    @pipeline.step(retry=Retry(attempts=failures + 1, strategy="constant", base_delay=delay, jitter="none"))
    async def work(name: str) -> str:
        await trio.sleep(seconds)
        tries[name] = tries.get(name, 0) + 1
        if name.startswith("flaky") and tries[name] <= failures:
            raise ConnectionError(name)
        return name

    return pipeline


async def finish_times(pipeline, names, capacity):
    began = trio.current_time()
    times = {}
    async with Engine(capacity=capacity) as engine:
        bound = engine.bind(pipeline)
        async with BatchStream(engine, bound, [{"name": name} for name in names]) as results:
            async for result in results:
                times[result["work"]] = trio.current_time() - began
        assert engine.statistics().in_flight == 0
    return times


async def test_two_documents_that_back_off_slow_nobody_down(autojump_clock):
    """Six documents, two slots, two back off one second: the others finish as if these were not there."""
    names = ["flaky1", "flaky2", "a", "b", "c", "d"]
    times = await finish_times(flaky_pipeline(0.25, 1, 1.0), names, capacity=2)
    # The flaky ones take the first quarter second; from then on both slots are the healthy ones'.
    assert {name: times[name] for name in "abcd"} == {"a": 0.5, "b": 0.5, "c": 0.75, "d": 0.75}
    assert times["flaky1"] == times["flaky2"] == 1.5


async def test_the_published_probe_takes_the_ideal_time(autojump_clock):
    """Ten documents, half a second each, two slots, two fail twice with 2 s back-off: 5.5 s, not 7.5 s."""
    names = ["flaky1", "flaky2", *"abcdefgh"]
    times = await finish_times(flaky_pipeline(0.5, 2, 2.0), names, capacity=2)
    assert max(times[name] for name in "abcdefgh") == 2.5
    assert max(times.values()) == 5.5


@pytest.mark.parametrize("capacity", [1, 2, 5])
async def test_attempts_in_flight_never_exceed_the_capacity_and_reach_it(autojump_clock, capacity):
    """The capacity is a promise to the provider, and an idle slot is lost time."""
    pipeline = Pipeline("wide", inputs={"numbers": list[int]})

    @pipeline.step(each="numbers")
    async def work(number: int) -> int:
        await trio.sleep(1 + number % 3)
        return number

    async with Engine(capacity=capacity) as engine:
        result = await engine.run(pipeline, {"numbers": list(range(20))})
    in_flight = most = 0
    for record in result.records:
        in_flight += isinstance(record, AttemptStarted) - isinstance(record, AttemptFinished)
        most = max(most, in_flight)
    assert (most, in_flight) == (capacity, 0)


async def test_documents_are_served_first_come_first_served(autojump_clock):
    """Work on many documents at once must not make each of them late."""
    pipeline = Pipeline("two", inputs={"name": str})

    @pipeline.step
    async def first(name: str) -> str:
        await trio.sleep(1)
        return name

    @pipeline.step
    async def second(first: str) -> str:
        await trio.sleep(1)
        return first

    async with (
        Engine(capacity=1) as engine,
        BatchStream(engine, engine.bind(pipeline), [{"name": str(number)} for number in range(4)]) as results,
    ):
        finished = [(result["second"], trio.current_time()) async for result in results]
    began = finished[0][1] - 2
    assert [(name, at - began) for name, at in finished] == [("0", 2), ("1", 4), ("2", 6), ("3", 8)]


async def test_an_urgent_run_takes_the_next_free_slot(autojump_clock):
    """priority= is for the person who waits while a batch runs."""
    pipeline = flaky_pipeline(1, 0, 0)
    async with Engine(capacity=1) as engine, trio.open_nursery() as nursery:
        ended = {}

        async def run(name, priority):
            await engine.run(pipeline, {"name": name}, priority=priority)
            ended[name] = trio.current_time()

        nursery.start_soon(run, "first", 0)
        await trio.sleep(0.1)
        for number in range(5):
            nursery.start_soon(run, f"batch{number}", 0)
        await trio.sleep(0.1)
        nursery.start_soon(run, "urgent", 1)
    began = ended["first"] - 1
    assert ended["urgent"] - began == 2


async def test_a_run_inside_a_step_gives_the_slot_back_meanwhile(autojump_clock):
    """With one slot a step that waits for its own run would wait for ever."""
    from pipeline_engine import run_pipeline_async

    inner = Pipeline("inner", inputs={"number": int})

    @inner.step
    async def square(number: int) -> int:
        await trio.sleep(1)
        return number * number

    outer = Pipeline("outer", inputs={"number": int})

    @outer.step
    async def nested(number: int) -> int:
        return (await run_pipeline_async(inner, {"number": number}))[square] + 1

    async with Engine(capacity=1) as engine:
        result = await engine.run(outer, {"number": 3})
        assert result[nested] == 10
        assert engine.statistics().in_flight == 0
