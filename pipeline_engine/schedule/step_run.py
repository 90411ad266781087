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
    from pipeline_engine.schedule.execution import Execution
    from pipeline_engine.schedule.queue import Key
    from pipeline_engine.schedule.scheduler import Timer
    from pipeline_engine.schedule.sharing import Flight, Warming
    from pipeline_engine.values import Completion, Cost, Embeddings

__all__ = ["BoundModel", "Candidate", "Executors", "StepRun"]


@dataclass(frozen=True, slots=True)
class BoundModel:
    """Try a step with this model."""

    name: str
    """As `"provider:model"`."""
    model: CompletionModel | EmbeddingModel
    timeout: Timeout | None = None
    """The step's timeouts with this model; None if the model has none of its own to add."""
    price: Callable[[Completion | Embeddings], Cost] | None = None
    """Returns what a call cost; None if nobody knows."""
    can_stream: bool = False
    """Whether it can answer piece by piece."""


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
    is_queued = False
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
        return (self.execution.place, -step.remaining, step.index, -1 if self.item is None else self.item)

    @property
    def candidate(self) -> Candidate | None:
        """What it is tried with now; None for a function, and when nothing is left."""
        candidates = self.execution.candidates[self.step.index]
        return candidates[self.candidate_index] if self.candidate_index < len(candidates) else None

    @property
    def via(self) -> str | None:
        """What the outcome says it came from: None for the step's own way."""
        if not self.candidate_index:
            return None
        candidate = self.candidate
        name = "value" if isinstance(candidate, FallbackValue) or candidate is None else candidate.name
        return f"fallback:{name}"

    @property
    def model_name(self) -> str | None:
        """The model that it is tried with; None for a function."""
        candidate = self.candidate if self.step.kind != "function" else None
        return candidate.name if isinstance(candidate, BoundModel) else None

    def launch(self) -> None:
        """Go on with a slot in hand: the queue calls this."""
        self.execution.launch(self)

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
