"""Whether a value of one type may be given where another is asked for; in doubt it may."""

from __future__ import annotations

import collections.abc
import types
import typing
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typing_extensions

__all__ = ["is_assignable", "item_type", "type_name"]

_LISTS = (
    list,
    tuple,
    collections.abc.Sequence,
    collections.abc.MutableSequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)
# PEP 484's numeric tower: an int is welcome where a float is asked for.
_PROMOTIONS: dict[type, tuple[type, ...]] = {float: (int,), complex: (int, float), bytes: (bytearray,)}


def _plain(kind: Any) -> Any:
    """Strip what does not change which values fit: Annotated, NewType, aliases, None for NoneType."""
    while True:
        if get_origin(kind) is Annotated or get_origin(kind) in (
            typing.Required,
            typing.NotRequired,
            typing.Final,
        ):
            kind = get_args(kind)[0]
        elif hasattr(kind, "__supertype__"):
            kind = kind.__supertype__
        elif isinstance(kind, typing_extensions.TypeAliasType):
            kind = kind.__value__
        elif kind is None:
            return type(None)
        else:
            return kind


def _is_open(kind: Any) -> bool:
    """Whether nothing can be said about the type: Any, object, a type variable, an unresolved name."""
    is_unknown = kind in (Any, typing.Any) or isinstance(kind, typing.TypeVar | str | typing.ForwardRef)
    return is_unknown or (not isinstance(kind, type) and get_origin(kind) is None)


def _members(kind: Any) -> tuple[Any, ...] | None:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else None


def is_assignable(produced: Any, accepted: Any) -> bool:
    """Return whether every value of type `produced` fits where `accepted` is declared.

    Containers are taken as covariant, because outputs are never changed in place. Types that this
    function does not understand are accepted: a false alarm would be worse than a check at run time.

    Example:
        >>> is_assignable(int, float | None), is_assignable(list[str], list[int])
        (True, False)
        >>> is_assignable(Literal["a"], str), is_assignable(str, Literal["a", "b"])
        (True, False)
    """
    produced, accepted = _plain(produced), _plain(accepted)
    if accepted is object or produced == accepted or _is_open(accepted) or _is_open(produced):
        return True
    if get_origin(produced) is Literal and get_origin(accepted) is not Literal:
        # One by one: some values of it may fit one member of a union, some another.
        return all(_is_literal_assignable(value, accepted) for value in get_args(produced))
    if (parts := _members(produced)) is not None:
        return all(is_assignable(part, accepted) for part in parts)
    if (parts := _members(accepted)) is not None:
        return any(is_assignable(produced, part) for part in parts)
    if get_origin(accepted) is Literal:
        return get_origin(produced) is Literal and set(get_args(produced)) <= set(get_args(accepted))
    return _is_assignable_class(produced, accepted)


def _is_literal_assignable(value: Any, accepted: Any) -> bool:
    """Whether one value fits: in a union, a Literal or a class."""
    members = [_plain(member) for member in _members(accepted) or (accepted,)]
    literals = [literal for member in members if get_origin(member) is Literal for literal in get_args(member)]
    if any(value == literal and type(value) is type(literal) for literal in literals):
        return True
    return any(get_origin(member) is not Literal and is_assignable(type(value), member) for member in members)


def _is_assignable_class(produced: Any, accepted: Any) -> bool:
    produced_class, accepted_class = get_origin(produced) or produced, get_origin(accepted) or accepted
    if not isinstance(produced_class, type) or not isinstance(accepted_class, type):
        return True
    if getattr(accepted_class, "_is_protocol", False):
        return True  # structural: only a type checker can tell
    if typing_extensions.is_typeddict(accepted_class):
        if not typing_extensions.is_typeddict(produced_class):
            return produced_class is dict
        required: frozenset[str] = getattr(accepted_class, "__required_keys__", frozenset())
        return required <= set(produced_class.__annotations__)
    if typing_extensions.is_typeddict(produced_class):
        produced_class = produced = dict
    try:
        fits = issubclass(produced_class, accepted_class)
    except TypeError:
        return True
    if not fits and produced_class not in _PROMOTIONS.get(accepted_class, ()):
        return False
    return _arguments_fit(produced, accepted, produced_class, accepted_class)


def _arguments_fit(produced: Any, accepted: Any, produced_class: type, accepted_class: type) -> bool:
    have, want = get_args(produced), get_args(accepted)
    if not have or not want:
        return True
    if produced_class is tuple and accepted_class is tuple:
        return _tuples_fit(have, want)
    if produced_class is tuple:
        return all(is_assignable(part, want[0]) for part in have if part is not Ellipsis)
    if produced_class is not accepted_class and len(have) != len(want):
        return True  # a subclass may arrange its parameters in another way
    return all(is_assignable(one, other) for one, other in zip(have, want, strict=False))


def _tuples_fit(have: tuple[Any, ...], want: tuple[Any, ...]) -> bool:
    if want[-1] is Ellipsis:
        return all(is_assignable(part, want[0]) for part in have if part is not Ellipsis)
    if have[-1] is Ellipsis or len(have) != len(want):
        return False
    return all(is_assignable(one, other) for one, other in zip(have, want, strict=True))


def item_type(kind: Any) -> tuple[bool, Any]:
    """Return whether `kind` is a list to map over, and the type of its items.

    A `str` is no list, nor is a pydantic model, although both are iterable.

    Example:
        >>> item_type(list[int]), item_type(str)[0]
        ((True, <class 'int'>), False)
    """
    kind = _plain(kind)
    if _is_open(kind) and kind is not object:
        return True, Any
    if (members := _members(kind)) is not None:
        items = [item_type(member) for member in members]
        is_list = all(found for found, _ in items)
        return is_list, Union[tuple(item for _, item in items)] if is_list else Any  # noqa: UP007 - built from values
    origin = get_origin(kind) or kind
    if isinstance(origin, type) and issubclass(origin, list) and origin is not list:
        bases = [base for base in getattr(origin, "__orig_bases__", ()) if get_origin(base) is list]
        return True, get_args(bases[0])[0] if bases else Any
    if origin not in _LISTS:
        return False, Any
    arguments = [part for part in get_args(kind) if part is not Ellipsis]
    if origin is tuple and len(arguments) > 1:
        return True, Union[tuple(arguments)]  # noqa: UP007 - built from values
    return True, arguments[0] if arguments else Any


def type_name(kind: Any) -> str:
    """Return a type as a user would write it.

    Example:
        >>> type_name(list[int] | None), type_name(str)
        ('list[int] | None', 'str')
    """
    if kind is Any:
        return "Any"
    if kind is type(None):
        return "None"
    if isinstance(kind, type) and not get_args(kind):
        return kind.__qualname__.rpartition("<locals>.")[2]
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " | ".join(type_name(part) for part in arguments)
    if origin is Literal:
        return f"Literal[{', '.join(repr(value) for value in arguments)}]"
    if origin is Annotated:
        return type_name(arguments[0])
    if origin is not None and arguments:
        inner = ", ".join("..." if part is Ellipsis else type_name(part) for part in arguments)
        return f"{getattr(origin, '__name__', origin)}[{inner}]"
    return str(kind).replace("typing.", "")
