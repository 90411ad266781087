"""The command `run`: every document through a pipeline, its results to screen and files."""

from __future__ import annotations

import json
import signal
import sys
import threading
import traceback
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from pipeline_engine.cli.binding import (
    OFFLINE,
    chains_of,
    document_input,
    offline_chains,
    shared_inputs,
    without_network,
)
from pipeline_engine.cli.failing import COMPLETED, INTERRUPTED, NOT_COMPLETED, TERMINATED, CommandError, say
from pipeline_engine.cli.loading import load_pipeline
from pipeline_engine.cli.summary import Summary, reason_of
from pipeline_engine.declare import Budget
from pipeline_engine.documents import find_documents, read_document
from pipeline_engine.errors import DocumentError, PlanError
from pipeline_engine.plan import compile_pipeline
from pipeline_engine.report.numbers import counted
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.run.document import Document
from pipeline_engine.run.engine import DEFAULT_CAPACITY, Engine
from pipeline_engine.text import one_line, safe_text

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Self, TextIO

    from pipeline_engine.plan import Plan
    from pipeline_engine.run.binding import Models
    from pipeline_engine.run.results import RunResult

__all__ = ["run"]

_MAX_TRACEBACKS = 3


def run(arguments: Namespace) -> int:
    """Run the documents and return the exit code.

    Raises:
        CommandError: If the arguments do not fit the pipeline, the documents or the disk.
        PlanError: If the pipeline cannot be compiled or bound.
        DocumentError: If there are no documents where they should be.
    """
    plan = compile_pipeline(load_pipeline(arguments.pipeline))
    if arguments.offline:
        plan = without_network(plan)
    target = document_input(plan, arguments.inputs)
    shared = shared_inputs(plan, arguments.inputs)
    paths = find_documents(arguments.documents)[: arguments.limit]
    out = _writable("--out", arguments.out, paths)
    report = _writable("--report", arguments.report, paths)
    if out is not None and report is not None and out.resolve() == report.resolve():
        raise CommandError(f"--out and --report are both {str(out)!r}. Give each a file of its own.")
    budget = None
    if arguments.budget_usd is not None or arguments.budget_tokens is not None:
        budget = Budget(usd=arguments.budget_usd, tokens=arguments.budget_tokens)
    job = _Job(
        plan=plan,
        models=offline_chains(plan) if arguments.offline else chains_of(arguments.models),
        documents=_Documents(paths, target, shared),
        total=len(paths),
        out=out,
        report=report,
        options={
            "budget": budget,
            "max_documents": arguments.max_documents,
            "timeout": arguments.timeout,
            "document_timeout": arguments.document_timeout,
        },
        capacity=arguments.capacity,
        is_offline=arguments.offline,
        is_debug=arguments.debug,
        summary=Summary(plan, budget),
    )
    return trio.run(_perform, job)


def _writable(option: str, name: str | None, documents: Sequence[Path]) -> Path | None:
    """Return where to write, if that will work: an hour later would be a bad time to find out."""
    if name is None:
        return None
    path = Path(name)
    if path.is_dir():
        raise CommandError(f"{option} {name!r} is a folder. Name a file in it.")
    if not path.parent.is_dir():
        raise CommandError(
            f"{option} {name!r} lies in the folder {str(path.parent)!r}, which does not exist. Make it first."
        )
    if path.exists() and any(path.samefile(document) for document in documents if document.exists()):
        raise CommandError(f"{option} {name!r} would overwrite one of the documents. Name another file.")
    return path


class _Documents:
    """Read one file after the other, each when there is room for it, in a thread."""

    def __init__(self, paths: Sequence[Path], target: str, shared: Mapping[str, Any]) -> None:
        self._paths = iter(paths)
        self._target = target
        self._shared = shared

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Document:
        path = next(self._paths, None)
        if path is None:
            raise StopAsyncIteration
        # A large PDF must not hold up somebody who wants to leave.
        return await trio.to_thread.run_sync(self._read, path, abandon_on_cancel=True)

    def _read(self, path: Path) -> Document:
        try:
            text = read_document(path)
        except DocumentError as error:
            return Document(str(path), {}, error=error)
        return Document(str(path), {**self._shared, self._target: text})


@dataclass(slots=True)
class _Job:
    plan: Plan
    models: Models
    documents: _Documents
    total: int
    out: Path | None
    report: Path | None
    options: Mapping[str, Any]
    capacity: int | None
    is_offline: bool
    is_debug: bool
    summary: Summary
    signal_number: int | None = None
    tracebacks: list[str] = field(default_factory=list)


async def _perform(job: _Job) -> int:
    # Rich is loaded here, where there is something to show, and not for a plan that does not compile.
    from pipeline_engine.cli.progress import Progress

    summary = job.summary
    progress = Progress(job.plan.name, [step.name for step in job.plan.steps], job.total, summary)
    async with Engine(sinks=[progress.activity], capacity=job.capacity or DEFAULT_CAPACITY) as engine:
        # Bound before --out is opened: a missing key or price must not empty the results of the last run.
        batch = _opened_batch(engine, job)
        if job.is_offline and job.plan.roles:
            say(f"{OFFLINE} is no LLM: it picks words and sentences out of each document.")
        with _opened(job.out) as out, progress.shown():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_on_signal, job, nursery.cancel_scope)
                nursery.start_soon(progress.refresh)
                async with batch as results:
                    async for result in results:
                        _write(out, result)
                        progress.tell(summary.add(result), reason_of(result))
                        _keep_traceback(job, result)
                nursery.cancel_scope.cancel()
    summary.stopped_by = batch.stopped_by
    if job.signal_number is not None:
        return _stopped(job)
    _finish(job, progress.elapsed)
    return COMPLETED if summary.finished == job.total and not summary.not_completed else NOT_COMPLETED


def _opened_batch(engine: Engine, job: _Job) -> BatchStream:
    try:
        return BatchStream(engine, engine.bind(job.plan, job.models), job.documents, **job.options)
    except PlanError as error:
        codes = {problem.code for problem in error.problems}
        if codes & {"PE201", "PE202"} and not job.is_offline:
            error.add_note("To see it run without any model, give --offline.")
        if "PE204" in codes:
            error.add_note("Without a price, --budget-tokens N caps the spend.")
        raise


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO | None]:
    if path is None:
        yield None
        return
    # A file name may hold bytes that are no text; as \udc.. they are valid JSON.
    with path.open("w", encoding="utf-8", errors="backslashreplace") as file:
        yield file


def _write(out: TextIO | None, result: RunResult) -> None:
    if out is not None:
        # One write for each line, so that whatever ends the run leaves whole lines.
        out.write(json.dumps(result.to_dict(), ensure_ascii=False) + "\n")
        out.flush()


def _keep_traceback(job: _Job, result: RunResult) -> None:
    if not job.is_debug or result.status == "completed" or len(job.tracebacks) >= _MAX_TRACEBACKS:
        return
    error = result.error or (result.errors[0].__cause__ if result.errors else None)
    if error is not None:
        job.tracebacks.append(f"{one_line(result.document)}:\n{''.join(traceback.format_exception(error))}")


# Signals


async def _stop_on_signal(job: _Job, scope: trio.CancelScope) -> None:
    """Let the first Ctrl-C or SIGTERM end the run in good order; a second one ends it at once."""
    if threading.current_thread() is not threading.main_thread():
        return  # signals reach only the main thread
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            job.signal_number = number
            scope.cancel()
            return


def _stopped(job: _Job) -> int:
    is_interrupt = job.signal_number == signal.SIGINT
    cause = "Ctrl-C" if is_interrupt else "SIGTERM"
    kept = f"; their results are in {job.out}" if job.out is not None else ""
    say(f"stopped by {cause} after {job.summary.finished} of {counted(job.total, 'document')}{kept}.")
    return INTERRUPTED if is_interrupt else TERMINATED


# The end


def _finish(job: _Job, elapsed: float) -> None:
    from pipeline_engine.cli.progress import console_for
    from pipeline_engine.cli.tables import closing_lines, print_results, print_waterfall

    summary = job.summary
    console = console_for(sys.stdout)
    for text in job.tracebacks:
        print(safe_text(text), file=sys.stderr)
    if summary.finished:
        print_results(console, summary)
    print_waterfall(console, summary)
    lines = closing_lines(summary, job.total, elapsed)
    if job.out is not None:
        lines.append(f"results: {job.out} ({counted(summary.finished, 'line')})")
    if job.report is not None:
        lines.append(_report(job.report, summary))
    for line in lines:
        print(one_line(line), file=console.file)


def _report(path: Path, summary: Summary) -> str:
    trace = summary.slowest
    if trace is None:
        return "report: not written, because no document was run"
    trace.to_html(path)
    of = f" (the slowest document, {trace.document})" if summary.finished > 1 else ""
    return f"report: {path}{of}"
