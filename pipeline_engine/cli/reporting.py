"""The command `report`: a batch in a journal, or one of its documents, as one HTML page."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_engine.cli.failing import COMPLETED, CommandError, say
from pipeline_engine.cli.journals import opened
from pipeline_engine.cli.pages import write_page
from pipeline_engine.cli.running import writable
from pipeline_engine.report.numbers import counted
from pipeline_engine.report.stored import StoredTraces
from pipeline_engine.run.comparing import compare
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from argparse import Namespace

    from pipeline_engine.journal import JournalReader
    from pipeline_engine.journal.reading import StoredBatch
    from pipeline_engine.report import BatchTrace, Trace
    from pipeline_engine.report.comparing import Comparison

__all__ = ["report"]

_NAME = "report.html"


def report(arguments: Namespace) -> int:
    """Write the page and say where it is.

    Raises:
        CommandError: If what is asked for is not in the journal, or the page cannot be written there.
        JournalError: If the journal cannot be read.
    """
    if arguments.against is not None and arguments.document is not None:
        raise CommandError("--against compares batches, and --document shows one document. Give one of them.")
    out = writable("--out", arguments.out, []) or Path(_NAME)
    comparison: Comparison | None = None
    with opened(arguments) as reader:
        batch = reader.batch(arguments.batch)
        page: Trace | BatchTrace
        if arguments.document is None:
            page, what = _of_batch(reader, batch, arguments.max_spans), f"batch {batch.batch}"
        else:
            page = _of_document(reader, batch, arguments.document)
            what = f"document {page.document}"
        if arguments.against is not None:
            if arguments.against != "previous" and reader.batch(arguments.against).batch == batch.batch:
                raise CommandError(f"batch {batch.batch} cannot stand against itself. Name another one, or previous.")
            comparison = compare(arguments.against, batch.batch, journal=arguments.journal)
    write_page(page, out, what_if=arguments.what_if, comparison=comparison)
    print(one_line(f"report: {out} ({what})"))
    if arguments.open:
        webbrowser.open(out.resolve().as_uri())
    return COMPLETED


def _of_batch(reader: JournalReader, batch: StoredBatch, max_spans: int) -> BatchTrace:
    traces = StoredTraces(reader.runs(batch.batch))
    found = traces.totals(max_spans)
    _say_lost(traces)
    if not found.count:
        raise CommandError(
            f"batch {batch.batch} has no runs in this journal: none has ended yet, its documents had all ended before, "
            "or the runs were pruned."
        )
    return found


def _of_document(reader: JournalReader, batch: StoredBatch, name: str) -> Trace:
    """Return the latest run of a document."""
    document = reader.document(batch.pipeline, name)
    traces = StoredTraces(reader.runs_of(batch.pipeline, document.document))
    latest = traces.latest()
    _say_lost(traces)
    if latest is None:
        raise CommandError(
            f"document {document.document!r} has no run in this journal: none has ended, or they were pruned."
        )
    return latest


def _say_lost(traces: StoredTraces) -> None:
    if traces.lost:
        say(f"{counted(traces.lost, 'run')} cannot be read: another version has written them, or they are damaged.")
