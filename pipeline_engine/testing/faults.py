"""Faults for scripts: what providers do when they do not answer as they should, each under its name."""

from __future__ import annotations

from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from pipeline_engine.declare import Distribution
from pipeline_engine.errors import StreamTruncatedError, UnavailableError
from pipeline_engine.providers.adapters.adapter import Endpoint
from pipeline_engine.providers.scripted import Fault, Reply
from pipeline_engine.providers.wire.classification import error_of_response

if TYPE_CHECKING:
    from pipeline_engine.errors import ProviderError

__all__ = [
    "broken_off",
    "http_error",
    "invalid_json",
    "never",
    "overloaded",
    "rate_limited",
    "refused",
    "server_error",
    "truncated",
    "unauthorized",
    "unreachable",
]

Latency = float | Distribution | None
"""Seconds until an answer comes; the model's own latency if not given."""


def http_error(status: int, message: str = "", *, retry_after: float | None = None, latency: Latency = None) -> Reply:
    """Script an answer with this HTTP status: it becomes the very error that a provider's would.

    Args:
        status: Any but 2xx.
        message: The provider's words.
        retry_after: Seconds for which it asks to be left alone.
        latency: Seconds until it comes; the model's own if not given.

    Raises:
        ValueError: If the status is none, or one of success, or `retry_after` is no number of seconds.

    Example:
        >>> print(http_error(400, "Unknown field").answer.error("openai:gpt-4o-mini"))
        model 'openai:gpt-4o-mini' rejected the request (HTTP 400): “Unknown field”. Correct the request: sent \
again as it is, it will be rejected again.
    """
    given: tuple[Any, Any] = (status, retry_after)  # a script may be written without a type checker
    if not isinstance(given[0], int) or not 100 <= status < 600:
        raise ValueError(f"http_error({status!r}): a status is a whole number from 100 to 599, such as 503.")
    if 200 <= status < 300:
        raise ValueError(f"http_error({status}): that is a status of success. Script the answer itself.")
    if given[1] is not None and not (isinstance(given[1], int | float) and given[1] >= 0):
        raise ValueError(f"retry_after={retry_after!r}: it is a number of seconds.")
    return Reply(Fault(partial(_http_error, status, message, retry_after)), latency)


def rate_limited(retry_after: float | None = None, *, latency: Latency = None) -> Reply:
    """Script a refusal for rate (HTTP 429), with the seconds for which the provider asks to be left alone.

    Example:
        >>> from pipeline_engine.testing import in_turn
        >>> flaky = in_turn(rate_limited(retry_after=5), server_error(), "fine")
        >>> flaky.answers[0].answer.error("scripted:model").retry_after
        5.0
    """
    return http_error(429, retry_after=retry_after, latency=latency)


def overloaded(retry_after: float | None = None, *, latency: Latency = None) -> Reply:
    """Script an overloaded provider (HTTP 529): like a refusal for rate, it spends no attempt."""
    return http_error(529, retry_after=retry_after, latency=latency)


def server_error(status: int = 500, *, latency: Latency = None) -> Reply:
    """Script a fault on the provider's side, after which another try may go better."""
    return http_error(status, latency=latency)


def unauthorized(*, latency: Latency = None) -> Reply:
    """Script a refused key (HTTP 401): it is never tried again, and the model's other calls are not sent either."""
    return http_error(401, latency=latency)


def unreachable(*, latency: Latency = None) -> Reply:
    """Script a server that cannot be connected to."""
    return Reply(Fault(_unreachable), latency)


def never() -> Reply:
    """Script a call that is not answered at all: it ends by a timeout, or by being cancelled."""
    return Reply("", inf)


def broken_off(text: str = "", *, latency: float = 0.0) -> Reply:
    """Script a streamed reply that breaks off after `text`; one that is not streamed has broken off, too.

    Args:
        text: What comes before the end, in one piece.
        latency: Seconds until it comes.
    """
    return Reply(Fault(_broken_off), pieces=[(latency, text)])


def invalid_json(*, latency: Latency = None) -> Reply:
    """Script a reply that is no JSON although a schema was asked for: the model is asked to repair it."""
    return Reply('{"', latency)


def truncated(answer: Any, *, latency: Latency = None) -> Reply:
    """Script a reply that was cut in its middle, at the token cap.

    Args:
        answer: The whole of it: a text, or anything with a JSON form.
        latency: Seconds until it comes; the model's own if not given.
    """
    text = answer if isinstance(answer, str) else to_json(answer).decode()
    return Reply(text[: len(text) // 2], latency, finish="length")


def refused(words: str = "I cannot help with that.", *, latency: Latency = None) -> Reply:
    """Script a model that refuses to answer, in these words; it is paid for, and not tried again."""
    return Reply("", latency, finish="refusal", refusal=words)


def _http_error(status: int, message: str, retry_after: float | None, model: str) -> ProviderError:
    headers = {} if retry_after is None else {"retry-after": f"{retry_after:.9g}"}
    endpoint = Endpoint(model, "https://provider.example")
    return error_of_response(status, headers, to_json({"error": {"message": message}}), endpoint)


def _unreachable(model: str) -> ProviderError:
    return UnavailableError("cannot be reached: the connection was refused.", model=model, kind="connect")


def _broken_off(model: str) -> ProviderError:
    return StreamTruncatedError(model=model)
