"""A model that keeps failing is left alone, its steps go elsewhere or wait, and nobody else notices."""

import logging

import pytest
import trio
import trio.testing
from pydantic import BaseModel

from pipeline_engine import (
    Breaker,
    CircuitOpenError,
    Completed,
    Document,
    Engine,
    Failed,
    Limits,
    Pipeline,
    RateLimitError,
    RejectedError,
    Retry,
    StepTimeoutError,
    Timeout,
    UnavailableError,
    iter_batch_async,
)
from pipeline_engine.resilience.circuit import CircuitState
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import AttemptStarted, BreakerChanged, QueueLeft

DOWN = UnavailableError("answered HTTP 500.", model="a:model", kind="server", status=500)
ONCE = Retry(attempts=1, jitter="none")
EXACT = Retry(attempts=4, jitter="none")
FIRST = "a:model"


class Answer(BaseModel):
    text: str


def one_step(output=str, **options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", output, name="ask", **options)(lambda document: document)
    return pipeline


async def given(documents):
    """Give documents, keyed by their numbers: each when the one before it stands where it has to wait.

    A list would be read in a thread, which the virtual clock does not wait for.
    """
    for number, document in enumerate(documents):
        await trio.testing.wait_all_tasks_blocked()
        yield Document(f"{number}", {"document": f"{document}"})


async def run_all(engine, pipeline, documents, **options):
    with trio.fail_after(1e6):
        async with iter_batch_async(pipeline, given(documents), engine=engine, **options) as results:
            return [result async for result in results]


async def batch(pipeline, documents, model, *, capacity=64, **options):
    models = model if isinstance(model, dict) else {"fast": model}
    async with Engine(models=models, capacity=capacity, seed=1) as engine:
        results = await run_all(engine, pipeline, documents, **options)
        statistics = engine.statistics()
        assert (statistics.in_flight, statistics.ready) == (0, 0)
        assert all(model.in_flight == model.waiting == 0 for model in statistics.models.values())
    return results


def records(results, kind):
    return sorted((r for result in results for r in result.records if isinstance(r, kind)), key=lambda r: r.at)


def starts(results, model=None):
    """The instants at which calls started."""
    return [record.at for record in records(results, AttemptStarted) if model in (None, record.model)]


def changes(results):
    """How a breaker has changed, and when."""
    return [(record.at, record.after) for record in records(results, BreakerChanged)]


def failing(until, *, latency=0.0, limits=None, **breaker):
    """A model that is down until an instant, and well from then on."""
    return ScriptedModel(
        {"*": lambda _request: DOWN if trio.current_time() < until else "fine"},
        latency=latency,
        name=FIRST,
        limits=limits,
        breaker=Breaker(**breaker),
    )


# Opening


async def test_no_queued_call_goes_through_while_the_breaker_is_open(autojump_clock):
    """A breaker asked only on entry let 384 of 400 queued calls through after it had opened."""
    model = failing(1e9, latency=1, timeout=1_000)
    results = await batch(one_step(retry=ONCE, when_open="fail"), range(400), model, capacity=16, max_documents=400)

    assert starts(results) == [0] * 16
    errors = [result.outcome("ask").error for result in results]
    assert sum(isinstance(error, CircuitOpenError) for error in errors) == 384
    assert changes(results) == [(1, "open")]


async def test_a_breaker_asked_on_entry_lets_the_queue_through(autojump_clock):
    """The measure of the test above can fail: this is the breaker that decorators give."""
    from pipeline_engine.resilience.circuit import Circuit

    circuit, slots, began = Circuit(Breaker(timeout=1_000)), trio.CapacityLimiter(16), []

    async def call():
        if circuit.admits_at(trio.current_time()) > trio.current_time():
            return
        async with slots:
            began.append(trio.current_time())
            generation = circuit.enter(trio.current_time()) if circuit.state is CircuitState.CLOSED else -1
            await trio.sleep(1)
            circuit.leave(generation, trio.current_time(), is_failure=True)

    async with trio.open_nursery() as nursery:
        for _ in range(400):
            nursery.start_soon(call)

    assert circuit.state is CircuitState.OPEN
    assert sum(at > 0 for at in began) == 384


@pytest.mark.parametrize("threshold", [1, 3, 5])
async def test_it_opens_at_the_given_number_of_failures(autojump_clock, threshold):
    """One hiccup is none of its business; a dead model is."""
    model = failing(1e9, latency=1, failure_threshold=threshold, timeout=1_000)
    results = await batch(one_step(retry=ONCE, when_open="fail"), range(20), model, capacity=1)

    assert starts(results) == [float(second) for second in range(threshold)]
    assert changes(results) == [(threshold, "open")]


@pytest.mark.parametrize(
    "answer",
    [
        RateLimitError("is busy.", model=FIRST, kind="rate_limited", status=429),
        RejectedError("said no.", model=FIRST, kind="invalid", status=400),
        RejectedError("is too long.", model=FIRST, kind="context_length", status=400),
        UnavailableError("cannot be reached from here.", model=FIRST, kind="local"),
        "no JSON",
        Reply("cut", finish="length"),
    ],
    ids=["429", "400", "context", "local", "validation", "cut"],
)
async def test_what_says_nothing_about_the_model_never_opens_it(autojump_clock, answer):
    """A full limit, a mistake of the caller or a bad answer is no outage: parking the model would make one."""
    model = ScriptedModel({"ask": answer}, name=FIRST, breaker=Breaker(failure_threshold=1))
    results = await batch(one_step(Answer, retry=Retry(attempts=1, repair=1, max_throttled=1)), range(5), model)

    assert [result.status for result in results] == ["failed"] * 5
    assert changes(results) == []
    assert len(model.requests) >= 5


@pytest.mark.parametrize(
    "error",
    [
        DOWN,
        UnavailableError("is overloaded.", model=FIRST, kind="overloaded", status=529),
        UnavailableError("is not there.", model=FIRST, kind="connect"),
        ConnectionResetError("gone"),
        Reply("late", latency=100),
    ],
    ids=["500", "529", "connect", "reset", "timeout"],
)
async def test_outages_of_any_kind_open_it(autojump_clock, error):
    """Server errors, timeouts and failed connections are what an outage is made of."""
    model = ScriptedModel({"ask": error}, name=FIRST, breaker=Breaker(timeout=10_000))
    pipeline = one_step(retry=Retry(attempts=1, max_throttled=0), timeout=10, when_open="fail")
    results = await batch(pipeline, range(10), model, capacity=1)

    assert len(model.requests) == 5
    assert len(changes(results)) == 1


async def test_a_success_never_opens_it_and_evidence_expires(autojump_clock):
    """Four failures of yesterday and one of today are no outage."""
    script = [*[DOWN] * 4, "fine", *[DOWN] * 4]
    answers = iter(script)
    model = ScriptedModel({"ask": lambda _: next(answers)}, latency=16, name=FIRST, breaker=Breaker(window=60))
    results = await batch(one_step(retry=ONCE), range(len(script)), model, capacity=1)

    assert len(starts(results)) == len(script)
    assert changes(results) == []


async def test_cancelled_calls_never_vote(autojump_clock):
    """A user who presses Ctrl-C ten times has not broken the provider."""
    model = ScriptedModel({"ask": Reply("late", latency=100)}, name=FIRST, breaker=Breaker(failure_threshold=1))
    async with Engine(models={"fast": model}) as engine:
        for _ in range(10):
            with trio.move_on_after(1):
                await engine.run(one_step(), {"document": "x"})
        statistics = engine.statistics().models[FIRST]

    assert (statistics.breaker, statistics.in_flight) == (CircuitState.CLOSED, 0)


# While it is open


async def test_by_default_calls_go_on_to_the_next_model_and_burn_no_attempts(autojump_clock):
    """The second model is asked as often as its own attempts allow, whatever the first one's breaker did."""
    second = ScriptedModel({"ask": in_turn(DOWN, DOWN, DOWN, "second")}, name="b:model")
    async with Engine(models={"fast": [failing(1e9, failure_threshold=1, timeout=1e6), second]}) as engine:
        await engine.run(one_step(retry=ONCE), {"document": "opens it"})
        result = await engine.run(one_step(retry=EXACT), {"document": "x"})

    assert result.outcome("ask") == Completed("second", "fallback:b:model")
    assert [record.model for record in records([result], AttemptStarted)] == ["b:model"] * 4


async def test_by_default_calls_go_on_to_a_fallback_step(autojump_clock):
    """A step is an answer: it may stand in at once."""
    pipeline = Pipeline("one", inputs={"document": str})

    @pipeline.step
    async def by_hand(document: str) -> str:
        return "by hand"

    @pipeline.llm("fast", str, fallback=by_hand, retry=ONCE)
    def ask(document: str) -> str:
        return document

    async with Engine(models={"fast": failing(1e9, failure_threshold=1, timeout=1e6)}) as engine:
        await engine.run(pipeline, {"document": "opens it"})
        result = await engine.run(pipeline, {"document": "x"})

    assert result[ask] == "by hand"
    assert [record.step for record in records([result], AttemptStarted)] == ["by_hand"]


async def test_by_default_a_plain_value_stands_in_for_spent_attempts_only(autojump_clock):
    """Five thousand documents with the label "other", because of one bad minute, would be the worst outcome."""
    model = failing(0.5, latency=1, failure_threshold=1, timeout=10)
    results = await batch(one_step(retry=ONCE, fallback="value"), range(3), model, capacity=1)

    assert [result.outcome("ask") for result in sorted(results, key=lambda result: result.document)] == [
        Completed("value", "fallback:value"),
        Completed("fine"),
        Completed("fine"),
    ]
    assert starts(results) == [0, 11, 12]


async def test_a_plain_value_stands_in_at_once_where_the_step_says_so(autojump_clock):
    """when_open="fallback" is for outputs that can be done without."""
    model = failing(1e9, latency=1, failure_threshold=1, timeout=1e6)
    results = await batch(one_step(retry=ONCE, fallback="value", when_open="fallback"), range(3), model, capacity=1)

    assert [result["ask"] for result in results] == ["value"] * 3
    assert starts(results) == [0]
    assert max(result.records[-1].at for result in results) == 1


async def test_where_there_is_nothing_else_calls_wait_and_say_for_what(autojump_clock):
    """Failing a whole batch in two seconds is the worst outcome of an outage of one minute."""
    model = failing(60, latency=1, timeout=30, failure_threshold=2)
    results = await batch(one_step(retry=EXACT), range(6), model, capacity=2)

    assert [result.status for result in results] == ["completed"] * 6
    # Two fail at 1 s; probes at 31 s fail, those at 62 s do not.
    assert changes(results) == [(1, "open"), (31, "half_open"), (32, "open"), (62, "half_open"), (63, "closed")]
    assert starts(results) == [0, 0, 31, 31, 62, 62, 63, 63, 64, 64]
    last = max(results, key=lambda result: int(result.document))
    (left,) = [record for record in last.records if isinstance(record, QueueLeft)]
    assert dict(left.waits)["breaker"] >= 60
    ready, started = last.records[1].at, starts([last])[0]
    assert sum(seconds for _, seconds in left.waits) == started - ready


async def test_a_step_may_say_that_it_waits_although_there_is_another_model(autojump_clock):
    """when_open="wait": only this model will do, unless it has really failed."""
    second = ScriptedModel({"ask": "second"}, name="b:model")
    pipeline = one_step(retry=ONCE, when_open="wait")
    async with Engine(models={"fast": [failing(0.5, latency=1, failure_threshold=1, timeout=30), second]}) as engine:
        first = await engine.run(pipeline, {"document": "opens it"})
        waited = await engine.run(pipeline, {"document": "x"})

    assert (first["ask"], waited["ask"]) == ("second", "fine")
    assert starts([waited]) == [31]


async def test_a_step_may_say_that_it_fails_at_once(autojump_clock):
    """when_open="fail" is for callers that can do something better than to wait."""
    pipeline = one_step(retry=ONCE, when_open="fail")
    async with Engine(models={"fast": failing(1e9, latency=1, failure_threshold=1, timeout=30)}) as engine:
        await engine.run(pipeline, {"document": "opens it"})
        result = await engine.run(pipeline, {"document": "x"})

    outcome = result.outcome("ask")
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, CircuitOpenError)
    assert (outcome.error.name, outcome.error.retry_after) == (FIRST, 30)
    assert result.records[-1].at == 1
    assert starts([result]) == []


async def test_a_batch_with_a_fallback_takes_the_fallbacks_time_and_that_of_finding_out(autojump_clock):
    """A thousand documents past a dead model: 0.125 s to find out, then as if it had never been there."""
    dead = failing(1e9, latency=0.125, timeout=1_000)
    second = ScriptedModel({"ask": "second"}, latency=1, name="b:model")
    results = await batch(one_step(retry=EXACT), range(1_000), [dead, second], capacity=10)

    assert {result.outcome("ask") for result in results} == {Completed("second", "fallback:b:model")}
    assert len(dead.requests) == 10
    assert max(result.records[-1].at for result in results) == 0.125 + 1_000 / 10


async def test_probes_of_a_dead_model_cost_their_own_time_only(autojump_clock):
    """While it stays dead, two calls each minute find that out; all others go past it."""
    dead = failing(1e9, latency=0.125, timeout=25)
    second = ScriptedModel({"ask": "second"}, latency=1, name="b:model")
    results = await batch(one_step(retry=EXACT), range(1_000), [dead, second], capacity=10)
    probes = starts(results, FIRST)[10:]

    assert len(second.requests) == 1_000
    assert 2 <= len(probes) <= 2 * 4
    assert max(result.records[-1].at for result in results) <= 0.125 + 100 + 1 + 0.125 * len(probes)


# Half-open


@pytest.mark.parametrize("probes", [1, 2, 3])
async def test_probes_are_bounded_while_a_queue_waits(autojump_clock, probes):
    """A model that comes back must not meet the whole queue at once: that is how it fell."""
    model = failing(5, latency=1, timeout=10, success_threshold=probes)
    async with Engine(models={"fast": model}, capacity=64) as engine:
        opening = await run_all(engine, one_step(retry=ONCE), range(5))
        results = await run_all(engine, one_step(retry=ONCE), range(100), max_documents=100)

    assert changes(opening + results) == [(1, "open"), (11, "half_open"), (12, "closed")]
    assert starts(results)[: probes + 1] == [11] * probes + [12]
    assert starts(results).count(12) == 64


async def test_a_cancelled_probe_gives_its_place_back(autojump_clock):
    """Half-open for ever is the classic failure: six days in one project, 49,607 refusals."""
    model = ScriptedModel(
        {"ask": lambda request: Reply("late", latency=50) if request.messages[0].text == "doomed" else DOWN},
        name=FIRST,
        breaker=Breaker(failure_threshold=1, success_threshold=1, timeout=10),
    )
    async with Engine(models={"fast": model}) as engine, trio.open_nursery() as nursery:
        await engine.run(one_step(retry=ONCE), {"document": "opens it"})
        scope, results = trio.CancelScope(), []

        async def doomed():
            with scope:
                await engine.run(one_step(), {"document": "doomed"})

        async def ask():
            results.append(await engine.run(one_step(), {"document": "x"}))

        nursery.start_soon(doomed)
        await trio.sleep(11)
        assert engine.statistics().models[FIRST].breaker is CircuitState.HALF_OPEN
        model.script["ask"] = "fine"
        nursery.start_soon(ask)
        await trio.sleep(1)
        assert engine.statistics().models[FIRST].waiting == 1
        scope.cancel()

    assert starts(results) == [12]
    assert engine.statistics().models[FIRST].breaker is CircuitState.CLOSED


async def test_a_probe_that_hangs_ends_when_the_breaker_would_ask_again(autojump_clock):
    """A hung probe keeps everybody waiting: it has no longer than the breaker stays open."""
    answers = iter([DOWN, Reply("late", latency=10_000)])
    model = ScriptedModel(
        {"ask": lambda _request: next(answers, "fine")},
        name=FIRST,
        breaker=Breaker(failure_threshold=1, success_threshold=1, timeout=10),
    )
    async with Engine(models={"fast": model}) as engine:
        results = await run_all(engine, one_step(retry=ONCE, timeout=None), range(3), max_documents=1)

    assert starts(results) == [0, 10, 30]
    assert changes(results) == [(0, "open"), (10, "half_open"), (20, "open"), (30, "half_open"), (30, "closed")]
    assert isinstance(results[1].outcome("ask").error, StepTimeoutError)


async def test_the_error_of_a_hanging_probe_names_the_seconds_that_it_had(autojump_clock):
    """To raise Timeout(attempt=…), as it says, is no cure where the breaker's timeout was the tighter one."""
    answers = iter([DOWN, Reply("late", latency=10_000)])
    breaker = Breaker(failure_threshold=1, success_threshold=1, timeout=10)
    model = ScriptedModel({"ask": lambda _request: next(answers, "fine")}, name=FIRST, breaker=breaker)
    results = await batch(one_step(retry=ONCE, timeout=Timeout(attempt=300)), range(2), model, max_documents=1)

    assert results[1].outcome("ask").error.timeout == 10


async def test_late_results_of_the_time_before_change_nothing(autojump_clock):
    """A call that hung through the outage must not open, nor close, what has recovered since."""
    slow = iter([Reply(DOWN, latency=25), *[Reply(DOWN, latency=1)] * 2])
    model = ScriptedModel(
        {"ask": lambda _request: next(slow, Reply("fine", latency=1))},
        name=FIRST,
        breaker=Breaker(failure_threshold=2, success_threshold=1, timeout=10),
    )
    results = await batch(one_step(retry=ONCE), range(40), model, capacity=3)

    assert changes(results) == [(1, "open"), (11, "half_open"), (12, "closed")]


async def test_probes_that_say_nothing_let_the_next_ones_go(autojump_clock):
    """A probe that is refused for the caller's mistake has decided nothing, and must not stick."""
    no = RejectedError("said no.", model=FIRST, kind="invalid", status=400)
    answers = iter([DOWN, no, no, no])
    breaker = Breaker(failure_threshold=1, success_threshold=1, timeout=10)
    model = ScriptedModel({"ask": lambda _: next(answers, "fine")}, latency=1, name=FIRST, breaker=breaker)
    results = await batch(one_step(retry=ONCE), range(6), model, capacity=1)

    assert starts(results) == [0, 11, 12, 13, 14, 15]
    assert changes(results) == [(1, "open"), (11, "half_open"), (15, "closed")]


# Being told, and resetting


async def test_changes_are_told_to_plain_and_async_callbacks(autojump_clock):
    """Whoever is on call wants to know, and may need to await to tell them."""
    plain, awaited = [], []

    async def tell(before, after):
        await trio.sleep(1)
        awaited.append((before, after))

    for callback in (lambda before, after: plain.append((before, after)), tell):
        model = failing(trio.current_time() + 1, latency=2)
        model.breaker = Breaker(failure_threshold=1, timeout=10, success_threshold=1, on_state_change=callback)
        await batch(one_step(retry=EXACT), range(1), model)

    expected = [
        (CircuitState.CLOSED, CircuitState.OPEN),
        (CircuitState.OPEN, CircuitState.HALF_OPEN),
        (CircuitState.HALF_OPEN, CircuitState.CLOSED),
    ]
    assert plain == awaited == expected


async def test_errors_of_callbacks_are_logged_and_change_nothing(autojump_clock, caplog):
    """A pager that is down must not take the batch with it."""

    def plain(_before, _after):
        raise RuntimeError("the pager is down")

    async def awaited(_before, _after):
        raise RuntimeError("the pager is down")

    for callback in (plain, awaited):
        breaker = Breaker(failure_threshold=1, timeout=10, success_threshold=1, on_state_change=callback)
        answers = iter([DOWN])
        model = ScriptedModel({"ask": lambda _, answers=answers: next(answers, "fine")}, breaker=breaker)
        with caplog.at_level(logging.ERROR, "pipeline_engine"):
            caplog.clear()
            results = await batch(one_step(retry=EXACT), range(1), model)
        assert results[0]["ask"] == "fine"
        assert [record.getMessage() for record in caplog.records] == ["on_state_change raised"] * 3


async def test_engine_reset_lets_waiting_calls_go_at_once(autojump_clock):
    """Whoever has mended the provider need not wait for the engine to find out."""
    model = failing(1e9, failure_threshold=1, timeout=1_000)
    async with Engine(models={"fast": model}) as engine, trio.open_nursery() as nursery:
        await engine.run(one_step(retry=ONCE), {"document": "opens it"})
        results = []

        async def ask():
            results.append(await engine.run(one_step(retry=ONCE), {"document": "x"}))

        nursery.start_soon(ask)
        await trio.sleep(5)
        assert engine.statistics().models[FIRST].waiting == 1
        model.script["*"] = "fine"
        engine.reset(FIRST)

    assert starts(results) == [5]
    assert results[0]["ask"] == "fine"
    with pytest.raises(KeyError):
        engine.reset("nobody:model")


# Others


@pytest.mark.parametrize("trouble", ["fails", "hangs", "is slow by its limits"])
async def test_a_model_in_trouble_does_not_slow_the_batches_of_another(autojump_clock, trouble):
    """Two batches share an engine: the well model's one takes exactly as long as alone."""
    sick = {
        "fails": lambda: failing(1e9, latency=1, timeout=1e5, limits=Limits(max_concurrency=4)),
        "hangs": lambda: ScriptedModel(
            {"ask": Reply("late", latency=1e5)}, name=FIRST, limits=Limits(max_concurrency=4)
        ),
        "is slow by its limits": lambda: ScriptedModel({"ask": "fine"}, name=FIRST, limits=Limits(rpm=1)),
    }[trouble]
    well = ScriptedModel({"ask": "fine"}, latency=1, name="b:model", limits=Limits(max_concurrency=8))
    async with Engine(capacity=12) as engine, trio.open_nursery() as nursery:
        pipeline = one_step(retry=ONCE, timeout=None)

        async def stall():
            async with iter_batch_async(
                pipeline, given(range(1_000)), engine=engine, models={"fast": sick()}
            ) as results:
                async for _ in results:
                    pass

        nursery.start_soon(stall)
        await trio.testing.wait_all_tasks_blocked()
        results = await run_all(engine, pipeline, range(80), models={"fast": well})
        nursery.cancel_scope.cancel()

    assert starts(results) == sorted([float(second) for second in range(10)] * 8)


async def test_a_stalled_branch_of_a_batch_does_not_slow_the_others(autojump_clock):
    """Documents that take the other branch go on, as far as the window of documents reaches."""
    pipeline = Pipeline("routed", inputs={"document": str})

    @pipeline.llm("fast", str, when=lambda document: int(document) % 2 == 0, retry=ONCE)
    def sick(document: str) -> str:
        return document

    @pipeline.llm("strong", str, when=lambda document: int(document) % 2 == 1)
    def well(document: str) -> str:
        return document

    models = {
        "fast": failing(300, latency=1, failure_threshold=1, timeout=1_000),
        "strong": ScriptedModel({"well": "fine"}, latency=1, name="b:model", limits=Limits(max_concurrency=8)),
    }
    results = await batch(pipeline, range(160), models, capacity=16, max_documents=160)

    assert starts(results, "b:model") == sorted([float(second) for second in range(10)] * 8)
