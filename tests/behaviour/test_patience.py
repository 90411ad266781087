"""How long a call waits for a model in trouble: no longer than is sensible, whoever else is there to be asked."""

import subprocess
import sys

import pytest

from pipeline_engine import (
    Breaker,
    Completed,
    Failed,
    Pipeline,
    RateLimitError,
    Retry,
    Timeout,
    UnavailableError,
    run_batch_async,
    run_pipeline_async,
)
from pipeline_engine.testing import Reply, ScriptedModel, in_turn

DOWN = UnavailableError("is down.", model="scripted:first", kind="server", status=500)


def busy(seconds):
    return RateLimitError("is busy.", model="scripted:first", kind="rate_limited", status=429, retry_after=seconds)


def one_step(**options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm("fast", str, name="ask", **options)(lambda document: document)
    return pipeline


def documents(count):
    return [{"document": str(number)} for number in range(count)]


@pytest.mark.parametrize("seconds", [120, 3600, 100_000])
async def test_a_long_cool_down_sends_calls_to_the_next_model_at_once(autojump_clock, seconds):
    """A day's quota is used up: who has bound a second model has bound it for that."""
    first = ScriptedModel({"ask": busy(seconds)}, name="scripted:first")
    second = ScriptedModel({"ask": "ok"}, latency=1.0, name="scripted:second")
    batch = await run_batch_async(one_step(), documents(12), models={"fast": [first, second]}, capacity=4)
    assert batch.is_complete
    assert batch.elapsed == 3.0
    assert len(first.requests) == 4


async def test_a_short_cool_down_is_waited_out_although_there_is_another_model(autojump_clock):
    """A minute's limit refills by itself: the first model is the one that was chosen."""
    first = ScriptedModel({"ask": in_turn(busy(60), "ok")}, name="scripted:first")
    second = ScriptedModel({"ask": "other"}, name="scripted:second")
    retry = Retry(jitter="none")
    result = await run_pipeline_async(one_step(retry=retry), {"document": "a"}, models={"fast": [first, second]})
    assert result.outcome("ask") == Completed("ok")
    assert result.trace.makespan == 60


async def test_no_document_waits_for_a_cool_down_longer_than_its_step_may_take(autojump_clock):
    """Those that had not begun when it started have no deadline yet: they must not sit there for a day."""
    first = ScriptedModel({"ask": busy(86_400)}, name="scripted:first")
    step = one_step(timeout=Timeout(attempt=60, step=300))
    batch = await run_batch_async(step, documents(8), models={"fast": first}, capacity=2)
    assert batch.counts == {"failed": 8}
    assert batch.elapsed == 0.0


async def test_a_wait_for_an_open_breaker_counts_against_the_steps_timeout_before_the_first_attempt(autojump_clock):
    """With nothing else to ask a call waits, but not for ever: the user has said how long a step may take."""
    first = ScriptedModel({"ask": Reply(DOWN, latency=1.0)}, breaker=Breaker(failure_threshold=1, timeout=1000))
    step = one_step(timeout=Timeout(attempt=60, step=30), retry=None)
    batch = await run_batch_async(step, documents(5), models={"fast": first}, capacity=1)
    assert batch.counts == {"failed": 5}
    assert batch.elapsed == 31.0
    assert isinstance(batch.sample[-1].outcome("ask"), Failed)


async def test_who_waited_for_a_breaker_may_queue_as_long_as_it_takes_once_it_is_closed(autojump_clock):
    """A long queue behind a model that is well again is no outage, and no reason to fail."""
    first = ScriptedModel(
        {"ask": lambda request: Reply(DOWN, latency=1.0) if len(first.requests) == 1 else Reply("ok", latency=4.0)},
        breaker=Breaker(failure_threshold=1, timeout=10, success_threshold=1),
    )
    step = one_step(timeout=Timeout(step=25), retry=None)
    batch = await run_batch_async(step, documents(8), models={"fast": first}, capacity=1)
    assert batch.counts == {"completed": 7, "failed": 1}


def test_a_program_that_forgets_to_close_its_runner_ends_all_the_same():
    """Memoised once per process and never closed: a worker that cannot exit is killed by its supervisor."""
    code = "from pipeline_engine import Runner; Runner().open(); print('opened')"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", timeout=60, check=True)
    assert ran.stdout == "opened\n"
