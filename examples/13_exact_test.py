"""A retry storm of ten minutes on the virtual clock: exact instants, in milliseconds of real time."""

from time import perf_counter

import trio
from trio.testing import MockClock

from pipeline_engine import Pipeline, RateLimitError, Retry, RunResult, run_pipeline_async
from pipeline_engine.testing import ScriptedModel, in_turn

pipeline = Pipeline("storm", inputs={"document": str})


@pipeline.llm("fast", str, retry=Retry(base_delay=1, jitter="none"))
def title(document: str) -> str:
    return f"Give this document a title.\n\n{document}"


@pipeline.llm("fast", str)
def category(document: str) -> str:
    return f"Classify this document.\n\n{document}"


refusal = RateLimitError("is rate limited.", model="scripted:model", kind="rate_limited", status=429, retry_after=100)
model = ScriptedModel({"title": in_turn(*[refusal] * 6, "At last"), "category": "news"}, latency=2)


async def storm() -> RunResult:
    return await run_pipeline_async(pipeline, {"document": "A text."}, models={"fast": model})


started = perf_counter()
result = trio.run(storm, clock=MockClock(autojump_threshold=0))
elapsed = perf_counter() - started

# Six refusals after 2 s each, each followed by the 100 s that the provider asked for, and a reply after 2 s.
assert result.trace.makespan == 6 * (2 + 100) + 2
assert result.trace["category"].duration == 2
print(result.trace.waterfall(width=90))
print(f"{result.trace.makespan:g} s of virtual time took {elapsed * 1000:.0f} ms")
