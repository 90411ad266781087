"""Steps that do not run on trio: worker threads, processes that can be killed, and an asyncio loop."""

import asyncio  # noqa: TID251 - steps written for asyncio are what is tested here
import importlib
import os
import signal
import sys
import textwrap
import threading

import pytest
import trio
import trio.testing
from pydantic import BaseModel

from pipeline_engine import (
    Engine,
    Failed,
    Pipeline,
    PlanError,
    Retry,
    StepCodeError,
    StepTimeoutError,
    current_step,
    run_batch,
    run_pipeline,
)


def pipeline_of(function, inputs=None, **options):
    """A pipeline with one step, called "step"."""
    pipeline = Pipeline("one", inputs=inputs or {"number": int})
    pipeline.step(name="step", **options)(function)
    return pipeline


# Threads


def test_a_sync_step_runs_in_a_thread_named_after_it_and_knows_itself():
    """A stack dump names the step; its log lines name the document."""

    def look(number: int) -> tuple:
        context = current_step()
        return threading.current_thread().name, context.step, context.document, context.attempt

    result = run_pipeline(pipeline_of(look), {"number": 1}, key="a.txt")

    assert result["step"] == ("pipeline_engine step step", "step", "a.txt", 1)


def test_sync_steps_run_side_by_side_up_to_the_capacity(gauge):
    """Blocking libraries are not slower than async ones, as long as there are slots."""
    meeting = threading.Barrier(4, timeout=5)

    def work(number: int) -> int:
        with gauge:
            meeting.wait()
        return number

    batch = run_batch(pipeline_of(work), [{"number": number} for number in range(12)], capacity=4)

    assert batch.counts == {"completed": 12}
    assert gauge.most == 4


def test_an_exception_in_a_thread_is_the_steps_own():
    """Its type decides about a retry, its traceback leads to the line."""
    tries = []

    def flaky(number: int) -> int:
        tries.append(threading.current_thread().name)
        if len(tries) < 3:
            raise ConnectionError("again")
        raise KeyError("for good")

    retry = Retry(attempts=5, base_delay=0, jitter="none")
    result = run_pipeline(pipeline_of(flaky, retry=retry), {"number": 1})

    error = result.outcome("step").error
    assert (type(error), len(tries)) == (KeyError, 3)
    assert error.__traceback__ is not None


def test_a_thread_that_timed_out_keeps_its_slot_until_it_returns():
    """A thread cannot be stopped: a slot given away would be two at work where one was promised."""
    began, may_return, returned = threading.Event(), threading.Event(), threading.Event()

    def stubborn(number: int) -> int:
        began.set()
        try:
            may_return.wait(5)
        finally:
            returned.set()
        return number

    async def quick(number: int) -> int:
        assert returned.is_set()
        return number

    async def main():
        async with Engine(capacity=1) as engine:
            result = await engine.run(pipeline_of(stubborn, timeout=0.05), {"number": 1}, key="a")
            in_flight = engine.statistics().in_flight
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.run, pipeline_of(quick), {"number": 2})
                await trio.testing.wait_all_tasks_blocked()
                waiting = engine.statistics().ready
                may_return.set()
            return result, in_flight, waiting, engine.statistics()

    result, in_flight, waiting, afterwards = trio.run(main)
    error = result.outcome("step").error
    assert isinstance(error, StepTimeoutError)
    assert error.is_abandoned
    assert str(error) == (
        "step 'step' ran into its attempt timeout of 0.05 s. Its thread cannot be stopped and keeps its slot "
        "until it returns. Raise Timeout(attempt=…) or use a faster model."
    )
    assert (in_flight, waiting) == (1, 1)
    assert (afterwards.in_flight, afterwards.ready) == (0, 0)


def test_a_cancelled_run_leaves_its_thread_behind_but_not_its_slot():
    """The caller goes on at once; the slot comes back with the thread."""
    began, may_return = threading.Event(), threading.Event()

    def stubborn(number: int) -> int:
        began.set()
        may_return.wait(5)
        return number

    async def main():
        async with Engine(capacity=2) as engine:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(engine.run, pipeline_of(stubborn), {"number": 1})
                assert await trio.to_thread.run_sync(began.wait, 5)
                nursery.cancel_scope.cancel()
            held = engine.statistics().in_flight
            may_return.set()
            with trio.fail_after(5):
                while engine.statistics().in_flight:  # noqa: ASYNC110 - the slot comes back without an event
                    await trio.sleep(0.001)
            return held

    assert trio.run(main) == 1


def test_a_sync_step_that_returns_a_coroutine_is_told_what_it_is():
    """A forgotten `async` or `await`: the message must name the step and the word, not our internals."""

    async def fetch(number):
        return number

    def forgot(number: int):
        coroutine = fetch(number)
        made.append(coroutine)
        return coroutine

    made = []
    result = run_pipeline(pipeline_of(forgot), {"number": 1})
    made[0].close()

    assert "pipeline_engine.schedule" not in result.reason
    assert "coroutine" in result.reason
    assert "await" in result.reason


@pytest.mark.parametrize("is_annotated", [True, False])
def test_an_async_step_that_returns_a_coroutine_is_told_what_it_is(is_annotated):
    """The commonest slip of all: without an annotation the next step gets the riddle."""

    async def fetch(number):
        return number

    async def forgot(number: int):
        made.append(fetch(number))
        return made[-1]

    if is_annotated:
        forgot.__annotations__["return"] = int
    made = []
    result = run_pipeline(pipeline_of(forgot), {"number": 1})
    made[0].close()

    assert result.status == "failed"
    assert "It returned a coroutine" in result.reason
    assert "await" in result.reason


# Processes

MODULE = '''
    """Functions for the worker process."""

    import os
    import subprocess
    import sys
    import time

    from pydantic import BaseModel


    class Point(BaseModel):
        x: int
        y: int = 0


    class Odd(Exception):
        pass


    def pid(number: int) -> int:
        return os.getpid()

    def prints(number: int) -> int:
        print('{"result": "forged"}')
        os.system("echo from a shell")
        return number

    def raises(number: int) -> int:
        raise ValueError("no luck")

    def raises_odd(number: int) -> int:
        raise Odd("odd luck")

    def raises_key(number: int) -> int:
        raise KeyError("name")

    def flaky(path: str) -> int:
        with open(path, "a") as file:
            file.write("x")
        if os.path.getsize(path) < 3:
            raise ConnectionError("again")
        return os.path.getsize(path)

    def hangs(path: str) -> int:
        with open(path, "w") as file:
            file.write(str(os.getpid()))
        time.sleep(60)
        return 1

    def crashes(number: int) -> int:
        os._exit(7)

    def exits(number: int) -> int:
        sys.exit(3)

    def swaps(point: Point) -> Point:
        assert isinstance(point, Point)
        return Point(x=point.y, y=point.x)

    def swap_all(points: list[Point]) -> dict[str, Point]:
        return {str(point.x): point for point in points}

    def takes(thing) -> int:
        return 1

    def gives(number: int) -> object:
        return object()

    def large(number: int) -> str:
        return "x" * number

    def reads_input(number: int) -> str:
        return subprocess.run(["cat"], capture_output=True, text=True, timeout=1).stdout
'''


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """A module that processes can import, as a user's own modules are."""
    folder = tmp_path_factory.mktemp("worker")
    name = "work_for_processes"
    (folder / f"{name}.py").write_text(textwrap.dedent(MODULE), encoding="utf-8")
    sys.path.insert(0, str(folder))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *([before] if before else [])])
    yield importlib.import_module(name)
    sys.path.remove(str(folder))
    del sys.modules[name]
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


@pytest.fixture
async def engine():
    async with Engine(capacity=4) as engine:
        yield engine


def in_process(function, inputs=None, **options):
    return pipeline_of(function, inputs, executor="process", **options)


async def test_a_process_step_runs_elsewhere_and_its_process_stays_warm(worker, engine):
    """Starting one takes longer than most calls: the second call must find it."""
    first = await engine.run(in_process(worker.pid), {"number": 1})
    second = await engine.run(in_process(worker.pid), {"number": 2})

    assert first["step"] == second["step"] != os.getpid()


async def test_what_a_process_prints_does_not_corrupt_its_answer(worker, engine, capfd):
    """Chatty libraries are the rule; what a shell under it prints does no harm either."""
    result = await engine.run(in_process(worker.prints), {"number": 5})

    assert result["step"] == 5
    assert capfd.readouterr().out == ""


async def test_what_a_process_prints_is_seen(worker, engine, capfd, monkeypatch):
    """print() is how most people look into a step; lines that wait in a buffer die with their process."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    await engine.run(in_process(worker.prints), {"number": 5})

    assert sorted(capfd.readouterr().err.splitlines()) == ["from a shell", '{"result": "forged"}']


async def test_an_exception_crosses_by_its_type_with_the_other_sides_traceback(worker, engine):
    """`Retry(on=ValueError)` must mean the same in a process."""
    error = (await engine.run(in_process(worker.raises), {"number": 1})).outcome("step").error

    assert (type(error), str(error)) == (ValueError, "no luck")
    (note,) = error.__notes__
    assert note.startswith("In the step's process:\nTraceback (most recent call last):\n")
    assert 'raise ValueError("no luck")' in note


async def test_an_exception_of_an_own_type_crosses_by_its_name(worker, engine):
    """Its class is not known on this side, its name is enough to find it."""
    error = (await engine.run(in_process(worker.raises_odd), {"number": 1})).outcome("step").error
    assert (type(error), str(error)) == (RuntimeError, "Odd: odd luck")


async def test_a_key_error_crosses_with_its_key(worker, engine):
    """str() of a KeyError has quotes of its own; they must not be doubled."""
    error = (await engine.run(in_process(worker.raises_key), {"number": 1})).outcome("step").error
    assert error.args == ("name",)


async def test_a_transient_error_in_a_process_is_tried_again(worker, engine, tmp_path):
    """The retry asks for the type, and it crosses."""
    path = str(tmp_path / "tries")
    retry = Retry(attempts=5, base_delay=0, jitter="none")

    result = await engine.run(in_process(worker.flaky, {"path": str}, retry=retry), {"path": path})

    assert result["step"] == 3


async def test_a_process_that_runs_out_of_time_is_killed_for_real(worker, engine, tmp_path):
    """A CPU-heavy loop that nobody waits for any more must not go on heating the room."""
    path = tmp_path / "pid"
    await engine.run(in_process(worker.pid), {"number": 1})  # the process is up: the time is the function's own

    result = await engine.run(in_process(worker.hangs, {"path": str}, timeout=0.5), {"path": str(path)})

    error = result.outcome("step").error
    assert isinstance(error, StepTimeoutError)
    assert not error.is_abandoned
    assert engine.statistics().in_flight == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


async def test_a_cancelled_run_kills_its_process(worker, engine, tmp_path):
    """Ctrl-C and a closed connection are cancellations, too."""
    path = tmp_path / "pid"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(engine.run, in_process(worker.hangs, {"path": str}), {"path": str(path)})
        with trio.fail_after(10):
            while not (path.exists() and path.read_text()):  # noqa: ASYNC110 - another process writes it
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()

    with pytest.raises(ProcessLookupError):
        os.kill(int(path.read_text()), 0)


@pytest.mark.parametrize(("how", "code"), [("crashes", 7), ("exits", 3)])
async def test_a_process_that_dies_says_so_and_the_next_call_works(worker, engine, how, code):
    """A segmentation fault in a C library is one document's failure."""
    error = (await engine.run(in_process(getattr(worker, how)), {"number": 1})).outcome("step").error

    assert (type(error), str(error)) == (
        ChildProcessError,
        f"the step's process ended with exit code {code} before it answered.",
    )
    assert (await engine.run(in_process(worker.pid), {"number": 1})).status == "completed"


async def test_an_idle_process_that_was_killed_is_replaced(worker, engine):
    """The system kills the largest process when memory is short; the next document must not pay for it."""
    first = (await engine.run(in_process(worker.pid), {"number": 1}))["step"]
    os.kill(first, signal.SIGKILL)
    await trio.to_thread.run_sync(os.waitid, os.P_PID, first, os.WEXITED | os.WNOWAIT)  # dead, but not yet asked for

    result = await engine.run(in_process(worker.pid), {"number": 2})

    assert result.status == "completed"
    assert result["step"] != first


async def test_pydantic_models_cross_both_ways(worker, engine):
    """Typed in, typed out, also inside of lists and dicts."""
    pipeline = Pipeline("points", inputs={"point": worker.Point, "points": list[worker.Point]})
    pipeline.step(executor="process")(worker.swaps)
    pipeline.step(executor="process")(worker.swap_all)

    result = await engine.run(pipeline, {"point": {"x": 1, "y": 2}, "points": [{"x": 3}, {"x": 4, "y": 5}]})

    assert result["swaps"] == worker.Point(x=2, y=1)
    assert result["swap_all"] == {"3": worker.Point(x=3), "4": worker.Point(x=4, y=5)}


async def test_an_argument_that_cannot_cross_is_told_before_it_is_sent(worker, engine):
    """Nothing is pickled: an open connection has no form on the other side."""
    result = await engine.run(in_process(worker.takes, {"thing": object}), {"thing": object()})

    error = result.outcome("step").error
    assert isinstance(error, StepCodeError)
    assert str(error) == (
        "the function of step 'step' got an argument that cannot cross to its process as JSON: "
        "Unable to serialize unknown type: <class 'object'>. Pass plain values or models."
    )


async def test_a_result_that_cannot_cross_is_the_functions_own_bug(worker, engine):
    """The same rule on the way back, in the same words."""
    error = (await engine.run(in_process(worker.gives), {"number": 1})).outcome("step").error

    assert isinstance(error, StepCodeError)
    assert str(error) == (
        "the function of step 'step' returned a value that cannot cross from its process as JSON: "
        "Unable to serialize unknown type: <class 'object'>. Return plain values or models."
    )


async def test_large_values_cross(worker, engine):
    """A pipe holds 64 KiB; a document is larger."""
    assert len((await engine.run(in_process(worker.large), {"number": 5_000_000}))["step"]) == 5_000_000


async def test_a_program_started_in_a_process_step_does_not_read_our_requests(worker, engine):
    """Programs like ffmpeg and ssh read standard input whenever they find one; it must be empty for them."""
    result = await engine.run(in_process(worker.reads_input), {"number": 1})
    assert result["step"] == ""


def test_a_function_that_no_process_can_import_is_refused_when_the_pipeline_is_compiled():
    """Not at the first document, with a riddle about attributes."""

    def local(number: int) -> int:
        return number

    with pytest.raises(PlanError) as caught:
        run_pipeline(in_process(local), {"number": 1})
    (problem,) = caught.value.problems
    assert problem.code == "PE115"
    assert problem.message == (
        "step 'step' runs in a process, which must import its function. Declare it at module level."
    )


async def test_the_processes_end_with_their_engine(worker):
    """Nothing may be left behind in `ps`."""
    async with Engine(capacity=2) as engine:
        pid = (await engine.run(in_process(worker.pid), {"number": 1}))["step"]
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# asyncio


class Reply(BaseModel):
    text: str


def on_asyncio(function, **options):
    return pipeline_of(function, executor="asyncio", **options)


async def test_an_asyncio_step_runs_on_a_loop_of_its_own_and_knows_itself(engine, threads_left):
    """Libraries written for asyncio work as they are: futures, gather and all."""

    async def work(number: int) -> Reply:
        asyncio.get_running_loop()
        one, two = await asyncio.gather(asyncio.sleep(0, number), asyncio.sleep(0, number + 1))
        return Reply(text=f"{one} {two} {current_step().step} {threading.current_thread().name}")

    result = await engine.run(on_asyncio(work), {"number": 1})

    assert result["step"] == Reply(text="1 2 step pipeline_engine asyncio")
    assert threads_left() == ["pipeline_engine asyncio"]


async def test_all_asyncio_steps_share_one_loop(engine):
    """A client library's connection pool belongs to one loop."""
    loops = set()
    here, all_here = [], []

    async def meet(number: int) -> int:
        loops.add(asyncio.get_running_loop())
        here.append(number)
        all_here[:] = all_here or [asyncio.Event()]
        if len(here) == 3:
            all_here[0].set()
        await all_here[0].wait()
        return number

    pipeline = on_asyncio(meet)
    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(engine.run, pipeline, {"number": number})
    assert len(loops) == 1


async def test_an_exception_of_an_asyncio_step_crosses(engine):
    """With its traceback: it is the same process."""

    async def broken(number: int) -> int:
        await asyncio.sleep(0)
        raise ValueError("no luck")

    outcome = (await engine.run(on_asyncio(broken), {"number": 1})).outcome("step")

    assert isinstance(outcome, Failed)
    assert (type(outcome.error), str(outcome.error)) == (ValueError, "no luck")


async def test_an_asyncio_step_that_runs_out_of_time_is_cancelled(engine):
    """Unlike a thread it can be."""
    ended = threading.Event()

    async def slow(number: int) -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.set()
            raise
        return number

    error = (await engine.run(on_asyncio(slow, timeout=0.05), {"number": 1})).outcome("step").error

    assert isinstance(error, StepTimeoutError)
    assert not error.is_abandoned
    assert await trio.to_thread.run_sync(ended.wait, 5)


def test_a_cancelled_asyncio_step_is_over_only_after_its_finally_blocks():
    """They give connections back; a retry that starts before would find none, and the loop's end would cut them off."""
    log = []

    async def slow(number: int) -> int:
        try:
            await asyncio.sleep(60)
        finally:
            log.append("cleaning")
            await asyncio.sleep(0.05)
            log.append("clean")
        return number

    async def main():
        async with Engine() as engine:
            await engine.run(on_asyncio(slow, timeout=0.05), {"number": 1})
            return list(log)

    assert trio.run(main) == ["cleaning", "clean"]
    assert log == ["cleaning", "clean"]


async def test_the_asyncio_loop_ends_with_its_engine(threads_left):
    """Also with what steps left running on it."""
    left = []

    async def leave_behind(number: int) -> int:
        async def background():
            try:
                await asyncio.sleep(60)
            finally:
                left.append("cancelled")

        left.append(asyncio.create_task(background()))
        await asyncio.sleep(0)
        return number

    async with Engine() as engine:
        await engine.run(on_asyncio(leave_behind), {"number": 1})
    assert threads_left() == []
    assert left[1:] == ["cancelled"]


ADVICE = (
    "the function of step 'step' calls an asyncio library, but async steps run on trio. "
    'Declare it with executor="asyncio".'
)


async def sleeps(number: int) -> int:
    await asyncio.sleep(0.01)
    return number


async def yields(number: int) -> int:
    await asyncio.sleep(0)
    return number


async def goes_to_a_thread(number: int) -> int:
    return await asyncio.to_thread(int, number)


async def has_a_timeout(number: int) -> int:
    async with asyncio.timeout(1):
        return await sleeps(number)


async def gathers(number: int) -> int:
    async def one():
        return number

    coroutine = one()
    try:
        return (await asyncio.gather(coroutine))[0]
    finally:
        coroutine.close()


async def asks_for_the_loop(number: int) -> int:
    return await asyncio.get_running_loop().run_in_executor(None, int, number)


@pytest.mark.parametrize(
    "function",
    [
        sleeps,
        yields,
        goes_to_a_thread,
        has_a_timeout,
        gathers,
        asks_for_the_loop,
    ],
)
async def test_an_asyncio_library_in_a_trio_step_is_met_with_one_line_of_advice(engine, function):
    """The riddle about an unrecognised yield is the first thing that a user of asyncio meets."""
    asyncio.set_event_loop(None)  # as asyncio.run() leaves it, so that no test depends on the ones before
    error = (await engine.run(pipeline_of(function), {"number": 1})).outcome("step").error

    assert isinstance(error, StepCodeError)
    assert str(error) == ADVICE
    assert isinstance(error.__cause__, (TypeError, RuntimeError))
