"""What a journal could not take any more, kept beside it as lines of JSON until it is opened again."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.errors import JournalFileError
from pipeline_engine.journal import SqliteJournal
from pipeline_engine.journal.spilling import _from_json, _to_json, read_spilled, spill, spilled_files
from pipeline_engine.values import AttemptEnded, AttemptSent, CallFinished, CallsVoided, DocumentEnded, OutputAccepted
from tests.journal.entries import accepted, begun, claim, completed, ended, finished, sent, voided

TEXTS = st.text(st.characters())
FIELDS = {
    "str": TEXTS,
    "str | None": st.none() | TEXTS,
    "DocumentStatus": TEXTS,
    "bytes": st.binary(),
    "int": st.integers(),
    "int | None": st.none() | st.integers(),
    "float": st.floats(allow_nan=False),
    "tuple[str, ...]": st.lists(TEXTS).map(tuple),
}
KINDS = (AttemptSent, AttemptEnded, CallFinished, CallsVoided, OutputAccepted, DocumentEnded)
ENTRIES = st.one_of(
    [
        st.tuples(*(FIELDS[told.__forward_arg__] for told in kind.__annotations__.values())).map(kind._make)
        for kind in KINDS
    ]
)


@given(ENTRIES)
def test_every_entry_comes_back_as_it_was(entry):
    """A reply that comes back with one character changed is another reply, and its hash is another."""
    import json

    assert _from_json(json.loads(json.dumps(_to_json(entry)))) == entry


def test_what_has_happened_is_kept_and_what_is_asked_for_again_is_not(tmp_path):
    """The next run claims its documents and begins its batch itself."""
    entries = [begun(), claim("a"), sent("a"), ended("a"), finished("a"), voided("a"), accepted("a"), completed("a")]

    unsaved, path = spill(entries, str(tmp_path / "runs.db"), [tmp_path])

    assert unsaved == 2
    assert read_spilled(path) == entries[2:]
    assert spilled_files(str(tmp_path / "runs.db"), [tmp_path]) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_where_nothing_has_happened_nothing_is_left(tmp_path):
    """A file that holds nothing would only frighten people."""
    assert spill([claim("a")], "runs.db", [tmp_path]) == (0, None)
    assert list(tmp_path.iterdir()) == []


def test_the_first_folder_that_takes_it_is_used(tmp_path):
    """A full disk is the usual reason, and it is full beside the journal, too."""
    folders = [tmp_path / "not there", tmp_path]

    unsaved, path = spill([finished("a")], str(folders[0] / "runs.db"), folders)

    assert (unsaved, path.parent) == (1, tmp_path)
    assert spilled_files(str(folders[0] / "runs.db"), folders) == [path]


def test_an_entry_that_cannot_be_written_is_told_and_leaves_nothing_behind(tmp_path, caplog):
    """The last resort raises nothing: who calls it is about to tell everybody that the journal has ended."""
    odd = finished("a")._replace(cost_micro_usd=object())

    assert spill([odd], "runs.db", [tmp_path]) == (1, None)
    assert "Object of type object is not JSON serializable" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_more_is_added_to_what_is_there(tmp_path):
    """Results that arrive after the failure go where the others went: one file to look after."""
    name = str(tmp_path / "runs.db")
    _, path = spill([finished("a")], name, [tmp_path])

    assert spill([finished("b")], name, [tmp_path], onto=path) == (1, path)
    assert spill([finished("c")._replace(item=object())], name, [], onto=path) == (1, None)
    assert spill([finished("d")], name, [tmp_path], onto=path) == (1, path)

    assert read_spilled(path) == [finished("a"), finished("b"), finished("d")]


def test_journals_of_the_same_name_do_not_take_each_others_results(tmp_path):
    """Both may have used the folder for temporary files, as both disks were full."""
    (tmp_path / "shared").mkdir()
    names = [str(tmp_path / project / "runs.db") for project in ("one", "two")]
    folders = [tmp_path / "not there", tmp_path / "shared"]

    _, path = spill([finished("a")], names[0], folders)

    assert spilled_files(names[0], folders) == [path]
    assert spilled_files(names[1], folders) == []


def test_what_lies_beside_a_journal_that_was_moved_is_still_its_own(tmp_path):
    """Who moves a folder to a larger disk moves all of it."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    spill([finished("a")], str(old / "runs.db"), [old])
    old.rename(new)

    [path] = spilled_files(str(new / "runs.db"), [new])

    assert read_spilled(path) == [finished("a")]


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_what_is_no_file_of_ours_is_left_alone(tmp_path, kind):
    """In a folder for everybody, somebody could lay replies there that no model ever gave."""
    name = str(tmp_path / "runs.db")
    _, path = spill([finished("a")], name, [tmp_path])
    hidden = tmp_path / "hidden"
    path.rename(hidden)
    if kind == "link":
        path.symlink_to(hidden)
    else:
        path.mkdir()

    assert spilled_files(name, [tmp_path]) == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make somebody else's file")
def test_somebody_elses_file_is_left_alone(tmp_path, caplog):
    """In a folder for everybody, somebody could lay replies there that no model ever gave."""
    name = str(tmp_path / "runs.db")
    _, path = spill([finished("a")], name, [tmp_path])
    os.chown(path, 12345, 12345)

    assert spilled_files(name, [tmp_path]) == []
    assert "is left alone: it belongs to somebody else, or is a link" in caplog.text


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    """The process was killed while it wrote: what came before is whole."""
    _, path = spill([finished("a"), finished("b")], "runs.db", [tmp_path])
    os.truncate(path, path.stat().st_size - 7)

    assert read_spilled(path) == [finished("a")]


@pytest.mark.parametrize(
    "line", ["[]", "nonsense", '{"entry": "Journal"}', '{"entry": "CallsVoided", "keys": []}', '{"no": "entry"}']
)
def test_a_file_that_holds_something_else_is_named(tmp_path, line):
    """Nobody can guess what is wrong with the journal if the fault is in another file."""
    path = tmp_path / "runs.db.unsaved-1-0a.jsonl"
    path.write_text(f"{line}\n")

    with pytest.raises(JournalFileError, match="holds unsaved results that cannot be read") as caught:
        SqliteJournal(tmp_path / "runs.db").open()

    assert caught.value.path == str(path)
    assert "move the file away to go on without them" in str(caught.value)
    path.unlink()
    place = SqliteJournal(tmp_path / "runs.db")
    place.close(place.open())


def test_what_was_spilled_twice_is_taken_in_once(tmp_path):
    """Nobody knows whether a commit that failed was durable; and who takes it in may be killed meanwhile."""
    from pipeline_engine.journal.sqlite import SqliteStore

    place = SqliteJournal(tmp_path / "runs.db")
    store = SqliteStore(Path(place.path), "worker")
    store.apply([begun(), claim("a"), finished("a"), accepted("a")])
    store.close()
    for _ in range(2):
        spill([finished("a"), accepted("a"), finished("b")], place.name, [tmp_path])

    place.close(place.open())

    store = SqliteStore(Path(place.path), "worker")
    assert store.query("select count(*) from calls") == [(2,)]
    assert store.query("select count(*) from step_outputs") == [(1,)]
    store.close()
    assert spilled_files(place.name, [tmp_path]) == []
