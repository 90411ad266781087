"""What whoever follows a run sees of its streamed replies."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Delta", "Restarted"]


class Delta(NamedTuple):
    """A piece of a reply has come."""

    step: str
    item: int | None
    text: str


class Restarted(NamedTuple):
    """The reply begins again: forget the pieces that have come of it."""

    step: str
    item: int | None
