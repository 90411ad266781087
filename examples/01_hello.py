"""A pipeline with one step: the function returns the prompt, the decorator says what comes back."""

from pipeline_engine import Pipeline, run_pipeline
from pipeline_engine.testing import ScriptedModel

pipeline = Pipeline("hello", inputs={"name": str})


@pipeline.llm("fast", str)
def greeting(name: str) -> str:
    return f"Greet {name} in one line."


# A scripted model answers by the name of the step that asks. A real one is bound by its name,
# models={"fast": "openai:gpt-4o-mini"}, and nothing else changes.
model = ScriptedModel({"greeting": "Good morning, Ada!"})
result = run_pipeline(pipeline, {"name": "Ada"}, models={"fast": model})

print("prompt:", greeting.render(name="Ada")[0].text)
print("output:", result[greeting])
print("status:", result.status)
