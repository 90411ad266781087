"""One engine for many threads: a shared capacity, a bounded queue, the order of map, and a close that drains."""

import asyncio  # noqa: TID251 - a caller's own loop, beside which a runner must work
import concurrent.futures
import contextvars
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
import trio
import trio.testing

from pipeline_engine import (
    Breaker,
    Document,
    EngineClosedError,
    InputError,
    OverloadError,
    Pipeline,
    PlanError,
    Runner,
    UnavailableError,
    iter_batch,
    run_batch,
    run_pipeline,
)
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


class Gate:
    """A pipeline whose step waits until the gate is opened, from any thread."""

    def __init__(self):
        self.began = threading.Semaphore(0)
        self._is_open = threading.Event()
        self.pipeline = pipeline_of(self.step, executor="thread")

    def step(self, number: int) -> int:
        self.began.release()
        assert self._is_open.wait(10)
        return 2 * number

    def wait_for(self, count):
        """Wait until that many more steps have begun."""
        for _ in range(count):
            assert self.began.acquire(timeout=10)

    def open(self):
        self._is_open.set()


@contextmanager
def opened(runner, *, closes_within=10):
    """Open a runner, and close it whatever happens: a test that fails must not hang."""
    runner.open()
    try:
        yield runner
    finally:
        runner.close(timeout=closes_within)


def settle(runner):
    """Wait until everything on the runner's thread waits for something."""

    async def wait(_engine):
        await trio.testing.wait_all_tasks_blocked()

    runner.call(wait)


def started(function, *arguments):
    """Call something in a thread of its own; its future has what became of it."""
    future = concurrent.futures.Future()

    def main():
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=main, daemon=True).start()
    return future


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


# A bounded queue


def test_of_fifty_threads_at_once_exactly_as_many_are_accepted_as_there_are_places():
    """The bound is what memory and waiting times are planned with: one run more is one too many."""
    gate, barrier = Gate(), threading.Barrier(50, timeout=10)

    def submit(number):
        barrier.wait()
        try:
            return runner.submit(gate.pipeline, {"number": number})
        except OverloadError as error:
            return error

    with opened(Runner(capacity=4, max_pending=20)) as runner, concurrent.futures.ThreadPoolExecutor(50) as pool:
        for _ in range(10):
            answers = list(pool.map(submit, range(50)))
            refused = [answer for answer in answers if isinstance(answer, OverloadError)]
            accepted = [answer for answer in answers if not isinstance(answer, OverloadError)]
            assert (len(accepted), len(refused), runner.pending) == (20, 30, 20)
            assert {(error.pending, error.max_pending) for error in refused} == {(20, 20)}
            gate.open()
            concurrent.futures.wait(accepted, timeout=10)
            assert runner.pending == 0
            gate.__init__()


def test_a_full_runner_says_what_is_full_and_what_to_do():
    """It is read by whoever is on call; a program reads `is_transient` and tries again later."""
    gate = Gate()
    with opened(Runner(max_pending=1)) as runner:
        runner.submit(gate.pipeline, {"number": 1})
        with pytest.raises(OverloadError) as caught:
            runner.run(gate.pipeline, {"number": 2})
        with pytest.raises(OverloadError), runner.stream(gate.pipeline, {"number": 3}):
            pass
        assert repr(runner) == "<Runner open, 1 of at most 1 runs pending>"
        gate.open()
    assert str(caught.value) == (
        "this runner did not accept the run: 1 of at most 1 are pending. "
        "Try again when some have ended, or raise Runner(max_pending=…)."
    )
    assert caught.value.is_transient


def test_a_place_is_free_as_soon_as_the_result_is_told():
    """A caller with one run after the other needs one place."""
    with Runner(max_pending=1) as runner:
        for number in range(200):
            assert runner.run(pipeline_of(double), {"number": number})["step"] == 2 * number
            assert runner.submit(pipeline_of(double), {"number": number}).result(timeout=5)["step"] == 2 * number


def test_a_cancelled_run_keeps_its_place_until_it_has_left():
    """It still holds connections while it cleans up: counted out too early, the bound would not be one."""
    may_leave = trio.Event()
    hanging = Hanging()

    async def slow_to_leave(number: int) -> int:
        try:
            return await hanging.step(number)
        finally:
            with trio.CancelScope(shield=True):
                await may_leave.wait()

    async def let_leave(_engine):
        may_leave.set()

    with opened(Runner(max_pending=1)) as runner:
        future = runner.submit(pipeline_of(slow_to_leave), {"number": 1})
        assert hanging.began.wait(5)
        future.cancel()
        assert hanging.ended.wait(5)
        assert runner.pending == 1
        with pytest.raises(OverloadError):
            runner.submit(pipeline_of(double), {"number": 2})
        runner.call(let_leave)
        settle(runner)
        assert runner.pending == 0


def test_inputs_that_do_not_fit_give_their_place_back():
    """A client that sends nonsense must not use up the places of others."""
    with Runner(max_pending=1) as runner:
        for _ in range(3):
            with pytest.raises(InputError):
                runner.run(pipeline_of(double), {"nmber": 1})
        assert runner.pending == 0


def test_map_waits_where_a_single_run_is_refused():
    """Whoever has a thousand documents can wait; a request cannot."""
    gate = Gate()
    with opened(Runner(max_pending=1)) as runner:
        runner.submit(gate.pipeline, {"number": 0})
        mapped = started(lambda: [result["step"] for result in runner.map(pipeline_of(double), NUMBERS)])
        gate.wait_for(1)
        with pytest.raises(concurrent.futures.TimeoutError):
            mapped.result(timeout=0.05)
        gate.open()
        assert mapped.result(timeout=10) == [2 * number for number in range(20)]


NUMBERS = [{"number": number} for number in range(20)]


def test_map_hands_over_results_rather_than_wait_for_others():
    """Its caller could go on: a full runner is no reason to withhold what is there."""
    gate = Gate()
    with opened(Runner(max_pending=2)) as runner:
        other = runner.submit(gate.pipeline, {"number": 0})
        results = runner.map(pipeline_of(double), NUMBERS)
        assert [next(results)["step"] for _ in range(20)] == [2 * number for number in range(20)]
        assert not other.done()
        gate.open()


def test_many_maps_of_many_threads_share_the_places():
    """None of them is refused, none of them hangs, and the bound holds."""
    most = []

    async def work(number: int) -> int:
        most.append(runner.pending)
        await trio.lowlevel.checkpoint()
        return number

    pipeline = pipeline_of(work)
    with opened(Runner(capacity=2, max_pending=3)) as runner, concurrent.futures.ThreadPoolExecutor(8) as pool:
        maps = [pool.submit(lambda: [result["step"] for result in runner.map(pipeline, NUMBERS)]) for _ in range(8)]
        assert [future.result(timeout=20) for future in maps] == [list(range(20))] * 8
    assert max(most) == 3


def test_a_batch_takes_no_place_and_is_never_refused():
    """It admits a document where a slot is free, so it waits by itself."""
    gate = Gate()
    with opened(Runner(max_pending=1)) as runner:
        runner.submit(gate.pipeline, {"number": 0})
        batch = run_batch(pipeline_of(double), NUMBERS, engine=runner)
        assert (batch.counts, runner.pending) == ({"completed": 20}, 1)
        gate.open()


def test_what_a_step_runs_takes_no_place_of_its_own():
    """It belongs to the run that was accepted; refused, or made to wait, it could never end."""

    def outside(number: int) -> int:
        return sum(result["step"] for result in runner.map(pipeline_of(double), NUMBERS[:5])) + number

    with opened(Runner(max_pending=1)) as runner:
        assert runner.run(pipeline_of(outside), {"number": 3}, timeout=5)["step"] == 23


def test_the_bound_is_sixteen_times_the_capacity_and_a_thousand_at_least():
    """Nobody should have to choose a number before the first request."""
    assert [Runner(capacity=capacity).max_pending for capacity in (1, 64, 500)] == [1000, 1024, 8000]
    assert Runner(max_pending=7).max_pending == 7
    with pytest.raises(ValueError, match=r"^max_pending=0: at least one run must be accepted\.$"):
        Runner(max_pending=0)


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


def test_closing_finishes_what_is_queued_too():
    """It was accepted, and whoever submitted it was told so."""
    gate = Gate()
    runner = Runner(capacity=1).open()
    futures = [runner.submit(gate.pipeline, {"number": number}) for number in range(20)]
    gate.wait_for(1)
    closing = started(runner.close)
    gate.open()
    closing.result(timeout=10)

    assert [future.result(timeout=0)["step"] for future in futures] == [2 * number for number in range(20)]


def test_a_step_may_still_run_pipelines_while_its_runner_closes(threads_left):
    """The run that it belongs to was accepted; half of it is of no use."""
    gate = Gate()

    def outside(number: int) -> int:
        gate.step(number)
        return runner.run(pipeline_of(double), {"number": number})["step"] + 1

    runner = Runner().open()
    future = runner.submit(pipeline_of(outside), {"number": 3})
    gate.wait_for(1)
    closing = started(runner.close)
    wait_until_closing(runner)
    with pytest.raises(EngineClosedError):
        runner.run(pipeline_of(double), {"number": 1})
    gate.open()
    closing.result(timeout=10)

    assert future.result(timeout=0)["step"] == 7
    assert threads_left() == []


def wait_until_closing(runner):
    """Wait until another thread is inside of `close()`: nothing tells, so look again."""
    for _ in range(1_000_000):
        if "closing" in repr(runner):
            return
        os.sched_yield()
    raise AssertionError(f"{runner} does not close")


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_closing_with_a_timeout_cancels_what_has_not_ended_by_then(timeout, threads_left):
    """A server has thirty seconds to go; then it is killed, which is worse than to cancel."""
    submitted, awaited = Hanging(), Hanging()
    runner = Runner().open()
    future = runner.submit(submitted.pipeline, {"number": 1})
    waiting = started(runner.run, awaited.pipeline, {"number": 2})
    assert submitted.began.wait(5)
    assert awaited.began.wait(5)
    runner.close(timeout=timeout)

    assert submitted.ended.is_set()
    assert awaited.ended.is_set()
    assert threads_left() == []
    for ended in (future, waiting):
        error = ended.exception(timeout=5)
        assert isinstance(error, EngineClosedError)
        assert str(error) == (
            "this runner was closed before the run had ended, and the run was cancelled. "
            "Give close(timeout=…) more seconds."
        )


def test_several_threads_may_close_a_runner_at_once(threads_left):
    """A signal handler, an exit handler and a `with` block all mean well; none of them may hang."""
    gate = Gate()
    runner = Runner().open()
    future = runner.submit(gate.pipeline, {"number": 1})
    gate.wait_for(1)
    closers = [started(runner.close) for _ in range(8)]
    wait_until_closing(runner)
    gate.open()
    for closer in closers:
        closer.result(timeout=10)
    runner.close()

    assert future.result(timeout=0)["step"] == 2
    assert threads_left() == []


def test_a_second_close_may_cut_the_first_one_short():
    """Whoever has less patience decides: the first signal drains, the second ends it."""
    hanging = Hanging()
    runner = Runner().open()
    future = runner.submit(hanging.pipeline, {"number": 1})
    assert hanging.began.wait(5)
    patient = started(runner.close)
    wait_until_closing(runner)
    runner.close(timeout=0)
    patient.result(timeout=5)

    with pytest.raises(EngineClosedError, match="was closed before the run had ended"):
        future.result(timeout=0)


def test_an_interrupt_while_it_closes_cancels_what_is_left(threads_left):
    """Ctrl-C means now, and the connections must be closed all the same."""
    hanging = Hanging()
    runner = Runner().open()
    runner.submit(hanging.pipeline, {"number": 1})
    assert hanging.began.wait(5)

    def interrupt():
        wait_until_closing(runner)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupting = started(interrupt)
    with pytest.raises(KeyboardInterrupt):
        runner.close()
    interrupting.result(timeout=5)
    assert hanging.ended.is_set()
    assert threads_left() == []


def test_a_map_that_waits_for_a_place_ends_when_the_runner_closes():
    """What it has not submitted was never accepted; to wait on would be for ever."""
    gate = Gate()
    runner = Runner(max_pending=1).open()
    runner.submit(gate.pipeline, {"number": 0})
    gate.wait_for(1)
    waiting = started(lambda: list(runner.map(pipeline_of(double), NUMBERS)))
    closing = started(runner.close)
    with pytest.raises(EngineClosedError):
        waiting.result(timeout=5)
    gate.open()
    closing.result(timeout=5)


def test_an_iter_batch_that_nobody_reads_does_not_hold_up_the_closing():
    """What is in flight comes to its end and is kept; a million documents more would keep it open for ever."""
    admitted = []

    async def work(number: int) -> int:
        admitted.append(number)
        return number

    with opened(Runner(capacity=2)) as runner:
        results = iter_batch(pipeline_of(work), ({"number": number} for number in range(1000)), engine=runner)
        first = next(results)["step"]
        settle(runner)
        runner.close(timeout=10)

    read = [first]
    with pytest.raises(EngineClosedError) as caught:
        read.extend(result["step"] for result in results)
    assert sorted(read) == sorted(admitted)
    assert len(admitted) < 100
    assert str(caught.value) == (
        "this runner was closed before the batch had ended. What was in flight came to its end; run the others again."
    )
    assert list(results) == []


def test_an_iter_batch_whose_documents_are_all_admitted_ends_well_although_the_runner_closes():
    """Nothing is missing, so nothing is to be told."""
    gate = Gate()
    runner = Runner().open()
    results = iter_batch(gate.pipeline, NUMBERS[:5], engine=runner)
    gate.wait_for(5)
    closing = started(runner.close)
    wait_until_closing(runner)
    gate.open()
    assert sorted(result["step"] for result in results) == [0, 2, 4, 6, 8]
    closing.result(timeout=5)


def test_a_step_cannot_close_the_runner_that_runs_it():
    """It would wait for itself, for ever."""

    def close(number: int) -> int:
        runner.close()
        return number

    async def close_there(_engine):
        runner.close()

    with opened(Runner()) as runner:
        error = runner.run(pipeline_of(close), {"number": 1}).outcome("step").error
        assert (type(error), str(error)) == (
            RuntimeError,
            "a step cannot close the runner that runs it. Close it where it was opened.",
        )
        with pytest.raises(RuntimeError, match="this call would wait for its own thread"):
            runner.call(close_there)
        assert runner.run(pipeline_of(double), {"number": 2})["step"] == 4


# Run in a process of its own: a fork of the tests' process would copy their threads' locks.
_FORKED = """
import os, sys
from pipeline_engine import EngineClosedError, Pipeline, Runner

pipeline = Pipeline("double", inputs={"number": int})
pipeline.step(name="doubled")(lambda number: 2 * number)
runner = Runner().open()
assert runner.run(pipeline, {"number": 1})["doubled"] == 2
with runner._counts:  # the worst moment: another thread holds the lock, and is not there in the child
    child = os.fork()
if child == 0:
    for use in (runner.run, runner.submit, lambda *given: next(runner.map(*given[:1], [given[1]]))):
        try:
            use(pipeline, {"number": 2})
        except EngineClosedError as error:
            print(str(error).replace(str(os.getppid()), "1").replace(str(os.getpid()), "2"), flush=True)
    runner.close()
    with Runner() as own:
        print(own.run(pipeline, {"number": 3})["doubled"], flush=True)
    sys.exit(0)  # not os._exit: exit handlers must not hang either
print("child:", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
print(runner.run(pipeline, {"number": 4})["doubled"])
runner.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
def test_a_runner_says_in_a_forked_process_that_it_belongs_to_another():
    """Web servers preload and Celery forks: a thread does not survive that, and a call to it would hang for ever."""
    ended = subprocess.run(
        [sys.executable, "-c", _FORKED], capture_output=True, encoding="utf-8", timeout=30, check=False
    )

    refused = (
        "this runner belongs to process 1, and its thread did not survive the fork to process 2. "
        "Open a Runner in each process, after the fork."
    )
    assert ended.stdout.splitlines() == [refused, refused, refused, "6", "child: 0", "8"], ended.stderr


# What the engine knows


def test_the_state_of_the_models_can_be_asked_for_and_forgotten_from_any_thread():
    """A health page shows it; whoever has mended the provider need not restart the process."""
    down = UnavailableError("failed (HTTP 502).", model="scripted:model", kind="server", status=502)
    model = ScriptedModel({"answer": down}, breaker=Breaker(failure_threshold=2, timeout=600.0))
    pipeline = Pipeline("ask", inputs={"number": int})
    pipeline.llm("fast", str, name="answer", retry=None, when_open="fail")(lambda number: f"What is {number}?")

    with Runner(models={"fast": model}, capacity=8) as runner:
        for number in range(5):
            runner.run(pipeline, {"number": number})
        assert len(model.requests) == 2
        assert runner.statistics().models["scripted:model"].breaker.value == "open"
        runner.reset("scripted:model")
        assert runner.statistics().models["scripted:model"].breaker.value == "closed"
        runner.run(pipeline, {"number": 5})
        assert len(model.requests) == 3
        with pytest.raises(KeyError, match="was bound to nothing here"):
            runner.reset("scripted:other")


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
