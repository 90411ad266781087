"""Assertions on timing: they hold where the trace says so, and tell all that is known where it does not."""

import pytest

from pipeline_engine import Pipeline, Retry, run_pipeline
from pipeline_engine.testing import (
    ScriptedModel,
    assert_attempts,
    assert_ended_at,
    assert_no_overlap,
    assert_order,
    assert_overlap,
    assert_started_at,
    assert_waited,
    in_turn,
    rate_limited,
    server_error,
)

pipeline = Pipeline("article", inputs={"document": str, "chunks": list[str]})


@pipeline.llm("fast", str, retry=Retry(base_delay=2, jitter="none"))
def title(document: str) -> str:
    return f"Give this a title: {document}"


@pipeline.llm("fast", str)
def category(document: str) -> str:
    return f"Classify this: {document}"


@pipeline.llm("fast", str, each="chunks")
def notes(chunk: str) -> str:
    return f"Take notes: {chunk}"


@pipeline.llm("fast", str, when=lambda document: not document)
def apology(document: str) -> str:
    return "Apologise."


@pipeline.llm("fast", str)
def summary(document: str, title: str) -> str:
    return f"Summarise “{title}”: {document}"


@pytest.fixture
def result(virtual_clock):
    """A title after one failure, a category meanwhile, notes on three chunks, two at a time, and a summary."""
    script = {"title": in_turn(server_error(), "Tides"), "*": "fine"}
    model = ScriptedModel(script, latency={"title": 0.1, "category": 1, "notes": 3, "summary": 4})
    inputs = {"document": "The sea rises.", "chunks": ["a", "b", "c"]}
    return run_pipeline(pipeline, inputs, models={"fast": model})


def test_what_happened_can_be_asserted(result):
    """One line says what a page of arithmetic on spans would."""
    assert_started_at(result, title, 0)
    assert_attempts(result, title, 2)
    assert_waited(result, title, "backoff", 2)
    assert_waited(result, title, "slot", 0)
    assert_ended_at(result, title, 0.1 + 2 + 0.1)
    assert_started_at(result, summary, 2.2)
    assert_ended_at(result, "summary", 6.2)
    assert_overlap(result, title, category)
    assert_no_overlap(result, title, summary)
    assert_order(result, title, summary)
    assert_order(result, "category", "summary")
    assert_attempts(result.trace, "notes", 3)
    assert_ended_at(result.trace, notes, 3, item=2)


def test_a_step_that_backs_off_does_not_overlap(result):
    """Between its attempts nothing of it runs, though it has not ended."""
    model = ScriptedModel({"title": in_turn(rate_limited(10), "Tides"), "*": "fine"}, latency={"title": 1, "*": 0})
    other = run_pipeline(pipeline, {"document": "…", "chunks": []}, models={"fast": model})

    assert_waited(other, "title", "backoff", 10)
    with pytest.raises(AssertionError, match="steps 'title' and 'summary' never ran at the same time"):
        assert_overlap(other, "title", "summary")


def test_a_failing_assertion_tells_everything(result):
    """Whoever reads it in a log of CI has nothing else."""
    with pytest.raises(AssertionError) as caught:
        assert_started_at(result, summary, 0.2)

    lines = str(caught.value).splitlines()
    assert lines[:3] == [
        "step 'summary' started at 2.2 s, not at 0.2 s",
        "  summary: ready at 2.2 s, started at 2.2 s, completed at 6.2 s, 1 attempt, attempt 4 s",
        "",
    ]
    assert lines[3:] == result.trace.waterfall(100, color=False).splitlines()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: assert_ended_at(r, title, 9), "step 'title' ended at 2.2 s, not at 9 s"),
        (lambda r: assert_attempts(r, title, 1), "step 'title' had 2 attempts, not 1"),
        (lambda r: assert_waited(r, title, "backoff", 1), "step 'title' spent 2 s on 'backoff', not 1 s"),
        (
            lambda r: assert_no_overlap(r, title, category),
            "steps 'title' and 'category' ran at the same time for 0.1 s",
        ),
        (lambda r: assert_order(r, category, title), "step 'title' started before step 'category' had ended"),
        (lambda r: assert_order(r, title, apology), "step 'apology' did not start"),
        (lambda r: assert_started_at(r, apology, 0), "step 'apology' did not start, not at 0 s"),
        (lambda r: assert_ended_at(r, notes, 3, item=9), "step 'notes' has no item 9"),
        (lambda r: assert_ended_at(r, notes, 4, item=1), "step 'notes[1]' ended at 3 s, not at 4 s"),
    ],
)
def test_the_first_line_says_what_is_not_so(result, call, message):
    """The rest is for whoever wants to know why."""
    with pytest.raises(AssertionError) as caught:
        call(result)

    assert str(caught.value).splitlines()[0] == message


def test_a_step_that_does_not_exist_is_a_mistake_in_the_test(result):
    """It must not look as if the pipeline were slow."""
    with pytest.raises(KeyError, match="has no step 'titel'"):
        assert_started_at(result, "titel", 0)


def test_the_tolerance_can_be_widened(result):
    """For runs on a real clock."""
    assert_started_at(result, summary, 2, within=0.25)
    with pytest.raises(AssertionError):
        assert_started_at(result, summary, 2, within=0.15)


def test_a_question_that_cannot_fail_is_refused(result):
    """A misspelled kind was never waited for, so that 0 s would always be right; and one step is always in order."""
    with pytest.raises(ValueError, match="'back-off' is nothing that time goes to"):
        assert_waited(result, title, "back-off", 0)
    with pytest.raises(ValueError, match="an order takes two steps or more"):
        assert_order(result, title)
    with pytest.raises(AssertionError, match="not at nan s"):
        assert_started_at(result, title, float("nan"))
