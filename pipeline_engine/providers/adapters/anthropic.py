"""Anthropic's messages, as Anthropic and the servers that are compatible with it speak them. Pure."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline_engine.errors import RejectedError
from pipeline_engine.providers.adapters.adapter import ChatAdapter, Reply, Settings, merged
from pipeline_engine.providers.adapters.reading import EventReader, document_in, without
from pipeline_engine.providers.adapters.strict_schema import Subset, strict_schema
from pipeline_engine.providers.adapters.writing import (
    UnsupportedPartError,
    as_json,
    joined_by_role,
    json_instructions,
)
from pipeline_engine.providers.wire.classification import error_in_reply
from pipeline_engine.providers.wire.replies import count_of, header_id, mapping_of, media_type, parse_json
from pipeline_engine.providers.wire.splitting import EventSplitter
from pipeline_engine.values import Completion, File, Finish, Image, Message, Part, Request, Text, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline_engine.providers.adapters.adapter import Endpoint, StreamReader
    from pipeline_engine.providers.secrets import Secret
    from pipeline_engine.providers.wire.splitting import ServerEvent

__all__ = ["ADAPTER", "DEFAULT_MAX_TOKENS", "decode", "encode", "open_stream"]

DEFAULT_MAX_TOKENS = 4096
"""The token cap where none is set, because each request must have one: the largest that every model takes."""

_VERSION = "2023-06-01"
_MAX_MARKERS = 4
_FINISHES: dict[str, Finish] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool",
    "pause_turn": "pause",
    "refusal": "refusal",
}
_CONTEXT_IS_FULL = "model_context_window_exceeded"
_KEYWORDS = frozenset({"type", "title", "description", "enum", "const"})
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"})


def _is_taken(key: str, value: Any) -> bool:
    # Patterns are taken, too, but only simple ones, and the others are a 400: they are told instead.
    if key == "minItems":
        return value in (0, 1)
    return value in _FORMATS if key == "format" else key in _KEYWORDS


_SUBSET = Subset(takes=_is_taken, is_recursive=False, max_unions=16)


def encode(request: Request, settings: Settings, is_streamed: bool) -> bytes:  # noqa: FBT001 - an adapter's port
    """Return the body that asks for one completion; equal requests give equal bytes.

    Args:
        request: What is asked. Its `sources` stay here.
        settings: How the model is asked. There is no such thing as a `seed` here, so that is left out.
        is_streamed: Whether the reply shall come piece by piece.

    Raises:
        UnsupportedPartError: If a message holds something that Anthropic does not take there.
    """
    schema = _strict_schema(request, settings)
    # There is no mode that promises JSON of any shape: without a schema it is asked for in words.
    told = settings if schema is not None else replace(settings, structured_output="prompt")
    messages = json_instructions(request, told)
    system = [part for message in messages if message.role == "system" for part in message.parts]
    spoken = joined_by_role([message for message in messages if message.role != "system"])
    if not spoken:
        system, spoken = [], [Message("user", *system)]  # a request without any message is refused
    if any(not isinstance(part, Text) for part in system):
        raise UnsupportedPartError(
            "a system message holds more than text, and Anthropic takes nothing else there. "
            "Put images and files into a user message."
        )
    head = _content(system)
    turns = [(message.role, _content(message.parts)) for message in spoken]
    _drop_surplus_markers([head, *(content for _, content in turns)])
    body: dict[str, Any] = {
        "model": settings.model,
        "max_tokens": DEFAULT_MAX_TOKENS if settings.max_tokens is None else settings.max_tokens,
        "messages": [{"role": role, "content": content} for role, content in turns if content],
    }
    if head:
        body["system"] = head
    if schema is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if settings.temperature is not None:
        body["temperature"] = settings.temperature
    if is_streamed:
        body["stream"] = True
    return as_json(merged(body, settings.extra_body))


def _strict_schema(request: Request, settings: Settings) -> dict[str, Any] | None:
    if request.schema is None or settings.structured_output != "schema":
        return None
    return strict_schema(request.schema, _SUBSET)


def _content(parts: Sequence[Part]) -> str | list[dict[str, Any]]:
    """Return what a message holds; empty if there is nothing in it that may be sent."""
    # A block without any text is refused, and documents may be empty.
    wanted = [part for part in parts if not isinstance(part, Text) or part.text.strip()]
    if all(isinstance(part, Text) and not part.is_shared for part in wanted):
        return Message("user", *wanted).text
    return [_block(part, previous) for previous, part in zip((None, *wanted), wanted, strict=False)]


def _block(part: Part, previous: Part | None) -> dict[str, Any]:
    match part:
        case Text():
            # Joined by blank lines as in a plain message: a marker changes the price, and not what is read.
            text = f"\n\n{part.text}" if isinstance(previous, Text) else part.text
            marker = {"cache_control": {"type": "ephemeral"}} if part.is_shared else {}
            return {"type": "text", "text": text, **marker}
        case Image(data=None):
            return {"type": "image", "source": {"type": "url", "url": part.url}}
        case Image():
            return {"type": "image", "source": _base64(part.media_type, part.data or b"")}
        case File():
            return {"type": "document", "source": _source(part), "title": part.name}


def _source(file: File) -> dict[str, Any]:
    kind = file.media_type.partition(";")[0].strip().lower()
    if kind == "application/pdf":
        return _base64(kind, file.data)
    if kind.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": file.data.decode("utf-8-sig", "replace")}
    raise UnsupportedPartError(
        f"file {file.name!r} is of the type {kind!r}, and Anthropic takes only PDFs and text. "
        "Put what it says into the prompt."
    )


def _base64(kind: str | None, data: bytes) -> dict[str, Any]:
    return {"type": "base64", "media_type": kind, "data": base64.b64encode(data).decode()}


def _drop_surplus_markers(contents: Iterable[str | list[dict[str, Any]]]) -> None:
    """Leave the last markers only: more are refused, and the last prefixes are the longest."""
    blocks = (block for content in contents if isinstance(content, list) for block in content)
    marked = [block for block in blocks if "cache_control" in block]
    for block in marked[:-_MAX_MARKERS]:
        del block["cache_control"]


def decode(reply: Reply, endpoint: Endpoint) -> Completion:
    """Return the completion in a response; unknown, missing and null fields are no reason to fail.

    A reply that was cut at its token cap or refused is a completion whose `finish` says so.

    Args:
        reply: The response.
        endpoint: Who was asked.

    Raises:
        RejectedError: If the model will not answer this request, or its context was full before it had.
        RateLimitError: If the call was refused for its rate.
        UnavailableError: If the server failed, or answered something that is no completion.
    """
    fields = mapping_of(document_in(reply, endpoint))
    _refuse_error(fields, reply, endpoint)
    content = fields.get("content")
    blocks = [mapping_of(block) for block in content] if isinstance(content, list) else []
    if not blocks and not fields.get("stop_reason"):
        raise without(reply, endpoint, "JSON without any content")
    text = "".join(_text(block) for block in blocks)
    return _completion(text, fields, mapping_of(fields.get("usage")), fields.get("model"), reply, endpoint)


def _refuse_error(fields: Mapping[str, Any], reply: Reply, endpoint: Endpoint) -> None:
    """Raise the error in a body or an event, before anything else is read: a 200 may carry one."""
    if fields.get("error") or fields.get("type") == "error":
        raise error_in_reply(reply.status, reply.headers, fields, endpoint)


def _text(block: Mapping[str, Any]) -> str:
    """Return the text of a block or a delta; thinking has a field of its own."""
    is_text = block.get("type") in ("text", "text_delta")
    text = block.get("text")
    return text if is_text and isinstance(text, str) else ""


def _completion(
    text: str, stop: Mapping[str, Any], usage: Mapping[str, Any], answered_by: object, head: Reply, endpoint: Endpoint
) -> Completion:
    raw_finish = stop.get("stop_reason")
    request_id = header_id(head.headers)
    if raw_finish == _CONTEXT_IS_FULL:
        raise RejectedError(
            "filled its context before its reply was whole. "
            "Shorten the prompt, split the document, or use a model with a larger context.",
            model=endpoint.name,
            kind="context_length",
            status=head.status,
            request_id=request_id,
            billed="yes",
        )
    finish = _FINISHES.get(raw_finish, "other") if isinstance(raw_finish, str) else "other"
    return Completion(
        text=text,
        finish=finish,
        usage=_usage(usage),
        model=answered_by if isinstance(answered_by, str) and answered_by else None,
        request_id=request_id,
        refusal=_refusal(stop, text) if finish == "refusal" else None,
        raw_finish=raw_finish if isinstance(raw_finish, str) else None,
    )


def _refusal(stop: Mapping[str, Any], text: str) -> str | None:
    details = mapping_of(stop.get("stop_details"))
    words = (details.get("explanation"), text, details.get("category"))
    return next((word for word in words if isinstance(word, str) and word), None)


def _usage(fields: Mapping[str, Any]) -> Usage:
    # Its input tokens are only those that have nothing to do with the cache.
    uncached = count_of(fields.get("input_tokens"))
    read = count_of(fields.get("cache_read_input_tokens"))
    written = count_of(fields.get("cache_creation_input_tokens"))
    return Usage(
        None if uncached is None else uncached + (read or 0) + (written or 0),
        count_of(fields.get("output_tokens")),
        read,
        written,
        count_of(mapping_of(fields.get("output_tokens_details")).get("thinking_tokens")),
    )


def open_stream(head: Reply, endpoint: Endpoint) -> StreamReader | None:
    """Return how to read the stream behind a head; None if what follows is a whole reply."""
    if media_type(head.headers) == "application/json":
        return None
    return EventReader(EventSplitter(), _Folding(head, endpoint), head, endpoint)


class _Folding:
    """Make a completion of events; it is whole at `message_stop`, and not before."""

    def __init__(self, head: Reply, endpoint: Endpoint) -> None:
        self.is_complete = False
        self.may_end = False
        self._head = head
        self._endpoint = endpoint
        self._text: list[str] = []
        self._stop: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._model: object = None

    def take(self, event: ServerEvent) -> str | None:
        """Take one event."""
        fields = mapping_of(parse_json(event.data))
        if event.name == "error" and "error" not in fields:
            fields = {"type": "error", "error": fields}
        _refuse_error(fields, self._head, self._endpoint)
        match fields.get("type") or event.name:
            case "message_start":
                message = mapping_of(fields.get("message"))
                self._model = message.get("model")
                self._usage |= _told(message.get("usage"))
            case "content_block_start":
                return self._take_block(mapping_of(fields.get("content_block")))
            case "content_block_delta":
                return self._take_delta(mapping_of(fields.get("delta")))
            case "message_delta":
                self._stop |= _told(fields.get("delta"))
                # Its counts are those of the whole reply so far, and know of more than the first ones did.
                self._usage |= _told(fields.get("usage"))
            case "message_stop":
                # A marker without anything before it ends nothing: `close` says what is missing.
                self.is_complete = bool(self._stop.get("stop_reason")) or any(self._text)
        return None

    def _take_block(self, block: Mapping[str, Any]) -> str | None:
        text = self._keep(block)
        # Any other block that begins, such as a thought or a call of a tool, is a sign of life.
        return text or (None if block.get("type") in (None, "text") else "")

    def _take_delta(self, delta: Mapping[str, Any]) -> str | None:
        is_alive = any(value for name, value in delta.items() if name != "type")
        return self._keep(delta) or ("" if is_alive else None)

    def _keep(self, part: Mapping[str, Any]) -> str:
        text = _text(part)
        self._text.append(text)
        return text

    def completion(self) -> Completion:
        """Return the whole reply.

        Raises:
            RejectedError: If its context was full before it was whole.
        """
        return _completion("".join(self._text), self._stop, self._usage, self._model, self._head, self._endpoint)


def _told(value: object) -> dict[str, Any]:
    """Return what an object tells: a null is no news."""
    return {name: found for name, found in mapping_of(value).items() if found is not None}


def _headers(secret: Secret | None) -> dict[str, str]:
    key = {} if secret is None else {"x-api-key": secret.reveal()}
    return {"anthropic-version": _VERSION, **key}


def _path(_settings: Settings, _is_streamed: bool) -> str:  # noqa: FBT001 - an adapter's port
    return "/v1/messages"


ADAPTER = ChatAdapter(
    path=_path,
    headers=_headers,
    encode=encode,
    decode=decode,
    open_stream=open_stream,
    # Not `output_config`, which also says how much a model shall think: fields of it are merged with ours.
    reserved=frozenset({"messages", "model", "stream", "system"}),
)
"""How to speak to Anthropic."""
