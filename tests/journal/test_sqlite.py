"""A journal in a SQLite file: where it may lie, who may write it, and how it gets from one version to the next."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio

from pipeline_engine.errors import JournalFileError, JournalInUseError, JournalVersionError, JournalWriteError
from pipeline_engine.journal import SqliteJournal
from pipeline_engine.journal.schema import APPLICATION_ID, MIGRATIONS, VERSION
from pipeline_engine.journal.spilling import read_spilled
from pipeline_engine.journal.sqlite import SqliteStore, connect_to_read, file_system_of
from pipeline_engine.journal.writing import ThreadedJournal
from tests.journal.entries import begun, claim, finished, whole_document

ROOT = Path(__file__).parents[2]
NEXT = (*MIGRATIONS, "create table notes(document text not null);")
PATIENCE = 60.0


def seen(folder):
    """Return all that somebody sees of a folder: names, contents, rights and times of its files."""
    return {
        path.name: (path.read_bytes(), path.stat().st_mode, path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if path.is_file()
    }


def refusal(path, **options):
    with pytest.raises(JournalFileError) as caught:
        SqliteStore(path, "worker", **options)
    return str(caught.value)


def fill(path, documents=3, **options):
    store = SqliteStore(path, "worker", **options)
    store.apply([begun()])
    for number in range(documents):
        for entries in whole_document(f"letter {number}"):
            store.apply(entries)
    return store


def count(path, what="calls"):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(f"select count(*) from {what}").fetchone()[0]
    finally:
        connection.close()


def process(script, *arguments, **options):
    """Start a script in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        **options,
    )


def printed(script, *arguments, **options):
    with process(script, *arguments, **options) as running:
        text, _ = running.communicate(timeout=PATIENCE)
    assert running.returncode == 0, text
    return text


# Places


def test_a_new_journal_is_for_its_owner_alone(tmp_path):
    """Documents and replies are nobody else's business, whatever the umask."""
    SqliteJournal(tmp_path / "runs.db").close(SqliteJournal(tmp_path / "runs.db").open())

    assert {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()} == {
        "runs.db": "0o600",
        "runs.db.lock": "0o600",
    }


def test_an_empty_file_becomes_a_journal(tmp_path):
    """Whoever makes a temporary file first, and names it then, means that one."""
    path = tmp_path / "runs.db"
    path.touch()

    fill(path).close()

    assert count(path) == 6


def test_a_folder_is_refused(tmp_path):
    """A path that lacks its last part is the most usual mistake."""
    assert refusal(tmp_path) == f"journal {str(tmp_path)!r} is a folder; name a file in it, such as runs.db."
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_is_refused(tmp_path):
    """A folder that were made by itself would hide a misspelt path."""
    path = tmp_path / "rnus" / "runs.db"

    assert refusal(path) == (
        f"journal {str(path)!r} lies in the folder {str(path.parent)!r}, which does not exist; make it first."
    )


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_refused(tmp_path):
    """To open one would wait for ever for a reader."""
    path = tmp_path / "pipe"
    os.mkfifo(path)

    assert refusal(path) == f"journal {str(path)!r} is no regular file; name another one."


def foreign_database(path):
    connection = sqlite3.connect(path)
    connection.execute("create table photos(name)")
    connection.commit()
    connection.close()


def foreign_log(path):
    """Leave a database of somebody else whose content is in its log, as after a crash."""
    script = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("pragma journal_mode = wal")
connection.execute("create table photos(name)")
connection.commit()
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True, timeout=PATIENCE)


OTHERS = {
    "text": lambda path: path.write_text("Dear all,\n" * 200),
    "a few bytes": lambda path: path.write_bytes(b"SQLite"),
    "noise, as of an encrypted file": lambda path: path.write_bytes(hashlib.sha512(b"noise").digest() * 128),
    "zeros": lambda path: path.write_bytes(bytes(8192)),
    "a database": foreign_database,
    "a database with a log": foreign_log,
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("way", ["write", "read"])
def test_what_is_no_journal_is_refused_and_left_as_it_is(tmp_path, kind, way):
    """A mistyped path must cost nobody a file, not even the time of its last change or a file beside it."""
    path = tmp_path / "runs.db"
    OTHERS[kind](path)
    before = seen(tmp_path)

    if way == "write":
        text = refusal(path)
    else:
        with pytest.raises(JournalFileError) as caught:
            connect_to_read(path)
        text = str(caught.value)

    expected = (
        "is a database, but no journal of pipeline_engine; name another file."
        if kind.startswith("a database")
        else "is no SQLite database, or an encrypted one; name another file (file is not a database)."
    )
    assert text == f"journal {str(path)!r} {expected}"
    assert seen(tmp_path) == before


@pytest.mark.parametrize("bytes_left", [5000, 8192, 20_000])
def test_a_journal_that_was_cut_off_is_refused_and_left_as_it_is(tmp_path, bytes_left):
    """What is left of it may still be read by other means, as long as nobody writes into it."""
    path = tmp_path / "runs.db"
    fill(path).close()
    os.truncate(path, bytes_left)
    before = path.read_bytes()

    text = refusal(path)

    assert "is damaged; put a copy in its place, or name another file" in text
    assert path.read_bytes() == before


def test_a_journal_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path):
    """An older engine knows nothing of what a newer one has promised there."""
    path = tmp_path / "runs.db"
    fill(path, migrations=NEXT).close()
    (tmp_path / "runs.db.lock").unlink()
    before = seen(tmp_path)

    with pytest.raises(JournalVersionError) as caught:
        SqliteStore(path, "worker")

    assert (caught.value.version, caught.value.known) == (VERSION + 1, VERSION)
    assert str(caught.value) == (
        f"journal {str(path)!r} was written by a newer pipeline_engine. Update this one, or name another file. "
        f"(Its tables have version {VERSION + 1}, known here is {VERSION}.)"
    )
    assert seen(tmp_path) == before


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_a_name_that_no_file_can_have_is_refused(tmp_path, name):
    """Whatever is wrong with a path, it is told as the journal's error."""
    assert "cannot be used" in refusal(tmp_path / name)


def test_a_link_is_followed_once(tmp_path):
    """A link that is turned while a run goes on must not let a second writer in, or leave the file open for ever."""
    (tmp_path / "disk").mkdir()
    link, place = tmp_path / "runs.db", SqliteJournal(tmp_path / "runs.db")
    link.symlink_to(tmp_path / "disk" / "runs.db")

    journal = place.open()
    link.unlink()
    link.symlink_to(tmp_path / "elsewhere.db")
    journal.submit([claim("a")])
    place.close(journal)

    assert not journal._thread.is_alive()
    assert count(tmp_path / "disk" / "runs.db", "documents") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"disk", "runs.db"}


def test_a_link_in_a_circle_is_refused(tmp_path):
    """It leads nowhere, and that is what is told."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")

    with pytest.raises(JournalFileError):
        SqliteJournal(tmp_path / "a").open()


def test_the_lock_does_not_follow_a_link_that_somebody_has_laid(tmp_path):
    """Who may put files beside the journal could have others written over, with the rights of who runs it."""
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "runs.db.lock").symlink_to(victim)

    assert "cannot be used" in refusal(tmp_path / "runs.db")
    assert victim.read_text() == "precious"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can make somebody else's file")
def test_somebody_elses_file_in_everybodys_folder_is_refused(tmp_path):
    """Who has put it there can read what is written to it."""
    tmp_path.chmod(0o1777)
    path = tmp_path / "runs.db"
    path.touch()
    os.chown(path, 12345, 12345)
    os.chown(tmp_path, 12345, 12345)

    script = f"""
import os
from pathlib import Path
from pipeline_engine.journal.sqlite import SqliteStore
os.setuid(54321)
try:
    SqliteStore(Path({str(path)!r}), "worker")
except Exception as error:
    print(error)
"""
    with_way(tmp_path)
    assert "belongs to somebody else, in a folder where everybody may put files" in printed(script)


def with_way(folder):
    """Let everybody come as far as a folder of a test."""
    for above in folder.parents:
        if above.stat().st_uid == os.geteuid() and not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
proc /proc proc rw 0 0
box:/export /home nfs4 rw 0 0
/dev/sdb1 /home/me/fast ext4 rw 0 0
//office/share /mnt/our\\040share cifs rw 0 0
me@box:/ /mnt/far fuse.sshfs rw 0 0
/dev/sdc1 /mnt/far ext4 rw 0 0
short line
"""


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/", "ext4"),
        ("/home", "nfs4"),
        ("/home/me/runs", "nfs4"),
        ("/homework", "ext4"),
        ("/home/me/fast/runs", "ext4"),
        ("/home/me/faster", "nfs4"),
        ("/mnt/our share/runs", "cifs"),
        ("/mnt/far", "ext4"),  # what is mounted later hides what was there
    ],
)
def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(folder, kind):
    """On a network file system SQLite's locks may be no locks: who would write there is told before."""
    assert file_system_of(folder, MOUNTS) == kind


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    """A corrupt journal, weeks later, would be the other way to learn it."""
    monkeypatch.setattr("pipeline_engine.journal.sqlite._file_system", lambda _folder: "nfs4")
    path = tmp_path / "runs.db"

    assert refusal(path) == (
        f"journal {str(path)!r} lies on a network file system (nfs4), where SQLite's log cannot be shared safely; "
        "use a local disk, or postgresql://."
    )
    assert list(tmp_path.iterdir()) == []


# Rights and room

_AS_NOBODY = """
import os, sys
from pathlib import Path
from pipeline_engine.journal.sqlite import SqliteStore, connect_to_read
import pipeline_engine.journal.writing
if os.geteuid() == 0:
    os.setgid(54321)
    os.setuid(54321)
"""


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="rights are different here")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_may_not_be_written_is_refused_before_anything_runs(tmp_path, what):
    """To learn it at the first reply, which has been paid for, would be too late."""
    folder = tmp_path / "runs"
    folder.mkdir()
    path = folder / "runs.db"
    fill(path).close()
    if os.geteuid() == 0:
        for place in (folder, *folder.iterdir()):
            os.chown(place, 54321, 54321)
    path.chmod(0o400 if what == "file" else 0o600)
    folder.chmod(0o700 if what == "file" else 0o500)
    if what == "folder":
        (folder / "runs.db.lock").unlink()
    with_way(folder)
    script = f"""{_AS_NOBODY}
try:
    SqliteStore(Path({str(path)!r}), "worker")
except Exception as error:
    print(error)
reading = connect_to_read(Path({str(path)!r}))
print(reading.execute("select count(*) from calls").fetchone()[0])
"""
    reason = (
        "cannot be written; change its permissions, or name another file (attempt to write a readonly database)"
        if what == "file"
        else "cannot be used, because it or its folder may not be written; change the permissions (Permission denied)"
    )
    try:
        assert printed(script).splitlines() == [f"journal {str(path)!r} {reason}.", "6"]
    finally:
        folder.chmod(0o700)


_FILL_UP = """
import os, resource, signal, sys, tempfile
from pathlib import Path
import trio
from pipeline_engine.errors import JournalError
from pipeline_engine.journal import SqliteJournal
from tests.journal.entries import begun, claim, finished
if len(sys.argv) > 2:
    tempfile.tempdir = sys.argv[2]
place = SqliteJournal(sys.argv[1])
journal = place.open()
acknowledged = 0
async def main():
    global acknowledged
    await journal.write(begun())
    limit()
    for number in range(2000):
        await journal.write(finished(f"letter {number}", reply=os.urandom(4000)))
        acknowledged += 1
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
def limit():
    LIMIT
try:
    trio.run(main)
except JournalError as error:
    print(acknowledged, error.unsaved, error.spilled_to, sep="\\n")
    print(error)
place.close(journal)
"""


_FEW_PAGES = """
from pipeline_engine.journal import sqlite
whole = sqlite._connect
def connect(name):
    connection = whole(name)
    connection.execute("pragma max_page_count = 60")
    return connection
sqlite.SqliteStore.__init__.__kwdefaults__["connect"] = connect
place = """


@pytest.mark.parametrize("what", ["process", "file"])
def test_a_disk_that_is_full_stops_the_run_and_costs_nothing(tmp_path, what):
    """The real thing: the run ends with one clear error, and the next one has all that was paid for."""
    path = tmp_path / "runs.db"
    if what == "process":
        script = _FILL_UP.replace("LIMIT", "resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))")
        words = "disk I/O error"
    else:
        script = _FILL_UP.replace("LIMIT", "pass").replace("place = ", _FEW_PAGES, 1)
        words = "database or disk is full"

    acknowledged, unsaved, spilled_to, text = printed(script, path).splitlines()[-4:]

    assert int(acknowledged) > 5
    assert unsaved == "1"
    assert text == (
        f"journal {str(path)!r} cannot be written any more, so the run was stopped: {words}. "
        f"1 result not yet saved went to {spilled_to!r}. "
        "Set the cause right and run again: what is there is taken in first."
    )
    place = SqliteJournal(path)
    place.close(place.open())
    assert count(path) == int(acknowledged) + 1
    assert not Path(spilled_to).exists()


def test_where_nothing_takes_what_is_left_the_message_says_so(tmp_path):
    """A machine that is full everywhere costs money, and it must say how much is made again."""
    path = tmp_path / "runs.db"
    (tmp_path / "elsewhere").mkdir()
    script = _FILL_UP.replace("LIMIT", "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, 1_000))")

    acknowledged, unsaved, spilled_to, text = printed(script, path, tmp_path / "elsewhere").splitlines()[-4:]

    assert (acknowledged, unsaved, spilled_to) == ("0", "1", "None")
    assert text == (
        f"journal {str(path)!r} cannot be written any more, so the run was stopped: disk I/O error. "
        "1 result could not be saved anywhere, and will be made again. Set the cause right and run again."
    )
    assert [file.name for file in tmp_path.rglob("*") if "unsaved" in file.name] == []


# Files that go away


@pytest.mark.parametrize("loss", ["removed", "renamed", "replaced", "log removed"])
def test_a_file_that_goes_away_ends_the_journal_at_the_next_commit(tmp_path, loss):
    """What is written to a file without a name is gone with the process: it must not be acknowledged."""
    path = tmp_path / "runs.db"
    place = SqliteJournal(path)
    journal = place.open()
    if loss == "removed":
        path.unlink()
    elif loss == "renamed":
        path.rename(tmp_path / "old.db")
    elif loss == "log removed":
        (tmp_path / "runs.db-wal").unlink()
    else:
        other = tmp_path / "other.db"
        other.write_bytes(path.read_bytes())
        other.replace(path)

    with pytest.raises(JournalWriteError) as caught:
        trio.run(journal.write, finished("a"))
    place.close(journal)

    assert "was removed, renamed or replaced while it was in use" in str(caught.value)
    assert caught.value.unsaved == 1
    assert read_spilled(Path(caught.value.spilled_to)) == [finished("a")]


def test_an_idle_journal_notices_within_its_interval_that_its_file_is_gone(tmp_path):
    """Nobody may go on paying for calls for an hour before the first of them ends."""
    path = tmp_path / "runs.db"
    journal = ThreadedJournal(
        lambda: SqliteStore(path, "worker"), str(path), spill_folders=[tmp_path], check_seconds=0.01
    )
    path.unlink()

    journal._thread.join(PATIENCE)

    assert not journal._thread.is_alive()


def test_what_is_left_of_a_removed_journal_does_not_get_into_a_new_one(tmp_path):
    """SQLite takes a log that lies there for the file's own, and would write old pages over new ones."""
    path = tmp_path / "runs.db"
    script = f"""
import os
from pathlib import Path
from tests.journal.test_sqlite import fill
fill(Path({str(path)!r}), documents=20)
os._exit(0)
"""
    printed(script)
    assert (tmp_path / "runs.db-wal").stat().st_size > 0
    path.unlink()

    fill(path, documents=1).close()

    assert count(path) == 2


def test_a_lock_that_was_removed_is_taken_again(tmp_path):
    """Somebody who tidies up must not let a second writer in; nor need the run end for it."""
    path = tmp_path / "runs.db"
    store = fill(path, documents=1)
    (tmp_path / "runs.db.lock").unlink()

    store.apply([claim("another")])

    assert json.loads((tmp_path / "runs.db.lock").read_text()) == {"pid": os.getpid()}
    with pytest.raises(JournalInUseError):
        SqliteStore(path, "second")
    store.close()


def test_a_lock_that_somebody_else_has_taken_meanwhile_ends_the_journal(tmp_path):
    """Two writers would hand the same document to two runs, and be billed for both."""
    path = tmp_path / "runs.db"
    store = fill(path, documents=1)
    (tmp_path / "runs.db.lock").unlink()
    second = SqliteStore(path, "second")

    with pytest.raises(JournalFileError, match="was taken over by another process"):
        store.apply([claim("another")])

    second.apply([claim("third")])
    second.close()
    store.close()


# The log


def test_the_log_is_moved_into_the_file_when_it_is_long_and_begins_anew(tmp_path):
    """A log that grew for ever would fill the disk; one that was moved at each commit would cost a sync each time."""
    path = tmp_path / "runs.db"
    store = SqliteStore(path, "worker", checkpoint_frames=50)
    moved, sizes = [], set()

    for number in range(120):
        before = path.stat().st_mtime_ns, path.stat().st_size
        store.apply([finished(f"letter {number}", reply=b"x" * 8000)])
        store.maintain()
        moved.append((path.stat().st_mtime_ns, path.stat().st_size) != before)
        sizes.add((tmp_path / "runs.db-wal").stat().st_size)
    store.close()

    assert 5 < sum(moved) < 30
    assert max(sizes) < 80 * 8216
    assert count(path) == 120


def test_a_reader_that_stays_makes_the_log_grow_and_is_not_asked_each_time(tmp_path, caplog):
    """Somebody who looks at the journal all night must neither stop the run nor slow each commit down."""
    path = tmp_path / "runs.db"
    store = SqliteStore(path, "worker", checkpoint_frames=50)
    reading = connect_to_read(path)
    reading.execute("begin")
    reading.execute("select count(*) from calls").fetchall()
    marks = set()

    for number in range(60):
        store.apply([finished(f"letter {number}", reply=b"x" * 8000)])
        store.maintain()
        marks.add(store._mark)

    assert len(marks) > 3
    reading.execute("commit")
    reading.close()
    for number in range(60, 80):
        store.apply([finished(f"letter {number}", reply=b"x" * 8000)])
        store.maintain()
    assert store._mark == 50
    store.close()
    assert count(path) == 80


# One process for each file

_HOLDER = """
import sys
from pipeline_engine.journal import SqliteJournal
from tests.journal.entries import finished
import trio
journal = SqliteJournal(sys.argv[1]).open()
trio.run(journal.write, finished("a"))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_with_the_first_ones_id(tmp_path):
    """Who is told which process has the file can look at it, and end it."""
    path = tmp_path / "runs.db"
    with process(_HOLDER, path) as first:
        assert first.stdout.readline() == "open\n"

        with pytest.raises(JournalInUseError) as caught:
            SqliteJournal(path).open()
        first.stdin.close()
        first.wait(PATIENCE)

    assert caught.value.pid == first.pid
    assert str(caught.value) == (
        f"journal {str(path)!r} is in use by process {first.pid}, and a SQLite journal is for one process at a time. "
        "Wait until it has ended, or give several processes a postgresql:// journal."
    )
    place = SqliteJournal(path)
    place.close(place.open())


def test_the_file_of_a_process_that_was_killed_opens_at_once(tmp_path):
    """A lock that outlives its holder would have to be removed by hand, at night."""
    path = tmp_path / "runs.db"
    with process(_HOLDER, path) as first:
        assert first.stdout.readline() == "open\n"
        first.kill()
        first.wait(PATIENCE)

    place = SqliteJournal(path)
    place.close(place.open())

    assert count(path) == 1


def test_a_refused_process_does_not_hurt_the_locks_of_the_first(tmp_path):
    """SQLite loses its locks if its own process opens and closes the file another way: looking must not do that."""
    path = tmp_path / "runs.db"
    place = SqliteJournal(path)
    journal = place.open()
    with pytest.raises(JournalInUseError):
        SqliteStore(path, "second")
    connect_to_read(path).close()

    # Another process that closes the file as its last user would remove the log.
    script = f"""
import sqlite3
connection = sqlite3.connect({str(path)!r})
connection.execute("select count(*) from calls").fetchone()
connection.close()
"""
    printed(script)
    assert (tmp_path / "runs.db-wal").exists()
    trio.run(journal.write, finished("a"))
    place.close(journal)
    assert count(path) == 1


def test_runs_of_one_process_share_one_writer(tmp_path):
    """A file has one writer; who closes first must not take it from the others."""
    path = tmp_path / "runs.db"
    first, second = SqliteJournal(path), SqliteJournal(str(path))
    journal = first.open()

    assert second.open() is journal
    first.close(journal)
    trio.run(journal.write, finished("a"))
    second.close(journal)

    assert not journal._thread.is_alive()
    assert count(path) == 1


def test_runs_in_many_threads_that_open_and_close_at_once_share_one_writer(tmp_path):
    """Two engines that begin at the same instant must not refuse each other."""
    path, errors = tmp_path / "runs.db", []

    def work(number):
        try:
            for turn in range(5):
                place = SqliteJournal(path)
                journal = place.open()
                trio.run(journal.write, finished(f"letter {number} {turn}"))
                place.close(journal)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert count(path) == 40


# Versions


def test_an_older_journal_is_copied_and_brought_up_to_date(tmp_path):
    """What was paid for under the last version serves the next one; and there is a way back."""
    path = tmp_path / "runs.db"
    fill(path).close()

    fill(path, documents=5, migrations=NEXT).close()

    backup = tmp_path / f"runs.db.v{VERSION}.bak"
    assert {file.name for file in tmp_path.iterdir()} == {"runs.db", "runs.db.lock", backup.name}
    assert oct(backup.stat().st_mode & 0o777) == "0o600"
    assert (count(path), count(path, "notes"), count(backup)) == (10, 0, 6)
    SqliteStore(backup, "worker").close()
    connection = sqlite3.connect(path)
    versions = connection.execute("select version from schema_version order by version").fetchall()
    connection.close()
    assert versions == [(VERSION,), (VERSION + 1,)]


def test_a_copy_that_does_not_fit_leaves_the_journal_as_it_was(tmp_path):
    """Without a copy there is no way back: then there is no way forward either."""
    path = tmp_path / "runs.db"
    fill(path).close()
    (tmp_path / f"runs.db.v{VERSION}.bak").mkdir()

    assert "cannot be used" in refusal(path, migrations=NEXT)

    SqliteStore(path, "worker").close()


_MIGRATION = """
import os, sys
from pathlib import Path
from pipeline_engine.journal import sqlite
from pipeline_engine.journal.schema import MIGRATIONS
at = int(sys.argv[2])
class Connection:
    def __init__(self, name):
        self._connection = sqlite._connect(name)
    def __getattr__(self, name):
        return getattr(self._connection, name)
    def execute(self, sql, parameters=()):
        global at
        at -= 1
        if at == 0:
            os.kill(os.getpid(), 9)
        return self._connection.execute(sql, parameters)
    def backup(self, copy):
        self._connection.backup(copy._connection)
sqlite.SqliteStore(Path(sys.argv[1]), "worker", migrations=(*MIGRATIONS, *sys.argv[3:]), connect=Connection).close()
"""


def test_a_process_that_is_killed_during_a_migration_leaves_one_of_the_two_versions(tmp_path):
    """Half a migration would be a journal that no engine can read."""
    scripts = ["create table notes(document text); create table more(document text);"]
    versions, at = [], 0
    while True:
        at += 4
        path = tmp_path / f"{at}.db"
        fill(path, documents=1).close()
        with process(_MIGRATION, path, at, *scripts) as running:
            text, _ = running.communicate(timeout=PATIENCE)
        assert running.returncode in (0, -signal.SIGKILL), text

        connection = sqlite3.connect(path)
        assert connection.execute("pragma integrity_check").fetchall() == [("ok",)]
        version = connection.execute("pragma user_version").fetchone()[0]
        tables = connection.execute("select count(*) from sqlite_master where name in ('notes', 'more')").fetchone()[0]
        connection.close()
        assert (version, tables) in [(VERSION, 0), (VERSION + 1, 2)]
        versions.append(version)
        SqliteStore(path, "worker", migrations=(*MIGRATIONS, *scripts)).close()
        assert count(path) == 2
        if running.returncode == 0:
            break

    assert versions == sorted(versions)
    assert set(versions) == {VERSION, VERSION + 1}


def test_of_two_that_open_an_older_journal_at_once_one_migrates_and_the_other_waits_or_is_refused(tmp_path):
    """Two migrations at once would add the same tables twice."""
    path = tmp_path / "runs.db"
    fill(path).close()
    script = _MIGRATION.replace(
        "sqlite.SqliteStore(Path", 'print("ready", flush=True); sys.stdin.readline()\nsqlite.SqliteStore(Path'
    )

    runs = [process(script, path, 10_000, "create table notes(document text);") for _ in range(2)]
    for running in runs:
        assert running.stdout.readline() == "ready\n"
    for running in runs:
        running.stdin.write("go\n")
        running.stdin.flush()
    texts = [running.communicate(timeout=PATIENCE)[0] for running in runs]

    assert sum(running.returncode == 0 for running in runs) >= 1, texts
    assert all(
        running.returncode == 0 or "JournalInUseError" in text for running, text in zip(runs, texts, strict=True)
    )
    SqliteStore(path, "worker", migrations=NEXT).close()


DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize("name", sorted(path.name for path in DATA.glob("version_*.db")))
def test_a_journal_of_a_released_version_opens_and_has_all_that_was_in_it(tmp_path, name):
    """What somebody paid for last year is there after an update. `python -m tests.journal.data` made the file."""
    path = tmp_path / "runs.db"
    path.write_bytes((DATA / name).read_bytes())

    store = SqliteStore(path, "a later worker")
    [answer] = store.apply([claim("letter 2")._replace(batch="batch-2", at=100.0)])
    store.close()

    assert [(call.step, call.reply) for call in answer.calls] == [("title", b'{"text": "' + b"x" * 300 + b'"}')]
    assert (answer.outputs, answer.fence) == ((), 2)
    assert count(path) == 5
    connection = sqlite3.connect(path)
    assert connection.execute("pragma application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("select status, count(*) from documents group by 1 order by 1").fetchall() == [
        ("completed", 2),
        ("processing", 1),
    ]
    connection.close()


def test_descriptors_that_are_used_up_are_told_before_anything_runs(tmp_path):
    """SQLite's own words, "unable to open database file", lead nobody to `ulimit -n`."""
    path = tmp_path / "runs.db"
    fill(path).close()
    script = f"""
import os, resource
from pathlib import Path
from pipeline_engine.journal.sqlite import SqliteStore
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
taken = []
try:
    while True:
        taken.append(os.dup(0))
except OSError:
    pass
for free in range(0, 8):
    try:
        SqliteStore(Path({str(path)!r}), "worker").close()
        print("opened")
    except Exception as error:
        print(type(error).__name__)
    os.close(taken.pop())
"""
    kinds = printed(script).splitlines()

    assert set(kinds[:-1]) <= {"JournalFileError", "opened"}
    assert kinds[0] == "JournalFileError"
    assert kinds[-1] == "opened"
