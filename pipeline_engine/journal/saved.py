"""What a journal has saved of a document: its replies and outputs, read back and compared with their hashes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline_engine.errors import JournalDataError
from pipeline_engine.journal.keys import digest
from pipeline_engine.journal.text import from_name
from pipeline_engine.values import SavedCall, SavedOutput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Query = Callable[[str, Sequence[Any]], list[tuple[Any, ...]]]

__all__ = ["saved_calls", "saved_outputs", "verified"]


def saved_calls(query: Query, place: tuple[str, str]) -> tuple[SavedCall, ...]:
    """Return the replies of a document, oldest first.

    Args:
        query: Runs a statement and returns its rows.
        place: The pipeline and the document, as the database has them.

    Raises:
        JournalDataError: If one of them is not what was written.
    """
    rows = query(
        "select call_key, request, ordinal, step, item, reply, reply_sha, is_void, cost_micro_usd, tokens "
        "from calls where pipeline = ? and document = ? order by finished_at, call_key",
        place,
    )
    return tuple(
        SavedCall(
            from_name(key),
            from_name(request),
            ordinal,
            from_name(step),
            item,
            verified(reply, sha, f"call {key} of document {place[1]!r}"),
            bool(is_void),
            cost,
            tokens,
        )
        for key, request, ordinal, step, item, reply, sha, is_void, cost, tokens in rows
    )


def saved_outputs(query: Query, place: tuple[str, str]) -> tuple[SavedOutput, ...]:
    """Return the outputs of a document, oldest first.

    Args:
        query: Runs a statement and returns its rows.
        place: The pipeline and the document, as the database has them.

    Raises:
        JournalDataError: If one of them is not what was written.
    """
    rows = query(
        "select step, item, step_key, output, output_sha, call_keys, via from step_outputs "
        "where pipeline = ? and document = ? order by accepted_at, step, item",
        place,
    )
    return tuple(
        SavedOutput(
            from_name(step),
            item,
            from_name(key),
            verified(output, sha, f"the output of step {step!r} of document {place[1]!r}"),
            tuple(json.loads(bytes(calls))),
            via,
        )
        for step, item, key, output, sha, calls, via in rows
    )


def verified(body: Any, sha: str, what: str) -> bytes:
    """Return a body whose hash is what it was when it was written.

    Raises:
        JournalDataError: If it is not.
    """
    data = bytes(body)
    if digest(data) != sha:
        raise JournalDataError(what)
    return data
