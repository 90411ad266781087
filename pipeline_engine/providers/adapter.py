"""The shape of an adapter: how one provider's requests are written and its replies are read. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline_engine.providers.secrets import Secret
    from pipeline_engine.values import Completion, Request

__all__ = ["Adapter", "Decode", "Encode", "Endpoint"]


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


class Encode(Protocol):
    """Write a request."""

    def __call__(self, request: Request, model: str, parameters: Mapping[str, Any]) -> bytes:
        """Return the body of the HTTP request that asks `model`."""
        ...


class Decode(Protocol):
    """Read a reply."""

    def __call__(self, status: int, headers: Mapping[str, str], body: bytes, endpoint: Endpoint) -> Completion:
        """Return the completion in an HTTP response whose header names are in lower case.

        Raises:
            ProviderError: If the response holds none.
        """
        ...


@dataclass(frozen=True, slots=True)
class Adapter:
    """Bundle what is particular to a provider's interface; it does no I/O and knows no HTTP client."""

    path: str
    """What follows the base URL."""
    encode: Encode
    decode: Decode
    authorise: Callable[[Secret], Mapping[str, str]]
    """Return the headers that carry the key."""
