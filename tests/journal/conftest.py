"""A journal of each kind."""

import pytest

from pipeline_engine.journal import MemoryJournal, PostgresJournal, SqliteJournal
from tests.journal.keeping import Kept


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def kept(request, tmp_path) -> Kept:
    """A journal of each kind in turn, that nobody has opened yet."""
    if request.param == "memory":
        return Kept(MemoryJournal())
    if request.param == "sqlite":
        return Kept(SqliteJournal(tmp_path / "runs.db"))
    return Kept(PostgresJournal(request.getfixturevalue("postgres")))
