"""A doctor's look at a journal: what was changed behind its back is found and named, and only that is made again."""

import sqlite3
from contextlib import closing

import pytest

from pipeline_engine import Document, run_batch
from pipeline_engine.journal import journal_place, read_journal
from pipeline_engine.journal.examining import examine, repair
from tests.behaviour.paying import PaidModel
from tests.journal.test_reading import pipeline_of_notes


@pytest.fixture
def place(tmp_path):
    return journal_place(tmp_path / "runs.db")


@pytest.fixture
def paid():
    return PaidModel(seconds=0)


def run(place, paid, names=("a", "b", "c")):
    return run_batch(
        pipeline_of_notes(),
        [Document(name, {"document": name}) for name in names],
        models={"fast": paid},
        journal=place,
    )


def change(place, *statements):
    with closing(sqlite3.connect(place.path)) as connection, connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0


def examined(place):
    with read_journal(place) as reader:
        return examine(reader.rows)


def repaired(place):
    found = examined(place)
    store = place.open_store()
    try:
        return repair(store, found)
    finally:
        store.close_worker()
        store.close()


def test_a_journal_that_nobody_has_touched_is_sound(place, paid):
    """And what it holds is counted."""
    run(place, paid)

    found = examined(place)

    assert (found.structure, found.damages, found.stuck, found.dead_workers) == ([], [], [], [])
    # Three inputs; twelve replies and their prompts; outcomes of three; fifteen outputs.
    assert found.checked == 3 + 9 + 9 + 3 + 12
    assert found.sizes["documents"][0] == 3
    assert found.total_bytes > sum(size for _, size in found.sizes.values()) > 0


DAMAGES = {
    "an output": (
        "update step_outputs set output = cast('\"x\"' as blob) where document = 'b' and step = 'summary'",
        1,
    ),
    "a reply": ("update calls set reply = cast('{}' as blob) where document = 'b' and step = 'summary'", 0),
    "inputs": (
        "update blobs set body = cast('{}' as blob) where sha = (select inputs from documents where document = 'b')",
        0,
    ),
    "a prompt": ("update calls set prompt = cast('[' as blob) where document = 'b' and step = 'summary'", 0),
    "outcomes": ("update documents set outcomes = cast('[' as blob) where document = 'b'", 1),
    "call keys": ("update step_outputs set call_keys = cast('[' as blob) where document = 'b' and step = 'note'", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_was_changed_is_named_with_its_document(place, paid, damage):
    """Whoever is told that something is wrong asks at once: with what?"""
    run(place, paid)
    change(place, DAMAGES[damage][0])

    found = examined(place)

    assert len(found.damages) == 1
    assert found.affected == [("notes", "b")]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_repair_removes_only_what_is_damaged_and_only_that_is_made_again(place, paid, damage):
    """No reply that is still there is paid for twice."""
    statement, queued = DAMAGES[damage]
    run(place, paid)
    change(place, statement)

    done = repaired(place)
    after = examined(place)
    sent = len(paid.sent)
    batch = run(place, paid)

    assert (done.removed, done.queued) == (1, queued)
    assert after.damages == []
    assert batch.counts == {"completed": 3}
    assert len(paid.sent) == sent
    assert [result["outputs"]["summary"] for result in batch.results] == [
        f"SUM UP TITLE OF: {name} AND ['NOTE ON {name}']" for name in "ABC"
    ]


def test_a_step_that_has_lost_both_its_output_and_its_reply_is_asked_again(place, paid):
    """That much was lost, and no more."""
    run(place, paid)
    change(place, DAMAGES["an output"][0], DAMAGES["a reply"][0])

    repaired(place)
    run(place, paid)

    assert len(paid.sent) == 10
    assert paid.bill["Sum up TITLE OF: B and ['NOTE ON B']"] == 2


def test_documents_of_a_process_that_is_gone_are_given_back(place, paid):
    """Nobody would go on with them by themselves."""
    run(place, paid)
    change(
        place,
        "update documents set status = 'processing', worker = 'gone' where document = 'b'",
        "update workers set is_open = 1, pid = 4194304, worker = 'gone'",
    )

    found = examined(place)

    assert found.stuck == [("notes", "b", "gone")]
    assert found.dead_workers == [("gone", 4194304)]
    assert repaired(place).freed == 1
    assert (examined(place).stuck, examined(place).waiting) == ([], {"queued": 1})


def test_attempts_without_an_end_are_counted_at_what_such_calls_cost(place, paid):
    """They may have been billed; a bill that is higher than ours has its reason here."""
    run(place, paid)
    change(place, "delete from calls where document = 'b' and step = 'headline'")

    found = examined(place)

    assert (found.unknown_attempts, found.unknown_usd, found.unknown_unpriced) == (1, 2.0, 0)


def test_a_file_whose_pages_are_damaged_says_so(place, paid):
    """Not every damage leaves the tables readable."""
    run(place, paid, [f"{number}" for number in range(50)])
    with place.path.open("r+b") as file:
        for page in range(8, 20):
            file.seek(page * 4096 + 100)
            file.write(b"\xff" * 600)

    assert examined(place).structure != []


@pytest.mark.parametrize("kind", ["memory", "postgres"])
def test_other_journals_can_be_examined_too(kind, request, paid):
    """The same tables, the same questions."""
    from pipeline_engine import MemoryJournal

    journal = journal_place(MemoryJournal() if kind == "memory" else request.getfixturevalue("postgres"))
    run(journal, paid)

    found = examined(journal)

    assert (found.damages, found.sizes["calls"][0]) == ([], 9)
