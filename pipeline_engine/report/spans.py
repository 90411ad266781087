"""The intervals of a run: what one step or item did from ready to its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from pipeline_engine.values.usage import Cost

if TYPE_CHECKING:
    from pipeline_engine.values.records import Fault
    from pipeline_engine.values.usage import Usage

__all__ = [
    "BUSY_KINDS",
    "LIMIT_KINDS",
    "QUEUE_KINDS",
    "SEGMENT_KINDS",
    "WAIT_KINDS",
    "Origin",
    "OutcomeName",
    "SecondCall",
    "Segment",
    "SegmentKind",
    "Span",
]

SegmentKind = Literal[
    "slot",
    "requests",
    "tokens",
    "concurrency",
    "cooldown",
    "breaker",
    "budget",
    "attempt",
    "failed",
    "backoff",
    "fallback",
    "shared",
    "warm",
    "validate",
    "commit",
    "lease",
]
"""What a step did or waited for. In the queue: a slot, its model's requests or tokens per minute, its
concurrency, the end of a cool-down, its breaker; or budget that calls in flight have reserved. Else: an attempt
that succeeded, one that failed, its own delay before the next one, a step it falls back to, an equal call, a
call that warms the cache, the validation of its output, the journal that writes it, or the journal's word that
the document is still this process's own."""
OutcomeName = Literal["completed", "failed", "skipped", "stopped", "dropped"]
"""How a step or item ended."""
Origin = Literal["executed", "restored", "replayed", "shared"]
"""Where an output comes from: it was made here; the journal had it; it was made of a reply that the journal had; or
of the reply to an equal call."""

SEGMENT_KINDS: tuple[SegmentKind, ...] = (
    "slot",
    "requests",
    "tokens",
    "concurrency",
    "cooldown",
    "breaker",
    "budget",
    "attempt",
    "failed",
    "backoff",
    "fallback",
    "shared",
    "warm",
    "validate",
    "commit",
    "lease",
)
"""Every kind, in the order in which legends and tables name them."""
QUEUE_KINDS: frozenset[SegmentKind] = frozenset({"slot", "requests", "tokens", "concurrency", "cooldown", "breaker"})
"""The kinds of a step in the queue, which is ready and waits for its turn."""
LIMIT_KINDS: tuple[SegmentKind, ...] = ("requests", "tokens", "concurrency", "cooldown", "breaker", "budget")
"""The waits for what a model or a budget allows: more slots do not shorten them, and neither does less work."""
BUSY_KINDS: frozenset[SegmentKind] = frozenset(
    {"attempt", "failed", "backoff", "warm", "shared", "validate", "commit", "lease"}
)
"""The kinds that more slots cannot shorten, whatever the limits are."""
WAIT_KINDS: tuple[SegmentKind, ...] = ("slot", *LIMIT_KINDS, "backoff", "fallback", "shared", "warm", "commit", "lease")
"""The kinds in which nothing is worked on."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One interval of a span, spent on one thing."""

    kind: SegmentKind
    """What it was spent on."""
    start: float
    """Its first instant, on the engine's clock."""
    end: float
    """Its last instant: that of the next segment's start."""
    attempt: int | None = None
    """Which attempt it belongs to, counted from 1."""
    fault: Fault | None = None
    """Why the attempt failed."""
    model: str | None = None
    """The model that was called; where two calls were sent, the one whose reply counts."""
    first_token_at: float | None = None
    """When the first piece of an attempt's streamed reply came."""
    usage: Usage | None = None
    """The tokens of an attempt; None if nobody counted."""
    cost: Cost | None = None
    """What an attempt cost; None for a function step, and where nothing was answered."""

    @property
    def duration(self) -> float:
        """The seconds from start to end."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class SecondCall:
    """A call that was sent beside an attempt's first one, which took unusually long. It belongs to no segment."""

    attempt: int
    """The attempt that it was sent for."""
    start: float
    """When it was sent, on the engine's clock."""
    end: float
    """When it had answered, or was given up."""
    model: str
    """The model that was called."""
    has_won: bool
    """Whether its reply is the one that counts."""


@dataclass(frozen=True, slots=True)
class Span:
    """What one step, or one item of a mapped step, did from ready to its outcome.

    The segments of an executed step or item tile the time from `ready_at` to `ended_at` without gap or
    overlap. A mapped step has none of its own: its items tile it.
    """

    step: str
    """The step's name."""
    item: int | None
    """The item's index; None for a step."""
    ready_at: float | None
    """When its last need was settled; None if it never came to that."""
    started_at: float | None
    """When its first attempt started; None if none did."""
    ended_at: float
    """When it had its outcome; in a run that still goes on, the instant of the last record."""
    outcome: OutcomeName | None
    """How it ended; None while it goes on."""
    via: str | None = None
    """`"fallback:<name>"` if its output is not its own."""
    unblocked_by: str | None = None
    """The step that settled last before it was ready."""
    attempts: int = 0
    """How many attempts were started, those of its items together."""
    segments: tuple[Segment, ...] = ()
    """What the time went to, in order; those of no length are left out."""
    error: str | None = None
    """The cause of a failure on one line, safe to print."""
    error_kind: str | None = None
    """The cause's class name, or a provider error's kind: what errors are grouped by."""
    because: str | None = None
    """Why it was skipped or stopped, on one line, safe to print."""
    usage: Usage | None = None
    """The tokens of all attempts; None if nobody counted."""
    cost: Cost = field(default_factory=Cost)
    """What all calls cost, as far as prices are known; those of its items together."""
    model: str | None = None
    """The model that answered last, or was called last; of a mapped step the commonest."""
    width: int | None = None
    """The number of items of a mapped step."""
    origin: Origin = "executed"
    """Where its output comes from; of a mapped step, where those of all its items do, else "executed"."""
    second_calls: tuple[SecondCall, ...] = ()
    """The calls that were sent beside slow ones, in the order of time."""

    @property
    def name(self) -> str:
        """The step's name, with the item's index if it is one."""
        return self.step if self.item is None else f"{self.step}[{self.item}]"

    @property
    def is_mapped(self) -> bool:
        """Whether this is a mapped step, tiled by its items."""
        return self.width is not None

    @property
    def duration(self) -> float:
        """The seconds from ready to its outcome; 0 if it never was ready."""
        return 0.0 if self.ready_at is None else self.ended_at - self.ready_at

    @property
    def has_time(self) -> bool:
        """Whether there is a time to draw: what was skipped the moment it was ready has a reason instead."""
        return self.ready_at is not None and (self.duration > 0 or self.because is None)

    @property
    def busy(self) -> float:
        """The seconds spent on attempts, validation and back-off."""
        return sum(segment.duration for segment in self.segments if segment.kind in BUSY_KINDS)

    @property
    def retries(self) -> int:
        """How many attempts a step or item needed after its first; 0 for a mapped step: ask its items."""
        return 0 if self.is_mapped else max(0, self.attempts - 1)
