"""Mapped steps: items start one by one, lists come in order, losses are counted."""

import pytest
import trio

from pipeline_engine import Completed, Drop, Dropped, Engine, Failed, Pipeline, Retry, Skipped, current_step, use


def chunked(width=4):
    pipeline = Pipeline("chunked", inputs={"document": str})

    @pipeline.step
    async def chunks(document: str) -> list[str]:
        await trio.sleep(1)
        return [f"{document}{number}" for number in range(width)]

    return pipeline, chunks


async def run(pipeline, capacity=64, document="c"):
    async with Engine(capacity=capacity) as engine:
        result = await engine.run(pipeline, {"document": document})
        assert engine.statistics().in_flight == 0
    return result


async def test_the_list_is_in_the_order_of_the_source_however_the_items_finish(autojump_clock):
    """A reducer that gets chunks in the order of their luck writes nonsense."""
    pipeline, chunks = chunked()

    @pipeline.step(each=chunks)
    async def notes(chunk: str) -> str:
        await trio.sleep(4 - int(chunk[1:]))
        return chunk.upper()

    @pipeline.step
    async def joined(notes: list[str]) -> str:
        return ", ".join(notes)

    result = await run(pipeline)
    assert result[joined] == "C0, C1, C2, C3"
    assert result.trace.makespan == 5


async def test_item_i_of_a_map_over_a_map_starts_when_item_i_of_its_source_is_done(autojump_clock):
    """No barrier between two maps: the first chunk's second call need not wait for the last chunk's first."""
    pipeline, chunks = chunked()

    @pipeline.step(each=chunks)
    async def notes(chunk: str) -> str:
        await trio.sleep(1 + int(chunk[1:]))
        return chunk

    @pipeline.step(each=notes)
    async def facts(note: str) -> str:
        await trio.sleep(1)
        return note

    result = await run(pipeline)
    began = result.trace.started_at
    assert [span.started_at - began for span in result.trace.items("facts")] == [2, 3, 4, 5]
    assert result.trace.makespan == 6


async def test_an_empty_list_completes_at_once(autojump_clock):
    """An empty document is no failure and no riddle."""
    pipeline, chunks = chunked(width=0)

    @pipeline.step(each=chunks)
    async def notes(chunk: str) -> str:
        return chunk

    @pipeline.step(each=notes)
    async def facts(note: str) -> str:
        return note

    @pipeline.step
    async def count(facts: list[str]) -> int:
        return len(facts)

    result = await run(pipeline)
    assert (result[notes], result[facts], result[count]) == ([], [], 0)
    assert result.trace.makespan == 1


async def test_an_input_can_be_mapped_with_other_needs_beside_the_item(autojump_clock):
    """Pages come in as a list; each prompt also wants the title."""
    pipeline = Pipeline("pages", inputs={"pages": list[str], "title": str})

    @pipeline.step(each="pages")
    async def labelled(page: str, title: str, *, mark: str = "!") -> str:
        return f"{title}:{page}{mark}"

    async with Engine() as engine:
        result = await engine.run(pipeline, {"pages": ["a", "b"], "title": "T"})
    assert result[labelled] == ["T:a!", "T:b!"]


def lossy(width, losses, on_error):
    pipeline, chunks = chunked(width)

    @pipeline.step(each=chunks, on_error=on_error)
    async def notes(chunk: str) -> str:
        await trio.sleep(1 + int(chunk[1:]))
        if int(chunk[1:]) in losses:
            raise ValueError(chunk)
        return chunk

    @pipeline.step
    async def count(notes: list[str]) -> int:
        return len(notes)

    return pipeline, notes, count


async def test_dropped_items_are_missing_from_the_list_and_have_their_outcome(autojump_clock):
    """Dropped and kept together are all items: nothing is lost without a word."""
    pipeline, notes, count = lossy(10, {3}, Drop(at_most=0.1))
    result = await run(pipeline)
    assert result[count] == 9
    items = result.items(notes)
    assert [type(item) for item in items].count(Completed) == 9
    assert isinstance(items[3], Dropped)
    assert str(items[3].error) == "c3"
    assert result.status == "completed"


async def test_one_loss_too_many_fails_the_step_at_once_and_starts_no_further_item(autojump_clock):
    """Paying for the rest of a list that is lost already would be waste; what is on the wire may finish."""
    pipeline, notes, count = lossy(6, {0, 1}, Drop(at_most=1))
    result = await run(pipeline, capacity=3)
    # Items 0 and 1 fail at 2 and 3; item 2 (on the wire until 4) and item 3 (started at 2, until 6) finish.
    assert isinstance(result.outcome(notes), Failed)
    assert result.outcome(count) == Skipped("notes", is_by_choice=False)
    kinds = [type(item) for item in result.items(notes)]
    assert kinds == [Dropped, Failed, Completed, Completed, Skipped, Skipped]
    assert result.trace.makespan == 6


async def test_retries_count_per_item(autojump_clock):
    """One flaky chunk must not use up the patience for the others."""
    pipeline, chunks = chunked(3)

    @pipeline.step(each=chunks, retry=Retry(attempts=3, jitter="none"))
    async def notes(chunk: str) -> str:
        if current_step().attempt < 3:
            raise ConnectionError(chunk)
        return f"{chunk} at attempt {current_step().attempt}, item {current_step().item}"

    result = await run(pipeline)
    assert result[notes] == [f"c{n} at attempt 3, item {n}" for n in range(3)]


async def test_a_whole_pipeline_can_be_mapped(autojump_clock):
    """The translation of one page is a pipeline of its own; its pages run side by side, step by step."""
    page = Pipeline("page", inputs={"text": str, "language": str})

    @page.step
    async def translated(text: str, language: str) -> str:
        await trio.sleep(int(text[1:]) + 1)
        return f"{text} in {language}"

    @page.step
    async def polished(translated: str) -> str:
        await trio.sleep(1)
        return translated + "."

    outer = Pipeline("book", inputs={"document": str, "language": str})

    @outer.step
    async def leaves(document: str) -> list[str]:
        return [f"{document}{number}" for number in range(3)]

    sub = outer.include(page, prefix="de", each=leaves)

    @outer.step
    async def bound(parts: list[str] = use(sub[polished])) -> str:
        return " ".join(parts)

    async with Engine() as engine:
        result = await engine.run(outer, {"document": "p", "language": "German"})
    assert result[bound] == "p0 in German. p1 in German. p2 in German."
    assert result[sub[translated]] == ["p0 in German", "p1 in German", "p2 in German"]
    began = result.trace.started_at
    assert [span.started_at - began for span in result.trace.items("de_polished")] == [1, 2, 3]
    assert result.trace.makespan == 4


@pytest.mark.parametrize("capacity", [1, 3])
async def test_a_mapping_step_holds_no_slot_while_its_items_run(autojump_clock, capacity):
    """Who holds a slot while waiting for others deadlocks with capacity 1."""
    pipeline, chunks = chunked(3)

    @pipeline.step(each=chunks)
    async def notes(chunk: str) -> str:
        await trio.sleep(1)
        return chunk

    result = await run(pipeline, capacity=capacity)
    assert result.trace.makespan == 1 + 3 / capacity
