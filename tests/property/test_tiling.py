"""Every second is accounted for: the segments of every step tile its time exactly, whatever happens to it."""

import inspect
import random
from itertools import pairwise

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_engine import (
    Breaker,
    Budget,
    Completion,
    Document,
    Engine,
    Hedge,
    Limits,
    MemoryJournal,
    Pipeline,
    RateLimitError,
    Retry,
    Timeout,
    UnavailableError,
    Usage,
    current_step,
)
from pipeline_engine.report import Totals, Trace
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.values import pack_records, unpack_records


class Keep:
    """A sink that keeps the records of every run."""

    def __init__(self):
        self.runs = {}

    def open_run(self, started):
        return self.runs.setdefault(started.run_id, [started]).append


class Moody:
    """A model that answers, fails, refuses, hangs or makes no sense, as its dice fall."""

    max_tokens = 50

    def __init__(self, name, dice, *, failures, limits=None, breaker=None):
        self.name = name
        self.limits = limits
        self.breaker = breaker
        self._dice = dice
        self._failures = failures

    async def complete(self, request):
        dice = random.Random(f"{self._dice} {self.name} {current_step()}")
        await trio.sleep(dice.choice([0.0, 0.1, 0.7, 1.0, 2.5]))
        if dice.random() < self._failures:
            mood = dice.choice(["down", "busy", "hangs", "raves"])
            if mood == "down":
                raise UnavailableError("is down.", model=self.name, kind="server", status=503)
            if mood == "busy":
                raise RateLimitError("is busy.", model=self.name, kind="rate_limited", status=429, retry_after=0.9)
            if mood == "hangs":
                await trio.sleep(300)
            return Completion("no number", usage=Usage(20, 5))
        return Completion("7", usage=Usage(20, 5))


@st.composite
def scenes(draw):
    """Draw a random DAG of model steps, the moods and limits of its models, and when somebody gives up."""
    steps = []
    for number in range(draw(st.integers(1, 6))):
        names = [name for name, *_ in steps]
        needs = draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) if names else []
        each = "texts" if draw(st.integers(0, 3)) == 0 else None
        options = {
            "retry": Retry(
                attempts=draw(st.integers(1, 4)), base_delay=draw(st.sampled_from([0.0, 0.3])), jitter="full", repair=1
            ),
            "timeout": Timeout(attempt=draw(st.sampled_from([0.5, 3.0])), step=draw(st.sampled_from([None, 6.0]))),
            "hedge": draw(st.sampled_from([None, None, Hedge(after=0.5, max_extra=1.0)])),
            "when_open": draw(st.sampled_from(["fallback", "wait", "fail"])),
        }
        steps.append((f"s{number}", needs, each, draw(st.sampled_from(["fast", "strong"])), options))
    limits = st.sampled_from(
        [
            None,
            Limits(rpm=120, burst_requests=1),
            Limits(tpm=6000, burst_tokens=400),
            Limits(max_concurrency=1),
            Limits(adaptive=True),
        ]
    )
    breakers = st.sampled_from([None, Breaker(failure_threshold=2, timeout=1.5, success_threshold=1)])
    return {
        "steps": steps,
        "seed": draw(st.integers(0, 10_000)),
        "failures": draw(st.sampled_from([0.0, 0.3, 0.7])),
        "limits": [draw(limits), draw(limits)],
        "breakers": [draw(breakers), draw(breakers)],
        "capacity": draw(st.sampled_from([1, 2, 50])),
        "budget": draw(st.sampled_from([None, Budget(tokens=400, on_exhausted="fail")])),
        "cancel_at": draw(st.sampled_from([None, None, 0.0, 0.35, 1.0, 4.2])),
        "has_journal": draw(st.booleans()),
    }


def declared(steps):
    pipeline = Pipeline("scene", inputs={"document": str, "texts": list[str]})
    for name, needs, each, role, options in steps:
        pipeline.llm(role, int, each=each, **options)(prompt(name, ["text" if each else "document", *needs]))

    @pipeline.step
    async def sizes(document: str, texts: list[str]) -> int:
        return len(document) + len(texts)

    return pipeline


def prompt(name, parameters):
    """Return a prompt function with these parameters; all but the first are optional: no failure ends everything."""

    def function(first, *needs):
        return f"{name}: {first}"

    function.__name__ = name
    function.__signature__ = inspect.Signature(
        inspect.Parameter(
            parameter,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None if place else inspect.Parameter.empty,
        )
        for place, parameter in enumerate(parameters)
    )
    return function


def perform(scene, *sinks):
    """Run three documents of a scene on the virtual clock, and return the records of each run."""
    keep = Keep()
    models = {
        role: Moody(f"own:{role}", scene["seed"], failures=scene["failures"], limits=limits, breaker=breaker)
        for role, limits, breaker in zip(("fast", "strong"), scene["limits"], scene["breakers"], strict=True)
    }
    pipeline = declared(scene["steps"])
    roles = {role for *_, role, _ in scene["steps"]}
    documents = [Document(str(number), {"document": f"d{number}", "texts": ["x", "y"]}) for number in range(3)]

    async def main():
        async with Engine(capacity=scene["capacity"], sinks=[keep, *sinks], seed=scene["seed"]) as engine:
            bound = engine.bind(pipeline, {role: models[role] for role in roles})
            with trio.CancelScope() as scope:
                if scene["cancel_at"] is not None:
                    scope.deadline = trio.current_time() + scene["cancel_at"]
                options = {"budget": scene["budget"], "journal": MemoryJournal() if scene["has_journal"] else None}
                async with BatchStream(engine, bound, documents, **options) as stream:
                    async for _result in stream:
                        pass

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return list(keep.runs.values())


def assert_tiled(trace):
    """Each executed step, or each item of a mapped one, is tiled by its segments: to the last bit."""
    for span in trace.spans:
        if span.ready_at is None or (span.is_mapped and trace.items(span.step)):
            assert span.segments == ()
            continue
        if not span.segments:
            assert span.ended_at == span.ready_at, span
            continue
        assert span.segments[0].start == span.ready_at
        assert span.segments[-1].end == span.ended_at
        for before, after in pairwise(span.segments):
            assert before.end == after.start
        assert all(segment.duration > 0 for segment in span.segments)


@settings(max_examples=60, deadline=None)
@given(scenes())
def test_segments_tile_every_step_and_records_survive_the_journal(scene):
    """Unexplained time is a bug; and a report made from a journal shows what one made from memory does."""
    totals = Totals()
    seconds = 0.0
    for records in perform(scene):
        trace = Trace.from_records(records)
        assert_tiled(trace)
        assert Trace.from_records(unpack_records(pack_records(records))) == trace
        totals.add(trace)
        seconds += sum(segment.duration for span in trace.spans for segment in span.segments)

    timeline = totals.result().timeline
    drawn = timeline.width * sum(sum(heights) for heights in timeline.heights.values())
    assert drawn == pytest.approx(seconds, abs=1e-4)  # wall times have no finer grain
