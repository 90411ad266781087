"""Several processes on one journal: who may have a document, and what becomes of those of the dead."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import ExitStack, closing, contextmanager

import psycopg
import pytest
import trio

from pipeline_engine.journal import PostgresJournal
from pipeline_engine.journal.leases import Watch
from pipeline_engine.journal.postgres import PostgresStore
from pipeline_engine.journal.processes import Process, has_died, this_process
from pipeline_engine.values import Busy, Claimed, Ended, SavedOutput
from tests.house.pages import ROOT
from tests.journal.keeping import batch, call, claim, ended, output
from tests.journal.sharing import DOCUMENTS

LEASE = 0.6
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the server for tests needs Unix sockets")
is_told = pytest.mark.skipif(not this_process().place, reason="only Linux tells where a process runs")


@pytest.fixture
def stores(postgres):
    """Two workers of one journal, as two processes have them."""
    with ExitStack() as stack:
        made = [stack.enter_context(closing(PostgresStore(postgres, "shown", f"worker-{n}"))) for n in (1, 2)]
        for store in made:
            store.open_worker(this_process(), 0.0)
        yield made


@contextmanager
def waiting(address, work):
    """Do some work in a thread, which has to wait for a lock while the context lasts; yield where its result goes."""
    results = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    with psycopg.connect(address, autocommit=True) as connection:
        while thread.is_alive() and not connection.execute("select 1 from pg_locks where not granted").fetchone():
            pass
    assert results == []
    yield results
    thread.join()


@contextmanager
def process(address, what):
    """Run a process that shares the journal; it is gone afterwards, also if it was stopped."""
    command = [sys.executable, "-m", "tests.journal.sharing", address, str(LEASE), what]
    started = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with started:
        try:
            yield started
        finally:
            started.kill()


def told(started):
    return json.loads(started.stdout.readline())


def go_on(started):
    started.stdin.write("\n")
    started.stdin.flush()


# Whether a process has died


def test_a_living_process_is_not_dead():
    """To take its documents away would pay for them twice."""
    assert not has_died(this_process())


@is_told
def test_a_process_that_was_killed_is_dead_at_once():
    """Nobody should wait a minute for what the machine itself knows; also while its parent has not noticed it."""
    with subprocess.Popen(["sleep", "100"]) as started:
        seen = this_process()._replace(pid=started.pid, birth=0)
        assert not has_died(seen)
        started.kill()
        os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
        assert has_died(seen._replace(birth=1))
    assert has_died(seen)


@is_told
def test_an_id_that_was_given_again_is_another_process():
    """After a day of short processes an id comes back: its new owner holds nothing."""
    assert has_died(this_process()._replace(birth=this_process().birth - 1))


@pytest.mark.parametrize(
    "unknown", [Process("elsewhere", 2**22 + 1, 1), Process("", 2**22 + 1, 1), this_process()._replace(birth=0)]
)
def test_what_nobody_can_tell_from_here_counts_as_alive(unknown):
    """A process of another machine or container has ids of its own."""
    assert not has_died(unknown)


# Who has a document


def test_a_document_of_a_living_worker_is_busy(stores):
    """The observer learns whom to watch, and what its last sign of life was: writing is one, too."""
    first, second = stores
    first.apply([claim()])
    [before] = second.apply([claim()])
    first.beat()
    first.apply([call()])
    [after] = second.apply([claim()])

    assert (before, after) == (Busy("worker-1", 1), Busy("worker-1", 3))


def test_a_silent_workers_document_is_taken_over(stores):
    """With all that it has paid for; and what it writes when it wakes up is refused."""
    first, second = stores
    first.apply([claim(), claim("b.txt")])
    first.apply([output()])
    [taken] = second.apply([claim(dead=("worker-1", 2))])

    assert taken == Claimed(
        2, (), (SavedOutput("summary", -1, "key-1", b'"short"', ("request.0",), None),), is_new=False
    )
    assert first.lost_claims() == {("letters", "a.txt")}
    assert first.apply([output(1, item=2), ended(1), output(1, "b.txt")]) == [False, False, True]


def test_a_worker_that_has_given_a_sign_since_is_not_dead(stores):
    """Between the observer's look and its claim the worker may have woken up."""
    first, second = stores
    first.apply([claim()])
    first.beat()

    assert second.apply([claim(dead=("worker-1", 1))]) == [Busy("worker-1", 2)]
    assert first.lost_claims() == set()


def test_a_sign_that_is_on_its_way_counts(stores, postgres):
    """The takeover waits for it: it is decided by what is true when it is made."""
    first, second = stores
    first.apply([claim()])
    first.begin()
    first._next_beat()
    with waiting(postgres, lambda: second.apply([claim(dead=("worker-1", 1))])) as answers:
        first.commit()

    assert answers == [[Busy("worker-1", 2)]]


def test_a_worker_that_wakes_up_too_late_learns_of_it(stores, postgres):
    """Its sign waits for the takeover that has begun: afterwards it sees what it has lost."""
    first, second = stores
    first.apply([claim()])
    second.begin()
    [taken] = second._apply([claim(dead=("worker-1", 1))])
    with waiting(postgres, lambda: (first.beat(), first.lost_claims())[1]) as lost:
        second.commit()

    assert (taken.fence, lost) == (2, [{("letters", "a.txt")}])


def test_a_stale_fence_is_refused_inside_the_write(stores, postgres):
    """A look before the write would not do: the takeover may come between the two."""
    first, second = stores
    first.apply([claim()])
    second.begin()
    second._apply([claim(dead=("worker-1", 1))])
    with waiting(postgres, lambda: first.apply([output(1)])) as answers:
        second.commit()

    assert answers == [[False]]
    assert second.apply([ended(2, status="queued"), claim()])[1].outputs == ()


def test_a_takeover_sees_what_was_being_written(stores, postgres):
    """An output is either there for the new owner, or refused to the old one: never accepted and unseen."""
    first, second = stores
    first.apply([claim()])
    first.begin()
    assert first._apply([output(1)]) == [True]
    with waiting(postgres, lambda: second.apply([claim(dead=("worker-1", 1))])) as answers:
        first.commit()

    # Writing was a sign of life, so it is not dead after all; and then it falls silent.
    assert answers == [[Busy("worker-1", 2)]]
    assert len(second.apply([claim(dead=("worker-1", 2))])[0].outputs) == 1


@pytest.mark.parametrize(("ending", "answer"), [("commit", Busy("worker-1", 1)), ("rollback", Claimed(1))])
def test_a_new_document_is_claimed_by_one_of_two(stores, postgres, ending, answer):
    """Both have found nothing: the second waits to see whether the first one's claim is made."""
    first, second = stores
    first.begin()
    first._apply([claim()])
    with waiting(postgres, lambda: second.apply([claim()])) as answers:
        getattr(first, ending)()

    assert answers == [[answer]]


def test_two_that_begin_a_batch_at_once_share_it(stores, postgres):
    """Two batches would each throw away what the other has made anew, and each have the whole budget."""
    first, second = stores
    first.begin()
    first._apply([batch("batch-1")])
    with waiting(postgres, lambda: second.apply([batch("batch-2")])) as answers:
        first.commit()

    assert answers[0][0].batch == "batch-1"


def test_what_a_worker_lets_go_is_free_at_once(stores):
    """It has taken leave: nobody waits for its silence."""
    first, second = stores
    first.apply([claim()])
    first.close_worker()

    assert second.apply([claim()]) == [Claimed(2, is_new=False)]


def test_lost_are_only_documents_that_were_not_given_up(stores):
    """What has ended, or was never taken over, is no loss."""
    first, second = stores
    first.apply([claim(name) for name in ("ended", "requeued", "kept", "taken")])
    first.apply([ended(1, "ended"), ended(1, "requeued", status="queued")])
    second.apply([claim("requeued"), claim("taken", dead=("worker-1", 2)), claim("ended")])

    assert first.lost_claims() == {("letters", "taken")}


def test_a_worker_of_whom_nothing_is_known_is_dead(stores, postgres):
    """Its row may be gone, with those of all workers that have long ended."""
    first, second = stores
    first.apply([claim()])
    with psycopg.connect(postgres) as connection:
        connection.execute("delete from pipeline_engine.workers where worker = 'worker-1'")

    assert second.apply([claim()]) == [Claimed(2, is_new=False)]


# Processes


@is_told
def test_the_documents_of_a_killed_process_are_free_at_once(stores, postgres):
    """The machine knows that it is gone: on one machine no lease has to run out."""
    with process(postgres, "hold") as started:
        assert told(started) == [1, 1]
        [busy] = stores[0].apply([claim("taken.txt")])
        started.kill()
        started.wait()

        assert isinstance(busy, Busy)
        assert stores[0].apply([claim("taken.txt")]) == [Claimed(2, is_new=False)]


def test_two_processes_claim_each_document_once(stores, postgres):
    """That is all that sharing a batch needs."""
    with process(postgres, "all") as one, process(postgres, "all") as other:
        assert (told(one), told(other)) == ("ready", "ready")
        go_on(one)
        go_on(other)
        mine, yours = told(one), told(other)

    assert sorted([*mine, *yours]) == sorted(DOCUMENTS)
    answers = stores[0].apply([claim(name) for name in DOCUMENTS])
    assert [(type(answer), len(answer.outputs)) for answer in answers] == [(Ended, 1)] * len(DOCUMENTS)


async def test_a_process_that_was_stopped_past_its_lease_pays_for_no_call_of_a_lost_document(postgres):
    """It cannot know that it was stopped until it looks: so it looks before each call, and its writes are fenced."""
    place = PostgresJournal(postgres, lease=LEASE)
    with process(postgres, "hold") as started:
        assert told(started) == [1, 1]
        started.send_signal(signal.SIGSTOP)
        journal = place.open()
        try:
            watch = Watch(LEASE)
            with trio.fail_after(30):
                [answer] = await journal.write(claim("taken.txt"))
                while isinstance(answer, Busy):
                    is_dead = watch.is_dead(answer.worker, answer.beat, trio.current_time())
                    dead = (answer.worker, answer.beat) if is_dead else None
                    [answer] = await journal.write(claim("taken.txt", dead=dead))
            go_on(started)
            started.send_signal(signal.SIGCONT)
            report = told(started)
        finally:
            place.close(journal)

    assert answer == Claimed(2, is_new=False)
    assert report == {"at once": False, "later": [False, True], "written": [False, True]}
