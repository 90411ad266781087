"""Safe text for terminals and pages: what came from a document or a model is shown, never obeyed."""

from __future__ import annotations

import unicodedata

__all__ = ["display_width", "fit", "one_line", "safe_text", "sentence_list"]

# Cc: control characters (ESC starts terminal commands). Cf: bidi overrides and zero-width marks, which
# reorder or hide text. Cs: lone surrogates, which no terminal or file can encode. Zl, Zp: line breaks.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def _visible(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def safe_text(text: str) -> str:
    r"""Return `text` with every control, bidi, zero-width and surrogate character made visible.

    Newlines and tabs stay: use `one_line` where they may not.

    Example:
        >>> safe_text("a\x1b[31mb")
        'a\\x1b[31mb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character if character in "\n\t" or unicodedata.category(character) not in _HIDDEN else _visible(character)
        for character in text
    )


def one_line(text: str, max_width: int | None = None) -> str:
    r"""Return `text` safe and on one line, cut to `max_width` terminal cells with an ellipsis.

    Example:
        >>> one_line("first\nsecond", 8)
        'first s…'
    """
    flat = safe_text(" ".join(text.split()))
    return flat if max_width is None else fit(flat, max_width).rstrip()


def display_width(text: str) -> int:
    """Return how many terminal cells `text` takes: wide East Asian characters take two, marks none.

    Example:
        >>> display_width("a漢")
        3
    """
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def fit(text: str, width: int) -> str:
    """Return `text` in exactly `width` cells: padded, or cut with an ellipsis.

    Example:
        >>> fit("summary", 5), fit("ab", 4)
        ('summ…', 'ab  ')
    """
    if display_width(text) <= width:
        return text + " " * (width - display_width(text))
    if width <= 0:
        return ""
    kept: list[str] = []
    used = 0
    for character in text:
        used += display_width(character)
        if used > width - 1:
            break
        kept.append(character)
    cut = "".join(kept) + "…"
    return cut + " " * (width - display_width(cut))


def sentence_list(names: list[str], joiner: str = "and") -> str:
    """Return quoted names as a sentence would list them.

    Example:
        >>> sentence_list(["a", "b", "c"])
        "'a', 'b' and 'c'"
    """
    quoted = [repr(name) for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} {joiner} {quoted[-1]}"
