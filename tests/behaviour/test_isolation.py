"""What one run, step or looker-on does never reaches another one."""

import contextvars
import threading

import pytest
import trio

from pipeline_engine import Engine, Pipeline, Retry, Skipped, StepCodeError, current_step
from pipeline_engine.testing import ScriptedModel
from pipeline_engine.values import StepFinished

tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")


async def test_a_step_sees_the_context_variables_of_its_own_run(autojump_clock):
    """Whoever frees a slot may be another customer's task: his tenant or trace id must not come with it."""
    pipeline = Pipeline("tenants", inputs={"name": str})

    @pipeline.step(retry=Retry(attempts=2, jitter="none"))
    async def seen(name: str) -> str:
        await trio.sleep(1)
        if current_step().attempt == 1:
            raise ConnectionError
        return tenant.get()

    found = {}

    async def run(name):
        tenant.set(name)
        found[name] = (await engine.run(pipeline, {"name": name}))[seen]

    async with Engine(capacity=1) as engine, trio.open_nursery() as nursery:
        for name in "ABC":
            nursery.start_soon(run, name)
    assert found == {"A": "A", "B": "B", "C": "C"}


async def test_a_sink_that_raises_is_logged_and_ends_nothing(autojump_clock, caplog):
    """A dashboard's bug must not cost the documents."""

    class Broken:
        def open_run(self, started):
            def read(record):
                raise RuntimeError("full disk")

            return read

    pipeline = Pipeline("one", inputs={"name": str})

    @pipeline.step(retry=Retry(attempts=2, jitter="none"))
    async def step(name: str) -> str:
        if current_step().attempt == 1:
            raise ConnectionError
        return name

    async with Engine(sinks=[Broken()]) as engine:
        assert (await engine.run(pipeline, {"name": "x"}))[step] == "x"
        assert engine.statistics().in_flight == 0
    assert "sink Broken raised on StepReady" in caplog.text


async def test_a_prompt_and_a_condition_know_the_step_they_belong_to(autojump_clock):
    """A wrong idempotency key is served another step's answer."""
    pipeline = Pipeline("names", inputs={"text": str})

    @pipeline.step
    async def first(text: str) -> str:
        return text

    def condition(first: str) -> bool:
        return current_step().step == "ask"

    @pipeline.llm("fast", str, when=condition)
    def ask(first: str) -> str:
        return current_step().step

    async with Engine(models={"fast": ScriptedModel({"ask": "fine"})}) as engine:
        result = await engine.run(pipeline, {"text": "x"})
    assert result.calls(ask)[0].messages[0].text == "ask"


async def test_a_validator_that_raises_fails_its_step_alone(autojump_clock):
    """A bug in one model's validator must not end a batch of thousands."""
    from pydantic import BaseModel, field_validator

    class Strange(BaseModel):
        text: str

        @field_validator("text")
        @classmethod
        def look(cls, value):
            raise KeyError("boom")

    pipeline = Pipeline("strange", inputs={"document": str})

    @pipeline.llm("fast", Strange)
    def ask(document: str) -> str:
        return document

    async with Engine(models={"fast": ScriptedModel({"ask": {"text": "x"}})}) as engine:
        result = await engine.run(pipeline, {"document": "x"})
    assert isinstance(result.outcome(ask).error, StepCodeError)
    assert result.status == "failed"


async def test_a_prompt_that_fails_for_one_item_pays_for_no_other(autojump_clock):
    """The step has failed already: a thousand calls for a list that will not come are money thrown away."""
    pipeline = Pipeline("items", inputs={"numbers": list[int]})

    @pipeline.llm("fast", str, each="numbers")
    def ask(number: int) -> str:
        if number == 0:
            raise ValueError("bad item")
        return str(number)

    model = ScriptedModel({"ask": "fine"}, latency=1)
    async with Engine(models={"fast": model}) as engine:
        result = await engine.run(pipeline, {"numbers": list(range(100))})
    assert model.requests == []
    assert [type(item).__name__ for item in result.items(ask)] == ["Failed"] + ["Skipped"] * 99


async def test_an_item_that_waits_for_its_fallback_step_is_settled_once(autojump_clock):
    """The step failed meanwhile; what its fallback brings comes too late and changes nothing."""
    pipeline = Pipeline("late", inputs={"numbers": list[int]})

    @pipeline.step(each="numbers")
    async def spare(number: int) -> int:
        await trio.sleep(3 if number == 0 else 0)
        if number == 1:
            raise ValueError("no spare")
        return number

    @pipeline.step(each="numbers", fallback=spare)
    async def work(number: int) -> int:
        await trio.sleep(1 + number)
        if number < 2:
            raise ValueError("no luck")
        return number

    async with Engine() as engine:
        result = await engine.run(pipeline, {"numbers": [0, 1, 2]})
    ends = [record.item for record in result.records if isinstance(record, StepFinished) and record.step == "work"]
    assert sorted(ends, key=str) == [0, 1, 2, None]
    assert result.items(work)[0] == Skipped("work", is_by_choice=False)


async def test_errors_of_a_cancelled_steps_clean_up_do_not_end_the_run(autojump_clock, caplog):
    """A timeout has a fallback; that a child raised on the way out is for the log."""
    pipeline = Pipeline("messy", inputs={"text": str})

    @pipeline.step(timeout=1, fallback="instead")
    async def messy(text: str) -> str:
        async def child():
            try:
                await trio.sleep_forever()
            finally:
                raise ValueError("cleanup")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)
            await trio.sleep_forever()
        return text

    async with Engine() as engine:
        result = await engine.run(pipeline, {"text": "x"})
    assert result[messy] == "instead"
    assert "the clean-up of step 'messy' raised" in caplog.text


async def test_a_sync_step_cancelled_before_its_thread_began_gives_its_slot_back():
    """A request dropped at once must not cost the service a slot for ever."""
    pipeline = Pipeline("early", inputs={"text": str})
    ran = threading.Event()

    @pipeline.step
    def step(text: str) -> str:
        ran.set()
        return text

    async with Engine(capacity=1) as engine:
        with trio.CancelScope() as scope:
            scope.cancel()
            await engine.run(pipeline, {"text": "x"})
        assert engine.statistics().in_flight == 0
        assert (await engine.run(pipeline, {"text": "y"}))[step] == "y"


async def test_two_overlapping_runs_inside_a_step_do_not_deadlock(autojump_clock):
    """A step may begin a second run while the first is just over."""
    from pipeline_engine import run_pipeline_async

    inner = Pipeline("inner", inputs={"seconds": float})

    @inner.step
    async def nap(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    outer = Pipeline("outer", inputs={"text": str})

    @outer.step
    async def both(text: str) -> str:
        async def later():
            await trio.sleep(1)
            await run_pipeline_async(inner, {"seconds": 1.0})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(later)
            await run_pipeline_async(inner, {"seconds": 1.0})
        return text

    with trio.fail_after(60):
        async with Engine(capacity=1) as engine:
            assert (await engine.run(outer, {"text": "x"}))[both] == "x"
            assert engine.statistics().in_flight == 0


@pytest.mark.parametrize("capacity", [1, 2])
async def test_a_run_that_backs_off_survives_the_end_of_its_engines_block(autojump_clock, capacity):
    """Left behind in another task it must end, not hang."""
    pipeline = Pipeline("slow", inputs={"text": str})

    @pipeline.step(retry=Retry(attempts=2, base_delay=5, jitter="none"))
    async def step(text: str) -> str:
        if current_step().attempt == 1:
            raise ConnectionError
        return text

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery, Engine(capacity=capacity) as engine:
            nursery.start_soon(engine.run, pipeline, {"text": "x"})
            await trio.sleep(1)


async def test_a_models_mapping_that_is_changed_in_place_is_bound_anew(autojump_clock):
    """A notebook swaps a model and runs the cell again: the old one must not answer, or be paid for."""
    pipeline = Pipeline("swap", inputs={"text": str})

    @pipeline.llm("fast", str)
    def ask(text: str) -> str:
        return text

    models = {"fast": [ScriptedModel({"ask": "old"})]}
    async with Engine() as engine:
        before = (await engine.run(pipeline, {"text": "x"}, models=models))[ask]
        models["fast"][0] = ScriptedModel({"ask": "new"})
        after = (await engine.run(pipeline, {"text": "x"}, models=models))[ask]
    assert (before, after) == ("old", "new")
