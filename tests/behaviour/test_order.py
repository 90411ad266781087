"""Who goes first: priorities, turns, documents as they came, the longest remaining path; and how many are let in."""

import pytest
import trio
import trio.testing

from pipeline_engine import (
    Breaker,
    Document,
    Engine,
    Limits,
    Pipeline,
    RateLimitError,
    Retry,
    UnavailableError,
    iter_batch_async,
    run_batch_async,
)
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import AttemptStarted, QueueLeft, StepReady, WaitEnded

DOWN = UnavailableError("answered HTTP 500.", model="a:model", kind="server", status=500)
BUSY = RateLimitError("is busy.", model="a:model", kind="rate_limited", status=429, retry_after=10)


def one_step(**options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", str, name="ask", **options)(lambda document: document)
    return pipeline


async def given(documents):
    """Give documents, keyed by their numbers: each when the one before it stands where it has to wait."""
    for number, document in enumerate(documents):
        await trio.testing.wait_all_tasks_blocked()
        yield Document(f"{number}", {"document": f"{document}"})


async def at_once(count):
    """Give documents as fast as they are taken."""
    for number in range(count):
        yield Document(f"{number}", {"document": f"{number}"})


async def run_all(engine, pipeline, documents, **options):
    with trio.fail_after(1e6):
        async with iter_batch_async(pipeline, given(documents), engine=engine, **options) as results:
            return [result async for result in results]


def starts(results):
    """When the calls of which document's steps started, in that order."""
    return sorted(
        (record.at, result.document, record.step)
        for result in results
        for record in result.records
        if isinstance(record, AttemptStarted)
    )


def order(results):
    return [document for _at, document, _step in starts(results)]


# Priorities


async def test_an_urgent_run_overtakes_a_large_batch_at_the_next_free_slot(autojump_clock):
    """A person waits for the one; nobody for the other, which loses a single place."""
    model = ScriptedModel({"ask": "fine"}, latency=1)
    async with Engine(models={"fast": model}, capacity=2) as engine, trio.open_nursery() as nursery:
        results = []

        async def collect():
            results.extend(await run_all(engine, one_step(), range(200)))

        nursery.start_soon(collect)
        await trio.sleep(5.5)
        urgent = await engine.run(one_step(), {"document": "x"}, priority=1)

    assert [at for at, _, _ in starts([urgent])] == [6]
    assert [at for at, _, _ in starts(results)] == sorted([n // 2 for n in range(201) if n != 12])


async def test_an_urgent_batch_has_all_slots_and_the_other_what_is_left(autojump_clock):
    """Priorities are strict: higher ones first, as long as there are any."""
    model = ScriptedModel({"ask": "fine"}, latency=1)
    async with Engine(models={"fast": model}, capacity=4) as engine, trio.open_nursery() as nursery:
        results = []

        async def collect():
            results.extend(await run_all(engine, one_step(), range(100)))

        nursery.start_soon(collect)
        await trio.sleep(0.5)
        async with iter_batch_async(one_step(), at_once(10), engine=engine, priority=1) as stream:
            urgent = [result async for result in stream]

    assert [at for at, _, _ in starts(urgent)] == [1] * 4 + [2] * 4 + [3] * 2
    assert [at for at, _, _ in starts(results)] == sorted([0, 0, 0, 0, 3, 3, *[4 + n // 4 for n in range(94)]])


async def test_tokens_that_are_saved_for_a_large_call_are_an_urgent_ones_first(autojump_clock):
    """The promise not to starve is one among equals: it must not hold up the person who waits."""
    limits = Limits(tpm=6_000, burst_tokens=1_000)
    model = ScriptedModel({"ask": "fine"}, limits=limits, max_tokens=100)
    documents = ["x" * 3 * tokens for tokens in (900, 800, *[0] * 100)]
    async with Engine(models={"fast": model}) as engine, trio.open_nursery() as nursery:
        results = []

        async def collect():
            results.extend(await run_all(engine, one_step(), documents, max_documents=200))

        nursery.start_soon(collect)
        await trio.sleep(64.5)  # by then 64 small calls went before the large one, one each second
        urgent = await engine.run(one_step(), {"document": "x"}, priority=1)

    assert [at for at, _, _ in starts([urgent])] == [pytest.approx(65, abs=0.01)]
    assert [at for at, document, _ in starts(results) if document == "1"] == [pytest.approx(74, abs=0.01)]


# Turns and documents


async def test_two_batches_take_turns(autojump_clock):
    """A small batch that comes later must not wait for the whole of a large one."""
    model = ScriptedModel({"ask": "fine"}, latency=1)
    async with Engine(models={"fast": model}, capacity=1) as engine, trio.open_nursery() as nursery:
        large, small = [], []

        async def collect(into, count):
            into.extend(await run_all(engine, one_step(), range(count)))

        nursery.start_soon(collect, large, 10)
        await trio.sleep(0.5)
        nursery.start_soon(collect, small, 3)

    assert [at for at, _, _ in starts(small)] == [2, 4, 6]
    assert sorted(at for at, _, _ in starts(large + small)) == list(range(13))


async def test_two_batches_take_turns_at_a_rate_too(autojump_clock):
    """A rate is shared like slots are."""
    model = ScriptedModel({"ask": "fine"}, limits=Limits(rpm=60))
    async with Engine(models={"fast": model}) as engine, trio.open_nursery() as nursery:
        large, small = [], []

        async def collect(into, count):
            into.extend(await run_all(engine, one_step(), range(count)))

        nursery.start_soon(collect, large, 50)
        await trio.sleep(9.5)
        nursery.start_soon(collect, small, 3)

    assert [at for at, _, _ in starts(small)] == [11, 13, 15]
    assert order(large) == [f"{number}" for number in range(50)]


async def test_documents_are_served_as_they_came(autojump_clock):
    """Each document is finished as early as it can be: nobody starts a hundred and ends none."""
    pipeline = Pipeline("two", inputs={"document": str})
    pipeline.llm("fast", str, name="first")(lambda document: document)
    pipeline.llm("fast", str, name="second")(lambda first: first)
    model = ScriptedModel({"*": "fine"}, latency=1, limits=Limits(max_concurrency=2))
    async with Engine(models={"fast": model}) as engine:
        results = await run_all(engine, pipeline, range(6))

    assert starts(results) == [
        (2 * pair + late, f"{document}", step)
        for pair in range(3)
        for late, step in enumerate(("first", "second"))
        for document in (2 * pair, 2 * pair + 1)
    ]


async def test_documents_that_come_at_one_instant_are_served_as_they_came(autojump_clock):
    """Which of them have the first tokens must not be drawn by lot: the same batch gives the same trace."""
    model = ScriptedModel({"ask": "fine"}, limits=Limits(rpm=60, burst_requests=8))

    async with (
        Engine(models={"fast": model}) as engine,
        iter_batch_async(one_step(), at_once(64), engine=engine) as stream,
    ):
        results = [result async for result in stream]

    assert {document for at, document, _ in starts(results) if at == 0} == {f"{number}" for number in range(8)}


async def test_a_retried_step_keeps_its_place(autojump_clock):
    """A document that failed once must not start again at the end of the queue."""
    model = ScriptedModel(
        {"ask": lambda request: in_turn(DOWN, "fine") if request.messages[0].text == "1" else "fine"}, latency=1
    )
    retry = Retry(attempts=2, base_delay=2.5, jitter="none")
    async with Engine(models={"fast": model}, capacity=1) as engine:
        results = await run_all(engine, one_step(retry=retry), range(10), max_documents=10)

    # Document 1 fails at 2 s and may come back at 4.5 s: it has the next free slot.
    assert order(results) == ["0", "1", "2", "3", "4", "1", "5", "6", "7", "8", "9"]


# Steps of one document


def chain():
    """`a` is needed by `then`; `b` and `c` by nobody."""
    pipeline = Pipeline("chain", inputs={"document": str})
    pipeline.llm("fast", str, name="c")(lambda document: document)
    pipeline.llm("fast", str, name="b")(lambda document: document)
    pipeline.llm("fast", str, name="a")(lambda document: document)
    pipeline.llm("fast", str, name="then")(lambda a: a)
    return pipeline


async def steps_in_order(engine, **options):
    result = await engine.run(chain(), {"document": "x"}, **options)
    return [step for _, _, step in starts([result])]


async def test_without_estimates_each_step_counts_as_one(autojump_clock):
    """A step that another one waits for goes first."""
    model = ScriptedModel({"*": "fine"}, latency=1)
    async with Engine(models={"fast": model}, capacity=1) as engine:
        assert (await steps_in_order(engine))[0] == "a"


async def test_given_estimates_put_the_longest_remaining_path_first(autojump_clock):
    """Whoever knows that one step takes a minute says so, and the minute begins at once."""
    model = ScriptedModel({"*": "fine"}, latency=1)
    async with Engine(models={"fast": model}, capacity=1) as engine:
        long_b = await steps_in_order(engine, estimates={"a": 1, "b": 60, "c": 5, "then": 1})
        some = await steps_in_order(engine, estimates={"a": 1, "c": 60})

    assert long_b == ["b", "c", "a", "then"]
    assert some[0] == "c"


async def test_in_a_batch_given_estimates_count_within_each_document(autojump_clock):
    """Documents still go as they came; within one the longest path goes first."""
    model = ScriptedModel({"*": "fine"}, latency=1, limits=Limits(max_concurrency=1))
    async with Engine(models={"fast": model}) as engine:
        estimates = {"a": 1, "b": 60, "c": 5, "then": 1}
        results = await run_all(engine, chain(), range(3), estimates=estimates)

    steps = [(document, step) for _, document, step in starts(results)]
    assert steps == [(f"{number}", step) for number in range(3) for step in ("b", "c", "a", "then")]


async def test_what_a_run_has_taken_decides_the_order_of_the_next(autojump_clock):
    """Nobody measures beforehand: the first documents of a batch do."""
    model = ScriptedModel({"*": "fine"}, latency={"a": 1, "b": 60, "c": 5, "then": 1})
    async with Engine(models={"fast": model}, capacity=1) as engine:
        pipeline = chain()
        ran = [await engine.run(pipeline, {"document": f"{number}"}) for number in range(2)]
        before, after = ([step for _, _, step in starts([result])] for result in ran)

    assert before[0] == "a"
    assert after == ["b", "c", "a", "then"]


# How many documents are let in


STALLS = {
    "rate": lambda: {"limits": Limits(rpm=1)},
    "concurrency": lambda: {"limits": Limits(max_concurrency=1), "latency": 1e5},
    "cool-down": lambda: {"script": {"ask": RateLimitError("no.", model="m", kind="rate_limited", retry_after=1e4)}},
    "breaker": lambda: {"script": {"ask": DOWN}, "breaker": Breaker(failure_threshold=1, timeout=1e4)},
    "hang": lambda: {"latency": 1e5},
}


@pytest.mark.parametrize("stall", STALLS)
async def test_documents_in_memory_are_bounded_whatever_stalls(autojump_clock, stall):
    """A hundred thousand documents behind a stalled model must not fill the memory."""
    pulled = finished = 0

    async def documents():
        nonlocal pulled
        for number in range(100_000):
            pulled += 1
            yield Document(f"{number}", {"document": f"{number}"})

    options = {"script": {"ask": "fine"}, **STALLS[stall]()}
    async with Engine(models={"fast": ScriptedModel(**options)}, capacity=4) as engine:
        with trio.move_on_after(50):
            pipeline = one_step(timeout=None)
            async with iter_batch_async(pipeline, documents(), engine=engine, max_documents=40) as results:
                async for _ in results:
                    finished += 1
        statistics = engine.statistics()

    # Forty in flight, and one in the hand of whoever lets them in; fewer where the stalled calls hold all slots.
    assert pulled - finished == (5 if stall == "hang" else 41)
    assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)


async def test_a_batch_that_stalls_leaves_room_for_the_documents_of_another(autojump_clock):
    """Its documents wait for a model, not for slots: whoever has another model goes on at full speed."""
    stalled = ScriptedModel({"ask": "fine"}, limits=Limits(rpm=1))
    well = ScriptedModel({"ask": "fine"}, latency=1)
    async with Engine(capacity=4) as engine, trio.open_nursery() as nursery:

        async def stall():
            async with iter_batch_async(
                one_step(), given(range(1_000)), engine=engine, models={"fast": stalled}
            ) as results:
                async for _ in results:
                    pass

        nursery.start_soon(stall)
        await trio.sleep(0.5)
        results = await run_all(engine, one_step(), range(40), models={"fast": well})
        nursery.cancel_scope.cancel()

    assert [at for at, _, _ in starts(results)] == sorted([0.5 + second for second in range(10)] * 4)


# What each wait was for


def waits_of(result):
    """For each wait in the queue when it began, when it ended, and what it was for."""
    since, left, found = None, (), []
    for record in result.records:
        if isinstance(record, StepReady | WaitEnded):
            since, left = record.at, ()
        elif isinstance(record, QueueLeft):
            left = record.waits
        elif isinstance(record, AttemptStarted):
            found.append((since, record.at, dict(left)))
    return found


async def test_the_waits_of_a_call_are_told_by_cause_and_add_up(autojump_clock):
    """A report that says "waiting" helps nobody: the cure for a rate is another than that for an outage.

    One call at a time. The first three fail and open the breaker at 3 s; the probe at 11 s is refused for rate at
    12 s; the next one goes at 22 s and closes the breaker at 24 s.
    """
    answers = iter([*[Reply(DOWN, latency=1)] * 3, Reply(BUSY, latency=1)])
    model = ScriptedModel(
        {"ask": lambda _request: next(answers, Reply("fine", latency=2))},
        name="a:model",
        limits=Limits(max_concurrency=1),
        breaker=Breaker(failure_threshold=3, timeout=8, success_threshold=1),
    )
    retry = Retry(attempts=1, jitter="none")
    async with Engine(models={"fast": model}) as engine:
        results = {result.document: result for result in await run_all(engine, one_step(retry=retry), range(6))}

    assert {key: waits_of(result) for key, result in results.items()} == {
        "0": [(0, 0, {})],
        "1": [(0, 1, {"concurrency": 1})],
        "2": [(0, 2, {"concurrency": 2})],
        "3": [(0, 11, {"concurrency": 3, "breaker": 8}), (22, 24, {"breaker": 2})],
        "4": [(0, 22, {"concurrency": 3, "breaker": 9, "cooldown": 10})],
        "5": [(0, 26, {"concurrency": 5, "breaker": 11, "cooldown": 10})],
    }


async def test_a_wait_for_a_slot_alone_needs_no_word(autojump_clock):
    """What a trace shows between ready and started is a wait for a slot, unless it says otherwise."""
    model = ScriptedModel({"ask": "fine"}, latency=1)
    async with Engine(models={"fast": model}, capacity=2) as engine:
        results = await run_all(engine, one_step(), range(10), max_documents=10)

    assert not [record for result in results for record in result.records if isinstance(record, QueueLeft)]


async def test_a_batch_takes_its_turns_beside_a_run_that_fills_every_slot(autojump_clock):
    """A large run must not starve what comes after it: a batch takes its turns, half of the slots."""
    wide = Pipeline("wide", inputs={"items": list[str]})
    wide.llm("fast", str, name="ask", each="items")(lambda item: item)
    quick = ScriptedModel({"ask": "ok"}, latency=1.0)
    async with Engine(models={"fast": quick}, capacity=32, seed=1) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.run, wide, {"items": [str(number) for number in range(1600)]})
        await trio.sleep(0.5)
        began = trio.current_time()
        documents = [{"document": str(number)} for number in range(96)]
        batch = await run_batch_async(one_step(), documents, engine=engine)
        assert batch.is_complete
        assert trio.current_time() - began <= 7.5
        nursery.cancel_scope.cancel()
