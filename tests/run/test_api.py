"""One document from anywhere: plain code, trio, asyncio, steps of other runs, and under Ctrl-C."""

import asyncio  # noqa: TID251 - the bridge to asyncio is what is tested here
import contextvars
import signal
import subprocess
import sys
import textwrap
import threading

import pytest
import trio
from pydantic import BaseModel

from pipeline_engine import (
    Engine,
    InputError,
    Pipeline,
    PlanError,
    Runner,
    Stopped,
    iter_batch,
    iter_batch_async,
    run_batch,
    run_batch_async,
    run_pipeline,
    run_pipeline_async,
    use,
)
from pipeline_engine.testing import ScriptedModel

WORD = contextvars.ContextVar("word", default="nothing")


def pipeline_of(function, name="one", **options):
    """A pipeline with one step, called "step", which takes `number`."""
    pipeline = Pipeline(name, inputs={"number": int})
    pipeline.step(name="step", **options)(function)
    return pipeline


async def double(number: int) -> int:
    return 2 * number


def line_of(length, seconds=1.0):
    """A pipeline of `length` steps in a row, each of them `seconds` long: s1, s2 …"""
    pipeline = Pipeline("line", inputs={"number": int})
    before = "number"
    for place in range(1, length + 1):

        async def work(number: int = use(before)) -> int:
            await trio.sleep(seconds)
            return number

        before = pipeline.step(name=f"s{place}")(work)
    return pipeline


# Plain code, and where a loop is running


def test_plain_code_runs_a_pipeline_and_leaves_no_thread(threads_left):
    """The first thing that anybody tries."""
    result = run_pipeline(pipeline_of(double), {"number": 21}, key="a.txt")

    assert (result["step"], result.status, result.document) == (42, "completed", "a.txt")
    assert threads_left() == []


def test_run_pipeline_works_in_a_running_asyncio_loop_and_warns_once(never_warned, threads_left):
    """A notebook cell is such a place. Who is blocked is told the other name, once."""

    async def cell():
        return [run_pipeline(pipeline_of(double), {"number": number})["step"] for number in (1, 2, 3)]

    with pytest.warns(RuntimeWarning) as caught:
        assert asyncio.run(cell()) == [2, 4, 6]

    assert [str(warning.message) for warning in caught] == [
        (
            "run_pipeline() blocks the event loop that is running here until it returns. "
            "Use `await run_pipeline_async(…)` instead."
        )
    ]
    assert caught[0].filename == __file__
    assert threads_left() == []


async def test_run_pipeline_works_inside_a_trio_task(never_warned, threads_left):
    """It blocks that loop just the same, so it says so."""
    with pytest.warns(RuntimeWarning, match=r"^run_pipeline\(\) blocks the event loop"):
        result = run_pipeline(pipeline_of(double), {"number": 4})

    assert result["step"] == 8
    assert threads_left() == []


def test_a_batch_in_a_running_loop_names_its_own_async_form(never_warned):
    """The name in the warning is the one to type."""

    async def cell():
        return run_batch(pipeline_of(double), [{"number": 1}]).counts

    with pytest.warns(RuntimeWarning, match=r"^run_batch\(\) blocks .* Use `await run_batch_async\(…\)` instead\.$"):
        assert asyncio.run(cell()) == {"completed": 1}


async def test_under_trio_it_runs_on_the_callers_own_loop():
    """No thread and no second loop for those who have one already."""
    tokens = []

    async def look(number: int) -> int:
        tokens.append(trio.lowlevel.current_trio_token())
        return number

    await run_pipeline_async(pipeline_of(look), {"number": 1})

    assert tokens == [trio.lowlevel.current_trio_token()]


def test_without_a_loop_the_async_form_says_what_to_use_instead():
    """An await outside of any loop would give a riddle about a missing context."""
    with pytest.raises(RuntimeError) as caught:
        run_pipeline_async(pipeline_of(double), {"number": 1}).send(None)

    assert str(caught.value) == (
        "no event loop is running here. Use run_pipeline(…), or call this from trio or asyncio code."
    )


# The bridge to asyncio


def test_context_variables_reach_a_step_from_asyncio():
    """Tracing and log context live in them."""

    async def say(number: int) -> str:
        return WORD.get()

    async def main():
        WORD.set("from asyncio")
        return (await run_pipeline_async(pipeline_of(say), {"number": 1}))["step"]

    assert asyncio.run(main()) == "from asyncio"


def test_a_plan_error_reaches_asyncio_as_itself():
    """The report of all problems must not turn into a cancelled future."""
    pipeline = Pipeline("ask", inputs={"number": int})

    @pipeline.llm("fast", str)
    def answer(nmber: int) -> str:
        return str(nmber)

    with pytest.raises(PlanError, match=r"PE101 step 'answer' needs 'nmber', .* Did you mean 'number'"):
        asyncio.run(run_pipeline_async(pipeline, {"number": 1}))


def test_an_input_error_reaches_asyncio_as_itself():
    """Wrong inputs are the caller's to correct, also there."""
    with pytest.raises(InputError, match="'number' is missing"):
        asyncio.run(run_pipeline_async(pipeline_of(double), {}))


def test_a_cancelled_asyncio_caller_waits_until_the_run_has_cleaned_up():
    """Who was told that a task ended closes the database: nothing may still be using it. Nor after a second cancel."""
    may_finish, log = threading.Event(), []

    async def main():
        loop = asyncio.get_running_loop()
        started, cleaning = asyncio.Event(), asyncio.Event()

        async def work(number: int) -> int:
            loop.call_soon_threadsafe(started.set)
            try:
                await trio.sleep_forever()
            finally:
                loop.call_soon_threadsafe(cleaning.set)
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(may_finish.wait, 5)
                log.append("cleaned up")

        task = asyncio.create_task(run_pipeline_async(pipeline_of(work), {"number": 1}))
        await started.wait()
        task.cancel()
        await cleaning.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_finish.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert log == ["cleaned up"]

    asyncio.run(main())


def test_a_caller_cancelled_before_the_run_began_leaves_nothing_running():
    """A cancel may arrive before the other thread has even begun."""
    ran = []

    async def work(number: int) -> int:
        ran.append("began")
        try:
            await trio.sleep_forever()
        finally:
            ran.append("ended")

    async def main():
        task = asyncio.create_task(run_pipeline_async(pipeline_of(work), {"number": 1}))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ran in ([], ["began", "ended"])


def test_wait_for_ends_a_run_in_time_and_after_its_clean_up():
    """The own timeout of asyncio is what people there reach for."""
    log = []

    async def work(number: int) -> int:
        try:
            await trio.sleep_forever()
        finally:
            log.append("cleaned up")

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run_pipeline_async(pipeline_of(work), {"number": 1}), 0.1)
        assert log == ["cleaned up"]

    asyncio.run(main())


def test_many_asyncio_callers_run_at_the_same_time():
    """One bridge must not be a queue: the last of twenty lets all others go."""
    here, all_here = [], trio.Event()

    async def meet(number: int) -> int:
        here.append(number)
        if len(here) == 20:
            all_here.set()
        await all_here.wait()
        return number

    async def main():
        runs = (run_pipeline_async(pipeline_of(meet), {"number": number}) for number in range(20))
        return [result["step"] for result in await asyncio.gather(*runs)]

    assert asyncio.run(main()) == list(range(20))


def test_the_asyncio_loop_keeps_ticking_while_a_run_goes_on():
    """In a web server that loop answers everybody else."""
    ticked = threading.Event()

    async def work(number: int) -> bool:
        return await trio.to_thread.run_sync(ticked.wait, 5)

    async def main():
        run = asyncio.create_task(run_pipeline_async(pipeline_of(work), {"number": 1}))
        for _ in range(100):
            await asyncio.sleep(0)
        ticked.set()
        return (await run)["step"]

    assert asyncio.run(main()) is True


def test_a_batch_runs_under_asyncio_too():
    """The same bridge carries it."""

    async def main():
        return (await run_batch_async(pipeline_of(double), [{"number": number} for number in range(5)])).counts

    assert asyncio.run(main()) == {"completed": 5}


def test_iter_batch_async_under_asyncio_says_what_to_use():
    """It is trio's form alone; who tries it elsewhere is told."""

    async def main():
        async with iter_batch_async(pipeline_of(double), []):
            pass

    with pytest.raises(RuntimeError) as caught:
        asyncio.run(main())
    assert str(caught.value) == (
        "iter_batch_async(…) runs under trio. Under asyncio, iterate over iter_batch(…) in a thread."
    )


# Engines and capacity


@pytest.mark.parametrize("call", [run_pipeline, run_batch, iter_batch])
def test_a_capacity_together_with_a_runner_is_refused(call):
    """Which of the two would hold? Nobody could tell."""
    with Runner(capacity=2) as runner, pytest.raises(TypeError) as caught:
        call(pipeline_of(double), {"number": 1}, capacity=3, engine=runner)
    assert str(caught.value) == "capacity=3 was given together with engine=, which has its own. Leave out one of them."


@pytest.mark.parametrize("call", [run_pipeline_async, run_batch_async, iter_batch_async])
async def test_a_capacity_together_with_an_engine_is_refused(call):
    """The async forms keep the same rule."""
    async with Engine(capacity=2) as engine:
        with pytest.raises(TypeError) as caught:
            await call(pipeline_of(double), {"number": 1}, capacity=3, engine=engine)
    assert str(caught.value) == "capacity=3 was given together with engine=, which has its own. Leave out one of them."


def test_a_runner_given_to_run_pipeline_does_the_work(threads_left):
    """That is how a worker process shares its limits."""

    async def where(number: int) -> str:
        return threading.current_thread().name

    with Runner() as runner:
        assert run_pipeline(pipeline_of(where), {"number": 1}, engine=runner)["step"] == "pipeline_engine runner"
    assert threads_left() == []


# Runs inside of steps


async def test_runs_inside_an_async_step_share_its_one_slot(autojump_clock):
    """A step that waits for runs of its own holds nothing, else one slot would be a deadlock."""
    seen = []

    async def inside(number: int) -> int:
        await trio.sleep(1)
        seen.append(engine.statistics().in_flight)
        return number

    async def outside(number: int) -> int:
        first = await run_pipeline_async(pipeline_of(inside, "inner"), {"number": number})
        seen.append(engine.statistics().in_flight)
        second = await run_pipeline_async(pipeline_of(inside, "inner"), {"number": 1})
        return first["step"] + second["step"]

    with trio.fail_after(60):
        async with Engine(capacity=1) as engine:
            result = await engine.run(pipeline_of(outside), {"number": 10})
            assert engine.statistics().in_flight == 0

    assert result["step"] == 11
    assert seen == [1, 1, 1]
    assert result.trace.makespan == 2


@pytest.mark.parametrize("lengths", [(1, 1), (3, 3, 3), (1, 5), (5, 1, 3)])
async def test_several_runs_at_once_inside_a_step_do_not_block_each_other(autojump_clock, lengths):
    """The first of them to end must not take the slot that the others need, while its step waits for them."""

    async def outside(number: int) -> int:
        async with trio.open_nursery() as nursery:
            for length in lengths:
                nursery.start_soon(run_pipeline_async, line_of(length), {"number": number})
                await trio.lowlevel.checkpoint()  # trio would start them in any order
                await trio.lowlevel.checkpoint()
        return number

    with trio.fail_after(60):
        async with Engine(capacity=1) as engine:
            result = await engine.run(pipeline_of(outside), {"number": 7})
            assert engine.statistics().in_flight == 0

    assert result["step"] == 7
    assert result.trace.makespan == sum(lengths)


@pytest.mark.parametrize("capacity", [1, 3])
async def test_a_batch_inside_an_async_step_shares_the_slots(autojump_clock, capacity):
    """A document that is a folder is a batch of its own; it must not wait for the slot of its own step."""

    async def outside(number: int) -> int:
        batch = await run_batch_async(line_of(2), [{"number": number + place} for place in range(6)])
        return batch.counts["completed"]

    with trio.fail_after(60):
        async with Engine(capacity=capacity) as engine:
            result = await engine.run(pipeline_of(outside), {"number": 0})
            assert engine.statistics().in_flight == 0

    assert result["step"] == 6
    assert result.trace.makespan == 12 / capacity


def test_a_run_inside_a_sync_step_shares_its_one_slot():
    """Libraries call each other without knowing: a sync helper may run a pipeline, too."""
    seen = []

    async def inside(number: int) -> int:
        seen.append(engine.statistics().in_flight)
        return number + 1

    def outside(number: int) -> int:
        return run_pipeline(pipeline_of(inside, "inner"), {"number": number})["step"] * 10

    async def main():
        nonlocal engine
        with trio.fail_after(5):
            async with Engine(capacity=1) as engine:
                result = await engine.run(pipeline_of(outside), {"number": 1})
                return result["step"], engine.statistics().in_flight

    engine = None
    assert trio.run(main) == (20, 0)
    assert seen == [1]


def test_a_sync_step_that_times_out_during_a_run_of_its_own_leaks_no_slot():
    """Its thread is abandoned and the inner run goes with it: a slot lost here is lost until the process ends."""
    inner_started, inner_ended, may_end = threading.Event(), threading.Event(), threading.Event()

    async def inside(number: int) -> int:
        inner_started.set()
        try:
            await trio.to_thread.run_sync(may_end.wait, 5, abandon_on_cancel=True)
        finally:
            inner_ended.set()
        return number

    def outside(number: int) -> int:
        try:
            return run_pipeline(pipeline_of(inside, "inner"), {"number": number})["step"]
        finally:
            outer_ended.set()

    outer_ended = threading.Event()

    async def main():
        async with Engine(capacity=1) as engine:
            result = await engine.run(pipeline_of(outside, timeout=0.1), {"number": 1})
            assert inner_started.is_set()
            may_end.set()
            assert await trio.to_thread.run_sync(outer_ended.wait, 5)
            await trio.testing.wait_all_tasks_blocked()
            return result.status, engine.statistics().in_flight

    assert trio.run(main) == ("failed", 0)


async def test_a_step_cancelled_while_it_takes_its_slot_back_leaks_none(autojump_clock):
    """The instant at which an inner run ends may be the instant at which the outer step's time is up."""

    async def at_once(number: int) -> int:
        return number

    async def outside(number: int) -> int:
        with trio.CancelScope(shield=True):
            await trio.sleep(2)
        return (await run_pipeline_async(pipeline_of(at_once, "inner"), {"number": number}))["step"]

    async with Engine(capacity=1) as engine:
        result = await engine.run(pipeline_of(outside, timeout=1), {"number": 1})
        assert engine.statistics().in_flight == 0
    assert result.status in ("completed", "failed")


def test_a_blocking_run_inside_an_async_step_works_and_warns(never_warned):
    """A mistake that should be slow and loud, not a deadlock."""

    async def outside(number: int) -> int:
        return run_pipeline(pipeline_of(double, "inner"), {"number": number})["step"] + 1

    with pytest.warns(RuntimeWarning, match=r"^run_pipeline\(\) blocks the event loop"):
        result = run_pipeline(pipeline_of(outside), {"number": 1}, capacity=1)

    assert result["step"] == 3


def test_a_run_inside_an_asyncio_step_has_an_engine_of_its_own():
    """Its step's engine lives on another thread, where nobody may touch it from here."""

    async def outside(number: int) -> int:
        return (await run_pipeline_async(pipeline_of(double, "inner"), {"number": number}))["step"] + 1

    result = run_pipeline(pipeline_of(outside, executor="asyncio"), {"number": 1}, capacity=1)

    assert result["step"] == 3


# Inputs


def test_inputs_are_checked_before_anything_runs_and_all_at_once():
    """Half a run that fails on the last step has cost money; one message for all saves three tries."""

    class Size(BaseModel):
        width: int

    ran = []
    pipeline = Pipeline("typed", inputs={"document": str, "size": Size, "tags": list[str], "rest": int})

    @pipeline.step
    def work(document: str, size: Size, tags: list[str], rest: int) -> str:
        ran.append(document)
        return document

    with pytest.raises(InputError) as caught:
        run_pipeline(pipeline, {"document": 3, "size": {"width": "wide"}, "tags": ["a", 2], "dokument": "x"})

    assert str(caught.value) == (
        "inputs do not fit pipeline 'typed': "
        "'document' is a int, not str: Input should be a valid string. "
        "'size' is a dict, not Size: width: Input should be a valid integer, unable to parse string as an integer. "
        "'tags' is a list, not list[str]: 1: Input should be a valid string. "
        "'rest' is missing; give a int. "
        "'dokument' is no input. Did you mean 'document'? "
        "It takes document, rest, size, tags."
    )
    assert ran == []


def test_inputs_are_handed_on_as_what_they_were_declared():
    """A step annotated with a model gets the model, also where a caller gave a dict."""

    class Size(BaseModel):
        width: int

    pipeline = Pipeline("typed", inputs={"size": Size})

    @pipeline.step
    def doubled(size: Size) -> int:
        return size.width * 2

    assert run_pipeline(pipeline, {"size": {"width": "4"}})[doubled] == 8


@pytest.mark.parametrize("given", ["a secret text", None, ["a"], 7, b"bytes"])
def test_inputs_that_are_no_mapping_are_refused_in_one_sentence(given):
    """The commonest slip is to hand over the text itself; the message must not spell it letter by letter."""
    with pytest.raises((InputError, TypeError)) as caught:
        run_pipeline(pipeline_of(double), given)

    assert type(given).__name__ in str(caught.value)
    assert "number" in str(caught.value)
    assert "'s' is no input" not in str(caught.value)


# Timeouts and models


async def test_a_runs_timeout_is_exact_and_stops_what_is_left(autojump_clock):
    """The caller's patience is no step's failure."""
    result = await run_pipeline_async(line_of(3), {"number": 1}, timeout=1.5)

    assert result.status == "stopped"
    assert result["s1"] == 1
    assert result.outcome("s2") == Stopped("the run's timeout of 1.5 s")
    assert result.trace.makespan == 1.5


def test_models_are_bound_by_role_for_one_call():
    """The declaration names roles; only the caller knows models."""
    pipeline = Pipeline("ask", inputs={"number": int})

    @pipeline.llm("fast", str)
    def answer(number: int) -> str:
        return str(number)

    model = ScriptedModel({"answer": "fine"})
    assert run_pipeline(pipeline, {"number": 1}, models={"fast": model})[answer] == "fine"
    assert [request.messages[0].text for request in model.requests] == ["1"]


# Ctrl-C

SCRIPT = """
    import trio
    from pipeline_engine import Pipeline, Runner, iter_batch, run_batch, run_pipeline

    pipeline = Pipeline("long", inputs={{"number": int}})

    @pipeline.step
    async def work(number: int) -> int:
        try:
            print("started", flush=True)
            await trio.sleep_forever()
        finally:
            print("cleaned up", flush=True)

    try:
        {call}
    except KeyboardInterrupt:
        print("interrupted")
"""
CALLS = {
    "pipeline": 'run_pipeline(pipeline, {"number": 1})',
    "batch": 'run_batch(pipeline, [{"number": 1}])',
    "iter": 'with iter_batch(pipeline, [{"number": 1}]) as results: list(results)',
    "runner": 'with Runner() as runner: runner.run(pipeline, {"number": 1})',
}


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupt_ends_a_run_cleanly_and_as_keyboard_interrupt(name):
    """Ctrl-C is how most runs of a new user end: no group of exceptions, no thread that hangs on."""
    script = textwrap.dedent(SCRIPT.format(call=CALLS[name]))
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)

    assert (output, errors, process.returncode) == ("cleaned up\ninterrupted\n", "", 0)


@pytest.mark.parametrize("is_async", [True, False])
def test_a_step_that_exits_the_program_exits_it(is_async):
    """sys.exit() in a step is no failure of a step, and a group of exceptions would hide the exit code."""

    async def leave(number: int) -> int:
        raise SystemExit(3)

    def leave_plainly(number: int) -> int:
        raise SystemExit(3)

    with pytest.raises(SystemExit) as caught:
        run_pipeline(pipeline_of(leave if is_async else leave_plainly), {"number": 1})
    assert caught.value.code == 3


def test_a_run_without_a_journal_loads_no_database():
    """Some Pythons are built without SQLite, and everybody else need not wait for it."""
    code = (
        "import sys; from pipeline_engine import Pipeline, run_batch, run_pipeline\n"
        "pipeline = Pipeline('count', inputs={'text': str})\n"
        "def length(text: str) -> int: return len(text)\n"
        "pipeline.step(length)\n"
        "run_pipeline(pipeline, {'text': 'abc'}); run_batch(pipeline, [{'text': 'abc'}])\n"
        "print([name for name in ('sqlite3', 'psycopg') if name in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ended.stdout == "[]\n"
