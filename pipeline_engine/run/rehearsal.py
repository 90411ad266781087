"""What a pipeline as it is now would do with the documents of a journal: taken from there, or run again.

Each document goes through the real scheduler, with the real keys, prompts, conditions and checks. What is found in
the journal is used; what is not is noted and left out, and so is all that depends on it. Nothing is called, no
function of a step is run, and nothing is written.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pipeline_engine.errors import InputError
from pipeline_engine.run.engine import validate_inputs
from pipeline_engine.schedule import BoundJournal, BoundModel, Execution, Recall, StepRun, changes_between
from pipeline_engine.values import Completed, FindReply, OutputAccepted, Stopped, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline_engine.journal import JournalReader
    from pipeline_engine.journal.reading import StoredDocument
    from pipeline_engine.run.binding import BoundPlan
    from pipeline_engine.run.engine import Engine
    from pipeline_engine.values import Answer, Entry, Record

__all__ = ["Rehearsal", "StepTally"]

_NAME = "rehearsal"


@dataclass(slots=True)
class StepTally:
    """Count what would become of one step, over documents and items."""

    kept: int = 0
    """Taken from the journal."""
    again: int = 0
    """Run again, or for the first time."""
    depends: int = 0
    """It depends on something that would be run again: if that comes out as it was, this is kept."""
    calls: dict[str, int] = field(default_factory=dict)
    """How many calls would be sent at least, by their model."""


class Rehearsal:
    """Find out, document by document, what a pipeline would do.

    Args:
        engine: An open engine.
        bound: The pipeline with its models, bound by it.
        reader: The journal.
    """

    def __init__(self, engine: Engine, bound: BoundPlan, reader: JournalReader) -> None:
        self._engine = engine
        self._bound = bound
        self._reader = reader
        self.steps = {step.name: StepTally() for step in bound.plan.steps}
        self.documents = 0
        """How many were looked at."""
        self.touched = 0
        """How many of them would have something run again."""
        self.not_stored: list[str] = []
        """Documents whose inputs are not in the journal, or do not fit any more."""
        self._prices = _Prices(bound, reader)

    def changes(self, before: Mapping[str, Any]) -> list[str]:
        """Return how the pipeline differs from what it was, a sentence for each step that does."""
        return changes_between(before, self._bound.keys.parts)

    async def look_at(self, document: StoredDocument, *, is_left_alone: bool = False) -> None:
        """Count what would become of a document.

        Args:
            document: The document.
            is_left_alone: Whether a run would not touch it, so that only what is kept of it counts.

        Raises:
            JournalDataError: If what was saved of it is not what was written.
        """
        inputs = None if document.inputs is None else self._reader.inputs(document.inputs)
        try:
            values = None if inputs is None else self._values(inputs)
        except (InputError, ValueError):
            values = None
        if values is None:
            self.not_stored.append(document.document)
            return
        calls, outputs = self._reader.saved(document)
        plan = self._bound.plan
        left_out: list[StepRun] = []
        journal = BoundJournal(
            _Deaf(self._reader),
            self._bound.keys,
            plan.name,
            document.document,
            document.batch,
            _NAME,
            0,
            Recall(calls, outputs, plan.index_of.keys()),
            0.0,
            document.inputs,
            left_out=left_out,
        )
        execution = Execution(
            plan,
            values,
            self._bound.candidates,
            scheduler=self._engine.scheduler,
            executors=_Idle(),
            emit=_forget,
            dice=random.Random(0),
            run_id=_NAME,
            document=document.document,
            group=_NAME,
            journal=journal,
        )
        await execution.run()
        self.documents += 1
        self._count(execution, left_out, is_left_alone=is_left_alone)

    def _values(self, inputs: Mapping[str, Any]) -> list[Any]:
        plan = self._bound.plan
        read = {
            given.name: given.output.from_json(json.dumps(inputs[given.name]).encode())
            for given in plan.inputs
            if given.name in inputs
        }
        return validate_inputs(plan, {**{name: inputs[name] for name in inputs if name not in read}, **read})

    def _count(self, execution: Execution, left_out: Sequence[StepRun], *, is_left_alone: bool) -> None:
        noted: dict[int, set[int | None]] = {}
        for step_run in () if is_left_alone else left_out:
            noted.setdefault(step_run.step.index, set()).add(step_run.item)
            tally = self.steps[step_run.step.name]
            tally.again += 1
            if isinstance(step_run.candidate, BoundModel):
                name = step_run.candidate.name
                tally.calls[name] = tally.calls.get(name, 0) + 1
        self.touched += bool(noted)
        for step, outcome in zip(self._bound.plan.steps, execution.state.outcomes, strict=True):
            tally, again = self.steps[step.name], noted.get(step.index, set())
            items = execution.state.items(step.index)
            if items:
                tally.kept += sum(isinstance(ended, Completed) for ended in items)
                tally.depends += not is_left_alone and sum(
                    isinstance(ended, Stopped) and item not in again for item, ended in enumerate(items)
                )
            elif isinstance(outcome, Completed):
                tally.kept += 1
            elif isinstance(outcome, Stopped) and None not in again and not is_left_alone:
                tally.depends += 1

    def price(self, step: str) -> tuple[float, int]:
        """Return what the calls of a step that would be sent again cost, about, and of how many nobody knows it."""
        return self._prices.of(step, self.steps[step].calls)

    def is_call(self, step: str) -> bool:
        """Return whether a step asks a model."""
        return self._bound.plan.steps[self._bound.plan.index_of[step]].kind != "function"

    def price_of_one(self, step: str) -> float | None:
        """Return what one call of a step costs, about; None if nobody knows."""
        return self._prices.of_one(step)


class _Prices:
    """Know what the calls of steps have cost, and so what more of them would."""

    def __init__(self, bound: BoundPlan, reader: JournalReader) -> None:
        self._models: dict[str, list[BoundModel]] = {
            step.name: [candidate for candidate in bound.candidates[step.index] if isinstance(candidate, BoundModel)]
            for step in bound.plan.steps
        }
        self._known = reader.call_means(bound.plan.name)

    def of(self, step: str, calls: Mapping[str, int]) -> tuple[float, int]:
        usd, unknown = 0.0, 0
        for model, count in calls.items():
            one = self._one(step, model)
            usd += (one or 0.0) * count
            unknown += count if one is None else 0
        return usd, unknown

    def of_one(self, step: str) -> float | None:
        models = self._models[step]
        return self._one(step, models[0].name) if models else None

    def _one(self, step: str, model: str) -> float | None:
        recorded = self._known.get((step, model))
        if recorded is not None and recorded.cost_usd is not None:
            return recorded.cost_usd
        # Another model, or one whose price was not known: as many tokens as before, at its price today.
        bound = next((candidate for candidate in self._models[step] if candidate.name == model), None)
        means = [mean for (name, _), mean in self._known.items() if name == step and mean.input_tokens is not None]
        if bound is None or bound.price is None or not means:
            return None
        mean = max(means, key=lambda mean: mean.calls)
        cost = bound.price(Usage(round(mean.input_tokens or 0), round(mean.output_tokens or 0)), None)
        return cost.usd if cost.is_known else None


def _forget(record: Record) -> None:
    """Tell nobody: nothing happens."""


class _Idle:
    """Stands for those who run functions."""

    async def run(self, step_run: StepRun) -> Any:
        raise AssertionError(f"a rehearsal was about to run step {step_run.step.name!r}")


class _Deaf:
    """Stands for the journal in a rehearsal: what it is told is lost, and it answers from what is there."""

    worker = _NAME

    def __init__(self, reader: JournalReader) -> None:
        self._reader = reader

    def submit(
        self, entries: Sequence[Entry], done: Callable[[Sequence[Answer] | Exception], None] | None = None
    ) -> Sequence[Answer]:
        del done
        return [self._answer(entry) for entry in entries]

    def _answer(self, entry: Entry) -> Answer:
        if isinstance(entry, FindReply):
            return self._reader.cached(entry)
        return True if isinstance(entry, OutputAccepted) else None

    async def write(self, *entries: Entry) -> Sequence[Answer]:
        return self.submit(entries)

    async def wait_for_room(self) -> None:
        pass

    def may_call(self, pipeline: str, document: str) -> bool:
        del pipeline, document
        return False

    def has_lost(self, pipeline: str, document: str) -> bool:
        del pipeline, document
        return False
