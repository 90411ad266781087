"""What a step's output must be: validation, the schema that a model is given, the parsing of its reply."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError
from pydantic_core import PydanticSerializationError, ValidationError, to_json

from pipeline_engine.plan.types import type_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import TypeAdapter

__all__ = ["Output", "OutputTypes", "UnusableTypeError", "plain_to_json", "reasons_of"]

_FENCED = re.compile(r"\A\s*```[a-zA-Z]*\s*\n(.*?)\n?\s*```\s*\Z", re.DOTALL)


class UnusableTypeError(TypeError):
    """Raised when pydantic cannot validate a type, or cannot describe it to a model."""


def plain_to_json(value: Any) -> bytes:
    """Return a value of which nothing is declared as JSON, if it is made of JSON's own types.

    Raises:
        ValueError: If it is not: what comes back would be something else.

    Example:
        >>> plain_to_json({"pages": [1, 2]})
        b'{"pages": [1, 2]}'
    """
    try:
        _check_plain(value)
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # a lone surrogate, which only an escape can hold
        return json.dumps(value).encode()
    except RecursionError:
        raise ValueError("it is nested too deeply, or holds itself") from None


def _check_plain(value: Any) -> None:
    kind = type(value)
    if kind in (str, int, float, bool, type(None)):
        return
    if kind is list:
        for part in value:
            _check_plain(part)
    elif kind is dict:
        for name, part in value.items():
            if type(name) is not str:
                raise ValueError(f"it has a key of type {type(name).__name__}, and JSON's are texts")
            _check_plain(part)
    else:
        raise ValueError(f"it holds a {kind.__name__}, and no type was declared that says how to read one back")


@dataclass(frozen=True, slots=True)
class Output:
    """Know one output type: how to validate a value, and how to ask a model for one."""

    type: Any
    """The declared type."""
    validate: Callable[[Any], Any] | None = field(repr=False)
    """Returns the validated value; None if any value will do."""
    validate_strictly: Callable[[Any], Any] | None = field(repr=False)
    """The same without any conversion, for values that the pipeline itself declares."""
    schema: Mapping[str, Any] | None = field(default=None, repr=False)
    """The JSON schema that a model's reply must fit; None for plain text."""
    parse: Callable[[str], Any] | None = field(default=None, repr=False)
    """Returns the output from a model's reply; None for plain text."""
    to_json: Callable[[Any], bytes] = field(default=plain_to_json, repr=False)
    """Returns a validated value as JSON. Raises ValueError for one that JSON cannot hold."""
    from_json: Callable[[bytes], Any] = field(default=json.loads, repr=False)
    """Returns the validated value that `to_json` has made JSON of."""
    schema_json: bytes = field(default=b"", repr=False)
    """The schema as text: equal schemas have equal texts."""

    def __post_init__(self) -> None:
        if self.schema is not None:
            object.__setattr__(self, "schema_json", to_json(self.schema))

    @property
    def name(self) -> str:
        """The type as a user would write it."""
        return type_name(self.type)


def _parser(adapter: TypeAdapter[Any], bare: TypeAdapter[Any] | None) -> Callable[[str], Any]:
    """Return how to read a reply; `bare` is the type itself where `adapter` wraps it into an object."""

    def parse(reply: str) -> Any:
        text = _unfenced(reply)
        if bare is None:
            return adapter.validate_json(text)
        try:
            return adapter.validate_json(text).value
        except ValidationError:
            # Models that were given the schema as a hint only often answer with the value itself.
            try:
                return bare.validate_json(text)
            except ValidationError:
                pass
            raise

    return parse


@dataclass(slots=True)
class OutputTypes:
    """Make each type's validator once: building one costs as much as running thousands of them."""

    _outputs: dict[Any, Output] = field(default_factory=dict)
    _replies: dict[Any, Output] = field(default_factory=dict)
    _reasoned: dict[Any, Output] = field(default_factory=dict)

    def of_function(self, kind: Any) -> Output:
        """Return how to validate what a function returns, or what a run is given.

        Raises:
            UnusableTypeError: If pydantic cannot validate the type.
        """
        return self._cached(self._outputs, kind, self._make_output)

    def of_model(self, kind: Any, *, reasoning: bool = False) -> Output:
        """Return how to ask a model for a value of this type, after it has reasoned if that is wanted.

        Raises:
            UnusableTypeError: If the type has no JSON schema.
        """
        if reasoning:
            return self._cached(self._reasoned, kind, self._make_reasoned_reply)
        return self._cached(self._replies, kind, self._make_reply)

    @staticmethod
    def _cached(cache: dict[Any, Output], kind: Any, make: Callable[[Any], Output]) -> Output:
        try:
            # Literal["a", "b"] and Literal["b", "a"] are equal, but their schemas are not: the text tells.
            key = (kind, repr(kind))
            found = cache.get(key)
        except TypeError:  # an annotation may hold unhashable metadata
            return make(kind)
        if found is None:
            found = cache[key] = make(kind)
        return found

    def _make_output(self, kind: Any) -> Output:
        if kind is Any or kind is object:
            return Output(kind, None, None)
        adapter = _adapter(kind)

        def validate_strictly(value: Any) -> Any:
            return adapter.validate_python(value, strict=True)

        to_json, from_json = _json_codec(adapter)
        return Output(kind, adapter.validator.validate_python, validate_strictly, to_json=to_json, from_json=from_json)

    def _make_reply(self, kind: Any) -> Output:
        plain = self.of_function(kind)
        if kind is str or kind is Any:
            return plain
        from pydantic import ConfigDict, TypeAdapter, create_model

        adapter = _adapter(kind)
        try:
            schema = adapter.json_schema()
        except PydanticUserError as error:
            raise UnusableTypeError(f"cannot be described to a model: {_first_line(error)}") from error
        bare = None
        if schema.get("type") != "object" and "$ref" not in schema:
            bare = adapter
            # Providers' schema modes ask for an object at the root.
            wrapper = create_model("Output", __config__=ConfigDict(extra="forbid"), value=(kind, ...))
            adapter, schema = TypeAdapter(wrapper), wrapper.model_json_schema()
        return replace(plain, schema=schema, parse=_parser(adapter, bare))

    def _make_reasoned_reply(self, kind: Any) -> Output:
        """Ask for the reasoning first: what stands before the answer is what it can rest on."""
        plain = self.of_function(kind)
        from pydantic import ConfigDict, Field, TypeAdapter, create_model

        told = "Think step by step here, before you give the answer."
        answer = str if kind is Any else kind
        try:
            wrapper = create_model(
                "Answer",
                __config__=ConfigDict(extra="forbid"),
                reasoning=(str, Field(description=told)),
                answer=(answer, ...),
            )
            schema = wrapper.model_json_schema()
        except PydanticUserError as error:
            raise UnusableTypeError(f"cannot be described to a model: {_first_line(error)}") from error
        parse = _reasoned_parser(TypeAdapter(wrapper))
        return replace(plain, schema=schema, parse=parse)


def _json_codec(adapter: TypeAdapter[Any]) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Return how values of a type become JSON, and come back."""

    def to_json(value: Any) -> bytes:
        try:
            return adapter.dump_json(value)
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            try:
                # A lone surrogate, which only an escape can hold; what JSON has no form for fails here, too.
                return json.dumps(adapter.dump_python(value, mode="json")).encode()
            except (PydanticSerializationError, TypeError, ValueError, RecursionError):
                raise ValueError(_first_line(error)) from error
        except RecursionError:
            raise ValueError("it is nested too deeply, or holds itself") from None

    def from_json(data: bytes) -> Any:
        try:
            return adapter.validate_json(data)
        except ValidationError:
            if b"\\ud" not in data:
                raise
            return adapter.validate_python(json.loads(data))

    return to_json, from_json


def _reasoned_parser(adapter: TypeAdapter[Any]) -> Callable[[str], Any]:
    def parse(reply: str) -> Any:
        return adapter.validate_json(_unfenced(reply)).answer

    return parse


def _unfenced(reply: str) -> str:
    """Return the JSON in a reply: some models put it into a Markdown fence although they were given a schema."""
    fenced = _FENCED.match(reply)
    return fenced[1] if fenced else reply


def _adapter(kind: Any) -> TypeAdapter[Any]:
    # pydantic is imported when the first pipeline is compiled: most of it is only needed to make validators.
    from pydantic import ConfigDict, TypeAdapter

    try:
        return TypeAdapter(kind)
    except PydanticSchemaGenerationError:
        pass  # not pydantic's own kind of type: an isinstance check will do
    except (PydanticUserError, NameError) as error:
        raise UnusableTypeError(f"cannot be validated: {_first_line(error)}") from error
    try:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, PydanticUserError) as error:
        raise UnusableTypeError(f"cannot be validated: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def reasons_of(error: ValidationError) -> tuple[str, ...]:
    """Return what is wrong with a value, one sentence each, without the value itself.

    Example:
        >>> from pydantic import TypeAdapter
        >>> try:
        ...     TypeAdapter(list[int]).validate_json('[1, "a"]')
        ... except ValidationError as error:
        ...     reasons_of(error)
        ('1: Input should be a valid integer, unable to parse string as an integer',)
    """
    reasons = []
    for detail in error.errors(include_input=False, include_url=False, include_context=False):
        place = ".".join(str(part) for part in detail["loc"])
        reasons.append(f"{place}: {detail['msg']}" if place else detail["msg"])
    return tuple(reasons)
