"""One input record of a batch, by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Document"]


@dataclass(frozen=True, slots=True)
class Document:
    """Name one input record of a batch.

    Example:
        >>> Document("report.md", {"document": "the text"}).key
        'report.md'
    """

    key: str
    """Identifies the document within its pipeline."""
    inputs: Mapping[str, Any]
    """A value for each declared input."""
    error: Exception | None = None
    """Why there are no inputs: the document is then a failed one, and the others are not affected."""
    source: str | None = None
    """Where it can be read again, such as a file's path: what a journal keeps that does not store documents."""
