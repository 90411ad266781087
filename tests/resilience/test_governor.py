"""One model's governor against plain models: what may start when, and what the ends of calls teach."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pipeline_engine.declare import Breaker, Limits
from pipeline_engine.errors import LimitError, ParkedError, RateLimitError, RejectedError
from pipeline_engine.resilience.circuit import CircuitState
from pipeline_engine.resilience.governor import Credential, Governor
from pipeline_engine.resilience.verdicts import SUCCESS, Verdict
from pipeline_engine.values import CooldownStarted, CredentialParked, RateLimitState, RateLimitWindow

FAILURE = Verdict(is_failure=True, is_congested=None)
NEUTRAL = Verdict(is_failure=None, is_congested=None)
THROTTLED = Verdict(is_failure=None, is_congested=True)
OPEN, HALF_OPEN, CLOSED = CircuitState.OPEN, CircuitState.HALF_OPEN, CircuitState.CLOSED


def governor(capacity=64, **options):
    return Governor("a:model", capacity, random.Random(1), **options)


def told(limit=None, remaining=None, reset_after=None):
    return RateLimitState(requests=RateLimitWindow(limit, remaining, reset_after))


class GovernorMachine(RuleBasedStateMachine):
    """Hold a governor against lists: of starts, of votes, and of the calls in flight.

    The breaker's rules are those of reliability.md, BR1 to BR7. Times are quarters of seconds, so that
    floats are exact.
    """

    CAPACITY = 4
    PER_SECOND, BURST, MOST = 2.0, 3.0, 4
    BREAKER = Breaker(failure_threshold=3, window=20.0, timeout=10.0, success_threshold=2)

    def __init__(self):
        super().__init__()
        limits = Limits(rpm=60 * self.PER_SECOND, burst_requests=self.BURST, max_concurrency=self.MOST)
        self.governor = Governor("a:model", self.CAPACITY, random.Random(1), limits=limits, breaker=self.BREAKER)
        self.now = 0.0
        self.starts = []
        self.permits = []  # with the era of the breaker in which each started
        self.state, self.era, self.votes, self.probes_at, self.proven = CLOSED, 0, [], math.inf, 0
        self.cool_until, self.spread, self.paced = -math.inf, 0.0, []

    # The plain model

    def probes(self):
        return sum(era == self.era for _, era in self.permits) if self.state is HALF_OPEN else 0

    def change(self, state):
        self.state, self.era, self.votes, self.proven = state, self.era + 1, [], 0
        if state is OPEN:
            self.probes_at = self.now + self.BREAKER.timeout

    def causes(self):
        """Everything because of which a call may not start now."""
        if self.now < self.cool_until:
            yield "cooldown"
        if self.state is OPEN and self.now < self.probes_at:
            yield "breaker"
        if self.state is HALF_OPEN and self.probes() + self.proven >= self.BREAKER.success_threshold:
            yield "breaker"
        is_coming_back = self.now < self.cool_until + self.spread / 2
        if is_coming_back and self.paced and self.now - self.paced[-1] < self.spread / (2 * self.CAPACITY):
            yield "cooldown"
        if len(self.permits) >= self.MOST:
            yield "concurrency"
        counts = enumerate(reversed(self.starts), start=2)
        if any(count > self.BURST + self.PER_SECOND * (self.now - at) for count, at in counts):
            yield "requests"

    def vote(self, *, is_failure):
        self.votes.append((self.now, is_failure))
        self.votes = [vote for vote in self.votes if vote[0] > self.now - self.BREAKER.window]
        failures = sum(failed for _, failed in self.votes)
        threshold = self.BREAKER.failure_threshold
        last = [failed for _, failed in self.votes[-threshold:]]
        is_over = failures >= threshold and (all(last) or failures >= len(self.votes) / 2)
        if is_failure and is_over:
            self.change(OPEN)

    # What happens

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 5.0, 10.0, 25.0]))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def somebody_asks(self):
        refusal, causes = self.governor.refusal(self.now), list(self.causes())
        assert (refusal is None) == (not causes)
        if refusal is not None:
            assert refusal.cause in causes
            assert refusal.until > self.now
            return
        self.permits.append(None)
        permit = self.governor.admit(self.now)
        if self.state is OPEN:
            self.change(HALF_OPEN)
        self.permits[-1] = (permit, self.era)
        self.starts.append(self.now)
        self.paced.append(self.now)

    @rule(which=st.integers(0, 3), verdict=st.sampled_from([SUCCESS, FAILURE, FAILURE, NEUTRAL, THROTTLED]))
    @precondition(lambda self: self.permits)
    def one_ends(self, which, verdict):
        permit, era = self.permits.pop(which % len(self.permits))
        before = self.state
        self.governor.finish(permit, self.now, verdict)
        if era == self.era and verdict.is_failure is not None:
            if self.state is CLOSED:
                self.vote(is_failure=verdict.is_failure)
            elif verdict.is_failure:
                self.change(OPEN)
            else:
                self.proven += 1
                if self.proven == self.BREAKER.success_threshold:
                    self.change(CLOSED)
        if not verdict.is_failure:
            assert self.state is not OPEN or before is OPEN

    @rule(which=st.integers(0, 3), seconds=st.sampled_from([2.0, 8.0, 20.0]))
    @precondition(lambda self: self.permits)
    def one_is_refused_for_rate_with_a_hint(self, which, seconds):
        permit, _era = self.permits.pop(which % len(self.permits))
        self.governor.finish(permit, self.now, THROTTLED, retry_after=seconds, has_jitter=False)
        if self.now + seconds > self.cool_until:
            self.cool_until, self.spread, self.paced = self.now + seconds, min(1.0, seconds / 10), []

    @rule(which=st.integers(0, 3))
    @precondition(lambda self: self.permits)
    def one_is_cancelled(self, which):
        permit, _era = self.permits.pop(which % len(self.permits))
        self.governor.cancel(permit)

    @rule()
    def somebody_resets(self):
        self.governor.reset(self.now)
        self.change(CLOSED)
        self.cool_until, self.spread = -math.inf, 0.0

    @rule()
    @precondition(lambda self: not self.permits)
    def it_is_well_again(self):
        """An idle breaker always admits after its timeout, and enough successes close it."""
        self.now += 100.0
        for _ in range(self.BREAKER.success_threshold):
            self.now += 1.0
            self.somebody_asks()
            assert len(self.permits) == 1
            self.one_ends(0, SUCCESS)
        assert self.state is CLOSED

    # What must hold

    @invariant()
    def both_agree(self):
        circuit = self.governor.circuit
        assert circuit.state is self.state
        assert self.governor.in_flight == len(self.permits)
        assert (circuit.probes, circuit.proven) == (self.probes(), self.proven)

    @invariant()
    def probes_are_bounded_and_none_is_in_flight_when_idle(self):
        circuit = self.governor.circuit
        assert circuit.probes <= self.BREAKER.success_threshold
        assert self.permits or circuit.probes == self.governor.in_flight == 0

    @invariant()
    def nothing_goes_between_opening_and_half_open(self):
        if self.state is OPEN and self.now < self.probes_at:
            assert self.governor.refusal(self.now) is not None


GovernorMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestGovernorAgainstLists = GovernorMachine.TestCase


# Tokens


def worst_excess(charges, per_second, burst):
    """By how much the worst window of t seconds exceeds `burst + per_second * t`."""
    worst, taken, least = -math.inf, 0.0, math.inf
    for at, amount in sorted(charges):
        least = min(least, taken - per_second * at)
        taken += amount
        worst = max(worst, taken - per_second * at - least)
    return worst - burst


class Counted:
    """Start calls as soon as a governor of 1 token a second and a burst of 60 lets them."""

    def __init__(self):
        self.governor = governor(limits=Limits(tpm=60, burst_tokens=60))
        self.now = 0.0
        self.permits = []
        self.charges = []

    def start(self, tokens):
        refusal = self.governor.refusal(self.now, tokens)
        if refusal is not None:
            self.now = refusal.until
            assert self.governor.refusal(self.now, tokens) is None
        self.permits.append((self.governor.admit(self.now, tokens), len(self.charges)))
        self.charges.append((self.now, float(tokens)))

    def end(self, which, used):
        permit, index = self.permits.pop(which % len(self.permits))
        if used is None:
            self.governor.cancel(permit)
            return
        used = min(used, permit.tokens)
        self.governor.finish(permit, self.now, SUCCESS, tokens=used)
        self.charges[index] = self.charges[index][0], used


moves = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([10, 40, 80])),
        st.tuples(st.just("start"), st.sampled_from([20, 60])),
        st.tuples(st.just("end"), st.integers(0, 1), st.sampled_from([0, 15, None])),
    ),
    min_size=4,
    max_size=30,
)


@given(moves.map(lambda given: [move for move in given if move[0] != "end" or move[2] is None]))
def test_reserved_tokens_keep_to_every_window(given):
    """Whatever is cancelled, and when: no window has more than the burst and what flowed back in it."""
    assert worst_excess(charged(given), 1, 60) <= 1e-6


@settings(max_examples=400)
@given(moves)
def test_settled_tokens_keep_to_every_window(given):
    """What a call did not use may be used by others, but only once: the provider counts what was used."""
    assert worst_excess(charged(given), 1, 60) <= 1e-6


def test_what_has_flowed_back_is_not_given_back_again():
    """A call that took its time gives back what it did not use, long after the bucket was full again.

    It reserved 60 of 60 at 0 s and has used none; 60 more were taken at 100 s. At 101 s there is one.
    """
    counted = Counted()
    counted.start(60)
    counted.now = 100.0
    counted.start(60)
    counted.now = 101.0
    counted.end(0, 0)

    assert counted.governor.refusal(101.0, 1) is None
    assert counted.governor.refusal(101.0, 2) is not None


def charged(moves):
    """Return when calls started, and what they were charged for in the end."""
    counted = Counted()
    for move, *what in moves:
        if move == "wait":
            counted.now += what[0]
        elif move == "start":
            counted.start(*what)
        elif counted.permits:
            counted.end(*what)
    return counted.charges


def test_requests_and_tokens_are_refused_together_and_taken_together():
    """A refusal for one of them must not cost the other."""
    both = governor(limits=Limits(rpm=60, tpm=600, burst_tokens=100))
    both.admit(0.0, 50.0)
    for _ in range(100):
        assert both.refusal(0.5, 50.0).cause == "requests"
        assert both.refusal(1.0, 80.0).cause == "tokens"

    assert both.refusal(1.0, 60.0) is None


# What providers tell

numbers = st.one_of(st.none(), st.integers(-2, 3), st.integers(-(10**12), 10**12))
seconds = st.one_of(st.none(), st.floats(-10, 100), st.floats(0, 1e9))


@given(st.lists(st.tuples(numbers, numbers, seconds, st.integers(0, 3)), max_size=20))
def test_no_header_makes_a_governor_break_its_own_limits(headers):
    """Providers send -1, 0, and numbers of another planet: the user's own limits hold whatever they say."""
    limited = governor(limits=Limits(rpm=60, burst_requests=2))
    now, starts = 0.0, []
    for limit, remaining, reset, wait in headers:
        now += wait
        if limited.refusal(now) is None:
            permit = limited.admit(now)
            starts.append((now, 1))
            limited.finish(permit, now, SUCCESS, told=told(limit, remaining, reset))
        assert limited.refusal(now) is None or limited.refusal(now).until > now
    assert worst_excess(starts, 1, 2) <= 1e-6


@given(st.integers(1, 10_000), st.integers(1, 10_000), st.floats(0.001, 1e6))
def test_as_long_as_the_provider_says_that_calls_are_left_they_may_start(limit, remaining, reset):
    """A window of an hour or a day must not be taken for one of a minute, nor the other way round."""
    told_of = governor()
    told_of.finish(told_of.admit(0.0), 1.0, SUCCESS, told=told(limit, min(limit, remaining), reset))

    for _ in range(min(limit, remaining, 20)):
        assert told_of.refusal(1.0) is None
        told_of.admit(1.0)


# Cool-downs


@given(st.floats(0.01, 1_000), st.integers(0, 2**32))
def test_a_cool_down_ends_after_the_hint_and_not_much_later(hint, seed):
    """The spread is a tenth of the hint, and never more than a second; half of it puts off the end."""
    cooled = Governor("a:model", 8, random.Random(seed))
    cooled.finish(cooled.admit(0.0), 5.0, THROTTLED, retry_after=hint)
    (news,) = cooled.take_news()

    assert isinstance(news, CooldownStarted)
    assert 5.0 + hint <= news.until <= 5.0 + hint + min(1.0, hint / 10) / 2
    assert cooled.refusal(math.nextafter(news.until, 0)).cause == "cooldown"
    assert cooled.refusal(news.until) is None


@given(st.integers(1, 64), st.floats(0.5, 100))
def test_after_a_cool_down_calls_come_back_over_half_the_spread(capacity, hint):
    """As many as the engine can have in flight come back one by one; then there is no pace any more."""
    cooled = Governor("a:model", capacity, random.Random(1))
    cooled.cool_down(0.0, hint, has_jitter=False)
    now, came = cooled.cool_until, []
    while len(came) < capacity:
        refusal = cooled.refusal(now)
        if refusal is None:
            cooled.admit(now)
            came.append(now)
        else:
            now = refusal.until
    spread = min(1.0, hint / 10)

    assert [at - hint for at in came] == pytest.approx([n * spread / 2 / capacity for n in range(capacity)], abs=1e-6)
    assert cooled.refusal(hint + spread / 2 + 1e-6) is None


# What is of no use


def test_what_could_never_start_is_an_obstacle_with_numbers():
    """Nobody waits for a call that is larger than the burst, a parked key, or the time after the deadline."""
    limited = governor(limits=Limits(tpm=600))
    assert isinstance(limited.obstacle(0.0, 601, math.inf), LimitError)
    assert limited.obstacle(0.0, 600, math.inf) is None
    limited.cool_down(0.0, 30.0, has_jitter=False)
    assert isinstance(limited.obstacle(0.0, 0, 30.0), RateLimitError)
    assert limited.obstacle(0.0, 0, 31.0) is None
    assert limited.obstacle(30.0, 0, 30.0) is None
    limited.park(0.0, RejectedError("refused the key.", model="a:model", kind="auth"))
    assert isinstance(limited.obstacle(0.0, 0, math.inf), ParkedError)
    limited.reset(0.0)
    assert limited.obstacle(0.0, 0, 1.0) is None


def test_a_key_is_parked_once_for_all_of_its_models():
    """A hundred refused calls are one piece of news."""
    credential = Credential()
    first, second = governor(credential=credential), governor(credential=credential)
    error = RejectedError("refused the key.", model="a:model", kind="auth")
    first.park(1.0, error)
    second.park(2.0, error)

    assert first.take_news() == [CredentialParked(1.0, "a:model")]
    assert second.take_news() == []
    assert first.statistics(2.0).is_parked
    assert second.statistics(2.0).is_parked
    second.reset(3.0)
    assert not first.statistics(3.0).is_parked
