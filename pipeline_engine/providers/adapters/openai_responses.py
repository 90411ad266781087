"""OpenAI's responses, as OpenAI and the servers that are compatible with it speak them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline_engine.providers.adapters.adapter import ChatAdapter, Reply, Settings, merged
from pipeline_engine.providers.adapters.openai_chat import bearer
from pipeline_engine.providers.adapters.reading import EventReader, document_in, without
from pipeline_engine.providers.adapters.strict_schema import strict_schema
from pipeline_engine.providers.adapters.writing import (
    UnsupportedPartError,
    as_json,
    described,
    joined_by_role,
    json_instructions,
)
from pipeline_engine.providers.wire.classification import error_in_reply
from pipeline_engine.providers.wire.replies import count_of, header_id, mapping_of, media_type, parse_json, text_of
from pipeline_engine.providers.wire.splitting import EventSplitter
from pipeline_engine.values import Completion, File, Finish, Image, Message, Part, Request, Text, Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pipeline_engine.errors import ProviderError
    from pipeline_engine.providers.adapters.adapter import Endpoint, StreamReader
    from pipeline_engine.providers.wire.splitting import ServerEvent

__all__ = ["ADAPTER", "decode", "encode", "open_stream"]

_FINISHES: dict[str, Finish] = {
    "completed": "stop",
    "max_output_tokens": "length",
    "content_filter": "filter",
}
_NO_ANSWERS = frozenset({"failed", "cancelled"})
_PENDING = frozenset({"queued", "in_progress"})


def encode(request: Request, settings: Settings, is_streamed: bool) -> bytes:  # noqa: FBT001 - an adapter's port
    """Return the body that asks for one completion; equal requests give equal bytes.

    What is marked as shared gets no marker: prefixes are cached unasked here.

    Args:
        request: What is asked. Its `sources` stay here.
        settings: How the model is asked. There is no such thing as a `seed` here, so that is left out.
        is_streamed: Whether the reply shall come piece by piece.

    Raises:
        UnsupportedPartError: If a message of the assistant's holds more than text.
    """
    messages = joined_by_role(json_instructions(request, settings))
    body: dict[str, Any] = {
        "model": settings.model,
        # The type may be left out, says OpenAI; compatible servers want it on what the model has said before.
        "input": [{"type": "message", "role": message.role, "content": _content(message)} for message in messages],
        # Else OpenAI keeps documents and replies for a month, to go on from them: nobody does that here.
        "store": False,
    }
    if request.schema is not None and settings.structured_output != "prompt":
        body["text"] = {"format": _format(request.schema, request.schema_name, settings)}
    wanted = {"temperature": settings.temperature, "max_output_tokens": settings.max_tokens}
    body |= {name: value for name, value in wanted.items() if value is not None}
    if is_streamed:
        body["stream"] = True
    return as_json(merged(body, settings.extra_body))


def _content(message: Message) -> str | list[dict[str, Any]]:
    if all(isinstance(part, Text) for part in message.parts):
        return message.text
    if message.role == "assistant":
        raise UnsupportedPartError(
            "a message of the assistant's holds more than text, and OpenAI takes nothing else there. "
            "Put images and files into a user message."
        )
    return [_part(part) for part in message.parts]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "input_text", "text": part.text}
        case Image():
            # "auto" is the default, but compatible servers check that it is there.
            return {"type": "input_image", "detail": "auto", "image_url": part.data_url}
        case File():
            return {"type": "input_file", "filename": part.name, "file_data": part.data_url}


def _format(schema: Mapping[str, Any], name: str, settings: Settings) -> dict[str, Any]:
    if settings.structured_output == "json":
        return {"type": "json_object"}
    strict = strict_schema(schema)
    wanted = schema if strict is None else strict
    return {"type": "json_schema", "name": described(name), "schema": wanted, "strict": strict is not None}


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
    fields = mapping_of(document_in(reply, endpoint))
    state = text_of(fields.get("status"))
    if fields.get("error") or fields.get("object") == "error" or state in _NO_ANSWERS:
        raise _failure(fields, reply, endpoint)
    output = fields.get("output")
    if state in _PENDING or not isinstance(output, list) or not (output or state):
        lack = f"a response that is still {state}" if state in _PENDING else "JSON without any output"
        raise without(reply, endpoint, lack)
    answer = _Answer()
    answer.take_items(output)
    return answer.completion(fields, header_id(reply.headers))


def _failure(fields: Mapping[str, Any], head: Reply, endpoint: Endpoint) -> ProviderError:
    """Return the error in a response or an event: a field of it, or itself."""
    return error_in_reply(head.status, head.headers, {"error": fields.get("error") or fields}, endpoint)


class _Answer:
    """Hold what the model has said so far, whether as deltas or as items."""

    def __init__(self) -> None:
        self.text: list[str] = []
        self.refusal: list[str] = []
        self.has_called = False

    def take_items(self, items: Iterable[object]) -> None:
        """Take items of output; reasoning and those of unknown types are no part of the answer."""
        for item in map(mapping_of, items):
            self.note_call(item)
            content = item.get("content")
            if item.get("type") != "message" or not isinstance(content, list):
                continue
            for part in map(mapping_of, content):
                self._take_part(part)

    def _take_part(self, part: Mapping[str, Any]) -> None:
        if part.get("type") == "output_text":
            self.text.append(_string(part.get("text")))
        elif part.get("type") == "refusal":
            self.refusal.append(_string(part.get("refusal")))

    def note_call(self, item: Mapping[str, Any]) -> None:
        """Remember that a tool of the caller's is to be called; OpenAI's own tools have other names."""
        self.has_called = self.has_called or item.get("type") in ("function_call", "custom_tool_call")

    def completion(self, fields: Mapping[str, Any], request_id: str | None) -> Completion:
        """Return the completion that these words and a response's other fields make."""
        status = text_of(fields.get("status"))
        reason = text_of(mapping_of(fields.get("incomplete_details")).get("reason"))
        raw_finish = reason if status == "incomplete" and reason else status
        # Incomplete for no reason that is told means that there was no room for more.
        finish: Finish = _FINISHES.get(raw_finish, "length" if status == "incomplete" else "other")
        if finish == "stop" and self.has_called:
            finish = "tool"
        refusal = "".join(self.refusal)
        return Completion(
            text="".join(self.text),
            finish="refusal" if refusal else finish,
            usage=_usage(mapping_of(fields.get("usage"))),
            model=_string(fields.get("model")) or None,
            request_id=request_id,
            refusal=refusal or None,
            raw_finish=raw_finish or None,
        )


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _usage(fields: Mapping[str, Any]) -> Usage:
    asked = mapping_of(fields.get("input_tokens_details"))
    answered = mapping_of(fields.get("output_tokens_details"))
    return Usage(
        count_of(fields.get("input_tokens")),
        count_of(fields.get("output_tokens")),
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
    """Make a completion of events; it is whole at its terminal event, and not before.

    The terminal event repeats the whole response. What was streamed counts all the same, because it was
    handed on already; only where nothing was, the repetition is the answer.
    """

    def __init__(self, head: Reply, endpoint: Endpoint) -> None:
        self.is_complete = False
        self._head = head
        self._endpoint = endpoint
        self._answer = _Answer()
        self._response: Mapping[str, Any] = {}
        self._failure: ProviderError | None = None

    @property
    def may_end(self) -> bool:
        """Whether a failure has come, after which there is nothing to wait for."""
        return self._failure is not None

    def take(self, event: ServerEvent) -> str | None:
        """Take one event."""
        if event.data == b"[DONE]":  # no marker of OpenAI's, but gateways add it
            return None
        fields = mapping_of(parse_json(event.data))
        kind = text_of(fields.get("type")) or event.name
        if kind == "error" or event.name == "error" or fields.get("error"):
            raise _failure(fields, self._head, self._endpoint)
        match kind:
            case "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled":
                state = kind.removeprefix("response.")
                return self._take_response({"status": state, **_told(fields.get("response"))})
            case "response.output_text.delta":
                text = _string(fields.get("delta"))
                self._answer.text.append(text)
                return text or None
            case "response.refusal.delta":
                self._answer.refusal.append(_string(fields.get("delta")))
            case "response.output_item.added" | "response.output_item.done":
                item = mapping_of(fields.get("item"))
                self._answer.note_call(item)
                # A thought or a call of a tool that begins is a sign of life; an empty message is none.
                return None if item.get("type") in (None, "message") else ""
        # So is any piece of them.
        return "" if kind.endswith(".delta") and fields.get("delta") else None

    def _take_response(self, response: Mapping[str, Any]) -> str | None:
        if response.get("error"):
            raise _failure(response, self._head, self._endpoint)
        if text_of(response["status"]) in _NO_ANSWERS:
            # Azure tells why in an event behind this one.
            self._failure = _failure(response, self._head, self._endpoint)
            return None
        self.is_complete = True
        self._response = response
        repeated = _Answer()
        output = response.get("output")
        repeated.take_items(output if isinstance(output, list) else ())
        self._answer.has_called = self._answer.has_called or repeated.has_called
        if not any(self._answer.refusal):
            self._answer.refusal = repeated.refusal
        if any(self._answer.text):
            return None
        self._answer.text = repeated.text
        return "".join(repeated.text) or None

    def completion(self) -> Completion:
        """Return the whole reply.

        Raises:
            ProviderError: If the model has failed, and nothing has told why.
        """
        if self._failure is not None:
            raise self._failure
        return self._answer.completion(self._response, header_id(self._head.headers))


def _told(value: object) -> dict[str, Any]:
    """Return what an object tells: a null is no news."""
    return {name: found for name, found in mapping_of(value).items() if found is not None}


def _path(_settings: Settings, _is_streamed: bool) -> str:  # noqa: FBT001 - an adapter's port
    return "/responses"


ADAPTER = ChatAdapter(
    path=_path,
    headers=bearer,
    encode=encode,
    decode=decode,
    open_stream=open_stream,
    # Not `text`, which also says how verbose a model shall be: fields of it are merged with ours.
    # `background` would bring a promise of a reply instead of one.
    reserved=frozenset({"background", "input", "model", "stream"}),
)
"""How to speak to OpenAI's responses."""
