"""OpenAI's chat completions and embeddings as Azure serves them: by deployment, with a key of its own. Pure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

from pipeline_engine.providers.adapters import openai_chat, openai_embeddings

if TYPE_CHECKING:
    from pipeline_engine.providers.adapters.adapter import ChatAdapter, EmbeddingAdapter, Settings
    from pipeline_engine.providers.secrets import Secret

__all__ = ["chat_adapter", "embedding_adapter"]

_SPEAKS_LIKE_OPENAI = "2024-09-01"
"""The version since which Azure has the token cap under the name that OpenAI's newer models want."""


def chat_adapter(version: str | None) -> ChatAdapter:
    """Return how to speak to Azure.

    What its filter withholds comes in shapes that are read wherever they come from: a prompt as an error of
    the kind "filter", a reply as a choice without a message, or as a last chunk.

    Args:
        version: The version of the interface, such as "2024-10-21"; None for the one that has none, whose base
            URL ends in "/openai/v1".
    """
    # Versions are dates, but for "preview" and the like, which are the newest.
    is_own = version is None or version >= _SPEAKS_LIKE_OPENAI
    adapter = openai_chat.OPENAI_ADAPTER if is_own else openai_chat.ADAPTER
    return replace(adapter, headers=_headers, path=partial(_chat_path, version))


def embedding_adapter(version: str | None) -> EmbeddingAdapter:
    """Return how to ask Azure for vectors."""
    return replace(openai_embeddings.ADAPTER, headers=_headers, path=partial(_path, version, "/embeddings"))


def _headers(secret: Secret | None) -> dict[str, str]:
    return {} if secret is None else {"api-key": secret.reveal()}


def _chat_path(version: str | None, settings: Settings, _is_streamed: bool) -> str:  # noqa: FBT001 - an adapter's port
    return _path(version, "/chat/completions", settings)


def _path(version: str | None, what: str, settings: Settings) -> str:
    if version is None:
        return what
    return f"/openai/deployments/{quote(settings.model, safe='')}{what}?api-version={quote(version, safe='')}"
