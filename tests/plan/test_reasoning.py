"""Reasoning before the answer, and the types that a model can be asked for: what is sent, and what comes out."""

import dataclasses
import enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, ValidationError
from pydantic_core import to_json
from typing_extensions import TypeAliasType, TypedDict

from pipeline_engine import (
    Completed,
    OutputError,
    Pipeline,
    PlanError,
    Retry,
    compile_pipeline,
    run_pipeline,
)
from pipeline_engine.plan import reasons_of
from pipeline_engine.plan.outputs import OutputTypes
from pipeline_engine.testing import ScriptedModel, in_turn


class Score(BaseModel):
    value: int = Field(ge=0, le=10)


class Author(BaseModel):
    name: str
    mail: str | None = None


class Paper(BaseModel):
    title: str
    authors: list[Author]
    kind: Literal["article", "book"] = "article"


class Answer(BaseModel):
    """A user's own type may have the name of ours."""

    answer: str
    reasoning: int


class Tree(BaseModel):
    name: str
    branches: list["Tree"] = []


class Colour(enum.Enum):
    RED = "red"
    GREEN = "green"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


class Tags(RootModel[list[str]]):
    pass


class Point(TypedDict):
    x: int


@dataclasses.dataclass
class Record:
    name: str


Bounded = Annotated[float, Field(ge=0, le=1)]
Pet = Annotated[Cat | Dog, Field(discriminator="kind")]
Label = TypeAliasType("Label", Literal["a", "b"])


class Strange:
    """A class that pydantic knows nothing of."""


VALUES = {
    "a model": (Score, Score(value=7)),
    "a nested model": (Paper, Paper(title="T", authors=[Author(name="A"), Author(name="B", mail="b@c.d")])),
    "a model named like ours": (Answer, Answer(answer="a", reasoning=1)),
    "a recursive model": (Tree, Tree(name="a", branches=[Tree(name="b")])),
    "a typed dict": (Point, {"x": 1}),
    "a dataclass": (Record, Record("a")),
    "a root model": (Tags, Tags(["a", "b"])),
    "a Literal": (Literal["report", "other"], "other"),
    "a Literal of numbers": (Literal[1, 2], 2),
    "an alias": (Label, "b"),
    "an enum": (Colour, Colour.GREEN),
    "an enum of numbers": (Level, Level.HIGH),
    "an optional model, there": (Author | None, Author(name="A")),
    "an optional model, not there": (Author | None, None),
    "an optional text": (str | None, None),
    "a union of models": (Cat | Dog, Dog(kind="dog", tricks=["sit"])),
    "a union with a discriminator": (Pet, Cat(kind="cat", lives=9)),
    "a union of plain types": (int | list[str], ["a"]),
    "a bounded number": (Bounded, 0.5),
    "a bounded list": (Annotated[list[Bounded], Field(max_length=2)], [0.0, 1.0]),
    "a list of models": (list[Author], [Author(name="A")]),
    "an empty list": (list[Author], []),
    "a list of lists": (list[list[int]], [[1], []]),
    "a dict": (dict[str, int], {"a": 1}),
    "a dict of models": (dict[str, Author], {"a": Author(name="A")}),
    "a tuple": (tuple[int, str], (1, "a")),
    "a truth": (bool, True),
    "a number": (int, 3),
}


def one_step(output, **options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", output, name="ask", **options)(lambda document: document)
    return pipeline


def ask(output, answer, **options):
    model = answer if isinstance(answer, ScriptedModel) else ScriptedModel({"ask": answer})
    result = run_pipeline(one_step(output, **options), {"document": "text"}, models={"fast": model})
    return result, model


def reasoned(answer, reasoning="Because."):
    return {"reasoning": reasoning, "answer": answer}


# Types


@pytest.mark.parametrize(("kind", "value"), VALUES.values(), ids=VALUES)
def test_every_type_comes_out_as_it_was_scripted(kind, value):
    """Users test their pipelines with values; what they get back must be those."""
    result, model = ask(kind, value)

    assert result.outcome("ask") == Completed(value)
    assert type(result["ask"]) is type(value)
    assert model.requests[0].schema is not None


@pytest.mark.parametrize(("kind", "value"), VALUES.values(), ids=VALUES)
def test_every_schema_is_an_object_at_its_root(kind, value):
    """Providers' schema modes refuse anything else, one paid document at a time."""
    schema = OutputTypes().of_model(kind).schema
    root = schema["$defs"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
    assert root["type"] == "object"


@pytest.mark.parametrize(("kind", "value"), VALUES.values(), ids=VALUES)
def test_every_type_can_be_reasoned_about_first(kind, value):
    """What holds for a plain answer holds for one with a reason."""
    result, model = ask(kind, reasoned(value), reasoning=True)

    assert result.outcome("ask") == Completed(value)
    assert type(result["ask"]) is type(value)
    [request] = model.requests
    assert list(request.schema["properties"]) == ["reasoning", "answer"]
    assert request.schema["required"] == ["reasoning", "answer"]
    assert (request.schema["type"], request.schema["additionalProperties"]) == ("object", False)


# Reasoning


def test_the_schema_asks_for_the_reasoning_first():
    """A model writes from left to right: what stands before the answer is what it can rest on."""
    schema = OutputTypes().of_model(Literal["yes", "no"], reasoning=True).schema

    assert schema == {
        "additionalProperties": False,
        "properties": {
            "reasoning": {
                "description": "Think step by step here, before you give the answer.",
                "title": "Reasoning",
                "type": "string",
            },
            "answer": {"enum": ["yes", "no"], "title": "Answer", "type": "string"},
        },
        "required": ["reasoning", "answer"],
        "title": "Answer",
        "type": "object",
    }
    assert to_json(schema).index(b'"reasoning"') < to_json(schema).index(b'"answer"')


def test_a_text_can_be_reasoned_about_too():
    """It is asked for as JSON then, and comes out as the bare text."""
    result, model = ask(str, reasoned("Forty-two."), reasoning=True)

    assert result["ask"] == "Forty-two."
    assert model.requests[0].schema["properties"]["answer"]["type"] == "string"
    assert ask(str, "Forty-two.")[1].requests[0].schema is None


def test_the_reasoning_is_no_part_of_the_output_but_stays_in_the_call():
    """Consumers want the answer; whoever looks into a bad one wants the reasons."""
    result, _ = ask(Score, reasoned(Score(value=3), "Three is small."), reasoning=True)

    assert result["ask"] == Score(value=3)
    assert result.calls("ask")[0].completion.parsed == {"reasoning": "Three is small.", "answer": {"value": 3}}


def test_each_item_is_reasoned_about_by_itself():
    """A list of answers, a reason for each of them."""
    pipeline = Pipeline("items", inputs={"documents": list[str]})
    pipeline.llm("fast", Score, each="documents", name="ask", reasoning=True)(lambda document: document)
    model = ScriptedModel({"ask": lambda request: reasoned({"value": len(request.messages[0].text)})})

    result = run_pipeline(pipeline, {"documents": ["a", "bcd"]}, models={"fast": model})

    assert result["ask"] == [Score(value=1), Score(value=3)]


def test_consumers_see_the_type_without_the_reasoning():
    """`reasoning=True` is how one asks, not what one gets: no other step changes."""
    pipeline = one_step(Score, reasoning=True)

    @pipeline.step
    def doubled(ask: Score) -> int:
        return ask.value * 2

    model = ScriptedModel({"ask": reasoned({"value": 4})})
    assert run_pipeline(pipeline, {"document": "text"}, models={"fast": model})[doubled] == 8

    wrong = one_step(Score, reasoning=True)
    wrong.step(name="wrong")(_takes_text)
    with pytest.raises(PlanError) as caught:
        compile_pipeline(wrong)
    assert [problem.code for problem in caught.value.problems] == ["PE104"]


def _takes_text(ask: str) -> str:
    return ask


def test_a_fallback_value_needs_no_reasoning():
    """It is the output, not a reply."""
    result, _ = ask(Score, "nonsense", reasoning=True, fallback=Score(value=0), retry=Retry(repair=0))
    assert result.outcome("ask") == Completed(Score(value=0), via="fallback:value")

    with pytest.raises(PlanError) as caught:
        compile_pipeline(one_step(Score, reasoning=True, fallback=reasoned(Score(value=0))))
    assert [problem.code for problem in caught.value.problems] == ["PE105"]


def test_a_check_gets_the_output_without_the_reasoning():
    """It was written for the output."""
    seen = []
    ask(Score, reasoned({"value": 4}), reasoning=True, check=lambda output: seen.append(output) or True)
    assert seen == [Score(value=4)]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"answer": {"value": 3}}, "reasoning: Field required"),
        ({"reasoning": "Because."}, "answer: Field required"),
        ({"value": 3}, "reasoning: Field required"),
        (reasoned({"value": 30}), "answer.value: Input should be less than or equal to 10"),
        (reasoned({"value": 3}) | {"more": 1}, "more: Extra inputs are not permitted"),
        (reasoned({"value": 3}, reasoning=None), "reasoning: Input should be a valid string"),
    ],
)
def test_a_reply_that_lacks_a_part_is_repaired_with_the_reason(bad, reason):
    """An answer without its reasoning was not reasoned about: that is what was asked for."""
    result, model = ask(Score, in_turn(bad, reasoned({"value": 3})), reasoning=True)

    assert result["ask"] == Score(value=3)
    assert f"- {reason}\n" in model.requests[1].messages[-1].text


def test_a_reply_that_stays_wrong_fails_with_all_its_reasons():
    """The error says what was missing, not that JSON is hard."""
    result, model = ask(Score, {"value": 3}, reasoning=True, retry=Retry(repair=1))

    error = result.outcome("ask").error
    assert isinstance(error, OutputError)
    assert error.reasons == (
        "reasoning: Field required",
        "answer: Field required",
        "value: Extra inputs are not permitted",
    )
    assert len(model.requests) == 2


@pytest.mark.parametrize("fence", ["```json\n{}\n```", "```\n{}\n```", "  ```json\n{}\n```\n"])
def test_a_reasoned_reply_in_a_markdown_fence_is_read_too(fence):
    """Small models fence all JSON, whatever they were told."""
    parse = OutputTypes().of_model(Score, reasoning=True).parse
    reply = fence.replace("{}", '{"reasoning": "```x```", "answer": {"value": 3}}')
    assert parse(reply) == Score(value=3)


def test_steps_that_reason_and_steps_that_do_not_have_schemas_of_their_own():
    """One type, asked for in two ways in one pipeline."""
    pipeline = one_step(Score, reasoning=True)
    pipeline.llm("fast", Score, name="plain")(lambda document: document)
    model = ScriptedModel({"ask": reasoned({"value": 1}), "plain": {"value": 2}})

    result = run_pipeline(pipeline, {"document": "text"}, models={"fast": model})

    assert (result["ask"], result["plain"]) == (Score(value=1), Score(value=2))
    types = OutputTypes()
    assert types.of_model(Score, reasoning=True) is types.of_model(Score, reasoning=True)
    assert types.of_model(Score, reasoning=True) is not types.of_model(Score)


@pytest.mark.parametrize("reasoning", [False, True])
def test_a_type_that_no_model_can_give_is_a_problem(reasoning):
    """PE116, before anything is sent."""
    with pytest.raises(PlanError) as caught:
        compile_pipeline(one_step(Strange, reasoning=reasoning))
    assert [problem.code for problem in caught.value.problems] == ["PE116"]


def test_anything_at_all_is_asked_for_as_text():
    """Without a type there is nothing to fit, but the reasoning has a place."""
    output = OutputTypes().of_model(Any, reasoning=True)
    assert output.parse('{"reasoning": "r", "answer": "a"}') == "a"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["reasoning", "answer", "x"]), inner),
    max_leaves=6,
)


@given(JSON)
def test_any_reply_is_either_the_answer_or_told_what_is_wrong(reply):
    """Whatever a model says, a step ends with an output or with reasons; nothing else comes out."""
    parse = OutputTypes().of_model(list[int], reasoning=True).parse
    is_good = (
        isinstance(reply, dict)
        and set(reply) == {"reasoning", "answer"}
        and isinstance(reply["reasoning"], str)
        and isinstance(reply["answer"], list)
    )
    try:
        value = parse(to_json(reply).decode())
    except ValidationError as error:
        assert reasons_of(error)  # noqa: PT017 - some replies raise and some do not
    else:
        assert is_good
        assert all(isinstance(part, int) for part in value)
