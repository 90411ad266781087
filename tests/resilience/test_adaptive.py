"""How many at once: rules that hold whatever happens, and a simulated server whose capacity must be found."""

import heapq
import math
import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline_engine.resilience.adaptive import AdaptiveLimit

MINUTE = 60.0


def wave(adaptive, now):
    """Fill the limit with calls that start and end together; return the instant at which they ended."""
    count = adaptive.limit
    for number in range(count):
        adaptive.started(now, number + 1)
    for _ in range(count):
        adaptive.finished(now + 1.0, now, is_congested=False)
    return now + 1.0


def grown_to(limit):
    """Return a limit that has just become `limit` in slow start, and the instant."""
    adaptive = AdaptiveLimit(maximum=10_000)
    now = 0.0
    for _ in range(2 * (limit - 1)):
        now += 1.0
        adaptive.started(now, adaptive.limit)
        adaptive.finished(now + 0.5, now, is_congested=False)
    assert adaptive.limit == limit
    return adaptive, now + 0.5


def refuse(adaptive, now):
    """Refuse one call that starts now; return the instant after."""
    adaptive.started(now + 0.1, adaptive.limit)
    adaptive.finished(now + 0.2, now + 0.1, is_congested=True)
    return now + 0.2


def calls_until_change(adaptive, now, at_most=100_000):
    """Let calls succeed one after the other, at the limit; return how many it took, and the instant."""
    for count in range(1, at_most):
        adaptive.started(now + 0.1, adaptive.limit)
        now += 0.2
        if adaptive.finished(now, now - 0.1, is_congested=False):
            return count, now
    raise AssertionError("the limit never changed")


def test_it_begins_at_the_minimum():
    """Nothing is known yet, and a burst of first calls is a poor way to introduce oneself."""
    assert AdaptiveLimit(maximum=64).limit == 1
    assert AdaptiveLimit(maximum=64, minimum=8).limit == 8
    assert AdaptiveLimit(maximum=1).limit == 1


def test_slow_start_grows_by_half_in_each_response_time():
    """A model that bears hundreds is not found in steps of one."""
    adaptive = AdaptiveLimit(maximum=10_000)
    now, limits = 0.0, []

    for _ in range(12):
        limits.append(adaptive.limit)
        now = wave(adaptive, now)

    assert limits == [1, 1, 2, 3, 4, 6, 9, 14, 21, 31, 47, 70]


def test_slow_start_grows_call_by_call():
    """A limit that doubles at one instant sends a burst, which is refused as one."""
    adaptive = AdaptiveLimit(maximum=64, minimum=10)
    for number in range(10):
        adaptive.started(0.0, number + 1)

    changed = [adaptive.finished(2.0, 0.0, is_congested=False) for _ in range(10)]

    assert changed == [False, True] * 5
    assert adaptive.limit == 15


@pytest.mark.parametrize(("limit", "lowered"), [(2, 1), (3, 2), (7, 5), (9, 7), (10, 8), (100, 85), (513, 436)])
def test_a_refusal_leaves_85_percent(limit, lowered):
    """Always at least one less, and never so much less that a fifth of the model stands idle."""
    adaptive, now = grown_to(limit)

    adaptive.started(now + 1, limit)

    assert adaptive.finished(now + 2, now + 1, is_congested=True) is True
    assert adaptive.limit == lowered


def test_a_refusal_at_the_minimum_changes_nothing():
    """There is nothing to give; a limit of zero would never learn again."""
    adaptive = AdaptiveLimit(maximum=8, minimum=3)
    adaptive.started(0.0, 1)

    assert adaptive.finished(1.0, 0.0, is_congested=True) is False
    assert adaptive.limit == 3


def test_one_burst_of_refusals_is_one_decrease():
    """A hundred refusals of one instant say one thing: too many. A hundred decreases would stop the batch."""
    adaptive, now = grown_to(100)
    for number in range(100):
        adaptive.started(now + 1, number + 1)

    changed = [adaptive.finished(now + 2, now + 1, is_congested=True) for _ in range(100)]

    assert changed == [True] + [False] * 99
    assert adaptive.limit == 85


def test_a_refusal_of_a_call_that_started_after_the_decrease_is_another():
    """The lower limit was tried, and is still too high: so a halved capacity is found in moments."""
    adaptive, now = grown_to(100)
    limits = []

    for _ in range(4):
        now = refuse(adaptive, now)
        limits.append(adaptive.limit)

    assert limits == [85, 72, 61, 51]


def test_a_call_that_started_with_the_decrease_belongs_to_the_burst():
    """On the virtual clock a refusal may take no time at all: all calls of a burst bear one instant."""
    adaptive, now = grown_to(100)
    adaptive.started(now + 1, 100)
    adaptive.finished(now + 1, now + 1, is_congested=True)

    assert adaptive.finished(now + 2, now + 1, is_congested=True) is False


def test_successes_of_calls_from_before_the_decrease_are_no_reason_to_grow():
    """They were accepted beside those that were refused, at the limit that was too high."""
    adaptive, now = grown_to(100)
    for number in range(100):
        adaptive.started(now + 1, number + 1)
    adaptive.finished(now + 2, now + 1, is_congested=True)

    assert not any(adaptive.finished(now + 3, now + 1, is_congested=False) for _ in range(99))
    assert adaptive.limit == 85


def test_a_lowered_limit_grows_again_once_it_is_reached():
    """Calls on the way are finished, not cancelled; what is in use exceeds the limit until enough have ended."""
    adaptive, now = grown_to(100)
    now = refuse(adaptive, now)
    adaptive.started(now + 1, 84)
    assert adaptive.finished(now + 2, now + 1, is_congested=False) is False

    count, _ = calls_until_change(adaptive, now + 2)

    assert (count, adaptive.limit) == (7, 86)


def test_it_does_not_grow_while_it_is_not_reached():
    """Three calls at a time prove nothing about a hundred."""
    adaptive = AdaptiveLimit(maximum=100, minimum=4)

    for second in range(1000):
        adaptive.started(float(second), 3)
        assert adaptive.finished(second + 0.5, float(second), is_congested=False) is False

    assert adaptive.limit == 4


def test_a_call_counts_if_the_limit_was_reached_during_its_life():
    """Its own life is the response time: no average of calls that differ a hundredfold decides."""
    adaptive = AdaptiveLimit(maximum=100, minimum=2)
    adaptive.started(0.0, 1)
    adaptive.started(1.0, 2)
    adaptive.started(1.5, 1)

    late = adaptive.finished(2.0, 1.5, is_congested=False), adaptive.finished(2.0, 1.5, is_congested=False)
    early = adaptive.finished(3.0, 0.0, is_congested=False), adaptive.finished(3.0, 1.0, is_congested=False)

    assert (late, early) == ((False, False), (False, True))


def test_it_climbs_back_quickly_then_slowly():
    """Most of what was given up is known to be borne; the last of it is where the refusal came from."""
    adaptive, now = grown_to(101)
    now = refuse(adaptive, now)
    limits = []

    for _ in range(6):
        limits.append(adaptive.limit)
        now = wave(adaptive, now + 1)

    assert limits == [85, 94, 98, 99, 101, 102]


def test_it_rests_for_a_hundred_calls_below_a_limit_that_was_refused_twice():
    """One refused trial in a hundred calls is cheap, and a model that bears four is not asked for five all day."""
    adaptive, now = grown_to(5)
    now = refuse(adaptive, now)
    assert adaptive.limit == 4
    first, now = calls_until_change(adaptive, now)
    assert adaptive.limit == 5
    now = refuse(adaptive, now)
    assert adaptive.limit == 4

    second, now = calls_until_change(adaptive, now)

    assert (first, second) == (1, 100)
    assert adaptive.limit == 5


def test_a_trial_that_is_borne_is_followed_by_ever_larger_steps():
    """A capacity that has doubled is found in a few response times, not in as many as there are calls."""
    adaptive, now = grown_to(9)
    now = refuse(adaptive, now)
    now = refuse(adaptive, now)
    limits = []

    for _ in range(9):
        limits.append(adaptive.limit)
        now = wave(adaptive, now + 1)

    assert limits == [5, 7, 8, 11, 18, 29, 46, 71, 104]


def test_it_never_grows_by_more_than_one_per_call():
    """Where calls are few, a cubic is steep, and each of its steps would be a burst."""
    adaptive, now = grown_to(2)
    now = refuse(adaptive, now)
    limits = []

    for _ in range(200):
        _, now = calls_until_change(adaptive, now)
        limits.append(adaptive.limit)

    assert limits == list(range(2, 202))


def test_a_refusal_below_the_last_one_is_not_believed_for_long():
    """Refusals that come whatever the load would else hold the limit down for good, one after the other."""
    adaptive, now = grown_to(5)
    now = refuse(adaptive, now)
    _, now = calls_until_change(adaptive, now)
    now = refuse(adaptive, now)
    assert adaptive.limit == 4

    now = refuse(adaptive, now)
    assert adaptive.limit == 3

    assert calls_until_change(adaptive, now)[0] == 1


def test_refused_at_the_minimum_it_starts_as_at_first():
    """After an outage the last refusal was at two calls, and says nothing of the hundreds that are borne again."""
    adaptive, now = grown_to(100)
    for _ in range(40):
        now = refuse(adaptive, now)
    assert adaptive.limit == 1
    limits = []

    for _ in range(9):
        limits.append(adaptive.limit)
        now = wave(adaptive, now + 1)

    assert limits == [1, 1, 2, 3, 4, 6, 9, 14, 21]


def test_at_the_maximum_it_stays():
    """The user's number is a promise, to the provider or to somebody's purse."""
    adaptive = AdaptiveLimit(maximum=5)
    now = 0.0

    for _ in range(12):
        now = wave(adaptive, now)

    assert adaptive.limit == 5


BOUNDS = st.tuples(st.integers(1, 40), st.integers(0, 200)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@given(BOUNDS, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 300), st.booleans())))
def test_any_reports_leave_it_within_its_bounds(bounds, reports):
    """AC1, even of a caller who reports calls that never were."""
    minimum, maximum = bounds
    adaptive = AdaptiveLimit(maximum=maximum, minimum=minimum)

    for now, (ago, in_flight, is_congested) in enumerate(reports):
        before = adaptive.limit
        adaptive.started(float(now), in_flight)
        changed = adaptive.finished(float(now), float(now - ago), is_congested=is_congested)

        assert minimum <= adaptive.limit <= maximum
        assert changed is (adaptive.limit != before)
        assert type(adaptive.limit) is int


@given(st.integers(1, 300), st.integers(1, 300), st.data())
def test_any_burst_is_one_decrease(limit, burst, data):
    """AC3, however the refusals of a burst are spread, and whatever succeeds between them."""
    adaptive, now = grown_to(limit)
    starts = data.draw(st.lists(st.floats(now + 1, now + 2), min_size=burst, max_size=burst))
    for start in sorted(starts):
        adaptive.started(start, limit)
    answers = data.draw(st.lists(st.booleans(), min_size=burst, max_size=burst))

    for start, is_congested in zip(starts, [True, *answers], strict=False):
        adaptive.finished(now + 3, start, is_congested=is_congested)

    assert adaptive.limit == max(1, math.floor(0.85 * limit))


class Client(RuleBasedStateMachine):
    """A caller that keeps to the limit, and cancels as it likes; beside it a model of what may change the limit."""

    def __init__(self):
        super().__init__()
        self.adaptive = AdaptiveLimit(maximum=30, minimum=2)
        self.now = 0.0
        self.calls = []
        self.decreased_at = -math.inf
        self.reached_at = -math.inf

    @rule(seconds=st.sampled_from([0.0, 0.05, 1.0, 60.0]))
    def wait(self, seconds):
        self.now += seconds

    @precondition(lambda self: len(self.calls) < self.adaptive.limit)
    @rule(fill=st.booleans())
    def start(self, fill):
        before = self.adaptive.limit
        for _ in range(before - len(self.calls) if fill else 1):
            self.calls.append(self.now)
            self.adaptive.started(self.now, len(self.calls))
        if len(self.calls) >= before:
            self.reached_at = self.now
        assert self.adaptive.limit == before

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 1000))
    def cancel(self, which):
        """AC4: nobody tells the limit."""
        self.calls.pop(which % len(self.calls))

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 1000), count=st.integers(1, 30))
    def succeed(self, which, count):
        for _ in range(min(count, len(self.calls))):
            started_at = self.calls.pop(which % len(self.calls))
            before = self.adaptive.limit
            changed = self.adaptive.finished(self.now, started_at, is_congested=False)
            assert self.adaptive.limit == before + changed
            if changed:
                assert self.reached_at >= started_at > self.decreased_at

    @precondition(lambda self: self.calls)
    @rule(which=st.integers(0, 1000), count=st.integers(1, 30))
    def refuse(self, which, count):
        for _ in range(min(count, len(self.calls))):
            started_at = self.calls.pop(which % len(self.calls))
            before = self.adaptive.limit
            changed = self.adaptive.finished(self.now, started_at, is_congested=True)
            if started_at > self.decreased_at:
                assert self.adaptive.limit == max(2, int(before * 0.85))
                self.decreased_at = self.now
            else:
                assert not changed
                assert self.adaptive.limit == before

    @invariant()
    def is_within_its_bounds(self):
        assert 2 <= self.adaptive.limit <= 30


TestClient = Client.TestCase


@given(st.lists(st.tuples(st.integers(1, 9), st.booleans()), min_size=1), st.integers(1, 5))
def test_cancelled_calls_leave_no_trace(steps, cancelled):
    """AC4: two limits with the same reports agree, whatever was cancelled beside them.

    What one of them would count up for a call that never ends would be a leak.
    """
    plain, beside = AdaptiveLimit(maximum=50, minimum=10), AdaptiveLimit(maximum=50, minimum=10)
    for now, (in_flight, is_congested) in enumerate(steps):
        for number in range(cancelled):
            beside.started(now + 0.5, min(in_flight + number, 9))
        for adaptive in (plain, beside):
            adaptive.started(now + 0.6, adaptive.limit if in_flight > 5 else in_flight)
            adaptive.finished(now + 0.9, now + 0.6, is_congested=is_congested)

        assert plain.limit == beside.limit


def fixed(_dice):
    return 2.0


def lognormal(dice):
    """Mean 2 s, as answers of one prompt vary."""
    return dice.lognormvariate(math.log(2) - 0.125, 0.5)


def heavy_tail(dice):
    """Mean near 2 s, no variance to speak of: one call in a thousand takes a hundred times the median."""
    return min(300.0, 0.667 * dice.paretovariate(1.5))


@dataclass
class Seen:
    """What a simulation has seen."""

    limits: list[tuple[float, int]]
    """Since when, which limit."""
    calls: int = 0
    refused: int = 0
    ends_at: float = 20 * MINUTE

    def intervals(self, begin, end):
        """Yield each limit and for how many seconds it held, in an interval of time."""
        ends = [instant for instant, _ in self.limits[1:]]
        for (since, limit), until in zip(self.limits, [*ends, self.ends_at], strict=True):
            if since < end and until > begin:
                yield limit, min(until, end) - max(since, begin)

    def mean(self, begin, end):
        return sum(limit * seconds for limit, seconds in self.intervals(begin, end)) / (end - begin)

    def stays_near(self, capacity, begin, end):
        """Whether the limit is always within 20 %, or one call where that is less than one."""
        return all(abs(limit - capacity) <= max(1, 0.2 * capacity) for limit, _ in self.intervals(begin, end))

    def share_refused(self):
        return self.refused / self.calls


def simulate(capacities, *, duration=fixed, maximum=2000, noise=0.0, seed=1):
    """Call a server of known capacity for 20 minutes, with unlimited demand.

    It refuses after 50 ms what is above its capacity, and a refused call tries again after a back-off of
    1 s * 2**n with full jitter, at most a minute.

    Args:
        capacities: From when on how many calls are borne.
        duration: Draws the seconds that a call takes.
        maximum: The limit's.
        noise: The share of calls that is refused whatever the load.
        seed: For the dice.
    """
    dice = random.Random(seed)
    adaptive = AdaptiveLimit(maximum=maximum)
    seen = Seen([(0.0, adaptive.limit)])
    events = [(since, -1, "capacity", capacity, 0) for since, capacity in capacities]
    heapq.heapify(events)
    again = []  # how often each call was refused whose back-off is over
    capacity = in_flight = borne = number = 0
    while events[0][0] <= seen.ends_at:
        now, _, what, value, refusals = heapq.heappop(events)
        if what == "capacity":
            capacity = value
        elif what == "again":
            again.append(refusals)
        else:
            in_flight -= 1
            if what == "refused":
                number += 1
                delay = dice.uniform(0.0, min(60.0, 2.0**refusals))
                heapq.heappush(events, (now + delay, number, "again", 0, refusals + 1))
                seen.refused += 1
            else:
                borne -= 1
            if adaptive.finished(now, value, is_congested=what == "refused"):
                seen.limits.append((now, adaptive.limit))
        while in_flight < adaptive.limit:
            in_flight += 1
            number += 1
            seen.calls += 1
            adaptive.started(now, in_flight)
            refusals = again.pop() if again else 0
            if borne < capacity and not (noise and dice.random() < noise):
                borne += 1
                heapq.heappush(events, (now + duration(dice), number, "borne", now, refusals))
            else:
                heapq.heappush(events, (now + 0.05, number, "refused", now, refusals))
    return seen


CAPACITIES = (8, 16, 32, 64, 128, 256, 512)


@pytest.mark.parametrize("duration", [fixed, lognormal, heavy_tail])
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_it_finds_what_a_server_bears_and_stays_there(capacity, duration):
    """AC5: nobody knows the number, it is different tomorrow, and each refusal is a call for nothing."""
    seen = simulate([(0.0, capacity)], duration=duration)

    assert 0.9 * capacity <= seen.mean(10 * MINUTE, 20 * MINUTE) <= capacity
    assert seen.stays_near(capacity, 40.0, 20 * MINUTE)
    assert seen.share_refused() < 0.01


@pytest.mark.parametrize("duration", [fixed, lognormal])
@pytest.mark.parametrize("capacity", CAPACITIES)
def test_it_follows_a_capacity_that_halves_and_doubles(capacity, duration):
    """AC5: a provider's load changes by the hour: down within seconds, up within a minute."""
    halves_at, doubles_at = 7 * MINUTE, 14 * MINUTE
    seen = simulate([(0.0, capacity), (halves_at, capacity // 2), (doubles_at, capacity)], duration=duration)

    assert seen.stays_near(capacity, 40.0, halves_at)
    assert seen.stays_near(capacity // 2, halves_at + 3, doubles_at)
    assert seen.stays_near(capacity, doubles_at + 60, 20 * MINUTE)
    assert seen.share_refused() < 0.02


@pytest.mark.parametrize("capacity", [1, 2, 3, 4])
def test_a_small_capacity_is_not_asked_for_more_all_the_time(capacity):
    """One more is a large share of little: without its rest, a third of all calls would be refused."""
    seen = simulate([(0.0, capacity)], duration=lognormal)

    assert seen.stays_near(capacity, 40.0, 20 * MINUTE)
    assert seen.share_refused() < 0.02


@pytest.mark.parametrize(("capacity", "maximum"), [(8, 7), (64, 16), (512, 512)])
def test_a_maximum_that_is_borne_is_kept_without_a_refusal(capacity, maximum):
    """Who says a number that is small enough must never pay for a search."""
    seen = simulate([(0.0, capacity)], maximum=maximum)

    assert seen.refused == 0
    assert [limit for _, limit in seen.limits] == list(range(1, maximum + 1))


@pytest.mark.parametrize("capacity", [8, 64, 512])
@pytest.mark.parametrize("outage", [1.5, 30.0, 300.0])
def test_it_comes_back_after_an_outage(capacity, outage):
    """A server that was down for a while must not be served one call at a time for the rest of the night."""
    down_at, up_at = 7 * MINUTE, 7 * MINUTE + outage
    seen = simulate([(0.0, capacity), (down_at, 0), (up_at, capacity)], duration=lognormal)

    assert seen.stays_near(capacity, up_at + 60, 20 * MINUTE)


def test_refusals_that_come_whatever_the_load_do_not_hold_it_down_for_good():
    """Some overloads are not ours. The limit gives way, as it must, and keeps trying."""
    seen = simulate([(0.0, 8)], duration=lognormal, noise=0.03)

    assert seen.mean(10 * MINUTE, 20 * MINUTE) > 0.7 * 8
