"""The port to a model: what is asked, what is answered, what it used."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline_engine.values.messages import Message

__all__ = ["Completion", "CompletionModel", "Request", "Usage"]

Finish = Literal["stop", "length", "tool", "filter", "refusal", "pause", "error", "other"]


@dataclass(frozen=True, slots=True)
class Usage:
    """Count the tokens of a call. Unknown is None, which is not zero.

    Example:
        >>> Usage(input_tokens=10, output_tokens=2) + Usage(input_tokens=5)
        Usage(input_tokens=15, output_tokens=2)
    """

    input_tokens: int | None = None
    """Tokens of the request."""
    output_tokens: int | None = None
    """Tokens of the reply."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(_sum(self.input_tokens, other.input_tokens), _sum(self.output_tokens, other.output_tokens))


def _sum(left: int | None, right: int | None) -> int | None:
    return right if left is None else left if right is None else left + right


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

    Example:
        >>> Completion("Hello").finish
        'stop'
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
    """The model's own words, where it refused to answer."""


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
