"""Two batches side by side, on the same documents: outputs, ends, cost and time, per document and per step. Pure.

Documents are taken in one after the other; what grows with them is a few numbers for each.
"""

from __future__ import annotations

import heapq
from array import array
from collections import Counter
from dataclasses import dataclass, field
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline_engine.report.differences import FieldSums, add_fields, distance_between, fields_of, is_equal, short_text
from pipeline_engine.report.labelled import LabelSums, expectations, is_right
from pipeline_engine.report.numbers import counted, seconds_text, usd_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from os import PathLike
    from pathlib import Path

    from pipeline_engine.report.differences import FieldComparison
    from pipeline_engine.report.labelled import LabelComparison
    from pipeline_engine.values.usage import Cost

__all__ = [
    "ComparedDocument",
    "ComparedStep",
    "Comparison",
    "DocumentDifference",
    "FigureComparison",
    "FigureName",
    "Spent",
    "StepComparison",
    "StepDifference",
    "compare_documents",
]

FigureName = Literal["cost_usd", "input_tokens", "output_tokens", "seconds", "attempts", "retries"]
_FIGURES: tuple[FigureName, ...] = ("cost_usd", "input_tokens", "output_tokens", "seconds", "attempts", "retries")
_SHOWN_VALUE = 300
_MAX_LABELS = 200
_SHOWN_NAMES = 5


class Spent(NamedTuple):
    """What a document or a step has taken in one batch. None is "nobody knows", which is not zero."""

    cost: Cost | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    seconds: float | None = None
    attempts: int | None = None
    retries: int | None = None

    def figure(self, name: FigureName) -> float | None:
        """Return one of the figures; a cost that does not hold every call is not known."""
        if name == "cost_usd":
            return self.cost.usd if self.cost is not None and self.cost.is_known else None
        found: float | None = getattr(self, name)
        return found

    def plus(self, other: Spent) -> Spent:
        """Return what both have taken together, as far as it is known."""
        return Spent(
            _sum(self.cost, other.cost),
            _sum(self.input_tokens, other.input_tokens),
            _sum(self.output_tokens, other.output_tokens),
            _sum(self.seconds, other.seconds),
            _sum(self.attempts, other.attempts),
            _sum(self.retries, other.retries),
        )


def _sum(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


class ComparedStep(NamedTuple):
    """What one batch tells of one step of one document."""

    outcome: str
    """"completed", "failed", "skipped" or "stopped"; "none" if it was not reached, or nobody tells."""
    output: Any = None
    """Its output, in JSON's types."""
    is_kept: bool = True
    """Whether the output of a completed step is still there."""
    error: str = ""
    """Why it has none."""
    is_restored: bool = False
    """Whether it was taken from a journal: the batch has spent nothing for it."""
    spent: Spent = Spent()
    """What it has taken; nothing is known of one that was taken from a journal."""

    @property
    def has_output(self) -> bool:
        """Whether it was completed."""
        return self.outcome == "completed"


class ComparedDocument(NamedTuple):
    """What one batch tells of one document."""

    status: str
    """How it ended."""
    steps: Mapping[str, ComparedStep]
    """Its steps, by name."""
    spent: Spent = Spent()
    """What it has taken in this batch."""


class StepDifference(NamedTuple):
    """How one step of one document differs."""

    step: str
    outcome_a: str
    outcome_b: str
    distance: float
    """How far the outputs are apart, from 0 to 1; 1 if only one side has any."""
    text_a: str
    """A's output, or why there is none, on one line, safe to print, and cut."""
    text_b: str
    """B's output, or why there is none."""


class DocumentDifference(NamedTuple):
    """How one document differs."""

    document: str
    """Its key."""
    status_a: str
    status_b: str
    distance: float
    """How far apart its steps are, added up."""
    steps: tuple[StepDifference, ...]
    """The steps that differ, in the pipeline's order."""

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return self._asdict() | {"distance": round(self.distance, 6), "steps": [one._asdict() for one in self.steps]}


@dataclass(frozen=True, slots=True)
class FigureComparison:
    """Compare one figure, over those documents for which both sides know it."""

    name: FigureName
    count: int
    """For how many documents both know it."""
    total_a: float
    total_b: float
    p50_a: float
    p50_b: float
    p95_a: float
    p95_b: float

    @property
    def ratio(self) -> float | None:
        """How many times as much B takes; None if A takes nothing."""
        return self.total_b / self.total_a if self.total_a else None

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        names = ("count", "total_a", "total_b", "p50_a", "p50_b", "p95_a", "p95_b", "ratio")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True, slots=True)
class StepComparison:
    """Compare one step over the documents that both sides have run."""

    step: str
    """Its name."""
    equal: int
    """In how many documents both outputs are the same."""
    different: int
    """In how many they differ."""
    only_a: int
    """In how many only A has an output."""
    only_b: int
    """In how many only B has one."""
    unknown: int
    """In how many an output was made, but is not kept any more."""
    restored_a: int
    """How many of A's outputs were taken from a journal, so that A has spent nothing for them."""
    restored_b: int
    """How many of B's."""
    outcomes: Mapping[tuple[str, str], int]
    """How often it ended how in A and in B, where that differs."""
    fields: tuple[FieldComparison, ...]
    """How each field of the outputs differs."""
    figures: Mapping[FigureName, FigureComparison]
    """What it took, where both sides have executed it."""

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "step": self.step,
            "equal": self.equal,
            "different": self.different,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "unknown": self.unknown,
            "restored_a": self.restored_a,
            "restored_b": self.restored_b,
            "outcomes": _changes_told(self.outcomes),
            "fields": [one.told() for one in self.fields],
            "figures": {name: figure.told() for name, figure in self.figures.items()},
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Say how two batches differ on the documents that both have run.

    Example:
        >>> a = [("1.md", ComparedDocument("completed", {"label": ComparedStep("completed", "news")}))]
        >>> b = [("1.md", ComparedDocument("completed", {"label": ComparedStep("completed", "other")}))]
        >>> comparison = compare_documents((key, dict(a).get(key), dict(b).get(key)) for key in ["1.md"])
        >>> comparison.different, comparison.steps[0].different
        (1, 1)
        >>> comparison.verdict
        '1 document in both; the outputs of 1 differ, most in label (1)'
    """

    name_a: str
    """What the first batch is called."""
    name_b: str
    """What the second batch is called."""
    documents: int
    """How many documents both have run."""
    only_a: int
    """How many documents only the first has."""
    only_b: int
    """How many documents only the second has."""
    equal: int
    """How many documents end alike with the same outputs."""
    different: int
    """How many do not."""
    unknown: int
    """Of how many nothing differs that is known, but some outputs are not kept any more."""
    statuses: Mapping[tuple[str, str], int]
    """How often a document ended how in A and in B, equal ends included."""
    figures: Mapping[FigureName, FigureComparison]
    """What documents took."""
    unpriced_a: int
    """How many calls of A have no known price."""
    unpriced_b: int
    """How many calls of B have no known price."""
    steps: tuple[StepComparison, ...]
    """The steps, in the pipeline's order."""
    labels: tuple[LabelComparison, ...]
    """How often each side is right, where it was said what is right."""
    differences: tuple[DocumentDifference, ...] = field(repr=False)
    """The documents that differ most, those first that end differently."""
    notes: tuple[str, ...] = ()
    """What a reader should know, a sentence each."""

    @property
    def verdict(self) -> str:
        """The whole in one sentence."""
        parts = [f"{counted(self.documents, 'document')} in both"]
        if self.different:
            changed = max(self.steps, key=lambda step: step.different + step.only_a + step.only_b, default=None)
            count = 0 if changed is None else changed.different + changed.only_a + changed.only_b
            most = f", most in {changed.step} ({count})" if changed is not None and count else ""
            parts.append(f"the outputs of {self.different:,} differ{most}")
        elif self.documents:
            parts.append("nothing differs that is known" if self.unknown else "no output differs")
        restored = [sum(step.restored_a for step in self.steps), sum(step.restored_b for step in self.steps)]
        if restored[0] == restored[1]:  # else one side has paid for less, and its figures say nothing
            cost, seconds = self.figures.get("cost_usd"), self.figures.get("seconds")
            if cost is not None and cost.ratio is not None:
                parts.append(
                    f"B costs {cost.ratio:.2f} × as much ({usd_text(cost.total_a)} → {usd_text(cost.total_b)})"
                )
            if seconds is not None and seconds.ratio is not None:
                took = f"{seconds_text(seconds.total_a)} → {seconds_text(seconds.total_b)}"
                parts.append(f"its documents take {seconds.ratio:.2f} × as long ({took})")
        return "; ".join(parts)

    def told(self) -> dict[str, Any]:
        """Return it in JSON's types."""
        return {
            "a": self.name_a,
            "b": self.name_b,
            "documents": self.documents,
            "only_a": self.only_a,
            "only_b": self.only_b,
            "equal": self.equal,
            "different": self.different,
            "unknown": self.unknown,
            "statuses": _changes_told(self.statuses),
            "figures": {name: figure.told() for name, figure in self.figures.items()},
            "unpriced_a": self.unpriced_a,
            "unpriced_b": self.unpriced_b,
            "steps": [step.told() for step in self.steps],
            "labels": [label.told() for label in self.labels],
            "differences": [one.told() for one in self.differences],
            "notes": list(self.notes),
        }

    def to_html(self, path: str | PathLike[str]) -> Path:
        """Write the comparison as one self-contained page and return its path.

        The page loads nothing, runs no script, and shows hostile text as text.
        """
        from pipeline_engine.report.comparison_page import write_comparison

        return write_comparison(self, path)

    def _repr_html_(self) -> str:
        from pipeline_engine.report.comparison_page import comparison_html

        return comparison_html(self)


def _changes_told(changes: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    return [{"a": a, "b": b, "count": count} for (a, b), count in changes.items()]


def compare_documents(
    documents: Iterable[tuple[str, ComparedDocument | None, ComparedDocument | None]],
    *,
    name_a: str = "A",
    name_b: str = "B",
    labels: Mapping[str, Mapping[str, Any]] | None = None,
    on_difference: Callable[[Mapping[str, Any]], None] | None = None,
    max_differences: int = 100,
    notes: Iterable[str] = (),
) -> Comparison:
    """Return how two batches differ.

    Args:
        documents: The key of each document, and what A and B tell of it; None where one does not have it.
        name_a: What the first batch is called.
        name_b: What the second batch is called.
        labels: What is right, by document: values by step, or by step and field.
        on_difference: Called with each document that differs, its outputs in full.
        max_differences: How many of the documents that differ most are kept in the comparison.
        notes: What a reader should know beforehand, a sentence each.
    """
    sums = _Sums(labels or {}, max_differences)
    for document, a, b in documents:
        difference = sums.add(document, a, b)
        if difference is not None and on_difference is not None and a is not None and b is not None:
            on_difference(_in_full(difference, a, b))
    return sums.result(name_a, name_b, tuple(notes))


def _in_full(difference: DocumentDifference, a: ComparedDocument, b: ComparedDocument) -> dict[str, Any]:
    steps = {
        one.step: {
            "outcome_a": one.outcome_a,
            "outcome_b": one.outcome_b,
            "distance": round(one.distance, 6),
            "a": a.steps.get(one.step, _NOT_THERE).output,
            "b": b.steps.get(one.step, _NOT_THERE).output,
            "error_a": a.steps.get(one.step, _NOT_THERE).error or None,
            "error_b": b.steps.get(one.step, _NOT_THERE).error or None,
        }
        for one in difference.steps
    }
    return {
        "document": difference.document,
        "status_a": difference.status_a,
        "status_b": difference.status_b,
        "distance": round(difference.distance, 6),
        "steps": steps,
    }


_NOT_THERE = ComparedStep("none")


class _Sums:
    def __init__(self, labels: Mapping[str, Mapping[str, Any]], max_differences: int) -> None:
        self._expected = {document: expectations(values) for document, values in labels.items()}
        self._labels: dict[str, LabelSums] = {}
        self._met: set[str] = set()
        self._max_differences = max_differences
        self._counts: Counter[str] = Counter()
        self._statuses: Counter[tuple[str, str]] = Counter()
        self._figures = _FigureSums()
        self._unpriced = {"a": 0, "b": 0}
        self._steps: dict[str, _StepSums] = {}
        self._worst: list[tuple[bool, float, int, DocumentDifference]] = []

    def add(self, document: str, a: ComparedDocument | None, b: ComparedDocument | None) -> DocumentDifference | None:
        """Take in one document, and return how it differs; None if it does not, or only one side has it."""
        self._judge(document, a, b)
        if a is None or b is None:
            self._counts["only_b" if a is None else "only_a"] += 1
            return None
        self._statuses[a.status, b.status] += 1
        self._figures.add(a.spent, b.spent)
        for side, spent in (("a", a.spent), ("b", b.spent)):
            self._unpriced[side] += 0 if spent.cost is None else spent.cost.unpriced_calls
        found, unknown = [], 0
        for name in dict.fromkeys([*a.steps, *b.steps]):
            step = self._steps.get(name)
            if step is None:
                step = self._steps[name] = _StepSums(name)
            difference, is_unknown = step.add(a.steps.get(name, _NOT_THERE), b.steps.get(name, _NOT_THERE))
            unknown += is_unknown
            if difference is not None:
                found.append(difference)
        if not found and a.status == b.status:
            self._counts["unknown" if unknown else "equal"] += 1
            return None
        self._counts["different"] += 1
        told = DocumentDifference(document, a.status, b.status, sum(one.distance for one in found), tuple(found))
        entry = (a.status != b.status, told.distance, -self._counts["different"], told)
        if len(self._worst) < self._max_differences:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heappushpop(self._worst, entry)
        return told

    def _judge(self, document: str, a: ComparedDocument | None, b: ComparedDocument | None) -> None:
        expected = self._expected.get(document)
        if expected is None:
            return
        self._met.add(document)
        for name, value in expected.items():
            sums = self._labels.get(name)
            if sums is None:
                if len(self._labels) >= _MAX_LABELS:
                    continue
                sums = self._labels[name] = LabelSums(name)
            found = None if a is None or b is None else (_place(a, name), _place(b, name))
            if found is None or not all(step.is_kept for step, _ in found):
                sums.leave_out()
                continue
            right = [step.has_output and is_right(value, step.output, path) for step, path in found]
            has = [step.has_output for step, _ in found]
            sums.add(is_right_a=right[0], is_right_b=right[1], has_a=has[0], has_b=has[1])

    def result(self, name_a: str, name_b: str, notes: tuple[str, ...]) -> Comparison:
        counts = self._counts
        both = counts["equal"] + counts["different"] + counts["unknown"]
        steps = tuple(sums.result() for sums in self._steps.values())
        return Comparison(
            name_a,
            name_b,
            both,
            counts["only_a"],
            counts["only_b"],
            counts["equal"],
            counts["different"],
            counts["unknown"],
            dict(self._statuses.most_common()),
            self._figures.result(),
            self._unpriced["a"],
            self._unpriced["b"],
            steps,
            tuple(sums.result() for sums in self._labels.values()),
            tuple(entry[-1] for entry in sorted(self._worst, key=lambda entry: entry[:3], reverse=True)),
            (*notes, *self._notes(steps)),
        )

    def _notes(self, steps: tuple[StepComparison, ...]) -> Iterable[str]:
        for side in ("a", "b"):
            restored = sum(getattr(step, f"restored_{side}") for step in steps)
            if restored:
                yield (
                    f"{side.upper()} has taken {counted(restored, 'output')} from a journal: what it has spent on "
                    "its documents is the less for it. Figures of steps are of those that both have executed."
                )
        lost = sum(step.unknown for step in steps)
        if lost:
            yield f"{counted(lost, 'output')} cannot be compared: the journal does not keep them any more."
        for side in ("a", "b"):
            if self._unpriced[side]:
                calls = counted(self._unpriced[side], "call")
                yield f"{calls} of {side.upper()} of unknown price: costs are of the documents without such calls."
        strangers = [document for document in self._expected if document not in self._met]
        if strangers:
            names = ", ".join(short_text(document, 60) for document in strangers[:_SHOWN_NAMES])
            more = f" and {len(strangers) - _SHOWN_NAMES} more" if len(strangers) > _SHOWN_NAMES else ""
            yield f"{counted(len(strangers), 'labelled document')} in neither batch: {names}{more}."
        known = {step.step for step in steps}
        unknown = [name for name in self._labels if name.partition(".")[0] not in known and name not in known]
        if unknown and known:
            names = ", ".join(short_text(name, 60) for name in unknown[:_SHOWN_NAMES])
            yield f"no step has the name of these labels: {names}."


def _place(document: ComparedDocument, name: str) -> tuple[ComparedStep, str]:
    """Return the step and the field that a label is for."""
    if name in document.steps:
        return document.steps[name], ""
    step, _, path = name.partition(".")
    return document.steps.get(step, _NOT_THERE), path


class _StepSums:
    def __init__(self, name: str) -> None:
        self._name = name
        self._counts: Counter[str] = Counter()
        self._outcomes: Counter[tuple[str, str]] = Counter()
        self._fields: dict[str, FieldSums] = {}
        self._figures = _FigureSums()

    def add(self, a: ComparedStep, b: ComparedStep) -> tuple[StepDifference | None, bool]:
        """Take in one document; return how the step differs in it, and whether that cannot be known."""
        self._counts["restored_a"] += a.has_output and a.is_restored
        self._counts["restored_b"] += b.has_output and b.is_restored
        if not a.is_restored and not b.is_restored:
            self._figures.add(a.spent, b.spent)
        if a.outcome != b.outcome and (a.has_output or b.has_output or "none" not in (a.outcome, b.outcome)):
            self._outcomes[a.outcome, b.outcome] += 1
        distance = 1.0
        if a.has_output and b.has_output:
            if not (a.is_kept and b.is_kept):
                self._counts["unknown"] += 1
                return None, True
            add_fields(self._fields, fields_of(a.output), fields_of(b.output))
            if is_equal(a.output, b.output):
                self._counts["equal"] += 1
                return None, False
            self._counts["different"] += 1
            distance = distance_between(a.output, b.output)
        elif a.has_output or b.has_output:
            self._counts["only_a" if a.has_output else "only_b"] += 1
        else:
            return None, False
        return StepDifference(self._name, a.outcome, b.outcome, distance, _shown(a), _shown(b)), False

    def result(self) -> StepComparison:
        counts = self._counts
        return StepComparison(
            self._name,
            counts["equal"],
            counts["different"],
            counts["only_a"],
            counts["only_b"],
            counts["unknown"],
            counts["restored_a"],
            counts["restored_b"],
            dict(self._outcomes.most_common()),
            tuple(sums.result() for sums in self._fields.values()),
            self._figures.result(),
        )


def _shown(step: ComparedStep) -> str:
    if not step.has_output:
        return short_text(step.error or f"({step.outcome})", _SHOWN_VALUE)
    return short_text(step.output, _SHOWN_VALUE) if step.is_kept else "(not kept)"


class _FigureSums:
    """Keep each figure of both sides: two numbers for each document, because percentiles need all of them."""

    def __init__(self) -> None:
        self._pairs = {name: (array("d"), array("d")) for name in _FIGURES}

    def add(self, a: Spent, b: Spent) -> None:
        for name, (ours, theirs) in self._pairs.items():
            one, other = a.figure(name), b.figure(name)
            if one is not None and other is not None:
                ours.append(one)
                theirs.append(other)

    def result(self) -> dict[FigureName, FigureComparison]:
        return {name: _figure(name, *pairs) for name, pairs in self._pairs.items() if pairs[0]}


def _figure(name: FigureName, a: array[float], b: array[float]) -> FigureComparison:
    ours, theirs = sorted(a), sorted(b)
    middle, late = (max(0, ceil(share * len(ours)) - 1) for share in (0.5, 0.95))
    return FigureComparison(
        name, len(ours), sum(ours), sum(theirs), ours[middle], theirs[middle], ours[late], theirs[late]
    )
