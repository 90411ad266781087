"""The present moment of a batch as its journal tells it, whoever writes that journal and wherever."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline_engine.journal.leases import Watch
from pipeline_engine.report.present import Present, combined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.journal import JournalReader
    from pipeline_engine.journal.reading import StoredBatch, StoredProgress, StoredWorker

__all__ = ["ENDED", "Moment", "Moments"]

_PATIENCE = 60.0
"""Seconds without a sign of life after which a process of another machine counts as dead."""
ENDED = ("completed", "partial", "failed", "parked")
"""The statuses of documents with which nothing more happens by itself."""


class Moment(NamedTuple):
    """Hold what a journal tells of a batch at one instant."""

    batch: StoredBatch
    state: str
    """Whether it is "running", "interrupted" (its process has died), "done" or "stopped"."""
    present: Present
    """What all of its processes see together."""
    processes: int
    """How many of them live."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state != "running"

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        present = self.present
        return {
            **self.batch.told(),
            "state": self.state,
            "processes": self.processes,
            "finished": present.finished,
            "left_seconds": present.left,
            "now": present.to_json(),
        }


class Moments:
    """Look at a journal again and again: a process whose signs of life stand still is taken for dead.

    Example:
        >>> from pipeline_engine import MemoryJournal, Pipeline, run_batch
        >>> from pipeline_engine.journal import read_journal
        >>> pipeline = Pipeline("shout", inputs={"text": str})
        >>> @pipeline.step
        ... def shouted(text: str) -> str:
        ...     return text.upper()
        >>> journal = MemoryJournal()
        >>> _ = run_batch(pipeline, [{"text": "hello"}], journal=journal)
        >>> with read_journal(journal) as reader:
        ...     moment = Moments().look(reader, "last", 0.0)
        >>> moment.state, moment.present.documents
        ('done', {'completed': 1})
    """

    def __init__(self, patience: float = _PATIENCE) -> None:
        self._watch = Watch(patience)

    def look(self, reader: JournalReader, batch: str, now: float) -> Moment:
        """Return the moment of a batch.

        Args:
            reader: The journal.
            batch: The batch's id, the beginning of it, or "last".
            now: The present time, in seconds since the epoch.

        Raises:
            LookupError: If there is no such batch.
        """
        stored = reader.batch(batch)
        told = reader.progress(stored.batch)
        alive = [one for one in reader.workers() if not self._watch.is_dead(one.worker, one.beat, now)]
        names = {one.worker for one in alive}
        moments = [_moment(one, now, is_alive=one.worker in names) for one in told]
        present = combined(moments)
        state = stored.state
        if state == "running" and not any(_may_work_on(one, told) for one in alive):
            state = "interrupted"
        documents = {status: stored.documents[status] for status in ENDED if stored.documents.get(status)}
        if state == "done" and told:
            # Later batches may have asked for its documents since: what its last process has counted stays.
            documents = dict(moments[0].documents) or documents
        if state != "running":
            present = replace(present, is_over=True)
        return Moment(stored, state, replace(present, documents=documents), len(alive))


def _may_work_on(worker: StoredWorker, told: Sequence[StoredProgress]) -> bool:
    """Whether a process works on a batch: it has said so, or has come after all who have."""
    return any(one.worker == worker.worker for one in told) or all(one.told_at <= worker.opened_at for one in told)


def _moment(told: StoredProgress, now: float, *, is_alive: bool) -> Present:
    try:
        present = Present.from_json(told.progress)
    except ValueError:
        present = Present()  # another version's words: whoever looks on sees the rest
    if not is_alive or present.is_over:
        return replace(present, is_over=True)
    return present.after(max(0.0, now - told.told_at))
