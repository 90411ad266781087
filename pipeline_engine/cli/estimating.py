"""The command `estimate`: a few documents with the real models, and what all the others would take."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from pipeline_engine.cli.failing import COMPLETED, say
from pipeline_engine.cli.keeping import place_of
from pipeline_engine.cli.reading import some_of
from pipeline_engine.cli.running import exit_code_of, is_all_done, job_of, perform, plan_and_models, say_stopped
from pipeline_engine.errors import JournalFileError
from pipeline_engine.journal.reading import read_journal
from pipeline_engine.report.forecast import LEAST_SAMPLE, Forecast, evenly, forecast, seconds_between
from pipeline_engine.report.numbers import count_text, counted, seconds_text, usd_text
from pipeline_engine.run.engine import Engine
from pipeline_engine.run.rows import rows_of
from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from rich.table import Table

    from pipeline_engine.cli.reading import Documents
    from pipeline_engine.cli.running import Job
    from pipeline_engine.plan import Plan
    from pipeline_engine.run.binding import Models
    from pipeline_engine.run.results import RunResult

__all__ = ["estimate"]

_ENDED = ("completed", "partial", "failed", "parked")
_MANY = 200
_FIGURES = {"attempts": "calls", "input_tokens": "tokens in", "output_tokens": "tokens out", "cost_usd": "dollars"}
_ALL = "in all"


@dataclass(slots=True)
class _Sample:
    """The documents to choose from, and what those that were chosen have taken."""

    wanted: int
    kept: dict[str, str]
    """Those that have ended before, by the journal, and their content: they take nothing more."""
    sizes: dict[str, int] = field(default_factory=dict)
    """The characters of each document that is not kept."""
    unreadable: list[str] = field(default_factory=list)
    left_out: int = 0
    """How many have ended before."""
    chosen: list[Path] = field(default_factory=list)
    taken: list[int] = field(default_factory=list)
    """The characters of each document that was run."""
    figures: dict[str, dict[str, list[float | None]]] = field(default_factory=dict)
    """What each of them took, by step and column."""
    work: list[float] = field(default_factory=list)
    """The seconds of its attempts."""
    chains: list[float] = field(default_factory=list)
    """The seconds along its longest chain of needs."""

    def choose(self, paths: Sequence[Path], documents: Documents) -> list[Path]:
        """Measure the documents, and return those to run."""
        if len(paths) > _MANY:
            say(f"measuring {count_text(len(paths))} documents …")
        sized: list[tuple[int, Path]] = []
        for path in paths:
            document = documents.read(path)
            if document.error is not None:
                self.unreadable.append(document.key)
            elif self.kept.get(document.key) and self.kept[document.key] == documents.content(document):
                self.left_out += 1
            else:
                sized.append((documents.size(document), path))
        self.sizes = {str(path): size for size, path in sized}
        sized.sort(key=lambda pair: (pair[0], str(pair[1])))
        self.chosen = [sized[place][1] for place in evenly(len(sized), self.wanted)]
        return self.chosen

    def take(self, result: RunResult) -> None:
        """Take note of what a document took; one that was stopped, or is the journal's, tells nothing."""
        if result.status == "stopped" or result.has_ended_before or result.document not in self.sizes:
            return
        self.taken.append(self.sizes[result.document])
        rows = [row for row in rows_of(result) if row["kind"] != "function"]
        for row in rows:
            self._note(row["step"], row)
        self._note(_ALL, {column: _sum([row[column] for row in rows]) for column in _FIGURES})
        bounds = result.trace.bounds if result.records else None
        self.work.append(bounds.slots * result.trace.capacity if bounds is not None else 0.0)
        self.chains.append(bounds.critical_path if bounds is not None else 0.0)

    def _note(self, step: str, row: dict[str, Any]) -> None:
        figures = self.figures.setdefault(step, {column: [] for column in _FIGURES})
        for column in _FIGURES:
            figures[column].append(row[column])

    @property
    def rest(self) -> int:
        """The characters of the documents that were not run."""
        return sum(self.sizes.values()) - sum(self.taken)

    @property
    def left(self) -> int:
        """How many documents were not run."""
        return len(self.sizes) - len(self.taken)

    def expected(self, step: str, column: str) -> Forecast | None:
        """Return what the rest will take; None if that is not known of all of the sample."""
        values = [value for value in self.figures[step][column] if value is not None]
        return self.forecast(values) if len(values) == len(self.taken) else None

    def forecast(self, values: Sequence[float]) -> Forecast:
        """Return what the rest will take of something of which each document of the sample took so much."""
        return forecast(self.taken, values, self.rest, self.left)


def _sum(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def estimate(arguments: Namespace) -> int:
    """Run a sample, say what the other documents would take, and return the exit code.

    Raises:
        CommandError: If the arguments do not fit the pipeline, the documents or the disk.
        PlanError: If the pipeline cannot be compiled or bound.
        DocumentError: If there are no documents where they should be.
        JournalError: If the journal cannot be opened or written.
    """
    sample = _Sample(arguments.sample, _kept(arguments))
    job = job_of(arguments, choose=sample.choose)
    if not sample.chosen:
        print(one_line(f"nothing to estimate: {_why_nothing(sample)}."))
        return COMPLETED
    job.take = sample.take
    trio.run(perform, job)
    if job.stopping.number is not None and not is_all_done(job):
        return say_stopped(job)
    _show(sample, job)
    return exit_code_of(job)


def _kept(arguments: Namespace) -> dict[str, str]:
    """Return the documents that a run would leave alone, by the journal, if there is one already."""
    if arguments.journal is None or arguments.on_change == "new":
        return {}
    plan, models = plan_and_models(arguments)
    try:
        with read_journal(place_of(arguments.journal)) as reader:
            ended = list(reader.documents(plan.name, statuses=_ENDED))
    except JournalFileError:
        return {}  # there is none yet; if it is no journal at all, the run will say so
    if arguments.on_change != "keep" and ended:
        # Those that ended as another pipeline, or with other models, are run again as far as it matters.
        fingerprint = trio.run(_fingerprint, plan, models)
        ended = [stored for stored in ended if stored.plan == fingerprint]
    return {stored.document: stored.content for stored in ended}


async def _fingerprint(plan: Plan, models: Models) -> str:
    async with Engine() as engine:
        return engine.bind(plan, models).keys.plan


def _why_nothing(sample: _Sample) -> str:
    if sample.unreadable:
        return f"no document can be read: {some_of(sample.unreadable)}"
    return f"all of {counted(sample.left_out, 'document')} have ended before, by the journal"


# On the screen


def _show(sample: _Sample, job: Job) -> None:
    from pipeline_engine.cli.progress import console_for

    for line in _about_sample(sample, job):
        print(one_line(line))
    left = sample.left
    if not left or not sample.taken:
        print("\nNo document is left." if sample.taken else "\nNothing can be said about the others.")
        return
    print(f"\nthe other {counted(left, 'document')}:\n" if left > 1 else "\nthe other document:\n")
    console = console_for(sys.stdout)
    if sample.figures:
        console.print(_table(sample))
    for line in _verdict(sample, job):
        print(one_line(line))


def _about_sample(sample: _Sample, job: Job) -> list[str]:
    all_characters, taken = sum(sample.sizes.values()), sum(sample.taken)
    share = f"{taken / all_characters:.1%}" if all_characters else "all"
    of = counted(len(sample.sizes), "document")
    lines = [f"sample: {len(sample.taken)} of {of}, spread evenly over their sizes: {share} of all characters"]
    summary = job.summary
    ended = ", ".join(f"{count} {status}" for status, count in summary.counts.items())
    spent = summary.spent
    lines.append(" · ".join(filter(None, [f"{ended} in {seconds_text(job.elapsed)}", spent])))
    lines += [f"not completed: {document}: {reason}" for document, reason in summary.reasons]
    if summary.stopped_by is not None:
        lines.append(f"stopped: {summary.stopped_by}")
    if sample.left_out:
        lines.append(f"not counted: {counted(sample.left_out, 'document')} that the journal holds already")
    if sample.unreadable:
        lines.append(f"not counted, because they cannot be read: {some_of(sample.unreadable)}")
    return lines


def _table(sample: _Sample) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column(Text("step"), no_wrap=True)
    for head in _FIGURES.values():
        table.add_column(Text(head), no_wrap=True, justify="right")
    for step in sample.figures:
        cells = [_cell(sample.expected(step, column), _shown(column)) for column in _FIGURES]
        table.add_row(*(Text(text) for text in (one_line(step, 24), *cells)), style="bold" if step == _ALL else "")
    return table


def _shown(column: str) -> Callable[[float], str]:
    return usd_text if column == "cost_usd" else lambda value: count_text(round(value))


def _cell(expected: Forecast | None, text: Callable[[float], str]) -> str:
    if expected is None:
        return "unknown"
    if not expected.has_range or not expected.value:
        return text(expected.value)
    return f"{text(expected.value)} ±{(expected.high - expected.value) / expected.value:.0%}"


def _verdict(sample: _Sample, job: Job) -> list[str]:
    lines = [""]
    cost = sample.expected(_ALL, "cost_usd") if sample.figures else Forecast(0.0, 0.0, 0.0)
    if cost is None:
        lines.append("dollars: unknown, because the price of a model, or what its calls have used, is not known")
    else:
        between = f", between {usd_text(cost.low)} and {usd_text(cost.high)}" if cost.has_range else ""
        lines.append(f"dollars: about {usd_text(cost.value)}{between}")
    work = sample.forecast(sample.work)
    if work.has_range:
        least, most = (seconds_text(seconds) for seconds in seconds_between(work, job.capacity, sample.chains))
        about = f"between {least} and {most}" if least != most else f"about {least}"
    else:
        about = f"about {seconds_text(work.value / job.capacity + max(sample.chains))}"
    lines.append(
        f"time: {about}, if {job.capacity} calls at once are answered as quickly as in the sample and no rate limit "
        "slows them"
    )
    if work.has_range:
        lines.append("ranges: they hold about 9 times of 10, if what documents take grows evenly with their characters")
    else:
        lines.append(f"ranges: none can be told from fewer than {LEAST_SAMPLE} documents; give a larger --sample")
    if job.keeping.batch is not None:
        lines.append(f"the sample is in {job.keeping.name}: the same command with `run` does not pay for it again")
    else:
        lines.append("the sample will be paid for again; with --journal here and for `run` it is not")
    return lines
