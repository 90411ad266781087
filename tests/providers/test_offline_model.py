"""The offline model: fills any ordinary schema, the same way every time, and says that it is no language model."""

import hashlib
import json
import os
import subprocess
import sys
from datetime import date
from enum import Enum
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from pipeline_engine.errors import RejectedError
from pipeline_engine.providers.offline import ExtractiveModel
from pipeline_engine.values import Completion, CompletionModel, Message, Request

TEXT = """\
# Brewing green tea

Green tea is brewed from leaves that were not oxidised. Water temperature decides how bitter green tea becomes.
Boiling water releases tannins, and tannins make the cup bitter.

## Water temperature

The best water temperature for green tea is eighty degrees. Write to tea@example.org before 2024-05-03.
The total price: 12.50 EUR.

## Steeping time

Steeping time matters as much: green tea leaves give their flavour within two minutes.
"""


class Kind(Enum):
    REPORT = "report"
    HOWTO = "how-to"


class Title(BaseModel):
    text: str


class Keywords(BaseModel):
    items: list[str] = Field(max_length=3)


class Summary(BaseModel):
    text: str = Field(max_length=120)


class Category(BaseModel):
    label: Literal["recipe", "invoice", "other"]


class Quality(BaseModel):
    score: float = Field(ge=0, le=1)


class Notes(BaseModel):
    items: list[str] = Field(min_length=2, max_length=2)


class Person(BaseModel):
    name: str
    note: str | None = None


class Everything(BaseModel):
    headline: str
    tags: list[str] = Field(min_length=1, max_length=4)
    kind: Kind
    stars: int = Field(gt=0, lt=6)
    share: float = Field(gt=0, lt=1)
    even: int = Field(ge=0, le=10, multiple_of=2)
    mentions_tannins: bool
    mentions_coffee: bool
    due: date
    email: str
    price: float
    maybe: int | None
    person: Person
    people: list[Person] = Field(max_length=2)
    constant: Literal["fixed"] = "fixed"
    level: Literal[1, 2, 3] = 1
    anything: dict[str, str] = {}


def request(schema, name="Output", *sources):
    return Request((Message("user", "Do it."),), schema, name, sources=sources or (TEXT,))


async def answer(output, *sources):
    """Ask for an output type as the engine does, and return the validated reply."""
    adapter = TypeAdapter(output)
    name = getattr(output, "__name__", "Output")
    completion = await ExtractiveModel().complete(request(adapter.json_schema(), name, *sources))
    return adapter.validate_json(completion.text)


async def test_it_is_a_completion_model_and_says_what_it_is():
    """Nobody may take an extract for a language model's answer."""
    completion = await ExtractiveModel().complete(request(None))

    assert isinstance(ExtractiveModel(), CompletionModel)
    assert completion == Completion(completion.text, finish="stop", model="offline:extractive")


async def test_without_a_schema_the_answer_is_a_summary_of_the_source():
    """A step of type `str` asks for plain text."""
    completion = await ExtractiveModel().complete(request(None))

    assert completion.text.count(".") >= 2
    assert all(sentence.strip(" .") in TEXT.replace("\n", " ") for sentence in completion.text.split(". "))


async def test_without_sources_the_last_user_message_is_the_text():
    """A model used on its own gets its text in the prompt."""
    messages = (Message("user", "# Coffee"), Message("assistant", "# No"), Message("user", "# Tea\n\nHot."))

    completion = await ExtractiveModel().complete(Request(messages, Title.model_json_schema(), "Title"))

    assert completion.text == '{"text": "Tea"}'


async def test_the_outputs_of_the_demo_are_filled_by_their_names():
    """`Title.text` and `Summary.text` are both strings: the class says what is meant."""
    assert await answer(Title) == Title(text="Brewing green tea")
    assert await answer(Keywords) == Keywords(items=["green tea", "water temperature", "steeping time"])
    assert (await answer(Summary)).text in TEXT.replace("\n", " ")
    assert (await answer(Notes)).items[0] in TEXT.replace("\n", " ")
    assert (await answer(Category, "Amount due: 3. Invoice total: 3.")) == Category(label="invoice")


async def test_a_score_measures_how_well_other_outputs_fit_the_document():
    """A constant number would make the quality step a lie."""
    good = await answer(Quality, TEXT, "Brewing green tea at the right water temperature")
    bad = await answer(Quality, TEXT, "Annual report of the board")

    assert 0 <= bad.score < good.score <= 1


async def test_every_ordinary_type_is_filled_within_its_bounds():
    """A user's first own schema must run offline, not fail validation."""
    filled = await answer(Everything)

    assert filled.headline == "Brewing green tea"
    assert filled.tags[0] == "green tea"
    assert filled.mentions_tannins is False
    assert filled.mentions_coffee is False
    assert filled.due == date(2024, 5, 3)
    assert filled.email == "tea@example.org"
    assert filled.price == 12.5
    assert filled.person.name == "Brewing green tea"
    assert [person.name for person in filled.people] == ["green tea", "water temperature"]


@pytest.mark.parametrize(
    ("output", "value"),
    [
        (Literal["report", "how-to"], None),
        (Kind, None),
        (list[str], None),
        (Annotated[list[str], Field(max_length=0)], []),
        (set[Literal["tea", "coffee"]], {"tea"}),
        (Annotated[list[Literal["coffee", "tea"]], Field(min_length=2)], ["tea", "coffee"]),
        (str, None),
        (Annotated[str, Field(max_length=12)], None),
        (Annotated[str, Field(min_length=300)], None),
        (Annotated[str, Field(pattern=r"^\d+\.\d\d$")], "12.50"),
        (int, None),
        (Annotated[int, Field(ge=3, le=3)], 3),
        (Annotated[float, Field(gt=0)], None),
        (Annotated[float, Field(lt=-5)], None),
        (bool, None),
        (None, None),
        (tuple[str, int], None),
        (list[Person], None),
        (Person | None, None),
        (dict[str, int], {}),
    ],
)
async def test_a_schema_whose_root_is_no_object_is_filled_too(output, value):
    """The engine wraps such types, but a schema is a schema."""
    filled = await answer(output)

    assert value is None or filled == value


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            Annotated[int, Field(gt=3, lt=4)],
            "field 'Output' has bounds between which there is no number",
        ),
        (
            Annotated[list[str], Field(min_length=500)],
            "field 'Output' asks for 500 items, and the text gives ",
        ),
        (
            Annotated[str, Field(min_length=5000)],
            "field 'Output' asks for 5000 characters, and the text gives ",
        ),
        (
            Annotated[str, Field(pattern="^ZZ9$")],
            "field 'Output' asks for a text of pattern '^ZZ9$', and none was found",
        ),
    ],
)
async def test_what_cannot_be_extracted_is_rejected_with_the_field_named(output, reason):
    """Inventing a value would be worse than saying so, and a retry would not help."""
    schema = TypeAdapter(output).json_schema()

    with pytest.raises(RejectedError) as caught:
        await ExtractiveModel().complete(request(schema))

    assert str(caught.value).startswith(f"model 'offline:extractive' cannot fill the schema: {reason}")
    assert str(caught.value).endswith(". Make the field optional, or use a language model.")
    assert (caught.value.kind, caught.value.is_transient) == ("invalid", False)


async def test_a_schema_that_contains_itself_ends():
    """A tree of comments is an ordinary type; an endless answer is not."""

    class Node(BaseModel):
        title: str
        children: "list[Node]" = []

    filled = await answer(Node)

    assert filled.title == "Brewing green tea"


@pytest.mark.parametrize("text", ["", " \n", "\0", "```\ncode\n```", "\ud800", "12345", "???"])
async def test_a_text_that_says_nothing_still_gets_an_answer(text):
    """An empty chunk must not end a batch."""
    assert (await answer(Keywords, text)).items == []
    assert json.loads((await ExtractiveModel().complete(request(Title.model_json_schema(), "Title", text))).text)
    assert (await answer(Category, text)).label == "other"


async def test_answers_can_be_written_as_utf_8():
    """A lone surrogate from a broken document would break the journal."""
    completion = await ExtractiveModel().complete(request(Title.model_json_schema(), "Title", "# Tea \ud800 time"))

    assert completion.text.encode() == b'{"text": "Tea time"}'


HOSTILE = (
    *("[", "![", "[x](", "<", "<a ", "<h1>", "<!--", "<pre>", "`", "*", "**a ", "_a", "# ", "#", "a", "A. ", "Aa"),
    *(" ", "\n", "\t", "- ", "> ", "|", "==\n", "---\n", "```\n", "&#", "\\", "{%", "x: y\n", ":a:`", "1.", "("),
    *("return ", "日本語。", "www.", "A b c d e f. "),
)


@pytest.mark.parametrize("piece", HOSTILE)
async def test_a_megabyte_of_one_sign_ends(piece):
    """The model runs on the engine's thread: one hostile document must not stop every other."""
    text = piece * (1_000_000 // len(piece)) + "x)]>`"

    assert isinstance((await answer(Title, text)).text, str)
    assert isinstance((await answer(Keywords, text)).items, list)


PROGRAM = """
import json, sys
import trio
from pipeline_engine.providers.offline import ExtractiveModel
from pipeline_engine.values import Message, Request

async def main():
    text, schema = json.loads(sys.stdin.read())
    request = Request((Message("user", "Do it."),), schema, "Everything", sources=(text,))
    for wanted in (request, Request(request.messages, sources=(text,))):
        sys.stdout.buffer.write((await ExtractiveModel().complete(wanted)).text.encode())

trio.run(main)
"""


def test_answers_are_the_same_for_every_hash_seed():
    """A journal compares outputs byte by byte; sets and dicts must not leak their order into them."""
    text = f"{TEXT}\n\n{TEXT.replace('tea', 'coffee').replace('water', 'milk')}"
    given = json.dumps([text, Everything.model_json_schema()])
    outputs = {
        hashlib.sha256(
            subprocess.run(
                [sys.executable, "-c", PROGRAM],
                input=given.encode(),
                env={**os.environ, "PYTHONHASHSEED": seed},
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
        ).hexdigest()
        for seed in ("0", "1", "2", "42")
    }

    assert len(outputs) == 1
