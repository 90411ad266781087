"""Several processes on one journal: they share the documents, and one that sleeps too long does no harm."""

import os
import signal
from collections import Counter

import trio

from tests.kills.harness import Told, needed, results, uninterrupted
from tests.kills.looking import look

DOCUMENTS = 60
PROCESSES = 4
LEASE = 2.0


async def test_a_process_that_slept_past_its_lease_repeats_only_what_it_had_in_flight(
    tmp_path, rig, many, tell, postgres
):
    """A laptop is closed, a container is frozen: when it wakes up, others have its documents."""
    told, known = await uninterrupted(tmp_path, DOCUMENTS)
    options = {"documents": DOCUMENTS, "capacity": 8, "lease": LEASE}
    workers = [await rig.start(postgres, **options) for _ in range(PROCESSES)]
    sleeper = workers[0]
    await sleeper.wait_acknowledged(20)
    os.kill(sleeper.process.pid, signal.SIGSTOP)
    asleep_at = trio.current_time()
    before = look(postgres)
    in_flight = [r for r in rig.billing.sent_by(sleeper.name) if not r.is_answered(asleep_at)]
    kept = before.calls
    unsaved = Counter(r.call for r in rig.billing.sent_by(sleeper.name)) - kept
    await trio.sleep(4 * LEASE)  # the time that it sleeps is what this test is about
    os.kill(sleeper.process.pid, signal.SIGCONT)
    codes = [await worker.wait_ended() for worker in workers]
    seen = look(postgres)

    asked = Counter(request.call for request in rig.billing.requests if request.status in (0, 200))
    again = Counter({call: times - needed(call) for call, times in asked.items() if times > needed(call)})
    stale = [place for place, known_ in sleeper.acknowledged.items() if seen.fingerprints[place] != known_]
    tell(
        f"a process that slept past its lease: {len(in_flight)} calls in flight and {unsaved.total()} not kept when it "
        f"fell asleep; {again.total()} calls sent again; {sum(seen.fences.values()) - DOCUMENTS} documents taken over"
    )
    assert codes == [0] * PROCESSES, [worker.errors.decode()[-1500:] for worker in workers]
    assert set(seen.rows.values()) == {1}
    assert stale == []
    assert Told.of(seen).outputs == told.outputs
    assert seen.documents == told.documents
    assert not again - unsaved
    counts = [worker.said("DONE") for worker in workers]
    assert counts == [counts[0]] * PROCESSES
    assert all(results(worker) == known for worker in workers)
