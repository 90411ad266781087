"""Latencies of a scripted model: drawn from distributions, the same ones each time."""

import pytest

from pipeline_engine import Pipeline, run_pipeline
from pipeline_engine.testing import Constant, Empirical, LogNormal, Reply, ScriptedModel, Uniform

pipeline = Pipeline("chunks", inputs={"chunks": list[str]})


@pipeline.llm("fast", str, each="chunks")
def read(chunk: str) -> str:
    return f"Summarise: {chunk}"


def durations(latency, answer="fine", **options):
    model = ScriptedModel({"*": answer}, latency=latency, **options)
    chunks = [str(number) for number in range(40)]
    trace = run_pipeline(pipeline, {"chunks": chunks}, models={"fast": model}, key="a").trace
    return [span.ended_at for span in trace.items("read")]


def test_the_same_seed_draws_the_same_latencies(virtual_clock):
    """Tasks come in an order of trio's own: a latency must not depend on it."""
    first, second, other = (durations(LogNormal(2, 8), seed=seed) for seed in (1, 1, 2))

    assert first == second != other
    assert len(set(first)) == 40


@pytest.mark.parametrize(
    ("latency", "low", "high"),
    [(Constant(2), 2, 2), (Uniform(1, 4), 1, 4), (Empirical([3, 5]), 3, 5), ({"read": Uniform(1, 4)}, 1, 4), (2, 2, 2)],
)
def test_latencies_are_what_was_said(virtual_clock, latency, low, high):
    """One number, a distribution, or one of these for each step."""
    drawn = durations(latency)

    assert low <= min(drawn) <= max(drawn) <= high


def test_one_reply_may_have_a_distribution_of_its_own(virtual_clock):
    """A slow answer among quick ones."""
    drawn = durations(1, Reply("fine", latency=Uniform(5, 6)))

    assert 5 <= min(drawn) <= max(drawn) <= 6
