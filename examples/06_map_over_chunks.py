"""A long text in chunks: one call per chunk, all at once; a chunk may be lost, and the result says which."""

from pydantic import BaseModel

from pipeline_engine import Chunk, Drop, Pipeline, RejectedError, Request, chunk_text, run_pipeline
from pipeline_engine.testing import ScriptedModel


class Notes(BaseModel):
    lines: list[str]


pipeline = Pipeline("long-text", inputs={"document": str})


@pipeline.step
def chunks(document: str) -> list[Chunk]:
    return chunk_text(document, max_chars=40)


@pipeline.llm("fast", Notes, each=chunks, on_error=Drop(at_most=1))
def notes(chunk: Chunk) -> str:
    return f"Note what matters in this passage: {chunk.text}"


@pipeline.step
def digest(notes: list[Notes]) -> str:
    return " | ".join(line for note in notes for line in note.lines)


def answer(request: Request) -> object:
    passage = request.messages[0].text.partition(": ")[2].strip()
    if "storm" in passage:
        return RejectedError("was stopped by its content filter.", model="scripted:model", kind="filter")
    return Notes(lines=[passage.partition(".")[0]])


document = "The harbour wakes at five. Boats leave.\n\nA storm comes up at noon.\n\nAll are home by six. Fish is sold."
result = run_pipeline(pipeline, {"document": document}, models={"fast": ScriptedModel({"notes": answer}, latency=0.05)})

print(result[digest])
for place, outcome in enumerate(result.items(notes)):
    print(place, outcome)
print()
print(result.trace.waterfall(width=90))
