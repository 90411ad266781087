"""Following one run: events by iteration, the result at the end, and an end in any case."""

import pytest
import trio

from pipeline_engine import Delta, Engine, Pipeline
from pipeline_engine.run.stream import RunStream
from pipeline_engine.testing import ScriptedModel


async def test_iterating_gives_the_events_and_ends_with_the_run(autojump_clock):
    """`async for` is all that a page has to write."""
    stream = RunStream()

    async def run():
        await trio.sleep(1.0)
        stream.follower.tell(Delta("ask", None, "a"))
        await trio.sleep(1.0)
        return "the result"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.fill, run)
        told = [(trio.current_time(), event) async for event in stream]

    assert told == [(1.0, Delta("ask", None, "a"))]
    assert trio.current_time() == 2.0
    assert stream.result == "the result"


async def test_the_result_is_refused_while_the_run_goes_on(autojump_clock):
    """Half a result would be taken for a whole one."""
    stream = RunStream()
    with pytest.raises(RuntimeError) as caught:
        _ = stream.result
    assert str(caught.value) == "the run is not over, so it has no result. Read its events to their end first."


async def test_the_result_is_there_when_the_run_is_over_although_events_were_not_read(autojump_clock):
    """What is known need not be withheld."""
    stream = RunStream()

    async def run():
        stream.follower.tell(Delta("ask", None, "a"))
        return "the result"

    await stream.fill(run)
    assert stream.result == "the result"
    assert [event async for event in stream] == [Delta("ask", None, "a")]


async def test_a_run_that_breaks_ends_the_iteration(autojump_clock):
    """A reader that waits for ever hides the error that it waits for."""
    stream = RunStream()

    async def run():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await stream.fill(run)
    assert [event async for event in stream] == []
    with pytest.raises(RuntimeError, match="no result"):
        _ = stream.result


async def test_a_run_that_is_cancelled_ends_the_iteration(autojump_clock):
    """The same for a run that somebody ends."""
    stream = RunStream()
    with trio.move_on_after(1.0):
        await stream.fill(trio.sleep_forever)
    assert [event async for event in stream] == []


async def test_a_bug_of_the_engine_comes_out_of_the_block_as_itself(autojump_clock):
    """It must neither hang the reader nor hide in a group."""
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", str, name="ask", stream=True)(lambda document: document)

    class Broken(BaseException):
        """What no step's failure is."""

    class Breaking:
        async def complete(self, request):
            raise Broken

    async with Engine(models={"fast": Breaking()}) as engine:
        with pytest.raises(Broken):  # noqa: PT012 - what comes out of the block is the point
            async with engine.stream(pipeline, {"document": "x"}) as events:
                async for _ in events:
                    pass
        assert engine.statistics().in_flight == 0


async def test_one_stream_can_be_read_in_two_loops(autojump_clock):
    """The headline first, the rest elsewhere."""
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", str, name="ask", stream=True)(lambda document: document)
    async with (
        Engine(models={"fast": ScriptedModel({"ask": "one two three"}, latency=3.0)}) as engine,
        engine.stream(pipeline, {"document": "x"}) as events,
    ):
        first = await anext(events)
        rest = [event.text async for event in events if isinstance(event, Delta)]
    assert (first.text, rest) == ("one", [" two", " three"])
    assert events.result["ask"] == "one two three"
