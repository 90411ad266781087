"""Sync and async code call each other, wherever they run; context, errors and cancellation cross."""

import asyncio  # noqa: TID251 - one of the places that sync code is called from
import contextvars
import gc
import threading
import warnings
from functools import partial

import pytest
import trio

from pipeline_engine.resilience import async_to_sync, bridging, run_async, run_in_executor, sync_to_async

WHO = contextvars.ContextVar("who", default="nobody")


async def where(prefix="", *, suffix=""):
    """Say who calls, and on which thread."""
    await trio.lowlevel.checkpoint()
    return prefix + WHO.get() + suffix, threading.current_thread()


async def broken():
    await trio.lowlevel.checkpoint()
    raise KeyError("broken")


@pytest.fixture(autouse=True)
def ada():
    token = WHO.set("Ada")
    yield
    WHO.reset(token)


@pytest.fixture(params=["plain code", "a worker thread", "a trio loop", "an asyncio loop"])
def call_from(request, monkeypatch):
    """Call a sync function from each kind of place."""
    monkeypatch.setattr(bridging, "_has_warned", True)
    if request.param == "plain code":
        return lambda function: function()
    if request.param == "a worker thread":
        return lambda function: trio.run(trio.to_thread.run_sync, function)

    async def inside(function):
        return function()

    if request.param == "a trio loop":
        return partial(trio.run, inside)
    return lambda function: asyncio.run(inside(function))


def test_a_coroutine_or_a_function_runs_to_its_end(call_from):
    """Plain scripts, threads, notebooks: one function for all of them."""
    assert call_from(lambda: run_async(where()))[0] == "Ada"
    assert call_from(lambda: run_async(where, "<", suffix=">"))[0] == "<Ada>"
    assert call_from(lambda: run_async(partial(where, "<")))[0] == "<Ada"


def test_errors_cross(call_from):
    """As themselves, in no group."""
    for work in (broken, partial(run_async, broken)):
        with pytest.raises(KeyError, match="broken"):
            call_from(lambda work=work: run_async(work) if work is broken else work())


def test_a_decorated_function_is_a_plain_one(call_from):
    """With its name, its arguments and its context."""

    @async_to_sync
    async def fetch(path, *, times):
        """Fetch it."""
        await trio.lowlevel.checkpoint()
        return path * times + WHO.get()

    assert call_from(lambda: fetch("/", times=2)) == "//Ada"
    assert (fetch.__name__, fetch.__doc__) == ("fetch", "Fetch it.")


def test_a_worker_thread_uses_the_loop_that_it_belongs_to():
    """There the limiters and connections are; and a loop for each call would share none."""
    outside = trio.run(trio.to_thread.run_sync, run_async, where)[1]

    assert outside is threading.current_thread()


def test_inside_a_running_loop_another_thread_does_the_work(call_from, request):
    """A loop cannot run within itself."""
    _, thread = call_from(lambda: run_async(where))

    assert (thread.name == "pipeline_engine run_async") == request.node.name.endswith("loop]")


@pytest.mark.parametrize("run", [trio.run, lambda function: asyncio.run(function())])
def test_blocking_a_loop_is_warned_about_once(monkeypatch, run):
    """It is sometimes wanted, never harmless, and often a mistake."""
    monkeypatch.setattr(bridging, "_has_warned", False)

    async def main():
        with pytest.warns(RuntimeWarning) as warned:
            run_async(where)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run_async(where)
        return warned

    [warning] = run(main)
    assert str(warning.message) == (
        "run_async blocks the event loop that is running here until it returns. Use `await` instead."
    )
    assert warning.filename == __file__


def test_a_refused_coroutine_is_closed(monkeypatch):
    """One mistake, one message: not a second one about a coroutine that was never awaited."""
    monkeypatch.setattr(bridging, "_has_warned", False)

    async def main():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            run_async(where())

    with pytest.raises(RuntimeWarning, match="blocks the event loop"):
        trio.run(main)
    with pytest.raises(TypeError, match=r"^run_async takes arguments together with a function"):
        run_async(where(), 1)
    with pytest.raises(TypeError, match=r"^3 is neither an awaitable nor an async function"):
        run_async(3)
    gc.collect()


def test_work_in_a_worker_thread_is_cancelled_with_its_caller():
    """The thread cannot be stopped, but what it waits for can."""
    reached = []

    async def forever():
        reached.append("begun")
        try:
            await trio.sleep_forever()
        finally:
            reached.append("cancelled")

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, run_async, forever)
            while not reached:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert reached == ["begun", "cancelled"]


def test_an_interrupt_cancels_the_work_and_waits_for_it(monkeypatch):
    """Ctrl-C must not leave a thread behind that goes on spending."""
    left = []

    async def forever():
        try:
            await trio.sleep_forever()
        finally:
            left.append(True)

    class Interrupted(bridging.Future):
        def result(self, timeout=None):
            raise KeyboardInterrupt

    monkeypatch.setattr(bridging, "_has_warned", True)
    monkeypatch.setattr(bridging, "Future", Interrupted)

    async def main():
        with pytest.raises(KeyboardInterrupt):
            run_async(forever)

    trio.run(main)
    assert left == [True]
    assert "pipeline_engine run_async" not in [thread.name for thread in threading.enumerate()]


def test_plain_functions_run_in_threads_while_the_loop_goes_on():
    """A hash of a large file must not stop every other call."""
    may_go = threading.Event()

    @sync_to_async
    def wait(text, *, times):
        """Wait for the loop."""
        assert may_go.wait(10)
        return text * times + WHO.get(), threading.current_thread()

    async def main():
        async def go_on():
            may_go.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            return await wait("ab", times=2)

    said, thread = trio.run(main)
    assert said == "ababAda"
    assert thread is not threading.current_thread()
    assert (wait.__name__, wait.__doc__) == ("wait", "Wait for the loop.")


def test_one_call_can_be_sent_to_a_thread():
    """With arguments of both kinds; errors come back as they are."""

    async def main():
        with pytest.raises(ValueError, match="invalid literal"):
            await run_in_executor(int, "x", base=10)
        return await run_in_executor(int, "ff", base=16)

    assert trio.run(main) == 255


def test_a_cancelled_caller_waits_for_its_thread():
    """A thread cannot be stopped; leaving it behind would leave its work half done, unseen."""
    began, may_end, ended = threading.Event(), threading.Event(), []

    def work():
        began.set()
        assert may_end.wait(10)
        ended.append(True)

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_in_executor, work)
            while not began.is_set():
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            may_end.set()
        assert ended == [True]

    trio.run(main)


def test_there_and_back_again():
    """Sync in async in sync in async: each layer finds its way."""

    def sync_in_the_middle():
        return run_async(where, "inner ")[0]

    async def outer():
        return await run_in_executor(sync_in_the_middle)

    assert run_async(outer) == "inner Ada"
