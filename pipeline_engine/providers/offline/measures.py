"""Numbers: quantities that can be measured in a text, and how one is fitted into the bounds of a schema."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from pipeline_engine.providers.offline.words import content_stems

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline_engine.providers.offline.analysis import Analysis

__all__ = ["agreement", "fitted", "number_named"]

_NUMBER = re.compile(r"-?\d[\d,']{0,15}(?:\.\d{1,6})?")


def agreement(document: Analysis, others: Sequence[str]) -> float:
    """Return from 0 to 1 how well other texts (a title, a label, a summary) fit a document.

    It is the mean of two shares: the words of the others (of the title, if there are none) that occur in
    the document, and the words of the document's ten best phrases that occur in the others (in the summary).

    Example:
        >>> from pipeline_engine.providers.offline.analysis import analyse
        >>> tea = analyse("Tea is hot. Hot tea needs water. Water for the tea must boil.")
        >>> agreement(tea, ["Tea"]) > agreement(tea, ["Dogs"])
        True
    """
    body = {word for text in document.cleaned.prose for word in content_stems(text)}
    said = {word for text in others or [document.title] for word in content_stems(text[:20_000])}
    key = {word for phrase in document.keyphrases[:10] for word in content_stems(phrase)}
    told = said if others else said | set(content_stems(document.summary()))
    return (_share(said, body) + _share(key, told)) / 2


def _share(words: set[str], among: set[str]) -> float:
    return len(words & among) / len(words) if words else 0.0


def number_named(words: Sequence[str], text: str) -> float | None:
    r"""Return the number that follows a name in a text, on the same line.

    Example:
        >>> number_named(["total", "amount"], "Net 90.00\nTotal amount due: EUR 1,107.50")
        1107.5
    """
    if not words:
        return None
    name = r"\W{1,3}".join(re.escape(word) for word in words)
    found = re.search(rf"\b{name}\b[^\d\n]{{0,30}}?({_NUMBER.pattern})", text, re.IGNORECASE)
    return float(found[1].replace(",", "").replace("'", "")) if found else None


def fitted(share: float, schema: Mapping[str, Any], *, exact: float | None = None) -> float | int | None:
    """Return a number that fits the bounds of a schema; None if there is none.

    Args:
        share: A measure from 0 to 1, scaled into the bounds.
        schema: With `type`, `minimum`, `exclusiveMinimum`, `maximum`, `exclusiveMaximum`, `multipleOf`.
        exact: A number to take as it is, where it lies within the bounds.

    Example:
        >>> fitted(0.5, {"type": "integer", "minimum": 1, "maximum": 5})
        3
        >>> fitted(1.0, {"type": "number", "minimum": 0, "exclusiveMaximum": 1})
        0.99
    """
    is_whole = schema.get("type") == "integer"
    low, high = _limits(schema)
    if exact is not None and low <= exact <= high and _fits(exact, schema):
        return int(exact) if is_whole else exact
    if low == -math.inf and high == math.inf:
        low, high = 0.0, 1.0
    elif high == math.inf:
        high = low + 1
    elif low == -math.inf:
        low = min(0.0, high - 1)
    value = low + share * (high - low)
    step = schema.get("multipleOf") or (1 if is_whole else None)
    if step:
        candidates = [float(math.floor(value / step) * step), float(math.ceil(value / step) * step)]
        candidates.sort(key=lambda candidate: abs(candidate - value))
    else:
        inside = low + (high - low) * min(0.99, max(0.01, share))
        candidates = [round(value, 2), round(inside, 2), value, inside]
    fits = next((candidate for candidate in candidates if _fits(candidate, schema)), None)
    return int(fits) if is_whole and fits is not None else fits


def _limits(schema: Mapping[str, Any]) -> tuple[float, float]:
    low = max(float(schema.get("minimum", -math.inf)), float(schema.get("exclusiveMinimum", -math.inf)))
    high = min(float(schema.get("maximum", math.inf)), float(schema.get("exclusiveMaximum", math.inf)))
    return low, high


def _fits(value: float, schema: Mapping[str, Any]) -> bool:
    step = schema.get("multipleOf")
    return (
        schema.get("minimum", -math.inf) <= value <= schema.get("maximum", math.inf)
        and schema.get("exclusiveMinimum", -math.inf) < value < schema.get("exclusiveMaximum", math.inf)
        and (schema.get("type") != "integer" or value == int(value))
        and (not step or math.isclose(value / step, round(value / step), abs_tol=1e-9))
    )
