"""Simulated batches: the real engine, stand-ins for all that it calls."""

import asyncio  # noqa: TID251 - where people simulate: in notebooks
import logging
import random

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_engine import (
    Breaker,
    Budget,
    Hedge,
    Limits,
    MemoryJournal,
    Model,
    Pipeline,
    PlanError,
    Price,
    Retry,
    Timeout,
    Usage,
    run_batch,
    simulate,
)
from pipeline_engine.simulation import StepAssumptions, learn
from pipeline_engine.testing import Empirical, LogNormal, ScriptedModel, Uniform, virtual_time
from pipelines.document import pipeline as document_pipeline


@pytest.fixture
def pipeline():
    """A title, keywords, and a summary that needs both."""
    return article()


def article(**options):
    pipeline = Pipeline("article", inputs={"document": str})

    @pipeline.llm("fast", str, **options)
    def title(document: str) -> str:
        raise AssertionError("nothing of a pipeline's own code is run")

    @pipeline.llm("fast", str, **options)
    def keywords(document: str) -> str:
        raise AssertionError("nothing of a pipeline's own code is run")

    @pipeline.llm("strong", str, **options)
    def summary(document: str, title: str, keywords: str) -> str:
        raise AssertionError("nothing of a pipeline's own code is run")

    return pipeline


# Makespans


def test_with_enough_slots_a_batch_takes_as_long_as_its_longest_path(pipeline):
    """The least that any capacity can reach."""
    simulation = simulate(pipeline, 50, latency={"title": 1, "keywords": 2, "summary": 4}, capacity=1000)

    assert (simulation.makespan, simulation.documents, simulation.counts) == (6.0, 50, {"completed": 50})
    assert simulation.bounds.binding.kind == "critical path"
    assert simulation.bounds.binding.seconds == 6.0
    assert simulation.latency.p50 == simulation.latency.max == 6.0


def test_with_few_slots_a_batch_takes_as_long_as_its_work_on_them(pipeline):
    """Slots that idle while something is ready would show here."""
    simulation = simulate(pipeline, 100, latency=1, capacity=10)

    # When the last title and its keywords are done, their summary alone is left.
    assert simulation.makespan == 31.0
    assert simulation.throughput == pytest.approx(100 / 31)
    assert simulation.bounds.binding.seconds == 30.0
    assert simulation.verdict.startswith("100 documents in 31.0 s; 10 slots allow no less than 30.0 s (97 % of it)")


def test_a_simulation_takes_as_long_as_the_engine_does(pipeline):
    """That is what it is for."""
    latency = {"title": 1.5, "keywords": 0.7, "summary": 3.1}
    real = Pipeline("article", inputs={"document": str})
    real.llm("fast", str, name="title")(lambda document: document)
    real.llm("fast", str, name="keywords")(lambda document: document)
    real.llm("strong", str, name="summary")(lambda document, title, keywords: document)
    model = ScriptedModel({"*": "fine"}, latency=latency)
    with virtual_time():
        documents = [{"document": str(number)} for number in range(40)]
        batch = run_batch(real, documents, models={"fast": model, "strong": model}, capacity=7)

    simulation = simulate(pipeline, 40, latency=latency, capacity=7)

    assert simulation.makespan == pytest.approx(batch.elapsed)
    assert simulation.attempts == sum(step.attempts for step in batch.trace.steps)


def test_limits_bind_where_they_are_tighter_than_slots(pipeline):
    """More slots are bought in vain where the provider's rate binds."""
    simulation = simulate(pipeline, 100, latency=1, capacity=100, limits={"fast": Limits(rpm=600)})

    assert simulation.makespan == pytest.approx(21, abs=1)
    assert simulation.bounds.binding.kind == "requests"
    assert simulation.bounds.binding.by == "600 requests per minute of simulated:fast"
    assert simulation.waits["requests"] > 0


def test_roles_that_are_bound_to_one_model_share_its_limits(pipeline):
    """The provider counts by model, not by role."""
    models = {"fast": "openai:gpt-4o-mini", "strong": "openai:gpt-4o-mini"}

    alone = simulate(pipeline, 60, latency=1, limits=Limits(rpm=60))
    shared = simulate(pipeline, 60, latency=1, limits=Limits(rpm=60), models=models)

    assert alone.makespan == pytest.approx(120, abs=3)
    assert shared.makespan == pytest.approx(180, abs=3)


def test_documents_may_arrive_at_a_rate(pipeline):
    """A queue that is always full is not how most documents come; latency counts from their arrival."""
    calm = simulate(pipeline, 500, latency=1, arrivals=1.0, capacity=100, seed=4)
    busy = simulate(pipeline, 500, latency=1, arrivals=1.0, capacity=3, seed=4)

    assert calm.makespan == pytest.approx(500, rel=0.1)
    assert (calm.latency.p50, calm.latency.max) == pytest.approx((2.0, 2.0))
    assert busy.latency.p95 > 10.0


# What calls are like


def test_tokens_are_priced_with_the_models_that_are_bound(pipeline):
    """The bill is the other half of the question."""
    models = {"fast": Model("openai:x", price=Price(1.0, 2.0)), "strong": Model("openai:y", price=Price(10.0, 20.0))}

    simulation = simulate(pipeline, 10, tokens=(1000, 500), models=models)

    assert simulation.usage == Usage(30_000, 15_000)
    assert simulation.cost.usd == pytest.approx(20 * 0.002 + 10 * 0.02)


def test_without_tokens_or_prices_cost_is_unknown(pipeline):
    """Unknown is not zero."""
    assert not simulate(pipeline, 10).cost.is_known
    assert not simulate(pipeline, 10, tokens=(1000, 500)).cost.is_known
    assert not simulate(pipeline, 10, models=dict.fromkeys(("fast", "strong"), "openai:gpt-4o")).cost.is_known
    assert simulate(pipeline, 10, tokens=(1, 1), models=dict.fromkeys(("fast", "strong"), "openai:gpt-4o")).cost.usd > 0


def test_calls_fail_as_often_as_is_said_and_are_repeated(pipeline):
    """Retries take slots and money, and back-off takes time."""
    simulation = simulate(pipeline, 2000, latency=1, failures={"title": 0.1}, capacity=100)
    [title, keywords, summary] = simulation.steps

    assert title.failures / title.attempts == pytest.approx(0.1, abs=0.01)
    assert keywords.failures == summary.failures == 0
    assert title.waits["backoff"] > 0
    assert simulation.counts["completed"] >= 1995


def test_what_fails_for_good_leaves_its_document_incomplete():
    """A batch that is not worth starting shows here, not on its bill."""
    simulation = simulate(article(retry=None), 1000, latency=1, failures=0.5, capacity=1000)

    assert simulation.counts["failed"] == pytest.approx(875, abs=40)


def test_timeouts_of_the_pipeline_end_simulated_calls(pipeline):
    """A timeout below the 95th percentile of a model doubles its bill."""
    timed = article(timeout=Timeout(attempt=2.0), retry=Retry(attempts=2, jitter="none", base_delay=1.0))

    simulation = simulate(timed, 10, latency={"title": 5, "keywords": 1, "summary": 1}, capacity=100)

    assert simulation.makespan == 5.0
    assert simulation.steps[0].failures == 20
    assert simulation.counts == {"failed": 10}


def test_second_calls_are_calls_of_their_own():
    """A second call that took as long as the first one would never win."""
    hedged = article(hedge=Hedge(after=3.0, max_extra=0.5))
    latency = LogNormal(1, 20)

    plain = simulate(article(), 2000, latency=latency, capacity=10_000)
    quick = simulate(hedged, 2000, latency=latency, capacity=10_000)

    assert quick.latency.p95 < 0.7 * plain.latency.p95


def test_a_breaker_opens_and_nothing_of_it_is_in_the_log(pipeline, caplog):
    """Whoever is called at night for an open breaker wants it to be a real one."""
    models = {"fast": Model("openai:gpt-4o", breaker=Breaker(failure_threshold=3, timeout=30)), "strong": "openai:x"}

    with caplog.at_level(logging.WARNING, "pipeline_engine"):
        simulation = simulate(pipeline, 50, latency=1, failures={"fast": 0.9}, models=models)
        logging.getLogger("pipeline_engine").warning("a real one")

    assert simulation.waits["breaker"] > 0
    assert caplog.messages == ["a real one"]


def test_a_budget_ends_a_simulation(pipeline):
    """How far five dollars go."""
    models = dict.fromkeys(("fast", "strong"), Model("openai:x", price=Price(0.0, 1000.0), max_tokens=100))

    simulation = simulate(pipeline, 100, latency=1, tokens=(10, 100), models=models, budget=Budget(usd=6.0), capacity=4)

    assert simulation.cost.usd == pytest.approx(6.0)
    assert "budget" in simulation.stopped_by
    assert "stopped: " in str(simulation)


def test_a_model_that_is_asked_when_a_budget_is_spent_is_simulated_too(pipeline):
    """Half of a batch may go to it."""
    models = dict.fromkeys(("fast", "strong"), Model("openai:x", price=Price(0.0, 1000.0), max_tokens=100))
    cheap = Model("openai:cheap", price=Price(0.0, 0.0), max_tokens=100)
    budget = Budget(usd=3.0, on_exhausted=cheap)

    simulation = simulate(
        pipeline,
        20,
        latency={"*": 1, "openai:cheap": 3},
        tokens=(10, 100),
        models=models,
        budget=budget,
        capacity=1000,
    )

    assert simulation.counts == {"completed": 20}
    assert 2.8 < simulation.cost.usd <= 3.0
    assert simulation.latency.max >= 4.0


def test_models_need_no_key_and_are_never_opened(pipeline, monkeypatch):
    """It is asked on laptops that have no keys."""
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    pipeline = article(fallback=Model("anthropic:claude-sonnet-4-5"))

    simulation = simulate(
        pipeline,
        200,
        latency={"*": 1, "anthropic:claude-sonnet-4-5": 7},
        failures={"openai:gpt-4o": 0.9},
        models=dict.fromkeys(("fast", "strong"), "openai:gpt-4o"),
        capacity=1000,
    )

    assert simulation.counts == {"completed": 200}
    assert simulation.latency.max > 14


# Other steps


def test_mapped_steps_functions_and_branches_are_simulated():
    """Most pipelines are more than three prompts."""
    pipeline = Pipeline("long", inputs={"document": str})

    @pipeline.step
    def chunks(document: str) -> list[str]:
        raise AssertionError

    @pipeline.llm("fast", str, each=chunks)
    def note(chunk: str) -> str:
        raise AssertionError

    @pipeline.llm("fast", str, each=note)
    def refined(note: str) -> str:
        raise AssertionError

    @pipeline.llm("strong", str, when=lambda note: len(note) > 1)
    def summary(note: list[str]) -> str:
        raise AssertionError

    @pipeline.embed("vectors")
    def vectors(note: list[str]) -> list[str]:
        raise AssertionError

    simulation = simulate(
        pipeline,
        400,
        latency={"chunks": 0.5, "note": 1, "refined": 2, "summary": 4, "vectors": 0.25},
        items={"note": Uniform(2, 6), "vectors": 250},
        branches={"summary": 0.25},
        capacity=100_000,
    )
    counts = {step.step: step.attempts for step in simulation.steps}

    assert counts["chunks"] == 400
    assert counts["note"] == counts["refined"] == pytest.approx(1600, rel=0.05)
    assert counts["summary"] == pytest.approx(100, abs=25)
    assert counts["vectors"] == 1200
    assert simulation.latency.max == 5.5
    assert simulation.latency.p50 == 3.5


def test_an_input_may_be_mapped_over():
    """The list comes with the document then."""
    pipeline = Pipeline("pages", inputs={"pages": list[str]})

    @pipeline.llm("fast", str, each="pages")
    def note(page: str) -> str:
        raise AssertionError

    assert simulate(pipeline, 10, latency=1, items=7, capacity=7).steps[0].attempts == 70


def test_a_cascade_goes_on_as_often_as_its_outputs_are_not_taken():
    """What a cascade saves depends on how good its first model is."""
    pipeline = Pipeline("cascade", inputs={"document": str})

    @pipeline.llm(output=str, cascade=["fast", "strong"], accept=bool)
    def title(document: str) -> str:
        raise AssertionError

    simulation = simulate(pipeline, 1000, latency={"fast": 1, "strong": 3}, accepted=0.8, capacity=10_000)

    assert simulation.attempts == pytest.approx(1200, abs=40)
    assert (simulation.latency.p50, simulation.latency.max) == (1.0, 4.0)


# Repeatable


@settings(max_examples=12)
@given(st.integers(0, 2**32))
def test_the_same_seed_gives_the_same_simulation_whatever_trio_draws(seed):
    """Trio runs its tasks in a random order; a plan that changes when it is looked at again is no plan."""
    timed = article(timeout=Timeout(attempt=3.0), retry=Retry(attempts=3))
    options = {
        "latency": {"title": 1, "keywords": 1, "summary": Uniform(1, 4)},
        "failures": 0.1,
        "tokens": (800, 200),
        "limits": Limits(rpm=1200, tpm=1_000_000),
        "capacity": 8,
        "seed": 5,
    }
    trio._core._run._r.seed(seed)

    assert simulate(timed, 60, **options) == EXPECTED.setdefault("first", simulate(timed, 60, **options))


EXPECTED = {}


def test_another_seed_gives_other_calls_of_the_same_kind(pipeline):
    """How far two of them are apart says how much chance there is in the answer."""
    first, second = (simulate(pipeline, 500, latency="lognormal:2,8", capacity=20, seed=seed) for seed in (1, 2))

    assert first != second
    assert first.makespan == pytest.approx(second.makespan, rel=0.1)


def test_at_another_capacity_the_same_calls_take_as_long(pipeline):
    """Else a sweep would show the dice as much as the capacity."""
    sweep = simulate(pipeline, 200, latency="lognormal:2,8", failures=0.05, capacity=[5, 50])
    few, many = sweep.simulations

    assert few.attempts == many.attempts
    assert few.bounds.gain_without("critical path") != many.bounds.gain_without("critical path")
    assert {bound.kind: bound.seconds for bound in few.bounds.bounds}["slots"] == pytest.approx(
        10 * {bound.kind: bound.seconds for bound in many.bounds.bounds}["slots"]
    )


# Sweeps


def test_a_sweep_says_from_which_capacity_on_more_is_of_no_use(pipeline, tmp_path):
    """The reason for a sweep."""
    sweep = simulate(pipeline, 200, latency=1, limits={"fast": Limits(rpm=1200)}, capacity=[64, 8, 16, 32, 128])

    assert [simulation.capacity for simulation in sweep.simulations] == [8, 16, 32, 64, 128]
    assert sweep.enough.capacity == 32
    assert str(sweep).splitlines()[-1] == "32 slots are enough: more gain less than 5 %"
    assert [row["binding"] for row in sweep.table()] == ["slots", "slots", "requests", "requests", "requests"]
    assert sweep.to_svg(tmp_path / "sweep.svg").read_text(encoding="utf-8").count("<circle") == 5


def test_names_of_others_are_text_in_what_is_shown():
    """A model's name may come from a file that somebody else has written."""
    pipeline = Pipeline("x", inputs={"document": str})
    pipeline.llm("fast", str, name="title")(lambda document: document)

    simulation = simulate(pipeline, 2, models={"fast": "openai:\x1b[31m<b>"}, limits=Limits(rpm=1), latency=1)

    assert "\x1b" not in str(simulation)


# From recorded runs


def test_calls_are_as_they_were_in_recorded_runs():
    """Nobody knows the latencies of a model by heart; journals do."""
    dice = random.Random(3)
    real = Pipeline("article", inputs={"document": str})
    real.llm("fast", str, name="title", retry=Retry(attempts=4, jitter="none"))(lambda document: document)
    model = ScriptedModel({"title": lambda _request: "fine"}, latency=lambda _context: dice.uniform(1, 3))
    with virtual_time():
        documents = [{"document": str(number)} for number in range(300)]
        batch = run_batch(real, documents, models={"fast": model}, capacity=10)

    learnt = learn(batch)
    simulation = simulate(real, 300, like=batch, capacity=10)

    assert learnt["title"].failures == 0.0
    assert isinstance(learnt["title"].latency, Empirical)
    assert simulation == simulate(real, 300, like=learnt, capacity=10)
    assert simulation.makespan == pytest.approx(batch.elapsed, rel=0.05)


def test_a_step_whose_outputs_were_all_restored_is_not_taken_for_one_without_latency():
    """After a prompt was edited, the last batch has called one step of two; the other one still takes its time."""
    real = Pipeline("article", inputs={"document": str})
    real.llm("fast", str, name="title")(lambda document: document)
    journal = MemoryJournal()
    documents = [{"document": str(number)} for number in range(10)]
    models = {"fast": ScriptedModel({"*": "fine"}, latency=3.0)}
    with virtual_time():
        run_batch(real, documents, models=models, journal=journal)
        real.llm("fast", str, name="summary")(lambda title: f"Summarise {title}")
        second = run_batch(real, documents, models=models, journal=journal)

    assert list(learn(second)) == ["summary"]
    assert simulate(real, 10, like=second, latency={"title": 2}, capacity=100).makespan == 5.0


def test_a_step_that_had_nothing_to_do_is_learnt_as_such():
    """A branch that was never taken and a list that was always empty are figures, not gaps."""
    real = Pipeline("parts", inputs={"document": str, "parts": list[str]})
    real.llm("fast", str, name="title")(lambda document: document)
    real.llm("fast", str, name="reply", when=lambda title: False)(lambda title: title)
    real.llm("fast", str, name="notes", each="parts")(lambda part: part)
    model = ScriptedModel({"*": "fine"}, latency=3.0)
    with virtual_time():
        batch = run_batch(real, [{"document": "x", "parts": []}], models={"fast": model})

    assert learn(batch)["reply"].branch == 0.0
    assert simulate(real, 10, like=batch, capacity=100).attempts == 10


def test_runs_of_another_pipeline_teach_nothing(pipeline):
    """The last batch of a shared journal may be somebody else's; figures of nobody's would look like measured ones."""
    other = Pipeline("other", inputs={"document": str})
    other.llm("fast", str, name="gist")(lambda document: document)
    with virtual_time():
        batch = run_batch(other, [{"document": "x"}], models={"fast": ScriptedModel({"*": "fine"})})

    with pytest.raises(ValueError, match=r"nothing of any step of pipeline 'article'; it tells only of gist\."):
        simulate(pipeline, 10, like=batch)
    with pytest.raises(ValueError, match=r"it tells of none: all came from a journal, or the runs were pruned\."):
        simulate(pipeline, 10, like={})


def test_vectors_are_asked_for_in_as_many_calls_as_they_were():
    """A journal tells calls, and each holds up to a hundred texts."""
    real = Pipeline("vectors", inputs={"document": str})

    @real.embed("vectors")
    def vectors(document: str) -> list[str]:
        return [document] * 250

    with virtual_time():
        batch = run_batch(real, [{"document": "x"}], models={"vectors": ScriptedModel(latency=1.0)})

    assert simulate(real, 10, like=batch, capacity=100).attempts == 30


def test_what_is_said_by_name_goes_before_what_was_learnt(pipeline):
    """Next month's model is faster than last month's."""
    learnt = {step: StepAssumptions(latency=Uniform(5, 6)) for step in ("title", "keywords", "summary")}

    simulation = simulate(pipeline, 10, like=learnt, latency={"summary": 1}, capacity=100)

    assert simulation.makespan == pytest.approx(7, abs=0.1)


def test_failures_branches_items_and_tokens_are_learnt(pipeline):
    """Latency is not all that makes a batch slow and dear."""
    learnt = {
        "title": StepAssumptions(latency=Uniform(1, 2), failures=0.2, permanent=0.5, invalid=0.1),
        "keywords": StepAssumptions(latency=Uniform(1, 2), input_tokens=Uniform(10, 20), output_tokens=Uniform(1, 2)),
        "summary": StepAssumptions(latency=Uniform(1, 2)),
    }

    simulation = simulate(pipeline, 1000, like=learnt, capacity=100)

    assert simulation.counts["partial" if "partial" in simulation.counts else "failed"] > 50
    assert simulation.usage.input_tokens == pytest.approx(15_000, rel=0.1)


def test_thousands_of_documents_per_second_are_said_as_a_number(pipeline):
    """Function steps and offline models take milliseconds; nobody reads 4.71e+03."""
    assert "5,000 documents per second" in str(simulate(pipeline, 10, latency=0.001, capacity=100))


# From anywhere, and mistakes


def test_it_can_be_asked_in_a_notebook_and_inside_trio(pipeline):
    """A notebook runs asyncio, and trio allows one loop for each thread."""

    async def main():
        return simulate(pipeline, 10, latency=1)

    assert asyncio.run(main()) == trio.run(main) == simulate(pipeline, 10, latency=1)


def test_progress_is_told_after_each_document(pipeline):
    """A long one must not look like one that hangs."""
    told = []

    simulate(pipeline, 5, latency=1, progress=told.append)

    assert told == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latency": {"titel": 1}}, "latency= names 'titel', which is no step, role or model here."),
        ({"latency": "later"}, "'later' in 'later' is no number"),
        ({"tokens": 800}, "tokens=800: give a pair"),
        ({"failures": 2}, "failures=2: it is a share from 0 to 1"),
        ({"limits": {"slow": Limits(rpm=1)}}, "limits= names 'slow', which is no role or model here."),
        ({"capacity": 0}, "capacity=0: it is a whole number, 1 or more."),
        ({"capacity": []}, "capacity=[]: a sweep needs at least one number."),
        ({"documents": 0}, "documents=0: it is a whole number, 1 or more."),
        ({"arrivals": -1}, "arrivals=-1: it is a positive number of documents per second."),
    ],
)
def test_what_makes_no_sense_is_refused(pipeline, options, said):
    """A name that is nobody's would be ignored in silence, and the answer believed."""
    with pytest.raises(ValueError) as refused:  # noqa: PT011 - the message is compared
        simulate(pipeline, **options)

    assert said in str(refused.value)


def test_models_for_unknown_roles_are_problems_like_any_other(pipeline):
    """The command that is simulated today is run tomorrow."""
    with pytest.raises(PlanError, match="PE203"):
        simulate(pipeline, models={"slow": "openai:x"})


def test_the_documents_pipeline_can_be_simulated():
    """It has all that a real one has: types, a fallback value, retries, timeouts."""
    simulation = simulate(document_pipeline, 100, latency="lognormal:2,8", tokens=(800, 200), failures=0.05)

    assert simulation.counts == {"completed": 100}
    assert set(simulation.to_dict()) >= {"makespan", "bounds", "steps", "verdict", "cost_usd"}
    assert len(str(simulation).splitlines()) == 11
