"""OpenAI's embeddings, as OpenAI and every compatible server speak them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline_engine.providers.adapters.adapter import EmbeddingAdapter, Reply, Settings, merged
from pipeline_engine.providers.adapters.openai_chat import bearer
from pipeline_engine.providers.adapters.reading import document_in
from pipeline_engine.providers.adapters.vectors import read_embeddings
from pipeline_engine.providers.adapters.writing import as_json
from pipeline_engine.providers.wire.classification import error_in_reply
from pipeline_engine.providers.wire.replies import mapping_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.providers.adapters.adapter import Endpoint
    from pipeline_engine.values import Embeddings

__all__ = ["ADAPTER", "decode", "encode"]


def encode(texts: Sequence[str], settings: Settings) -> bytes:
    """Return the body that asks for the texts' vectors; equal texts give equal bytes.

    Vectors are asked for in base64, which every client of OpenAI's own does: 2048 of them with 1536 numbers
    are 17 MB so, and 45 MB as decimals, of which no more than 32 MiB are read.

    Args:
        texts: The texts.
        settings: Whose vectors are asked for. What is said about replies in words does not concern them.
    """
    body = {"model": settings.model, "input": list(texts), "encoding_format": "base64"}
    return as_json({**merged(body, settings.extra_body), "model": settings.model, "input": list(texts)})


def decode(reply: Reply, endpoint: Endpoint, count: int) -> Embeddings:
    """Return the vectors in a response, in the order of the texts.

    Args:
        reply: The response.
        endpoint: Who was asked.
        count: How many texts were sent.

    Raises:
        RejectedError: If the model will not answer this request.
        RateLimitError: If the call was refused for its rate.
        UnavailableError: If the server failed, or answered something else than so many vectors.
    """
    document = document_in(reply, endpoint)
    fields = mapping_of(document)
    if fields.get("error") or fields.get("object") == "error":
        raise error_in_reply(reply.status, reply.headers, fields, endpoint)
    tokens = mapping_of(fields.get("usage")).get("prompt_tokens")
    return read_embeddings(_in_order(fields.get("data")), fields, tokens, reply, endpoint, count)


def _in_order(data: object) -> list[Any]:
    """Return what stands in the place of the vectors, in the order of their numbers."""
    entries = [mapping_of(entry) for entry in data] if isinstance(data, list) else []
    numbers = [entry.get("index") for entry in entries]
    if any(number is not None for number in numbers):
        by_number = {number: entry for number, entry in zip(numbers, entries, strict=True) if _is_number(number)}
        # One that is missing, or that came twice, leaves a gap: what stands there is no vector.
        entries = [by_number.get(number, {}) for number in range(len(entries))]
    return [entry.get("embedding") for entry in entries]


def _is_number(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def path(_settings: Settings) -> str:
    """Return what follows the base URL."""
    return "/embeddings"


ADAPTER = EmbeddingAdapter(path=path, headers=bearer, encode=encode, decode=decode, max_texts=2048)
"""How to ask OpenAI for vectors."""
