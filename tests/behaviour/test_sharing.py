"""Calls that wait for other calls: equal ones are sent once, and one warms the provider's cache for its like."""

import re

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from pipeline_engine import (
    Cache,
    Completed,
    Completion,
    Cost,
    Delta,
    Document,
    Engine,
    Failed,
    Pipeline,
    Policy,
    Price,
    RejectedError,
    Restarted,
    Retry,
    Role,
    StepTimeoutError,
    Stopped,
    Timeout,
    Trace,
    UnavailableError,
    Usage,
    fenced,
    run_batch_async,
)
from pipeline_engine.testing import Reply, ScriptedModel, in_turn
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    RepairAsked,
    RunFinished,
    RunStarted,
    StepFinished,
    StepReady,
    WaitEnded,
    WaitStarted,
)

DOWN = UnavailableError("broke down.", model="scripted:model", kind="server", status=500)
NO = RejectedError("said no.", model="scripted:model", kind="invalid", status=400)
EXACT = Retry(attempts=4, jitter="none")
ONCE = Retry(attempts=1, jitter="none")
MANY = settings(suppress_health_check=[HealthCheck.too_slow])


class Echo(BaseModel):
    text: str


class Keep:
    """A sink that keeps the records of every run, by its document."""

    def __init__(self):
        self.runs = {}

    def open_run(self, started):
        records = self.runs[started.document] = [started]
        return records.append


LETTERS = {
    StepReady: "R",
    WaitStarted: "w",
    WaitEnded: "W",
    AttemptStarted: "a",
    AttemptFinished: "A",
    RepairAsked: "r",
    StepFinished: "F",
}


def check_records(records):
    """Hold one run's records against their grammar, and its spans against their tiling."""
    lines = {}
    for record in records:
        if type(record) in LETTERS:
            key = (record.step, record.item)
            lines[key] = lines.get(key, "") + LETTERS[type(record)]
    for key, line in lines.items():
        assert re.fullmatch(r"F|R(wW|aAr?)*w?F", line), f"{key} has {line}"
    assert isinstance(records[0], RunStarted)
    assert isinstance(records[-1], RunFinished)
    assert [record.at for record in records] == sorted(record.at for record in records)
    for span in Trace.from_records(records).spans:
        if span.is_mapped or span.ready_at is None:
            continue
        at = span.ready_at
        for segment in span.segments:
            assert segment.start == at
            at = segment.end
        assert at == span.ended_at


SHARED = Cache()


def one_step(output=str, *, cache=SHARED, **options):
    pipeline = Pipeline("one", inputs={"document": str})

    @pipeline.llm("fast", output, cache=cache, **options)
    def ask(document: str) -> str:
        return document

    return pipeline


class Documents:
    """Run documents on one engine, each from its own instant on, and keep what comes of each."""

    def __init__(self, model, *, capacity=8, **models):
        self.keep = Keep()
        self.engine = Engine(models={"fast": model, **models}, capacity=capacity, sinks=[self.keep], seed=0)
        self.results = {}

    async def __aenter__(self):
        await self.engine.__aenter__()
        self._manager = trio.open_nursery()
        self._nursery = await self._manager.__aenter__()
        return self

    async def __aexit__(self, *error):
        await self._manager.__aexit__(*error)
        statistics = self.engine.statistics()
        flights = self.engine.scheduler.flights
        await self.engine.__aexit__(*error)
        if error[0] is None:
            assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
            assert not flights._flights
            for records in self.keep.runs.values():
                check_records(records)

    def run(self, name, pipeline, *, at=0.0, cancel_at=None, inputs=None, **options):
        self._nursery.start_soon(self._run, name, pipeline, at, cancel_at, inputs or {"document": "text"}, options)

    async def _run(self, name, pipeline, at, cancel_at, inputs, options):
        await trio.sleep_until(at)
        ending = trio.CancelScope(deadline=cancel_at if cancel_at is not None else float("inf"))
        with trio.fail_after(1e6), ending:  # a run that would never end is ended by the virtual clock
            self.results[name] = await self.engine.run(pipeline, inputs, key=name, **options)

    def ended_at(self, name, step="ask"):
        [record] = [r for r in self.keep.runs[name] if isinstance(r, StepFinished) and (r.step, r.item) == (step, None)]
        return record.at

    def outcome(self, name, step="ask"):
        [record] = [r for r in self.keep.runs[name] if isinstance(r, StepFinished) and (r.step, r.item) == (step, None)]
        return record.outcome


def starts(records, step=None):
    """Return when attempts started, and whether they took the reply of an equal call."""
    return [
        (record.at, record.is_shared)
        for record in records
        if isinstance(record, AttemptStarted) and step in (None, record.step)
    ]


def segments(records, step="ask"):
    trace = Trace.from_records(records)
    return [(segment.kind, segment.start, segment.end) for segment in trace[step].segments]


# Equal calls in flight


async def test_equal_calls_of_two_documents_are_sent_once(autojump_clock):
    """A batch of forwarded mails asks the same thing many times, and pays for each."""
    model = ScriptedModel({"ask": "fine"}, latency=4.0)
    async with Documents(model) as documents:
        documents.run("a", one_step())
        documents.run("b", one_step(), at=1.0)
        await trio.sleep(2.0)
        assert (documents.engine.statistics().in_flight, documents.engine.statistics().ready) == (1, 0)

    assert len(model.requests) == 1
    assert [documents.results[name]["ask"] for name in "ab"] == ["fine", "fine"]
    assert [documents.ended_at(name) for name in "ab"] == [4.0, 4.0]
    assert starts(documents.keep.runs["a"]) == [(0.0, False)]
    assert starts(documents.keep.runs["b"]) == [(4.0, True)]
    assert segments(documents.keep.runs["b"]) == [("shared", 1.0, 4.0)]


async def test_a_follower_takes_no_slot(autojump_clock):
    """Who only waits must not keep others from working."""
    model = ScriptedModel({"ask": Reply("fine", latency=4.0), "other": Reply("done", latency=1.0)})
    other = Pipeline("other", inputs={"document": str})
    other.llm("fast", str, name="other")(lambda document: document)
    async with Documents(model, capacity=2) as documents:
        documents.run("a", one_step())
        documents.run("b", one_step(), at=0.5)
        documents.run("c", other, at=1.0)

    assert documents.ended_at("c", "other") == 2.0


async def test_without_a_cache_nothing_is_shared(autojump_clock):
    """Two people who ask for a poem want two poems, unless they say otherwise."""
    model = ScriptedModel({"ask": "fine"}, latency=4.0)
    async with Documents(model) as documents:
        documents.run("a", one_step(cache=None))
        documents.run("b", one_step(cache=None), at=1.0)
        documents.run("c", one_step(), at=2.0)

    assert len(model.requests) == 3
    assert [documents.ended_at(name) for name in "abc"] == [4.0, 5.0, 6.0]


async def test_a_call_that_has_ended_is_not_shared(autojump_clock):
    """Single-flight is about calls in flight; to keep replies is another promise."""
    model = ScriptedModel({"ask": "fine"}, latency=4.0)
    async with Documents(model) as documents:
        documents.run("a", one_step())
        documents.run("b", one_step(), at=5.0)

    assert len(model.requests) == 2


@pytest.mark.parametrize("what", ["namespace", "model", "schema", "message", "system"])
async def test_calls_that_differ_in_anything_sent_are_not_shared(autojump_clock, what):
    """A tenant must never see what was made for another one, nor a step an answer to another question."""
    model = ScriptedModel({"*": Reply({"text": "fine"})}, latency=4.0)
    second = one_step(Echo)
    options = {}
    if what == "namespace":
        second = one_step(Echo, cache=Cache("tenant-2"))
    elif what == "model":
        options["models"] = {"fast": ScriptedModel({"*": Reply({"text": "fine"})}, latency=4.0)}
    elif what == "schema":
        second = one_step(dict[str, str])
    elif what == "message":
        options["inputs"] = {"document": "another text"}
    else:
        second = Pipeline("one", inputs={"document": str})

        @second.llm("fast", Echo, cache=Cache())
        def ask(document: str) -> str:
            """Be brief."""
            return document

    async with Documents(model) as documents:
        documents.run("a", one_step(Echo))
        documents.run("b", second, at=1.0, **options)

    assert [documents.ended_at(name) for name in "ab"] == [4.0, 5.0]
    assert starts(documents.keep.runs["b"]) == [(1.0, False)]


async def test_equal_calls_of_other_pipelines_and_steps_are_shared(autojump_clock):
    """What counts is what would be sent, not who sends it."""
    other = Pipeline("other", inputs={"document": str})
    other.llm("fast", str, name="question", cache=Cache())(lambda document: document)
    model = ScriptedModel({"*": "fine"}, latency=4.0)
    async with Documents(model) as documents:
        documents.run("a", one_step())
        documents.run("b", other, at=1.0)

    assert len(model.requests) == 1
    assert documents.ended_at("b", "question") == 4.0


async def test_engines_share_nothing(autojump_clock):
    """They have slots and connections of their own."""
    model = ScriptedModel({"ask": "fine"}, latency=4.0)
    async with Documents(model) as one, Documents(model) as two:
        one.run("a", one_step())
        two.run("b", one_step(), at=1.0)

    assert len(model.requests) == 2


def sampling(samples=5):
    pipeline = Pipeline("samples", inputs={"document": str, "places": list[int]})

    @pipeline.llm("fast", str, each="places", cache=Cache())
    def ask(place: int, document: str) -> str:
        return document

    return pipeline, {"document": "text", "places": list(range(samples))}


async def test_five_equal_samples_of_one_document_stay_five(autojump_clock):
    """Self-consistency asks five times because it wants five answers."""
    model = ScriptedModel({"ask": "fine"}, latency=4.0)
    pipeline, inputs = sampling()
    async with Documents(model) as documents:
        documents.run("a", pipeline, inputs=inputs)

    assert len(model.requests) == 5


async def test_five_samples_of_two_equal_documents_are_five_calls_in_all(autojump_clock):
    """Each sample joins its like: the second document has five different answers, too."""
    places = iter(range(10))
    model = ScriptedModel({"ask": lambda request: f"answer {next(places)}"}, latency=4.0)
    pipeline, inputs = sampling()
    async with Documents(model, capacity=20) as documents:
        documents.run("a", pipeline, inputs=inputs)
        documents.run("b", pipeline, inputs=inputs, at=1.0)

    assert len(model.requests) == 5
    assert sorted(documents.results["a"]["ask"]) == sorted(documents.results["b"]["ask"])
    assert len(set(documents.results["b"]["ask"])) == 5


async def test_equal_calls_of_one_document_stay_apart_after_a_fallback_too(autojump_clock):
    """Two steps that ask one model the same thing want two answers, also if one of them came to it late."""
    pipeline = Pipeline("late", inputs={"document": str})

    @pipeline.llm("broken", str, cache=Cache(), fallback=Role("fast"), retry=ONCE)
    def first(document: str) -> str:
        return document

    @pipeline.llm("fast", str, cache=Cache())
    def second(document: str) -> str:
        return document

    model = ScriptedModel({"*": "fine"}, latency=4.0)
    broken = ScriptedModel({"*": Reply(DOWN, latency=1.0)}, name="scripted:broken")
    async with Documents(model, broken=broken) as documents:
        documents.run("a", pipeline)

    assert len(model.requests) == 2
    assert [documents.ended_at("a", step) for step in ("second", "first")] == [4.0, 5.0]


async def test_a_batch_of_equal_documents_makes_one_call(autojump_clock):
    """Keys tell documents apart; the provider is asked for what differs."""
    model = ScriptedModel({"ask": "fine"}, latency=4.0)
    documents = [Document(f"{number}.txt", {"document": "text"}) for number in range(10)]

    result = await run_batch_async(one_step(), documents, models={"fast": model}, capacity=4)

    assert len(model.requests) == 1
    assert result.counts["completed"] == 10


# What the followers make of the reply


async def test_each_document_validates_the_shared_reply_for_itself(autojump_clock):
    """What one document's check refuses may be right for another."""
    pipeline = Pipeline("one", inputs={"document": str, "most": int})

    def short_enough(output: str, most: int) -> bool | str:
        return len(output) <= most or f"Use at most {most} letters."

    @pipeline.llm("fast", str, cache=Cache(), check=short_enough)
    def ask(document: str) -> str:
        return document

    model = ScriptedModel({"ask": lambda request: "0123456789" if len(request.messages) == 1 else "012"}, latency=4.0)
    async with Documents(model) as documents:
        documents.run("a", pipeline, inputs={"document": "text", "most": 10})
        documents.run("b", pipeline, inputs={"document": "text", "most": 5}, at=1.0)

    assert len(model.requests) == 2
    assert [documents.results[name]["ask"] for name in "ab"] == ["0123456789", "012"]
    assert [documents.ended_at(name) for name in "ab"] == [4.0, 8.0]
    assert starts(documents.keep.runs["b"]) == [(4.0, True), (4.0, False)]
    assert model.requests[1].messages[-1].text.splitlines()[1] == "- Use at most 5 letters."


async def test_equal_repairs_are_equal_calls_and_shared_as_such(autojump_clock):
    """The same wrong reply leads to the same question: asked once, and each document has its answer."""
    bad_once = iter(["nonsense"])
    model = ScriptedModel({"ask": lambda request: next(bad_once, {"text": "fine"})}, latency=4.0)
    async with Documents(model) as documents:
        documents.run("a", one_step(Echo))
        documents.run("b", one_step(Echo), at=1.0)

    assert len(model.requests) == 2
    assert [documents.results[name]["ask"] for name in "ab"] == [Echo(text="fine")] * 2
    assert [documents.ended_at(name) for name in "ab"] == [8.0, 8.0]


async def test_a_follower_goes_on_with_its_next_steps_at_that_instant(autojump_clock):
    """It has its output as soon as the leader has."""
    pipeline = Pipeline("line", inputs={"document": str})

    @pipeline.llm("fast", str, cache=Cache())
    def ask(document: str) -> str:
        return document

    @pipeline.step
    async def after(ask: str) -> str:
        await trio.sleep(1.0)
        return ask.upper()

    async with Documents(ScriptedModel({"ask": "fine"}, latency=4.0)) as documents:
        documents.run("a", pipeline)
        documents.run("b", pipeline, at=1.0)

    assert [documents.results[name]["after"] for name in "ab"] == ["FINE", "FINE"]
    assert [documents.ended_at(name, "after") for name in "ab"] == [5.0, 5.0]


async def test_the_steps_after_a_shared_reply_wait_for_slots_like_all_others(autojump_clock):
    """Ten followers that wake at once must not overrun the capacity."""
    pipeline = Pipeline("line", inputs={"document": str})

    @pipeline.llm("fast", str, cache=Cache())
    def ask(document: str) -> str:
        return document

    @pipeline.llm("fast", str)
    def after(ask: str) -> str:
        return ask

    async with Documents(ScriptedModel({"*": "fine"}, latency=4.0), capacity=2) as documents:
        for place in range(4):
            documents.run(f"{place}", pipeline, at=float(place) / 4)

    assert sorted(documents.ended_at(f"{place}", "after") for place in range(4)) == [8.0, 8.0, 12.0, 12.0]


async def test_a_withheld_reply_is_withheld_from_the_followers_too(autojump_clock):
    """It was the answer to their question as well, and asking again would be refused again."""
    model = ScriptedModel({"ask": Reply("No.", finish="refusal")}, latency=4.0)
    async with Documents(model) as documents:
        documents.run("a", one_step())
        documents.run("b", one_step(fallback="none"), at=1.0)

    assert len(model.requests) == 1
    assert documents.outcome("a").error.kind == "refusal"
    assert documents.outcome("b") == Completed("none", via="fallback:value")


async def test_usage_and_cost_are_counted_once(autojump_clock):
    """A bill that counts one call twice is wrong, however right each line looks."""
    usage = Usage(input_tokens=1_000_000, output_tokens=0)
    model = ScriptedModel({"ask": Reply("fine", usage=usage)}, latency=4.0, price=Price(2.0, 0.0))
    async with Documents(model) as documents:
        documents.run("a", one_step())
        documents.run("b", one_step(), at=1.0)

    assert documents.results["a"].usage == usage
    assert documents.results["a"].cost == Cost(usd=2.0)
    assert documents.results["b"].usage == Usage()
    assert documents.results["b"].cost == Cost()
    assert documents.results["b"].calls("ask") == documents.results["a"].calls("ask")


async def test_replays_are_counted_once(autojump_clock):
    """They say how often a connection died; it died once."""

    class Replaying:
        async def complete(self, request):
            await trio.sleep(4.0)
            return Completion("fine", replays=1)

    async with Documents(Replaying()) as documents:
        documents.run("a", one_step())
        documents.run("b", one_step(), at=1.0)

    replays = {
        name: [record.replays for record in records if isinstance(record, AttemptFinished)]
        for name, records in documents.keep.runs.items()
    }
    assert replays == {"a": [1], "b": [0]}


async def test_a_streaming_follower_gets_the_reply_as_one_delta(autojump_clock):
    """Whoever follows it must see it, although another document's call brought it."""
    model = ScriptedModel({"ask": Reply(pieces=[(2.0, "One "), (2.0, "two.")])})
    pipeline = one_step(stream=True)
    async with Documents(model) as documents:
        documents.run("a", pipeline)
        await trio.sleep(1.0)
        async with documents.engine.stream(pipeline, {"document": "text"}, key="b") as events:
            told = [(trio.current_time(), event) async for event in events]

    assert told == [
        (4.0, Delta("ask", None, "One two.")),
        (4.0, StepFinished(4.0, "ask", None, Completed("One two."))),
    ]
    assert len(model.requests) == 1


async def test_a_shared_reply_after_pieces_of_an_own_one_restarts(autojump_clock):
    """The old half must go, whoever brings the whole."""
    turns = iter([Reply(DOWN, pieces=[(1.0, "Half ")]), Reply(pieces=[(5.0, "All.")])])
    model = ScriptedModel({"ask": lambda request: next(turns)})
    pipeline = one_step(stream=True, retry=EXACT)
    async with (
        Documents(model) as documents,
        documents.engine.stream(pipeline, {"document": "text"}, key="a") as events,
    ):
        documents.run("b", pipeline, at=0.5)
        told = [(trio.current_time(), event) async for event in events]

    # The call breaks off at 1; the follower's is sent then, and joined at 2 after the back-off.
    assert told == [
        (1.0, Delta("ask", None, "Half ")),
        (6.0, Restarted("ask", None)),
        (6.0, Delta("ask", None, "All.")),
        (6.0, StepFinished(6.0, "ask", None, Completed("All."))),
    ]
    finished = [record for record in documents.keep.runs["a"] if isinstance(record, AttemptFinished)]
    assert [record.first_token_at for record in finished] == [1.0, None]


async def test_an_empty_shared_reply_gives_no_delta(autojump_clock):
    """As everywhere: a delta says something."""
    model = ScriptedModel({"ask": Reply(pieces=[(4.0, "")])})
    pipeline = one_step(stream=True)
    async with Documents(model) as documents:
        documents.run("a", pipeline)
        await trio.sleep(1.0)
        async with documents.engine.stream(pipeline, {"document": "text"}, key="b") as events:
            told = [event async for event in events]

    assert told == [StepFinished(4.0, "ask", None, Completed(""))]


# When the leader fails


async def test_a_leader_that_fails_lets_the_next_one_go_and_joins_behind_it(autojump_clock):
    """A failure of one call must fail nobody else, nor send two where one will do."""
    turns = iter([Reply(DOWN, latency=4.0), Reply("fine", latency=4.0)])
    model = ScriptedModel({"ask": lambda request: next(turns)})
    pipeline = one_step(retry=EXACT)
    async with Documents(model) as documents:
        documents.run("a", pipeline)
        documents.run("b", pipeline, at=1.0)
        documents.run("c", pipeline, at=2.0)

    assert len(model.requests) == 2
    assert segments(documents.keep.runs["a"]) == [("failed", 0.0, 4.0), ("backoff", 4.0, 5.0), ("shared", 5.0, 8.0)]
    assert segments(documents.keep.runs["b"]) == [("shared", 1.0, 4.0), ("attempt", 4.0, 8.0)]
    assert segments(documents.keep.runs["c"]) == [("shared", 2.0, 8.0)]
    assert starts(documents.keep.runs["a"]) == [(0.0, False), (8.0, True)]
    assert all(documents.results[name]["ask"] == "fine" for name in "abc")


async def test_a_leader_that_fails_for_good_fails_alone(autojump_clock):
    """Each document has its own attempts and its own error."""
    turns = iter([Reply(NO, latency=4.0), Reply("fine", latency=4.0)])
    model = ScriptedModel({"ask": lambda request: next(turns)})
    async with Documents(model) as documents:
        documents.run("a", one_step())
        documents.run("b", one_step(), at=1.0)

    assert documents.outcome("a") == Failed(NO)
    assert documents.outcome("b") == Completed("fine")
    assert documents.ended_at("b") == 8.0


async def test_a_leader_that_times_out_lets_the_next_one_go_at_that_instant(autojump_clock):
    """What hangs for one must not hang for all."""
    turns = iter([Reply("late", latency=99.0), Reply("fine", latency=4.0)])
    model = ScriptedModel({"ask": lambda request: next(turns)})
    async with Documents(model) as documents:
        documents.run("a", one_step(retry=ONCE, timeout=3))
        documents.run("b", one_step(), at=1.0)

    assert documents.outcome("a").error.which == "attempt"
    assert segments(documents.keep.runs["b"]) == [("shared", 1.0, 3.0), ("attempt", 3.0, 7.0)]


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_leader_whose_run_ends_in_flight_lets_the_next_one_go(autojump_clock, how):
    """Somebody else's closed browser must not cost anybody an answer."""
    model = ScriptedModel({"ask": "fine"}, latency=4.0)
    ending = {"cancel_at": 3.0} if how == "cancelled" else {"timeout": 3.0}
    async with Documents(model, capacity=1) as documents:
        documents.run("a", one_step(), **ending)
        documents.run("b", one_step(), at=1.0)
        documents.run("c", one_step(), at=2.0)

    assert isinstance(documents.outcome("a"), Stopped)
    assert [documents.ended_at(name) for name in "abc"] == [3.0, 7.0, 7.0]
    assert len(model.requests) == 2


@pytest.mark.parametrize("how", ["cancelled", "timed out"])
async def test_a_leader_whose_run_ends_in_the_queue_lets_the_next_one_wait_there(autojump_clock, how):
    """It never had a slot; its follower needs one."""
    model = ScriptedModel({"ask": "fine"}, latency=4.0)
    ending = {"cancel_at": 3.0} if how == "cancelled" else {"timeout": 2.5}
    async with Documents(model, capacity=1) as documents:
        documents.run("first", one_step(), inputs={"document": "another"})
        documents.run("a", one_step(), at=0.5, **ending)
        documents.run("b", one_step(), at=1.0)

    assert isinstance(documents.outcome("a"), Stopped)
    assert segments(documents.keep.runs["b"]) == [("shared", 1.0, 3.0), ("slot", 3.0, 4.0), ("attempt", 4.0, 8.0)]


async def test_a_run_that_ends_in_the_back_off_has_left_its_followers_before(autojump_clock):
    """Nobody waits for a call that is only planned for later."""
    turns = iter([Reply(DOWN, latency=1.0), Reply("fine", latency=4.0)])
    model = ScriptedModel({"ask": lambda request: next(turns)})
    pipeline = one_step(retry=Retry(attempts=4, base_delay=10.0, jitter="none"))
    async with Documents(model) as documents:
        documents.run("a", pipeline, cancel_at=3.0)
        documents.run("b", pipeline, at=0.5)

    assert documents.ended_at("b") == 5.0
    assert isinstance(documents.outcome("a"), Stopped)


async def test_a_cancelled_follower_leaves_the_others_alone(autojump_clock):
    """It only looked on."""
    model = ScriptedModel({"ask": "fine"}, latency=4.0)
    async with Documents(model) as documents:
        documents.run("a", one_step())
        documents.run("b", one_step(), at=1.0, cancel_at=2.0)
        documents.run("c", one_step(), at=1.5)

    assert len(model.requests) == 1
    assert documents.outcome("b") == Stopped("cancelled")
    assert [documents.ended_at(name) for name in "abc"] == [4.0, 2.0, 4.0]


async def test_a_leaders_slow_clean_up_elsewhere_holds_nobody_up(autojump_clock):
    """A free slot and an admissible ready call never coexist."""
    pipeline = Pipeline("two", inputs={"document": str})

    @pipeline.llm("fast", str, cache=Cache())
    def ask(document: str) -> str:
        return document

    @pipeline.step
    async def slow(document: str) -> str:
        try:
            await trio.sleep(99.0)
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(10.0)
        return document

    async with Documents(ScriptedModel({"ask": "fine"}, latency=4.0), capacity=3) as documents:
        documents.run("a", pipeline, cancel_at=3.0)
        documents.run("b", one_step(), at=1.0)

    assert segments(documents.keep.runs["b"]) == [("shared", 1.0, 3.0), ("attempt", 3.0, 7.0)]


async def test_a_followers_step_timeout_fires_while_it_waits_for_another(autojump_clock):
    """Its own deadline holds, whoever has the call."""
    turns = iter([Reply(DOWN, latency=1.0), Reply("late", latency=99.0)])
    model = ScriptedModel({"ask": lambda request: next(turns)})
    async with Documents(model) as documents:
        documents.run("a", one_step(retry=EXACT, timeout=Timeout(step=6)))
        documents.run("b", one_step(timeout=Timeout(attempt=50), retry=ONCE), at=0.5)

    # It fails at 1, backs off until 2, joins the call that was sent at 1, and has to end at 6.
    error = documents.outcome("a").error
    assert isinstance(error, StepTimeoutError)
    assert (error.which, documents.ended_at("a")) == ("step", 6.0)
    assert segments(documents.keep.runs["a"]) == [("failed", 0.0, 1.0), ("backoff", 1.0, 2.0), ("shared", 2.0, 6.0)]
    assert documents.ended_at("b") == 51.0


async def test_an_urgent_document_does_not_wait_for_the_turn_of_a_patient_one(autojump_clock):
    """Higher priority goes first, also if somebody patient asked the same thing before."""
    model = ScriptedModel({"ask": "fine"}, latency=4.0)
    async with Documents(model, capacity=1) as documents:
        for place in range(3):
            documents.run(f"{place}", one_step(), at=place / 8, inputs={"document": f"text {place}"})
        documents.run("patient", one_step(), at=1.0)
        documents.run("urgent", one_step(), at=2.0, priority=1)

    assert documents.ended_at("urgent") == 8.0
    assert len(model.requests) == 4


async def test_whoever_leads_next_goes_as_early_as_the_most_urgent_of_its_followers(autojump_clock):
    """The one that joined first goes next; that it is patient must not hold up the urgent one behind it."""
    turns = iter([Reply(NO, latency=4.0)])
    model = ScriptedModel({"ask": lambda request: next(turns, Reply("fine", latency=4.0))})
    async with Documents(model, capacity=1) as documents:
        documents.run("leader", one_step())
        for place in range(3):
            documents.run(f"{place}", one_step(), at=0.5 + place / 8, inputs={"document": f"text {place}"})
        documents.run("patient", one_step(), at=1.0)
        documents.run("urgent", one_step(), at=2.0, priority=1)

    assert documents.outcome("leader") == Failed(NO)
    assert documents.ended_at("urgent") == 8.0


async def test_an_urgent_document_hurries_what_its_call_waits_for(autojump_clock):
    """The call it follows waits for the one that goes ahead: that one is what is late."""
    model = ScriptedModel({"*": Reply(pieces=[(2.0, "fi"), (2.0, "ne")])})
    pipeline = reading("ab", cache=Cache())
    urgent = Pipeline("urgent", inputs={"document": str})
    urgent.llm("fast", str, name="b", cache=Cache())(lambda document: [fenced(document), "Question b?"])
    async with Documents(model, capacity=1) as documents:
        for place in range(3):
            documents.run(f"{place}", one_step(), at=place / 8, inputs={"document": f"text {place}"})
        documents.run("patient", pipeline, at=1.0)
        documents.run("urgent", urgent, at=2.0, priority=1)

    # The first takes until 4; then the one that goes ahead, and at its end the one that is wanted.
    assert documents.ended_at("urgent", "b") == 12.0


class Flaky:
    """Answer with the prompt's own text; the n-th call may fail, or give what does not validate."""

    name = "fake:flaky"

    def __init__(self, troubles):
        self.troubles = dict(troubles)
        self.calls = 0
        self.now = 0
        self.most = 0

    async def _answer(self, request):
        self.calls += 1
        self.now += 1
        self.most = max(self.most, self.now)
        trouble = self.troubles.get(self.calls)
        try:
            await trio.sleep(3.0 if trouble == "slow" else 1.0)
        finally:
            self.now -= 1
        if trouble == "down":
            raise DOWN
        return "nonsense" if trouble == "bad" else f'{{"text":"{request.messages[0].text}"}}'

    async def complete(self, request):
        return Completion(await self._answer(request))

    async def stream(self, request, take):
        text = await self._answer(request)
        await take(text)
        await trio.sleep(0.5)
        return Completion(text)


INSTANTS = st.sampled_from([0.0, 0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
MOMENTS = st.one_of(st.none(), st.none(), st.sampled_from([0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0]))


@st.composite
def plans(draw):
    """Draw documents with their starts and ends, the troubles of the model's calls, and a capacity."""
    documents = [
        {
            "text": draw(st.sampled_from(["x", "x", "y"])),
            "at": draw(INSTANTS),
            "cancel_at": draw(MOMENTS),
            "timeout": draw(MOMENTS),
            "stream": draw(st.booleans()),
            "priority": draw(st.sampled_from([0, 0, 1])),
        }
        for _ in range(draw(st.integers(2, 6)))
    ]
    # At most three failures, one less than attempts, and two bad replies, as many as repairs: who stays gets through.
    numbers = draw(st.permutations(range(1, 9)))
    downs, bads, slows = draw(st.integers(0, 3)), draw(st.integers(0, 2)), draw(st.integers(0, 2))
    kinds = ["down"] * downs + ["bad"] * bads + ["slow"] * slows
    return documents, dict(zip(numbers, kinds, strict=False)), draw(st.integers(1, 3))


@MANY
@given(plans())
def test_whoever_leaves_at_whatever_moment_nobody_is_lost(plan):
    """Leaders are cancelled in the queue, in flight and in their back-off: the others must get their answers."""
    given_documents, troubles, capacity = plan
    model = Flaky(troubles)

    async def main():
        async with Documents(model, capacity=capacity) as documents:
            for place, wanted in enumerate(given_documents):
                cancel_at = None if wanted["cancel_at"] is None else wanted["at"] + wanted["cancel_at"]
                documents.run(
                    f"{place}",
                    one_step(Echo, retry=EXACT, stream=wanted["stream"]),
                    at=wanted["at"],
                    cancel_at=cancel_at,
                    timeout=wanted["timeout"],
                    priority=wanted["priority"],
                    inputs={"document": wanted["text"]},
                )
        return documents

    documents = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert model.most <= capacity
    for place, wanted in enumerate(given_documents):
        outcome = documents.outcome(f"{place}")
        # A back-off that would end after the run's timeout is not begun: then the failure is the outcome.
        ends = (Stopped, Failed) if wanted["timeout"] is not None else (Stopped,) if wanted["cancel_at"] else ()
        if not isinstance(outcome, ends):
            assert outcome == Completed(Echo(text=wanted["text"]))
    paid = [
        record
        for records in documents.keep.runs.values()
        for record in records
        if isinstance(record, AttemptStarted) and not record.is_shared
    ]
    assert len(paid) == model.calls


# One call goes ahead and warms the provider's cache


def reading(names="abcde", *, warm="first", shared=True, roles=None, policy=None, **options):
    """Return a pipeline of steps that all begin with the same document."""
    pipeline = Pipeline("reading", inputs={"document": str}, policy=policy)
    for place, name in enumerate(names):

        def prompt(document: str, *, question: str = f"Question {name}?"):
            return [fenced(document), question] if shared else f"{document}\n\n{question}"

        if policy is None:
            options["warm"] = warm
        role = roles[place] if roles else "fast"
        pipeline.llm(role, str, name=name, **options)(prompt)
    return pipeline


class Whole:
    """A model that cannot stream."""

    name = "fake:whole"

    def __init__(self, seconds=5.0):
        self.seconds = seconds
        self.calls = 0

    async def complete(self, request):
        self.calls += 1
        await trio.sleep(self.seconds)
        return Completion("fine")


TOLD = Reply(pieces=[(2.0, "fi"), (3.0, "ne")])


async def first_starts(pipeline, model, *, capacity=8, **models):
    """Run one document; return when each step's first attempt started, and all the records."""
    async with Documents(model, capacity=capacity, **models) as documents:
        documents.run("doc", pipeline)
    trace = documents.results["doc"].trace
    return {step.name: trace[step.name].started_at for step in documents.results["doc"].plan.steps}, documents


async def test_one_call_goes_ahead_and_the_others_follow_at_its_first_token(autojump_clock):
    """Five calls at once would all pay for the document in full; after one they find it in the cache."""
    model = ScriptedModel({"*": TOLD})

    started, documents = await first_starts(reading(), model)

    assert started == {"a": 0.0, "b": 2.0, "c": 2.0, "d": 2.0, "e": 2.0}
    assert documents.results["doc"].trace.makespan == 7.0
    assert documents.results["doc"].outputs == dict.fromkeys("abcde", "fine")
    assert segments(documents.keep.runs["doc"], "b") == [("warm", 0.0, 2.0), ("attempt", 2.0, 7.0)]


async def test_a_model_that_cannot_stream_warms_by_its_end(autojump_clock):
    """Its first token comes with its last."""
    started, _ = await first_starts(reading("abc"), Whole(5.0))
    assert started == {"a": 0.0, "b": 5.0, "c": 5.0}


async def test_thinking_shows_that_the_document_was_read(autojump_clock):
    """A model that thinks for a minute has read its prompt long before."""
    model = ScriptedModel({"*": Reply(pieces=[(1.0, ""), (60.0, "fine")])})
    started, _ = await first_starts(reading("abc"), model)
    assert started == {"a": 0.0, "b": 1.0, "c": 1.0}


@pytest.mark.parametrize(("warm", "shared"), [("first", False), (None, True), (None, False)])
async def test_without_shared_text_or_without_warm_nothing_waits(autojump_clock, warm, shared):
    """Waiting is only worth it where there is something to find."""
    started, _ = await first_starts(reading(warm=warm, shared=shared), ScriptedModel({"*": TOLD}))
    assert set(started.values()) == {0.0}


async def test_a_pipelines_policy_warms_all_its_steps(autojump_clock):
    """It is said once for all of them."""
    pipeline = reading("abc", policy=Policy(warm="first"))
    started, _ = await first_starts(pipeline, ScriptedModel({"*": TOLD}))
    assert started == {"a": 0.0, "b": 2.0, "c": 2.0}


async def test_steps_that_do_not_ask_for_it_do_not_wait(autojump_clock):
    """A step on the critical path says warm=None and goes at once."""
    pipeline = reading("ab")
    pipeline.llm("fast", str, name="urgent", warm=None)(lambda document: [fenced(document), "Now!"])
    started, _ = await first_starts(pipeline, ScriptedModel({"*": TOLD}))
    assert started == {"a": 0.0, "b": 2.0, "urgent": 0.0}


async def test_other_system_messages_are_other_beginnings(autojump_clock):
    """A provider's cache begins at the first token: behind other words the document is not found."""
    pipeline = reading("ab")

    @pipeline.llm("fast", str, warm="first")
    def other(document: str):
        """Be brief."""
        return [fenced(document), "Question?"]

    started, _ = await first_starts(pipeline, ScriptedModel({"*": TOLD}))
    assert started == {"a": 0.0, "b": 2.0, "other": 0.0}


async def test_different_models_are_warmed_apart(autojump_clock):
    """Each has a cache of its own."""
    pipeline = reading("abcd", roles=["fast", "fast", "strong", "strong"])
    started, _ = await first_starts(pipeline, ScriptedModel({"*": TOLD}), strong=Whole(3.0))
    assert started == {"a": 0.0, "b": 2.0, "c": 0.0, "d": 3.0}


async def test_documents_do_not_wait_for_each_other(autojump_clock):
    """Warming is within a document; another one that happens to be equal is none of its business."""
    model = ScriptedModel({"*": TOLD})
    async with Documents(model) as documents:
        documents.run("one", reading("ab"))
        documents.run("two", reading("ab"), at=0.5)
    begun = {name: [result.trace[step].started_at for step in "ab"] for name, result in documents.results.items()}
    assert begun == {"one": [0.0, 2.0], "two": [0.5, 2.5]}


async def test_a_leader_that_fails_hands_over_and_waits_like_the_others(autojump_clock):
    """A failed call has warmed nothing."""
    model = ScriptedModel({"a": in_turn(Reply(DOWN, latency=1.0), TOLD), "*": Reply(pieces=[(4.0, "fi"), (1.0, "ne")])})

    started, documents = await first_starts(reading("abc", retry=EXACT), model)

    assert started == {"a": 0.0, "b": 1.0, "c": 5.0}
    records = documents.keep.runs["doc"]
    assert segments(records, "a") == [
        ("failed", 0.0, 1.0),
        ("backoff", 1.0, 2.0),
        ("warm", 2.0, 5.0),
        ("attempt", 5.0, 10.0),
    ]
    assert segments(records, "c") == [("warm", 0.0, 5.0), ("attempt", 5.0, 10.0)]


async def test_a_leader_that_fails_after_its_first_token_has_warmed(autojump_clock):
    """The document was read; how the reply ended says nothing of that."""
    model = ScriptedModel({"a": in_turn(Reply(DOWN, pieces=[(2.0, "fi")]), TOLD), "*": TOLD})

    started, documents = await first_starts(reading("abc", retry=EXACT), model)

    assert started == {"a": 0.0, "b": 2.0, "c": 2.0}
    assert segments(documents.keep.runs["doc"], "a") == [
        ("failed", 0.0, 2.0),
        ("backoff", 2.0, 3.0),
        ("attempt", 3.0, 8.0),
    ]


async def test_a_leader_that_fails_for_good_hands_over(autojump_clock):
    """One broken step must not stop the others."""
    model = ScriptedModel({"a": Reply(NO, latency=1.0), "*": TOLD})
    started, documents = await first_starts(reading("abc"), model)
    assert started == {"a": 0.0, "b": 1.0, "c": 3.0}
    assert documents.outcome("doc", "a") == Failed(NO)


async def test_a_leader_that_times_out_hands_over_at_that_instant(autojump_clock):
    """A call that hangs must not hold up all of its like."""
    model = ScriptedModel({"a": Reply(pieces=[(99.0, "late")]), "*": TOLD})
    started, _ = await first_starts(reading("abc", timeout=3, retry=ONCE), model)
    assert started == {"a": 0.0, "b": 3.0, "c": 5.0}


async def test_a_leader_that_falls_back_to_another_model_hands_over(autojump_clock):
    """There it warms another cache."""
    pipeline = reading("abc", fallback=Role("strong"), retry=ONCE)
    model = ScriptedModel({"a": Reply(DOWN, latency=1.0), "*": TOLD})
    started, documents = await first_starts(pipeline, model, strong=Whole(3.0))
    assert started == {"a": 0.0, "b": 1.0, "c": 3.0}
    assert documents.ended_at("doc", "a") == 4.0


async def test_a_leader_waits_for_its_slot_and_the_others_hold_none(autojump_clock):
    """With one slot they go one after the other, as they would anyway."""
    started, _ = await first_starts(reading("abc"), ScriptedModel({"*": TOLD}), capacity=1)
    assert started == {"a": 0.0, "b": 5.0, "c": 10.0}


async def test_a_warm_leader_that_does_not_stream_gives_no_deltas(autojump_clock):
    """It is asked for a stream for the engine's sake; nobody follows it."""
    model = ScriptedModel({"*": TOLD})
    async with (
        Engine(models={"fast": model}) as engine,
        engine.stream(reading("ab"), {"document": "text"}) as events,
    ):
        told = [event async for event in events]
    assert [(type(event), event.step) for event in told] == [(StepFinished, "a"), (StepFinished, "b")]


async def test_a_warm_leader_that_does_not_stream_has_no_timeouts_between_pieces(autojump_clock):
    """Whether it goes ahead or follows, its timeouts are the same."""
    policy = Policy(warm="first", timeout=Timeout(first_token=1, idle=1), retry=ONCE)
    started, documents = await first_starts(reading("ab", policy=policy), ScriptedModel({"*": TOLD}))
    assert started == {"a": 0.0, "b": 2.0}
    assert documents.results["doc"].status == "completed"


async def test_items_that_share_a_document_are_warmed_by_the_first(autojump_clock):
    """Fifty questions on one contract are where it is worth most."""
    pipeline = Pipeline("questions", inputs={"document": str, "questions": list[str]})

    @pipeline.llm("fast", str, each="questions", warm="first")
    def ask(question: str, document: str):
        return [fenced(document), question]

    async with Documents(ScriptedModel({"*": TOLD})) as documents:
        documents.run("doc", pipeline, inputs={"document": "text", "questions": ["a", "b", "c"]})
    spans = documents.results["doc"].trace.items("ask")
    assert [span.started_at for span in spans] == [0.0, 2.0, 2.0]


async def test_items_that_wait_are_skipped_when_the_leader_fails_the_step(autojump_clock):
    """A mapped step that has failed is not paid for any further."""
    pipeline = Pipeline("questions", inputs={"document": str, "questions": list[str]})

    @pipeline.llm("fast", str, each="questions", warm="first", retry=ONCE)
    def ask(question: str, document: str):
        return [fenced(document), question]

    model = ScriptedModel({"*": Reply(DOWN, latency=1.0)})
    async with Documents(model) as documents:
        documents.run("doc", pipeline, inputs={"document": "text", "questions": ["a", "b", "c"]})
    assert len(model.requests) == 1
    assert documents.outcome("doc") == Failed(DOWN)
    assert documents.ended_at("doc") == 1.0


async def test_a_cancelled_run_takes_its_waiting_calls_with_it(autojump_clock):
    """Nothing may be sent for somebody who has gone."""
    model = ScriptedModel({"*": TOLD})
    async with Documents(model) as documents:
        documents.run("doc", reading(), cancel_at=1.0)
    assert len(model.requests) == 1
    assert [documents.outcome("doc", name) for name in "abcde"] == [Stopped("cancelled")] * 5


async def test_sharing_and_warming_go_together(autojump_clock):
    """The second of two equal documents follows the first one's calls, whatever these wait for."""
    model = ScriptedModel({"*": TOLD})
    pipeline = reading("abc", cache=Cache())
    async with Documents(model) as documents:
        documents.run("one", pipeline)
        documents.run("two", pipeline, at=1.0)
    assert len(model.requests) == 3
    assert [documents.ended_at("two", name) for name in "abc"] == [5.0, 7.0, 7.0]


@st.composite
def readings(draw):
    """Draw documents whose calls share prefixes and are equal, with troubles and ends."""
    documents = [
        {
            "text": draw(st.sampled_from(["x", "x", "y"])),
            "names": "".join(draw(st.permutations("abc"))),
            "at": draw(INSTANTS),
            "cancel_at": draw(MOMENTS),
            "cache": draw(st.sampled_from([None, Cache()])),
            "priority": draw(st.sampled_from([0, 0, 1])),
            "lead": draw(st.sampled_from([0.0, 0.0, 0.5, 1.0])),
        }
        for _ in range(draw(st.integers(1, 4)))
    ]
    numbers = draw(st.permutations(range(1, 9)))
    downs, slows = draw(st.integers(0, 3)), draw(st.integers(0, 2))
    kinds = ["down"] * downs + ["slow"] * slows
    return documents, dict(zip(numbers, kinds, strict=False)), draw(st.integers(1, 4))


class FlakyWords(Flaky):
    """The same for steps that ask for plain text."""

    async def _answer(self, request):
        await super()._answer(request)
        return request.messages[-1].text


@MANY
@given(readings())
def test_calls_that_wait_for_calls_that_wait_never_wait_for_ever(plan):
    """Documents that follow each other, each with a call that goes ahead: a circle would be a dead engine."""
    given_documents, troubles, capacity = plan
    model = FlakyWords(troubles)

    def pipeline_of(wanted):
        pipeline = Pipeline("reading", inputs={"document": str})

        @pipeline.step
        async def late(document: str) -> str:
            await trio.sleep(wanted["lead"])
            return document

        for place, name in enumerate(wanted["names"]):

            def now(document: str, *, question: str = f"Question {name}?"):
                return [fenced(document), question]

            def later(late: str, *, question: str = f"Question {name}?"):
                return [fenced(late), question]

            declare = pipeline.llm("fast", str, name=name, warm="first", cache=wanted["cache"], retry=EXACT)
            declare(now if place % 2 else later)
        return pipeline

    async def main():
        async with Documents(model, capacity=capacity) as documents:
            for place, wanted in enumerate(given_documents):
                cancel_at = None if wanted["cancel_at"] is None else wanted["at"] + wanted["cancel_at"]
                documents.run(
                    f"{place}",
                    pipeline_of(wanted),
                    at=wanted["at"],
                    cancel_at=cancel_at,
                    priority=wanted["priority"],
                    inputs={"document": wanted["text"]},
                )
        return documents

    documents = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))

    assert model.most <= capacity
    for place, wanted in enumerate(given_documents):
        for name in "abc":
            outcome = documents.outcome(f"{place}", name)
            if not (wanted["cancel_at"] is not None and isinstance(outcome, Stopped)):
                assert outcome == Completed(f"Question {name}?")
