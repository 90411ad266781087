"""What must not get into a file that is shared: keys, tokens, passwords, wherever in a text they stand. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["SCRUBBED", "Scrubber"]

SCRUBBED = "[secret]"
"""Stands where a secret was."""

_SHORTEST = 6
"""Characters that a known secret has at least: shorter ones are words, and would take texts apart."""
_HEADERS = r"(?:proxy-)?authorization|(?:set-)?cookie|(?:[\w-]+[_-])?(?:api|access)[_-]?key"
_WORDS = r"(?:[\w-]+[_-])?(?:password|passwd|secret|token)"
_NAMED = re.compile(f"{_HEADERS}|{_WORDS}", re.IGNORECASE)
_BETWEEN = r"[\"']?\s*[:=]\s*(?!(?:bearer|basic)\s)[\"']?"
_SHAPES = (
    # The keys of providers, as they hand them out.
    re.compile(r"\b(?:sk|pk|rk|gsk|xai|hf|ghp|gho|glpat|xox[abps])[-_][\w-]{12,}"),
    re.compile(r"\bAIza[\w-]{20,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"),
    # What stands behind a name: a header, a member of an object, a parameter of an address.
    re.compile(r"(?<=\bbearer )[\w.~+/=-]{6,}", re.IGNORECASE),
    re.compile(r"(?<=\bbasic )[\w+/=-]{6,}", re.IGNORECASE),
    re.compile(rf"\b(?:{_HEADERS}){_BETWEEN}(?P<secret>[^\s\"',;&}}]{{6,}})", re.IGNORECASE),
    # Texts speak of secrets and tokens, too: what follows is one only if it does not look like a word.
    re.compile(rf"\b(?:{_WORDS}){_BETWEEN}(?=\S*\d|\S{{20}})(?P<secret>[^\s\"',;&}}]{{8,}})", re.IGNORECASE),
    re.compile(r"[?&](?:key|sig|signature|auth)=(?P<secret>[^&\s\"'#]+)", re.IGNORECASE),
    re.compile(r"\w://[^/\s:@]*:(?P<secret>[^/\s@]+)@"),
)


class Scrubber:
    """Take secrets out of texts: those that are known, and whatever looks like one.

    Args:
        known: Values that must not be seen, such as the keys in the environment.
        own: What else is to be done to each text; it gets the text and returns another.

    Example:
        >>> scrub = Scrubber(["tulip-4711"])
        >>> scrub.text("GET https://example.com/?key=abc with tulip-4711")
        'GET https://example.com/?key=[secret] with [secret]'
        >>> scrub.value({"x-api-key": "short", "note": "Authorization: Bearer abcdefgh"})
        {'x-api-key': '[secret]', 'note': 'Authorization: Bearer [secret]'}
    """

    def __init__(self, known: Iterable[str] = (), own: Callable[[str], str] | None = None) -> None:
        # The longest first: one may be the beginning of another.
        self._known = sorted({value for value in known if len(value) >= _SHORTEST}, key=len, reverse=True)
        self._own = own

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        for secret in self._known:
            text = text.replace(secret, SCRUBBED)
        for shape in _SHAPES:
            text = shape.sub(_without_secret, text)
        return text if self._own is None else self._own(text)

    def value(self, value: Any) -> Any:
        """Return a value in JSON's types without secrets: none in its texts, none under a name that tells of one."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {
                name: SCRUBBED if isinstance(part, str) and _NAMED.fullmatch(name) else self.value(part)
                for name, part in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(part) for part in value]
        return value


def _without_secret(found: re.Match[str]) -> str:
    if "secret" not in found.re.groupindex:
        return SCRUBBED
    return found[0].replace(found["secret"], SCRUBBED) if found["secret"] != SCRUBBED else found[0]
