"""Who the providers are: one row each for how they are spoken to, where, and with whose key."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pipeline_engine.providers.addresses import gemini_address, ollama_address

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PROFILES", "Profile", "adapter_at"]


def _as_given(address: str) -> str:
    return address


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Say what there is to know about a provider before it is asked for the first time."""

    chat: str
    """Its chat adapter, as "module:NAME" within `adapters`: it is imported when a model is opened."""
    own_chat: str | None = None
    """The one for the provider's own server, where compatible ones want another."""
    embedding: str | None = None
    """Its adapter for vectors."""
    key_names: tuple[str, ...]
    """Variables that may hold the key, in the order in which the provider's own tools look."""
    address_names: tuple[str, ...]
    """Variables that may hold the address."""
    own_address: str | None = None
    """The address if none is given; None if there is no such thing, and one must be given."""
    own_host: str
    """The host of the provider's own server, which asks for a key; the end of its name if it begins with a dot."""
    full_address: Callable[[str], str] = _as_given
    """Return the base URL for an address as the provider's own tools take it."""
    surplus: tuple[str, ...] = ()
    """Ends that base URLs of other providers have, and this one's must not."""
    version_names: tuple[str, ...] = ()
    """Variables that may hold the version of the interface; if there are any, the adapters are made for one."""

    def is_own(self, host: str) -> bool:
        """Return whether this is a host of the provider itself."""
        return host == self.own_host or (self.own_host.startswith(".") and host.endswith(self.own_host))


def adapter_at(place: str) -> Any:
    """Return the adapter that stands at "module:NAME"."""
    module, _, name = place.partition(":")
    return getattr(import_module(f"pipeline_engine.providers.adapters.{module}"), name)


PROFILES: dict[str, Profile] = {
    "anthropic": Profile(
        chat="anthropic:ADAPTER",
        key_names=("ANTHROPIC_API_KEY",),
        address_names=("ANTHROPIC_BASE_URL",),
        own_address="https://api.anthropic.com",
        own_host="api.anthropic.com",
        surplus=("/v1",),
    ),
    "azure": Profile(
        chat="azure:chat_adapter",
        embedding="azure:embedding_adapter",
        key_names=("AZURE_OPENAI_API_KEY",),
        address_names=("AZURE_OPENAI_ENDPOINT",),
        own_host=".azure.com",
        surplus=("/openai",),
        version_names=("OPENAI_API_VERSION", "AZURE_OPENAI_API_VERSION"),
    ),
    "gemini": Profile(
        chat="gemini:ADAPTER",
        key_names=("GOOGLE_API_KEY", "GEMINI_API_KEY"),
        address_names=("GOOGLE_GEMINI_BASE_URL",),
        own_address="https://generativelanguage.googleapis.com",
        own_host="generativelanguage.googleapis.com",
        full_address=gemini_address,
    ),
    "ollama": Profile(
        chat="ollama:ADAPTER",
        embedding="ollama:EMBEDDING_ADAPTER",
        key_names=("OLLAMA_API_KEY",),
        address_names=("OLLAMA_HOST",),
        own_address="http://127.0.0.1:11434",
        own_host="ollama.com",
        full_address=ollama_address,
        surplus=("/v1", "/api"),
    ),
    "openai": Profile(
        chat="openai_chat:ADAPTER",
        own_chat="openai_chat:OPENAI_ADAPTER",
        embedding="openai_embeddings:ADAPTER",
        key_names=("OPENAI_API_KEY",),
        address_names=("OPENAI_BASE_URL",),
        own_address="https://api.openai.com/v1",
        own_host="api.openai.com",
    ),
    "openai-responses": Profile(
        chat="openai_responses:ADAPTER",
        key_names=("OPENAI_API_KEY",),
        address_names=("OPENAI_BASE_URL",),
        own_address="https://api.openai.com/v1",
        own_host="api.openai.com",
    ),
}
"""The providers that are asked over HTTP."""
