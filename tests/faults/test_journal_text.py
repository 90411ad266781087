"""Text that databases, terminals and browsers stumble over, through every kind of step into every journal and back."""

import json
import sqlite3

import pytest
import trio
from pydantic import BaseModel

from pipeline_engine import Completion, Drop, Embeddings, Engine, MemoryJournal, Pipeline, Policy, Retry, Usage
from pipeline_engine.errors import EarlierError
from pipeline_engine.journal import PostgresJournal, SqliteJournal
from pipeline_engine.values import Failed

HOSTILE = {
    "NUL": "a\0b\0",
    "a lone surrogate": "a\ud800b",
    "two halves of a character": "\ud83d|\ude00 \udc00",
    "terminal escapes": "\x1b[2J\x1b]0;owned\x07\x9b31m\r\n\b",
    "right to left": "\u202egnp.exe\u202c \u2066\u200f\ufeff",
    "a page": "</script><script>alert('1')</script><!-- & \u2028\u2029",
    "SQL": "'; drop table calls; -- %s ? %(a)s {} \\",
    "the mark of escaped names": '\ue000\ue000"',
    "five thousand digits": "9" * 5000,
    "a deep list": "[" * 100_000 + "]" * 100_000,
    "a long text": "é\0" * 20_000,
    "nothing": "",
}
STORES = ("memory", "sqlite", "postgres")


class Said(BaseModel):
    text: str
    more: dict[str, list[str]]


class Echo:
    """A model that repeats what it is told, and stops the run at the last question of all."""

    name = "echo:model"
    max_texts = 2

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.interrupt = None

    async def complete(self, request):
        step, _, text = request.messages[0].text.partition(":")
        self.calls.append(step)
        await trio.lowlevel.checkpoint()
        if step == "last" and self.interrupt is not None:
            self.interrupt()
            await trio.sleep_forever()
        if step == "said" and len(request.messages) > 1:
            return Completion(json.dumps({"text": text, "more": {"more": [text]}}), usage=Usage(1, 1))
        if step == "dropped":
            return Completion(None, "refusal", refusal=text, usage=Usage(1, 1))
        return Completion(text, usage=Usage(1, 1), model=text[:50], request_id=text[:50])

    async def embed(self, texts, *, connect_timeout=None):
        self.calls.append("embed")
        await trio.lowlevel.checkpoint()
        return Embeddings([[float(len(text)), 0.1] for text in texts], usage=Usage(1, 0))


def pipeline_of(text):
    """Return a pipeline in which a text goes through everything that a journal keeps."""
    pipeline = Pipeline("hostile", inputs={"document": str}, policy=Policy(retry=Retry(attempts=1, repair=1)))

    @pipeline.llm("echo", str)
    def plain(document: str) -> str:
        return f"plain:{document}"

    @pipeline.llm("echo", Said, fallback=Said(text=text, more={"more": [text]}))
    def said(document: str) -> str:
        return f"said:{document}"

    @pipeline.step
    def parts(plain: str) -> list[str]:
        return [plain, plain[:3], plain]

    @pipeline.step
    def anything(parts: list[str]) -> dict[str, list[str]]:
        return {parts[0]: parts}

    @pipeline.llm("echo", str, each=parts)
    def mapped(part: str) -> str:
        return f"mapped:{part}"

    @pipeline.llm("echo", str, each=parts, on_error=Drop(at_most=3))
    def dropped(part: str) -> str:
        return f"dropped:{part}"

    @pipeline.llm(output=str, cascade=["echo", "other"], accept=lambda output: not output)
    def cascaded(document: str) -> str:
        return f"cascaded:{document}"

    @pipeline.embed("embedder")
    def vectors(parts: list[str]) -> list[str]:
        return parts

    @pipeline.step
    def failing(document: str) -> str:
        raise LookupError(document)

    @pipeline.step
    def number(document: str) -> int:
        return 10**5000 if document.isdigit() else len(document)

    @pipeline.llm("echo", str)
    def last(
        mapped: list[str], dropped: list[str], cascaded: str, vectors: list[list[float]], anything: dict[str, list[str]]
    ) -> str:
        return f"last:{len(mapped)} {len(dropped)} {len(cascaded)} {len(vectors)} {len(anything)}"

    return pipeline


@pytest.fixture(params=STORES)
def place(request, tmp_path):
    """A journal of each kind in turn."""
    if request.param == "memory":
        return MemoryJournal()
    if request.param == "sqlite":
        return SqliteJournal(tmp_path / "runs.db")
    return PostgresJournal(request.getfixturevalue("postgres"))


def shape(result):
    """Return all that a result says, the words of errors included."""
    errors = {
        step.name: str(outcome.error)
        for step in result.plan.steps
        if isinstance(outcome := result.outcome(step.name), Failed)
    }
    return result.status, result.outputs, errors, result.to_dict()["outputs"]


async def run(text, model, place=None, *, is_interrupted=False):
    """Run one document, whose key is as hostile as its text; return its result, or None if it was interrupted."""
    models = {"echo": model, "other": model, "embedder": model}
    with trio.CancelScope() as scope:
        model.interrupt = scope.cancel if is_interrupted else None
        async with Engine(models=models, seed=1) as engine:
            return await engine.run(pipeline_of(text), {"document": text}, key=f"key {text}", journal=place)
    return None


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_resumed_run_is_exactly_like_one_that_was_not_interrupted(place, name):
    """Databases refuse some text and change other text; whoever resumes must not notice."""
    text = HOSTILE[name]
    model, other = Echo(), Echo()
    told = shape(await run(text, other))
    interrupted = await run(text, model, place, is_interrupted=True)
    asked = len(model.calls)
    resumed = await run(text, model, place)
    calls_of_the_resume = model.calls[asked:]
    again = await run(text, model, place)

    assert interrupted is None
    assert shape(resumed) == told
    assert shape(again) == told
    assert calls_of_the_resume == ["last"]
    assert sorted(model.calls[:asked]) == sorted(other.calls)


@pytest.mark.parametrize("name", HOSTILE)
async def test_the_journal_can_be_read_afterwards(tmp_path, name):
    """One document must not spoil what is kept of all others."""
    text = HOSTILE[name]
    place = SqliteJournal(tmp_path / "runs.db")
    await run(text, Echo(), place)
    await run("harmless", Echo(), place)
    connection = sqlite3.connect(tmp_path / "runs.db")
    found = connection.execute("pragma integrity_check").fetchall()
    bodies = connection.execute(
        "select reply from calls union all select output from step_outputs where length(output) > 0"
    )
    parsed = [json.loads(body) for (body,) in bodies]
    names = connection.execute("select document, reason from documents").fetchall()
    connection.close()

    assert found == [("ok",)]
    assert len(parsed) > 20
    assert len(names) == 2
    assert all("\0" not in part for row in names for part in row)


async def test_an_error_that_a_journal_tells_is_an_error_of_ours():
    """What an earlier run has failed with is no exception class that could be looked up, imported or run."""
    place, model = MemoryJournal(), Echo()
    await run("x", model, place)
    restored = await run("x", model, place)

    assert isinstance(restored.outcome("failing").error, LookupError | EarlierError)
