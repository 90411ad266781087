"""The engine itself: open and closed, shared models, sinks, statistics, repeatable jitter, and binding problems."""

import json

import pytest
import trio

from pipeline_engine import (
    Completion,
    Engine,
    EngineClosedError,
    Model,
    Pipeline,
    PlanError,
    Retry,
    Role,
    UnavailableError,
    run_pipeline,
)
from pipeline_engine.run.binding import ModelPool
from pipeline_engine.testing import ScriptedModel
from pipeline_engine.values import RunFinished, RunStarted, WaitEnded, WaitStarted

DOWN = UnavailableError("is down.", model="scripted:model", kind="server")


def pipeline_of(function, **options):
    """A pipeline with one step, called "step", which takes `number`."""
    pipeline = Pipeline("one", inputs={"number": int})
    pipeline.step(name="step", **options)(function)
    return pipeline


async def double(number: int) -> int:
    return 2 * number


def asking(*roles, **options):
    """A pipeline with an llm step for each role, called "ask_<role>"."""
    pipeline = Pipeline("asking", inputs={"number": int})
    for role in roles:

        def prompt(number: int) -> str:
            return str(number)

        pipeline.llm(role, str, name=f"ask_{role}", **options)(prompt)
    return pipeline


class Collecting:
    """A sink that keeps each run's records, and all of them in the order of their coming."""

    def __init__(self):
        self.runs = {}
        self.all = []

    def open_run(self, started):
        records = self.runs.setdefault(started.run_id, [started])

        def take(record):
            records.append(record)
            self.all.append(record)

        return take


# Open and closed


async def test_an_engine_that_is_not_open_says_so():
    """Before and after its block it has no connections and no slots."""
    engine = Engine()
    message = "this engine is not open. Use it inside its `with` block, and start no work after the block."
    with pytest.raises(EngineClosedError) as before:
        await engine.run(pipeline_of(double), {"number": 1})
    async with engine:
        assert (await engine.run(pipeline_of(double), {"number": 1}))["step"] == 2
    with pytest.raises(EngineClosedError) as after:
        await engine.run(pipeline_of(double), {"number": 1})
    assert str(before.value) == str(after.value) == message


@pytest.mark.parametrize("capacity", [0, -3])
def test_an_engine_needs_a_slot(capacity):
    """With none it would wait for ever."""
    with pytest.raises(ValueError, match=rf"^capacity={capacity}: at least one slot is needed to run anything\.$"):
        Engine(capacity=capacity)


async def test_two_engines_have_slots_of_their_own(autojump_clock):
    """A capacity belongs to an engine, so that one provider's limit is not another's."""

    async def work(number: int) -> int:
        await trio.sleep(1)
        return number

    began = trio.current_time()
    async with Engine(capacity=1) as one, Engine(capacity=1) as two, trio.open_nursery() as nursery:
        for engine in (one, two):
            nursery.start_soon(engine.run, pipeline_of(work), {"number": 1})
    assert trio.current_time() - began == 1


async def test_an_engine_closed_by_an_error_raises_that_error():
    """The block's own exception is what the caller looks for."""

    async def body():
        async with Engine() as engine:
            await engine.run(pipeline_of(double), {"number": 1})
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await body()


async def test_repr_tells_whether_it_is_open_and_busy():
    """The first thing that one types in a debugger."""
    async with Engine(capacity=2) as engine:
        shown = repr(engine)
    assert shown == "<Engine open, SchedulerStatistics(capacity=2, in_flight=0, ready=0, timers=0, models={})>"
    assert repr(engine).startswith("<Engine not open, ")


async def test_statistics_tell_what_goes_on_at_this_instant(autojump_clock):
    """In flight, ready and backing off are three different problems."""

    async def work(number: int) -> int:
        await trio.sleep(2)
        return number

    async def flaky(number: int) -> int:
        raise ConnectionError

    retry = Retry(attempts=2, base_delay=10, jitter="none")
    async with Engine(capacity=2) as engine:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.run, pipeline_of(flaky, retry=retry), {"number": 0})
            await trio.sleep(1)
            for number in range(3):
                nursery.start_soon(engine.run, pipeline_of(work), {"number": number})
            await trio.sleep(1)
            now = engine.statistics()
        assert (now.capacity, now.in_flight, now.ready, now.timers) == (2, 2, 1, 1)
        end = engine.statistics()
        assert (end.in_flight, end.ready, end.timers) == (0, 0, 0)


async def test_a_key_names_the_document_and_without_one_its_inputs_do():
    """Equal inputs have equal keys, on every machine."""
    async with Engine() as engine:
        named = await engine.run(pipeline_of(double), {"number": 1}, key="a.txt")
        hashed = await engine.run(pipeline_of(double), {"number": 1})
        again = await engine.run(pipeline_of(double), {"number": 1})
    assert named.document == "a.txt"
    assert hashed.document == again.document == "3d6a916e86efba9105154ea95dda8d8d"
    assert hashed.run_id != again.run_id


async def test_inputs_without_a_hash_have_the_runs_own_key():
    """An open file as input has no content that could be named."""
    pipeline = Pipeline("objects", inputs={"thing": object})
    pipeline.step(name="step")(lambda thing: 1)
    async with Engine() as engine:
        result = await engine.run(pipeline, {"thing": object()})
    assert result.document == result.run_id


# Models


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.json"
    path.write_text(json.dumps({"answers": {"*": "from the file"}}), encoding="utf-8")
    return f"scripted:{path}"


async def test_a_model_is_opened_once_for_all_runs_of_an_engine(script):
    """Connections are shared; a new client for each run would shake hands each time."""
    one, two = asking("fast"), asking("fast", "strong")
    async with Engine() as engine:
        first = engine.bind(one, {"fast": script})
        second = engine.bind(two, {"fast": Model(script), "strong": script})
        opened = {id(step[0].model) for bound in (first, second) for step in bound.candidates}
        result = await engine.run(two, {"number": 1}, models={"fast": script, "strong": script})
    assert len(opened) == 1
    assert result.outputs == {"ask_fast": "from the file", "ask_strong": "from the file"}


def test_models_with_other_settings_are_other_models():
    """A temperature of 0 must not be asked with that of 1."""
    pool = ModelPool(capacity=8)
    settings = {"base_url": "http://127.0.0.1:9", "api_key": "none"}
    cold, warm, again = (pool.take(Model("openai:m", temperature=t, **settings)).model for t in (0.0, 1.0, 0.0))
    assert cold is again
    assert cold is not warm


async def test_what_an_engine_opened_it_closes_and_nothing_else():
    """A model object belongs to who made it, and may be in use elsewhere."""

    class Own:
        is_closed = False

        async def complete(self, request):
            return Completion("x")

        async def aclose(self):
            self.is_closed = True

    own = Own()
    async with Engine(models={"fast": own}) as engine:
        assert (await engine.run(asking("fast"), {"number": 1}))["ask_fast"] == "x"
        opened = engine._pool.take(Model("openai:m", base_url="http://127.0.0.1:9", api_key="none"))
    assert not own.is_closed
    assert engine._pool.take(Model("openai:m", base_url="http://127.0.0.1:9", api_key="none")) is not opened


async def test_a_pipeline_is_compiled_and_bound_once_for_equal_models():
    """Compiling takes longer than a cached answer."""
    pipeline, models = asking("fast"), {"fast": ScriptedModel({"*": "x"})}
    async with Engine(models=models) as engine:
        assert engine.bind(pipeline) is engine.bind(pipeline)
        assert engine.bind(pipeline, {"fast": ScriptedModel({"*": "y"})}) is not engine.bind(pipeline)


async def test_a_step_added_after_a_run_is_in_the_next_run():
    """Notebooks grow a pipeline cell by cell."""
    pipeline = pipeline_of(double)
    async with Engine() as engine:
        first = await engine.run(pipeline, {"number": 1})

        @pipeline.step
        async def more(step: int) -> int:
            return step + 1

        second = await engine.run(pipeline, {"number": 1})
    assert (first.outputs, second.outputs) == ({"step": 2}, {"step": 2, "more": 3})


# Binding problems


def problems_of(pipeline, models=None):
    with pytest.raises(PlanError) as caught:
        run_pipeline(pipeline, {"number": 1}, models=models)
    return [(problem.code, problem.message) for problem in caught.value.problems]


def test_roles_without_a_model_are_told_all_at_once_with_their_users():
    """Each message can be copied into the call that was wrong."""
    pipeline = asking("fast", "strong")
    assert problems_of(pipeline) == [
        (
            "PE201",
            (
                "role 'fast' has no model, but is used by 'ask_fast'. "
                "Bind it: models={'fast': \"provider:model\"}, or --model fast=provider:model."
            ),
        ),
        (
            "PE201",
            (
                "role 'strong' has no model, but is used by 'ask_strong'. "
                "Bind it: models={'strong': \"provider:model\"}, or --model strong=provider:model."
            ),
        ),
    ]


def test_a_role_that_many_steps_use_names_the_first_four():
    """A list of forty names helps nobody."""
    pipeline = Pipeline("many", inputs={"number": int})
    for place in range(6):

        def prompt(number: int) -> str:
            return str(number)

        pipeline.llm("fast", str, name=f"ask{place}")(prompt)
    ((code, message),) = problems_of(pipeline)
    assert code == "PE201"
    assert message.startswith("role 'fast' has no model, but is used by 'ask0', 'ask1', 'ask2' and 'ask3' …. Bind it:")


def test_a_role_that_only_a_fallback_uses_must_be_bound_too():
    """It would be missing on the day when it is needed."""
    pipeline = asking("fast", fallback=Role("spare"))
    ((code, message),) = problems_of(pipeline, {"fast": ScriptedModel({"*": "x"})})
    assert (code, message.split(". ")[0]) == ("PE201", "role 'spare' has no model, but is used by 'ask_fast'")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "gpt-4o-mini",
            "role 'fast': model 'gpt-4o-mini' is not written as \"provider:model\", such as \"openai:gpt-4o-mini\".",
        ),
        (
            "opnai:gpt-4o",
            "role 'fast': model 'opnai:gpt-4o' names a provider that is not known. Did you mean 'openai:gpt-4o'?",
        ),
        ([], "role 'fast' is bound to an empty list. Give it at least one model."),
        (
            None,
            "role 'fast': None is no model. Give \"provider:model\", Model(…), or an object with complete(request).",
        ),
        (
            {"name": "x"},
            (
                "role 'fast': {'name': 'x'} is no model. Give \"provider:model\", Model(…), "
                "or an object with complete(request)."
            ),
        ),
    ],
)
def test_a_model_that_cannot_be_opened_is_a_problem_of_its_role(model, message):
    """Found before the first call, and with the right spelling."""
    ((code, told),) = problems_of(asking("fast"), {"fast": model})
    assert code == "PE202"
    assert told.startswith(message)


def test_a_model_class_in_place_of_a_model_is_no_model():
    """A pair of brackets forgotten: found at binding, not as a riddle about `self` at the first call."""
    ((code, message),) = problems_of(asking("fast"), {"fast": ScriptedModel})
    assert code == "PE202"
    assert "ScriptedModel" in message


@pytest.mark.parametrize("models", ["openai:gpt-4o", ScriptedModel({"*": "x"})])
def test_models_that_are_no_mapping_are_told_how_to_be_given(models):
    """One model for everything is the natural first try."""
    with pytest.raises(TypeError) as caught:
        run_pipeline(asking("fast"), {"number": 1}, models=models)
    assert "models=" in str(caught.value)
    assert "fast" in str(caught.value)


def test_a_missing_key_is_told_with_the_name_of_its_variable(monkeypatch):
    """The variable's name is the whole answer."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    assert problems_of(asking("fast"), {"fast": "openai:gpt-4o-mini"}) == [
        (
            "PE202",
            (
                "role 'fast': model 'openai:gpt-4o-mini' needs a key. Set OPENAI_API_KEY, "
                "or name a server that needs none with base_url= or OPENAI_BASE_URL."
            ),
        )
    ]


def test_a_model_for_a_role_that_nobody_uses_is_a_problem():
    """Usually the name has a typo, and the right role has no model either: both are told."""
    assert problems_of(asking("fast"), {"fsat": ScriptedModel({"*": "x"})}) == [
        (
            "PE201",
            (
                "role 'fast' has no model, but is used by 'ask_fast'. "
                "Bind it: models={'fast': \"provider:model\"}, or --model fast=provider:model."
            ),
        ),
        ("PE203", "'fsat' is bound to a model, but no step uses such a role. Its roles are 'fast'."),
    ]


def test_a_model_for_a_pipeline_without_roles_is_a_problem():
    """It is the wrong pipeline, or the wrong models."""
    assert problems_of(pipeline_of(double), {"fast": ScriptedModel()}) == [
        ("PE203", "'fast' is bound to a model, but no step uses such a role. It uses no models.")
    ]


def test_a_model_in_a_fallback_that_cannot_be_opened_names_the_step():
    """It stands in the step's own declaration, not in the call."""
    pipeline = asking("fast", fallback=Model("nobody:knows"))
    ((code, message),) = problems_of(pipeline, {"fast": ScriptedModel()})
    assert code == "PE202"
    assert message.startswith("the fallback of step 'ask_fast': model 'nobody:knows' names a provider")


# Sinks and records


async def test_a_sink_gets_every_record_of_every_run_in_order(autojump_clock):
    """Progress, telemetry and the report read this one stream."""
    sink = Collecting()
    pipeline = asking("fast", retry=Retry(attempts=2, jitter="none"))
    model = ScriptedModel({"*": DOWN}, latency=1)
    async with Engine(models={"fast": model}, sinks=[sink]) as engine, trio.open_nursery() as nursery:
        results = []

        async def run(number):
            results.append(await engine.run(pipeline, {"number": number}))

        for number in range(3):
            nursery.start_soon(run, number)

    assert {result.run_id: list(result.records) for result in results} == sink.runs
    for records in sink.runs.values():
        assert isinstance(records[0], RunStarted)
        assert isinstance(records[-1], RunFinished)
    times = [record.at for record in sink.all]
    assert times == sorted(times)


async def test_several_sinks_get_the_same_records():
    """Each reader stands for itself."""
    one, two = Collecting(), Collecting()
    async with Engine(sinks=[one, two]) as engine:
        await engine.run(pipeline_of(double), {"number": 1})
    assert one.runs == two.runs
    assert len(one.all) >= 4


async def test_a_cancelled_run_is_finished_in_its_records_too(autojump_clock):
    """A reader must not wait for an end that never comes."""
    sink = Collecting()

    async def slow(number: int) -> int:
        await trio.sleep(60)
        return number

    async with Engine(sinks=[sink]) as engine:
        with trio.move_on_after(1):
            await engine.run(pipeline_of(slow), {"number": 1})
    (records,) = sink.runs.values()
    assert (records[-1].at - records[0].at, records[-1].status) == (1, "stopped")


async def test_wall_times_follow_the_engines_one_clock(autojump_clock):
    """Two clocks would disagree after a night; under a virtual one every time is exact."""
    sink = Collecting()
    async with Engine(sinks=[sink]) as engine:
        await engine.run(pipeline_of(double), {"number": 1})
        await trio.sleep(3600)
        await engine.run(pipeline_of(double), {"number": 1})
    first, second = (records[0] for records in sink.runs.values())
    assert second.wall_time - first.wall_time == pytest.approx(3600, abs=1e-3)
    assert second.at - first.at == pytest.approx(3600, abs=1e-9)


async def delays(seed):
    pipeline = asking("fast", retry=Retry(attempts=5, jitter="full"))
    async with Engine(models={"fast": ScriptedModel({"*": DOWN})}, seed=seed) as engine:
        records = (await engine.run(pipeline, {"number": 1})).records
    starts = [record.at for record in records if isinstance(record, WaitStarted)]
    ends = [record.at for record in records if isinstance(record, WaitEnded)]
    return [round(end - start, 9) for start, end in zip(starts, ends, strict=True)]


async def test_a_seed_makes_jitter_repeatable(autojump_clock):
    """A run that failed in a simulation must fail again when one looks."""
    first, again, other = await delays(1), await delays(1), await delays(2)
    assert first == again != other
    assert len(first) == 4
    assert all(0 <= delay <= most for delay, most in zip(first, (1, 2, 4, 8), strict=True))


async def test_an_engine_may_have_models_that_a_pipeline_does_not_use():
    """One engine serves many pipelines; only what is given for a single run must all be used."""
    pipeline = Pipeline("small", inputs={"text": str})

    @pipeline.llm("fast", str)
    def title(text: str) -> str:
        return text

    models = {"fast": ScriptedModel({"title": "A title"}), "strong": ScriptedModel({})}
    async with Engine(models=models) as engine:
        assert (await engine.run(pipeline, {"text": "a"}))[title] == "A title"
        with pytest.raises(PlanError, match="'stronger' is bound to a model"):
            await engine.run(pipeline, {"text": "a"}, models={"fast": models["fast"], "stronger": models["strong"]})
