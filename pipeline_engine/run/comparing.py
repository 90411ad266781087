"""Two batches side by side, by whatever they are named: results, files, or batches of journals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_engine.report.comparing import compare_documents
from pipeline_engine.run.batch import BatchResult
from pipeline_engine.run.labels import read_labels
from pipeline_engine.run.results import RunResult
from pipeline_engine.run.sides import FileSide, JournalSide, ResultSide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pipeline_engine.journal import JournalPlace, JournalReader
    from pipeline_engine.journal.reading import StoredBatch
    from pipeline_engine.report.comparing import ComparedDocument, Comparison
    from pipeline_engine.run.sides import Side

__all__ = ["Comparable", "compare"]

Comparable = BatchResult | Path | str | Iterable[RunResult | Mapping[str, Any]]
"""What can be compared: a batch's result, a file, the name of a batch in a journal, or results."""


def compare(
    a: Comparable,
    b: Comparable,
    *,
    journal: str | Path | JournalPlace | None = None,
    other_journal: str | Path | JournalPlace | None = None,
    labels: Mapping[str, Mapping[str, Any]] | Path | str | None = None,
    on_difference: Callable[[Mapping[str, Any]], None] | None = None,
) -> Comparison:
    """Return how two batches differ on the documents that both have run: outputs, ends, cost, tokens and time.

    A batch is a `BatchResult`, a file that `out=` or `rows=` has written, results, or the name of a batch in a
    journal: its id, the beginning of it, "last", or "previous", the batch before the other one of the same pipeline.
    A text that is the path of a file is that file.

    Args:
        a: The first batch, such as the one before a change.
        b: The second batch.
        journal: The journal of batches that are given by name.
        other_journal: That of the second batch, if it is another one.
        labels: What is right, by document: values by step, `{"a.md": {"category": "news"}}`, or by step and field; or a
            file of JSON lines or CSV that says it, with the keys of documents as `document`.
        on_difference: Called with each document that differs, its outputs in full, in JSON's types.

    Raises:
        LookupError: If there is no such batch, or it has kept no results.
        ValueError: If a file holds something else than results, rows or labels.
        JournalError: If a journal cannot be read.

    Example:
        >>> from pipeline_engine import Document, Pipeline, iter_batch
        >>> def run(round_to):
        ...     pipeline = Pipeline("round", inputs={"number": float})
        ...     @pipeline.step
        ...     def rounded(number: float) -> float:
        ...         return round(number, round_to)
        ...     return list(iter_batch(pipeline, [Document(f"{n}", {"number": n}) for n in (1.25, 2.0)]))
        >>> comparison = compare(run(1), run(2))
        >>> comparison.equal, comparison.different, comparison.differences[0].document
        (1, 1, '1.25')
    """
    known = read_labels(Path(labels)) if isinstance(labels, str | Path) else labels
    with ExitStack() as stack:
        sides = _sides(stack, (a, b), (journal, journal if other_journal is None else other_journal))
        return compare_documents(
            _paired(*sides),
            name_a=sides[0].name,
            name_b=sides[1].name,
            labels=known,
            on_difference=on_difference,
            notes=[note for side in sides for note in side.notes],
        )


def _paired(a: Side, b: Side) -> Iterator[tuple[str, ComparedDocument | None, ComparedDocument | None]]:
    ours, theirs = set(a.keys()), set(b.keys())
    # Sorted: the same two batches give the same comparison, in whatever order their documents finished.
    for key in sorted(ours | theirs):
        yield key, a.document(key) if key in ours else None, b.document(key) if key in theirs else None


def _sides(stack: ExitStack, given: tuple[Comparable, Comparable], journals: tuple[Any, Any]) -> list[Side]:
    from pipeline_engine.journal import read_journal

    sides: dict[int, Side] = {}
    readers: dict[int, JournalReader] = {}
    for place, (what, journal) in enumerate(zip(given, journals, strict=True)):
        if isinstance(what, BatchResult) and what.journal is not None and what.batch is not None:
            reader = stack.enter_context(read_journal(what.journal))
            sides[place] = JournalSide(reader, reader.batch(what.batch))
        elif isinstance(what, BatchResult):
            sides[place] = stack.enter_context(FileSide(_out_of(what)))
        elif isinstance(what, str) and not Path(what).is_file():
            readers[place] = stack.enter_context(read_journal(_place(what, journal)))
        elif isinstance(what, str | Path):
            sides[place] = stack.enter_context(FileSide(Path(what)))
        else:
            sides[place] = ResultSide("AB"[place], what)
    for place, batch in _named(given, readers).items():
        sides[place] = JournalSide(readers[place], batch)
    return [sides[0], sides[1]]


def _out_of(batch: BatchResult) -> Path:
    if batch.out is None:
        raise LookupError(
            'a batch keeps no results. Give run_batch(…, out="results.jsonl") or journal=, or compare what '
            "iter_batch(…) has yielded."
        )
    return batch.out


def _place(name: str, journal: Any) -> Any:
    from pipeline_engine.journal import journal_place

    if journal is None:
        raise LookupError(f"{name!r} is no file, and a batch is looked up in a journal. Give journal=.")
    return journal_place(journal) if isinstance(journal, str | Path) else journal


def _named(given: Sequence[Comparable], readers: Mapping[int, JournalReader]) -> dict[int, StoredBatch]:
    """Return the batches that are given by name."""
    names = {place: str(given[place]) for place in readers}
    found = {place: readers[place].batch(name) for place, name in names.items() if name != "previous"}
    for place in readers.keys() - found.keys():
        if 1 - place not in found:
            raise LookupError('"previous" is the batch before another one: name that one, such as "last".')
        found[place] = _before(readers[place], found[1 - place])
    return found


def _before(reader: JournalReader, batch: StoredBatch) -> StoredBatch:
    for other in reader.batches(with_single=False):
        if other.pipeline == batch.pipeline and other.created_at < batch.created_at:
            return other
    raise LookupError(f"there is no batch of pipeline {batch.pipeline!r} before {batch.batch!r} in this journal.")
