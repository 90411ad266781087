"""A retry storm of ten minutes on the virtual clock: exact instants, in milliseconds of real time."""

from time import perf_counter

from pipeline_engine import Pipeline, Retry, run_pipeline
from pipeline_engine.testing import (
    ScriptedModel,
    assert_attempts,
    assert_ended_at,
    assert_waited,
    in_turn,
    rate_limited,
    virtual_time,
)

pipeline = Pipeline("storm", inputs={"document": str})


@pipeline.llm("fast", str, retry=Retry(base_delay=1, jitter="none"))
def title(document: str) -> str:
    return f"Give this document a title.\n\n{document}"


@pipeline.llm("fast", str)
def category(document: str) -> str:
    return f"Classify this document.\n\n{document}"


refusal = rate_limited(retry_after=100)
model = ScriptedModel({"title": in_turn(*[refusal] * 6, "At last"), "category": "news"}, latency=2)

started = perf_counter()
with virtual_time():  # in pytest: the fixture virtual_clock
    result = run_pipeline(pipeline, {"document": "A text."}, models={"fast": model})
elapsed = perf_counter() - started

# Six refusals after 2 s each, each followed by the 100 s that the provider asked for, and a reply after 2 s.
assert_ended_at(result, title, 6 * (2 + 100) + 2)
assert_waited(result, title, "backoff", 600)
assert_attempts(result, title, 7)
assert_ended_at(result, category, 2)
print(result.trace.waterfall(width=90))
print(f"{result.trace.makespan:g} s of virtual time took {elapsed * 1000:.0f} ms")
