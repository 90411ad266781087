"""A journal in memory: what a test, or a program that may lose it, resumes from."""

from __future__ import annotations

from secrets import token_hex
from threading import Lock
from typing import TYPE_CHECKING

from pipeline_engine.journal.writing import InlineJournal

if TYPE_CHECKING:
    from pipeline_engine.journal.rows import Rows
    from pipeline_engine.values import Journal

__all__ = ["MemoryJournal"]


class MemoryJournal:
    """Keep a journal in memory, as long as this object lives.

    What is written is there at once, at no cost of time: on a virtual clock a step's output is committed at
    the very instant at which it is made.

    Example:
        >>> from pipeline_engine import MemoryJournal, Pipeline, run_pipeline
        >>> pipeline = Pipeline("shout", inputs={"text": str})
        >>> calls = []
        >>> @pipeline.step
        ... def shouted(text: str) -> str:
        ...     calls.append(text)
        ...     return text.upper()
        >>> journal = MemoryJournal()
        >>> [run_pipeline(pipeline, {"text": "hello"}, journal=journal)[shouted] for _ in range(2)]
        ['HELLO', 'HELLO']
        >>> calls
        ['hello']
    """

    documents = "store"
    """Whether documents are stored in it."""

    def __init__(self) -> None:
        from pipeline_engine.journal.sqlite import SqliteStore

        self._store = SqliteStore(None, f"memory-{token_hex(4)}")
        self._lock = Lock()

    def __repr__(self) -> str:
        return "MemoryJournal()"

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return "memory"

    def open(self) -> InlineJournal:
        """Return the journal, ready to be written."""
        return InlineJournal(self._store, self._lock)

    def close(self, journal: Journal) -> None:
        """Do nothing: what was written stays until this object goes."""
        del journal

    def open_to_read(self) -> Rows:
        """Return its rows, for those who only look."""
        from pipeline_engine.journal.rows import StoreRows

        return StoreRows(self.name, self._store.query)
