"""The one stream of past-tense records that a run emits, and the port of whoever reads it.

The records of one run come in order. Those of one step (or of one item of a mapped step) follow
this grammar, so that each instant between ready and finished belongs to exactly one segment:

    StepReady  (WaitStarted WaitEnded | AttemptStarted AttemptFinished [RepairAsked])*  [WaitStarted] StepFinished

From `StepReady`, `WaitEnded` and `RepairAsked` on, a step waits for a slot; from `AttemptStarted` on
it is being tried; from `AttemptFinished` on its output is validated, or what comes next is decided.
A step that never ran (skipped, stopped) has a `StepFinished` alone. A mapped step has `StepReady`,
`StepMapped` with its width, the records of its items in between, and its own `StepFinished`.

Records are named tuples: they are made several times a step, and this is the cheapest frozen value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline_engine.values.messages import Message
    from pipeline_engine.values.models import Completion
    from pipeline_engine.values.outcomes import Outcome
    from pipeline_engine.values.usage import Cost, Usage

__all__ = [
    "AttemptFinished",
    "AttemptStarted",
    "Call",
    "Fault",
    "Outline",
    "OutlineStep",
    "Record",
    "RepairAsked",
    "RunFinished",
    "RunStarted",
    "Sink",
    "Status",
    "StepFinished",
    "StepMapped",
    "StepReady",
    "WaitEnded",
    "WaitStarted",
]

Status = Literal["completed", "partial", "failed", "stopped"]
"""How a run ended, judged by its leaves."""


class OutlineStep(NamedTuple):
    """Describe a step as far as drawing needs it."""

    name: str
    kind: Literal["llm", "embed", "function"]
    needs: tuple[str, ...]
    """Names of the steps and inputs it depends on, those of `when=` and `each=` included."""
    layer: int
    """Its distance from the inputs along the longest path."""
    each: str | None = None
    """The name of what it is mapped over."""
    is_on_demand: bool = False
    """Whether it runs only when another step falls back to it."""


class Outline(NamedTuple):
    """Describe a plan as far as drawing needs it."""

    pipeline: str
    inputs: tuple[str, ...]
    steps: tuple[OutlineStep, ...]
    """In an order in which every step stands after its needs."""


class Fault(NamedTuple):
    """Say why an attempt failed, without holding the exception."""

    kind: str
    """The exception's class name, or a provider error's kind."""
    message: str
    is_transient: bool = False
    status: int | None = None


class Call(NamedTuple):
    """Hold what was sent to a model and what came back."""

    model: str
    """The model as asked, `"provider:model"`."""
    messages: tuple[Message, ...]
    """The exact messages sent."""
    completion: Completion | None
    """The raw reply; None if there was none."""
    error: str | None = None
    """Why there was none."""


class RunStarted(NamedTuple):
    """A document was admitted."""

    at: float
    """Seconds on the engine's clock, like every `at`."""
    run_id: str
    document: str
    """The document's key."""
    outline: Outline
    wall_time: float
    """Seconds since the epoch at the instant `at`: wall times are this plus what passed since."""
    capacity: int


class StepReady(NamedTuple):
    """The last need of a step or item was settled."""

    at: float
    step: str
    item: int | None
    unblocked_by: str | None
    """The step that settled last; None if it needed inputs only. For an item: the same item of it."""


class StepMapped(NamedTuple):
    """A mapped step knows how many items it has."""

    at: float
    step: str
    width: int


class WaitStarted(NamedTuple):
    """A step waits for something other than a slot."""

    at: float
    step: str
    item: int | None
    cause: Literal["backoff", "fallback", "shared", "warm"]
    """Its own delay before the next attempt; another step that it falls back to; an equal call whose reply it
    takes; or a call that begins with the same document and puts it into the provider's prompt cache."""


class WaitEnded(NamedTuple):
    """A wait is over; what the step needs now is a slot."""

    at: float
    step: str
    item: int | None


class AttemptStarted(NamedTuple):
    """A slot was taken and the work has begun."""

    at: float
    step: str
    item: int | None
    attempt: int
    """Counted from 1 over everything that this step or item tries, repairs and other models too."""
    model: str | None
    """The model that is called; None for a function step."""
    is_repair: bool = False
    is_shared: bool = False
    """Whether it took the reply of an equal call: then there was no slot and no request."""


class AttemptFinished(NamedTuple):
    """The work has ended and its slot was given back."""

    at: float
    step: str
    item: int | None
    attempt: int
    fault: Fault | None
    """None if it succeeded."""
    usage: Usage | None = None
    call: Call | None = None
    cost: Cost | None = None
    """What the call cost; None for a function step, and where nothing was answered."""
    first_token_at: float | None = None
    """When the first piece of a streamed reply came."""
    blocked: float = 0.0
    """Seconds in which nothing was read, because whoever follows the stream was slow."""
    replays: int = 0
    """How often the request was sent once more, because a kept connection had died before it answered."""


class RepairAsked(NamedTuple):
    """A reply did not validate; the model will be told why and asked again."""

    at: float
    step: str
    item: int | None
    reasons: tuple[str, ...]


class StepFinished(NamedTuple):
    """A step or an item has its outcome."""

    at: float
    step: str
    item: int | None
    outcome: Outcome[object]


class RunFinished(NamedTuple):
    """Every step has its outcome."""

    at: float
    status: Status


Record = (
    RunStarted
    | StepReady
    | StepMapped
    | WaitStarted
    | WaitEnded
    | AttemptStarted
    | AttemptFinished
    | RepairAsked
    | StepFinished
    | RunFinished
)
"""One entry of a run's stream."""


class Sink(Protocol):
    """Read the streams of many runs."""

    def open_run(self, started: RunStarted) -> Callable[[Record], None]:
        """Return what is called with each later record of this run, in order.

        Both calls happen on the engine's thread: they must be quick and must not block.
        """
        ...
