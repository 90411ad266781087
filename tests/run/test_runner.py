"""One engine for many threads: a shared capacity, the order of map, futures, and a close that drains."""

import asyncio  # noqa: TID251 - a caller's own loop, beside which a runner must work
import concurrent.futures
import contextvars
import threading

import pytest
import trio

from pipeline_engine import Document, EngineClosedError, InputError, Pipeline, PlanError, Runner, run_pipeline
from pipeline_engine.testing import ScriptedModel

WORD = contextvars.ContextVar("word", default="nothing")


def pipeline_of(function, **options):
    """A pipeline with one step, called "step", which takes `number`."""
    pipeline = Pipeline("one", inputs={"number": int})
    pipeline.step(name="step", **options)(function)
    return pipeline


async def double(number: int) -> int:
    return 2 * number


class Hanging:
    """A pipeline whose step hangs until it is cancelled, and events that tell how far it is."""

    def __init__(self):
        self.began, self.ended = threading.Event(), threading.Event()
        self.pipeline = pipeline_of(self.step)

    async def step(self, number: int) -> int:
        self.began.set()
        try:
            await trio.sleep_forever()
        finally:
            self.ended.set()
        return number


def test_many_threads_share_one_capacity(gauge):
    """Eight web workers with a runner of three slots make three calls at once, not twenty-four."""
    full = trio.Event()

    async def work(number: int) -> int:
        with gauge:
            if gauge.now == 3:
                full.set()
            await full.wait()
            await trio.lowlevel.checkpoint()
        return number

    pipeline = pipeline_of(work)
    with Runner(capacity=3) as runner, concurrent.futures.ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: runner.run(pipeline, {"number": number})["step"], range(24)))

    assert results == list(range(24))
    assert (gauge.most, gauge.now) == (3, 0)


def test_map_yields_in_the_order_of_the_documents_however_they_finish():
    """A caller that zips inputs with results must not get them mixed up."""
    finished = []
    done = [trio.Event() for _ in range(6)]
    done[5].set()

    async def work(number: int) -> int:
        await done[number + 1].wait()
        finished.append(number)
        done[number].set()
        return number

    with Runner() as runner:
        results = [result["step"] for result in runner.map(pipeline_of(work), ({"number": n} for n in range(5)))]

    assert results == [0, 1, 2, 3, 4]
    assert finished == [4, 3, 2, 1, 0]


def test_map_takes_no_more_than_four_times_the_capacity_ahead():
    """A generator of millions must not become a million futures."""
    pulled = []

    def documents():
        for number in range(1000):
            pulled.append(number)
            yield {"number": number}

    with Runner(capacity=2) as runner:
        results = runner.map(pipeline_of(double), documents())
        for taken in range(1, 21):
            next(results)
            assert len(pulled) == 7 + taken
        results.close()


def test_leaving_map_early_cancels_the_rest():
    """A `break` must not leave eight calls running that nobody will read."""
    hanging = Hanging()

    async def work(number: int) -> int:
        return number if number == 0 else await hanging.step(number)

    with Runner(capacity=8) as runner:
        results = runner.map(pipeline_of(work), ({"number": number} for number in range(8)))
        assert next(results)["step"] == 0
        assert hanging.began.wait(5)
        results.close()
        assert hanging.ended.wait(5)


def test_what_is_submitted_first_is_served_first():
    """With one slot the first request must not wait for the twentieth."""
    for _ in range(12):  # trio takes its tasks forwards or backwards, by chance
        order = []
        began, may_go_on = threading.Event(), threading.Event()

        async def work(number: int, order: list = order) -> int:
            order.append(number)
            return number

        async def block(_engine, began=began, may_go_on=may_go_on):
            began.set()
            may_go_on.wait(5)  # holds up the loop, so that all of them arrive together

        with Runner(capacity=1) as runner:
            runner.start(block)
            assert began.wait(5)
            futures = [runner.submit(pipeline_of(work), {"number": number}) for number in range(20)]
            may_go_on.set()
            concurrent.futures.wait(futures, timeout=5)
        assert order == list(range(20))


def test_map_keeps_the_keys_of_documents():
    """A result without its file's name is hard to put anywhere."""
    with Runner() as runner:
        results = runner.map(pipeline_of(double), [Document("a.txt", {"number": 1}), {"number": 2}])
        assert [(result.document == "a.txt", result["step"]) for result in results] == [(True, 2), (False, 4)]


def test_a_document_of_map_that_could_not_be_read_keeps_its_error():
    """`Document(error=…)` means the same as in a batch."""
    error = OSError("unreadable")
    with Runner() as runner:
        (result,) = runner.map(pipeline_of(double), [Document("a.txt", {}, error)])
    assert (result.status, result.error) == ("failed", error)


def test_cancelling_a_future_cancels_its_run_and_frees_the_slot():
    """A client that went away must not go on costing."""
    hanging = Hanging()
    with Runner(capacity=1) as runner:
        future = runner.submit(hanging.pipeline, {"number": 1})
        assert hanging.began.wait(5)
        assert future.cancel()
        assert hanging.ended.wait(5)
        assert runner.run(pipeline_of(double), {"number": 2}, timeout=5)["step"] == 4
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()


def test_a_cancelled_future_is_done_for_everybody_who_waits():
    """`concurrent.futures.wait` and `as_completed` hang on a cancelled future that was never notified."""
    hanging = Hanging()
    with Runner(capacity=1) as runner:
        future = runner.submit(hanging.pipeline, {"number": 1})
        assert hanging.began.wait(5)
        future.cancel()
        assert hanging.ended.wait(5)
        assert concurrent.futures.wait([future], timeout=1).done == {future}


def test_submit_returns_a_future_with_the_result():
    """Job queues and thread pools know futures."""
    with Runner() as runner:
        future = runner.submit(pipeline_of(double), {"number": 21}, key="a")
        result = future.result(timeout=5)
    assert (result["step"], result.document) == (42, "a")


def test_errors_cross_as_themselves():
    """The report of all problems belongs to the caller's thread."""
    wrong = Pipeline("wrong", inputs={"number": int})
    wrong.step(name="step")(lambda nmber: nmber)

    with Runner() as runner:
        with pytest.raises(PlanError, match="PE101"):
            runner.run(wrong, {"number": 1})
        with pytest.raises(InputError, match="'number' is missing"):
            runner.run(pipeline_of(double), {})
        assert isinstance(runner.submit(wrong, {"number": 1}).exception(timeout=5), PlanError)
        assert runner.run(pipeline_of(double), {"number": 1})["step"] == 2


def test_context_variables_of_each_caller_reach_its_own_step():
    """Each request has its own trace id."""

    async def say(number: int) -> str:
        return WORD.get()

    def ask(word):
        WORD.set(word)
        return runner.run(pipeline_of(say), {"number": 1})["step"]

    with Runner() as runner, concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, ["a", "b", "c", "d"])) == ["a", "b", "c", "d"]


def test_the_models_of_a_runner_are_used_unless_a_run_says_otherwise():
    """Bound once, at the start of the process."""
    pipeline = Pipeline("ask", inputs={"number": int})

    @pipeline.llm("fast", str)
    def answer(number: int) -> str:
        return str(number)

    own, other = ScriptedModel({"answer": "own"}), ScriptedModel({"answer": "other"})
    with Runner(models={"fast": own}) as runner:
        assert runner.run(pipeline, {"number": 1})[answer] == "own"
        assert runner.run(pipeline, {"number": 1}, models={"fast": other})[answer] == "other"


# Opening and closing


def test_closing_waits_for_the_runs_under_way(threads_left):
    """A deployment must not cut off what was promised."""
    began, may_end = threading.Event(), threading.Event()

    async def work(number: int) -> int:
        began.set()
        await trio.to_thread.run_sync(may_end.wait, 5)
        return number

    runner = Runner().open()
    future = runner.submit(pipeline_of(work), {"number": 7})
    assert began.wait(5)
    closer = threading.Thread(target=runner.close)
    closer.start()
    assert not future.done()
    may_end.set()
    closer.join(5)

    assert future.result(timeout=0)["step"] == 7
    assert threads_left() == []


def test_closing_waits_also_for_what_was_submitted_a_moment_before():
    """The end of a `with` block comes at once; what was submitted in it was accepted."""
    for _ in range(30):  # trio takes its tasks in any order
        with Runner() as runner:
            future = runner.submit(pipeline_of(double), {"number": 1})
        assert future.result(timeout=5)["step"] == 2


def test_a_runner_that_is_not_open_says_so():
    """Work after the block is a bug of the caller's, and it must not hang."""
    runner = Runner()
    message = "this runner is not open. Use it inside its `with` block, and start no work after the block."
    with pytest.raises(EngineClosedError) as before:
        runner.run(pipeline_of(double), {"number": 1})
    with runner:
        pass
    with pytest.raises(EngineClosedError) as after:
        runner.submit(pipeline_of(double), {"number": 1})
    with pytest.raises(EngineClosedError):
        list(runner.map(pipeline_of(double), [{"number": 1}]))
    with pytest.raises(EngineClosedError):
        run_pipeline(pipeline_of(double), {"number": 1}, engine=runner)
    assert str(before.value) == str(after.value) == message


def test_a_runner_is_opened_once():
    """Opened twice it would be two engines with two capacities."""
    with Runner() as runner, pytest.raises(RuntimeError) as caught:
        runner.open()
    assert str(caught.value) == "this runner was opened before. Make a new one."
    with pytest.raises(RuntimeError):
        runner.open()
    runner.close()
    runner.close()


def test_a_block_that_raises_closes_the_runner_and_raises_its_own_error(threads_left):
    """The error is the caller's; the thread must not stay."""

    def body():
        with Runner() as runner:
            runner.run(pipeline_of(double), {"number": 1})
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        body()
    assert threads_left() == []


def test_two_runners_have_capacities_of_their_own(gauge):
    """That is why there should be one for each process."""
    meeting = threading.Barrier(2, timeout=5)

    def work(number: int) -> int:
        with gauge:
            meeting.wait()
        return number

    with Runner(capacity=1) as first, Runner(capacity=1) as second:
        futures = [runner.submit(pipeline_of(work), {"number": 1}) for runner in (first, second)]
        assert [future.result(timeout=5)["step"] for future in futures] == [1, 1]
    assert gauge.most == 2


# Beside other loops


def test_it_works_while_an_asyncio_loop_runs_in_the_caller():
    """FastAPI opens it in its lifespan and awaits its futures."""
    meeting, both_here = [], trio.Event()

    async def meet(number: int) -> int:
        meeting.append(number)
        if len(meeting) == 2:
            both_here.set()
        await both_here.wait()
        return number

    async def main():
        with Runner() as runner:
            futures = [runner.submit(pipeline_of(meet), {"number": number}) for number in (1, 2)]
            results = await asyncio.gather(*map(asyncio.wrap_future, futures))
            blocking = runner.run(pipeline_of(double), {"number": 3})
        return [result["step"] for result in results], blocking["step"]

    assert asyncio.run(main()) == ([1, 2], 6)


def test_cancelling_an_asyncio_task_that_waits_for_a_future_cancels_its_run():
    """A client that closes its connection cancels its handler."""
    hanging = Hanging()

    async def main():
        with Runner() as runner:

            async def handle():
                return await asyncio.wrap_future(runner.submit(hanging.pipeline, {"number": 1}))

            task = asyncio.create_task(handle())
            await asyncio.to_thread(hanging.began.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(hanging.ended.wait, 5)

    asyncio.run(main())


def test_a_sync_step_may_use_the_runner_that_runs_it():
    """Code deep inside a step knows only the process' one runner; its slot is given back meanwhile."""

    def outside(number: int) -> int:
        return runner.run(pipeline_of(double), {"number": number})["step"] + 1

    with Runner(capacity=1) as runner:
        assert runner.run(pipeline_of(outside), {"number": 3}, timeout=5)["step"] == 7
