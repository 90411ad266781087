"""A process may be killed at any instant: what was acknowledged is kept, and what is kept is not paid for again."""

from random import Random

import pytest
import trio

from tests.kills import harness
from tests.kills.harness import Blow, Figures, Told, by_chance, killed_batch, results, uninterrupted

DOCUMENTS = 20
CAPACITY = 16


def assert_nothing_lost(figures: Figures) -> None:
    """Whatever was acknowledged is there, and nothing that is there was paid for again."""
    assert (figures.damaged, figures.lost, figures.billed_again) == (0, 0, 0)
    assert figures.sent_again <= figures.in_flight + figures.unsaved
    assert figures.most_in_flight <= CAPACITY


async def killed_like_an_uninterrupted_one(rig, folder, journal, blows, **options) -> Figures:
    """Kill a batch again and again, and compare all that is left in the end with that of a quiet one."""
    told, known = await uninterrupted(folder, DOCUMENTS)
    figures, seen, worker = await killed_batch(rig, journal, blows, documents=DOCUMENTS, capacity=CAPACITY, **options)

    assert_nothing_lost(figures)
    assert Told.of(seen) == told
    assert results(worker) == known
    return figures


async def lanes(number, batches, one_batch) -> Figures:
    """Run so many batches, some of them side by side, and add up what their kills have cost."""
    total, left = Figures(), iter(range(batches))

    async def lane() -> None:
        nonlocal total
        for batch in left:
            figures = await one_batch(batch)
            total += figures

    async with trio.open_nursery() as nursery:
        for _ in range(number):
            nursery.start_soon(lane)
    return total


async def test_a_batch_that_is_killed_again_and_again_ends_like_one_that_was_not(tmp_path, rig, journal):
    """The promise of the journal, on one batch; `make kills` has the hundreds."""
    figures = await killed_like_an_uninterrupted_one(rig, tmp_path, journal, by_chance(Random(1), 4))

    assert figures.kills == 4


@pytest.mark.parametrize("seed", [2])
async def test_a_hundred_kills_lose_nothing_and_pay_for_no_finished_call_again(tmp_path, many, tell, seed):
    """Each kill is another instant: of a request, of a commit, of an opening."""

    async def one_batch(batch: int) -> Figures:
        dice = Random(f"{seed} {batch}")
        async with harness.rig(tmp_path / f"batch-{batch}") as rig:
            return await killed_like_an_uninterrupted_one(
                rig, tmp_path, str(rig.folder / "runs.db"), by_chance(dice, dice.randint(5, 9))
            )

    await uninterrupted(tmp_path, DOCUMENTS)
    figures = await lanes(2, 16, one_batch)

    tell(figures.told("SQLite"))
    assert figures.kills >= 100


async def test_thirty_kills_lose_nothing_on_postgres(tmp_path, many, tell, postgres_server):
    """There the commit is another process's: it may happen after its writer is dead, and never before its answer."""

    async def one_batch(batch: int) -> Figures:
        dice = Random(f"postgres {batch}")
        async with harness.rig(tmp_path / f"batch-{batch}") as rig:
            with postgres_server.fresh_database() as name:
                return await killed_like_an_uninterrupted_one(
                    rig, tmp_path, postgres_server.address(name), by_chance(dice, dice.randint(6, 9))
                )

    await uninterrupted(tmp_path, DOCUMENTS)
    figures = await lanes(2, 6, one_batch)

    tell(figures.told("PostgreSQL"))
    assert figures.kills >= 2  # once it is done, it does not come again0


def at_statements(dice: Random, number: int, at: str, times: int, seconds: float, **options) -> list[Blow]:
    """Return blows at some of the statements of a kind, or just after them."""
    return [Blow(dice.uniform(0.0, seconds), at, dice.randint(1, times), options) for _ in range(number)]


PHASES = {
    "the making of a journal": lambda dice: at_statements(dice, 6, "create", 12, 0.0),
    "an opening": lambda dice: [Blow(0.0, nth=20), *at_statements(dice, 6, "pragma", 8, 0.005)],
    "a commit": lambda dice: at_statements(dice, 6, "commit", 60, 0.01),
    "a checkpoint": lambda dice: at_statements(dice, 6, "wal_checkpoint(passive)", 9, 0.002, frames=20),
    "a resume": lambda dice: [Blow(0.0, nth=60), *at_statements(dice, 6, "update documents set content", 12, 0.01)],
    "a closing": lambda dice: at_statements(dice, 3, "set status = 'queued'", 1, 0.01),
}
"""Instants that chance meets too seldom: the statements at which they begin."""


@pytest.mark.parametrize("phase", PHASES)
async def test_a_kill_within_it_loses_nothing(tmp_path, rig, journal, many, tell, phase):
    """What is done once in a run, and quickly, is not where the kills of chance fall."""
    blows = PHASES[phase](Random(phase))
    figures = await killed_like_an_uninterrupted_one(rig, tmp_path, journal, blows)

    tell(figures.told(f"within {phase}"))
    assert figures.kills == len(blows)


async def test_a_kill_within_a_migration_leaves_the_old_version_or_the_new_one(tmp_path, rig, journal, many, tell):
    """Half a migration would be a journal that no engine knows."""
    blows = [Blow(0.0, nth=60, options={"migrates": False})]
    blows += [Blow(seconds, sql, 1) for sql in MIGRATING for seconds in (0.0, 0.002)]
    figures = await killed_like_an_uninterrupted_one(rig, tmp_path, journal, blows, migrates=True)

    tell(figures.told("within a migration"))
    assert figures.kills >= 2  # once it is done, it does not come again


MIGRATING = ("alter table", "create index calls_by_model", "pragma user_version")


async def test_the_harness_catches_a_journal_that_acknowledges_before_it_commits(tmp_path, rig, journal, many, tell):
    """A harness that finds nothing in a broken journal proves nothing about a sound one."""
    figures, _, _ = await killed_batch(
        rig, journal, by_chance(Random(4), 8), documents=DOCUMENTS, capacity=CAPACITY, broken=True
    )

    tell(figures.told("broken on purpose"))
    assert figures.lost > 0
    assert figures.billed_again > 0
