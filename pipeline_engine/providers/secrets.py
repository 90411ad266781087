"""The key of a provider, held so that it shows up nowhere but on the wire."""

from __future__ import annotations

from typing import Any, NoReturn, final

__all__ = ["Secret"]


@final
class Secret:
    """Hold a key that no `repr`, `str`, format, pickle or copy gives away.

    A copy is the same object, so that values which hold a secret can still be copied. Two secrets
    are equal only if they are one: comparing values would tell something about them.

    Example:
        >>> key = Secret("sk-123")
        >>> f"{key} {key!r}"
        '<Secret> <Secret>'
        >>> key.redact("the key sk-123 is wrong")
        'the key [secret] is wrong'
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not value:
            raise ValueError("a Secret holds a key, and this one is empty. Pass None where there is no key.")
        self._value = value

    def reveal(self) -> str:
        """Return the key, to be put into a request and nowhere else."""
        return self._value

    def redact(self, text: str) -> str:
        """Return `text` without the key: the last net under what a server echoes."""
        return text.replace(self._value, "[secret]")

    def __repr__(self) -> str:
        return "<Secret>"

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled. Read the key again where it is needed.")
