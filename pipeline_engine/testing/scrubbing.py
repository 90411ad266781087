"""What must not get into a file that is shared: keys, tokens, passwords, wherever in a text they stand. Pure."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["SCRUBBED", "Scrubber", "is_named_secret"]

SCRUBBED = "[secret]"
"""Stands where a secret was."""

_SHORTEST = 6
"""Characters that a known secret has at least: shorter ones are words, and would take texts apart."""
_START = r"(?<![\w-])"
"""Where a name begins, hyphens counted in: with a start at each of them long texts would take for ever."""
_KEYS = r"[\w-]*(?:api|access|account|private|secret|subscription)[_-]?key"
_LINES = r"(?:proxy-)?authorization|(?:set-)?cookie"
_WORDS = r"[\w-]*(?:password|passphrase|passwd|secret|token)"
_NAMED = re.compile(f"{_KEYS}|{_LINES}|{_WORDS}", re.IGNORECASE)
_BETWEEN = r"[\\\"']*\s*[:=]\s*[\\\"']*"  # in a text that is itself part of JSON quotes have backslashes
_VALUE = r"[^\s\\\"',;&}]"
_HAS_DIGIT = r"(?=[^\s\\\"',;&}]{0,80}\d)"
_SHAPES = (
    # The keys of providers, as they hand them out; names of columns and packages begin like them, without digits.
    re.compile(
        r"(?<![A-Za-z0-9])(?:sk|pk|rk|gsk|xai|hf|gh[oprsu]|github_pat|glpat|npm|nvapi|pplx|r8|xox[abeprs])[-_]"
        r"(?=[\w-]{0,80}\d)[\w-]{12,}"
    ),
    re.compile(r"\bAIza[\w-]{20,}"),
    re.compile(r"\bya29\.[\w-]{16,}"),
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),
    re.compile(rf"{_START}eyJ[\w-]{{8,}}\.[\w-]{{8,}}\.[\w-]*"),
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    # What stands behind a name: a header to its end, a member of an object, a parameter of an address.
    re.compile(rf"{_START}(?:{_LINES}){_BETWEEN}(?:(?:bearer|basic)\s+)?(?P<secret>[^\r\n\\\"']{{6,}})", re.IGNORECASE),
    re.compile(r"\b(?:bearer|basic)\s+(?=[\w.~+/-]{0,80}[\d=])(?P<secret>[\w.~+/=-]{6,})", re.IGNORECASE),
    re.compile(rf"{_START}{_KEYS}{_BETWEEN}(?P<secret>{_VALUE}{{6,}})", re.IGNORECASE),
    # Texts speak of secrets and tokens, too: what follows is one only if it does not look like a word.
    re.compile(rf"{_START}{_WORDS}{_BETWEEN}(?:{_HAS_DIGIT}|(?=\S{{20}}))(?P<secret>{_VALUE}{{8,}})", re.IGNORECASE),
    re.compile(
        r"[?&#](?:[\w-]*[_-])?(?:key|sig|signature|auth|token|secret|password)=(?P<secret>[^&\s\\\"'#]+)",
        re.IGNORECASE,
    ),
    re.compile(r"\w://[^/\s:@]*:(?P<secret>[^/\s\"']+)@"),
    re.compile(r"\w://(?=[^/\s@]{0,80}\d)(?P<secret>[^/\s:@\"']{8,})@"),
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
        forms = {form for value in known if len(value) >= _SHORTEST for form in _forms(value)}
        # The longest first: one may be the beginning of another.
        self._known = sorted(forms, key=len, reverse=True)
        self._own = own

    def text(self, text: str) -> str:
        """Return a text without secrets.

        Raises:
            TypeError: If the user's own function returns something else than a text.
        """
        for secret in self._known:
            text = text.replace(secret, SCRUBBED)
        for shape in _SHAPES:
            text = shape.sub(_without_secret, text)
        if self._own is None:
            return text
        own = self._own(text)
        if not isinstance(own, str):
            raise TypeError(f"scrub= must return a text for each text, and returned a {type(own).__name__}.")
        return own

    def value(self, value: Any) -> Any:
        """Return a value in JSON's types without secrets: none in its texts, none under a name that tells of one."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {
                name: _hidden(part) if _holds_text(part) and is_named_secret(name) else self.value(part)
                for name, part in value.items()
            }
        if isinstance(value, list | tuple):
            return [self.value(part) for part in value]
        return value


def is_named_secret(name: str) -> bool:
    """Return whether a header or a member of this name holds a secret.

    Example:
        >>> is_named_secret("X-API-Key"), is_named_secret("clientSecret"), is_named_secret("max_tokens")
        (True, True, False)
    """
    return _NAMED.fullmatch(name) is not None


def _forms(secret: str) -> Iterator[str]:
    """Yield how a secret is written: as it is, within JSON, in an address, and in base64."""
    yield secret
    yield json.dumps(secret)[1:-1]
    yield quote(secret, safe="", errors="surrogatepass")
    yield b64encode(secret.encode("utf-8", "surrogatepass")).decode().rstrip("=")


def _holds_text(part: Any) -> bool:
    return isinstance(part, str) or (isinstance(part, list | tuple) and all(isinstance(one, str) for one in part))


def _hidden(part: str | Sequence[str]) -> str | list[str]:
    return SCRUBBED if isinstance(part, str) else [SCRUBBED] * len(part)


def _without_secret(found: re.Match[str]) -> str:
    if "secret" not in found.re.groupindex:
        return SCRUBBED
    return found[0].replace(found["secret"], SCRUBBED) if found["secret"] != SCRUBBED else found[0]
