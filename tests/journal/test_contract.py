"""What every journal promises, in memory, in SQLite and in PostgreSQL alike, told to it as runs do."""

import gc
import json

import pytest
import trio

from pipeline_engine.errors import JournalClosedError, JournalDataError
from pipeline_engine.journal import MemoryJournal, read_journal
from pipeline_engine.values import (
    AttemptEnded,
    AttemptSent,
    BatchEnded,
    BatchOpened,
    Busy,
    CachedReply,
    CallsVoided,
    Claimed,
    Ended,
    FindReply,
    ProgressTold,
    ReplyCached,
    RunRecorded,
    SavedCall,
    SavedOutput,
    Suspected,
)
from tests.journal.keeping import batch, call, claim, ended, output

ARABIC, NUL, SURROGATE = "تقرير\u202e.md", "a\0b", "half \ud800 a pair"
ESCAPES = "\x1b]0;title\x07\x1b[31mred"
HOSTILE = [
    NUL,
    SURROGATE,
    ARABIC,
    ESCAPES,
    "\ue000",
    "\ue000json",
    "",
    " ",
    "a\r\nb",
    "%s ? {0} '; drop table calls; --",
    "😀",
]
SAVED_CALL = SavedCall("request.0", "request", 0, "summary", -1, b'{"text":"reply 0"}', False, 7, 100)
SAVED_OUTPUT = SavedOutput("summary", -1, "key-1", b'"short"', ("request.0",), None)


async def end_document(kept, status="completed", **changes):
    """Run a document to its end: one call, one output."""
    with kept.opened() as journal:
        [claimed] = await journal.write(claim())
        await journal.write(call(), output(claimed.fence, **changes), ended(claimed.fence, status=status))


async def claim_again(kept, **changes):
    with kept.opened() as journal:
        [answer] = await journal.write(claim(**changes))
        return answer


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """What a journal of PostgreSQL could not write goes into the folder that its process runs in."""
    monkeypatch.chdir(tmp_path)


# Claims


async def test_a_new_document_is_the_claimants_with_nothing_in_it(kept):
    """The first claim of a document is its admission: it is in the journal from then on."""
    with kept.opened() as journal:
        assert await journal.write(claim()) == [Claimed(1, (), (), is_new=True)]


async def test_two_runs_of_one_process_never_have_the_same_document(kept):
    """Both would pay for the same calls, and each would take the other's outputs for its own."""
    with kept.opened() as journal:
        first, second = await journal.write(claim(), claim())
        [third] = await journal.write(claim())

    assert (first, second, third) == (Claimed(1), Busy(journal.worker, 0), Busy(journal.worker, 0))


async def test_documents_of_two_pipelines_are_two(kept):
    """Identity is the pipeline's name and the document's key."""
    with kept.opened() as journal:
        assert await journal.write(claim(), claim(pipeline="reports")) == [Claimed(1), Claimed(1)]


async def test_a_document_that_has_ended_is_not_run_again(kept):
    """The same batch run again does only what is missing."""
    await end_document(kept)

    assert await claim_again(kept, batch="batch-2") == Ended("completed", b"{}", (SAVED_CALL,), (SAVED_OUTPUT,))


async def test_a_document_that_waits_is_claimed_with_all_that_was_paid_for(kept):
    """A run that was stopped goes on where it was."""
    await end_document(kept, "queued")

    assert await claim_again(kept) == Claimed(2, (SAVED_CALL,), (SAVED_OUTPUT,), is_new=False)


async def test_a_document_that_was_let_go_may_be_claimed_at_once(kept):
    """A process that closes its journal takes leave: nobody waits for its silence, and it does not count as a death."""
    if isinstance(kept.place, MemoryJournal):
        pytest.skip("its claims are given back by ending them: it closes nothing")
    for fence in range(1, 6):
        answer = await claim_again(kept)
        assert answer == Claimed(fence, is_new=fence == 1)


@pytest.mark.parametrize(
    ("on_change", "answer"),
    [
        ("reuse", Claimed(2, (SAVED_CALL,), (SAVED_OUTPUT,), is_new=False)),
        ("error", Claimed(2, (SAVED_CALL,), (SAVED_OUTPUT,), is_new=False)),
        ("keep", Ended("completed", b"{}", (SAVED_CALL,), (SAVED_OUTPUT,))),
        ("new", Claimed(2, (SAVED_CALL._replace(is_void=True),), (), is_new=False)),
    ],
)
async def test_what_becomes_of_an_ended_document_when_the_pipeline_has_changed(kept, on_change, answer):
    """Old outputs never mix with new steps silently: it is the user's word that decides."""
    await end_document(kept)

    assert await claim_again(kept, plan="plan-2", on_change=on_change, batch="batch-2") == answer


async def test_beginning_anew_throws_outputs_away_once_in_a_batch(kept):
    """A batch that is resumed must not pay again for what it has itself made anew."""
    await end_document(kept)
    with kept.opened() as journal:
        anew = claim(batch="batch-2", on_change="new", again=True)
        [first] = await journal.write(anew)
        await journal.write(output(first.fence, output=b'"anew"'), ended(first.fence, status="queued"))
        [second] = await journal.write(anew)

    assert first == Claimed(2, (SAVED_CALL._replace(is_void=True),), (), is_new=False)
    assert second.outputs == (SAVED_OUTPUT._replace(output=b'"anew"'),)


@pytest.mark.parametrize(
    ("status", "is_claimed"), [("completed", False), ("partial", True), ("failed", True), ("parked", True)]
)
async def test_failed_documents_are_run_again_on_demand(kept, status, is_claimed):
    """`redo="failed"` is for what somebody has set right, and for nothing that was completed."""
    await end_document(kept, status)

    assert isinstance(await claim_again(kept, redo="failed"), Claimed) == is_claimed


@pytest.mark.parametrize(("via", "is_claimed"), [(None, False), ("hedge", False), ("fallback:small", True)])
async def test_documents_with_fallbacks_are_run_again_on_demand(kept, via, is_claimed):
    """A fallback is kept by resume, and made good by `redo="fallbacks"`."""
    await end_document(kept, via=via)

    assert isinstance(await claim_again(kept, redo="fallbacks"), Claimed) == is_claimed


@pytest.mark.parametrize(("status", "is_claimed"), [("completed", False), ("failed", False), ("parked", True)])
async def test_a_parked_document_is_tried_by_the_next_run(kept, status, is_claimed):
    """It waits for a key or for money: who runs it again says that it is there."""
    await end_document(kept, status)

    assert isinstance(await claim_again(kept), Claimed) == is_claimed


async def test_an_ended_document_is_run_again_on_request(kept):
    """A caller who knows that something has changed outside of the journal has the last word."""
    await end_document(kept)

    assert (await claim_again(kept, again=True)).fence == 2


async def test_a_document_with_other_content_is_run_again(kept):
    """A changed document never gets the results of what it was before."""
    await end_document(kept)

    assert await claim_again(kept, content="content-2") == Claimed(2, (SAVED_CALL,), (SAVED_OUTPUT,), is_new=False)


async def test_documents_whose_content_is_unknown_are_never_the_same(kept):
    """Two inputs that nobody could hash may be two different documents."""
    with kept.opened() as journal:
        await journal.write(claim(content=""))
        await journal.write(ended())

        assert (await journal.write(claim(content="")))[0] == Claimed(2, is_new=False)


async def test_inputs_are_stored_once_and_found_by_their_hash(kept):
    """A document of 100 KB in two pipelines costs 100 KB."""
    with kept.opened() as journal:
        await journal.write(*(claim(pipeline=name, inputs=b'{"text":"Dear"}', source="/a.txt") for name in ("p", "q")))

    assert kept.sql("select count(*), max(size) from blobs") == [(1, 15)]
    joined = "select source, body from documents join blobs on inputs = sha where pipeline = 'q'"
    assert [(source, bytes(body)) for source, body in kept.sql(joined)] == [("/a.txt", b'{"text":"Dear"}')]


# Processes that end


async def test_a_document_that_ends_processes_is_tried_alone_and_parked_at_the_third_death(kept):
    """One poisonous document must not keep a whole batch from ending, nor have innocent ones parked with it."""
    for death in range(1, 3):
        with kept.opened():
            assert (await kept.take_over(claim())).fence == death
            kept.die()
    with kept.opened() as journal:
        suspected = await kept.take_over(claim())
        assert await journal.write(claim()) == [suspected] == [Suspected(2)]
        [alone] = await journal.write(claim(is_alone=True))
        kept.die()
    with kept.opened() as journal:
        parked = await kept.take_over(claim())
        again = await journal.write(claim())
        redone = await journal.write(claim(redo="failed"))

    reason = "it has ended 3 processes in a row at the same place, so it is not tried again by itself"
    assert alone.fence == 4
    assert (parked.status, list(json.loads(parked.outcomes).values())) == ("parked", [reason])
    assert again == [parked]
    assert redone == [Claimed(6, is_new=False)]


async def test_a_suspect_that_ends_well_alone_is_none_any_more(kept):
    """It was beside the poison, and has done nothing."""
    for _ in range(2):
        with kept.opened():
            await kept.take_over(claim())
            kept.die()
    with kept.opened() as journal:
        assert isinstance(await kept.take_over(claim()), Suspected)
        [alone] = await journal.write(claim(is_alone=True))
        await journal.write(ended(fence=alone.fence))
        again = await journal.write(claim(plan="plan-2"))

    assert isinstance(again[0], Claimed)


async def test_a_document_that_gets_further_is_never_parked(kept):
    """A machine that is shut down every night, five times while the same long document runs, is no poison."""
    for death in range(1, 6):
        with kept.opened() as journal:
            assert (await kept.take_over(claim())).fence == death
            await journal.write(call(death))
            kept.die()
    with kept.opened():
        assert len((await kept.take_over(claim())).calls) == 5


async def test_deaths_are_counted_for_one_content_only(kept):
    """The document was mended: what the old one did says nothing about the new one."""
    for _ in range(2):
        with kept.opened():
            await kept.take_over(claim())
            kept.die()
    with kept.opened():
        await kept.take_over(claim(content="mended"))
        kept.die()

    assert kept.sql("select crash_count from documents") == [(0,)]
    with kept.opened():
        assert (await kept.take_over(claim(content="mended"))).fence == 4


# What an owner writes


async def test_what_was_written_is_there_after_opening_anew(kept):
    """That is what a journal is for."""
    with kept.opened() as journal:
        [claimed] = await journal.write(claim())
        answers = await journal.write(call(0), call(1), output(claimed.fence), ended(claimed.fence, status="queued"))
    again = await claim_again(kept)

    assert answers == [None, None, True, True]
    second = SAVED_CALL._replace(key="request.1", ordinal=1, reply=b'{"text":"reply 1"}')
    assert again == Claimed(2, (SAVED_CALL, second), (SAVED_OUTPUT,), is_new=False)


async def test_an_earlier_owners_writes_are_refused(kept):
    """A process that was stopped past its lease and goes on must not touch what another has made since."""
    await end_document(kept, "queued")
    with kept.opened() as journal:
        [claimed] = await journal.write(claim())
        answers = await journal.write(
            output(1, output=b'"stale"'), output(claimed.fence, item=3), ended(1, status="failed"), output(9)
        )
        rows = kept.sql("select item, fence from step_outputs order by item")
        status = kept.sql("select status from documents")

    assert answers == [False, True, False, False]
    assert rows == [(-1, 1), (3, 2)]
    assert status == [("processing",)]


async def test_an_output_of_a_document_that_nobody_has_claimed_is_refused(kept):
    """There is no row that its fence could be compared with."""
    with kept.opened() as journal:
        assert await journal.write(output(1), ended(1)) == [False, False]


async def test_a_call_is_written_once_and_never_changed(kept):
    """It is the billing truth: whatever is told later under its key, what was paid for is what was paid for."""
    with kept.opened() as journal:
        await journal.write(claim(), call())
        await journal.write(call(reply=b'"another"', cost_micro_usd=99), call())
        await journal.write(ended(status="queued"))

        assert (await journal.write(claim()))[0].calls == (SAVED_CALL,)


async def test_an_output_may_be_made_again_by_its_owner(kept):
    """A check that was changed, or a damaged output, leads to another output under the same key."""
    with kept.opened() as journal:
        await journal.write(claim(), output())
        assert await journal.write(output(output=b'"longer"', calls=("a", "b"), via="repair")) == [True]
        await journal.write(ended(status="queued"))

        [again] = await journal.write(claim())
    assert again.outputs == (SavedOutput("summary", -1, "key-1", b'"longer"', ("a", "b"), "repair"),)


async def test_outputs_of_items_and_of_older_keys_stand_beside_each_other(kept):
    """A mapped step has one for each item; a pipeline that is changed back finds what it made before."""
    with kept.opened() as journal:
        await journal.write(claim(), output(item=0), output(item=1), output(key="key-2"), output(step="title"))
        await journal.write(ended(status="queued"))

        [again] = await journal.write(claim())
    assert sorted((saved.step, saved.item, saved.key) for saved in again.outputs) == [
        ("summary", -1, "key-2"),
        ("summary", 0, "key-1"),
        ("summary", 1, "key-1"),
        ("title", -1, "key-1"),
    ]


async def test_voided_calls_are_marked_and_kept(kept):
    """They led to a failure, so they are not served again; they were paid for, so they count."""
    with kept.opened() as journal:
        await journal.write(claim(), call(0), call(1))
        await journal.write(
            CallsVoided("letters", "a.txt", ("request.1", "unknown")), CallsVoided("letters", "a.txt", ())
        )
        await journal.write(ended(status="queued"))

        [again] = await journal.write(claim())
    assert [(saved.key, saved.is_void) for saved in again.calls] == [("request.0", False), ("request.1", True)]


async def test_attempts_are_written_when_sent_and_told_when_they_end(kept):
    """One whose end is never told may have been billed: it must be seen. One that ended tells why, however often."""
    sent = AttemptSent("letters", "a.txt", "run-1", "summary", -1, 1, "offline:small", 1.0)
    failed = AttemptEnded(
        *sent[:5], 2, sent.model, 2.0, 3.0, "overloaded", "model \0 is busy", 529, "no"
    )  # told at its end only
    with kept.opened() as journal:
        await journal.write(sent, failed, sent)
        await journal.write(failed._replace(at=9.0))

    rows = kept.sql(
        "select attempt, started_at, ended_at, kind, message, status, billed from attempts order by attempt"
    )
    assert rows == [
        (1, 1.0, None, None, None, None, None),
        (2, 2.0, 9.0, "overloaded", "model \ufffd is busy", 529, "no"),
    ]


# Batches


async def test_a_batch_that_has_not_ended_goes_on_with_what_it_has_spent(kept):
    """Its budget is one, however often it is resumed."""
    with kept.opened() as journal:
        [begun] = await journal.write(batch())
        await journal.write(
            claim(), call(0), call(1, cost_micro_usd=None, tokens=None), BatchEnded("batch-1", False, b"{}", 5.0)
        )
        [resumed] = await journal.write(batch("batch-2", parts=b'{"summary":"2"}', at=6.0))
        await journal.write(BatchEnded("batch-1", True, b"{}", 7.0))
        [next_one] = await journal.write(batch("batch-3", at=8.0))

    assert begun == BatchOpened("batch-1", b"", 0, 0)
    assert resumed == BatchOpened("batch-1", b'{"summary":"1"}', 7, 100)
    assert next_one == BatchOpened("batch-3", b'{"summary":"2"}', 0, 0)


async def test_a_batch_that_refuses_change_is_not_begun(kept):
    """`on_change="error"` compares before anything is written, and tells what the last batch was made of."""
    with kept.opened() as journal:
        await journal.write(batch(), BatchEnded("batch-1", True, b"{}", 2.0))
        [same] = await journal.write(batch("batch-2", refuses_change=True, at=3.0))
        [other] = await journal.write(batch("batch-3", plan="plan-2", refuses_change=True, at=4.0))

    assert (same.batch, other) == ("batch-2", BatchOpened("", b'{"summary":"1"}', 0, 0))
    assert kept.sql("select batch from batches order by batch") == [("batch-1",), ("batch-2",)]


async def test_the_batch_of_one_document_is_always_its_own(kept):
    """Ten documents that a service runs at once are ten batches, and none of them is resumed by another."""
    with kept.opened() as journal:
        answers = await journal.write(*(batch(f"single-{n}", is_single=True, at=n) for n in range(3)), batch(at=9.0))

    assert [answer.batch for answer in answers] == ["single-0", "single-1", "single-2", "batch-1"]


# Replies for everybody


async def test_a_cached_reply_is_found_by_all_of_its_key(kept):
    """A reply of another namespace, request or ordinal is another answer."""
    cached = ReplyCached("shared", "request", 0, "offline:small", b'"reply"', 1.0)
    with kept.opened() as journal:
        await journal.write(cached, cached._replace(reply=b'"newer"', at=2.0))
        finds = [FindReply("shared", "request", 0), FindReply("shared", "request", 1)]
        finds += [FindReply("mine", "request", 0), FindReply("shared", "other", 0)]

        assert await journal.write(*finds) == [CachedReply(b'"newer"', 2.0), None, None, None]


# Text, bytes and numbers


@pytest.mark.parametrize("text", HOSTILE)
async def test_names_come_back_as_they_were(kept, text):
    """A document is found again by its key, whatever a file system or a user has put into it."""
    names = {"pipeline": text, "document": text}
    attempt = AttemptSent(text, text, text, text, -1, 1, text, 1.0)
    with kept.opened() as journal:
        [opened] = await journal.write(batch(text, pipeline=text, plan=text, version=text))
        [claimed] = await journal.write(claim(**names, batch=text, plan=text, content=text, source=text))
        await journal.write(
            attempt,
            AttemptEnded(*attempt[:5], 2, text, 2.0, 3.0, text, text, None, text),
            call(**names, key=text, request=text, batch=text, run=text, step=text, model=text),
            output(**names, step=text, key=text, calls=(text,), via="step", run=text),
            CallsVoided(text, text, (text,)),
            ReplyCached(text, text, 0, text, b"1", 1.0),
        )
        [done] = await journal.write(ended(**names, status="queued", reason=text, run=text))
        [again, found] = await journal.write(
            claim(**names, batch=text, plan=text, content=text), FindReply(text, text, 0)
        )

    assert (opened.batch, claimed, done, found) == (text, Claimed(1), True, CachedReply(b"1", 1.0))
    assert again.calls == (SAVED_CALL._replace(key=text, request=text, step=text, is_void=True),)
    assert again.outputs == (SavedOutput(text, -1, text, b'"short"', (text,), "step"),)


async def test_what_people_read_shows_what_a_database_cannot_hold(kept):
    """A model's error message must not end the run that keeps it; all else of it stays readable."""
    with kept.opened() as journal:
        await journal.write(claim(), ended(reason=f"{NUL} {SURROGATE} {ARABIC} {ESCAPES}"))

    assert kept.sql("select reason from documents") == [(f"a\ufffdb half \ufffd a pair {ARABIC} {ESCAPES}",)]


async def test_two_hostile_names_stay_two(kept):
    """Names that differ only in what a database refuses are two documents, not one."""
    names = [NUL, "a\ufffdb", "ab", SURROGATE, "half \ufffd a pair", "half \udfff a pair", "x" * 700, "x" * 701]
    with kept.opened() as journal:
        assert await journal.write(*(claim(name) for name in names)) == [Claimed(1)] * len(names)
        assert await journal.write(*(claim(name) for name in names)) == [Busy(journal.worker, 0)] * len(names)


async def test_names_of_a_megabyte_are_told_apart(kept):
    """An index of PostgreSQL takes 2,700 bytes, and refuses the write beyond: a long name must not end the run."""
    long = "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(350_000))  # nothing that compresses
    names = {"pipeline": long, "document": long + "1"}
    with kept.opened() as journal:
        first, second = await journal.write(claim(**names), claim(long + "2", pipeline=long))
        answers = await journal.write(
            AttemptSent(long, long + "1", "run-1", long, -1, 1, None, 1.0),
            call(**names, step=long),
            output(**names, step=long),
            ended(**names, status="queued"),
            ended(1, long + "2", pipeline=long),
        )
        [again] = await journal.write(claim(**names))

    assert (first, second, answers) == (Claimed(1), Claimed(1), [None, None, True, True, True])
    assert (len(again.calls), len(again.outputs)) == (1, 1)


async def test_bodies_of_ten_megabytes_come_back_byte_by_byte(kept):
    """A scanned document is that large, and every byte value occurs in it."""
    body = bytes(range(256)) * 40_960
    with kept.opened() as journal:
        await journal.write(claim(inputs=body), call(reply=body), output(output=body), ended(status="queued"))
        [again] = await journal.write(claim(inputs=body))

    assert again.calls[0].reply == body
    assert again.outputs[0].output == body


async def test_numbers_that_no_database_holds_are_cut_to_the_largest(kept):
    """A server that tells 2**70 tokens must not end the run, nor make the next one's sums overflow."""
    with kept.opened() as journal:
        await journal.write(batch(), claim())
        await journal.write(*(call(n, cost_micro_usd=2**70, tokens=2**70) for n in range(3)))
        assert await journal.write(ended(cost_micro_usd=2**70)) == [True]
        await journal.write(BatchEnded("batch-1", False, b"{}", 5.0))

        [resumed] = await journal.write(batch("batch-2"))
    assert resumed == BatchOpened("batch-1", b'{"summary":"1"}', 3 * 10**15, 3 * 10**15)


# What was changed behind its back


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("update step_outputs set output = ?", "the output of step 'summary' of document 'a.txt'"),
        ("update calls set reply = ?", "call request.0 of document 'a.txt'"),
    ],
)
async def test_a_damaged_result_is_never_used(kept, change, what):
    """A bit that has flipped on the disk must not become part of a document's result, nor touch another one's."""
    await end_document(kept, "queued")
    kept.sql(change, b'"wrong"')
    with kept.opened() as journal:
        damage, other = await journal.write(claim(), claim(document="b.txt"))

    assert isinstance(damage, JournalDataError)
    assert damage.what == what
    assert isinstance(other, Claimed)


async def test_a_damaged_cached_reply_is_none(kept):
    """It is only a saving: the model is asked again."""
    with kept.opened() as journal:
        await journal.write(ReplyCached("shared", "request", 0, "offline:small", b'"reply"', 1.0))
    kept.sql("update cached_replies set reply = ?", b'"wrong"')
    with kept.opened() as journal:
        assert await journal.write(FindReply("shared", "request", 0)) == [None]


# Order, waiting and closing


async def test_what_is_begun_again_after_its_end_is_begun_again(kept):
    """Entries are gathered into groups as they come: the order in which they were submitted must not depend on it."""
    with kept.opened() as journal:
        await journal.write(batch(), claim())
        answers = await journal.write(
            ended(),
            BatchEnded("batch-1", True, b"{}", 2.0),
            batch("batch-2", at=3.0),
            claim(again=True, batch="batch-2"),
            output(2),
            ended(2, status="failed"),
        )

    assert [answers[0], answers[2].batch, answers[3].fence, answers[4], answers[5]] == [True, "batch-2", 2, True, True]
    assert kept.sql("select status, fence from documents") == [("failed", 2)]
    assert kept.sql("select batch, state from batches order by batch") == [("batch-1", "done"), ("batch-2", "open")]


async def test_answers_come_in_the_order_of_their_entries(kept):
    """They are applied kind by kind, and sorted on the way: nobody must notice."""
    with kept.opened() as journal:
        answers = await journal.write(
            claim("c"), FindReply("n", "r", 0), claim("a"), output(1, "c"), claim("b"), output(1, "x")
        )

    assert answers == [Claimed(1), None, Claimed(1), True, Claimed(1), False]


async def test_entries_of_many_writers_are_all_answered(kept):
    """A group serves dozens of waiters: each gets its own answers."""
    answers = {}

    async def run(name):
        answers[name] = [*await journal.write(claim(name)), *await journal.write(output(1, name), ended(1, name))]

    with kept.opened() as journal:
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(run, f"document-{number}")

    assert answers == {f"document-{number}": [Claimed(1), True, True] for number in range(300)}
    assert kept.sql("select status, count(*) from documents group by status") == [("completed", 300)]


async def test_a_writer_that_is_cancelled_leaves_its_entries(kept):
    """They have happened: a timeout that lands in a commit must not lose a reply that was paid for."""
    with kept.opened() as journal:
        await journal.write(claim())
        with trio.move_on_after(0):
            await journal.write(call(), output())
        await journal.write(ended(status="queued"))

        assert len((await journal.write(claim()))[0].outputs) == 1


async def test_what_was_submitted_is_written_before_the_journal_closes(kept):
    """Nobody waits for the last entries of a run but its journal."""
    told = []
    with kept.opened() as journal:
        await journal.write(claim())
        for number in range(500):
            returned = journal.submit([call(number), output(1, item=number)], told.append)
            if returned is not None:
                told.append(returned)
    await trio.testing.wait_all_tasks_blocked()

    assert kept.sql("select count(*) from calls") == [(500,)]
    assert kept.sql("select count(*) from step_outputs") == [(500,)]
    assert told == [[None, True]] * 500


async def test_who_makes_more_than_can_be_written_waits(kept):
    """A slow disk must not fill the memory."""
    body = bytes(8 * 1024 * 1024)
    with kept.opened() as journal:
        await journal.write(claim())
        for number in range(10):
            journal.submit([call(number, reply=body)])
        await journal.wait_for_room()

        assert getattr(journal, "_pending_bytes", 0) <= 64 * 1024 * 1024
    assert kept.sql("select count(*) from calls") == [(10,)]


async def test_two_runs_of_a_process_share_an_open_journal(kept):
    """A file has one writer; the first run that ends must not close it under the other."""
    first = kept.place.open()
    second = kept.place.open()
    kept.place.close(first)
    try:
        assert await second.write(claim()) == [Claimed(1)]
    finally:
        kept.place.close(second)


async def test_a_closed_journal_says_so(kept):
    """Entries that nobody writes must not be taken in silence."""
    if isinstance(kept.place, MemoryJournal):
        pytest.skip("it stays open as long as its object lives")
    with kept.opened() as journal:
        pass
    with pytest.raises(JournalClosedError) as caught:
        await journal.write(claim())

    assert str(caught.value) == f"journal {kept.place.name!r} is closed. Open it anew."
    gc.collect()  # and nothing is left that would warn of itself when it goes


async def test_a_group_is_written_whole_or_not_at_all(kept):
    """A reply without its output, or an output of a document that was never claimed, would be half a fact."""
    with kept.opened() as journal:
        await journal.write(claim())
        with pytest.raises(Exception, match=r"(?i)check constraint|cannot be written"):
            await journal.write(call(), output(), ended(status="nonsense"))
        kept.die()

    assert kept.sql("select count(*) from calls") == [(0,)]
    assert kept.sql("select count(*) from step_outputs") == [(0,)]
    assert kept.sql("select status from documents") == [("processing",)]


async def test_progress_is_the_last_word_of_each_process(kept):
    """Whoever watches wants to know how far it is, not how far it was."""
    with kept.opened() as journal:
        for at, finished in ((1.0, 3), (2.0, 7)):
            await journal.write(ProgressTold("batch-1", json.dumps({"finished": finished}).encode(), at))
        await journal.write(ProgressTold("batch-2", b"{}", 3.0))
        with read_journal(kept.place) as reader:
            assert reader.progress("batch-1") == [(journal.worker, {"finished": 7}, 2.0)]
            assert reader.progress("batch-3") == []


async def test_a_run_is_kept_once_under_any_names(kept):
    """What is told again after a lost connection is the same run; and names are whatever people call things."""
    runs = [RunRecorded("letters", name, f"run of {name}", f"batch of {name}", b"\0records", 5.0) for name in HOSTILE]
    with kept.opened() as journal:
        for _ in range(2):
            await journal.write(*runs)
        with read_journal(kept.place) as reader:
            found = [list(reader.runs(f"batch of {name}")) for name in HOSTILE]
            assert found == [[(name, f"run of {name}", 5.0, b"\0records")] for name in HOSTILE]
            assert [list(reader.runs_of("letters", name)) for name in HOSTILE] == found
