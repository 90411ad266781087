"""What users write, as type checkers see it. Checked by mypy --strict and pyright, never run."""

from typing import Literal, assert_type

from pydantic import BaseModel

from pipeline_engine import (
    BatchResult,
    Completed,
    Dropped,
    Failed,
    Message,
    Model,
    Pipeline,
    Policy,
    Retry,
    RunResult,
    Skipped,
    Step,
    Stopped,
    Timeout,
    Usage,
    run_batch,
    run_pipeline,
    use,
)


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


other = Pipeline("other", inputs={"titles": list[str], "document": str}, policy=Policy(retry=Retry(attempts=2)))
once = other.include(pipeline, prefix="once")
each = other.include(pipeline, prefix="each", inputs={}, each="titles")


@other.step(timeout=Timeout(attempt=3), fallback=0)
def shortest(headings: list[Title] = use(each[title])) -> int:
    return min(len(heading.text) for heading in headings)


def outputs(a: Step[..., Title], b: Step[..., list[Notes]], c: Step[..., Literal["yes", "no"]]) -> None: ...


# A step of a narrower output is welcome where one of a wider output is asked for.
def wider(step: Step[..., Title | Category | None]) -> None: ...


outputs(title, notes, verdict)
wider(title)
wider(either)


def use_them() -> None:
    assert_type(use(title), Title)
    assert_type(use(notes), list[Notes])
    assert_type(use(length), int)
    assert_type(use(doubled), int)
    assert_type(use(sizes), list[int])
    assert_type(use(verdict), Literal["yes", "no"])
    assert_type(use(either), Title | Category)
    assert_type(use(title, default=None), Title | None)


def read(result: RunResult) -> None:
    assert_type(result[title], Title)
    assert_type(result[notes], list[Notes])
    assert_type(result[length], int)
    assert_type(result[sizes], list[int])
    assert_type(result[verdict], Literal["yes", "no"])
    assert_type(result[either], Title | Category)
    assert_type(result.outcome(title), Completed[Title] | Failed | Skipped | Stopped | Dropped)
    assert_type(result.usage, Usage)
    assert_type(result.status, Literal["completed", "partial", "failed", "stopped"])
    print(result["title"].text)  # by name: untyped, and so allowed


def fork(result: RunResult) -> str:
    match result.outcome(title):
        case Completed(value):
            assert_type(value, Title)
            return value.text
        case Failed(error) | Dropped(error):
            assert_type(error, Exception)
            return str(error)
        case Skipped(because):
            return because
        case Stopped(reason):
            return reason


def include_them(result: RunResult) -> None:
    assert_type(result[once[title]], Title)
    assert_type(result[once[notes]], list[Notes])
    assert_type(result[each[title]], list[Title])
    assert_type(result[each[length]], list[int])


def render_them() -> None:
    assert_type(title.render("text"), tuple[Message, ...])
    title.render(document="text")
    notes.render("chunk", title=Title(text="A"))


def run_them() -> None:
    strong = Model("openai:gpt-4o", temperature=0)
    assert_type(run_pipeline(pipeline, {"document": "text"}, models={"fast": "offline:extractive"}), RunResult)
    run_pipeline(pipeline, {"document": "text"}, models={"fast": [strong, "openai:gpt-4o-mini"]})
    assert_type(run_batch(pipeline, [{"document": "text"}], models={"fast": strong}), BatchResult)
