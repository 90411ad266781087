"""The command `run`: every document through a pipeline, its results to screen, files and journal."""

from __future__ import annotations

import json
import sys
import traceback
from contextlib import contextmanager, nullcontext
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
from pipeline_engine.cli.failing import COMPLETED, NOT_COMPLETED, CommandError, discard, say
from pipeline_engine.cli.journal_arguments import MAX_SPANS
from pipeline_engine.cli.keeping import Keeping
from pipeline_engine.cli.loading import load_pipeline
from pipeline_engine.cli.pages import write_page
from pipeline_engine.cli.reading import Documents
from pipeline_engine.cli.stopping import Stopping
from pipeline_engine.cli.summary import Summary, reason_of
from pipeline_engine.cli.telling import opened_sinks
from pipeline_engine.declare import Budget
from pipeline_engine.documents import find_documents
from pipeline_engine.errors import DocumentError, PlanError
from pipeline_engine.plan import compile_pipeline
from pipeline_engine.report.batch import Totals
from pipeline_engine.report.chrome import write_chrome
from pipeline_engine.report.kept import KeptTraces
from pipeline_engine.report.numbers import counted
from pipeline_engine.run.atomic import AtomicLines
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.run.engine import DEFAULT_CAPACITY, Engine
from pipeline_engine.run.rows import rows_of
from pipeline_engine.text import one_line, safe_text

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TextIO

    from pipeline_engine.cli.keeping import Again
    from pipeline_engine.cli.reading import Source
    from pipeline_engine.plan import Plan
    from pipeline_engine.run.binding import BoundPlan, Models
    from pipeline_engine.run.results import RunResult
    from pipeline_engine.values import Sink

__all__ = [
    "Job",
    "exit_code_of",
    "is_all_done",
    "job_of",
    "perform",
    "plan_and_models",
    "run",
    "say_stopped",
    "writable",
]

_MAX_TRACEBACKS = 3
_MAX_CHROME_SPANS = 100_000
"""More is too much for those who show it."""


@dataclass(slots=True)
class Job:
    """Hold all that a run needs, and what is known of it so far."""

    plan: Plan
    models: Models
    documents: Documents
    out: Path | None
    rows: Path | None
    report: Path | None
    chrome: Path | None
    log: Path | None
    options: Mapping[str, Any]
    keeping: Keeping
    capacity: int
    is_offline: bool
    is_debug: bool
    summary: Summary
    lost: int = 0
    """How many documents were accepted once, and can be found nowhere any more."""
    take: Callable[[RunResult], object] | None = None
    """Gets each result, too."""
    sinks: Sequence[Sink] = ()
    """Who else is told of the run."""
    kept: KeptTraces = field(default_factory=lambda: KeptTraces(_MAX_CHROME_SPANS))
    """The traces for `chrome`."""
    totals: Totals | None = None
    """What `report` shows."""
    stopping: Stopping = field(default_factory=Stopping)
    elapsed: float = 0.0
    tracebacks: list[str] = field(default_factory=list)

    @property
    def total(self) -> int:
        """How many documents there are."""
        return len(self.documents)


def run(arguments: Namespace, again: Again | None = None) -> int:
    """Run the documents and return the exit code.

    Args:
        arguments: What the user asked for.
        again: What a batch in a journal is run again for; None if it is begun by its user.

    Raises:
        CommandError: If the arguments do not fit the pipeline, the documents or the disk.
        PlanError: If the pipeline cannot be compiled or bound.
        DocumentError: If there are no documents where they should be.
        JournalError: If the journal cannot be opened or written.
        PlanChangedError: With `--on-change error`, if the pipeline is not what it was.
    """
    job = job_of(arguments, again=again)
    if again is not None and not job.total:
        return exit_code_of(job)  # which documents are lost was said
    with opened_sinks(job.log, arguments.log_level, has_otel=arguments.otel) as job.sinks:
        trio.run(perform, job)
        if job.stopping.number is not None and not is_all_done(job):
            return say_stopped(job)
        _finish(job)
    return exit_code_of(job)


def job_of(
    arguments: Namespace,
    again: Again | None = None,
    choose: Callable[[Sequence[Path], Documents], Sequence[Source]] | None = None,
) -> Job:
    """Return what is to be done, if all of it can be.

    Args:
        arguments: What the user asked for.
        again: What a batch in a journal is run again for.
        choose: Returns those of the documents that are to be run, which it may read to decide; all if not given.

    Raises:
        CommandError: If the arguments do not fit the pipeline, the documents or the disk.
        PlanError: If the pipeline cannot be compiled.
        DocumentError: If there are no documents where they should be.
    """
    plan, models = plan_and_models(arguments)
    target = document_input(plan, arguments.inputs)
    shared = shared_inputs(plan, arguments.inputs)
    paths = _found(arguments.documents, again)
    if again is None:
        paths = paths[: arguments.limit]
    out, rows, report, chrome, log = (
        writable(f"--{name}", getattr(arguments, name, None), paths)
        for name in ("out", "rows", "report", "chrome", "log")
    )
    _refuse_equal({"--out": out, "--rows": rows, "--report": report, "--chrome": chrome, "--log": log})
    budget = None
    if arguments.budget_usd is not None or arguments.budget_tokens is not None:
        budget = Budget(usd=arguments.budget_usd, tokens=arguments.budget_tokens)
    keeping = Keeping.of(arguments, again)
    sources: Sequence[Source] = paths
    lost = 0
    if again is not None:
        sources, lost = again.sources(paths, arguments.limit)
    elif choose is not None:
        sources = choose(paths, Documents(paths, plan, target, shared, {}))
    return Job(
        plan=plan,
        models=models,
        documents=Documents(sources, plan, target, shared, {} if again is None else again.contents),
        out=out,
        rows=rows,
        report=report,
        totals=None if report is None else Totals(max_spans=MAX_SPANS),
        chrome=chrome,
        log=log,
        options={
            "budget": budget,
            "max_documents": arguments.max_documents,
            "timeout": arguments.timeout,
            "document_timeout": getattr(arguments, "document_timeout", None),
            **keeping.options,
        },
        keeping=keeping,
        capacity=arguments.capacity or DEFAULT_CAPACITY,
        is_offline=arguments.offline,
        is_debug=arguments.debug,
        summary=Summary(plan, budget),
        lost=lost,
    )


def plan_and_models(arguments: Namespace) -> tuple[Plan, Models]:
    """Return the pipeline that is named, and the models for its roles.

    Raises:
        CommandError: If there is no such pipeline.
        PlanError: If it cannot be compiled.
    """
    plan = compile_pipeline(load_pipeline(arguments.pipeline))
    if arguments.offline:
        return without_network(plan), offline_chains(plan)
    return plan, chains_of(arguments.models)


def _found(patterns: Sequence[str], again: Again | None) -> list[Path]:
    if again is None:
        return find_documents(patterns)
    found: dict[Path, Path] = {}
    for pattern in patterns:
        try:
            for path in find_documents([pattern]):
                found.setdefault(path.resolve(), path)
        except DocumentError:
            pass  # a file that is gone is told by its name, or taken from the journal
    return list(found.values())


def writable(option: str, name: str | None, documents: Sequence[Path]) -> Path | None:
    """Return where to write, if that will work: an hour later would be a bad time to find out.

    Raises:
        CommandError: If it will not.
    """
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
    if option == "--rows" and path.exists() and not path.is_file():
        raise CommandError(f"{option} {name!r} is no regular file, and could not be replaced. Name another file.")
    return path


def _refuse_equal(files: Mapping[str, Path | None]) -> None:
    seen: dict[Path, str] = {}
    for option, path in files.items():
        if path is None:
            continue
        other = seen.setdefault(path.resolve(), option)
        if other != option:
            raise CommandError(f"{other} and {option} are both {str(path)!r}. Give each a file of its own.")


async def perform(job: Job) -> None:
    """Run the documents, and let signals end that; what came of it is in the job."""
    # Rich is loaded here, where there is something to show, and not for a plan that does not compile.
    from pipeline_engine.cli.progress import Progress

    progress = Progress(job.plan.name, job.total, job.summary)
    async with trio.open_nursery() as nursery:
        await nursery.start(job.stopping.watch, progress.turn_off)
        # The engine is inside: also when it hangs on its way out, signals are heard.
        with job.stopping.scope:
            async with Engine(sinks=job.sinks, capacity=job.capacity) as engine:
                await _perform(engine, job, progress)
        nursery.cancel_scope.cancel()
    job.elapsed = progress.elapsed


async def _perform(engine: Engine, job: Job, progress: Any) -> None:
    # Bound before --out is opened: a missing key or price must not empty the results of the last run.
    bound, batch = _bound_batch(engine, job, progress)
    if job.is_offline and job.plan.roles:
        say(f"{OFFLINE} is no LLM: it picks words and sentences out of each document.")

    async with batch as results:
        job.stopping.let_finish(batch.drain)
        job.keeping.begun(batch, bound.keys.parts)
        with _opened_out(job) as out, _opened_rows(job) as rows, progress.shown():
            async for result in results:
                _write(out, result)
                _write_rows(rows, result)
                _take(job, progress, batch, result)
    job.summary.stopped_by = batch.stopped_by


def _bound_batch(engine: Engine, job: Job, progress: Any) -> tuple[BoundPlan, BatchStream]:
    try:
        bound = engine.bind(job.plan, job.models)
        show = progress.show if progress.is_live else None
        return bound, BatchStream(engine, bound, job.documents, progress=show, is_watched=True, **job.options)
    except PlanError as error:
        codes = {problem.code for problem in error.problems}
        if codes & {"PE201", "PE202"} and not job.is_offline:
            error.add_note("To see it run without any model, give --offline.")
        if "PE204" in codes:
            error.add_note("Without a price, --budget-tokens N caps the spend.")
        raise


def _take(job: Job, progress: Any, batch: BatchStream, result: RunResult) -> None:
    row = job.summary.add(result)
    if not result.has_ended_before:
        progress.tell(row, reason_of(result), batch.present())
    if job.chrome is not None and result.records:
        job.kept.add(result.trace)
    if job.totals is not None and result.records:
        job.totals.add(result.trace)
    _keep_traceback(job, result)
    if job.take is not None:
        job.take(result)


# Files


@contextmanager
def _opened_out(job: Job) -> Iterator[TextIO | AtomicLines | None]:
    if job.out is None:
        yield None
    elif job.keeping.replaces_lines:
        with AtomicLines(job.out, replaces="document") as lines:
            yield lines
    else:
        # A file name may hold bytes that are no text; as \udc.. they are valid JSON.
        with job.out.open("w", encoding="utf-8", errors="backslashreplace") as file:
            yield file


def _opened_rows(job: Job) -> AtomicLines | nullcontext[None]:
    if job.rows is None:
        return nullcontext()
    return AtomicLines(job.rows, replaces="document" if job.keeping.replaces_lines else None)


def _write(out: TextIO | AtomicLines | None, result: RunResult) -> None:
    if isinstance(out, AtomicLines):
        out.write(result.to_dict())
    elif out is not None:
        # One write for each line, so that whatever ends the run leaves whole lines.
        out.write(json.dumps(result.to_dict(), ensure_ascii=False) + "\n")
        out.flush()


def _write_rows(rows: AtomicLines | None, result: RunResult) -> None:
    if rows is not None:
        for row in rows_of(result):
            rows.write(row)


def _keep_traceback(job: Job, result: RunResult) -> None:
    if not job.is_debug or result.status == "completed" or len(job.tracebacks) >= _MAX_TRACEBACKS:
        return
    error = result.error or (result.errors[0].__cause__ if result.errors else None)
    if error is not None:
        job.tracebacks.append(f"{one_line(result.document)}:\n{''.join(traceback.format_exception(error))}")


# The end


def is_all_done(job: Job) -> bool:
    """Whether every document has come to its end: then a signal came too late to end anything."""
    return job.summary.ended == job.total


def exit_code_of(job: Job) -> int:
    """Return what the process ends with, if nothing has ended it from outside."""
    return COMPLETED if is_all_done(job) and not (job.summary.not_completed or job.lost) else NOT_COMPLETED


def say_stopped(job: Job) -> int:
    """Say what a signal has left, and how to go on; return the exit code."""
    said = f"stopped by {job.stopping.cause} after {job.summary.ended} of {counted(job.total, 'document')}"
    files = [str(path) for path in (job.out, job.rows) if path is not None]
    if job.keeping.batch is not None:
        # The command is on a line of its own, so that it can be copied.
        lines = [f"{said}. What is finished is in {job.keeping.name}. Go on with:"]
        lines.append(job.keeping.command(f"resume {job.keeping.batch}"))
        say("\n  ".join(map(one_line, lines)))
    elif files:
        say(
            one_line(f"{said}; their results are in {' and '.join(files)}. With --journal they would not be run again.")
        )
    else:
        say(f"{said}; nothing is kept without --journal, --out or --rows.")
    return job.stopping.exit_code


def _finish(job: Job) -> None:
    for text in job.tracebacks:
        print(safe_text(text), file=sys.stderr)
    if job.report is not None and job.totals is not None:
        batch = job.totals.result()
        if batch.count:
            write_page(batch, job.report)
    kept = job.kept.result()
    if job.chrome is not None and kept:
        write_chrome(kept, job.chrome)
    try:
        _show(job)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError:
        # The terminal has gone. What the run has made is where it should be.
        discard(sys.stdout)


def _show(job: Job) -> None:
    from pipeline_engine.cli.progress import console_for
    from pipeline_engine.cli.tables import closing_lines, print_results, print_waterfall

    summary = job.summary
    console = console_for(sys.stdout)
    if summary.finished:
        print_results(console, summary)
    print_waterfall(console, summary)
    lines = closing_lines(summary, job.total, job.elapsed)
    lines += job.documents.notes()
    if summary.left_alone:
        left = counted(summary.left_alone, "document")
        lines.append(f"left alone: {left} that had not completed before; to try again:")
        lines.append(job.keeping.command("retry --failed"))
    if job.keeping.batch is not None:
        lines.append(f"batch: {job.keeping.batch} in {job.keeping.name}")
    replaced = "new " if job.keeping.replaces_lines else ""
    if job.out is not None:
        lines.append(f"results: {job.out} ({counted(summary.finished, f'{replaced}line')})")
    if job.rows is not None:
        lines.append(f"rows: {job.rows} ({counted(summary.finished * len(job.plan.steps), f'{replaced}line')})")
    if job.report is not None:
        lines.append(_report_line(job.report, summary))
    if job.chrome is not None:
        lines.append(_chrome_line(job.chrome, len(job.kept.result()), summary.finished))
    for line in lines:
        print(one_line(line), file=console.file)


def _chrome_line(path: Path, kept: int, finished: int) -> str:
    if not kept:
        return "trace events: not written, because no document was run"
    of = f" ({kept} of {counted(finished, 'document')})" if kept < finished else ""
    return f"trace events: {path}{of}"


def _report_line(path: Path, summary: Summary) -> str:
    if summary.slowest is None:
        return "report: not written, because no document was run"
    return f"report: {path}"
