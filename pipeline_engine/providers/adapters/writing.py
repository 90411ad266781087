"""Writing requests: what all adapters do alike. Pure."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pipeline_engine.values import Message, Part, Request, Text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.providers.adapters.adapter import Settings

__all__ = ["UnsupportedPartError", "as_json", "described", "joined_by_role", "json_instructions"]

_SURROGATES = re.compile("[\ud800-\udfff]")
_HAS_ORJSON = find_spec("orjson") is not None


class UnsupportedPartError(ValueError):
    """Raised for a part of a message that a provider does not take; the message says which and what it takes."""


def as_json(body: Mapping[str, Any]) -> bytes:
    """Return a request's body; equal bodies give equal bytes.

    Documents may hold halves of surrogate pairs, which UTF-8 has no bytes for: they become U+FFFD.
    """
    if _HAS_ORJSON:
        import orjson

        try:
            return orjson.dumps(body)
        except TypeError:  # it refuses surrogates, integers of more than 64 bits, and keys that are no text
            pass
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        return _SURROGATES.sub("\ufffd", text).encode()


def described(name: str) -> str:
    """Return a schema's name in the letters that providers take."""
    return re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "output"


def joined_by_role(messages: Sequence[Message]) -> list[Message]:
    r"""Return the messages, neighbours of one role made into one.

    Many chat templates ask for user and assistant to take turns.

    Example:
        >>> [message.text for message in joined_by_role([Message("user", "a"), Message("user", "b")])]
        ['a\n\nb']
    """
    joined: list[Message] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            joined[-1] = Message(message.role, *joined[-1].parts, *message.parts)
        else:
            joined.append(message)
    return joined


def json_instructions(request: Request, settings: Settings) -> tuple[Message, ...]:
    """Return the messages, with the schema told in words where the provider is not given it otherwise.

    The words stand at the end: what calls share stays at the beginning.
    """
    if request.schema is None or settings.structured_output == "schema":
        return request.messages
    schema = json.dumps(request.schema, ensure_ascii=False, separators=(",", ":"))
    told: Part = Text(
        "Answer with one JSON value that fits this JSON schema, and with nothing else: "
        f"no explanation, no Markdown.\n{schema}"
    )
    return (*request.messages, Message("user", told))
