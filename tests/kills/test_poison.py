"""A document that ends whatever process works on it: it is set aside, and nobody else is."""

import signal

import pytest

from tests.kills.harness import Told, uninterrupted
from tests.kills.looking import look

DOCUMENTS = 12
POISON = "doc-4"
MOST_DEATHS = 7


async def poisoned(rig, journal, **options):
    """Run a batch with a poison document until one process has got through; return it.

    Three deaths at the same place are needed, and one that gets further than the one before is the first at its place.
    """
    for deaths in range(MOST_DEATHS):
        worker = await rig.start(journal, documents=DOCUMENTS, poison=POISON, **options)
        code = await worker.wait_ended()
        if code == 0:
            assert deaths >= 3
            return worker
        assert code == -signal.SIGKILL, worker.lines
    raise AssertionError(f"it has ended {MOST_DEATHS} processes")


@pytest.mark.parametrize("capacity", [2, 16])
async def test_a_document_that_has_ended_three_processes_is_parked_and_the_others_complete(
    tmp_path, rig, journal, many, capacity
):
    """One bad document must not take the thousand others with it, for ever."""
    told, _ = await uninterrupted(tmp_path, DOCUMENTS)
    last = await poisoned(rig, journal, capacity=capacity)
    seen = look(journal)

    assert seen.documents == told.documents | {POISON: "parked"}
    assert "ended 3 processes" in seen.reasons[POISON]
    assert last.said("DONE")["failed"] == 1
    expected = {place: output for place, output in told.outputs.items() if place[0] != POISON}
    assert {place: output for place, output in Told.of(seen).outputs.items() if place[0] != POISON} == expected


async def test_a_parked_document_is_tried_again_when_somebody_asks_for_it(tmp_path, rig, journal, many):
    """Whoever has mended what was wrong says so, with redo="failed"."""
    told, _ = await uninterrupted(tmp_path, DOCUMENTS)
    await poisoned(rig, journal, capacity=2)
    left_alone = await rig.finish(journal, documents=DOCUMENTS)
    parked = look(journal).documents[POISON]
    await rig.finish(journal, documents=DOCUMENTS, redo="failed")

    assert left_alone.said("DONE")["failed"] == 1
    assert parked == "parked"
    assert look(journal).documents == told.documents
