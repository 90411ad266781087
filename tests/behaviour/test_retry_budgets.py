"""`Limits(max_retry_share=)`: in an outage retries must not multiply the load, however many documents there are."""

import math

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_engine import (
    Completed,
    Document,
    Engine,
    Failed,
    Limits,
    Pipeline,
    RateLimitError,
    RejectedError,
    Retry,
    UnavailableError,
)
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import AttemptStarted

DOWN = UnavailableError("is down.", model="scripted:model", kind="server", status=500)
EXACT = Retry(attempts=4, jitter="none")


def one_step(output=str, retry=EXACT, **options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", output, name="ask", retry=retry, **options)(lambda document: document)
    return pipeline


def model(answer, share=0.1, name="scripted:model", latency=1.0):
    return ScriptedModel({"*": answer}, name=name, latency=latency, limits=Limits(max_retry_share=share))


async def batch(pipeline, number, models, *, capacity=64, max_documents=None):
    async with Engine(models=models, capacity=capacity, seed=1) as engine:
        documents = [Document(str(place), {"document": str(place)}) for place in range(number)]
        async with BatchStream(engine, engine.bind(pipeline), documents, max_documents=max_documents) as stream:
            results = [result async for result in stream]
        assert (engine.statistics().in_flight, engine.statistics().timers) == (0, 0)
    return results


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(
    number=st.integers(1, 60),
    share=st.sampled_from([0.01, 0.1, 0.25, 1.0, 2.0]),
    attempts=st.integers(1, 6),
    capacity=st.integers(1, 40),
    throttles=st.booleans(),
)
def test_calls_to_a_model_that_always_fails_are_bounded(number, share, attempts, capacity, throttles):
    """The law: calls <= N (1 + share) + 3, however many attempts a step may have and however many run at once."""
    busy = RateLimitError("is busy.", model="scripted:model", kind="rate_limited", status=429)
    asked = model(busy if throttles else DOWN, share)
    retry = Retry(attempts=attempts, jitter="none", max_throttled=5)

    async def main():
        results = await batch(one_step(retry=retry), number, {"fast": asked}, capacity=capacity)
        assert len(results) == number

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert number <= len(asked.requests) <= number * (1 + share) + 3


async def test_the_bound_is_used_up_where_everything_fails(autojump_clock):
    """A hundred documents, one after the other: three retries to begin with, and one for each ten first tries."""
    asked = model(DOWN)
    await batch(one_step(), 100, {"fast": asked}, capacity=1, max_documents=1)
    assert len(asked.requests) in (112, 113)  # the tenth part of a float, ten times, may miss 1


async def test_the_law_of_all_calls_is_that_of_a_model_without_failures(autojump_clock):
    """Nothing is refused where nothing fails, and a few failures are retried as ever."""
    asked = model(in_turn(DOWN, "fine"))
    results = await batch(one_step(), 3, {"fast": asked})
    assert [result["ask"] for result in results] == ["fine"] * 3


async def test_a_denied_retry_goes_to_the_next_candidate_at_once(autojump_clock):
    """The next model may be well: nothing is gained by waiting for this one."""
    asked, spare = model(DOWN), ScriptedModel({"*": "spare"}, name="scripted:spare", latency=1.0)
    results = await batch(one_step(), 5, {"fast": [asked, spare]}, capacity=1, max_documents=1)
    assert {result.outcome("ask") for result in results} == {Completed("spare", via="fallback:scripted:spare")}
    assert len(asked.requests) == 5 + 3
    last = [record.at for record in results[-1].records if isinstance(record, AttemptStarted)]
    assert last[1] - last[0] == 1  # no back-off between the two


async def test_without_another_candidate_the_step_fails_with_its_own_error(autojump_clock):
    """Denied or spent: what the model said is what the user must read."""
    results = await batch(one_step(), 5, {"fast": model(DOWN)}, capacity=1, max_documents=1)
    assert [result.outcome("ask") for result in results] == [Failed(DOWN)] * 5


async def test_repairs_are_not_counted(autojump_clock):
    """A model that answers is not in trouble, and a repair has a bound of its own."""
    asked = model(in_turn({"value": "no number"}, {"value": "none yet"}, {"value": 7}), share=0.01)
    results = await batch(one_step(int, Retry(jitter="none", repair=2)), 20, {"fast": asked})
    assert [result["ask"] for result in results] == [7] * 20
    assert len(asked.requests) == 60


async def test_a_permanent_failure_takes_nothing_from_it(autojump_clock):
    """Only what would have been retried may use it up."""
    no = RejectedError("said no.", model="scripted:model", kind="invalid", status=400)
    script = {str(place): in_turn(no) for place in range(10)} | {"10": in_turn(DOWN, DOWN, DOWN, "fine")}
    asked = model(lambda request: script[request.messages[0].text], share=0.01)
    results = await batch(one_step(), 11, {"fast": asked}, capacity=1, max_documents=1)
    assert results[-1]["ask"] == "fine"
    assert len(asked.requests) == 10 + 4


async def test_the_last_attempt_takes_nothing_from_it(autojump_clock):
    """A step that has no attempts left is not denied anything."""
    asked = model(DOWN, share=0.01)
    await batch(one_step(retry=Retry(attempts=1)), 10, {"fast": asked}, capacity=1, max_documents=1)
    flaky = in_turn(DOWN, DOWN, DOWN, "fine")
    asked.script["*"] = flaky
    results = await batch(one_step(), 1, {"fast": asked})
    assert results[0]["ask"] == "fine"


async def test_it_is_each_models_own_over_all_steps_and_runs(autojump_clock):
    """The provider counts calls, not pipelines; and one provider's outage is not the other's."""
    pipeline = Pipeline("two", inputs={"document": str})
    pipeline.llm("fast", str, name="a", retry=EXACT)(lambda document: document)
    pipeline.llm("fast", str, name="b", retry=EXACT)(lambda document: document)
    pipeline.llm("other", str, name="c", retry=EXACT)(lambda document: document)
    asked = model(DOWN, share=0.01)
    other = model(in_turn(DOWN, DOWN, DOWN, "fine"), share=0.01, name="scripted:other")
    async with Engine(models={"fast": asked, "other": other}, seed=1) as engine:
        first = await engine.run(pipeline, {"document": "x"})
        assert len(asked.requests) == 2 + 3
        assert first["c"] == "fine"
        await engine.run(pipeline, {"document": "y"})
        assert len(asked.requests) == 4 + 3


async def test_it_comes_back_with_calls_that_succeed(autojump_clock):
    """An outage that is over must not leave a model without retries; an hour of calm must not pay for a storm."""
    healthy = [0]

    def answer(_request):
        return Reply("fine" if healthy[0] else DOWN, latency=1)

    asked = ScriptedModel({"*": answer}, limits=Limits(max_retry_share=0.5))
    async with Engine(models={"fast": asked}, seed=1) as engine:
        for number in range(3):
            await engine.run(one_step(), {"document": str(number)})
        assert len(asked.requests) == 3 + 4  # 3 and a half for each of 3 first tries
        healthy[0] = 1
        for number in range(200):
            await engine.run(one_step(), {"document": str(number)})
        healthy[0], before = 0, len(asked.requests)
        for number in range(30):
            await engine.run(one_step(), {"document": f"{number} again"})
        retries = len(asked.requests) - before - 30
    assert 20 <= retries <= math.floor(10 + 30 * 0.5)


@pytest.mark.parametrize("wrong", [0, -0.1, math.nan, math.inf])
def test_a_share_that_is_no_positive_number_is_refused(wrong):
    """For no retries at all there is `retry=None`."""
    with pytest.raises(ValueError, match=r"^Limits\(max_retry_share="):
        Limits(max_retry_share=wrong)
