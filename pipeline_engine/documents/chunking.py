"""Cuts a text into chunks at the best boundary near the limit, and loses nothing of it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Chunk", "chunk_text"]

# From the boundary that costs a reader least to the one that costs most.
_BOUNDARIES = (
    ("\n\n",),
    ("\n",),
    (". ", "! ", "? ", "。", "！", "？"),
    (" ", "\t"),
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Hold a piece of a document's text and where it stands: `text[start:end]` of the whole."""

    text: str
    """The piece, character for character."""
    start: int
    """The offset of its first character."""
    end: int
    """The offset behind its last character."""


def chunk_text(text: str, max_chars: int = 4000) -> list[Chunk]:
    r"""Return `text` cut into chunks of at most `max_chars` characters; joined, they are `text` again.

    A chunk ends at the last blank line that fits; where there is none, at the last line end, sentence
    end, space, and only then between two characters. Each step down looks only at the piece that did
    not fit, so the time is linear in the length of the text.

    Args:
        text: The whole text; an empty one has no chunks.
        max_chars: The longest chunk, in characters.

    Raises:
        ValueError: If `max_chars` is smaller than 1.

    Example:
        >>> [chunk.text for chunk in chunk_text("One. Two.\n\nThree.", max_chars=12)]
        ['One. Two.\n\n', 'Three.']
    """
    if max_chars < 1:
        raise ValueError(f"max_chars is {max_chars}, but a chunk holds at least 1 character. Give 1 or more.")
    chunks: list[Chunk] = []
    start = 0
    while start < len(text):
        end = _end_of_chunk(text, start, max_chars)
        chunks.append(Chunk(text[start:end], start, end))
        start = end
    return chunks


def _end_of_chunk(text: str, start: int, max_chars: int) -> int:
    limit = start + max_chars
    if limit >= len(text):
        return len(text)
    window = text[start:limit]
    # White space in front belongs to the first words: a chunk of it alone says nothing.
    first = len(window) - len(window.lstrip())
    for boundaries in _BOUNDARIES:
        cut = max(_cut_behind(window, boundary, first) for boundary in boundaries)
        if cut:
            return start + cut
    return limit


def _cut_behind(window: str, boundary: str, first: int) -> int:
    """Return the offset behind the last `boundary` that follows the first words; 0 if there is none."""
    found = window.rfind(boundary, first)
    return 0 if found < 0 else found + len(boundary)
