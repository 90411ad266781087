"""A run and its journal: where it is, how the run was started, and what it is run again for."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_engine.cli.arguments import JOURNAL_VARIABLE
from pipeline_engine.cli.failing import say
from pipeline_engine.cli.reading import some_of
from pipeline_engine.errors import DocumentError
from pipeline_engine.journal import journal_place
from pipeline_engine.journal.reading import read_journal
from pipeline_engine.run.document import Document
from pipeline_engine.schedule import changes_between
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Mapping, Sequence

    from pipeline_engine.cli.reading import Source
    from pipeline_engine.journal import JournalPlace
    from pipeline_engine.journal.reading import StoredDocument
    from pipeline_engine.run.batch import BatchStream
    from pipeline_engine.values import Redo

__all__ = ["Again", "Keeping", "absolute", "place_of", "recorded"]

_NOT_RECORDED = "--journal"
"""Its address may hold a password. Whoever resumes gives it again."""


def place_of(named: str) -> JournalPlace:
    """Return the journal that `--journal` names; it stays the same when the folder to run in is changed.

    Raises:
        JournalFileError: If it names none.
    """
    return journal_place(absolute(named))


def absolute(named: str) -> str:
    """Return a journal's name as it is understood in every folder."""
    return named if "://" in named else str(Path(named).absolute())


def recorded(argv: Sequence[str]) -> list[str]:
    """Return a command as it may be kept in a journal.

    Example:
        >>> recorded(["run", "p.py", "docs", "--journal", "postgresql://me:secret@db/runs", "--limit=5"])
        ['run', 'p.py', 'docs', '--limit=5']
    """
    words = iter(argv)
    kept = []
    for word in words:
        if word == _NOT_RECORDED:
            next(words, None)
        elif not word.startswith(f"{_NOT_RECORDED}="):
            kept.append(word)
    return kept


@dataclass(frozen=True, slots=True)
class Again:
    """Say what a batch in a journal is run again for."""

    place: JournalPlace
    named: str
    """The journal as the user has named it."""
    command: Mapping[str, Any]
    """How the batch was started."""
    batch: str
    waiting: Sequence[StoredDocument]
    """The documents concerned, as far as the journal knows them."""
    redo: Redo | None = None
    """Which ended documents are run again; None if the batch is resumed, and new documents are run, too."""

    @property
    def contents(self) -> dict[str, str]:
        """What the journal knows the content of the documents concerned by."""
        return {document.document: document.content for document in self.waiting}

    def sources(self, paths: Sequence[Path], limit: int | None) -> tuple[list[Source], int]:
        """Return what is to be run: files, and what the journal holds of those that are gone; and how many are lost.

        Args:
            paths: The documents that the batch's command finds today.
            limit: How many of them it takes, besides those that it has taken before.
        """
        wanted = self.contents
        new = () if self.redo is not None else paths[:limit]
        chosen = {str(path) for path in new} | wanted.keys()
        sources: list[Source] = [path for path in paths if str(path) in chosen]
        found = {str(path) for path in paths}
        # Those of other batches are somewhere else.
        gone = [stored for stored in self.waiting if stored.batch == self.batch and stored.document not in found]
        kept = [document for document in gone if document.inputs is not None]
        lost = [document.document for document in gone if document.inputs is None]
        if kept:
            names = some_of([document.document for document in kept])
            say(one_line(f"not found any more, and run with the text that the journal holds: {names}."))
        if lost:
            say(
                one_line(
                    f"not found any more, and not run, because the journal holds no text of them: {some_of(lost)}."
                )
            )
        return [*sources, *(partial(_restored, self.place, document) for document in kept)], len(lost)


def _restored(place: JournalPlace, stored: StoredDocument) -> Document:
    """Return a document with the inputs that its journal holds."""
    with read_journal(place) as reader:
        inputs = None if stored.inputs is None else reader.inputs(stored.inputs)
    if inputs is None:
        error = DocumentError(stored.document, "is gone, and what the journal held of it is not intact any more.")
        return Document(stored.document, {}, error=error, source=stored.source)
    return Document(stored.document, inputs, source=stored.source)


@dataclass(slots=True)
class Keeping:
    """Know the journal of a run, if it has one."""

    named: str | None = None
    """The journal as the user has named it."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What a batch is told of it."""
    replaces_lines: bool = False
    """Whether only some documents are run, whose lines take the place of the old ones in the files."""
    batch: str | None = None
    """The batch's id, once it has begun."""
    name: str = ""
    """What the journal is called in messages."""

    @classmethod
    def of(cls, arguments: Namespace, again: Again | None) -> Keeping:
        """Return what a command says about its journal.

        Raises:
            JournalFileError: If it names none.
        """
        if arguments.journal is None:
            return cls()
        place = place_of(arguments.journal) if again is None else again.place
        # The folder belongs to it: documents are named as they were found from there.
        command = {"argv": recorded(arguments.argv), "cwd": str(Path.cwd())} if again is None else again.command
        options = {"journal": place, "on_change": arguments.on_change, "command": command}
        redo = None if again is None else again.redo
        named = arguments.journal if again is None else again.named
        shown = place.name if "://" in named else named
        return cls(named, options | {"redo": redo}, replaces_lines=redo is not None, name=shown)

    def begun(self, batch: BatchStream, parts: Mapping[str, Any]) -> None:
        """Take note of the batch's id, and say what has changed since the last one.

        Args:
            batch: The batch.
            parts: The fingerprints of its pipeline's steps.
        """
        self.batch = batch.batch
        opened = batch.opened
        if opened is None or not opened.parts:
            return
        changes = changes_between(json.loads(opened.parts), parts)
        if changes:
            say("\n  ".join(["the pipeline has changed since the journal's last batch:", *map(one_line, changes)]))
            say(_ON_CHANGE[self.options["on_change"]])

    def command(self, words: str) -> str:
        """Return a command on the same journal, for the user to type."""
        if self.named is None or self.named == os.environ.get(JOURNAL_VARIABLE):
            return f"pipeline-engine {words}"
        return f"pipeline-engine {words} --journal {shlex.quote(self.name)}"


_ON_CHANGE = {
    "reuse": "what has changed, and what depends on it, is run again; all else is reused.",
    "keep": "all saved outputs are kept, as --on-change keep says.",
    "new": "everything begins anew, as --on-change new says.",
}
