"""What users write, as type checkers see it. Checked by mypy --strict and pyright, never run."""

from typing import Literal

from pydantic import BaseModel
from typing_extensions import assert_type

from pipeline_engine.declare import Pipeline, Step, use
from pipeline_engine.values import Message


class Title(BaseModel):
    text: str


class Category(BaseModel):
    label: Literal["news", "other"]


class Notes(BaseModel):
    lines: list[str]


pipeline = Pipeline("typed", inputs={"document": str})


@pipeline.llm("fast", Title)
def title(document: str) -> str:
    return document


@pipeline.llm("fast", Category, fallback=Category(label="other"))
def category(document: str) -> str:
    return document


@pipeline.llm("fast", Literal["yes", "no"])
def verdict(document: str) -> str:
    return document


@pipeline.llm("fast", Title | Category)
def either(document: str) -> list[Message]:
    return [Message("user", document)]


@pipeline.step
def chunks(document: str) -> list[str]:
    return document.split("\n\n")


@pipeline.llm("fast", Notes, each=chunks)
def notes(chunk: str, title: Title) -> str:
    return chunk + title.text


@pipeline.step
async def length(notes: list[Notes]) -> int:
    return len(notes)


@pipeline.step(retry=None)
async def doubled(length: int) -> int:
    return length * 2


@pipeline.step(each=chunks)
def sizes(chunk: str) -> int:
    return len(chunk)


@pipeline.llm("fast", Title, check=lambda output: len(output.text) < 80)
def renamed(heading: Title = use(title), label: Category | None = use(category, default=None)) -> str:
    return heading.text


def short(output: Title, document: str) -> bool | str:
    return len(output.text) < len(document)


@pipeline.llm("fast", Title, check=short)
def checked(document: str) -> str:
    return document


def outputs(a: Step[..., Title], b: Step[..., list[Notes]], c: Step[..., Literal["yes", "no"]]) -> None: ...


outputs(title, notes, verdict)


def use_them() -> None:
    assert_type(use(title), Title)
    assert_type(use(notes), list[Notes])
    assert_type(use(length), int)
    assert_type(use(doubled), int)
    assert_type(use(sizes), list[int])
    assert_type(use(verdict), Literal["yes", "no"])
    assert_type(use(title, default=None), Title | None)
