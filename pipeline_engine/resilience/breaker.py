"""Whether to call at all, for anybody's async code: a circuit breaker around blocks and functions."""

from __future__ import annotations

import functools
import logging
import math
from collections import deque
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import trio

from pipeline_engine.declare import Breaker
from pipeline_engine.errors import CircuitOpenError
from pipeline_engine.resilience.circuit import Circuit, CircuitState
from pipeline_engine.resilience.loop_clock import LoopClock
from pipeline_engine.resilience.telling import tell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType

__all__ = ["CircuitBreaker", "Protection"]

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("pipeline_engine")
_LONGEST_TELLING = 10.0
"""Seconds that an async callback may take: it runs shielded, in the call that has changed the state."""
_ROUNDING = 1e-9
"""Seconds by which sums of floats may miss an instant: who slept for `retry_after` must not be refused again."""


class CircuitBreaker:
    """Refuse calls to what keeps failing, and find out by a few probes when it is well again.

    It opens on a failure, when the last `failure_threshold` results are all failures, or when at least so many
    failures are half of all results of the last `window` seconds. Then every call is refused for `timeout`
    seconds. After that at most `success_threshold` calls at once go through as probes: that many successes
    close it, one failure opens it again. A cancelled call says nothing and gives its probe's place back, and a
    call that began before the last change of state says nothing any more.

    A timeout around the block cancels it, so it does not count; put the timeout inside the block.

    Args:
        failure_threshold: How many failures it takes.
        timeout: Seconds without calls before the first probe.
        success_threshold: How many probes must succeed; never more are in flight at once.
        window: Seconds for which a result counts.
        exceptions: Only these exception types are failures, and any other error says nothing. If not given,
            every `Exception` is a failure.
        on_state_change: Called with the old and the new `CircuitState`, in order. It may be async: then the
            call that has changed the state waits for it, 10 seconds at most. Its own errors are logged.
        name: What is guarded, for messages.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> breaker = CircuitBreaker(failure_threshold=1, timeout=30, name="shop")
        >>> async def call():
        ...     try:
        ...         async with breaker.protect():
        ...             raise ConnectionError("no route")
        ...     except (ConnectionError, CircuitOpenError) as error:
        ...         print(error)
        >>> trio.run(call); trio.run(call)  # doctest: +ELLIPSIS
        no route
        the breaker of 'shop' is open: ... The next one may go in 30.0 s.
    """

    def __init__(
        self,
        failure_threshold: int = 5,
        timeout: float = 60.0,
        success_threshold: int = 2,
        *,
        window: float = 60.0,
        exceptions: type[Exception] | tuple[type[Exception], ...] | None = None,
        on_state_change: Callable[[CircuitState, CircuitState], Any] | None = None,
        name: str = "",
    ) -> None:
        self.name = name
        self._exceptions = exceptions
        self._on_state_change = on_state_change
        self._changes: deque[tuple[CircuitState, CircuitState]] = deque()
        """What the callback has yet to be told."""
        self._is_telling = False
        self._clock = LoopClock()
        numbers = Breaker(failure_threshold, window, timeout, success_threshold)
        self._circuit = Circuit(numbers, None if on_state_change is None else self._note_change)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        return f"<CircuitBreaker{name}: {self.state.value}>"

    @property
    def state(self) -> CircuitState:
        """Whether calls go through; it reads OPEN until a probe has gone, also when one would be let through."""
        return self._circuit.state

    @property
    def probes(self) -> int:
        """How many probes are in flight."""
        return self._circuit.probes

    def protect(self) -> Protection:
        """Guard a block, `async with breaker.protect():`, or a function, `@breaker.protect()`.

        Entering raises `CircuitOpenError` where no call is to be made; its `retry_after` says when one may be.
        """
        return Protection(self)

    async def reset(self) -> None:
        """Close it by hand and forget all evidence; calls that are in flight do not count any more."""
        await trio.lowlevel.checkpoint()
        self._circuit.reset()
        await self._tell_changes()

    async def _enter(self) -> int:
        await trio.lowlevel.checkpoint()
        while True:
            generation = self._admit()
            if not self._changes:
                return generation
            try:
                await self._tell_changes()
            except BaseException:
                self._circuit.leave(generation, 0.0, is_failure=None)
                raise
            if generation == self._circuit.generation:
                return generation
            # While the callback was told, another probe has failed: what was let through then may not go now.

    def _admit(self) -> int:
        now = self._clock.now()
        admits_at = self._circuit.admits_at(now)
        seconds = admits_at - now
        if seconds > max(_ROUNDING, 2 * math.ulp(now)):
            raise CircuitOpenError(self.name, 0.0 if seconds == math.inf else seconds)
        return self._circuit.enter(now)

    async def _leave(self, generation: int, error: BaseException | None) -> None:
        if error is None:
            self._circuit.leave(generation, self._clock.now(), is_failure=False)
        elif self._is_failure(error):
            self._circuit.leave(generation, self._clock.now(), is_failure=True)
        else:
            self._circuit.leave(generation, 0.0, is_failure=None)
        if self._changes:
            await self._tell_changes()

    def _is_failure(self, error: BaseException) -> bool:
        if not isinstance(error, Exception):
            return False  # cancelled, interrupted, or a group with such a thing in it
        if self._exceptions is None:
            return True
        if isinstance(error, ExceptionGroup):
            return error.subgroup(self._exceptions) is not None
        return isinstance(error, self._exceptions)

    def _note_change(self, old: CircuitState, new: CircuitState) -> None:
        self._changes.append((old, new))

    async def _tell_changes(self) -> None:
        """Tell the callback what has changed. Only one task does so at a time, so that it hears all in order."""
        if self._is_telling or self._on_state_change is None:
            return
        self._is_telling = True
        try:
            while self._changes:
                old, new = self._changes.popleft()
                # Shielded: a call that is being cancelled must not lose its own error to `trio.Cancelled`.
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _LONGEST_TELLING) as scope:
                    await tell("on_state_change", self._on_state_change, old, new)
                if scope.cancelled_caught:
                    _log.warning("on_state_change took longer than %g s and was cancelled", _LONGEST_TELLING)
        finally:
            self._is_telling = False


class Protection:
    """Guard one block or function. Made by `breaker.protect()`."""

    __slots__ = ("_breaker", "_generation", "_is_entered")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker
        self._is_entered = False
        self._generation = 0

    def __call__(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return the function with each of its calls guarded."""

        @functools.wraps(function)
        async def call(*arguments: P.args, **options: P.kwargs) -> T:
            async with self._breaker.protect():
                return await function(*arguments, **options)

        return call

    async def __aenter__(self) -> None:
        if self._is_entered:
            raise RuntimeError("this guard is in use: two blocks would mix up their results. Call protect() for each.")
        self._is_entered = True
        try:
            self._generation = await self._breaker._enter()  # noqa: SLF001 - the two are one thing
        except BaseException:
            self._is_entered = False
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_entered = False
        await self._breaker._leave(self._generation, error)  # noqa: SLF001 - the two are one thing
