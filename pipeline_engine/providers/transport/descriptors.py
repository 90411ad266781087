"""How many connections this process may hold open, and raising that number."""

from __future__ import annotations

import sys

__all__ = ["ensure_descriptors", "max_connections"]

_MARGIN = 100
"""Descriptors for whatever else is open: files, the journal, a pipe or two."""
_UNLIMITED = 1_000_000


def max_connections() -> int:
    """Return how many connections fit under the present limit of open files."""
    if sys.platform == "win32":  # sockets are no files there
        return _UNLIMITED
    import resource

    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _room(soft, resource.RLIM_INFINITY)


def ensure_descriptors(wanted: int) -> int:
    """Raise this process's limit of open files if `wanted` connections need it; return how many can be had.

    Nothing is raised beyond what the system allows without special rights, and nothing is ever lowered.

    Example:
        >>> ensure_descriptors(10) >= 10
        True
    """
    if sys.platform == "win32":
        return _UNLIMITED
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _MARGIN
    if soft != resource.RLIM_INFINITY and soft < needed:
        target = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
        except (OSError, ValueError):
            pass  # macOS allows less than it says; what is returned tells
    return max_connections()


def _room(soft: int, infinity: int) -> int:
    if soft == infinity:
        return _UNLIMITED
    return soft - min(_MARGIN, soft // 4)
