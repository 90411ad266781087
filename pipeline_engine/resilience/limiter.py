"""How fast, for anybody's async code: a rate limiter whose waiters stand in one queue."""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from typing import TYPE_CHECKING

import trio

from pipeline_engine.resilience.loop_clock import LoopClock
from pipeline_engine.resilience.rates import Rate

if TYPE_CHECKING:
    from collections.abc import Generator
    from types import TracebackType

__all__ = ["Acquisition", "RateLimiter"]


class RateLimiter:
    """Let no more through than a rate allows: in any window of t seconds at most `capacity + rate * t / per`.

    Whoever comes first goes first, whatever the amounts. A caller that waits holds nothing, and one that is
    cancelled has taken nothing. What was taken flows back with time alone: leaving the block returns nothing.

    Args:
        rate: How many tokens flow back in each period.
        per: The period's length in seconds.
        capacity: How many tokens may be taken at once after idling; those of one period if not given, and at
            least one. With 1, starts are evenly spaced.

    Raises:
        ValueError: If a number is not positive, or the capacity is less than 1.

    Example:
        >>> import trio.testing
        >>> async def main():
        ...     limiter = RateLimiter(rate=2, per=1.0)
        ...     for number in range(4):
        ...         async with limiter:
        ...             print(number, "at", trio.current_time(), "s")
        >>> trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        0 at 0.0 s
        1 at 0.0 s
        2 at 0.5 s
        3 at 1.0 s
    """

    def __init__(self, rate: float, per: float = 1.0, capacity: float | None = None) -> None:
        given = {"rate": rate, "per": per} | ({} if capacity is None else {"capacity": capacity})
        for name, value in given.items():
            if isinstance(value, bool) or not math.isfinite(value) or value <= 0:
                raise ValueError(f"RateLimiter({name}={value!r}): it is a positive number.")
        if capacity is not None and capacity < 1:
            raise ValueError(f"RateLimiter(capacity={capacity}): nothing could ever go. Give 1 or more.")
        self.rate = rate
        self.per = per
        self.capacity = max(1.0, float(rate)) if capacity is None else float(capacity)
        self._rate = Rate(rate / per, self.capacity)
        self._clock = LoopClock()
        self._queue: OrderedDict[_Waiter, None] = OrderedDict()
        """Who waits, first come first: a list or a deque would search for one that is cancelled."""

    def __repr__(self) -> str:
        return f"RateLimiter(rate={self.rate:g}, per={self.per:g}, capacity={self.capacity:g})"

    @property
    def available(self) -> float:
        """How many tokens are there now, whoever may wait for them."""
        return self._rate.available(self._clock.now())

    @property
    def waiting(self) -> int:
        """How many callers wait."""
        return len(self._queue)

    def acquire(self, tokens: float = 1.0) -> Acquisition:
        """Take tokens: `await limiter.acquire(5)`, or `async with limiter.acquire(tokens=5):`.

        Args:
            tokens: How many; need not be whole.

        Raises:
            ValueError: If they are more than the capacity, and so could never be had, or not positive.
        """
        self._require_possible(tokens)
        return Acquisition(self, tokens)

    async def try_acquire(self, tokens: float = 1.0) -> bool:
        """Take tokens if they are there and nobody waits for them; never wait.

        It is async, although it does not wait: so it reads like `acquire`, a type checker sees a forgotten
        `await`, and a loop around it lets other tasks run.

        Args:
            tokens: How many; need not be whole.

        Raises:
            ValueError: If they are more than the capacity, or not positive.
        """
        self._require_possible(tokens)
        self._require_this_loop()
        await trio.lowlevel.checkpoint()
        now = self._clock.now()
        if self._queue or self._rate.wait(now, tokens) > 0:
            return False
        self._rate.take(now, tokens)
        return True

    async def __aenter__(self) -> None:
        await self._take(1.0)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    async def _take(self, tokens: float) -> None:
        """Wait for the tokens, and take them as the very last thing.

        The place in the queue is taken before the first checkpoint and left after the last one. So callers go
        in the order in which they came, and a cancelled one has nothing to give back.
        """
        self._require_this_loop()
        waiter = _Waiter()
        self._queue[waiter] = None
        try:
            if next(iter(self._queue)) is waiter:
                await trio.lowlevel.checkpoint()
            else:
                await waiter.is_first.wait()
            # The wait is known, so there is nothing to be told of; once is enough but for rounding.
            while (seconds := self._rate.wait(now := self._clock.now(), tokens)) > 0:  # noqa: ASYNC110 - as said
                await trio.sleep(seconds)
            self._rate.take(now, tokens)
        finally:
            del self._queue[waiter]
            if self._queue:
                next(iter(self._queue)).is_first.set()

    def _require_possible(self, tokens: float) -> None:
        if not tokens > 0:
            raise ValueError(f"RateLimiter: {tokens!r} tokens were asked for. Ask for a positive number.")
        if tokens > self.capacity:
            raise ValueError(
                f"RateLimiter: {tokens:g} tokens were asked for, but at most {self.capacity:g} can be had at once. "
                "Raise capacity=, or ask for less at a time."
            )

    def _require_this_loop(self) -> None:
        if self._queue and self._clock.is_elsewhere:
            raise RuntimeError(
                "this RateLimiter is waited for in another event loop. Make one for each loop, or let one loop "
                "do all the calls."
            )


class _Waiter:
    """Stand in a limiter's queue."""

    __slots__ = ("is_first",)

    def __init__(self) -> None:
        self.is_first = trio.Event()
        """Set when everybody before has gone; the first in an empty queue does not ask."""


class Acquisition:
    """Tokens that are asked for: await it, or enter it with `async with`. Made by `limiter.acquire`."""

    __slots__ = ("_is_used", "_limiter", "_tokens")

    def __init__(self, limiter: RateLimiter, tokens: float) -> None:
        self._limiter = limiter
        self._tokens = tokens
        self._is_used = False

    def __await__(self) -> Generator[object, object, None]:
        self._is_used = True
        return self._limiter._take(self._tokens).__await__()  # noqa: SLF001 - the two are one thing

    async def __aenter__(self) -> None:
        await self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        pass

    def __del__(self) -> None:
        # As Python does for a coroutine: a forgotten `await` would be no limit at all, and nobody would notice.
        if not self._is_used:
            warnings.warn(
                f"limiter.acquire({self._tokens:g}) was neither awaited nor entered with `async with`, so it has "
                "taken nothing and limits nothing.",
                RuntimeWarning,
                stacklevel=2,
            )
