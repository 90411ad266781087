"""Markup of the page: text that stays text, tables that can be sorted, sections with a heading."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, NamedTuple

from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Cell", "mark", "number", "safe", "section", "table"]


class Cell(NamedTuple):
    """Hold a cell of a table."""

    text: str
    """What is shown, as markup."""
    key: float | None = None
    """What a column of numbers is sorted by; a cell without it is a text."""
    style: str = ""
    """Its class."""


def safe(text: str, max_width: int | None = None) -> str:
    """Return a text from outside as text and nothing else, on one line."""
    return escape(one_line(text, max_width), quote=True)


def number(text: str, key: float | None) -> Cell:
    """Return a cell of a column of numbers; one without a number is empty, and sorted to the end."""
    return Cell(text, -1.0 if key is None else key, "number")


def mark(outcome: str, sign: str) -> str:
    """Return the mark of an outcome."""
    return f'<span class="mark is-{outcome}" aria-hidden="true">{sign}</span>'


def section(title: str, body: str, *, name: str = "", note: str = "") -> str:
    """Return a section with its heading."""
    where = f' id="{name}"' if name else ""
    below = f'<p class="quiet note">{note}</p>' if note else ""
    return f"<section{where}><h2>{title}</h2>{below}{body}</section>"


def table(title: str, heads: Sequence[tuple[str, str]], rows: Iterable[Sequence[Cell]], *, style: str = "") -> str:
    """Return a table in a box that scrolls by itself; the first cell of a row is its head.

    Args:
        title: What it is called by those who do not see it.
        heads: The name and the class of each column.
        rows: Their cells.
        style: The table's class: "sortable" lets a script sort it.
    """
    head = "".join(
        f'<th scope="col"{f" class={chr(34)}{style}{chr(34)}" if style else ""}>{text}</th>' for text, style in heads
    )
    body = "".join(f"<tr>{''.join(_cell(cell, place) for place, cell in enumerate(row))}</tr>" for row in rows)
    of = f' class="{style}"' if style else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{title}">'
        f"<table{of}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell, place: int) -> str:
    key = f' data-key="{cell.key:.9g}"' if cell.key is not None else ""
    style = f' class="{cell.style}"' if cell.style else ""
    return f'<th scope="row">{cell.text}</th>' if place == 0 else f"<td{style}{key}>{cell.text}</td>"
