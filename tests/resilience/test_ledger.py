"""A budget's books: what is spent and reserved together never passes the cap, and whoever waits is woken."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pipeline_engine.declare import Budget
from pipeline_engine.resilience.ledger import Amount, Ledger

EIGHTHS = st.integers(0, 64).map(lambda number: number / 8)
"""Sums of eighths are exact as floats, so that `<=` means what it says."""
AMOUNTS = st.builds(Amount, EIGHTHS, EIGHTHS)
CAPS = st.one_of(st.none(), st.integers(1, 80).map(lambda number: number / 8))


class LedgerMachine(RuleBasedStateMachine):
    """Reserve, settle and wait as an engine does, beside books kept in the plainest way."""

    calls = Bundle("calls")

    def __init__(self):
        super().__init__()
        self.ledger = Ledger(Budget(usd=10))
        self.in_flight = {}
        self.used = []
        self.waiting = {}
        self.turned_away = []
        self.number = 0

    @rule(usd=CAPS, tokens=CAPS)
    def open_anew(self, usd, tokens):
        """Only untouched books may be exchanged."""
        if not self.number and (usd or tokens):
            self.ledger = Ledger(Budget(usd=usd, tokens=tokens))

    @rule(target=calls, amount=AMOUNTS)
    def ask(self, amount):
        self.number += 1
        self.begin(self.number, amount)
        return self.number

    def begin(self, number, amount):
        """Send a call that fits; else let it wait, or turn it away if nothing can become free any more."""
        if self.ledger.fits(amount):
            self.ledger.reserve(amount)
            self.in_flight[number] = amount
        elif self.ledger.has_calls_in_flight:
            self.ledger.waiting[number] = self.waiting[number] = amount
        else:
            self.turned_away.append((amount, self.spent()))

    @rule(number=consumes(calls), share=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    def end(self, number, share):
        if number not in self.in_flight:
            return
        reserved = self.in_flight.pop(number)
        used = Amount(reserved.usd * share, reserved.tokens * share)
        self.used.append(used)
        self.ledger.settle(reserved, used)
        self.let_go()

    @rule(number=consumes(calls))
    def cancel_a_wait(self, number):
        self.waiting.pop(number, None)
        self.ledger.waiting.pop(number, None)

    def let_go(self):
        for number in self.ledger.take_fitting():
            self.begin(number, self.waiting.pop(number))

    def spent(self):
        return sum(used.usd for used in self.used), sum(used.tokens for used in self.used)

    @invariant()
    def spent_and_reserved_stay_within_the_cap(self):
        usd, tokens = self.spent()
        budget = self.ledger.budget
        reserved = self.in_flight.values()
        assert budget.usd is None or usd + sum(amount.usd for amount in reserved) <= budget.usd
        assert budget.tokens is None or tokens + sum(amount.tokens for amount in reserved) <= budget.tokens

    @invariant()
    def settled_is_what_was_used(self):
        assert tuple(self.ledger.spent) == self.spent()

    @invariant()
    def it_knows_what_is_in_flight(self):
        assert self.ledger.has_calls_in_flight == bool(self.in_flight)

    @invariant()
    def nobody_waits_for_a_settlement_that_will_not_come(self):
        assert self.ledger.waiting == self.waiting
        assert self.in_flight or not self.waiting

    @invariant()
    def nobody_waits_who_would_fit(self):
        assert not any(self.ledger.fits(amount) for amount in self.waiting.values())

    @invariant()
    def only_what_is_larger_than_all_that_is_left_is_turned_away(self):
        budget = self.ledger.budget
        for amount, (usd, tokens) in self.turned_away:
            too_dear = budget.usd is not None and usd + amount.usd > budget.usd
            assert too_dear or tokens + amount.tokens > budget.tokens


TestLedgerMachine = LedgerMachine.TestCase


@given(
    cap=st.floats(0.01, 1e6),
    shares=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=60),
)
def test_rounding_never_adds_up_to_more_than_a_billionth_of_the_cap(cap, shares):
    """Dollars are floats: ten thousand small errors must not become a visible one."""
    ledger = Ledger(Budget(usd=cap))
    open_calls = []
    for share, used in shares:
        amount = Amount(cap * share, 0)
        if ledger.fits(amount):
            ledger.reserve(amount)
            open_calls.append((amount, Amount(amount.usd * used, 0)))
        elif open_calls:
            ledger.settle(*open_calls.pop(0))
    for reserved, spent in open_calls:
        ledger.settle(reserved, spent)
    assert ledger.spent.usd <= cap * (1 + 1e-9)


def test_no_rounding_error_is_kept_once_nothing_is_in_flight():
    """Else a budget of a dollar would in the end refuse a call of exactly what is left."""
    ledger = Ledger(Budget(usd=0.6))
    amounts = [Amount(0.1, 0), Amount(0.2, 0), Amount(0.3, 0)]
    for amount in amounts:
        ledger.reserve(amount)
    for amount in amounts:
        ledger.settle(amount, Amount(0.0, 0))

    assert ledger.fits(Amount(0.6, 0))


def test_a_cap_that_is_not_given_bounds_nothing():
    """`Budget(usd=1)` says nothing about tokens, and the other way round."""
    assert Ledger(Budget(usd=1)).fits(Amount(1, 1e12))
    assert Ledger(Budget(tokens=1)).fits(Amount(1e12, 1))


def test_both_caps_must_leave_room():
    """The tighter one decides."""
    ledger = Ledger(Budget(usd=1, tokens=100))

    assert ledger.fits(Amount(1, 100))
    assert not ledger.fits(Amount(1.1, 1))
    assert not ledger.fits(Amount(0.1, 101))


def test_what_costs_nothing_always_fits():
    """A model of one's own machine is asked even when the last cent is spent."""
    ledger = Ledger(Budget(usd=1))
    ledger.reserve(Amount(1, 10))
    ledger.settle(Amount(1, 10), Amount(1, 10))

    assert ledger.fits(Amount(0, 1e9))


def test_who_waits_is_taken_in_order_and_only_if_it_fits():
    """First come first served; one that is too large does not hold up the small ones."""
    ledger = Ledger(Budget(tokens=100))
    ledger.reserve(Amount(0, 50))
    ledger.reserve(Amount(0, 50))
    ledger.waiting.update(large=Amount(0, 90), small=Amount(0, 20), other=Amount(0, 15), last=Amount(0, 10))
    ledger.settle(Amount(0, 50), Amount(0, 10))

    assert ledger.take_fitting() == ["small", "other"]
    assert list(ledger.waiting) == ["large", "last"]  # 40 are left, and to wake more than fit together is of no use
    ledger.settle(Amount(0, 50), Amount(0, 50))
    assert ledger.take_fitting() == ["large", "last"]  # nothing is in flight: one learns that it will never fit
    assert ledger.take_fitting() == []


def test_it_says_whose_budget_it_is_and_how_large():
    """The text stands in outcomes and errors: a user must know which number to raise."""
    assert str(Ledger(Budget(usd=12.5))) == "the run's budget of $12.5"
    assert str(Ledger(Budget(tokens=2_000_000), "batch")) == "the batch's budget of 2,000,000 tokens"
    assert str(Ledger(Budget(usd=1, tokens=5), "document")) == "the document's budget of $1 and 5 tokens"


@pytest.mark.parametrize("cap", [0, -1, math.nan, math.inf])
@pytest.mark.parametrize("unit", ["usd", "tokens"])
def test_a_cap_that_is_no_positive_number_is_refused_when_it_is_declared(unit, cap):
    """NaN compares as false with everything: as a cap it would bound nothing."""
    with pytest.raises(ValueError, match=f"^Budget\\({unit}={cap!r}\\): a cap is a positive number"):
        Budget(**{unit: cap})


def test_a_budget_without_any_cap_is_refused():
    """It would look like a safety net."""
    with pytest.raises(ValueError, match=r"^Budget\(\): give usd=, tokens=, or both\.$"):
        Budget()


@pytest.mark.parametrize("wrong", ["skip", None, "openai:gpt-4o-mini", 5])
def test_what_becomes_of_a_call_that_does_not_fit_is_one_of_three(wrong):
    """A bare model name would be taken for a mode: it says what to write instead."""
    with pytest.raises(ValueError, match=r'"stop", "fail", or a Model\(…\)\.$'):
        Budget(usd=1, on_exhausted=wrong)
