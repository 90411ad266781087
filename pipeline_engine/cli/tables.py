"""What is on the screen when a run is over: the results as a table, the waterfall, the figures."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pipeline_engine.report.numbers import counted, seconds_text
from pipeline_engine.text import display_width, fit, one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from pipeline_engine.cli.summary import Row, Summary
    from pipeline_engine.values import Status

__all__ = ["closing_lines", "fair_widths", "fit_tail", "print_results", "print_waterfall", "results_table"]

_MAX_OUTPUTS = 4
_MARKS: dict[Status, str] = {"completed": "✓", "partial": "◐", "failed": "✗", "stopped": "■"}
_STYLES: dict[Status, str] = {"completed": "green", "partial": "yellow", "failed": "red", "stopped": "yellow"}
_STATUSES: tuple[Status, ...] = ("completed", "partial", "failed", "stopped")


def print_results(console: Console, summary: Summary) -> None:
    """Print the table, how many documents it lacks, and why documents did not complete."""
    if summary.finished == 1:
        console.print(document_table(summary, console.width))
    else:
        console.print(results_table(summary, console.width))
    notes = []
    hidden = len(summary.plan.leaves) - _MAX_OUTPUTS
    if summary.finished > len(summary.rows):
        notes.append(
            f"… and {counted(summary.finished - len(summary.rows), 'more document')}; --out FILE keeps all of them."
        )
    if hidden > 0 and summary.finished > 1:
        notes.append(f"{counted(hidden, 'more output')} of each document; --out FILE keeps all of them.")
    if summary.not_completed:
        notes.append("\nnot completed:")
        notes += [f"  {document}: {reason}" for document, reason in summary.reasons]
    if summary.not_completed > len(summary.reasons):
        notes.append(f"  … and {summary.not_completed - len(summary.reasons)} more; --out FILE keeps their reasons.")
    for note in notes:
        console.print(Text(_wrapped(note, console)), soft_wrap=True)
    console.print()


def _wrapped(note: str, console: Console) -> str:
    """Return a line as a terminal should break it; in a file or a pipe a line stays a line."""
    if not console.is_terminal or display_width(note) <= console.width:
        return note
    return "\n".join(textwrap.wrap(note, console.width, subsequent_indent="    "))


def results_table(summary: Summary, width: int) -> Table:
    """Return the first documents with their status and the outputs that no other step needs."""
    leaves = [summary.plan.steps[index].name for index in summary.plan.leaves][:_MAX_OUTPUTS]
    rows = summary.rows
    took = ["took", *(_took(row) for row in rows)]
    status = ["status", *(f"{_MARKS[row.status]} {row.status}" for row in rows)]
    documents = ["document", *(row.document for row in rows)]
    outputs = [[one_line(leaf), *(row.cells[place] for row in rows)] for place, leaf in enumerate(leaves)]
    fixed = _widest(status) + _widest(took)
    wanted = [_widest(documents), *(_widest(output) for output in outputs)]
    available = width - fixed - 2 * (len(wanted) + 1)  # two cells stand between columns
    widths = fair_widths(wanted, max(available, 4 * len(wanted)))
    table = _plain_table()
    table.add_column(Text("document"), no_wrap=True)
    table.add_column(Text("status"), no_wrap=True)
    table.add_column(Text("took"), no_wrap=True, justify="right")
    for output, cells in zip(outputs, widths[1:], strict=True):
        table.add_column(Text(fit(output[0], cells).rstrip()), no_wrap=True)
    for row in rows:
        table.add_row(
            Text(fit_tail(row.document, widths[0])),
            Text(f"{_MARKS[row.status]} {row.status}", style=_STYLES[row.status]),
            Text(_took(row)),
            *(_cell(cell, cells) for cell, cells in zip(row.cells, widths[1:], strict=False)),
        )
    return table


def document_table(summary: Summary, width: int) -> Table:
    """Return every step's output, for a run of one document: there is room to show more of each."""
    row = summary.rows[0]
    steps = max(display_width(step) for step, _ in summary.first)
    table = _plain_table()
    table.add_column(Text("step"), no_wrap=True)
    table.add_column(Text(f"output for {fit_tail(row.document, max(8, width - steps - 14))}"), overflow="fold")
    for step, text in summary.first:
        table.add_row(Text(step), Text(text, style=_style(text)))
    return table


def _plain_table() -> Table:
    return Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)


def _cell(text: str, cells: int) -> Text:
    return Text(fit(text, cells).rstrip(), style=_style(text))


def _style(cell: str) -> str:
    return "red" if cell in {"✗ failed", "✗ skipped", "✗ stopped"} else ""


def _took(row: Row) -> str:
    return "" if row.took is None else seconds_text(row.took)


def _widest(texts: Sequence[str]) -> int:
    return max(display_width(text) for text in texts)


def fair_widths(wanted: Sequence[int], available: int) -> list[int]:
    """Return the width of each column: what is short is shown whole, the others share what is left.

    Example:
        >>> fair_widths([10, 300, 4, 200], 80)
        [10, 33, 4, 33]
    """
    widths = [0] * len(wanted)
    left = available
    for place in sorted(range(len(wanted)), key=lambda place: wanted[place]):
        columns_left = sum(1 for width in widths if width == 0)
        widths[place] = max(1, min(wanted[place], left // columns_left))
        left -= widths[place]
    return widths


def fit_tail(text: str, width: int) -> str:
    """Return the end of `text` if it is too wide: of a path, that is the part that tells files apart.

    Example:
        >>> fit_tail("archive/2024/march.pdf", 12)
        '…4/march.pdf'
    """
    if display_width(text) <= width:
        return text
    tail = text
    while tail and display_width(tail) > width - 1:
        tail = tail[1:]
    return f"…{tail}"


def print_waterfall(console: Console, summary: Summary) -> None:
    """Print where the time of the slowest document went; nothing if none was run."""
    trace = summary.slowest
    if trace is None:
        return
    if summary.finished > 1:
        console.print(Text("Where the time of the slowest document went:", style="dim"))
    has_color = console.color_system is not None and not console.no_color and not console.legacy_windows
    # Not through rich: the drawing is as wide as it should be, and has its own colours.
    print(trace.waterfall(console.width, color=has_color), file=console.file)
    console.print()


def closing_lines(summary: Summary, total: int, elapsed: float) -> list[str]:
    """Return the counts with the spend, and why documents were not started, if some were not."""
    counts = [f"{summary.counts[status]} {status}" for status in _STATUSES if summary.counts[status]]
    if total > summary.finished:
        counts.append(f"{total - summary.finished} not started")
    line = f"{counted(total, 'document')} in {seconds_text(elapsed)}: {', '.join(counts) or 'none finished'}"
    spent = summary.spent
    lines = [f"{line} · {spent}" if spent else line]
    kept = [counted(summary.restored, "document")] if summary.restored else []
    kept += [f"{counted(summary.calls_saved, 'call')} not sent again"] if summary.calls_saved else []
    if kept:
        lines.append(f"from the journal: {', '.join(kept)}")
    if summary.stopped_by is not None:
        lines.append(f"stopped: {summary.stopped_by}")
    return lines
