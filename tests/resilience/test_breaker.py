"""The live circuit breaker on the virtual clock: what goes on the wire, when, and what cancelled calls leave."""

import logging
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline_engine import CircuitOpenError
from pipeline_engine.resilience import CircuitBreaker, CircuitState
from tests.resilience.cancelling import cancel_everywhere, run_virtually

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN


class NotFoundError(Exception):
    """The caller's mistake."""


ENDINGS = {"fails": ConnectionError, "succeeds": None, "says nothing": NotFoundError, "is cancelled": trio.Cancelled}
CALLS = st.lists(
    st.tuples(
        st.integers(0, 40).map(lambda number: number / 8),  # seconds since the call before
        st.integers(0, 40).map(lambda number: number / 8),  # how long it takes
        st.sampled_from(["fails", "fails", "succeeds", "succeeds", "says nothing", "is cancelled"]),
    ),
    max_size=40,
)


class Wire:
    """Count what is on its way, by the breaker's state when it began."""

    def __init__(self, **settings):
        self.changes = []
        self.in_flight = {CLOSED: 0, HALF_OPEN: 0}
        self.most_probes = 0
        self.refused = []
        self.breaker = CircuitBreaker(exceptions=ConnectionError, on_state_change=self.note, **settings)

    def note(self, old, new):
        self.changes.append((old, new, trio.current_time()))
        if new is HALF_OPEN:
            self.in_flight[HALF_OPEN] = 0  # probes of another time

    async def call(self, seconds, ending):
        try:
            with trio.CancelScope() as scope:
                async with self.breaker.protect():
                    await self.go(seconds, ending, scope)
        except CircuitOpenError as refused:
            self.refused.append((self.breaker.state, refused.retry_after))
        except (ConnectionError, NotFoundError):
            pass

    async def go(self, seconds, ending, scope):
        state, epoch = self.breaker.state, len(self.changes)
        assert state is not OPEN  # BR7
        self.in_flight[state] += 1
        self.most_probes = max(self.most_probes, self.in_flight[HALF_OPEN])
        try:
            await trio.sleep(seconds)
            if ending == "is cancelled":
                scope.cancel()
                await trio.lowlevel.checkpoint()
            elif ENDINGS[ending] is not None:
                raise ENDINGS[ending]
        finally:
            if state is CLOSED or epoch == len(self.changes):
                self.in_flight[state] -= 1

    async def calls(self, calls):
        async with trio.open_nursery() as nursery:
            for gap, seconds, ending in calls:
                await trio.sleep(gap)
                nursery.start_soon(self.call, seconds, ending)
        assert self.breaker.probes == 0  # BR2


@given(calls=CALLS, failures=st.integers(1, 4), successes=st.integers(1, 3), timeout=st.integers(1, 16))
def test_whatever_happens_no_call_goes_while_it_is_open_and_few_while_it_is_half_open(
    calls, failures, successes, timeout
):
    """BR1, BR2, BR4, BR7: a breaker that lets a queue through is none, and one that sticks is an outage itself."""
    wire = Wire(failure_threshold=failures, success_threshold=successes, timeout=timeout, window=10)

    async def main():
        await wire.calls(calls)
        assert wire.most_probes <= successes
        assert all(state is not CLOSED and 0 <= seconds <= timeout for state, seconds in wire.refused)
        await trio.sleep(timeout)
        refused = wire.refused.copy()
        for _ in range(successes):
            await wire.call(0.5, "succeeds")
        assert (wire.breaker.state, wire.refused) == (CLOSED, refused)

    run_virtually(main)


@given(calls=CALLS, successes=st.integers(1, 3))
def test_only_what_failed_opens_it(calls, successes):
    """BR5 and BR6: neither a success, nor the caller's mistakes, nor a cancelled call."""
    harmless = [(gap, seconds, ending) for gap, seconds, ending in calls if ending != "fails"]
    wire = Wire(failure_threshold=1, success_threshold=successes)
    run_virtually(wire.calls, harmless)

    assert wire.changes == []


@given(calls=CALLS, timeout=st.integers(1, 16))
def test_it_changes_in_order_and_keeps_its_timeout(calls, timeout):
    """Whoever follows the changes must be able to trust them."""
    wire = Wire(failure_threshold=2, timeout=timeout)
    run_virtually(wire.calls, calls)

    state, at = CLOSED, 0.0
    for old, new, changed_at in wire.changes:
        assert old is state
        assert (old, new) in {(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (HALF_OPEN, CLOSED)}
        if old is OPEN:
            assert changed_at >= at + timeout
        state, at = new, changed_at
    assert wire.breaker.state is state


@pytest.mark.parametrize("state", [CLOSED, HALF_OPEN])
@pytest.mark.parametrize("callback", ["none", "plain", "async"])
def test_wherever_a_call_is_cancelled_it_gives_its_place_back(state, callback):
    """BR6, at every checkpoint: a probe's place that is lost leaves the breaker half open for ever."""

    async def scenario(victim):
        heard = []

        async def hear_async(_old, new):
            await trio.sleep(0.5)
            heard.append(new)

        callbacks = {"none": None, "plain": lambda _old, new: heard.append(new), "async": hear_async}
        breaker = CircuitBreaker(1, timeout=10, success_threshold=1, on_state_change=callbacks[callback])
        if state is HALF_OPEN:
            await fail(breaker)
            await trio.sleep(10)

        async def call():
            async with breaker.protect():
                await trio.sleep(1)

        await victim.run(call)
        assert breaker.probes == 0
        assert breaker.state in ({CLOSED} if state is CLOSED else {OPEN, HALF_OPEN, CLOSED})
        await call()
        assert breaker.state is CLOSED
        assert heard == ([] if callback == "none" or state is CLOSED else [OPEN, HALF_OPEN, CLOSED])

    assert cancel_everywhere(scenario) >= 4


async def fail(breaker):
    with pytest.raises(ConnectionError):
        async with breaker.protect():
            raise ConnectionError("no route")


async def test_it_opens_refuses_probes_and_closes(virtual_clock):
    """The whole life of it, to the instant."""
    breaker = CircuitBreaker(failure_threshold=2, timeout=30, success_threshold=2, name="shop")
    await fail(breaker)
    assert breaker.state is CLOSED
    await fail(breaker)
    assert breaker.state is OPEN

    await trio.sleep(20)
    with pytest.raises(CircuitOpenError) as refused:
        async with breaker.protect():
            pytest.fail("it was let through")
    assert (refused.value.name, refused.value.retry_after, refused.value.is_transient) == ("shop", 10, True)
    assert str(refused.value) == (
        "the breaker of 'shop' is open: there were too many failures of late, so no call is made. "
        "The next one may go in 10.0 s."
    )

    await trio.sleep(10)
    assert breaker.state is OPEN  # until a probe goes
    async with breaker.protect():
        assert breaker.state is HALF_OPEN
    assert breaker.state is HALF_OPEN
    async with breaker.protect():
        pass
    assert breaker.state is CLOSED


async def test_a_failed_probe_opens_it_again(virtual_clock):
    """One answer is enough to know that it is too early."""
    breaker = CircuitBreaker(failure_threshold=1, timeout=30)
    await fail(breaker)
    await trio.sleep(30)
    await fail(breaker)

    assert breaker.state is OPEN
    with pytest.raises(CircuitOpenError) as refused:
        await breaker.protect().__aenter__()
    assert refused.value.retry_after == 30


async def test_while_its_probes_are_on_their_way_it_refuses_without_a_hint(virtual_clock):
    """When they end is unknown: whoever retries uses a delay of its own."""
    breaker = CircuitBreaker(failure_threshold=1, timeout=30, success_threshold=1)
    await fail(breaker)
    await trio.sleep(30)
    async with breaker.protect():
        with pytest.raises(CircuitOpenError) as refused:
            await breaker.protect().__aenter__()

    assert refused.value.retry_after == 0
    assert str(refused.value) == (
        "the breaker is half open: its probes are on their way, and no other call is made until they have ended."
    )
    assert breaker.state is CLOSED


@given(st.floats(0, 1e9), st.floats(0.01, 1e4), st.floats(0, 0.9))
@example(0.846802304164842, 3329.0124465233544, 0.3312971994650842)
@example(1e9 / 7, 0.1, 0.3)
def test_who_sleeps_for_the_hint_is_let_through(begins_at, timeout, share):
    """Sums of floats may end a hair before the instant; then the attempt would be refused once more."""

    async def main():
        await trio.sleep_until(begins_at)
        breaker = CircuitBreaker(failure_threshold=1, timeout=timeout)
        await fail(breaker)
        await trio.sleep(timeout * share)
        with pytest.raises(CircuitOpenError) as refused:
            await breaker.protect().__aenter__()
        await trio.sleep(refused.value.retry_after)
        async with breaker.protect():
            pass

    run_virtually(main)


@pytest.mark.parametrize(
    ("exceptions", "error", "opens"),
    [
        (None, ValueError(), True),
        (None, ExceptionGroup("several", [ValueError()]), True),
        (ConnectionError, ConnectionResetError(), True),
        ((KeyError, ConnectionError), KeyError(), True),
        (ConnectionError, ValueError(), False),
        (ConnectionError, ExceptionGroup("several", [ValueError(), ConnectionError()]), True),
        (ConnectionError, ExceptionGroup("several", [ValueError()]), False),
        (None, KeyboardInterrupt(), False),
        (None, GeneratorExit(), False),
    ],
)
async def test_what_counts_as_a_failure(exceptions, error, opens):
    """A 404 is an answer, and Ctrl-C says nothing about the other side."""
    breaker = CircuitBreaker(failure_threshold=1, exceptions=exceptions)
    with pytest.raises(type(error)):
        async with breaker.protect():
            raise error

    assert breaker.state is (OPEN if opens else CLOSED)


async def test_a_timeout_counts_inside_the_block_only(virtual_clock):
    """Around it a timeout is a cancellation, which says nothing: the caller may just have been impatient."""
    breaker = CircuitBreaker(failure_threshold=1)
    with trio.move_on_after(1):
        async with breaker.protect():
            await trio.sleep(60)
    assert breaker.state is CLOSED

    with pytest.raises(trio.TooSlowError):  # noqa: PT012 - the nesting is what is tested
        async with breaker.protect():
            with trio.fail_after(1):
                await trio.sleep(60)
    assert breaker.state is OPEN


async def test_a_function_can_be_guarded_as_a_whole(virtual_clock):
    """One line above it, instead of a block in it."""
    breaker = CircuitBreaker(failure_threshold=1)

    @breaker.protect()
    async def call(text, *, times=1):
        """Say it."""
        if not text:
            raise ConnectionError
        return text * times

    assert await call("ab", times=2) == "abab"
    assert (call.__name__, call.__doc__) == ("call", "Say it.")
    with pytest.raises(ConnectionError):
        await call("")
    with pytest.raises(CircuitOpenError):
        await call("ab")


async def test_one_guard_serves_one_block_at_a_time():
    """Two blocks in one guard would mix up which of them was a probe."""
    guard = CircuitBreaker().protect()
    async with guard:
        with pytest.raises(RuntimeError, match=r"^this guard is in use"):
            await guard.__aenter__()
    async with guard:
        pass


async def test_by_hand_it_closes_and_forgets(virtual_clock):
    """Who knows that the other side is well need not wait; what is in flight belongs to the time before."""
    heard = []
    breaker = CircuitBreaker(failure_threshold=2, on_state_change=lambda *change: heard.append(change))
    await fail(breaker)
    await breaker.reset()
    await fail(breaker)
    assert breaker.state is CLOSED
    with pytest.raises(ConnectionError):  # noqa: PT012 - the nesting is what is tested
        async with breaker.protect():
            await fail(breaker)
            assert breaker.state is OPEN
            await breaker.reset()
            raise ConnectionError
    await fail(breaker)

    assert breaker.state is CLOSED
    assert heard == [(CLOSED, OPEN), (OPEN, CLOSED)]


async def test_an_async_callback_hears_all_changes_in_order(virtual_clock):
    """A slow one must not be overtaken by the next change, nor run twice at once."""
    heard, running = [], 0

    async def hear(old, new):
        nonlocal running
        running += 1
        assert running == 1
        await trio.sleep(5)
        heard.append((old, new))
        running -= 1

    breaker = CircuitBreaker(failure_threshold=1, timeout=1, success_threshold=1, on_state_change=hear)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, breaker)
        await trio.sleep(2)
        async with breaker.protect():
            pass

    assert heard == [(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, CLOSED)]


async def test_a_probe_does_not_go_when_another_one_has_failed_meanwhile(virtual_clock):
    """BR7: while the callback was told that it is half open, it has opened again."""
    breaker, on_the_wire = None, []

    async def hear(_old, new):
        if new is HALF_OPEN:
            await trio.sleep(5)

    async def second():
        await trio.sleep(2)
        await fail(breaker)

    async def first():
        async with breaker.protect():
            on_the_wire.append(breaker.state)

    breaker = CircuitBreaker(failure_threshold=1, timeout=60, success_threshold=2, on_state_change=hear)
    await fail(breaker)
    await trio.sleep(60)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(second)
        with pytest.raises(CircuitOpenError):
            await first()

    assert on_the_wire == []
    assert breaker.probes == 0


async def test_an_interrupted_callback_gives_the_probes_place_back(virtual_clock):
    """Ctrl-C is no error of the callback's: it goes on its way, and the place must not go with it."""

    def hear(_old, new):
        if new is HALF_OPEN:
            raise KeyboardInterrupt

    breaker = CircuitBreaker(failure_threshold=1, timeout=10, success_threshold=1, on_state_change=hear)
    await fail(breaker)
    await trio.sleep(10)
    with pytest.raises(KeyboardInterrupt):
        await breaker.protect().__aenter__()
    assert (breaker.state, breaker.probes) == (HALF_OPEN, 0)
    async with breaker.protect():
        pass

    assert breaker.state is CLOSED


async def test_what_the_callback_raises_is_logged(virtual_clock, caplog):
    """Monitoring that is down must not take the calls with it, nor hide why they fail."""

    def hear(_old, _new):
        raise KeyError("metrics")

    await fail(CircuitBreaker(failure_threshold=1, on_state_change=hear))

    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, "on_state_change raised")
    ]


async def test_a_callback_that_hangs_is_cut_off(virtual_clock, caplog):
    """It is shielded, so that a call that is cancelled keeps its own error: so it must have an end."""

    async def hang(_old, _new):
        await trio.sleep_forever()

    await fail(CircuitBreaker(failure_threshold=1, on_state_change=hang))

    assert trio.current_time() == 10
    assert [record.message for record in caplog.records] == ["on_state_change took longer than 10 s and was cancelled"]


async def test_a_cancelled_callback_does_not_replace_the_error(virtual_clock):
    """A known trap of trio: an error is lost when the cleanup that it passes through is cancelled."""

    async def hear(_old, _new):
        await trio.sleep(5)

    with trio.move_on_after(1):
        await fail(CircuitBreaker(failure_threshold=1, on_state_change=hear))
        assert trio.current_time() == 5
        return
    pytest.fail("the error was lost")


def test_a_breaker_goes_on_in_the_next_event_loop():
    """A breaker at a module's top meets a loop for each `run_async`; its minute is a minute in all of them."""
    breaker = CircuitBreaker(failure_threshold=1, timeout=60)
    trio.run(fail, breaker)
    with pytest.raises(CircuitOpenError) as refused:
        trio.run(partial(breaker.protect().__aenter__))

    assert 50 < refused.value.retry_after <= 60


def test_its_repr_says_how_it_stands():
    """For logs and debuggers."""
    assert repr(CircuitBreaker(name="shop")) == "<CircuitBreaker 'shop': closed>"
    assert repr(CircuitBreaker()) == "<CircuitBreaker: closed>"


@pytest.mark.parametrize("number", ["failure_threshold", "timeout", "success_threshold", "window"])
def test_numbers_that_make_no_sense_are_refused(number):
    """When it is made, not when it is needed."""
    with pytest.raises(ValueError, match=f"{number}=0"):
        CircuitBreaker(**{number: 0})
