"""What is left of a provider's limits: the rate-limit headers that come with every reply. Pure."""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TYPE_CHECKING

from pipeline_engine.providers.wire.hints import MAX_HINT, number, reset_after
from pipeline_engine.providers.wire.replies import count_of
from pipeline_engine.values import RateLimitState, RateLimitWindow

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["rate_limit_state"]

_FIELD = "(?P<field>limit|remaining|reset)"
_HEADER = re.compile(
    rf"x-ratelimit-{_FIELD}-(?P<openai>(?:requests|tokens)(?:_usage_based)?)"
    rf"|anthropic-ratelimit-(?P<anthropic>(?:input-|output-)?tokens|requests)-{_FIELD.replace('field', 'field_')}"
)
_NOT_TOLD = RateLimitWindow()


def rate_limit_state(headers: Mapping[str, str]) -> RateLimitState | None:
    """Return what a reply's headers tell about the provider's limits, or None if they tell nothing.

    What is negative or cannot be read counts as not told: some servers send `-1` for "unknown".

    Args:
        headers: The response's headers, with lower-case names.

    Example:
        >>> state = rate_limit_state({"x-ratelimit-remaining-tokens": "29000", "x-ratelimit-reset-tokens": "6m0s"})
        >>> state.tokens
        RateLimitWindow(limit=None, remaining=29000, reset_after=360.0)
        >>> rate_limit_state({"content-type": "application/json"}) is None
        True
    """
    told: dict[str, dict[str, str]] = {}
    for name, value in headers.items():
        # Looked for first because most headers are others, and this is asked of every reply.
        named = _named(name) if "ratelimit" in name else None
        if named is not None:
            what, field = named
            told.setdefault(what, {})[field] = value
    windows: dict[str, RateLimitWindow] = {}
    for what, fields in told.items():
        window = _window(fields, headers.get("date"))
        if window != _NOT_TOLD:
            # Two limits of one thing both hold: the one with less left is the one that will be met.
            name = what.removesuffix("_usage_based").replace("-", "_")
            known = windows.get(name)
            windows[name] = window if known is None else min(known, window, key=_left)
    return RateLimitState(**windows) if windows else None


@lru_cache(maxsize=64)
def _named(name: str) -> tuple[str, str] | None:
    """Return what a header tells about and which field of it; servers send the same few names with each reply."""
    match = _HEADER.fullmatch(name)
    if match is None:
        return None
    return match["openai"] or match["anthropic"], match["field"] or match["field_"]


def _window(fields: Mapping[str, str], server_date: str | None) -> RateLimitWindow:
    reset = fields.get("reset")
    seconds = reset_after(reset, server_date) if reset else None
    return RateLimitWindow(
        # With a limit of 0 there would be no reply to read it from: it is a placeholder of Azure's.
        limit=_count(fields.get("limit")) or None,
        remaining=_count(fields.get("remaining")),
        reset_after=None if seconds is None else min(seconds, MAX_HINT),
    )


def _count(text: str | None) -> int | None:
    return count_of(number(text)) if text else None


def _left(window: RateLimitWindow) -> float:
    return math.inf if window.remaining is None else window.remaining
