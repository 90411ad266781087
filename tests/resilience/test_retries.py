"""Whether and when to try again: decided from a policy, an error and the seconds left, with seeded dice."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.declare import Retry
from pipeline_engine.errors import (
    OutputError,
    RateLimitError,
    RejectedError,
    StepCodeError,
    StepTimeoutError,
    UnavailableError,
)
from pipeline_engine.resilience.retries import Again, is_throttled, is_transient, jittered, next_try, retry_hint

DOWN = UnavailableError("is down.", model="a:b", kind="server", status=500)
PLAIN = Retry(attempts=4, base_delay=1, max_delay=60, jitter="none")


def limited(retry_after=None, status=429):
    return RateLimitError("is rate limited.", model="a:b", kind="rate_limited", status=status, retry_after=retry_after)


def unavailable(status, retry_after=None):
    return UnavailableError("is down.", model="a:b", kind="server", status=status, retry_after=retry_after)


def decide(retry, error, attempts=1, throttled=0, previous=0.0, seconds_left=math.inf, seed=1):
    return next_try(
        retry,
        error,
        attempts=attempts,
        throttled=throttled,
        previous=previous,
        seconds_left=seconds_left,
        dice=random.Random(seed),
    )


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        limited(),
        ConnectionResetError(),
        TimeoutError(),
        StepTimeoutError("title", "attempt", 60),
        StepTimeoutError("title", "connect", 10),
    ],
)
def test_what_may_pass_is_tried_again(error):
    """The same call may succeed in a moment."""
    assert is_transient(error, PLAIN)
    assert decide(PLAIN, error, throttled=1) is not None


@pytest.mark.parametrize(
    "error",
    [
        RejectedError("refused the key.", model="a:b", kind="auth", status=401),
        OutputError("title", ["text: Field required"]),
        StepCodeError("title", "prompt", "raised KeyError."),
        StepTimeoutError("title", "step", 300),
        ValueError("broken"),
        OSError("disk full"),
    ],
)
def test_what_will_not_pass_is_not(error):
    """Sending it again costs the same and ends the same; the next candidate may do better."""
    assert not is_transient(error, PLAIN)
    assert decide(PLAIN, error) is None


def test_a_policy_may_name_further_errors():
    """By type, by several, or by a predicate; what is transient anyway stays so."""
    broken = ValueError("busy")

    assert is_transient(broken, Retry(on=ValueError))
    assert is_transient(broken, Retry(on=(KeyError, ValueError)))
    assert is_transient(broken, Retry(on=lambda error: "busy" in str(error)))
    assert not is_transient(broken, Retry(on=lambda error: 0))
    assert is_transient(DOWN, Retry(on=KeyError))


def test_attempts_are_all_tries_the_first_one_included():
    """`attempts=4` is one and three more, as documented; a fifth request would be an unasked one."""
    assert [decide(PLAIN, DOWN, attempts=spent) for spent in (1, 2, 3, 4)] == [
        Again(1.0, spends_attempt=True),
        Again(2.0, spends_attempt=True),
        Again(4.0, spends_attempt=True),
        None,
    ]


def test_a_single_attempt_is_not_repeated():
    """What a function step has unless it says more."""
    assert decide(Retry(attempts=1), DOWN) is None


@pytest.mark.parametrize(
    ("error", "throttled"),
    [
        (limited(), True),
        (limited(3), True),
        (unavailable(529), True),
        (unavailable(503, retry_after=3), True),
        (unavailable(503), False),
        (unavailable(503, retry_after=0), False),
        (unavailable(500, retry_after=3), False),
        (ConnectionError(), False),
    ],
)
def test_a_refusal_for_rate_is_told_from_an_outage(error, throttled):
    """429, 529, and 503 with a hint: the model is well, and asks for patience."""
    assert is_throttled(error) is throttled


def test_a_refusal_for_rate_spends_no_attempt():
    """A batch over its rate would otherwise fail steps that nothing is wrong with."""
    assert decide(PLAIN, limited(), attempts=4, throttled=1) == Again(1.0, spends_attempt=False)


def test_refusals_for_rate_are_bounded_apart():
    """Patience has an end, and it has a number."""
    retry = Retry(attempts=1, jitter="none", max_throttled=3)

    assert [decide(retry, limited(), attempts=0, throttled=borne) for borne in (1, 2, 3, 4)] == [
        Again(1.0, spends_attempt=False),
        Again(2.0, spends_attempt=False),
        Again(4.0, spends_attempt=False),
        None,
    ]


def test_no_patience_means_none():
    """`max_throttled=0` sends the first refusal to the next candidate."""
    assert decide(Retry(max_throttled=0), limited(), throttled=1) is None


@pytest.mark.parametrize(("hint", "delay"), [(None, 2.0), (0.5, 2.0), (2.0, 2.0), (17.0, 17.0), (100, 100), (0, 2.0)])
def test_a_providers_hint_is_a_minimum_for_the_delay(hint, delay):
    """It knows when it will answer again: coming earlier is a wasted call, coming all at once a new jam."""
    assert decide(PLAIN, limited(hint), throttled=2).delay == delay
    assert decide(PLAIN, unavailable(500, hint), attempts=2).delay == delay


@pytest.mark.parametrize("hint", [0, -3, math.nan, "soon", None])
def test_a_hint_that_is_no_wait_is_none(hint):
    """Headers hold what they hold."""
    assert retry_hint(limited(hint)) is None
    assert retry_hint(ValueError()) is None


@pytest.mark.parametrize(("seconds_left", "again"), [(2.001, Again(2.0, True)), (2.0, None), (0.0, None), (-1.0, None)])
def test_no_wait_is_begun_that_would_end_with_the_deadline_or_after_it(seconds_left, again):
    """The next candidate can use that time; a wait that can only time out helps nobody."""
    assert decide(PLAIN, DOWN, attempts=2, seconds_left=seconds_left) == again


def test_a_hint_past_the_deadline_goes_to_the_next_candidate_at_once():
    """For a step that has a minute, "come back in an hour" is a no."""
    assert decide(PLAIN, limited(3600), throttled=1, seconds_left=60) is None
    assert decide(PLAIN, limited(math.inf), throttled=1) is None


RETRIES = st.builds(
    Retry,
    attempts=st.integers(1, 50),
    strategy=st.sampled_from(["exponential", "linear", "constant"]),
    base_delay=st.floats(0, 1000),
    max_delay=st.floats(0, 1000),
    jitter=st.sampled_from(["full", "equal", "decorrelated", "none"]),
    max_throttled=st.integers(0, 50),
)


@given(retry=RETRIES, attempt=st.integers(2, 60), previous=st.floats(0, 1000), seed=st.integers())
def test_every_jitter_stays_within_its_bounds(retry, attempt, previous, seed):
    """Spread, but never longer than the policy says; only "full" may come at once."""
    plain = retry.delay_before(attempt)
    lowest, highest = {
        "none": (plain, plain),
        "full": (0, plain),
        "equal": (plain / 2, plain),
        "decorrelated": (
            min(retry.base_delay, retry.max_delay),
            min(retry.max_delay, max(retry.base_delay, previous * 3)),
        ),
    }[retry.jitter]

    delay = jittered(retry, attempt, previous, random.Random(seed))

    # Half a delay and a share of its other half are rounded apart.
    assert lowest * (1 - 1e-12) <= delay <= highest * (1 + 1e-12)


@pytest.mark.parametrize(
    ("jitter", "expected"), [("none", 8.0), ("full", 4.0), ("equal", 6.0), ("decorrelated", (1 + 3 * 5) / 2)]
)
def test_the_mean_of_many_delays_is_the_one_of_the_law(jitter, expected):
    """A spread that leans to one side is a schedule that nobody chose."""
    retry, dice = Retry(base_delay=1, max_delay=60, jitter=jitter), random.Random(7)

    mean = sum(jittered(retry, 5, 5.0, dice) for _ in range(20_000)) / 20_000

    assert mean == pytest.approx(expected, rel=0.02)


def test_the_same_dice_give_the_same_delays():
    """A run on a seeded engine can be repeated to the instant."""
    retry = Retry(attempts=9)

    assert [decide(retry, DOWN, attempts=n, seed=3) for n in range(1, 9)] == [
        decide(retry, DOWN, attempts=n, seed=3) for n in range(1, 9)
    ]


@given(
    retry=RETRIES,
    error=st.sampled_from([DOWN, limited(), limited(5), limited(500.5), unavailable(503, 7), unavailable(529)]),
    attempts=st.integers(1, 60),
    throttled=st.integers(1, 60),
    previous=st.floats(0, 1000),
    seconds_left=st.floats(-10, 2000),
    seed=st.integers(),
)
def test_a_decision_keeps_every_promise_at_once(retry, error, attempts, throttled, previous, seconds_left, seed):
    """Not later than the deadline, not before the hint, not more often than allowed, not longer than the policy."""
    again = decide(retry, error, attempts, throttled, previous, seconds_left, seed)

    hint = retry_hint(error) or 0
    is_refusal = is_throttled(error)
    is_allowed = throttled <= retry.max_throttled if is_refusal else attempts < retry.attempts
    if again is None:
        assert not is_allowed or seconds_left <= max(retry.max_delay, hint)
    else:
        assert is_allowed
        assert again.spends_attempt is not is_refusal
        assert hint <= again.delay <= max(retry.max_delay, hint)
        assert again.delay < seconds_left
