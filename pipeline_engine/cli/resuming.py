"""The commands `resume` and `retry`: a batch's own command again, for what it has not finished or what failed."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_engine.cli.arguments import parse_arguments
from pipeline_engine.cli.failing import COMPLETED, CommandError
from pipeline_engine.cli.keeping import Again, absolute, place_of
from pipeline_engine.cli.running import run
from pipeline_engine.journal.reading import read_journal
from pipeline_engine.report.numbers import counted
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator

    from pipeline_engine.journal.reading import JournalReader, StoredBatch, StoredDocument
    from pipeline_engine.values import Redo

__all__ = ["resume", "retry"]

_OPEN = ("queued", "processing")
_NOT_COMPLETED = ("partial", "failed", "parked")


def resume(arguments: Namespace) -> int:
    """Run a batch's command again, and return its exit code.

    Raises:
        CommandError: If there is no such batch, or its command cannot be run again.
        JournalError: If the journal cannot be read.
    """
    place = place_of(arguments.journal)
    with read_journal(place) as reader:
        batch = _open_batch(reader) if arguments.batch == "last" else _batch(reader, arguments.batch)
        if batch is None:
            return _nothing("no batch of this journal waits to be resumed")
        if batch.state == "done":
            return _nothing(f"batch {batch.batch} has ended")
        redo: Redo | None = batch.command.get("redo")
        waiting = list(reader.documents(batch.pipeline, batch.batch, _OPEN))
        if redo is not None:
            waiting += _concerned(reader, batch, redo)
    return _run_again(arguments, batch, Again(place, arguments.journal, batch.command, batch.batch, waiting, redo))


def retry(arguments: Namespace) -> int:
    """Run documents of a batch again that failed, or that have outputs of fallbacks; return the exit code.

    Raises:
        CommandError: If there is no such batch, or its command cannot be run again.
        JournalError: If the journal cannot be read.
    """
    place = place_of(arguments.journal)
    redo: Redo = "fallbacks" if arguments.fallbacks else "failed"
    with read_journal(place) as reader:
        batch = _batch(reader, arguments.batch)
        concerned = _concerned(reader, batch, redo)
        waiting = sum(1 for _ in reader.documents(batch.pipeline, batch.batch, _OPEN))
    if not concerned:
        which = "has failed" if redo == "failed" else "has an output that came from a fallback"
        left = f"; {counted(waiting, 'document')} of it can be resumed" if waiting else ""
        return _nothing(f"no document of pipeline {batch.pipeline!r} {which}{left}")
    command = {**batch.command, "redo": redo}
    return _run_again(arguments, batch, Again(place, arguments.journal, command, batch.batch, concerned, redo))


def _nothing(why: str) -> int:
    print(one_line(f"nothing to be done: {why}."))
    return COMPLETED


def _batch(reader: JournalReader, named: str) -> StoredBatch:
    try:
        return reader.batch(named)
    except LookupError as error:
        raise CommandError(str(error.args[0])) from None


def _open_batch(reader: JournalReader) -> StoredBatch | None:
    """Return the last batch that has not ended; of a pipeline's batches only the last one can be gone on with."""
    seen: set[str] = set()
    for batch in reader.batches(with_single=False):
        if batch.pipeline not in seen and batch.state != "done":
            return batch
        seen.add(batch.pipeline)
    return None


def _concerned(reader: JournalReader, batch: StoredBatch, redo: Redo) -> list[StoredDocument]:
    if redo == "failed":
        return list(reader.documents(batch.pipeline, statuses=_NOT_COMPLETED))
    ended = reader.documents(batch.pipeline, statuses=("completed", "partial"))
    fallen = reader.with_fallbacks(batch.pipeline)
    return [document for document in ended if document.document in fallen]


def _run_again(arguments: Namespace, batch: StoredBatch, again: Again) -> int:
    argv, folder = batch.command.get("argv"), batch.command.get("cwd")
    if not argv or not folder:
        raise CommandError(
            f"batch {batch.batch} was started by a program, not by this command. Run that program again: "
            "it does only what is missing."
        )
    original = parse_arguments(argv)
    original.journal, original.debug = absolute(arguments.journal), arguments.debug or original.debug
    with _inside(Path(folder), batch):
        if original.command == "run" or arguments.command == "retry":
            return run(original, again)
        from pipeline_engine.cli.estimating import estimate

        return estimate(original)


@contextmanager
def _inside(folder: Path, batch: StoredBatch) -> Iterator[None]:
    """Be in the folder in which a batch was started: its documents are named as they were found from there."""
    before = Path.cwd()
    try:
        os.chdir(folder)
    except OSError as error:
        raise CommandError(
            f"batch {batch.batch} was started in the folder {str(folder)!r}, which cannot be entered: "
            f"{error.strerror}. Run its command again from where its documents are."
        ) from error
    try:
        yield
    finally:
        os.chdir(before)
