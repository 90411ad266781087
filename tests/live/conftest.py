"""A journal with a batch in it, some of whose texts are hostile."""

import pytest

from pipeline_engine import Document, Pipeline, run_batch
from pipeline_engine.errors import RejectedError
from pipeline_engine.testing import ScriptedModel

HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>\x1b[31m\u202e'


def a_pipeline(name="notes"):
    pipeline = Pipeline(name, inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"Title?\n\n{document}"

    @pipeline.llm("fast", str)
    def summary(document: str, title: str) -> str:
        return f"Summary of {title}?\n\n{document}"

    @pipeline.step
    def words(document: str) -> list[str]:
        return document.split()

    @pipeline.llm("fast", str, each=words)
    def note(word: str) -> str:
        return f"Note on {word}?"

    return pipeline


def fill(path, text="Some text.", reply="A reply.", error="no such thing", keys=("a.md", "b.md", "c.md")):
    """Run a batch whose last document fails."""
    fault = RejectedError(error, model="scripted:model", kind="not_found", status=404)

    def summarise(request):
        return fault if "FAILS" in request.messages[-1].text else reply

    model = ScriptedModel({"*": reply, "summary": summarise})
    documents = [Document(key, {"document": f"{text} {n}"}) for n, key in enumerate(keys[:-1])]
    documents.append(Document(keys[-1], {"document": f"{text} FAILS"}))
    return run_batch(a_pipeline(), documents, models={"fast": model}, journal=path)


@pytest.fixture
def journal(tmp_path):
    """The path of a journal with a batch of three documents, one of which has failed."""
    path = tmp_path / "runs.db"
    fill(path)
    return path
