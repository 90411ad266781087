"""One step fails: its descendants are skipped, everything else runs on and is returned."""

from pipeline_engine import Pipeline, RejectedError, StepError, run_pipeline
from pipeline_engine.testing import ScriptedModel

pipeline = Pipeline("article", inputs={"document": str})


@pipeline.llm("fast", str)
def title(document: str) -> str:
    return f"Give this document a title.\n\n{document}"


@pipeline.llm("fast", str)
def category(document: str) -> str:
    return f"Classify this document.\n\n{document}"


@pipeline.llm("fast", str)
def summary(document: str, title: str) -> str:
    return f"Summarise “{title}”.\n\n{document}"


@pipeline.llm("fast", str)
def quality(title: str, category: str) -> str:
    return f"How well does “{title}” fit a {category}?"


refusal = RejectedError("rejected the request.", model="scripted:model", kind="invalid")
model = ScriptedModel({"category": refusal, "*": "fine"}, latency=0.02)
result = run_pipeline(pipeline, {"document": "A long text."}, models={"fast": model})

print("status: ", result.status)
print("outputs:", dict(result.outputs))
print("quality:", result.outcome(quality))
try:
    result[quality]
except StepError as error:
    print("reading:", error)
    print("cause:  ", repr(error.__cause__))
