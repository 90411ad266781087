"""A broken pipeline for each problem code, for the page that explains the codes."""

from pydantic import BaseModel

from pipeline_engine import Budget, Drop, Model, Pipeline, PlanError, Timeout, compile_pipeline, run_pipeline, use

__all__ = ["messages"]


class Category(BaseModel):
    label: str


class Opaque: ...


def article(**inputs):
    return Pipeline("article", inputs=inputs or {"document": str})


def two_steps(first=str, needs="title", takes=str):
    pipeline = article()

    @pipeline.step
    def title(document: str) -> first: ...

    def summary(title: takes) -> str: ...

    if needs != "title":

        def summary(titel: takes) -> str: ...

    pipeline.step(summary)
    return pipeline


def cycle():
    pipeline = article()

    @pipeline.step
    def title(document: str, summary: str) -> str: ...

    @pipeline.step
    def summary(title: str) -> str: ...

    return pipeline


def name_taken():
    pipeline = article()
    for _ in range(2):

        @pipeline.step
        def title(document: str) -> str: ...

    return pipeline


def wrong_fallback():
    pipeline = article()

    @pipeline.llm("fast", Category, fallback="other")
    def category(document: str) -> str: ...

    return pipeline


def unused_input():
    pipeline = article(document=str, language=str)

    @pipeline.step
    def title(document: str) -> str: ...

    return pipeline


def mapped_over_text():
    pipeline = article()

    @pipeline.step
    def title(document: str) -> str: ...

    @pipeline.step(each=title)
    def words(word: str) -> str: ...

    return pipeline


def unbound_input():
    inner = Pipeline("headline", inputs={"text": str})

    @inner.step
    def title(text: str) -> str: ...

    pipeline = unused_input()
    pipeline.include(inner, prefix="en")
    return pipeline


def unknown_annotation():
    pipeline = article()

    @pipeline.step
    def title(document: "Dokument") -> str: ...  # noqa: F821 - that is the problem

    return pipeline


def variadic():
    pipeline = article()

    @pipeline.step
    def title(document: str, *rest: str) -> str: ...

    return pipeline


def no_python_name():
    pipeline = article()

    @pipeline.step(name="my-title")
    def title(document: str) -> str: ...

    return pipeline


def mapped_otherwise():
    pipeline = article(passages=list[str])

    @pipeline.step
    def first(passages: list[str]) -> str: ...

    @pipeline.step(each="passages", fallback=first)
    def note(passage: str) -> str: ...

    return pipeline


def foreign_step():
    pipeline = article()

    @pipeline.step
    def summary(document: str, text: str = use(two_steps().steps[0])) -> str: ...

    return pipeline


def no_item():
    pipeline = article(passages=list[str])

    @pipeline.step(each="passages")
    def note() -> str: ...

    return pipeline


def wrong_executor():
    pipeline = article()

    @pipeline.step(executor="process")
    async def title(document: str) -> str: ...

    return pipeline


def unusable_type():
    pipeline = article()

    @pipeline.llm("fast", Opaque)
    def title(document: str) -> str: ...

    return pipeline


def drop_without_each():
    pipeline = article()
    pipeline.step(on_error=Drop(at_most=1))(two_steps().steps[0].function)
    return pipeline


def mapped_inside_mapped():
    inner = Pipeline("notes", inputs={"text": str})

    @inner.step
    def chunks(text: str) -> list[str]: ...

    @inner.step(each=chunks)
    def note(chunk: str) -> str: ...

    pipeline = article(texts=list[str])
    pipeline.include(inner, prefix="all", each="texts")
    return pipeline


def idle_between_nothing():
    pipeline = article()

    @pipeline.llm("fast", str, timeout=Timeout(idle=5))
    def title(document: str) -> str: ...

    return pipeline


def asking():
    pipeline = article()

    @pipeline.llm("fast", str)
    def title(document: str) -> str: ...

    return pipeline


BROKEN = [
    two_steps(needs="titel"),
    cycle(),
    name_taken(),
    two_steps(takes=int),
    wrong_fallback(),
    unused_input(),
    mapped_over_text(),
    unbound_input(),
    unknown_annotation(),
    variadic(),
    no_python_name(),
    mapped_otherwise(),
    foreign_step(),
    no_item(),
    wrong_executor(),
    unusable_type(),
    drop_without_each(),
    mapped_inside_mapped(),
    article(),
    idle_between_nothing(),
]
BINDINGS = [{}, {"fast": "openai:gpt-4o"}, {"fast": "offline:extractive", "strong": "offline:extractive"}]


UNPRICED = Model("openai:my-own", api_key="sk-none", base_url="http://127.0.0.1:9/v1")


def messages():
    """Return what is said of these pipelines: the codes, each with its messages."""
    found = {}
    attempts = [lambda pipeline=pipeline: compile_pipeline(pipeline) for pipeline in BROKEN]
    attempts += [lambda models=models: run_pipeline(asking(), {"document": ""}, models=models) for models in BINDINGS]
    attempts.append(lambda: run_pipeline(asking(), {"document": ""}, models={"fast": UNPRICED}, budget=Budget(usd=1)))
    for attempt in attempts:
        try:
            attempt()
        except PlanError as error:
            for problem in error.problems:
                found.setdefault(problem.code, []).append(problem.message)
    return found
