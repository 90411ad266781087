"""Recorded runs once more: their parts are put to the real scheduler, which decides anew who gets a slot when."""

from __future__ import annotations

import inspect
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from pipeline_engine.declare import Limits, Pipeline
from pipeline_engine.plan import compile_pipeline
from pipeline_engine.resilience.governor import Governor
from pipeline_engine.resilience.verdicts import SUCCESS, Verdict
from pipeline_engine.schedule import PlanEstimates, Scheduler
from pipeline_engine.simulation.parts import Call, Delay, Part, PartName, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pipeline_engine.plan import Plan
    from pipeline_engine.resilience.governor import Permit
    from pipeline_engine.schedule.estimates import StepEstimate
    from pipeline_engine.schedule.queue import Key
    from pipeline_engine.simulation.admissions import Admission
    from pipeline_engine.simulation.clock import VirtualClock
    from pipeline_engine.values import Outline

__all__ = ["ReplayedDocument", "Settings", "replay"]

_FAILED = Verdict(is_failure=True, is_congested=None)
_THROTTLED = Verdict(is_failure=None, is_congested=True)
_GROUP = "replay"


@dataclass(frozen=True, slots=True)
class ReplayedDocument:
    """What one document did."""

    admission: Admission
    """How it is let in."""
    parts: Sequence[Part]
    """What it did, each part after its needs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a replay allows."""

    capacity: int
    """Attempts in flight at once."""
    max_documents: int
    """Documents in flight at once."""
    models: Mapping[str, Limits | None]
    """How much each model may be asked; None for as much as one likes."""


async def replay(
    documents: Sequence[ReplayedDocument], outline: Outline, settings: Settings, clock: VirtualClock
) -> float:
    """Put recorded documents to a scheduler, and return the seconds in which at least one was in flight.

    Args:
        documents: In the order in which they are let in.
        outline: The outline of their pipeline.
        settings: What the scheduler allows.
        clock: The clock of the trio loop that this runs on.
    """
    replayed = _Replay(outline, settings, clock)
    async with trio.open_nursery() as nursery:
        for place, document in enumerate(documents):
            await replayed.admit(document, place, nursery)
    return replayed.makespan


class _Replay:
    """Hold what all replayed documents share."""

    def __init__(self, outline: Outline, settings: Settings, clock: VirtualClock) -> None:
        self.clock = clock
        self.scheduler = Scheduler(settings.capacity)
        self.scheduler.now = clock.current_time
        self.plan = _plan_of(outline)
        self.estimates = PlanEstimates(self.plan)
        dice = random.Random(0)
        self.governors = {
            model: Governor(model, settings.capacity, dice, limits=limits) for model, limits in settings.models.items()
        }
        self._max_documents = settings.max_documents
        self._in_flight = 0
        self._admitted_at = 0.0
        self._busy_since = 0.0
        self.makespan = 0.0
        """Seconds in which a document was in flight, so far."""
        self._has_place = trio.Event()

    async def admit(self, document: ReplayedDocument, place: int, nursery: trio.Nursery) -> None:
        """Let a document in as soon as it is there and a batch would let it in."""
        gap, delay = document.admission
        wait = self._admitted_at + gap - self.clock.current_time()
        if wait > 0:
            await self.clock.sleep(wait, (-1,))
        await self._wait_for_room()
        if delay > 0:
            await self.clock.sleep(delay, (-1,))
            await self._wait_for_room()
        self._admitted_at = self.clock.current_time()
        if not self._in_flight:
            self._busy_since = self._admitted_at
        self._in_flight += 1
        self.scheduler.arriving += 1
        nursery.start_soon(self._begin, document, place, nursery)

    async def _begin(self, document: ReplayedDocument, place: int, nursery: trio.Nursery) -> None:
        self.scheduler.arriving -= 1
        self.estimates.refresh()
        _Document(self, place, document.parts, nursery).begin()

    async def _wait_for_room(self) -> None:
        while self._in_flight >= self._max_documents:
            self._has_place = trio.Event()
            await self._has_place.wait()
        await self.scheduler.wait_for_room(group=_GROUP)

    def leave(self) -> None:
        """A document has ended."""
        self._in_flight -= 1
        if not self._in_flight:
            self.makespan += self.clock.current_time() - self._busy_since
        self._has_place.set()


class _Turn:
    """Stand in the queue for an attempt; its slot and what its model asks for are taken at the same instant."""

    __slots__ = (
        "_has_slot",
        "_now",
        "_task",
        "gate",
        "group",
        "key",
        "overtaken",
        "permit",
        "priority",
        "ticket",
        "tokens",
    )

    def __init__(self, key: Key, gate: Governor | None, tokens: float, now: Callable[[], float]) -> None:
        self.group = _GROUP
        self.priority = 0
        self.key = key
        self.gate = gate
        self.tokens = tokens
        self.overtaken = 0
        self.ticket = 0
        self.permit: Permit | None = None
        self._now = now
        self._has_slot = False
        self._task: trio.lowlevel.Task | None = None

    def launch(self) -> bool:
        """Take what the attempt needs, and let whoever waits go on."""
        if self.gate is not None:
            self.permit = self.gate.admit(self._now(), self.tokens)
        self._has_slot = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
        return True

    async def wait(self) -> None:
        """Wait until it was launched."""
        if self._has_slot:
            return
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(lambda _raise_cancel: trio.lowlevel.Abort.SUCCEEDED)


class _Document:
    """Follow one document: which of its parts may begin."""

    def __init__(self, replayed: _Replay, place: int, parts: Sequence[Part], nursery: trio.Nursery) -> None:
        self._replay = replayed
        self._place = place
        self._parts = {part.name: part for part in parts}
        self._missing = {part.name: len(part.needs) + part.is_called for part in parts}
        self._followers: dict[PartName, list[PartName]] = {}
        for part in parts:
            for need in part.needs:
                self._followers.setdefault(need, []).append(part.name)
        self._left = len(parts)
        calls = (phase.part for part in parts for phase in part.phases if isinstance(phase, Call))
        self._stand_ins = {name: trio.Event() for name in calls}
        """For each part that others call for, what tells that it has ended."""
        self._called: set[PartName] = set()
        self._nursery = nursery

    def begin(self) -> None:
        """Begin with the parts that need nothing."""
        self._begin([name for name, missing in self._missing.items() if not missing])
        if not self._parts:
            self._replay.leave()

    def _begin(self, names: Iterable[PartName]) -> None:
        """Begin with parts whose needs are settled: all that is ready waits in the queue before any of it starts."""
        scheduler = self._replay.scheduler
        ready: list[tuple[Part, _Turn | None]] = []
        waiting = list(names)
        while waiting:
            part = self._parts[waiting.pop(0)]
            if part.phases:
                first = part.phases[0]
                ready.append((part, self._enqueue(part, first) if isinstance(first, Work) else None))
            else:
                waiting += self._settle(part.name)
        if not scheduler.arriving:  # of documents that come at the same instant the last one dispatches for all
            scheduler.dispatch()
        for part, turn in ready:
            self._nursery.start_soon(self._play, part, turn)

    def _settle(self, name: PartName) -> list[PartName]:
        """Note that a part has ended; return those that were waiting for it alone."""
        self._left -= 1
        if self._left == 0:
            self._replay.leave()
        if name in self._stand_ins:
            self._stand_ins[name].set()
        return [follower for follower in self._followers.get(name, ()) if self._is_last_need(follower)]

    def _is_last_need(self, name: PartName) -> bool:
        self._missing[name] -= 1
        return not self._missing[name]

    async def _play(self, part: Part, turn: _Turn | None) -> None:
        scheduler, clock = self._replay.scheduler, self._replay.clock
        order = (self._place, part.place, -1 if part.name[1] is None else part.name[1])
        for number, phase in enumerate(part.phases, start=1):
            if isinstance(phase, Delay):
                await clock.sleep(phase.seconds, order)
            elif isinstance(phase, Call):
                await self._call(phase.part)
            else:
                if turn is None:
                    turn = self._enqueue(part, phase)
                    scheduler.dispatch()
                await turn.wait()
                await clock.sleep(phase.seconds, order)
                self._finish(part, phase, turn)
                turn = None
                if number < len(part.phases):
                    scheduler.dispatch()
        self._begin(self._settle(part.name))

    async def _call(self, name: PartName) -> None:
        """Wait for a part that stands in, and let it begin if it has waited to be called."""
        if self._parts[name].is_called and name not in self._called:
            self._called.add(name)
            if self._is_last_need(name):
                self._begin([name])
        await self._stand_ins[name].wait()

    def _enqueue(self, part: Part, work: Work) -> _Turn:
        replayed = self._replay
        step, item = part.name
        index = replayed.plan.index_of[step]
        key = (self._place, replayed.estimates.ranks[index], part.place, -1 if item is None else item)
        gate = None if work.model is None else replayed.governors.get(work.model)
        tokens = _tokens(work, replayed.estimates.steps[index]) if gate is not None and gate.counts_tokens else 0.0
        turn = _Turn(key, gate, tokens, replayed.clock.current_time)
        replayed.scheduler.enqueue(turn)
        return turn

    def _finish(self, part: Part, work: Work, turn: _Turn) -> None:
        """Give back what an attempt held; who gets it is decided when all that follows from it is in the queue."""
        replayed = self._replay
        index = replayed.plan.index_of[part.name[0]]
        replayed.scheduler.free += 1
        if turn.gate is not None and turn.permit is not None:
            verdict = SUCCESS if not work.has_failed else _THROTTLED if work.is_throttled else _FAILED
            turn.gate.finish(
                turn.permit,
                replayed.clock.current_time(),
                verdict,
                tokens=_used(work),
                retry_after=work.cooldown or None,
                has_jitter=False,  # it was drawn when it was recorded
            )
        if not work.has_failed:
            replayed.estimates.learn(index, work.seconds)
            replayed.estimates.steps[index].learn_tokens(0, None, work.output_tokens)


def _used(work: Work) -> float | None:
    """Return the tokens that an attempt has used; None if nobody knows."""
    if work.output_tokens is None:
        return 0.0 if work.has_failed and not work.is_uncertain else None
    return float((work.input_tokens or 0) + work.output_tokens)


def _tokens(work: Work, estimate: StepEstimate) -> float:
    """Return what an engine would have reserved: the request is known, the reply is estimated from earlier ones."""
    return float(work.input_tokens or 0) + estimate.replied(None)


def _plan_of(outline: Outline) -> Plan:
    """Return a plan with the steps and needs of an outline: what estimates and ranks are made of."""
    pipeline = Pipeline(outline.pipeline, inputs=dict.fromkeys(outline.inputs, Any))
    for step in outline.steps:
        pipeline.step(name=step.name)(_function_of(step.needs))
    return compile_pipeline(pipeline)


def _function_of(needs: Sequence[str]) -> Callable[..., Any]:
    async def function(*_values: Any) -> Any:
        return None

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # functions take any attribute
        [inspect.Parameter(need, kind) for need in needs]
    )
    return function
