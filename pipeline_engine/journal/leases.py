"""Whether a worker that holds a document is dead, judged by its silence on the observer's own clock. Pure.

Nobody compares clocks of two machines: a worker counts its signs of life, and who waits for it watches the
number. A clock that jumps, or runs wrong, changes nothing (as in Gray and Cheriton, "Leases", SOSP 1989,
less the need for clocks that agree).
"""

from __future__ import annotations

__all__ = ["Watch"]


class Watch:
    """Watch workers' signs of life.

    Args:
        patience: After how many seconds without one a worker counts as dead.

    Example:
        >>> watch = Watch(60.0)
        >>> watch.is_dead("worker", 7, 0.0), watch.is_dead("worker", 7, 59.0), watch.is_dead("worker", 7, 60.0)
        (False, False, True)
        >>> watch.is_dead("worker", 8, 61.0)
        False
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seen: dict[str, tuple[int, float]] = {}

    def is_dead(self, worker: str, beat: int, now: float) -> bool:
        """Take in the last sign of life that was seen of a worker, and return whether it is too long ago.

        Args:
            worker: The worker's name.
            beat: How many signs of life it has given.
            now: The observer's clock, in seconds.
        """
        seen = self._seen.get(worker)
        if seen is None or seen[0] != beat:
            self._seen[worker] = beat, now
            return False
        return now - seen[1] >= self._patience
