"""The pipeline of the README, at exact times."""

import pytest

from pipeline_engine import run_pipeline, run_pipeline_async
from pipeline_engine.providers.scripted import ScriptedModel
from pipelines.document import category, keywords, pipeline, quality, summary, title

ANSWERS = {
    "title": {"text": "On tea"},
    "keywords": {"items": ["tea", "water"]},
    "category": {"label": "how-to"},
    "summary": {"text": "Boil water, then wait."},
    "quality": {"score": 0.9},
}
LATENCY = {"title": 2.0, "keywords": 3.0, "category": 5.0, "summary": 4.0, "quality": 1.0}


def models(**answers):
    model = ScriptedModel({**ANSWERS, **answers}, latency=LATENCY)
    return {"fast": model, "strong": model}


async def test_each_step_starts_the_instant_its_own_needs_are_ready(virtual_clock):
    """A slow category must not hold back the summary: with waves it would start at 5 and end at 9."""
    result = await run_pipeline_async(pipeline, {"document": "Tea."}, models=models())

    assert {span.step: (span.started_at, span.ended_at) for span in result.trace.steps} == {
        "title": (0.0, 2.0),
        "keywords": (0.0, 3.0),
        "category": (0.0, 5.0),
        "summary": (3.0, 7.0),
        "quality": (5.0, 6.0),
    }
    assert result.trace.makespan == 7.0
    assert result.status == "completed"


async def test_outputs_are_typed_values(virtual_clock):
    """What comes out is what the decorators say, not text to be parsed."""
    result = await run_pipeline_async(pipeline, {"document": "Tea."}, models=models())

    assert result[title].text == "On tea"
    assert result[keywords].items == ["tea", "water"]
    assert result[category].label == "how-to"
    assert result[summary].text == "Boil water, then wait."
    assert result[quality].score == 0.9


async def test_without_a_category_the_document_is_of_another_kind(virtual_clock):
    """A category is worth having, but not worth failing for."""
    result = await run_pipeline_async(
        pipeline, {"document": "Tea."}, models=models(category=ValueError("the model is confused"))
    )

    assert result[category].label == "other"
    assert result.status == "completed"


def test_prompts_hold_what_the_steps_before_found():
    """A prompt is plain Python, so it can be looked at without a model."""
    from pipelines.document import Category, Keywords, Title

    asked = summary.render("Tea.", Title(text="On tea"), Keywords(items=["tea", "water"]))
    judged = quality.render("Tea.", Title(text="On tea"), Category(label="how-to"))

    assert asked[0].text == "Summarise “On tea” around tea, water.\n\nTea."
    assert judged[0].text == "From 0 to 1, how well does “On tea” fit this how-to?\n\nTea."


def test_it_runs_offline():
    """Without a key and without a network, on any machine."""
    text = "# Tea\n\nTea is made of leaves. The leaves are boiled in water. Hot water takes the taste of the leaves."
    offline = "offline:extractive"

    result = run_pipeline(pipeline, {"document": text}, models={"fast": offline, "strong": offline})

    assert result.status == "completed"
    assert result[title].text
    assert 0 < len(result[keywords].items) <= 10
    assert all(sentence in text for sentence in result[summary].text.split(". ")[:1])


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_long_document_is_cut_for_the_cheap_steps_only(number):
    """The summary needs all of it; a title does not."""
    document = "x" * 20_000
    asked = (title, keywords, category)[number].render(document)

    assert len(asked[0].text) < 8100
