"""What may run now: the state of one document's run, as a pure machine without clock, tasks or I/O.

The machine is told what happened (`settle`, `answer`, `demand`) and answers with decisions, which
its driver carries out in order. Rules that it keeps, whatever the order of events:

- A step starts when its last need is settled, and exactly once.
- Skipping by choice wins over failure: a step that was not wanted anyway has not failed. So a step
  is skipped by choice at once, and because of a failure only when all its needs are settled.
- A step named only as a fallback waits until it is demanded.
- A mapped step whose source is mapped too starts item i when item i of the source is completed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline_engine.errors import StepCodeError
from pipeline_engine.values import Completed, Dropped, Failed, Outcome, Skipped, Status, Stopped

if TYPE_CHECKING:
    from pipeline_engine.plan import Need, Plan, PlannedStep

__all__ = ["Close", "Decision", "Evaluate", "Open", "RunState", "Settle", "Start"]


class Start(NamedTuple):
    """Run this step or item: all it needs is there."""

    step: int
    item: int | None
    unblocked_by: int | None


class Evaluate(NamedTuple):
    """Ask the step's `when=` and tell `answer`."""

    step: int
    item: int | None


class Open(NamedTuple):
    """A mapped step knows its items; their own starts follow."""

    step: int
    width: int
    unblocked_by: int | None


class Close(NamedTuple):
    """No further item of this step may go on the wire: withdraw those that wait."""

    step: int


class Settle(NamedTuple):
    """The outcome follows without running anything: record it and tell `settle`."""

    step: int
    item: int | None
    outcome: Outcome[Any]


Decision = Start | Evaluate | Open | Close | Settle


@dataclass(slots=True)
class _Map:
    """The items of one mapped step."""

    outcomes: list[Outcome[Any] | None]
    unsettled: int
    started: set[int] = field(default_factory=set)
    answered: set[int] = field(default_factory=set)
    on_the_way: int = 0
    """Items handed to the driver and not settled yet."""
    dropped: int = 0
    closing: Outcome[Any] | None = None
    """The step's outcome as soon as the items on the way are settled."""


class _Lack(NamedTuple):
    """A required need that will never be met."""

    name: str
    is_by_choice: bool
    stopped: Stopped | None = None
    """How it ended, if it was stopped: then so are all who need it."""


class RunState:
    """Decide, event by event, what one document's run does next.

    Example:
        >>> from pipeline_engine import Pipeline, compile_pipeline
        >>> pipeline = Pipeline("two", inputs={"text": str})
        >>> @pipeline.step
        ... def first(text: str) -> str: ...
        >>> @pipeline.step
        ... def second(first: str) -> str: ...
        >>> state = RunState(compile_pipeline(pipeline), ["some text"])
        >>> state.begin()
        [Start(step=0, item=None, unblocked_by=None)]
        >>> state.settle(0, None, Completed("output"))
        [Start(step=1, item=None, unblocked_by=0)]
    """

    __slots__ = (
        "_answered",
        "_asked",
        "_demanded",
        "_is_flawless",
        "_maps",
        "_missing",
        "_offset",
        "_when_missing",
        "outcomes",
        "plan",
        "unsettled",
        "values",
    )

    def __init__(self, plan: Plan, inputs: Sequence[Any]) -> None:
        self.plan = plan
        self._offset = len(inputs)
        self.values: list[Any] = [*inputs, *([None] * len(plan.steps))]
        """The inputs, then each step's output, where there is one."""
        self.outcomes: list[Outcome[Any] | None] = [None] * len(plan.steps)
        """Each step's outcome, once it is settled or decided."""
        self.unsettled = len(plan.steps) - len(plan.on_demand)
        """How many steps, and items that were demanded, the run still waits for."""
        self._missing = list(plan.missing)
        self._when_missing = list(plan.when_missing)
        self._is_flawless = True
        # Dicts, because an empty dict costs a third of an empty set, and nearly every run leaves them empty.
        self._answered: dict[int, None] = {}
        self._asked: dict[int, None] = {}
        self._demanded: dict[tuple[int, int | None], None] = {}
        self._maps: dict[int, _Map] = {}

    @property
    def is_over(self) -> bool:
        """Whether every step that takes part has its outcome."""
        return self.unsettled == 0

    def restore(self, outcomes: Sequence[Outcome[Any]], items: Mapping[int, Sequence[Outcome[Any]]]) -> None:
        """Take in how every step, and every item of the mapped ones, ended in a run that is over."""
        self.outcomes = list(outcomes)
        for index, outcome in enumerate(outcomes):
            if isinstance(outcome, Completed):
                self.values[self._offset + index] = outcome.value
        self._maps = {index: _Map(list(ended), 0) for index, ended in items.items()}
        self.unsettled = 0

    # Events

    def begin(self) -> list[Decision]:
        """Return the decisions that the inputs alone allow."""
        decisions: list[Decision] = []
        for step in self.plan.steps:
            if self._missing[step.index] == 0 or (step.when is not None and self._when_missing[step.index] == 0):
                self._review(step.index, None, decisions)
        return decisions

    def settle(self, index: int, item: int | None, outcome: Outcome[Any]) -> list[Decision]:
        """Take in the outcome of a started step or item, or of a `Settle` decision."""
        decisions: list[Decision] = []
        if item is not None:
            self._settle_item(index, item, outcome, decisions)
            return decisions
        plan, missing = self.plan, self._missing
        self.outcomes[index] = outcome
        if plan.steps[index].is_on_demand:
            self._forget_demands(index)
        else:
            self.unsettled -= 1
        if type(outcome) is Completed:
            self.values[self._offset + index] = outcome.value
        else:
            self._is_flawless = False
        for follower in plan.followers[index]:
            missing[follower] -= 1
            if self._is_flawless and plan.is_plain[follower]:
                if missing[follower] == 0:
                    decisions.append(Start(follower, None, index))
            else:
                self._review(follower, index, decisions)
        for follower in plan.when_followers[index]:
            self._when_missing[follower] -= 1
            self._review(follower, index, decisions)
        if type(outcome) is not Completed:
            for follower in plan.item_followers[index]:
                self._source_ended(follower, index, decisions)
        return decisions

    def widen(self, index: int, width: int, by: int | None) -> list[Decision]:
        """Take in that a started step has divided its work into so many items; their starts follow."""
        decisions: list[Decision] = []
        self._widen(self.plan.steps[index], width, by, decisions)
        return decisions

    def answer(self, index: int, item: int | None, *, is_wanted: bool) -> list[Decision]:
        """Take in what a step's `when=` said."""
        decisions: list[Decision] = []
        if not is_wanted:
            self._decide(index, item, Skipped("when", is_by_choice=True), decisions)
        elif item is None:
            self._answered[index] = None
            self._review(index, None, decisions)
        else:
            self._maps[index].answered.add(item)
            self._review_item(index, item, None, decisions)
        return decisions

    def demand(self, index: int, item: int | None) -> tuple[Outcome[Any] | None, list[Decision]]:
        """Ask for a fallback step; return its outcome if it has one, else what now may run."""
        mapped = self._maps.get(index)
        outcome = self.outcomes[index]
        if outcome is None and item is not None and mapped is not None:
            outcome = mapped.outcomes[item]
        if outcome is None and mapped is not None and mapped.closing is not None and item not in mapped.started:
            outcome = mapped.closing  # its source has ended without a list: nothing will start it any more
        decisions: list[Decision] = []
        if outcome is None and (index, item) not in self._demanded and self.plan.steps[index].is_on_demand:
            self._demanded[index, item] = None
            self.unsettled += 1
            if item is None or mapped is None:
                self._review(index, None, decisions)
            else:
                self._review_item(index, item, None, decisions)
        return outcome, decisions

    def _forget_demands(self, index: int) -> None:
        """The step as a whole has ended: whoever waits for one of its items learns that outcome."""
        mapped = self._maps.get(index)
        for demanded, item in self._demanded:
            is_open = item is None or mapped is None or mapped.outcomes[item] is None
            if demanded == index and is_open:
                self.unsettled -= 1

    def is_closing(self, index: int) -> bool:
        """Return whether no further item of a mapped step may go on the wire."""
        mapped = self._maps.get(index)
        return mapped is not None and mapped.closing is not None

    def tolerate(self, index: int, error: Exception) -> Failed | Dropped:
        """Return how a failed item counts: as dropped, while `on_error=` allows it."""
        step, mapped = self.plan.steps[index], self._maps[index]
        if step.on_error is not None and mapped.dropped < step.on_error.allowance(len(mapped.outcomes)):
            mapped.dropped += 1
            return Dropped(error)
        return Failed(error)

    def finish(self) -> list[Decision]:
        """Return the outcomes of the steps that nobody asked for; call it once the run is over."""
        decisions: list[Decision] = []
        for index in self.plan.on_demand:
            step = self.plan.steps[index]
            if self.outcomes[index] is None:
                mapped = self._maps.get(step.index)
                was_asked = mapped is not None and any(outcome is not None for outcome in mapped.outcomes)
                outcome: Outcome[Any] = (
                    Completed(self._kept(mapped))
                    if mapped and was_asked
                    else Skipped("not called for", is_by_choice=True)
                )
                self.outcomes[step.index] = outcome
                decisions.append(Settle(step.index, None, outcome))
        return decisions

    def stop(self, reason: str) -> list[Settle]:
        """End the run from outside: every step without an outcome gets `Stopped`."""
        settled = []
        for step in self.plan.steps:
            if self.outcomes[step.index] is None:
                self.outcomes[step.index] = Stopped(reason)
                settled.append(Settle(step.index, None, Stopped(reason)))
        self.unsettled = 0
        return settled

    # Reading

    def items(self, index: int) -> tuple[Outcome[Any], ...]:
        """Return the outcome of each item of a mapped step, in the order of its source."""
        mapped = self._maps.get(index)
        if mapped is None:
            return ()
        ended = self.outcomes[index]
        instead: Outcome[Any] = (
            ended if isinstance(ended, Stopped) else Skipped(self.plan.steps[index].name, is_by_choice=False)
        )
        return tuple(outcome if outcome is not None else instead for outcome in mapped.outcomes)

    def status(self) -> Status:
        """Return how the run ended, judged by its leaves."""
        leaves = [self.outcomes[index] for index in self.plan.leaves]
        if all(isinstance(o, Completed) or (isinstance(o, Skipped) and o.is_by_choice) for o in leaves):
            return "completed"
        if any(isinstance(outcome, Stopped) for outcome in self.outcomes):
            return "stopped"
        return "partial" if any(isinstance(outcome, Completed) for outcome in leaves) else "failed"

    def arguments(self, needs: Iterable[Need], item: int | None) -> tuple[list[Any], dict[str, Any]]:
        """Return what to call a function with, for needs that are all settled."""
        given: list[Any] = []
        named: dict[str, Any] = {}
        for need in needs:
            value = self._value(need, item)
            if need.is_keyword:
                named[need.parameter] = value
            else:
                given.append(value)
        return given, named

    def _value(self, need: Need, item: int | None) -> Any:
        index = need.source - self._offset
        outcome = self.outcomes[index] if index >= 0 else None
        if need.is_item and item is not None:
            mapped = self._maps.get(index) if index >= 0 else None
            if mapped is None:
                return self.values[need.source][item]
            outcome = mapped.outcomes[item]
            return outcome.value if isinstance(outcome, Completed) else need.default
        if index >= 0 and not isinstance(outcome, Completed):
            return need.default
        return self.values[need.source]

    # Deciding

    def _review(self, index: int, by: int | None, decisions: list[Decision]) -> None:
        """Decide what the settled needs of a step allow by now."""
        if self.outcomes[index] is not None or index in self._maps:
            return
        step = self.plan.steps[index]
        lack = self._lack(step)
        if lack is not None and lack.is_by_choice:
            self._decide(index, None, Skipped(lack.name, is_by_choice=True), decisions)
            return
        is_asked_once = step.when is not None and not self._asks_items(step)
        if is_asked_once and self._when_missing[index] == 0 and index not in self._asked and not self._when_lacks(step):
            self._asked[index] = None
            decisions.append(Evaluate(index, None))
        if self._missing[index] or self._when_missing[index]:
            return
        if index in self._asked and index not in self._answered:
            return  # the answer may skip it by choice, which wins over any failure
        if lack is not None:
            self._decide(index, None, lack.stopped or Skipped(lack.name, is_by_choice=False), decisions)
        elif step.is_mapped:
            self._open(step, by, decisions)
        elif not step.is_on_demand or (index, None) in self._demanded:
            decisions.append(Start(index, None, by))

    def _lack(self, step: PlannedStep) -> _Lack | None:
        """Return the required need that will never be met; one by choice before any other."""
        if self._is_flawless:
            return None
        failed = None
        for source, is_optional in self._whole_needs(step):
            outcome = self.outcomes[source - self._offset] if source >= self._offset else None
            if outcome is None or isinstance(outcome, Completed):
                continue
            name = self.plan.steps[source - self._offset].name
            if isinstance(outcome, Skipped) and outcome.is_by_choice:
                if not is_optional:
                    return _Lack(name, is_by_choice=True)
            else:
                failed = failed or _Lack(
                    name, is_by_choice=False, stopped=outcome if isinstance(outcome, Stopped) else None
                )
        return failed

    @staticmethod
    def _whole_needs(step: PlannedStep) -> Iterable[tuple[int, bool]]:
        if step.each is not None:
            yield step.each, False
        for part in (
            step.needs,
            step.when.needs if step.when else (),
            step.check.needs if step.check else (),
        ):
            for need in part:
                yield need.source, need.is_optional

    def _when_lacks(self, step: PlannedStep) -> bool:
        needs = step.when.needs if step.when else ()
        return any(
            need.source >= self._offset and self._is_failure(self.outcomes[need.source - self._offset])
            for need in needs
        )

    @staticmethod
    def _is_failure(outcome: Outcome[Any] | None) -> bool:
        is_wanted = isinstance(outcome, Completed) or (isinstance(outcome, Skipped) and outcome.is_by_choice)
        return outcome is not None and not is_wanted

    @staticmethod
    def _asks_items(step: PlannedStep) -> bool:
        """Whether the condition needs items, so that it is asked for each of them."""
        return step.when is not None and any(need.is_item for need in step.when.needs)

    def _decide(self, index: int, item: int | None, outcome: Outcome[Any], decisions: list[Decision]) -> None:
        if item is None:
            self.outcomes[index] = outcome  # later events must find it decided; its followers learn it from settle
        decisions.append(Settle(index, item, outcome))

    # Mapped steps

    def _open(self, step: PlannedStep, by: int | None, decisions: list[Decision]) -> None:
        sources = [self._maps.get(source - self._offset) for source in step.item_sources]
        if any(source is None for source in sources):
            return  # reviewed again when the source itself opens
        each = step.each if step.each is not None else 0
        first = next((source for source in sources if source is not None), None)
        if first is not None:
            width = len(first.outcomes)
        else:
            listed = self.values[each]
            if not isinstance(listed, list | tuple):
                self.values[each] = listed = self._as_list(step, listed, decisions)
                if listed is None:
                    return
            width = len(listed)
        self._widen(step, width, by, decisions)

    def _widen(self, step: PlannedStep, width: int, by: int | None, decisions: list[Decision]) -> None:
        self._maps[step.index] = _Map([None] * width, width)
        decisions.append(Open(step.index, width, by))
        if width == 0 and not step.is_on_demand:
            self._decide(step.index, None, Completed([]), decisions)
        for item in range(width):
            self._review_item(step.index, item, by, decisions)
        for follower in self.plan.item_followers[step.index]:
            self._review(follower, step.index, decisions)

    def _as_list(self, step: PlannedStep, value: Any, decisions: list[Decision]) -> list[Any] | None:
        """Accept any iterable that is no text, where the annotation promised nothing."""
        if isinstance(value, Iterable) and not isinstance(value, str | bytes | dict):
            return list(value)
        reason = f"got a {type(value).__name__} to map over. Let the step before it return a list."
        self._decide(step.index, None, Failed(StepCodeError(step.name, "each", reason)), decisions)
        return None

    def _review_item(self, index: int, item: int, by: int | None, decisions: list[Decision]) -> None:
        step, mapped = self.plan.steps[index], self._maps[index]
        if mapped.closing is not None or mapped.outcomes[item] is not None or item in mapped.started:
            return
        lack: _Lack | None = None
        for need in self._item_needs(step):
            source = self._maps[need.source - self._offset]
            outcome = source.outcomes[item]
            if outcome is None or source.closing is not None:
                return  # still open, or lost with its step: then that step's end decides
            if isinstance(outcome, Completed):
                continue
            name = self.plan.steps[need.source - self._offset].name
            if isinstance(outcome, Skipped) and outcome.is_by_choice:
                if not need.is_optional:
                    lack = _Lack(name, is_by_choice=True)
                    break
            else:
                lack = lack or _Lack(name, is_by_choice=False)
        if lack is not None:
            mapped.started.add(item)
            mapped.on_the_way += 1
            self._decide(index, item, Skipped(lack.name, lack.is_by_choice), decisions)
        elif self._asks_items(step) and item not in mapped.answered:
            decisions.append(Evaluate(index, item))
        elif not step.is_on_demand or (index, item) in self._demanded:
            mapped.started.add(item)
            mapped.on_the_way += 1
            decisions.append(Start(index, item, by))

    @staticmethod
    def _item_needs(step: PlannedStep) -> Iterable[Need]:
        for part in (
            step.needs,
            step.when.needs if step.when else (),
            step.check.needs if step.check else (),
        ):
            yield from (need for need in part if need.is_item and need.source in step.item_sources)

    def _settle_item(self, index: int, item: int, outcome: Outcome[Any], decisions: list[Decision]) -> None:
        step, mapped = self.plan.steps[index], self._maps[index]
        if item in mapped.started:
            mapped.on_the_way -= 1
        mapped.outcomes[item] = outcome
        mapped.unsettled -= 1
        if (index, item) in self._demanded:
            self.unsettled -= 1
        if isinstance(outcome, Failed | Stopped) and mapped.closing is None and not step.is_on_demand:
            mapped.closing = outcome
            decisions.append(Close(index))
        for follower in self.plan.item_followers[index]:
            if follower in self._maps:
                self._review_item(follower, item, index, decisions)
        self._end_map(step, mapped, decisions)

    def _source_ended(self, follower: int, index: int, decisions: list[Decision]) -> None:
        """A mapped step whose source ended without a list goes no further."""
        mapped = self._maps.get(follower)
        if mapped is None:
            self._review(follower, index, decisions)
        elif mapped.closing is None and self.outcomes[follower] is None:
            is_by_choice = not self._is_failure(self.outcomes[index])
            mapped.closing = Skipped(self.plan.steps[index].name, is_by_choice)
            decisions.append(Close(follower))
            for demanded, item in self._demanded:
                if demanded == follower and item is not None and item not in mapped.started:
                    self._decide(follower, item, mapped.closing, decisions)
            self._end_map(self.plan.steps[follower], mapped, decisions)

    def _end_map(self, step: PlannedStep, mapped: _Map, decisions: list[Decision]) -> None:
        if self.outcomes[step.index] is not None or step.is_on_demand:
            return
        if mapped.closing is not None:
            if mapped.on_the_way == 0:
                self._decide(step.index, None, mapped.closing, decisions)
        elif mapped.unsettled == 0:
            kept = self._kept(mapped)
            if step.kind == "embed":  # its items are batches, which nobody outside knows of
                kept = [vector for batch in kept for vector in batch]
            self._decide(step.index, None, Completed(kept), decisions)

    @staticmethod
    def _kept(mapped: _Map) -> list[Any]:
        return [outcome.value for outcome in mapped.outcomes if isinstance(outcome, Completed)]
