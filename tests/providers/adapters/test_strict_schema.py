"""Any pydantic model becomes a schema that strict modes accept, or is known not to."""

from decimal import Decimal
from typing import Annotated, Literal, Optional

import pytest
from pydantic import BaseModel, Field

from pipeline_engine.providers.adapters.strict_schema import Subset, strict_schema


class Inner(BaseModel):
    x: int = Field(ge=0)


class Invoice(BaseModel):
    kind: Literal["invoice"]


class Letter(BaseModel):
    kind: Literal["letter"]


class Everything(BaseModel):
    name: str = Field("none", max_length=10, description="The name.")
    told: Inner = Field(description="Its own words.")
    plain: Inner
    maybe: Inner | None = None
    mixed: Literal["x", 1]
    either: Annotated[Invoice | Letter, Field(discriminator="kind")]
    unique: set[str]


class Node(BaseModel):
    children: list["Node"] = []
    parent: Optional["Node"] = Field(None, description="Above.")
    best: "Node" = Field(description="A child.")


INNER = {
    "title": "Inner",
    "type": "object",
    "properties": {"x": {"minimum": 0, "title": "X", "type": "integer"}},
    "required": ["x"],
    "additionalProperties": False,
}


def properties_of(model):
    return strict_schema(model.model_json_schema())["properties"]


def objects_in(schema):
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects_in(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects_in(value)


@pytest.mark.parametrize("model", [Everything, Node])
def test_every_object_requires_all_its_properties_and_allows_no_other(model):
    """OpenAI answers anything else with a 400 before a single token."""
    for schema in objects_in(strict_schema(model.model_json_schema())):
        assert schema["required"] == list(schema["properties"])
        assert schema["additionalProperties"] is False


def test_rules_that_the_subset_lacks_are_told_in_the_description():
    """The model can keep to a rule that it can read; without it, each slip costs a repair."""
    assert properties_of(Everything)["name"] == {
        "description": 'The name. (default: "none", maxLength: 10)',
        "title": "Name",
        "type": "string",
    }
    assert properties_of(Everything)["unique"]["description"] == "(uniqueItems: true)"


def test_a_reference_with_words_of_its_own_is_written_out():
    """The subset allows nothing beside a reference, and the words are worth keeping."""
    found = properties_of(Everything)

    assert found["told"] == {**INNER, "description": "Its own words."}
    assert found["plain"] == {"$ref": "#/$defs/Inner"}
    assert found["maybe"] == {"anyOf": [{"$ref": "#/$defs/Inner"}, {"type": "null"}]}


def test_choices_are_told_in_the_words_of_the_subset():
    """It knows `anyOf` only, and wants a type beside every list of values."""
    found = properties_of(Everything)

    assert found["either"]["anyOf"] == [{"$ref": "#/$defs/Invoice"}, {"$ref": "#/$defs/Letter"}]
    assert found["mixed"] == {"enum": ["x", 1], "title": "Mixed", "type": ["string", "integer"]}


def test_definitions_that_nothing_needs_are_left_out_and_the_others_stay():
    """They are part of every request and are paid for."""
    assert list(strict_schema(Everything.model_json_schema())["$defs"]) == ["Inner", "Invoice", "Letter"]
    only_told = {"$defs": {"A": {"type": "string"}}, "type": "object", "properties": {}}
    assert "$defs" not in strict_schema(only_told)


def test_a_recursive_model_is_written_out_once():
    """A tree of steps or headings is a natural thing to ask for."""
    schema = strict_schema(Node.model_json_schema())

    assert schema["properties"]["children"]["items"] == {"$ref": "#/$defs/Node"}
    assert schema["properties"]["best"]["description"] == "A child."
    assert schema["properties"]["best"]["properties"]["best"] == {"$ref": "#/$defs/Node"}


def test_patterns_that_look_ahead_are_dropped():
    """They cannot be compiled into a grammar; pydantic writes one for decimals."""
    schema = {"type": "string", "pattern": "^(?!x)[a-z]+$"}
    kept = {"type": "string", "pattern": "^(?:a|b)+$"}
    found = strict_schema({"type": "object", "properties": {"dropped": schema, "kept": kept}})["properties"]

    assert found["dropped"] == {"type": "string", "description": '(pattern: "^(?!x)[a-z]+$")'}
    assert found["kept"] == kept


@pytest.mark.parametrize(
    "value",
    [
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"type": "array", "prefixItems": [{"type": "string"}], "maxItems": 1},
        {"type": "array"},
        {},
        True,
        {"type": "object", "properties": {}, "patternProperties": {"^a": {"type": "string"}}},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"$ref": "#/$defs/Missing"},
        {"$ref": "https://elsewhere.example/schema"},
    ],
)
def test_what_the_subset_cannot_say_is_known(value):
    """Then the schema is sent as it is, without the promise, and validation does the rest."""
    assert strict_schema({"type": "object", "properties": {"value": value}}) is None


def test_a_root_that_is_no_object_is_known():
    """Strict modes take objects only."""
    assert strict_schema({"type": "array", "items": {"type": "string"}}) is None
    assert strict_schema({"$ref": "#/$defs/A", "$defs": {"A": {"enum": ["a"]}}}) is None


def test_decimals_can_be_asked_for():
    """Amounts of money are the commonest thing to extract."""

    class Amount(BaseModel):
        value: Decimal

    assert {choice["type"] for choice in properties_of(Amount)["value"]["anyOf"]} == {"number", "string"}


def test_the_given_schema_is_left_as_it_was():
    """It is shared by all documents of a batch."""
    schema = Everything.model_json_schema()

    strict_schema(schema)

    assert schema == Everything.model_json_schema()


def few(key, value):
    return key in {"type", "enum"}


def test_a_subset_without_recursion_takes_no_definition_that_leads_back_to_itself():
    """A provider that unrolls definitions refuses such a schema, whether it leads back at once or through others."""
    to = {name: {"type": "object", "properties": {"x": {"$ref": f"#/$defs/{name}"}}} for name in "AB"}
    schema = {"type": "object", "properties": {"x": {"$ref": "#/$defs/A"}}}
    flat = Subset(takes=few, is_recursive=False)

    assert strict_schema({**schema, "$defs": {"A": to["B"], "B": to["A"]}}, flat) is None
    assert strict_schema({**schema, "$defs": {"A": to["A"]}}, flat) is None
    assert strict_schema({**schema, "$defs": {"A": to["B"], "B": {"type": "string"}}}, flat) is not None


def test_a_subset_bounds_how_many_values_may_be_of_several_types():
    """Beyond its bound a provider refuses the whole request; choices and lists of types count alike."""
    schema = {
        "type": "object",
        "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}, "b": {"type": ["string", "null"]}},
    }

    assert strict_schema(schema, Subset(takes=few, is_recursive=True, max_unions=1)) is None
    assert strict_schema(schema, Subset(takes=few, is_recursive=True, max_unions=2)) is not None


def test_a_constant_that_a_subset_cannot_say_is_its_only_value():
    """Choices between types are told apart by their constants."""
    schema = {"type": "object", "properties": {"kind": {"const": "a", "type": "string"}}}

    found = strict_schema(schema, Subset(takes=few, is_recursive=True))

    assert found["properties"] == {"kind": {"type": "string", "enum": ["a"]}}
