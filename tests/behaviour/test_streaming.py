"""Streamed replies: pieces at their instants, silent retries, timeouts between pieces, slow readers, early leavers."""

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline_engine import (
    Completed,
    Completion,
    Delta,
    Engine,
    EngineClosedError,
    Failed,
    InputError,
    Model,
    Pipeline,
    PlanError,
    Policy,
    Restarted,
    Retry,
    Role,
    StepTimeoutError,
    Stopped,
    Timeout,
    UnavailableError,
    Usage,
    compile_pipeline,
    run_pipeline_async,
)
from pipeline_engine.plan import Plan
from pipeline_engine.run.binding import BoundPlan
from pipeline_engine.schedule import BoundModel
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import AttemptFinished, AttemptStarted, StepFinished

DOWN = UnavailableError("broke down.", model="scripted:model", kind="server", status=500)
EXACT = Retry(attempts=4, jitter="none")
ONCE = Retry(attempts=1, jitter="none")


class Score(BaseModel):
    value: int


class Streaming:
    """Give pieces on time, for ever if they never end, and record what becomes of each call."""

    name = "fake:streaming"

    def __init__(self, *pieces, pause=1.0):
        self.pieces = pieces
        self.pause = pause
        self.given = 0
        self.started_at = []
        self.cancelled_at = []

    async def complete(self, request):
        raise AssertionError("a step with stream=True asks for a stream")

    async def stream(self, request, take):
        self.started_at.append(trio.current_time())
        said = []
        try:
            for piece in self.pieces or iter(lambda: "x", None):
                await trio.sleep(self.pause)
                await take(piece)
                self.given += 1
                said.append(piece)
        except trio.Cancelled:
            self.cancelled_at.append(trio.current_time())
            raise
        return Completion("".join(said), usage=Usage(input_tokens=10, output_tokens=len(said)))


class Whole:
    """A model that cannot stream."""

    name = "fake:whole"

    def __init__(self, text="all at once", seconds=2.0):
        self.text = text
        self.seconds = seconds

    async def complete(self, request):
        await trio.sleep(self.seconds)
        return Completion(self.text)


class OpenedWithTimeouts:
    """A pool that opens `Model` values as what the test brings, with the timeouts that they carry."""

    def __init__(self, opened):
        self.opened = opened

    def take(self, model):
        return BoundModel(model.name, self.opened, model.timeout, can_stream=True)


def one_step(output=str, *, stream=True, policy=None, **options):
    pipeline = Pipeline("one", inputs={"document": str}, policy=policy)

    @pipeline.llm("fast", output, stream=stream, **options)
    def ask(document: str) -> str:
        return document

    return pipeline


async def followed(pipeline, model, *, pause=0.0, models=None, capacity=4, **options):
    """Follow a run to its end; return what was told and when, and the result."""
    told = []
    async with Engine(models={"fast": model, **(models or {})}, capacity=capacity, seed=0) as engine:
        began = trio.current_time()
        with trio.fail_after(1e6):  # a run that would never end is ended by the virtual clock
            async with engine.stream(pipeline, {"document": "text"}, **options) as events:
                async for event in events:
                    told.append((trio.current_time() - began, event))
                    await trio.sleep(pause)
        statistics = engine.statistics()
        assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
    return told, events.result


def plainly(told):
    """Read events as short values: a text, "restarted", or the kind of an outcome."""
    short = []
    for at, event in told:
        if isinstance(event, Delta):
            short.append((at, event.text))
        elif isinstance(event, Restarted):
            short.append((at, "RESTARTED"))
        else:
            short.append((at, type(event.outcome).__name__))
    return short


def attempts(result):
    return [record for record in result.records if isinstance(record, AttemptFinished)]


# Events


async def test_deltas_arrive_at_the_instants_of_their_pieces_in_order(autojump_clock):
    """The whole point of streaming is to see words when they are said."""
    script = {"ask": Reply(pieces=[(1.0, "One "), (0.5, "two "), (2.0, "three.")])}

    told, result = await followed(one_step(), ScriptedModel(script))

    assert told == [
        (1.0, Delta("ask", None, "One ")),
        (1.5, Delta("ask", None, "two ")),
        (3.5, Delta("ask", None, "three.")),
        (3.5, StepFinished(3.5, "ask", None, Completed("One two three."))),
    ]
    assert result["ask"] == "One two three."
    assert attempts(result)[0].first_token_at == 1.0


async def test_dependents_start_on_the_validated_whole_and_not_before(autojump_clock):
    """Half an answer is no answer: a reply that breaks its schema in the last piece must reach nobody."""
    pipeline = Pipeline("two", inputs={"document": str})

    @pipeline.llm("fast", Score, stream=True)
    def ask(document: str) -> str:
        return document

    @pipeline.llm("fast", str, stream=True)
    def after(ask: Score) -> str:
        return f"explain {ask.value}"

    broken = Reply(pieces=[(1.0, '{"value":'), (1.0, '"x"}')])
    mended = Reply(pieces=[(1.0, '{"value":'), (1.0, "7}")])
    model = ScriptedModel({"ask": in_turn(broken, mended), "after": Reply(pieces=[(1.0, "Because.")])})

    told, result = await followed(pipeline, model)

    assert plainly(told) == [
        (1.0, '{"value":'),
        (2.0, '"x"}'),
        (2.0, "RESTARTED"),
        (3.0, '{"value":'),
        (4.0, "7}"),
        (4.0, "Completed"),
        (5.0, "Because."),
        (5.0, "Completed"),
    ]
    assert result["ask"] == Score(value=7)
    assert model.requests[-1].messages[-1].text == "explain 7"
    assert result.trace["after"].started_at == 4.0


async def test_pieces_of_two_steps_name_their_step_and_item(autojump_clock):
    """A page with several boxes must know which box grows."""
    pipeline = Pipeline("items", inputs={"documents": list[str], "document": str})

    @pipeline.llm("fast", str, stream=True, each="documents")
    def each(document: str) -> str:
        return document

    @pipeline.llm("fast", str, stream=True)
    def single(document: str) -> str:
        return document

    model = ScriptedModel(
        {
            "each": lambda request: Reply(pieces=[(int(request.messages[0].text), "item")]),
            "single": Reply(pieces=[(2.0, "one")]),
        }
    )
    async with Engine(models={"fast": model}) as engine:
        inputs = {"documents": ["3", "1"], "document": "x"}
        async with engine.stream(pipeline, inputs) as events:
            told = [(trio.current_time(), event) async for event in events]

    assert [(at, event) for at, event in told if isinstance(event, Delta)] == [
        (1.0, Delta("each", 1, "item")),
        (2.0, Delta("single", None, "one")),
        (3.0, Delta("each", 0, "item")),
    ]
    finished = [(at, event.step, event.item) for at, event in told if isinstance(event, StepFinished)]
    assert finished == [(1.0, "each", 1), (2.0, "single", None), (3.0, "each", 0), (3.0, "each", None)]


async def test_every_outcome_is_an_event_also_of_steps_that_do_not_stream(autojump_clock):
    """Whoever follows a run must not guess which boxes stay empty."""
    pipeline = Pipeline("mixed", inputs={"document": str})

    @pipeline.step
    async def broken(document: str) -> str:
        raise ValueError("no luck")

    @pipeline.step
    async def after(broken: str) -> str:
        return broken

    @pipeline.llm("fast", str, when=lambda document: False)
    def unwanted(document: str) -> str:
        return document

    told, result = await followed(pipeline, ScriptedModel({"*": "x"}))

    outcomes = {event.step: event.outcome for _at, event in told}
    assert outcomes == {name: result.outcome(name) for name in ("broken", "after", "unwanted")}
    assert len(told) == 3


async def test_a_step_without_stream_gives_no_deltas(autojump_clock):
    """Most steps are means to an end; their text on the user's page would be noise."""
    told, result = await followed(one_step(stream=False), ScriptedModel({"ask": "some words"}, latency=2.0))

    assert plainly(told) == [(2.0, "Completed")]
    assert result["ask"] == "some words"
    assert attempts(result)[0].first_token_at is None


async def test_a_model_that_cannot_stream_gives_its_reply_as_one_delta(autojump_clock):
    """Changing the model must not change what the page has to do."""
    told, result = await followed(one_step(), Whole())

    assert told[0] == (2.0, Delta("ask", None, "all at once"))
    assert plainly(told[1:]) == [(2.0, "Completed")]
    assert result["ask"] == "all at once"


async def test_an_empty_reply_gives_no_delta(autojump_clock):
    """A delta that says nothing makes the page flicker."""
    told, _ = await followed(one_step(), Whole(text=""))
    assert plainly(told) == [(2.0, "Completed")]

    told, _ = await followed(one_step(), ScriptedModel({"ask": Reply(pieces=[(1.0, ""), (1.0, "")])}))
    assert plainly(told) == [(2.0, "Completed")]


async def test_a_streamed_run_that_nobody_follows_gives_the_same_result(autojump_clock):
    """The same pipeline serves the page and the nightly batch."""
    script = {"ask": Reply(pieces=[(1.0, "One "), (1.0, "two.")], usage=Usage(input_tokens=3, output_tokens=2))}
    async with Engine(models={"fast": ScriptedModel(script)}) as engine:
        alone = await engine.run(one_step(), {"document": "text"})
    _, result = await followed(one_step(), ScriptedModel(script))

    assert alone["ask"] == result["ask"] == "One two."
    assert alone.usage == result.usage == Usage(input_tokens=3, output_tokens=2)
    assert [type(record) for record in alone.records] == [type(record) for record in result.records]


async def test_the_result_is_there_when_the_events_are_over_and_not_before(autojump_clock):
    """A result of a run that still goes on would be a guess."""
    async with (
        Engine(models={"fast": ScriptedModel({"ask": "one two"}, latency=2.0)}) as engine,
        engine.stream(one_step(), {"document": "text"}) as events,
    ):
        with pytest.raises(RuntimeError) as caught:
            _ = events.result
        async for _ in events:
            pass
        assert events.result["ask"] == "one two"
        assert [event async for event in events] == []
    assert str(caught.value) == "the run is not over, so it has no result. Read its events to their end first."


async def test_two_streams_on_one_engine_do_not_mix(autojump_clock):
    """A server follows one run per visitor, all on one engine."""
    model = ScriptedModel({"ask": lambda request: Reply(pieces=[(1.0, request.messages[0].text), (1.0, ".")])})
    told = {}

    async def follow(engine, name, after):
        await trio.sleep(after)
        async with engine.stream(one_step(), {"document": name}) as events:
            told[name] = plainly([(trio.current_time(), event) async for event in events])

    async with Engine(models={"fast": model}) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(follow, engine, "a", 0.0)
        nursery.start_soon(follow, engine, "b", 0.5)

    assert told == {
        "a": [(1.0, "a"), (2.0, "."), (2.0, "Completed")],
        "b": [(1.5, "b"), (2.5, "."), (2.5, "Completed")],
    }


async def test_a_streamed_call_holds_its_slot_until_its_end(autojump_clock):
    """A stream is on the wire from its request to its last piece; the provider counts it so."""
    model = ScriptedModel({"ask": Reply(pieces=[(1.0, "a"), (3.0, "b")])})
    async with Engine(models={"fast": model}, capacity=1) as engine, trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(engine.run, one_step(), {"document": "text"})
        await trio.sleep(3.5)
        assert (engine.statistics().in_flight, engine.statistics().ready, len(model.requests)) == (1, 1, 1)
        await trio.sleep(1.0)
        assert (engine.statistics().in_flight, engine.statistics().ready, len(model.requests)) == (1, 0, 2)


# Retries, repairs and fallbacks


async def test_a_retry_after_a_delta_tells_restarted_once_before_the_new_deltas(autojump_clock):
    """Without it the page shows the first half twice."""
    broke_off = Reply(DOWN, pieces=[(1.0, "Half "), (1.0, "an ")])
    whole = Reply(pieces=[(1.0, "All "), (1.0, "of it.")])

    told, result = await followed(one_step(retry=EXACT), ScriptedModel({"ask": in_turn(broke_off, whole)}))

    assert plainly(told) == [
        (1.0, "Half "),
        (2.0, "an "),
        (3.0, "RESTARTED"),
        (4.0, "All "),
        (5.0, "of it."),
        (5.0, "Completed"),
    ]
    assert told[2][1] == Restarted("ask", None)
    assert result["ask"] == "All of it."
    assert [record.first_token_at for record in attempts(result)] == [1.0, 4.0]


async def test_a_retry_before_any_delta_is_silent(autojump_clock):
    """There is nothing to forget."""
    whole = Reply(pieces=[(1.0, "fine")])

    told, result = await followed(one_step(retry=EXACT), ScriptedModel({"ask": in_turn(DOWN, DOWN, whole)}))

    assert plainly(told) == [(4.0, "fine"), (4.0, "Completed")]
    assert [record.first_token_at for record in attempts(result)] == [None, None, 4.0]


async def test_thinking_is_no_delta_so_the_retry_after_it_is_silent(autojump_clock):
    """The reader has seen nothing that it would have to forget."""
    thought = Reply(DOWN, pieces=[(1.0, ""), (1.0, "")])

    told, _ = await followed(
        one_step(retry=EXACT), ScriptedModel({"ask": in_turn(thought, Reply(pieces=[(1.0, "fine")]))})
    )

    assert plainly(told) == [(4.0, "fine"), (4.0, "Completed")]


async def test_two_failures_after_one_delta_restart_once(autojump_clock):
    """Restarted means: forget what came. A second one would say so of nothing."""
    script = {"ask": in_turn(Reply(DOWN, pieces=[(1.0, "Half ")]), DOWN, Reply(pieces=[(1.0, "All.")]))}

    told, _ = await followed(one_step(retry=EXACT), ScriptedModel(script))

    assert plainly(told) == [(1.0, "Half "), (2.0, "RESTARTED"), (5.0, "All."), (5.0, "Completed")]


async def test_a_repair_restarts_the_reply(autojump_clock):
    """The corrected answer replaces the wrong one; it does not follow it."""
    script = {"ask": in_turn(Reply(pieces=[(1.0, "nonsense")]), Reply(pieces=[(1.0, '{"value":1}')]))}

    told, result = await followed(one_step(Score), ScriptedModel(script))

    assert plainly(told) == [(1.0, "nonsense"), (1.0, "RESTARTED"), (2.0, '{"value":1}'), (2.0, "Completed")]
    assert result["ask"] == Score(value=1)


async def test_another_model_restarts_the_reply(autojump_clock):
    """Its answer has nothing to do with the half that came before."""
    first = ScriptedModel({"ask": Reply(DOWN, pieces=[(1.0, "Half ")])}, name="scripted:first")
    second = ScriptedModel({"ask": Reply(pieces=[(1.0, "All.")])}, name="scripted:second")

    told, result = await followed(one_step(retry=ONCE, fallback=Role("spare")), first, models={"spare": second})

    assert plainly(told) == [(1.0, "Half "), (1.0, "RESTARTED"), (2.0, "All."), (2.0, "Completed")]
    assert result.outcome("ask") == Completed("All.", via="fallback:scripted:second")


async def test_a_reply_that_broke_off_and_a_fallback_value_end_with_the_outcome(autojump_clock):
    """No reply begins again, so the outcome alone tells what holds."""
    model = ScriptedModel({"ask": Reply(DOWN, pieces=[(1.0, "Half ")])})

    told, _ = await followed(one_step(retry=ONCE, fallback="nothing"), model)

    assert plainly(told) == [(1.0, "Half "), (1.0, "Completed")]
    assert told[-1][1].outcome == Completed("nothing", via="fallback:value")


# Timeouts


def timeout_faults(result):
    return [(record.at, record.fault.message.partition(".")[0]) for record in attempts(result) if record.fault]


async def test_the_first_token_timeout_fires_at_its_instant_and_names_itself(autojump_clock):
    """A provider that is stuck is told from one that is slow long before the attempt's timeout."""
    pipeline = one_step(timeout=Timeout(first_token=3, attempt=60), retry=ONCE)

    told, result = await followed(pipeline, ScriptedModel({"ask": Reply(pieces=[(10.0, "late")])}))

    assert plainly(told) == [(3.0, "Failed")]
    error = result.outcome("ask").error
    assert isinstance(error, StepTimeoutError)
    assert (error.which, error.timeout, error.is_transient) == ("first_token", 3, True)
    assert str(error) == (
        "step 'ask' ran into its first_token timeout of 3 s. Raise Timeout(first_token=…) or use a faster model."
    )


async def test_a_first_token_timeout_is_tried_again(autojump_clock):
    """The next request mostly lands on a healthy machine."""
    pipeline = one_step(timeout=Timeout(first_token=3), retry=EXACT)
    script = {"ask": in_turn(Reply(pieces=[(10.0, "late")]), Reply(pieces=[(2.0, "in "), (9.0, "time")]))}

    told, result = await followed(pipeline, ScriptedModel(script))

    assert plainly(told) == [(6.0, "in "), (15.0, "time"), (15.0, "Completed")]
    assert timeout_faults(result) == [(3.0, "step 'ask' ran into its first_token timeout of 3 s")]


async def test_thinking_counts_as_the_first_token(autojump_clock):
    """A model that thinks is alive; only silence is a reason to give it up."""
    pipeline = one_step(timeout=Timeout(first_token=3), retry=ONCE)
    script = {"ask": Reply(pieces=[(2.0, ""), (9.0, "thought")])}

    told, _ = await followed(pipeline, ScriptedModel(script))

    assert plainly(told) == [(11.0, "thought"), (11.0, "Completed")]


async def test_a_model_that_cannot_stream_has_no_first_token_timeout(autojump_clock):
    """Its first token comes with its last one: the attempt's timeout is for it."""
    pipeline = one_step(timeout=Timeout(first_token=1, idle=1, attempt=60), retry=ONCE)

    told, _ = await followed(pipeline, Whole(seconds=20.0))

    assert plainly(told) == [(20.0, "all at once"), (20.0, "Completed")]


async def test_the_idle_timeout_counts_from_the_last_piece(autojump_clock):
    """Long answers are fine; a silence within them is not."""
    pipeline = one_step(timeout=Timeout(idle=2, attempt=60), retry=ONCE)
    script = {"ask": Reply(pieces=[(5.0, "a"), (1.5, "b"), (1.5, "c"), (9.0, "late")])}

    told, result = await followed(pipeline, ScriptedModel(script))

    assert plainly(told) == [(5.0, "a"), (6.5, "b"), (8.0, "c"), (10.0, "Failed")]
    error = result.outcome("ask").error
    assert (error.which, error.timeout, error.is_transient) == ("idle", 2, True)


async def test_a_model_that_thinks_is_not_idle(autojump_clock):
    """Reasoning models say nothing for minutes, but their connection shows that they are at work."""
    pipeline = one_step(timeout=Timeout(idle=2, attempt=60), retry=ONCE)
    script = {"ask": Reply(pieces=[(1.0, "a"), *[(1.5, "")] * 10, (1.5, "b")])}

    told, _ = await followed(pipeline, ScriptedModel(script))

    assert plainly(told) == [(1.0, "a"), (17.5, "b"), (17.5, "Completed")]


async def test_the_attempt_timeout_bounds_a_stream_that_never_ends(autojump_clock):
    """A model in a loop always has one more piece, so idle never fires."""
    model = Streaming()
    pipeline = one_step(timeout=Timeout(idle=5, attempt=7.5, step=100), retry=ONCE)

    _, result = await followed(pipeline, model)

    error = result.outcome("ask").error
    assert (error.which, error.timeout, result.trace.makespan) == ("attempt", 7.5, 7.5)
    assert model.cancelled_at == [7.5]


async def test_the_step_timeout_bounds_all_streams_of_a_step_together(autojump_clock):
    """Each retry would begin another endless answer."""
    model = Streaming()
    pipeline = one_step(timeout=Timeout(idle=5, attempt=4.5, step=10), retry=EXACT)

    told, result = await followed(pipeline, model)

    error = result.outcome("ask").error
    assert (error.which, error.timeout, result.trace.makespan) == ("step", 10, 10.0)
    assert model.started_at == [0.0, 5.5]
    assert model.cancelled_at == [4.5, 10.0]
    assert [at for at, what in plainly(told) if what == "RESTARTED"] == [5.5]


@pytest.mark.parametrize(
    ("timeout", "which", "at"),
    [
        (Timeout(first_token=2, idle=3, attempt=50, step=60), "idle", 4.0),
        (Timeout(first_token=0.5, idle=3, attempt=50, step=60), "first_token", 0.5),
        (Timeout(first_token=0.5, idle=0.25, attempt=0.25, step=60), "attempt", 0.25),
        (Timeout(first_token=2, idle=9, attempt=3, step=60), "attempt", 3.0),
        (Timeout(first_token=2, idle=9, attempt=4, step=3), "step", 3.0),
        (Timeout(first_token=2, idle=9, attempt=3, step=3), "step", 3.0),
        (Timeout(first_token=2, idle=2, attempt=3, step=9), "attempt", 3.0),
        (Timeout(idle=1.5, attempt=None), "idle", 2.5),
        (Timeout(first_token=0.5, attempt=None), "first_token", 0.5),
        (Timeout(step=5.5, attempt=None), "step", 5.5),
    ],
)
async def test_the_tightest_timeout_wins_and_the_error_names_it(autojump_clock, timeout, which, at):
    """Whoever reads the error must know which number to raise."""
    # A piece after one second, and the next one after twenty.
    model = ScriptedModel({"ask": Reply(pieces=[(1.0, "a"), (20.0, "b")])})

    _, result = await followed(one_step(timeout=timeout, retry=ONCE), model)

    error = result.outcome("ask").error
    assert (error.which, result.trace.makespan) == (which, at)
    assert error.timeout == timeout.seconds(which)


async def test_a_stream_that_ends_within_all_its_timeouts_leaves_none_behind(autojump_clock):
    """A deadline of the last piece must not fire into the next step of the same task."""
    pipeline = Pipeline("line", inputs={"document": str}, policy=Policy(timeout=Timeout(attempt=10)))

    @pipeline.llm("fast", str, stream=True, timeout=Timeout(idle=1.5), retry=ONCE)
    def ask(document: str) -> str:
        return document

    @pipeline.llm("fast", str, retry=ONCE)
    def after(ask: str) -> str:
        return ask

    model = ScriptedModel({"ask": Reply(pieces=[(1.0, "a"), (1.0, "b")]), "after": Reply("fine", latency=9.0)})

    _, result = await followed(pipeline, model)

    assert result["after"] == "fine"
    assert result.trace.makespan == 11.0


def bound_with(pipeline: Pipeline | Plan, opened, timeout) -> BoundPlan:
    model = Model("fake:model", timeout=timeout)
    return BoundPlan.bind(compile_pipeline(pipeline), {"fast": model}, OpenedWithTimeouts(opened))


async def run_bound(pipeline, opened, timeout):
    async with Engine(seed=0) as engine:
        return await engine.run_bound(bound_with(pipeline, opened, timeout), {"document": "text"})


@pytest.mark.parametrize(
    ("of_step", "of_model", "which", "at"),
    [
        # The engine's default of 300 s gives way to the model's own, which gives way to the step's.
        (None, Timeout(attempt=7.5), "attempt", 7.5),
        (Timeout(attempt=4.5), Timeout(attempt=7.5), "attempt", 4.5),
        (Timeout(attempt=12.5), Timeout(attempt=7.5), "attempt", 12.5),
        (Timeout(step=4.5), Timeout(attempt=7.5), "step", 4.5),
        (None, Timeout(first_token=0.5), "first_token", 0.5),
        (Timeout(idle=0.25), Timeout(first_token=5, attempt=9), "idle", 1.25),
        (None, Timeout(idle=0.5, first_token=5), "idle", 1.5),
        (Timeout(attempt=None), Timeout(attempt=7.5, first_token=0.5), "first_token", 0.5),
        (Timeout(attempt=None), Timeout(idle=0.5), "idle", 1.5),
    ],
)
async def test_a_models_timeouts_stand_between_the_steps_and_the_engines(autojump_clock, of_step, of_model, which, at):
    """A slow local server needs other timeouts than a fast one, but the step's author has the last word."""
    options = {} if of_step is None else {"timeout": of_step}

    result = await run_bound(one_step(retry=ONCE, **options), Streaming(*["x"] * 40), of_model)

    error = result.outcome("ask").error
    assert (error.which, result.trace.makespan) == (which, at)
    said = (of_step or Timeout()).over(of_model)
    assert error.timeout == said.seconds(which)


async def test_a_pipelines_timeouts_stand_above_the_models_too(autojump_clock):
    """What a pipeline says it has said for all its models."""
    pipeline = one_step(retry=ONCE, policy=Policy(timeout=Timeout(attempt=3.5)))
    result = await run_bound(pipeline, Streaming(), Timeout(attempt=7.5))
    assert (result.outcome("ask").error.which, result.trace.makespan) == ("attempt", 3.5)


async def test_timeouts_that_a_pipeline_switched_off_stay_off_for_its_models(autojump_clock):
    """`None` means: nothing bounds it."""
    pipeline = one_step(policy=Policy(timeout=None), retry=ONCE)
    model = Streaming(*["x"] * 40)
    result = await run_bound(pipeline, model, Timeout(attempt=7.5, first_token=0.5))
    assert result["ask"] == "x" * 40


# Slow readers


async def test_the_seconds_of_a_slow_reader_are_recorded_as_blocked(autojump_clock):
    """Who looks for the slow provider must see that it was the reader."""
    pieces = [(0.0, "x")] * 70

    told, result = await followed(one_step(), ScriptedModel({"ask": Reply(pieces=pieces)}), pause=1.0)

    # One is taken at once, 64 wait; the others have to wait for a reader that takes one each second.
    assert len(told) == 71
    [attempt] = attempts(result)
    assert (attempt.at, attempt.blocked) == (5.0, 5.0)
    assert attempt.first_token_at == 0.0


async def test_a_quick_reader_never_blocks(autojump_clock):
    """The buffer is for bursts."""
    _, result = await followed(one_step(), ScriptedModel({"ask": Reply(pieces=[(0.0, "x")] * 64)}))
    assert attempts(result)[0].blocked == 0.0


async def test_at_most_sixty_four_events_wait_for_a_reader(autojump_clock):
    """A reader that hangs must not fill the memory with somebody's novel."""
    model = Streaming(pause=0.0)
    async with (
        Engine(models={"fast": model}) as engine,
        engine.stream(one_step(timeout=None), {"document": "text"}) as events,
    ):
        await trio.sleep(10.0)
        assert model.given == 64
        for number in range(1, 100):
            await anext(events)
            await trio.sleep(1.0)
            assert model.given == 64 + number


async def test_a_slow_reader_trips_neither_the_idle_nor_the_attempt_timeout(autojump_clock):
    """A call must not be paid for twice because somebody's browser was busy."""
    pipeline = one_step(timeout=Timeout(idle=0.5, attempt=3), retry=ONCE)

    _, result = await followed(pipeline, ScriptedModel({"ask": Reply(pieces=[(0.0, "x")] * 100)}), pause=1.0)

    assert result["ask"] == "x" * 100
    assert attempts(result)[0].blocked == 35.0


async def test_after_a_slow_reader_the_attempt_has_the_time_that_it_had_left(autojump_clock):
    """Its clock stood still meanwhile: it did not begin anew."""
    pipeline = one_step(timeout=Timeout(attempt=5), retry=ONCE)
    # After 65 pieces at 2 s the reader sleeps until 12 s; 3 s of the attempt's time are left then.
    model = ScriptedModel({"ask": Reply(pieces=[(2.0, "x"), *[(0.0, "x")] * 64, (9.0, "late")])})
    async with (
        Engine(models={"fast": model}) as engine,
        engine.stream(pipeline, {"document": "text"}) as events,
    ):
        await trio.sleep(12.0)
        async for _ in events:
            pass
    error = events.result.outcome("ask").error
    assert (error.which, events.result.trace.makespan) == ("attempt", 15.0)
    assert attempts(events.result)[0].blocked == 10.0


async def test_the_idle_timeout_begins_when_the_reader_has_taken_the_piece(autojump_clock):
    """The provider was not read from before."""
    pipeline = one_step(timeout=Timeout(idle=2), retry=ONCE)
    model = ScriptedModel({"ask": Reply(pieces=[(1.0, "x"), *[(0.0, "x")] * 64, (9.0, "late")])})
    async with (
        Engine(models={"fast": model}) as engine,
        engine.stream(pipeline, {"document": "text"}) as events,
    ):
        await trio.sleep(12.0)
        async for _ in events:
            pass
    assert (events.result.outcome("ask").error.which, events.result.trace.makespan) == ("idle", 14.0)


async def test_the_step_timeout_counts_while_the_reader_is_slow(autojump_clock):
    """It bounds all of a step, whoever is slow; the record says that it was the reader."""
    pipeline = one_step(timeout=Timeout(attempt=2, step=6), retry=ONCE)
    model = ScriptedModel({"ask": Reply(pieces=[(1.0, "x"), *[(0.0, "x")] * 99])})
    async with (
        Engine(models={"fast": model}) as engine,
        engine.stream(pipeline, {"document": "text"}) as events,
    ):
        await trio.sleep(20.0)
        async for _ in events:
            pass
    error = events.result.outcome("ask").error
    assert (error.which, error.timeout, events.result.trace.makespan) == ("step", 6, 6.0)
    assert attempts(events.result)[0].blocked == 5.0


async def test_a_runs_timeout_counts_while_the_reader_is_slow(autojump_clock):
    """The caller's patience includes the caller."""
    model = Streaming(pause=0.0)
    async with (
        Engine(models={"fast": model}) as engine,
        engine.stream(one_step(), {"document": "text"}, timeout=4.0) as events,
    ):
        await trio.sleep(20.0)
        told = [event async for event in events]
    assert told[-1] == StepFinished(4.0, "ask", None, Stopped("the run's timeout of 4 s"))
    assert model.cancelled_at == [4.0]
    assert events.result.status == "stopped"


async def test_several_replies_that_wait_for_one_slow_reader_all_go_on(autojump_clock):
    """A mapped step streams many at once; none of them may be forgotten."""
    pipeline = Pipeline("items", inputs={"documents": list[str]})

    @pipeline.llm("fast", str, stream=True, each="documents", timeout=None)
    def ask(document: str) -> str:
        return document

    model = ScriptedModel({"ask": Reply(pieces=[(0.0, "x")] * 40)})
    async with Engine(models={"fast": model}) as engine:
        with trio.fail_after(1000.0):
            async with engine.stream(pipeline, {"documents": ["a"] * 5}) as events:
                await trio.sleep(1.0)
                deltas = [event.item async for event in events if isinstance(event, Delta)]
        assert engine.statistics().in_flight == 0
    assert [deltas.count(item) for item in range(5)] == [40] * 5
    assert events.result["ask"] == ["x" * 40] * 5


async def test_outcomes_do_not_wait_for_a_slow_reader(autojump_clock):
    """Steps that nobody looks at must not be late because of one that somebody looks at."""
    pipeline = Pipeline("two", inputs={"document": str})

    @pipeline.llm("fast", str, stream=True)
    def shown(document: str) -> str:
        return document

    @pipeline.step
    async def first(document: str) -> str:
        await trio.sleep(1.0)
        return document

    @pipeline.step
    async def second(first: str) -> str:
        await trio.sleep(1.0)
        return first

    model = ScriptedModel({"shown": Reply(pieces=[(0.0, "x")] * 99)})
    async with (
        Engine(models={"fast": model}) as engine,
        engine.stream(pipeline, {"document": "text"}) as events,
    ):
        await trio.sleep(50.0)
        async for _ in events:
            pass
    assert events.result.trace["second"].ended_at == 2.0
    assert attempts(events.result)[-1].blocked == 50.0


# Leaving early, errors and cancellation


async def test_leaving_the_block_early_cancels_the_call_and_gives_every_slot_back(autojump_clock):
    """A visitor who closes the page must stop the bill."""
    model = Streaming()
    async with Engine(models={"fast": model}, capacity=1) as engine:
        async with engine.stream(one_step(), {"document": "text"}) as events:
            async for _ in events:
                break
        assert model.cancelled_at == [1.0]
        statistics = engine.statistics()
        assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
        with pytest.raises(RuntimeError, match="no result"):
            _ = events.result
        async with engine.stream(one_step(), {"document": "text"}):
            pass
        assert engine.statistics().in_flight == 0


async def test_leaving_while_the_reply_waits_for_room_cancels_it_too(autojump_clock):
    """It is in the midst of handing on a piece then."""
    model = Streaming(pause=0.0)
    async with Engine(models={"fast": model}) as engine:
        async with engine.stream(one_step(), {"document": "text"}):
            await trio.sleep(3.0)
        assert (model.given, model.cancelled_at, engine.statistics().in_flight) == (64, [3.0], 0)


async def test_an_exception_in_the_block_propagates_as_itself(autojump_clock):
    """A bare ExceptionGroup never reaches the user."""
    model = Streaming()
    mine = KeyError("mine")
    async with Engine(models={"fast": model}) as engine:
        with pytest.raises(KeyError) as caught:  # noqa: PT012 - what the block raises is the point
            async with engine.stream(one_step(), {"document": "text"}) as events:
                async for _ in events:
                    raise mine
        assert caught.value is mine
        assert model.cancelled_at == [1.0]
        assert engine.statistics().in_flight == 0


async def test_an_exception_in_the_block_keeps_its_cause(autojump_clock):
    """The cause is where the user looks first."""
    async with Engine(models={"fast": Streaming()}) as engine:
        with pytest.raises(KeyError) as caught:
            async with engine.stream(one_step(), {"document": "text"}):
                raise KeyError("mine") from ZeroDivisionError("the cause")
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


async def test_an_exception_in_the_block_keeps_its_context(autojump_clock):
    """What was being handled when it was raised is half of the story."""

    async def body(engine):
        async with engine.stream(one_step(), {"document": "text"}):
            try:
                raise ZeroDivisionError("first")
            except ZeroDivisionError:
                raise KeyError("second")  # noqa: B904 - the context is the point

    async with Engine(models={"fast": Streaming()}) as engine:
        with pytest.raises(KeyError) as caught:
            await body(engine)
    assert isinstance(caught.value.__context__, ZeroDivisionError)
    assert not caught.value.__suppress_context__


async def test_a_group_of_the_users_own_propagates_as_itself_too(autojump_clock):
    """Who raises a group has an `except*` for it, or an `except ExceptionGroup`."""
    mine = ExceptionGroup("mine", [ValueError("one")])
    async with Engine(models={"fast": Streaming()}) as engine:
        with pytest.raises(ExceptionGroup) as caught:
            async with engine.stream(one_step(), {"document": "text"}):
                raise mine
        assert caught.value is mine


async def test_what_the_block_raises_while_it_is_cancelled_is_not_lost(autojump_clock):
    """A clean-up that fails, or a timeout that is turned into an error of one's own, must come out."""

    class TookTooLongError(Exception):
        """The user's own."""

    async def body(engine):
        with trio.move_on_after(2.5):
            async with engine.stream(one_step(), {"document": "text"}) as events:
                try:
                    async for _ in events:
                        pass
                except trio.Cancelled:
                    raise TookTooLongError from None

    async with Engine(models={"fast": Streaming()}) as engine:
        with pytest.raises(TookTooLongError):
            await body(engine)
        assert engine.statistics().in_flight == 0


async def test_a_cancelled_group_in_the_block_goes_through_as_a_cancellation(autojump_clock):
    """A nursery of the user's own within the block wraps even cancellations."""
    async with Engine(models={"fast": Streaming()}) as engine:
        with trio.move_on_after(2.5) as scope:
            async with engine.stream(one_step(), {"document": "text"}), trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
        assert scope.cancelled_caught
        assert engine.statistics().in_flight == 0


async def test_a_cancellation_from_outside_goes_through(autojump_clock):
    """A stream inside somebody's timeout ends with it."""
    model = Streaming()
    async with Engine(models={"fast": model}) as engine:
        with trio.move_on_after(2.5) as scope:
            async with engine.stream(one_step(), {"document": "text"}) as events:
                async for _ in events:
                    pass
        assert scope.cancelled_caught
        assert model.cancelled_at == [2.5]
        assert engine.statistics().in_flight == 0


async def test_what_cannot_run_is_told_before_the_block(autojump_clock):
    """Nothing has been sent then, and nothing has to be undone."""
    engine = Engine(models={"fast": Streaming()})
    with pytest.raises(EngineClosedError):
        async with engine.stream(one_step(), {"document": "text"}):
            raise AssertionError("not open")
    async with engine:
        with pytest.raises(InputError):
            async with engine.stream(one_step(), {"dokument": "text"}):
                raise AssertionError("no input")
        with pytest.raises(PlanError):
            async with engine.stream(one_step(), {"document": "text"}, models={}):
                raise AssertionError("no model")
        with pytest.raises(ValueError, match=r"^timeout=0: a timeout is positive"):
            async with engine.stream(one_step(), {"document": "text"}, timeout=0):
                raise AssertionError("no time")


async def test_a_stream_inside_a_step_gives_that_steps_slot_back_meanwhile(autojump_clock):
    """With one slot a step that follows a run of its own would wait for ever."""
    inner = one_step()
    outer = Pipeline("outer", inputs={"document": str})
    engine = Engine(models={}, capacity=1)

    @outer.step
    async def nested(document: str) -> str:
        model = ScriptedModel({"ask": Reply(pieces=[(1.0, "a"), (1.0, "b")])})
        async with engine.stream(inner, {"document": document}, models={"fast": model}) as events:
            return "".join([event.text async for event in events if isinstance(event, Delta)])

    async with engine:
        result = await engine.run(outer, {"document": "x"})
        assert result["nested"] == "ab"
        assert (result.trace.makespan, engine.statistics().in_flight) == (2.0, 0)


class _CancelAt(trio.abc.Instrument):
    """Cancel a scope before the n-th step of any task."""

    def __init__(self, count, scope):
        self.count, self.scope = count, scope

    def before_task_step(self, task):
        self.count -= 1
        if self.count == 0:
            self.scope.cancel()


@given(st.integers(1, 120), st.sampled_from([0.0, 0.25, 1.0]), st.integers(1, 3), st.booleans())
def test_cancelled_before_any_task_step_a_stream_leaks_nothing(checkpoint, pause, capacity, is_buried):
    """Visitors leave at every moment: between two pieces, while one waits for room, in a back-off."""
    pipeline = Pipeline("three", inputs={"document": str})

    @pipeline.llm("fast", str, stream=True, retry=EXACT, timeout=Timeout(first_token=3, idle=2, attempt=9, step=40))
    def one(document: str) -> str:
        return document

    @pipeline.llm("fast", Score, stream=True)
    def two(document: str) -> str:
        return document

    @pipeline.llm("fast", str, stream=True)
    def three(one: str, two: Score) -> str:
        return one

    flood = 90 if is_buried else 2
    script = {
        "one": in_turn(Reply(DOWN, pieces=[(1.0, "half")]), Reply(pieces=[(0.5, "x")] * flood)),
        "two": in_turn(Reply(pieces=[(0.0, "bad")] * flood), Reply(pieces=[(1.0, '{"value":1}')])),
        "three": Reply(pieces=[(0.0, "x")] * flood),
    }
    seen = {}

    class Keep:
        def open_run(self, started):
            seen["records"] = [started]
            return seen["records"].append

    async def main():
        async with Engine(models={"fast": ScriptedModel(script)}, capacity=capacity, sinks=[Keep()], seed=1) as engine:
            with trio.fail_after(1e6), trio.CancelScope() as scope:
                trio.lowlevel.add_instrument(_CancelAt(checkpoint, scope))
                async with engine.stream(pipeline, {"document": "text"}) as events:
                    async for _ in events:
                        await trio.sleep(pause)
            seen["statistics"] = engine.statistics()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    statistics = seen["statistics"]
    assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
    records = seen.get("records", [])
    starts = sum(isinstance(record, AttemptStarted) for record in records)
    assert starts == sum(isinstance(record, AttemptFinished) for record in records)


# Problems


@pytest.mark.parametrize("which", ["first_token", "idle"])
def test_a_timeout_between_pieces_needs_a_stream(which):
    """PE120: it would never fire, and somebody relies on it."""
    with pytest.raises(PlanError) as caught:
        compile_pipeline(one_step(stream=False, timeout=Timeout(**{which: 5})))
    [problem] = caught.value.problems
    assert (problem.code, problem.step) == ("PE120", "ask")
    assert problem.message == (
        f"step 'ask' has Timeout({which}=…), but its reply comes whole. Give it stream=True, or use Timeout(attempt=…)."
    )


def test_a_pipelines_timeout_between_pieces_is_for_the_steps_that_stream():
    """One policy for all steps may not force all of them to stream."""
    policy = Policy(timeout=Timeout(first_token=5, idle=5))
    plan = compile_pipeline(one_step(stream=False, policy=policy))
    assert plan.steps[0].timeout.seconds("first_token") == 5


def test_a_timeout_that_is_switched_off_is_no_problem():
    """It is how one step of many says that the pipeline's is not for it."""
    assert compile_pipeline(one_step(stream=False, timeout=Timeout(first_token=None, idle=None))).steps


@pytest.mark.parametrize("kind", ["function", "embed"])
def test_steps_that_never_stream_are_not_told_to_stream(kind):
    """Advice that cannot be followed is worse than none."""
    pipeline = Pipeline("never", inputs={"texts": list[str]})
    if kind == "embed":
        pipeline.embed("fast", name="work", timeout=Timeout(idle=5))(lambda texts: texts)
    else:
        pipeline.step(name="work", timeout=Timeout(idle=5))(lambda texts: texts)
    with pytest.raises(PlanError) as caught:
        compile_pipeline(pipeline)
    [problem] = caught.value.problems
    assert problem.code == "PE120"
    assert "stream=True" not in problem.message


async def test_run_pipeline_streams_too_which_gives_its_timeouts_their_meaning(autojump_clock):
    """`stream=True` is worth it without a reader: a silent provider is given up early."""
    model = ScriptedModel({"ask": Reply(pieces=[(10.0, "late")])})
    result = await run_pipeline_async(
        one_step(timeout=Timeout(first_token=2), retry=ONCE), {"document": "text"}, models={"fast": model}
    )
    assert result.outcome("ask") == Failed(result.outcome("ask").error)
    assert (result.outcome("ask").error.which, result.trace.makespan) == ("first_token", 2.0)
