"""Laws that hold for every pipeline: maps, branches, failures, retries, fallbacks, any capacity."""

import importlib.util
import math
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline_engine import Engine
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Completed,
    RunFinished,
    StepFinished,
    StepReady,
    WaitEnded,
    WaitStarted,
)

_spec = importlib.util.spec_from_file_location("random_dags", Path(__file__).parent / "random_dags.py")
random_dags = importlib.util.module_from_spec(_spec)
sys.modules["random_dags"] = random_dags
_spec.loader.exec_module(random_dags)

MANY = settings(suppress_health_check=[HealthCheck.too_slow])
dags = random_dags.dags


def run(dag, *, cancel_after=None, timeout=None):
    """Run a random pipeline on a virtual clock of its own; return the result and the engine's last word."""
    seen = {}

    class Keep:
        def open_run(self, started):
            seen["records"] = [started]
            return seen["records"].append

    async def main():
        async with Engine(capacity=dag.capacity, sinks=[Keep()], seed=1) as engine:
            seen["result"] = None
            # A run that would never end is ended by the virtual clock, which jumps when nothing else is left.
            with trio.fail_after(1e6), trio.CancelScope() as scope:
                if cancel_after is not None:
                    trio.lowlevel.add_instrument(_CancelAt(cancel_after, scope))
                seen["result"] = await engine.run(random_dags.build(dag), {"start": "start"}, timeout=timeout)
            seen["statistics"] = engine.statistics()
            seen["was_cancelled"] = scope.cancelled_caught

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return seen


class _CancelAt(trio.abc.Instrument):
    """Cancel a scope before the n-th step of any task."""

    def __init__(self, count, scope):
        self.count, self.scope = count, scope

    def before_task_step(self, task):
        self.count -= 1
        if self.count == 0:
            self.scope.cancel()


def finishes(records):
    """The instant at which each step or item got its outcome."""
    ended = {}
    for record in records:
        if isinstance(record, StepFinished):
            key = (record.step, record.item)
            assert key not in ended, f"{key} has two outcomes"
            ended[key] = record.at
    return ended


def both_failed(dag, name, expected, found):
    """Where items of a mapped step and of its mapped source fail both, the earlier one names the outcome."""
    spec = dag.step(name)
    is_map_over_map = spec.each is not None and dag.step(spec.each).each is not None
    both = [("failed",), ("skipped", False)]
    return found if is_map_over_map and expected in both and found in both else expected


@MANY
@given(dags())
def test_the_result_is_that_of_a_naive_sequential_evaluator(dag):
    """Concurrency must never change what comes out, only when."""
    naive = random_dags.Naive(dag)
    result = run(dag)["result"]
    found = {
        spec.name: random_dags.plain(result.outcome(spec.name)) for spec in dag.steps if spec.name not in dag.on_demand
    }
    assert found == {
        name: both_failed(dag, name, outcome, found[name])
        for name, outcome in naive.outcomes.items()
        if name not in dag.on_demand
    }
    for name, items in naive.items.items():
        if naive.outcomes[name][0] == "completed":
            assert [random_dags.plain(item) for item in result.items(name)] == items


@MANY
@given(dags())
def test_no_step_starts_before_its_needs_nor_is_ready_later_than_the_last_of_them(dag):
    """Readiness is the first promise: to the virtual instant, without barriers."""
    records = run(dag)["records"]
    ended = finishes(records)
    opened = {r.step: r.at for r in records if isinstance(r, StepReady) and r.item is None}
    for record in records:
        if not isinstance(record, StepReady) or record.step in dag.on_demand:
            continue
        spec = dag.step(record.step)
        needs = [ended[need, None] for need, _ in spec.needs]
        needs += [ended[spec.when[0], None]] if spec.when else []
        if spec.each is not None:
            source = dag.step(spec.each)
            if source.each is None:
                needs.append(ended[source.name, None])
            elif record.item is not None:
                needs += [ended[source.name, record.item], opened[record.step]]
            else:
                needs.append(opened[source.name])
        assert record.at == max([0.0, *[need - records[0].at for need in needs]]) + records[0].at


@MANY
@given(dags())
def test_a_free_slot_and_a_ready_step_never_coexist(dag):
    """An idle slot while work is ready is money and time thrown away."""
    records = run(dag)["records"]
    changes: list[tuple[float, int]] = []
    waits: list[tuple[float, float]] = []
    waiting_since: dict[object, float] = {}
    mapped = {spec.name for spec in dag.steps if spec.each is not None}
    for record in records:
        key = (getattr(record, "step", None), getattr(record, "item", None))
        if isinstance(record, StepReady | WaitEnded) and not (record.item is None and record.step in mapped):
            waiting_since[key] = record.at
        elif isinstance(record, AttemptStarted):
            waits.append((waiting_since.pop(key), record.at))
            changes.append((record.at, 1))
        elif isinstance(record, AttemptFinished):
            changes.append((record.at, -1))
        elif isinstance(record, WaitStarted | StepFinished):
            waiting_since.pop(key, None)
    for begin, end in waits:
        for instant in {begin, *[at for at, _ in changes if begin <= at < end]} if begin < end else ():
            in_flight = sum(change for at, change in changes if at <= instant)
            assert in_flight == dag.capacity


@MANY
@given(dags())
def test_every_step_has_exactly_one_outcome_and_nothing_leaks(dag):
    """A step without an outcome is a result that never comes; a leaked slot stops the engine some day."""
    seen = run(dag)
    ended = finishes(seen["records"])
    assert {name for name, item in ended if item is None} == {spec.name for spec in dag.steps}
    started = [r for r in seen["records"] if isinstance(r, AttemptStarted)]
    finished = [r for r in seen["records"] if isinstance(r, AttemptFinished)]
    assert len(started) == len(finished)
    assert isinstance(seen["records"][-1], RunFinished)
    statistics = seen["statistics"]
    assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)


@MANY
@given(dags())
def test_the_segments_of_every_step_tile_its_interval(dag):
    """Unexplained time is a bug: every second of a step has exactly one cause."""
    for span in run(dag)["result"].trace.spans:
        if span.is_mapped or span.ready_at is None:
            continue
        at = span.ready_at
        for segment in span.segments:
            assert segment.start == at
            at = segment.end
        assert at == span.ended_at


@MANY
@given(dags(), st.integers(1, 60))
def test_cancelled_before_any_task_step_nothing_leaks(dag, checkpoint):
    """Users press Ctrl-C, requests are dropped, timeouts fire: at every one of those moments."""
    seen = run(dag, cancel_after=checkpoint)
    statistics = seen["statistics"]
    assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
    if "records" in seen:
        ready = {(r.step, r.item) for r in seen["records"] if isinstance(r, StepReady)}
        ended = finishes(seen["records"])
        assert ready <= set(ended)
        starts = sum(isinstance(r, AttemptStarted) for r in seen["records"])
        assert starts == sum(isinstance(r, AttemptFinished) for r in seen["records"])


@MANY
@given(dags(), st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.5]))
def test_a_run_that_times_out_keeps_what_is_finished(dag, timeout):
    """Whatever was paid for before the deadline is the user's."""
    full = run(dag)
    seen = run(dag, timeout=timeout)
    result, statistics = seen["result"], seen["statistics"]
    assert (statistics.in_flight, statistics.ready, statistics.timers) == (0, 0, 0)
    first = full["records"][0].at
    for record in full["records"]:
        is_step = isinstance(record, StepFinished) and record.item is None and record.at - first < timeout
        if is_step and isinstance(record.outcome, Completed):
            assert random_dags.plain(result.outcome(record.step)) == random_dags.plain(record.outcome)
    assert all(record.at - seen["records"][0].at <= timeout for record in seen["records"])
    assert math.isfinite(result.trace.makespan)


@pytest.mark.parametrize("capacity", [1, 2, 7])
def test_renaming_steps_changes_no_start_time(capacity):
    """In one well-known engine a name decides the order of waiting, and so the speed."""
    from pipeline_engine import Pipeline

    def starts(names):
        pipeline = Pipeline("named", inputs={"start": str})
        sources = {}
        for number, name in enumerate(names):

            async def function(start: str, *, seconds: float = 1.0 + number) -> str:
                await trio.sleep(seconds)
                return start

            sources[name] = pipeline.step(name=name)(function)

        async def main():
            async with Engine(capacity=capacity) as engine:
                return await engine.run(pipeline, {"start": "x"})

        trace = trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0)).trace
        return [trace[name].started_at - trace.started_at for name in names]

    assert starts(["a", "b", "c", "d"]) == starts(["z", "c", "y", "b"]) == starts(["d", "c", "b", "a"])
