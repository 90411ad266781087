"""The process that is killed: it runs a batch, and says what its journal has acknowledged.

`python -m tests.kills.worker OPTIONS`, with the options as one line of JSON.
"""

import hashlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import trio

from pipeline_engine import Engine, run_batch_async
from pipeline_engine.errors import JournalError
from pipeline_engine.journal import PostgresJournal, SqliteJournal
from pipeline_engine.values import AttemptFinished, Completed, StepFinished
from tests.kills.letters import documents, letters, models

FAILED = 74
"""The exit code of a worker whose journal has failed."""
STOPPED = 75
"""The exit code of one that was interrupted from inside."""


@dataclass(frozen=True)
class Options:
    """Say what a worker does."""

    url: str
    journal: str
    out: str
    name: str = "1"
    """Its name at the provider: the end of its key."""
    documents: int = 20
    capacity: int = 16
    broken: bool = False
    """Whether its journal acknowledges before it commits."""
    announced: str = ""
    """A part of the statements that are told before they are made."""
    frames: int | None = None
    """Pages in the log after which they are moved into the file."""
    migrates: bool = False
    """Whether it knows a newer version of the tables."""
    lease: float | None = None
    most_crashes: int | None = None
    """After how many ends of its process a document is parked, if not after as many as the product says."""
    poison: str | None = None
    redo: str | None = None
    largest_file: int | None = None
    """Bytes that a file may have: what a full disk looks like."""
    interrupted_after: int | None = None
    """After how many acknowledged outputs it is cancelled from inside."""


def say(*words: object) -> None:
    """Say something at once: a line in a buffer would die with the process."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def fingerprint(value: Any) -> str:
    """Return the hash of an output in JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class Told:
    """Say which calls are answered, and which outputs are kept: a sink learns of those when the journal has answered.

    Args:
        most: How many outputs may be kept before somebody else is called.
        enough: Called then.
    """

    def __init__(self, most: int | None, enough: Callable[[], object]) -> None:
        self._left = most
        self._enough = enough

    def open_run(self, started):
        def read(record) -> None:
            if isinstance(record, AttemptFinished) and record.usage is not None:
                say("GOT", _place(started.document, record.step, record.item))
            elif isinstance(record, StepFinished) and isinstance(record.outcome, Completed):
                if record.step in ("notes", "samples") and record.item is None:
                    return  # the list of what was told item by item
                value = record.outcome.value
                plain = value.model_dump(mode="json") if hasattr(value, "model_dump") else value
                say("ACK", _place(started.document, record.step, record.item), fingerprint(plain))
                self._count()

        return read

    def _count(self) -> None:
        if self._left is not None:
            self._left -= 1
            if self._left == 0:
                self._enough()


def _place(document: str, step: str, item: int | None) -> str:
    return f"{document}/{step}" if item is None else f"{document}/{step}/{item}"


def journal_of(options: Options) -> Any:
    """Return the journal: the product's own, unless something of it is to be watched or broken."""
    if options.journal.startswith("postgresql:"):
        return PostgresJournal(options.journal, lease=options.lease) if options.lease else options.journal
    if not (options.broken or options.announced or options.frames or options.migrates):
        return SqliteJournal(options.journal)
    from tests.kills.seams import WatchedJournal

    return WatchedJournal(
        options.journal,
        is_broken=options.broken,
        announced=options.announced,
        frames=options.frames,
        migrates=options.migrates,
        say=say,
    )


def main(options: Options) -> int:
    if options.most_crashes is not None:
        from pipeline_engine.journal import store

        store.MAX_CRASHES = options.most_crashes
    if options.largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (options.largest_file, options.largest_file))
    pipeline, journal = letters(options.poison), journal_of(options)
    key = f"sk-CANARY-{options.name}"
    scope = trio.CancelScope()
    sink = Told(options.interrupted_after, scope.cancel)

    async def run():
        async with Engine(models=models(options.url, key), capacity=options.capacity, sinks=[sink], seed=1) as engine:
            with scope:
                return await run_batch_async(
                    pipeline,
                    documents(options.documents),
                    journal=journal,
                    redo=options.redo,
                    out=options.out or None,
                    engine=engine,
                )

    say("READY")
    try:
        batch = trio.run(run)
    except JournalError as error:
        say("FAILED", json.dumps([type(error).__name__, str(error), getattr(error, "spilled_to", None)]))
        return FAILED
    if batch is None:
        say("STOPPED")
        return STOPPED
    say("DONE", json.dumps(batch.counts))
    return 0


def command(options: Options) -> list[str]:
    """Return the command of a worker."""
    return [sys.executable, "-m", "tests.kills.worker", json.dumps(asdict(options))]


if __name__ == "__main__":
    sys.exit(main(Options(**json.loads(sys.argv[1]))))
