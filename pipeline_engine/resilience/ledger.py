"""How much is left: a budget with reservations. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pipeline_engine.declare import Budget

__all__ = ["Amount", "Ledger"]


class Amount(NamedTuple):
    """Hold what a call may cost at most, or has cost."""

    usd: float
    tokens: float


class Ledger:
    """Keep the books of one budget: what was spent, and what calls in flight may still cost.

    Spent and reserved together never pass the cap, as long as no call costs more than was reserved for it.

    Example:
        >>> from pipeline_engine.declare import Budget
        >>> ledger = Ledger(Budget(usd=1.0))
        >>> ledger.reserve(Amount(0.7, 100))
        >>> ledger.fits(Amount(0.5, 100))
        False
        >>> ledger.settle(Amount(0.7, 100), Amount(0.2, 80))
        >>> ledger.fits(Amount(0.5, 100)), ledger.spent
        (True, Amount(usd=0.2, tokens=80.0))
    """

    __slots__ = (
        "_in_flight",
        "_reserved_tokens",
        "_reserved_usd",
        "budget",
        "is_exhausted",
        "of",
        "spent",
        "waiting",
    )

    def __init__(self, budget: Budget, of: str = "run") -> None:
        self.budget = budget
        self.of = of
        """Whose budget it is: a run's, a document's, a batch's."""
        self.spent = Amount(0.0, 0.0)
        self.is_exhausted = False
        """Whether a call was turned away for good: with `on_exhausted="stop"` nothing more is started."""
        self.waiting: dict[Any, Amount] = {}
        """Calls that may still fit once those in flight have settled, with what they need."""
        self._in_flight = 0
        self._reserved_usd = 0.0
        self._reserved_tokens = 0.0

    def fits(self, amount: Amount) -> bool:
        """Return whether a call may be sent: what it may cost is left, whatever becomes of those in flight."""
        budget = self.budget
        # What costs nothing fits even where a call without max_tokens has passed the cap.
        if budget.usd is not None and amount.usd and self.spent.usd + self._reserved_usd + amount.usd > budget.usd:
            return False
        return budget.tokens is None or self.spent.tokens + self._reserved_tokens + amount.tokens <= budget.tokens

    @property
    def has_calls_in_flight(self) -> bool:
        """Whether a settlement is still to come, which may leave more than is left now."""
        return self._in_flight > 0

    def charge(self, amount: Amount) -> None:
        """Count what was spent before: by a run that was interrupted."""
        self.spent = Amount(self.spent.usd + amount.usd, self.spent.tokens + amount.tokens)

    def reserve(self, amount: Amount) -> None:
        """Set aside what a call may cost."""
        self._in_flight += 1
        self._reserved_usd += amount.usd
        self._reserved_tokens += amount.tokens

    def settle(self, reserved: Amount, used: Amount) -> None:
        """Replace a reservation by what the call did cost."""
        self._in_flight -= 1
        if self._in_flight:
            self._reserved_usd -= reserved.usd
            self._reserved_tokens -= reserved.tokens
        else:
            self._reserved_usd = self._reserved_tokens = 0.0  # no rounding errors are kept
        self.spent = Amount(self.spent.usd + used.usd, self.spent.tokens + used.tokens)

    def take_fitting(self) -> list[Any]:
        """Return those that wait and fit now together, in their order; all if no settlement is to come any more."""
        if not self.waiting:
            return []
        if not self._in_flight:
            taken = list(self.waiting)
        else:
            taken = []
            together = Amount(0.0, 0.0)
            for waiter, amount in self.waiting.items():
                with_it = Amount(together.usd + amount.usd, together.tokens + amount.tokens)
                if self.fits(with_it):  # to wake thousands for the room of one would be done at each settlement
                    taken.append(waiter)
                    together = with_it
        for waiter in taken:
            del self.waiting[waiter]
        return taken

    @property
    def exhaustion(self) -> str:
        """Say that nothing more is sent, to whoever asks why a step was stopped."""
        return f"{self} has no room for another call"

    def __str__(self) -> str:
        caps = []
        if self.budget.usd is not None:
            caps.append(f"${self.budget.usd:g}")
        if self.budget.tokens is not None:
            caps.append(f"{self.budget.tokens:,.0f} tokens")
        return f"the {self.of}'s budget of {' and '.join(caps)}"
