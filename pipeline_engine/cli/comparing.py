"""The command `compare`: two batches on the same documents, as tables, as JSON, as lines of what differs, as a page."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from pipeline_engine.cli.arguments import JOURNAL_VARIABLE
from pipeline_engine.cli.failing import COMPLETED, NOT_COMPLETED, CommandError
from pipeline_engine.cli.journals import print_json, print_lines, table_of
from pipeline_engine.cli.progress import console_for
from pipeline_engine.cli.running import writable
from pipeline_engine.report.comparison_page import FIGURE_NAMES, figure_text, ratio_text, shown_figures
from pipeline_engine.run.atomic import AtomicLines
from pipeline_engine.run.comparing import compare
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

    from pipeline_engine.report.comparing import Comparison, DocumentDifference, StepComparison

__all__ = ["compare_batches"]

_SHOWN_DOCUMENTS = 10
_SHOWN_KEY = 60
_SHOWN_OUTPUT = 80
_WIDE = 110
"""Cells of a line in which the table of figures has room for medians, too; --json and --html have them always."""


def compare_batches(arguments: Namespace) -> int:
    """Compare what was asked for, and return the exit code: 1 if any document differs.

    Raises:
        CommandError: If a batch, a file or a label is not what it should be.
        JournalError: If a journal cannot be read.
    """
    journals = arguments.journals or [os.environ.get(JOURNAL_VARIABLE) or None]
    if len(journals) > 2:
        raise CommandError("--journal is given once, or twice: first that of A, then that of B.")
    given = (arguments.a, arguments.b)
    if given[1] is None:
        given = (given[0] or ("previous" if len(journals) == 1 else "last"), "last")
    _check_journals(given, journals)
    out, page = (writable(option, name, ()) for option, name in (("--out", arguments.out), ("--html", arguments.html)))
    with ExitStack() as stack:
        lines = None if out is None else _Lines(stack, out)
        try:
            comparison = compare(
                *given,
                journal=journals[0],
                other_journal=journals[-1],
                labels=None if arguments.labels is None else Path(arguments.labels),
                on_difference=None if lines is None else lines.write,
            )
        except (LookupError, ValueError) as error:
            raise CommandError(str(error.args[0] if error.args else error)) from None
        except OSError as error:  # a code of its own: 1 says that documents differ
            raise CommandError(f"{str(error.filename)!r}: {error.strerror}. Nothing was compared.") from error
        if lines is not None:
            lines.begin()  # nothing differs: the file is empty, not that of another comparison
        if page is not None:
            comparison.to_html(page)
    if arguments.json:
        print_json(comparison.told())
    else:
        _print(comparison, arguments)
    return NOT_COMPLETED if comparison.different else COMPLETED


class _Lines:
    """Write lines into a file that is replaced only once there is something to compare."""

    def __init__(self, stack: ExitStack, path: Path) -> None:
        self._stack, self._path = stack, path
        self._lines: AtomicLines | None = None

    def begin(self) -> AtomicLines:
        """Return the file."""
        if self._lines is None:
            self._lines = self._stack.enter_context(AtomicLines(self._path))
        return self._lines

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one line."""
        self.begin().write(line)


def _check_journals(given: tuple[str, str], journals: Sequence[str | None]) -> None:
    for name, journal in zip(given, (journals[0], journals[-1]), strict=True):
        if journal is None and not Path(name).is_file():
            raise CommandError(
                f"{name!r} is no file here, and a batch is looked up in a journal: give --journal, or the file that "
                "`run --out` or `run --rows` has written."
            )


def _print(comparison: Comparison, arguments: Namespace) -> None:
    console = console_for(sys.stdout)
    print_lines(console, [f"A: {one_line(comparison.name_a)}", f"B: {one_line(comparison.name_b)}", ""])
    print_lines(console, [f"{one_line(comparison.verdict)}."])
    only = [(comparison.only_a, "A"), (comparison.only_b, "B")]
    print_lines(console, [f"{count:,} documents only in {side}." for count, side in only if count])
    changed = [(ends, count) for ends, count in comparison.statuses.items() if ends[0] != ends[1]]
    print_lines(console, [f"  {one_line(a)} → {one_line(b)}: {count:,}" for (a, b), count in changed])
    _print_table(console, _steps_table(comparison.steps), "outputs")
    _print_table(console, _fields_table(comparison.steps), "fields that differ")
    _print_table(console, _labels_table(comparison), "against the labels")
    _print_table(
        console, _figures_table(comparison, console.width), "figures, of documents and of steps that both have executed"
    )
    _print_table(console, _documents_table(comparison.differences), "documents that differ most")
    lines = ["", *comparison.notes] if comparison.notes else []
    left = comparison.different - _SHOWN_DOCUMENTS
    if left > 0:
        lines.append(
            f"… and {left:,} more documents differ; --out FILE has all of them, --html FILE the first hundred."
        )
    lines += [f"written: {path}" for path in (arguments.out, arguments.html) if path is not None]
    print_lines(console, lines)


def _print_table(console: Console, table: Table, title: str) -> None:
    if table.row_count:
        print_lines(console, ["", title])
        console.print(table)


def _steps_table(steps: Sequence[StepComparison]) -> Table:
    has_lost = any(step.unknown for step in steps)
    columns = [("step", "fold"), *((name, "right") for name in ("equal", "different", "only A", "only B"))]
    columns += [("not kept", "right")] if has_lost else []
    table = table_of([*columns, ("ends differently", "fold")])
    for step in steps:
        counts = [step.only_a, step.only_b, *([step.unknown] if has_lost else [])]
        table.add_row(
            Text(one_line(step.step)),
            Text(f"{step.equal:,}"),
            Text(f"{step.different:,}", style="yellow" if step.different else ""),
            *(Text(f"{count:,}") for count in counts),
            Text(", ".join(f"{a} → {b} {count:,}×" for (a, b), count in step.outcomes.items())),
        )
    return table


def _fields_table(steps: Sequence[StepComparison]) -> Table:
    columns = [("step", "fold"), ("field", "fold"), ("documents", "right"), ("same", "right"), ("how", "fold")]
    table = table_of(columns)
    for step in steps:
        for field in step.fields:
            if field.equal < field.count or field.only_a or field.only_b:
                texts = (one_line(step.step), one_line(field.path, 40) or "–", f"{field.count:,}", f"{field.share:.0%}")
                table.add_row(*map(Text, texts), Text(one_line(field.text)))
    return table


def _labels_table(comparison: Comparison) -> Table:
    names = ("documents", "A right", "B right", "only A", "only B")
    table = table_of([("label", "fold"), *((name, "right") for name in names), ("what follows", "fold")])
    for label in comparison.labels:
        rights = [f"{right:,} ({right / label.count:.0%})" if label.count else "–" for right in label.rights]
        texts = (one_line(label.name), f"{label.count:,}", *rights, f"{label.only_a:,}", f"{label.only_b:,}")
        table.add_row(*map(Text, texts), Text(label.verdict))
    return table


def _figures_table(comparison: Comparison, width: int) -> Table:
    has_shares = width >= _WIDE
    names = ("documents", "A", "B", "B / A", *(("p50 A", "p50 B", "p95 A", "p95 B") if has_shares else ()))
    table = table_of([("of", "fold"), ("figure", "left"), *((name, "right") for name in names)])
    parts: list[tuple[str, Any]] = [("document", comparison.figures)]
    parts += [(step.step, step.figures) for step in comparison.steps]
    for of, figures in parts:
        for name, figure in shown_figures(figures):
            values = [figure.total_a, figure.total_b]
            values += [figure.p50_a, figure.p50_b, figure.p95_a, figure.p95_b] if has_shares else []
            texts = [figure_text(name, value) for value in values]
            texts.insert(2, ratio_text(figure.ratio))
            table.add_row(Text(one_line(of)), Text(FIGURE_NAMES[name]), Text(f"{figure.count:,}"), *map(Text, texts))
    return table


def _documents_table(differences: Sequence[DocumentDifference]) -> Table:
    table = table_of([("document", "fold"), ("step", "fold"), ("apart", "right"), ("A", "fold"), ("B", "fold")])
    for document in differences[:_SHOWN_DOCUMENTS]:
        ends = f" ({document.status_a} → {document.status_b})" if document.status_a != document.status_b else ""
        name = one_line(document.document, _SHOWN_KEY) + ends
        for place, step in enumerate(document.steps):
            texts = [one_line(text, _SHOWN_OUTPUT) for text in (step.text_a, step.text_b)]
            first = "" if place else name
            table.add_row(Text(first), Text(one_line(step.step)), Text(f"{step.distance:.2f}"), *map(Text, texts))
        if not document.steps:
            table.add_row(Text(name), *map(Text, ("–", "", "", "")))
    return table
