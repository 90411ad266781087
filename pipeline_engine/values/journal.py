"""What a journal is told and what it remembers: the entries, the answers, and the port that runs write to.

An entry is a fact that has happened: a reply came, an output was accepted, a document ended. A journal
applies entries in the order in which they were submitted, a group of them in one transaction, and answers
once they are durable.

Entries are named tuples, as records are. Their bodies are bytes of JSON, made by whoever knows the types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "NO_ITEM",
    "Answer",
    "AttemptEnded",
    "AttemptSent",
    "BatchBegun",
    "BatchEnded",
    "BatchOpened",
    "Busy",
    "CachedReply",
    "CallFinished",
    "CallsVoided",
    "Claim",
    "Claimed",
    "DocumentEnded",
    "DocumentStatus",
    "Ended",
    "Entry",
    "FindReply",
    "Journal",
    "OnChange",
    "OutputAccepted",
    "ProgressTold",
    "Redo",
    "ReplyCached",
    "RunRecorded",
    "SavedCall",
    "SavedOutput",
    "Suspected",
]

OnChange = Literal["reuse", "error", "keep", "new"]
"""What becomes of saved outputs when the pipeline has changed: unchanged steps are reused and the others run
again; the run is refused; all outputs are kept by their steps' names; everything begins anew."""
Redo = Literal["failed", "fallbacks"]
"""Which ended documents are run again: those that failed, or those with outputs that came from a fallback."""
DocumentStatus = Literal["queued", "processing", "completed", "partial", "failed", "parked"]
"""Where a document stands. A parked one waits for somebody: its model's key was refused, or it has ended three
processes."""
NO_ITEM = -1
"""Stands for the item of a step that is not mapped, as a key cannot hold a null."""


class SavedCall(NamedTuple):
    """A raw reply that was paid for."""

    key: str
    """The call key: the request and its ordinal."""
    request: str
    """The hash of what reached the wire."""
    ordinal: int
    """Which of the document's equal requests it was, counted from 0."""
    step: str
    item: int
    reply: bytes
    """The reply, as JSON."""
    is_void: bool
    """Whether the step that it was for has failed with it: it is not served again."""
    cost_micro_usd: int | None = None
    """Millionths of a dollar; None if nobody knows."""
    tokens: int | None = None


class SavedOutput(NamedTuple):
    """An output that was accepted."""

    step: str
    item: int
    key: str
    """The step key."""
    output: bytes
    """The output as JSON; empty for one that has no such form."""
    calls: tuple[str, ...]
    """The keys of the calls that led to it; the last one's reply is the output."""
    via: str | None
    """None for the step's own way, else the outcome's `via`."""


class Claim(NamedTuple):
    """Somebody wants to work on a document. Answered with `Claimed`, `Busy`, `Suspected` or `Ended`."""

    pipeline: str
    document: str
    batch: str
    plan: str
    """The fingerprint of the plan and its models."""
    content: str
    """The hash of the inputs; empty if they have none."""
    at: float
    """Seconds since the epoch."""
    inputs: bytes | None = None
    """The inputs as JSON, to be stored once."""
    source: str | None = None
    """Where the document can be read again."""
    on_change: OnChange = "reuse"
    redo: Redo | None = None
    """Which ended documents are wanted again."""
    again: bool = False
    """Whether it is wanted even if it has ended and nothing has changed."""
    is_alone: bool = False
    """Whether it is run by itself: then, if the process dies, nobody else can be to blame."""
    dead: tuple[str, int] | None = None
    """A worker that was seen dead, and its last beat: its documents may be taken over while that is still its beat."""


class Claimed(NamedTuple):
    """The document is the claimant's, until it ends or somebody else claims it."""

    fence: int
    """Grows with each claim: what an earlier owner writes is refused."""
    calls: tuple[SavedCall, ...] = ()
    outputs: tuple[SavedOutput, ...] = ()
    is_new: bool = True
    """Whether the journal has never seen it before."""


class Busy(NamedTuple):
    """Another worker has the document."""

    worker: str
    beat: int
    """The last sign of life that this worker has given."""


class Suspected(NamedTuple):
    """Processes have died while the document was in flight: it is to be claimed again when it can be run alone."""

    crashes: int
    """How many processes have."""


class Ended(NamedTuple):
    """There is nothing to do: the document has ended before."""

    status: DocumentStatus
    outcomes: bytes
    """How its steps ended, as JSON."""
    calls: tuple[SavedCall, ...]
    outputs: tuple[SavedOutput, ...]


class AttemptSent(NamedTuple):
    """An attempt has begun: if its end is never told, it may have been billed."""

    pipeline: str
    document: str
    run: str
    step: str
    item: int
    attempt: int
    model: str | None
    at: float


class AttemptEnded(NamedTuple):
    """An attempt has ended without a reply."""

    pipeline: str
    document: str
    run: str
    step: str
    item: int
    attempt: int
    model: str | None
    started_at: float
    at: float
    kind: str
    message: str
    status: int | None
    billed: str


class CallFinished(NamedTuple):
    """A reply came, and is paid for."""

    pipeline: str
    document: str
    key: str
    request: str
    ordinal: int
    batch: str
    run: str
    step: str
    item: int
    attempt: int
    model: str
    prompt: bytes
    """What was sent, as JSON; long parts that are the document's own are named, not repeated."""
    reply: bytes
    usage: bytes
    """The tokens as JSON."""
    tokens: int | None
    """Tokens of request and reply together."""
    cost_micro_usd: int | None
    """Millionths of a dollar; None if nobody knows."""
    at: float


class CallsVoided(NamedTuple):
    """Calls have led to a step's failure: when it is tried again, they are sent again."""

    pipeline: str
    document: str
    keys: tuple[str, ...]


class OutputAccepted(NamedTuple):
    """An output was validated. Answered with whether the document was still the writer's."""

    pipeline: str
    document: str
    fence: int
    step: str
    item: int
    key: str
    output: bytes
    calls: tuple[str, ...]
    via: str | None
    run: str
    at: float


class DocumentEnded(NamedTuple):
    """A document has ended, or waits again. Answered with whether it was still the writer's."""

    pipeline: str
    document: str
    fence: int
    status: DocumentStatus
    outcomes: bytes
    reason: str
    """Why it is not completed, on one line."""
    elapsed: float
    usage: bytes
    cost_micro_usd: int
    unpriced_calls: int
    run: str
    at: float


class BatchBegun(NamedTuple):
    """A batch has begun. Answered with a `BatchOpened`."""

    batch: str
    pipeline: str
    plan: str
    parts: bytes
    """The fingerprints of the plan's steps, as JSON."""
    command: bytes
    """How it was started, as JSON, so that it can be again."""
    version: str
    """The engine's."""
    is_single: bool
    """Whether it is the batch of one document."""
    refuses_change: bool
    """Whether nothing is begun if the plan is another one than that of the pipeline's last batch."""
    at: float


class BatchOpened(NamedTuple):
    """A batch may go on."""

    batch: str
    """Its id: that of the pipeline's last batch, if it has not ended; empty if it was refused."""
    parts: bytes
    """The fingerprints of the steps of the pipeline's last batch, as JSON; empty if there was none."""
    spent_micro_usd: int
    spent_tokens: int
    """What its calls have spent so far."""


class BatchEnded(NamedTuple):
    """A batch has ended, or was stopped."""

    batch: str
    is_done: bool
    """Whether every document has ended."""
    counts: bytes
    """How many documents ended how, as JSON."""
    at: float


class RunRecorded(NamedTuple):
    """A run is over: these are its records, for those who want to see where the time went."""

    pipeline: str
    document: str
    run: str
    batch: str
    records: bytes
    """What `pack_records` has made of them."""
    at: float


class ProgressTold(NamedTuple):
    """A batch goes on: this is how far this process has come with it, for those who watch."""

    batch: str
    progress: bytes
    """As JSON; it takes the place of what was told before."""
    at: float


class ReplyCached(NamedTuple):
    """A reply may serve equal calls of other documents and pipelines."""

    namespace: str
    request: str
    ordinal: int
    model: str
    reply: bytes
    at: float


class FindReply(NamedTuple):
    """Look for a cached reply. Answered with a `CachedReply`, or None."""

    namespace: str
    request: str
    ordinal: int


class CachedReply(NamedTuple):
    """A reply that was cached."""

    reply: bytes
    at: float


Entry = (
    Claim
    | AttemptSent
    | AttemptEnded
    | CallFinished
    | CallsVoided
    | OutputAccepted
    | DocumentEnded
    | BatchBegun
    | BatchEnded
    | RunRecorded
    | ProgressTold
    | ReplyCached
    | FindReply
)
"""What can be submitted to a journal."""
Answer = Claimed | Busy | Suspected | Ended | CachedReply | BatchOpened | Exception | bool | None
"""What a journal answers to an entry; None where there is nothing to say, and an error where what is kept of a
document that was claimed is damaged."""


class Journal(Protocol):
    """Keep entries durably. All of it is called on the trio thread of a run, and none of it blocks."""

    @property
    def worker(self) -> str:
        """The name under which this process claims documents."""
        ...

    def submit(
        self,
        entries: Sequence[Entry],
        done: Callable[[Sequence[Answer] | Exception], None] | None = None,
    ) -> Sequence[Answer] | None:
        """Take entries, in order; return the answers if they are durable already.

        Args:
            entries: What has happened. They are applied in one transaction.
            done: Called on the trio thread with the answers, or with the error that has ended the journal,
                once they are durable. It is not called if the answers are returned.

        Raises:
            JournalError: If the journal has failed: nothing is kept any more.
        """
        ...

    async def write(self, *entries: Entry) -> Sequence[Answer]:
        """Return the answers once the entries, and all that were submitted before, are durable.

        A cancelled caller leaves its entries in the journal.

        Raises:
            JournalError: If the journal has failed.
        """
        ...

    async def wait_for_room(self) -> None:
        """Return once few enough bytes wait to be written."""
        ...

    def may_call(self, pipeline: str, document: str) -> bool:
        """Whether a call may be paid for: this process has given a sign of life lately, and the document is its own."""
        ...

    def has_lost(self, pipeline: str, document: str) -> bool:
        """Whether another process has taken over a document of this one."""
        ...
