"""One execution of a step or item: what it is tried with, and how far it has come."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pipeline_engine.plan import FallbackStep, FallbackValue, PlannedStep
from pipeline_engine.values import CompletionModel, EmbeddingModel, Message, StepContext

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping, Sequence

    import trio

    from pipeline_engine.declare import Timeout
    from pipeline_engine.resilience.governor import Governor, Permit
    from pipeline_engine.resilience.ledger import Amount, Ledger
    from pipeline_engine.schedule.admission import RequestSize
    from pipeline_engine.schedule.execution import Execution
    from pipeline_engine.schedule.queue import Key
    from pipeline_engine.schedule.scheduler import Timer
    from pipeline_engine.schedule.sharing import Flight, Warming
    from pipeline_engine.values import Cost, QueueCause, Usage

__all__ = ["BoundBudget", "BoundModel", "Candidate", "Executors", "StepRun"]


@dataclass(frozen=True, slots=True)
class BoundModel:
    """Try a step with this model."""

    name: str
    """As `"provider:model"`."""
    model: CompletionModel | EmbeddingModel
    timeout: Timeout | None = None
    """The step's timeouts with this model; None if the model has none of its own to add."""
    price: Callable[[Usage, str | None], Cost] | None = None
    """Returns what tokens cost, of the model that has answered; None if nobody knows."""
    can_stream: bool = False
    """Whether it can answer piece by piece."""
    governor: Governor | None = None
    """What all its calls pass."""
    max_tokens: int | None = None
    """The cap of its replies in tokens, if it has one."""
    identity: str = ""
    """The hash of all that makes a difference to its answers: provider, endpoint, name and parameters."""
    stage: int = 0
    """Which role of the step's cascade it is bound to; one more than the last for what follows the cascade."""


@dataclass(frozen=True, slots=True)
class BoundBudget:
    """Cap what a run may spend, alone or together with others."""

    ledger: Ledger
    instead: BoundModel | None = None
    """The model that is asked when nothing is left for the step's own."""


Candidate = BoundModel | FallbackValue | FallbackStep
"""What a step can be tried with, besides its own function."""


class Executors(Protocol):
    """Run functions elsewhere than on the engine's thread."""

    async def run(self, step_run: StepRun) -> Any:
        """Return what the step's function returns.

        Raises:
            Exception: Whatever the function raises.
        """
        ...


class StepRun:
    """Hold one execution of a step or item, over all its attempts."""

    # What most attempts never change stands here, not in each instance.
    ticket = 0
    overtaken = 0
    gate: Governor | None = None
    """What its call must pass; None for a function."""
    tokens = 0.0
    """What its call may need, where somebody counts."""
    waits_since: dict[QueueCause, float] | None = None
    """What the clock of its gate showed when it began to wait."""
    permit: Permit | None = None
    """What the call in flight holds of its model."""
    reserved: Amount | None = None
    """What the call in flight holds of the run's budgets."""
    size: RequestSize | None = None
    """How much its request sends, as measured last."""
    priced: tuple[object, Cost] | None = None
    """Its last answer, and what that cost."""
    substitute: BoundModel | None = None
    """What is asked in place of the candidates, because the budget holds no more for them."""
    answered_by: BoundModel | None = None
    """Whose reply the attempt has, where that is its second call's."""
    has_slot = False
    slot_at = 0.0
    is_running = False
    runs_inside = 0
    """How many runs of its own the step waits for: it holds no slot meanwhile."""
    is_abandoned = False
    is_repair = False
    arguments: Sequence[Any] = ()
    keywords: dict[str, Any] | None = None
    prompt: tuple[Message, ...] = ()
    messages: tuple[Message, ...] = ()
    attempt = 0
    """Counted over everything that is tried."""
    attempts_spent = 0
    """Counted for the candidate at hand, without refusals for rate and repairs."""
    throttled = 0
    repairs = 0
    candidate_index = 0
    """Of the candidate at hand among the step's candidates."""
    delay = 0.0
    reply = ""
    error: Exception | None = None
    waits_for: tuple[int, int | None] | None = None
    """The fallback step, or item of one, that it waits for."""
    deadline = math.inf
    """Of the step: counted from its first attempt."""
    scope_deadline = math.inf
    """Of the attempt: the tighter one of its own and the step's."""
    attempt_deadline = math.inf
    """Of the attempt without what moves with each piece of a streamed reply."""
    bound_by: Literal["first_token", "idle", "attempt", "step"] = "attempt"
    """Which timeout `scope_deadline` is."""
    probe_seconds: float | None = None
    """How long the attempt may take because it is a breaker's probe."""
    scope: trio.CancelScope | None = None
    """Of the attempt that is running."""
    first_token_at: float | None = None
    """When the first piece of the running attempt's reply came."""
    blocked = 0.0
    """Seconds of the running attempt in which whoever follows it was slow."""
    has_told = False
    """Whether whoever follows it has seen a piece of the last attempt's reply."""
    flight: Flight | None = None
    """The equal calls that it goes or waits with."""
    ordinals: Mapping[Hashable, int] = MappingProxyType({})
    """For each request that it has made, which of the equal calls of its document it was."""
    urgency: int | None = None
    """The highest priority among those who wait for its reply."""
    warming: Warming | None = None
    """The calls that it goes ahead of, or waits with, for the sake of the provider's prompt cache."""
    timer: Timer | None = None
    step_key: str | None = None
    """What its output is known by in a journal; None if it cannot be known."""
    is_recalled = False
    """Whether the journal was asked for its output."""
    is_unsaved = False
    """Whether a reply of its is not durable yet."""
    ordinal: tuple[str, int] | None = None
    """The request that it asks now, and which of the document's equal ones it is."""
    asked: tuple[object, str] | None = None
    """The conversation that was hashed last, and its hash."""
    requested: tuple[object, BoundModel, str] | None = None
    """The conversation and model of the request that was hashed last, and its hash."""
    cached_as: tuple[str, str, int] | None = None
    """Where the journal's cache would have its reply, once that was asked: namespace, request, ordinal."""
    last_reply = b""
    """Its last reply, as the journal has it."""
    call_keys: tuple[str, ...] = ()
    """The replies that it has had."""

    def __init__(self, execution: Execution, step: PlannedStep, item: int | None) -> None:
        self.execution = execution
        self.step = step
        self.item = item

    # The queue asks for these only where there is no free slot.

    @property
    def group(self) -> Hashable:
        """What it takes turns with."""
        return self.execution.group

    @property
    def priority(self) -> int:
        """Higher goes first."""
        own = self.execution.priority
        return own if self.urgency is None else max(own, self.urgency)

    @property
    def key(self) -> Key:
        """Its place within its group: the document, then the longest remaining path."""
        step = self.step
        execution = self.execution
        rank = execution.estimates.ranks[step.index]
        return (execution.place, rank, step.index, -1 if self.item is None else self.item)

    @property
    def candidate(self) -> Candidate | None:
        """What it is tried with now; None for a function, and when nothing is left."""
        if self.substitute is not None:
            return self.substitute
        candidates = self.execution.candidates[self.step.index]
        return candidates[self.candidate_index] if self.candidate_index < len(candidates) else None

    @property
    def via(self) -> str | None:
        """What the outcome says it came from: None for the step's own way."""
        candidate = self.candidate
        if self.substitute is not None:
            return f"budget:{self.substitute.name}"
        if self.answered_by is not None and self.answered_by is not candidate:
            return f"hedge:{self.answered_by.name}"
        if not self.candidate_index:
            return None
        if isinstance(candidate, FallbackValue) or candidate is None:
            return "fallback:value"
        is_of_cascade = isinstance(candidate, BoundModel) and 0 < candidate.stage <= len(self.step.cascade)
        return f"{'cascade' if is_of_cascade else 'fallback'}:{candidate.name}"

    @property
    def model_name(self) -> str | None:
        """The model that it is tried with; None for a function."""
        candidate = self.candidate if self.step.kind != "function" else None
        return candidate.name if isinstance(candidate, BoundModel) else None

    def launch(self) -> bool:
        """Go on with a slot in hand, and what else the call needs: the queue calls this."""
        return self.execution.launch(self)

    def reconsider(self) -> None:
        """Go elsewhere, if the model has become of no use: whoever changed it calls this."""
        self.execution.reconsider(self)

    def context(self) -> StepContext:
        """Return what the running step may know about itself."""
        execution = self.execution
        deadline = min(self.scope_deadline, execution.deadline)
        return StepContext(
            execution.run_id,
            execution.plan.name,
            execution.document,
            self.step.name,
            self.item,
            self.attempt,
            deadline if deadline < math.inf else None,
        )
