"""Title, then summary: a parameter named like a step is the edge, and the waterfall shows where the time went."""

from pydantic import BaseModel

from pipeline_engine import Pipeline, run_pipeline
from pipeline_engine.testing import ScriptedModel


class Title(BaseModel):
    text: str


class Summary(BaseModel):
    text: str


pipeline = Pipeline("title-summary", inputs={"document": str})


@pipeline.llm("fast", Title)
def title(document: str) -> str:
    return f"Give this document a short factual title.\n\n{document}"


@pipeline.llm("strong", Summary)
def summary(document: str, title: Title) -> str:
    return f"Summarise “{title.text}” in two sentences.\n\n{document}"


model = ScriptedModel(
    {"title": Title(text="Tides"), "summary": Summary(text="The sea rises twice a day. The moon pulls it.")},
    latency={"title": 0.04, "summary": 0.06},
)
text = "Twice a day the sea comes up the beach, and twice a day it leaves."
result = run_pipeline(pipeline, {"document": text}, models={"fast": model, "strong": model})

print(result[summary].text)
print()
print(result.trace.waterfall(width=90))
