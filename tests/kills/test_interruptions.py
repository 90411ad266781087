"""The same batch, interrupted in every way that there is, ends like one that was not."""

import signal
from pathlib import Path
from random import Random

from tests.kills.harness import OFTEN, Blow, History, Told, is_there, killed_batch, results, strike, uninterrupted
from tests.kills.worker import FAILED, STOPPED

DOCUMENTS = 200
CAPACITY = 16


def size_of(journal: str) -> int:
    return Path(journal).stat().st_size


async def test_a_batch_with_three_interruptions_gives_the_same_results(tmp_path, rig, journal, many, tell):
    """A death, an interrupt and a full disk: each leaves the batch in another state, and none of them shows."""
    told, known = await uninterrupted(tmp_path, DOCUMENTS)
    options = {"documents": DOCUMENTS, "capacity": CAPACITY, "most_crashes": OFTEN}
    history = await History.of(rig.billing, journal)

    killed = await rig.start(journal, **options)
    assert await strike(killed, Blow(0.05, nth=500)) == -signal.SIGKILL
    await history.account(killed)

    interrupted = await rig.start(journal, interrupted_after=500, **options)
    assert await interrupted.wait_ended() == STOPPED
    await history.account(interrupted)

    failed = await rig.start(journal, largest_file=size_of(journal), **options)
    assert await failed.wait_ended() == FAILED
    kind, message, spilled_to = failed.said("FAILED")
    await history.account(failed)
    assert (kind, is_there(spilled_to)) == ("JournalWriteError", True), message

    last = await rig.finish(journal, **options)
    await history.account(last)

    figures = history.figures
    tell(figures.told("a kill, an interrupt and a full disk"))
    assert (figures.damaged, figures.lost, figures.billed_again) == (0, 0, 0)
    assert figures.sent_again <= figures.in_flight + figures.unsaved
    assert not is_there(spilled_to)
    assert Told.of(history.seen) == told
    assert results(last) == known


async def test_a_resume_that_is_killed_five_times_over_converges(tmp_path, rig, journal, many, tell):
    """What goes on where another one stopped may be stopped itself, in the midst of finding out where that was."""
    told, known = await uninterrupted(tmp_path, DOCUMENTS)
    dice = Random(5)
    resumes = [Blow(dice.uniform(0.0, 0.02), "update documents set content", dice.randint(1, 16)) for _ in range(5)]
    blows = [Blow(0.0, nth=900), *resumes]
    figures, seen, worker = await killed_batch(rig, journal, blows, documents=DOCUMENTS, capacity=CAPACITY)

    tell(figures.told("a resume, killed five times over"))
    assert figures.kills == len(blows)
    assert (figures.damaged, figures.lost, figures.billed_again) == (0, 0, 0)
    assert figures.sent_again <= figures.in_flight + figures.unsaved
    assert Told.of(seen) == told
    assert results(worker) == known
