"""What is tried when a model does not answer: the next model of the chain, another step, a plain value."""

from pipeline_engine import Pipeline, RejectedError, Retry, UnavailableError, run_pipeline
from pipeline_engine.testing import ScriptedModel

pipeline = Pipeline("headline", inputs={"document": str})


@pipeline.step
def first_line(document: str) -> str:
    return document.partition("\n")[0]


@pipeline.llm("fast", str, fallback=(first_line, "Untitled"), retry=Retry(attempts=2, base_delay=0.02))
def title(document: str) -> str:
    return f"Give this document a title.\n\n{document}"


down = UnavailableError("failed (HTTP 503).", model="scripted:cheap", kind="server", status=503)
refused = RejectedError("refused to answer.", model="scripted:dear", kind="refusal")
cheap = ScriptedModel({"title": down}, name="scripted:cheap", latency=0.01)
dear = ScriptedModel({"title": "A better title"}, name="scripted:dear", latency=0.01)
dear_that_refuses = ScriptedModel({"title": refused}, name="scripted:dear", latency=0.01)

inputs = {"document": "Notes on tides\nThe sea rises twice a day."}
for chain in ([cheap, dear], [cheap, dear_that_refuses]):
    result = run_pipeline(pipeline, inputs, models={"fast": chain})
    print(result.outcome(title))
    print("   asked:", [f"{call.model}: {call.error or 'answered'}" for call in result.calls(title)])
    print("   first_line:", result.outcome(first_line))
