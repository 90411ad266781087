"""What a document's outputs were in one of its runs, although later runs may have put others in their place.

A journal keeps an output for each key that a step has had, and of each only when it was accepted last. What a run has
made is told apart by the run, or by the calls that led to it. What a run has taken from the journal is what stood
there at that time: found where that is certain, and else said to be not kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline_engine.journal.text import from_name, to_name
from pipeline_engine.values import NO_ITEM, OutputRestored, unpack_records

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pipeline_engine.journal.reading import JournalReader
    from pipeline_engine.values import Record

__all__ = ["PastOutputs", "PastRun", "count_ended", "known_documents"]


class PastRun(NamedTuple):
    """A run of a document that has ended, in a batch."""

    run: str
    batch: str
    ended_at: float
    records: Sequence[Record]


@dataclass(frozen=True, slots=True)
class _Row:
    body: bytes
    sha: str
    run: str
    calls: frozenset[str]
    first_at: float
    """When it was accepted for the first time, as far as anybody can know; else long ago."""
    last_at: float


def known_documents(reader: JournalReader, pipeline: str, batch: str) -> Iterator[str]:
    """Yield the keys of the documents that a batch has run, or that no later batch has asked for; each once."""
    found = reader.rows.query(
        "select document from documents where pipeline = ? and batch = ? "
        "union select document from runs where pipeline = ? and batch = ? order by document",
        (to_name(pipeline), to_name(batch)) * 2,
    )
    for (document,) in found:
        yield from_name(document)


def count_ended(reader: JournalReader, batch: str) -> int:
    """Return how many documents a batch said to have ended when it ended itself; 0 if it has not."""
    [(counts,)] = reader.rows.query("select counts from batches where batch = ?", (to_name(batch),))
    return sum(json.loads(bytes(counts)).values())


class PastOutputs:
    """Find what the outputs of one document were.

    Args:
        reader: The journal.
        pipeline: The document's pipeline.
        document: Its key.
    """

    def __init__(self, reader: JournalReader, pipeline: str, document: str) -> None:
        place = (to_name(pipeline), to_name(document))
        self.runs = tuple(
            PastRun(from_name(run), from_name(batch), ended_at, unpack_records(bytes(records)))
            for run, batch, ended_at, records in reader.rows.query(
                "select run, batch, ended_at, records from runs where pipeline = ? and document = ? "
                "order by ended_at, run",
                place,
            )
        )
        """Its runs, in the order in which they ended."""
        self._restored = {
            run.run: {(record.step, _number(record.item)) for record in run.records if type(record) is OutputRestored}
            for run in self.runs
        }
        self._calls: dict[str, tuple[str, float]] = {
            from_name(key): (from_name(run), finished_at)
            for key, run, finished_at in reader.rows.query(
                "select call_key, run, finished_at from calls where pipeline = ? and document = ?", place
            )
        }
        self._rows: dict[tuple[str, int], list[_Row]] = {}
        for step, item, body, sha, calls, run, accepted_at in reader.rows.query(
            "select step, item, output, output_sha, call_keys, run, accepted_at from step_outputs "
            "where pipeline = ? and document = ? order by accepted_at",
            place,
        ):
            name = from_name(step)
            row = self._row((name, item), bytes(body), sha, json.loads(bytes(calls)), from_name(run), accepted_at)
            self._rows.setdefault((name, item), []).append(row)

    def _row(
        self, place: tuple[str, int], body: bytes, sha: str, calls: Sequence[str], run: str, accepted_at: float
    ) -> _Row:
        paid = [self._calls[call][1] for call in calls if call in self._calls]
        if paid:
            first_at = min(accepted_at, max(paid))
        else:
            # A run that has executed its step has found no such output: it is as old as that run.
            was_made_there = run in self._restored and place not in self._restored[run]
            first_at = accepted_at if was_made_there else -inf
        return _Row(body, sha, run, frozenset(calls), first_at, accepted_at)

    def output(self, run: PastRun, step: str, item: int | None = None) -> bytes | None:
        """Return a step's or an item's output in one run, as JSON; None if it is not kept, or not for certain.

        Args:
            run: One of `runs`.
            step: The step, which was completed there.
            item: The item of a mapped step.
        """
        place = (step, _number(item))
        rows = self._rows.get(place, [])
        own = [row for row in rows if row.run == run.run]
        if not own:
            own = [row for row in rows if any(self._calls.get(call, ("",))[0] == run.run for call in row.calls)]
        if not own:
            own = self._standing(rows, run, was_restored=place in self._restored[run.run])
        return own[0].body if len({row.sha for row in own}) == 1 and own[0].body else None

    def _standing(self, rows: Sequence[_Row], run: PastRun, *, was_restored: bool) -> list[_Row]:
        """Return what may have stood at a place when a run ended that has not made it."""
        known = [row for row in rows if row.first_at <= run.ended_at]
        before = [row for row in known if row.last_at <= run.ended_at][-1:]
        # Accepted again since: when it was accepted in between, nobody can tell.
        again = [row for row in known if row.last_at > run.ended_at]
        if not was_restored:
            return again  # made there from a reply that was kept: it was accepted anew, so nothing older can be it
        if len(again) == 1 and before and again[0].first_at > before[0].last_at:
            return again
        return [*before, *again]


def _number(item: int | None) -> Any:
    return NO_ITEM if item is None else item
