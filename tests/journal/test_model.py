"""Whatever happens in whatever order, a journal answers as a dictionary would: claims, calls, outputs, deaths."""

import tempfile
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from pipeline_engine.journal.postgres import PostgresStore
from pipeline_engine.journal.processes import this_process
from pipeline_engine.journal.sqlite import SqliteStore
from pipeline_engine.journal.store import MAX_CRASHES
from pipeline_engine.values import Busy, Claimed, Ended, Suspected
from tests.journal.keeping import call, claim, ended, output

NAMES = ("a", "b\0")
names = st.sampled_from(NAMES)
numbers = st.integers(0, 2)


class Document(SimpleNamespace):
    """What a journal should know of a document."""

    def __init__(self, claimed):
        super().__init__(fence=0, status=None, owner=None, crashes=0, marks=0, calls={}, outputs={}, **claimed)

    def how_far(self):
        return len(self.calls) + len(self.outputs)


class JournalMachine(RuleBasedStateMachine):
    """Tell a journal and a dictionary the same, and compare what they answer. Subclasses say what a journal is."""

    def __init__(self):
        super().__init__()
        self.known = {}
        self.deaths = 0
        self.store = self.next_store()

    def next_store(self):
        raise NotImplementedError

    @property
    def worker(self):
        return f"worker-{self.deaths}"

    @rule(
        name=names,
        plan=st.sampled_from(["plan-1", "plan-2"]),
        content=st.sampled_from(["content-1", "content-2", ""]),
        batch=st.sampled_from(["batch-1", "batch-2"]),
        on_change=st.sampled_from(["reuse", "keep", "new"]),
        redo=st.sampled_from([None, "failed", "fallbacks"]),
        again=st.booleans(),
        is_alone=st.booleans(),
    )
    def claim(self, name, on_change, redo, again, is_alone, **asked):
        entry = claim(name, on_change=on_change, redo=redo, again=again, is_alone=is_alone, **asked)
        [answer] = self.store.apply([entry])
        if isinstance(answer, Busy) and answer.worker != self.worker:
            [answer] = self.store.apply([entry._replace(dead=(answer.worker, answer.beat))])
        expected = self.expected(name, on_change, redo, again, is_alone, asked)
        told = SimpleNamespace(
            kind=type(answer),
            fence=getattr(answer, "fence", None),
            status=getattr(answer, "status", None),
            is_new=getattr(answer, "is_new", None),
            calls={saved.ordinal: saved.is_void for saved in getattr(answer, "calls", ())},
            outputs={saved.item: (saved.output, saved.via) for saved in getattr(answer, "outputs", ())},
        )
        assert vars(told) == expected

    def expected(self, name, on_change, redo, again, is_alone, asked):
        """Return what should be answered, and remember what should have become of it."""
        known = self.known.get(name)
        is_new = known is None
        if is_new:
            known = self.known[name] = Document(asked)
        else:
            is_same = known.content == asked["content"] != ""
            if known.status == "processing":
                if known.owner == self.worker:
                    return answered(Busy)
                known.crashes = known.crashes + 1 if known.how_far() == known.marks else 1
                if known.crashes >= MAX_CRASHES and is_same and redo != "failed":
                    known.status, known.owner, known.fence = "parked", None, known.fence + 1
                    return answered(Ended, known)
                if known.crashes == MAX_CRASHES - 1 and is_same and not is_alone:
                    known.status, known.owner, known.fence = "queued", None, known.fence + 1
                    return answered(Suspected)
                if not is_same:
                    known.crashes = 0
            elif known.status == "queued" and known.crashes == MAX_CRASHES - 1 and is_same and not is_alone:
                return answered(Suspected)
            elif is_same and not is_wanted(known, on_change, redo, again, asked):
                known.batch = asked["batch"]
                return answered(Ended, known)
            elif not is_same or known.status != "queued":
                known.crashes = 0
            if on_change == "new" and known.batch != asked["batch"]:
                known.outputs.clear()
                known.calls = dict.fromkeys(known.calls, True)
        known.fence, known.status, known.owner, known.marks = (
            known.fence + 1,
            "processing",
            self.worker,
            known.how_far(),
        )
        vars(known).update(asked)
        return answered(Claimed, known, fence=known.fence, is_new=is_new)

    @rule(name=names, number=numbers)
    def finish_call(self, name, number):
        if name in self.known:
            assert self.store.apply([call(number, name)]) == [None]
            self.known[name].calls.setdefault(number, False)

    @rule(name=names, number=numbers, age=st.integers(0, 2), via=st.sampled_from([None, "fallback:small"]))
    def accept_output(self, name, number, age, via):
        known = self.known.get(name)
        fence = 1 if known is None else known.fence - age
        is_mine = known is not None and age == 0
        entry = output(fence, name, item=number, output=b"%d" % fence, via=via)
        assert self.store.apply([entry]) == [is_mine]
        if is_mine:
            known.outputs[number] = (b"%d" % fence, via)

    @rule(
        name=names,
        age=st.integers(0, 2),
        status=st.sampled_from(["completed", "partial", "failed", "parked", "queued"]),
    )
    def end(self, name, age, status):
        known = self.known.get(name)
        fence = 1 if known is None else known.fence - age
        is_mine = known is not None and age == 0
        assert self.store.apply([ended(fence, name, status=status)]) == [is_mine]
        if is_mine:
            known.status, known.owner = status, None

    @rule(leaves=st.booleans())
    def change_process(self, leaves):
        """One process ends, and another begins: after it has taken leave, or just so."""
        if leaves:
            self.store.close_worker()
            for known in self.known.values():
                if known.owner == self.worker:
                    known.status, known.owner = "queued", None
        self.deaths += 1
        self.store = self.next_store()

    @invariant()
    def what_is_stored_is_what_is_known(self):
        rows = self.store.query("select status, fence, crash_count from documents order by document")
        assert rows == [(known.status, known.fence, known.crashes) for _, known in sorted(self.known.items())]


def is_wanted(known, on_change, redo, again, asked):
    if known.status == "queued" or again or (on_change == "new" and known.batch != asked["batch"]):
        return True
    if known.status == "parked":
        return known.crashes < MAX_CRASHES or redo == "failed"
    if known.plan != asked["plan"] and on_change != "keep":
        return True
    if redo == "failed":
        return known.status in ("partial", "failed")
    return redo == "fallbacks" and any(via is not None for _, via in known.outputs.values())


def answered(kind, known=None, **more):
    told = {"kind": kind, "fence": None, "status": None, "is_new": None, "calls": {}, "outputs": {}} | more
    if known is not None:
        told |= {"calls": dict(known.calls), "outputs": dict(known.outputs)}
    if kind is Ended:
        told["status"] = known.status
    return told


@contextmanager
def memory(_request):
    class Memory(JournalMachine):
        def next_store(self):
            if self.deaths == 0:
                return SqliteStore(None, self.worker)
            self.store.worker = self.worker  # what is in memory cannot be left but by another name
            self.store._held.clear()
            return self.store

        def teardown(self):
            self.store.close()

    yield Memory


@contextmanager
def sqlite(_request):
    with tempfile.TemporaryDirectory() as folder:

        class Sqlite(JournalMachine):
            files = 0

            def next_store(self):
                if self.deaths == 0:
                    Sqlite.files += 1
                else:
                    self.store.close()
                store = SqliteStore(Path(folder) / f"{self.files}.db", self.worker, synchronous="NORMAL")
                store.open_worker(this_process(), 0.0)
                return store

            def teardown(self):
                self.store.close()

        yield Sqlite


@contextmanager
def postgres(request):
    address = request.getfixturevalue("postgres")

    class Postgres(JournalMachine):
        def next_store(self):
            if self.deaths:
                self.store.close()
            store = PostgresStore(address, "shown", self.worker)
            if not self.deaths:
                store.transact(lambda: [store.execute(f"delete from {table}") for table in TABLES])
            store.open_worker(this_process(), 0.0)
            return store

        @invariant()
        def what_is_stored_is_what_is_known(self):
            sql = "select status, fence, crash_count from documents order by document"
            rows = self.store.transact(lambda: self.store.query(sql))
            assert rows == [(known.status, known.fence, known.crashes) for _, known in sorted(self.known.items())]

        def teardown(self):
            self.store.close()

    yield Postgres


TABLES = ("documents", "calls", "step_outputs", "workers")


@pytest.mark.parametrize(("kind", "examples"), [(memory, 100), (sqlite, 15), (postgres, 10)])
def test_a_journal_behaves_as_a_dictionary_would(kind, examples, request):
    """A process may die between any two entries, an old owner may write at any time: nothing is lost or mixed up."""
    with kind(request) as machine:
        few = settings(max_examples=examples, stateful_step_count=40, deadline=None)
        run_state_machine_as_test(machine, settings=few)
