"""Many documents: admission, errors of single ones, order, timeouts, leaving early and files of results."""

import itertools
import json
import threading

import pytest
import trio
import trio.testing

from pipeline_engine import (
    Document,
    DuplicateDocumentError,
    Engine,
    Pipeline,
    PlanError,
    Runner,
    Usage,
    iter_batch,
    iter_batch_async,
    run_batch,
    run_batch_async,
)
from pipeline_engine.testing import Reply, ScriptedModel


def sleeping(seconds=1.0):
    """A pipeline of one step that sleeps, and the numbers of the documents that began and ended."""
    pipeline = Pipeline("sleeping", inputs={"number": int})
    began, ended = [], []

    @pipeline.step
    async def step(number: int) -> int:
        began.append(number)
        try:
            await trio.sleep(seconds)
        finally:
            ended.append(number)
        return number

    return pipeline, began, ended


def quick(name="quick"):
    pipeline = Pipeline(name, inputs={"number": int})

    @pipeline.step
    async def step(number: int) -> float:
        return 10 / number

    return pipeline


def numbers(*which):
    return [{"number": number} for number in which]


# Counts and single documents' errors


def test_counts_failures_and_a_sample_sum_up_a_batch():
    """A million results do not fit into memory; this much does."""
    batch = run_batch(quick(), (Document(str(number), {"number": number}) for number in (1, 2, 0, 5)))

    assert (batch.documents, batch.duplicates) == (4, 0)
    assert batch.counts == {"completed": 3, "failed": 1}
    assert batch.failed == (("0", "step 'step' of document '0' failed: ZeroDivisionError: division by zero"),)
    assert {result.document for result in batch.sample} == {"0", "1", "2", "5"}
    assert not batch.is_complete
    assert batch.elapsed > 0


def test_an_empty_batch_is_complete():
    """A folder with nothing new in it is the normal case of a nightly job."""
    batch = run_batch(quick(), [])
    assert (batch.documents, batch.counts, batch.is_complete) == (0, {}, True)


def test_usage_is_summed_over_the_documents():
    """What the night cost."""
    pipeline = Pipeline("ask", inputs={"number": int})

    @pipeline.llm("fast", str)
    def answer(number: int) -> str:
        return str(number)

    model = ScriptedModel({"answer": Reply("x", usage=Usage(10, 1))})
    assert run_batch(pipeline, numbers(1, 2, 3), models={"fast": model}).usage == Usage(30, 3)


def test_a_document_with_wrong_inputs_fails_alone():
    """One broken line of a file is that line's error."""
    batch = run_batch(quick(), [{"number": 1}, Document("broken", {"nmber": 2}), {"number": "many"}])

    assert batch.counts == {"completed": 1, "failed": 2}
    assert dict(batch.failed)["broken"] == (
        "inputs do not fit pipeline 'quick': 'number' is missing; give a int. "
        "'nmber' is no input. Did you mean 'number'? It takes number."
    )


def test_a_document_that_could_not_be_read_fails_alone_with_its_own_error():
    """Reading happens in the iterable; its failure belongs to the document, not to the batch."""
    error = PermissionError("no access to 'b.pdf'")
    documents = [Document("a.pdf", {"number": 1}), Document("b.pdf", {}, error)]

    with iter_batch(quick(), documents) as results:
        ended = {result.document: result for result in results}

    assert {key: result.status for key, result in ended.items()} == {"a.pdf": "completed", "b.pdf": "failed"}
    assert ended["b.pdf"].error is error
    assert ended["b.pdf"].reason == "no access to 'b.pdf'"


def test_a_key_seen_twice_with_equal_content_is_run_once():
    """The same file in two folders costs once."""
    pipeline, began, _ = sleeping(0)
    documents = [Document("a", {"number": 1}), Document("a", {"number": 1}), *numbers(7, 7, 7)]

    batch = run_batch(pipeline, documents)

    assert (batch.documents, batch.duplicates, batch.counts) == (2, 3, {"completed": 2})
    assert sorted(began) == [1, 7]


def test_a_key_seen_twice_with_other_content_is_that_documents_error():
    """Silently keeping one of two would lose the other."""
    with iter_batch(quick(), [Document("a", {"number": 1}), Document("a", {"number": 2})]) as results:
        first, second = sorted(results, key=lambda result: result.status)

    assert (first.document, first.status, first["step"]) == ("a", "completed", 10.0)
    assert (second.document, second.status) == ("a", "failed")
    assert isinstance(second.error, DuplicateDocumentError)
    assert str(second.error) == (
        "document 'a' came before in this batch with other content. Give each document a key of its own."
    )


def test_a_bare_mappings_key_is_the_hash_of_its_inputs():
    """The same content has the same name tomorrow, whatever the order of its fields."""
    pipeline = Pipeline("pair", inputs={"a": int, "b": int})
    pipeline.step(name="step")(lambda a, b: a)

    keys = [run_batch(pipeline, [inputs]).sample[0].document for inputs in ({"a": 1, "b": 2}, {"b": 2, "a": 1})]

    assert keys[0] == keys[1]
    assert len(keys[0]) == 32


def test_documents_that_cannot_be_hashed_have_keys_of_their_own():
    """A key is how a result is told from the others; inputs may be any object."""
    pipeline = Pipeline("objects", inputs={"thing": object})
    pipeline.step(name="step")(lambda thing: 1)

    with iter_batch(pipeline, [{"thing": object()} for _ in range(3)]) as results:
        keys = {result.document for result in results}

    assert len(keys) == 3


@pytest.mark.parametrize("given", ["text", b"bytes", 7, None, ["a", "list"], ("key", {"number": 1})])
def test_a_document_that_is_no_mapping_fails_alone_and_is_told_what_it_should_be(given):
    """A list of texts is the first thing that people try. Its text must not be spelled out letter by letter."""
    batch = run_batch(quick(), [{"number": 1}, given, {"number": 2}])

    assert batch.counts == {"completed": 2, "failed": 1}
    ((_, reason),) = batch.failed
    assert reason.startswith("inputs do not fit pipeline 'quick': a document is a ")
    assert {"mapping", type(given).__name__} <= set(reason.replace(".", "").replace(",", "").split())
    assert "is no input" not in reason


@pytest.mark.parametrize("given", ["texts", {"number": 1}, 5, None, Document("a", {"number": 1})])
def test_documents_that_are_no_iterable_of_documents_are_refused(given):
    """One document in place of many must not run as four letters, nor silently as none."""
    with pytest.raises(TypeError) as caught:
        run_batch(quick(), given)
    assert "documents" in str(caught.value)
    assert type(given).__name__ in str(caught.value)


def test_a_plan_error_is_raised_before_any_document_is_taken():
    """A typo in the pipeline is found before a million files are opened."""
    taken = []
    pipeline = Pipeline("wrong", inputs={"number": int})
    pipeline.step(name="step")(lambda nmber: nmber)

    def documents():
        taken.append(1)
        yield {"number": 1}

    with pytest.raises(PlanError, match="PE101"):
        run_batch(pipeline, documents())
    with pytest.raises(PlanError, match="PE101"), iter_batch(pipeline, documents()) as results:
        next(results)
    assert taken == []


# Files of results


def test_every_result_is_a_line_of_the_file_and_is_read_back(tmp_path):
    """The file is what the next program reads, and the results are not kept in memory."""
    out = tmp_path / "results.jsonl"

    batch = run_batch(quick(), [Document(str(n), {"number": n}) for n in (2, 0)], out=str(out), capacity=1)

    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert lines == [
        {"document": "2", "status": "completed", "outputs": {"step": 5.0}, "errors": {}},
        {
            "document": "0",
            "status": "failed",
            "outputs": {},
            "errors": {"step": "step 'step' of document '0' failed: ZeroDivisionError: division by zero"},
        },
    ]
    assert list(batch.results) == list(batch.results) == lines
    assert batch.out == out


async def test_a_line_is_there_as_soon_as_its_document_is_finished(tmp_path, autojump_clock):
    """After a crash the file holds what was done."""
    pipeline, _, _ = sleeping(1)
    out = tmp_path / "results.jsonl"
    seen = {}

    async def watch():
        for at in (0.5, 1.5, 2.5):
            await trio.sleep_until(began + at)
            seen[at] = out.read_text(encoding="utf-8").count("\n")

    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        await run_batch_async(pipeline, numbers(1, 2, 3), capacity=1, out=out)
    assert seen == {0.5: 0, 1.5: 1, 2.5: 2}


def test_results_without_a_file_say_where_to_get_them():
    """Results that nobody kept cannot be read, and None would be found out much later."""
    with pytest.raises(LookupError) as caught:
        _ = run_batch(quick(), numbers(1)).results
    assert str(caught.value) == (
        'a batch keeps no results. Give run_batch(…, out="results.jsonl") or journal=, or use iter_batch(…).'
    )


def test_a_file_that_cannot_be_written_is_told_before_anything_runs(tmp_path):
    """An hour of calls for a file that nobody can open would be lost."""
    pipeline, began, _ = sleeping(0)
    with pytest.raises(FileNotFoundError):
        run_batch(pipeline, numbers(1), out=tmp_path / "missing" / "results.jsonl")
    assert began == []


def test_keys_and_outputs_in_every_script_are_written(tmp_path):
    """Documents come in all languages, and file names from Linux may hold bytes that are no UTF-8."""
    batch = run_batch(quick(), [Document("報告 ☃.txt", {"number": 1})], out=tmp_path / "out.jsonl")
    assert [line["document"] for line in batch.results] == ["報告 ☃.txt"]


def test_a_key_from_an_undecodable_file_name_is_written(tmp_path):
    """`os.fsdecode` gives lone surrogates for them; one such name must not end the batch."""
    batch = run_batch(quick(), [Document("a\udcff.txt", {"number": 1}), *numbers(2)], out=tmp_path / "out.jsonl")
    assert batch.counts == {"completed": 2}
    assert len(list(batch.results)) == 2


# Where documents come from


def broken_source():
    yield from numbers(1, 2, 5)
    raise OSError("the disk is gone")


def test_an_error_of_the_iterable_comes_after_the_results_before_it(tmp_path):
    """The documents before it were paid for."""
    out = tmp_path / "out.jsonl"

    with pytest.raises(OSError, match="the disk is gone") as caught:
        run_batch(quick(), broken_source(), out=out)

    assert caught.value.__notes__ == ["Raised by the iterable of documents; the documents before it were run."]
    assert sorted(json.loads(line)["outputs"]["step"] for line in out.read_text().splitlines()) == [2.0, 5.0, 10.0]


def test_an_error_of_the_iterable_comes_after_the_results_also_one_by_one(threads_left):
    """Who iterates sees them first."""
    seen = []
    with pytest.raises(OSError, match="the disk is gone"), iter_batch(quick(), broken_source()) as results:
        seen.extend(result["step"] for result in results)
    assert sorted(seen) == [2.0, 5.0, 10.0]
    assert threads_left() == []


async def test_an_async_iterable_gives_documents_as_they_come(autojump_clock):
    """Queues and subscriptions are such iterables: what has come runs, while the next has not."""
    pipeline, _, _ = sleeping(1)
    closed = []

    async def arrivals():
        try:
            for number in range(3):
                yield {"number": number}
                await trio.sleep(10)
        finally:
            closed.append(trio.current_time() - began)

    began = trio.current_time()
    async with iter_batch_async(pipeline, arrivals()) as results:
        finished = [(result["step"], trio.current_time() - began) async for result in results]

    assert finished == [(0, 1), (1, 11), (2, 21)]
    assert closed == [30]


async def test_an_error_of_an_async_iterable_comes_after_the_results_too(autojump_clock):
    """A lost connection to the queue must not lose what runs."""
    pipeline, _, ended = sleeping(5)

    async def arrivals():
        yield {"number": 1}
        await trio.sleep(1)
        raise ConnectionError("lost")

    with pytest.raises(ConnectionError, match="lost") as caught:
        await run_batch_async(pipeline, arrivals())
    assert ended == [1]
    assert caught.value.__notes__ == ["Raised by the iterable of documents; the documents before it were run."]


def test_a_generator_runs_outside_the_engines_thread():
    """It reads files or a database: the calls on the wire must not wait for it."""
    where = set()

    def documents():
        where.add(threading.current_thread() is threading.main_thread())
        yield {"number": 1}

    run_batch(quick(), documents())
    assert where == {False}


def test_a_generator_of_a_hundred_thousand_is_not_pulled_far_ahead():
    """Pulling is reading: the memory of a batch must not grow with its length."""
    pulled = itertools.count()
    last_pulled = 0

    def documents():
        nonlocal last_pulled
        for number in range(1, 100_001):
            last_pulled = next(pulled) + 1
            yield {"number": number}

    with iter_batch(quick(), documents(), capacity=4, max_documents=10) as results:
        most_ahead = max(last_pulled - taken for taken, _ in enumerate(itertools.islice(results, 300), 1))

    # Those in flight, the chunk that is being admitted, the next one, and a result in hand on either side.
    assert most_ahead <= 10 + 2 * 64 + 2


# Admission and order


async def test_a_slow_consumer_stops_admission(autojump_clock):
    """A result that nobody took is in flight: else ten thousand wait in memory for a slow database."""
    pipeline, began, _ = sleeping(1)

    async with iter_batch_async(pipeline, numbers(*range(100)), capacity=50, max_documents=5) as results:
        for taken in range(1, 11):
            await anext(results)
            await trio.sleep(100)
            assert len(began) == 5 + taken


async def test_documents_are_admitted_only_while_a_slot_is_free(autojump_clock):
    """Many documents begun and none finished helps nobody; the first ones go first."""
    pipeline = Pipeline("two", inputs={"number": int})
    began = []

    @pipeline.step
    async def first(number: int) -> int:
        began.append(number)
        await trio.sleep(1)
        return number

    @pipeline.step
    async def second(first: int) -> int:
        await trio.sleep(1)
        return first

    start = trio.current_time()
    finished = []
    async with iter_batch_async(pipeline, numbers(*range(4)), capacity=2) as results:
        async for result in results:
            finished.append((trio.current_time() - start, result["second"]))
            if len(finished) == 2:
                assert len(began) <= 4

    assert sorted(finished) == [(2, 0), (2, 1), (4, 2), (4, 3)]


async def test_documents_are_served_in_the_order_of_their_coming(autojump_clock):
    """First come, first served: with one slot the results come in order."""
    pipeline, began, _ = sleeping(1)
    async with iter_batch_async(pipeline, numbers(*range(20)), capacity=1) as results:
        assert [result["step"] async for result in results] == list(range(20))
    assert began == list(range(20))


async def test_results_come_as_documents_finish_not_as_they_came(autojump_clock):
    """One long document must not hold back ninety-nine short ones."""
    pipeline = Pipeline("long first", inputs={"number": int})

    @pipeline.step
    async def step(number: int) -> int:
        await trio.sleep(10 - number)
        return number

    async with iter_batch_async(pipeline, numbers(*range(5))) as results:
        assert [result["step"] async for result in results] == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("most", [0, -1])
def test_at_least_one_document_must_be_in_flight(most):
    """Zero would wait for ever."""
    with pytest.raises(ValueError, match=rf"^max_documents={most}: at least one document must be in flight\.$"):
        run_batch(quick(), numbers(1), max_documents=most)


# Leaving early


async def test_leaving_early_cancels_what_is_in_flight_and_frees_every_slot(autojump_clock):
    """Who has seen enough pays for no more calls, and the engine goes on with the others' work."""
    pipeline, began, ended = sleeping(1)
    async with Engine(capacity=3) as engine:
        async with iter_batch_async(pipeline, numbers(*range(50)), engine=engine) as results:
            async for _ in results:
                await trio.sleep(0.5)
                break
        assert sorted(ended) == sorted(began)
        assert len(began) == 6
        statistics = engine.statistics()
        assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
        result = await engine.run(pipeline, {"number": 99})
    assert result["step"] == 99


def test_leaving_a_sync_batch_early_leaves_no_thread_and_nothing_running(threads_left):
    """A `break` in a notebook must not go on spending."""
    pipeline = Pipeline("some hang", inputs={"number": int})
    began, ended = [], []

    @pipeline.step
    async def step(number: int) -> int:
        began.append(number)
        try:
            if number:
                await trio.sleep_forever()
        finally:
            ended.append(number)
        return number

    with iter_batch(pipeline, numbers(*range(20)), capacity=4) as results:
        for result in results:
            assert result["step"] == 0
            break

    assert threads_left() == []
    assert sorted(began) == sorted(ended)


def test_a_sync_batch_on_a_runner_that_is_left_early_frees_its_slots(threads_left):
    """The runner outlives the batch and must be as good as new."""
    pipeline = Pipeline("hang", inputs={"number": int})

    @pipeline.step
    async def step(number: int) -> int:
        if number:
            await trio.sleep_forever()
        return number

    with Runner(capacity=2) as runner:
        with iter_batch(pipeline, numbers(*range(20)), engine=runner) as results:
            next(results)
        assert runner.run(pipeline, {"number": 0}, timeout=5).status == "completed"
        with iter_batch(pipeline, numbers(0), engine=runner) as results:
            assert [result["step"] for result in results] == [0]
    assert threads_left() == []


def test_an_exhausted_sync_batch_leaves_no_thread_and_stays_exhausted(threads_left):
    """Also without a `with` block, if one reads it to its end."""
    results = iter_batch(quick(), numbers(1, 2))

    assert len(list(results)) == 2
    assert threads_left() == []
    assert list(results) == []
    results.close()


async def test_an_exception_in_the_block_leaves_it_as_itself(autojump_clock):
    """`except ValueError` around the block must catch it: no group around it."""
    pipeline, _, _ = sleeping(1)
    error = ValueError("mine")

    async def body():
        async with iter_batch_async(pipeline, numbers(*range(10))) as results:
            await anext(results)
            raise error

    with pytest.raises(ValueError, match="mine") as caught:
        await body()
    assert caught.value is error


def test_an_exception_in_the_sync_block_leaves_it_as_itself(threads_left):
    """And the thread ends with it."""
    pipeline, _, _ = sleeping(0)

    def body():
        with iter_batch(pipeline, numbers(*range(10))) as results:
            next(results)
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        body()
    assert threads_left() == []


async def test_leaving_early_closes_an_async_generator_of_documents(autojump_clock):
    """It may hold a connection: waiting for the garbage collector would keep that open."""
    pipeline, _, _ = sleeping(1)
    closed = []

    async def arrivals():
        try:
            for number in itertools.count():
                yield {"number": number}
        finally:
            closed.append(True)

    documents = arrivals()
    async with iter_batch_async(pipeline, documents, capacity=1) as results:
        await anext(results)

    was_closed = list(closed)
    await documents.aclose()
    assert was_closed == [True]


async def test_a_cancelled_batch_cancels_its_documents_and_propagates(autojump_clock):
    """The caller's scope is the last word."""
    pipeline, began, ended = sleeping(10)
    async with Engine(capacity=2) as engine:
        with trio.move_on_after(5) as scope:
            await run_batch_async(pipeline, numbers(*range(10)), engine=engine)
        assert scope.cancelled_caught
        assert (sorted(began), sorted(ended)) == ([0, 1], [0, 1])
        assert engine.statistics().in_flight == 0


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_is_not_swallowed_by_a_batch(error):
    """Ctrl-C in a step of document 500 must not look like a batch that is complete."""
    pipeline = Pipeline("interrupted", inputs={"number": int})

    @pipeline.step
    async def step(number: int) -> int:
        raise error

    for _ in range(20):  # trio takes its tasks in any order
        with pytest.raises(error):
            run_batch(pipeline, numbers(1))


# Timeouts


async def test_a_document_timeout_stops_that_document_alone(autojump_clock):
    """One endless document must not hold the batch."""
    pipeline = Pipeline("uneven", inputs={"number": int})

    @pipeline.step
    async def step(number: int) -> int:
        await trio.sleep(number)
        return number

    began = trio.current_time()
    batch = await run_batch_async(pipeline, [Document(str(n), {"number": n}) for n in (1, 99, 2)], document_timeout=3)

    assert batch.counts == {"completed": 2, "stopped": 1}
    assert batch.failed == (("99", "stopped: the document's timeout of 3 s"),)
    assert trio.current_time() - began == batch.elapsed == 3


async def test_a_batchs_timeout_stops_what_is_in_flight_and_admits_no_more(autojump_clock):
    """The night ends at six; what was done by then is kept."""
    pipeline, began, _ = sleeping(2)

    batch = await run_batch_async(pipeline, numbers(*range(10)), timeout=5, capacity=1)

    assert batch.counts == {"completed": 2, "stopped": 1}
    assert began == [0, 1, 2]
    assert batch.elapsed == 5


async def test_the_reason_names_the_timeout_that_was_given(autojump_clock):
    """The tightest wins and says which one it was: nobody has ever written 1 s."""
    pipeline, _, _ = sleeping(2)

    batch = await run_batch_async(pipeline, numbers(*range(10)), timeout=5, document_timeout=4, capacity=1)

    assert [reason for _, reason in batch.failed] == ["stopped: the batch's timeout of 5 s"]


async def test_a_batchs_timeout_also_ends_a_wait_for_documents(autojump_clock):
    """A queue that stays empty is the commonest reason to want a timeout."""
    pipeline, _, _ = sleeping(1)

    async def arrivals():
        yield {"number": 1}
        await trio.sleep(1000)
        yield {"number": 2}

    documents = arrivals()
    batch = await run_batch_async(pipeline, documents, timeout=5)
    await documents.aclose()

    assert (batch.counts, batch.elapsed) == ({"completed": 1}, 5)


# Shared engines


def test_a_batch_on_a_runner_uses_its_models_and_slots(threads_left):
    """In a worker process everything goes through one runner."""
    pipeline = Pipeline("ask", inputs={"number": int})

    @pipeline.llm("fast", str)
    def answer(number: int) -> str:
        return str(number)

    model = ScriptedModel({"answer": "x"})
    with Runner(models={"fast": model}, capacity=2) as runner:
        batch = run_batch(pipeline, numbers(1, 2, 3), engine=runner)
        with iter_batch(pipeline, numbers(4, 5), engine=runner) as results:
            assert [result[answer] for result in results] == ["x", "x"]

    assert batch.counts == {"completed": 3}
    assert len(model.requests) == 5
    assert threads_left() == []


async def test_two_batches_on_one_engine_take_turns(autojump_clock):
    """A batch of a thousand must not keep a batch of twelve waiting until it is done, nor may luck decide."""
    order = []

    async def run(name, count):
        pipeline, _, _ = sleeping(1)
        async with iter_batch_async(pipeline, numbers(*range(count)), engine=engine) as results:
            async for _ in results:
                order.append(name)  # noqa: PERF401 - two tasks append in turn

    async with Engine(capacity=1) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(run, "big", 20)
        await trio.sleep(0.5)
        nursery.start_soon(run, "small", 12)

    turns = [set(order[place : place + 2]) for place in range(1, 25, 2)]
    assert turns == [{"big", "small"}] * 12


async def test_a_batch_with_priority_goes_first(autojump_clock):
    """For the person who waits while the nightly batch runs."""
    elapsed = {}

    async def run(name, count, priority):
        pipeline, _, _ = sleeping(1)
        batch = await run_batch_async(pipeline, numbers(*range(count)), engine=engine, priority=priority)
        elapsed[name] = batch.elapsed

    async with Engine(capacity=1) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(run, "nightly", 30, 0)
        await trio.sleep(0.5)
        nursery.start_soon(run, "urgent", 12, 1)

    assert elapsed["urgent"] == 12.5


async def test_a_batch_tells_where_its_time_went(autojump_clock):
    """Counts alone do not say which step to make faster."""
    pipeline, _, _ = sleeping(2)

    batch = await run_batch_async(pipeline, numbers(1, 2, 3))

    (totals,) = batch.trace.steps
    assert (totals.step, totals.count, totals.completed, totals.total, totals.max) == ("step", 3, 3, 6, 2)
