"""Output types: what a model is asked for, how its reply is read, and what is said of a bad one."""

import dataclasses
import enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, RootModel, ValidationError
from typing_extensions import TypedDict

from pipeline_engine.plan import reasons_of
from pipeline_engine.plan.outputs import OutputTypes, UnusableTypeError


class Title(BaseModel):
    text: str


class Quality(BaseModel):
    score: float = Field(ge=0, le=1)
    tags: list[str] = []


class Tree(BaseModel):
    branches: list["Tree"] = []


class Color(enum.Enum):
    RED = "red"


class Point(TypedDict):
    x: int


@dataclasses.dataclass
class Record:
    name: str


class Plain: ...


def reply_type(kind):
    return OutputTypes().of_model(kind)


@pytest.mark.parametrize(
    ("kind", "inner"),
    [
        (list[str], {"items": {"type": "string"}, "title": "Value", "type": "array"}),
        (Literal["yes", "no"], {"enum": ["yes", "no"], "title": "Value", "type": "string"}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}], "title": "Value"}),
        (bool, {"title": "Value", "type": "boolean"}),
    ],
)
def test_a_schema_that_is_no_object_is_wrapped_into_one(kind, inner):
    """Providers' schema modes refuse anything but an object at the root."""
    assert reply_type(kind).schema == {
        "additionalProperties": False,
        "properties": {"value": inner},
        "required": ["value"],
        "title": "Output",
        "type": "object",
    }


@pytest.mark.parametrize("kind", [Title, Record, Point, dict[str, int], RootModel[dict[str, int]]])
def test_an_object_is_asked_for_as_it_is(kind):
    """A wrapping that is not needed costs tokens and gives a model one more thing to get wrong."""
    assert reply_type(kind).schema["type"] == "object"
    assert reply_type(kind).schema.get("properties", {}).keys() != {"value"}


@pytest.mark.parametrize(
    ("kind", "reply", "output"),
    [
        (Title, '{"text": "A"}', Title(text="A")),
        (Record, '{"name": "A"}', Record("A")),
        (Point, '{"x": 1}', {"x": 1}),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (Tree, '{"branches": [{"branches": []}]}', Tree(branches=[Tree()])),
        (list[Title], '{"value": [{"text": "A"}]}', [Title(text="A")]),
        (list[str], '{"value": []}', []),
        (Literal["yes", "no"], '{"value": "no"}', "no"),
        (Title | Color, '{"value": {"text": "A"}}', Title(text="A")),
        (Color, '{"value": "red"}', Color.RED),
        (int | None, '{"value": null}', None),
        (Annotated[int, Field(ge=0)], '{"value": 3}', 3),
        (tuple[int, str], '{"value": [1, "a"]}', (1, "a")),
    ],
)
def test_a_reply_becomes_an_output_of_the_declared_type(kind, reply, output):
    """The wrapping is between the engine and the model: users never see it."""
    assert reply_type(kind).parse(reply) == output


@pytest.mark.parametrize(
    ("kind", "reply", "output"),
    [
        (list[str], '["a"]', ["a"]),
        (Literal["yes"], '"yes"', "yes"),
        (int, "```\n3\n```", 3),
        (int | None, "null", None),
    ],
)
def test_a_reply_without_its_wrapping_is_taken(kind, reply, output):
    """Models that get the schema as a hint only often answer with the value itself."""
    assert reply_type(kind).parse(reply) == output


@pytest.mark.parametrize(
    "reply",
    [
        '```json\n{"text": "A"}\n```',
        '```\n{"text": "A"}\n```',
        '\n  ```JSON  \n{\n  "text": "A"\n}\n  ```  \n',
        '```json\n{"text": "A"}```',
        '  {"text": "A"}  ',
    ],
)
def test_json_in_a_markdown_fence_is_read(reply):
    """A habit of many models, and no reason to pay for a second answer."""
    assert reply_type(Title).parse(reply) == Title(text="A")


@pytest.mark.parametrize(
    "reply", ["", "Sure! Here it is:", 'Here: ```json\n{"text": "A"}\n```', '{"text": "A"', "null"]
)
def test_anything_else_is_no_output(reply):
    """Guessing at what surrounds the JSON would accept what a model quoted from the document."""
    with pytest.raises(ValidationError):
        reply_type(Title).parse(reply)


def test_a_fence_inside_the_output_is_kept():
    """A text about code has fences of its own."""
    assert reply_type(Title).parse('{"text": "```json\\n{}\\n```"}') == Title(text="```json\n{}\n```")


@pytest.mark.parametrize("kind", [str, Any])
def test_plain_text_has_neither_schema_nor_parser(kind):
    """The reply is the output, as it came."""
    assert (reply_type(kind).schema, reply_type(kind).parse) == (None, None)


def test_any_value_of_an_open_type_will_do():
    """A validator that accepts everything would cost time at every step."""
    assert OutputTypes().of_function(Any).validate is None
    assert OutputTypes().of_function(object).validate_strictly is None


def test_outputs_of_functions_may_be_converted_and_declared_values_may_not():
    """A function that returns "3" for an int is helped; a fallback that is a "3" is a mistake in the source."""
    output = OutputTypes().of_function(int)

    assert output.validate("3") == 3
    with pytest.raises(ValidationError):
        output.validate_strictly("3")


def test_any_class_will_do_for_a_function():
    """Steps hand on trees, images, connections: an `isinstance` check is all that can be said."""
    output = OutputTypes().of_function(Plain)
    plain = Plain()

    assert output.validate(plain) is plain
    assert output.name == "Plain"
    with pytest.raises(ValidationError):
        output.validate("plain")


def test_a_type_that_cannot_be_described_to_a_model_is_refused():
    """It is found when the pipeline is compiled, not when the first document is paid for."""
    with pytest.raises(UnusableTypeError) as caught:
        reply_type(list[Plain])

    assert str(caught.value) == (
        f"cannot be described to a model: Cannot generate a JsonSchema for core_schema.IsInstanceSchema ({Plain!r})"
    )


def test_reasons_name_the_place_but_not_the_value():
    """They go to the model and into logs: a value may be a secret or a whole document."""
    with pytest.raises(ValidationError) as caught:
        Quality.model_validate({"score": 7, "tags": ["a", 4711]})

    assert reasons_of(caught.value) == (
        "score: Input should be less than or equal to 1",
        "tags.1: Input should be a valid string",
    )


def test_a_reason_about_the_whole_has_no_place():
    """`: Input should …` would look like a defect."""
    with pytest.raises(ValidationError) as caught:
        OutputTypes().of_function(int).validate("many")

    assert reasons_of(caught.value) == ("Input should be a valid integer, unable to parse string as an integer",)


def test_a_reply_that_is_no_json_is_told_without_quoting_it():
    """The reply may be as long as a book."""
    with pytest.raises(ValidationError) as caught:
        reply_type(Title).parse("Unfortunately not: 4711.")

    assert reasons_of(caught.value) == ("Invalid JSON: expected value at line 1 column 1",)


def test_each_type_is_built_once():
    """A pipeline of a thousand steps over five types builds five validators."""
    types = OutputTypes()

    assert types.of_model(Title) is types.of_model(Title)
    assert types.of_model(list[Title]) is types.of_model(list[Title])
    assert types.of_function(Title) is types.of_function(Title)
    assert (len(types._outputs), len(types._replies)) == (2, 2)


def test_types_that_only_look_equal_are_kept_apart():
    """`Literal["a", "b"] == Literal["b", "a"]`: a model must be shown the choices in the order of their own step."""
    types = OutputTypes()
    schemas = [types.of_model(kind).schema for kind in (Literal["a", "b"], Literal["b", "a"])]

    assert [schema["properties"]["value"]["enum"] for schema in schemas] == [["a", "b"], ["b", "a"]]


def test_annotations_with_unhashable_metadata_can_be_used():
    """Metadata belongs to other libraries; it may be a dict."""
    types = OutputTypes()

    assert types.of_function(Annotated[int, {"unit": "m"}]).validate("3") == 3
    assert types.of_model(Annotated[int, {"unit": "m"}]).parse('{"value": 3}') == 3
