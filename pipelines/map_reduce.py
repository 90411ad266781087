"""Summarise documents of any length: cut into chunks, take notes on each at the same time, write one summary."""

from pydantic import BaseModel, Field

from pipeline_engine import Drop, Pipeline, Policy, Retry, Timeout, chunk_text


class Note(BaseModel):
    """What one chunk says."""

    points: list[str] = Field(max_length=5)


class Summary(BaseModel):
    """What the whole document says."""

    text: str
    key_points: list[str] = Field(max_length=10)


pipeline = Pipeline(
    "map_reduce",
    inputs={"document": str},
    policy=Policy(retry=Retry(attempts=4), timeout=Timeout(attempt=60, step=600)),
)


# Chunks end at paragraphs where they can, and joined they are the document again: nothing is lost.
# Plain functions are steps, too. An async one runs without a thread, which is right for what is quick.
@pipeline.step
async def chunks(document: str) -> list[str]:
    return [chunk.text for chunk in chunk_text(document, max_chars=6000)]


# One call per chunk, all at once as far as there are slots. Each chunk has its own retries, and a
# tenth of them may be lost before the document is.
@pipeline.llm("fast", Note, each=chunks, on_error=Drop(at_most=0.1))
def notes(chunk: str) -> str:
    return f"Note up to five facts from this part of a longer document, one short sentence each.\n\n{chunk}"


# Asks for the list, so it waits for all of them; they come in the order of the document.
@pipeline.llm("strong", Summary)
def summary(notes: list[Note]) -> str:
    facts = "\n".join(f"- {point}" for note in notes for point in note.points)
    return f"These notes were taken from one document, in its order. Summarise it, then list its key points.\n\n{facts}"
