"""Which documents a batch has met lately: 100,000 keys in 3 MB, where a dict of texts takes ten times as much."""

from __future__ import annotations

from hashlib import sha256
from typing import Literal

__all__ = ["SeenKeys"]

_KEY, _ENTRY = 16, 24
_UNKNOWN = bytes(_ENTRY - _KEY)


class SeenKeys:
    """Remember the last keys, each with its content's hash, in memory that is fixed from the start.

    The hashes lie in a ring; a table of twice as many places, with linear probing, tells where (Knuth, "The Art of
    Computer Programming", volume 3, section 6.4, algorithms L and R).

    Args:
        most: How many keys are remembered: the oldest one is forgotten for the next.

    Example:
        >>> seen = SeenKeys(100_000)
        >>> one, other = "90abcdef90abcdef", "17cd17cd17cd17cd"
        >>> seen.meet("report.md", one), seen.meet("report.md", one), seen.meet("report.md", other)
        ('new', 'same', 'other')
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._count = 0
        self._mask = (1 << (2 * most).bit_length()) - 1
        # Both are pages of zeros that the system hands out when they are first written: a short batch pays for none.
        self._entries = bytearray(_ENTRY * most)
        self._table = memoryview(bytearray(4 * (self._mask + 1))).cast("I")

    def meet(self, key: str, content: str | None) -> Literal["new", "same", "other"]:
        """Return whether a key is "new", or was seen with the "same" content, or with an "other" one.

        Args:
            key: A document's key; remembered if it is new.
            content: The hash of its content, in 16 hexadecimal digits or more; None if it equals no other.
        """
        # Keys may be long paths: what is remembered of them is bounded in size, too.
        hashed = sha256(key.encode("utf-8", "surrogatepass")).digest()[:_KEY]
        told = _UNKNOWN if content is None else bytes.fromhex(content[: 2 * len(_UNKNOWN)])
        entries, table, mask = self._entries, self._table, self._mask
        place = int.from_bytes(hashed[:4], "little") & mask
        while number := table[place]:
            start = (number - 1) * _ENTRY
            if entries[start : start + _KEY] == hashed:
                is_same = content is not None and entries[start + _KEY : start + _ENTRY] == told
                return "same" if is_same else "other"
            place = (place + 1) & mask
        turn = self._count % self._most
        if self._count >= self._most:
            self._forget(turn + 1)
            # Others have moved: the place that was free may lie too far.
            place = int.from_bytes(hashed[:4], "little") & mask
            while table[place]:
                place = (place + 1) & mask
        self._count += 1
        entries[turn * _ENTRY : (turn + 1) * _ENTRY] = hashed + told
        table[place] = turn + 1
        return "new"

    def _forget(self, number: int) -> None:
        """Take an entry out of the table."""
        table, mask = self._table, self._mask
        hole = self._home(number)
        while table[hole] != number:
            hole = (hole + 1) & mask
        place = hole
        while number := table[place := (place + 1) & mask]:
            # What lies behind a hole moves into it, unless it would then lie before its home.
            if (place - self._home(number)) & mask >= (place - hole) & mask:
                table[hole], hole = number, place
        table[hole] = 0

    def _home(self, number: int) -> int:
        start = (number - 1) * _ENTRY
        return int.from_bytes(self._entries[start : start + 4], "little") & self._mask
