"""The present moment of a batch as its journal tells it: who lives, who has died, and what they see together."""

import json
import os
import sqlite3
from contextlib import closing

import pytest

from pipeline_engine.journal import journal_place, read_journal
from pipeline_engine.live.moments import Moments
from pipeline_engine.report import InFlight, ModelNow, Present
from tests.live.conftest import fill

NOW = 1_900_000_000.0


def look(path, now=NOW, moments=None):
    with read_journal(journal_place(str(path))) as reader:
        return (moments or Moments()).look(reader, "last", now)


def change(path, sql, *parameters):
    connection = sqlite3.connect(path)
    connection.execute(sql, parameters)
    connection.commit()
    connection.close()


def running(path, *, pid, birth=0, beat=7, worker="w", progress=None, told_at=NOW):
    """Make the batch one that goes on, with a process that has told its progress."""
    change(path, "update batches set state = 'open', ended_at = null")
    with closing(sqlite3.connect(path)) as connection:
        place = connection.execute("select place from workers").fetchone()[0]
    change(path, "insert into workers values(?, ?, ?, ?, 0, ?, 1)", worker, place, pid, birth, beat)
    if progress is not None:
        told = json.dumps(progress.to_json()).encode()
        change(path, "insert or replace into progress select batch, ?, ?, ? from batches", worker, told, told_at)


def test_a_batch_that_has_ended_is_done(journal):
    """Then nothing is in flight, whatever was told last."""
    moment = look(journal)

    assert (moment.state, moment.is_over, moment.present.is_over) == ("done", True, True)
    assert moment.present.documents == {"completed": 2, "partial": 1}
    assert (moment.present.in_flight, moment.present.attempts) == (0, {})


def test_a_process_that_lives_is_shown_with_what_it_does(journal):
    """The time since its last word has passed for what it does, too: it only speaks when something happens."""
    told = Present(
        elapsed=60.0,
        total=9,
        in_flight=2,
        attempts={"title": 2},
        longest=(InFlight("a.md", 50.0, "title", None),),
        models={"m:m": ModelNow(2, cooldown=4.0)},
    )
    running(journal, pid=os.getpid(), progress=told, told_at=NOW - 3)

    moment = look(journal)

    assert (moment.state, moment.processes) == ("running", 1)
    assert (moment.present.elapsed, moment.present.longest[0].elapsed) == (63.0, 53.0)
    assert moment.present.models["m:m"].cooldown == 1.0
    assert (moment.present.total, moment.present.calls) == (9, 2)


def test_a_process_that_has_died_has_nothing_in_flight(journal):
    """After `kill -9` the last word stays in the journal for ever; it must not look like work."""
    running(journal, pid=2**22 + 1, progress=Present(in_flight=2, attempts={"title": 2}, total=9))

    moment = look(journal)

    assert (moment.state, moment.processes) == ("interrupted", 0)
    assert (moment.present.in_flight, moment.present.attempts, moment.present.is_over) == (0, {}, True)


def test_a_process_of_another_machine_is_dead_when_its_signs_of_life_stand_still(journal):
    """Nobody can ask another machine's kernel; a number that does not grow says enough."""
    running(journal, pid=1, worker="far", progress=Present(in_flight=2))
    change(journal, "update workers set place = 'elsewhere' where worker = 'far'")
    moments = Moments(patience=60.0)

    assert look(journal, NOW, moments).state == "running"
    assert look(journal, NOW + 59, moments).state == "running"
    assert look(journal, NOW + 60, moments).state == "interrupted"
    change(journal, "update workers set beat = beat + 1 where worker = 'far'")
    assert look(journal, NOW + 61, moments).state == "running"


def test_who_has_just_come_to_resume_keeps_the_batch_running(journal):
    """Between its opening of the journal and its first word a resumed batch must not look interrupted."""
    running(journal, pid=2**22 + 1, worker="dead", progress=Present(in_flight=2), told_at=NOW - 100)
    running(journal, pid=os.getpid(), worker="new")
    change(journal, "update workers set opened_at = ? where worker = 'new'", NOW - 1)

    assert look(journal).state == "running"


def test_words_of_another_version_are_passed_over(journal):
    """Who watches with an older version sees documents and states all the same."""
    running(journal, pid=os.getpid())
    change(journal, "update progress set progress = ?", b'{"models": {"m": 3}}')
    change(journal, "update progress set worker = 'w'")

    assert look(journal).present.documents == {"completed": 2, "partial": 1}


def test_a_batch_keeps_its_documents_although_a_later_one_has_asked_for_them(tmp_path):
    """A journal has one state for each document; "0 of 3, and done" would be believed by nobody."""
    path = tmp_path / "runs.db"
    first = fill(path)
    fill(path)

    with read_journal(journal_place(str(path))) as reader:
        moment = Moments().look(reader, first.batch, NOW)

    assert (moment.state, moment.present.documents) == ("done", {"completed": 2, "partial": 1})


def test_there_must_be_such_a_batch(journal):
    """The message names the way to the right one."""
    with read_journal(journal_place(str(journal))) as reader, pytest.raises(LookupError, match="no batch 'nope'"):
        Moments().look(reader, "nope", NOW)
