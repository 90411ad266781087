"""Budgets: the most that a call may cost is reserved before it is sent, and settled with what it did cost."""

import json
import math
from dataclasses import dataclass

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_engine import (
    Budget,
    BudgetError,
    Completed,
    Completion,
    Cost,
    Document,
    Engine,
    Hedge,
    Limits,
    Model,
    Pipeline,
    PlanError,
    Price,
    RateLimitError,
    RejectedError,
    Retry,
    Role,
    Stopped,
    Timeout,
    UnavailableError,
    Usage,
    compile_pipeline,
    run_batch_async,
    run_pipeline,
)
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import AttemptFinished, AttemptStarted, StepFinished, WaitEnded, WaitStarted

EXACT = Retry(attempts=4, jitter="none")
ONCE = Retry(attempts=1, jitter="none")
TEXT = "d" * 84
"""With the 16 bytes around a message and a cap of 100 tokens for the reply, at most 200 tokens are asked for."""
HUNDRED = Usage(60, 40)
"""What a call really uses: half of what was reserved."""


def one_step(output=str, **options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", output, name="ask", **options)(lambda document: document)
    return pipeline


def model(answer="ok", *, latency=1.0, usage=HUNDRED, name="scripted:model", price=None, max_tokens=100, **options):
    reply = answer if callable(answer) else Reply(answer, latency=latency, usage=usage)
    return ScriptedModel({"*": reply}, name=name, price=price, max_tokens=max_tokens, **options)


def documents(number):
    return [Document(str(place), {"document": f"{place:084d}"}) for place in range(number)]


def substitute(folder, **options):
    """A model that can be named in `Budget(on_exhausted=Model(…))`."""
    path = folder / "substitute.json"
    path.write_text(json.dumps({"answers": {"*": "instead"}, "latency": 1.0}), encoding="utf-8")
    return Model(f"scripted:{path}", **options)


def counts(results):
    statuses = [result.status for result in results]
    return {status: statuses.count(status) for status in sorted(set(statuses))}


def starts(*results):
    """When each attempt began, counted from the first run's start."""
    zero = min(result.trace.started_at for result in results)
    records = [record for result in results for record in result.records]
    return sorted(record.at - zero for record in records if isinstance(record, AttemptStarted))


async def batch(pipeline, given_documents, models, *, capacity=64, **options):
    """Run a batch; return its results in the order of their documents, the stream, and the engine's last word."""
    async with Engine(models=models, capacity=capacity, seed=1) as engine:
        async with BatchStream(engine, engine.bind(pipeline), given_documents, **options) as stream:
            results = [result async for result in stream]
        statistics = engine.statistics()
    assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
    if stream._budget is not None:
        ledger = stream._budget.ledger
        assert (ledger.has_calls_in_flight, ledger.waiting, ledger._reserved_tokens) == (False, {}, 0.0)
    return sorted(results, key=lambda result: int(result.document)), stream


def mapped(**options):
    pipeline = Pipeline("map", inputs={"texts": list[str]})
    pipeline.llm("fast", str, each="texts", name="ask", **options)(lambda text: text)
    return pipeline


def item_starts(result):
    """When the attempts of each item began, by item."""
    found = {}
    for record in result.records:
        if isinstance(record, AttemptStarted):
            found.setdefault(record.item, []).append(record.at - result.trace.started_at)
    return found


async def run(pipeline, models, inputs=None, **options):
    async with Engine(models=models, seed=1) as engine:
        result = await engine.run(pipeline, inputs or {"document": TEXT}, **options)
        assert (engine.statistics().in_flight, engine.statistics().timers) == (0, 0)
    return result


# What is reserved, what waits, and when it is over


async def test_what_was_reserved_and_not_used_lets_later_calls_go(autojump_clock):
    """A cap on what calls may cost at most would stop a batch at half of its budget."""
    asked = model()
    results, stream = await batch(one_step(), documents(30), {"fast": asked}, capacity=10, budget=Budget(tokens=1000))

    # Five fit at once. They use half of it, which leaves room for two more, then one, then one.
    assert starts(*results) == [0] * 5 + [1] * 2 + [2, 3]
    assert stream._budget.ledger.spent.tokens == 900
    assert len(asked.requests) == 9


async def test_a_call_that_may_still_fit_waits_for_those_in_flight_to_settle(autojump_clock):
    """Declared too early, "exhausted" would stop a batch whose budget is still half there."""
    results, _ = await batch(one_step(), documents(2), {"fast": model()}, budget=Budget(tokens=300))

    records = [record for result in results for record in result.records]
    [started] = [record for record in records if isinstance(record, WaitStarted)]
    [ended] = [record for record in records if isinstance(record, WaitEnded)]
    assert (started.cause, ended.at - started.at) == ("budget", 1)
    assert counts(results) == {"completed": 2}


@pytest.mark.parametrize(
    ("used", "expected"), [(Usage(10, 10), {0: [0], 1: [0], 2: [1]}), (Usage(100, 100), {0: [0], 1: [0]})]
)
async def test_it_is_exhausted_only_when_nothing_in_flight_can_leave_enough(autojump_clock, used, expected):
    """Two calls are in flight, for one and for five seconds. If the first leaves nothing, the second still may."""
    asked = ScriptedModel(
        {"ask": Reply("ok", usage=used)}, latency=lambda step: [1.0, 5.0, 1.0][step.item], max_tokens=100
    )
    result = await run(mapped(), {"fast": asked}, {"texts": [TEXT] * 3}, budget=Budget(tokens=420))
    assert item_starts(result) == expected
    [ended] = [record.at for record in result.records if isinstance(record, StepFinished) and record.item == 2]
    assert ended - result.trace.started_at == (2 if 2 in expected else 5)


async def test_a_small_call_goes_on_beside_a_large_one_that_waits(autojump_clock):
    """A wait for a budget is no queue: what fits is sent."""
    texts = ["a" * 384, "b" * 884, "c" * 84]  # may use 500, 1,000 and 200 tokens
    asked = model(usage=Usage(10, 10))
    result = await run(mapped(), {"fast": asked}, {"texts": texts}, budget=Budget(tokens=1100))
    assert item_starts(result) == {0: [0], 1: [1], 2: [0]}
    assert result.status == "completed"


@pytest.mark.parametrize(
    ("fault", "spent"),
    [
        (None, 100),
        (UnavailableError("is down.", model="m", kind="server", status=500, billed="no"), 0),
        (UnavailableError("broke off.", model="m", kind="server", status=500, billed="maybe"), 200),
        (RejectedError("refused.", model="m", kind="content_filter", status=200, billed="yes"), 200),
    ],
)
async def test_what_may_have_been_billed_counts_as_spent(autojump_clock, fault, spent):
    """Nobody says what a call cost that broke off: to guess low is to pass the cap."""
    asked = model(lambda _request: Reply(fault or "ok", latency=1, usage=HUNDRED))
    _, stream = await batch(one_step(retry=ONCE), documents(1), {"fast": asked}, budget=Budget(tokens=1000))

    assert stream._budget.ledger.spent.tokens == spent


async def test_a_timed_out_call_counts_as_what_was_reserved_for_it(autojump_clock):
    """The provider may have worked on it, and bills it then."""
    _, stream = await batch(
        one_step(retry=ONCE, timeout=5), documents(1), {"fast": model(latency=9)}, budget=Budget(tokens=1000)
    )
    assert stream._budget.ledger.spent.tokens == 200


async def test_a_cancelled_call_counts_as_what_was_reserved_for_it(autojump_clock):
    """Closing the connection does not unsend the request."""
    _, stream = await batch(
        one_step(), documents(1), {"fast": model(latency=9)}, budget=Budget(tokens=1000), document_timeout=5
    )
    assert stream._budget.ledger.spent.tokens == 200


async def test_a_reply_without_usage_counts_as_what_was_reserved_for_it(autojump_clock):
    """Missing is not zero."""
    _, stream = await batch(
        one_step(), documents(1), {"fast": model(usage=Usage(60, None))}, budget=Budget(tokens=1000)
    )
    assert stream._budget.ledger.spent.tokens == 200


async def test_retries_and_repairs_reserve_for_themselves(autojump_clock):
    """A cap that only first tries knew about would be no cap in the hour when it is needed."""
    maybe = UnavailableError("broke off.", model="m", kind="server", status=500, billed="maybe")
    answers = in_turn(Reply(maybe, latency=1), Reply(maybe, latency=1), Reply("ok", latency=1, usage=HUNDRED))
    pipeline = one_step(retry=EXACT)
    enough = await run(pipeline, {"fast": ScriptedModel({"ask": answers}, max_tokens=100)}, budget=Budget(tokens=600))
    assert enough["ask"] == "ok"

    tight = await run(pipeline, {"fast": ScriptedModel({"ask": answers}, max_tokens=100)}, budget=Budget(tokens=599))
    assert starts(tight) == [0, 2]
    assert tight.outcome("ask") == Stopped("the run's budget of 599 tokens has no room for another call")

    refused = in_turn(Reply("no number", usage=HUNDRED), Reply({"value": 7}, usage=HUNDRED))
    pipeline = one_step(int)
    schema = len(compile_pipeline(pipeline).steps[0].output.schema_json)
    # The repair sends the first reply and the reasons, too: it may cost more than the first call.
    for left, outcome in ((0, Stopped), (1000, Completed)):
        repaired = ScriptedModel({"ask": refused}, max_tokens=100)
        result = await run(pipeline, {"fast": repaired}, budget=Budget(tokens=300 + schema + left))
        assert type(result.outcome("ask")) is outcome
        assert len(repaired.requests) == (1 if outcome is Stopped else 2)


async def test_without_max_tokens_the_cap_is_passed_by_no_more_than_the_estimate_missed(autojump_clock):
    """The length of a reply cannot be known: what is learnt about it comes close, and the docs say so."""
    asked = model(usage=Usage(60, 1040), max_tokens=None)
    results, stream = await batch(
        one_step(), documents(9), {"fast": asked}, capacity=1, max_documents=1, budget=Budget(tokens=2000)
    )

    # 612 are reserved for a first call (100, and twice the 256 of an unknown reply), which uses 1,100.
    assert len(asked.requests) == 2
    assert stream._budget.ledger.spent.tokens == 2200
    assert counts(results) == {"completed": 2, "stopped": 1}


# Stop


async def test_stop_keeps_what_is_in_flight_and_stops_the_rest(autojump_clock):
    """Money that is spent has bought something; the rest can be run with a larger budget."""
    results, stream = await batch(
        one_step(), documents(30), {"fast": model()}, capacity=3, max_documents=5, budget=Budget(tokens=800)
    )

    # 3 at 0 s (600 of 800), then 300 are spent and 2 more fit, then 500 and 1 more, then 600 and 1 more.
    assert counts(results) == {"completed": 7, "stopped": len(results) - 7}
    assert {result.outcome("ask") for result in results[7:]} == {
        Stopped("the batch's budget of 800 tokens has no room for another call")
    }
    assert stream.stopped_by == "the batch's budget of 800 tokens has no room for another call"
    assert len(results) < 30
    assert results[-1].reason == "stopped: the batch's budget of 800 tokens has no room for another call"


async def test_documents_are_not_read_after_the_budget_is_spent(autojump_clock):
    """A generator over a data base of millions must not be drained for nothing."""
    read = []

    async def source():
        for document in documents(1000):
            read.append(document)
            yield document

    result = await run_batch_async(
        one_step(), source(), models={"fast": model()}, capacity=2, max_documents=2, budget=Budget(tokens=500)
    )
    assert result.stopped_by == "the batch's budget of 500 tokens has no room for another call"
    assert not result.is_complete
    assert len(read) <= result.documents + 1
    assert result.counts["completed"] == 4
    assert result.usage == Usage(240, 160)


async def test_all_that_needs_a_stopped_step_is_stopped_too(autojump_clock):
    """`Skipped` would say that something failed; nothing did."""
    pipeline = Pipeline("line", inputs={"document": str})

    @pipeline.llm("fast", str)
    def first(document: str) -> str:
        return document

    @pipeline.llm("fast", str)
    def second(first: str, document: str) -> str:
        return document

    @pipeline.step
    async def third(second: str) -> str:
        return second

    result = await run(pipeline, {"fast": model(usage=Usage(100, 100))}, budget=Budget(tokens=300))
    assert result.status == "stopped"
    assert result["first"] == "ok"
    assert result.outcome("second") == Stopped("the run's budget of 300 tokens has no room for another call")
    assert isinstance(result.outcome("third"), Stopped)
    assert "the run's budget of 300 tokens" in result.outcome("third").reason


async def test_a_step_without_model_calls_goes_on_after_the_budget_is_spent(autojump_clock):
    """What is free need not wait for a larger budget."""
    pipeline = Pipeline("two", inputs={"document": str})

    @pipeline.llm("fast", str)
    def dear(document: str) -> str:
        return document

    @pipeline.step
    async def slow(document: str) -> str:
        await trio.sleep(5)
        return "read"

    @pipeline.step
    async def after(slow: str) -> str:
        return slow.upper()

    result = await run(pipeline, {"fast": model()}, budget=Budget(tokens=10))
    assert isinstance(result.outcome("dear"), Stopped)
    assert (result["slow"], result["after"]) == ("read", "READ")


async def test_a_mapped_step_with_stopped_items_is_stopped_itself(autojump_clock):
    """A list that silently lacks what the budget had no room for would pass for the whole."""
    result = await run(mapped(), {"fast": model()}, {"texts": [TEXT] * 5}, budget=Budget(tokens=400))

    # Two at once; then 200 are spent and one fits, then 300.
    assert [isinstance(item, Completed) for item in result.items("ask")] == [True] * 3 + [False] * 2
    assert result.usage == Usage(180, 120)
    assert isinstance(result.outcome("ask"), Stopped)
    assert result.status == "stopped"


async def test_nothing_at_all_is_sent_after_stop_not_even_what_would_fit(autojump_clock):
    """Which documents get the last crumbs would be chance: the batch says "stopped", and is."""
    pipeline = Pipeline("sizes", inputs={"document": str})

    @pipeline.llm("fast", str)
    def large(document: str) -> str:
        return document * 10

    @pipeline.step
    async def later(document: str) -> str:
        await trio.sleep(3)
        return document

    @pipeline.llm("fast", str)
    def small(later: str) -> str:
        return later

    asked = model()
    result = await run(pipeline, {"fast": asked}, budget=Budget(tokens=500))
    assert asked.requests == []
    assert result.outcome("small") == Stopped("the run's budget of 500 tokens has no room for another call")


async def test_what_waited_in_the_queue_when_the_budget_was_spent_is_not_sent(autojump_clock):
    """The same holds for calls that were ready before, and waited for their model."""
    pipeline = Pipeline("sizes", inputs={"document": str})

    @pipeline.step
    async def soon(document: str) -> str:
        await trio.sleep(1)
        return document

    pipeline.llm("fast", str, name="large")(lambda soon: soon * 10)
    pipeline.llm("slow", str, name="small")(lambda document: document)
    pipeline.llm("slow", str, name="small_too")(lambda document: document)
    slow = model(usage=Usage(0, 0), latency=2, limits=Limits(max_concurrency=1), name="scripted:slow")
    result = await run(pipeline, {"fast": model(), "slow": slow}, budget=Budget(tokens=700))

    # `large` needs 956: it waits for the one that is in flight, and is stopped at 2 s. The third one is queued then.
    assert len(slow.requests) == 1
    outcomes = [result.outcome(name) for name in ("small", "small_too")]
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Completed", "Stopped"]


async def test_a_step_that_comes_back_to_a_spent_budget_ends_its_run(autojump_clock):
    """It backs off while another step spends the rest; nothing follows it, and the run is over then."""
    pipeline = Pipeline("two", inputs={"document": str})
    pipeline.llm("flaky", str, name="ask", retry=Retry(attempts=2, base_delay=9, jitter="none"))(
        lambda document: document
    )
    pipeline.llm("fast", str, name="large", retry=ONCE)(lambda document: document * 9)
    down = UnavailableError("is down.", model="scripted:flaky", kind="server", status=500)
    flaky = ScriptedModel({"ask": in_turn(Reply(down, latency=1), "ok")}, name="scripted:flaky", max_tokens=100)
    models = {"fast": model(), "flaky": flaky}
    with trio.fail_after(100):
        result = await run(pipeline, models, budget=Budget(tokens=400))
    assert result.outcome("large") == Stopped("the run's budget of 400 tokens has no room for another call")
    assert result.outcome("ask") == Stopped("the run's budget of 400 tokens has no room for another call")
    assert result.trace.makespan == 10


# Fail


async def test_fail_is_an_error_of_the_step_and_names_the_budget_and_the_spend(autojump_clock):
    """A caller that must have an answer wants to know why it has none, and which number to change."""
    asked = model(price=Price(1000, 1000))
    result = await run(one_step(), {"fast": asked}, budget=Budget(usd=0.15, on_exhausted="fail"))

    error = result.outcome("ask").error
    assert isinstance(error, BudgetError)
    assert (error.budget, error.spent_usd, error.spent_tokens) == ("the run's budget of $0.15", 0, 0)
    assert str(error) == (
        "the call was not sent: it may cost more than is left of the run's budget of $0.15 "
        "(spent so far: $0.0000, 0 tokens). Raise the budget, or lower max_tokens."
    )
    assert result.status == "failed"
    assert asked.requests == []


async def test_fail_tries_the_other_fallbacks_values_too(autojump_clock):
    """Some answer is there for each document, and the spend is bounded."""
    dear, free = model(price=Price(1000, 1000)), model("free", name="scripted:free")
    budget = Budget(usd=0.35, on_exhausted="fail")
    results, _ = await batch(
        one_step(fallback="value"), documents(4), {"fast": dear}, capacity=1, max_documents=1, budget=budget
    )
    # A call may cost $0.2 and costs $0.1: two fit, and for the third there are only $0.15 left.
    assert [result.outcome("ask") for result in results] == [
        Completed("ok"),
        Completed("ok"),
        Completed("value", via="fallback:value"),
        Completed("value", via="fallback:value"),
    ]

    chain = {"fast": [dear, free]}
    results, _ = await batch(one_step(), documents(3), chain, capacity=1, max_documents=1, budget=budget)
    assert [result.outcome("ask") for result in results][1:] == [
        Completed("ok"),
        Completed("free", via="fallback:scripted:free"),
    ]


async def test_fail_does_not_stop_the_batch(autojump_clock):
    """Each document says for itself what it lacks."""
    results, stream = await batch(
        one_step(),
        documents(5),
        {"fast": model()},
        capacity=1,
        max_documents=1,
        budget=Budget(tokens=300, on_exhausted="fail"),
    )
    assert counts(results) == {"completed": 2, "failed": 3}
    assert stream.stopped_by is None


# Another model instead


async def test_another_model_is_asked_instead_and_named(autojump_clock, tmp_path):
    """A cheaper answer is better than none, and must not pass for the dear one."""
    dear = model(price=Price(1000, 1000))
    cheap = substitute(tmp_path, price=Price(0, 0), max_tokens=10)
    results, stream = await batch(
        one_step(),
        documents(4),
        {"fast": dear},
        capacity=1,
        max_documents=1,
        budget=Budget(usd=0.35, on_exhausted=cheap),
    )
    assert [result.outcome("ask") for result in results] == [
        Completed("ok"),
        Completed("ok"),
        Completed("instead", via=f"budget:{cheap.name}"),
        Completed("instead", via=f"budget:{cheap.name}"),
    ]
    assert stream.stopped_by is None


async def test_what_is_asked_instead_counts_too_and_ends_where_the_budget_does(autojump_clock, tmp_path):
    """A way around the cap would be none."""
    dear = model(price=Price(1000, 1000))
    cheap = substitute(tmp_path, price=Price(500, 500), max_tokens=100)
    results, stream = await batch(
        one_step(),
        documents(9),
        {"fast": dear},
        capacity=1,
        max_documents=1,
        budget=Budget(usd=0.35, on_exhausted=cheap),
    )
    # Two dear calls cost $0.2 of $0.35. The cheap one may cost $0.1; it reports no usage, so that is what it costs.
    assert [result.outcome("ask") for result in results][:4] == [
        Completed("ok"),
        Completed("ok"),
        Completed("instead", via=f"budget:{cheap.name}"),
        Stopped("the batch's budget of $0.35 has no room for another call"),
    ]
    assert stream._budget.ledger.spent.usd == pytest.approx(0.3)
    assert stream.stopped_by == "the batch's budget of $0.35 has no room for another call"


async def test_a_cascade_takes_the_output_of_the_model_asked_instead_as_it_is(autojump_clock, tmp_path):
    """There is nobody stronger that the budget would pay: to judge it and ask it again would never end."""
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm(output=str, cascade=["fast", "strong"], accept=lambda output: output == "good", name="ask")(
        lambda document: document
    )
    cheap = substitute(tmp_path, price=Price(0, 0), max_tokens=10)
    dear = {role: model(price=Price(1e6, 1e6), name=f"scripted:{role}") for role in ("fast", "strong")}
    async with Engine(models=dear) as engine:
        result = await engine.run(
            pipeline, {"document": TEXT}, budget=Budget(usd=0.35, on_exhausted=cheap), timeout=100
        )
    assert result.outcome("ask") == Completed("instead", via=f"budget:{cheap.name}")
    assert result.trace.makespan == 1


# Whose budget


async def test_each_document_has_a_budget_of_its_own(autojump_clock):
    """One endless document must not eat what the others need; nor is the batch stopped by it."""
    pipeline = Pipeline("line", inputs={"document": str, "times": int})
    pipeline.llm("fast", str, name="first")(lambda document: document)
    pipeline.llm("fast", str, name="second")(lambda first, document, times: document * times)
    given_documents = [
        Document(str(number), {"document": TEXT, "times": times}) for number, times in enumerate([1, 9, 1])
    ]
    results, stream = await batch(pipeline, given_documents, {"fast": model()}, document_budget=Budget(tokens=300))
    assert [result.status for result in results] == ["completed", "stopped", "completed"]
    assert results[1]["first"] == "ok"
    assert results[1].outcome("second") == Stopped("the document's budget of 300 tokens has no room for another call")
    assert stream.stopped_by is None


async def test_a_batchs_and_a_documents_budget_hold_together(autojump_clock):
    """Whichever has less left decides, and is named."""
    pipeline = Pipeline("line", inputs={"document": str, "times": int})
    pipeline.llm("fast", str, name="first")(lambda document: document)
    pipeline.llm("fast", str, name="second")(lambda first, document, times: document * times)
    given_documents = [
        Document(str(number), {"document": TEXT, "times": times}) for number, times in enumerate([9, 1, 1, 1])
    ]
    results, stream = await batch(
        pipeline,
        given_documents,
        {"fast": model()},
        capacity=1,
        max_documents=1,
        budget=Budget(tokens=550),
        document_budget=Budget(tokens=400),
    )
    assert results[0].outcome("second") == Stopped("the document's budget of 400 tokens has no room for another call")
    assert results[1].status == "completed"  # 300 are spent by now
    assert results[2].outcome("second") == Stopped("the batch's budget of 550 tokens has no room for another call")
    assert len(results) == 3
    assert stream.stopped_by == "the batch's budget of 550 tokens has no room for another call"


def test_a_run_is_capped_from_sync_code_too():
    """`run_pipeline(…, budget=)` is what most people write."""
    asked = model(latency=0.0)
    result = run_pipeline(one_step(), {"document": TEXT}, models={"fast": asked}, budget=Budget(tokens=199))
    assert result.outcome("ask") == Stopped("the run's budget of 199 tokens has no room for another call")
    assert asked.requests == []

    result = run_pipeline(one_step(), {"document": TEXT}, models={"fast": asked}, budget=Budget(tokens=200))
    assert result["ask"] == "ok"


async def test_two_runs_of_one_engine_do_not_share_a_budget(autojump_clock):
    """A value is given, not an account: each run has books of its own."""
    budget = Budget(tokens=200)
    async with Engine(models={"fast": model()}) as engine:
        for _ in range(3):
            assert (await engine.run(one_step(), {"document": TEXT}, budget=budget))["ask"] == "ok"


async def test_streamed_steps_and_embed_steps_are_in_the_budget(autojump_clock):
    """Vectors and streams are on the same bill."""
    pipeline = Pipeline("both", inputs={"document": str, "texts": list[str]})
    pipeline.llm("fast", str, name="ask", stream=True)(lambda document: document)
    pipeline.embed("vectors", name="embed")(lambda texts: texts)
    inputs = {"document": TEXT, "texts": ["x" * 42] * 2}
    vectors = ScriptedModel({"embed": lambda texts: Reply([[1.0]] * len(texts), 1.0, usage=Usage(50, 0))})

    # The stream may use 200, the vectors 84 bytes and the 16 around them.
    both = await run(pipeline, {"fast": model(), "vectors": vectors}, inputs, budget=Budget(tokens=300))
    assert both.status == "completed"
    assert starts(both) == [0, 0]
    one = await run(pipeline, {"fast": model(), "vectors": vectors}, inputs, budget=Budget(tokens=199))
    assert isinstance(one.outcome("ask"), Stopped)


async def test_an_embed_step_that_the_budget_does_not_hold_is_stopped(autojump_clock):
    """An empty list of vectors for two texts would be a silent loss."""
    pipeline = Pipeline("vectors", inputs={"texts": list[str]})
    pipeline.embed("vectors", name="embed")(lambda texts: texts)
    vectors = ScriptedModel()
    result = await run(pipeline, {"vectors": vectors}, {"texts": ["x" * 42] * 2}, budget=Budget(tokens=99))
    assert vectors.texts == []
    assert isinstance(result.outcome("embed"), Stopped)


async def test_a_followed_run_is_capped_too(autojump_clock):
    """`engine.stream(…, budget=)` is the same promise."""
    pipeline = one_step(stream=True)
    async with Engine(models={"fast": model()}) as engine:
        async with engine.stream(pipeline, {"document": TEXT}, budget=Budget(tokens=10)) as events:
            async for _ in events:
                pass
        assert events.result.outcome("ask") == Stopped("the run's budget of 10 tokens has no room for another call")


# Prices


class Nameless:
    """A model of the user's own, which does not say its price."""

    def __init__(self, name):
        self.name = name

    async def complete(self, request):
        return Completion("ok")


def test_dollars_of_an_unknown_price_are_a_problem_that_names_the_cure():
    """To take unknown for free is how a budget is passed by all of it. All such models are told at once."""
    pipeline = one_step(fallback=Role("spare"))
    models = {"fast": [Nameless("own:a"), model()], "spare": Nameless("own:b")}
    with pytest.raises(PlanError) as caught:
        run_pipeline(pipeline, {"document": TEXT}, models=models, budget=Budget(usd=1))

    assert [problem.code for problem in caught.value.problems] == ["PE204", "PE204"]
    assert [problem.message for problem in caught.value.problems] == [
        f"a budget in US dollars cannot count the calls of model {name!r}, whose price is unknown. "
        f"Say it: Model({name!r}, price=Price(input_usd=…, output_usd=…)), per million tokens."
        for name in ("own:a", "own:b")
    ]
    # Tokens can be counted without a price.
    assert run_pipeline(pipeline, {"document": TEXT}, models=models, budget=Budget(tokens=1e4))["ask"] == "ok"


async def test_a_batchs_and_a_documents_dollars_need_prices_before_anything_is_read(autojump_clock):
    """Told for each of a million documents it would be noise."""
    read = []

    def source():
        read.append(1)
        yield {"document": TEXT}

    for option in ("budget", "document_budget"):
        with pytest.raises(PlanError, match="PE204"):
            await run_batch_async(one_step(), source(), models={"fast": Nameless("own:a")}, **{option: Budget(usd=1)})
    assert read == []


def test_the_model_asked_instead_must_exist_and_have_a_price(tmp_path):
    """Found out in the middle of the night it is too late."""
    with pytest.raises(PlanError, match=r"PE202 Budget\(on_exhausted=…\)"):
        run_pipeline(
            one_step(),
            {"document": TEXT},
            models={"fast": model()},
            budget=Budget(usd=1, on_exhausted=Model("nobody:knows")),
        )


async def test_free_models_never_exhaust_dollars(autojump_clock):
    """A local model beside a paid one goes on after the last cent."""
    pipeline = Pipeline("two", inputs={"document": str})
    pipeline.llm("paid", str, name="dear")(lambda document: document)
    pipeline.llm("local", str, name="free")(lambda document: document)
    paid = model(price=Price(1000, 1000), latency=9)
    free = model(price=Price(0, 0), name="scripted:free")
    results, _ = await batch(pipeline, documents(1), {"paid": paid, "local": free}, budget=Budget(usd=0.2))
    assert results[0].status == "completed"

    results, _ = await batch(one_step(), documents(50), {"fast": free}, capacity=5, budget=Budget(usd=1e-9))
    assert counts(results) == {"completed": 50}
    assert results[-1].trace.started_at - results[0].trace.started_at == 9


async def test_a_free_model_is_asked_even_after_the_cap_was_passed(autojump_clock, tmp_path):
    """Without `max_tokens` a call may have cost more than was reserved: what is free is free all the same."""
    dear = model(price=Price(1000, 1000), max_tokens=None, usage=Usage(100, 3000))
    cheap = substitute(tmp_path, price=Price(0, 0), max_tokens=10)
    results, stream = await batch(
        one_step(), documents(3), {"fast": dear}, capacity=1, max_documents=1, budget=Budget(usd=1, on_exhausted=cheap)
    )
    assert stream._budget.ledger.spent.usd > 1
    assert [result.outcome("ask").via for result in results] == [None, *[f"budget:{cheap.name}"] * 2]


async def test_the_spend_so_far_is_in_the_result(autojump_clock):
    """What a stopped run has cost is on the bill all the same."""
    pipeline = Pipeline("line", inputs={"document": str})
    pipeline.llm("fast", str, name="first")(lambda document: document)
    pipeline.llm("fast", str, name="second")(lambda first: first * 1000)
    asked = model(price=Price(1000, 1000))
    result = await run(pipeline, {"fast": asked}, budget=Budget(usd=0.5))
    assert result.status == "stopped"
    assert result.cost == Cost(usd=0.1)
    assert result.usage == HUNDRED


# Waiting for a budget ends in every way there is


async def test_a_step_timeout_ends_a_wait_for_the_budget_with_the_first_value(autojump_clock):
    """A wait that nobody bounds is a hang, whatever it is for."""
    pipeline = Pipeline("two", inputs={"document": str})
    pipeline.llm("fast", str, name="slow")(lambda document: document)
    pipeline.llm("flaky", str, name="ask", retry=EXACT, timeout=Timeout(step=6), fallback=(Role("spare"), "value"))(
        lambda document: document * 2
    )
    maybe = UnavailableError("broke off.", model="m", kind="server", status=500, billed="maybe")
    flaky = model(maybe, latency=1, name="scripted:flaky")
    models = {"fast": model(latency=50), "flaky": flaky, "spare": model(name="scripted:spare")}
    result = await run(pipeline, models, budget=Budget(tokens=600))

    assert result.outcome("ask") == Completed("value", via="fallback:value")
    # One try at 0 s counts as spent; the second one at 2 s does not fit beside the slow call any more.
    assert starts(result) == [0, 0]
    assert result.trace["ask"].ended_at - result.trace.started_at == 6


async def test_a_runs_timeout_ends_a_wait_for_the_budget(autojump_clock):
    """And names itself, not the budget."""
    pipeline = Pipeline("two", inputs={"document": str})
    pipeline.llm("fast", str, name="slow")(lambda document: document)
    pipeline.llm("fast", str, name="ask")(lambda document: document)
    result = await run(pipeline, {"fast": model(latency=50)}, budget=Budget(tokens=300), timeout=7)
    assert {result.outcome("slow"), result.outcome("ask")} == {Stopped("the run's timeout of 7 s")}


async def test_a_document_cancelled_while_it_waits_leaves_the_books_as_they_were(autojump_clock):
    """What was never sent costs nothing, and nobody is woken for a document that is gone."""
    seconds = {"0": 10.0, "1": 1.0, "2": 1.0}
    asked = ScriptedModel(
        {"ask": Reply("ok", usage=HUNDRED)}, latency=lambda step: seconds[step.document], max_tokens=100
    )
    async with Engine(models={"fast": asked}) as engine:
        bound = engine.bind(one_step())
        budget = bound.budget(Budget(tokens=300), "batch")
        results = {}

        async def one(number, timeout=None):
            inputs = {"document": f"{number:084d}"}
            results[number] = await engine.run_bound(bound, inputs, key=str(number), budgets=(budget,), timeout=timeout)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, 0)
            await trio.sleep(1)
            nursery.start_soon(one, 1, 3.0)
            await trio.sleep(4)
            assert (budget.ledger.waiting, budget.ledger.spent.tokens) == ({}, 0)
            nursery.start_soon(one, 2)
    assert [results[number].status for number in range(3)] == ["completed", "stopped", "completed"]
    assert budget.ledger.spent.tokens == 200


async def test_a_cancelled_documents_own_wait_does_not_declare_the_batchs_budget_spent(autojump_clock):
    """The document is gone: what it would have needed says nothing about what the others need."""
    pipeline = Pipeline("two", inputs={"document": str})
    pipeline.llm("fast", str, name="ask")(lambda document: document)
    pipeline.llm("fast", str, name="large")(lambda document: document * (10 if document[0] == "l" else 1))
    given_documents = [Document("0", {"document": "l" * 84}), Document("1", {"document": "s" * 84})]
    asked = ScriptedModel(
        {"*": Reply("ok", usage=Usage(10, 10))},
        latency=lambda step: 50.0 if step.document == "0" else 1.0,
        max_tokens=100,
    )
    results, stream = await batch(
        pipeline,
        given_documents,
        {"fast": asked},
        max_documents=1,
        budget=Budget(tokens=1000),
        document_timeout=5,
    )
    # Of the first document one call is in flight, the other (956 tokens) waits for it. Both are cancelled at 5 s;
    # 200 are spent then, and the second document needs 400 of the 800 that are left.
    assert stream.stopped_by is None
    assert [result.status for result in results] == ["stopped", "completed"]
    assert results[0].outcome("large") == Stopped("the document's timeout of 5 s")


async def test_nothing_is_sent_for_a_document_that_is_being_cancelled(autojump_clock):
    """A reservation that comes back must not launch, and bill, what ends with it."""
    pipeline = mapped()
    # The large item waits for both that are in flight; what comes back when they are cancelled is nothing.
    asked = model(latency=50)
    results, stream = await batch(
        pipeline,
        [Document("0", {"texts": [TEXT, TEXT, TEXT * 4]})],
        {"fast": asked},
        budget=Budget(tokens=700),
        document_timeout=5,
    )
    assert len(asked.requests) == 2
    assert stream._budget.ledger.spent.tokens == 400
    assert results[0].status == "stopped"


async def test_many_that_wait_for_room_are_not_all_woken_by_each_settlement(autojump_clock):
    """Two thousand items and a tight budget must not cost two million records."""
    width = 1000
    result = await run(
        mapped(),
        {"fast": model(usage=Usage(1, 1))},
        {"texts": [TEXT] * width},
        budget=Budget(tokens=2000 + 2 * width),
    )
    assert result.status == "completed"
    waits = sum(isinstance(record, WaitStarted) for record in result.records)
    assert waits <= 4 * width


# Whatever happens, the cap holds: an outside observer keeps the provider's bill


@dataclass
class Call:
    """How the provider treats one call."""

    kind: str
    latency: float
    used: float
    """The share of the most that it could use."""


CALLS = st.builds(
    Call,
    kind=st.sampled_from(["ok", "ok", "ok", "invalid", "no", "maybe", "limited", "hang", "cut", "silent"]),
    latency=st.sampled_from([0.0, 0.5, 1.0, 1.0, 2.5]),
    used=st.sampled_from([0.0, 0.3, 1.0]),
)


class Provider:
    """Bill calls as a provider does: what it may bill at most, until it is known what it does bill."""

    def __init__(self, name, script, price, cap, bill):
        self.name = name
        self.price = price
        self.max_tokens = 50
        self.script = script
        self.number = 0
        self.cap = cap
        self.bill = bill

    def most(self, request):
        schema = len(json.dumps(request.schema, separators=(",", ":"))) if request.schema else 0
        asked = sum(len(part.text.encode()) for message in request.messages for part in message.parts)
        return Usage(asked + 16 * len(request.messages) + schema, 50)

    async def complete(self, request):
        call = self.script[self.number % len(self.script)]
        self.number += 1
        most = self.most(request)
        entry = self.bill.add(self, most)
        if call.kind == "hang":
            await trio.sleep_forever()
        await trio.sleep(call.latency) if call.latency else await trio.lowlevel.checkpoint()
        used = Usage(int(most.input_tokens * call.used), int(50 * call.used))
        if call.kind in ("no", "limited"):
            self.bill.settle(entry, self, Usage(0, 0))
        if call.kind == "no":
            raise UnavailableError("is down.", model=self.name, kind="server", status=500)
        if call.kind == "limited":
            raise RateLimitError("is busy.", model=self.name, kind="rate_limited", status=429, retry_after=1)
        if call.kind == "maybe":
            raise UnavailableError("broke off.", model=self.name, kind="server", status=500, billed="maybe")
        if call.kind == "silent":
            return Completion("7", usage=Usage())
        self.bill.settle(entry, self, used)
        if call.kind == "cut":
            return Completion("7", finish="length", usage=used)
        return Completion("7" if call.kind == "ok" else "no number", usage=used)


class Bill:
    """Add up what may have been billed; remember the highest sums there ever were."""

    def __init__(self):
        self.entries = []
        self.highest_usd = 0.0
        self.highest_tokens = 0

    def add(self, provider, usage):
        self.entries.append((provider.price.cost(usage).usd, usage.total_tokens))
        self.highest_usd = max(self.highest_usd, math.fsum(usd for usd, _ in self.entries))
        self.highest_tokens = max(self.highest_tokens, sum(tokens for _, tokens in self.entries))
        return len(self.entries) - 1

    def settle(self, entry, provider, usage):
        self.entries[entry] = (provider.price.cost(usage).usd, usage.total_tokens)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=150)
@given(
    script=st.lists(CALLS, min_size=1, max_size=12),
    other=st.lists(CALLS, min_size=1, max_size=6),
    usd=st.one_of(st.none(), st.integers(1, 30).map(lambda cents: cents / 100)),
    tokens=st.one_of(st.none(), st.integers(1, 40).map(lambda hundreds: hundreds * 100)),
    capacity=st.integers(1, 6),
    mode=st.sampled_from(["stop", "fail"]),
    hedge=st.sampled_from([None, Hedge(after=0.7, max_extra=1.0)]),
    document_timeout=st.sampled_from([None, 2.2, 7.0]),
    document_tokens=st.sampled_from([None, 300, 900]),
)
def test_the_bill_never_passes_the_cap(
    script, other, usd, tokens, capacity, mode, hedge, document_timeout, document_tokens
):
    """Retries, repairs, hedges, fallbacks, timeouts, cancellations, calls billed perhaps: the cap is the cap."""
    if usd is None and tokens is None:
        tokens = 1500
    pipeline = Pipeline("bill", inputs={"document": str})
    pipeline.llm(
        "fast",
        int,
        name="ask",
        retry=Retry(attempts=3, jitter="none", base_delay=0.4, repair=1),
        timeout=Timeout(attempt=3, step=20),
        hedge=hedge,
        fallback=Role("spare"),
    )(lambda document: document)
    pipeline.llm(output=int, cascade=["fast", "spare"], accept=lambda output: output == 7, name="casc")(
        lambda ask, document: f"{ask} {document}"
    )
    pipeline.llm("fast", str, name="free_text", hedge=hedge, timeout=3)(lambda document: document * 2)
    bill = Bill()
    fast = Provider("own:fast", script, Price(100, 400), usd, bill)
    spare = Provider("own:spare", other, Price(300, 900), usd, bill)

    async def main():
        with trio.fail_after(10_000):
            return await batch(
                pipeline,
                [Document(str(number), {"document": "t" * (7 * number + 5)}) for number in range(7)],
                {"fast": [fast, spare], "spare": spare},
                capacity=capacity,
                budget=Budget(usd=usd, tokens=tokens, on_exhausted=mode),
                document_budget=None if document_tokens is None else Budget(tokens=document_tokens),
                document_timeout=document_timeout,
            )

    results, stream = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    if usd is not None:
        assert bill.highest_usd <= usd * (1 + 1e-9)
    if tokens is not None:
        assert bill.highest_tokens <= tokens
    spent = stream._budget.ledger.spent
    # Nothing was billed that the books do not know; and nothing is in the books that could not have been billed.
    assert sum(tokens for _, tokens in bill.entries) == spent.tokens
    assert math.isclose(math.fsum(usd for usd, _ in bill.entries), spent.usd, rel_tol=1e-9, abs_tol=1e-12)
    finished = [
        r for result in results for r in result.records if isinstance(r, AttemptFinished) and r.cost is not None
    ]
    assert math.fsum(record.cost.usd for record in finished) <= spent.usd * (1 + 1e-9) + 1e-12


async def test_what_a_refused_reservation_sets_off_takes_no_more_slots_than_there_are(autojump_clock):
    """A step that falls back at once frees others to start, in the midst of starting: capacity holds all the same."""
    at_once = []

    class Counting:
        name, price = "own:counting", Price(0, 0)
        busy = 0

        async def complete(self, request):
            Counting.busy += 1
            at_once.append(Counting.busy)
            await trio.sleep(1)
            Counting.busy -= 1
            return Completion("ok")

    pipeline = Pipeline("p", inputs={"text": str})
    pipeline.llm("dear", str, name="first", fallback="instead")(lambda text: text)
    pipeline.llm("free", str, name="beside")(lambda text: text)
    pipeline.llm("free", str, name="second")(lambda first: first)
    pipeline.llm("free", str, name="third")(lambda first: first)
    dear = ScriptedModel({"*": "never"}, price=Price(1e6, 1e6), max_tokens=10)
    async with Engine(models={"dear": dear, "free": Counting()}, capacity=2) as engine:
        result = await engine.run(pipeline, {"text": "t"}, budget=Budget(usd=1, on_exhausted="fail"))
    assert result.status == "completed"
    assert max(at_once) == 2
