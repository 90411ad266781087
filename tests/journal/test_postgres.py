"""What can happen between a journal and a PostgreSQL server: lost connections, deadlocks, failovers, poolers."""

import sys
import threading
import traceback
from contextlib import closing, contextmanager
from urllib.parse import quote

import psycopg
import pytest

from pipeline_engine.errors import JournalError, JournalFileError, JournalVersionError, JournalWriteError
from pipeline_engine.journal import PostgresJournal, read_journal
from pipeline_engine.journal import postgres as module
from pipeline_engine.journal.opening import without_password
from pipeline_engine.journal.postgres import PostgresStore
from pipeline_engine.journal.processes import this_process
from pipeline_engine.journal.schema import TABLES
from pipeline_engine.values import (
    AttemptEnded,
    AttemptSent,
    BatchEnded,
    CallsVoided,
    Claimed,
    Ended,
    FindReply,
    ReplyCached,
)
from tests.journal.keeping import Kept, batch, call, claim, ended, output

SENT = AttemptSent("letters", "a.txt", "run-1", "summary", -1, 1, "offline:small", 1.0)
FAILED = AttemptEnded(*SENT[:7], 1.0, 2.0, "server", "HTTP 500", 500, "no")
CACHED = ReplyCached("shared", "request", 0, "offline:small", b'"reply"', 1.0)
GROUPS = [
    [batch(), claim(inputs=b"{}"), claim("b.txt")],
    [SENT, FAILED, call(0), call(1, "b.txt"), CACHED],
    [
        output(),
        output(document="b.txt"),
        CallsVoided("letters", "b.txt", ("request.1",)),
        FindReply("shared", "request", 0),
    ],
    [ended(), ended(document="b.txt", status="queued")],
    [claim(), claim("b.txt", on_change="new", batch="batch-2"), BatchEnded("batch-1", True, b"{}", 9.0)],
]
"""Each kind of entry; fences are put in where the answers have told them."""


class Wounded(PostgresStore):
    """Loses its connection before one of its statements, counted from the opening, or on one of its commits."""

    def __init__(self, address, *, wound=None, lost_commit=None):
        self.statements = self.commits = 0
        self.wound, self.lost_commit, self.address = None, None, address
        super().__init__(address, "shown", "worker-1")
        self.open_worker(this_process(), 0.0)
        self.wound, self.lost_commit = wound, lost_commit
        self.statements = self.commits = 0

    def _suffer(self):
        if self.statements == self.wound:
            terminate(self)
        self.statements += 1

    def begin(self):
        self._suffer()
        super().begin()

    def execute(self, *arguments):
        self._suffer()
        return super().execute(*arguments)

    def execute_many(self, *arguments):
        self._suffer()
        return super().execute_many(*arguments)

    def query(self, *arguments):
        self._suffer()
        return super().query(*arguments)

    def commit(self):
        self._suffer()
        super().commit()
        self.commits += 1
        if self.commits - 1 == self.lost_commit:  # it has happened, and its acknowledgement is lost on the way
            self._connection.close()
            raise psycopg.OperationalError("server closed the connection unexpectedly")


class Pooled(PostgresStore):
    """Has another connection in each transaction, as behind pgbouncer in transaction mode."""

    def begin(self):
        self._connection.close()
        self._connection = self._connect()
        super().begin()


def terminate(store):
    """Let the server end a store's connection, and see that it has."""
    pid = store._connection.info.backend_pid
    with psycopg.connect(store.address, autocommit=True) as other:
        assert other.execute("select pg_terminate_backend(%s, 5000)", [pid]).fetchone() == (True,)


@contextmanager
def opened(address, make=PostgresStore, **options):
    if make is PostgresStore or make is Pooled:
        store = make(address, "shown", options.get("worker", "worker-1"))
        store.open_worker(this_process(), 0.0)
    else:
        store = make(address, **options)
    with closing(store):
        yield store


def tell(store):
    """Tell a store all groups, as an owner who knows his fences."""
    answers, fences = [], {}
    for group in GROUPS:
        entries = [
            entry._replace(fence=fences[entry.document]) if hasattr(entry, "fence") else entry for entry in group
        ]
        told = store.apply(entries)
        answers.append(told)
        for entry, answer in zip(entries, told, strict=True):
            if isinstance(answer, Claimed):
                fences[entry.document] = answer.fence
    return answers


def tables(address):
    """Return all rows that tell of documents, without their order."""
    with psycopg.connect(address, options="-csearch_path=pipeline_engine") as connection:
        return {
            table: sorted(
                tuple(bytes(cell) if isinstance(cell, memoryview) else cell for cell in row)
                for row in connection.execute(f"select {columns} from {table}").fetchall()
            )
            for table, columns in {
                "batches": "batch, state, plan",
                "documents": "document, status, batch, worker, fence, crash_count, marks",
                "calls": "call_key, document, reply, is_void",
                "step_outputs": "document, step, output, call_keys",
                "attempts": "attempt, ended_at, kind",
                "cached_replies": "request, reply",
                "blobs": "sha, body",
            }.items()
        }


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(module, "_PAUSES", (0.0, 0.0, 0.0))


@pytest.fixture(autouse=True)
def _here(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where a journal spills that fails


@pytest.fixture
def emptied(postgres):
    """A way to begin anew within one test."""
    PostgresStore(postgres, "shown", "worker-0").close()
    with psycopg.connect(postgres, autocommit=True, options="-csearch_path=pipeline_engine") as connection:

        def empty():
            for table in set(TABLES) - {"schema_version"}:
                connection.execute(f"delete from {table}")
            return postgres

        yield empty


# Connections


@pytest.fixture
def undisturbed(emptied):
    """What an undisturbed store answers and writes, and how many statements it takes."""
    with opened(emptied(), Wounded) as store:
        answers = tell(store)
        return answers, tables(store.address), store.statements, store.commits


def test_a_connection_lost_before_any_statement_changes_nothing(emptied, undisturbed):
    """The transaction is made again from its first statement: nothing is doubled, and nothing is missing."""
    answers, rows, statements, _ = undisturbed
    assert statements > 40
    for wound in range(statements):
        with opened(emptied(), Wounded, wound=wound) as store:
            assert tell(store) == answers, wound
            assert tables(store.address) == rows, wound


def test_a_commit_whose_acknowledgement_is_lost_counts_once(emptied, undisturbed):
    """Nobody can know whether it has happened: made again, it leads to the same rows and the same answers."""
    answers, rows, _, commits = undisturbed
    assert commits == len(GROUPS)
    for lost in range(commits):
        with opened(emptied(), Wounded, lost_commit=lost) as store:
            assert tell(store) == answers, lost
            assert tables(store.address) == rows, lost


def test_a_lost_acknowledgement_counts_as_nobodys_death(emptied):
    """Three dropped connections must not park a healthy document as one that ends processes."""
    with opened(emptied(), Wounded) as store:
        for lost in range(5):
            store.lost_commit, store.commits = 0, 0
            assert store.apply([claim(f"{lost}.txt")]) == [Claimed(1)]

    assert {row[-2] for row in tables(store.address)["documents"]} == {0}


async def test_a_database_that_does_not_come_back_ends_the_journal(postgres_server):
    """The run stops with the reason; what was paid for is spilled, and taken in when the database is there again."""
    with postgres_server.fresh_database() as name:
        kept = Kept(PostgresJournal(postgres_server.address(name)))
        with kept.opened() as journal:
            await journal.write(claim())
            with postgres_server.connect() as connection:
                connection.execute(f"alter database {name} allow_connections false")
                connection.execute(
                    "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [name]
                )
            with pytest.raises(JournalWriteError) as caught:
                await journal.write(call(), output())
        with postgres_server.connect() as connection:
            connection.execute(f"alter database {name} allow_connections true")
        with kept.opened():
            assert (kept.sql("select count(*) from calls"), kept.sql("select count(*) from step_outputs")) == (
                [(1,)],
                [(1,)],
            )

    assert caught.value.unsaved == 2
    assert "its database was lost, and not found again in 3 more tries" in str(caught.value)
    assert f'database "{name}" is not currently accepting connections' in str(caught.value)


def test_nothing_lives_in_a_connection(postgres):
    """A pooler gives each transaction another one: tables, isolation and durability have to be said in each."""
    with opened(postgres, Pooled) as store:
        answers = tell(store)
        store.beat()
        assert store.lost_claims() == set()
        assert store.query("select count(*) from pg_prepared_statements") == [(0,)]

    assert [type(answer) for answer in answers[-1]] == [Ended, Claimed, type(None)]


def test_a_transaction_says_all_that_it_relies_on(postgres):
    """A role or a server may have other settings: one that acknowledges before it is durable, for example."""
    address = f"{postgres}&options={quote('-c default_transaction_isolation=serializable -c synchronous_commit=off')}"
    with opened(address) as store:
        store.begin()
        names = ("transaction_isolation", "synchronous_commit", "idle_in_transaction_session_timeout", "search_path")
        inside = [store.query(f"show {name}")[0][0] for name in names]
        store.rollback()
        outside = [store.query(f"show {name}")[0][0] for name in names]

    assert inside == ["read committed", "on", "10s", "pipeline_engine"]
    assert outside == ["serializable", "off", "0", '"$user", public']


def test_a_deadlock_is_met_by_trying_again(postgres, caplog):
    """PostgreSQL ends one of two transactions that wait for each other: that is no failure of the journal."""
    has_b, has_a = threading.Event(), threading.Event()

    def lock_b_then_a():
        # Whoever waits last finds the ring, and is the one who is ended: that must not be this one.
        with psycopg.connect(postgres, options="-csearch_path=pipeline_engine -cdeadlock_timeout=1h") as other:
            other.execute("select 1 from documents where document = 'b.txt' for update")
            has_b.set()
            has_a.wait()
            other.execute("select 1 from documents where document = 'a.txt' for update")

    def end_a_then_b():
        answers = store._apply([ended()])
        if not has_a.is_set():
            has_a.set()
            wait_until_blocked(postgres)
        return answers + store._apply([ended(document="b.txt")])

    with opened(f"{postgres}&options={quote('-c deadlock_timeout=20ms')}") as store:
        store.apply([claim("a.txt"), claim("b.txt")])
        thread = threading.Thread(target=lock_b_then_a)
        thread.start()
        has_b.wait()
        answers = store.transact(end_a_then_b)
        thread.join()

    assert answers == [True, True]
    assert "deadlock detected (SQLSTATE 40P01); trying again in 0 s" in caplog.text


def wait_until_blocked(address):
    """Return once a connection waits for a lock."""
    with psycopg.connect(address, autocommit=True) as connection:
        while not connection.execute("select 1 from pg_locks where not granted").fetchone():
            pass


# Failover


def test_a_failover_to_an_older_copy_stops_the_journal(postgres_server):
    """A replica that lags behind has lost what was acknowledged: to write on would hide it."""
    with postgres_server.fresh_database() as name, postgres_server.connect() as admin:

        def without_guests(statement):
            admin.execute("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = %s", [name])
            admin.execute(statement)

        with opened(postgres_server.address(name)) as store:
            store.apply([claim()])
            without_guests(f"create database {name}_old template {name}")
            store.apply([call()])
            without_guests(f"alter database {name} rename to {name}_lost")
            admin.execute(f"alter database {name}_old rename to {name}")
            with pytest.raises(JournalError) as caught:
                store.apply([output()])
        admin.execute(f"drop database {name}_lost with (force)")

    assert str(caught.value) == (
        "it does not know any more what it has acknowledged, as after a failover to a copy that lags behind; what was "
        "written since then has to be looked for there"
    )


@pytest.mark.parametrize("entry", [output(), ended()])
def test_a_fence_that_went_backwards_stops_the_journal(postgres, entry):
    """A fence only grows: one that is smaller than what was given is not the database that gave it."""
    with opened(postgres) as store:
        store.apply([claim()])
        Kept(PostgresJournal(postgres)).sql("update documents set fence = 0")
        with pytest.raises(JournalError, match="does not know any more what it has acknowledged"):
            store.apply([entry])


def test_a_fence_of_another_database_is_only_refused(postgres):
    """What an earlier process has spilled may tell of documents that this journal never had."""
    with opened(postgres) as store:
        assert store.apply([output(7), ended(7)]) == [False, False]


# Opening


def test_the_tables_stand_in_a_schema_of_their_own(postgres):
    """A journal in a database that is used for other things too does not spread among its tables."""
    with opened(postgres), psycopg.connect(postgres) as connection:
        found = connection.execute(
            "select distinct schemaname from pg_tables where tablename like '%outputs'"
        ).fetchall()

    assert found == [("pipeline_engine",)]


def test_the_address_may_name_another_schema(postgres):
    """Two teams in one database have two journals."""
    with psycopg.connect(postgres) as connection:
        connection.execute("drop schema if exists team cascade")
        connection.execute("create schema team")
    with opened(f"{postgres}&options=-csearch_path%3Dteam"), psycopg.connect(postgres) as connection:
        found = connection.execute("select schemaname from pg_tables where tablename = 'step_outputs'").fetchall()
        connection.execute("drop schema team cascade")

    assert found == [("team",)]


def test_many_that_open_a_new_journal_at_once_make_it_once(postgres):
    """Ten workers that are started together must not fail on each other's tables."""
    errors = []

    def open_one(number):
        try:
            with opened(postgres, worker=f"worker-{number}"):
                pass
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=open_one, args=[number]) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert Kept(PostgresJournal(postgres)).sql("select count(*) from schema_version") == [(1,)]
    assert Kept(PostgresJournal(postgres)).sql("select count(*) from workers") == [(10,)]


def test_a_journal_of_a_newer_engine_is_refused(postgres):
    """What it means by its tables is not known here."""
    with opened(postgres):
        Kept(PostgresJournal(postgres)).sql("update schema_version set version = 99")
    with pytest.raises(JournalVersionError) as caught:
        PostgresStore(postgres, "shown", "worker-2")

    assert (caught.value.version, caught.value.known) == (99, module.VERSION)


def test_a_migration_happens_whole_or_not_at_all(postgres, monkeypatch):
    """A process that dies in the middle leaves the old version, in which the old engine can go on."""
    with opened(postgres) as store:
        tell(store)
    before = tables(postgres)
    known, version = module.MIGRATIONS, module.VERSION
    monkeypatch.setattr(module, "VERSION", version + 1)
    monkeypatch.setattr(module, "MIGRATIONS", (*known, "alter table calls add note {text}; create nonsense"))
    with pytest.raises(JournalFileError, match="syntax error"):
        PostgresStore(postgres, "shown", "worker-2")
    kept = Kept(PostgresJournal(postgres))
    columns = "select count(*) from information_schema.columns where table_name = 'calls' and column_name = 'note'"
    assert (kept.sql(columns), kept.sql("select max(version) from schema_version")) == ([(0,)], [(version,)])

    monkeypatch.setattr(module, "MIGRATIONS", (*known, "alter table calls add note {text}"))
    PostgresStore(postgres, "shown", "worker-2").close()

    assert (kept.sql(columns), kept.sql("select max(version) from schema_version")) == ([(1,)], [(version + 1,)])
    assert tables(postgres) == before


def test_somebody_elses_tables_are_left_alone(postgres_server):
    """`schema_version` is a name that other tools use as well."""
    with postgres_server.fresh_database() as name:
        with postgres_server.connect(name) as connection:
            connection.execute("create table schema_version(version int)")
        address = f"{postgres_server.address(name)}&options=-csearch_path%3Dpublic"
        with pytest.raises(JournalFileError) as caught:
            PostgresStore(address, "postgresql:///db", "worker-1")

    assert str(caught.value) == (
        "journal 'postgresql:///db' has a table 'schema_version', but is no journal of pipeline_engine; name another "
        "database, or another search_path."
    )


def test_a_user_who_may_only_write_can_use_a_journal(postgres_server):
    """Whoever runs pipelines need not be able to make schemas, once one with more rights has made this one."""
    with postgres_server.fresh_database() as name, postgres_server.connect(name) as admin:
        address = postgres_server.address(name)
        with opened(address):
            pass
        admin.execute("create role writer login")
        admin.execute("grant usage on schema pipeline_engine to writer")
        admin.execute("grant select, insert, update, delete on all tables in schema pipeline_engine to writer")
        with opened(address.replace("user=postgres", "user=writer"), worker="worker-2") as store:
            answers = tell(store)
        admin.execute("drop owned by writer")
        admin.execute("drop role writer")

    assert answers[1] == [None] * 5


def test_a_database_that_cannot_hold_all_text_is_refused(postgres_server):
    """The first Chinese document would end the run, hours after it began."""
    database = postgres_server.fresh_database("template template0 encoding 'LATIN1' locale 'C'")
    with database as name, pytest.raises(JournalFileError) as caught:
        PostgresStore(postgres_server.address(name), "postgresql:///db", "worker-1")

    assert str(caught.value) == (
        "journal 'postgresql:///db' has the encoding LATIN1; make a database for it that has UTF8."
    )


@pytest.mark.parametrize(
    ("address", "told"),
    [
        (
            "postgresql://me:s3cret@127.0.0.1:1/db",
            'connection to server at "127.0.0.1", port 1 failed: Connection refused',
        ),
        (
            "postgresql:///db?host=/nowhere&password=s3cret",
            'connection to server on socket "/nowhere/.s.PGSQL.5432" failed',
        ),
        ("postgresql://me:s3cret@[bad/db", "is no valid address"),
        ("postgresql://me:cr@s3cret@ho st:xx/db", "is no valid address"),
        ("postgresql://me:s3cret@localhost/db?sslmode=require&colour=s3cret", "is no valid address"),
        ("postgresql://me:s3c%zzret@localhost/db", "is no valid address"),
        ("postgresql://me:cr/s3cret@localhost/db", "is no valid address"),
        ("postgresql://me:cr?s3cret@127.0.0.1:1/db", "Connection refused"),
        ("postgresql://me:12/s3cret@localhost/db", "is no valid address"),
        ("postgresql://me@localhost/db?p%61ssword=s3cret&port=xx", "cannot be reached"),
    ],
)
def test_an_address_that_leads_nowhere_is_told_without_its_password(address, told):
    """Messages end up in logs and tickets; a password with a character that had to be escaped is still one."""
    journal = PostgresJournal(address)
    with pytest.raises(JournalFileError) as caught:
        journal.open()

    assert told in str(caught.value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value)).replace("colour=s3cret", "")
    assert "s3c%zzret" not in f"{caught.value}{journal!r}{journal.name}"


def test_an_address_is_shown_without_its_password():
    """It is part of every message about the journal."""
    shown = [
        "postgresql://db.example/runs",
        "postgresql:///runs?host=/run/postgresql",
        "postgresql://me@one:5432,two:5433/runs?target_session_attrs=read-write",
    ]
    assert [without_password(address) for address in shown] == shown
    assert without_password("postgresql://me:a:b@h/d?sslpassword=x&p%61ssword=y") == "postgresql://me@h/d"


def test_a_role_that_does_not_exist_is_named(postgres):
    """The server's own word is the shortest way to the cause."""
    address = postgres.replace("user=postgres", "user=nobody-knows")
    with pytest.raises(JournalFileError, match=r'cannot be reached: .*role "nobody-knows" does not exist'):
        PostgresStore(address, "shown", "worker-1")


def test_a_missing_driver_is_named_with_its_cure(monkeypatch):
    """The driver is an extra: most journals are files."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "pipeline_engine.journal.postgres")
    monkeypatch.delattr("pipeline_engine.journal.postgres")
    with pytest.raises(JournalFileError) as caught:
        PostgresJournal("postgresql://localhost/runs").open()

    assert str(caught.value) == (
        "journal 'postgresql://localhost/runs' needs psycopg; install it with pip install 'pipeline-engine[postgres]'."
    )


def test_an_error_of_the_server_quotes_no_document(postgres):
    """PostgreSQL shows the failing row, and the row is somebody's letter."""
    letter = "-".join(["Dear", "Anna"])  # a traceback shows lines of this test as well
    with opened(postgres) as store:
        store.apply([claim()])
        with pytest.raises(JournalError) as caught:
            store.apply([ended(status="nonsense", outcomes=letter.encode(), reason=letter)])

    told = "".join(traceback.format_exception(caught.value))
    assert 'violates check constraint "documents_status_check" (SQLSTATE 23514)' in told
    assert (letter in told, letter.encode().hex() in told) == (False, False)


# Looking


def test_a_reader_sees_what_is_durable_and_changes_nothing(postgres):
    """A report is made while the batch runs; whoever looks must not hold up or alter what he looks at."""
    with opened(postgres) as store, closing(PostgresJournal(postgres).open_to_read()) as rows:
        store.apply([claim()])
        store.begin()
        store._apply([call()])
        assert rows.query("select document from documents where document = ?", ("a.txt",)) == [("a.txt",)]
        assert rows.query("select count(*) from calls") == [(0,)]
        store.commit()
        assert rows.query("select count(*) from calls") == [(1,)]
        with pytest.raises(JournalFileError, match=r"cannot be read: cannot execute DELETE in a read-only transaction"):
            rows.query("delete from calls")
        assert rows.query("select count(*) from calls") == [(1,)]


def test_a_history_is_read_as_it_was_written(postgres):
    """The commands that show a journal ask the same questions of each database."""
    with opened(postgres) as store:
        tell(store)
    with read_journal(PostgresJournal(postgres)) as reader:
        found = reader.batch("last")
        documents = list(reader.documents("letters"))
        histories = [reader.history(reader.document("letters", document.document)) for document in documents]

    assert (found.batch, found.state, found.calls) == ("batch-1", "done", 2)
    assert [(document.document, document.status, document.calls) for document in documents] == [
        ("a.txt", "completed", 1),
        ("b.txt", "processing", 1),
    ]
    assert [len(history.attempts) for history in histories] == [1, 1]


def test_nobody_can_look_at_a_journal_that_is_not_there(postgres):
    """A reader makes no tables: it says how they come about."""
    with pytest.raises(JournalFileError, match="holds no journal yet; run documents with --journal to make one"):
        PostgresJournal(postgres).open_to_read()
