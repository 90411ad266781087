"""Replies, prompts and outcomes as a journal keeps them: bytes of JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError, to_json

from pipeline_engine.values import (
    Completed,
    Completion,
    Dropped,
    Embeddings,
    Failed,
    Image,
    Skipped,
    Stopped,
    Text,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline_engine.values import Message, Outcome

__all__ = ["json_bytes", "outcome_parts", "pack_prompt", "read_reply", "reply_bytes", "unpack_prompt", "usage_parts"]

_SHORT = 256
"""Texts of fewer characters are repeated: to name their place would take as many."""


def json_bytes(value: Any) -> bytes:
    """Return a value in JSON's types as bytes."""
    try:
        return to_json(value)  # several times as quick as the standard library
    except PydanticSerializationError:  # a lone surrogate, which only an escape can hold
        return json.dumps(value, separators=(",", ":")).encode()


def usage_parts(usage: Usage | None) -> dict[str, int]:
    """Return the counts that are known.

    Example:
        >>> usage_parts(Usage(10, 2))
        {'input_tokens': 10, 'output_tokens': 2}
    """
    if usage is None:
        return {}
    counts = ((name, getattr(usage, name)) for name in Usage.__slots__)
    return {name: count for name, count in counts if count is not None}


def reply_bytes(answer: Completion | Embeddings) -> bytes:
    """Return a model's answer, with all of it that decides what becomes of it."""
    told: dict[str, Any]
    if isinstance(answer, Embeddings):
        told = {"vectors": answer.vectors}
    else:
        told = {"text": answer.text, "finish": answer.finish}
        told |= {"refusal": answer.refusal} if answer.refusal else {}
        told |= {"raw_finish": answer.raw_finish} if answer.raw_finish else {}
        told |= {"request_id": answer.request_id} if answer.request_id else {}
    told |= {"model": answer.model} if answer.model else {}
    return json_bytes(told | {"usage": usage_parts(answer.usage)})


def read_reply(data: bytes) -> Completion | Embeddings:
    """Return the answer that `reply_bytes` has written.

    Example:
        >>> read_reply(reply_bytes(Completion("Hello", usage=Usage(3, 1)))).text
        'Hello'
    """
    told = json.loads(data)
    usage = Usage(**told.pop("usage"))
    if "vectors" in told:
        return Embeddings(told.pop("vectors"), usage=usage, **told)
    return Completion(usage=usage, **told)


def outcome_parts(outcome: Outcome[Any] | None) -> list[Any]:
    """Return how a step or item ended, without its output, which is kept elsewhere.

    Example:
        >>> outcome_parts(Skipped("when", is_by_choice=True))
        ['skipped', 'when', True]
    """
    if isinstance(outcome, Completed):
        return ["completed", outcome.via]
    if isinstance(outcome, Failed | Dropped):
        kind = "failed" if isinstance(outcome, Failed) else "dropped"
        return [kind, type(outcome.error).__name__, str(outcome.error)]
    if isinstance(outcome, Skipped):
        return ["skipped", outcome.because, outcome.is_by_choice]
    return ["stopped", outcome.reason if isinstance(outcome, Stopped) else "the run did not get there"]


def pack_prompt(messages: Sequence[Message], texts: Mapping[str, str], place: str | None) -> bytes:
    """Return a conversation in which long parts that are the document's own are named, not repeated.

    A step's five prompts of a document of 100 KB would else take 500 KB. A part is a text, or a list of its pieces,
    each a text or `{"input": name, "of": place, "from": start, "to": end}`, or a picture's or file's description.

    Args:
        messages: The conversation.
        texts: The document's inputs that are texts.
        place: Where the inputs are kept: the hash of their blob; None if they are not, and all is repeated.
    """
    known = {} if place is None else {name: text for name, text in texts.items() if len(text) >= _SHORT}
    packed = []
    for message in messages:
        parts: list[Any] = []
        for part in message.parts:
            if isinstance(part, Text):
                parts.append(_packed(part.text, known, place))
            else:
                kind = "image" if isinstance(part, Image) else "file"
                size = len(part.data or b"")
                parts.append({kind: getattr(part, "url", None), "bytes": size, "type": part.media_type})
        packed.append([message.role, *parts])
    return json_bytes(packed)


def unpack_prompt(data: bytes, inputs_at: Callable[[str], Mapping[str, Any] | None]) -> list[list[Any]]:
    """Return what `pack_prompt` was given: for each message its role and its parts.

    A text is a string; a picture or file is its description, as its content is not kept.

    Args:
        data: What it has made.
        inputs_at: Returns a document's inputs by the hash of their blob; None if they are not there.

    Raises:
        LookupError: If a part of the document is not there any more.

    Example:
        >>> from pipeline_engine.values import Message
        >>> text = "word " * 1000
        >>> packed = pack_prompt([Message("user", f"Summarize this: {text}")], {"document": text}, "7f3a")
        >>> len(packed), unpack_prompt(packed, {"7f3a": {"document": text}}.get) == [
        ...     ["user", f"Summarize this: {text}"]
        ... ]
        (83, True)
    """
    found: dict[str, Mapping[str, Any] | None] = {}

    def text_of(piece: Any) -> str:
        if isinstance(piece, str):
            return piece
        place, name = piece["of"], piece["input"]
        if place not in found:
            found[place] = inputs_at(place)
        inputs = found[place]
        if inputs is None or name not in inputs:
            raise LookupError(f"the document's {name!r} is not in the journal")
        text: str = inputs[name][piece["from"] : piece["to"]]
        return text

    return [
        [role, *("".join(map(text_of, part)) if isinstance(part, list) else part for part in parts)]
        for role, *parts in json.loads(data)
    ]


def _packed(text: str, known: Mapping[str, str], place: str | None) -> str | list[Any]:
    """Return a text, or the pieces of one of which some are named."""
    for name, source in known.items():
        start, length = _shared_part(text, source)
        if length >= _SHORT:
            end = start + length
            told = {"input": name, "of": place, "from": 0, "to": length}
            return [*([text[:start]] if start else []), told, *([text[end:]] if end < len(text) else [])]
    return text


def _shared_part(text: str, source: str) -> tuple[int, int]:
    """Return where the beginning of `source` stands in `text`, and how much of it does."""
    start = text.find(source[:_SHORT])
    if start < 0:
        return 0, 0
    low, high = _SHORT, min(len(source), len(text) - start)
    if text.startswith(source[:high], start):  # as in most prompts: all of it, or as much as stands at the end
        return start, high
    while low < high:
        middle = (low + high + 1) // 2
        if text.startswith(source[:middle], start):
            low = middle
        else:
            high = middle - 1
    return start, low
