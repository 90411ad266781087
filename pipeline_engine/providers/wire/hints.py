"""How long a provider asks to be left alone: retry hints in headers, bodies and messages. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["MAX_HINT", "number", "odd_hint", "reset_after", "retry_hint"]

MAX_HINT = 86_400.0
"""Seconds to which longer hints are cut: servers have sent `1e9`."""

_NUMBER = re.compile(r"\d{1,12}(?:\.\d{0,12})?(?:[eE]\+?\d{1,2})?")
_GO_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "d": 86_400.0}
_GO_PART = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)(ms|us|µs|ns|h|m|s|d)")
_GO_DURATION = re.compile(rf"(?:{_GO_PART.pattern})+")
_SAID = re.compile(
    r"(?:try again|retry) (?:in|after) "
    rf"(?:(?P<go>(?:{_GO_PART.pattern})+)\b"
    r"|(?P<number>\d{1,12}(?:\.\d{1,12})?) ?(?P<unit>milliseconds?|seconds?|secs?|minutes?|mins?|hours?)\b)",
    re.IGNORECASE,
)
_SAID_UNITS = {"milli": 1e-3, "sec": 1.0, "min": 60.0, "hour": 3600.0}
_RESET = re.compile(r"(?:x-ratelimit-reset-(?P<openai>.+)|anthropic-ratelimit-(?P<anthropic>.+)-reset)")


def retry_hint(status: int, headers: Mapping[str, str], document: object, message: str) -> float | None:
    """Return the seconds a provider asks to wait before the next call, or None if it asks nothing.

    Where hints contradict each other the larger one counts: waiting too long costs a little, calling
    too early costs another refusal. Zero means "no hint", not "now": some servers send both `1` and `0`.
    A header that says how long to wait silences those that say when a limit is full again.

    Args:
        status: The HTTP status. Only 429 and 5xx are asked: some providers send `retry-after` on a 200.
        headers: The response's headers, with lower-case names.
        document: The response's body, parsed; None if it was no JSON.
        message: What the provider says in words.

    Example:
        >>> retry_hint(429, {"retry-after": "1", "retry-after-ms": "0"}, None, "")
        1.0
        >>> retry_hint(429, {}, None, "Please try again in 644ms.")
        0.644
        >>> retry_hint(200, {"retry-after": "59"}, None, "") is None
        True
    """
    if status != 429 and status < 500:
        return None
    asked = [*_in_headers(headers)]
    hints = [*(asked or _resets(headers)), *_in_document(document), *_in_message(message)]
    return min(max(hints), MAX_HINT) if hints else None


def odd_hint(value: str) -> str | None:
    """Return a `retry-after` that is no wait, or one of more than a day, as it may be shown; None if it makes sense.

    Example:
        >>> odd_hint("soon"), odd_hint("7")
        ('soon', None)
    """
    seconds = number(value)
    is_odd = _http_date(value) is None if seconds is None else seconds > MAX_HINT
    return one_line(value, 60) if is_odd else None


def _in_headers(headers: Mapping[str, str]) -> Iterator[float]:
    milliseconds = number(headers.get("retry-after-ms", ""))
    if milliseconds:
        yield milliseconds / 1000
    date = headers.get("date")
    # litellm passes on what the provider behind it has sent under a name of its own.
    for name in ("retry-after", "llm_provider-retry-after"):
        value = headers.get(name, "")
        seconds = number(value) or _seconds_until(_http_date(value), date)
        if seconds:
            yield seconds


def _resets(headers: Mapping[str, str]) -> Iterator[float]:
    """Yield when each exhausted limit is full again; what is not exhausted has refused nothing."""
    date = headers.get("date")
    for name, value in headers.items():
        match = _RESET.fullmatch(name)
        if match is None:
            continue
        remaining = headers.get(name.replace("reset", "remaining"), "0").strip()
        if remaining != "0":  # "-1" is Azure's placeholder for "not told"
            continue
        seconds = reset_after(value, date)
        if seconds:
            yield seconds


def _in_document(document: object) -> Iterator[float]:
    """Yield the `RetryInfo` of a Google error."""
    if isinstance(document, list) and len(document) == 1:
        document = document[0]
    error = document.get("error") if isinstance(document, dict) else None
    details = error.get("details") if isinstance(error, dict) else None
    for detail in details if isinstance(details, list) else ():
        delay = detail.get("retryDelay") if isinstance(detail, dict) else None
        seconds = _go_duration(delay) if isinstance(delay, str) else None
        if seconds:
            yield seconds


def _in_message(message: str) -> Iterator[float]:
    for match in _SAID.finditer(message):
        if match["go"]:
            seconds = _go_duration(match["go"].lower())
        else:
            unit = match["unit"].lower()
            scale = next(scale for start, scale in _SAID_UNITS.items() if unit.startswith(start))
            seconds = float(match["number"]) * scale
        if seconds:
            yield seconds


def number(text: str) -> float | None:
    """Read a number that is not negative; `float()` alone would take "nan", "inf" and "1_0", too.

    Example:
        >>> number(" 0.25 "), number("-1")
        (0.25, None)
    """
    text = text.strip()
    return float(text) if _NUMBER.fullmatch(text) else None


def reset_after(text: str, server_date: str | None) -> float | None:
    """Return the seconds until a limit is full again, from any of the forms that a reset header has.

    Args:
        text: A number of seconds, a duration such as "6m0s", or an instant (RFC 3339).
        server_date: The response's `date`, without which an instant says nothing.

    Example:
        >>> reset_after("6m0s", None), reset_after("0", None), reset_after("soon", None)
        (360.0, 0.0, None)
    """
    seconds = number(text)
    if seconds is None:
        seconds = _go_duration(text)
    return _seconds_until(_instant(text), server_date) if seconds is None else seconds


def _go_duration(text: str) -> float | None:
    """Read a duration such as "6m0s"."""
    text = text.strip()
    if not _GO_DURATION.fullmatch(text):
        return None
    return sum(float(number) * _GO_UNITS[unit] for number, unit in _GO_PART.findall(text))


def _http_date(text: str) -> datetime | None:
    try:
        return _aware(parsedate_to_datetime(text))
    except (ValueError, IndexError, OverflowError):  # the last two escape it for dates out of any range
        return None


def _instant(text: str) -> datetime | None:
    try:
        return _aware(datetime.fromisoformat(text.strip()))
    except ValueError:
        return None


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _seconds_until(instant: datetime | None, server_date: str | None) -> float | None:
    """Compare with the server's own clock: ours may be wrong, and both readings come from the same one."""
    now = _http_date(server_date) if server_date and instant is not None else None
    if instant is None or now is None:
        return None
    return max(0.0, (instant - now).total_seconds())
