"""What a model's provider bears: how fast, how many at once, and when to leave it alone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["Breaker", "Limits"]


def _require_positive(what: str, given: dict[str, float | None]) -> None:
    for name, value in given.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"{what}({name}={value!r}): it is a number, such as 60.")
        if not isfinite(value) or value <= 0:
            raise ValueError(f"{what}({name}={value!r}): it is a positive number.")


@dataclass(frozen=True, slots=True, repr=False)
class Limits:
    """Say how much a model may be asked: for all steps, documents and runs of an engine together.

    In any window of t seconds no more starts than the burst and what the rate allows in t. Tokens are
    reserved from an estimate before a call is sent, and settled with what it really used. What the
    provider's own headers say about its limits tightens these.

    Raises:
        ValueError: If a number is not positive, or a burst is given without its rate.

    Example:
        >>> Limits(rpm=600, tpm=200_000, max_concurrency=20)
        Limits(rpm=600, tpm=200000, max_concurrency=20)
        >>> Limits(rpm=600).requests_at_once, Limits(rpm=6).requests_at_once, Limits(tpm=200_000).tokens_at_once
        (10.0, 1.0, 200000.0)
    """

    rpm: float | None = None
    """Requests per minute."""
    tpm: float | None = None
    """Tokens per minute, of requests and replies together."""
    max_concurrency: int | None = None
    """Requests in flight at once."""
    adaptive: bool = False
    """Find by itself how many requests the model bears at once, up to `max_concurrency`."""
    burst_requests: float | None = None
    """Requests that may start at once after idling; those of one second if not given, and at least one."""
    burst_tokens: float | None = None
    """Tokens that may be reserved at once after idling; those of one minute if not given. No single
    request can be larger."""
    max_retry_share: float | None = None
    """How many retries there may be for each first try, such as 0.1; beyond that (and a few to begin with)
    a failed call goes to its next candidate instead. Unbounded if not given: breaker and cool-down carry the load."""

    def __post_init__(self) -> None:
        given = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "adaptive"}
        _require_positive("Limits", given)
        if self.max_concurrency is not None and self.max_concurrency != int(self.max_concurrency):
            raise ValueError(f"Limits(max_concurrency={self.max_concurrency}): it is a whole number.")
        for burst, rate in (("burst_requests", "rpm"), ("burst_tokens", "tpm")):
            if given[burst] is not None and given[rate] is None:
                raise ValueError(f"Limits({burst}={given[burst]}): a burst goes with its rate. Give {rate}=, too.")
        if self.burst_requests is not None and self.burst_requests < 1:
            raise ValueError(
                f"Limits(burst_requests={self.burst_requests}): no request could ever start. Give 1 or more."
            )

    def __repr__(self) -> str:
        given = ((part.name, getattr(self, part.name)) for part in fields(self))
        return f"Limits({', '.join(f'{name}={value!r}' for name, value in given if value not in (None, False))})"

    @property
    def requests_at_once(self) -> float:
        """How many requests may start at once after idling."""
        return max(1.0, (self.rpm or 0) / 60) if self.burst_requests is None else float(self.burst_requests)

    @property
    def tokens_at_once(self) -> float:
        """How many tokens may be reserved at once after idling."""
        return float(self.tpm or 0) if self.burst_tokens is None else float(self.burst_tokens)


@dataclass(frozen=True, slots=True)
class Breaker:
    """Stop calling a model that keeps failing, and find out when it is well again.

    Server errors, timeouts and failed connections count; refusals for rate, mistakes of the caller,
    cancelled calls and replies that do not validate say nothing about the model's health. The breaker
    opens on a failure, when the last `failure_threshold` votes are all failures, or when at least so many
    failures are half of all votes of the last `window` seconds. Nothing is sent then for `timeout` seconds;
    after that a few calls go through, and what becomes of them decides.

    Raises:
        ValueError: If a number is not positive.

    Example:
        >>> Breaker(failure_threshold=3).timeout
        60.0
    """

    failure_threshold: int = 5
    """How many failures it takes."""
    window: float = 60.0
    """Seconds for which a success or a failure counts."""
    timeout: float = 60.0
    """Seconds without calls before the first probe."""
    success_threshold: int = 2
    """How many probes must succeed; never more are in flight at once."""
    on_state_change: Callable[[Any, Any], Awaitable[None] | None] | None = None
    """Called with the old and the new `CircuitState`; its own errors are logged."""

    def __post_init__(self) -> None:
        given = {part.name: getattr(self, part.name) for part in fields(self) if part.name != "on_state_change"}
        _require_positive("Breaker", given)
        for name in ("failure_threshold", "success_threshold"):
            if given[name] != int(given[name]):
                raise ValueError(f"Breaker({name}={given[name]}): it is a whole number, 1 or more.")
        if self.on_state_change is not None and not callable(self.on_state_change):
            raise TypeError(f"Breaker(on_state_change={self.on_state_change!r}): a function of the old and new state.")
