"""The document pipeline against a server that refuses, breaks, drops and garbles by the roll of its own dice."""

from collections import Counter

import pytest
import trio

from pipeline_engine import Completed, Engine
from pipelines.document import pipeline
from tests.servers.asking import BOUND, MODES, PROVIDERS, Counted, documents, streamed, visit

DOCUMENTS = 20
CHAOS = {
    "chaos_drop": "0.1",  # HTTP 500
    "chaos_malformed": "0.06",  # HTTP 200 with something that is no JSON
    "chaos_ratelimit": "0.1",  # HTTP 429 with Retry-After: 1, and rate-limit headers that say 6 minutes
    "chaos_disconnect": "0.06",  # the connection ends before the answer begins
    "context": "cut",  # and the first three streamed summaries end in the middle
}


@pytest.mark.parametrize("stream", MODES, ids=MODES.values())
@pytest.mark.parametrize("provider", PROVIDERS)
async def test_all_documents_complete_and_every_request_is_accounted_for(server, tell, provider, stream):
    """A provider has bad hours; what it counted as sent, and refused, and broken is what our records say."""
    here = visit(server)
    # Two models for each role, as one would bind them: what one cannot do in four attempts the next one does.
    chain = [here.model(provider, "tiny", **CHAOS), here.model(provider, "small", **CHAOS)]
    dag = streamed(pipeline) if stream else pipeline
    results = {}

    async def run(engine, number, text):
        results[number] = await engine.run(dag, {"document": text}, key=f"document {number}")

    started = trio.current_time()
    with trio.fail_after(BOUND):
        async with Engine(models={"fast": chain, "strong": chain}, seed=1) as engine, trio.open_nursery() as nursery:
            for number, text in enumerate(documents(DOCUMENTS)):
                nursery.start_soon(run, engine, number, text)
    seconds = trio.current_time() - started

    assert len(results) == DOCUMENTS
    for result in results.values():
        assert result.status == "completed", result
        for step in pipeline.steps:
            outcome = result.outcome(step.name)
            assert isinstance(outcome, Completed)
            assert outcome.via is None or outcome.via.endswith("small"), outcome
    counted = Counted.of(results.values())
    tell(f"{provider:16} {MODES[stream]:8} {DOCUMENTS} documents in {seconds:4.1f} s: {counted}")
    sent = here.journal
    made = Counter(entry["response"].get("chaosAction") for entry in sent)
    assert len(sent) == counted.attempts + counted.replays
    assert counted.faults["rate_limited"] == made["rateLimit"] > 0
    assert counted.faults["server 500"] == made["drop"] > 0
    assert counted.faults["bad_response"] == made["malformed"]
    assert counted.faults["server"] + counted.replays == made["disconnect"]
    assert counted.faults["stream_truncated"] == sum(bool(entry["response"].get("interrupted")) for entry in sent)
    assert counted.faults.total() == counted.attempts - DOCUMENTS * len(pipeline.steps)
