"""What a call's end says about its model: whether it is well, and whether it is asked too much."""

from __future__ import annotations

from typing import NamedTuple

from pipeline_engine.errors import RateLimitError, StepTimeoutError, UnavailableError

__all__ = ["SUCCESS", "Verdict", "verdict_on"]


class Verdict(NamedTuple):
    """Say what the end of a call tells."""

    is_failure: bool | None
    """How it votes in the model's breaker; None if it says nothing about the model's health."""
    is_congested: bool | None
    """Whether the model was asked too much at once; None if it says nothing about that."""


SUCCESS = Verdict(is_failure=False, is_congested=False)
_FAILED = Verdict(is_failure=True, is_congested=None)
_OVERLOADED = Verdict(is_failure=True, is_congested=True)
_THROTTLED = Verdict(is_failure=None, is_congested=True)
_SILENT = Verdict(is_failure=None, is_congested=None)
_OVERLOAD_STATUSES = (503, 529)


def verdict_on(error: Exception | None) -> Verdict:
    """Return what a call's error tells, or its success.

    Server errors, timeouts and failed connections vote against the model. A refusal for rate does not: it
    is well, and was asked too much. A mistake of the caller or of this machine says nothing at all.

    Example:
        >>> from pipeline_engine.errors import RateLimitError
        >>> verdict_on(RateLimitError("is busy", model="openai:gpt-4o", kind="rate_limited"))
        Verdict(is_failure=None, is_congested=True)
        >>> verdict_on(ConnectionError())
        Verdict(is_failure=True, is_congested=None)
    """
    if error is None:
        return SUCCESS
    if isinstance(error, RateLimitError):
        return _THROTTLED
    if isinstance(error, UnavailableError):
        if error.kind == "local":
            return _SILENT
        return _OVERLOADED if error.status in _OVERLOAD_STATUSES else _FAILED
    if isinstance(error, StepTimeoutError):
        # The step's own deadline is no measure of the model: this call may just have begun.
        return _SILENT if error.which == "step" else _OVERLOADED
    if isinstance(error, ConnectionError | TimeoutError):
        return _FAILED
    return _SILENT
