"""What runs have told about their models: limits, breakers and cool-downs over time, cascades, second calls."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from pipeline_engine.values.records import (
    AttemptFinished,
    BreakerChanged,
    CooldownStarted,
    CredentialParked,
    HedgeFinished,
    HedgeStarted,
    LimitChanged,
    OutputJudged,
)
from pipeline_engine.values.usage import Cost

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline_engine.values.records import Record

__all__ = [
    "MAX_POINTS",
    "Acceptance",
    "BreakerChange",
    "Cooldown",
    "Hedges",
    "LimitPoint",
    "ModelHistory",
    "ModelNotes",
    "breaker_intervals",
    "joined",
    "thinned",
]

MAX_POINTS = 300
"""How much of a model's history a batch keeps: more points than a page or a terminal has cells for them."""


class LimitPoint(NamedTuple):
    """Hold a model's adaptive limit from one instant on."""

    at: float
    limit: int


class BreakerChange(NamedTuple):
    """Hold a change of a model's breaker: "closed", "open" or "half_open"."""

    at: float
    before: str
    after: str


class Cooldown(NamedTuple):
    """Hold an interval in which a model was left alone, because its provider had asked for it."""

    at: float
    until: float


class Acceptance(NamedTuple):
    """Count how many of a model's outputs a cascade has judged, and how many were good enough."""

    accepted: int
    judged: int

    @property
    def share(self) -> float:
        """The part that was accepted, from 0 to 1; 0 if nothing was judged."""
        return self.accepted / self.judged if self.judged else 0.0


@dataclass(frozen=True, slots=True)
class Hedges:
    """Count the second calls that were sent beside slow ones.

    Example:
        >>> Hedges(3, 1) + Hedges(2, 2)
        Hedges(calls=5, won=3, lost_cost=Cost(usd=0.0, saved_usd=0.0, unpriced_calls=0))
    """

    calls: int = 0
    """How many were sent."""
    won: int = 0
    """How many gave the reply that counts."""
    lost_cost: Cost = field(default_factory=Cost)
    """What the calls cost whose replies do not count, first and second ones."""

    def __add__(self, other: Hedges) -> Hedges:
        return Hedges(self.calls + other.calls, self.won + other.won, self.lost_cost + other.lost_cost)


@dataclass(frozen=True, slots=True)
class ModelHistory:
    """Hold what was told about models, by model, in the order of time.

    Models belong to an engine, and each change is told once: by the run whose call has caused it. So the
    history of one run may lack what the calls of others have changed; that of a batch has it all.

    The instants of one run are on its engine's clock, as `Trace.started_at` is. Those of a batch are in seconds since
    the epoch, as `BatchTrace.started_at` is: its runs may have had engines in several processes.
    """

    limits: Mapping[str, tuple[LimitPoint, ...]] = field(default_factory=dict)
    """Each change of a model's adaptive limit: `(at, limit)`."""
    breakers: Mapping[str, tuple[BreakerChange, ...]] = field(default_factory=dict)
    """Each change of a model's breaker: `(at, before, after)`."""
    cooldowns: Mapping[str, tuple[Cooldown, ...]] = field(default_factory=dict)
    """Each cool-down of a model: `(at, until)`."""
    parked: Mapping[str, float] = field(default_factory=dict)
    """When the key of a model was refused."""

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that something was told about, by name."""
        return tuple(sorted({*self.limits, *self.breakers, *self.cooldowns, *self.parked}))

    def shifted(self, seconds: float) -> ModelHistory:
        """Return the same on a clock that is so many seconds ahead.

        Example:
            >>> ModelHistory(parked={"openai:gpt-4o-mini": 2.0}).shifted(100.0).parked
            {'openai:gpt-4o-mini': 102.0}
        """
        return ModelHistory(
            limits={
                model: tuple(LimitPoint(at + seconds, limit) for at, limit in points)
                for model, points in self.limits.items()
            },
            breakers={
                model: tuple(BreakerChange(at + seconds, before, after) for at, before, after in changes)
                for model, changes in self.breakers.items()
            },
            cooldowns={
                model: tuple(Cooldown(at + seconds, until + seconds) for at, until in intervals)
                for model, intervals in self.cooldowns.items()
            },
            parked={model: at + seconds for model, at in self.parked.items()},
        )


class ModelNotes:
    """Read the records about models, cascades and second calls of one run; or add those of many.

    What is kept of many is bounded: limits are thinned out to their lowest and highest values, of
    breakers and cool-downs the latest stay.
    """

    def __init__(self) -> None:
        self.hedges = Hedges()
        self._limits: dict[str, list[LimitPoint]] = {}
        self._breakers: dict[str, list[BreakerChange]] = {}
        self._cooldowns: dict[str, list[Cooldown]] = {}
        self._parked: dict[str, float] = {}
        self._judged: dict[str, dict[str, Acceptance]] = {}
        self._open_hedges: set[tuple[str, int | None, int]] = set()

    def read(self, record: Record) -> None:
        """Take in one record of a run. One that another run has caused may be told late: time decides, not place."""
        if isinstance(record, AttemptFinished):
            if self._open_hedges:
                self._end_hedge(record)
        elif isinstance(record, LimitChanged):
            insort(self._limits.setdefault(record.model, []), LimitPoint(record.at, record.limit), key=_at)
        elif isinstance(record, BreakerChanged):
            change = BreakerChange(record.at, record.before, record.after)
            insort(self._breakers.setdefault(record.model, []), change, key=_at)
        elif isinstance(record, CooldownStarted):
            insort(self._cooldowns.setdefault(record.model, []), Cooldown(record.at, record.until), key=_at)
        elif isinstance(record, CredentialParked):
            self._park(record.model, record.at)
        elif isinstance(record, OutputJudged):
            self._judge(record.step, record.model, Acceptance(int(record.is_accepted), 1))
        elif isinstance(record, HedgeStarted):
            self._open_hedges.add((record.step, record.item, record.attempt))
            self.hedges += Hedges(calls=1)
        elif isinstance(record, HedgeFinished):
            self.hedges += Hedges(lost_cost=record.cost or Cost())

    def add(self, history: ModelHistory, acceptance: Mapping[str, Mapping[str, Acceptance]], hedges: Hedges) -> None:
        """Take in what another run has told, and keep no more than what can be drawn."""
        for model, points in history.limits.items():
            limits = self._limits.setdefault(model, [])
            for point in points:
                insort(limits, point, key=_at)
            if len(limits) > 2 * MAX_POINTS:
                limits[:] = thinned(limits)
        for model, changes in history.breakers.items():
            breakers = self._breakers.setdefault(model, [])
            for change in changes:
                insort(breakers, change, key=_at)
            del breakers[:-MAX_POINTS]
        for model, intervals in history.cooldowns.items():
            self._cooldowns[model] = joined([*self._cooldowns.get(model, ()), *intervals])[-MAX_POINTS:]
        for model, at in history.parked.items():
            self._park(model, at)
        for step, by_model in acceptance.items():
            for model, judged in by_model.items():
                self._judge(step, model, judged)
        if hedges.calls:
            self.hedges += hedges

    def history(self, most: int | None = None) -> ModelHistory:
        """Return what was told about models so far; with `most`, at most as many points of each limit."""
        return ModelHistory(
            limits={
                model: tuple(points if most is None else thinned(points, most))
                for model, points in self._limits.items()
            },
            breakers={model: tuple(changes) for model, changes in self._breakers.items()},
            cooldowns={model: tuple(intervals) for model, intervals in self._cooldowns.items()},
            parked=dict(self._parked),
        )

    def acceptance(self) -> dict[str, dict[str, Acceptance]]:
        """Return what the cascades have accepted so far, by step and model."""
        return {step: dict(by_model) for step, by_model in self._judged.items()}

    def _end_hedge(self, record: AttemptFinished) -> None:
        key = (record.step, record.item, record.attempt)
        if key in self._open_hedges:
            self._open_hedges.remove(key)
            # An attempt names a model of its own only where the second call's reply counts.
            self.hedges += Hedges(won=int(record.model is not None))

    def _park(self, model: str, at: float) -> None:
        self._parked[model] = min(at, self._parked.get(model, at))

    def _judge(self, step: str, model: str, judged: Acceptance) -> None:
        by_model = self._judged.setdefault(step, {})
        before = by_model.get(model, Acceptance(0, 0))
        by_model[model] = Acceptance(before.accepted + judged.accepted, before.judged + judged.judged)


def _at(entry: LimitPoint | BreakerChange | Cooldown) -> float:
    return entry.at


def thinned(points: Sequence[LimitPoint], most: int = MAX_POINTS) -> list[LimitPoint]:
    """Return at most `most` of the points, four or more: the ends, and of each part of the time its extremes.

    Example:
        >>> points = [LimitPoint(at, limit) for at, limit in enumerate([1, 9, 2, 3, 8, 4, 5, 6])]
        >>> [tuple(point) for point in thinned(points, 6)]
        [(0, 1), (1, 9), (2, 2), (4, 8), (5, 4), (7, 6)]
    """
    if len(points) <= most:
        return list(points)
    start, length = points[0].at, points[-1].at - points[0].at
    parts: dict[int, list[LimitPoint]] = {}
    count = (most - 2) // 2
    for point in points[1:-1]:
        part = min(count - 1, int((point.at - start) / length * count)) if length > 0 else 0
        parts.setdefault(part, []).append(point)
    kept = [points[0]]
    for part in sorted(parts):
        extremes = {min(parts[part], key=_limit), max(parts[part], key=_limit)}
        kept += sorted(extremes, key=_at)
    return [*kept, points[-1]]


def _limit(point: LimitPoint) -> int:
    return point.limit


def joined(cooldowns: Iterable[Cooldown]) -> list[Cooldown]:
    """Return cool-downs in the order of time, those that overlap as one.

    Example:
        >>> joined([Cooldown(5, 9), Cooldown(0, 2), Cooldown(6, 12)])
        [Cooldown(at=0, until=2), Cooldown(at=5, until=12)]
    """
    found: list[Cooldown] = []
    for one in sorted(cooldowns):
        if found and one.at <= found[-1].until:
            found[-1] = Cooldown(found[-1].at, max(found[-1].until, one.until))
        else:
            found.append(one)
    return found


def breaker_intervals(changes: Sequence[BreakerChange], start: float, end: float) -> list[tuple[str, float, float]]:
    """Return the intervals in which a breaker was not closed, each with its state.

    Args:
        changes: The breaker's changes, in the order of time.
        start: What was before the first change lasted since then.
        end: What was after the last change lasts until then.

    Example:
        >>> breaker_intervals([BreakerChange(2, "closed", "open"), BreakerChange(8, "open", "half_open")], 0, 9)
        [('open', 2, 8), ('half_open', 8, 9)]
    """
    if not changes:
        return []
    found = [(changes[0].before, start, changes[0].at)]
    found += [(before.after, before.at, after.at) for before, after in pairwise(changes)]
    found.append((changes[-1].after, changes[-1].at, end))
    return [(state, since, until) for state, since, until in found if state != "closed" and until > since]
