"""Whether and when to try again. Pure: the caller brings the random numbers and does the waiting."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline_engine.errors import PipelineEngineError, RateLimitError

if TYPE_CHECKING:
    import random

    from pipeline_engine.declare import Retry

__all__ = ["Again", "is_throttled", "is_transient", "jittered", "next_try", "retry_hint"]


@dataclass(frozen=True, slots=True)
class Again:
    """Try the same candidate again after a delay."""

    delay: float
    """Seconds to wait."""
    spends_attempt: bool
    """False after a refusal for rate, which is bounded apart."""


def is_transient(error: Exception, retry: Retry) -> bool:
    """Return whether the same call may succeed if it is made again.

    Example:
        >>> from pipeline_engine.declare import Retry
        >>> is_transient(ConnectionError(), Retry()), is_transient(KeyError("x"), Retry())
        (True, False)
        >>> is_transient(KeyError("x"), Retry(on=LookupError))
        True
    """
    if isinstance(error, PipelineEngineError):
        own = error.is_transient
    else:
        own = isinstance(error, ConnectionError | TimeoutError)
    if own or retry.on is None:
        return own
    if isinstance(retry.on, type | tuple):
        return isinstance(error, retry.on)
    return bool(retry.on(error))


def retry_hint(error: Exception) -> float | None:
    """Return the seconds that a provider asked to wait; zero is no hint."""
    hint = getattr(error, "retry_after", None)
    return hint if isinstance(hint, int | float) and hint > 0 else None


def is_throttled(error: Exception) -> bool:
    """Return whether the call never had its chance, so that it spends no attempt.

    That is a refusal for rate (429, 529, and 503 with a hint), and a call that was not sent because this
    process could open no further connection.
    """
    if getattr(error, "kind", None) == "local":
        return True
    status = getattr(error, "status", None)
    return isinstance(error, RateLimitError) or status == 529 or (status == 503 and retry_hint(error) is not None)


def jittered(retry: Retry, attempt: int, previous: float, dice: random.Random) -> float:
    """Return the delay before `attempt`, spread as the policy says.

    The four kinds are those of Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture
    Blog, 2015.

    Args:
        retry: The policy.
        attempt: The attempt that will follow, counted from 1.
        previous: The delay before the last attempt, 0.0 if there was none: what "decorrelated" grows from.
        dice: The source of randomness.

    Example:
        >>> import random
        >>> from pipeline_engine.declare import Retry
        >>> jittered(Retry(jitter="none", base_delay=2), 3, 0.0, random.Random(1))
        4.0
    """
    delay = retry.delay_before(attempt)
    if retry.jitter == "full":
        return dice.uniform(0.0, delay)
    if retry.jitter == "equal":
        return delay / 2 + dice.uniform(0.0, delay / 2)
    if retry.jitter == "decorrelated":
        return min(retry.max_delay, dice.uniform(retry.base_delay, max(retry.base_delay, previous * 3)))
    return delay


def next_try(
    retry: Retry,
    error: Exception,
    *,
    attempts: int,
    throttled: int,
    previous: float,
    seconds_left: float,
    dice: random.Random,
) -> Again | None:
    """Decide what follows a failed attempt; None sends the step to its next candidate.

    Args:
        retry: The step's policy.
        error: What the attempt raised.
        attempts: How many attempts of this candidate were spent, this one included.
        throttled: How many refusals for rate it has borne, this one included.
        previous: The delay before this attempt.
        seconds_left: Until the step's deadline; no wait is begun that would end after it.
        dice: The source of jitter.
    """
    if not is_transient(error, retry):
        return None
    hint = retry_hint(error)
    if is_throttled(error):
        if throttled > retry.max_throttled:
            return None
        own = jittered(retry, min(throttled, retry.max_throttled) + 1, previous, dice)
        spends_attempt = False
    else:
        if attempts >= retry.attempts:
            return None
        own = jittered(retry, attempts + 1, previous, dice)
        spends_attempt = True
    # The provider knows and we guess: its hint is a minimum.
    delay = max(own, hint) if hint is not None else own
    return Again(delay, spends_attempt) if delay < seconds_left else None
