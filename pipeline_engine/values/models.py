"""The ports to models: what is asked, what is answered, and what an object must do to be one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pydantic_core import from_json

from pipeline_engine.values.usage import RateLimitState, Timings, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline_engine.values.messages import Message

__all__ = [
    "Completion",
    "CompletionModel",
    "EmbeddingModel",
    "Embeddings",
    "Finish",
    "Request",
    "StreamingModel",
    "TakePiece",
]

Finish = Literal["stop", "length", "tool", "filter", "refusal", "pause", "error", "other"]
"""Why a reply ended: whole, cut at its token cap, to call a tool, withheld by a filter or by the model itself,
paused by the provider, broken, or for a reason that is not known here."""


@dataclass(frozen=True, slots=True)
class Request:
    """Ask a model for one completion.

    `sources` travels beside the prompt for models that work on the text itself, such as
    `offline:extractive`; it is never sent anywhere.
    """

    messages: tuple[Message, ...]
    """The conversation so far."""
    schema: Mapping[str, Any] | None = None
    """The JSON schema that the reply must fit; None asks for plain text."""
    schema_name: str = "output"
    """A name for the schema, where a provider wants one."""
    sources: tuple[str, ...] = ()
    """The texts that the step was given: the document first, then the outputs it needs, as text."""
    connect_timeout: float | None = None
    """Seconds to reach the provider, where the step's `Timeout` says so."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Hold a model's answer to one request.

    A reply that was withheld is an answer too, and is paid for: its `finish` is "refusal" or "filter". A
    step turns it into a `RejectedError`.

    Example:
        >>> Completion("Hello").finish
        'stop'
        >>> Completion('{"text": "A title"}').parsed
        {'text': 'A title'}
    """

    text: str
    """The reply as it came: plain text, or JSON where a schema was asked for."""
    finish: Finish = "stop"
    """Why the reply ended; "length" means that it was cut at its token cap."""
    usage: Usage = field(default_factory=Usage)
    """The tokens spent, as far as they are known."""
    model: str | None = None
    """The model that the provider says has answered."""
    request_id: str | None = None
    """The provider's id of the request."""
    refusal: str | None = None
    """The model's or the provider's own words, where the reply was withheld."""
    raw_finish: str | None = None
    """Why the reply ended, in the provider's word."""
    rate_limit: RateLimitState | None = None
    """What the reply's headers told about the provider's limits."""
    timings: Timings = field(default_factory=Timings)
    """Where the seconds of the call went."""
    replays: int = 0
    """How often the request was sent once more, because a kept connection had died before it answered."""

    @property
    def parsed(self) -> Any:
        """The reply as JSON, not validated; None if it is no JSON."""
        try:
            return from_json(self.text, allow_inf_nan=False)
        except ValueError:
            return None


@runtime_checkable
class CompletionModel(Protocol):
    """Answer requests: any object with this one method is a model.

    Example:
        >>> class Echo:
        ...     async def complete(self, request: Request) -> Completion:
        ...         return Completion(request.messages[-1].text)
        >>> isinstance(Echo(), CompletionModel)
        True
    """

    async def complete(self, request: Request) -> Completion:
        """Send one request and return the reply.

        It is cancelled when an attempt times out: it must leave nothing half-open then.

        Raises:
            ProviderError: If the model did not answer.
        """
        ...


TakePiece = Callable[[str], Awaitable[None]]
"""Takes a piece of a reply's text. An empty one says that the model is at work and has said nothing: it thinks."""


@runtime_checkable
class StreamingModel(CompletionModel, Protocol):
    """Answer requests piece by piece, too: a model that steps with `stream=True` can follow.

    Example:
        >>> class Spelling:
        ...     async def complete(self, request: Request) -> Completion:
        ...         return Completion(request.messages[-1].text)
        ...     async def stream(self, request: Request, take: TakePiece) -> Completion:
        ...         for letter in request.messages[-1].text:
        ...             await take(letter)
        ...         return await self.complete(request)
        >>> isinstance(Spelling(), StreamingModel)
        True
    """

    async def stream(self, request: Request, take: TakePiece) -> Completion:
        """Send one request, hand on each piece of the reply as it arrives, and return the whole of it.

        While `take` waits, nothing more is read: a slow reader slows the provider. What `take` raises ends
        the call, and so does a cancellation; the connection is closed then, which stops the bill.

        Args:
            request: What is asked.
            take: Gets each piece of the reply's text, in order.

        Raises:
            ProviderError: If the model did not answer, or its reply broke off.
        """
        ...


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Hold the vectors of some texts."""

    vectors: tuple[list[float], ...]
    """For each text its vector, in the order of the texts."""
    usage: Usage = field(default_factory=Usage)
    """The tokens spent, as far as they are known."""
    model: str | None = None
    """The model that the provider says has answered."""
    request_id: str | None = None
    """The provider's id of the request."""
    rate_limit: RateLimitState | None = None
    """What the reply's headers told about the provider's limits."""
    timings: Timings = field(default_factory=Timings)
    """Where the seconds of the call went."""
    replays: int = 0
    """How often the request was sent once more, because a kept connection had died before it answered."""


@runtime_checkable
class EmbeddingModel(Protocol):
    """Turn texts into vectors: any object with this method and this number is an embedding model."""

    max_texts: int
    """How many texts one call may hold."""

    async def embed(self, texts: Sequence[str], *, connect_timeout: float | None = None) -> Embeddings:
        """Send one request for the vectors of at most `max_texts` texts.

        Raises:
            ProviderError: If the model did not answer.
        """
        ...
