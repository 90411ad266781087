"""Keys and passwords are on the wire and nowhere else: not in a journal, not in what is left beside it, in no error."""

import logging
import sqlite3
import uuid

import pytest

from pipeline_engine import Engine, JournalError, Model, PlanError, Retry
from pipeline_engine.journal import PostgresJournal, SqliteJournal
from tests.faults.rig import asking, shown
from tests.faults.servers import chat
from tests.faults.test_canary import HOSTILE

QUICK = Retry(attempts=2, base_delay=0.001, jitter="none", repair=1, max_throttled=1)


def assert_unseen(told):
    """Nothing of the password is in what an error reporter prints, its frames' variables included."""
    place = told.find("CANARY")
    assert place < 0, told[max(0, place - 300) : place + 60]


def written_in(folder):
    """Return all that was written below a folder, under any name."""
    return b"".join(str(path).encode() + path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def run_hostile(rig, journal):
    """Run one document for each answer that gives the key back; return their results."""
    results = []
    for name, answer in HOSTILE.items():
        server = await rig.serve(answer, chat("A reply"))
        async with Engine(seed=1) as engine:
            model = rig.model(server)
            pipeline = asking(retry=QUICK)
            results.append(
                await engine.run(pipeline, {"document": name}, models={"fast": model}, key=name, journal=journal)
            )
    return results


async def test_no_byte_of_a_journal_in_a_file_has_the_key(rig, tmp_path, caplog):
    """Journals are copied, sent around and kept for years."""
    folder = tmp_path / "journal"
    folder.mkdir()
    results = await run_hostile(rig, SqliteJournal(folder / "runs.db"))
    connection = sqlite3.connect(folder / "runs.db")
    attempts = connection.execute("select count(*), count(message) from attempts").fetchone()
    connection.close()

    assert len(results) == len(HOSTILE)
    assert attempts[0] >= len(HOSTILE)
    assert attempts[1] >= len(HOSTILE) - 2
    rig.assert_hidden("the journal", written_in(folder).decode("latin-1"))
    rig.assert_hidden("the logs", caplog.text)


async def test_no_row_of_a_journal_in_postgres_has_the_key(rig, postgres):
    """A database is read by more people than anybody knows."""
    import psycopg

    await run_hostile(rig, PostgresJournal(postgres))
    with psycopg.connect(postgres, options="-csearch_path=pipeline_engine") as connection:
        names = [
            name
            for (name,) in connection.execute("select tablename from pg_tables where schemaname = 'pipeline_engine'")
        ]
        rows = {name: connection.execute(f"select * from {name}").fetchall() for name in names}

    assert len(rows["attempts"]) >= len(HOSTILE)
    for name, found in rows.items():
        told = " ".join(
            part.decode("latin-1") if isinstance(part, bytes) else str(part) for row in found for part in row
        )
        rig.assert_hidden(name, told)


async def test_what_could_not_be_written_is_put_aside_without_it(rig, tmp_path, caplog, monkeypatch):
    """A file that is written in need is the one that nobody has thought about."""
    folder = tmp_path / "journal"
    folder.mkdir()
    path = folder / "runs.db"
    server = await rig.serve(chat("A reply"))

    def broken(self):
        raise sqlite3.OperationalError("disk I/O error")

    raised = None
    try:
        async with Engine(seed=1) as engine:
            await engine.open_journal(path)
            monkeypatch.setattr("pipeline_engine.journal.sqlite.SqliteStore.commit", broken)
            await engine.run(asking(), {"document": "x"}, models={"fast": rig.model(server)}, key="x", journal=path)
    except JournalError as error_:
        raised = error_

    assert raised is not None
    rig.assert_hidden("the error", shown(raised))
    rig.assert_hidden("the files", written_in(folder).decode("latin-1"))
    rig.assert_hidden("the logs", caplog.text)


PASSWORD = f"CANARY-{uuid.uuid4()}"
UNREACHABLE = {
    "a port that nobody listens on": f"postgresql://me:{PASSWORD}@127.0.0.1:9/runs",
    "a socket that is not there": f"postgresql://me:{PASSWORD}@/runs?host=/nowhere",
    "a password among the options": f"postgresql://127.0.0.1:9/runs?user=me&password={PASSWORD}",
    "a password with characters that end it": f"postgresql://me:a@b/{PASSWORD}?x@127.0.0.1:9/runs",
    "an option that does not exist": f"postgresql://me:{PASSWORD}@127.0.0.1:9/runs?nonsense=1",
    "a port that is no number": f"postgresql://me:{PASSWORD}@127.0.0.1:port/runs",
}


@pytest.mark.parametrize("name", UNREACHABLE)
async def test_a_database_that_cannot_be_reached_does_not_show_its_password(caplog, name):
    """The address goes into the message, and the message into a ticket; its traceback has every frame's variables."""
    caplog.set_level(logging.DEBUG, logger="pipeline_engine")
    place = PostgresJournal(UNREACHABLE[name])
    raised = None
    try:
        place.open()
    except JournalError as error_:
        raised = error_

    assert raised is not None
    for text in (str(raised), repr(place), place.name, caplog.text):
        assert "CANARY" not in text
    assert_unseen(shown(raised))


async def test_a_database_that_is_lost_in_a_run_does_not_show_its_password(
    rig, postgres_server, tmp_path, caplog, monkeypatch
):
    """The error of a run that was stopped is the one that everybody reads."""
    monkeypatch.setattr("pipeline_engine.journal.postgres._PAUSES", (0.0,))
    monkeypatch.chdir(tmp_path)  # what cannot be written is put aside there
    server = await rig.serve(chat("A reply"))
    raised = None
    with postgres_server.fresh_database() as name:
        journal = PostgresJournal(f"{postgres_server.address(name)}&password={PASSWORD}")
        try:
            async with Engine(models={"fast": rig.model(server)}, seed=1) as engine:
                await engine.run(asking(), {"document": "x"}, key="x", journal=journal)
                with postgres_server.connect() as connection:
                    connection.execute(f"alter database {name} allow_connections false")
                    connection.execute(
                        "select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,)
                    )
                await engine.run(asking(), {"document": "y"}, key="y", journal=journal)
        except JournalError as error_:
            raised = error_

    assert raised is not None
    assert "CANARY" not in str(raised)
    assert "CANARY" not in caplog.text
    assert_unseen(shown(raised))


async def test_a_password_in_the_address_of_a_provider_reaches_no_journal(tmp_path, caplog):
    """It is refused before anything is sent; what is refused is told, and that must not be the password."""
    folder = tmp_path / "journal"
    folder.mkdir()
    model = Model("openai:m", base_url=f"https://me:{PASSWORD}@127.0.0.1:9/v1", api_key="sk-1")
    raised = None
    try:
        async with Engine(seed=1) as engine:
            await engine.run(asking(), {"document": "x"}, models={"fast": model}, journal=folder / "runs.db")
    except PlanError as error_:
        raised = error_

    assert raised is not None
    assert "CANARY" not in str(raised)
    assert "CANARY" not in written_in(folder).decode("latin-1")
    assert "CANARY" not in caplog.text
