"""`doctor`: what is wrong with a journal, and what is done about it."""

import json
import sqlite3
from contextlib import closing

import pytest

from pipeline_engine.journal.locking import FileLock


@pytest.fixture
def journal(cli, write, notes, folder):
    """A journal of two documents."""
    for name in ("a.md", "b.md"):
        write(name, f"Some text of {name}.")
    assert cli("run", "notes.py", "a.md", "b.md", *notes, "--journal", "runs.db").code == 0
    return folder / "runs.db"


def change(journal, *statements):
    with closing(sqlite3.connect(journal)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


DAMAGE = "update step_outputs set output = cast('x' as blob) where document like '%b.md' and step = 'summary'"


def test_a_sound_journal_is_told_with_its_sizes(cli, journal):
    """And the exit code is zero, for those who look every night."""
    ran = cli("doctor", "--journal", "runs.db")

    assert (ran.code, ran.err) == (0, "")
    assert "ok: nothing is wrong." in ran.out
    assert any(line.split()[:2] == ["step_outputs", "6"] for line in ran.out.splitlines())


def test_damage_is_named_with_the_document_and_what_a_repair_means(cli, journal):
    """Nothing is changed by looking."""
    change(journal, DAMAGE)

    ran = cli("doctor", "--journal", "runs.db")

    assert ran.code == 1
    assert "problem: damaged: the output of step 'summary' of 'b.md'." in ran.out.replace("\n", " ")
    assert "Nothing was changed." in ran.out
    assert cli("doctor", "--journal", "runs.db").code == 1


def test_a_repair_leaves_a_journal_that_only_makes_again_what_was_lost(cli, journal, notes, write):
    """From the reply, which was paid for; the model would say something else today."""
    change(journal, DAMAGE)
    write("script.json", {"answers": {"title": {"text": "other"}, "summary": "other", "mood": {"value": "bad"}}})

    repaired = cli("doctor", "--journal", "runs.db", "--repair")
    after = cli("doctor", "--journal", "runs.db")
    ran = cli("run", "notes.py", "a.md", "b.md", *notes, "--journal", "runs.db", "--out", "out.jsonl")

    assert repaired.code == 1
    assert "done: 1 damaged entry removed, 1 document to be run again." in repaired.out
    assert after.code == 0
    assert "1 document queued: waiting to be gone on with." in after.out
    assert ran.code == 0
    lines = (journal.parent / "out.jsonl").read_text().splitlines()
    assert {json.loads(line)["outputs"]["summary"] for line in lines} == {"A summary."}


def test_json_tells_all_of_it(cli, journal):
    """For a monitor."""
    change(journal, DAMAGE)

    told = json.loads(cli("doctor", "--journal", "runs.db", "--json").out)

    assert told["affected_documents"] == ["b.md"]
    assert told["damages"][0]["table"] == "step_outputs"
    assert told["tables"]["documents"]["rows"] == 2
    assert told["repaired"] == []


def test_a_journal_in_use_can_be_looked_at_and_is_not_repaired(cli, journal):
    """A repair is a writer, and a file has one."""
    change(journal, DAMAGE)
    lock = FileLock(journal)
    lock.acquire()
    try:
        assert cli("doctor", "--journal", "runs.db").code == 1
        ran = cli("doctor", "--journal", "runs.db", "--repair")
    finally:
        lock.release()

    assert (ran.code, "is in use by" in ran.err) == (2, True)


def test_an_older_journal_is_brought_up_to_date_by_a_repair(cli, journal, monkeypatch):
    """With a copy beside it; without --repair it is only said."""
    from pipeline_engine.journal import schema, sqlite

    newer = (*schema.MIGRATIONS, "create table added(name text primary key)")
    for module, name, value in (
        (schema, "MIGRATIONS", newer),
        (sqlite, "MIGRATIONS", newer),
        (sqlite, "VERSION", len(newer)),
    ):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(
        sqlite.SqliteStore.__init__,
        "__kwdefaults__",
        {**sqlite.SqliteStore.__init__.__kwdefaults__, "migrations": newer},
    )

    told = cli("doctor", "--journal", "runs.db")
    repaired = cli("doctor", "--journal", "runs.db", "--repair")

    assert (told.code, "older pipeline_engine" in told.err) == (2, True)
    assert repaired.code == 1
    version = len(newer)
    done = f"done: brought up to date, from version {version - 1} to {version}; a copy lies beside it."
    assert done in repaired.out
    assert journal.with_name(f"runs.db.v{version - 1}.bak").exists()
    assert cli("doctor", "--journal", "runs.db").code == 0


def test_results_that_wait_beside_a_journal_are_told_and_taken_in(cli, journal):
    """A disk that was full has made room again."""
    from pipeline_engine.journal.spilling import spill
    from pipeline_engine.values import AttemptSent

    entry = AttemptSent("notes", "c.md", "run", "title", -1, 1, "m", 1.0)
    _, path = spill([entry], str(journal), [journal.parent])

    assert f"unsaved results wait in '{path}'" in cli("doctor", "--journal", "runs.db").out
    assert "done: 1 file of unsaved results taken in." in cli("doctor", "--journal", "runs.db", "--repair").out
    assert not path.exists()
    assert cli("doctor", "--journal", "runs.db").code == 0
