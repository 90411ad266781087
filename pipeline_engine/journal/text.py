"""Text as databases take it: no NUL and no lone surrogate, and two names that differ stay different."""

from __future__ import annotations

from pipeline_engine.journal.keys import digest

__all__ = ["from_name", "to_name", "to_prose"]

_ESCAPED = "\ue000"
"""Marks a name that was escaped: a character for private use, which no database objects to."""
_LONGEST = 600
"""Bytes of a name. An index of PostgreSQL takes 2,700 for a whole key, and three names are a part of one."""
_SHOWN = 500
"""Bytes that are left of a longer one."""


def _is_clean(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def to_name(text: str) -> str:
    r"""Return a name as databases take it; `from_name` gives it back exactly, if it is not longer than 600 bytes.

    A longer one keeps its beginning, and the hash of all of it: it still names one thing only, and is cut but once.

    Example:
        >>> to_name("report.md"), from_name(to_name("a\0b\ud800"))
        ('report.md', 'a\x00b\ud800')
        >>> to_name("x" * 1000)[490:]
        'xxxxxxxxxx…44f8354494a5ba03ba1792a8d3e9c534'
    """
    is_plain = _is_clean(text) and not text.startswith(_ESCAPED)
    # JSON's escapes would not do: two surrogates in a row would come back as one character.
    name = text if is_plain else _ESCAPED + text.encode("unicode_escape").decode("ascii")
    if len(name) * 4 <= _LONGEST or len(name.encode()) <= _LONGEST:
        return name
    start = to_prose(text).replace(_ESCAPED, "\ufffd").encode()[:_SHOWN].decode(errors="ignore")
    return f"{start}…{digest(name.encode())}"


def from_name(name: str) -> str:
    """Return what a name stands for."""
    if not name.startswith(_ESCAPED):
        return name
    return name[len(_ESCAPED) :].encode("ascii").decode("unicode_escape")


def to_prose(text: str) -> str:
    r"""Return text that is only read by people, with what databases refuse made visible.

    Example:
        >>> to_prose("a\0b\ud800c")
        'a\ufffdb\ufffdc'
    """
    if _is_clean(text):
        return text
    return "".join("\ufffd" if c == "\0" or "\ud800" <= c <= "\udfff" else c for c in text)
