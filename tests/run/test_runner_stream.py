"""Following a run from threads and from asyncio: pieces one by one, a bound on what waits, and an end in any case."""

import asyncio  # noqa: TID251 - the reader's own loop
import concurrent.futures
import threading

import pytest
import trio
import trio.testing

from pipeline_engine import (
    Completion,
    Delta,
    EngineClosedError,
    InputError,
    OverloadError,
    Pipeline,
    PlanError,
    Restarted,
    Retry,
    Runner,
    StepFinished,
    UnavailableError,
)
from pipeline_engine.run.channel import ThreadChannel
from pipeline_engine.testing import Reply, ScriptedModel

AT_ONCE = Retry(attempts=2, base_delay=0.001, jitter="none")
PIECES = [f"{number} " for number in range(1000)]


def one_step(**options):
    """A pipeline whose one step streams its reply."""
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", str, name="ask", stream=True, **options)(lambda document: document)
    return pipeline


class Speaking:
    """A model that gives a thousand pieces as fast as they are taken, and tells what became of it."""

    name = "fake:speaking"

    def __init__(self):
        self.given = 0
        self.began, self.ended, self.was_cancelled = threading.Event(), threading.Event(), False

    async def complete(self, request):
        raise NotImplementedError

    async def stream(self, request, take):
        self.began.set()
        try:
            for piece in PIECES:
                await take(piece)
                self.given += 1
        except trio.Cancelled:
            self.was_cancelled = True
            raise
        finally:
            self.ended.set()
        return Completion("".join(PIECES), model=self.name)


class Hanging(Speaking):
    """A model that gives one piece, and then nothing more."""

    async def stream(self, request, take):
        self.began.set()
        try:
            await take("one")
            await trio.sleep_forever()
        except trio.Cancelled:
            self.was_cancelled = True
            raise
        finally:
            self.ended.set()


def settle(runner):
    """Wait until everything on the runner's thread waits for something."""

    async def wait(_engine):
        await trio.testing.wait_all_tasks_blocked()

    runner.call(wait)


@pytest.fixture
def hanging():
    return Hanging()


@pytest.fixture
def speaking():
    return Speaking()


MODELS = {"fast": ScriptedModel({"ask": "Tea is hot."})}


# In a thread


def test_a_thread_reads_pieces_and_outcomes_and_then_the_result():
    """A command line and a notebook print the reply as it is written."""
    with Runner(models=MODELS) as runner:
        with runner.stream(one_step(), {"document": "x"}, key="a") as events:
            told = list(events)
        result = events.result

    assert told[:3] == [Delta("ask", None, "Tea"), Delta("ask", None, " is"), Delta("ask", None, " hot.")]
    assert [(type(event), event.step) for event in told[3:]] == [(StepFinished, "ask")]
    assert (result["ask"], result.document) == ("Tea is hot.", "a")


def test_a_piece_is_there_before_the_reply_has_ended(hanging):
    """Otherwise it would be no stream."""
    with Runner(models={"fast": hanging}) as runner, runner.stream(one_step(), {"document": "x"}) as events:
        assert next(events) == Delta("ask", None, "one")
        assert not hanging.ended.is_set()
        with pytest.raises(RuntimeError, match="the run is not over, so it has no result"):
            _ = events.result


def test_a_reply_that_begins_again_says_so():
    """What was shown is void."""
    down = UnavailableError("failed (HTTP 502).", model="scripted:model", kind="server", status=502)

    class Breaking(ScriptedModel):
        async def stream(self, request, take):
            if len(self.requests) == 0:
                self.requests.append(request)
                await take("half")
                raise down
            return await super().stream(request, take)

    with (
        Runner(models={"fast": Breaking({"ask": "whole"})}) as runner,
        runner.stream(one_step(retry=AT_ONCE), {"document": "x"}) as events,
    ):
        told = [event for event in events if not isinstance(event, StepFinished)]
    assert told == [Delta("ask", None, "half"), Restarted("ask", None), Delta("ask", None, "whole")]


def test_a_slow_reader_slows_the_provider(speaking):
    """Bounded memory, whatever a client that hardly reads does: 16 events cross ahead, and 64 wait on the loop."""
    with Runner(models={"fast": speaking}) as runner, runner.stream(one_step(), {"document": "x"}) as events:
        settle(runner)
        # One more is in the hand of whoever carries it across.
        assert speaking.given == 16 + 1 + 64
        assert [next(events).text for _ in range(10)] == PIECES[:10]
        settle(runner)
        assert speaking.given == 10 + 16 + 1 + 64
        rest = [event.text for event in events if isinstance(event, Delta)]
    assert rest == PIECES[10:]
    assert events.result["ask"] == "".join(PIECES)


def test_leaving_the_block_cancels_the_run_and_waits_until_it_has_left(speaking):
    """The bill stops there, and the next run finds the slot free."""
    with Runner(models={"fast": speaking}, capacity=1, max_pending=1) as runner:
        with runner.stream(one_step(), {"document": "x"}) as events:
            next(events)
        assert speaking.was_cancelled
        assert runner.pending == 0
        assert runner.statistics().in_flight == 0


def test_an_error_of_the_block_leaves_it_as_itself(speaking):
    """The reader's bug is not to be dressed up as the run's."""
    with Runner(models={"fast": speaking}) as runner:
        with pytest.raises(ZeroDivisionError), runner.stream(one_step(), {"document": "x"}):
            _ = 1 / 0
        assert speaking.was_cancelled


def test_what_is_wrong_is_raised_on_entering_the_block():
    """A web server still has the choice of its status there."""
    with Runner(models=MODELS) as runner:
        with pytest.raises(InputError), runner.stream(one_step(), {"dokument": "x"}):
            pass
        with pytest.raises(PlanError), runner.stream(one_step(), {"document": "x"}, models={}):
            pass
        with pytest.raises(ValueError, match="a timeout is positive"), runner.stream(one_step(), {}, timeout=0):
            pass
        assert runner.pending == 0
    with pytest.raises(EngineClosedError), runner.stream(one_step(), {"document": "x"}):
        pass


def test_a_stream_is_opened_once_and_read_in_its_own_way():
    """A `for` loop in an asyncio handler would stop the whole server, without a word."""
    with Runner(models=MODELS) as runner:
        stream = runner.stream(one_step(), {"document": "x"})
        with pytest.raises(TypeError, match="in a thread a stream is opened and read with `with` and `for`"):
            iter(stream)
        with pytest.raises(TypeError, match="under asyncio a stream is opened and read with `async with`"):
            aiter(stream)
        with stream:
            with pytest.raises(TypeError, match="under asyncio"):
                aiter(stream)
            list(stream)
        with pytest.raises(RuntimeError, match="this stream was opened before"):
            stream.__enter__()


def test_closing_the_runner_does_not_wait_for_a_reader_that_reads_no_more(speaking):
    """The rest of the reply is kept: the reader may have it yet."""
    runner = Runner(models={"fast": speaking}).open()
    with runner.stream(one_step(), {"document": "x"}) as events:
        settle(runner)
        runner.close()
        assert [event.text for event in events if isinstance(event, Delta)] == PIECES
    assert events.result["ask"] == "".join(PIECES)


def test_a_run_cut_off_by_the_closing_is_an_error_of_its_reader(hanging):
    """Half a reply must not look like a whole one."""
    runner = Runner(models={"fast": hanging}).open()
    with runner.stream(one_step(), {"document": "x"}) as events:
        assert next(events) == Delta("ask", None, "one")
        runner.close(timeout=0)
        with pytest.raises(EngineClosedError, match="was closed before the run had ended"):
            next(events)


def test_a_step_may_follow_a_run_on_the_runner_that_runs_it():
    """Its slot is given back meanwhile, and it takes no second place."""
    outer = Pipeline("outer", inputs={"document": str})

    @outer.step(executor="thread")
    def followed(document: str) -> str:
        with runner.stream(one_step(), {"document": document}, models=MODELS) as events:
            return "|".join(event.text for event in events if isinstance(event, Delta))

    with Runner(capacity=1, max_pending=1) as runner:
        assert runner.run(outer, {"document": "x"}, timeout=5)["followed"] == "Tea| is| hot."


# Under asyncio


def test_asyncio_reads_the_same_without_blocking_its_loop(hanging):
    """A web server relays the pieces of many replies at once."""

    async def main():
        ticks = 0
        with Runner(models={"fast": hanging}) as runner:
            async with runner.stream(one_step(), {"document": "x"}) as events:
                assert await anext(events) == Delta("ask", None, "one")
                waiting = asyncio.create_task(anext(events))
                for _ in range(10):
                    await asyncio.sleep(0)
                    ticks += 1
                assert not waiting.done()
                waiting.cancel()
            assert hanging.was_cancelled
            async with runner.stream(one_step(), {"document": "x"}, models=MODELS) as events:
                told = [event.text async for event in events if isinstance(event, Delta)]
            return ticks, told, events.result["ask"]

    assert asyncio.run(main()) == (10, ["Tea", " is", " hot."], "Tea is hot.")


def test_cancelling_the_task_that_reads_cancels_the_run_and_waits_until_it_has_left(hanging):
    """A client that goes away must not be paid for; what cleans up is not left running behind."""

    async def read(runner):
        async with runner.stream(one_step(), {"document": "x"}) as events:
            async for _ in events:
                reading.set()

    async def main():
        with Runner(models={"fast": hanging}, max_pending=1) as runner:
            task = asyncio.create_task(read(runner))
            await reading.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return hanging.ended.is_set(), runner.pending

    reading = asyncio.Event()
    assert asyncio.run(main()) == (True, 0)
    assert hanging.was_cancelled


def test_cancelling_the_task_while_it_enters_cancels_the_run():
    """A client may be gone before the first byte."""

    async def main():
        entered, may_go_on = threading.Event(), threading.Event()

        async def block(_engine):
            entered.set()
            may_go_on.wait(5)  # holds up the runner's loop, so that the stream cannot begin

        with Runner(models=MODELS) as runner:
            runner.start(block)
            await asyncio.to_thread(entered.wait, 5)
            stream = runner.stream(one_step(), {"document": "x"})
            task = asyncio.create_task(stream.__aenter__())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            may_go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
            return runner.pending

    assert asyncio.run(main()) == 0


def test_a_read_that_timed_out_has_lost_nothing(speaking):
    """Whoever sends a sign of life every few seconds waits so; a piece less would spoil the reply."""
    got = []

    async def main():
        with Runner(models={"fast": speaking}) as runner:
            async with runner.stream(one_step(), {"document": "x"}) as events:
                while True:
                    try:
                        event = await asyncio.wait_for(anext(events), timeout=1e-5)
                    except TimeoutError:
                        continue
                    except StopAsyncIteration:
                        return
                    if isinstance(event, Delta):
                        got.append(event.text)

    asyncio.run(main())
    assert got == PIECES


def test_a_slow_asyncio_reader_slows_the_provider(speaking):
    """The same bound as in a thread."""

    async def main():
        with Runner(models={"fast": speaking}) as runner:
            async with runner.stream(one_step(), {"document": "x"}) as events:
                await asyncio.to_thread(settle, runner)
                given = speaking.given
                read = [event.text async for event in events if isinstance(event, Delta)]
        return given, read

    assert asyncio.run(main()) == (16 + 1 + 64, PIECES)


def test_closing_in_the_loop_of_a_reader_does_not_hang(speaking):
    """A lifespan that ends blocks the loop on which the readers live."""

    async def main():
        runner = Runner(models={"fast": speaking}).open()
        async with runner.stream(one_step(), {"document": "x"}) as events:
            await anext(events)
            runner.close()
            return [event.text async for event in events if isinstance(event, Delta)]

    assert asyncio.run(main()) == PIECES[1:]


def test_errors_of_opening_cross_to_asyncio(speaking):
    """The same as in a thread; the overload is what a server answers with 503."""

    async def main():
        with Runner(models={"fast": speaking}, max_pending=1) as runner:
            async with runner.stream(one_step(), {"document": "x"}):
                with pytest.raises(OverloadError):
                    async with runner.stream(one_step(), {"document": "x"}):
                        pass
            with pytest.raises(InputError):
                async with runner.stream(one_step(), {"dokument": "x"}):
                    pass

    asyncio.run(main())


async def test_under_trio_it_names_the_engine():
    """There the engine's own stream needs no thread at all."""
    with Runner(models=MODELS) as runner:
        with pytest.raises(RuntimeError) as caught:
            async with runner.stream(one_step(), {"document": "x"}):
                pass
        assert runner.pending == 0
    assert str(caught.value) == (
        "`async with runner.stream(…)` is for asyncio, which does not run here. Under trio open an Engine, "
        "and use `async with engine.stream(…)`."
    )


def test_many_streams_at_once_each_get_their_own_pieces():
    """Threads and tasks share one runner; no reader may see another's reply."""
    models = {"fast": ScriptedModel({"ask": lambda request: Reply(request.messages[0].text)}, latency=0.01)}

    async def read(runner, number):
        async with runner.stream(one_step(), {"document": f"a {number}"}) as events:
            return "".join([event.text async for event in events if isinstance(event, Delta)])

    async def read_all(runner):
        return await asyncio.gather(*(read(runner, number) for number in range(20)))

    def read_in_thread(number):
        with runner.stream(one_step(), {"document": f"b {number}"}) as events:
            return "".join(event.text for event in events if isinstance(event, Delta))

    with Runner(models=models) as runner, concurrent.futures.ThreadPoolExecutor(20) as pool:
        in_threads = pool.map(read_in_thread, range(20))
        assert asyncio.run(read_all(runner)) == [f"a {number}" for number in range(20)]
        assert list(in_threads) == [f"b {number}" for number in range(20)]


# What carries the events across


def test_several_readers_of_a_channel_get_each_item_once():
    """No item may be lost or doubled, whoever reads."""
    channel = ThreadChannel(4)

    def read():
        got = []
        while (item := channel.receive()) is not None:
            got.append(item)
        return got

    async def send():
        for item in range(1, 501):
            await channel.send(item)
        channel.close()

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        trio.run(send)
        got = [reader.result(timeout=10) for reader in readers]
    assert sorted(item for items in got for item in items) == list(range(1, 501))
    assert all(items == sorted(items) for items in got)


async def test_a_sender_that_is_cancelled_has_added_nothing():
    """It will be told so, and may send it elsewhere."""
    channel = ThreadChannel(1)
    await channel.send("one")
    with trio.move_on_after(0.0) as scope:
        await channel.send("two")
    assert scope.cancelled_caught
    channel.close()
    await channel.send("three")
    assert [channel.receive(), channel.receive()] == ["one", None]


def test_a_channel_can_be_read_when_its_loop_is_gone():
    """The reader takes its time; what was sent is its own."""
    channel = ThreadChannel(2)

    async def send():
        with trio.move_on_after(0.01):
            for item in (1, 2, 3):
                await channel.send(item)

    trio.run(send)
    channel.close()
    assert [channel.receive(), channel.receive(), channel.receive()] == [1, 2, None]
