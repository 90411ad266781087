"""The live rate limiter on the virtual clock: exact instants, strict order, and nothing held by who gives up."""

import gc
import warnings
from functools import partial

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.resilience import RateLimiter
from tests.resilience.cancelling import cancel_everywhere, run_virtually

CALLERS = st.lists(
    st.tuples(
        st.integers(0, 16).map(lambda number: number / 8),  # seconds since the caller before
        st.integers(1, 8).map(lambda number: number / 8),  # the amount, as a share of the capacity
        st.none() | st.integers(0, 40).map(lambda number: number / 8 + 1 / 16),  # patience; it never ties
    ),
    max_size=25,
)
RATES = st.sampled_from([0.5, 1.0, 2.0, 8.0])


def simulate(rate, capacity, callers):
    """Say when each caller goes, None for who gives up first: a queue and a bucket, written down plainly."""
    tokens, filled_at, queue_moves_at, starts = capacity, 0.0, 0.0, []
    for came_at, amount, gives_up_at in callers:
        first_at = max(came_at, queue_moves_at)
        missing = amount - min(capacity, tokens + (first_at - filled_at) * rate)
        goes_at = first_at + max(0.0, missing / rate)
        if gives_up_at < goes_at:
            starts.append(None)
            queue_moves_at = max(queue_moves_at, gives_up_at) if first_at < gives_up_at else queue_moves_at
        else:
            tokens = min(capacity, tokens + (goes_at - filled_at) * rate) - amount
            filled_at = queue_moves_at = goes_at
            starts.append(goes_at)
    return starts


async def really(limiter, callers):
    """Send the callers to the limiter; return when each went, and the order in which they did."""
    starts, order = [None] * len(callers), []

    async def call(number, amount, gives_up_at):
        with trio.CancelScope(deadline=gives_up_at):
            await limiter.acquire(amount)
            starts[number] = trio.current_time()
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number, (came_at, amount, gives_up_at) in enumerate(callers):
            await trio.sleep_until(came_at)
            nursery.start_soon(call, number, amount, gives_up_at)
            await trio.testing.wait_all_tasks_blocked()
    assert limiter.waiting == 0
    return starts, order


def in_absolute_time(callers, capacity):
    now, absolute = 0.0, []
    for gap, share, patience in callers:
        now += gap
        absolute.append((now, share * capacity, float("inf") if patience is None else now + patience))
    return absolute


@given(RATES, st.sampled_from([1.0, 2.0, 4.0]), CALLERS)
def test_callers_go_exactly_when_a_queue_and_a_bucket_let_them(rate, capacity, callers):
    """RL1, RL2, RL3, RL4: no sooner, no later, in their order, and who gives up leaves no trace."""
    callers = in_absolute_time(callers, capacity)
    starts, order = run_virtually(really, RateLimiter(rate, capacity=capacity), callers)

    assert starts == simulate(rate, capacity, callers)
    assert order == sorted(order)


@given(RATES, st.sampled_from([1.0, 2.0, 4.0]), CALLERS)
def test_no_window_holds_more_than_the_capacity_and_what_flows_back(rate, capacity, callers):
    """RL1, counted at the starts of calls: that is where a provider counts."""
    callers = in_absolute_time(callers, capacity)
    starts, _ = run_virtually(really, RateLimiter(rate, capacity=capacity), callers)
    taken = [(at, amount) for at, (_, amount, _) in zip(starts, callers, strict=True) if at is not None]

    for first, (began, _) in enumerate(taken):
        for last, (ended, _) in enumerate(taken[first:], first):
            assert sum(amount for _, amount in taken[first : last + 1]) <= capacity + rate * (ended - began)


async def test_a_hundred_starts_at_one_per_second_take_ninety_nine_seconds(virtual_clock):
    """The long-run law, to the instant."""
    limiter, starts = RateLimiter(rate=1), []

    async def call():
        async with limiter:
            starts.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(call)

    assert starts == [float(second) for second in range(100)]


async def test_the_period_counts(virtual_clock):
    """Sixty a minute, one at a time, is one a second."""
    limiter = RateLimiter(rate=60, per=60, capacity=1)
    for _ in range(10):
        await limiter.acquire()

    assert trio.current_time() == 9


async def test_callers_of_one_instant_go_in_the_order_of_their_calls(virtual_clock):
    """RL2. trio runs ready tasks in random order: a limiter that tests after a checkpoint would shuffle them."""
    limiter, asked, went = RateLimiter(rate=1, capacity=30), [], []

    async def call(number):
        asked.append(number)
        async with limiter:
            went.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            nursery.start_soon(call, number)

    assert went == asked


async def test_a_large_amount_is_not_starved_by_small_ones(virtual_clock):
    """Strict order costs some throughput, and in return everybody's turn comes."""
    limiter, went = RateLimiter(rate=1, capacity=4), []
    await limiter.acquire(4)

    async def call(name, tokens):
        await limiter.acquire(tokens)
        went.append((name, trio.current_time()))

    async with trio.open_nursery() as nursery:
        for name, tokens in [("large", 4), ("small", 1), ("smaller", 0.5)]:
            nursery.start_soon(call, name, tokens)
            await trio.testing.wait_all_tasks_blocked()

    assert went == [("large", 4), ("small", 5), ("smaller", 5.5)]


@pytest.mark.parametrize("position", ["alone", "first", "between", "last"])
@pytest.mark.parametrize("enter", ["async with", "acquire", "try_acquire"])
def test_whoever_is_cancelled_has_taken_nothing_and_keeps_nobody_waiting(position, enter):
    """RL3 and RL7, at every checkpoint there is: a place left in a queue stops everybody behind it for good."""

    async def scenario(victim):
        limiter, went = RateLimiter(rate=1, capacity=2), []
        await limiter.acquire(2)

        def goes(who):
            went.append((who, trio.current_time()))

        async def enter_it():
            if enter == "try_acquire":
                if await limiter.try_acquire():
                    goes("victim")
            elif enter == "acquire":
                await limiter.acquire(1)
                goes("victim")
            else:
                async with limiter:
                    goes("victim")
                    await trio.lowlevel.checkpoint()

        async def call(number):
            async with limiter:
                goes(number)

        async with trio.open_nursery() as nursery:
            for number in range(2):
                if (position, number) in {("first", 0), ("between", 1)}:
                    nursery.start_soon(victim.run, enter_it)
                    await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(call, number)
                await trio.testing.wait_all_tasks_blocked()
            if position == "last":
                nursery.start_soon(victim.run, enter_it)
        if position == "alone":
            await victim.run(enter_it)

        assert [who for who, _ in went if who != "victim"] == [0, 1]
        assert [at for _, at in went] == list(range(1, len(went) + 1))
        assert limiter.waiting == 0
        assert limiter.available == trio.current_time() - len(went)
        await trio.sleep(2)
        assert limiter.available == 2.0

    assert cancel_everywhere(scenario) >= 2


async def test_when_everybody_gives_up_nothing_is_left(virtual_clock):
    """A thousand clients that hang up at once must cost the next one nothing."""
    limiter = RateLimiter(rate=1)
    await limiter.acquire()
    with trio.move_on_after(0.5):
        async with trio.open_nursery() as nursery:
            for _ in range(1000):
                nursery.start_soon(partial(limiter._take, 1.0))
    assert limiter.waiting == 0
    await limiter.acquire()

    assert trio.current_time() == 1


async def test_an_amount_can_be_awaited_and_entered(virtual_clock):
    """Both are how people write it; the block itself holds nothing."""
    limiter = RateLimiter(rate=10)

    await limiter.acquire(5)
    async with limiter.acquire(tokens=5):
        assert limiter.available == 0
    async with limiter.acquire(tokens=2.5):
        assert trio.current_time() == 0.25


async def test_trying_takes_what_is_there_and_never_waits(virtual_clock):
    """For what may as well be left out."""
    limiter = RateLimiter(rate=2)

    assert [await limiter.try_acquire() for _ in range(3)] == [True, True, False]
    assert trio.current_time() == 0
    await trio.sleep(0.5)
    assert await limiter.try_acquire() is True


async def test_trying_does_not_overtake_who_waits(virtual_clock):
    """Else who polls goes before who queues, and the queue may starve."""
    limiter = RateLimiter(rate=1, capacity=4)
    await limiter.acquire(4)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(limiter._take, 4.0)
        await trio.sleep(2)
        assert await limiter.try_acquire(1) is False
    assert trio.current_time() == 4


@pytest.mark.parametrize("ask", [RateLimiter.acquire, RateLimiter.try_acquire])
async def test_more_than_the_capacity_is_refused_at_once(ask):
    """It could never be had; a caller who waits for ever has no line number."""
    with pytest.raises(ValueError, match=r"^RateLimiter: ") as raised:
        await ask(RateLimiter(rate=10), 11)

    assert str(raised.value) == (
        "RateLimiter: 11 tokens were asked for, but at most 10 can be had at once. "
        "Raise capacity=, or ask for less at a time."
    )


@pytest.mark.parametrize("tokens", [0, -1, float("nan")])
async def test_nothing_and_less_cannot_be_asked_for(tokens):
    """A negative amount would give tokens to everybody."""
    with pytest.raises(ValueError, match="Ask for a positive number"):
        RateLimiter(rate=10).acquire(tokens)


@pytest.mark.parametrize(
    "numbers",
    [{"rate": 0}, {"rate": -1}, {"rate": 1, "per": 0}, {"rate": 1, "capacity": 0.5}, {"rate": float("nan")}],
)
def test_numbers_that_make_no_sense_are_refused_when_it_is_made(numbers):
    """Not at three in the morning, when the first call waits for ever."""
    with pytest.raises(ValueError, match=r"^RateLimiter\((rate|per|capacity)="):
        RateLimiter(**numbers)


@pytest.mark.parametrize(("rate", "capacity"), [(10, 10.0), (0.1, 1.0)])
def test_the_capacity_is_that_of_one_period_and_at_least_one(rate, capacity):
    """A rate of one in ten seconds must let the first one through."""
    assert RateLimiter(rate).capacity == capacity


def test_a_forgotten_await_is_warned_about():
    """`limiter.acquire(5)` on a line of its own limits nothing, and nothing else would tell."""
    limiter = RateLimiter(rate=10)
    with pytest.warns(RuntimeWarning, match=r"^limiter.acquire\(5\) was neither awaited nor entered"):
        limiter.acquire(5)  # collected at once


def test_an_amount_that_was_used_is_not():
    """A warning that cries wolf is switched off."""

    async def main():
        await RateLimiter(rate=10).acquire(5)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_virtually(main)
        gc.collect()


def test_a_limiter_goes_on_in_the_next_event_loop():
    """A limiter at a module's top meets a loop for each `run_async`; each has a clock of its own."""
    limiter = RateLimiter(rate=1, per=1000, capacity=2)

    async def ask():
        return await limiter.try_acquire()

    assert [trio.run(ask) for _ in range(3)] == [True, True, False]


def test_a_limiter_is_not_stuck_by_the_clock_of_an_earlier_loop():
    """Each loop's clock begins at a random instant up to ten days; the difference must not be waited for."""
    limiter = RateLimiter(rate=1, capacity=5)

    async def ask_at(second):
        await trio.sleep_until(second)
        with trio.fail_after(10):
            await limiter.acquire()
        return trio.current_time()

    assert run_virtually(ask_at, 900_000) == 900_000
    assert run_virtually(ask_at, 5) == 5


def test_two_loops_at_once_are_told_apart():
    """Waking a task of another thread's loop breaks both; a clear error costs less."""
    limiter = RateLimiter(rate=1, per=1000, capacity=1)

    async def ask():
        await limiter.acquire()

    async def main():
        await limiter.acquire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match=r"^this RateLimiter is waited for in another event loop"):
                await trio.to_thread.run_sync(trio.run, ask)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert limiter.waiting == 0
