"""Outputs in one line, and what is remembered of a run."""

import gc
import weakref
from enum import Enum

import pytest
from pydantic import BaseModel

from pipeline_engine import Completed, Failed, Pipeline, Skipped, Stopped, compile_pipeline, run_pipeline
from pipeline_engine.cli.summary import MAX_CELL, Summary, compact, cost_of, outcome_text
from pipeline_engine.declare import Budget
from pipeline_engine.values import AttemptFinished, Cost, HedgeFinished, Usage


class Title(BaseModel):
    text: str


class Score(BaseModel):
    value: float
    reason: str | None


class Mood(Enum):
    GOOD = "good"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Title(text="A\ntitle"), "A title"),
        (Score(value=2 / 3, reason=None), "value=0.667, reason=none"),
        (["a", "b"], "a, b"),
        ([Title(text="a"), Title(text="b")], "a, b"),
        ([], "none"),
        (True, "yes"),
        (None, "none"),
        ({"a": [1, 2]}, '{"a":[1,2]}'),
        (Mood.GOOD, '"good"'),
        (object, "\"<class 'object'>\""),
        ("x" * 1000, "x" * (MAX_CELL - 1) + "…"),
        (range(3), "range(0, 3)"),
    ],
)
def test_an_output_is_shown_on_one_line(value, shown):
    """A table of JSON is no table; of a model with one field the field's name says nothing."""
    assert compact(value).replace('"range(0, 3)"', "range(0, 3)") == shown


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (Completed("a"), "a"),
        (Completed("a", via="fallback:value"), "(fallback) a"),
        (Skipped("when", is_by_choice=True), "–"),
        (Skipped("title", is_by_choice=False), "✗ skipped"),
        (Failed(ValueError("x")), "✗ failed"),
        (Stopped("timeout"), "✗ stopped"),
    ],
)
def test_how_a_step_ended_is_told_in_its_cell(outcome, shown):
    """A branch not taken is no failure, and a fallback is no answer of the model."""
    assert outcome_text(outcome) == shown


def test_results_are_let_go():
    """A run of a million documents needs no more memory than one of a hundred."""
    pipeline = Pipeline("length", inputs={"text": str})

    @pipeline.step
    async def length(text: str) -> int:
        return len(text)

    summary = Summary(compile_pipeline(pipeline))
    results = [run_pipeline(pipeline, {"text": "a" * number}) for number in range(60)]
    references = [weakref.ref(result) for result in results]
    for result in results:
        summary.add(result)
    del result
    results.clear()
    gc.collect()

    assert summary.finished == 60
    assert len(summary.rows) == 50
    assert sum(reference() is not None for reference in references) == 1  # the slowest


@pytest.mark.parametrize(
    ("cost", "usage", "budget", "shown"),
    [
        (Cost(), Usage(), None, ""),
        (Cost(), Usage(900, 20), None, "900 tokens in, 20 out"),
        (Cost(0.5), Usage(900, 20), None, "$0.5000 · 900 tokens in, 20 out"),
        (Cost(), Usage(), Budget(usd=5), "$0.00 of $5.00"),
        (Cost(0.12), Usage(900, 20), Budget(usd=5), "$0.12 of $5.00 · 900 tokens in, 20 out"),
        (Cost(0.12), Usage(900, 20), Budget(tokens=2000), "$0.1200 · 920 of 2,000 tokens"),
        (Cost(0.0004), Usage(900, 20), Budget(usd=0.05, tokens=1e6), "$0.0004 of $0.050 · 920 of 1.0 M tokens"),
        (Cost(unpriced_calls=2), Usage(), None, "2 calls of unknown price"),
    ],
)
def test_the_spend_stands_beside_what_may_be_spent(cost, usage, budget, shown):
    """Twelve cents are much of a budget of fifteen and nothing of one of fifty dollars."""
    pipeline = Pipeline("one", inputs={"text": str})

    @pipeline.step
    def shouted(text: str) -> str:
        return text.upper()

    summary = Summary(compile_pipeline(pipeline), budget, usage=usage, cost=cost)

    assert summary.spent == shown


def test_lost_calls_count_into_the_spend():
    """A call that was sent beside a slow one is on the bill, too, if its reply is not used."""
    pipeline = Pipeline("length", inputs={"text": str})

    @pipeline.step
    async def length(text: str) -> int:
        return len(text)

    result = run_pipeline(pipeline, {"text": "a"})
    result._records = (
        *result.records,
        HedgeFinished(1.0, "length", None, 1, "openai:a", False, Cost(0.5)),
        HedgeFinished(1.0, "length", None, 1, "openai:a", False, None),
        AttemptFinished(1.0, "length", None, 1, None, cost=Cost(0.25)),
    )

    assert cost_of(result) == Cost(0.75)
