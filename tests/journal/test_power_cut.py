"""A power cut at any moment: what was acknowledged with FULL is there, and the harness would notice if it were not."""

import pytest

pytest.importorskip("apsw", reason="apsw lets Python stand between SQLite and the disk; there is none here")

from tests.journal.power_cut import NEXT, examine

SEEDS, STRIDE, DOCUMENTS = 1, 29, 4  # `python -m tests.journal.power_cut` looks at every moment


def test_a_power_cut_takes_nothing_that_was_acknowledged_with_full():
    """A reply that was paid for and acknowledged must be there, or it is paid for twice."""
    trace, moments, verdicts = examine("FULL", SEEDS, STRIDE, DOCUMENTS)

    assert set(verdicts) == {0}
    assert moments > 100
    done = [operation[0] for operation in trace.operations]
    assert done.count("renamed") == 2  # the journal was made, and the copy before its migration
    assert {version for version, _ in trace.states[1:]} == {NEXT - 1, NEXT}
    assert any(name == "runs.db" for kind, name, *_ in trace.operations if kind == "written")  # checkpoints


def test_with_normal_a_power_cut_takes_the_latest_transactions_and_no_other():
    """It is offered as an option: its promise is a journal as it was a while ago, in one piece."""
    _, _, verdicts = examine("NORMAL", SEEDS, STRIDE, DOCUMENTS)

    assert {"corrupt", "no prefix"}.isdisjoint(verdicts)
    assert max(verdicts) > 0  # else the harness would not see a loss


def test_the_harness_finds_the_damage_of_a_journal_that_is_never_synced():
    """A harness that cannot fail proves nothing: OFF is what it must fail for."""
    _, _, verdicts = examine("OFF", SEEDS, STRIDE, DOCUMENTS)

    assert verdicts["corrupt"] > 0
    assert sum(verdicts[lost] for lost in verdicts if isinstance(lost, int) and lost) > 0
