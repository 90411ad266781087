"""What has happened to a document, as people read it: how each step has ended, what was sent, what came back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline_engine.report.numbers import counted
from pipeline_engine.schedule import unpack_prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.journal import JournalReader
    from pipeline_engine.journal.reading import StoredBatch, StoredBody, StoredDocument, StoredHistory, StoredOutput

__all__ = ["call_of", "json_text", "outcome_of", "output_of", "step_names", "why"]


def step_names(batch: StoredBatch, history: StoredHistory) -> list[str]:
    """Return the steps of the pipeline, and those that it had when the document was run."""
    told = history.outcomes.get("steps", ())
    # Of one that has not ended, in the order in which they came about.
    at = [(attempt.started_at or attempt.ended_at or 0.0, attempt.step) for attempt in history.attempts]
    at += [(output.accepted_at, output.step) for output in history.outputs]
    return list(dict.fromkeys([*told, *(step for _, step in sorted(at)), *(() if told else batch.parts)]))


def outcome_of(reader: JournalReader, history: StoredHistory, step: str) -> tuple[str, str]:
    """Return how a step ended, and its output or the reason."""
    kept = {output.item: output for output in history.outputs if output.step == step}
    told = history.outcomes.get("steps", {}).get(step)
    width = history.outcomes.get("widths", {}).get(step)
    if told is None:
        items = f"{counted(len(kept), 'item')} kept" if kept and None not in kept else ""
        return ("completed", items or _shown(reader, history, kept.get(None))) if kept else ("open", "")
    if told[0] == "completed" and width is not None:
        lost = history.outcomes.get("items", {}).get(step, {})
        return "completed", f"{width - len(lost)} of {counted(width, 'item')}"
    if told[0] == "completed":
        via = f" (via {told[1]})" if told[1] else ""
        return "completed", f"{_shown(reader, history, kept.get(None))}{via}"
    return told[0], why(told)


def why(told: Sequence[Any]) -> str:
    """Return why a step has no output, as its outcome tells."""
    if told[0] in ("failed", "dropped"):
        return f"{told[1]}: {told[2]}"
    if told[0] == "skipped":
        return "its condition was false" if told[1] == "when" else f"because of {told[1]!r}"
    return str(told[1])


def _shown(reader: JournalReader, history: StoredHistory, output: StoredOutput | None) -> str:
    if output is None:
        return "not in the journal any more"
    value = output_of(reader, history.document, output)
    return "JSON cannot hold it" if output.size == 0 else json_text(value)


def output_of(reader: JournalReader, document: StoredDocument, output: StoredOutput) -> Any:
    """Return an output in JSON's types; None if JSON cannot hold it, or its body is damaged."""
    body = reader.output(document, output)
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None


def json_text(value: Any) -> str:
    """Return a value as it is shown: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def call_of(reader: JournalReader, body: StoredBody) -> dict[str, Any]:
    """Return what was sent and what came back, in JSON's types."""
    told: dict[str, Any] = {"key": body.key, "item": body.item, "model": body.model, "is_intact": body.is_intact}
    try:
        told["prompt"] = [{"role": role, "parts": parts} for role, *parts in unpack_prompt(body.prompt, reader.inputs)]
    except (LookupError, ValueError, TypeError) as error:
        told |= {"prompt": None, "prompt_error": str(error)}
    try:
        told["reply"] = json.loads(body.reply)
    except ValueError:
        told["reply"] = None
    return told
