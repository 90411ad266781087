"""What a run gives back: outputs, outcomes, calls, errors and JSON."""

import json
from typing import Literal

import pytest
import trio
from pydantic import BaseModel, Field

from pipeline_engine import (
    Completed,
    Drop,
    Dropped,
    Failed,
    InputError,
    Message,
    Pipeline,
    RejectedError,
    Retry,
    RunError,
    Skipped,
    StepError,
    Stopped,
    UnavailableError,
    Usage,
    iter_batch,
    run_batch,
    run_pipeline,
    run_pipeline_async,
)
from pipeline_engine.testing import Reply, ScriptedModel, in_turn

DOWN = UnavailableError("answered HTTP 500.", model="scripted:model", kind="server", status=500)


class Score(BaseModel):
    value: int = Field(ge=0, le=10)


def family():
    """Steps that end in every way: good, bad, after (skipped because of it), unwanted and unwanted_too by choice."""
    pipeline = Pipeline("family", inputs={"number": int})

    @pipeline.step
    async def good(number: int) -> int:
        return number + 1

    @pipeline.step
    async def bad(number: int) -> int:
        raise ValueError("no luck")

    @pipeline.step
    async def after(bad: int, good: int) -> int:
        return bad + good

    @pipeline.step
    async def last(after: int) -> int:
        return after

    @pipeline.step(when=lambda number: number < 0)
    async def unwanted(number: int) -> int:
        return number

    @pipeline.step
    async def unwanted_too(unwanted: int) -> int:
        return unwanted

    return pipeline, (good, bad, after, last, unwanted, unwanted_too)


@pytest.fixture
def result():
    pipeline, _ = family()
    return run_pipeline(pipeline, {"number": 1}, key="a.txt")


def value_pipeline(value):
    """A pipeline whose one step returns `value`, unchecked."""
    pipeline = Pipeline("values", inputs={"number": int})

    @pipeline.step
    async def step(number: int):
        return value

    return pipeline


# Reading outputs


def test_an_output_is_read_by_step_and_by_name():
    """The step is typed, the name is for those who have only that."""
    pipeline, (good, *_) = family()
    result = run_pipeline(pipeline, {"number": 1})

    assert result[good] == result["good"] == 2


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            "godo",
            (
                "pipeline 'family' has no step 'godo'. "
                "Its steps are 'after', 'bad', 'good', 'last', 'unwanted' and 'unwanted_too'."
            ),
        ),
        ("number", "'number' is an input of pipeline 'family', not a step."),
    ],
)
@pytest.mark.parametrize("read", ["__getitem__", "outcome", "items", "calls"])
def test_an_unknown_name_is_told_with_what_there_is(result, asked, message, read):
    """A typo is the commonest reason; the names are the answer."""
    with pytest.raises(KeyError) as caught:
        getattr(result, read)(asked)
    assert caught.value.args == (message,)


def test_a_step_of_another_pipeline_is_refused_also_with_the_same_name(result):
    """Two pipelines may have a title each; handing out the wrong one would be silent."""
    _, (good, *_) = family()
    stranger = Pipeline("other", inputs={"x": int}).step(name="stranger")(lambda x: x)

    with pytest.raises(KeyError) as caught:
        result[good]
    assert caught.value.args == ("step 'good' was declared in another pipeline than 'family'.",)
    with pytest.raises(KeyError, match="pipeline 'family' has no step 'stranger'"):
        result[stranger]


def test_reading_a_failed_step_raises_with_its_cause(result):
    """The traceback of the original error is what one debugs with."""
    with pytest.raises(StepError) as caught:
        result["bad"]

    assert str(caught.value) == "step 'bad' of document 'a.txt' failed: ValueError: no luck"
    assert isinstance(caught.value.__cause__, ValueError)
    assert (caught.value.step, caught.value.document, caught.value.failed_step) == ("bad", "a.txt", "bad")


def test_reading_a_step_skipped_by_a_failure_names_the_step_that_failed(result):
    """The reader of the last line of a long pipeline must not search for its first failure."""
    with pytest.raises(StepError) as caught:
        result["last"]

    assert str(caught.value) == (
        "step 'last' of document 'a.txt' was skipped because 'after' has no output: "
        "step 'bad' of document 'a.txt' failed: ValueError: no luck"
    )
    assert isinstance(caught.value.__cause__, ValueError)
    assert (caught.value.step, caught.value.failed_step) == ("last", "bad")


def test_reading_a_step_skipped_by_choice_says_whose_choice(result):
    """It is no failure, and the message must not look like one."""
    with pytest.raises(StepError) as first:
        result["unwanted"]
    with pytest.raises(StepError) as second:
        result["unwanted_too"]

    assert str(first.value) == (
        "step 'unwanted' of document 'a.txt' was skipped by choice: its condition was false. "
        "Ask for its outcome() first."
    )
    assert str(second.value) == (
        "step 'unwanted_too' of document 'a.txt' was skipped by choice: 'unwanted' was skipped. "
        "Ask for its outcome() first."
    )
    assert first.value.__cause__ is None


def test_reading_a_spare_step_that_nobody_called_for_says_so():
    """A fallback that was not needed is good news."""
    pipeline = Pipeline("spare", inputs={"number": int})

    @pipeline.step
    async def spare(number: int) -> int:
        return 0

    @pipeline.step(fallback=spare)
    async def first(number: int) -> int:
        return number

    result = run_pipeline(pipeline, {"number": 1}, key="a")
    with pytest.raises(StepError) as caught:
        result[spare]
    assert str(caught.value) == (
        "step 'spare' of document 'a' was skipped by choice: no step called for it. Ask for its outcome() first."
    )


async def test_reading_a_stopped_step_says_what_stopped_it(autojump_clock):
    """Running the document again is the way on."""
    pipeline = Pipeline("slow", inputs={"number": int})

    @pipeline.step
    async def slow(number: int) -> int:
        await trio.sleep(60)
        return number

    result = await run_pipeline_async(pipeline, {"number": 1}, key="a", timeout=2.5)

    with pytest.raises(StepError) as caught:
        result[slow]
    assert str(caught.value) == (
        "step 'slow' of document 'a' was stopped: the run's timeout of 2.5 s. Run the document again to finish it."
    )
    with pytest.raises(RunError) as run_error:
        result.raise_for_failure()
    assert [error.step for error in run_error.value.errors] == ["slow"]


def test_the_number_of_attempts_stands_in_the_error():
    """One try or four: the reader decides differently."""
    pipeline = Pipeline("ask", inputs={"number": int})

    @pipeline.llm("fast", str, retry=Retry(attempts=3, base_delay=0, jitter="none"))
    def answer(number: int) -> str:
        return str(number)

    result = run_pipeline(pipeline, {"number": 1}, key="a", models={"fast": ScriptedModel({"answer": DOWN})})

    with pytest.raises(StepError) as caught:
        result[answer]
    assert str(caught.value) == (
        "step 'answer' of document 'a' failed after 3 attempts: model 'scripted:model' answered HTTP 500."
    )


# Failures of the whole run


def test_raise_for_failure_holds_every_failure_and_no_consequence():
    """All failures at once, but a skipped step is none of its own."""
    pipeline = Pipeline("two", inputs={"number": int})

    @pipeline.step
    async def one(number: int) -> int:
        raise ValueError("first")

    @pipeline.step
    async def two(number: int) -> int:
        raise KeyError("second")

    @pipeline.step
    async def after(one: int, two: int) -> int:
        return one

    result = run_pipeline(pipeline, {"number": 1}, key="a")

    with pytest.raises(RunError) as caught:
        result.raise_for_failure()
    assert str(caught.value) == (
        "the run of document 'a' has 2 failed steps:\n"
        "  step 'one' of document 'a' failed: ValueError: first\n"
        "  step 'two' of document 'a' failed: KeyError: 'second'"
    )
    assert [type(error.__cause__) for error in caught.value.errors] == [ValueError, KeyError]
    assert isinstance(caught.value.__cause__, ValueError)
    assert result.reason == "step 'one' of document 'a' failed: ValueError: first (and 1 more)"


def test_raise_for_failure_does_nothing_to_a_run_without_one():
    """So that it can stand after every run."""
    result = run_pipeline(value_pipeline(1), {"number": 1})

    assert result.raise_for_failure() is None
    assert (result.reason, result.errors) == ("", ())


def test_a_document_that_was_not_run_raises_its_own_error():
    """Its steps did not fail: they never had a chance."""
    with iter_batch(value_pipeline(1), [{"nmber": 1}]) as results:
        result = next(results)

    assert result.status == "failed"
    assert result.outcome("step") == Skipped("inputs", is_by_choice=False)
    with pytest.raises(InputError) as whole:
        result.raise_for_failure()
    with pytest.raises(StepError) as caught:
        result["step"]
    assert caught.value.__cause__ is whole.value
    assert str(caught.value) == f"step 'step' of document {result.document!r} did not run: {whole.value}"
    assert result.to_dict() == {
        "document": result.document,
        "status": "failed",
        "outputs": {},
        "errors": {"inputs": str(whole.value)},
    }


# Outcomes, items, calls


def test_an_outcome_tells_how_a_step_ended_without_raising(result):
    """For those who look before they read."""
    ended = {name: result.outcome(name) for name in ("good", "after", "last", "unwanted", "unwanted_too")}

    assert ended == {
        "good": Completed(2),
        "after": Skipped("bad", is_by_choice=False),
        "last": Skipped("after", is_by_choice=False),
        "unwanted": Skipped("when", is_by_choice=True),
        "unwanted_too": Skipped("unwanted", is_by_choice=True),
    }
    match result.outcome("bad"):
        case Failed(error):
            assert isinstance(error, ValueError)


def test_items_tell_how_each_one_ended_while_the_list_lacks_the_lost():
    """Which of five hundred chunks is missing must be answerable."""
    pipeline = Pipeline("mapped", inputs={"numbers": list[int]})

    @pipeline.step(each="numbers", on_error=Drop(at_most=1))
    async def inverse(number: int) -> float:
        return 1 / number

    result = run_pipeline(pipeline, {"numbers": [1, 0, 4]})

    assert result[inverse] == [1.0, 0.25]
    first, second, third = result.items(inverse)
    assert (first, third) == (Completed(1.0), Completed(0.25))
    assert isinstance(second, Dropped)
    assert isinstance(second.error, ZeroDivisionError)


def test_a_step_that_is_not_mapped_has_no_items(result):
    """An empty tuple would look like an empty list."""
    with pytest.raises(ValueError, match=r"^step 'good' is not mapped and has no items\. Ask for its outcome\(\)\.$"):
        result.items("good")


def test_calls_hold_the_exact_messages_and_raw_replies_with_repairs():
    """What was really sent is the first question about every odd answer."""
    pipeline = Pipeline("ask", inputs={"text": str})

    @pipeline.llm("fast", Score)
    def score(text: str) -> str:
        """You are strict."""
        return f"Score this: {text}"

    model = ScriptedModel({"score": in_turn({"value": 11}, '{"value": 7}  ')})
    result = run_pipeline(pipeline, {"text": "hi"}, models={"fast": model})

    first, second = result.calls(score)
    asked = (Message("system", "You are strict."), Message("user", "Score this: hi"))
    assert (first.model, first.messages, first.completion.text) == ("scripted:model", asked, '{"value":11}')
    assert second.messages == (
        *asked,
        Message("assistant", '{"value":11}'),
        Message(
            "user",
            "This answer cannot be used:\n- value: Input should be less than or equal to 10\n"
            "Answer again, complete and corrected.",
        ),
    )
    assert (second.completion.text, second.error) == ('{"value": 7}  ', None)
    assert result[score] == Score(value=7)
    assert [request.messages for request in model.requests] == [first.messages, second.messages]


def test_a_call_without_a_reply_says_why():
    """A refused call was sent, too."""
    refused = RejectedError("answered HTTP 401.", model="scripted:model", kind="auth", status=401)
    pipeline = Pipeline("ask", inputs={"text": str})

    @pipeline.llm("fast", str)
    def answer(text: str) -> str:
        return text

    result = run_pipeline(pipeline, {"text": "hi"}, models={"fast": ScriptedModel({"answer": refused})})

    (call,) = result.calls(answer)
    assert (call.messages, call.completion) == ((Message("user", "hi"),), None)
    assert call.error == "model 'scripted:model' answered HTTP 401."


def test_usage_is_the_sum_over_all_calls_repairs_and_failures_of_validation_included():
    """The bill counts what was refused afterwards, too."""
    pipeline = Pipeline("ask", inputs={"text": str})

    @pipeline.llm("fast", Score)
    def score(text: str) -> str:
        return text

    @pipeline.llm("fast", str)
    def other(text: str) -> str:
        return text

    script = {
        "score": in_turn(Reply({"value": 99}, usage=Usage(10, 5)), Reply({"value": 1}, usage=Usage(20, 5))),
        "other": Reply("x", usage=Usage(input_tokens=100)),
    }
    result = run_pipeline(pipeline, {"text": "hi"}, models={"fast": ScriptedModel(script)})

    assert result.usage == Usage(130, 10)


def test_an_output_that_a_fallback_gave_says_so():
    """Quality differs by who answered."""
    pipeline = Pipeline("ask", inputs={"number": int})

    @pipeline.step(fallback=-1)
    async def risky(number: int) -> int:
        raise ValueError

    result = run_pipeline(pipeline, {"number": 1})

    assert (result[risky], result.status) == (-1, "completed")
    assert result.outcome(risky) == Completed(-1, via="fallback:value")


# Status


def ends(**how):
    """A pipeline of one step for each keyword, each a leaf that ends as it says."""
    pipeline = Pipeline("leaves", inputs={"number": int})
    for name, word in how.items():

        async def leaf(number: int, word: str = word) -> int:
            if word == "failed":
                raise ValueError(word)
            if word == "stopped":
                await trio.sleep(100)
            return number

        def is_wanted(number, word=word):
            return word != "skipped"

        pipeline.step(name=name, when=is_wanted)(leaf)
    return pipeline


@pytest.mark.parametrize(
    ("leaves", "status"),
    [
        (("completed", "completed"), "completed"),
        (("completed", "skipped"), "completed"),
        (("skipped", "skipped"), "completed"),
        (("completed", "failed"), "partial"),
        (("failed", "failed"), "failed"),
        (("skipped", "failed"), "failed"),
        (("completed", "stopped"), "stopped"),
        (("failed", "stopped"), "stopped"),
    ],
)
async def test_the_status_goes_by_the_leaves(autojump_clock, leaves, status):
    """A caller asks for what comes out at the end, not for each step in between."""
    result = await run_pipeline_async(ends(a=leaves[0], b=leaves[1]), {"number": 1}, timeout=10)
    assert result.status == status


def test_a_failure_that_a_fallback_mended_is_no_failure_of_the_run():
    """The leaf has its value, so the document is done."""
    pipeline = Pipeline("mended", inputs={"number": int})

    @pipeline.step(fallback=0)
    async def risky(number: int) -> int:
        raise ValueError

    @pipeline.step
    async def leaf(risky: int) -> int:
        return risky + 1

    result = run_pipeline(pipeline, {"number": 1})

    assert (result[leaf], result.status, result.errors) == (1, "completed", ())


# JSON and repr


class Hostile:
    def __repr__(self):
        return "<hostile>"


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (float("nan"), None),
        ({"a": [float("inf")]}, {"a": [None]}),
        (b"text", "text"),
        (b"\xff\x00", r"b'\xff\x00'"),
        (Hostile(), "<hostile>"),
        ({Hostile(): 1}, {"<hostile>": 1}),
        ({1: {2}}, {"1": [2]}),
        (Score(value=3), {"value": 3}),
        ([Score(value=3), None], [{"value": 3}, None]),
        (2**70, 2**70),
    ],
)
def test_to_dict_is_strict_json_for_values_that_have_a_form(value, written):
    """A line of a file must be readable by other languages: NaN is no JSON."""
    result = run_pipeline(value_pipeline(value), {"number": 1}, key="a")

    text = json.dumps(result.to_dict(), allow_nan=False)

    assert json.loads(text) == {"document": "a", "status": "completed", "outputs": {"step": written}, "errors": {}}


def circle():
    value = []
    value.append(value)
    return value


class Unprintable:
    def __repr__(self):
        raise RuntimeError("no name")


@pytest.mark.parametrize(
    "value", [b"\xff\xfe", "\ud800", circle(), Unprintable()], ids=["bytes", "surrogate", "circle", "unprintable"]
)
def test_a_value_without_a_json_form_does_not_end_a_batch(tmp_path, value):
    """One odd output on line 4,000 must not lose the other documents."""
    out = tmp_path / "out.jsonl"

    batch = run_batch(value_pipeline(value), [{"number": 1}, {"number": 2}], out=out)

    assert batch.counts == {"completed": 2}
    assert [line["status"] for line in batch.results] == ["completed", "completed"]


def test_outputs_and_errors_stand_side_by_side_in_to_dict(result):
    """A partial result is worth keeping, with its reasons."""
    assert result.outputs == {"good": 2}
    assert result.to_dict() == {
        "document": "a.txt",
        "status": "failed",
        "outputs": {"good": 2},
        "errors": {"bad": "step 'bad' of document 'a.txt' failed: ValueError: no luck"},
    }


def test_repr_is_one_line_for_any_key():
    """Keys are file names, and file names hold anything: a key must not forge a terminal's lines or colours."""
    key = "a\n\x1b[31mred\u202e" + "x" * 200

    shown = repr(run_pipeline(value_pipeline(1), {"number": 1}, key=key))

    assert shown.isprintable()
    assert len(shown) < 140
    assert shown.endswith("status='completed', steps={'step': 'completed'})")


def test_typed_outputs_are_validated_values():
    """`Literal`, lists and models come out as what they were declared, whatever the function gave."""
    pipeline = Pipeline("typed", inputs={"number": int})

    @pipeline.step
    async def score(number: int) -> Score:
        return {"value": number}

    @pipeline.step
    async def label(score: Score) -> Literal["high", "low"]:
        return "high" if score.value > 5 else "low"

    result = run_pipeline(pipeline, {"number": 7})

    assert (result[score], result[label]) == (Score(value=7), "high")


async def test_a_stopped_outcome_carries_its_reason(autojump_clock):
    """Whoever resumes wants to know what ended it."""
    result = await run_pipeline_async(ends(only="stopped"), {"number": 1}, timeout=3)
    assert result.outcome("only") == Stopped("the run's timeout of 3 s")
    assert result.reason == "stopped: the run's timeout of 3 s"
