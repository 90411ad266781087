"""Ollama's own interface: chats and vectors, as a local server and its cloud speak them. Pure."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pipeline_engine.providers.adapters.adapter import ChatAdapter, EmbeddingAdapter, Reply, Settings, merged
from pipeline_engine.providers.adapters.openai_chat import bearer
from pipeline_engine.providers.adapters.reading import EventReader, document_in, without
from pipeline_engine.providers.adapters.strict_schema import Subset, strict_schema
from pipeline_engine.providers.adapters.vectors import read_embeddings
from pipeline_engine.providers.adapters.writing import (
    UnsupportedPartError,
    as_json,
    joined_by_role,
    json_instructions,
)
from pipeline_engine.providers.wire.classification import error_in_reply
from pipeline_engine.providers.wire.replies import count_of, header_id, mapping_of, media_type, parse_json, text_of
from pipeline_engine.providers.wire.splitting import LineSplitter
from pipeline_engine.values import Completion, File, Finish, Image, Message, Request, Usage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.providers.adapters.adapter import Endpoint, StreamReader
    from pipeline_engine.providers.wire.splitting import ServerEvent
    from pipeline_engine.values import Embeddings

__all__ = ["ADAPTER", "EMBEDDING_ADAPTER", "decode", "encode", "open_stream"]

_FINISHES: dict[str, Finish] = {"stop": "stop", "length": "length"}
_KEYWORDS = frozenset({"type", "title", "description", "enum", "const", "minimum", "maximum"})
_FORMATS = frozenset({"date", "time", "date-time", "uuid"})
_COUNTS = frozenset({"minItems", "maxItems", "minLength", "maxLength"})
_MAX_REPETITIONS = 1000


def _is_taken(key: str, value: Any) -> bool:
    # The schema becomes a grammar, in which a bound is a repetition: one of thousands is refused. Patterns
    # are left out, because the grammar knows simple ones only and pydantic's are not.
    if key in _COUNTS:
        return isinstance(value, int) and value <= _MAX_REPETITIONS
    return value in _FORMATS if key == "format" else key in _KEYWORDS


_SUBSET = Subset(takes=_is_taken, is_recursive=True)


def encode(request: Request, settings: Settings, is_streamed: bool) -> bytes:  # noqa: FBT001 - an adapter's port
    """Return the body that asks for one completion; equal requests give equal bytes.

    A schema is told in the prompt in any case, as Ollama advises: it holds the model to it, but does not
    show it, so that without the words a model writes into fields that it does not know.

    Args:
        request: What is asked. Its `sources` stay here.
        settings: How the model is asked.
        is_streamed: Whether the reply shall come piece by piece.

    Raises:
        UnsupportedPartError: If a message holds a file, or an image by its address.
    """
    messages = joined_by_role(json_instructions(request, replace(settings, structured_output="prompt")))
    body: dict[str, Any] = {
        "model": settings.model,
        "messages": [_message(message) for message in messages],
        "stream": is_streamed,  # said in any case: Ollama streams unless it is told not to
    }
    if request.schema is not None and settings.structured_output != "prompt":
        body["format"] = _format(request.schema, settings)
    wanted = {"temperature": settings.temperature, "num_predict": settings.max_tokens, "seed": settings.seed}
    if options := {name: value for name, value in wanted.items() if value is not None}:
        body["options"] = options
    return as_json(merged(body, settings.extra_body))


def _message(message: Message) -> dict[str, Any]:
    images = [_image(part) for part in message.parts if isinstance(part, Image | File)]
    return {"role": message.role, "content": message.text, **({"images": images} if images else {})}


def _image(part: Image | File) -> str:
    if isinstance(part, File):
        raise UnsupportedPartError(
            f"file {part.name!r} is of the type {part.media_type!r}, and Ollama takes no files. "
            "Put what it says into the prompt."
        )
    if part.data is None:
        raise UnsupportedPartError(
            "an image is given by its address, and Ollama opens none. Give its bytes: Image(data, media_type=…)."
        )
    return base64.b64encode(part.data).decode()


def _format(schema: Mapping[str, Any], settings: Settings) -> str | dict[str, Any]:
    strict = strict_schema(schema, _SUBSET) if settings.structured_output == "schema" else None
    return "json" if strict is None else strict


def decode(reply: Reply, endpoint: Endpoint) -> Completion:
    """Return the completion in a response; unknown, missing and null fields are no reason to fail.

    A reply that was cut at its token cap is a completion whose `finish` says so.

    Args:
        reply: The response.
        endpoint: Who was asked.

    Raises:
        RejectedError: If the model will not answer this request.
        RateLimitError: If the call was refused for its rate.
        UnavailableError: If the server failed, or answered something that is no completion.
    """
    fields = _fields(reply, endpoint)
    if not mapping_of(fields.get("message")):
        raise without(reply, endpoint, "JSON without any message")
    folding = _Folding(reply, endpoint)
    folding.take_fields(fields)
    return folding.completion()


def _fields(reply: Reply, endpoint: Endpoint) -> Mapping[str, Any]:
    """Return what a successful reply holds, and raise what any other means."""
    fields = mapping_of(document_in(reply, endpoint))
    if fields.get("error"):
        raise error_in_reply(reply.status, reply.headers, fields, endpoint)
    return fields


def open_stream(head: Reply, endpoint: Endpoint) -> StreamReader | None:
    """Return how to read the stream behind a head; None if what follows is a whole reply."""
    if media_type(head.headers) == "application/json":
        return None
    return EventReader(LineSplitter(), _Folding(head, endpoint), head, endpoint)


class _Folding:
    """Make a completion of lines, of which a reply that is not streamed is one; the last says `done`."""

    def __init__(self, head: Reply, endpoint: Endpoint) -> None:
        self.is_complete = False
        self.may_end = False
        self._head = head
        self._endpoint = endpoint
        self._text: list[str] = []
        self._has_called = False
        self._last: Mapping[str, Any] = {}

    def take(self, event: ServerEvent) -> str | None:
        """Take one line."""
        fields = mapping_of(parse_json(event.data))
        if fields.get("error"):
            raise error_in_reply(self._head.status, self._head.headers, fields, self._endpoint)
        return self.take_fields(fields)

    def take_fields(self, fields: Mapping[str, Any]) -> str | None:
        """Take what one line holds, and return the text in it, "" for thinking, None for neither."""
        self.is_complete = fields.get("done") is True
        self._last = fields
        message = mapping_of(fields.get("message"))
        calls, text = message.get("tool_calls"), message.get("content")
        self._has_called = self._has_called or bool(calls)
        if isinstance(text, str) and text:
            self._text.append(text)
            return text
        return "" if calls or message.get("thinking") else None

    def completion(self) -> Completion:
        """Return the whole reply."""
        raw_finish = text_of(self._last.get("done_reason"))
        finish = _FINISHES.get(raw_finish, "other")
        model = self._last.get("model")
        return Completion(
            text="".join(self._text),
            # A call of a tool has no reason of its own.
            finish="tool" if finish == "stop" and self._has_called else finish,
            # What a model has thought is counted with what it has said, and nowhere apart.
            usage=Usage(count_of(self._last.get("prompt_eval_count")), count_of(self._last.get("eval_count"))),
            model=model if isinstance(model, str) and model else None,
            request_id=header_id(self._head.headers),
            raw_finish=raw_finish or None,
        )


def _path(_settings: Settings, _is_streamed: bool) -> str:  # noqa: FBT001 - an adapter's port
    return "/api/chat"


ADAPTER = ChatAdapter(
    path=_path,
    headers=bearer,  # Ollama's cloud takes a key; a server of one's own ignores it
    encode=encode,
    decode=decode,
    open_stream=open_stream,
    # Not `options`, of which there are many more: fields of it are merged with ours.
    reserved=frozenset({"format", "messages", "model", "stream"}),
)
"""How to speak to Ollama."""


def _encode_texts(texts: Sequence[str], settings: Settings) -> bytes:
    # Unless told not to, Ollama cuts a text that is too long and says nothing: half a text is another text.
    body = {"model": settings.model, "input": list(texts), "truncate": False}
    return as_json({**merged(body, settings.extra_body), "model": settings.model, "input": list(texts)})


def _decode_vectors(reply: Reply, endpoint: Endpoint, count: int) -> Embeddings:
    fields = _fields(reply, endpoint)
    return read_embeddings(fields.get("embeddings"), fields, fields.get("prompt_eval_count"), reply, endpoint, count)


EMBEDDING_ADAPTER = EmbeddingAdapter(
    path=lambda _settings: "/api/embed",
    headers=bearer,
    encode=_encode_texts,
    decode=_decode_vectors,
    max_texts=512,  # Ollama names no limit; these are a second of work for a small model
)
"""How to ask Ollama for vectors."""
