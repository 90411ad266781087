"""One of two batches that are compared, wherever it was kept: in a journal, in a file, or as results."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Protocol

from pipeline_engine.report.comparing import ComparedDocument, ComparedStep, Spent
from pipeline_engine.run.results import RunResult
from pipeline_engine.text import one_line
from pipeline_engine.values import Cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from pipeline_engine.journal import JournalReader
    from pipeline_engine.journal.past import PastOutputs, PastRun
    from pipeline_engine.journal.reading import StoredBatch
    from pipeline_engine.report import Span, Trace

__all__ = ["FileSide", "JournalSide", "ResultSide", "Side"]

_CURE = "Give a file that `out=` or `rows=` has written."
_SQLITE = b"SQLite format 3\0"


class Side(Protocol):
    """Tell of the documents of one batch, one at a time."""

    name: str
    """What the batch is called."""
    notes: Sequence[str]
    """What a reader should know of it, a sentence each."""

    def keys(self) -> Iterable[str]:
        """Return the keys of its documents."""
        ...

    def document(self, key: str) -> ComparedDocument:
        """Return what it tells of one of them."""
        ...


# A batch in a journal


class JournalSide:
    """Tell of a batch in a journal; a later one may have run its documents again.

    Args:
        reader: The journal.
        batch: The batch.

    Raises:
        LookupError: If nothing is known of its documents any more.
    """

    def __init__(self, reader: JournalReader, batch: StoredBatch) -> None:
        from pipeline_engine.journal.past import count_ended, known_documents

        self._reader, self._batch = reader, batch
        self.name = batch.batch
        self._keys = list(known_documents(reader, batch.pipeline, batch.batch))
        missing = count_ended(reader, batch.batch) - len(self._keys)
        if not self._keys and missing > 0:
            raise LookupError(
                f"batch {batch.batch!r} has run nothing itself, or its runs were pruned, and later batches have asked "
                "for all of its documents: compare one of those."
            )
        notes = []
        if missing > 0:
            notes.append(
                f"{missing:,} documents of batch {batch.batch} were not run by it, and belong to later batches."
            )
        if batch.state != "done":
            notes.append(f"Batch {batch.batch} is not done, but {batch.state}: what it has not run is missing here.")
        self.notes: Sequence[str] = notes

    def keys(self) -> list[str]:
        """Return the keys of the documents that it has run, or that no later batch has asked for."""
        return self._keys

    def document(self, key: str) -> ComparedDocument:
        """Return what the batch has made of a document, or found it to be."""
        from pipeline_engine.journal.past import PastOutputs

        past = PastOutputs(self._reader, self._batch.pipeline, key)
        runs = [run for run in past.runs if run.batch == self._batch.batch]
        if runs:
            return _of_runs(runs, past)
        return self._as_it_stands(key)

    def _as_it_stands(self, key: str) -> ComparedDocument:
        """Return a document that the batch has not run, and that no later batch has asked for."""
        from pipeline_engine.journal.results import document_result

        stored = self._reader.document(self._batch.pipeline, key)
        result = document_result(self._reader, stored, self._batch.parts)
        outcomes = self._reader.history(stored).outcomes.get("steps", {})
        steps = {}
        for name in dict.fromkeys([*outcomes, *result["outputs"]]):
            outcome = outcomes.get(name, ["completed"])[0]
            is_kept = outcome != "completed" or name in result["outputs"]
            steps[name] = ComparedStep(
                outcome, result["outputs"].get(name), is_kept, result["errors"].get(name, ""), is_restored=True
            )
        return ComparedDocument(result["status"], steps)


def _of_runs(runs: Sequence[PastRun], past: PastOutputs) -> ComparedDocument:
    """Return what a batch tells of a document that it has run, once or, after interruptions, several times."""
    from pipeline_engine.report import Trace

    traces = [Trace.from_records(run.records) for run in runs]
    last = traces[-1]
    spent: dict[str, Spent] = {}
    for trace in traces:
        for span in trace.steps:
            if span.origin != "restored":
                spent[span.step] = spent.get(span.step, Spent()).plus(_spent_on(trace, span))
    steps = {}
    for step in last.outline.steps:
        reached = last.get(step.name)
        if reached is None:
            continue
        output, is_kept = None, True
        if reached.outcome == "completed":
            output, is_kept = _past_output(past, runs[-1], last, reached, step.kind)
        executed = spent.get(step.name)
        steps[step.name] = ComparedStep(
            reached.outcome or "stopped",
            output,
            is_kept,
            reached.error or reached.because or "",
            executed is None,
            executed or Spent(),
        )
    whole = Spent()
    for trace in traces:
        whole = whole.plus(_spent_by(trace))
    return ComparedDocument(last.status or "stopped", steps, whole)


def _past_output(past: PastOutputs, run: PastRun, trace: Trace, span: Span, kind: str) -> tuple[Any, bool]:
    items = [item.item for item in trace.items(span.step) if item.outcome == "completed"] if span.is_mapped else [None]
    bodies = [past.output(run, span.step, item) for item in items]
    try:
        values = [json.loads(body) for body in bodies if body is not None]
    except ValueError:
        return None, False  # damaged: `doctor` tells more
    if len(values) < len(items):
        return None, False
    if not span.is_mapped:
        return values[0], True
    return ([vector for batch in values for vector in batch] if kind == "embed" else values), True


def _spent_on(trace: Trace, span: Span) -> Spent:
    items = trace.items(span.step)
    usage = span.usage
    return Spent(
        span.cost,
        None if usage is None else usage.input_tokens,
        None if usage is None else usage.output_tokens,
        span.duration if span.has_time else None,
        span.attempts,
        sum(item.retries for item in items) if items else span.retries,
    )


def _spent_by(trace: Trace) -> Spent:
    leaves = [span for span in trace.spans if not span.is_mapped]
    usage = trace.usage
    return Spent(
        trace.cost,
        None if usage is None else usage.input_tokens,
        None if usage is None else usage.output_tokens,
        trace.makespan,
        sum(span.attempts for span in leaves),
        sum(span.retries for span in leaves),
    )


# Files and results


class FileSide:
    """Tell of the documents in a file of results or rows, one at a time: only where each stands is kept in memory.

    Args:
        path: The file; it is open while the block lasts.

    Raises:
        ValueError: When the block is entered, if a line is neither a result nor a row.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self.notes: Sequence[str] = ()
        self._path = path

    def __enter__(self) -> Self:
        self._places, self._is_rows = self._read()
        self._file = self._path.open("rb")
        return self

    def _read(self) -> tuple[dict[str, list[int]], bool]:
        """Return where each document stands, and whether the file is one of rows."""
        places: dict[str, list[int]] = {}
        is_rows, at = False, 0
        with self._path.open("rb") as file:
            if file.peek(len(_SQLITE)).startswith(_SQLITE):
                raise ValueError(f"{str(self._path)!r} is a journal. Name a batch in it, and give it as the journal.")
            for number, line in enumerate(file, start=1):
                told = self._told(line, number)
                if told is not None:
                    is_rows = "step" in told
                    own = places.setdefault(told["document"], [])
                    if not is_rows:
                        own.clear()  # a document that was run again: what came last counts
                    own.append(at)
                at += len(line)
        if at and not places:
            raise ValueError(f"{str(self._path)!r} holds neither results nor rows. {_CURE}")
        return places, is_rows

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def _told(self, line: bytes, number: int) -> dict[str, Any] | None:
        try:
            told = json.loads(line)
        except ValueError as error:
            if not line.endswith(b"\n"):
                return None  # what has written it was interrupted there
            raise ValueError(f"line {number} of {str(self._path)!r} is no JSON: {error}.") from error
        is_result = isinstance(told, dict) and isinstance(told.get("document"), str)
        if not is_result or not ("outputs" in told or "step" in told):
            raise ValueError(f"line {number} of {str(self._path)!r} is neither a result nor a row. {_CURE}")
        return dict(told)

    def keys(self) -> Iterable[str]:
        """Return the keys of its documents."""
        return self._places

    def document(self, key: str) -> ComparedDocument:
        """Return what the file tells of a document: its last result, or its rows."""
        lines = []
        for at in self._places[key]:
            self._file.seek(at)
            lines.append(json.loads(self._file.readline()))
        return _of_rows(lines) if self._is_rows else _of_mapping(lines[0])


class ResultSide:
    """Tell of results that are at hand.

    Args:
        name: What they are called.
        results: What a batch has yielded, or the same in JSON's types.
    """

    def __init__(self, name: str, results: Iterable[RunResult | Mapping[str, Any]]) -> None:
        self.name = name
        self.notes: Sequence[str] = ()
        self._results = {
            result.document if isinstance(result, RunResult) else str(result["document"]): result for result in results
        }

    def keys(self) -> Iterable[str]:
        """Return the keys of their documents."""
        return self._results

    def document(self, key: str) -> ComparedDocument:
        """Return one of them."""
        result = self._results[key]
        return _of_result(result) if isinstance(result, RunResult) else _of_mapping(result)


def _of_mapping(told: Mapping[str, Any]) -> ComparedDocument:
    steps = {name: ComparedStep("completed", value) for name, value in told.get("outputs", {}).items()}
    steps |= {name: ComparedStep("failed", error=one_line(str(text))) for name, text in told.get("errors", {}).items()}
    return ComparedDocument(str(told.get("status", "none")), steps)


def _of_result(result: RunResult) -> ComparedDocument:
    told = _of_mapping(result.to_dict())
    steps = {step.name: told.steps.get(step.name, ComparedStep("none")) for step in result.plan.steps}
    if not result.records:
        return told._replace(
            steps={name: step._replace(is_restored=result.is_restored) for name, step in steps.items()}
        )
    trace = result.trace
    for span in trace.steps:
        is_restored = span.origin == "restored"
        steps[span.step] = steps[span.step]._replace(
            outcome=span.outcome or "stopped",
            is_restored=is_restored,
            spent=Spent() if is_restored else _spent_on(trace, span),
        )
    return told._replace(steps=steps, spent=_spent_by(trace))


def _of_rows(rows: Sequence[Mapping[str, Any]]) -> ComparedDocument:
    latest = {row["step"]: row for row in rows}
    steps = {name: _of_row(row) for name, row in latest.items()}
    whole = Spent()
    for step in steps.values():
        whole = whole.plus(step.spent._replace(seconds=None))
    starts = [row["started_at"] for row in latest.values() if row.get("started_at") is not None]
    ends = [row["started_at"] + row["seconds"] for row in latest.values() if row.get("started_at") is not None]
    status = str(rows[-1].get("document_status", "none"))
    return ComparedDocument(status, steps, whole._replace(seconds=max(ends) - min(starts) if starts else None))


def _of_row(row: Mapping[str, Any]) -> ComparedStep:
    output = row.get("output")
    error = row.get("error") or ""
    value = None if output is None else json.loads(output)
    if row.get("is_restored"):
        return ComparedStep(str(row["status"]), value, error=error, is_restored=True)
    attempts, usd = row.get("attempts"), row.get("cost_usd")
    items = row.get("items") or 1
    return ComparedStep(
        str(row["status"]),
        value,
        error=error,
        spent=Spent(
            Cost(unpriced_calls=1) if usd is None else Cost(usd),
            row.get("input_tokens"),
            row.get("output_tokens"),
            row.get("seconds"),
            attempts,
            None if attempts is None else max(0, attempts - items),
        ),
    )
