"""What is kept of a run's results for the screen: counts, the first rows, the slowest document; never all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel
from pydantic_core import to_json

from pipeline_engine.report.numbers import spend_text
from pipeline_engine.text import one_line
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Completed,
    Cost,
    Dropped,
    Failed,
    HedgeFinished,
    Outcome,
    OutputRestored,
    Skipped,
    Status,
    Stopped,
    Usage,
)

if TYPE_CHECKING:
    from pipeline_engine.declare import Budget
    from pipeline_engine.plan import Plan
    from pipeline_engine.report import Trace
    from pipeline_engine.run.results import RunResult

__all__ = [
    "MAX_CELL",
    "Row",
    "Summary",
    "calls_saved",
    "compact",
    "outcome_text",
    "reason_of",
]

MAX_ROWS = 50
MAX_REASONS = 10
MAX_CELL = 300
"""More of an output is never shown in a table, however wide the terminal."""


@dataclass(frozen=True, slots=True)
class Row:
    """Hold one document's line of the table, already safe to print."""

    document: str
    status: Status
    took: float | None
    """Seconds from admission to the last outcome; None if it was not run."""
    cells: tuple[str, ...]
    """The output of each leaf."""


@dataclass(slots=True)
class Summary:
    """Take in one result after the other, in memory that does not grow with their number."""

    plan: Plan
    budget: Budget | None = None
    """What all calls together may cost."""
    stopped_by: str | None = None
    """What ended the run before all documents were read; None if they were."""
    counts: Counter[Status] = field(default_factory=Counter)
    """How many documents ended how."""
    usage: Usage = field(default_factory=Usage)
    """The tokens spent, as far as they are known."""
    cost: Cost = field(default_factory=Cost)
    """What the calls cost, as far as prices are known; the lost ones of second calls are among them."""
    restored: int = 0
    """How many documents had ended before: their results are the journal's."""
    left_alone: int = 0
    """How many of those had not completed."""
    calls_saved: int = 0
    """How many calls were not sent, because the journal had the replies, or what became of them."""
    rows: list[Row] = field(default_factory=list)
    """The first fifty that finished."""
    reasons: list[tuple[str, str]] = field(default_factory=list)
    """Document and reason of the first ten that did not complete."""
    first: list[tuple[str, str]] = field(default_factory=list)
    """The output of every step of the first document: shown where it is the only one."""
    _slowest: tuple[bool, float, RunResult] | None = None

    @property
    def finished(self) -> int:
        """How many results there were."""
        return self.counts.total()

    @property
    def not_completed(self) -> int:
        """How many documents ended without all of their outputs."""
        return self.finished - self.counts["completed"]

    @property
    def spent(self) -> str:
        """What was spent, beside the budget if there is one; nothing if nothing was."""
        caps = (None, None) if self.budget is None else (self.budget.usd, self.budget.tokens)
        return spend_text(self.cost, self.usage, *caps)

    @property
    def slowest(self) -> Trace | None:
        """The trace of the slowest completed document; of the slowest one at all, if none completed."""
        return None if self._slowest is None else self._slowest[2].trace

    @property
    def ended(self) -> int:
        """How many documents came to an end of their own; the others were stopped, or not started."""
        return self.finished - self.counts["stopped"]

    def add(self, result: RunResult) -> Row:
        """Take in a result and return its row."""
        self.counts[result.status] += 1
        if result.has_ended_before:
            self.restored += 1
            self.left_alone += result.status != "completed"
        self.calls_saved += calls_saved(result)
        took = None
        if result.records:
            took = result.records[-1].at - result.records[0].at
            self.usage += result.usage
            self.cost += cost_of(result)
            self._keep_slowest(result, took)
        if result.status != "completed" and len(self.reasons) < MAX_REASONS:
            self.reasons.append((one_line(result.document), reason_of(result)))
        if not self.first:
            self.first = [(one_line(step.name), outcome_text(result.outcome(step.name))) for step in self.plan.steps]
        leaves = [self.plan.steps[index].name for index in self.plan.leaves]
        cells = tuple(outcome_text(result.outcome(leaf)) for leaf in leaves)
        row = Row(one_line(result.document), result.status, took, cells)
        if len(self.rows) < MAX_ROWS:
            self.rows.append(row)
        return row

    def _keep_slowest(self, result: RunResult, took: float) -> None:
        is_completed = result.status == "completed"
        if self._slowest is None or (is_completed, took) > self._slowest[:2]:
            self._slowest = (is_completed, took, result)


def calls_saved(result: RunResult) -> int:
    """Return how many calls a document has not needed, thanks to the journal: at least one for each output."""
    asking = {step.name: step.index for step in result.plan.steps if step.kind != "function"}
    if not result.is_restored:
        return sum(
            (isinstance(record, OutputRestored) or (isinstance(record, AttemptStarted) and record.is_replayed))
            and record.step in asking
            for record in result.records
        )
    outcomes: list[Outcome[Any]] = []
    for step, index in asking.items():
        outcomes += result.state.items(index) or (result.outcome(step),)
    return sum(isinstance(outcome, Completed) and outcome.via != "fallback:value" for outcome in outcomes)


def cost_of(result: RunResult) -> Cost:
    """Return what a document's calls cost, those included whose replies came second and do not count."""
    paid = [record.cost for record in result.records if isinstance(record, AttemptFinished | HedgeFinished)]
    return sum((cost for cost in paid if cost is not None), Cost())


def reason_of(result: RunResult) -> str:
    """Return why a document did not complete, without its name: that stands before it already."""
    named = repr(result.document)
    return one_line(result.reason.removeprefix(f"{named} ").replace(f" of document {named}", ""))


def outcome_text(outcome: Outcome[Any]) -> str:
    """Return how a step ended as a cell of a table.

    Example:
        >>> outcome_text(Completed(0.5)), outcome_text(Skipped("when", is_by_choice=True))
        ('0.5', '–')
    """
    if isinstance(outcome, Completed):
        shown = compact(outcome.value)
        return f"(fallback) {shown}" if outcome.via else shown
    if isinstance(outcome, Skipped):
        return "–" if outcome.is_by_choice else "✗ skipped"
    if isinstance(outcome, Stopped):
        return "✗ stopped"
    if isinstance(outcome, Failed | Dropped):
        return "✗ failed"
    return ""


def compact(value: object) -> str:
    """Return an output on one line: of a model with one field, just that field.

    Example:
        >>> class Title(BaseModel):
        ...     text: str
        >>> compact(Title(text="A title")), compact([Title(text="a"), Title(text="b")]), compact(0.12345)
        ('A title', 'a, b', '0.123')
    """
    if isinstance(value, BaseModel):
        fields = [(name, getattr(value, name)) for name in type(value).model_fields]
        if len(fields) == 1:
            return compact(fields[0][1])
        return _cut(", ".join(f"{name}={compact(inner)}" for name, inner in fields))
    if isinstance(value, str):
        return _cut(value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, list | tuple | set | frozenset):
        # Fifty items fill any cell; a million of them need not be turned into text for it.
        shown = [compact(item) for _, item in zip(range(50), value, strict=False)]
        return _cut(", ".join(shown)) if shown else "none"
    return _cut(to_json(value, fallback=repr).decode())


def _cut(text: str) -> str:
    # Cut twice: the first time so that a long text is not made safe for nothing.
    return one_line(text[: 2 * MAX_CELL], MAX_CELL)
