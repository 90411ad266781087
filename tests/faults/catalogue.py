"""The faults that are played, by number and words, as `docs` and tests name them."""

from collections.abc import Sequence
from typing import Any

import pytest

__all__ = ["FAULTS", "fault"]

FAULTS = {
    1: "429 with Retry-After in seconds",
    2: "429 with Retry-After as a date",
    3: "429 without a header",
    4: "429 insufficient_quota",
    5: "Retry-After that makes no sense",
    6: "500, 502, 503, 504, 529",
    7: "401, 403",
    8: "404 for the model",
    9: "400 for the context's length",
    10: "413",
    11: "408, 409",
    12: "200 with an error in its body",
    13: "200 with a login page",
    14: "200 with an empty body",
    15: "invalid JSON",
    16: "JSON without choices",
    17: "refusal and content filter",
    18: "a reply cut at its token cap",
    19: "usage missing, negative, huge",
    20: "another model named in the answer",
    21: "a stream without [DONE]",
    22: "a stream cut in the middle of an event",
    23: "an error event after tokens",
    24: "keep-alives for ever",
    25: "a byte now and then",
    26: "UTF-8 and CRLF split over chunks",
    27: "a line of 100 MB",
    28: "duplicate and odd deltas",
    29: "a gzip bomb, a wrong Content-Encoding",
    30: "a flood of headers",
    31: "a nonsense Date header",
    32: "an output that violates its schema",
    33: "valid but empty strings",
    34: "a local server that loads its model",
    35: "a local server that is not running",
    36: "a name that nobody knows",
    37: "connection refused",
    38: "a black hole",
    39: "TLS that cannot be trusted",
    40: "a reset before the request was sent",
    41: "a reset after the request was sent",
    42: "a kept connection closed by the server",
    43: "half-open TCP after sleep",
    44: "a slow upload",
    45: "a proxy that asks for its own key",
    46: "a captive portal",
    47: "a redirect to another host",
    48: "broken IPv6",
    49: "an exhausted pool",
    50: "1 KB/s",
    51: "slices of one byte",
}
"""Numbers and words of the fault catalogue: what a server and a network can do to a call."""


def fault(number: int, *variants: Any, ids: Sequence[str] = ()) -> pytest.MarkDecorator:
    """Return the mark that makes a test the one of a fault, with an argument `case` for each of its variants."""
    words = f"{number:02} {FAULTS[number]}"
    cases = variants or (None,)
    names = ids or [_shown(variant) for variant in variants]
    return pytest.mark.parametrize("case", cases, ids=[f"{words}: {name}" for name in names] or [words])


def _shown(variant: Any) -> str:
    text = variant if isinstance(variant, str) else repr(variant)
    text = text.strip() or repr(text)
    return text if len(text) <= 40 else f"{text[:39]}…"
