"""How a step, or an item of one, ended: as a typed value, never as an exception that flies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Completed", "Dropped", "Failed", "Outcome", "Skipped", "Stopped"]

T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Completed(Generic[T_co]):
    """The step has an output.

    Example:
        >>> Completed("other", via="fallback:value")
        Completed(value='other', via='fallback:value')
    """

    value: T_co
    """The output, validated."""
    via: str | None = None
    """None for the step's own way, else `"fallback:<name>"`."""


@dataclass(frozen=True, slots=True)
class Failed:
    """The step has no output, and nothing is left to try."""

    error: Exception
    """The cause: what the step's code or its model raised last."""


@dataclass(frozen=True, slots=True)
class Skipped:
    """The step did not run."""

    because: str
    """The step or input that was missing, or "when" for its own condition."""
    is_by_choice: bool
    """True if a condition decided it; False if a failure did."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The step was ended from outside: a run's timeout or a cancellation."""

    reason: str
    """What ended it."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """The item failed, and `on_error=Drop(...)` allowed to go on without it."""

    error: Exception
    """The cause."""


Outcome = Completed[T_co] | Failed | Skipped | Stopped | Dropped
"""How a step ended; an item may also be `Dropped`."""
