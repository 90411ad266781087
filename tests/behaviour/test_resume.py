"""A run that was interrupted goes on where it stopped: nothing is lost, and nothing is paid for twice."""

from functools import partial

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_engine import (
    Budget,
    Document,
    Engine,
    Failed,
    JournalWriteError,
    MemoryJournal,
    Pipeline,
    PlanChangedError,
    RejectedError,
    Retry,
    Stopped,
    UnavailableError,
    run_batch_async,
    use,
)
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.values import CallFinished, DocumentEnded, OutputAccepted
from tests.behaviour.journals import SlowJournal
from tests.behaviour.paying import PaidModel

ONCE = Retry(attempts=1, jitter="none")
NO = RejectedError("said no.", model="paid:model", kind="invalid", status=400)
DOWN = UnavailableError("broke down.", model="paid:model", kind="server", status=500)


def papers(**options):
    """A title and three mapped notes at once, then the summary of both."""
    pipeline = Pipeline("papers", inputs={"document": str})

    @pipeline.llm("fast", str, **options)
    def title(document: str) -> str:
        return f"Title of {document}"

    @pipeline.step
    async def parts(document: str) -> list[str]:
        return [f"{document} {number}" for number in range(3)]

    @pipeline.llm("fast", str, each=parts, **options)
    def note(part: str) -> str:
        return f"Note on {part}"

    @pipeline.llm("fast", str, **options)
    def summary(title: str, note: list[str]) -> str:
        return f"Summary of {title} with {', '.join(note)}"

    return pipeline


def latency(prompt):
    """Another one for each prompt, the same in every run."""
    return 1.0 + (sum(map(ord, prompt)) % 7) / 4


def documents(number):
    return [Document(f"paper-{place}", {"document": f"paper {place}"}) for place in range(number)]


# Interruptions


@given(st.lists(st.floats(0.05, 9.0), min_size=1, max_size=4), st.sampled_from([1, 3, 64]))
@settings(max_examples=60)
def test_a_batch_interrupted_at_any_instants_ends_like_one_that_was_not(instants, capacity):
    """Calls that were finished are in the journal, and only those on the wire are sent again."""

    async def main(instants):
        journal, model = MemoryJournal(), PaidModel(seconds=latency)
        async with Engine(models={"fast": model}, capacity=capacity) as engine:
            for instant in instants:
                with trio.move_on_after(instant):
                    await run_batch_async(papers(), documents(4), journal=journal, engine=engine)
            results = {}
            stream = BatchStream(engine, engine.bind(papers()), documents(4), journal=journal)
            async with stream:
                async for result in stream:
                    results[result.document] = result.to_dict()
        return results, model

    def run(instants):
        return trio.run(main, instants, clock=trio.testing.MockClock(autojump_threshold=0))

    undisturbed, _ = run([])
    results, model = run(instants)

    assert results == undisturbed
    assert set(model.bill.values()) == {1}
    assert sum(model.bill.values()) == 4 * 5


async def test_an_interrupted_document_waits_to_be_resumed_and_the_others_are_kept(virtual_clock):
    """Ctrl-C is no failure of a document."""
    journal, model = MemoryJournal(), PaidModel(seconds=latency)
    async with Engine(models={"fast": model}, capacity=2) as engine:
        stream = BatchStream(engine, engine.bind(papers()), documents(6), journal=journal)
        statuses = []
        async with stream:
            async for result in stream:
                statuses.append(result.status)
                stream.drain("somebody pressed Ctrl-C")
        sent = len(model.sent)
        assert stream.stopped_by == "somebody pressed Ctrl-C"
        assert len(model.finished) == sent  # what was on the wire came to its end
        batch = await run_batch_async(papers(), documents(6), journal=journal, engine=engine)

    assert statuses[0] == "completed"
    assert set(statuses[1:]) == {"stopped"}
    assert batch.counts == {"completed": 6}
    assert set(model.bill.values()) == {1}


# When an output counts


async def test_a_step_starts_the_instant_the_outputs_it_needs_are_durable(virtual_clock):
    """Nothing ever depends on what a crash would take back."""
    journal, model = SlowJournal(0.25), PaidModel()
    pipeline = Pipeline("two", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"Title of {document}"

    @pipeline.llm("fast", str)
    def summary(title: str) -> str:
        return f"Summary of {title}"

    async with trio.open_nursery() as nursery, Engine(models={"fast": model}) as engine:
        await nursery.start(journal.serve)
        result = await engine.run(pipeline, {"document": "a"}, journal=journal)
        nursery.cancel_scope.cancel()

    title_span, summary_span = result.trace["title"], result.trace["summary"]
    assert title_span.ended_at - title_span.started_at == 1.25
    assert summary_span.started_at == title_span.ended_at
    assert result.trace.waits["commit"] == 0.5


async def test_a_step_that_waits_for_the_journal_holds_no_slot(virtual_clock):
    """A slow disk must not slow the calls."""
    journal, model = SlowJournal(10.0), PaidModel()
    pipeline = Pipeline("four", inputs={"document": str})
    for name in ("title", "keywords", "category", "language"):
        pipeline.llm("fast", str, name=name)(lambda document, name=name: f"{name} of {document}")

    async with trio.open_nursery() as nursery, Engine(models={"fast": model}, capacity=1) as engine:
        await nursery.start(journal.serve)
        result = await engine.run(pipeline, {"document": "a"}, journal=journal)
        took = trio.current_time()
        nursery.cancel_scope.cancel()

    assert result.status == "completed"
    # The batch, the claim, four calls one after the other, the last one's output, the document.
    assert took == 10 + 10 + 4 + 10 + 10


async def test_a_paid_reply_outlives_the_timeout_that_fires_while_it_is_committed(virtual_clock):
    """What was paid for is kept, whatever ends the run."""
    journal, model = SlowJournal(0.5), PaidModel()
    pipeline = Pipeline("one", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"Title of {document}"

    async with trio.open_nursery() as nursery, Engine(models={"fast": model}) as engine:
        await nursery.start(journal.serve)
        result = await engine.run(pipeline, {"document": "a"}, journal=journal, timeout=1.2)
        nursery.cancel_scope.cancel()

    assert result[title] == "TITLE OF A"
    assert any(isinstance(entry, OutputAccepted) for entry in journal.acknowledged)


async def test_a_repair_waits_until_the_reply_that_it_repairs_is_durable(virtual_clock):
    """Else a crash would have the first question paid for again."""
    journal = SlowJournal(0.5)
    model = PaidModel(lambda prompt: "yes" if "cannot be used" in prompt else "no")
    pipeline = Pipeline("one", inputs={"document": str})

    @pipeline.llm("fast", str, check=lambda output: output == "yes")
    def title(document: str) -> str:
        return f"Title of {document}"

    async with trio.open_nursery() as nursery, Engine(models={"fast": model}) as engine:
        await nursery.start(journal.serve)
        result = await engine.run(pipeline, {"document": "a"}, journal=journal)
        nursery.cancel_scope.cancel()

    span = result.trace["title"]
    assert span.ended_at - span.started_at == 1 + 0.5 + 1 + 0.5


# When the journal fails


@pytest.mark.parametrize("entries", range(2, 24))
async def test_a_journal_that_can_write_no_more_stops_the_run_at_once(virtual_clock, entries):
    """To go on without it would be to pay for what is lost; nothing that it has taken is paid for again."""
    memory = MemoryJournal()
    failing, model = SlowJournal(0.01, memory), PaidModel(seconds=latency)
    failing.fails_after = entries
    async with Engine(models={"fast": model}) as engine:
        async with trio.open_nursery() as nursery:
            await nursery.start(failing.serve)
            with pytest.raises(JournalWriteError, match="no space left"):
                await run_batch_async(papers(), documents(2), journal=failing, engine=engine)
            nursery.cancel_scope.cancel()
        kept = [entry for entry in failing.acknowledged if isinstance(entry, CallFinished)]
        finished = len(model.finished)
        batch = await run_batch_async(papers(), documents(2), journal=memory, engine=engine)

    assert batch.counts == {"completed": 2}
    assert len(model.finished) == finished + 10 - len(kept)


# Failures


def failing(answers):
    """A pipeline whose title fails as long as `answers` says so."""
    pipeline = Pipeline("failing", inputs={"document": str})

    @pipeline.llm("fast", str, retry=ONCE)
    def title(document: str) -> str:
        return f"Title of {document}"

    @pipeline.llm("fast", str, retry=ONCE)
    def keywords(document: str) -> str:
        return f"Keywords of {document}"

    return pipeline, PaidModel(lambda prompt: next(answers) if prompt.startswith("Title") else prompt.upper())


async def test_one_document_run_again_tries_what_has_failed_and_nothing_else(virtual_clock):
    """Failures are never cached, and successes are never paid for twice."""
    journal = MemoryJournal()
    pipeline, model = failing(iter([NO, "a title"]))
    async with Engine(models={"fast": model}) as engine:
        first = await engine.run(pipeline, {"document": "a"}, journal=journal)
        second = await engine.run(pipeline, {"document": "a"}, journal=journal)

    assert (first.status, second.status) == ("partial", "completed")
    assert model.bill == {"Keywords of a": 1, "Title of a": 1}
    assert len(model.sent) == 3


async def test_a_batch_run_again_leaves_failed_documents_alone_unless_they_are_asked_for(virtual_clock):
    """A thousand documents that a model has refused would else be paid for by each resume."""
    journal = MemoryJournal()
    pipeline, model = failing(iter([NO, "a title"]))
    async with Engine(models={"fast": model}) as engine:
        batches = [
            await run_batch_async(pipeline, documents(1), journal=journal, engine=engine, redo=redo)
            for redo in (None, None, "failed", None)
        ]

    assert [batch.counts for batch in batches] == [{"partial": 1}, {"partial": 1}, {"completed": 1}, {"completed": 1}]
    assert batches[1].sample[0].is_restored
    assert str(batches[1].sample[0].outcome("title").error) == str(NO)
    assert model.bill == {"Keywords of paper 0": 1, "Title of paper 0": 1}


async def test_a_failed_reply_that_is_asked_for_again_is_asked_anew(virtual_clock):
    """To be served the same bad answer again would make the retry a joke."""
    journal, answers = MemoryJournal(), iter(["bad", "good"])
    model = PaidModel(lambda _prompt: next(answers))
    pipeline = Pipeline("checked", inputs={"document": str})

    @pipeline.llm("fast", str, check=lambda output: output == "good", retry=Retry(attempts=1, repair=0))
    def title(document: str) -> str:
        return f"Title of {document}"

    async with Engine(models={"fast": model}) as engine:
        first = await engine.run(pipeline, {"document": "a"}, journal=journal)
        second = await engine.run(pipeline, {"document": "a"}, journal=journal)

    assert isinstance(first.outcome(title), Failed)
    assert second[title] == "good"


async def test_fallback_values_are_kept_by_a_resume_and_redone_when_they_are_asked_for(virtual_clock):
    """A default that stood in during an outage is not the answer for ever."""
    journal, answers = MemoryJournal(), iter([DOWN, "an answer"])
    model = PaidModel(lambda _prompt: next(answers))
    pipeline = Pipeline("fallbacks", inputs={"document": str})

    @pipeline.llm("fast", str, fallback="unknown", retry=ONCE)
    def title(document: str) -> str:
        return f"Title of {document}"

    @pipeline.step
    async def shouted(title: str) -> str:
        return title.upper()

    async with Engine(models={"fast": model}) as engine:
        batches = [
            await run_batch_async(pipeline, documents(1), journal=journal, engine=engine, redo=redo)
            for redo in (None, None, "fallbacks", None)
        ]

    values = [batch.sample[0][shouted] for batch in batches]
    assert values == ["UNKNOWN", "UNKNOWN", "AN ANSWER", "AN ANSWER"]
    assert len(model.sent) == 2
    assert batches[1].sample[0].outcome(title).via == "fallback:value"


# A pipeline that has changed


def versions(prompt):
    pipeline = Pipeline("versions", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"{prompt} {document}"

    @pipeline.llm("fast", str)
    def keywords(document: str) -> str:
        return f"Keywords of {document}"

    @pipeline.llm("fast", str)
    def summary(head: str = use(title)) -> str:
        return f"Summary of {head}"

    return pipeline


async def changed(on_change):
    """Run one version, then another, and return what the second has sent."""
    journal, model = MemoryJournal(), PaidModel()
    async with Engine(models={"fast": model}) as engine:
        await run_batch_async(versions("Title of"), documents(1), journal=journal, engine=engine)
        model.sent.clear()
        batch = await run_batch_async(
            versions("Headline of"), documents(1), journal=journal, engine=engine, on_change=on_change
        )
    return sorted(model.sent), batch


async def test_reuse_runs_changed_steps_again_and_what_follows_from_them(virtual_clock):
    """The default: what did not change is not paid for again."""
    sent, batch = await changed("reuse")

    assert sent == ["Headline of paper 0", "Summary of HEADLINE OF PAPER 0"]
    assert batch.sample[0]["summary"] == "SUMMARY OF HEADLINE OF PAPER 0"


async def test_keep_trusts_outputs_by_the_names_of_their_steps(virtual_clock):
    """For a change that is known not to matter."""
    sent, batch = await changed("keep")

    assert sent == []
    assert batch.sample[0]["summary"] == "SUMMARY OF TITLE OF PAPER 0"


async def test_new_begins_anew(virtual_clock):
    """For a change outside of the pipeline, such as a model behind the same name."""
    sent, _batch = await changed("new")

    assert sent == ["Headline of paper 0", "Keywords of paper 0", "Summary of HEADLINE OF PAPER 0"]


async def test_error_refuses_and_says_what_has_changed(virtual_clock):
    """An unattended run must not spend on a change that nobody has looked at."""
    with pytest.raises(PlanChangedError) as raised:
        await changed("error")

    assert raised.value.changes == ("step 'title': its prompt has changed",)
    assert 'on_change="reuse"' in str(raised.value)


async def test_a_batch_that_began_anew_and_was_interrupted_goes_on_and_does_not_begin_again(virtual_clock):
    """What is said of a batch is not said of each attempt to finish it."""
    journal, model = MemoryJournal(), PaidModel()
    async with Engine(models={"fast": model}) as engine:
        await run_batch_async(versions("Title of"), documents(1), journal=journal, engine=engine)
        for seconds in (1.5, 100):
            with trio.move_on_after(seconds):
                await run_batch_async(
                    versions("Title of"), documents(1), journal=journal, engine=engine, on_change="new"
                )

    assert model.bill == {"Title of paper 0": 2, "Keywords of paper 0": 2, "Summary of TITLE OF PAPER 0": 2}


# Budgets


async def test_what_was_spent_before_an_interruption_counts(virtual_clock):
    """A budget that a crash would fill up again is none."""
    journal, model = MemoryJournal(), PaidModel()
    pipeline = Pipeline("spending", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"Title of {document}"

    async def spend(journal, model, *interruptions):
        async with Engine(models={"fast": model}, capacity=1) as engine:
            for seconds in interruptions:
                with trio.move_on_after(seconds):
                    await run_batch_async(pipeline, documents(9), journal=journal, engine=engine, budget=Budget(usd=9))
            return await run_batch_async(pipeline, documents(9), journal=journal, engine=engine, budget=Budget(usd=9))

    undisturbed = PaidModel()
    expected = await spend(MemoryJournal(), undisturbed)
    batch = await spend(journal, model, 1.5, 1.5)

    assert len(model.finished) == len(undisturbed.finished) == 5  # each call costs two dollars
    assert batch.counts == expected.counts
    assert batch.stopped_by == expected.stopped_by == "the batch's budget of $9 has no room for another call"


# Documents


async def test_the_same_batch_again_with_more_documents_does_only_what_is_missing(virtual_clock):
    """Identity is the pipeline's name and the document's key."""
    journal, model = MemoryJournal(), PaidModel()
    async with Engine(models={"fast": model}) as engine:
        await run_batch_async(papers(), documents(2), journal=journal, engine=engine)
        batch = await run_batch_async(papers(), documents(3), journal=journal, engine=engine)

    assert batch.counts == {"completed": 3}
    assert set(model.bill.values()) == {1}
    assert sum(model.bill.values()) == 15


async def test_a_document_that_is_being_run_is_waited_for_not_run_twice(virtual_clock):
    """Two requests for the same document at once are one bill."""
    journal, model, results = MemoryJournal(), PaidModel(), []
    async with Engine(models={"fast": model}) as engine, trio.open_nursery() as nursery:

        async def one():
            results.append(await engine.run(papers(), {"document": "a"}, journal=journal))

        nursery.start_soon(one)
        nursery.start_soon(one)

    assert [result.status for result in results] == ["completed", "completed"]
    assert set(model.bill.values()) == {1}


async def test_a_run_ends_when_its_last_output_is_kept_while_another_document_arrives(virtual_clock):
    """Its task sleeps until then: nobody else would ever wake it, and the batch would never end."""
    pipeline = Pipeline("one", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"Title of {document}"

    async with trio.open_nursery() as nursery, Engine(models={"fast": PaidModel()}, capacity=1) as engine:

        class ArrivingJournal(SlowJournal):
            """Answers at the very instant at which a batch has let in a document that has not begun yet."""

            def _answer(self, entries, done):
                engine.scheduler.arriving += 1
                super()._answer(entries, done)
                engine.scheduler.arriving -= 1

        journal = ArrivingJournal(0.0)
        await nursery.start(journal.serve)
        with trio.fail_after(100):
            async with trio.open_nursery() as runs:
                for document in "abc":
                    runs.start_soon(partial(engine.run, pipeline, {"document": document}, journal=journal))
        nursery.cancel_scope.cancel()

    ended = [entry.status for entry in journal.acknowledged if isinstance(entry, DocumentEnded)]
    assert ended == ["completed"] * 3


async def test_a_stopped_document_is_told_as_stopped_and_kept_as_waiting(virtual_clock):
    """Its status in the journal says that there is something left to do."""
    journal, model = SlowJournal(0.0), PaidModel()
    async with trio.open_nursery() as nursery, Engine(models={"fast": model}) as engine:
        await nursery.start(journal.serve)
        result = await engine.run(papers(), {"document": "a"}, journal=journal, timeout=1.5)
        nursery.cancel_scope.cancel()

    assert result.status == "stopped"
    assert isinstance(result.outcome("summary"), Stopped)
    ended = [entry for entry in journal.acknowledged if isinstance(entry, DocumentEnded)]
    assert [entry.status for entry in ended] == ["queued"]


async def test_a_run_cancelled_while_it_claims_leaves_no_document_that_nobody_works_on(virtual_clock):
    """Else the next run would wait for ever for one that is gone."""
    journal, model = SlowJournal(1.0), PaidModel()
    async with trio.open_nursery() as nursery, Engine(models={"fast": model}) as engine:
        await nursery.start(journal.serve)
        with trio.move_on_after(1.5):  # the batch is begun, and the claim on its way
            await engine.run(papers(), {"document": "a"}, journal=journal)
        with trio.fail_after(100):
            result = await engine.run(papers(), {"document": "a"}, journal=journal)
        nursery.cancel_scope.cancel()

    assert result.status == "completed"
    assert set(model.bill.values()) == {1}


async def test_a_key_that_comes_twice_leaves_the_first_documents_entry_alone(virtual_clock):
    """The second one is refused; the first one was paid for."""
    journal, model = MemoryJournal(), PaidModel()
    twice = [Document("paper", {"document": "one"}), Document("paper", {"document": "another"})]
    async with Engine(models={"fast": model}) as engine:
        first = await run_batch_async(papers(), twice, journal=journal, engine=engine)
        sent = len(model.sent)
        again = await run_batch_async(papers(), twice[:1], journal=journal, engine=engine)

    assert first.counts == {"completed": 1, "failed": 1}
    assert again.counts == {"completed": 1}
    assert len(model.sent) == sent
