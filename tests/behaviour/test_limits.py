"""No more calls start than a model's limits allow: rates, tokens, concurrency, headers and cool-downs."""

import json
import math
from dataclasses import replace
from functools import partial

import httpx2
import pytest
import trio
import trio.testing

from pipeline_engine import (
    Completed,
    Document,
    Engine,
    Failed,
    LimitError,
    Limits,
    Model,
    Pipeline,
    RateLimitError,
    Retry,
    StreamTruncatedError,
    Timeout,
    UnavailableError,
    Usage,
    iter_batch_async,
)
from pipeline_engine.resilience.rates import Rate
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import AttemptStarted, CooldownStarted, QueueLeft, RateLimitState, RateLimitWindow

EXACT = Retry(attempts=4, jitter="none")
BUSY = RateLimitError("is busy.", model="scripted:model", kind="rate_limited", status=429, retry_after=10)


def one_step(role="fast", name="ask", **options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm(role, str, name=name, **options)(lambda document: document)
    return pipeline


async def given(documents):
    """Give documents, keyed by their numbers: each when the one before it stands where it has to wait.

    A list would be read in a thread, which the virtual clock does not wait for.
    """
    for number, document in enumerate(documents):
        await trio.testing.wait_all_tasks_blocked()
        yield Document(f"{number}", {"document": f"{document}"})


async def run_all(engine, pipeline, documents, **options):
    """Run a batch; return its results in the order in which they came."""
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


def starts(results):
    """The instants at which calls started."""
    return sorted(r.at for result in results for r in result.records if isinstance(r, AttemptStarted))


def began(results):
    """For each document the instants at which its calls started, in the documents' order."""
    return [starts([result]) for result in sorted(results, key=lambda result: int(result.document))]


def causes(result):
    """What each wait of a run's calls was for."""
    return [record.waits for record in result.records if isinstance(record, QueueLeft)]


def excess(starts, per_second, burst):
    """By how many starts the worst window of t seconds exceeds `burst + per_second * t`."""
    worst, least = -math.inf, math.inf
    for number, at in enumerate(sorted(starts)):
        least = min(least, number - per_second * at)
        worst = max(worst, number + 1 - per_second * at - least)
    return worst - burst


class Heard(ScriptedModel):
    """Tell something about limits with each reply, one after the other."""

    def __init__(self, *told, **options):
        super().__init__({"*": "fine"}, **options)
        self.told = list(told)

    async def complete(self, request):
        """Answer, with what headers would have said."""
        told = self.told.pop(0) if self.told else None
        return replace(await super().complete(request), rate_limit=told)


def requests_left(limit, remaining, reset_after=None):
    return RateLimitState(requests=RateLimitWindow(limit, remaining, reset_after))


# Rates


async def test_a_hundred_starts_at_sixty_a_minute_take_ninety_nine_seconds(autojump_clock):
    """The long-run law of a rate. A well-known limiter lets a hundred go at once."""
    model = ScriptedModel({"ask": "fine"}, latency=0.5, limits=Limits(rpm=60))

    results = await batch(one_step(), range(100), model)

    assert starts(results) == [float(second) for second in range(100)]


async def test_after_idling_the_whole_burst_is_there_and_never_more(autojump_clock):
    """What was not used in a night must not be owed to the provider in the morning."""
    model = ScriptedModel({"ask": "fine"}, limits=Limits(rpm=60, burst_requests=3))
    async with Engine(models={"fast": model}) as engine:
        first = await run_all(engine, one_step(), range(5))
        await trio.sleep(1_000)
        second = await run_all(engine, one_step(), range(5))

    assert starts(first) == [0, 0, 0, 1, 2]
    assert starts(second) == [1002, 1002, 1002, 1003, 1004]


async def test_calls_that_wait_for_slots_take_no_rate_meanwhile(autojump_clock):
    """With permissions taken one after the other, a stall hoards them: 200 calls, 2/s, 16 slots busy until 60 s."""
    hold = Pipeline("hold", inputs={"document": str})

    @hold.step
    async def keep(document: str) -> str:
        await trio.sleep(60)
        return document

    model = ScriptedModel({"ask": "fine"}, latency=0.25, limits=Limits(rpm=120, burst_requests=1))
    async with Engine(models={"fast": model}, capacity=16) as engine, trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(partial(engine.run, hold, {"document": "x"}, models={}))
        await trio.sleep(1)
        results = []

        async def ask(number):
            results.append(await engine.run(one_step(), {"document": str(number)}))

        async with trio.open_nursery() as runs:
            for number in range(200):
                runs.start_soon(ask, number)

    assert excess(starts(results), 2, 1) == 0
    assert starts(results) == [60 + number / 2 for number in range(200)]


async def test_taking_the_rate_first_and_the_slot_later_starts_too_many(autojump_clock):
    """The measure of the test above can fail: this is the limiter that most engines have."""
    rate, slots, began = Rate(2, 1), trio.CapacityLimiter(16), []

    async def call():
        while wait := rate.wait(trio.current_time()):  # noqa: ASYNC110 - a loop because such limiters are one
            await trio.sleep(wait)
        rate.take(trio.current_time())
        async with slots:
            began.append(trio.current_time())
            await trio.sleep(0.25)

    async def keep():
        async with slots:
            await trio.sleep(60)

    async with trio.open_nursery() as nursery:
        for _ in range(16):
            nursery.start_soon(keep)
        await trio.sleep(1)
        for _ in range(200):
            nursery.start_soon(call)

    assert excess(began, 2, 1) > 100


async def test_two_models_do_not_notice_each_other(autojump_clock):
    """A rate belongs to the model that has it: the other one's calls are not slowed by an instant."""
    slow = ScriptedModel({"ask": "fine"}, latency=1, limits=Limits(rpm=6))
    free = ScriptedModel({"tell": "fine"}, latency=1)
    pipeline = one_step()
    pipeline.llm("strong", str, name="tell")(lambda document: document)
    results = await batch(pipeline, range(8), {"fast": slow, "strong": free}, capacity=4)
    began = {"ask": [], "tell": []}
    for result in results:
        for record in result.records:
            if isinstance(record, AttemptStarted):
                began[record.step].append(record.at)

    assert sorted(began["ask"]) == [0, 10, 20, 30, 40, 50, 60, 70]
    assert max(began["tell"]) <= 2


# One model, however it is bound


def answering(starts):
    """Stand for a provider: answer after a second, and write down who was asked when with which key."""

    async def handler(request):
        body = json.loads(request.content)
        starts.append((body["model"], request.headers["authorization"], trio.current_time()))
        await trio.sleep(1)
        choice = {"message": {"content": "fine"}, "finish_reason": "stop"}
        return httpx2.Response(200, json={"choices": [choice]})

    return httpx2.MockTransport(handler)


def at(model, key="sk-one", **options):
    return Model(f"openai:{model}", api_key=key, base_url="http://127.0.0.1:9/v1", **options)


async def asked(models, documents=3):
    """Run documents through two steps, each with a role of its own; return who was asked when."""
    pipeline = one_step()
    pipeline.llm("strong", str, name="tell")(lambda document: document)
    began = []
    async with Engine(models=models, transport=answering(began)) as engine:
        results = await run_all(engine, pipeline, range(documents))
    assert [result.status for result in results] == ["completed"] * documents
    return began


async def test_two_roles_of_one_model_share_its_limits(autojump_clock):
    """The provider counts by model and key; what a pipeline calls them does not matter to it."""
    limits = Limits(rpm=60)
    began = await asked({"fast": at("a", limits=limits, temperature=0), "strong": at("a", limits=limits)})

    assert [when for _, _, when in began] == [0, 1, 2, 3, 4, 5]


async def test_another_model_or_key_has_limits_of_its_own(autojump_clock):
    """A second key is a second account: it must not wait for the first."""
    limits = Limits(rpm=60)
    for other in (at("b", limits=limits), at("a", "sk-two", limits=limits)):
        began_at = trio.current_time()
        began = await asked({"fast": at("a", limits=limits), "strong": other})
        assert [when - began_at for _, _, when in began] == [0, 0, 1, 1, 2, 2]


async def test_max_concurrency_holds_over_runs_and_batches_of_an_engine(autojump_clock):
    """A local server with three places has three, whoever asks."""
    model = ScriptedModel({"ask": "fine"}, latency=1, limits=Limits(max_concurrency=3))
    pipeline = one_step()
    results = []
    async with Engine(models={"fast": model}) as engine, trio.open_nursery() as nursery:

        async def collect(documents):
            results.extend(await run_all(engine, pipeline, documents))

        async def single(number):
            results.append(await engine.run(pipeline, {"document": f"single {number}"}))

        nursery.start_soon(collect, [f"a{number}" for number in range(10)])
        nursery.start_soon(collect, [f"b{number}" for number in range(10)])
        for number in range(10):
            nursery.start_soon(single, number)

    assert starts(results) == [float(second) for second in range(10) for _ in range(3)]


# Tokens


def sized(*tokens):
    """Documents of so many tokens: three characters are taken for one, as long as no call has told."""
    return ["x" * (3 * amount) for amount in tokens]


def counted(burst, *, usage=None, latency=0.0, rpm=None, reply=None):
    """A model of 100 tokens a second, whose calls reserve what they ask and 300 more."""
    answer = Reply("fine", usage=usage or Usage()) if reply is None else reply
    limits = Limits(rpm=rpm, tpm=6_000, burst_tokens=burst)
    return ScriptedModel({"ask": answer}, latency=latency, limits=limits, max_tokens=300)


async def test_requests_and_tokens_are_taken_together(autojump_clock):
    """A call that waits for one of them has not taken the other: both laws hold at once, exactly.

    Each call reserves 400 tokens; 1,000 are there at first and 100 come back each second.
    """
    results = await batch(one_step(), sized(*[100] * 6), counted(1_000, rpm=60))

    assert began(results) == [[0], [1], [2], [6], [10], [14]]
    last = next(result for result in results if result.document == "5")
    assert causes(last) == [(("requests", 5.0), ("tokens", 9.0))]


async def test_a_cancelled_waiter_has_consumed_nothing(autojump_clock):
    """Users press Ctrl-C: what their calls might have taken belongs to the others, at that instant.

    The last call needs every token that can be there at the first instant at which a request may start.
    """
    model = counted(1_000, rpm=60)
    pipeline = one_step()
    async with Engine(models={"fast": model}) as engine:
        await engine.run(pipeline, {"document": sized(100)[0]})
        with trio.move_on_after(0.5):
            async with trio.open_nursery() as cancelled:
                for _ in range(3):
                    cancelled.start_soon(engine.run, pipeline, {"document": sized(100)[0]})
        assert engine.statistics().ready == 0
        result = await engine.run(pipeline, {"document": sized(400)[0]})

    assert starts([result]) == [1]
    assert len(model.requests) == 2


async def test_a_cancelled_waiter_lets_the_next_one_go_at_that_instant(autojump_clock):
    """Tokens are saved for a large call; when it goes away, those behind it must not wait for its turn."""
    model = counted(1_000)
    pipeline = one_step()
    results = []
    async with Engine(models={"fast": model}) as engine, trio.open_nursery() as nursery:

        async def ask(tokens):
            results.append(await engine.run(pipeline, {"document": sized(tokens)[0]}))

        await ask(600)  # leaves 100
        with trio.move_on_after(5.0):
            async with trio.open_nursery() as doomed:
                doomed.start_soon(engine.run, pipeline, {"document": sized(700)[0]}, name="large")
                await trio.sleep(1)
                nursery.start_soon(ask, 600)
                await trio.sleep_forever()

    assert starts(results) == [0, 8]


async def test_real_usage_replaces_what_was_reserved(autojump_clock):
    """A generous cap of the reply costs nothing but the wait for the call that has reserved it.

    A call reserves 400 of 600 tokens, and gives 300 back when it ends after a second.
    """
    model = counted(600, usage=Usage(100, 0), latency=1)
    results = await batch(one_step(), sized(*[100] * 5), model)

    assert began(results) == [[0], [1], [2], [3], [4]]


@pytest.mark.parametrize(
    "answer",
    [
        "fine",
        Reply("fine", usage=Usage(100, None)),
        StreamTruncatedError(model="scripted:model"),
        UnavailableError("broke.", model="m", kind="server", billed="maybe"),
    ],
)
async def test_a_call_of_unknown_usage_keeps_its_reservation(autojump_clock, answer):
    """A cut reply may have been counted in full: nobody knows better than the estimate."""
    model = counted(600, latency=1, reply=answer)
    results = await batch(one_step(retry=Retry(attempts=1)), sized(*[100] * 4), model)

    assert began(results) == [[0], [2], [6], [10]]


async def test_a_call_that_was_certainly_not_billed_gives_everything_back(autojump_clock):
    """A refused connection has used no token of anybody's."""
    away = UnavailableError("is away.", model="m", kind="connect", billed="no")
    model = counted(400, latency=1, reply=away)
    results = await batch(one_step(retry=Retry(attempts=1)), sized(*[100] * 4), model)

    assert began(results) == [[0], [1], [2], [3]]


async def test_what_was_used_beyond_the_reservation_is_waited_for_by_the_next(autojump_clock):
    """An estimate may be too low; the provider has counted all the same.

    Of 600 tokens 400 are reserved and 800 used: at 1 s, when that is known, 100 are lacking; 400 are there at 6 s.
    """
    model = counted(600, usage=Usage(100, 700), latency=1)
    results = await batch(one_step(), sized(*[100] * 2), model)

    assert began(results) == [[0], [6]]


async def test_a_call_that_can_never_start_fails_at_once_and_alone(autojump_clock):
    """One huge document must neither wait for ever nor hold up the others."""
    results = await batch(one_step(), sized(100, 10_000, 100), counted(1_000))
    outcomes = {result.document: result.outcome("ask") for result in results}

    assert outcomes["0"] == outcomes["2"] == Completed("fine")
    assert isinstance(outcomes["1"], Failed)
    error = outcomes["1"].error
    assert isinstance(error, LimitError)
    assert (error.tokens, error.most_tokens) == (10_300, 1_000)
    assert str(error) == (
        "model 'scripted:model' was not asked: the request may need 10,300 tokens, and its limit allows 1,000 at "
        "once. Shorten the prompt, lower max_tokens, or raise Limits(burst_tokens=…)"
    )
    assert began(results) == [[0], [], [0]]


async def test_a_call_too_large_for_its_first_model_goes_to_the_next(autojump_clock):
    """Another model may take what the first one never can."""
    other = ScriptedModel({"ask": "other"})
    results = await batch(one_step(), sized(10_000), [counted(1_000), other])

    assert results[0].outcome("ask") == Completed("other", "fallback:scripted:model")


async def test_a_call_too_large_for_the_tokens_at_hand_lets_pass_those_that_fit(autojump_clock):
    """A long document at the head of the queue must not waste what short ones could use.

    The first call leaves 600 tokens; the second needs 1,000, the third and fourth 300 each.
    """
    results = await batch(one_step(), sized(100, 700, 0, 0), counted(1_000))

    assert began(results) == [[0], [10], [0], [0]]


async def test_a_smaller_call_starts_the_instant_its_tokens_are_there(autojump_clock):
    """The engine must wake up for the first call that fits, not for the one that stands first.

    All tokens are gone; the second call needs 900 and may go at 9 s, the third needs 300: it may go at 3 s.
    """
    results = await batch(one_step(), sized(700, 600, 0), counted(1_000))

    assert began(results) == [[0], [12], [3]]


async def test_a_large_call_is_overtaken_at_most_64_times(autojump_clock):
    """A stream of short documents must not starve a long one for ever."""
    results = await batch(one_step(), sized(700, 600, *[0] * 100), counted(1_000), max_documents=200)
    _first, large, *small = [at for (at,) in began(results)]

    assert sum(at < large for at in small) == 64
    assert large == 64 * 3 + 9


async def test_a_large_call_is_not_starved_by_another_batch_either(autojump_clock):
    """Turns between batches must not mean that one with long documents never gets enough tokens."""
    pipeline = one_step()
    model = counted(1_000)
    async with Engine(models={"fast": model}) as engine, trio.open_nursery() as nursery:
        long, short = [], []

        async def collect(documents, into):
            into.extend(await run_all(engine, pipeline, documents, max_documents=200))

        nursery.start_soon(collect, sized(700), short)
        await trio.sleep(0.5)
        nursery.start_soon(collect, sized(600), long)
        nursery.start_soon(collect, sized(*[0] * 100), short)

    (large,) = starts(long)
    assert sum(0 < at < large for at in starts(short)) <= 64


# What providers tell


async def test_headers_tighten_what_is_known(autojump_clock):
    """Another process may share the account: the provider has counted its calls, too.

    Nothing is left of 60 a minute: one comes back each second.
    """
    model = Heard(requests_left(60, 0), latency=0.5)
    async with Engine(models={"fast": model}) as engine:
        first = await run_all(engine, one_step(), ["first"])
        second = await run_all(engine, one_step(), range(3))

    assert (starts(first), starts(second)) == ([0], [1.5, 2.5, 3.5])


async def test_calls_that_wait_already_learn_of_headers(autojump_clock):
    """The next one starts with what the reply before it has told, not with what was known at its arrival."""
    model = Heard(requests_left(60, 0), latency=0.5, limits=Limits(max_concurrency=1))
    results = await batch(one_step(), range(3), model)

    assert starts(results) == [0, 1.5, 2.5]


@pytest.mark.parametrize(
    "told",
    [
        requests_left(60, -1, 60.0),
        requests_left(60, None, 60.0),
        requests_left(None, None, 60.0),
        requests_left(0, 0, 0.0),
        requests_left(0, 0, None),
        requests_left(0, 0, 60.0),
        requests_left(-1, 0, 60.0),
        requests_left(-1, -1, -1.0),
        requests_left(None, 0, None),
        requests_left(10, 20, 60.0),
        RateLimitState(),
    ],
)
async def test_nonsense_in_headers_is_ignored(autojump_clock, told):
    """Providers send -1 and 0 for "unlimited": a batch must not stand still for it."""
    results = await batch(one_step(), range(4), Heard(*[told] * 4, latency=1), capacity=2)

    assert starts(results) == [0, 0, 1, 1]


async def test_headers_never_loosen_what_the_user_has_said(autojump_clock):
    """A limit given is a promise, however much the provider would allow."""
    model = Heard(*[requests_left(60_000, 59_999)] * 5, limits=Limits(rpm=60))
    results = await batch(one_step(), range(5), model)

    assert starts(results) == [0, 1, 2, 3, 4]


async def test_a_daily_window_does_not_stall_falsely(autojump_clock):
    """What is left of 10,000 a day at noon may be used at once: a limit per day says nothing about minutes."""
    model = Heard(*[requests_left(10_000, 5_000 - n, 43_200.0) for n in range(50)], latency=1)
    results = await batch(one_step(), range(50), model, capacity=10)

    assert starts(results) == sorted([float(second) for second in range(5)] * 10)


async def test_calls_that_wait_already_count_told_tokens(autojump_clock):
    """The reply that tells of tokens for the first time tells it to those who stand in the queue, too."""
    told = RateLimitState(tokens=RateLimitWindow(6_000, 0))
    model = Heard(told, latency=0.5, max_tokens=300, limits=Limits(max_concurrency=1))
    results = await batch(one_step(), sized(100, 100), model)

    assert began(results) == [[0], [4.5]]


async def test_told_tokens_are_waited_for(autojump_clock):
    """Tokens are counted from the first reply that tells of them.

    Nothing is left of 6,000 a minute: a call of 400 starts 4 s after the reply.
    """
    model = Heard(RateLimitState(tokens=RateLimitWindow(6_000, 0)), latency=0.5, max_tokens=300)
    async with Engine(models={"fast": model}) as engine:
        await run_all(engine, one_step(), sized(100))
        second = await run_all(engine, one_step(), sized(100, 100))

    assert starts(second) == [4.5, 8.5]


# Cool-down


def busy_at(*numbers, hint=10.0, latency=0.5, **options):
    """A model that refuses the calls of these numbers for rate."""
    count = iter(range(1_000_000))

    def answer(_request):
        refused = RateLimitError("is busy.", model="m", kind="rate_limited", status=429, retry_after=hint)
        return refused if next(count) in numbers else "fine"

    return ScriptedModel({"*": answer}, latency=latency, **options)


async def test_after_a_refusal_no_step_document_or_run_calls_the_model_until_the_hint_ends(autojump_clock):
    """The provider said when: every call before that is refused, and may prolong it."""
    pipeline = one_step(retry=EXACT)
    pipeline.llm("fast", str, name="tell", retry=EXACT)(lambda document: document)
    other = one_step(retry=EXACT)
    model = busy_at(2)
    async with Engine(models={"fast": model}, capacity=8) as engine, trio.open_nursery() as nursery:
        results = []

        async def collect(documents):
            results.extend(await run_all(engine, pipeline, documents))

        async def single(after):
            await trio.sleep(after)
            results.append(await engine.run(other, {"document": f"{after}"}))

        nursery.start_soon(collect, range(10))
        nursery.start_soon(collect, range(10, 20))
        for after in (0.25, 1.0, 5.0, 10.25):
            nursery.start_soon(single, after)
    told = [record for result in results for record in result.records if isinstance(record, CooldownStarted)]

    assert [(record.at, record.until) for record in told] == [(0.5, 10.5)]
    assert not [at for at in starts(results) if 0.5 < at < 10.5]
    assert min(at for at in starts(results) if at > 0.5) == 10.5
    assert len(starts(results)) == 2 * 20 + 4 + 1


async def test_other_models_do_not_notice_a_cool_down(autojump_clock):
    """One busy provider must not cost the others an instant: equal times with and without it."""
    pipeline = one_step(retry=EXACT)
    pipeline.llm("strong", str, name="tell")(lambda document: document)

    async def times(fast):
        strong = ScriptedModel({"tell": "fine"}, latency=1, limits=Limits(max_concurrency=4))
        results = await batch(pipeline, range(20), {"fast": fast, "strong": strong}, max_documents=100)
        records = [record for result in results for record in result.records]
        base = min(record.at for record in records)
        return sorted(r.at - base for r in records if isinstance(r, AttemptStarted) and r.step == "tell")

    assert await times(busy_at(3)) == await times(busy_at()) == sorted([float(n) for n in range(5)] * 4)


async def test_calls_come_back_one_by_one(autojump_clock):
    """All at once they would be refused again, at once: they come back over the first half second."""
    results = await batch(one_step(retry=EXACT), range(12), busy_at(3, latency=0.5), capacity=4)

    assert starts(results)[4:8] == [10.5, 10.625, 10.75, 10.875]


async def test_the_end_of_a_cool_down_is_spread_unless_the_step_has_no_jitter(autojump_clock):
    """Other processes were told to wait as well, and would all come back at the same instant."""

    async def first_after(seed, retry):
        async with Engine(models={"fast": busy_at(0)}, seed=seed) as engine:
            base = trio.current_time()
            result = await engine.run(one_step(retry=retry), {"document": "x"})
        return starts([result])[1] - base

    ends = [await first_after(seed, Retry()) for seed in range(20)]
    assert len(set(ends)) == 20
    assert all(10.5 <= end < 11.0 for end in ends)
    exact = [await first_after(seed, EXACT) for seed in range(3)]
    assert exact == pytest.approx([10.5] * 3, abs=1e-9)


async def test_a_hint_beyond_the_steps_deadline_goes_to_the_next_model_at_once(autojump_clock):
    """Sleeping into one's own deadline helps nobody."""
    other = ScriptedModel({"ask": "other"}, latency=1, name="scripted:other")
    pipeline = one_step(retry=EXACT, timeout=Timeout(step=8))
    results = await batch(pipeline, ["x"], [busy_at(0), other])

    assert starts(results) == [0, 0.5]
    assert results[0].outcome("ask") == Completed("other", "fallback:scripted:other")


async def test_a_hint_beyond_the_steps_deadline_fails_at_once_where_nothing_is_left(autojump_clock):
    """The error is the provider's own refusal, and it comes when it is known."""
    results = await batch(one_step(retry=EXACT, timeout=Timeout(step=8)), ["x"], busy_at(0))

    outcome = results[0].outcome("ask")
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, RateLimitError)
    assert outcome.error.retry_after == 10
    assert results[0].records[-1].at == 0.5


async def test_a_cool_down_beyond_a_runs_timeout_fails_its_calls_at_once(autojump_clock):
    """Documents that cannot be served in time say so now, with the seconds that are lacking."""
    async with Engine(models={"fast": busy_at(0)}) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(engine.run, one_step(retry=EXACT), {"document": "first"})
        await trio.sleep(2.5)
        hurried = await engine.run(one_step(retry=EXACT), {"document": "second"}, timeout=5)
        ended_at = trio.current_time()
        patient = await engine.run(one_step(retry=EXACT), {"document": "third"}, timeout=10)

    outcome = hurried.outcome("ask")
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, RateLimitError)
    assert (outcome.error.kind, outcome.error.retry_after) == ("cooling_down", 8)
    assert "is cooling down for 8 s more" in str(outcome.error)
    assert ended_at == 2.5
    assert patient["ask"] == "fine"


async def test_calls_that_wait_already_leave_when_a_cool_down_begins_that_is_too_long_for_them(autojump_clock):
    """Who stands in the queue when it happens knows as much as who comes later."""
    model = busy_at(0, latency=1, limits=Limits(max_concurrency=1))
    async with Engine(models={"fast": model}) as engine, trio.open_nursery() as nursery:
        ended = {}

        async def run(name, timeout):
            result = await engine.run(one_step(retry=EXACT), {"document": name}, timeout=timeout)
            ended[name] = (result.status, trio.current_time())

        for name, timeout in (("first", None), ("hurried", 5), ("patient", 30)):
            nursery.start_soon(run, name, timeout)
            await trio.sleep(0.125)

    assert ended["hurried"] == ("failed", 1)
    assert ended["first"][0] == ended["patient"][0] == "completed"


async def test_a_model_that_is_asked_past_a_longer_hint_waits_for_the_longer_one(autojump_clock):
    """Two refusals in flight: the later end counts, and a shorter hint after it changes nothing."""

    def refusal(hint, latency):
        error = RateLimitError("is busy.", model="m", kind="rate_limited", status=429, retry_after=hint)
        return in_turn(Reply(error, latency=latency), "fine")

    long, short = refusal(10.0, 0.5), refusal(4.0, 0.75)
    model = ScriptedModel({"ask": lambda request: long if request.messages[0].text == "0" else short})
    results = await batch(one_step(retry=EXACT), range(2), model)

    assert began(results) == [[0, 10.5], [0, 10.5 + 1 / 128]]
