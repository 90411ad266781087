"""A failure reaches its descendants and nothing else; retries, timeouts, fallbacks and repairs."""

import pytest
from pydantic import BaseModel, Field

from pipeline_engine import (
    Completed,
    Completion,
    Engine,
    Failed,
    Message,
    Model,
    OutputError,
    Pipeline,
    Policy,
    RateLimitError,
    RejectedError,
    Retry,
    Role,
    RunError,
    Skipped,
    StepCodeError,
    StepError,
    StepTimeoutError,
    Stopped,
    Timeout,
    UnavailableError,
)
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import AttemptStarted, RepairAsked


class Score(BaseModel):
    value: int = Field(ge=0, le=10)


DOWN = UnavailableError("answered HTTP 500.", model="scripted:model", kind="server", status=500)
NO = RejectedError("answered HTTP 400.", model="scripted:model", kind="invalid", status=400)
EXACT = Retry(attempts=4, jitter="none")


def one_step(output=str, **options):
    pipeline = Pipeline("one", inputs={"document": str})

    @pipeline.llm("fast", output, **options)
    def ask(document: str) -> str:
        return document

    return pipeline


async def run(pipeline, script, latency=1.0, models=None, **options):
    model = script if isinstance(script, ScriptedModel) else ScriptedModel(script, latency=latency)
    async with Engine(models={"fast": model, **(models or {})}, seed=0) as engine:
        result = await engine.run(pipeline, {"document": "text"}, **options)
        assert (engine.statistics().in_flight, engine.statistics().timers) == (0, 0)
    return result


def attempt_starts(result):
    return [r.at - result.trace.started_at for r in result.records if isinstance(r, AttemptStarted)]


async def test_only_the_descendants_of_a_failed_step_are_skipped(autojump_clock):
    """In two well-known engines one failure loses every finished sibling."""
    pipeline = Pipeline("branches", inputs={"document": str})

    @pipeline.step
    async def broken(document: str) -> str:
        raise ValueError("no luck")

    @pipeline.step
    async def healthy(document: str) -> str:
        return "fine"

    @pipeline.step
    async def after(broken: str, healthy: str) -> str:
        return broken

    @pipeline.step
    async def last(after: str) -> str:
        return after

    @pipeline.step
    async def other(healthy: str) -> str:
        return healthy

    async with Engine() as engine:
        result = await engine.run(pipeline, {"document": "x"}, key="a.txt")
    assert result.status == "partial"
    assert result[other] == "fine"
    assert result.outcome(after) == Skipped("broken", is_by_choice=False)
    assert result.outcome(last) == Skipped("after", is_by_choice=False)
    with pytest.raises(StepError) as caught:
        result[last]
    assert isinstance(caught.value.__cause__, ValueError)
    assert str(caught.value) == (
        "step 'last' of document 'a.txt' was skipped because 'after' has no output: "
        "step 'broken' of document 'a.txt' failed: ValueError: no luck"
    )
    with pytest.raises(RunError) as run_error:
        result.raise_for_failure()
    assert [error.step for error in run_error.value.errors] == ["broken"]


async def test_a_transient_failure_is_tried_again_after_exact_delays(autojump_clock):
    """1, 2 and 4 seconds between four tries of one second each."""
    result = await run(one_step(retry=EXACT), {"ask": DOWN})
    assert attempt_starts(result) == [0, 2, 5, 10]
    assert result.outcome("ask") == Failed(DOWN)
    assert result.status == "failed"


async def test_a_permanent_failure_makes_exactly_one_call(autojump_clock):
    """Retrying a wrong key all night helps nobody."""
    result = await run(one_step(retry=EXACT), {"ask": NO})
    assert attempt_starts(result) == [0]


async def test_a_hint_is_a_minimum_for_our_own_delay(autojump_clock):
    """The provider knows, we guess."""
    limited = RateLimitError("is rate limited.", model="m", kind="rate_limited", status=429, retry_after=17)
    result = await run(one_step(retry=EXACT), {"ask": in_turn(limited, "fine")})
    assert attempt_starts(result) == [0, 18]
    assert result["ask"] == "fine"


async def test_a_refusal_for_rate_spends_no_attempt_but_is_bounded(autojump_clock):
    """Waiting for one's turn is no failure; waiting for ever would be one."""
    limited = RateLimitError("is rate limited.", model="m", kind="rate_limited", status=429, retry_after=1)
    script = {"ask": in_turn(*[limited] * 6, "fine")}
    patient = await run(one_step(retry=Retry(attempts=1, max_throttled=6, jitter="none")), script)
    assert patient["ask"] == "fine"
    script = {"ask": in_turn(*[limited] * 6, "fine")}
    curt = await run(one_step(retry=Retry(attempts=1, max_throttled=5, jitter="none")), script)
    assert curt.outcome("ask") == Failed(limited)


async def test_an_attempt_timeout_ends_the_attempt_and_is_tried_again(autojump_clock):
    """A hung call must not hang the document."""
    slow = {"ask": in_turn(Reply("late", latency=100), Reply("in time", latency=1))}
    result = await run(one_step(retry=EXACT, timeout=10), slow)
    assert result["ask"] == "in time"
    assert attempt_starts(result) == [0, 11]


async def test_a_step_timeout_covers_back_off_and_every_attempt(autojump_clock):
    """A deadline that each retry resets is none. It names itself in the error."""
    pipeline = one_step(retry=Retry(attempts=99, jitter="none"), timeout=Timeout(attempt=10, step=25))
    result = await run(pipeline, {"ask": Reply("late", latency=100)})
    error = result.outcome("ask").error
    assert isinstance(error, StepTimeoutError)
    assert (error.which, error.timeout) == ("step", 25)
    assert result.trace.makespan == 25
    assert str(error) == "step 'ask' ran into its step timeout of 25 s. Raise Timeout(step=…) or use a faster model."


async def test_no_back_off_is_begun_that_would_end_after_the_deadline(autojump_clock):
    """Sleeping past one's own deadline wastes the time that a fallback could have had."""
    pipeline = one_step(retry=EXACT, timeout=Timeout(step=4.5), fallback="fallback")
    result = await run(pipeline, {"ask": DOWN})
    # Tries at 0 and 2; the third would be at 5, so the fallback is taken at 3.
    assert attempt_starts(result) == [0, 2]
    assert result.trace.makespan == 3
    assert result.outcome("ask") == Completed("fallback", via="fallback:value")


async def test_when_the_step_timeout_fires_the_first_plain_value_is_used(autojump_clock):
    """Another model would have no time left; a value needs none."""
    pipeline = one_step(timeout=Timeout(step=5), fallback=(Role("strong"), "plain"))
    result = await run(pipeline, {"ask": Reply("late", latency=50)}, models={"strong": ScriptedModel({"ask": "no"})})
    assert result.outcome("ask") == Completed("plain", via="fallback:value")
    assert result.trace.makespan == 5


async def test_a_runs_timeout_stops_it_and_never_falls_back(autojump_clock):
    """What the caller's patience ends is not the step's failure."""
    result = await run(one_step(fallback="plain"), {"ask": Reply("late", latency=50)}, timeout=7)
    assert result.status == "stopped"
    assert result.outcome("ask") == Stopped("the run's timeout of 7 s")
    assert result.trace.makespan == 7


async def test_candidates_are_tried_in_order_each_with_its_own_attempts(autojump_clock):
    """A chain on the role, then the step's own fallbacks: model, step, value."""
    pipeline = Pipeline("chain", inputs={"document": str})

    @pipeline.step
    async def extractive(document: str) -> str:
        return f"first line of {document}"

    @pipeline.llm("fast", str, retry=Retry(attempts=2, jitter="none"), fallback=(Role("spare"), extractive, "none"))
    def ask(document: str) -> str:
        return document

    first, second, spare = (ScriptedModel({"ask": DOWN}, name=f"scripted:{name}") for name in ("a", "b", "c"))
    result = await run(pipeline, first, models={"fast": [first, second], "spare": spare})
    assert [len(model.requests) for model in (first, second, spare)] == [2, 2, 2]
    assert result.outcome("ask") == Completed("first line of text", via="fallback:extractive")
    assert result.status == "completed"


async def test_the_next_model_of_a_chain_is_named_in_the_outcome(autojump_clock):
    """Who answered matters for quality and for the bill."""
    good = ScriptedModel({"ask": "fine"}, name="scripted:good")
    bad = ScriptedModel({"ask": NO}, name="scripted:bad")
    result = await run(one_step(), bad, models={"fast": [bad, good]})
    assert result.outcome("ask") == Completed("fine", via="fallback:scripted:good")


async def test_a_fallback_step_that_nobody_calls_does_not_run(autojump_clock):
    """A spare tyre is not driven."""
    ran = []
    pipeline = Pipeline("spare", inputs={"document": str})

    @pipeline.step
    async def spare(document: str) -> str:
        ran.append(document)
        return "spare"

    @pipeline.llm("fast", str, fallback=spare)
    def ask(document: str) -> str:
        return document

    result = await run(pipeline, {"ask": "fine"})
    assert ran == []
    assert result.outcome(spare) == Skipped("not called for", is_by_choice=True)
    assert result.status == "completed"


async def test_a_reply_that_does_not_validate_is_asked_again_with_the_reasons(autojump_clock):
    """Most malformed answers are mended by saying what is wrong; it is no retry and no back-off."""
    script = {"ask": in_turn({"value": 11}, "not json at all", {"value": 7})}
    result = await run(one_step(Score, retry=EXACT), script)
    assert result["ask"] == Score(value=7)
    calls = result.calls("ask")
    assert [call.completion.text for call in calls] == ['{"value":11}', '"not json at all"', '{"value":7}']
    assert calls[1].messages == (
        Message("user", "text"),
        Message("assistant", '{"value":11}'),
        Message(
            "user",
            "This answer cannot be used:\n- value: Input should be less than or equal to 10\n"
            "Answer again, complete and corrected.",
        ),
    )
    assert attempt_starts(result) == [0, 1, 2]
    assert sum(isinstance(record, RepairAsked) for record in result.records) == 2


async def test_repairs_are_bounded_and_then_the_fallback_is_taken(autojump_clock):
    """A model that cannot do it must not be paid for ever."""
    result = await run(one_step(Score, retry=Retry(repair=1), fallback=Score(value=0)), {"ask": {"value": 99}})
    assert len(result.calls("ask")) == 2
    assert result.outcome("ask") == Completed(Score(value=0), via="fallback:value")


async def test_a_check_tells_the_model_its_reason(autojump_clock):
    """Rules that a type cannot say are told in words, with the needs at hand."""

    def check(output: str, document: str) -> bool | str:
        return output != document or "Do not repeat the document."

    result = await run(one_step(check=check), {"ask": in_turn("text", "a summary")})
    assert result["ask"] == "a summary"
    assert "- Do not repeat the document." in result.calls("ask")[1].messages[-1].text


async def test_a_reply_cut_at_its_token_cap_is_no_validation_failure(autojump_clock):
    """Asking again would cut it again: the error names max_tokens, unless the step keeps what came."""
    cut = {"ask": Reply("half a sent", finish="length")}
    failed = await run(one_step(), cut)
    error = failed.outcome("ask").error
    assert isinstance(error, OutputError)
    assert error.is_truncated
    assert "max_tokens" in str(error)
    assert len(failed.calls("ask")) == 1
    kept = await run(one_step(truncated="keep"), cut)
    assert kept["ask"] == "half a sent"


@pytest.mark.parametrize("part", ["prompt", "when", "check"])
async def test_a_bug_in_the_pipelines_own_code_is_neither_retried_nor_hidden(autojump_clock, part):
    """A fallback that hides a typo is found by the customer."""

    def bug(*_arguments):
        raise KeyError("typo")

    options = {"fallback": "plain", "retry": EXACT}
    if part == "when":
        options["when"] = lambda document: bug()
    if part == "check":
        options["check"] = lambda output: bug()
    pipeline = Pipeline("bug", inputs={"document": str})

    @pipeline.llm("fast", str, **options)
    def ask(document: str) -> str:
        return bug() if part == "prompt" else document

    result = await run(pipeline, {"ask": "fine"})
    error = result.outcome("ask").error
    assert isinstance(error, StepCodeError)
    assert str(error) == f"the {part} of step 'ask' raised KeyError: 'typo'. Correct the pipeline's code."
    assert isinstance(error.__cause__, KeyError)


async def test_function_steps_have_one_attempt_unless_they_say_more(autojump_clock):
    """The engine cannot know whether a function may be repeated, whatever the pipeline's policy says."""
    pipeline = Pipeline("functions", inputs={"document": str}, policy=Policy(retry=Retry(attempts=5, jitter="none")))
    tries = {"once": 0, "thrice": 0}

    @pipeline.step
    async def once(document: str) -> str:
        tries["once"] += 1
        raise ConnectionError

    @pipeline.step(retry=Retry(attempts=3, jitter="none"))
    async def thrice(document: str) -> str:
        tries["thrice"] += 1
        raise ConnectionError

    async with Engine() as engine:
        await engine.run(pipeline, {"document": "x"})
    assert tries == {"once": 1, "thrice": 3}


async def test_on_retry_is_told_and_its_own_errors_change_nothing(autojump_clock):
    """A callback is for looking on."""
    seen = []

    async def on_retry(attempt, error):
        seen.append((attempt, type(error)))
        raise RuntimeError("the callback's own bug")

    result = await run(
        one_step(retry=Retry(attempts=2, jitter="none", on_retry=on_retry)), {"ask": in_turn(DOWN, "ok")}
    )
    assert seen == [(1, UnavailableError)]
    assert result["ask"] == "ok"


async def test_a_step_that_returns_the_wrong_type_fails_with_one_clear_line(autojump_clock):
    """The consumer would fail later, elsewhere, with a riddle."""
    pipeline = Pipeline("wrong", inputs={"document": str})

    @pipeline.step
    async def number(document: str) -> int:
        return None

    async with Engine() as engine:
        result = await engine.run(pipeline, {"document": "x"})
    assert str(result.outcome(number).error) == (
        "the output of step 'number' is not what was declared: Input should be a valid integer. "
        "It returned None (is a `return` missing?). Return int, or change the annotation."
    )


async def test_a_model_is_any_object_with_complete(autojump_clock):
    """Other clients are wrapped in five lines."""

    class Echo:
        async def complete(self, request):
            return Completion(request.messages[-1].text.upper())

    async with Engine(models={"fast": Echo()}) as engine:
        assert (await engine.run(one_step(), {"document": "text"}))["ask"] == "TEXT"


def test_a_model_value_can_be_a_fallback():
    """The candidate is opened when the pipeline is bound, so a missing key is told before anything runs."""
    from pipeline_engine import PlanError, run_pipeline

    pipeline = one_step(fallback=Model("nobody:knows"))
    with pytest.raises(PlanError, match="PE202"):
        run_pipeline(pipeline, {"document": "x"}, models={"fast": ScriptedModel({"ask": "x"})})
