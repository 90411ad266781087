"""The commands that look at a journal and look after it: `batches`, `doctor`, `prune`."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pipeline_engine.cli.failing import COMPLETED, NOT_COMPLETED, CommandError
from pipeline_engine.cli.progress import console_for
from pipeline_engine.errors import JournalFileError, JournalVersionError
from pipeline_engine.journal import journal_place, read_journal
from pipeline_engine.report.numbers import count_text, counted
from pipeline_engine.text import one_line, safe_text
from pipeline_engine.values import Cost

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterable, Iterator, Sequence

    from rich.console import Console

    from pipeline_engine.journal import JournalReader
    from pipeline_engine.journal.examining import Examination
    from pipeline_engine.journal.pruning import Prunable
    from pipeline_engine.journal.reading import StoredBatch
    from pipeline_engine.journal.store import Store

__all__ = [
    "MARKS",
    "cost_text",
    "counts_text",
    "opened",
    "perform",
    "print_json",
    "print_lines",
    "size_text",
    "table_of",
    "time_text",
]

MARKS = {
    "completed": "✓",
    "partial": "◐",
    "failed": "✗",
    "stopped": "■",
    "skipped": "–",
    "dropped": "✗",
    "queued": "…",
    "processing": "▶",
    "parked": "‖",
}
"""A sign for each way in which documents, steps and items stand."""
_STATUSES = ("completed", "partial", "failed", "parked", "processing", "queued")
_SHOWN_BATCHES = 20
_SHOWN_NAMES = 10


def perform(arguments: Namespace) -> int:
    """Perform one of the commands and return its exit code.

    Raises:
        CommandError: If something is named that is not in the journal.
        JournalError: If the journal cannot be opened or read.
    """
    if arguments.command == "show":
        from pipeline_engine.cli.showing import show

        return show(arguments)
    if arguments.command == "report":
        from pipeline_engine.cli.reporting import report

        return report(arguments)
    if arguments.command == "compare":
        from pipeline_engine.cli.comparing import compare_batches

        return compare_batches(arguments)
    if arguments.command == "diff":
        from pipeline_engine.cli.diffing import diff

        return diff(arguments)
    return {"batches": _batches, "doctor": _doctor, "prune": _prune}[arguments.command](arguments)


# What all of them share


@contextmanager
def opened(arguments: Namespace) -> Iterator[JournalReader]:
    """Open the journal to look at it.

    Raises:
        CommandError: If something is named that is not in it.
        JournalError: If it cannot be opened or read.
    """
    with read_journal(journal_place(arguments.journal)) as reader:
        try:
            yield reader
        except LookupError as error:
            raise CommandError(str(error.args[0] if error.args else error)) from None


@contextmanager
def _tables(place: Any) -> Iterator[Store]:
    """Open a journal to look after it.

    Raises:
        JournalError: If it cannot be opened, or is in use.
    """
    if not hasattr(place, "open_store"):
        raise JournalFileError(place.name, "has no open_store(), so that nobody can look after it")
    store = place.open_store()
    try:
        yield store
        store.close_worker()
    finally:
        store.close()


def print_json(told: object) -> None:
    """Print one line of JSON: what it quotes cannot steer a terminal."""
    print(json.dumps(told))


def print_lines(console: Console, lines: Iterable[str]) -> None:
    """Print lines that a terminal may break, but a file or a pipe gets whole."""
    for line in lines:
        console.print(Text(safe_text(line)), soft_wrap=not console.is_terminal)


def table_of(columns: Sequence[tuple[str, str]]) -> Table:
    """Return an empty table.

    Args:
        columns: Their titles, and how each is set: "left", "right" or "fold", which gives way when it is narrow.
    """
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for title, how in columns:
        is_right = how == "right"
        table.add_column(Text(title), justify="right" if is_right else "left", no_wrap=how != "fold", overflow="fold")
    return table


def time_text(at: float | None) -> str:
    """Return a time as the clock on the wall here shows it."""
    return "–" if at is None else f"{datetime.fromtimestamp(at, UTC).astimezone():%Y-%m-%d %H:%M:%S}"


def cost_text(cost: Cost) -> str:
    """Return what something has cost; what nobody knows is no zero.

    Example:
        >>> cost_text(Cost(0.0123)), cost_text(Cost(unpriced_calls=3)), cost_text(Cost(0.5, unpriced_calls=1))
        ('$0.0123', 'unknown', '$0.5000 + ?')
    """
    known = str(Cost(cost.usd))
    if not cost.unpriced_calls:
        return known
    return f"{known} + ?" if cost.usd else "unknown"


def counts_text(counts: dict[str, int] | Any) -> str:
    """Return how many documents have which status.

    Example:
        >>> counts_text({"failed": 2, "completed": 98})
        '98 completed, 2 failed'
    """
    return ", ".join(f"{counts[status]:,} {status}" for status in _STATUSES if counts.get(status)) or "none"


def size_text(size: int) -> str:
    """Return a number of bytes.

    Example:
        >>> size_text(900), size_text(12_400), size_text(9_850_880)
        ('900 B', '12.4 KB', '9.9 MB')
    """
    for unit, factor in (("B", 1), ("KB", 10**3), ("MB", 10**6)):
        if size < 999.95 * factor:
            return f"{size / factor:.{0 if factor == 1 else 1}f} {unit}"
    return f"{size / 10**9:.1f} GB"


# batches


def _batches(arguments: Namespace) -> int:
    with opened(arguments) as reader:
        found = reader.batches(with_single=arguments.all)
        if arguments.json:
            for batch in islice(found, arguments.limit):
                print_json(batch.told())
            return COMPLETED
        limit = arguments.limit or (None if arguments.all else _SHOWN_BATCHES)
        shown = list(islice(found, limit))
        single = 0 if arguments.all else reader.count_single()
    console = console_for(sys.stdout)
    notes = []
    if shown:
        console.print(_batches_table(shown))
    elif not single:
        notes.append(f"journal {arguments.journal!r} has no batch yet.")
    if limit is not None and len(shown) == limit:
        notes.append("There may be more; --all lists all of them.")
    if single:
        notes.append(f"{counted(single, 'single run')} beside them; --all lists them, too.")
    print_lines(console, notes)
    return COMPLETED


def _batches_table(batches: Sequence[StoredBatch]) -> Table:
    """Return the batches; the beginning of an id is the time at which it began, in UTC."""
    table = table_of(
        [
            ("batch", "left"),
            ("pipeline", "fold"),
            ("state", "left"),
            ("documents", "fold"),
            ("calls", "right"),
            ("cost", "right"),
        ]
    )
    for batch in batches:
        kind = " (single)" if batch.is_single else ""
        table.add_row(
            Text(one_line(batch.batch)),
            Text(one_line(batch.pipeline)),
            Text(f"{batch.state}{kind}", style=_STATE_STYLES.get(batch.state, "")),
            Text(counts_text(batch.documents)),
            Text(count_text(batch.calls)),
            Text(cost_text(batch.cost)),
        )
    return table


_STATE_STYLES = {"done": "green", "running": "cyan", "interrupted": "red", "stopped": "yellow"}


# doctor


def _doctor(arguments: Namespace) -> int:
    from pipeline_engine.journal.examining import examine, repair

    place = journal_place(arguments.journal)
    done: list[str] = []
    spilled = list(getattr(place, "spilled", ()))
    try:
        with read_journal(place) as reader:
            found = examine(reader.rows)
    except JournalVersionError as error:
        if error.version > error.known or not arguments.repair:
            raise
        with _tables(place):
            pass  # whoever opens it brings it up to date
        done.append(f"brought up to date, from version {error.version} to {error.known}; a copy lies beside it")
        with read_journal(place) as reader:
            found = examine(reader.rows)
    problems = _problems(found, [str(path) for path in spilled])
    if arguments.repair and problems:
        done += _repaired(place, found, repair, len(spilled))
    if arguments.json:
        print_json(_examined(found, problems, done, [str(path) for path in spilled]))
    else:
        _print_examined(found, problems, done, is_repair=arguments.repair)
    return NOT_COMPLETED if problems or done else COMPLETED


def _repaired(place: Any, found: Examination, repair: Any, spilled: int) -> list[str]:
    with _tables(place) as store:
        repairs = repair(store, found)
    done = []
    if repairs.removed:
        done.append(f"{_entries(repairs.removed)} removed, {counted(repairs.queued, 'document')} to be run again")
    if repairs.freed:
        done.append(f"{counted(repairs.freed, 'document')} given back, to be gone on with")
    if spilled:
        done.append(f"{counted(spilled, 'file')} of unsaved results taken in")
    return done


def _entries(count: int) -> str:
    return f"{count} damaged entr{'y' if count == 1 else 'ies'}"


def _problems(found: Examination, spilled: Sequence[str]) -> list[str]:
    """Return what needs somebody, a sentence each."""
    problems = [f"its structure is damaged: {line}. Put a copy in its place." for line in found.structure]
    problems += [_damage_text(damage.what, damage.documents, damage.consequence) for damage in found.damages]
    if found.stuck:
        names = _names([document for _, document, _ in found.stuck])
        problems.append(
            f"{counted(len(found.stuck), 'document')} in processing, but no living process works on them: {names}. "
            "Resume the batch, or run it again."
        )
    problems += [
        f"unsaved results wait in {path!r}. The next run takes them in, and so does --repair." for path in spilled
    ]
    return problems


def _damage_text(what: str, documents: Sequence[tuple[str, str]], consequence: str) -> str:
    of = f" of {_names([document for _, document in documents])}" if documents else ""
    return f"damaged: {what}{of}. If it is removed, {consequence}."


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(repr(name) for name in names[:_SHOWN_NAMES]) + more


def _examined(found: Examination, problems: list[str], done: list[str], spilled: list[str]) -> dict[str, Any]:
    return {
        "journal": found.name,
        "version": found.version,
        "problems": problems,
        "repaired": done,
        "bodies_checked": found.checked,
        "damages": [
            {
                "table": damage.table,
                "what": damage.what,
                "key": list(damage.key),
                "documents": [{"pipeline": pipeline, "document": document} for pipeline, document in damage.documents],
            }
            for damage in found.damages
        ],
        "affected_documents": [document for _, document in found.affected],
        "stuck": [{"pipeline": p, "document": d, "worker": worker} for p, d, worker in found.stuck],
        "in_work": found.in_work,
        "waiting": found.waiting,
        "dead_workers": [{"worker": name, "pid": pid} for name, pid in found.dead_workers],
        "open_workers": [{"worker": name, "pid": pid} for name, pid in found.open_workers],
        "unknown_attempts": found.unknown_attempts,
        "unknown_attempts_usd": round(found.unknown_usd, 6),
        "unknown_attempts_unpriced": found.unknown_unpriced,
        "spilled": spilled,
        "bytes": found.total_bytes,
        "log_bytes": found.log_bytes,
        "free_bytes": found.free_bytes,
        "tables": {name: {"rows": rows, "bytes": size} for name, (rows, size) in found.sizes.items()},
    }


def _print_examined(found: Examination, problems: list[str], done: list[str], *, is_repair: bool) -> None:
    console = console_for(sys.stdout)
    parts = [f"version {found.version}", size_text(found.total_bytes)]
    parts += [f"log {size_text(found.log_bytes)}"] if found.log_bytes else []
    parts += [f"{size_text(found.free_bytes)} unused"] if found.free_bytes else []
    print_lines(console, [f"journal {one_line(found.name)}: {', '.join(parts)}", ""])
    table = table_of([("table", "left"), ("rows", "right"), ("size", "right")])
    for name, (rows, size) in found.sizes.items():
        table.add_row(Text(name), Text(f"{rows:,}"), Text(size_text(size) if size else "–"))
    console.print(table)
    lines = ["", *_notes(found)]
    lines += [f"problem: {problem}" for problem in problems]
    if problems and not done:
        lines.append("" if is_repair else "Nothing was changed. --repair does what can be done.")
    lines += [f"done: {what}." for what in done]
    if not problems and not done:
        lines.append("ok: nothing is wrong.")
    print_lines(console, lines)


def _notes(found: Examination) -> list[str]:
    sound = found.checked - len(found.damages)
    notes = [f"{sound:,} bodies are what was written."]
    if found.open_workers:
        pids = ", ".join(str(pid) for _, pid in found.open_workers[:_SHOWN_NAMES])
        notes.append(f"in use by process {pids}, which has {counted(found.in_work, 'document')} in work.")
    if found.dead_workers:
        pids = ", ".join(str(pid) for _, pid in found.dead_workers[:_SHOWN_NAMES])
        notes.append(f"ended without taking leave: process {pids}.")
    for status, why in (("queued", "to be gone on with"), ("parked", "for somebody to set something right")):
        if status in found.waiting:
            notes.append(f"{counted(found.waiting[status], 'document')} {status}: waiting {why}.")
    if found.unknown_attempts:
        cost = Cost(found.unknown_usd, unpriced_calls=found.unknown_unpriced)
        about = f"About {cost_text(cost)} in all." if cost.usd or cost.is_known else "Nobody knows what they cost."
        notes.append(
            f"{counted(found.unknown_attempts, 'attempt')} of unknown end: the process ended while they were in "
            f"flight, so they may have been billed. {about}"
        )
    return notes


# prune


def _prune(arguments: Namespace) -> int:
    from pipeline_engine.journal.pruning import PruneRule, prunable, prune

    place: Any = journal_place(arguments.journal)
    with opened(arguments) as reader:
        batch = None if arguments.batch is None else reader.batch(arguments.batch).batch
        rule = PruneRule(
            before=None if arguments.older_than is None else _now() - arguments.older_than,
            batch=batch,
            keeps_results=arguments.keep_results,
            with_unfinished=arguments.unfinished,
        )
        found = prunable(reader.rows, rule)
    is_done = arguments.yes and not found.is_nothing
    freed = 0
    if is_done:
        before = _file_size(place)
        with _tables(place) as store:
            prune(store, place.name, rule)
        freed = before - _file_size(place)
    if arguments.json:
        print_json(_pruned(found, is_done=is_done, freed=freed))
    else:
        print_lines(console_for(sys.stdout), _prune_lines(found, arguments, is_done=is_done, freed=freed))
    return COMPLETED


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _file_size(place: Any) -> int:
    path = getattr(place, "path", None)
    return path.stat().st_size if path is not None else 0


def _pruned(found: Prunable, *, is_done: bool, freed: int) -> dict[str, Any]:
    return {
        "is_done": is_done,
        "documents": found.documents,
        "outputs": found.outputs,
        "calls": found.calls,
        "attempts": found.attempts,
        "inputs": found.inputs,
        "batches": found.batches,
        "shared_replies": found.shared_replies,
        "bytes": found.size,
        "freed_bytes": freed,
        "unfinished": found.unfinished,
    }


def _prune_lines(found: Prunable, arguments: Namespace, *, is_done: bool, freed: int) -> list[str]:
    lines = []
    if found.is_nothing:
        lines.append("There is nothing to forget.")
    else:
        counts = (
            (found.documents, "document"),
            (found.outputs, "output"),
            (found.calls, "call"),
            (found.attempts, "attempt"),
            (found.batches, "batch"),
            (found.shared_replies, "shared reply"),
        )
        told = [f"{count:,} {_plural(noun) if count != 1 else noun}" for count, noun in counts if count]
        told += [f"the inputs of {counted(found.inputs, 'document')}"] if found.inputs else []
        verb = "forgotten" if is_done else "would be forgotten"
        lines.append(f"{verb}: {', '.join(told)}; {size_text(found.size)} of text.")
        if not arguments.keep_results:
            lines.append("These documents count as new then: to run them again is paid for again.")
        if is_done and freed > 0:
            lines.append(f"{size_text(freed)} given back to the disk.")
    lines += [
        f"pipeline {pipeline!r} is left alone: its batch {batch} has not ended. Resume it first, or give --unfinished."
        for pipeline, batch in found.unfinished.items()
    ]
    if not is_done and not found.is_nothing:
        lines.append("Nothing was changed. Give --yes to do it.")
    return lines


def _plural(noun: str) -> str:
    return {"batch": "batches", "shared reply": "shared replies"}.get(noun, f"{noun}s")
