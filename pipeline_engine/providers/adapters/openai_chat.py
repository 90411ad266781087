"""OpenAI's chat completions, as OpenAI and every compatible server speak them. Pure."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from pipeline_engine.providers.adapters.adapter import ChatAdapter, Reply, Settings, merged
from pipeline_engine.providers.adapters.reading import EventReader, document_in, without
from pipeline_engine.providers.adapters.strict_schema import strict_schema
from pipeline_engine.providers.adapters.writing import as_json, described, joined_by_role, json_instructions
from pipeline_engine.providers.wire.classification import error_in_reply
from pipeline_engine.providers.wire.replies import count_of, header_id, mapping_of, media_type, parse_json
from pipeline_engine.providers.wire.splitting import EventSplitter
from pipeline_engine.values import Completion, File, Finish, Image, Message, Part, Request, Text, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline_engine.providers.adapters.adapter import Endpoint, StreamReader
    from pipeline_engine.providers.secrets import Secret
    from pipeline_engine.providers.wire.splitting import ServerEvent

__all__ = ["ADAPTER", "OPENAI_ADAPTER", "bearer", "decode", "encode", "open_stream"]

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


def encode(request: Request, settings: Settings, is_streamed: bool, *, is_own: bool = False) -> bytes:  # noqa: FBT001 - an adapter's port
    """Return the body that asks for one completion; equal requests give equal bytes.

    Args:
        request: What is asked. Its `sources` stay here.
        settings: How the model is asked.
        is_streamed: Whether the reply shall come piece by piece.
        is_own: Whether OpenAI itself is asked, and not a compatible server.
    """
    # OpenAI's newer models reject the old name of the token cap, and most compatible servers know only that one.
    cap = "max_completion_tokens" if is_own else "max_tokens"
    messages = joined_by_role(json_instructions(request, settings))
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [{"role": message.role, "content": _content(message)} for message in messages],
    }
    if request.schema is not None and settings.structured_output != "prompt":
        body["response_format"] = _response_format(request, settings)
    wanted = {"temperature": settings.temperature, cap: settings.max_tokens, "seed": settings.seed}
    body |= {name: value for name, value in wanted.items() if value is not None}
    if is_streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return as_json(merged(body, settings.extra_body))


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


def _response_format(request: Request, settings: Settings) -> dict[str, Any]:
    if settings.structured_output == "json":
        return {"type": "json_object"}
    schema = request.schema or {}
    strict = strict_schema(schema)
    name = described(request.schema_name)
    wanted = {"name": name, "schema": schema if strict is None else strict, "strict": strict is not None}
    return {"type": "json_schema", "json_schema": wanted}


def decode(reply: Reply, endpoint: Endpoint) -> Completion:
    """Return the completion in a response; unknown, missing and null fields are no reason to fail.

    A reply that was cut at its token cap, refused or filtered is a completion whose `finish` says so.

    Args:
        reply: The response.
        endpoint: Who was asked.

    Raises:
        RejectedError: If the model will not answer this request.
        RateLimitError: If the call was refused for its rate.
        UnavailableError: If the server failed, or answered something that is no completion.
    """
    document = document_in(reply, endpoint)
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    fields = mapping_of(document)
    _refuse_error(fields, reply, endpoint)
    choices = fields.get("choices")
    choice = mapping_of(choices[0]) if isinstance(choices, list) and choices else {}
    if not choice:
        raise without(reply, endpoint, "JSON without any choice")
    raw_finish = choice.get("finish_reason")
    if choice.get("error") or _finish(raw_finish) == "error":
        raise error_in_reply(
            reply.status, reply.headers, {"error": choice.get("error") or {"code": raw_finish}}, endpoint
        )
    message = mapping_of(choice.get("message"))
    # Azure leaves out the message of a choice that its filter has stopped.
    raw_finish = raw_finish if "message" in choice else "content_filter"
    answered_by = fields.get("model")
    return _completion(
        _text(message),
        raw_finish,
        _refusal(message),
        _usage(fields.get("usage")),
        answered_by,
        header_id(reply.headers),
    )


def _refuse_error(fields: Mapping[str, Any], reply: Reply, endpoint: Endpoint) -> None:
    """Raise the error in a body, before anything else is read: a 200 may carry one.

    Some servers send `"error": null` with every success.
    """
    if fields.get("error") or fields.get("object") == "error":
        raise error_in_reply(reply.status, reply.headers, fields, endpoint)


def _finish(raw: object) -> Finish:
    return _FINISHES.get(raw, "other") if isinstance(raw, str) else "other"


def _completion(
    text: str, raw_finish: object, refusal: str, usage: Usage, answered_by: object, request_id: str | None
) -> Completion:
    return Completion(
        text=text,
        finish="refusal" if refusal else _finish(raw_finish),
        usage=usage,
        model=answered_by if isinstance(answered_by, str) and answered_by else None,
        request_id=request_id,
        refusal=refusal or None,
        raw_finish=raw_finish if isinstance(raw_finish, str) else None,
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
    asked = mapping_of(fields.get("prompt_tokens_details"))
    answered = mapping_of(fields.get("completion_tokens_details"))
    return Usage(
        count_of(fields.get("prompt_tokens")),
        count_of(fields.get("completion_tokens")),
        count_of(asked.get("cached_tokens")),
        count_of(asked.get("cache_write_tokens")),
        count_of(answered.get("reasoning_tokens")),
    )


def open_stream(head: Reply, endpoint: Endpoint) -> StreamReader | None:
    """Return how to read the stream behind a head; None if what follows is a whole reply."""
    if media_type(head.headers) == "application/json":
        return None
    return EventReader(EventSplitter(), _Folding(head, endpoint), head, endpoint)


class _Folding:
    """Make a completion of chunks; it is whole at `[DONE]`, or at a clean end after a finish reason."""

    def __init__(self, head: Reply, endpoint: Endpoint) -> None:
        self.is_complete = False
        self._head = head
        self._endpoint = endpoint
        self._has_begun = False
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._raw_finish: object = None
        self._usage = Usage()
        self._model: object = None

    @property
    def may_end(self) -> bool:
        """Many compatible servers never send the marker."""
        return self._raw_finish is not None

    def take(self, event: ServerEvent) -> str | None:
        """Take one chunk."""
        if event.data == b"[DONE]":
            # A marker without anything before it ends nothing: `close` says what is missing.
            self.is_complete = self._has_begun
            return None
        fields = mapping_of(parse_json(event.data))
        _refuse_error(fields, self._head, self._endpoint)
        if event.name == "error":
            raise error_in_reply(self._head.status, self._head.headers, {"error": fields}, self._endpoint)
        self._model = fields.get("model") or self._model
        if fields.get("usage"):
            self._usage = _usage(fields["usage"])
        choices = fields.get("choices")
        choice = mapping_of(choices[0]) if isinstance(choices, list) and choices else {}
        if choice.get("error") or _finish(choice.get("finish_reason")) == "error":
            error = {"error": choice.get("error") or {"code": choice["finish_reason"]}}
            raise error_in_reply(self._head.status, self._head.headers, error, self._endpoint)
        self._has_begun = self._has_begun or bool(choice)
        self._raw_finish = choice.get("finish_reason") or self._raw_finish
        return self._take_delta(mapping_of(choice.get("delta")))

    def _take_delta(self, delta: Mapping[str, Any]) -> str | None:
        content = delta.get("content")
        if content and isinstance(content, str) and not delta.get("refusal"):  # nearly every chunk
            self._text.append(content)
            return content
        text, refusal = _text(delta), _refusal(delta)
        if refusal:
            self._refusal.append(refusal)
        if text:
            self._text.append(text)
            return text
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        return "" if refusal or thought or delta.get("tool_calls") else None

    def completion(self) -> Completion:
        """Return the whole reply."""
        return _completion(
            "".join(self._text),
            self._raw_finish,
            "".join(self._refusal),
            self._usage,
            self._model,
            header_id(self._head.headers),
        )


def bearer(secret: Secret | None) -> dict[str, str]:
    """Return the header that carries a key as OpenAI takes it."""
    return {} if secret is None else {"authorization": f"Bearer {secret.reveal()}"}


def _path(_settings: Settings, _is_streamed: bool) -> str:  # noqa: FBT001 - an adapter's port
    return "/chat/completions"


ADAPTER = ChatAdapter(
    path=_path,
    headers=bearer,
    encode=encode,
    decode=decode,
    open_stream=open_stream,
    reserved=frozenset({"messages", "model", "n", "response_format", "stream", "stream_options"}),
)
"""How to speak to a server that is compatible with OpenAI's."""
OPENAI_ADAPTER = replace(ADAPTER, encode=partial(encode, is_own=True))
"""How to speak to OpenAI itself."""
