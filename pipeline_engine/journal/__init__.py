"""Durable records of what was paid for and what came of it: in memory, in SQLite, in PostgreSQL."""

from pipeline_engine.journal.keys import call_key, canonical, digest, digest_of, message_parts, request_key, step_key
from pipeline_engine.journal.memory import MemoryJournal
from pipeline_engine.journal.opening import (
    JournalPlace,
    KeepDocuments,
    PostgresJournal,
    SqliteJournal,
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
    "journal_place",
    "message_parts",
    "read_journal",
    "request_key",
    "step_key",
]
