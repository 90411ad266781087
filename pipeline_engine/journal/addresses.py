"""The address of a database, held so that its password shows up nowhere but on the wire."""

from __future__ import annotations

from typing import Any, final

__all__ = ["Address"]


@final
class Address:
    """Hold an address that no `repr`, `str`, format, pickle or copy gives away: they have what may be shown of it.

    So it may be a variable of a function that raises, where the text may not: error reporters print both. Two are
    equal if they lead to the same place with the same password.

    Args:
        text: The address with its password.
        shown: The address without its password.

    Example:
        >>> address = Address("postgresql://me:secret@host/db", "postgresql://me@host/db")
        >>> f"{address} {address!r}"
        'postgresql://me@host/db <Address postgresql://me@host/db>'
    """

    __slots__ = ("_text", "shown")

    def __init__(self, text: str, shown: str) -> None:
        self._text = text
        self.shown = shown

    def reveal(self) -> str:
        """Return the address with its password, for the call that needs it and for no variable."""
        return self._text

    def __str__(self) -> str:
        return self.shown

    def __repr__(self) -> str:
        return f"<Address {self.shown}>"

    def __eq__(self, other: object) -> bool:
        return self._text == other._text if isinstance(other, Address) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._text)

    def __copy__(self) -> Address:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Address:
        return self

    def __reduce__(self) -> tuple[type[Address], tuple[str, str]]:
        if self._text != self.shown:
            raise TypeError(
                f"the address {self.shown!r} cannot be pickled with its password. Make the journal where it is needed."
            )
        return Address, (self._text, self.shown)
