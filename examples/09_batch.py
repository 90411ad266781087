"""A batch: bounded memory, a line of JSON for each document, and figures at the end."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline_engine import Document, Pipeline, RejectedError, Request, Usage, current_step, run_batch
from pipeline_engine.testing import Reply, ScriptedModel

pipeline = Pipeline("articles", inputs={"document": str})


@pipeline.llm("fast", str)
def title(document: str) -> str:
    return f"Give this document a title.\n\n{document}"


@pipeline.llm("fast", str)
def summary(document: str, title: str) -> str:
    return f"Summarise “{title}”.\n\n{document}"


def documents() -> Iterator[Document]:
    for number in range(40):
        yield Document(f"note-{number:02}", {"document": f"Note {number}: …"})


def answer(request: Request) -> object:
    if current_step().document == "note-13":
        return RejectedError("refused to answer.", model="scripted:model", kind="refusal")
    return Reply("Some words.", usage=Usage(input_tokens=len(request.messages[0].text), output_tokens=3))


with TemporaryDirectory() as folder:
    out = Path(folder, "results.jsonl")
    models = {"fast": ScriptedModel({"*": answer}, latency=0.03)}
    batch = run_batch(pipeline, documents(), models=models, capacity=16, out=out)
    lines = list(batch.results)

print("counts:", batch.counts, "in", f"{batch.elapsed:.2f} s")
print("usage: ", batch.usage)
print("failed:", batch.failed)
print("line:  ", lines[0])
for row in batch.trace.table():
    print({name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()})
