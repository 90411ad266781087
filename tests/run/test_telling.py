"""How far a batch has come: told to its journal and to the caller, often enough, never too often, and a last time."""

import pytest
import trio

from pipeline_engine import Limits, MemoryJournal, Pipeline, run_batch, run_batch_async
from pipeline_engine.journal import read_journal
from pipeline_engine.report import Present
from pipeline_engine.testing import ScriptedModel


def one_step():
    pipeline = Pipeline("one", inputs={"text": str})

    @pipeline.llm("fast", str)
    def title(text: str) -> str:
        return text

    return pipeline


def documents(count):
    return [{"text": str(number)} for number in range(count)]


class CountingJournal(MemoryJournal):
    """Count what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def open(self):
        opened = super().open()
        submit = opened.submit

        def counting(entries, done=None):
            self.told += [entry for entry in entries if type(entry).__name__ == "ProgressTold"]
            return submit(entries, done)

        opened.submit = counting
        return opened


def progress_of(journal):
    with read_journal(journal) as reader:
        [told] = reader.progress(reader.batch("last").batch)
    return Present.from_json(told.progress)


async def test_a_caller_sees_the_present_moment_ten_times_a_second(autojump_clock):
    """Progress on long work is what people look for first."""
    seen = []
    model = ScriptedModel({"*": "x"}, latency=1.0, limits=Limits(max_concurrency=2))

    await run_batch_async(one_step(), documents(6), models={"fast": model}, capacity=4, progress=seen.append)

    assert len(seen) in (30, 31, 32)
    assert (seen[0].total, seen[0].capacity, seen[0].finished) == (6, 4, 0)
    assert (seen[5].attempts, seen[5].waits) == ({"title": 2}, {"concurrency": 4})
    assert seen[5].models["scripted:model"][:3] == (2, 2, 4)
    assert [moment.is_over for moment in seen[-2:]] == [False, True]
    assert (seen[-1].documents, seen[-1].in_flight, seen[-1].elapsed) == ({"completed": 6}, 0, 3.0)


async def test_a_journal_is_told_once_a_second_and_a_last_time(autojump_clock):
    """A word for each record would be half of all that a journal writes."""
    journal = CountingJournal()

    await run_batch_async(
        one_step(), documents(100), models={"fast": ScriptedModel({"*": "x"}, latency=0.1)}, capacity=1, journal=journal
    )

    assert 10 <= len(journal.told) <= 12
    last = progress_of(journal)
    assert last.is_over
    assert last.documents == {"completed": 100}
    assert last.elapsed == pytest.approx(10.0)


async def test_silence_sets_no_timer(autojump_clock):
    """On a virtual clock each timer is an instant to jump to, while a thread may be at work."""
    journal = CountingJournal()

    await run_batch_async(
        one_step(), documents(1), models={"fast": ScriptedModel({"*": "x"}, latency=200.0)}, journal=journal
    )

    assert len(journal.told) <= 4


async def test_what_was_kept_is_told_apart_from_what_was_run(autojump_clock):
    """A thousand documents that the journal had say nothing about how long the next one takes."""
    journal = MemoryJournal()
    models = {"fast": ScriptedModel({"*": "x"}, latency=1.0)}
    await run_batch_async(one_step(), documents(3), models=models, journal=journal)

    seen = []
    await run_batch_async(one_step(), documents(5), models=models, journal=journal, progress=seen.append)

    assert (seen[-1].kept, seen[-1].fresh, seen[-1].finished) == (3, 2, 5)


async def test_a_batch_that_is_cancelled_says_so(autojump_clock):
    """Who watches must see that it is over, and not calls in flight for ever."""
    journal = MemoryJournal()
    seen = []
    with trio.move_on_after(1.5):
        await run_batch_async(
            one_step(),
            documents(3),
            models={"fast": ScriptedModel({"*": "x"}, latency=60.0)},
            journal=journal,
            progress=seen.append,
        )

    assert seen[-1].is_over
    assert progress_of(journal).is_over


async def test_a_caller_that_raises_is_not_called_again(autojump_clock, caplog):
    """Who looks on must not end what is looked at."""
    calls = []

    def progress(present):
        calls.append(present)
        raise ValueError("no screen")

    batch = await run_batch_async(
        one_step(), documents(3), models={"fast": ScriptedModel({"*": "x"}, latency=1.0)}, progress=progress
    )

    assert batch.counts == {"completed": 3}
    assert len(calls) == 1
    assert "progress= raised" in caplog.text


def test_progress_is_told_from_sync_code_too():
    """That is how most people run a batch."""
    seen = []

    run_batch(one_step(), documents(2), models={"fast": ScriptedModel({"*": "x"})}, progress=seen.append)

    assert seen[-1].documents == {"completed": 2}
