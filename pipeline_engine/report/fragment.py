"""A piece of HTML with a style of its own, which leaves the page around it alone: for notebooks and small pages.

It runs no script and loads nothing. Its colours are light or dark, as the reader's system asks for.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from pipeline_engine.report.page.markup import safe
from pipeline_engine.report.palette import color_rules

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Cell", "cell", "fragment", "heading", "listed", "number", "small_table", "style_of_fragments"]

Cell = tuple[str, str]
"""The markup and the class of a cell."""


@cache
def style_of_fragments() -> str:
    """Return the rules for all fragments; they hold for nothing else."""
    own = files("pipeline_engine.report").joinpath("fragment.css").read_text(encoding="utf-8")
    return f".pipeline-engine{{color-scheme:light dark}}{color_rules('.pipeline-engine')}{own}"


def fragment(*parts: str) -> str:
    """Return parts of markup as one element with its style."""
    return f'<div class="pipeline-engine"><style>{style_of_fragments()}</style>{"".join(parts)}</div>'


def heading(title: str, note: str = "") -> str:
    """Return what a fragment is about; both texts may come from anywhere.

    Example:
        >>> heading("a <b>", "2 steps")
        '<h2>a &lt;b&gt; <span class="quiet">2 steps</span></h2>'
    """
    beside = f' <span class="quiet">{safe(note)}</span>' if note else ""
    return f"<h2>{safe(title)}{beside}</h2>"


def cell(text: str, style: str = "name", max_width: int | None = None) -> Cell:
    """Return a cell with a text from anywhere."""
    return safe(text, max_width), style


def number(text: str) -> Cell:
    """Return a cell of a column of numbers."""
    return safe(text), "number"


def small_table(
    title: str, heads: Sequence[Cell], rows: Iterable[Sequence[Cell]], *, max_rows: int = 50, of: str = "row"
) -> str:
    """Return a table below its title; the first cell of a row is its head, if it is not empty. Nothing without rows.

    Args:
        title: What stands above it, as markup.
        heads: The columns' names, with the class of each.
        rows: Their cells.
        max_rows: How many are shown; below them it is said how many are not.
        of: What a row is, in the singular.
    """
    every = list(rows)
    if not every:
        return ""
    head = "".join(f'<th scope="col" class="{style}">{text}</th>' for text, style in heads)
    body = "".join(f"<tr>{''.join(map(_marked, range(len(row)), row))}</tr>" for row in every[:max_rows])
    left = len(every) - max_rows
    more = f'<p class="quiet">… and {left:,} more {of}{"" if left == 1 else "s"}</p>' if left > 0 else ""
    # Focusable, because it scrolls: a keyboard must get at what stands at its right.
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h3>{title}</h3><div class="scroll" tabindex="0" role="region" aria-label="{title}">{table}</div>{more}'


def _marked(place: int, shown: Cell) -> str:
    text, style = shown
    return f'<th scope="row" class="{style}">{text}</th>' if place == 0 and text else f'<td class="{style}">{text}</td>'


def listed(texts: Sequence[str], max_shown: int = 50) -> str:
    """Return texts from anywhere as a list."""
    items = "".join(f"<li>{safe(text)}</li>" for text in texts[:max_shown])
    left = len(texts) - max_shown
    return f"<ul>{items}{f'<li>… and {left:,} more</li>' if left > 0 else ''}</ul>"
