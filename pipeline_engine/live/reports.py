"""The page of a batch or a document, made of the runs that its journal has recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.report.html import render_html
from pipeline_engine.report.stored import StoredTraces

if TYPE_CHECKING:
    from pipeline_engine.journal import JournalReader

__all__ = ["report_page"]

_MAX_SPANS = 20_000
"""Of so many steps and items every bar is drawn: the page is made while somebody waits for it."""


def report_page(reader: JournalReader, *, batch: str, key: str | None = None) -> str:
    """Return the page of a batch, or of the latest run of one of its documents.

    Raises:
        LookupError: If there is no such batch or document, or no run of it has been recorded.
    """
    stored = reader.batch(batch)
    if key is not None:
        document = reader.document(stored.pipeline, key)
        latest = StoredTraces(reader.runs_of(stored.pipeline, document.document)).latest()
        if latest is None:
            raise LookupError(f"document {document.document!r} has no recorded run.")
        return render_html(latest)
    found = StoredTraces(reader.runs(stored.batch)).totals(_MAX_SPANS)
    if not found.count:
        raise LookupError(f"batch {stored.batch} has no recorded run yet.")
    return render_html(found)
