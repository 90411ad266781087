"""Durable records of what was paid for and what came of it: in memory, in SQLite, in PostgreSQL.

Databases, and trio, are loaded by whoever names a journal: keys need none of them, and are all that a pipeline needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline_engine.journal.keys import call_key, canonical, digest, digest_of, message_parts, request_key, step_key

if TYPE_CHECKING:
    from pipeline_engine.journal.memory import MemoryJournal
    from pipeline_engine.journal.opening import (
        JournalPlace,
        KeepDocuments,
        PostgresJournal,
        SqliteJournal,
        held,
        journal_place,
    )
    from pipeline_engine.journal.reading import JournalReader, read_journal
    from pipeline_engine.journal.results import batch_results

__all__ = [
    "JournalPlace",
    "JournalReader",
    "KeepDocuments",
    "MemoryJournal",
    "PostgresJournal",
    "SqliteJournal",
    "batch_results",
    "call_key",
    "canonical",
    "digest",
    "digest_of",
    "held",
    "journal_place",
    "message_parts",
    "read_journal",
    "request_key",
    "step_key",
]

_ROOM_OF = {
    "MemoryJournal": "memory",
    **dict.fromkeys(
        ("JournalPlace", "KeepDocuments", "PostgresJournal", "SqliteJournal", "held", "journal_place"), "opening"
    ),
    **dict.fromkeys(("JournalReader", "read_journal"), "reading"),
    "batch_results": "results",
}


def __getattr__(name: str) -> Any:
    room = _ROOM_OF.get(name)
    if room is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{room}"), name)
