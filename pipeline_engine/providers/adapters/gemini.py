"""Google's `generateContent`, as Gemini speaks it. Pure."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pipeline_engine.errors import StreamTruncatedError, UnavailableError
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
from pipeline_engine.providers.wire.replies import (
    count_of,
    excerpt,
    header_id,
    mapping_of,
    media_type,
    parse_json,
    text_of,
)
from pipeline_engine.providers.wire.splitting import EventSplitter
from pipeline_engine.values import Completion, File, Finish, Image, Message, Part, Request, Text, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.providers.adapters.adapter import Endpoint, StreamReader
    from pipeline_engine.providers.secrets import Secret
    from pipeline_engine.providers.wire.splitting import ServerEvent

__all__ = ["ADAPTER", "decode", "encode", "open_stream"]

_FINISHES: dict[str, Finish] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "filter",
    "RECITATION": "filter",
    "LANGUAGE": "filter",
    "BLOCKLIST": "filter",
    "PROHIBITED_CONTENT": "filter",
    "SPII": "filter",
    "MODEL_ARMOR": "filter",
    "IMAGE_SAFETY": "filter",
    "IMAGE_PROHIBITED_CONTENT": "filter",
    "IMAGE_RECITATION": "filter",
    "MALFORMED_FUNCTION_CALL": "error",
    "MALFORMED_RESPONSE": "error",
    "UNEXPECTED_TOOL_CALL": "error",
    "TOO_MANY_TOOL_CALLS": "error",
    # The names' numbers, which are sent where `enum-encoding=int` was asked for; others differ between APIs.
    "1": "stop",
    "2": "length",
    "3": "filter",
    "4": "filter",
    "6": "filter",
    "7": "filter",
    "8": "filter",
    "9": "error",
}
_ANSWERED = ("candidatesTokenCount", "thoughtsTokenCount")
_KEYWORDS = frozenset({"type", "title", "description", "minItems", "maxItems", "minimum", "maximum"})
_FORMATS = frozenset({"date-time", "date", "time"})


def _is_taken(key: str, value: Any) -> bool:
    if key == "enum":
        return isinstance(value, list) and all(_is_text_or_number(option) for option in value)
    return value in _FORMATS if key == "format" else key in _KEYWORDS


def _is_text_or_number(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


# A definition may refer to itself only where a property may be left out, and here none may.
_SUBSET = Subset(takes=_is_taken, is_recursive=False)


def encode(request: Request, settings: Settings, _is_streamed: bool) -> bytes:  # noqa: FBT001 - an adapter's port
    """Return the body that asks for one completion; equal requests give equal bytes.

    A streamed reply is asked for by the path alone. What is marked as shared gets no marker: prefixes
    are cached unasked here.

    Args:
        request: What is asked. Its `sources` stay here.
        settings: How the model is asked.

    Raises:
        UnsupportedPartError: If a message holds something that Gemini does not take there.
    """
    schema = _strict_schema(request, settings)
    told = settings if schema is not None else replace(settings, structured_output="prompt")
    messages = json_instructions(request, told)
    system = [part for message in messages if message.role == "system" for part in message.parts]
    spoken = joined_by_role([message for message in messages if message.role != "system"])
    if not spoken:
        system, spoken = [], [Message("user", *system)]  # a request without any message is refused
    if any(not isinstance(part, Text) for part in system):
        raise UnsupportedPartError(
            "a system message holds more than text, and Gemini takes nothing else there. "
            "Put images and files into a user message."
        )
    turns = [(message.role, _parts(message.parts)) for message in spoken]
    body: dict[str, Any] = {
        "contents": [
            {"role": "model" if role == "assistant" else "user", "parts": parts} for role, parts in turns if parts
        ]
    }
    if head := _parts(system):
        body["systemInstruction"] = {"parts": head}
    is_json = request.schema is not None and settings.structured_output != "prompt"
    wanted = {
        "temperature": settings.temperature,
        "maxOutputTokens": settings.max_tokens,
        "seed": settings.seed,
        "responseMimeType": "application/json" if is_json else None,
        "responseJsonSchema": schema,
    }
    if config := {name: value for name, value in wanted.items() if value is not None}:
        body["generationConfig"] = config
    return as_json(merged(body, settings.extra_body))


def _strict_schema(request: Request, settings: Settings) -> dict[str, Any] | None:
    if request.schema is None or settings.structured_output != "schema":
        return None
    return strict_schema(request.schema, _SUBSET)


def _parts(parts: Sequence[Part]) -> list[dict[str, Any]]:
    """Return what a message holds; texts that stand side by side are one, with a blank line between them."""
    written: list[dict[str, Any]] = []
    for part in parts:
        match part:
            case Text(text=""):
                pass  # an empty one is refused, and documents may be empty
            case Text() if written and "text" in written[-1]:
                written[-1]["text"] += f"\n\n{part.text}"
            case Text():
                written.append({"text": part.text})
            case Image() | File():
                written.append(_medium(part))
    return written


def _medium(part: Image | File) -> dict[str, Any]:
    kind = {"mimeType": part.media_type} if part.media_type else {}
    if part.data is None:
        return {"fileData": {**kind, "fileUri": part.url}}
    # Which types are taken depends on the model, and there is no place for a file's name.
    return {"inlineData": {**kind, "data": base64.b64encode(part.data).decode()}}


def decode(reply: Reply, endpoint: Endpoint) -> Completion:
    """Return the completion in a response; unknown, missing and null fields are no reason to fail.

    A reply that was cut at its token cap or filtered is a completion whose `finish` says so. So is a
    prompt that was blocked, to which there is no reply at all. A stream that was asked for without
    `alt=sse` comes as one list of chunks, and is read, too.

    Args:
        reply: The response.
        endpoint: Who was asked.

    Raises:
        RejectedError: If the model will not answer this request.
        RateLimitError: If the call was refused for its rate.
        UnavailableError: If the server failed, or answered something that is no completion.
    """
    document = document_in(reply, endpoint)
    folding = _Folding(reply, endpoint)
    folding.take_document(document)
    if not folding.has_begun:
        raise without(reply, endpoint, "JSON without any candidate")
    if isinstance(document, list) and not folding.may_end:
        raise StreamTruncatedError(model=endpoint.name, request_id=header_id(reply.headers))
    return folding.completion()


def open_stream(head: Reply, endpoint: Endpoint) -> StreamReader | None:
    """Return how to read the stream behind a head; None if what follows is a whole reply."""
    if media_type(head.headers) == "application/json":
        return None
    return EventReader(EventSplitter(), _Folding(head, endpoint), head, endpoint)


class _Folding:
    """Make a completion of chunks, of which a reply that is not streamed is one.

    There is no marker at the end: a reply is whole if its body ends after a reason to finish. It is not
    whole as soon as that has come, because the count of tokens may come with a later chunk.
    """

    def __init__(self, head: Reply, endpoint: Endpoint) -> None:
        self.is_complete = False
        self.has_begun = False
        """Whether anything has come that belongs to a reply."""
        self._head = head
        self._endpoint = endpoint
        self._text: list[str] = []
        self._has_called = False
        self._finish = ""
        self._blocked = ""
        self._words: object = None
        self._usage: dict[str, Any] = {}
        self._model: object = None

    @property
    def may_end(self) -> bool:
        """Whether there was a reason to finish, or not even to begin."""
        return bool(self._finish or self._blocked)

    def take(self, event: ServerEvent) -> str | None:
        """Take one event."""
        if event.data == b"[DONE]":  # no marker of Google's, but gateways add it
            return None
        return self.take_document(parse_json(event.data))

    def take_document(self, document: object) -> str | None:
        """Take a chunk or a list of them, and return the text in it, "" for thinking, None for neither."""
        chunks = document if isinstance(document, list) else [document]
        pieces = [piece for chunk in chunks if (piece := self._take_chunk(mapping_of(chunk))) is not None]
        return "".join(pieces) if pieces else None

    def _take_chunk(self, fields: Mapping[str, Any]) -> str | None:
        if fields.get("error"):
            raise error_in_reply(self._head.status, self._head.headers, fields, self._endpoint)
        self._model = fields.get("modelVersion") or self._model
        told = mapping_of(fields.get("usageMetadata"))
        self._usage |= {name: count for name, count in told.items() if count is not None}
        feedback = mapping_of(fields.get("promptFeedback"))
        if blocked := text_of(feedback.get("blockReason")):
            self.has_begun = True
            self._blocked = blocked
            self._words = feedback.get("blockReasonMessage")
        candidates = fields.get("candidates")
        found = [mapping_of(candidate) for candidate in candidates] if isinstance(candidates, list) else []
        # More than one is sent only if `extra_body` asks for it, and then each has its number.
        return next((self._take_candidate(candidate) for candidate in found if not candidate.get("index")), None)

    def _take_candidate(self, candidate: Mapping[str, Any]) -> str | None:
        self.has_begun = self.has_begun or bool(candidate)
        self._finish = text_of(candidate.get("finishReason")) or self._finish
        self._words = candidate.get("finishMessage") or self._words
        parts = mapping_of(candidate.get("content")).get("parts")
        pieces = [self._take_part(mapping_of(part)) for part in parts] if isinstance(parts, list) else []
        told = [piece for piece in pieces if piece is not None]
        return "".join(told) if told else None

    def _take_part(self, part: Mapping[str, Any]) -> str | None:
        text = part.get("text")
        if isinstance(text, str) and text and not part.get("thought"):
            self._text.append(text)
            return text
        self._has_called = self._has_called or "functionCall" in part
        return "" if any(part.values()) else None

    def completion(self) -> Completion:
        """Return the whole reply.

        Raises:
            UnavailableError: If the model has written something that its provider could not use.
        """
        raw_finish = self._finish or self._blocked
        finish = self._reason()
        words = self._words if isinstance(self._words, str) and self._words else raw_finish
        request_id = header_id(self._head.headers)
        if finish == "error":
            quoted = excerpt(self._endpoint.redact(words), 200)
            raise UnavailableError(
                f"wrote a reply that its provider found invalid: “{quoted}”. Another try may go better.",
                model=self._endpoint.name,
                kind="bad_output",
                status=self._head.status,
                request_id=request_id,
                billed="yes",
            )
        return Completion(
            text="".join(self._text),
            finish=finish,
            usage=_usage(self._usage),
            model=self._model if isinstance(self._model, str) else None,
            request_id=request_id,
            refusal=words if finish == "filter" else None,
            raw_finish=raw_finish or None,
        )

    def _reason(self) -> Finish:
        if self._blocked and not self._finish:
            return "filter"
        finish = _FINISHES.get(self._finish, "other")
        # A call of a tool has no reason of its own.
        return "tool" if finish == "stop" and self._has_called else finish


def _usage(fields: Mapping[str, Any]) -> Usage:
    asked = _total(fields, "promptTokenCount", "toolUsePromptTokenCount")
    answered = _total(fields, *_ANSWERED)
    whole = count_of(fields.get("totalTokenCount"))
    if asked is not None and whole is not None and fields.keys().isdisjoint(_ANSWERED):
        answered = max(0, whole - asked)  # a count of zero is left out, as in a reply that was filtered
    return Usage(
        asked,
        answered,
        count_of(fields.get("cachedContentTokenCount")),
        None,
        count_of(fields.get("thoughtsTokenCount")),
    )


def _total(fields: Mapping[str, Any], *names: str) -> int | None:
    """Return the sum of the counts that are told, or None if none is or one of them is nonsense."""
    counts = [count_of(fields[name]) for name in names if name in fields]
    known = [count for count in counts if count is not None]
    return sum(known) if known and len(known) == len(counts) else None


def _headers(secret: Secret | None) -> dict[str, str]:
    return {} if secret is None else {"x-goog-api-key": secret.reveal()}


def _path(settings: Settings, is_streamed: bool) -> str:  # noqa: FBT001 - an adapter's port
    model = quote(settings.model.removeprefix("models/"), safe="")
    # Without `alt=sse` a stream is one JSON list, which can be read only when it has ended.
    return f"/models/{model}:{'streamGenerateContent?alt=sse' if is_streamed else 'generateContent'}"


ADAPTER = ChatAdapter(
    path=_path,
    headers=_headers,
    encode=encode,
    decode=decode,
    open_stream=open_stream,
    # Not `generationConfig`, which also says how much a model shall think: fields of it are merged with ours.
    reserved=frozenset({"contents", "systemInstruction"}),
)
"""How to speak to Gemini."""
