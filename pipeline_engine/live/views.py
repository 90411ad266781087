"""What the site shows, as data: each view asks a journal, and answers in JSON's types."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline_engine.live.histories import call_of, outcome_of, output_of, step_names, why
from pipeline_engine.live.moments import Moments
from pipeline_engine.values import Cost

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline_engine.journal import JournalReader
    from pipeline_engine.journal.reading import StoredBatch, StoredHistory

__all__ = ["STATUSES", "Views"]

STATUSES = ("completed", "partial", "failed", "parked", "processing", "queued")
"""Where documents may stand."""
_BATCHES = 50
_DOCUMENTS = 100
_ATTEMPTS = 200
_ITEMS = 200
_CALLS = 20


class Views:
    """Answer for one journal. Each view is given the journal, the request's parameters and the present time.

    Args:
        name: What the journal is called.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._moments = Moments()

    def batches(self, reader: JournalReader, query: Mapping[str, str], now: float) -> dict[str, Any]:
        """Return the latest batches; with `all=1` also those of single runs."""
        del now
        with_single = query.get("all") == "1"
        found = [batch.told() for batch in islice(reader.batches(with_single=with_single), _BATCHES + 1)]
        return {
            "journal": self._name,
            "batches": found[:_BATCHES],
            "has_more": len(found) > _BATCHES,
            "single_runs": reader.count_single(),
            "with_single": with_single,
        }

    def batch(self, reader: JournalReader, query: Mapping[str, str], now: float) -> dict[str, Any]:
        """Return a batch's present moment, and a page of its documents: those with `status` and `part` in their keys.

        Raises:
            LookupError: If there is no such batch or status.
        """
        moment = self._moments.look(reader, query.get("batch") or "last", now)
        status, part, after = query.get("status", ""), query.get("part", ""), query.get("after")
        if status and status not in STATUSES:
            raise LookupError(f"there is no status {status!r}; there are {', '.join(STATUSES)}.")
        asked = [status] if status else []
        stored = moment.batch
        found = reader.documents(stored.pipeline, stored.batch, asked, after=after, part=part)
        documents = [document.told() for document in islice(found, _DOCUMENTS + 1)]
        return {
            "moment": moment.told(),
            "shown": documents[:_DOCUMENTS],
            "next": documents[_DOCUMENTS - 1]["document"] if len(documents) > _DOCUMENTS else None,
            "status": status,
            "part": part,
            "after": after,
        }

    def document(self, reader: JournalReader, query: Mapping[str, str], now: float) -> dict[str, Any]:
        """Return what has happened to a document: how each step has ended, and every attempt.

        Raises:
            LookupError: If there is no such batch or document.
        """
        del now
        batch, history = _history(reader, query)
        document = history.document
        inputs = (None if document.inputs is None else reader.inputs(document.inputs)) or {}
        attempts = [attempt.told() for attempt in history.attempts]
        return {
            "pipeline": document.pipeline,
            **document.told(),
            "asked_by": batch.batch,
            "inputs": dict(inputs),
            "steps": [_step(reader, history, name) for name in step_names(batch, history)],
            "attempts": attempts[-_ATTEMPTS:],
            "earlier_attempts": max(0, len(attempts) - _ATTEMPTS),
        }

    def step(self, reader: JournalReader, query: Mapping[str, str], now: float) -> dict[str, Any]:
        """Return one step of a document, with the exact prompts and the raw replies; of a mapped step, of one `item`.

        Raises:
            LookupError: If there is no such batch, document, step or item.
        """
        del now
        batch, history = _history(reader, query)
        document, name = history.document, query.get("step", "")
        if name not in step_names(batch, history):
            raise LookupError(f"document {document.document!r} has no step {name!r}.")
        asked = query.get("item", "")
        if asked and not (asked.isascii() and asked.isdigit() and len(asked) < 10):
            raise LookupError(f"{asked!r} is no item: items are counted from 0.")
        item = int(asked) if asked else None
        own = [output for output in history.outputs if output.step == name]
        tried = [attempt for attempt in history.attempts if attempt.step == name]
        known = {output.item for output in own} | {attempt.item for attempt in tried}
        items = sorted(number for number in known if number is not None)
        if item is not None and item not in items:
            raise LookupError(f"step {name!r} of document {document.document!r} has no item {item}.")
        told = history.outcomes.get("steps", {}).get(name)
        # Of thousands of items the bodies are not read: one is chosen first.
        bodies = () if items and item is None else reader.replies(document, name, item)
        outputs = [output for output in own if output.item == item]
        return {
            "pipeline": document.pipeline,
            "document": document.document,
            "asked_by": batch.batch,
            "step": name,
            "item": item,
            "items": items[:_ITEMS],
            "more_items": max(0, len(items) - _ITEMS),
            "outcome": "open" if told is None else told[0],
            "why": "" if told is None or told[0] == "completed" else why(told),
            "attempts": [attempt.told() for attempt in tried if attempt.item == item][-_ATTEMPTS:],
            "calls": [call_of(reader, body) for body in bodies[-_CALLS:]],
            "outputs": [output.told() | {"output": output_of(reader, document, output)} for output in outputs],
        }


def _history(reader: JournalReader, query: Mapping[str, str]) -> tuple[StoredBatch, StoredHistory]:
    batch = reader.batch(query.get("batch") or "last")
    return batch, reader.history(reader.document(batch.pipeline, query.get("key", "")))


def _step(reader: JournalReader, history: StoredHistory, name: str) -> dict[str, Any]:
    outcome, text = outcome_of(reader, history, name)
    own = [attempt for attempt in history.attempts if attempt.step == name]
    spent = sum((attempt.cost for attempt in own if attempt.cost is not None), Cost())
    return {
        "step": name,
        "outcome": outcome,
        "text": text,
        "calls": sum(attempt.call is not None for attempt in own),
        "cost_usd": round(spent.usd, 6),
        "unpriced_calls": spent.unpriced_calls,
    }
