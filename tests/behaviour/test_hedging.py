"""A second call beside a slow one: the reply that comes first counts, and nothing is lost, leaked or overspent."""

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_engine import (
    Breaker,
    Budget,
    Completed,
    Completion,
    Cost,
    Document,
    Engine,
    Failed,
    Hedge,
    Limits,
    Pipeline,
    Price,
    RateLimitError,
    Retry,
    StepTimeoutError,
    Timeout,
    UnavailableError,
    Usage,
)
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.testing import Reply
from pipeline_engine.values import AttemptFinished, AttemptStarted, HedgeFinished, HedgeStarted

ONCE = Retry(attempts=1, jitter="none")
EXACT = Retry(attempts=4, jitter="none")
ALWAYS = Hedge(after=2.0, max_extra=1.0)
DOWN = UnavailableError("is down.", model="scripted:model", kind="server", status=500)
LATE = UnavailableError("is down, too.", model="scripted:model", kind="server", status=502)


def one_step(output=str, hedge=ALWAYS, **options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", output, name="ask", hedge=hedge, **options)(lambda document: document)
    return pipeline


class Numbered:
    """A model whose calls are scripted by their number, over all documents; the last one again and again."""

    def __init__(self, *replies, name="own:model", clean_up=0.0, price=None, limits=None, breaker=None):
        self.name = name
        self.replies = replies
        self.clean_up = clean_up
        self.price = price or Price(0, 0)
        self.limits = limits
        self.breaker = breaker
        self.max_tokens = 100
        self.started = []
        self.ended = []
        self.in_flight = 0
        self.most_in_flight = 0

    async def complete(self, request):
        number = len(self.started)
        self.started.append(trio.current_time())
        reply = self.replies[min(number, len(self.replies) - 1)]
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await trio.sleep(reply.latency or 0.0)
        except trio.Cancelled:
            with trio.CancelScope(shield=True):
                await trio.sleep(self.clean_up)
            if isinstance(reply.answer, CleanUpError):
                raise reply.answer from None
            raise
        finally:
            self.in_flight -= 1
            self.ended.append((number, trio.current_time()))
        if isinstance(reply.answer, Exception):
            raise reply.answer
        return Completion(reply.answer, usage=reply.usage)


class CleanUpError(Exception):
    """What a client raises that cannot even be cancelled in peace."""


def replies(*latencies, answer=None, usage=None):
    return [
        Reply(answer or f"call {number}", latency, usage=usage or Usage(10, 10))
        for number, latency in enumerate(latencies)
    ]


async def run(pipeline, models, *, capacity=64, **options):
    models = models if isinstance(models, dict) else {"fast": models}
    async with Engine(models=models, capacity=capacity, seed=1) as engine:
        result = await engine.run(pipeline, {"document": "text"}, **options)
        assert_idle(engine)
    return result


def assert_idle(engine):
    """Nothing is held that belongs to anybody."""
    statistics = engine.statistics()
    assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
    assert [governor.in_flight for governor in engine._pool.governors.values() if governor.in_flight] == []
    assert [
        g.circuit.probes for g in engine._pool.governors.values() if g.circuit is not None and g.circuit.probes
    ] == []


def hedges(result, kind=HedgeStarted | HedgeFinished):
    return [record for record in result.records if isinstance(record, kind)]


def seconds(result, *times):
    return [time - result.trace.started_at for time in times]


# When a second call is sent, and to whom


async def test_the_second_call_is_sent_after_the_seconds_and_its_reply_counts_if_it_comes_first(autojump_clock):
    """One call in a hundred takes half a minute for no reason: nobody has to wait for it."""
    slow = Numbered(*replies(30, 1))
    result = await run(one_step(), slow)
    assert result.outcome("ask") == Completed("call 1")
    assert seconds(result, *slow.started) == [0, 2]
    assert result.trace.makespan == 3


async def test_no_second_call_is_sent_if_the_first_ends_before(autojump_clock):
    """HG4: what is quick enough costs nothing more."""
    quick = Numbered(*replies(1.9))
    result = await run(one_step(), quick)
    assert len(quick.started) == 1
    assert hedges(result) == []


async def test_there_is_exactly_one_result_and_it_is_the_first_calls_if_that_comes_first(autojump_clock):
    """HG1: the second call is no second output."""
    slow = Numbered(*replies(4, 9))
    result = await run(one_step(), slow)
    assert result.outcome("ask") == Completed("call 0")
    assert result.trace.makespan == 4
    assert [type(record).__name__ for record in result.records if "Attempt" in type(record).__name__] == [
        "AttemptStarted",
        "AttemptFinished",
    ]


async def test_it_goes_to_the_next_other_model_of_the_chain_which_is_named(autojump_clock):
    """Another provider has another bad day. Its model, price and name are those of the reply."""
    slow = Numbered(*replies(30), name="own:slow", price=Price(1e6, 1e6))
    other = Numbered(*replies(1), name="own:other", price=Price(2e6, 2e6))
    result = await run(one_step(), {"fast": [slow, other]})

    assert result.outcome("ask") == Completed("call 0", via="hedge:own:other")
    assert seconds(result, *other.started) == [2]
    assert hedges(result) == [
        HedgeStarted(result.trace.started_at + 2, "ask", None, 1, "own:other"),
        HedgeFinished(result.trace.started_at + 3, "ask", None, 1, "own:slow", False, Cost(usd=1.0)),
    ]
    [finished] = [record for record in result.records if isinstance(record, AttemptFinished)]
    assert (finished.model, finished.call.model, finished.cost) == ("own:other", "own:other", Cost(usd=40.0))
    [started] = [record for record in result.records if isinstance(record, AttemptStarted)]
    assert started.model == "own:slow"


async def test_the_cost_of_the_second_call_is_shown_if_it_loses(autojump_clock):
    """Hedging is paid for: by how much must be visible. Four characters are taken for one token."""
    slow = Numbered(*replies(4), name="own:slow", price=Price(1e6, 1e6))
    other = Numbered(*replies(9), name="own:other", price=Price(2e6, 2e6))
    result = await run(one_step(), {"fast": [slow, other]})
    assert hedges(result, HedgeFinished) == [
        HedgeFinished(result.trace.started_at + 4, "ask", None, 1, "own:other", True, Cost(usd=2.0))
    ]
    assert result.cost == Cost(usd=22.0)
    assert result.trace.spans[0].outcome == "completed"


async def test_without_another_model_the_same_one_is_asked_again(autojump_clock):
    """Most slow replies are slow by chance."""
    slow = Numbered(*replies(30, 1))
    result = await run(one_step(), slow)
    assert result.outcome("ask").via is None
    [finished] = [record for record in result.records if isinstance(record, AttemptFinished)]
    assert finished.model == "own:model"  # the second call's reply is told from the first one's


async def test_it_stays_within_the_stage_of_a_cascade(autojump_clock):
    """The stronger role is dear: it is for what the cheap one cannot do, not for what it does slowly."""
    slow, strong = Numbered(*replies(30, 1), name="own:slow"), Numbered(*replies(1), name="own:strong")
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm(output=str, cascade=["fast", "strong"], accept=lambda _output: True, name="ask", hedge=ALWAYS)(
        lambda document: document
    )
    result = await run(pipeline, {"fast": slow, "strong": strong})
    assert result.outcome("ask") == Completed("call 1")
    assert strong.started == []


async def test_a_streamed_step_is_never_hedged(autojump_clock):
    """Somebody has seen its first words already."""
    slow = Numbered(*replies(30))
    result = await run(one_step(stream=True), slow)
    assert len(slow.started) == 1
    assert hedges(result) == []
    assert result.trace.makespan == 30


async def test_a_percentile_needs_twenty_calls_before_it_says_anything(autojump_clock):
    """From three calls nobody can tell what is unusually long."""
    pipeline = one_step(hedge=Hedge(after="p95", max_extra=1.0))
    known = [place / 2 for place in range(1, 20)]
    model = Numbered(*replies(*known, 30.0, 1.0, 30.0, 1.0))
    async with Engine(models={"fast": model}) as engine:
        results = [await engine.run(pipeline, {"document": str(number)}) for number in range(22)]
    # The 20th call comes too early. Of the twenty that the 22nd finds, nineteen took 9.5 s at most.
    assert [result.trace.makespan for result in results] == [*known, 30.0, 1.0, 10.5]
    assert [len(hedges(result, HedgeStarted)) for result in results] == [0] * 21 + [1]


async def test_a_percentile_is_that_of_the_steps_own_calls(autojump_clock):
    """What is slow for a title is quick for a summary."""
    pipeline = one_step(hedge=Hedge(after="p50", max_extra=1.0))
    model = Numbered(*replies(*[2.0] * 20, 30.0, 1.0))
    async with Engine(models={"fast": model}) as engine:
        results = [await engine.run(pipeline, {"document": str(number)}) for number in range(21)]
    assert seconds(results[-1], *model.started[-2:]) == [0, 2]
    assert results[-1].trace.makespan == 3


# How many


@pytest.mark.parametrize(("share", "documents", "most"), [(0.05, 100, 5), (0.1, 100, 10), (0.5, 7, 3), (1.0, 9, 9)])
@pytest.mark.parametrize("capacity", [1000, 4])
async def test_no_more_than_the_share_of_calls_are_second_ones(autojump_clock, share, documents, most, capacity):
    """When everything is slow, twice the load is the last thing that helps: together or one after the other."""
    model = Numbered(*replies(10.0))
    async with Engine(models={"fast": model}, capacity=capacity) as engine:
        pipeline = one_step(hedge=Hedge(after=2.0, max_extra=share))
        async with trio.open_nursery() as nursery:
            for number in range(documents):
                nursery.start_soon(engine.run, pipeline, {"document": str(number)})
        assert_idle(engine)
    assert documents <= len(model.started) <= documents + most


async def test_the_share_is_used_where_calls_come_one_after_the_other(autojump_clock):
    """A bound that is never reached would be a switch."""
    model = Numbered(*replies(*[1.0] * 10, 30.0, 1.0))
    async with Engine(models={"fast": model}) as engine:
        pipeline = one_step(hedge=Hedge(after=2.0, max_extra=0.1))
        for number in range(11):
            result = await engine.run(pipeline, {"document": str(number)})
    assert len(model.started) == 12
    assert result.trace.makespan == 3


# When no second call is sent


async def test_none_is_sent_as_long_as_no_slot_is_free(autojump_clock):
    """A second call for one document must not take the slot of another one's first."""
    slow = Numbered(*replies(9))
    result = await run(one_step(), slow, capacity=1)
    assert len(slow.started) == 1
    assert hedges(result) == []


async def test_none_is_sent_past_what_the_model_bears(autojump_clock):
    """Its limits count every call, whatever it is for."""
    slow = Numbered(*replies(9), limits=Limits(max_concurrency=1))
    await run(one_step(), slow)
    assert len(slow.started) == 1

    slow = Numbered(*replies(9), limits=Limits(rpm=1))
    await run(one_step(), slow)
    assert len(slow.started) == 1


async def test_none_is_sent_while_the_breaker_is_not_closed(autojump_clock):
    """A half-open breaker lets probes through to find out, not two for each."""
    model = Numbered(
        Reply(DOWN, 1.0), *replies(5.0), breaker=Breaker(failure_threshold=1, timeout=10, success_threshold=1)
    )
    result = await run(one_step(retry=Retry(attempts=2, jitter="none")), model)
    assert result["ask"] == "call 0"
    assert seconds(result, *model.started) == [0, 11]


async def test_none_is_sent_within_a_minute_of_a_refusal_for_rate(autojump_clock):
    """A provider that says "too many" is not helped by one more."""
    limited = RateLimitError("is busy.", model="own:model", kind="rate_limited", status=429, retry_after=1)
    model = Numbered(Reply(limited, 0.0), *replies(50, 1, 30, 1))
    async with Engine(models={"fast": model}, seed=1) as engine:
        patience = one_step(retry=Retry(jitter="none"))
        first = await engine.run(patience, {"document": "a"})
        assert (hedges(first), len(model.started)) == ([], 2)  # 1 s to 51 s: still in the shadow of the 429
        await trio.sleep(10)
        second = await engine.run(patience, {"document": "b"})
        assert len(hedges(second, HedgeStarted)) == 0  # it took one second
        third = await engine.run(patience, {"document": "c"})
        assert len(hedges(third, HedgeStarted)) == 1
        assert third.trace.makespan == 3


async def test_none_is_sent_to_another_model_that_is_not_well(autojump_clock):
    """Then the same one is asked again."""
    limited = RateLimitError("is busy.", model="own:other", kind="rate_limited", status=429, retry_after=30)
    slow, other = Numbered(*replies(1, 30, 1), name="own:slow"), Numbered(Reply(limited), name="own:other")
    spoiled = Pipeline("spoil", inputs={"document": str})
    spoiled.llm("other", str, name="ask", retry=None)(lambda document: document)
    async with Engine(models={"fast": [slow, other], "other": other}) as engine:
        await engine.run(spoiled, {"document": "x"}, models={"other": other})
        await engine.run(one_step(), {"document": "a"}, models={"fast": [slow, other]})
        result = await engine.run(one_step(), {"document": "b"}, models={"fast": [slow, other]})
        assert_idle(engine)
    assert len(other.started) == 1
    assert result.outcome("ask") == Completed("call 2")


async def test_none_is_sent_that_the_budget_does_not_hold(autojump_clock):
    """It reserves for itself, as any call does; and it never waits for room."""
    slow = Numbered(*replies(30, 1))
    result = await run(one_step(), slow, budget=Budget(tokens=239))  # each call may use 120
    assert len(slow.started) == 1
    assert result.trace.makespan == 30
    assert result["ask"] == "call 0"

    slow = Numbered(*replies(30, 1))
    result = await run(one_step(), slow, budget=Budget(tokens=240))
    assert len(slow.started) == 2


async def test_a_second_call_waiting_for_its_turn_is_not_launched_by_its_runs_own_cancellation(autojump_clock):
    """The slot that a cancelled call gives back must not go to a call of the same run, which would be billed."""
    pipeline = Pipeline("two", inputs={"document": str})
    for name in ("a", "b", "c"):
        pipeline.llm("fast", str, name=name, hedge=ALWAYS)(lambda document: document)
    for number in range(20):
        slow = Numbered(*replies(30))
        async with Engine(models={"fast": slow}, capacity=3, seed=number) as engine:
            bound = engine.bind(pipeline)
            budget = bound.budget(Budget(tokens=1000), "run")
            await engine.run_bound(bound, {"document": "text"}, timeout=5, budgets=(budget,))
            assert_idle(engine)
        assert len(slow.started) == 3
        assert budget.ledger.spent.tokens == 3 * 120


# The loser


async def test_the_loser_is_awaited_and_its_slot_is_held_until_it_has_ended(autojump_clock):
    """A call that still cleans up is still there: it counts against the capacity, and is not left behind."""
    slow = Numbered(*replies(4, 30), clean_up=1.5)
    async with Engine(models={"fast": slow}, capacity=2) as engine:
        in_flight = []

        async def watch():
            for _ in range(14):
                await trio.sleep(0.5)
                in_flight.append(engine.statistics().in_flight)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            await trio.sleep(0.25)
            result = await engine.run(one_step(), {"document": "text"})
            assert slow.in_flight == 0
            assert_idle(engine)
    assert result["ask"] == "call 0"
    ended = dict(slow.ended)
    assert seconds(result, ended[0], ended[1]) == [4, 5.5]
    # The first call from 0.25 s on, the second one from 2.25 s to 5.75 s.
    assert in_flight[:4] == [1] * 4
    assert in_flight[4:8] == [2] * 4
    assert in_flight[11:] == [0] * 3


async def test_a_losing_first_call_is_awaited_too(autojump_clock):
    """Whichever loses, nothing of it runs on when its step has its outcome."""
    slow = Numbered(*replies(30, 1), clean_up=1.5)
    result = await run(one_step(), slow)
    assert result["ask"] == "call 1"
    assert seconds(result, *[at for _number, at in slow.ended]) == [3, 4.5]
    assert slow.in_flight == 0


@pytest.mark.parametrize("latencies", [(4, 30), (30, 2)])
async def test_a_timeout_while_the_loser_cleans_up_does_not_take_the_reply(autojump_clock, latencies):
    """It is there, and paid for. The attempt's timeout falls into the loser's last second and a half."""
    slow = Numbered(*replies(*latencies), clean_up=1.5)
    result = await run(one_step(retry=ONCE, timeout=5), slow)
    assert result["ask"] == f"call {latencies.index(min(latencies))}"
    assert slow.in_flight == 0


async def test_its_slot_goes_to_whoever_waits(autojump_clock):
    """Two slots, one slow step hedged: the next document starts the moment one of them is free."""
    slow = Numbered(*replies(4, 30, 1, 1))
    async with Engine(models={"fast": slow}, capacity=2) as engine:
        results = []

        async def one(name, delay):
            await trio.sleep(delay)
            results.append(await engine.run(one_step(), {"document": name}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, "a", 0)
            nursery.start_soon(one, "b", 3)
            nursery.start_soon(one, "c", 3)
        assert_idle(engine)
    assert seconds(results[0], *slow.started) == [0, 2, 4, 4]


async def test_a_reply_that_comes_at_the_same_instant_is_paid_for_but_does_not_count(autojump_clock):
    """There is one outcome, whichever of two equal ones it is; the books know both."""
    slow = Numbered(*replies(4, 2), price=Price(1e6, 1e6))
    async with Engine(models={"fast": slow}) as engine:
        bound = engine.bind(one_step())
        budget = bound.budget(Budget(tokens=1000), "run")
        result = await engine.run_bound(bound, {"document": "text"}, budgets=(budget,))
        assert_idle(engine)
    assert result["ask"] in ("call 0", "call 1")
    assert budget.ledger.spent.tokens in (40, 140)
    assert len(hedges(result, HedgeFinished)) == 1


@pytest.mark.parametrize("latencies", [(4, 30), (30, 1)])
async def test_a_loser_that_cannot_be_cancelled_in_peace_changes_nothing(autojump_clock, latencies):
    """What it raises on its way out says nothing about the model, and is nobody's error."""
    calls = [Reply(CleanUpError() if latency == 30 else "fine", latency, usage=Usage(10, 10)) for latency in latencies]
    slow = Numbered(*calls, breaker=Breaker(failure_threshold=1))
    async with Engine(models={"fast": slow}) as engine:
        bound = engine.bind(one_step(retry=ONCE))
        budget = bound.budget(Budget(tokens=1000), "run")
        result = await engine.run_bound(bound, {"document": "text"}, budgets=(budget,))
        assert_idle(engine)
        assert engine.statistics().models["own:model"].breaker.value == "closed"
    assert result.outcome("ask") == Completed("fine")
    assert budget.ledger.spent.tokens == 20 + 120
    assert len(hedges(result, HedgeFinished)) == 1


# Failures


async def test_if_the_first_fails_the_second_ones_reply_counts(autojump_clock):
    """HG2: an error counts only if nobody answers. No attempt is spent on it."""
    model = Numbered(Reply(DOWN, 3.0), *replies(1, 4)[1:])
    result = await run(one_step(retry=ONCE), model)
    assert result.outcome("ask") == Completed("call 1")
    assert result.trace.makespan == 6
    assert len(model.started) == 2


async def test_if_the_second_fails_the_first_ones_reply_counts(autojump_clock):
    """A second call can only help."""
    model = Numbered(*replies(5), Reply(DOWN, 1.0))
    result = await run(one_step(retry=ONCE), model)
    assert result.outcome("ask") == Completed("call 0")
    assert result.trace.makespan == 5


@pytest.mark.parametrize("latencies", [(3.0, 4.0), (5.0, 1.0), (3.0, 1.0)])
async def test_if_both_fail_it_is_the_first_ones_error_and_one_attempt(autojump_clock, latencies):
    """HG2, HG5: two calls are one attempt; what comes out is one plain error, in no group."""
    model = Numbered(Reply(DOWN, latencies[0]), Reply(LATE, latencies[1]))
    result = await run(one_step(retry=ONCE), model)
    assert result.outcome("ask") == Failed(DOWN)
    assert result.trace.makespan == max(latencies[0], 2 + latencies[1])
    finished = [record for record in result.records if isinstance(record, AttemptFinished)]
    assert [record.fault.status for record in finished] == [500]


async def test_a_failed_pair_spends_one_attempt_of_four(autojump_clock):
    """Else hedging would halve the retries."""
    model = Numbered(Reply(DOWN, 3.0))
    result = await run(one_step(retry=EXACT), model)
    assert len(model.started) == 8
    assert sum(isinstance(record, AttemptStarted) for record in result.records) == 4


@pytest.mark.parametrize(
    ("first", "second", "lost"),
    [
        (Reply(DOWN, 3.0), Reply("fine", 4.0), ("own:slow", False, 6)),
        (Reply("fine", 5.0), Reply(LATE, 1.0), ("own:other", True, 3)),
        (Reply(DOWN, 5.0), Reply(LATE, 1.0), ("own:other", True, 3)),
        (Reply(DOWN, 3.0), Reply(LATE, 4.0), ("own:other", True, 6)),
    ],
)
async def test_a_call_that_failed_beside_the_other_is_told(autojump_clock, first, second, lost):
    """Each `HedgeStarted` has its `HedgeFinished`: else the picture shows a call that never ends."""
    result = await run(
        one_step(retry=ONCE), {"fast": [Numbered(first, name="own:slow"), Numbered(second, name="own:other")]}
    )
    finished = hedges(result, HedgeFinished)[0]  # where both fail, the step goes on with the next of the chain
    assert (finished.model, finished.is_second, finished.at - result.trace.started_at) == lost
    assert finished.cost is None  # what a call has cost that did not answer, nobody knows


async def test_each_of_two_calls_votes_for_its_own_model(autojump_clock):
    """The breaker of the one must not open for the failures of the other."""
    slow = Numbered(Reply(DOWN, 3.0), name="own:slow", breaker=Breaker(failure_threshold=1))
    other = Numbered(*replies(4), name="own:other", breaker=Breaker(failure_threshold=1))
    async with Engine(models={"fast": [slow, other]}) as engine:
        result = await engine.run(one_step(retry=ONCE), {"document": "text"})
        assert_idle(engine)
        states = {name: model.breaker.value for name, model in engine.statistics().models.items()}
    assert result.outcome("ask") == Completed("call 0", via="hedge:own:other")
    assert states == {"own:slow": "open", "own:other": "closed"}


# Timeouts and cancellations


async def test_the_attempt_timeout_bounds_both_calls_and_leaks_nothing(autojump_clock):
    """A second call does not buy time."""
    slow = Numbered(*replies(30), clean_up=0.5)
    result = await run(one_step(retry=ONCE, timeout=5), slow)
    error = result.outcome("ask").error
    assert isinstance(error, StepTimeoutError)
    assert (error.which, error.timeout) == ("attempt", 5)
    assert len(slow.started) == 2
    assert slow.in_flight == 0
    assert [record.is_second for record in hedges(result, HedgeFinished)] == [True]


async def test_the_step_timeout_bounds_both_calls(autojump_clock):
    """It is the one with the shorter end, and says so."""
    slow = Numbered(*replies(30))
    result = await run(one_step(retry=ONCE, timeout=Timeout(attempt=9, step=5), fallback="value"), slow)
    assert result.outcome("ask") == Completed("value", via="fallback:value")
    assert result.trace.makespan == 5


async def test_a_timeout_after_the_first_has_failed_ends_the_second(autojump_clock):
    """It is still the same attempt."""
    model = Numbered(Reply(DOWN, 3.0), *replies(1, 30)[1:])
    result = await run(one_step(retry=ONCE, timeout=5), model)
    assert isinstance(result.outcome("ask").error, StepTimeoutError)
    assert result.trace.makespan == 5


@pytest.mark.parametrize("end", ["attempt", "document"])
async def test_whoever_waits_for_its_reservation_goes_on_when_a_lone_second_call_is_cut(autojump_clock, end):
    """The first call has failed; the second is ended by a timeout. Nobody else is in flight who could wake them."""
    model = Numbered(Reply(DOWN, 3.0), *replies(1, 300)[1:], *replies(1))
    pipeline = one_step(retry=ONCE, timeout=5 if end == "attempt" else None)
    async with Engine(models={"fast": model}) as engine:
        bound = engine.bind(pipeline)
        budget = bound.budget(Budget(tokens=300), "batch")
        results = {}

        async def one(name, delay, timeout):
            await trio.sleep(delay)
            results[name] = await engine.run_bound(
                bound, {"document": name}, key=name, budgets=(budget,), timeout=timeout
            )

        with trio.fail_after(1000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one, "a", 0, 5 if end == "document" else None)
                nursery.start_soon(one, "b", 2.5, None)
        assert_idle(engine)
    # Two calls of 117 tokens are reserved when `b` comes. The first was not billed, the second counts in full.
    assert results["b"].status == "completed"
    assert budget.ledger.waiting == {}


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=80)
@given(
    first=st.tuples(st.booleans(), st.sampled_from([1.0, 2.0, 3.0, 5.0, 30.0])),
    second=st.tuples(st.booleans(), st.sampled_from([0.0, 1.0, 2.0, 3.0, 30.0])),
    timeout=st.sampled_from([None, 1.5, 2.0, 4.0, 5.0]),
    cancel_at=st.sampled_from([None, 1.0, 2.0, 2.5, 4.0, 5.0]),
    clean_up=st.sampled_from([0.0, 1.0]),
    capacity=st.sampled_from([1, 2, 64]),
)
def test_whatever_happens_there_is_one_outcome_and_nothing_is_held(
    first, second, timeout, cancel_at, clean_up, capacity
):
    """HG1, HG3, HG5 over all orders of replies, errors, timeouts and cancellations."""
    model = Numbered(
        *[Reply("fine" if is_fine else DOWN, latency, usage=Usage(10, 10)) for is_fine, latency in (first, second)],
        clean_up=clean_up,
        breaker=Breaker(),
        limits=Limits(rpm=600, tpm=100_000, adaptive=True),
    )

    async def main():
        async with Engine(models={"fast": model}, capacity=capacity, seed=1) as engine:
            bound = engine.bind(one_step(retry=ONCE, timeout=timeout))
            budget = bound.budget(Budget(tokens=10_000), "run")
            with trio.fail_after(1000), trio.CancelScope() as scope:
                if cancel_at is not None:
                    scope.deadline = trio.current_time() + cancel_at
                result = await engine.run_bound(bound, {"document": "text"}, budgets=(budget,))
                assert isinstance(result.outcome("ask"), Completed | Failed)
                starts = len(hedges(result, HedgeStarted))
                assert starts == len(hedges(result, HedgeFinished)) <= 1
                assert sum(isinstance(record, AttemptFinished) for record in result.records) == 1
            assert_idle(engine)
            assert (budget.ledger.has_calls_in_flight, budget.ledger._reserved_tokens) == (False, 0.0)
        assert model.in_flight == 0
        assert model.most_in_flight <= capacity

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


# What it is for


async def test_a_heavy_tail_is_cut_off(autojump_clock):
    """One call in twenty takes 30 s. With 5 % more calls the slowest document takes 3 s instead of 30."""

    def tail(number):
        return 30.0 if number % 20 == 10 else 1.0

    async def slowest(hedge):
        # A call's latency is that of its number; every second call is one of the quick ones that follow.
        model = Numbered(*replies(*[tail(number) for number in range(400)]))
        async with Engine(models={"fast": model}, capacity=2) as engine:
            bound = engine.bind(one_step(hedge=hedge))
            documents = [Document(str(number), {"document": str(number)}) for number in range(200)]
            async with BatchStream(engine, bound, documents, max_documents=1) as stream:
                spans = [result.trace.makespan async for result in stream]
        return sorted(spans), len(model.started)

    plain, calls = await slowest(None)
    assert (plain[-10:], plain[-11], calls) == ([30.0] * 10, 1.0, 200)
    hedged, calls = await slowest(Hedge(after=2.0, max_extra=0.1))
    assert hedged[-1] == 3.0
    assert calls == 200 + sum(span == 3.0 for span in hedged)
    assert sum(plain) == 490.0
    assert sum(hedged) == 220.0


@pytest.mark.parametrize("wrong", [{"after": "p0"}, {"after": "p100"}, {"after": "95"}, {"after": 0}, {"max_extra": 0}])
def test_a_hedge_that_means_nothing_is_refused_when_it_is_declared(wrong):
    """A typo in a policy is found at import, not in the bill."""
    with pytest.raises(ValueError, match=r"^Hedge\((after|max_extra)="):
        Hedge(**wrong)
