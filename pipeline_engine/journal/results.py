"""Results read back from a journal, in JSON's types: nothing of the pipeline's code is needed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline_engine.errors import StepError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline_engine.journal.reading import JournalReader, StoredDocument, StoredHistory

__all__ = ["batch_results", "document_result"]

_STATUS = {"queued": "stopped", "processing": "stopped"}


def batch_results(reader: JournalReader, batch: str) -> Iterator[dict[str, Any]]:
    """Yield the results of a batch's documents, in the order of their keys.

    Args:
        reader: The journal.
        batch: The batch's id. A document belongs to the last batch that has asked for it.

    Raises:
        LookupError: If there is no such batch.
    """
    found = reader.batch(batch)
    for document in reader.documents(found.pipeline, found.batch):
        yield document_result(reader, document, found.parts)


def document_result(reader: JournalReader, document: StoredDocument, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a document, as `RunResult.to_dict` would.

    Args:
        reader: The journal.
        document: The document.
        parts: What the steps of its pipeline are, from its batch.
    """
    history = reader.history(document)
    told = history.outcomes
    ended: Mapping[str, Any] = told.get("steps", {})
    errors = {
        step: str(StepError(step, document.document, f"failed: {parts_of[2] or parts_of[1]}"))
        for step, parts_of in ended.items()
        if parts_of[0] == "failed"
    }
    if "error" in told:
        errors["inputs"] = told["error"][1]
    elif "parked" in told:
        errors["inputs"] = told["parked"]
    return {
        "document": document.document,
        "status": _status(document.status, ended),
        "outputs": dict(_outputs(reader, history, parts)),
        "errors": errors,
    }


def _status(status: str, ended: Mapping[str, Any]) -> str:
    if status == "parked":
        return "partial" if any(outcome[0] == "completed" for outcome in ended.values()) else "failed"
    return _STATUS.get(status, status)


def _outputs(reader: JournalReader, history: StoredHistory, parts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    kept = {(output.step, output.item): output for output in history.outputs}
    widths: Mapping[str, int] = history.outcomes.get("widths", {})
    for step, outcome in history.outcomes.get("steps", {}).items():
        if outcome[0] != "completed":
            continue
        lost = history.outcomes.get("items", {}).get(step, {})
        places = [None] if step not in widths else [n for n in range(widths[step]) if str(n) not in lost]
        found = [reader.output(history.document, kept[step, place]) for place in places if (step, place) in kept]
        if len(found) < len(places) or not all(found):
            continue  # JSON could not hold it, or it was removed since
        values = [json.loads(body) for body in found]
        if step not in widths:
            yield step, values[0]
        elif parts.get(step, {}).get("kind") == "embed":
            yield step, [vector for batch in values for vector in batch]
        else:
            yield step, values
