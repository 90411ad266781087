"""Ten documents, two slots; two documents fail twice and back off, and the other eight do not notice."""

from time import perf_counter

from pipeline_engine import (
    Document,
    Pipeline,
    Request,
    Retry,
    UnavailableError,
    compile_pipeline,
    current_step,
    iter_batch,
)
from pipeline_engine.testing import ScriptedModel

FLAKY = {"document-0", "document-1"}

pipeline = Pipeline("articles", inputs={"document": str})


@pipeline.llm("fast", str, retry=Retry(attempts=3, strategy="constant", base_delay=0.2, jitter="none"))
def title(document: str) -> str:
    return f"Give this document a title.\n\n{document}"


def answer(_request: Request) -> object:
    step = current_step()
    if step.document in FLAKY and step.attempt <= 2:
        return UnavailableError("failed (HTTP 500).", model="scripted:model", kind="server", status=500)
    return f"The title of {step.document}"


model = ScriptedModel({"title": answer}, latency=0.05)
documents = [Document(f"document-{number}", {"document": "A text."}) for number in range(10)]
plan = compile_pipeline(pipeline)
started = perf_counter()
with iter_batch(plan, documents, models={"fast": model}, capacity=2) as results:
    for result in results:
        attempts = result.trace["title"].attempts
        print(f"{perf_counter() - started:.2f} s  {result.document}  {attempts} attempt{'s' if attempts > 1 else ''}")
