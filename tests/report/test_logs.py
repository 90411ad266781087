"""Logs: a line for each step, attempt and run that ends, with ids that machines can filter by."""

import json
import logging

import pytest

from pipeline_engine import Engine, JsonFormatter, LogRecords, Pipeline, Retry, UnavailableError, current_step
from pipeline_engine.testing import ScriptedModel, in_turn


@pytest.fixture
def lines():
    """Give a logger and the lines that it was told."""
    logger = logging.Logger("tests.logs", logging.DEBUG)  # noqa: LOG001 - nobody else's: no parent, no handlers
    kept = []
    handler = logging.Handler()
    handler.emit = kept.append
    logger.addHandler(handler)
    return logger, kept


def extra(line):
    standard = set(logging.makeLogRecord({}).__dict__)
    return {name: value for name, value in line.__dict__.items() if name not in standard}


def overloaded(message="is overloaded."):
    return UnavailableError(message, model="openai:gpt-4o-mini", kind="overloaded", status=503)


async def run(logger, *replies, attempts=2, document="text", key="a.txt"):
    pipeline = Pipeline("document", inputs={"document": str})

    @pipeline.llm("fast", str, retry=Retry(attempts=attempts, base_delay=1, jitter="none"))
    def title(document: str) -> str:
        return document

    model = ScriptedModel({"title": in_turn(*replies)}, latency=2.0, name="openai:gpt-4o-mini")
    async with Engine(models={"fast": model}, sinks=[LogRecords(logger)]) as engine:
        return await engine.run(pipeline, {"document": document}, key=key)


async def test_what_ends_is_told_once_with_its_ids(lines, virtual_clock):
    """One filter finds all lines of a document, another all failures of a step."""
    logger, kept = lines

    result = await run(logger, overloaded(), "A title")

    ids = {"run": result.run_id, "document": "a.txt"}
    of_step = {**ids, "step": "title"}
    assert [(line.levelname, line.getMessage(), extra(line)) for line in kept] == [
        (
            "WARNING",
            "attempt 1 of step title failed: overloaded: model 'openai:gpt-4o-mini' is overloaded.",
            {**of_step, "attempt": 1, "model": "openai:gpt-4o-mini", "error_kind": "overloaded", "seconds": 2.0},
        ),
        (
            "DEBUG",
            "attempt 2 of step title succeeded",
            {**of_step, "attempt": 2, "model": "openai:gpt-4o-mini", "seconds": 2.0},
        ),
        ("INFO", "step title completed", {**of_step, "outcome": "completed", "attempts": 2, "seconds": 5.0}),
        ("INFO", "run completed", {**ids, "outcome": "completed", "seconds": 5.0}),
    ]


async def test_a_failure_is_an_error_that_says_why(lines, virtual_clock):
    """Alarms are set on levels."""
    logger, kept = lines

    await run(logger, overloaded(), attempts=1)

    assert [(line.levelname, line.getMessage()) for line in kept if line.levelno >= logging.ERROR] == [
        ("ERROR", "step title failed: UnavailableError: model 'openai:gpt-4o-mini' is overloaded."),
        ("ERROR", "run failed"),
    ]


async def test_an_item_and_its_step_are_told_apart(lines):
    """Both have the step's name."""
    logger, kept = lines
    pipeline = Pipeline("document", inputs={"parts": list[str]})

    @pipeline.step(each="parts")
    def note(part: str) -> str:
        return part

    async with Engine(sinks=[LogRecords(logger)]) as engine:
        await engine.run(pipeline, {"parts": ["a", "b"]})

    told = [(line.getMessage(), getattr(line, "item", None)) for line in kept if line.levelno == logging.INFO]
    assert sorted(told[:2]) == [("step note[0] completed", 0), ("step note[1] completed", 1)]
    assert told[2:] == [("step note completed", None), ("run completed", None)]


async def test_a_level_that_is_off_costs_no_lines(lines):
    """A program that wants failures only gets failures only."""
    logger, kept = lines
    logger.setLevel(logging.WARNING)

    await run(logger, "A title")

    assert kept == []


async def test_prompts_and_replies_are_in_no_line(lines, virtual_clock):
    """Logs are kept longer, and read by more people, than documents."""
    logger, kept = lines

    await run(logger, "canary-reply", document="canary-document")

    assert kept
    assert "canary" not in str([line.__dict__ for line in kept])


async def test_hostile_text_stays_on_its_line(lines, virtual_clock):
    """A line break in a name would forge a line."""
    logger, kept = lines

    await run(logger, overloaded("\x1b[31m\nERROR forged"), attempts=1, key="a\nERROR forged")

    for line in kept:
        assert line.getMessage().isprintable()
        assert line.document.isprintable()


def test_nothing_is_configured_by_itself():
    """A library that adds handlers or sets levels fights with the program that uses it."""
    logger = logging.getLogger("pipeline_engine.runs")

    LogRecords()

    assert (logger.handlers, logger.level, logger.propagate) == ([], logging.NOTSET, True)


# Lines of JSON


def test_a_line_of_json_has_what_came_by_extra_and_the_traceback(lines):
    """Whatever reads logs reads JSON."""
    logger, kept = lines
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("first\nsecond", extra={"step": "title", "cost": object})

    text = JsonFormatter().format(kept[0])

    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["logger"], line["message"]) == ("ERROR", "tests.logs", "first\nsecond")
    assert (line["step"], line["cost"]) == ("title", "<class 'object'>")
    assert line["exception"].startswith("Traceback (most recent call last):")
    assert line["exception"].endswith("ValueError: no")


def test_a_line_of_json_can_be_written_to_any_file(lines):
    """A lone surrogate in a message must not cost the line, or end the program that logs it."""
    logger, kept = lines
    logger.warning("\ud800 \x1b[31m %s", "\u202e")

    text = JsonFormatter().format(kept[0])

    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text)["message"] == "\ud800 \x1b[31m \u202e"


async def test_the_logger_of_a_step_has_the_same_names_for_the_same_ids(lines):
    """What a step's own code logs is found by the filter that finds the step."""
    logger, kept = lines
    pipeline = Pipeline("document", inputs={"document": str})
    found = {}

    @pipeline.step
    def length(document: str) -> int:
        found.update(current_step().logger.extra)
        return len(document)

    async with Engine(sinks=[LogRecords(logger)]) as engine:
        await engine.run(pipeline, {"document": "text"}, key="a.txt")

    attempt = next(line for line in kept if line.levelno == logging.DEBUG)
    assert {name: getattr(attempt, name) for name in found} == found


def test_the_name_of_a_logger_is_refused():
    """Each record of each run would fail, and that would be all that the log tells."""
    with pytest.raises(TypeError, match=r"Write LogRecords\(logging.getLogger\('docs'\)\)"):
        LogRecords("docs")


def test_a_line_of_json_has_the_stack_that_was_asked_for(lines):
    """`stack_info=True` is how code without an exception says where it was."""
    logger, kept = lines
    logger.warning("odd", stack_info=True)

    assert "test_a_line_of_json_has_the_stack" in json.loads(JsonFormatter().format(kept[0]))["stack"]
