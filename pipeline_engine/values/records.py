"""The one stream of past-tense records that a run emits, and the port of whoever reads it.

The records of one run come in order. Those of one step (or of one item of a mapped step) follow
this grammar, so that each instant between ready and finished belongs to exactly one segment:

    StepReady  (WaitStarted WaitEnded | QueueLeft | AttemptStarted AttemptFinished [RepairAsked])*
               [OutputRestored | WaitStarted] StepFinished

From `StepReady`, `WaitEnded` and `RepairAsked` on, a step waits for its turn: for a slot, unless `QueueLeft`
says that it was for something else; from `AttemptStarted` on it is being tried; from `AttemptFinished` on its
output is validated, or what comes next is decided. After an `OutputJudged` that is not accepted it waits for its
turn again. `HedgeStarted` and `HedgeFinished` stand between the others and belong to no segment, as do the records
about models, which the run whose call changed something tells: `LimitChanged`, `BreakerChanged`,
`CooldownStarted`, `CredentialParked`.

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
    "BreakerChanged",
    "Call",
    "CooldownStarted",
    "CredentialParked",
    "Fault",
    "HedgeFinished",
    "HedgeStarted",
    "LimitChanged",
    "Outline",
    "OutlineModel",
    "OutlineStep",
    "OutputJudged",
    "OutputRestored",
    "QueueCause",
    "QueueLeft",
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
QueueCause = Literal["breaker", "cooldown", "requests", "tokens", "concurrency", "slot"]
"""What a call that is ready waits for: its model's breaker, the end of a cool-down, its requests or tokens per
minute, its concurrency; or one of the engine's own slots."""


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
    models: tuple[str, ...] = ()
    """The models that it is bound to, in the order in which they are tried."""


class OutlineModel(NamedTuple):
    """Describe how much a model may be asked, as it was declared. None is "as much as one likes"."""

    name: str
    rpm: float | None = None
    """Requests per minute."""
    tpm: float | None = None
    """Tokens per minute."""
    max_concurrency: int | None = None
    """Requests in flight at once."""
    burst_requests: float = 0.0
    """Requests that may start at once after idling."""
    burst_tokens: float = 0.0
    """Tokens that may be reserved at once after idling."""
    is_adaptive: bool = False
    """Whether it finds by itself how many requests it bears at once."""


class Outline(NamedTuple):
    """Describe a plan as far as drawing needs it."""

    pipeline: str
    inputs: tuple[str, ...]
    steps: tuple[OutlineStep, ...]
    """In an order in which every step stands after its needs."""
    models: tuple[OutlineModel, ...] = ()
    """The models that its steps are bound to, by name."""


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
    cause: Literal["backoff", "fallback", "shared", "warm", "budget", "commit", "lease"]
    """Its own delay before the next attempt; another step that it falls back to; an equal call whose reply it
    takes; a call that begins with the same document and puts it into the provider's prompt cache; calls in
    flight whose reservation may leave it enough of the budget; the journal, which writes what it has made; or
    the journal's word that no other process has taken over its document."""


class WaitEnded(NamedTuple):
    """A wait is over; what the step needs now is a slot."""

    at: float
    step: str
    item: int | None


class QueueLeft(NamedTuple):
    """A step's turn has come, or it has given up waiting for it; told where it waited for more than a slot."""

    at: float
    step: str
    item: int | None
    waits: tuple[tuple[QueueCause, float], ...]
    """How many seconds it waited for what, since it became ready or its last wait ended."""


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
    is_replayed: bool = False
    """Whether that was a reply of an earlier run, which the journal had kept."""


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
    model: str | None = None
    """The model whose reply it is, where that is not the one which was called: a second call's."""


class RepairAsked(NamedTuple):
    """A reply did not validate; the model will be told why and asked again."""

    at: float
    step: str
    item: int | None
    reasons: tuple[str, ...]


class OutputJudged(NamedTuple):
    """A cascade's `accept=` has looked at an output."""

    at: float
    step: str
    item: int | None
    model: str
    is_accepted: bool
    """Whether it was good enough; if not, the cascade's next role is asked."""


class OutputRestored(NamedTuple):
    """A step's output was found in the journal: nothing was run and nothing was sent."""

    at: float
    step: str
    item: int | None


class HedgeStarted(NamedTuple):
    """A second call was sent beside an attempt's first one, which took unusually long."""

    at: float
    step: str
    item: int | None
    attempt: int
    """The attempt that it belongs to."""
    model: str


class HedgeFinished(NamedTuple):
    """One of two calls of an attempt has ended without giving its reply to the step: the other one's counts.

    The call whose reply counts is told by the attempt itself.
    """

    at: float
    step: str
    item: int | None
    attempt: int
    model: str
    is_second: bool
    """Whether the call that lost is the second one."""
    cost: Cost | None
    """What it cost; estimated from its request for a call that was cancelled, as nobody says what those are billed."""


class LimitChanged(NamedTuple):
    """A model's adaptive limit has moved."""

    at: float
    model: str
    limit: int
    """How many calls may be in flight now."""


class BreakerChanged(NamedTuple):
    """A model's breaker has opened, lets probes through, or has closed."""

    at: float
    model: str
    before: str
    after: str
    """The value of a `CircuitState`: "closed", "open" or "half_open"."""


class CooldownStarted(NamedTuple):
    """A provider asked to wait: no call to this model starts before the cool-down's end."""

    at: float
    model: str
    until: float


class CredentialParked(NamedTuple):
    """A provider has refused a key: no call that would use it is sent any more."""

    at: float
    model: str
    """The model whose call was refused."""


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
    | QueueLeft
    | AttemptStarted
    | AttemptFinished
    | HedgeStarted
    | HedgeFinished
    | RepairAsked
    | OutputJudged
    | OutputRestored
    | LimitChanged
    | BreakerChanged
    | CooldownStarted
    | CredentialParked
    | StepFinished
    | RunFinished
)
"""One entry of a run's stream."""


class Sink(Protocol):
    """Read the streams of many runs."""

    def open_run(self, started: RunStarted) -> Callable[[Record], None]:
        """Return what is called with each later record of this run, in order.

        Both calls happen on the engine's thread: they must be quick and must not block.
        A run's start and end are told in the context of the task that runs it, the start and the end of an attempt
        that was executed in that of the attempt: what is set there, the step's code sees.
        """
        ...
