"""Deadlines with everything else in play: whichever timeout fires is named, and waiting never spends an attempt's."""

import threading

import pytest
import trio

from pipeline_engine import (
    Breaker,
    Budget,
    CircuitOpenError,
    Completed,
    Document,
    Engine,
    Failed,
    Hedge,
    Limits,
    Pipeline,
    RateLimitError,
    RejectedError,
    Retry,
    Role,
    StepTimeoutError,
    Stopped,
    Timeout,
    UnavailableError,
    Usage,
    run_batch_async,
)
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import AttemptStarted, QueueLeft, StepFinished

ONCE = Retry(attempts=1, jitter="none")
EXACT = Retry(attempts=4, jitter="none")
DOWN = UnavailableError("is down.", model="scripted:model", kind="server", status=500)
VALUE = Completed("value", via="fallback:value")


def limited(seconds, model="scripted:model"):
    return RateLimitError("is busy.", model=model, kind="rate_limited", status=429, retry_after=seconds)


def model(answer="ok", *, latency=1.0, name="scripted:model", **options):
    return ScriptedModel({"*": answer}, latency=latency, name=name, **options)


def one_step(**options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", str, name="ask", **options)(lambda document: document)
    return pipeline


def two_steps(other=None, **options):
    """`other` goes on the wire first and is in the way of `ask`, where they share what bounds them."""
    pipeline = Pipeline("two", inputs={"document": str})
    pipeline.llm("fast", str, name="other", **(other or {}))(lambda document: document)
    pipeline.llm("fast", str, name="ask", **options)(lambda document: document)
    return pipeline


async def run(pipeline, models, inputs=None, **options):
    models = models if isinstance(models, dict) else {"fast": models}
    async with Engine(models=models, seed=1) as engine:
        with trio.fail_after(10_000):
            result = await engine.run(pipeline, inputs or {"document": "text"}, **options)
        statistics = engine.statistics()
        assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
    return result


async def batch(pipeline, number, models, *, capacity=64, **options):
    async with Engine(models=models, capacity=capacity, seed=1) as engine:
        given = [Document(str(place), {"document": str(place)}) for place in range(number)]
        async with BatchStream(engine, engine.bind(pipeline), given, **options) as stream:
            results = [result async for result in stream]
    return sorted(results, key=lambda result: int(result.document)), stream


def starts(result, step="ask"):
    found = [record.at for record in result.records if isinstance(record, AttemptStarted) and record.step == step]
    return [at - result.trace.started_at for at in found]


def ended(result, step="ask"):
    [at] = [record.at for record in result.records if isinstance(record, StepFinished) and record.step == step]
    return at - result.trace.started_at


def timeout_of(result, step="ask"):
    error = result.outcome(step).error
    assert isinstance(error, StepTimeoutError)
    return error.which, error.timeout


# TO1, TO3: the one that fired is named, and fires on time


@pytest.mark.parametrize(
    ("timeout", "expected", "at"),
    [
        (Timeout(attempt=5, step=60), ("attempt", 5), 5),
        (Timeout(attempt=60, step=5), ("step", 5), 5),
        (Timeout(attempt=5, step=5), ("step", 5), 5),
        (Timeout(attempt=None, step=7), ("step", 7), 7),
    ],
)
async def test_the_tightest_timeout_wins_and_is_named(autojump_clock, timeout, expected, at):
    """Who is told to raise the wrong number raises it all night."""
    result = await run(one_step(retry=ONCE, timeout=timeout), model(latency=99))
    assert timeout_of(result) == expected
    assert ended(result) == at


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"timeout": 5}, "the batch's timeout of 5 s"),
        ({"document_timeout": 5}, "the document's timeout of 5 s"),
        ({"timeout": 9, "document_timeout": 5}, "the document's timeout of 5 s"),
        ({"timeout": 5, "document_timeout": 9}, "the batch's timeout of 5 s"),
    ],
)
async def test_what_ends_a_document_from_outside_is_named_too(autojump_clock, options, reason):
    """And never falls back: it is not the step's failure."""
    results, _ = await batch(one_step(fallback="value"), 1, {"fast": model(latency=99)}, **options)
    assert results[0].outcome("ask") == Stopped(reason)
    assert ended(results[0]) == 5


async def test_the_steps_timeout_of_one_step_is_not_anothers(autojump_clock):
    """Each counts from its own first attempt."""
    pipeline = Pipeline("line", inputs={"document": str})
    pipeline.llm("fast", str, name="first", timeout=Timeout(step=5))(lambda document: document)
    pipeline.llm("fast", str, name="second", timeout=Timeout(step=5))(lambda first: first)
    result = await run(pipeline, model(latency=4))
    assert result.status == "completed"
    assert result.trace.makespan == 8


async def test_a_probe_that_is_cut_names_the_seconds_that_it_had(autojump_clock):
    """A half-open breaker's probe has no longer than the breaker stays open."""
    asked = model(
        in_turn(Reply(DOWN, latency=1), Reply("late", latency=500)),
        breaker=Breaker(failure_threshold=1, timeout=10, success_threshold=1),
    )
    result = await run(one_step(retry=Retry(attempts=2, jitter="none"), timeout=300), asked)
    assert (starts(result), ended(result)) == ([0, 11], 21)
    assert timeout_of(result) == ("attempt", 10)


# TO2: waiting never consumes the attempt's timeout


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        (Limits(rpm=1), [0, 60, 120]),
        (Limits(max_concurrency=1), [0, 4, 8]),
        (Limits(tpm=60, burst_tokens=300), [0, 256, 516]),
    ],
)
async def test_a_wait_for_the_models_limits_spends_nothing_of_the_attempts_timeout(autojump_clock, limits, expected):
    """Else a batch of thousands would time out before it has sent anything."""
    asked = model(latency=4, limits=limits, max_tokens=256)
    results, _ = await batch(one_step(retry=ONCE, timeout=Timeout(attempt=5, step=5)), 3, {"fast": asked})
    assert [result.status for result in results] == ["completed"] * 3
    zero = min(result.trace.started_at for result in results)
    first = sorted(record.at - zero for r in results for record in r.records if isinstance(record, AttemptStarted))
    assert len(first) == 3
    if limits.tpm is None:
        assert first == expected
    else:
        assert first[0] == 0
        assert first[1] > 5


async def test_a_wait_for_a_slot_spends_nothing_of_any_timeout(autojump_clock):
    """The step's counts from its first attempt: what waited an hour for its turn has all of it."""
    results, _ = await batch(
        one_step(retry=ONCE, timeout=Timeout(attempt=5, step=5)), 10, {"fast": model(latency=4)}, capacity=1
    )
    assert [result.status for result in results] == ["completed"] * 10


async def test_a_cool_down_spends_nothing_of_the_attempts_timeout(autojump_clock):
    """The provider asks for 30 s; the attempt after it has its five seconds."""
    asked = model(in_turn(Reply(limited(30), latency=1), Reply("ok", latency=4)))
    result = await run(one_step(retry=Retry(jitter="none"), timeout=5), asked)
    assert result["ask"] == "ok"
    assert starts(result) == [0, 31]


async def test_a_wait_for_the_breaker_spends_nothing_of_the_attempts_timeout(autojump_clock):
    """Where there is nothing else to try, a step waits for the probe's turn."""
    asked = model(
        in_turn(Reply(DOWN, latency=1), Reply("ok", latency=4)),
        breaker=Breaker(failure_threshold=1, timeout=60, success_threshold=1),
    )
    result = await run(one_step(retry=EXACT, timeout=5), asked)
    assert result["ask"] == "ok"
    assert starts(result) == [0, 61]


async def test_a_wait_for_the_budget_spends_nothing_of_the_attempts_timeout(autojump_clock):
    """Nor of the step's, before the first attempt."""
    slow = ScriptedModel(
        {"other": Reply("ok", latency=50, usage=Usage(10, 10)), "ask": Reply("ok", latency=4, usage=Usage(10, 10))},
        max_tokens=100,
    )
    result = await run(two_steps(retry=ONCE, timeout=Timeout(attempt=5, step=5)), slow, budget=Budget(tokens=150))
    assert result["ask"] == "ok"
    assert starts(result) == [50]


async def test_a_second_call_has_no_timeout_of_its_own(autojump_clock):
    """Hedged or not, an attempt is bounded by one deadline, from its start."""
    result = await run(one_step(retry=ONCE, timeout=5, hedge=Hedge(after=3, max_extra=1.0)), model(latency=4.5))
    assert result["ask"] == "ok"
    assert ended(result) == 4.5
    result = await run(one_step(retry=ONCE, timeout=5, hedge=Hedge(after=3, max_extra=1.0)), model(latency=99))
    assert timeout_of(result) == ("attempt", 5)
    assert ended(result) == 5


# The step's timeout while it waits


CONCURRENT = Limits(max_concurrency=1)


@pytest.mark.parametrize(
    ("limits", "cause"), [(Limits(max_concurrency=1), "concurrency"), (Limits(rpm=1, burst_requests=2), "requests")]
)
async def test_a_step_timeout_in_the_queue_uses_the_first_plain_value(autojump_clock, limits, cause):
    """Another model would have no time left; a value needs none. The wait is told, and its place is given up."""
    answers = {"ask": in_turn(Reply(DOWN, latency=1), "never"), "other": Reply("ok", latency=50)}
    asked = ScriptedModel(answers, limits=limits)
    pipeline = Pipeline("two", inputs={"document": str})
    pipeline.llm(
        "fast", str, name="ask", retry=EXACT, timeout=Timeout(step=8), fallback=(Role("spare"), "value", "second value")
    )(lambda document: document)
    pipeline.llm("fast", str, name="other")(lambda document: document)
    result = await run(pipeline, {"fast": asked, "spare": model(name="scripted:spare")})

    # `ask` fails at 1 s and comes back at 2 s, when `other` has the one place, or the last request of the minute.
    assert starts(result) == [0]
    assert result.outcome("ask") == VALUE
    assert ended(result) == 8
    [left] = [record for record in result.records if isinstance(record, QueueLeft) and record.step == "ask"]
    assert dict(left.waits) == {cause: 6.0}


async def test_a_step_timeout_while_the_breaker_is_open_uses_the_first_plain_value(autojump_clock):
    """Plain values need spent attempts or a deadline: here it is the deadline."""
    asked = model(Reply(DOWN, latency=1), breaker=Breaker(failure_threshold=1, timeout=60))
    result = await run(one_step(retry=EXACT, timeout=Timeout(step=9), fallback="value"), asked)
    assert result.outcome("ask") == VALUE
    assert (starts(result), ended(result)) == ([0], 9)

    asked = model(Reply(DOWN, latency=1), breaker=Breaker(failure_threshold=1, timeout=60))
    result = await run(one_step(retry=EXACT, timeout=Timeout(step=9)), asked)
    assert timeout_of(result) == ("step", 9)
    assert ended(result) == 9


async def test_a_step_timeout_while_its_fallback_step_runs_uses_the_first_plain_value(autojump_clock):
    """The fallback step is another step's work by then, and may go on for those who wait for it."""
    pipeline = Pipeline("spare", inputs={"document": str})

    @pipeline.step
    async def spare(document: str) -> str:
        await trio.sleep(50)
        return "too late"

    pipeline.llm("fast", str, name="ask", retry=ONCE, timeout=Timeout(step=9), fallback=(spare, "value"))(
        lambda document: document
    )
    result = await run(pipeline, model(Reply(DOWN, latency=1)))
    assert result.outcome("ask") == VALUE
    assert ended(result) == 9


async def test_a_step_timeout_in_a_cascade_uses_the_first_plain_value(autojump_clock):
    """It bounds all of its roles together."""
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm(
        output=str,
        cascade=["fast", "strong"],
        accept=lambda _output: False,
        name="ask",
        timeout=Timeout(attempt=5, step=7),
        fallback="value",
        retry=ONCE,
    )(lambda document: document)
    result = await run(pipeline, {"fast": model(latency=4), "strong": model(latency=4, name="scripted:strong")})
    assert result.outcome("ask") == VALUE
    assert (starts(result), ended(result)) == ([0, 4], 7)


# A wait that cannot end before the deadline is not begun


async def test_a_cool_down_past_the_deadline_goes_to_the_next_candidate_at_once(autojump_clock):
    """For a step that has a minute, "come back in an hour" is a no; for whoever waits for the same model, too."""
    asked = model(in_turn(Reply(limited(3600), latency=1)))
    spare = model("spare", name="scripted:spare")
    result = await run(one_step(retry=EXACT, timeout=Timeout(step=60)), {"fast": [asked, spare]})
    assert result.outcome("ask") == Completed("spare", via="fallback:scripted:spare")
    assert starts(result) == [0, 1]


async def test_who_comes_back_to_a_cool_down_past_its_deadline_goes_on_at_once(autojump_clock):
    """It backed off while another step was told to wait for an hour; its own run must not wait, nor hang."""
    asked = ScriptedModel(
        {"ask": Reply(DOWN, latency=1), "other": in_turn(Reply(limited(3600), latency=2), "ok")}, name="scripted:model"
    )
    pipeline = two_steps(
        {"retry": Retry(attempts=1, max_throttled=0), "fallback": "none"},
        retry=Retry(attempts=2, base_delay=5, jitter="none"),
        timeout=Timeout(step=60),
        fallback="value",
    )
    result = await run(pipeline, asked)
    assert result.outcome("ask") == VALUE
    assert (starts(result), ended(result)) == ([0], 6)


async def test_who_comes_back_to_an_open_breaker_that_fails_ends_its_run(autojump_clock):
    """`when_open="fail"` for the last step of a run: nothing follows its outcome, and the run is over."""
    asked = model(Reply(DOWN, latency=1), breaker=Breaker(failure_threshold=1, timeout=60))
    result = await run(one_step(retry=Retry(base_delay=5, jitter="none"), when_open="fail"), asked)
    assert isinstance(result.outcome("ask").error, CircuitOpenError)
    assert ended(result) == 6


async def test_who_comes_back_to_a_refused_key_ends_its_run(autojump_clock):
    """The same for a key that another step's call has had refused meanwhile."""
    refused = RejectedError("refused the key.", model="scripted:model", kind="auth", status=401)
    asked = ScriptedModel({"ask": Reply(DOWN, latency=1), "other": Reply(refused, latency=2)}, name="scripted:model")
    result = await run(two_steps(retry=Retry(base_delay=5, jitter="none")), asked)
    assert isinstance(result.outcome("ask"), Failed)
    assert ended(result) == 6


async def test_a_call_that_was_admitted_is_not_lost_when_others_go_elsewhere_at_that_instant(autojump_clock):
    """A probe goes, and at that instant whoever waits for the same model learns that it must not wait."""
    pipeline = Pipeline("probe", inputs={"document": str})

    @pipeline.step
    async def first(document: str) -> str:
        await trio.sleep(1)
        return document

    pipeline.llm("shaky", str, name="probe")(lambda first: first)
    pipeline.llm("shaky", str, name="other", when_open="fallback", fallback="value")(lambda first: first)

    @pipeline.step
    async def after(other: str) -> str:
        return other

    @pipeline.step
    async def later(probe: str) -> str:
        return probe

    @pipeline.step
    async def last(later: str) -> str:
        return later

    spoiled = Pipeline("spoil", inputs={"document": str})
    spoiled.llm("shaky", str, name="probe", retry=None)(lambda document: document)
    shaky = ScriptedModel(
        {"probe": lambda request: Reply(DOWN if request.messages[0].text == "bad" else "ok", latency=2)},
        breaker=Breaker(failure_threshold=1, timeout=5, success_threshold=1),
    )
    async with Engine(models={"shaky": shaky}, capacity=1) as engine:
        await engine.run(spoiled, {"document": "bad"})
        await trio.sleep(10)  # the breaker lets a probe through by now; `first` has the one slot
        with trio.fail_after(100):
            result = await engine.run(pipeline, {"document": "good"})
        assert engine.statistics().in_flight == 0
    # The longest path goes first: that is the probe, for which the one slot was kept when `after` became ready.
    assert result.outputs == {
        "first": "good",
        "probe": "ok",
        "other": "value",
        "after": "value",
        "later": "ok",
        "last": "ok",
    }


# A run's and a batch's timeout never fall back


WAYS_TO_WAIT = {
    "on the wire": (model(latency=99), {}, {}),
    "for the breaker": (model(Reply(DOWN, latency=1), breaker=Breaker(failure_threshold=1)), {"retry": EXACT}, {}),
    "for its model": (model(latency=99, limits=CONCURRENT), {}, {}),
    "for the budget": (model(latency=99, max_tokens=100), {}, {"budget": Budget(tokens=150)}),
    "hedged": (model(latency=99), {"hedge": Hedge(after=2, max_extra=1.0)}, {}),
}


@pytest.mark.parametrize("way", WAYS_TO_WAIT)
async def test_a_runs_timeout_never_falls_back_whatever_a_step_waits_for(autojump_clock, way):
    """The caller's patience has ended: a value now would pass for an answer."""
    asked, options, run_options = WAYS_TO_WAIT[way]
    pipeline = two_steps({"fallback": "none", **options}, fallback="value", **options)
    result = await run(pipeline, asked, timeout=7, **run_options)
    assert {result.outcome("ask"), result.outcome("other")} == {Stopped("the run's timeout of 7 s")}
    assert result.status == "stopped"
    assert result.trace.makespan == 7


@pytest.mark.parametrize("way", ["on the wire", "for its model", "hedged"])
async def test_a_batchs_timeout_never_falls_back_and_stops_reading(autojump_clock, way):
    """What is not there by then is stopped, and the rest is not begun."""
    asked, options, _ = WAYS_TO_WAIT[way]
    result = await run_batch_async(
        two_steps({"fallback": "none", **options}, fallback="value", **options),
        [{"document": str(number)} for number in range(50)],
        models={"fast": asked},
        capacity=4,
        max_documents=3,
        timeout=7,
    )
    assert result.counts == {"stopped": 3}
    assert result.stopped_by == "the batch's timeout of 7 s"
    assert result.elapsed == 7


@pytest.mark.parametrize("failure", [DOWN, limited(60)])
async def test_a_wait_that_would_outlive_the_run_is_not_begun(autojump_clock, failure):
    """The attempt has failed by itself, with time left: what comes next is tried, as ever."""
    retry = Retry(base_delay=60, jitter="none")
    result = await run(one_step(retry=retry, fallback="value"), model(Reply(failure, latency=1)), timeout=7)
    assert result.outcome("ask") == VALUE
    assert result.trace.makespan == 1


# Threads, which nobody can stop (TO4)


async def test_a_thread_that_cannot_be_stopped_is_abandoned_and_its_fallback_used():
    """The step goes on; its slot comes back when the thread does."""
    may_return = threading.Event()
    pipeline = Pipeline("stuck", inputs={"document": str})

    @pipeline.step(timeout=Timeout(step=0.05), fallback="value")
    def stuck(document: str) -> str:
        may_return.wait(10)
        return document

    async with Engine(capacity=1) as engine:
        result = await engine.run(pipeline, {"document": "x"})
        assert result.outcome(stuck) == VALUE
        assert engine.statistics().in_flight == 1
        may_return.set()
        with trio.fail_after(5):
            await engine.scheduler.wait_for_room()
        assert engine.statistics().in_flight == 0
