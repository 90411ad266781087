"""Replies for everybody: what `Cache(...)` shares through a journal, over documents, runs and pipelines."""

import pytest

from pipeline_engine import (
    Cache,
    Completion,
    Document,
    Engine,
    MemoryJournal,
    Pipeline,
    Retry,
    UnavailableError,
    run_batch_async,
)
from tests.behaviour.paying import PaidModel

DOWN = UnavailableError("broke down.", model="paid:model", kind="server", status=500)
ONCE = Retry(attempts=1, jitter="none")


def asking(name, cache, **options):
    pipeline = Pipeline(name, inputs={"document": str})

    @pipeline.llm("fast", str, cache=cache, **options)
    def title(document: str) -> str:
        return "The same for all"

    return pipeline, title


async def run_both(cache, journal, model, names=("first", "second"), **options):
    """Run two pipelines that ask the same, one after the other, on two documents."""
    values = []
    for name in names:
        pipeline, title = asking(name, cache, **options)
        async with Engine(models={"fast": model}) as engine:
            result = await engine.run(pipeline, {"document": name}, journal=journal)
        values.append(result.outputs.get(title.name))
    return values


async def test_an_equal_call_of_another_pipeline_and_run_is_served_from_the_cache(virtual_clock):
    """The same question need not be paid for by everybody who asks it."""
    model = PaidModel()

    values = await run_both(Cache(), MemoryJournal(), model)

    assert values == ["THE SAME FOR ALL"] * 2
    assert len(model.finished) == 1


async def test_without_a_cache_documents_share_nothing(virtual_clock):
    """To share is a decision: two documents may want two samples."""
    model = PaidModel()

    await run_both(None, MemoryJournal(), model)

    assert len(model.finished) == 2


async def test_namespaces_share_nothing(virtual_clock):
    """A tenant must never learn what another one has asked."""
    journal, model = MemoryJournal(), PaidModel()

    await run_both(Cache("tenant-1"), journal, model)
    await run_both(Cache("tenant-2"), journal, model, ("third", "fourth"))

    assert len(model.finished) == 2


async def test_what_a_cached_reply_saves_is_not_billed(virtual_clock):
    """The report must not count a call that was not made."""
    journal, model = MemoryJournal(), PaidModel()
    results = []
    for name in ("first", "second"):
        pipeline, _ = asking(name, Cache())
        async with Engine(models={"fast": model}) as engine:
            results.append(await engine.run(pipeline, {"document": "a"}, journal=journal))

    assert [result.cost.usd for result in results] == [2.0, 0.0]
    assert results[1].usage.input_tokens is None


@pytest.mark.parametrize(
    ("answer", "options"),
    [
        (Completion("half a", finish="length"), {"fallback": "unknown"}),
        (DOWN, {"fallback": "unknown"}),
        (Completion("", finish="refusal", refusal="I will not"), {"fallback": "unknown"}),
    ],
    ids=["truncated", "fallback", "refused"],
)
async def test_only_validated_complete_outputs_of_the_steps_own_are_shared(virtual_clock, answer, options):
    """What was a bad answer for one would be one for all."""
    model = PaidModel(lambda _prompt: answer)

    await run_both(Cache(), MemoryJournal(), model, retry=ONCE, **options)

    assert len(model.sent) == 2


async def test_a_repaired_answer_is_what_is_shared(virtual_clock):
    """Who asks the same question gets the answer that was accepted, not the one that was refused."""
    model = PaidModel(lambda prompt: "yes" if "cannot be used" in prompt else "no")

    values = await run_both(Cache(), MemoryJournal(), model, check=lambda output: output == "yes")

    assert values == ["yes", "yes"]
    assert len(model.finished) == 2


async def test_equal_calls_of_one_document_stay_apart_and_are_each_shared(virtual_clock):
    """Five samples stay five, whoever has them from whom."""
    journal, count = MemoryJournal(), iter(range(100))
    model = PaidModel(lambda _prompt: f"answer {next(count)}")
    pipeline = Pipeline("samples", inputs={"document": str})

    @pipeline.step
    async def three(document: str) -> list[str]:
        return ["x"] * 3

    @pipeline.llm("fast", str, each=three, cache=Cache())
    def sample(text: str) -> str:
        return "Say something"

    async with Engine(models={"fast": model}) as engine:
        results = [await engine.run(pipeline, {"document": text}, journal=journal) for text in ("first", "second")]

    assert sorted(results[0][sample]) == ["answer 0", "answer 1", "answer 2"]
    assert results[1][sample] == results[0][sample]


async def test_documents_of_one_batch_share_too(virtual_clock):
    """At once they follow one call; one after the other they find it in the journal."""
    model = PaidModel()
    pipeline, _ = asking("batch", Cache())
    documents = [Document(str(number), {"document": str(number)}) for number in range(10)]

    async with Engine(models={"fast": model}, capacity=2) as engine:
        batch = await run_batch_async(pipeline, documents, journal=MemoryJournal(), engine=engine, max_documents=2)

    assert batch.counts == {"completed": 10}
    assert len(model.finished) == 1
