"""The circuit beside a model that keeps every vote and counts anew each time."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from pipeline_engine.declare import Breaker
from pipeline_engine.resilience.circuit import Circuit, CircuitState

CLOSED, OPEN, HALF_OPEN = CircuitState.CLOSED, CircuitState.OPEN, CircuitState.HALF_OPEN
LEGAL = {(CLOSED, OPEN), (OPEN, HALF_OPEN), (HALF_OPEN, OPEN), (HALF_OPEN, CLOSED)}


def has_failed(breaker, votes, now):
    """Apply the rule as the documentation has it to all votes."""
    living = [failed for at, failed in votes if at > now - breaker.window]
    needed = breaker.failure_threshold
    return sum(living) >= needed and (all(living[-needed:]) or sum(living) >= len(living) / 2)


class CircuitMachine(RuleBasedStateMachine):
    """Start, end and cancel calls as time goes by, in any order."""

    calls = Bundle("calls")

    @initialize(
        failures=st.integers(1, 3), successes=st.integers(1, 3), window=st.integers(1, 20), timeout=st.integers(1, 8)
    )
    def begin(self, failures, successes, window, timeout):
        self.changes = []
        self.circuit = Circuit(
            Breaker(failures, window, timeout, successes), lambda *change: self.changes.append(change)
        )
        self.now = 0.0
        self.votes = []
        """Of the present time of being closed: when, and whether it failed."""
        self.opened_at = None
        self.epoch = 0
        """Counts the changes: a call belongs to the one in which it began."""
        self.probing = set()
        self.proven = 0
        self.number = 0
        self.state = CLOSED

    @rule(seconds=st.integers(0, 12))
    def let_time_pass(self, seconds):
        self.now += seconds

    @rule(target=calls)
    def start(self):
        admits_at = self.circuit.admits_at(self.now)
        assert admits_at == self.expected_admission()
        if admits_at > self.now:
            return multiple()
        if self.state is OPEN:
            self.become(HALF_OPEN)
        self.number += 1
        if self.state is HALF_OPEN:
            self.probing.add(self.number)
        return self.number, self.epoch, self.circuit.enter(self.now)

    def expected_admission(self):
        """BR7: none while it is open. BR1: in half-open no more than may still be needed."""
        if self.state is OPEN:
            return max(self.now, self.opened_at + self.circuit.breaker.timeout)
        if self.state is HALF_OPEN and len(self.probing) + self.proven >= self.circuit.breaker.success_threshold:
            return math.inf
        return self.now

    @rule(call=consumes(calls), is_failure=st.sampled_from([True, False, False, None]))
    def end(self, call, is_failure):
        number, epoch, generation = call
        self.circuit.leave(generation, self.now, is_failure=is_failure)
        if epoch != self.epoch:
            return  # BR3
        self.probing.discard(number)
        if is_failure is None:
            return  # BR6
        if self.state is HALF_OPEN:
            self.proven += not is_failure
            if is_failure:
                self.become(OPEN)
            elif self.proven == self.circuit.breaker.success_threshold:
                self.become(CLOSED)
            return
        self.votes.append((self.now, is_failure))
        if is_failure and has_failed(self.circuit.breaker, self.votes, self.now):
            self.become(OPEN)

    @rule(is_meant=st.sampled_from([False] * 9 + [True]))  # more often, and little else would ever happen
    def reset(self, is_meant):
        if is_meant:
            self.circuit.reset()
            self.become(CLOSED)

    def become(self, state):
        self.state = state
        self.epoch += 1
        self.votes, self.probing, self.proven = [], set(), 0
        self.opened_at = self.now if state is OPEN else None

    @invariant()
    def it_stands_where_the_model_stands(self):
        assert self.circuit.state is self.state

    @invariant()
    def no_more_probes_are_in_flight_than_are_needed(self):
        """BR1, and BR2: none where none is on its way."""
        assert self.circuit.probes == len(self.probing) <= self.circuit.breaker.success_threshold

    @invariant()
    def it_changes_in_order(self):
        resets = {(OPEN, CLOSED)}
        assert all(change in LEGAL | resets for change in self.changes)
        assert all(after is before for (_, after), (before, _) in zip(self.changes, self.changes[1:], strict=False))


TestCircuitMachine = CircuitMachine.TestCase


@given(
    failures=st.integers(1, 4),
    window=st.integers(1, 12),
    votes=st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 2, 5]), st.booleans()), max_size=40),
)
def test_it_opens_at_the_very_vote_at_which_the_rule_says_so(failures, window, votes):
    """One vote too early is a false alarm, one too late is a call to what is known to be down."""
    circuit, now, given = Circuit(Breaker(failures, window)), 0.0, []
    for gap, is_failure in votes:
        now += gap
        given.append((now, is_failure))
        circuit.leave(circuit.enter(now), now, is_failure=is_failure)
        should_open = is_failure and has_failed(circuit.breaker, given, now)
        assert circuit.state is (OPEN if should_open else CLOSED)
        if should_open:
            return


def opened(**numbers):
    circuit = Circuit(Breaker(failure_threshold=1, **numbers))
    circuit.leave(circuit.enter(0.0), 0.0, is_failure=True)
    return circuit


@given(st.integers(1, 5), st.floats(0.001, 1e6), st.floats(0, 1e6))
def test_after_its_timeout_an_idle_breaker_admits_and_is_closed_by_successes(needed, timeout, later):
    """BR4. Half open for ever is the classic failure of breakers."""
    circuit = opened(timeout=timeout, success_threshold=needed)
    now = timeout + later
    for _ in range(needed):
        assert circuit.admits_at(now) == now
        circuit.leave(circuit.enter(now), now, is_failure=False)

    assert circuit.state is CLOSED


@given(st.lists(st.tuples(st.floats(0, 1e3), st.booleans()), max_size=50))
def test_a_success_never_opens(votes):
    """BR5. Evidence that expires can leave failures in the majority; a call that went well is no reason to stop."""
    circuit, now = Circuit(Breaker(failure_threshold=2, window=60)), 0.0
    for gap, is_failure in votes:
        now += gap
        before = circuit.state
        if circuit.admits_at(now) <= now:
            circuit.leave(circuit.enter(now), now, is_failure=is_failure)
            if not is_failure:
                assert circuit.state is not OPEN or before is OPEN


def test_a_cancelled_probe_gives_its_place_back():
    """Six days half open, and 49,607 refusals: somebody's breaker counted a probe that had been cancelled."""
    circuit = opened(timeout=10, success_threshold=1)
    generation = circuit.enter(10.0)
    assert circuit.admits_at(10.0) == math.inf
    circuit.leave(generation, 11.0, is_failure=None)

    assert (circuit.state, circuit.probes, circuit.admits_at(11.0)) == (HALF_OPEN, 0, 11.0)


def test_no_more_probes_go_than_may_still_be_needed():
    """Of three successes that close it one is there: a third probe beside two others would be one too many."""
    circuit = opened(timeout=10, success_threshold=3)
    first, _, _ = (circuit.enter(10.0) for _ in range(3))
    circuit.leave(first, 11.0, is_failure=False)

    assert (circuit.probes, circuit.proven, circuit.admits_at(11.0)) == (2, 1, math.inf)


def test_a_late_result_of_an_older_time_changes_nothing():
    """BR3. A call of before the outage that returns after it says nothing about now."""
    circuit = Circuit(Breaker(failure_threshold=1, timeout=10, success_threshold=1))
    slow, failed = circuit.enter(0.0), circuit.enter(0.0)
    circuit.leave(failed, 1.0, is_failure=True)
    probe = circuit.enter(11.0)
    circuit.leave(slow, 12.0, is_failure=True)
    assert (circuit.state, circuit.probes) == (HALF_OPEN, 1)
    circuit.leave(probe, 13.0, is_failure=False)

    assert circuit.state is CLOSED


@pytest.mark.parametrize(("gap", "state"), [(59.0, OPEN), (60.0, CLOSED)])
def test_evidence_expires(gap, state):
    """Without it, a failure of Monday and one of Friday are two in a row."""
    circuit = Circuit(Breaker(failure_threshold=2, window=60))
    for now in (0.0, gap):
        circuit.leave(circuit.enter(now), now, is_failure=True)

    assert circuit.state is state


@given(st.floats(1e-12, 1e3), st.lists(st.tuples(st.floats(0, 1e7), st.booleans()), max_size=30))
def test_any_window_will_do(window, votes):
    """However short it is, and however long the clock has run."""
    circuit, now = Circuit(Breaker(failure_threshold=1000, window=window)), 0.0
    for gap, is_failure in votes:
        now += gap
        circuit.leave(circuit.enter(now), now, is_failure=is_failure)

    assert circuit.state is CLOSED
