"""What notebooks show: a drawing or a few tables, of bounded size, and never a script."""

import re

import pytest

from pipeline_engine import Pipeline, Trace, compile_pipeline, run_batch, run_pipeline
from pipeline_engine.report.fragment import style_of_fragments
from pipeline_engine.testing import ScriptedModel, http_error, virtual_time
from tests.report.test_comparing import HOSTILE, Shape


def pipeline_of(text="document"):
    """Two steps, whose pipeline and first input have this name."""
    pipeline = Pipeline(text, inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return document

    @pipeline.step
    async def shouted(title: str) -> str:
        return title.upper()

    return pipeline


def shown(text):
    """Return all that a notebook shows of a pipeline whose texts from outside are this one, in exact times."""
    with virtual_time():
        return shown_in_virtual_time(text)


def shown_in_virtual_time(text):
    pipeline = pipeline_of(text)
    models = [
        {"fast": ScriptedModel({"title": answer}, name=text, latency=1)}
        for answer in (text, http_error(400, message=text))
    ]
    results = [run_pipeline(pipeline, {"document": text}, models=bound, key=text) for bound in models]
    batch = run_batch(pipeline, [{"document": text}], models=models[1])
    plan = compile_pipeline(pipeline)
    values = [pipeline, plan, *results, results[0].trace, results[1].trace, batch, batch.trace, broken(text)]
    return [value._repr_html_() for value in values]


def broken(text):
    pipeline = Pipeline(text, inputs={"document": str})

    @pipeline.step
    def title(documnet: str) -> str:
        return documnet

    return pipeline


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_nothing_to_what_a_notebook_shows(text):
    """A notebook runs what stands in its outputs, with the rights of its owner."""
    for hostile, harmless in zip(shown(text), shown("harmless"), strict=True):
        assert Shape(hostile).found == Shape(harmless).found


def test_no_fragment_runs_a_script_or_loads_anything():
    """It is committed to repositories and opened years later."""
    for html in shown("harmless"):
        assert "<script" not in html
        assert set(re.findall(r"https?://[^\s\"'<>]+", html)) <= {"http://www.w3.org/2000/svg"}
        assert not re.search(r"url\((?!#)", html)
        assert html.startswith('<div class="pipeline-engine"><style>')


def test_its_rules_hold_for_nothing_else_on_the_page():
    """They stand in the middle of somebody's notebook."""
    style = re.sub(r"@media[^{]*\{((?:[^{}]*\{[^{}]*\})*)\}", r"\1", style_of_fragments())
    selectors = [one.strip() for rule in re.findall(r"([^{}]+)\{", style) for one in rule.split(",")]

    assert selectors
    assert [one for one in selectors if not one.startswith(".pipeline-engine")] == []


def test_it_is_dark_where_the_reader_asks_for_it():
    """A white block in a dark notebook blinds."""
    assert "@media screen and (prefers-color-scheme:dark){.pipeline-engine{" in style_of_fragments()


def test_a_pipeline_with_problems_shows_all_of_them():
    """It is shown while it is being written: an exception would say one thing at a time, or nothing."""
    html = broken("document")._repr_html_()

    assert "1 problem" in html
    assert "PE101 step &#x27;title&#x27; needs &#x27;documnet&#x27;" in html


def test_a_pipeline_and_its_plan_show_the_same_drawing():
    """The one is the other, compiled."""
    pipeline = pipeline_of()

    assert pipeline._repr_html_() == compile_pipeline(pipeline)._repr_html_()
    assert "aria-label=" in pipeline._repr_html_()


def test_a_large_pipeline_is_listed_not_drawn():
    """Nobody finds their way in a drawing of a thousand boxes, and each notebook would carry it."""
    pipeline = Pipeline("large", inputs={"document": str})
    for number in range(400):

        @pipeline.step(name=f"step_{number}")
        def step(document: str) -> str:
            return document

    html = pipeline._repr_html_()
    assert "<svg" not in html
    assert "… and 350 more" in html


def test_a_result_shows_outputs_failures_and_where_the_time_went():
    """The three questions after a run."""
    model = ScriptedModel({"title": http_error(400)})
    html = run_pipeline(pipeline_of(), {"document": "x"}, models={"fast": model}, key="a.md")._repr_html_()

    assert re.findall(r"<h3>(.*?)</h3>", html) == ["Outputs", "What failed", "Where the time went"]
    assert "✗ failed" in html
    assert "– skipped" in html
    assert '<svg xmlns="http://www.w3.org/2000/svg" class="pe-waterfall"' in html


def test_a_document_that_was_not_run_has_no_waterfall():
    """There is nothing to draw, and that must not be an error of the notebook."""
    [result] = run_batch(pipeline_of(), [{"wrong": 1}], models={"fast": ScriptedModel()}).sample

    assert "<svg" not in result._repr_html_()
    assert "inputs" in result._repr_html_()


def test_what_is_shown_of_a_batch_stays_small_however_large_it_is():
    """Outputs stand in the notebook's file; a hundred failures with a page of reasons each would, too."""
    pipeline = Pipeline("fails", inputs={"number": int})

    @pipeline.step
    def failing(number: int) -> int:
        raise ValueError("reason " * 400)

    batch = run_batch(pipeline, [{"number": n} for n in range(300)])

    assert len(batch._repr_html_()) < 40_000
    assert "… and 70 more documents" in batch._repr_html_()


def test_a_trace_alone_shows_its_verdict_and_its_waterfall():
    """It is what is looked at most."""
    result = run_pipeline(pipeline_of(), {"document": "x"}, models={"fast": ScriptedModel({"title": "t"})})
    html = Trace.from_records(result.records)._repr_html_()

    assert '<p class="verdict">makespan ' in html
    assert html.count("<svg xmlns") == 1
