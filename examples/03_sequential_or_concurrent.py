"""The same four calls one after the other, and then each as soon as its own needs are there."""

from pipeline_engine import Pipeline, run_pipeline
from pipeline_engine.testing import ScriptedModel

pipeline = Pipeline("article", inputs={"document": str})


@pipeline.llm("fast", str)
def title(document: str) -> str:
    return f"Give this document a title.\n\n{document}"


@pipeline.llm("fast", str)
def keywords(document: str) -> str:
    return f"Name five keywords.\n\n{document}"


@pipeline.llm("fast", str)
def category(document: str) -> str:
    return f"Classify this document.\n\n{document}"


@pipeline.llm("fast", str)
def summary(document: str, title: str) -> str:
    return f"Summarise “{title}”.\n\n{document}"


# Three calls of 2 s and one of 3 s, fifty times faster.
model = ScriptedModel({"*": "…"}, latency={"*": 2 / 50, "summary": 3 / 50})
inputs = {"document": "A long text."}

one_by_one = run_pipeline(pipeline, inputs, models={"fast": model}, capacity=1).trace
together = run_pipeline(pipeline, inputs, models={"fast": model}).trace

print(f"one slot:   {50 * one_by_one.makespan:.1f} s (2 + 2 + 2 + 3 = 9)")
print(f"64 slots:   {50 * together.makespan:.1f} s (title, then summary: 2 + 3 = 5)")
print(f"64 slots:   {together.verdict}")
