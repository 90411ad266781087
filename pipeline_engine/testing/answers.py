"""A model's answers in JSON's types, and back: completions, vectors and errors."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from pipeline_engine.errors import ProviderError, RateLimitError, RejectedError, StreamTruncatedError, UnavailableError
from pipeline_engine.values import Completion, Embeddings

__all__ = ["ANSWER", "COMPLETION", "EMBEDDINGS", "error_from", "error_parts"]

COMPLETION = TypeAdapter(Completion)
"""Completions."""
EMBEDDINGS = TypeAdapter(Embeddings)
"""Vectors."""
ANSWER: TypeAdapter[Completion | Embeddings] = TypeAdapter(Completion | Embeddings)
"""Either."""

_TYPES: dict[str, type[ProviderError]] = {
    kind.__name__: kind for kind in (UnavailableError, RateLimitError, RejectedError, ProviderError)
}


def error_parts(error: ProviderError) -> dict[str, Any]:
    """Return an error in JSON's types; one of a class that is not known here as its nearest base.

    Example:
        >>> error_parts(RateLimitError("is rate limited.", model="openai:gpt-4o-mini", kind="rate_limited"))
        {'type': 'RateLimitError', 'message': 'is rate limited.', 'kind': 'rate_limited', 'billed': 'no'}
    """
    known = (kind.__name__ for kind in type(error).__mro__ if kind.__name__ in _TYPES)
    suffix = f" (request {error.request_id})" if error.request_id else ""
    told = {
        "type": StreamTruncatedError.__name__ if isinstance(error, StreamTruncatedError) else next(known),
        "message": str(error).removeprefix(f"model {error.model!r} ").removesuffix(suffix),
        "kind": error.kind,
        "status": error.status,
        "request_id": error.request_id,
        "retry_after": error.retry_after,
        "billed": error.billed,
    }
    return {name: value for name, value in told.items() if value is not None}


def error_from(told: dict[str, Any], model: str) -> ProviderError:
    """Return the error that was recorded, made anew."""
    facts = {name: told[name] for name in ("status", "request_id", "retry_after", "billed") if name in told}
    if told["type"] == StreamTruncatedError.__name__:
        return StreamTruncatedError(model=model, request_id=told.get("request_id"))
    return _TYPES[told["type"]](told["message"], model=model, kind=told["kind"], **facts)
