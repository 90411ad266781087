"""A step starts the instant its own needs are ready: to the virtual instant, without barriers."""

import pytest
import trio
from pydantic import BaseModel

from pipeline_engine import Engine, Pipeline, Policy, Retry, UnavailableError, use
from pipeline_engine.testing import ScriptedModel

SHOWCASE = {"title": 0.1, "keywords": 0.1, "category": 0.8, "summary": 0.1, "quality": 0.1}


class Category(BaseModel):
    label: str


def document_pipeline(**options):
    """The showcase: title, keywords, category; then summary(title, keywords) and quality(title, category)."""
    pipeline = Pipeline("document", inputs={"document": str}, **options)

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return document

    @pipeline.llm("fast", str)
    def keywords(document: str) -> str:
        return document

    @pipeline.llm("fast", Category, fallback=Category(label="other"))
    def category(document: str) -> str:
        return document

    @pipeline.llm("strong", str)
    def summary(document: str, title: str, keywords: str) -> str:
        return document + title + keywords

    @pipeline.llm("fast", str)
    def quality(document: str, title: str, category: Category) -> str:
        return document + title + category.label

    return pipeline


async def run(pipeline, script=None, latency=SHOWCASE, capacity=64):
    model = ScriptedModel({"*": "text", "category": {"label": "news"}, **(script or {})}, latency=latency)
    async with Engine(models={"fast": model, "strong": model}, capacity=capacity) as engine:
        return await engine.run(pipeline, {"document": "text"})


def starts(result):
    began = result.trace.started_at
    return {span.step: span.started_at - began for span in result.trace.spans}


async def test_summary_starts_when_title_and_keywords_are_done(autojump_clock):
    """A slow category must not hold back the summary: level-by-level engines start it at 0.81 s."""
    result = await run(document_pipeline())
    assert starts(result) == {"title": 0, "keywords": 0, "category": 0, "summary": 0.1, "quality": 0.8}
    assert result.trace.makespan == pytest.approx(0.9, abs=1e-12)


async def test_summary_starts_at_once_while_category_fails_and_backs_off(autojump_clock):
    """A sibling's trouble is not the summary's."""
    down = UnavailableError("is down.", model="scripted:model", kind="server")
    pipeline = document_pipeline(policy=Policy(retry=Retry(attempts=4, jitter="none")))
    result = await run(pipeline, {"category": down})
    assert starts(result)["summary"] == 0.1
    # Four tries of 0.8 s with 1, 2 and 4 s between them; then the fallback value frees quality at once.
    assert starts(result)["quality"] == pytest.approx(4 * 0.8 + 7, abs=1e-9)
    assert result.outcome("category").via == "fallback:value"
    assert result.status == "completed"


async def test_a_line_of_steps_takes_the_sum_of_its_steps_and_nothing_more(autojump_clock):
    """Hand-over between steps must cost no waiting."""
    pipeline = Pipeline("line", inputs={"start": int})

    async def add(number: int) -> int:
        await trio.sleep(1)
        return number + 1

    step = pipeline.step(name="s0")(lambda start: start)
    for number in range(1, 50):

        async def following(before: int = use(step)) -> int:
            return await add(before)

        step = pipeline.step(name=f"s{number}")(following)
    async with Engine(capacity=1) as engine:
        result = await engine.run(pipeline, {"start": 0})
    assert result["s49"] == 49
    assert result.trace["s49"].ended_at - result.trace["s1"].started_at == 49


async def test_with_one_slot_the_longest_remaining_path_goes_first(autojump_clock):
    """Order decides the makespan where slots are scarce: what unlocks the most goes first."""
    result = await run(document_pipeline(), latency=1.0, capacity=1)
    order = sorted((at, step) for step, at in starts(result).items())
    # title and keywords, category: all have two steps to go; among equals the declared order holds.
    assert [step for _, step in order] == ["title", "keywords", "category", "summary", "quality"]


async def test_a_branch_not_taken_frees_the_join_at_once(autojump_clock):
    """A join must not wait for a branch that will never come."""
    pipeline = Pipeline("branches", inputs={"text": str})

    @pipeline.step
    async def kind(text: str) -> str:
        await trio.sleep(1)
        return "invoice"

    @pipeline.step(when=lambda kind: kind == "invoice")
    async def invoice(text: str) -> str:
        await trio.sleep(1)
        return "an invoice"

    @pipeline.step(when=lambda kind: kind == "complaint")
    async def complaint(text: str, kind: str) -> str:
        await trio.sleep(100)
        return "a complaint"

    @pipeline.step
    async def reply(invoice: str | None = None, complaint: str | None = None) -> str:
        return f"{invoice}, {complaint}"

    async with Engine() as engine:
        result = await engine.run(pipeline, {"text": "x"})
    assert result[reply] == "an invoice, None"
    assert result.status == "completed"
    assert result.trace.makespan == 2
