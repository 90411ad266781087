"""The journal's thread: how entries become groups, who is told what, and what is left when it fails."""

import logging
import os
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
import trio
import trio.testing

from pipeline_engine.errors import JournalClosedError, JournalFileError, JournalWriteError
from pipeline_engine.journal import SqliteJournal
from pipeline_engine.journal.spilling import read_spilled
from pipeline_engine.journal.writing import ThreadedJournal
from tests.journal.entries import accepted, claim, completed, finished, sent

PATIENCE = 20.0  # seconds after which a thread that does not come is taken for hanging


class GatedStore:
    """A database that writes when it is let, and remembers what it was given."""

    worker = "worker"

    def __init__(self, *, is_open=True) -> None:
        self.groups = []
        self.begun = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.is_open = is_open
        self.error = None
        self.maintained = threading.Semaphore(0)
        self.is_gone = False
        self.calls = []

    def apply(self, entries):
        self.begun.release()
        if not self.is_open:
            assert self.gate.acquire(timeout=PATIENCE)
        if self.error is not None:
            raise self.error
        self.groups.append(list(entries))
        return [f"answer to {getattr(entry, 'document', entry)}" for entry in entries]

    def maintain(self):
        self.maintained.release()
        if self.is_gone:
            raise JournalFileError("runs.db", "was removed, renamed or replaced while it was in use")

    def close_worker(self):
        self.calls.append("close_worker")

    def close(self):
        self.calls.append("close")


@pytest.fixture
def open_journal(tmp_path):
    journals = []

    def opened(store, **options):
        journals.append(ThreadedJournal(lambda: store, "runs.db", spill_folders=[tmp_path], **options))
        return journals[-1]

    yield opened
    for journal in journals:
        journal.close()


def waited(semaphore):
    assert semaphore.acquire(timeout=PATIENCE)


async def begun(store):
    await trio.to_thread.run_sync(waited, store.begun)


# Groups


async def test_what_comes_while_one_group_is_written_is_the_next_group(open_journal):
    """A commit that waits for the disk serves everybody: 1,000 writes at once cost two commits, not 1,000."""
    store = GatedStore(is_open=False)
    journal = open_journal(store)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.write, claim("first"))
        await begun(store)
        for number in range(999):
            nursery.start_soon(journal.write, claim(f"letter {number}"))
        await trio.testing.wait_all_tasks_blocked()
        store.is_open = True
        store.gate.release()

    assert [len(group) for group in store.groups] == [1, 999]


async def test_a_group_has_at_most_2000_entries(open_journal):
    """A group is written while the next one gathers: neither may grow without bound."""
    store = GatedStore(is_open=False)
    journal = open_journal(store)

    journal.submit([claim("first")])
    await begun(store)
    for number in range(4500):
        journal.submit([claim(f"letter {number}")])
    store.is_open = True
    store.gate.release()
    await journal.write()

    assert [len(group) for group in store.groups] == [1, 2000, 2000, 500]


async def test_a_lone_write_is_its_own_group(open_journal):
    """Nobody waits for company: one document alone pays for a thread hop and its own commit."""
    store = GatedStore()
    journal = open_journal(store, check_seconds=3600)

    for number in range(3):
        await journal.write(claim(f"letter {number}"))

    assert [len(group) for group in store.groups] == [1, 1, 1]


async def test_entries_are_written_in_the_order_in_which_they_came(open_journal):
    """An output that came before the claim of its document would be refused."""
    store = GatedStore(is_open=False)
    journal = open_journal(store)
    entries = [claim(f"letter {number}") for number in range(300)]

    journal.submit(entries[:1])
    await begun(store)
    for place in range(1, 300, 3):
        journal.submit(entries[place : place + 3])
    store.is_open = True
    store.gate.release()
    await journal.write()

    assert [entry for group in store.groups for entry in group] == entries


async def test_everybody_gets_the_answers_to_their_own_entries(open_journal):
    """A group's answers come as one list; a run that got another's would take over another's document."""
    store = GatedStore(is_open=False)
    journal = open_journal(store)
    answers = {}

    async def ask(*documents):
        answers[documents] = await journal.write(*map(claim, documents))

    async with trio.open_nursery() as nursery:
        for documents in (("a",), ("b", "c"), (), ("d",)):
            nursery.start_soon(ask, *documents)
        await begun(store)
        store.is_open = True
        store.gate.release()

    assert answers == {
        ("a",): ["answer to a"],
        ("b", "c"): ["answer to b", "answer to c"],
        (): [],
        ("d",): ["answer to d"],
    }


async def test_a_loop_is_woken_once_for_a_group(open_journal):
    """A thousand wake-ups of the event loop would cost more than the commit."""
    store = GatedStore(is_open=False)
    journal = open_journal(store)
    token, wakings = trio.lowlevel.current_trio_token(), []

    class CountingToken:
        def run_sync_soon(self, call, *arguments):
            wakings.append(call)
            token.run_sync_soon(call, *arguments)

    done = trio.Event()
    told = []
    counting = CountingToken()
    journal.submit([claim("first")])
    await begun(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.lowlevel, "current_trio_token", lambda: counting)
        for number in range(500):
            journal.submit([claim(f"letter {number}")], told.append)
        journal.submit([], lambda _: done.set())
    store.is_open = True
    store.gate.release()
    await done.wait()

    assert (len(told), len(wakings)) == (500, 1)


# Waiting and giving up


async def test_who_stops_waiting_leaves_the_entries(open_journal):
    """They say what has happened: that a deadline came meanwhile does not undo it."""
    store = GatedStore(is_open=False)
    journal = open_journal(store)

    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.write, finished("a"))
            await begun(store)
            nursery.start_soon(journal.write, finished("b"))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    store.is_open = True
    store.gate.release()
    await journal.write()

    assert [entry for group in store.groups for entry in group] == [finished("a"), finished("b")]


async def test_what_waits_is_bounded_in_bytes(open_journal):
    """A disk that is slower than the models must slow the run down, not fill the memory."""
    store = GatedStore(is_open=False)
    journal = open_journal(store)
    body = b"x" * (1024 * 1024)

    journal.submit([claim("first")])
    await begun(store)
    for number in range(63):
        journal.submit([finished(f"letter {number}", reply=body)])
    with trio.fail_after(PATIENCE):
        await journal.wait_for_room()  # 63 MiB: there is room
    journal.submit([finished("one more", reply=body)])
    with trio.move_on_after(0) as scope:
        await journal.wait_for_room()
    assert scope.cancelled_caught

    store.is_open = True
    store.gate.release()
    with trio.fail_after(PATIENCE):
        await journal.wait_for_room()
    assert sum(len(group) for group in store.groups) == 65


def test_who_asks_from_a_loop_that_has_ended_hurts_nobody(open_journal):
    """A run that was interrupted leaves its answers behind; those of the others must still arrive."""
    store = GatedStore(is_open=False)
    journal = open_journal(store)

    async def leave():
        journal.submit([claim("a")], lambda _: pytest.fail("its loop has ended"))
        await begun(store)

    async def stay():
        return await journal.write(claim("b"))

    trio.run(leave)
    store.is_open = True
    store.gate.release()

    assert trio.run(stay) == ["answer to b"]


# The end


def test_closing_writes_what_waits_and_can_be_repeated(open_journal):
    """What was submitted has happened, whether or not anybody waited for it."""
    store = GatedStore(is_open=False)
    journal = open_journal(store)
    for number in range(5):
        journal.submit([claim(f"letter {number}")])
    store.is_open = True
    store.gate.release()

    journal.close()
    journal.close()

    assert sum(len(group) for group in store.groups) == 5
    assert store.calls == ["close_worker", "close"]
    with pytest.raises(JournalClosedError) as caught:
        journal.submit([claim("late")])
    assert str(caught.value) == "journal 'runs.db' is closed. Open it anew."


async def test_a_failed_write_ends_the_journal_for_everybody(open_journal, tmp_path, caplog):
    """After a failed write nobody knows what is durable: nothing may be acknowledged any more."""
    store = GatedStore(is_open=False)
    journal = open_journal(store)
    errors = {}

    async def ask(name, *entries):
        try:
            await journal.write(*entries)
        except JournalWriteError as error:
            errors[name] = error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, "in the group", finished("a"), accepted("a"))
        await begun(store)
        nursery.start_soon(ask, "waiting", finished("b"))
        nursery.start_soon(ask, "unpaid", claim("c"), sent("c"))
        await trio.testing.wait_all_tasks_blocked()
        store.error = OSError(28, "No space left on device")
        store.gate.release()
    await ask("late", finished("d"))
    await ask("later", claim("e"))

    [spilled] = tmp_path.iterdir()
    assert set(errors) == {"in the group", "waiting", "unpaid", "late", "later"}
    assert str(errors["waiting"]) == (
        "journal 'runs.db' cannot be written any more, so the run was stopped: [Errno 28] No space left on device. "
        f"3 results not yet saved went to {str(spilled)!r}. "
        "Set the cause right and run again: what is there is taken in first."
    )
    assert [errors[name].unsaved for name in errors] == [3, 3, 3, 4, 4]
    assert len(set(map(id, errors.values()))) == 5
    assert all(error.__cause__ is store.error for error in errors.values())
    assert store.groups == []
    kept = read_spilled(spilled)
    assert set(kept) == {finished("a"), accepted("a"), finished("b"), sent("c"), finished("d")}
    assert (kept[:2], kept[-1]) == ([finished("a"), accepted("a")], finished("d"))
    assert [record.levelname for record in caplog.records] == ["ERROR"]


async def test_what_fits_nowhere_is_counted(open_journal, tmp_path):
    """Who reads the message must know what will be paid for again."""
    store = GatedStore()
    store.error = OSError(5, "Input/output error")
    journal = open_journal(store)
    journal._spill_folders = [tmp_path / "none", tmp_path / "nowhere"]

    with pytest.raises(JournalWriteError) as caught:
        await journal.write(finished("a"))

    assert str(caught.value) == (
        "journal 'runs.db' cannot be written any more, so the run was stopped: [Errno 5] Input/output error. "
        "1 result could not be saved anywhere, and will be made again. Set the cause right and run again."
    )


async def test_a_thread_that_dies_ends_the_journal(open_journal):
    """Whatever ends the thread: entries that nobody will ever write must not be taken."""
    store = GatedStore()
    store.error = SystemExit("somebody called sys.exit")
    journal = open_journal(store)

    with pytest.raises(JournalWriteError, match="somebody called"):
        await journal.write(finished("a"))
    journal._thread.join(PATIENCE)

    assert not journal._thread.is_alive()
    with pytest.raises(JournalWriteError):
        journal.submit([finished("b")])


def test_an_idle_journal_notices_that_its_file_is_gone(open_journal):
    """A long call is no reason to learn an hour later that nothing is kept any more."""
    store = GatedStore()
    journal = open_journal(store, check_seconds=0.001)
    waited(store.maintained)
    store.is_gone = True
    journal._thread.join(PATIENCE)

    with pytest.raises(JournalWriteError, match="was removed, renamed or replaced while it was in use"):
        journal.submit([finished("a")])


async def test_a_group_that_is_durable_counts_even_if_looking_after_the_file_fails(open_journal, tmp_path):
    """What is in the journal is neither spilled nor called unsaved."""
    store = GatedStore()
    store.is_gone = True
    journal = open_journal(store, check_seconds=3600)

    answers = await journal.write(finished("a"))
    await trio.to_thread.run_sync(journal._thread.join, PATIENCE)

    assert answers == ["answer to a"]
    with pytest.raises(JournalWriteError) as caught:
        journal.submit([claim("b")])
    assert caught.value.unsaved == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("it is gone"), SystemExit("it is gone"), MemoryError("it is gone")])
def test_what_goes_wrong_at_the_opening_is_told_to_who_opens(error, tmp_path):
    """An opening that fails must never leave the caller waiting for a thread that has ended."""

    def fail():
        raise error

    with pytest.raises(JournalFileError) as caught:
        ThreadedJournal(fail, "runs.db", spill_folders=[tmp_path])

    assert str(caught.value) == "journal 'runs.db' cannot be opened: it is gone."
    assert caught.value.__cause__ is error


def test_a_thread_that_cannot_start_is_told_before_anything_runs(monkeypatch, tmp_path):
    """A machine without threads left must not look like a journal that hangs."""

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(JournalFileError, match="because no thread can start; look at `ulimit -u` and at the memory"):
        ThreadedJournal(GatedStore, "runs.db", spill_folders=[tmp_path])


def test_many_loops_in_many_threads_share_one_journal(open_journal):
    """Engines in several threads may keep one file: nothing is lost, doubled or told to the wrong one."""
    store = GatedStore()
    journal = open_journal(store)
    wrong = []

    def work(place):
        async def write(number):
            document = f"letter {number} of thread {place}"
            if await journal.write(claim(document)) != [f"answer to {document}"]:
                wrong.append(document)

        async def main():
            async with trio.open_nursery() as nursery:
                for number in range(300):
                    nursery.start_soon(write, number)

        trio.run(main)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    written = Counter(entry.document for group in store.groups for entry in group)
    assert wrong == []
    assert len(written) == 1800
    assert set(written.values()) == {1}
    assert journal._pending_bytes == 0


# Processes

_PREAMBLE = """
import os, sys, threading
from pathlib import Path
from pipeline_engine.errors import JournalClosedError
from pipeline_engine.journal import SqliteJournal
from tests.journal.entries import claim, finished, accepted
place = SqliteJournal(sys.argv[1])
journal = place.open()
"""


def start_python(script, *arguments):
    """Start a script in a process of its own."""
    command = [sys.executable, "-c", _PREAMBLE + script, *map(str, arguments)]
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=root
    )


def run_python(script, *arguments):
    """Run a script in a process of its own, and return what it printed."""
    with start_python(script, *arguments) as process:
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    return printed


def test_a_process_that_ends_with_an_open_journal_writes_what_waits(tmp_path):
    """A script that never closes anything must not lose what it paid for."""
    from pipeline_engine.journal.sqlite import connect_to_read

    script = """
for number in range(500):
    journal.submit([claim(f"letter {number}"), finished(f"letter {number}")])
raise SystemExit(0)
"""
    run_python(script, tmp_path / "runs.db")

    connection = connect_to_read(tmp_path / "runs.db")
    assert connection.execute("select count(*) from calls").fetchone() == (500,)
    assert connection.execute("select count(*) from workers where is_open").fetchone() == (0,)
    connection.close()


def test_a_process_does_not_wait_for_ever_for_a_disk_that_hangs(tmp_path):
    """An interpreter that ends gives a stuck journal five seconds, and says so."""
    script = """
from pipeline_engine.journal import writing
writing._EXIT_SECONDS = 0.05
class Forever(list):
    def __iter__(self):
        started.set()
        threading.Event().wait()
started = threading.Event()
journal._append(writing._Item(Forever(), 0, None, None))
started.wait()
"""
    assert "its thread has not ended in 0.0" in run_python(script, tmp_path / "runs.db")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("held", ["", "journal._lock.acquire(); from pipeline_engine.journal import opening; "])
def test_a_forked_child_is_refused_and_does_not_hang(tmp_path, held):
    """It has its parent's journal, but not the thread; and a lock may have been held when it was born."""
    script = f"""
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
{held}
child = os.fork()
if child == 0:
    try:
        journal.submit([claim("a")])
    except JournalClosedError as error:
        print(error, flush=True)
    place.close(journal)
    journal.close()
    sys.exit(0)
_, status = os.waitpid(child, 0)
print("child ended with", os.waitstatus_to_exitcode(status))
{"journal._lock.release()" if held else ""}
print("in use" if Path(sys.argv[1] + ".lock").read_text() else "given back")
place.close(journal)
"""
    path = tmp_path / "runs.db"

    assert run_python(script, path).splitlines() == [
        f"journal {str(path)!r} belongs to the process that this one was forked from. Open it anew.",
        "child ended with 0",
        "in use",
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_that_outlives_its_parent_does_not_keep_the_file(tmp_path):
    """A forked helper that is still around must not keep the next process out."""
    script = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
if os.fork() == 0:
    os.close(1)
    os.close(2)
    os.read(0, 1)  # stays until it is told to go
os._exit(0)
"""
    path = tmp_path / "runs.db"

    parent = start_python(script, path)
    assert parent.wait(60) == 0
    journal = SqliteJournal(path).open()

    SqliteJournal(path).close(journal)
    parent.stdin.close()
    parent.stdout.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_cannot_open_what_its_parent_had_open(tmp_path):
    """SQLite's locks do not survive a fork, and SQLite does not know it: the child would write without any."""
    script = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
from pipeline_engine.errors import JournalFileError
child = os.fork()
if child == 0:
    try:
        SqliteJournal(sys.argv[1]).open()
    except JournalFileError as error:
        print(error, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    path = tmp_path / "runs.db"

    assert run_python(script, path) == (
        f"journal {str(path)!r} was open in the process that this one was forked from, and SQLite's locks do not "
        "outlive a fork; open it in a process that was started anew.\n"
    )


def test_an_error_of_the_journal_is_no_secret_of_the_log(open_journal, caplog):
    """It is logged once, with what the runs are told: a run may end for another reason before it hears of it."""
    store = GatedStore()
    store.error = OSError(5, "Input/output error")
    journal = open_journal(store)

    with caplog.at_level(logging.INFO, logger="pipeline_engine"):
        journal.submit([claim("a")])
        journal.close()

    [record] = caplog.records
    assert record.getMessage() == (
        "journal 'runs.db' cannot be written any more, so the run was stopped: [Errno 5] Input/output error. "
        "All results are saved. Set the cause right and run again."
    )


async def test_a_journal_that_was_silent_for_too_long_pays_for_nothing(open_journal):
    """Another process may have taken its documents over: until that is known, no call is made."""
    store, now, beaten = GatedStore(is_open=False), [0.0], threading.Semaphore(0)
    store.beat = beaten.release
    store.lost_claims = lambda: {("letters", "b")}
    journal = open_journal(store, lease=60.0, clock=lambda: now[0])

    journal.submit([claim("a")])
    await begun(store)
    now[0] = 29.9
    assert journal.may_call("letters", "a")
    now[0] = 30.1  # it has hung in one write for half of its lease
    assert not journal.may_call("letters", "a")
    store.is_open = True
    store.gate.release()
    await trio.to_thread.run_sync(waited, beaten)
    await journal.write(completed("a"))

    assert journal.may_call("letters", "a")
    assert not journal.may_call("letters", "b")
    assert journal.has_lost("letters", "b")
