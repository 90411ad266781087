"""Which types fit where: no false alarm, and no clash that could have been seen."""

import dataclasses
import enum
from collections import abc
from typing import Annotated, Any, Generic, Literal, NewType, Protocol, TypedDict, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from pipeline_engine.plan import is_assignable, type_name
from pipeline_engine.plan.types import item_type

T = TypeVar("T")


class Animal: ...


class Dog(Animal): ...


class Title(BaseModel):
    text: str


class LongTitle(Title):
    subtitle: str


class Box(BaseModel, Generic[T]):
    value: T


class Shelf(Generic[T]): ...


class Color(enum.Enum):
    RED = "red"


class Point(TypedDict):
    x: int


class Other(TypedDict):
    y: int


class Sized(Protocol):
    def size(self) -> int: ...


@dataclasses.dataclass
class Record:
    name: str


UserId = NewType("UserId", int)
OrderId = NewType("OrderId", int)
Names = TypeAliasType("Names", list[str])

FITS = [
    # the same, anything, subclasses
    (str, str),
    (str, Any),
    (Any, str),
    (str, object),
    (str, T),
    (T, str),
    (str, "str"),
    (Dog, Animal),
    (LongTitle, Title),
    (bool, int),
    (Color, enum.Enum),
    (Record, Record),
    (Record, Sized),
    (None, None),
    (None, type(None)),
    # the numeric tower
    (int, float),
    (int, complex),
    (float, complex),
    (bytearray, bytes),
    # unions
    (str, str | None),
    (None, str | None),
    (str | None, str | None),
    (str | int, int | str | None),
    (int, float | None),
    (Dog | None, Animal | None),
    # literals
    (Literal["a"], str),
    (Literal["a"], Literal["a", "b"]),
    (Literal["b", "a"], Literal["a", "b"]),
    (Literal[1], float),
    (Literal["a"] | None, str | None),
    # containers, which are read and not changed: covariant
    (list[str], list[str]),
    (list[str], list),
    (list, list[str]),
    (list[Dog], list[Animal]),
    (list[int], list[float]),
    (list[str], list[str | None]),
    (list[Literal["a"]], list[str]),
    (list[list[Dog]], list[list[Animal]]),
    (list[str], abc.Sequence[str]),
    (list[str], abc.Iterable[str]),
    (list[Any], list[str]),
    (list[str], list[Any]),
    (set[Dog], abc.Set[Animal]),
    (dict[str, Dog], dict[str, Animal]),
    (dict[str, int], abc.Mapping[str, float]),
    (dict[str, int], abc.Iterable[str]),
    (str, abc.Sequence[str]),
    (tuple[int, str], tuple[int, str]),
    (tuple[int, str], tuple[float, str]),
    (tuple[int, int], tuple[int, ...]),
    (tuple[int, ...], tuple[float, ...]),
    (tuple[int, str], abc.Sequence[int | str]),
    (tuple[int, ...], abc.Iterable[float]),
    # wrappings that change no value
    (Annotated[str, "note"], str),
    (str, Annotated[str, Field(max_length=3)]),
    (list[Annotated[int, Field(ge=0)]], list[int]),
    (UserId, int),
    (int, UserId),
    (UserId, float),
    (list[UserId], list[int]),
    (Names, list[str]),
    (list[str], Names),
    # generics
    (Box[int], Box[int]),
    (Shelf[Dog], Shelf[Animal]),
    (Shelf[Dog], Shelf),
    (Box[int], Box),
    # typed dicts
    (Point, Point),
    (Point, dict),
    (Point, dict[str, Any]),
    (dict[str, int], Point),
    # what is not understood is accepted
    (abc.Callable[[int], str], abc.Callable[[int], str]),
    (type[Dog], type[Animal]),
]

CLASHES = [
    (str, int),
    (int, str),
    (Animal, Dog),
    (Title, LongTitle),
    (Title, str),
    (str, Title),
    (int, bool),
    (float, int),
    (complex, float),
    (str, bytes),
    (str, None),
    (None, str),
    (Color, str),
    (Record, Title),
    (str | None, str),
    (str | int, str),
    (str, int | float | None),
    (str, Literal["a"]),
    (Literal["a", "b"], Literal["a"]),
    (Literal["a"], int),
    (Literal[1, "a"], int),
    (Literal["1"], Literal[1]),
    (list[str], str),
    (str, list[str]),
    (list[str], list[int]),
    (list[Animal], list[Dog]),
    (list[str | None], list[str]),
    (list[list[str]], list[str]),
    (list[str], set[str]),
    (list[int], tuple[int, ...]),
    (abc.Sequence[str], list[str]),
    (dict[str, int], dict[str, str]),
    (dict[int, str], dict[str, str]),
    (dict[str, int], list[str]),
    (tuple[int, str], tuple[str, int]),
    (tuple[int, str], tuple[int, ...]),
    (tuple[int, ...], tuple[int, int]),
    (tuple[int, int, int], tuple[int, int]),
    (tuple[int, str], abc.Sequence[int]),
    (Annotated[str, "note"], int),
    (UserId, str),
    (list[UserId], list[str]),
    (Names, list[int]),
    (Shelf[Animal], Shelf[Dog]),
    (Box[int], Box[str]),
    (Point, Other),
    (Point, list[str]),
    (str, Point),
]


def shown(kind):
    return type_name(kind) if not isinstance(kind, str) else repr(kind)


@pytest.mark.parametrize(("produced", "accepted"), FITS, ids=[f"{shown(a)} to {shown(b)}" for a, b in FITS])
def test_what_fits_is_accepted(produced, accepted):
    """A false alarm stops a pipeline that would run."""
    assert is_assignable(produced, accepted) is True


@pytest.mark.parametrize(("produced", "accepted"), CLASHES, ids=[f"{shown(a)} to {shown(b)}" for a, b in CLASHES])
def test_what_cannot_fit_is_refused(produced, accepted):
    """Found when the pipeline is compiled, it costs nothing; found in a run, it costs the run."""
    assert is_assignable(produced, accepted) is False


KINDS = st.recursive(
    st.sampled_from(
        [str, int, float, bool, bytes, None, Animal, Dog, Title, Color, Literal["a"], Literal[1, "b"], UserId]
    ),
    lambda inner: st.one_of(
        inner.map(lambda kind: list[kind]),
        inner.map(lambda kind: dict[str, kind]),
        inner.map(lambda kind: tuple[kind, ...]),
        st.tuples(inner, inner).map(lambda kinds: tuple[kinds]),
        st.tuples(inner, inner).map(lambda kinds: (kinds[0] or type(None)) | kinds[1]),
    ),
    max_leaves=6,
)


@given(KINDS, KINDS)
def test_every_type_fits_itself_any_and_the_unions_that_contain_it(kind, other):
    """Laws that no special case may break."""
    assert is_assignable(kind, kind)
    assert is_assignable(kind, Any)
    assert is_assignable(kind, object)
    assert is_assignable(kind, (kind or type(None)) | other)
    assert is_assignable(list[kind], list[(kind or type(None)) | other])


@given(KINDS, KINDS, KINDS)
def test_a_union_fits_exactly_where_all_its_members_do(one, other, accepted):
    """Any of them may arrive."""
    both = (one or type(None)) | other

    assert is_assignable(both, accepted) == (is_assignable(one, accepted) and is_assignable(other, accepted))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (list[int], (True, int)),
        (list, (True, Any)),
        (tuple[str, ...], (True, str)),
        (tuple[str, int], (True, str | int)),
        (abc.Sequence[Title], (True, Title)),
        (abc.Iterable[Title], (True, Title)),
        (abc.Collection[Title], (True, Title)),
        (list[list[int]], (True, list[int])),
        (Names, (True, str)),
        (Annotated[list[int], "note"], (True, int)),
        (Any, (True, Any)),
        (str, (False, Any)),
        (bytes, (False, Any)),
        (int, (False, Any)),
        (dict[str, int], (False, Any)),
        (set[int], (False, Any)),
        (Title, (False, Any)),
        (Point, (False, Any)),
        (object, (False, Any)),
        (list[int] | None, (False, Any)),
    ],
)
def test_a_list_is_what_can_be_mapped_over(kind, expected):
    """A text has characters and a model has fields: mapping over them would be a silent mistake."""
    assert item_type(kind) == expected


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (str, "str"),
        (None, "None"),
        (type(None), "None"),
        (Any, "Any"),
        (Title, "Title"),
        (Box[int], "Box[int]"),
        (Shelf[Dog], "Shelf[Dog]"),
        (list[Title], "list[Title]"),
        (dict[str, list[int]], "dict[str, list[int]]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (str | None, "str | None"),
        (Literal["a", 1], "Literal['a', 1]"),
        (list[Literal["a"] | None], "list[Literal['a'] | None]"),
        (Annotated[int, "note"], "int"),
        (abc.Sequence[str], "Sequence[str]"),
        (Names, "Names"),
    ],
)
def test_types_are_shown_as_they_are_written(kind, name):
    """A message with `typing.Optional[<class 'str'>]` sends its reader to another page first."""
    assert type_name(kind) == name


def test_a_class_inside_a_function_is_shown_by_its_own_name():
    """`test_this.<locals>.Inner` is where it stands, not what it is called."""

    class Inner: ...

    assert type_name(Inner) == "Inner"
    assert type_name(list[Inner] | None) == "list[Inner] | None"
