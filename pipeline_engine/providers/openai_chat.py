"""OpenAI's chat completions, as OpenAI and every compatible server speak them. Pure."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Literal

from pipeline_engine.errors import ProviderError, RejectedError
from pipeline_engine.providers.adapter import Adapter, Endpoint
from pipeline_engine.providers.classification import error_in_reply, error_of_response, unreadable_reply
from pipeline_engine.providers.replies import excerpt, header_id, mapping_of, parse_json
from pipeline_engine.providers.strict_schema import strict_schema
from pipeline_engine.values import Completion, File, Image, Message, Part, Request, Text, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline_engine.providers.secrets import Secret

__all__ = ["ADAPTER", "RESERVED", "decode", "encode"]

RESERVED = frozenset({"messages", "model", "n", "response_format", "stream", "stream_options"})
"""Fields of a request that are written here and that no parameter may set."""

Finish = Literal["stop", "length", "tool", "filter", "refusal", "pause", "error", "other"]

_FINISHES: dict[str, Finish] = {
    "stop": "stop",
    "end_turn": "stop",
    "eos": "stop",
    "stop_sequence": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool",
    "function_call": "tool",
    "content_filter": "filter",
    "error": "error",
    "insufficient_system_resource": "error",
}
_SURROGATES = re.compile("[\ud800-\udfff]")
# No model has read or written more; a longer number is a fault of the server.
_MAX_TOKENS = 10**12


def encode(request: Request, model: str, parameters: Mapping[str, Any]) -> bytes:
    """Return the body that asks `model` for one completion; equal requests give equal bytes.

    Args:
        request: What is asked. Its `sources` stay here.
        model: The provider's name of the model.
        parameters: Further fields under the names that go on the wire; those that are None are left out.
    """
    body = {
        "model": model,
        "messages": [{"role": message.role, "content": _content(message)} for message in request.messages],
        **({} if request.schema is None else {"response_format": _response_format(request)}),
        **{name: value for name, value in parameters.items() if value is not None},
    }
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:  # documents may hold halves of surrogate pairs, which UTF-8 has no bytes for
        return _SURROGATES.sub("\ufffd", text).encode()


def _content(message: Message) -> str | list[dict[str, Any]]:
    # Plain text stays a string: many compatible servers know nothing else.
    if all(isinstance(part, Text) for part in message.parts):
        return message.text
    return [_part(part) for part in message.parts]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": part.text}
        case Image():
            return {"type": "image_url", "image_url": {"url": part.data_url}}
        case File():
            return {"type": "file", "file": {"filename": part.name, "file_data": part.data_url}}


def _response_format(request: Request) -> dict[str, Any]:
    schema = request.schema or {}
    strict = strict_schema(schema)
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", request.schema_name)[:64] or "output"
    described = {"name": name, "schema": schema if strict is None else strict, "strict": strict is not None}
    return {"type": "json_schema", "json_schema": described}


def decode(status: int, headers: Mapping[str, str], body: bytes, endpoint: Endpoint) -> Completion:
    """Return the completion in a response; unknown, missing and null fields are no reason to fail.

    A reply cut at its token cap is a completion whose `finish` is "length".

    Args:
        status: The HTTP status.
        headers: The response's headers, with lower-case names.
        body: The response's body.
        endpoint: Who was asked.

    Raises:
        RejectedError: If the model refused, was filtered, or will not answer this request.
        RateLimitError: If the call was refused for its rate.
        UnavailableError: If the server failed, or answered something that is no completion.
    """
    if not 200 <= status < 300:
        raise error_of_response(status, headers, body, endpoint)
    is_json, document = True, None
    try:
        document = parse_json(body)
    except ValueError:
        is_json = False
    if not is_json:
        text = body.decode("utf-8", "replace")
        lack = "something that is not JSON" if text.strip() else "an empty body"
        raise unreadable_reply(status, headers, text, endpoint, lack)
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    reply = mapping_of(document)
    # Before anything else: a 200 may carry an error. Some servers send `"error": null` with every success.
    if reply.get("error") or reply.get("object") == "error":
        raise error_in_reply(status, headers, reply, endpoint)
    choices = reply.get("choices")
    choice = mapping_of(choices[0]) if isinstance(choices, list) and choices else {}
    if not choice:
        raise unreadable_reply(status, headers, body.decode("utf-8", "replace"), endpoint, "JSON without any choice")
    raw_finish = choice.get("finish_reason")
    finish = _FINISHES.get(raw_finish, "other") if isinstance(raw_finish, str) else "other"
    if choice.get("error") or finish == "error":
        raise error_in_reply(status, headers, {"error": choice.get("error") or {"code": raw_finish}}, endpoint)
    message = mapping_of(choice.get("message"))
    request_id = header_id(headers)
    if finish == "filter" or "message" not in choice:
        raise _withheld("filter", "was stopped by the provider's content filter", "", endpoint, request_id)
    refusal = _refusal(message)
    if refusal:
        raise _withheld("refusal", "refused to answer", refusal, endpoint, request_id)
    answered_by = reply.get("model")
    return Completion(
        text=_text(message),
        finish=finish,
        usage=_usage(reply.get("usage")),
        model=answered_by if isinstance(answered_by, str) and answered_by else None,
        request_id=request_id,
    )


def _withheld(kind: str, what: str, words: str, endpoint: Endpoint, request_id: str | None) -> ProviderError:
    said = excerpt(endpoint.redact(words), 300)
    quoted = f": “{said}”" if said else ""
    return RejectedError(
        f"{what}{quoted}. Give the step a fallback= for documents that this model does not take.",
        model=endpoint.name,
        kind=kind,
        status=200,
        request_id=request_id,
        billed="yes",
    )


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):  # some servers answer in parts, of which thinking is one
        parts = (mapping_of(part) for part in content)
        return "".join(part["text"] for part in parts if isinstance(part.get("text"), str))
    return content if isinstance(content, str) else ""


def _refusal(message: Mapping[str, Any]) -> str:
    refusal = message.get("refusal")
    if isinstance(refusal, str):
        return refusal
    content = message.get("content")
    parts = (mapping_of(part) for part in content) if isinstance(content, list) else ()
    return " ".join(part["refusal"] for part in parts if isinstance(part.get("refusal"), str))


def _usage(value: object) -> Usage:
    fields = mapping_of(value)
    return Usage(_tokens(fields.get("prompt_tokens")), _tokens(fields.get("completion_tokens")))


def _tokens(value: object) -> int | None:
    """Return a count of tokens, or None where a server counts nonsense: unknown is not zero."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS
    return value if is_count and isinstance(value, int) else None


def _authorise(secret: Secret) -> dict[str, str]:
    return {"authorization": f"Bearer {secret.reveal()}"}


ADAPTER = Adapter(path="/chat/completions", encode=encode, decode=decode, authorise=_authorise)
"""What `http` needs to speak to such a server."""
