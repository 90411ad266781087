"""How many at once: a limit that finds itself. Pure: the caller brings the clock."""

from __future__ import annotations

import math

__all__ = ["AdaptiveLimit"]

_DECREASE = 0.85
"""What a refusal leaves of the limit. TCP keeps half (RFC 5681) or 0.7 (RFC 9438) to drain a router's queue; a
model that refuses has none. With 0.7 the limit is a fifth of the time more than 20 % below what is borne."""
_RAMP = 0.5
"""What a call adds in slow start. A whole one finds 512 in 18 s instead of 32 (calls of 2 s), but where calls
start and end together, twice as much is tried at once, and nearly 2 % of 20 minutes' calls are refused."""
_CURVE = 0.4
"""RFC 9438's C, with response times for its seconds: 3, 10 and 25 calls more after 2, 3 and 4 of them."""
_REST = 100
"""Calls at a limit known to be borne before one more is tried: a refused trial is then about 1 % of all calls."""


class AdaptiveLimit:
    """Find by itself how many calls a model bears at once.

    Additive increase and multiplicative decrease, which converge and share a capacity fairly (Chiu and Jain,
    1989), with an increase in the shape of CUBIC's (RFC 9438):

    - It begins with slow start: it grows by half in each response time.
    - Refused, it falls to 0.85 of itself, once for all calls that were on the way: they say nothing new.
    - It climbs back, at first quickly, to one less than was refused, and rests there for 100 calls. It does
      not rest if it was refused below the refusal before: that was no trial, and may have had another reason.
    - Then it tries one more and, while that is borne, ever faster more, but never more than one per call.
    - Refused at its minimum it knows nothing any more, and begins again: the other side was down.

    It needs no timer and no average of response times, which differ a hundredfold: as many calls end in one
    of them as are in flight, so each counts as one part in `limit` of it. A call counts only if the limit was
    reached during its life: what was not tried is not known to be borne.

    A lowered limit may be less than what is in flight; those calls go on, and no other starts until enough
    have ended.

    Args:
        maximum: The limit never exceeds it.
        minimum: Where the limit begins, and what it never falls below; from 1 to `maximum`.

    Example:
        >>> adaptive = AdaptiveLimit(maximum=64, minimum=8)
        >>> for in_flight in range(1, 9):
        ...     adaptive.started(0.0, in_flight)
        >>> [adaptive.finished(2.0, 0.0, is_congested=False) for _ in range(8)].count(True), adaptive.limit
        (4, 12)
        >>> adaptive.started(3.0, 12)
        >>> adaptive.finished(3.1, 3.0, is_congested=True), adaptive.limit
        (True, 10)
    """

    __slots__ = (
        "_decreased_at",
        "_grown",
        "_reached_at",
        "_refused",
        "_rest_begins",
        "_rest_ends",
        "limit",
        "maximum",
        "minimum",
    )

    def __init__(self, *, maximum: int, minimum: int = 1) -> None:
        self.maximum = maximum
        self.minimum = minimum
        self.limit = minimum
        """How many calls may be in flight now."""
        self._refused = math.inf
        """The limit at the last refusal; infinite in slow start."""
        self._grown = 0.0
        """Slow start: what it has added. Later: response times spent at the limit since it was lowered."""
        self._rest_begins = 0.0
        self._rest_ends = 0.0
        self._reached_at = -math.inf
        """When the limit was last the bound."""
        self._decreased_at = -math.inf

    def started(self, now: float, in_flight: int) -> None:
        """Take note that a call has started; `in_flight` counts it."""
        if in_flight >= self.limit:
            self._reached_at = now

    def finished(self, now: float, started_at: float, *, is_congested: bool) -> bool:
        """Take note that a call has ended; return whether the limit has changed.

        A cancelled call is not reported: when it would have ended says nothing.

        Args:
            now: The instant.
            started_at: What `now` was when the call started.
            is_congested: Whether it ended for too much load: refused for rate or overload, or timed out.
        """
        if started_at <= self._decreased_at:
            return False
        if is_congested:
            return self._decrease(now)
        limit = self.limit
        if self._reached_at < started_at or limit >= self.maximum:
            return False
        if self._refused == math.inf:
            self._grown += _RAMP
            size = self.minimum + self._grown
        else:
            self._grown = grown = self._grown + 1.0 / limit
            if grown < self._rest_begins:
                size = self._refused - 1 - _CURVE * (self._rest_begins - grown) ** 3
            elif grown < self._rest_ends:
                size = self._refused - 1
            else:
                size = self._refused + _CURVE * (grown - self._rest_ends) ** 3
        if size < limit + 1:
            return False
        self.limit = limit + 1
        return True

    def _decrease(self, now: float) -> bool:
        limit = self.limit
        self._decreased_at = now
        self._grown = 0.0
        if limit == self.minimum:
            self._refused = math.inf
            return False
        lowered = max(self.minimum, limit * _DECREASE)
        borne = limit - 1
        self._rest_begins = math.cbrt(max(0.0, borne - lowered) / _CURVE)
        # If it always rested, refusals that come whatever the load (3 % of all calls) would each come before
        # the next trial, and lower the limit step by step for good.
        self._rest_ends = self._rest_begins + (_REST / borne if limit >= self._refused else 0.0)
        self._refused = limit
        self.limit = int(lowered)
        return True
