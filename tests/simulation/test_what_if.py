"""What-if: recorded runs, put to the real scheduler once more."""

import inspect
import random
import re

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_engine import (
    Completion,
    Document,
    Engine,
    Limits,
    Pipeline,
    Policy,
    RateLimitError,
    Retry,
    UnavailableError,
    Usage,
    current_step,
    run_batch,
    run_pipeline,
    what_if,
)
from pipeline_engine.report import Scenario
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.simulation import VirtualClock, scenarios
from pipeline_engine.testing import ScriptedModel, in_turn, virtual_time

# The law: as it was, it takes as long as it took


class Moody:
    """A model whose calls take some time that no other call takes, and fail now and then."""

    def __init__(self, name, seed, *, failures, limits=None):
        self.name = name
        self.limits = limits
        self._seed = seed
        self._failures = failures

    async def complete(self, request):
        context = current_step()
        call = context.document, context.step, context.item, context.attempt
        dice = random.Random(f"{self._seed} {self.name} {call}")
        await trio.sleep(dice.lognormvariate(0, 1))
        if dice.random() < self._failures:
            if dice.random() < 0.3:
                hint = dice.choice([None, 3.0])
                raise RateLimitError("is busy", model=self.name, kind="rate_limited", status=429, retry_after=hint)
            raise UnavailableError("is down", model=self.name, kind="server", status=500)
        # As many tokens as an engine takes them for that knows nothing yet: three characters each.
        return Completion("", usage=Usage(len(request.messages[0].text) // 3, 256))


def random_pipeline(dice, steps, *, is_mapped, is_branching):
    """Declare steps that need some of those before them; one may be mapped, and some may be left out."""
    pipeline = Pipeline("random", inputs={"document": str}, policy=Policy(retry=Retry(attempts=4, base_delay=0.5)))
    mapped = dice.randrange(steps) if is_mapped else None

    @pipeline.step
    async def items(document: str) -> list[str]:
        # What takes no time has no order: whatever else happens at that instant may come before it or after it.
        await trio.sleep(random.Random(document).random())
        return ["x"] * (1 + hash_of(document) % 4)

    names = []
    for number in range(steps):
        needs = dice.sample(names, min(len(names), dice.randint(0, 3)))
        options = {}
        if is_branching and names and dice.random() < 0.3:
            options["when"] = wanting(dice.choice(names), number)
        if number == mapped:
            declare = pipeline.llm(dice.choice(["fast", "strong"]), str, name=f"s{number}", each="items", **options)
            declare(prompt_of(["item", *needs]))
        else:
            declare = pipeline.llm(dice.choice(["fast", "strong"]), str, name=f"s{number}", **options)
            declare(prompt_of(["document", *needs]))
        names.append(f"s{number}")
    return pipeline


def hash_of(text):
    return random.Random(text).randrange(1000)


def prompt_of(needs):
    def prompt(*_values, **_named):
        return "x" * 300

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    prompt.__signature__ = inspect.Signature(
        [
            inspect.Parameter(need, kind, default=inspect.Parameter.empty if need in ("document", "item") else None)
            for need in needs
        ]
    )
    return prompt


def wanting(need, number):
    def when(**values):
        return hash_of(f"{number}{len(str(values))}") % 3 > 0

    when.__signature__ = inspect.Signature([inspect.Parameter(need, inspect.Parameter.KEYWORD_ONLY, default=None)])
    return when


def recorded_batch(pipeline, documents, seed, *, capacity, max_documents, failures, limits):
    """Run a batch on virtual time, and return the traces of its documents."""
    models = {
        "fast": Moody("m:fast", seed, failures=failures, limits=limits),
        "strong": Moody("m:strong", seed, failures=failures),
    }

    async def main():
        async with Engine(models=models, capacity=capacity, seed=seed) as engine:
            given = [Document(f"d{number}", {"document": f"{seed} {number}"}) for number in range(documents)]
            async with BatchStream(engine, engine.bind(pipeline), given, max_documents=max_documents) as stream:
                return [result.trace async for result in stream]

    return trio.run(main, clock=VirtualClock())


LIMITS = [None, Limits(rpm=60), Limits(rpm=120, burst_requests=5), Limits(tpm=30_000), Limits(max_concurrency=2)]


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    steps=st.integers(1, 8),
    documents=st.integers(1, 12),
    capacity=st.integers(1, 12),
    max_documents=st.sampled_from([None, 1, 3]),
    failures=st.sampled_from([0.0, 0.2]),
    limits=st.sampled_from(LIMITS),
    is_mapped=st.booleans(),
    is_branching=st.booleans(),
)
def test_as_it_was_a_replay_takes_as_long_as_the_batch(
    seed, steps, documents, capacity, max_documents, failures, limits, is_mapped, is_branching
):
    """What does not give the past back says nothing about what might have been."""
    pipeline = random_pipeline(random.Random(seed), steps, is_mapped=is_mapped, is_branching=is_branching)
    traces = recorded_batch(
        pipeline,
        documents,
        seed,
        capacity=capacity,
        max_documents=max_documents,
        failures=failures,
        limits=limits,
    )

    same = what_if(traces)

    assert same.replayed == pytest.approx(same.recorded, rel=0.01)
    assert same.makespan == same.recorded


# What is otherwise


@pytest.fixture
def pipeline():
    """A title, and a summary that needs it."""
    pipeline = Pipeline("article", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"Give this document a title: {document}"

    @pipeline.llm("strong", str, retry=Retry(attempts=2, jitter="none", base_delay=1.0))
    def summary(document: str, title: str) -> str:
        return f"Summarise “{title}”: {document}"

    return pipeline


def batch_of(pipeline, count, model, **options):
    with virtual_time():
        documents = [{"document": str(number)} for number in range(count)]
        return run_batch(pipeline, documents, models={"fast": model, "strong": model}, **options)


def test_more_slots_shorten_what_waited_for_slots(pipeline):
    """It is the first thing that anybody wants to know."""
    batch = batch_of(pipeline, 4, ScriptedModel({"*": "fine"}, latency={"title": 1.0, "summary": 3.0}), capacity=2)

    twice = what_if(batch, capacity=4)

    assert (twice.recorded, twice.replayed, twice.changed) == (8.0, 8.0, 4.0)
    assert (twice.makespan, twice.gain) == (4.0, 0.5)
    assert str(twice) == "4.0 s instead of 8.0 s, 50% less"


def test_a_faster_step_is_as_much_faster_as_was_said(pipeline):
    """The second thing: is another model for the summary worth its price?"""
    batch = batch_of(pipeline, 1, ScriptedModel({"*": "fine"}, latency={"title": 1.0, "summary": 3.0}))

    assert what_if(batch, faster={"summary": 2.0}).changed == 2.5
    assert str(what_if(batch, faster={"summary": 0.5})) == "7.0 s instead of 4.0 s, 75% more"


def test_without_retries_each_first_attempt_is_as_the_last_one_was(pipeline):
    """Whether a flaky provider costs an hour or a minute is not to be seen from the number of its errors."""
    down = UnavailableError("is down", model="scripted:model", kind="server", status=500)
    model = ScriptedModel({"title": "fine", "summary": in_turn(down, "fine")}, latency={"title": 1.0, "summary": 3.0})
    batch = batch_of(pipeline, 1, model)

    well = what_if(batch, retries=False)

    assert (well.recorded, well.replayed, well.changed) == (8.0, 8.0, 4.0)


def test_other_limits_are_decided_by_the_real_governor(pipeline):
    """A quotation for a higher limit is judged before it is paid for."""
    model = ScriptedModel({"*": "fine"}, latency=0.9, name="m:slow", limits=Limits(rpm=60))
    batch = batch_of(pipeline, 10, model, capacity=20)

    assert what_if(batch).recorded == pytest.approx(19.9)
    assert what_if(batch).replayed == pytest.approx(19.9)
    assert what_if(batch, limits={"m:slow": Limits(rpm=120, burst_requests=1)}).changed == pytest.approx(10.4)
    assert what_if(batch, limits={"m:slow": None}).changed == pytest.approx(1.8)


def test_documents_that_came_from_outside_come_no_earlier(pipeline):
    """More slots do not make a source deliver faster."""
    model = ScriptedModel({"*": "fine"}, latency=1.0)

    async def source():
        for number in range(5):
            await trio.sleep(10.0)
            yield {"document": str(number)}

    async def main():
        engine = Engine(models={"fast": model, "strong": model}, capacity=1)
        async with engine, BatchStream(engine, engine.bind(pipeline), source()) as stream:
            return [result.trace async for result in stream]

    more = what_if(trio.run(main, clock=VirtualClock()), capacity=8)

    # Seconds in which nothing was there to be done are nobody's.
    assert (more.recorded, more.replayed, more.changed) == pytest.approx((10.0, 10.0, 10.0))


def test_a_step_that_stands_in_is_called_again_when_it_was_called():
    """Fallback steps have no needs that would start them: their callers do."""
    pipeline = Pipeline("careful", inputs={"document": str})

    @pipeline.llm("fast", str)
    def rough(document: str) -> str:
        return document

    @pipeline.llm("strong", str, retry=None, fallback=rough)
    def fine(document: str) -> str:
        return document

    down = UnavailableError("is down", model="scripted:model", kind="server", status=500)
    model = ScriptedModel({"fine": down, "rough": "fine"}, latency={"fine": 4.0, "rough": 2.0})
    with virtual_time():
        result = run_pipeline(pipeline, {"document": "x"}, models={"fast": model, "strong": model})

    assert what_if(result).replayed == 6.0
    assert what_if(result, faster={"rough": 2.0}).changed == 5.0
    assert what_if(result, faster={"fine": 2.0}).changed == 4.0


def test_runs_are_read_from_a_journal_without_the_pipeline(pipeline, tmp_path):
    """The question comes weeks later, from somebody who has the journal alone."""
    model = ScriptedModel({"*": "fine"}, latency={"title": 0.01, "summary": 0.03})
    documents = [{"document": str(number)} for number in range(4)]
    batch = run_batch(
        pipeline, documents, models={"fast": model, "strong": model}, capacity=2, journal=tmp_path / "runs.db"
    )

    kept = what_if(tmp_path / "runs.db", capacity=4)

    assert kept.count == kept.documents == 4
    assert kept == what_if(batch, capacity=4)


def test_of_very_many_documents_a_random_sample_is_replayed(pipeline, monkeypatch):
    """A report must not take an hour; and it must say what it has not looked at."""
    monkeypatch.setattr("pipeline_engine.simulation.whatif._MAX_SPANS", 40)
    batch = batch_of(pipeline, 100, ScriptedModel({"*": "fine"}, latency=1.0), capacity=2)

    twice = what_if(batch, capacity=4)

    assert (twice.documents, twice.count, twice.recorded) == (20, 100, 100.0)
    assert twice.makespan == pytest.approx(50.0)
    assert str(twice) == "50.0 s instead of 1 min 40 s, 50% less (from 20 of 100 documents, drawn at random)"


def test_the_usual_changes_are_a_table_for_the_report(pipeline):
    """Nobody reads six calls; a table of six lines is read by everybody."""
    model = ScriptedModel({"*": "fine"}, latency={"title": 1.0, "summary": 3.0})

    assert scenarios(batch_of(pipeline, 4, model, capacity=2)) == (
        Scenario("twice the capacity (4)", 4.0, 0.5),
        Scenario("no bound on capacity", 4.0, 0.5),
        Scenario("summary twice as fast", 5.0, 0.375),
        Scenario("title twice as fast", 7.0, 0.125),
    )


def test_limits_and_failures_have_lines_where_there_were_any(pipeline):
    """A line that says 0 % for what never happened is noise."""
    down = UnavailableError("is down", model="scripted:model", kind="server", status=500)
    script = {"title": "fine", "summary": in_turn(down, "fine")}
    model = ScriptedModel(script, latency=1.0, limits=Limits(rpm=60))

    names = [scenario.name for scenario in scenarios(batch_of(pipeline, 3, model))]

    assert names[2] == "no limits of models"
    assert names[-1] == "no failed attempts"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"faster": {"titel": 2}}, "faster= names 'titel', but the steps are ['summary', 'title']."),
        ({"faster": {"title": 0}}, "faster={'title': 0}: it is a positive number; 2.0 is twice as fast."),
        ({"limits": {"openai:x": None}}, "limits= names 'openai:x', but only ['scripted:model'] were called."),
        ({"capacity": 0}, "capacity=0: it is a whole number, 1 or more."),
    ],
)
def test_a_change_that_names_nothing_is_refused(pipeline, changes, said):
    """A typo that changes nothing would read as: it does not help."""
    batch = batch_of(pipeline, 1, ScriptedModel({"*": "fine"}))

    with pytest.raises(ValueError, match=f"^{re.escape(said)}$"):
        what_if(batch, **changes)


def test_no_run_is_no_answer():
    """Zero seconds would be one."""
    with pytest.raises(ValueError, match="there is no run here"):
        what_if([])
