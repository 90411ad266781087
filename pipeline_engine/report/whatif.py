"""What a run would have taken otherwise, as a table that a report shows; who reckons it stands above this floor."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Scenario"]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Hold what one change would have made of a recorded run.

    Example:
        >>> Scenario("twice the capacity", makespan=150.0, gain=0.25).gain
        0.25
    """

    name: str
    """What is changed, in a few words."""
    makespan: float
    """The seconds that the run would have taken."""
    gain: float
    """The part of the makespan that is saved: 0.25 for a quarter; negative if it would have taken longer."""
