"""A journal as it lies there, read behind the product's back and without touching it."""

import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline_engine.journal import digest
from tests.kills.billing import CallId, call_id
from tests.kills.worker import fingerprint

Place = tuple[str, str, int]
"""A document's key, a step's name and the number of an item."""


@dataclass
class Seen:
    """Hold what was found in a journal."""

    integrity: str = "ok"
    outputs: dict[Place, Any] = field(default_factory=dict)
    """The outputs in JSON's types."""
    fingerprints: dict[Place, str] = field(default_factory=dict)
    rows: Counter[Place] = field(default_factory=Counter)
    """How many outputs each step or item has: an output of a plan that does not change is there once."""
    calls: Counter[CallId] = field(default_factory=Counter)
    documents: dict[str, str] = field(default_factory=dict)
    """How each document stands."""
    reasons: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, Any] = field(default_factory=dict)
    fences: dict[str, int] = field(default_factory=dict)

    def status_counts(self) -> dict[str, int]:
        return dict(sorted(Counter(self.documents.values()).items()))


def look(journal: str) -> Seen:
    """Return what is in a journal: of a file a copy is read, so that its recovery is left to the product."""
    seen = Seen()
    reading = _postgres(journal) if journal.startswith("postgresql:") else _sqlite(Path(journal), seen)
    with reading as query:
        if query is None:
            return seen
        for model, prompt, reply, sha in query("select model, prompt, reply, reply_sha from calls"):
            assert digest(bytes(reply)) == sha
            seen.calls[call_id(model, [(role, _beginning(part)) for role, part in json.loads(bytes(prompt))])] += 1
        for document, step, item, output, sha in query(
            "select document, step, item, output, output_sha from step_outputs"
        ):
            assert digest(bytes(output)) == sha
            place = (document, step, item)
            seen.outputs[place] = json.loads(bytes(output))
            seen.fingerprints[place] = fingerprint(seen.outputs[place])
            seen.rows[place] += 1
        for document, status, reason, outcomes, fence in query(
            "select document, status, reason, outcomes, fence from documents"
        ):
            seen.documents[document] = status
            seen.reasons[document] = reason
            seen.outcomes[document] = json.loads(bytes(outcomes))
            seen.fences[document] = fence
    return seen


def _beginning(part: Any) -> str:
    """Return a message's text up to where a part of the document stands."""
    return part if isinstance(part, str) else part[0]


@contextmanager
def _sqlite(path: Path, seen: Seen):
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "copy.db"
        try:
            shutil.copyfile(path, copy)
        except FileNotFoundError:
            yield None  # killed before there was a journal
            return
        wal = path.with_name(f"{path.name}-wal")
        if wal.exists():
            shutil.copyfile(wal, copy.with_name("copy.db-wal"))
        connection = sqlite3.connect(copy)
        try:
            seen.integrity = connection.execute("pragma integrity_check").fetchone()[0]
            yield lambda sql: connection.execute(sql).fetchall()
        finally:
            connection.close()


@contextmanager
def _postgres(address: str):
    import psycopg

    with psycopg.connect(address, options="-csearch_path=pipeline_engine") as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ  # all of it at one instant
        if connection.execute("select to_regclass('documents')::text").fetchone() == (None,):
            yield None
            return
        yield lambda sql: connection.execute(sql).fetchall()
