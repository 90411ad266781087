"""The retry decorator on the virtual clock: how many calls, when, and what the caller sees in the end."""

import logging
import random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine import RateLimitError, RejectedError, Retry, UnavailableError
from pipeline_engine.resilience import (
    BackoffStrategy,
    CircuitBreaker,
    CircuitState,
    RateLimiter,
    retry,
    sync_to_async,
)
from tests.resilience.cancelling import cancel_everywhere, run_virtually

JITTERS = st.sampled_from(["full", "equal", "decorrelated", "none", True, False])
STRATEGIES = st.sampled_from(list(BackoffStrategy))
SECONDS = st.integers(0, 40).map(lambda number: number / 8)


class BusyError(Exception):
    """Somebody else's error that says when to come back, as many clients' errors do."""

    def __init__(self, retry_after=None):
        super().__init__("busy")
        self.retry_after = retry_after


class Flaky:
    """Fail as told, call by call, then answer; remember when each call began."""

    def __init__(self, *errors, duration=0.0):
        self.errors = list(errors)
        self.duration = duration
        self.began = []

    async def __call__(self, *_arguments, **_options):
        self.began.append(trio.current_time())
        await trio.sleep(self.duration)
        if self.errors:
            raise self.errors.pop(0)
        return "fine"


def limited(retry_after=None):
    return RateLimitError("is rate limited.", model="a:b", kind="rate_limited", status=429, retry_after=retry_after)


async def caught(function):
    """Return the function's result, or what it raised."""
    try:
        return await function()
    except Exception as error:
        return error


async def test_it_tries_again_until_it_is_answered(virtual_clock):
    """What the decorator is for."""
    flaky = Flaky(ConnectionError(), TimeoutError())

    assert await retry(max_attempts=3, jitter=False)(flaky)() == "fine"
    assert flaky.began == [0, 1, 3]


async def test_without_parentheses_the_defaults_hold(virtual_clock):
    """Three calls, with full jitter."""
    flaky = Flaky(*[ConnectionError()] * 9)

    assert isinstance(await caught(retry(flaky)), ConnectionError)
    assert len(flaky.began) == 3
    assert 0 < flaky.began[1] < 1


@pytest.mark.parametrize(
    ("strategy", "base_delay", "began"),
    [
        (BackoffStrategy.EXPONENTIAL, 1, [0, 1, 3, 7, 15, 31]),
        (BackoffStrategy.LINEAR, 2, [0, 2, 6, 12, 20, 30]),
        (BackoffStrategy.CONSTANT, 1, [0, 1, 2, 3, 4, 5]),
        ("linear", 2, [0, 2, 6, 12, 20, 30]),
    ],
)
async def test_delays_grow_as_the_strategy_says(virtual_clock, strategy, base_delay, began):
    """1, 2, 4, 8, 16; 2, 4, 6, 8, 10; 1, 1, 1, 1, 1: six calls have five delays between them."""
    flaky = Flaky(*[ConnectionError()] * 9)
    await caught(retry(max_attempts=6, strategy=strategy, base_delay=base_delay, jitter=False)(flaky))

    assert flaky.began == began


@given(
    attempts=st.integers(1, 6),
    failures=st.integers(0, 8),
    strategy=STRATEGIES,
    jitter=JITTERS,
    base_delay=SECONDS,
    max_delay=SECONDS,
    hints=st.lists(st.none() | SECONDS, min_size=8, max_size=8),
    seed=st.integers(0, 100),
)
def test_no_more_calls_than_allowed_and_none_before_its_hint(
    attempts, failures, strategy, jitter, base_delay, max_delay, hints, seed
):
    """RT1 and RT3, for every strategy, spread and number."""
    flaky = Flaky(*map(BusyError, hints[:failures]))
    settings = {"max_attempts": attempts, "strategy": strategy, "jitter": jitter, "seed": seed}
    calls = retry(**settings, base_delay=base_delay, max_delay=max_delay, exceptions=BusyError)(flaky)
    result = run_virtually(caught, calls)

    assert len(flaky.began) == min(attempts, failures + 1)
    assert (result == "fine") == (failures < attempts)
    for hint, before, after in zip(hints, flaky.began, flaky.began[1:], strict=False):
        assert after - before >= (hint or 0) - 1e-9
        assert after - before <= max(hint or 0, max_delay) + 1e-9


@given(
    seconds=SECONDS,
    duration=SECONDS,
    failures=st.integers(0, 8),
    jitter=JITTERS,
    hint=st.none() | SECONDS,
    telling=SECONDS,
    seed=st.integers(0, 100),
)
def test_nothing_is_slept_through_that_ends_after_the_deadline(
    seconds, duration, failures, jitter, hint, telling, seed
):
    """RT2. Half a minute of sleep that a timeout cuts off is half a minute lost, and the error with it."""
    flaky = Flaky(*[BusyError(hint)] * failures, duration=duration)
    failed_at = []

    async def on_retry(_attempt, _error):
        failed_at.append(trio.current_time())
        await trio.sleep(telling)

    calls = retry(max_attempts=9, jitter=jitter, exceptions=BusyError, on_retry=on_retry, seed=seed)(flaky)

    async def main():
        with trio.CancelScope(deadline=seconds + 1 / 16) as scope:
            return await caught(calls)
        assert scope.cancelled_caught
        return "cut off"

    if run_virtually(main) == "cut off":
        # Then it was a call, or the callback, that took too long, and no sleep of its own.
        in_call = flaky.began[-1] + duration >= seconds
        in_callback = failed_at and failed_at[-1] + telling >= seconds
        assert in_call or in_callback


async def test_beyond_the_deadline_the_error_comes_at_once(virtual_clock):
    """The caller learns what went wrong, and has the rest of its time for something else."""
    flaky = Flaky(BusyError(retry_after=30))
    with trio.fail_after(10), pytest.raises(BusyError) as raised:
        await retry(exceptions=BusyError)(flaky)()

    assert trio.current_time() == 0
    assert raised.value.__notes__ == [
        "retry: gave up after 1 attempt, because the next would begin after the deadline of a timeout around it."
    ]


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), RejectedError("refused it.", model="a:b", kind="auth", status=401), OSError("disk full")],
)
async def test_a_permanent_error_is_one_call(virtual_clock, error):
    """RT4. Sent again it costs the same and ends the same."""
    flaky = Flaky(error)

    assert await caught(retry(max_attempts=5)(flaky)) is error
    assert flaky.began == [0]
    assert not hasattr(error, "__notes__")


@given(jitter=JITTERS, seed=st.integers())
def test_the_same_seed_gives_the_same_delays(jitter, seed):
    """RT5. Else a test of what happens in time is no test."""
    first, second = (Flaky(*[ConnectionError()] * 9) for _ in range(2))
    random.seed(1)
    run_virtually(caught, retry(max_attempts=6, jitter=jitter, seed=seed)(first))
    random.seed(2)
    run_virtually(caught, retry(max_attempts=6, jitter=jitter, seed=seed)(second))

    assert first.began == second.began


def test_a_cancelled_call_leaves_limiter_and_breaker_as_they_were():
    """RT6, at every checkpoint: a back-off that held a token or a probe would keep it for good."""

    async def scenario(victim):
        limiter, breaker = RateLimiter(rate=1, capacity=10), CircuitBreaker(failure_threshold=1, timeout=1)
        began = []

        @retry(max_attempts=4, base_delay=1, jitter=False)
        async def fetch():
            async with limiter, breaker.protect():
                began.append(trio.current_time())
                await trio.sleep(0.25)
                raise ConnectionError

        async def endure():
            with pytest.raises(ConnectionError):
                await fetch()

        await victim.run(endure)
        assert limiter.waiting == 0
        assert breaker.probes == 0
        assert breaker.state is not CircuitState.HALF_OPEN or trio.current_time() >= 1
        await trio.sleep(1000)
        assert limiter.available == 10
        async with breaker.protect():
            pass

    assert cancel_everywhere(scenario) >= 8


async def test_while_it_backs_off_nothing_is_held(virtual_clock):
    """RT7. With the limiter inside, two flaky calls that sleep must not keep the others waiting."""
    slots, ended = trio.CapacityLimiter(2), {}

    async def work(number):
        flaky = Flaky(*[ConnectionError()] * (2 if number < 2 else 0), duration=0.5)

        @retry(max_attempts=3, strategy="constant", base_delay=2, jitter=False)
        async def attempt():
            async with slots:
                await flaky()

        await attempt()
        ended[number] = trio.current_time()

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(work, number)

    assert max(ended[number] for number in range(2, 10)) == 2.5


@pytest.mark.parametrize("exceptions", [BusyError, (KeyError, BusyError), lambda error: "busy" in str(error)])
async def test_only_the_errors_named_are_tried_again(virtual_clock, exceptions):
    """By type, by several, or by a predicate; then a broken connection is raised at once, as nobody named it."""
    named, other = Flaky(BusyError()), Flaky(ConnectionError())
    decorate = retry(max_attempts=2, exceptions=exceptions)

    assert await decorate(named)() == "fine"
    assert isinstance(await caught(decorate(other)), ConnectionError)
    assert len(other.began) == 1


async def test_the_last_error_is_raised_as_it_is_with_a_note(virtual_clock):
    """A wrapper of ours would break every `except` that was there before the decorator."""
    errors = [ConnectionError(str(number)) for number in range(3)]

    assert await caught(retry(max_attempts=3)(Flaky(*errors))) is errors[2]
    assert errors[2].__notes__ == ["retry: gave up after 3 attempts."]
    assert errors[2].__context__ is None


async def test_an_error_that_is_raised_again_and_again_has_one_note(virtual_clock):
    """A module's constant exception would grow for as long as the process lives."""
    error = ConnectionError()
    for _ in range(3):
        await caught(retry(max_attempts=2)(Flaky(error, error)))

    assert error.__notes__ == ["retry: gave up after 2 attempts."]


@pytest.mark.parametrize("is_async", [True, False])
async def test_the_callback_hears_of_each_retry_and_of_nothing_else(virtual_clock, is_async):
    """Attempts are counted from 1; the last failure is no retry, and reaches the caller anyway."""
    heard = []

    def listen(attempt, error):
        heard.append((attempt, str(error), trio.current_time()))

    async def listen_async(attempt, error):
        listen(attempt, error)
        await trio.sleep(0.5)

    errors = [ConnectionError(str(number)) for number in range(3)]
    flaky = Flaky(*errors)
    await caught(retry(max_attempts=3, on_retry=listen_async if is_async else listen, jitter=False)(flaky))

    assert heard == [(1, "0", 0), (2, "1", 1)]
    assert flaky.began == [0, 1, 3]


async def test_what_the_callback_raises_is_logged(virtual_clock, caplog):
    """Monitoring that is down must not take the calls with it."""

    async def on_retry(_attempt, _error):
        raise KeyError("metrics")

    assert await retry(on_retry=on_retry)(Flaky(ConnectionError()))() == "fine"
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.ERROR, "on_retry raised")]


async def test_every_call_counts_also_one_that_was_refused_for_rate(virtual_clock):
    """Nobody who writes `max_attempts=3` expects a fourth call."""
    flaky = Flaky(*[limited()] * 9)
    await caught(retry(max_attempts=3)(flaky))

    assert len(flaky.began) == 3


async def test_a_policy_means_what_it_means_in_a_pipeline(virtual_clock):
    """One value for both: refusals for rate spend no attempt, and `on` adds to what is transient."""
    down = UnavailableError("is down.", model="a:b", kind="server", status=500)
    flaky = Flaky(limited(3), BusyError(), down, limited(), limited(), ConnectionError())
    policy = Retry(attempts=3, jitter="none", max_throttled=3, on=BusyError)

    assert isinstance(await caught(retry(policy=policy)(flaky)), ConnectionError)
    assert flaky.began == [0, 3, 4, 6, 8, 12]


async def test_an_open_breaker_is_waited_for(virtual_clock):
    """Its error says when a probe may go: coming earlier is a wasted attempt."""
    breaker = CircuitBreaker(failure_threshold=1, timeout=30, success_threshold=1)
    flaky = Flaky(ConnectionError())

    @retry(max_attempts=3, base_delay=1, jitter=False)
    async def call():
        async with breaker.protect():
            return await flaky()

    assert await call() == "fine"
    assert flaky.began == [0, 30]


async def test_a_cancelled_call_is_not_tried_again(virtual_clock):
    """`exceptions=Exception` is all there is; cancellation is none of them."""
    flaky = Flaky(duration=60)
    with trio.move_on_after(1) as scope:
        await retry(exceptions=Exception)(flaky)()

    assert scope.cancelled_caught
    assert flaky.began == [0]


async def test_methods_arguments_and_names_stay(virtual_clock):
    """A decorator must not be seen."""

    class Client:
        prefix = "/v1"

        @retry
        async def get(self, path, *, sort=""):
            """Get it."""
            return self.prefix + path + sort

    assert await Client().get("/users", sort="?by=name") == "/v1/users?by=name"
    assert (Client.get.__name__, Client.get.__doc__) == ("get", "Get it.")


async def test_calls_at_once_do_not_share_their_count(virtual_clock):
    """One decorated function serves the whole program."""
    fleet = {number: Flaky(*[ConnectionError()] * number) for number in range(3)}

    @retry(max_attempts=3, jitter=False)
    async def call(number):
        return await fleet[number]()

    async with trio.open_nursery() as nursery:
        for number in fleet:
            nursery.start_soon(call, number)

    assert [flaky.began for flaky in fleet.values()] == [[0], [0, 1], [0, 1, 3]]


def test_a_plain_function_is_refused_when_it_is_decorated():
    """It would run once, and its result be awaited: an error far from its cause."""

    def plain():
        return 1

    with pytest.raises(TypeError, match=r"^retry takes async functions, and 'plain' is none\."):
        retry(plain)


def test_a_plain_function_can_be_wrapped_first():
    """As the message says."""
    calls = []

    @retry(max_attempts=2, base_delay=0)
    @sync_to_async
    def plain():
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError
        return "fine"

    assert trio.run(plain) == "fine"


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: retry(max_attempts=0), ValueError, r"retry(max_attempts=0): at least the first call is needed."),
        (lambda: retry(3), TypeError, "retry(3): its settings have names, such as retry(max_attempts=3)."),
        (
            lambda: retry(policy=Retry(), max_attempts=5, jitter=False),
            TypeError,
            "retry(policy=…) was given together with max_attempts, jitter. Say it in the Retry(…) instead.",
        ),
        (
            lambda: retry(exceptions=[KeyError]),
            TypeError,
            f"retry(exceptions=[{KeyError!r}]): an exception type, a tuple of them, or a predicate.",
        ),
        (lambda: retry(base_delay=-1), ValueError, "Retry(base_delay=-1): a delay is not negative."),
        (lambda: retry(strategy="cubic"), ValueError, "'cubic' is not a valid BackoffStrategy"),
    ],
)
def test_settings_that_make_no_sense_are_refused_at_once(call, kind, message):
    """A decorator runs at import: the mistake is seen before the first call."""
    with pytest.raises(kind) as raised:
        call()

    assert str(raised.value) == message
