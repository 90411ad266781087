"""A disk that is full: the run stops at once, says what it could not save and where that went, and loses nothing."""

import json
import re
from collections import Counter
from pathlib import Path

from tests.kills.harness import Told, is_there, results, uninterrupted
from tests.kills.looking import look
from tests.kills.worker import FAILED

DOCUMENTS = 20


def spilled_kinds(path: str) -> Counter[str]:
    """Return how many entries of each kind were put aside."""
    return Counter(json.loads(line)["entry"] for line in Path(path).read_text(encoding="ascii").splitlines())


async def test_what_a_full_disk_could_not_take_is_taken_in_by_the_next_run(tmp_path, rig, journal, many, tell):
    """Replies that were paid for, and cannot be saved, are money lost twice."""
    told, known = await uninterrupted(tmp_path, DOCUMENTS)
    failed = await rig.start(journal, documents=DOCUMENTS, largest_file=600_000)
    assert await failed.wait_ended() == FAILED
    kind, message, spilled_to = failed.said("FAILED")
    seen = look(journal)
    kinds = spilled_kinds(spilled_to)
    unsaved = kinds["CallFinished"] + kinds["OutputAccepted"]
    again = await rig.finish(journal, documents=DOCUMENTS)

    paid = failed.answered + again.answered
    twice = {place: times for place, times in paid.items() if times > told.asked[place]}
    tell(
        f"a full disk: {failed.answered.total()} calls answered, {seen.calls.total()} of them kept, "
        f"{unsaved} results put aside, {sum(twice.values())} answered calls sent again"
    )
    assert kind == "JournalWriteError"
    assert re.search(rf"\b{unsaved} results? not yet saved went to {re.escape(repr(spilled_to))}", message), message
    assert seen.integrity == "ok"
    assert not is_there(spilled_to)
    assert results(again) == known
    assert Told.of(look(journal)) == told
    assert twice == {}
