"""Titles: what a document calls itself, or else what it is about."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline_engine.providers.offline.cleaning import is_boilerplate, looks_like_code
from pipeline_engine.providers.offline.words import STOP_WORDS, WEAK_WORDS, content_stems, shortened, words_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.providers.offline.cleaning import Block, Cleaned

__all__ = ["find_title", "names_part", "titled"]

MAX_TITLE = 150
_LEAD_BLOCKS = 12

# Headings that every document of a kind has: they name a part and not the document.
_PART_NAMES = frozenset(
    {
        *(
            "abstract",
            "acknowledgements",
            "alternatives",
            "appendix",
            "background",
            "changelog",
            "conclusion",
            "contents",
        ),
        *(
            "contributing",
            "copyright",
            "credits",
            "definitions",
            "description",
            "discussion",
            "examples",
            "faq",
            "features",
        ),
        *("foreword", "goals", "guide-level", "implementation", "installation", "introduction", "licence", "license"),
        *("motivation", "notes", "notice", "objectives", "overview", "preface", "problem", "purpose", "rationale"),
        *("readme", "reference-level", "references", "requirements", "resolution", "revisions", "reviewers", "scope"),
        *("setup", "simple", "specification", "status", "summary", "table", "terminology", "tl;dr", "toc", "usage"),
        *("explanation", "quickstart", "prerequisites", "design", "api", "proposal", "non-goals", "release", "history"),
        *("consequences", "context", "decision", "rejected"),  # of decision records
    }
)
_NUMBER = re.compile(r"(?:[A-Z]{2,6}[ -]?\d{1,6}\s?[:–—-]|\d+(?:\.\d+)*[.)]?|[IVX]+\.)\s+")


def find_title(cleaned: Cleaned) -> str | None:
    r"""Return the title that a document gives itself; None if it gives none.

    In this order: front matter or header lines, the first heading of the highest level, the first short
    line that is neither boilerplate nor code. A heading that names a part ("Motivation") is passed over
    where others of its level follow.

    Example:
        >>> from pipeline_engine.providers.offline.cleaning import clean
        >>> find_title(clean("Skip to content\n\nTea for two\n\nTea is a drink. It is hot and it is good."))
        'Tea for two'
    """
    if cleaned.title and not is_boilerplate(cleaned.title):
        return _tidy(cleaned.title)
    headings = [block for block in cleaned.blocks if block.kind == "heading" and _can_be_title(block.text)]
    found = _first_line(cleaned) if not headings else _title_heading(headings, cleaned)
    return _tidy(found) if found else None


def _title_heading(headings: list[Block], cleaned: Cleaned) -> str | None:
    first = headings[0]
    line = _line_above(first, cleaned)
    if line and (first.level > 1 or names_part(first.text)):
        return line
    is_alone = sum(block.level <= first.level for block in headings) == 1
    has_parts = any(block.level > first.level for block in headings)
    is_late = _has_prose(cleaned.blocks[: cleaned.blocks.index(first)])
    if is_alone and not _is_skippable(first.text) and (not is_late or (has_parts and not names_part(first.text))):
        return first.text
    if line:
        return line
    if is_late:
        return None
    top = [block for block in headings[:_LEAD_BLOCKS] if block.level == 1]
    named = [block.text for block in (top or headings[:1]) if not names_part(block.text)]
    if named and (first.level == 1 and first.text == named[0]):
        return named[0]
    return named[0] if named and len(top) < 3 else None


def _has_prose(blocks: Sequence[Block]) -> bool:
    """Return whether the text has begun: a heading that comes after that is the heading of a part."""
    return any(block.kind == "paragraph" and len(block.text) > 80 for block in blocks)


def _line_above(heading: Block, cleaned: Cleaned) -> str | None:
    """Return a short line that stands before every heading, as in a README that begins with bold text."""
    for block in cleaned.blocks[: cleaned.blocks.index(heading)][:3]:
        if (
            block.kind == "paragraph"
            and len(block.text) <= 80
            and _can_be_title(block.text)
            and block.text[-1] not in ".:;,!"
        ):
            return block.text
    return None


def _first_line(cleaned: Cleaned) -> str | None:
    for block in cleaned.blocks[:_LEAD_BLOCKS]:
        if block.kind == "paragraph" and len(block.text) <= 100 and _can_be_title(block.text):
            return block.text
    return None


def _can_be_title(text: str) -> bool:
    return len(text) > 1 and any(map(str.isalpha, text)) and not is_boilerplate(text) and not looks_like_code(text)


def _is_skippable(text: str) -> bool:
    return names_part(text) and text.lower().split()[0] in {"abstract", "table", "simple", "motivation", "rationale"}


def names_part(text: str) -> bool:
    """Return whether a heading is one that every document of a kind has ("Motivation")."""
    words = [word.lower() for word in words_of(_NUMBER.sub("", text))]
    strong = [word for word in words if word not in STOP_WORDS]
    return all(word in _PART_NAMES for word in strong)


def _tidy(text: str) -> str:
    text = _NUMBER.sub("", text, count=1) if _NUMBER.match(text) and not text[:4].isdigit() else text
    text = text.strip(" \t.:;,-–—#*").strip()
    return shortened(text, MAX_TITLE)


def titled(phrases: list[str], sentences: list[str]) -> str:
    """Return a title for a document without one: its best phrase, else the start of its first sentence."""
    strong = [phrase for phrase in phrases if content_stems(phrase) and phrase.lower() not in WEAK_WORDS]
    if strong:
        return strong[0][0].upper() + strong[0][1:]
    return _tidy(sentences[0]) if sentences else ""
