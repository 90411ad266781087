"""Reading what a server has sent: leniently, and never with more trust than a stranger deserves. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json

from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["count_of", "excerpt", "header_id", "mapping_of", "media_type", "parse_json", "text_of"]

_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_MEDIA_TYPE = re.compile(r"[\w.+-]{1,64}/[\w.+-]{1,64}", re.ASCII)
# No model has read or written more; a longer number is a fault of the server.
_MAX_TOKENS = 10**12
_REQUEST_ID_HEADERS = ("x-request-id", "request-id", "apim-request-id")


def parse_json(body: bytes) -> Any:
    r"""Return the value in a JSON body.

    A half of a surrogate pair, a broken UTF-8 sequence (both are what cutting text at a token leaves
    behind) and a byte order mark are repaired: the reply around them was paid for.

    Raises:
        ValueError: If it is no JSON, if it holds NaN or an infinity, or if it is nested too deeply.

    Example:
        >>> parse_json(rb'{"text": "cut \ud83d"}')
        {'text': 'cut �'}
    """
    try:
        return from_json(body, allow_inf_nan=False)
    except ValueError:
        text = body.decode("utf-8-sig", "replace")
        repaired = _ESCAPE.sub(lambda match: "\\ufffd" if match[1] else match[0], text)
        return from_json(repaired, allow_inf_nan=False)


def mapping_of(value: object) -> Mapping[str, Any]:
    """Return `value` if it is a JSON object, else an empty one: every field may be missing, null or odd."""
    return value if isinstance(value, dict) else {}


def text_of(value: object) -> str:
    """Return `value` as text if it is a string or a number, else an empty string.

    A number becomes text because an error's code is `"429"` at some servers and `429` at others.
    """
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def count_of(value: object) -> int | None:
    """Return a count of tokens, or None where a server counts nonsense: unknown is not zero."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MAX_TOKENS
    return value if is_count and isinstance(value, int) else None


def header_id(headers: Mapping[str, str]) -> str | None:
    """Return the provider's id of the request, if a header holds something that looks like one."""
    found = (headers.get(name, "").strip() for name in _REQUEST_ID_HEADERS)
    return next((value for value in found if _ID.fullmatch(value)), None)


def media_type(headers: Mapping[str, str]) -> str:
    """Return the response's media type, or an empty string if it has no proper one."""
    match = _MEDIA_TYPE.match(headers.get("content-type", "").strip())
    return match[0].lower() if match else ""


def excerpt(text: str, max_width: int) -> str:
    """Return the beginning of a stranger's text, safe to show and without its full stop."""
    # Cutting first keeps a reply of megabytes from being walked through character by character.
    return one_line(text.lstrip()[: 8 * max_width], max_width).strip().removesuffix(".")
