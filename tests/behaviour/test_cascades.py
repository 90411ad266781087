"""A cascade asks the cheapest model first, and a stronger one only for what the cheap one could not do."""

import pytest
from pydantic import BaseModel, Field

from pipeline_engine import (
    Completed,
    Drop,
    Dropped,
    Engine,
    Failed,
    Hedge,
    OutputError,
    Pipeline,
    RejectedError,
    Retry,
    Role,
    Skipped,
    StepCodeError,
    UnavailableError,
)
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import AttemptStarted, OutputJudged, RepairAsked, WaitStarted

EXACT = Retry(attempts=3, jitter="none")
DOWN = UnavailableError("is down.", model="scripted:model", kind="server", status=500)
NO = RejectedError("said no.", model="scripted:model", kind="invalid", status=400)


class Score(BaseModel):
    value: int = Field(ge=0, le=10)


def is_good(output):
    return output == "good"


def cascade(roles=("cheap", "strong"), output=str, accept=is_good, **options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm(output=output, cascade=list(roles), accept=accept, name="ask", **options)(lambda document: document)
    return pipeline


def named(name, answer, latency=1.0):
    return ScriptedModel({"*": answer}, name=f"scripted:{name}", latency=latency)


async def run(pipeline, models, inputs=None, **options):
    async with Engine(models=models, seed=1) as engine:
        result = await engine.run(pipeline, inputs or {"document": "text"}, **options)
        assert (engine.statistics().in_flight, engine.statistics().timers) == (0, 0)
    return result


def of(result, kind):
    return [record for record in result.records if isinstance(record, kind)]


def starts(result):
    return [(record.at - result.trace.started_at, record.model) for record in of(result, AttemptStarted)]


def judgements(result):
    return [(record.model, record.is_accepted) for record in of(result, OutputJudged)]


async def test_what_the_first_role_does_well_costs_one_call(autojump_clock):
    """Most documents are easy: that is the whole point."""
    models = {"cheap": named("cheap", "good"), "strong": named("strong", "strong")}
    result = await run(cascade(), models)
    assert result.outcome("ask") == Completed("good")
    assert models["strong"].requests == []
    assert judgements(result) == [("scripted:cheap", True)]


async def test_an_output_that_is_not_accepted_goes_to_the_next_role_at_once(autojump_clock):
    """No repair and no retry are spent: the model did what it can. The last role's output is taken unasked."""
    asked = []
    models = {"cheap": named("cheap", "bad"), "strong": named("strong", "bad, too")}
    pipeline = cascade(accept=lambda output: asked.append(output) or False, retry=EXACT)
    result = await run(pipeline, models)
    assert result.outcome("ask") == Completed("bad, too", via="cascade:scripted:strong")
    assert starts(result) == [(0, "scripted:cheap"), (1, "scripted:strong")]
    assert asked == ["bad"]
    assert judgements(result) == [("scripted:cheap", False)]
    assert (of(result, RepairAsked), of(result, WaitStarted)) == ([], [])
    assert models["strong"].requests[0].messages == models["cheap"].requests[0].messages


async def test_each_role_is_asked_in_order_until_one_is_good_enough(autojump_clock):
    """Three of four: the dearest one is spared."""
    models = {name: named(name, answer) for name, answer in zip("abcd", ["bad", "bad", "good", "x"], strict=True)}
    result = await run(cascade("abcd"), models)
    assert result.outcome("ask") == Completed("good", via="cascade:scripted:c")
    assert judgements(result) == [("scripted:a", False), ("scripted:b", False), ("scripted:c", True)]
    assert models["d"].requests == []


async def test_a_role_that_fails_is_followed_by_the_next_after_its_own_attempts(autojump_clock):
    """A failure is no judgement: nothing was there to be judged."""
    models = {"cheap": named("cheap", DOWN), "strong": named("strong", "fine")}
    result = await run(cascade(retry=EXACT), models)
    assert result.outcome("ask") == Completed("fine", via="cascade:scripted:strong")
    assert starts(result) == [
        (0, "scripted:cheap"),
        (2, "scripted:cheap"),
        (5, "scripted:cheap"),
        (6, "scripted:strong"),
    ]
    assert judgements(result) == []


async def test_a_reply_that_does_not_validate_is_repaired_before_it_is_judged(autojump_clock):
    """`accept` sees only what has the declared type, and what `check` has passed."""
    seen = []
    models = {
        "cheap": named("cheap", in_turn({"value": 99}, {"value": 1})),
        "strong": named("strong", {"value": 9}),
    }
    pipeline = cascade(output=Score, accept=lambda score: seen.append(score) or score.value > 5)
    result = await run(pipeline, models)
    assert result.outcome("ask") == Completed(Score(value=9), via="cascade:scripted:strong")
    assert seen == [Score(value=1)]
    assert len(of(result, RepairAsked)) == 1
    assert len(models["strong"].requests[0].messages) == 1  # the repair's messages were for the other model


async def test_repairs_that_are_spent_lead_to_the_next_role(autojump_clock):
    """A model that cannot keep to the schema is what stronger ones are for."""
    models = {"cheap": named("cheap", {"value": 99}), "strong": named("strong", {"value": 9})}
    result = await run(cascade(output=Score, accept=lambda _score: True, retry=Retry(repair=1)), models)
    assert result.outcome("ask") == Completed(Score(value=9), via="cascade:scripted:strong")
    assert len(models["cheap"].requests) == 2


async def test_several_models_of_a_role_are_one_stage(autojump_clock):
    """The second model of a role stands in when the first one fails; it is not asked to do it better."""
    first, second, strong = named("a", NO), named("b", "bad"), named("strong", "fine")
    result = await run(cascade(), {"cheap": [first, second], "strong": strong})
    assert starts(result) == [(0, "scripted:a"), (1, "scripted:b"), (2, "scripted:strong")]
    assert result.outcome("ask") == Completed("fine", via="cascade:scripted:strong")

    first, second, strong = named("a", "bad"), named("b", "good"), named("strong", "fine")
    result = await run(cascade(), {"cheap": [first, second], "strong": strong})
    assert starts(result) == [(0, "scripted:a"), (1, "scripted:strong")]
    assert second.requests == []


async def test_the_last_stages_second_model_is_taken_unasked_too(autojump_clock):
    """There is nobody after that stage, whichever of its models has answered."""
    result = await run(
        cascade(), {"cheap": named("a", "bad"), "strong": [named("b", NO), named("c", "bad, but the last")]}
    )
    assert result.outcome("ask") == Completed("bad, but the last", via="cascade:scripted:c")


async def test_the_second_model_of_the_first_role_is_a_fallback_by_name(autojump_clock):
    """The stage was the first: `cascade:` would tell a reader that something was not accepted."""
    result = await run(cascade(), {"cheap": [named("a", NO), named("b", "good")], "strong": named("c", "x")})
    assert result.outcome("ask") == Completed("good", via="fallback:scripted:b")


@pytest.mark.parametrize(
    ("accept", "reason"),
    [
        (lambda _output: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda _output: None, "returned a NoneType"),
        (lambda _output: "yes", "returned a str"),
        (lambda _output: 1, "returned a int"),
    ],
)
async def test_an_accept_that_raises_or_gives_no_bool_is_a_bug_of_the_pipeline(autojump_clock, accept, reason):
    """A truthy "no" would accept everything for months."""
    models = {"cheap": named("cheap", "good"), "strong": named("strong", "fine")}
    result = await run(cascade(accept=accept, fallback="value"), models)
    error = result.outcome("ask").error
    assert isinstance(error, StepCodeError)
    assert (error.step, error.part) == ("ask", "accept")
    assert reason in str(error)
    assert models["strong"].requests == []


async def test_an_async_accept_is_refused_and_leaves_no_warning(autojump_clock):
    """A coroutine is always true."""

    async def accept(_output):
        return False

    result = await run(cascade(accept=accept), {"cheap": named("cheap", "good"), "strong": named("strong", "x")})
    assert isinstance(result.outcome("ask").error, StepCodeError)
    assert "is not async" in str(result.outcome("ask").error)


async def test_each_item_goes_through_the_cascade_for_itself(autojump_clock):
    """Nine easy chunks and a hard one: one strong call."""
    pipeline = Pipeline("map", inputs={"texts": list[str]})
    pipeline.llm(
        output=str, cascade=["cheap", "strong"], accept=lambda output: output != "no", each="texts", name="ask"
    )(lambda text: text)
    cheap = named("cheap", lambda request: "no" if request.messages[0].text == "hard" else "easily done")
    strong = named("strong", "done")
    result = await run(pipeline, {"cheap": cheap, "strong": strong}, {"texts": ["a", "hard", "b"]})
    assert result["ask"] == ["easily done", "done", "easily done"]
    assert [item.via for item in result.items("ask")] == [None, "cascade:scripted:strong", None]
    assert len(strong.requests) == 1
    assert {(record.item, record.is_accepted) for record in of(result, OutputJudged)} == {
        (0, True),
        (1, False),
        (2, True),
    }


async def test_a_bug_in_accept_ends_its_item_alone_where_losses_are_allowed(autojump_clock):
    """It is that item's error like any other."""
    pipeline = Pipeline("map", inputs={"texts": list[str]})
    pipeline.llm(
        output=str,
        cascade=["cheap", "strong"],
        accept=lambda output: {"a": True}[output],
        each="texts",
        name="ask",
        on_error=Drop(at_most=1),
    )(lambda text: text)
    cheap = named("cheap", lambda request: request.messages[0].text)
    result = await run(pipeline, {"cheap": cheap, "strong": named("strong", "x")}, {"texts": ["a", "b"]})
    assert result["ask"] == ["a"]
    assert isinstance(result.items("ask")[1], Dropped)
    assert isinstance(result.items("ask")[1].error, StepCodeError)


async def test_when_all_roles_fail_the_fallbacks_follow_in_their_order(autojump_clock):
    """FB: models, steps and values stand in one tuple, after the cascade."""
    pipeline = Pipeline("chain", inputs={"document": str})

    @pipeline.step
    async def spare(document: str) -> str:
        raise ValueError("no luck either")

    pipeline.llm(
        output=str,
        cascade=["cheap", "strong"],
        accept=is_good,
        name="ask",
        retry=None,
        fallback=(Role("other"), spare, "value", "never"),
    )(lambda document: document)
    models = {"cheap": named("a", NO), "strong": named("b", NO), "other": named("c", NO)}
    result = await run(pipeline, models)
    assert [model for _at, model in starts(result)] == ["scripted:a", "scripted:b", "scripted:c", None]
    assert result.outcome("ask") == Completed("value", via="fallback:value")
    assert isinstance(result.outcome("spare"), Failed)
    assert result.status == "completed"


async def test_what_a_fallback_model_gives_is_taken_as_it_is(autojump_clock):
    """It comes after the last role: to refuse it would leave the step with nothing, though an output is there."""
    models = {"cheap": named("a", NO), "strong": named("b", NO), "other": named("c", "not so good")}
    result = await run(cascade(retry=None, fallback=Role("other")), models)
    assert result.outcome("ask") == Completed("not so good", via="fallback:scripted:c")
    assert judgements(result) == []


async def test_when_the_last_role_fails_the_refused_output_does_not_come_back(autojump_clock):
    """What was not good enough is no answer: error and fallback are the last role's."""
    models = {"cheap": named("cheap", "bad"), "strong": named("strong", NO)}
    result = await run(cascade(retry=None), models)
    assert result.outcome("ask") == Failed(NO)
    result = await run(cascade(retry=None, fallback="value"), models)
    assert result.outcome("ask") == Completed("value", via="fallback:value")


async def test_the_model_that_has_answered_is_the_one_that_is_judged(autojump_clock):
    """Acceptance per model is what a user tunes a cascade by."""
    slow = ScriptedModel({"*": Reply("bad", latency=30)}, name="scripted:slow")
    models = {"cheap": [slow, named("quick", "good")], "strong": named("strong", "x")}
    result = await run(cascade(hedge=Hedge(after=2, max_extra=1.0)), models)
    assert result.outcome("ask") == Completed("good", via="hedge:scripted:quick")
    assert judgements(result) == [("scripted:quick", True)]


def declare(**options):
    pipeline = Pipeline("one", inputs={"document": str})
    return pipeline.llm(output=str, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"role": "fast", "cascade": ["a", "b"], "accept": is_good},
        {"cascade": ["a", "b"]},
        {"cascade": ["a"], "accept": is_good},
        {"cascade": [], "accept": is_good},
        {"cascade": "ab", "accept": is_good},
        {"role": "fast", "accept": is_good},
        {},
    ],
)
def test_a_cascade_that_means_nothing_is_refused_when_it_is_declared(options):
    """The message says what goes with what."""
    with pytest.raises(TypeError, match=r"^llm\(…\)(:| takes) "):
        declare(**options)


def test_roles_may_be_given_as_roles_and_are_bound_like_any_other():
    """An unbound role of a cascade is a problem before anything is sent."""
    from pipeline_engine import PlanError, run_pipeline

    pipeline = cascade((Role("cheap"), "strong"))
    with pytest.raises(PlanError, match="PE201 role 'strong' has no model, but is used by"):
        run_pipeline(pipeline, {"document": "x"}, models={"cheap": named("a", "good", 0.0)})
    models = {"cheap": named("a", "bad", 0.0), "strong": named("b", "fine", 0.0)}
    assert run_pipeline(pipeline, {"document": "x"}, models=models)["ask"] == "fine"


# Fallbacks: how far a failure reaches


async def test_a_failure_reaches_its_descendants_and_nothing_else(autojump_clock):
    """FB1, FB2, FB3: every other output is returned, and each skipped step names the first cause."""
    pipeline = Pipeline("dag", inputs={"document": str})
    pipeline.llm("bad", str, name="broken", retry=None)(lambda document: document)
    pipeline.llm("good", str, name="healthy")(lambda document: document)
    pipeline.llm("good", str, name="after")(lambda broken, healthy: broken)
    pipeline.llm("good", str, name="last")(lambda after: after)
    pipeline.llm("good", str, name="other")(lambda healthy: healthy)
    result = await run(pipeline, {"bad": named("bad", NO), "good": named("good", "fine")})
    assert result.outputs == {"healthy": "fine", "other": "fine"}
    assert result.outcome("broken") == Failed(NO)
    assert result.outcome("after") == Skipped("broken", is_by_choice=False)
    assert result.outcome("last") == Skipped("after", is_by_choice=False)
    assert [error.failed_step for error in result.errors] == ["broken"]
    assert result.status == "partial"


async def test_dropped_and_kept_are_all_items(autojump_clock):
    """FB4: what is lost is visible, item by item."""
    pipeline = Pipeline("map", inputs={"texts": list[str]})
    pipeline.llm("fast", str, each="texts", name="ask", retry=None, on_error=Drop(at_most=2))(lambda text: text)
    model = named("m", lambda request: NO if request.messages[0].text in "bd" else request.messages[0].text)
    result = await run(pipeline, {"fast": model}, {"texts": list("abcde")})
    assert result["ask"] == ["a", "c", "e"]
    assert [type(item) for item in result.items("ask")] == [Completed, Dropped, Completed, Dropped, Completed]


async def test_error_text_never_becomes_an_output(autojump_clock):
    """FB: a known way to be billed for garbage is to feed the next step with the message of the last one's error."""
    pipeline = Pipeline("line", inputs={"document": str})
    pipeline.llm("bad", str, name="first", retry=None, fallback=(Role("bad"), "value"))(lambda document: document)
    pipeline.llm("good", str, name="second")(lambda first: first)
    good = named("good", "fine")
    result = await run(pipeline, {"bad": named("bad", NO), "good": good})
    assert [request.messages[0].text for request in good.requests] == ["value"]
    assert result.outcome("first") == Completed("value", via="fallback:value")


async def test_a_truncated_reply_goes_to_the_next_role_without_repair(autojump_clock):
    """To ask the same model again would cut it again."""
    models = {"cheap": named("cheap", Reply("half a", finish="length")), "strong": named("strong", "whole")}
    result = await run(cascade(retry=EXACT), models)
    assert result.outcome("ask") == Completed("whole", via="cascade:scripted:strong")
    assert len(models["cheap"].requests) == 1


async def test_a_cascade_whose_outputs_never_validate_fails_with_the_last_reasons(autojump_clock):
    """The error is what the strongest model could not do."""
    models = {"cheap": named("cheap", {"value": 99}), "strong": named("strong", {"value": -1})}
    result = await run(cascade(output=Score, accept=lambda _score: True, retry=Retry(repair=0)), models)
    error = result.outcome("ask").error
    assert isinstance(error, OutputError)
    assert "greater than or equal to 0" in str(error)
