"""How fast: a rate with bursts, as one number and no timer. Pure: the caller brings the clock."""

from __future__ import annotations

import math
from bisect import bisect_right

__all__ = ["Rate", "SettledRate"]

_ROUNDING = 1e-9
"""Seconds by which sums of floats may miss an instant: who waited until it must not wait once more."""


class Rate:
    """Admit amounts so that none of its windows of t seconds takes more than `burst + rate * t`.

    This is the generic cell rate algorithm (ITU-T I.371, appendix I), which says the same as a token
    bucket and needs one float: the instant at which the bucket is full again. Nothing is refilled by a
    timer, and nothing is rounded.

    Args:
        per_second: How much flows back each second.
        burst: How much may be taken at once after idling.

    Example:
        >>> rate = Rate(per_second=1, burst=2)
        >>> rate.take(0.0); rate.take(0.0)
        >>> rate.wait(0.0), rate.wait(0.5), rate.wait(1.0)
        (1.0, 0.5, 0.0)
    """

    __slots__ = ("burst", "full_at", "per_second")

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second = per_second
        self.burst = burst
        self.full_at = -math.inf
        """The instant at which the whole burst is there, if nothing more is taken."""

    def wait(self, now: float, amount: float = 1.0) -> float:
        """Return the seconds until `amount` may be taken; infinite if it never may, being larger than the burst."""
        if amount > self.burst:
            return math.inf
        wait = self.full_at - now - (self.burst - amount) / self.per_second
        if wait <= _ROUNDING:
            return 0.0
        # A clock that has run for half a year is coarser than that.
        return wait if wait > 2 * math.ulp(max(now, self.full_at)) else 0.0

    def available(self, now: float) -> float:
        """Return how much may be taken now; less than nothing while an overdraft is paid back."""
        return self.burst - max(0.0, self.full_at - now) * self.per_second

    def take(self, now: float, amount: float = 1.0) -> None:
        """Take an amount, whether or not it is there: ask `wait` first."""
        self.full_at = max(self.full_at, now) + amount / self.per_second

    def tighten(self, now: float, remaining: float) -> None:
        """Believe somebody who says that only `remaining` is left; never that more is."""
        self.full_at = max(self.full_at, now + (self.burst - max(0.0, remaining)) / self.per_second)

    def restart(self, per_second: float, burst: float, full_at: float) -> None:
        """Go on with another rate, and with what is known of the bucket now."""
        self.per_second, self.burst, self.full_at = per_second, burst, full_at


class SettledRate(Rate):
    """A rate whose amounts are estimates, to be settled with what was really used.

    What was not used is given back, but only as far as it has not flowed back by itself: a bucket that was
    full meanwhile must not be filled twice. For that, the instant at which the bucket is full is seen as the
    latest of several: for each amount, the instant at which it was taken plus the seconds in which it and all
    later ones flow back. Settling an amount moves its own term and those before it, never those after. Only
    terms that are the latest of all that follow them can ever count; they are kept in order, as differences,
    so that settling costs a binary search.

    Example:
        >>> rate = SettledRate(per_second=1, burst=60)
        >>> first = rate.reserve(0.0, 20)
        >>> second = rate.reserve(20.0, 60)
        >>> rate.settle(first, unused=20)
        >>> rate.available(20.0)
        0.0
        >>> rate.settle(second, unused=15)
        >>> rate.available(20.0)
        15.0
    """

    __slots__ = ("_flowing", "_gaps", "_last", "_number", "_numbers")

    def __init__(self, per_second: float, burst: float) -> None:
        super().__init__(per_second, burst)
        self._number = 0
        self._flowing = 0.0
        """The seconds in which all amounts flow back that were taken since the bucket was full."""
        self._numbers: list[int] = []
        """Of the amounts whose terms may count."""
        self._gaps: list[float] = []
        """For each of these terms but the last, by how much it is later than the next one."""
        self._last = -math.inf
        """The last term, less the seconds that flow back."""

    def take(self, now: float, amount: float = 1.0) -> None:
        """Take an amount that is known exactly."""
        self.reserve(now, amount)

    def reserve(self, now: float, amount: float) -> int:
        """Take an estimated amount; return the number that `settle` wants."""
        self._number += 1
        if now >= self.full_at:
            self._flowing = 0.0
            self._numbers.clear()
            self._gaps.clear()
        self._add_term(now - self._flowing)
        seconds = amount / self.per_second
        self._flowing += seconds
        self.full_at = max(self.full_at, now) + seconds
        return self._number

    def settle(self, number: int, unused: float) -> None:
        """Give back what was not used of a reserved amount; less than nothing is an overdraft."""
        seconds = unused / self.per_second
        place = bisect_right(self._numbers, number) - 1
        if place < 0:  # the bucket was full since, or later amounts alone say when it will be
            if seconds < 0:
                self._flowing -= seconds
                self.full_at -= seconds
            return
        if place == len(self._numbers) - 1:
            self._last -= seconds
            self.full_at -= seconds
            return
        self._gaps[place] -= seconds
        self.full_at -= seconds
        while place >= 0 and self._gaps[place] < 0:
            # The term is overtaken by the next one, and counts no more.
            overtaken = -self._gaps[place]
            del self._numbers[place], self._gaps[place]
            place -= 1
            if place >= 0:
                self._gaps[place] -= overtaken
            else:
                self.full_at += overtaken

    def tighten(self, now: float, remaining: float) -> None:
        """Believe somebody who says that only `remaining` is left; never that more is."""
        before = self.full_at
        super().tighten(now, remaining)
        if self.full_at > before:
            self._number += 1
            self._add_term(self.full_at - self._flowing)

    def restart(self, per_second: float, burst: float, full_at: float) -> None:
        """Go on with another rate; what is settled of earlier amounts changes nothing any more."""
        super().restart(per_second, burst, full_at)
        self._number += 1
        self._flowing = 0.0
        self._numbers, self._gaps, self._last = [self._number], [], full_at

    def _add_term(self, term: float) -> None:
        """Add the term of the amount with the last number; those that it overtakes count no more."""
        while self._numbers and self._last <= term:
            self._numbers.pop()
            self._last = self._last + self._gaps.pop() if self._gaps else -math.inf
        if self._numbers:
            self._gaps.append(self._last - term)
        self._numbers.append(self._number)
        self._last = term
