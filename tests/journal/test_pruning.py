"""Forgetting what has ended: it is said before, and never breaks what is to be gone on with."""

import sqlite3
from contextlib import closing

import pytest

from pipeline_engine import Document, run_batch
from pipeline_engine.journal import journal_place, read_journal
from pipeline_engine.journal.examining import examine
from pipeline_engine.journal.pruning import PruneRule, prunable, prune
from tests.behaviour.paying import PaidModel
from tests.journal.test_reading import LONG, pipeline_of_notes

EVERYTHING = PruneRule(before=9e9)


@pytest.fixture(params=["file", "postgres"])
def place(request, tmp_path):
    return journal_place(tmp_path / "runs.db" if request.param == "file" else request.getfixturevalue("postgres"))


@pytest.fixture
def paid():
    return PaidModel(seconds=0)


def run(place, paid, names="abc", text=LONG):
    documents = [Document(name, {"document": f"{name}{text}"}) for name in names]
    return run_batch(pipeline_of_notes(), documents, models={"fast": paid}, journal=place)


def told(place, rule):
    with read_journal(place) as reader:
        return prunable(reader.rows, rule)


def do(place, rule):
    store = place.open_store()
    try:
        prune(store, place.name, rule)
        store.close_worker()
    finally:
        store.close()


def rows_of(place):
    with read_journal(place) as reader:
        found = examine(reader.rows)
    return {name: count for name, (count, _) in found.sizes.items() if name not in ("schema_version", "workers")}


def test_what_is_said_is_what_is_done(place, paid):
    """Nobody confirms one thing and gets another."""
    run(place, paid, "ab")
    run(place, paid, "c")
    before = rows_of(place)

    said = told(place, EVERYTHING)
    do(place, EVERYTHING)

    after = rows_of(place)
    assert (said.documents, said.calls, said.attempts, said.outputs, said.inputs) == (3, 9, 9, 12, 3)
    # The last batch stays, with its last word on how far it was: it tells what the pipeline was.
    assert said.batches == 1
    assert before["batches"] - after.pop("batches") == 1
    assert after.pop("progress") == 1
    assert set(after.values()) == {0}
    assert told(place, EVERYTHING).is_nothing


def test_only_what_is_older_goes(place, paid):
    """An age is counted from the end of a document."""
    run(place, paid)
    with read_journal(place) as reader:
        ended = sorted(document.ended_at for document in reader.documents("notes"))

    do(place, PruneRule(before=ended[1]))

    assert rows_of(place)["documents"] == 2
    assert rows_of(place)["blobs"] == 2


def test_only_the_documents_of_a_batch_go(place, paid):
    """A document belongs to the last batch that asked for it."""
    first = run(place, paid, "ab")
    run(place, paid, "bc")

    do(place, PruneRule(batch=first.batch))

    with read_journal(place) as reader:
        assert [document.document for document in reader.documents("notes")] == ["b", "c"]
        assert [batch.batch for batch in reader.batches()] != [first.batch]


def test_with_results_kept_nothing_is_run_again(place, paid):
    """Replies are the bulk of a journal, and outputs are what was paid for."""
    run(place, paid)

    do(place, PruneRule(before=9e9, keeps_results=True))
    batch = run(place, paid)

    assert rows_of(place)["calls"] == 0
    assert rows_of(place)["step_outputs"] == 12
    assert len(paid.sent) == 9
    assert len(list(batch.results)) == 3


def test_what_an_unfinished_batch_would_go_on_with_stays(place, paid):
    """Its resume would pay for it again."""
    run(place, paid, "ab")
    stopped = run_batch(
        pipeline_of_notes(),
        [Document(name, {"document": f"{name}{LONG}"}) for name in "abcd"],
        models={"fast": PaidModel(seconds=60)},
        journal=place,
        timeout=0.5,
    )
    assert stopped.counts == {"completed": 2, "stopped": 2}

    said = told(place, EVERYTHING)
    do(place, EVERYTHING)

    assert said.is_nothing
    assert said.unfinished == {"notes": stopped.batch}
    assert rows_of(place)["calls"] == 6
    assert told(place, PruneRule(before=9e9, with_unfinished=True)).documents == 4
    run(place, paid, "abcd")
    assert len(paid.sent) == 12


def test_inputs_stay_that_another_document_or_an_older_prompt_needs(place, paid):
    """Equal texts are stored once, and a prompt names the text that it was made of."""
    run(place, paid, "a")
    run_batch(pipeline_of_notes(), [Document("twin", {"document": f"a{LONG}"})], models={"fast": paid}, journal=place)
    run_batch(
        pipeline_of_notes(), [Document("twin", {"document": f"other{LONG}"})], models={"fast": paid}, journal=place
    )
    with read_journal(place) as reader:
        first = reader.document("notes", "a").batch

    do(place, PruneRule(batch=first))

    assert rows_of(place)["blobs"] == 2
    assert rows_of(place)["documents"] == 1


def test_a_file_gives_its_space_back(tmp_path, paid):
    """That is what it is done for."""
    place = journal_place(tmp_path / "runs.db")
    run(place, paid, [f"{number}" for number in range(40)], LONG * 10)
    before = place.path.stat().st_size

    do(place, EVERYTHING)

    assert place.path.stat().st_size < before / 3
    with closing(sqlite3.connect(place.path)) as connection:
        assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
        assert connection.execute("pragma freelist_count").fetchone() == (0,)
