"""The present moment of a batch: what is finished, what is in flight, and what everything waits for. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline_engine.values.usage import Cost, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["MAX_KINDS", "ErrorCount", "InFlight", "ModelNow", "Present", "combined"]

MAX_KINDS = 20
"""More kinds of errors, and more steps, models and documents, are told by nobody."""
_LEAST_FINISHED = 3
_LEAST_SHARE = 0.1


class ModelNow(NamedTuple):
    """Tell how a model is doing at this moment."""

    in_flight: int
    """Calls on the wire, of all that runs on the engine."""
    max_in_flight: int | None = None
    """How many there may be, where that is bounded."""
    waiting: int = 0
    """Calls that are ready and wait."""
    breaker: str | None = None
    """The state of its breaker: "closed", "open" or "half_open"; None if it has none."""
    cooldown: float = 0.0
    """Seconds until the end of a cool-down."""
    is_parked: bool = False
    """Whether its key was refused, so that nothing is sent any more."""


class ErrorCount(NamedTuple):
    """Count errors of one kind."""

    kind: str
    """The error's class name, or a provider error's kind."""
    times: int
    """How often it has happened."""
    message: str
    """What the last one said, on one safe line."""


class InFlight(NamedTuple):
    """A document that is being worked on."""

    document: str
    """Its key."""
    elapsed: float
    """Seconds since it was admitted."""
    step: str | None
    """A step of it that goes on."""
    cause: str | None
    """What that step waits for; None if it is being tried."""


@dataclass(frozen=True, slots=True)
class Present:
    """Hold the present moment of a batch, as one process or several together see it.

    Example:
        >>> now = Present(elapsed=60.0, documents={"completed": 30}, total=120, in_flight=16, rate=0.5)
        >>> now.finished, now.left
        (30, 180.0)
    """

    elapsed: float = 0.0
    """Seconds since it began."""
    documents: Mapping[str, int] = field(default_factory=dict)
    """How many documents have ended how, those that had ended before included."""
    kept: int = 0
    """How many of them had ended before: their results are the journal's."""
    total: int | None = None
    """How many documents there are; None if nobody knows."""
    in_flight: int = 0
    """Documents that are being worked on."""
    capacity: int = 0
    """How many attempts may be in flight at once."""
    attempts: Mapping[str, int] = field(default_factory=dict)
    """Attempts in flight, by step."""
    models: Mapping[str, ModelNow] = field(default_factory=dict)
    """How each model is doing."""
    waits: Mapping[str, int] = field(default_factory=dict)
    """How many steps and items wait, by what for."""
    ended_attempts: int = 0
    """How many attempts have ended."""
    retries: int = 0
    """How many attempts were not the first one of their step or item."""
    usage: Usage = field(default_factory=Usage)
    """The tokens that it has spent, as far as providers told."""
    cost: Cost = field(default_factory=Cost)
    """What its calls have cost, as far as prices are known; those of second calls that lost are among them."""
    usd_before: float = 0.0
    """What the batch had spent before, where a budget counts it."""
    tokens_before: int = 0
    """The tokens that it had spent before."""
    budget_usd: float | None = None
    """The most that it may spend."""
    budget_tokens: float | None = None
    """The most tokens that it may spend."""
    errors: tuple[ErrorCount, ...] = ()
    """Steps and items that have failed for good, commonest kind first."""
    faults: tuple[ErrorCount, ...] = ()
    """Attempts that have failed, commonest kind first: most of them are tried again."""
    longest: tuple[InFlight, ...] = ()
    """The documents that have been in flight for longest."""
    rate: float = 0.0
    """Documents that end per second, over about the last ten minutes."""
    stopped_by: str | None = None
    """What lets it end before all documents were run."""
    is_over: bool = False
    """Whether it has ended."""

    @property
    def finished(self) -> int:
        """How many documents have ended."""
        return sum(self.documents.values())

    @property
    def fresh(self) -> int:
        """How many of them were run: what a journal had tells nothing about the rest."""
        return max(0, self.finished - self.kept)

    @property
    def not_completed(self) -> int:
        """How many have ended without all of their outputs."""
        return self.finished - self.documents.get("completed", 0)

    @property
    def calls(self) -> int:
        """How many attempts are in flight."""
        return sum(self.attempts.values())

    @property
    def left(self) -> float | None:
        """The seconds that are left, roughly; None as long as a guess would mislead.

        The first documents finish late, because many are under way at once: nothing is said before a tenth of
        them is done, or twice as many as are in flight.
        """
        if self.total is None or self.rate <= 0 or self.stopped_by is not None or self.is_over:
            return None
        ahead = self.total - self.finished
        enough = min(_LEAST_SHARE * (self.fresh + ahead), 2 * self.in_flight)
        if ahead <= 0 or self.fresh < max(_LEAST_FINISHED, enough):
            return None
        return ahead / self.rate

    def after(self, seconds: float) -> Present:
        """Return it as it is so many seconds later, if nothing has happened meanwhile.

        Example:
            >>> Present(elapsed=60.0, models={"m": ModelNow(0, cooldown=5.0)}).after(2.0).models["m"].cooldown
            3.0
        """
        return replace(
            self,
            elapsed=self.elapsed + seconds,
            models={
                name: model._replace(cooldown=max(0.0, model.cooldown - seconds)) for name, model in self.models.items()
            },
            longest=tuple(one._replace(elapsed=one.elapsed + seconds) for one in self.longest),
        )

    def to_json(self) -> dict[str, Any]:
        """Return it in JSON's types, what is zero or unknown left out; `from_json` makes it again.

        Example:
            >>> Present(total=3, documents={"failed": 1}).to_json()
            {'total': 3, 'documents': {'failed': 1}}
        """
        told: dict[str, Any] = {
            name: getattr(self, name) for name in (*_NUMBERS, *_COUNTS) if getattr(self, name) not in (0, None, {})
        }
        for name in _COUNTS:
            if name in told:
                told[name] = dict(told[name])
        if self.models:
            told["models"] = {name: list(model) for name, model in self.models.items()}
        if self.usage != Usage():
            told["usage"] = [self.usage.input_tokens, self.usage.output_tokens]
        if self.cost != Cost():
            told["cost"] = [self.cost.usd, self.cost.saved_usd, self.cost.unpriced_calls]
        for name in _LISTS:
            if getattr(self, name):
                told[name] = [list(entry) for entry in getattr(self, name)]
        return told

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Present:
        """Return what `to_json` has told.

        Raises:
            ValueError: If it was not told by `to_json`.
        """
        plain: dict[str, Any] = {name: told[name] for name in (*_NUMBERS, *_COUNTS) if name in told}
        try:
            return cls(
                **plain,
                models={name: ModelNow(*model) for name, model in told.get("models", {}).items()},
                usage=Usage(*told.get("usage", ())),
                cost=Cost(*told.get("cost", ())),
                errors=tuple(ErrorCount(*error) for error in told.get("errors", ())),
                faults=tuple(ErrorCount(*fault) for fault in told.get("faults", ())),
                longest=tuple(InFlight(*document) for document in told.get("longest", ())),
            )
        except (TypeError, AttributeError) as error:
            raise ValueError(f"this tells no present moment: {error}") from error


_NUMBERS = (
    *("elapsed", "kept", "total", "in_flight", "capacity", "ended_attempts", "retries", "usd_before", "tokens_before"),
    *("budget_usd", "budget_tokens", "rate", "stopped_by", "is_over"),
)
_COUNTS = ("documents", "attempts", "waits")
_LISTS = ("errors", "faults", "longest")


def combined(moments: Sequence[Present], *, max_longest: int = 3) -> Present:
    """Return what several processes that work on one batch see together; nothing is in flight in one that is over.

    Example:
        >>> both = combined([Present(capacity=8, rate=0.5, total=9), Present(capacity=4, rate=0.25, total=9)])
        >>> both.capacity, both.rate, both.total
        (12, 0.75, 9)
    """
    live = [moment for moment in moments if not moment.is_over]
    totals = [moment.total for moment in moments]
    return Present(
        elapsed=max((moment.elapsed for moment in live or moments), default=0.0),
        documents=_added(moment.documents for moment in moments),
        kept=max((moment.kept for moment in moments), default=0),  # each finds what those before it have run
        total=None if None in totals else max((total for total in totals if total is not None), default=None),
        in_flight=sum(moment.in_flight for moment in live),
        capacity=sum(moment.capacity for moment in live),
        attempts=_added(moment.attempts for moment in live),
        models=_models([moment.models for moment in live]),
        waits=_added(moment.waits for moment in live),
        ended_attempts=sum(moment.ended_attempts for moment in moments),
        retries=sum(moment.retries for moment in moments),
        usage=sum((moment.usage for moment in moments), Usage()),
        cost=sum((moment.cost for moment in moments), Cost()),
        usd_before=min((moment.usd_before for moment in moments), default=0.0),
        tokens_before=min((moment.tokens_before for moment in moments), default=0),
        budget_usd=next((moment.budget_usd for moment in moments if moment.budget_usd is not None), None),
        budget_tokens=next((moment.budget_tokens for moment in moments if moment.budget_tokens is not None), None),
        errors=_errors(moment.errors for moment in moments),
        faults=_errors(moment.faults for moment in moments),
        longest=tuple(
            sorted((one for moment in live for one in moment.longest), key=lambda one: -one.elapsed)[:max_longest]
        ),
        rate=sum(moment.rate for moment in live),
        stopped_by=next((moment.stopped_by for moment in moments if moment.stopped_by is not None), None),
        is_over=not live,
    )


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(total)


def _models(told: Sequence[Mapping[str, ModelNow]]) -> dict[str, ModelNow]:
    models: dict[str, ModelNow] = {}
    for name, model in (entry for one in told for entry in one.items()):
        other = models.get(name)
        if other is None:
            models[name] = model
            continue
        bounds = (model.max_in_flight, other.max_in_flight)
        models[name] = ModelNow(
            model.in_flight + other.in_flight,
            None if None in bounds else sum(bound for bound in bounds if bound is not None),
            model.waiting + other.waiting,
            next((state for state in ("open", "half_open", "closed") if state in (model.breaker, other.breaker)), None),
            max(model.cooldown, other.cooldown),
            model.is_parked or other.is_parked,
        )
    return models


def _errors(told: Iterable[Sequence[ErrorCount]]) -> tuple[ErrorCount, ...]:
    counts: dict[str, ErrorCount] = {}
    for one in (error for errors in told for error in errors):
        known = counts.get(one.kind)
        counts[one.kind] = one if known is None else known._replace(times=known.times + one.times)
    return tuple(sorted(counts.values(), key=lambda error: (-error.times, error.kind))[:MAX_KINDS])
