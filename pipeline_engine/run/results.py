"""What a run gives back: typed outputs, outcomes, the calls that were made, and the trace."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, overload

from pydantic_core import PydanticSerializationError, to_jsonable_python

from pipeline_engine.errors import EarlierError, InputError, RunError, StepError
from pipeline_engine.schedule import RunState
from pipeline_engine.text import one_line, sentence_list
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Call,
    Completed,
    Cost,
    Dropped,
    Failed,
    HedgeFinished,
    Outcome,
    Record,
    Skipped,
    Status,
    Stopped,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.declare import Step
    from pipeline_engine.plan import Plan
    from pipeline_engine.report import Trace

__all__ = ["RunResult"]

T = TypeVar("T")


class RunResult:
    """Hold how every step of one document's run ended; a step's failure never raises by itself.

    Example:
        >>> from pipeline_engine import Pipeline, run_pipeline
        >>> pipeline = Pipeline("halve", inputs={"number": int})
        >>> @pipeline.step
        ... def half(number: int) -> float:
        ...     return 1 / number
        >>> run_pipeline(pipeline, {"number": 2})[half]
        0.5
        >>> result = run_pipeline(pipeline, {"number": 0})
        >>> result.status, result.outcome(half)
        ('failed', Failed(error=ZeroDivisionError('division by zero')))
    """

    def __init__(
        self,
        state: RunState,
        records: Sequence[Record],
        *,
        document: str,
        run_id: str,
        is_restored: bool = False,
    ) -> None:
        self._state = state
        self._records = records
        self.document = document
        """The document's key."""
        self.run_id = run_id
        """New for every execution."""
        self.status: Status = state.status()
        """Judged by the leaves, the steps that nobody needs: "completed", "partial", "failed" or "stopped"."""

        self.is_restored = is_restored
        """Whether it was read back from a journal: the document had ended before, and nothing was run."""
        self.error: Exception | None = None
        """Why the document was not run at all: its inputs do not fit, or could not be read."""

    @classmethod
    def refused(cls, plan: Plan, document: str, error: Exception) -> RunResult:
        """Return the result of a document that was not run."""
        state = RunState(plan, [None] * len(plan.inputs))
        for step in plan.steps:
            state.outcomes[step.index] = Skipped("inputs", is_by_choice=False)
        result = cls(state, (), document=document, run_id="")
        result.error = error
        return result

    @property
    def has_ended_before(self) -> bool:
        """Whether a journal knew how the document ends, and nothing was run."""
        return self.is_restored or isinstance(self.error, EarlierError)

    @property
    def state(self) -> RunState:
        """How far every step has come; for the engine's own use."""
        return self._state

    @property
    def plan(self) -> Plan:
        """The plan that was run."""
        return self._state.plan

    def __repr__(self) -> str:
        steps = {step.name: _word(self._state.outcomes[step.index]) for step in self.plan.steps}
        return f"RunResult(document={one_line(self.document, 40)!r}, status={self.status!r}, steps={steps})"

    def _repr_html_(self) -> str:
        from pipeline_engine.report.notebook import run_html

        values = self.to_dict()["outputs"]
        outcomes = {step.name: (self._state.outcomes[step.index], values.get(step.name)) for step in self.plan.steps}
        errors = [str(error) for error in self.errors] + ([str(self.error)] if self.error is not None else [])
        trace = self.trace if self._records else None
        return run_html(self.plan.name, self.document, self.status, outcomes, errors, trace, self.cost, self.usage)

    @overload
    def __getitem__(self, step: Step[..., T]) -> T: ...
    @overload
    def __getitem__(self, step: str) -> Any: ...
    def __getitem__(self, step: Step[..., Any] | str) -> Any:
        """Return a step's output.

        Raises:
            StepError: If it has none; the original cause is chained.
            KeyError: If the pipeline has no such step.
        """
        index = self._index(step)
        outcome = self._state.outcomes[index]
        if isinstance(outcome, Completed):
            return outcome.value
        raise self._error(index)

    @overload
    def outcome(self, step: Step[..., T]) -> Outcome[T]: ...
    @overload
    def outcome(self, step: str) -> Outcome[Any]: ...
    def outcome(self, step: Step[..., Any] | str) -> Outcome[Any]:
        """Return how a step ended.

        Raises:
            KeyError: If the pipeline has no such step.
        """
        outcome = self._state.outcomes[self._index(step)]
        return outcome if outcome is not None else Stopped("the run did not get there")

    def items(self, step: Step[..., Any] | str) -> tuple[Outcome[Any], ...]:
        """Return how each item of a mapped step ended, in the order of the list it is mapped over.

        Raises:
            KeyError: If the pipeline has no such step.
            ValueError: If the step is not mapped.
        """
        planned = self.plan.steps[self._index(step)]
        if not planned.is_mapped:
            raise ValueError(f"step {planned.name!r} is not mapped and has no items. Ask for its outcome().")
        return self._state.items(planned.index)

    def calls(self, step: Step[..., Any] | str) -> tuple[Call, ...]:
        """Return every call that an llm step made: the exact messages sent and the raw reply.

        Raises:
            KeyError: If the pipeline has no such step.
        """
        name = self.plan.steps[self._index(step)].name
        return tuple(
            record.call
            for record in self._records
            if isinstance(record, AttemptFinished) and record.step == name and record.call is not None
        )

    @property
    def outputs(self) -> Mapping[str, Any]:
        """The output of every step that has one, by name."""
        return {
            step.name: outcome.value
            for step in self.plan.steps
            if isinstance(outcome := self._state.outcomes[step.index], Completed)
        }

    @property
    def records(self) -> Sequence[Record]:
        """The run's records, in order."""
        return self._records

    @cached_property
    def trace(self) -> Trace:
        """The run as spans: where the time went."""
        from pipeline_engine.report import Trace

        return Trace.from_records(self._records)

    @property
    def errors(self) -> tuple[StepError, ...]:
        """One error for each step that failed, its cause chained; not for those skipped because of it."""
        return tuple(
            self._error(step.index) for step in self.plan.steps if isinstance(self._state.outcomes[step.index], Failed)
        )

    @property
    def usage(self) -> Usage:
        """The tokens that all calls together spent, as far as providers told."""
        spent = [r.usage for r in self._records if isinstance(r, AttemptFinished) and r.usage is not None]
        return sum(spent, Usage())

    @property
    def cost(self) -> Cost:
        """What all calls together cost, as far as prices are known; second calls that lost are estimated."""
        told = (r for r in self._records if isinstance(r, AttemptFinished | HedgeFinished))
        costs = [record.cost for record in told if record.cost is not None]
        return sum(costs, Cost())

    @property
    def reason(self) -> str:
        """Why the document is not completed, on one line; empty if it is."""
        if self.error is not None:
            return one_line(str(self.error))
        stopped = [f"stopped: {o.reason}" for o in self._state.outcomes if isinstance(o, Stopped)]
        problems = stopped[:1] + [one_line(str(error)) for error in self.errors]
        return problems[0] + (f" (and {len(problems) - 1} more)" if len(problems) > 1 else "") if problems else ""

    def raise_for_failure(self) -> None:
        """Do nothing if no step failed or was stopped.

        Raises:
            RunError: If steps failed; it holds a `StepError` for each.
            PipelineEngineError: If the document was not run at all: the error says why.
        """
        if self.error is not None:
            raise self.error
        errors = list(self.errors)
        errors += [
            self._error(step.index) for step in self.plan.steps if isinstance(self._state.outcomes[step.index], Stopped)
        ]
        if errors:
            raise RunError(self.document, errors) from errors[0].__cause__

    def to_dict(self) -> dict[str, Any]:
        """Return the result in JSON's types: document, status, outputs, and why steps have none."""
        return {
            "document": self.document,
            "status": self.status,
            "outputs": {name: _json_form(value) for name, value in self.outputs.items()},
            "errors": {error.step: str(error) for error in self.errors}
            | ({"inputs": str(self.error)} if self.error is not None else {}),
        }

    def _index(self, step: Step[..., Any] | str) -> int:
        name = step if isinstance(step, str) else step.name
        index = self.plan.index_of.get(name)
        if index is not None and (isinstance(step, str) or self.plan.steps[index].declaration is step):
            return index
        if name in [given.name for given in self.plan.inputs]:
            raise KeyError(f"{name!r} is an input of pipeline {self.plan.name!r}, not a step.")
        if index is not None:
            raise KeyError(f"step {name!r} was declared in another pipeline than {self.plan.name!r}.")
        known = sentence_list(sorted(self.plan.index_of))
        raise KeyError(f"pipeline {self.plan.name!r} has no step {name!r}. Its steps are {known}.")

    def _error(self, index: int) -> StepError:
        """Return why a step has no output, with the original cause chained."""
        name = self.plan.steps[index].name
        outcome = self._state.outcomes[index]
        if isinstance(outcome, Failed | Dropped):
            tries = sum(isinstance(record, AttemptStarted) and record.step == name for record in self._records)
            after = f" after {tries} attempts" if tries > 1 else ""
            error = StepError(name, self.document, f"failed{after}: {_described(outcome.error)}")
            error.__cause__ = outcome.error
            return error
        if isinstance(outcome, Skipped) and outcome.is_by_choice:
            why = "its condition was false" if outcome.because == "when" else f"{outcome.because!r} was skipped"
            why = "no step called for it" if outcome.because == "not called for" else why
            return StepError(name, self.document, f"was skipped by choice: {why}. Ask for its outcome() first.")
        if isinstance(outcome, Skipped) and self.error is not None:
            error = StepError(name, self.document, f"did not run: {self.error}")
            error.__cause__ = self.error
            return error
        if isinstance(outcome, Skipped):
            first = self._first_failure(index)
            origin = self._error(first) if first is not None else None
            reason = f"was skipped because {outcome.because!r} has no output"
            failed_step = self.plan.steps[first].name if first is not None else outcome.because
            error = StepError(
                name, self.document, f"{reason}: {origin}" if origin else f"{reason}.", failed_step=failed_step
            )
            error.__cause__ = origin.__cause__ if origin else None
            return error
        reason = outcome.reason if isinstance(outcome, Stopped) else "the run did not get there"
        return StepError(name, self.document, f"was stopped: {reason}. Run the document again to finish it.")

    def _first_failure(self, index: int) -> int | None:
        """Follow `because` to the step that failed."""
        seen: set[int] = set()
        while index not in seen:
            seen.add(index)
            outcome = self._state.outcomes[index]
            if isinstance(outcome, Failed):
                return index
            following = self.plan.index_of.get(outcome.because) if isinstance(outcome, Skipped) else None
            if following is None:
                return None
            index = following
        return None


def _json_form(value: Any) -> Any:
    """Return a value in JSON's types; what has no such form is shown as text, and never ends a batch."""
    try:
        return to_jsonable_python(value, fallback=_shown, inf_nan_mode="null", bytes_mode="utf8")
    except (PydanticSerializationError, ValueError, TypeError, RecursionError):
        return _shown(value)


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - a value's own __repr__ may do anything
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def _described(error: Exception) -> str:
    text = str(error)
    name = type(error).__name__
    if isinstance(error, InputError) or text.startswith(("model ", "step ", "the ")):
        return text
    return f"{name}: {text}" if text else name


def _word(outcome: Outcome[Any] | None) -> str:
    return "open" if outcome is None else type(outcome).__name__.lower()
