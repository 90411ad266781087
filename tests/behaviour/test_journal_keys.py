"""What a journal knows calls and outputs by: what re-bills, what does not, and what says why."""

import logging
from typing import Annotated, Any

import pytest
import trio
from pydantic import AfterValidator, BaseModel, Field

from pipeline_engine import (
    Completion,
    Engine,
    MemoryJournal,
    Message,
    Model,
    OutputError,
    Pipeline,
    Retry,
    current_step,
    use,
)
from pipeline_engine.values import OutputRestored
from tests.behaviour.paying import PaidModel

ONCE = Retry(attempts=1, jitter="none")


class Note(BaseModel):
    text: str


async def run(pipeline, inputs, model, journal, **options):
    models = {"fast": model} if any(step.role for step in pipeline.steps) else None
    async with Engine(models=models) as engine:
        return await engine.run(pipeline, inputs, key="document", journal=journal, **options)


def one_step(prompt, output=str, name="title", **options):
    """A pipeline of one llm step whose prompt is made by `prompt`."""
    pipeline = Pipeline("papers", inputs={"document": str})
    step = pipeline.llm("fast", output, name=name, **options)(prompt)
    return pipeline, step


# What re-bills nothing


async def test_the_same_pipeline_again_sends_nothing(virtual_clock):
    """A finished call is never paid for twice."""
    journal, model = MemoryJournal(), PaidModel()
    pipeline, title = one_step(lambda document: f"Title of {document}")

    first = await run(pipeline, {"document": "a text"}, model, journal)
    again = await run(pipeline, {"document": "a text"}, model, journal)

    assert (first[title], again[title]) == ("TITLE OF A TEXT", "TITLE OF A TEXT")
    assert (first.is_restored, again.is_restored) == (False, True)
    assert model.bill == {"Title of a text": 1}


async def test_a_refactored_prompt_function_re_bills_nothing(virtual_clock):
    """Its prompt is what reaches the wire, however it is put together."""
    journal, model = MemoryJournal(), PaidModel()
    before, _ = one_step(lambda document: f"Title of {document}")

    def rewritten(document: str) -> str:
        words = ["Title", "of", document]
        return " ".join(words)

    after, title = one_step(rewritten)
    await run(before, {"document": "a text"}, model, journal)
    result = await run(after, {"document": "a text"}, model, journal)

    assert result[title] == "TITLE OF A TEXT"
    assert model.bill == {"Title of a text": 1}


async def test_a_renamed_step_and_a_renamed_parameter_re_bill_nothing(virtual_clock):
    """Names are for people: none of them is on the wire."""
    journal, model = MemoryJournal(), PaidModel()

    before = Pipeline("papers", inputs={"document": str})

    @before.llm("fast", str)
    def title(document: str) -> str:
        return f"Title of {document}"

    @before.llm("fast", str)
    def summary(title: str) -> str:
        return f"Summary of {title}"

    after = Pipeline("papers", inputs={"document": str})

    @after.llm("fast", str)
    def headline(document: str) -> str:
        return f"Title of {document}"

    @after.llm("fast", str)
    def abstract(head: str = use(headline)) -> str:
        return f"Summary of {head}"

    await run(before, {"document": "a text"}, model, journal)
    result = await run(after, {"document": "a text"}, model, journal)

    assert result[abstract] == "SUMMARY OF TITLE OF A TEXT"
    assert sum(model.bill.values()) == 2


async def test_an_edited_validator_is_applied_to_the_raw_reply_that_was_kept(virtual_clock):
    """The answer was paid for; what is made of it may change for free."""
    journal, model = MemoryJournal(), PaidModel(lambda _prompt: '{"text": "  spaced  "}')
    before, first = one_step(lambda document: f"Note on {document}", Note)

    class Stripped(BaseModel):
        text: Annotated[str, AfterValidator(str.strip)]

    Stripped.__name__ = Stripped.__qualname__ = "Note"
    after, second = one_step(lambda document: f"Note on {document}", Stripped)

    kept = await run(before, {"document": "a text"}, model, journal)
    result = await run(after, {"document": "a text"}, model, journal)
    again = await run(after, {"document": "a text"}, model, journal)

    assert kept[first].text == "  spaced  "
    assert (result[second].text, again[second].text) == ("spaced", "spaced")
    assert model.bill == {"Note on a text": 1}


async def test_a_kept_reply_that_a_new_check_refuses_is_repaired_not_asked_for_again(virtual_clock):
    """Only the repair is paid for: the model is shown the answer that it gave."""
    journal = MemoryJournal()
    model = PaidModel(lambda prompt: "a better one" if "cannot be used" in prompt else "a bad one")
    before, _ = one_step(lambda document: f"Title of {document}")
    after, title = one_step(lambda document: f"Title of {document}", check=lambda output: "bad" not in output)

    await run(before, {"document": "a text"}, model, journal)
    result = await run(after, {"document": "a text"}, model, journal)

    assert result[title] == "a better one"
    assert [prompt[:18] for prompt in model.finished] == ["Title of a text", "This answer cannot"]


async def test_five_equal_samples_stay_five(virtual_clock):
    """Who asks the same question five times wants five answers, and keeps each where it was."""
    journal, count = MemoryJournal(), iter(range(100))
    model = PaidModel(lambda _prompt: f"answer {next(count)}")
    pipeline = Pipeline("samples", inputs={"document": str})

    @pipeline.step
    async def five(document: str) -> list[str]:
        return [document] * 5

    @pipeline.llm("fast", str, each=five)
    def sample(text: str) -> str:
        return f"Say something on {text}"

    async with Engine(models={"fast": model}, capacity=2) as engine:
        with trio.move_on_after(2.5):  # two rounds of two are done
            await engine.run(pipeline, {"document": "a text"}, key="document", journal=journal)
    assert len(model.finished) == 4
    result = await run(pipeline, {"document": "a text"}, model, journal)

    assert sorted(result[sample]) == [f"answer {number}" for number in range(5)]
    assert model.bill == {"Say something on a text": 5}
    assert (await run(pipeline, {"document": "a text"}, model, journal))[sample] == result[sample]


async def test_items_that_move_in_their_list_re_bill_nothing(virtual_clock):
    """A paragraph is put in front of a document: all the others are as they were."""
    journal, model = MemoryJournal(), PaidModel()
    pipeline = Pipeline("chunks", inputs={"parts": list[str]})

    @pipeline.llm("fast", str, each="parts")
    def shouted(part: str) -> str:
        return f"Shout {part}"

    await run(pipeline, {"parts": ["a", "b", "c"]}, model, journal)
    longer = await run(pipeline, {"parts": ["new", "a", "b", "c"]}, model, journal)
    shorter = await run(pipeline, {"parts": ["b", "c"]}, model, journal)

    assert longer[shouted] == ["SHOUT NEW", "SHOUT A", "SHOUT B", "SHOUT C"]
    assert shorter[shouted] == ["SHOUT B", "SHOUT C"]
    assert model.bill == {"Shout a": 1, "Shout b": 1, "Shout c": 1, "Shout new": 1}


async def test_a_sample_more_asks_once_more_and_leaves_the_others_theirs(virtual_clock):
    """A sixth sample must not be a copy of one of the five."""
    journal, count = MemoryJournal(), iter(range(100))
    model = PaidModel(lambda _prompt: f"answer {next(count)}")

    def samples(number):
        pipeline = Pipeline("samples", inputs={"document": str})
        steps = [
            pipeline.llm("fast", str, name=f"sample_{place}")(lambda document: f"Speak on {document}")
            for place in range(number)
        ]
        return pipeline, steps

    two, (first, second) = samples(2)
    before = await run(two, {"document": "a text"}, model, journal)
    three, steps = samples(3)
    after = await run(three, {"document": "a text"}, model, journal)

    assert [after[step] for step in steps] == [before[first], before[second], "answer 2"]


# What runs again


async def test_an_edited_template_runs_again(virtual_clock):
    """Another prompt is another question."""
    journal, model = MemoryJournal(), PaidModel()
    template = "Title of"
    before, _ = one_step(lambda document: f"{template} {document}")
    await run(before, {"document": "a text"}, model, journal)

    edited = "Short title of"
    after, title = one_step(lambda document: f"{edited} {document}")
    result = await run(after, {"document": "a text"}, model, journal)

    assert result[title] == "SHORT TITLE OF A TEXT"
    assert model.bill == {"Title of a text": 1, "Short title of a text": 1}


async def test_a_model_bound_anew_runs_again(virtual_clock):
    """Who binds a stronger model wants its answers."""
    journal, weak, strong = MemoryJournal(), PaidModel(name="paid:weak"), PaidModel(str.lower, name="paid:strong")
    pipeline, title = one_step(lambda document: f"Title of {document}")

    await run(pipeline, {"document": "A text"}, weak, journal)
    result = await run(pipeline, {"document": "A text"}, strong, journal)

    assert result[title] == "title of a text"
    assert (len(weak.finished), len(strong.finished)) == (1, 1)


async def test_another_schema_runs_again(virtual_clock):
    """The schema is a part of what the model is asked."""
    journal, model = MemoryJournal(), PaidModel(lambda _prompt: '{"text": "a", "score": 1}')
    before, _ = one_step(lambda document: f"Note on {document}", Note)

    class Scored(BaseModel):
        text: str
        score: int = Field(ge=0)

    after, note = one_step(lambda document: f"Note on {document}", Scored)
    await run(before, {"document": "a text"}, model, journal)
    result = await run(after, {"document": "a text"}, model, journal)

    assert result[note].score == 1
    assert model.bill == {"Note on a text": 2}


async def test_a_changed_function_runs_again_and_an_equal_output_ends_the_rerun_there(virtual_clock):
    """A change that changes nothing costs nothing further down."""
    journal, model = MemoryJournal(), PaidModel()

    def with_cleaning(clean):
        pipeline = Pipeline("papers", inputs={"document": str})
        cleaned = pipeline.step(name="cleaned")(clean)

        @pipeline.llm("fast", str)
        def title(text: str = use(cleaned)) -> str:
            return f"Title of {text}"

        return pipeline, title

    seen = []

    def strip(document: str) -> str:
        seen.append("strip")
        return document.strip()

    def split(document: str) -> str:
        seen.append("split")
        return " ".join(document.split(" ")).strip()

    before, _ = with_cleaning(strip)
    after, title = with_cleaning(split)
    for _ in range(2):
        await run(before, {"document": " a text "}, model, journal)
    for _ in range(2):
        result = await run(after, {"document": " a text "}, model, journal)

    assert result[title] == "TITLE OF A TEXT"
    assert seen == ["strip", "split"]
    assert model.bill == {"Title of a text": 1}


async def test_an_edited_constant_of_a_function_step_runs_it_again(virtual_clock):
    """A threshold beside the function is a part of what the function does."""
    journal = MemoryJournal()

    def above(limit):
        pipeline = Pipeline("counts", inputs={"numbers": list[int]})

        @pipeline.step
        def kept(numbers: list[int]) -> list[int]:
            return [number for number in numbers if number > limit]

        return pipeline, kept

    low, _ = above(1)
    high, kept = above(2)
    await run(low, {"numbers": [1, 2, 3]}, PaidModel(), journal)

    assert (await run(high, {"numbers": [1, 2, 3]}, PaidModel(), journal))[kept] == [3]


async def test_a_version_stands_for_the_source(virtual_clock):
    """Code in other packages cannot be seen; a version says whether it has changed."""
    journal, seen = MemoryJournal(), []

    def versioned(version, body):
        pipeline = Pipeline("versions", inputs={"document": str})
        step = pipeline.step(name="work", version=version)(body)
        return pipeline, step

    def first(document: str) -> str:
        seen.append("first")
        return document

    def second(document: str) -> str:
        seen.append("second")
        return document + "!"

    for version, body in (("1", first), ("1", second), ("2", second)):
        pipeline, step = versioned(version, body)
        result = await run(pipeline, {"document": "a"}, PaidModel(), journal)

    assert seen == ["first", "second"]
    assert result[step] == "a!"


async def test_an_edited_document_is_a_new_version_of_it(virtual_clock):
    """The key names the document; what is in it decides."""
    journal, model = MemoryJournal(), PaidModel()
    pipeline, title = one_step(lambda document: f"Title of {document}")

    await run(pipeline, {"document": "a text"}, model, journal)
    result = await run(pipeline, {"document": "another text"}, model, journal)

    assert result[title] == "TITLE OF ANOTHER TEXT"
    assert model.bill == {"Title of a text": 1, "Title of another text": 1}


# What cannot be known


async def test_a_prompt_that_changes_by_itself_is_found_and_keyed_by_its_inputs(virtual_clock, caplog):
    """The time of day in a prompt would re-bill every document each time; somebody should be told."""
    journal, model, count = MemoryJournal(), PaidModel(lambda _prompt: "a title"), iter(range(100))
    pipeline, title = one_step(lambda document: f"Title of {document}, asked at {next(count)}")

    for _ in range(3):
        async with Engine(models={"fast": model}) as engine:
            result = await engine.run(pipeline, {"document": "a text"}, key="document", journal=journal)
    other = await run(pipeline, {"document": "another text"}, model, journal)

    assert (result[title], other[title]) == ("a title", "a title")
    assert len(model.finished) == 2
    assert "its prompt is not the same when it is rendered twice" in caplog.text


async def test_a_value_that_json_cannot_hold_is_not_reused_and_says_why(virtual_clock, caplog):
    """Prefect dropped such a part from its key, and served wrong results."""
    journal, seen = MemoryJournal(), []
    pipeline = Pipeline("opaque", inputs={"document": str})

    class Handle:
        def __init__(self, text):
            self.text = text

    @pipeline.step
    def opened(document: str) -> Any:
        return Handle(document)

    @pipeline.step
    def read(opened: Any) -> str:
        seen.append(opened.text)
        return opened.text

    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            result = await run(pipeline, {"document": "a"}, PaidModel(), journal)

    assert result[read] == "a"
    assert seen == ["a", "a"]
    assert "step 'opened': its output is not kept in the journal" in caplog.text
    assert "step 'read': its need 'opened' has a value that JSON cannot hold" in caplog.text


async def test_a_tuple_without_a_declared_type_is_not_handed_on_as_a_list(virtual_clock):
    """What comes back from the journal is what went in, or it is made again."""
    journal = MemoryJournal()
    pipeline = Pipeline("pairs", inputs={"document": str})

    @pipeline.step
    def pair(document: str):
        return document, 1

    @pipeline.step
    def kind(pair) -> str:
        return type(pair).__name__

    results = [await run(pipeline, {"document": "a"}, PaidModel(), journal) for _ in range(2)]

    assert [result[pair] for result in results] == [("a", 1), ("a", 1)]
    assert [result[kind] for result in results] == ["tuple", "tuple"]


async def test_the_key_of_a_call_holds_what_reaches_the_wire(virtual_clock):
    """A picture, an earlier turn, a system message: each makes another question."""
    journal, model = MemoryJournal(), PaidModel(lambda _prompt: "a title")
    from pipeline_engine import Image

    def asking(*messages):
        return one_step(lambda document: [*messages, Message("user", document)])

    variants = [
        (),
        (Message("system", "Be short."),),
        (Message("user", Image(b"GIF89a", media_type="image/gif")),),
        (Message("user", Image(b"GIF87a", media_type="image/gif")),),
        (Message("assistant", "Hello."),),
    ]
    for _ in range(2):
        for messages in variants:
            pipeline, _step = asking(*messages)
            await run(pipeline, {"document": "a text"}, model, journal)

    assert len(model.finished) == len(variants)


async def test_timeouts_retries_and_keys_make_no_other_call():
    """They change how a question is asked, not what the answer is."""
    from pipeline_engine.run.binding import ModelPool

    pool = ModelPool(8)
    same = [
        Model("openai:gpt-4o", api_key="one"),
        Model("openai:gpt-4o", api_key="two", timeout=5),
        Model("openai:gpt-4o", api_key="two", extra_headers={"x-trace": "7"}),
    ]
    other = [
        Model("openai:gpt-4o", api_key="one", temperature=0.1),
        Model("openai:gpt-4o", api_key="one", max_tokens=5),
        Model("openai:gpt-4o", api_key="one", seed=1),
        Model("openai:gpt-4o", api_key="one", base_url="http://localhost:1234/v1"),
        Model("openai:gpt-4o-mini", api_key="one"),
    ]

    identities = [pool.take(model).identity for model in (*same, *other)]

    assert len(set(identities[:3])) == 1
    assert len(set(identities)) == 1 + len(other)
    await pool.aclose()


async def test_the_idempotency_key_is_the_same_over_attempts_runs_and_crashes(virtual_clock):
    """A service that is told it can recognise a request that it has served before."""
    journal, keys = MemoryJournal(), []
    pipeline = Pipeline("orders", inputs={"document": str})

    @pipeline.step(retry=Retry(attempts=2, jitter="none"))
    def order(document: str) -> str:
        keys.append(current_step().idempotency_key)
        if len(keys) < 4:
            raise ConnectionError("lost")
        return document

    for _ in range(2):
        await run(pipeline, {"document": "a"}, PaidModel(), journal)

    assert len(keys) == 4
    assert len(set(keys)) == 1


async def test_what_is_taken_from_the_journal_is_told_as_such(virtual_clock):
    """A progress bar that counts restored outputs as calls would lie about the bill."""
    journal, model = MemoryJournal(), PaidModel()
    pipeline = Pipeline("papers", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"Title of {document}"

    @pipeline.llm("fast", str)
    def summary(title: str) -> str:
        return f"Summary of {title}"

    async with Engine(models={"fast": model}) as engine:
        with trio.move_on_after(1.5):
            await engine.run(pipeline, {"document": "a"}, key="document", journal=journal)
    result = await run(pipeline, {"document": "a"}, model, journal)

    restored = [record.step for record in result.records if isinstance(record, OutputRestored)]
    assert restored == ["title"]
    assert (result.usage.input_tokens, result.cost.usd) == (1_000_000, 2.0)
    assert model.bill == {"Title of a": 1, "Summary of TITLE OF A": 1}


async def test_a_truncated_reply_is_kept_and_not_paid_for_twice(virtual_clock):
    """It was billed in full, though it is no answer; the next candidate goes on where it left off."""
    journal = MemoryJournal()
    short = PaidModel(lambda _prompt: Completion("half an ans", finish="length"), name="paid:short")
    long = PaidModel(seconds=5.0, name="paid:long")
    pipeline, title = one_step(lambda document: f"Title of {document}", retry=ONCE)

    async with Engine(models={"fast": [short, long]}) as engine:
        with trio.move_on_after(3.0):
            await engine.run(pipeline, {"document": "a"}, key="document", journal=journal)
    async with Engine(models={"fast": [short, long]}) as engine:
        result = await engine.run(pipeline, {"document": "a"}, key="document", journal=journal)

    assert result.outcome(title).via == "fallback:paid:long"
    assert (len(short.finished), len(long.finished)) == (1, 1)


@pytest.mark.parametrize("repairs", [1, 2])
async def test_repairs_that_were_paid_for_are_not_paid_for_again(virtual_clock, repairs):
    """A conversation goes on from its last answer, not from its first question."""
    journal = MemoryJournal()
    model = PaidModel(lambda prompt: "no" if len(model.finished) <= repairs else "yes")
    pipeline, title = one_step(
        lambda document: f"Title of {document}",
        check=lambda output: output == "yes",
        retry=Retry(attempts=1, repair=3, jitter="none"),
    )

    async with Engine(models={"fast": model}) as engine:
        with trio.move_on_after(repairs + 0.5):
            await engine.run(pipeline, {"document": "a"}, key="document", journal=journal)
    before = len(model.finished)
    result = await run(pipeline, {"document": "a"}, model, journal)

    assert result[title] == "yes"
    assert (before, len(model.finished)) == (repairs, repairs + 2)
    assert not isinstance(result.outcome(title), OutputError)


async def test_unstable_prompts_without_keys_are_not_taken_for_each_other(virtual_clock):
    """With neither a prompt nor inputs to go by, two steps must not be served each other's replies."""
    journal, count = MemoryJournal(), iter(range(100))
    model = PaidModel(lambda prompt: prompt.split()[0])
    pipeline = Pipeline("opaque", inputs={"document": str})

    @pipeline.step
    async def handle(document: str) -> Any:
        return object()

    for name in ("title", "summary"):
        pipeline.llm("fast", str, name=name)(lambda handle, name=name: f"{name} {next(count)}")

    results = [await run(pipeline, {"document": "a"}, model, journal) for _ in range(2)]

    assert [result.outputs["title"] for result in results] == ["title", "title"]
    assert [result.outputs["summary"] for result in results] == ["summary", "summary"]
