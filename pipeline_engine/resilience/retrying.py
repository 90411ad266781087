"""The retry decorator: a policy in motion around any async function. trio is imported by the first failure."""

from __future__ import annotations

import functools
import inspect
import math
import random
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from pipeline_engine.resilience.retries import is_throttled, next_try
from pipeline_engine.resilience.starting import name_of
from pipeline_engine.resilience.telling import tell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pipeline_engine.declare import Retry
    from pipeline_engine.declare.policies import RetryOn

__all__ = ["BackoffStrategy", "retry"]

P = ParamSpec("P")
T = TypeVar("T")
Jitter = Literal["full", "equal", "decorrelated", "none"]

_DEFAULTS = {
    "max_attempts": 3,
    "strategy": "exponential",
    "base_delay": 1.0,
    "max_delay": 60.0,
    "jitter": "full",
    "exceptions": None,
    "on_retry": None,
}


class BackoffStrategy(Enum):
    """Say how the delays between attempts grow.

    Example:
        >>> BackoffStrategy("linear")
        <BackoffStrategy.LINEAR: 'linear'>
    """

    EXPONENTIAL = "exponential"
    """Doubled each time: `base_delay` times 1, 2, 4, 8, …"""
    LINEAR = "linear"
    """One `base_delay` more each time: `base_delay` times 1, 2, 3, 4, …"""
    CONSTANT = "constant"
    """Always `base_delay`."""


@overload
def retry(function: Callable[P, Awaitable[T]], /) -> Callable[P, Coroutine[Any, Any, T]]: ...


@overload
def retry(
    *,
    max_attempts: int = 3,
    strategy: BackoffStrategy | Literal["exponential", "linear", "constant"] = BackoffStrategy.EXPONENTIAL,
    base_delay: float = 1.0,
    max_delay: float = 60.0,
    jitter: Jitter | bool = "full",
    exceptions: RetryOn | None = None,
    on_retry: Callable[[int, Exception], Any] | None = None,
    seed: int | None = None,
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]: ...


@overload
def retry(
    *, policy: Retry, seed: int | None = None
) -> Callable[[Callable[P, Awaitable[T]]], Callable[P, Coroutine[Any, Any, T]]]: ...


def retry(
    function: Callable[..., Awaitable[Any]] | None = None,
    /,
    *,
    max_attempts: int = 3,
    strategy: BackoffStrategy | Literal["exponential", "linear", "constant"] = BackoffStrategy.EXPONENTIAL,
    base_delay: float = 1.0,
    max_delay: float = 60.0,
    jitter: Jitter | bool = "full",
    exceptions: RetryOn | None = None,
    on_retry: Callable[[int, Exception], Any] | None = None,
    policy: Retry | None = None,
    seed: int | None = None,
) -> Any:
    """Call an async function again after a transient failure; bare, or with parentheses.

    Without `exceptions`, what is tried again is `ConnectionError`, `TimeoutError` and those of this library's
    errors that say they are transient; any other error is raised at once. Between two attempts nothing is
    held, and an error's `retry_after` is the least that is waited. No sleep begins that would end after the
    deadline of a timeout around it: the error is raised at once instead. The last error is raised as it is,
    with a note on the attempts. A cancelled call is never tried again.

    Args:
        function: The function, where the decorator stands without parentheses.
        max_attempts: How many calls there may be, the first one included.
        strategy: How the delays grow.
        base_delay: Seconds before the second attempt, without jitter.
        max_delay: The longest delay in seconds; a `retry_after` may be longer.
        jitter: How delays are spread; True is "full" and False is "none".
        exceptions: Try again these errors and no others: exception types, or a predicate.
        on_retry: Called with the attempt that failed, counted from 1, and its error, before each retry. It may
            be async; it uses up part of the delay, and its own errors are logged.
        policy: A `Retry` in place of all of these, with the meaning that it has in a pipeline: its `on` adds to
            the transient errors, and a refusal for rate spends no attempt.
        seed: Makes the delays repeatable.

    Raises:
        TypeError: If the function is not async, or `policy` stands beside what it replaces.
        ValueError: If a number is out of its range.

    Example:
        >>> import trio, trio.testing
        >>> @retry(max_attempts=3, base_delay=2, jitter=False)
        ... async def fetch():
        ...     print(f"called at {trio.current_time():g} s")
        ...     if trio.current_time() < 6:
        ...         raise ConnectionError
        ...     return "fetched"
        >>> trio.run(fetch, clock=trio.testing.MockClock(autojump_threshold=0))
        called at 0 s
        called at 2 s
        called at 6 s
        'fetched'
    """
    from pipeline_engine.declare import Retry

    if policy is None:
        if max_attempts < 1:
            raise ValueError(f"retry(max_attempts={max_attempts!r}): at least the first call is needed.")
        if exceptions is not None and not isinstance(exceptions, tuple) and not callable(exceptions):
            raise TypeError(f"retry(exceptions={exceptions!r}): an exception type, a tuple of them, or a predicate.")
        policy = Retry(
            attempts=max_attempts,
            strategy=BackoffStrategy(strategy).value,
            base_delay=base_delay,
            max_delay=max_delay,
            jitter=("full" if jitter else "none") if isinstance(jitter, bool) else jitter,
            on=None if exceptions is None else Exception,  # which ones is asked before
            on_retry=on_retry,
            max_throttled=max_attempts - 1,
        )
        retrying = _Retrying(policy, exceptions, counts_every_call=True, seed=seed)
    else:
        given = (max_attempts, BackoffStrategy(strategy).value, base_delay, max_delay, jitter, exceptions, on_retry)
        beside = [name for name, value in zip(_DEFAULTS, given, strict=True) if value != _DEFAULTS[name]]
        if beside:
            raise TypeError(
                f"retry(policy=…) was given together with {', '.join(beside)}. Say it in the Retry(…) instead."
            )
        retrying = _Retrying(policy, None, counts_every_call=False, seed=seed)
    return retrying.wrap if function is None else retrying.wrap(function)


class _Retrying:
    """Hold a policy, and call functions by it."""

    def __init__(self, policy: Retry, only: RetryOn | None, *, counts_every_call: bool, seed: int | None) -> None:
        self._policy = policy
        self._only = only
        self._counts_every_call = counts_every_call
        """Whether a refusal for rate spends an attempt: with `max_attempts=3` nobody expects a fourth call."""
        self._dice = random.Random(seed)

    def wrap(self, function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
        """Return the function with its retries.

        Raises:
            TypeError: If it is not async.
        """
        if not callable(function):
            raise TypeError(f"retry({function!r}): its settings have names, such as retry(max_attempts=3).")
        called = getattr(function, "__call__", None)  # noqa: B004 - an object may have an async __call__
        if not inspect.iscoroutinefunction(function) and not inspect.iscoroutinefunction(called):
            raise TypeError(
                f"retry takes async functions, and {name_of(function)} is none. Make it `async def`, or put "
                "@sync_to_async below @retry."
            )

        @functools.wraps(function)
        async def call(*arguments: P.args, **options: P.kwargs) -> T:
            return await self._call(function, *arguments, **options)

        return call

    async def _call(self, function: Callable[P, Awaitable[T]], *arguments: P.args, **options: P.kwargs) -> T:
        calls = refusals = 0
        delay = 0.0
        while True:
            try:
                return await function(*arguments, **options)
            except Exception as error:
                import trio  # here, so that a module may decorate its functions without loading it

                failed_at = trio.current_time()
                calls += 1
                refusals += is_throttled(error)
                again = self._next(error, calls, refusals, delay)
                if again is None or again >= trio.current_effective_deadline() - failed_at:
                    _note(error, calls, is_late=again is not None)
                    raise
                delay = again
                failed = error
            # Outside of the handler, so that a cancelled sleep does not look as if the error had led to it. The
            # callback uses up part of the delay: else the sleep could end after the deadline that was looked at.
            if self._policy.on_retry is not None:
                await tell("on_retry", self._policy.on_retry, calls, failed)
            del failed
            await trio.sleep_until(failed_at + delay)

    def _next(self, error: Exception, calls: int, refusals: int, previous: float) -> float | None:
        """Return the delay before the next call; None if there is none."""
        if self._only is not None and not _is_one_of(error, self._only):
            return None
        again = next_try(
            self._policy,
            error,
            attempts=calls if self._counts_every_call else calls - refusals,
            throttled=calls if self._counts_every_call else refusals,
            previous=previous,
            seconds_left=math.inf,
            dice=self._dice,
        )
        return None if again is None else again.delay


def _is_one_of(error: Exception, wanted: RetryOn) -> bool:
    return isinstance(error, wanted) if isinstance(wanted, type | tuple) else bool(wanted(error))


def _note(error: Exception, calls: int, *, is_late: bool) -> None:
    if calls == 1 and not is_late:
        return  # nothing was retried
    note = f"retry: gave up after {calls} {'attempt' if calls == 1 else 'attempts'}"
    note += ", because the next would begin after the deadline of a timeout around it." if is_late else "."
    # The same exception object may be raised again and again.
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
