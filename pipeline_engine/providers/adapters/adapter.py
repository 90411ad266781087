"""The shape of an adapter: how one provider's requests are written and its replies are read. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline_engine.providers.secrets import Secret
    from pipeline_engine.values import Completion, Embeddings, Request

__all__ = [
    "ChatAdapter",
    "EmbeddingAdapter",
    "Endpoint",
    "Reply",
    "Settings",
    "StreamReader",
    "StructuredOutput",
    "merged",
]

StructuredOutput = Literal["schema", "json", "prompt"]
"""How a model is made to answer in JSON: by its provider's schema mode, by a mode that promises JSON of any
shape, or by instructions alone. The last two tell the schema in the prompt."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Say which model is asked and where: what an error may name, and the key that it must not."""

    name: str
    """The model as asked, `"provider:model"`."""
    base_url: str
    """The address that the caller gave or the provider's own."""
    key_name: str = "api_key="
    """Where the key comes from or would be looked for, such as "OPENAI_API_KEY"."""
    secret: Secret | None = None
    """The key; None if none is sent."""

    def redact(self, text: str) -> str:
        """Return `text` without the key."""
        return text if self.secret is None else self.secret.redact(text)


@dataclass(frozen=True, slots=True)
class Settings:
    """Say how a model is asked, whatever it is asked; each adapter knows its provider's names for it."""

    model: str
    """The provider's name of the model."""
    temperature: float | None = None
    max_tokens: int | None = None
    """The longest reply in tokens."""
    seed: int | None = None
    structured_output: StructuredOutput = "schema"
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of each request, under their names on the wire."""


class Reply(NamedTuple):
    """Hold an HTTP response, or the head of one that is streamed."""

    status: int
    headers: Mapping[str, str]
    """Their names are in lower case."""
    body: bytes = b""


class StreamReader(Protocol):
    """Read one streamed reply, however it is cut into chunks."""

    @property
    def is_complete(self) -> bool:
        """Whether the provider has said that the reply is whole: what may still come is of no interest."""
        ...

    def feed(self, data: bytes) -> Sequence[str]:
        """Take the next bytes and return the pieces of text in them; an empty piece is thinking.

        Comments, pings and deltas without content give no piece: they are no sign of progress.

        Raises:
            ProviderError: If the provider reports an error inside the stream, or sends nonsense.
        """
        ...

    def close(self) -> Completion:
        """Return the whole reply; call it once, when the body has ended or `is_complete`.

        Raises:
            StreamTruncatedError: If the body ended before the provider said that the reply is whole.
            ProviderError: If what came is an error.
        """
        ...


@dataclass(frozen=True, slots=True)
class ChatAdapter:
    """Bundle how a provider is asked for completions; it does no I/O and knows no HTTP client."""

    path: Callable[[Settings, bool], str]
    """Return what follows the base URL, for a whole or (if true) a streamed reply."""
    headers: Callable[[Secret | None], Mapping[str, str]]
    """Return the headers that carry the key, and those that the provider wants besides."""
    encode: Callable[[Request, Settings, bool], bytes]
    """Return the body that asks for a whole or (if true) a streamed reply; equal requests give equal bytes."""
    decode: Callable[[Reply, Endpoint], Completion]
    """Return the completion in a response, or raise the `ProviderError` that it means."""
    open_stream: Callable[[Reply, Endpoint], StreamReader | None]
    """Return how to read the stream that follows a head with status 200; None if what follows is no stream
    but a whole reply, which servers that cannot stream send."""
    reserved: frozenset[str]
    """Fields of a request that the adapter writes itself and that no `extra_body` may set."""


@dataclass(frozen=True, slots=True)
class EmbeddingAdapter:
    """Bundle how a provider is asked for vectors; it does no I/O and knows no HTTP client."""

    path: Callable[[Settings], str]
    """Return what follows the base URL."""
    headers: Callable[[Secret | None], Mapping[str, str]]
    """Return the headers that carry the key, and those that the provider wants besides."""
    encode: Callable[[Sequence[str], Settings], bytes]
    """Return the body that asks for the texts' vectors."""
    decode: Callable[[Reply, Endpoint, int], Embeddings]
    """Return the vectors of so many texts, or raise the `ProviderError` that the response means."""
    max_texts: int
    """How many texts the provider takes at once."""


def merged(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return a request's body with extra fields; objects in both are merged, else the extra field wins.

    Example:
        >>> merged({"options": {"seed": 1}}, {"options": {"top_k": 5}, "keep_alive": "5m"})
        {'options': {'seed': 1, 'top_k': 5}, 'keep_alive': '5m'}
    """
    result = dict(body)
    for name, value in extra.items():
        known = result.get(name)
        result[name] = merged(known, value) if isinstance(known, dict) and isinstance(value, dict) else value
    return result
