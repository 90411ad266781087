"""Replies that a model or its provider withholds: paid for, kept in sight, and no answer."""

import pytest
import trio
from pydantic import BaseModel

from pipeline_engine import (
    Completed,
    Completion,
    Cost,
    Delta,
    Engine,
    Failed,
    Pipeline,
    Price,
    RejectedError,
    Restarted,
    Retry,
    Role,
    Usage,
)
from pipeline_engine.testing import Reply, ScriptedModel
from pipeline_engine.values import AttemptFinished, AttemptStarted, RepairAsked, StepFinished

EXACT = Retry(attempts=4, jitter="none", repair=2)
SPENT = Usage(input_tokens=1_000_000, output_tokens=500_000)


class Title(BaseModel):
    text: str


class Withholding:
    """A model of the user's own that gives one completion, whatever is asked."""

    name = "fake:withholding"
    price = Price(2.0, 4.0)

    def __init__(self, *completions):
        self.completions = list(completions)
        self.calls = 0

    async def complete(self, request):
        self.calls += 1
        await trio.sleep(1.0)
        return self.completions.pop(0) if len(self.completions) > 1 else self.completions[0]


def one_step(output=str, **options):
    pipeline = Pipeline("one", inputs={"document": str})

    @pipeline.llm("fast", output, retry=EXACT, **options)
    def ask(document: str) -> str:
        return document

    return pipeline


async def run(pipeline, model, **models):
    async with Engine(models={"fast": model, **models}, seed=0) as engine:
        result = await engine.run(pipeline, {"document": "text"})
        assert (engine.statistics().in_flight, engine.statistics().timers) == (0, 0)
    return result


@pytest.mark.parametrize(
    ("completion", "kind", "message"),
    [
        (
            Completion("", finish="refusal", refusal="I can't help with that."),
            "refusal",
            (
                "model 'fake:withholding' refused to answer: “I can't help with that”. "
                "Give the step a fallback= for documents that this model does not take."
            ),
        ),
        (
            Completion("I can't help with that.", finish="refusal", request_id="req-1"),
            "refusal",
            (
                "model 'fake:withholding' refused to answer. "
                "Give the step a fallback= for documents that this model does not take. (request req-1)"
            ),
        ),
        (
            Completion("", finish="stop", refusal="No."),
            "refusal",
            (
                "model 'fake:withholding' refused to answer: “No”. "
                "Give the step a fallback= for documents that this model does not take."
            ),
        ),
        (
            Completion("Half an ans", finish="filter"),
            "filter",
            (
                "model 'fake:withholding' was stopped by its provider's content filter. "
                "Give the step a fallback= for documents that this model does not take."
            ),
        ),
        (
            Completion("", finish="filter", refusal="Blocked: violence"),
            "filter",
            (
                "model 'fake:withholding' was stopped by its provider's content filter: “Blocked: violence”. "
                "Give the step a fallback= for documents that this model does not take."
            ),
        ),
    ],
)
async def test_a_withheld_reply_fails_the_step_and_says_who_withheld_it(autojump_clock, completion, kind, message):
    """Taken for text, “I can't help with that” becomes the summary of a document."""
    result = await run(one_step(), Withholding(completion))

    error = result.outcome("ask").error
    assert isinstance(error, RejectedError)
    assert (error.kind, error.billed, error.model) == (kind, "yes", "fake:withholding")
    assert error.request_id == completion.request_id
    assert not error.is_transient
    assert str(error) == message
    assert result.status == "failed"


@pytest.mark.parametrize("output", [str, Title])
@pytest.mark.parametrize("finish", ["refusal", "filter"])
async def test_it_is_neither_tried_again_nor_repaired(autojump_clock, output, finish):
    """The same question would be refused again, and paid for again."""
    model = Withholding(Completion("No.", finish=finish))

    result = await run(one_step(output), model)

    assert model.calls == 1
    assert result.trace.makespan == 1.0
    assert not [record for record in result.records if isinstance(record, RepairAsked)]


async def test_it_goes_to_the_next_model_at_once(autojump_clock):
    """Another model has other scruples."""
    other = ScriptedModel({"ask": "fine"}, latency=1.0, name="scripted:other")

    result = await run(one_step(fallback=Role("other")), Withholding(Completion("", finish="refusal")), other=other)

    assert result.outcome("ask") == Completed("fine", via="fallback:scripted:other")
    assert [record.at for record in result.records if isinstance(record, AttemptStarted)] == [0.0, 1.0]


async def test_a_fallback_value_stands_in_for_it(autojump_clock):
    """One document that a model does not take must not end a pipeline."""
    result = await run(one_step(fallback="withheld"), Withholding(Completion("", finish="filter")))
    assert result.outcome("ask") == Completed("withheld", via="fallback:value")
    assert result.status == "completed"


async def test_its_tokens_are_counted_and_paid_for(autojump_clock):
    """The provider bills a refusal like an answer."""
    result = await run(one_step(fallback="none"), Withholding(Completion("No.", finish="refusal", usage=SPENT)))
    assert result.usage == SPENT
    assert result.cost == Cost(usd=4.0)


async def test_the_record_has_the_fault_and_the_reply_stays_in_sight(autojump_clock):
    """Whoever writes to the provider needs the very words, and the request's id."""
    completion = Completion("No.", finish="refusal", refusal="No.", usage=SPENT, request_id="req-1", raw_finish="x")

    result = await run(one_step(), Withholding(completion))

    [record] = [record for record in result.records if isinstance(record, AttemptFinished)]
    error = result.outcome("ask").error
    assert (record.fault.kind, record.fault.is_transient, record.fault.message) == ("refusal", False, str(error))
    assert (record.usage, record.cost) == (SPENT, Cost(usd=4.0))
    [call] = result.calls("ask")
    assert call.completion is completion
    assert call.error == str(error)
    assert call.messages[0].text == "text"
    assert [segment.kind for segment in result.trace["ask"].segments] == ["failed"]


async def test_a_reply_that_is_repaired_into_a_refusal_is_one(autojump_clock):
    """A refusal may come at any time."""
    model = Withholding(Completion("nonsense"), Completion("", finish="refusal"))
    result = await run(one_step(Title), model)
    assert result.outcome("ask").error.kind == "refusal"
    assert model.calls == 2


async def test_a_predicate_may_have_it_tried_again(autojump_clock):
    """`Retry(on=…)` adds what its author knows to be worth it."""
    pipeline = Pipeline("one", inputs={"document": str})
    stubborn = Retry(attempts=3, jitter="none", on=lambda error: getattr(error, "kind", "") == "refusal")
    pipeline.llm("fast", str, name="ask", retry=stubborn)(lambda document: document)
    model = Withholding(Completion("", finish="refusal"), Completion("fine"))
    result = await run(pipeline, model)
    assert result["ask"] == "fine"
    assert model.calls == 2


async def test_a_cut_reply_that_was_also_refused_is_a_refusal(autojump_clock):
    """To raise max_tokens would be the wrong advice."""
    result = await run(one_step(), Withholding(Completion("", finish="length", refusal="I cannot")))
    assert result.outcome("ask").error.kind == "refusal"


async def test_an_item_that_is_withheld_is_one_items_failure(autojump_clock):
    """The others have their answers, and the step its fallback for this one."""
    pipeline = Pipeline("items", inputs={"documents": list[str]})

    @pipeline.llm("fast", str, each="documents", fallback="withheld")
    def ask(document: str) -> str:
        return document

    def answer(request):
        text = request.messages[0].text
        return Reply("No.", finish="refusal") if text == "bad" else text.upper()

    async with Engine(models={"fast": ScriptedModel({"ask": answer})}) as engine:
        result = await engine.run(pipeline, {"documents": ["a", "bad", "b"]})
    assert result["ask"] == ["A", "withheld", "B"]


async def test_a_streamed_reply_that_ends_withheld_restarts_with_the_next_model(autojump_clock):
    """What was shown before the filter struck must go."""
    first = ScriptedModel({"ask": Reply(pieces=[(1.0, "Half ")], finish="filter")})
    other = ScriptedModel({"ask": Reply(pieces=[(1.0, "Whole.")])}, name="scripted:other")
    async with (
        Engine(models={"fast": first, "other": other}) as engine,
        engine.stream(one_step(stream=True, fallback=Role("other")), {"document": "text"}) as events,
    ):
        told = [(trio.current_time(), event) async for event in events]
    assert told == [
        (1.0, Delta("ask", None, "Half ")),
        (1.0, Restarted("ask", None)),
        (2.0, Delta("ask", None, "Whole.")),
        (2.0, StepFinished(2.0, "ask", None, Completed("Whole.", via="fallback:scripted:other"))),
    ]


async def test_what_the_model_said_is_shown_on_one_line(autojump_clock):
    """A refusal is text from outside: it must not write into anybody's terminal."""
    completion = Completion("", finish="refusal", refusal="No.\x1b[31m\nNever. " + "x" * 1000)
    error = (await run(one_step(), Withholding(completion))).outcome("ask")
    assert isinstance(error, Failed)
    assert "\n" not in str(error.error)
    assert "\x1b" not in str(error.error)
    assert len(str(error.error)) < 500
