"""What a document, a call and a step are known by: hashes of all that makes a difference, and of nothing else.

Equal things give equal keys in every process, on every machine and in every version of Python; no `repr` of an
object and no order of a set ever enters one.
"""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from pydantic_core import PydanticSerializationError, to_json

from pipeline_engine.values import File, Image, Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline_engine.values import Message, Part

__all__ = ["call_key", "canonical", "digest", "digest_of", "message_parts", "request_key", "step_key"]

_SMALL = 2**53
_VERSION = 1
"""Grows when a key is made in another way: all that was saved under older keys is then out of reach."""


def canonical(value: Any) -> bytes:
    r"""Return a value in JSON's types as bytes that are the same for equal values, and others for others.

    They are UTF-8, except where a text holds a lone surrogate, which is written as if it were a character.

    Raises:
        TypeError: If the value has parts that are not in JSON's types.
        ValueError: If it holds itself, a number that is not finite, or an integer of thousands of digits, or is
            nested too deeply.

    Example:
        >>> canonical({"b": [1.0, None], "a": "é"})
        b'{"a":"\xc3\xa9","b":[1.0,null]}'
    """
    try:
        if _is_text(value):
            with suppress(PydanticSerializationError):  # a lone surrogate
                return to_json(value)  # the very same bytes, four times as quickly: prompts are long
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    except RecursionError as error:
        raise ValueError("the value is nested too deeply for JSON") from error
    # An escape would not do for a lone surrogate: two of them in a row would look like the character they stand for.
    return text.encode("utf-8", "surrogatepass")


def _is_text(value: Any) -> bool:
    """Whether a value is made of texts, small integers, lists and sorted dicts: all JSON writers write those alike."""
    kind = type(value)
    if kind is list:
        return all(map(_is_text, value))
    if kind is dict:
        return all(map(_is_text, [*value, *value.values()])) and list(value) == sorted(value)
    return kind is str or (kind is int and -_SMALL < value < _SMALL)


def digest(data: bytes) -> str:
    """Return the hash of some bytes: 128 bits of SHA-256 are enough to tell all documents of the world apart.

    Example:
        >>> digest(b"document")
        '43cc23fa52b87b4cc1d02b5b11415415'
    """
    return sha256(data).hexdigest()[:32]


def digest_of(value: Any) -> str:
    """Return the hash of a value in JSON's types.

    Raises:
        TypeError: As `canonical`.
        ValueError: As `canonical`.
    """
    return digest(canonical(value))


def message_parts(messages: Sequence[Message]) -> list[list[Any]]:
    """Return a conversation in JSON's types; pictures and files by their hashes.

    Example:
        >>> from pipeline_engine.values import Message
        >>> message_parts((Message("user", "Hello"),))
        [['user', 'Hello']]
    """
    return [[message.role, *map(_part, message.parts)] for message in messages]


def _part(part: Part) -> Any:
    if isinstance(part, Text):
        return part.text
    if isinstance(part, Image):
        return {"image": part.url if part.data is None else digest(part.data), "type": part.media_type}
    if isinstance(part, File):
        return {"file": digest(part.data), "type": part.media_type, "name": part.name}
    raise AssertionError(f"a message has a part of type {type(part).__name__}")


def request_key(model: str, asked: Any, schema: bytes, schema_name: str) -> str:
    """Return the hash of what reaches the wire and makes a difference to the answer.

    Args:
        model: Who is asked and how: provider, endpoint, name and parameters, but no key and no timeout.
        asked: The conversation from `message_parts`, or the texts to embed.
        schema: The JSON schema that the reply must fit; empty for plain text.
        schema_name: Its name, which some providers send along.
    """
    return digest_of(["request", _VERSION, model, asked, schema.decode(), schema_name if schema else ""])


def call_key(request: str, ordinal: int) -> str:
    """Return the key of one call: five equal requests of a document are five calls.

    Example:
        >>> call_key("90ab", 4)
        '90ab.4'
    """
    return f"{request}.{ordinal}"


def step_key(made_by: Any, schema: bytes, models: Iterable[str], inputs: Mapping[str, str]) -> str:
    """Return the key of a step's output.

    Args:
        made_by: What makes it: the step's `version=`, its normalised source, or its rendered prompt.
        schema: The JSON schema of the output, or whatever describes its type.
        models: The models that are bound to its role, in order.
        inputs: The hash of each need's value, by parameter.
    """
    return digest_of(["step", _VERSION, made_by, schema.decode(), list(models), dict(sorted(inputs.items()))])
