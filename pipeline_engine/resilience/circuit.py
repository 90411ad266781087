"""Whether to call at all: a circuit breaker's state. Pure: the caller brings the clock.

The idea is Michael Nygard's ("Release It!", 2007). What is added here comes from how breakers fail in
practice: a permit carries the generation of the state that gave it, so a late result of another time
changes nothing; a probe that was cancelled gives its place back; and evidence expires, so an old failure
never joins a new one.
"""

from __future__ import annotations

import math
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline_engine.declare import Breaker

__all__ = ["Circuit", "CircuitState"]


class CircuitState(Enum):
    """Say whether calls go through."""

    CLOSED = "closed"
    """All of them."""
    OPEN = "open"
    """None: the other side has failed too often."""
    HALF_OPEN = "half_open"
    """A few probes, which decide."""


class Circuit:
    """Count the votes of calls, and decide whether the next one may go.

    It opens on a failure, if by then the last `failure_threshold` votes are all failures, or if there
    are at least so many and they are half of all votes; votes live for `window` seconds. After `timeout`
    seconds it lets probes through: `success_threshold` successes close it, one failure opens it again.

    Args:
        breaker: The numbers.
        on_change: Called with the old and the new state at each change.

    Example:
        >>> from pipeline_engine.declare import Breaker
        >>> circuit = Circuit(Breaker(failure_threshold=1, timeout=30))
        >>> circuit.leave(circuit.enter(0.0), 1.0, is_failure=True)
        >>> circuit.state, circuit.admits_at(1.0)
        (<CircuitState.OPEN: 'open'>, 31.0)
    """

    __slots__ = (
        "_failures",
        "_on_change",
        "_streak",
        "_successes",
        "breaker",
        "generation",
        "probes",
        "probes_at",
        "proven",
        "state",
    )

    def __init__(self, breaker: Breaker, on_change: Callable[[CircuitState, CircuitState], None] | None = None) -> None:
        self.breaker = breaker
        self.state = CircuitState.CLOSED
        self.generation = 0
        """Counts the changes: a result belongs to the state that let its call through."""
        self.probes = 0
        """Half-open: how many probes are in flight."""
        self.proven = 0
        """Half-open: how many probes have succeeded."""
        self.probes_at = math.inf
        """Open: when probes may go."""
        self._on_change = on_change
        self._failures: deque[float] = deque()
        self._successes: deque[float] = deque()
        self._streak = 0

    def admits_at(self, now: float) -> float:
        """Return the instant from which a call may enter: `now` if it may at once.

        Infinite while all probes are in flight: one that ends lets the next one in, or changes the state.
        """
        if self.state is CircuitState.CLOSED:
            return now
        if self.state is CircuitState.OPEN:
            return max(now, self.probes_at)
        return now if self.probes + self.proven < self.breaker.success_threshold else math.inf

    def enter(self, now: float) -> int:
        """Let a call through that `admits_at` allows; return the generation that its result must name."""
        if self.state is not CircuitState.CLOSED:
            if self.state is CircuitState.OPEN:
                self._change(CircuitState.HALF_OPEN)
            self.probes += 1
        return self.generation

    def leave(self, generation: int, now: float, *, is_failure: bool | None) -> None:
        """Take a call's result: a success, a failure, or None if it says nothing about the other side.

        A cancelled call says nothing, as does one that the other side refused for a reason of the caller's.
        """
        if generation != self.generation:
            return
        if self.state is CircuitState.HALF_OPEN:
            self.probes -= 1
            if is_failure:
                self._open(now)
            elif is_failure is False:
                self.proven += 1
                if self.proven >= self.breaker.success_threshold:
                    self._change(CircuitState.CLOSED)
        elif is_failure:
            self._failures.append(now)
            self._streak += 1
            if self._has_failed(now):
                self._open(now)
        elif is_failure is False:
            self._streak = 0
            successes = self._successes
            successes.append(now)
            expired = now - self.breaker.window
            while successes and successes[0] <= expired:  # `now` itself, where the window is below its rounding
                successes.popleft()

    def reset(self) -> None:
        """Close it, and forget all evidence."""
        if self.state is CircuitState.CLOSED:
            self.generation += 1  # what is in flight belongs to the time before
            self._forget()
        else:
            self._change(CircuitState.CLOSED)

    def _has_failed(self, now: float) -> bool:
        expired = now - self.breaker.window
        for votes in (self._failures, self._successes):
            while votes and votes[0] <= expired:
                votes.popleft()
        failures = len(self._failures)
        if failures < self.breaker.failure_threshold:
            return False
        return self._streak >= self.breaker.failure_threshold or failures >= len(self._successes)

    def _open(self, now: float) -> None:
        self.probes_at = now + self.breaker.timeout
        self._change(CircuitState.OPEN)

    def _change(self, state: CircuitState) -> None:
        old, self.state = self.state, state
        self.generation += 1
        self._forget()
        if self._on_change is not None:
            self._on_change(old, state)

    def _forget(self) -> None:
        self.probes = self.proven = self._streak = 0
        self._failures.clear()
        self._successes.clear()
