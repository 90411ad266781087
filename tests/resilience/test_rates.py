"""The rate's laws, as its definition says them: in any window of t seconds at most burst + rate·t."""

import math
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline_engine.resilience.rates import Rate, SettledRate

EIGHTHS = st.integers(0, 80).map(lambda number: number / 8)
"""Sums of eighths, and their quotients by powers of two, are exact as floats, so that `==` means what it says."""
RATES = st.sampled_from([0.25, 0.5, 1.0, 2.0, 8.0])
BURSTS = st.integers(8, 80).map(lambda number: number / 8)


class Bucket:
    """A token bucket as the textbooks have it, in fractions: what the rate must be the same as."""

    def __init__(self, per_second, burst):
        self.per_second, self.burst = Fraction(per_second), Fraction(burst)
        self.tokens, self.at = self.burst, Fraction(0)

    def wait(self, now, amount):
        missing = Fraction(amount) - self.level(now)
        return max(Fraction(0), missing / self.per_second)

    def level(self, now):
        return min(self.burst, self.tokens + (Fraction(now) - self.at) * self.per_second)

    def take(self, now, amount):
        self.tokens, self.at = self.level(now) - Fraction(amount), Fraction(now)


def admitted(rate, asked):
    """Let callers go one after the other, each after a gap and a wait; return instants and amounts."""
    now, starts = 0.0, []
    for gap, share in asked:
        amount = max(share * rate.burst, 0.125)
        now += gap
        now += rate.wait(now, amount)
        rate.take(now, amount)
        starts.append((now, amount))
    return starts


@pytest.mark.parametrize("per_second", [1, 0.1, 7, 600 / 60])
def test_a_hundred_starts_take_ninety_nine_intervals(per_second):
    """The long-run law. Admired code gets it wrong: a bucket clipped at the wrong end lets all through at once."""
    rate = Rate(per_second, burst=1)
    [(first, _), *_, (last, _)] = admitted(rate, [(0, 1)] * 100)

    assert last - first == pytest.approx(99 / per_second, abs=1e-9)


@given(RATES, BURSTS, st.lists(st.tuples(EIGHTHS, st.sampled_from([0.125, 0.25, 0.5, 1.0])), max_size=30))
def test_no_window_holds_more_than_its_burst_and_what_flows_back(per_second, burst, asked):
    """RL1. It is what a provider counts: one more is a refusal for everybody."""
    starts = admitted(Rate(per_second, burst), asked)

    for first, (began, _) in enumerate(starts):
        taken = 0.0
        for ended, amount in starts[first:]:
            taken += amount
            assert taken <= burst + per_second * (ended - began) + 1e-9 * per_second


@given(RATES, BURSTS, st.lists(st.tuples(EIGHTHS, st.integers(1, 8)), max_size=30))
def test_it_is_a_token_bucket(per_second, burst, asked):
    """One number instead of two, and no timer: worth nothing unless it says exactly the same."""
    rate, bucket, now = Rate(per_second, burst), Bucket(per_second, burst), 0.0
    for gap, eighths in asked:
        now += gap
        amount = burst * eighths / 8
        wait = rate.wait(now, amount)
        assert wait == bucket.wait(now, amount)
        assert rate.available(now) == bucket.level(now)
        now += wait
        rate.take(now, amount)
        bucket.take(now, amount)


@given(RATES, BURSTS, st.lists(st.tuples(EIGHTHS, st.just(1.0)), max_size=10))
def test_after_idling_the_full_burst_is_back_and_no_more(per_second, burst, asked):
    """RL4. A limiter that loses a token now and then hangs after some days; one that gains some bursts."""
    rate = Rate(per_second, burst)
    now = max((at for at, _ in admitted(rate, asked)), default=0.0)

    for idle in (burst / per_second, 1e6):
        assert rate.available(now + idle) == burst
        assert rate.wait(now + idle, burst) == 0.0


@given(
    per_second=st.floats(1e-3, 1e6),
    burst=st.floats(1, 1e6),
    now=st.floats(0, 1e10),
    shares=st.lists(st.floats(0.001, 1), min_size=1, max_size=10),
)
@example(per_second=1e6, burst=1.0, now=3e8, shares=[1.0, 0.5])
def test_who_has_waited_need_not_wait_again(per_second, burst, now, shares):
    """Instants of a clock that has run for months are coarse: a rest of rounding must not make a caller spin."""
    rate = Rate(per_second, burst)
    for share in shares:
        now += rate.wait(now, share * burst)
        assert rate.wait(now, share * burst) == 0.0
        rate.take(now, share * burst)


@given(RATES, BURSTS, st.floats(1.001, 100))
def test_more_than_the_burst_is_never_there(per_second, burst, factor):
    """Who asks for it must be told, not left waiting."""
    assert Rate(per_second, burst).wait(0.0, burst * factor) == math.inf


ESTIMATED = st.lists(
    st.tuples(
        EIGHTHS,  # seconds since the call before
        st.integers(1, 8),  # what is reserved, in eighths of the burst
        st.integers(0, 12),  # what is used, which may be more
        EIGHTHS,  # seconds until that is known
    ),
    max_size=25,
)


def used(rate, calls):
    """Reserve for calls one after the other, settle when each has ended; return instants and what was used."""
    now, starts, settlements = 0.0, [], []
    for gap, reserved, real, seconds in calls:
        asked_at = now + gap
        while True:
            for due in sorted(due for due in settlements if due[0] <= asked_at):
                settlements.remove(due)
                rate.settle(due[1], unused=due[2])
            wait = rate.wait(asked_at, rate.burst * reserved / 8)
            if not wait:
                break
            asked_at = min([asked_at + wait, *(due[0] for due in settlements)])
        now = asked_at
        number = rate.reserve(now, rate.burst * reserved / 8)
        starts.append((now, rate.burst * real / 8, rate.burst * max(0, real - reserved) / 8))
        settlements.append((now + seconds, number, rate.burst * (reserved - real) / 8))
    return starts


@given(RATES, BURSTS, ESTIMATED)
def test_real_use_exceeds_the_law_by_what_was_underestimated_at_most(per_second, burst, calls):
    """RL5. What was not used is given back, but not twice: some of it may have flowed back by itself."""
    starts = used(SettledRate(per_second, burst), calls)

    for first, (began, _, _) in enumerate(starts):
        taken = overshoot = 0.0
        for ended, amount, beyond in starts[first:]:
            taken += amount
            overshoot += beyond
            assert taken - overshoot <= burst + per_second * (ended - began) + 1e-9 * per_second


@given(RATES, BURSTS, st.integers(1, 8), st.integers(0, 12))
def test_settled_is_as_if_only_the_real_use_had_been_taken(per_second, burst, reserved, real):
    """Else a careful estimate would cost throughput for ever."""
    settled, plain = SettledRate(per_second, burst), Rate(per_second, burst)
    number = settled.reserve(1.0, burst * reserved / 8)
    settled.settle(number, unused=burst * (reserved - real) / 8)
    plain.take(1.0, burst * real / 8)

    assert settled.available(1.0) == pytest.approx(plain.available(1.0))


@given(RATES, BURSTS, st.lists(st.tuples(EIGHTHS, st.sampled_from([0.125, 0.25, 0.5, 1.0])), max_size=30))
def test_what_is_never_settled_is_a_plain_rate(per_second, burst, asked):
    """Where all amounts are known, the estimates' books must not show."""
    assert admitted(SettledRate(per_second, burst), asked) == admitted(Rate(per_second, burst), asked)


@given(RATES, BURSTS, EIGHTHS, st.floats(-10, 100))
def test_what_a_provider_says_only_ever_tightens(per_second, burst, taken, remaining):
    """A header of yesterday's must not open today's limit; -1 and nonsense mean that nothing is left."""
    rate = Rate(per_second, burst)
    rate.take(0.0, min(taken, burst))
    before = rate.available(0.0)
    rate.tighten(0.0, remaining)

    assert rate.available(0.0) <= before
    assert rate.available(0.0) == pytest.approx(min(before, max(0.0, remaining)), abs=1e-9)


class Plain:
    """The definition, kept in full: the bucket is full at the latest of what each amount leads to."""

    def __init__(self, per_second):
        self.per_second = per_second
        self.taken = []

    def full_at(self):
        return max(
            (at + sum(amount for _at, amount in self.taken[place:]) / self.per_second)
            for place, (at, _amount) in enumerate(self.taken)
        )


@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 60), st.integers(0, 3), st.integers(-20, 60)),
        min_size=1,
        max_size=25,
    )
)
def test_settling_is_exact_whenever_it_happens(moves):
    """What a slow call gives back has partly flowed back by itself: given twice, it would pass the limit."""
    rate, plain, now, open_calls = SettledRate(1, 60), Plain(1), 0.0, []
    for wait, amount, which, unused in moves:
        now += wait
        now += rate.wait(now, amount)
        open_calls.append((rate.reserve(now, amount), len(plain.taken), amount))
        plain.taken.append((now, amount))
        if which < len(open_calls):
            number, place, reserved = open_calls.pop(which)
            back = min(unused, reserved)
            rate.settle(number, back)
            at, _amount = plain.taken[place]
            plain.taken[place] = at, reserved - back
        # An overdraft of an amount that has flowed back is counted in full: that is stricter than the definition.
        expected = 60 - max(0.0, plain.full_at() - now)
        if unused >= 0:
            assert rate.available(now) <= expected + 1e-6
        if all(move[3] >= 0 for move in moves):
            assert rate.available(now) == pytest.approx(expected, abs=1e-6)
