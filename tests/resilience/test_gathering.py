"""Many calls a few at a time, timeouts and shields: exact instants, bare errors, and no coroutine forgotten."""

import contextvars
import gc
import inspect
from functools import partial

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.resilience import gather_with_limit, run_with_shield, run_with_timeout, timeout_after
from tests.resilience.cancelling import cancel_everywhere, run_virtually

DURATIONS = st.lists(st.integers(0, 40).map(lambda number: number / 8), max_size=40)
LIMITS = st.integers(1, 12)


class Work:
    """Calls that take as long as told, and remember what was under way."""

    def __init__(self):
        self.began, self.running, self.most = [], 0, 0

    async def call(self, number, seconds=1.0, error=None):
        self.began.append(number)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(seconds)
            if error is not None:
                raise error
        finally:
            self.running -= 1
        return number


def finished_at(durations, limit):
    """When everything is done, if each call takes the first place that is free."""
    places = [0.0] * limit
    for seconds in durations:
        places[places.index(min(places))] += seconds
    return max(places)


@given(DURATIONS, LIMITS)
def test_results_are_in_order_and_no_place_stays_free(durations, limit):
    """In the order given they start and are returned; at most so many at once, and never fewer than could be."""
    work = Work()

    async def main():
        calls = [work.call(number, seconds) for number, seconds in enumerate(durations)]
        return await gather_with_limit(*calls, limit=limit), trio.current_time()

    results, ended_at = run_virtually(main)
    assert results == work.began == list(range(len(durations)))
    assert work.most == min(limit, len(durations))
    assert ended_at == finished_at(durations, limit)


@given(DURATIONS, LIMITS, st.data())
def test_the_first_error_is_raised_bare_and_nothing_is_left(durations, limit, data):
    """It is the error itself that an `except` looks for; the rest is cancelled, or closed if it never began."""
    failing = data.draw(st.sets(st.integers(0, max(0, len(durations) - 1))))
    errors = {number: ConnectionError(str(number)) for number in failing}
    work = Work()

    async def main():
        calls = [work.call(number, seconds, errors.get(number)) for number, seconds in enumerate(durations)]
        try:
            return await gather_with_limit(*calls, limit=limit)
        except ConnectionError as error:
            return error
        finally:
            assert work.running == 0
            assert {inspect.getcoroutinestate(call) for call in calls} <= {inspect.CORO_CLOSED}

    result = run_virtually(main)
    gc.collect(1)  # a coroutine that was never awaited would warn now, and warnings are errors here
    if failing and durations:
        assert result in errors.values()
    else:
        assert result == list(range(len(durations)))


@given(DURATIONS, LIMITS, st.sets(st.integers(0, 40)))
def test_errors_can_be_kept_in_place_of_results(durations, limit, failing):
    """Partial failure: what succeeded is worth having."""
    errors = {number: ConnectionError(str(number)) for number in failing}
    work = Work()

    async def main():
        calls = [work.call(number, seconds, errors.get(number)) for number, seconds in enumerate(durations)]
        return await gather_with_limit(*calls, limit=limit, return_exceptions=True)

    assert run_virtually(main) == [errors.get(number, number) for number in range(len(durations))]


async def test_ten_thousand_coroutines_need_as_many_tasks_as_run_at_once(virtual_clock):
    """A task for each would cost ten kilobytes for each, before the first has begun."""
    most_tasks = 0

    async def call():
        nonlocal most_tasks
        most_tasks = max(most_tasks, trio.lowlevel.current_statistics().tasks_living)
        await trio.sleep(1)

    before = trio.lowlevel.current_statistics().tasks_living
    results = await gather_with_limit(*(call() for _ in range(10_000)), limit=100)

    assert len(results) == 10_000
    assert trio.current_time() == 100
    assert most_tasks <= before + 100


def test_wherever_it_is_cancelled_nothing_runs_on_and_nothing_is_forgotten():
    """At every checkpoint: a task that outlives its caller, or a coroutine that warns, is a leak."""

    async def scenario(victim):
        work = Work()
        calls = [work.call(number) for number in range(5)]
        await victim.run(partial(gather_with_limit, *calls, limit=2))
        assert work.running == 0
        assert {inspect.getcoroutinestate(call) for call in calls} == {inspect.CORO_CLOSED}
        gc.collect()

    assert cancel_everywhere(scenario) >= 2


async def test_functions_may_be_given_too(virtual_clock):
    """They make their coroutines when it is their turn."""
    work = Work()

    assert await gather_with_limit(partial(work.call, 1), work.call(2), partial(work.call, 3), limit=1) == [1, 2, 3]


async def test_nothing_to_do_is_done():
    """An empty list of users is an everyday thing."""
    assert await gather_with_limit() == []


async def test_each_call_has_a_context_of_its_own(virtual_clock):
    """What one sets (a request's id, a logger) must not be seen by the next one in its place."""
    number = contextvars.ContextVar("number", default="none")
    number.set("the caller's")

    async def call(own):
        seen = number.get()
        number.set(own)
        await trio.sleep(1)
        return seen, number.get()

    assert await gather_with_limit(*map(call, "abcd"), limit=2) == [("the caller's", own) for own in "abcd"]
    assert number.get() == "the caller's"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), ExceptionGroup("own", [ValueError()])])
async def test_whatever_is_raised_is_raised_as_it_is(virtual_clock, error):
    """Ctrl-C in a group is caught by nobody."""
    work = Work()
    for keeps in (False,) if isinstance(error, Exception) else (False, True):
        with pytest.raises(type(error)) as raised:
            await gather_with_limit(work.call(1, 1, error), work.call(2, 5), return_exceptions=keeps)
        assert raised.value is error


async def test_an_error_survives_a_cancellation_at_the_same_moment(virtual_clock):
    """What went wrong is worth more than that it was ended."""

    async def call(scope):
        scope.cancel()
        raise ConnectionError

    caught = []
    with trio.CancelScope() as scope:
        try:
            await gather_with_limit(partial(call, scope), trio.sleep_forever)
        except ConnectionError as error:
            caught.append(error)

    assert len(caught) == 1


async def test_what_has_not_begun_when_another_fails_never_begins(virtual_clock):
    """A call that is sent only to be cancelled may still be charged for."""
    work = Work()

    async def fail():
        raise ConnectionError

    for _ in range(20):  # trio starts tasks in an order of its own
        with pytest.raises(ConnectionError):
            await gather_with_limit(fail(), work.call(1), work.call(2), limit=3)

    assert work.began == []


async def test_a_second_error_is_logged(virtual_clock, caplog):
    """Only one can be raised; the other must not vanish."""

    async def cleanup():
        try:
            await trio.sleep_forever()
        finally:
            raise KeyError("cleanup")

    with pytest.raises(ConnectionError):
        await gather_with_limit(cleanup(), Work().call(1, 1, ConnectionError()))

    assert [record.message for record in caplog.records] == [
        "gather_with_limit: one more call has failed while it was cancelled"
    ]


@pytest.mark.parametrize(
    ("options", "more", "kind", "message"),
    [
        ({"limit": 0}, [], ValueError, "gather_with_limit(limit=0): at least one must run at a time."),
        ({}, [3], TypeError, "3 is neither an awaitable nor an async function. Give f(…) or partial(f, …)."),
    ],
)
async def test_a_wrong_call_begins_nothing(options, more, kind, message):
    """And the coroutines made for it are closed, so that one mistake gives one message."""
    work = Work()
    with pytest.raises(kind) as raised:
        await gather_with_limit(work.call(1), *more, **options)
    gc.collect()

    assert str(raised.value) == message
    assert work.began == []


async def test_a_plain_function_is_named_in_the_error():
    """The message says what to do with it."""

    def plain():
        return 1

    with pytest.raises(TypeError) as raised:
        await gather_with_limit(plain)

    assert str(raised.value) == (
        "'plain' returned int, which cannot be awaited. Give an async function, or wrap a plain one with sync_to_async."
    )


async def slow(seconds=60.0, result="done"):
    await trio.sleep(seconds)
    return result


async def test_in_time_there_is_a_result(virtual_clock):
    """And no trace of the timeout."""
    assert await run_with_timeout(slow(5), timeout=5.125) == "done"
    async with timeout_after(5.125):
        assert await slow(5) == "done"


async def test_too_late_is_a_timeout_error(virtual_clock):
    """The builtin one, which other libraries raise and catch; to the instant."""
    with pytest.raises(TimeoutError) as raised:
        await run_with_timeout(slow(), timeout=5)
    assert trio.current_time() == 5
    assert str(raised.value) == (
        "'slow' took longer than its timeout of 5 s and was cancelled. Raise timeout= if it may."
    )

    with pytest.raises(TimeoutError) as raised:
        async with timeout_after(5):
            await slow()
    assert trio.current_time() == 10
    assert str(raised.value) == "the block took longer than its timeout of 5 s and was cancelled."


@pytest.mark.parametrize("error", [TimeoutError("own"), trio.TooSlowError("own"), ValueError("own")])
async def test_an_error_of_the_calls_own_passes_through(virtual_clock, error):
    """Whose timeout it was decides what to do about it."""

    async def call():
        await trio.sleep(1)
        raise error

    with pytest.raises(type(error)) as raised:
        await run_with_timeout(call(), timeout=5)
    assert raised.value is error
    with pytest.raises(type(error)) as raised:
        async with timeout_after(5):
            await call()
    assert raised.value is error


async def test_a_block_that_has_finished_is_not_too_late(virtual_clock):
    """Without a checkpoint after its end nothing was cut off, so nothing is raised."""

    async def finish_late():
        with trio.CancelScope(shield=True):
            await trio.sleep(9)
        return "done"

    assert await run_with_timeout(finish_late, timeout=5) == "done"
    async with timeout_after(5):
        await finish_late()


async def test_a_cancellation_from_outside_is_not_a_timeout(virtual_clock):
    """An outer scope's end must reach that scope."""
    with trio.move_on_after(1) as outer:
        await run_with_timeout(slow(), timeout=5)
    assert outer.cancelled_caught

    with trio.move_on_after(1) as outer:
        async with timeout_after(5):
            await slow()
    assert outer.cancelled_caught


async def test_a_shielded_call_ends_although_everything_around_it_is_cancelled(virtual_clock):
    """What must be saved is saved; then the cancellation takes its course."""
    saved = []
    with trio.move_on_after(1) as outer:
        try:
            await slow()
        finally:
            saved.append(await run_with_shield(slow(3, "saved")))
            await trio.sleep(60)

    assert saved == ["saved"]
    assert outer.cancelled_caught
    assert trio.current_time() == 4


@pytest.mark.parametrize("options", [{}, {"timeout": 30}])
async def test_a_shield_has_an_end(virtual_clock, options):
    """Else a program that is asked to end hangs."""
    with pytest.raises(TimeoutError) as raised:
        await run_with_shield(slow(), **options)

    assert trio.current_time() == 30
    assert str(raised.value) == (
        "'slow' took longer than its shield of 30 s and was cancelled. Raise timeout= if it may."
    )


@pytest.mark.parametrize("run", [run_with_timeout, run_with_shield])
@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
async def test_no_time_at_all_is_a_mistake(run, seconds):
    """And the coroutine made for it is closed."""
    with pytest.raises(ValueError, match="Give a positive number of seconds"):
        await run(slow(), timeout=seconds)
    gc.collect()


async def test_a_shield_without_end_is_refused():
    """The bound is the point."""
    with pytest.raises(ValueError, match="a shield without end could hang the program"):
        await run_with_shield(slow(), timeout=float("inf"))
    gc.collect()
