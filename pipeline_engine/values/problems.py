"""One reason why a pipeline cannot be compiled or bound."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Problem"]


@dataclass(frozen=True, slots=True)
class Problem:
    """Name what is wrong in a pipeline, where, and what to do.

    Example:
        >>> print(Problem("PE101", "step 'a' needs 'b', but nothing has that name.", "p.py", 3))
        PE101 step 'a' needs 'b', but nothing has that name. (p.py:3)
    """

    code: str
    """Stable, with a heading of its own in the reference."""
    message: str
    """What is wrong and what to do, in sentences."""
    file: str | None = None
    """The file in which the step is declared."""
    line: int | None = None
    """The line of the step's function."""
    step: str | None = None
    """The step's name."""

    def __str__(self) -> str:
        place = f" ({self.file}:{self.line})" if self.file else ""
        return f"{self.code} {self.message}{place}"
