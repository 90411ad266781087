"""Looking at a journal: batches, documents, all that has happened to one, and results without the pipeline's code."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_engine import (
    Completion,
    Document,
    Embeddings,
    MemoryJournal,
    Pipeline,
    Usage,
    iter_batch,
    run_batch,
    run_pipeline,
)
from pipeline_engine.errors import JournalFileError
from pipeline_engine.journal import batch_results, journal_place, read_journal
from pipeline_engine.journal.rows import SqliteRows, bodies, pages
from pipeline_engine.report import Trace
from pipeline_engine.schedule import unpack_prompt
from pipeline_engine.values import unpack_records
from tests.behaviour.paying import PaidModel

LONG = "A sentence of the document. " * 40
HOSTILE = "\x1b[31mred\x00 \ud800 \u202etfel"


def pipeline_of_notes(title="Title of"):
    pipeline = Pipeline("notes", inputs={"document": str})

    @pipeline.llm("fast", str)
    def headline(document: str) -> str:
        return f"{title}: {document}"

    @pipeline.step(version="1")
    def parts(document: str) -> list[str]:
        return document.split("|")

    @pipeline.llm("fast", str, each=parts)
    def note(part: str) -> str:
        return f"Note on {part}"

    @pipeline.llm("fast", str)
    def summary(headline: str, note: list[str]) -> str:
        return f"Sum up {headline} and {note}"

    return pipeline


def model(answer=str.upper):
    return {"fast": PaidModel(answer, seconds=0)}


def failing_on(word):
    def answer(prompt):
        return ValueError(f"no answer to {word}") if word in prompt else "fine"

    return answer


@pytest.fixture(params=["memory", "file", "postgres"])
def journal(request, tmp_path):
    if request.param == "memory":
        return MemoryJournal()
    return tmp_path / "runs.db" if request.param == "file" else request.getfixturevalue("postgres")


@pytest.fixture
def reader(journal):
    """Open the journal once it has been written."""
    opened = []

    def open_reader():
        manager = read_journal(journal_place(journal))
        opened.append(manager)
        return manager.__enter__()

    yield open_reader
    for manager in opened:
        manager.__exit__(None, None, None)


def test_a_batch_tells_its_counts_and_what_it_has_spent(journal, reader):
    """Who comes back in the morning asks this first."""
    documents = [Document(name, {"document": name}) for name in ("a", "b", "bad")]
    run_batch(pipeline_of_notes(), documents, models=model(failing_on("bad")), journal=journal)

    [batch] = reader().batches()

    assert (batch.pipeline, batch.state, batch.is_single) == ("notes", "done", False)
    assert batch.documents == {"completed": 2, "failed": 1}
    assert batch.calls == 6
    assert batch.cost.usd == 12.0
    assert batch.tokens == 12_000_000
    json.dumps(batch.told())


def test_a_run_comes_back_as_the_trace_that_it_was(journal, reader):
    """A report made next month shows what one made on the spot would have shown, failures and all."""
    documents = [Document(name, {"document": name}) for name in ("a", "b", "bad")]
    with iter_batch(pipeline_of_notes(), documents, models=model(failing_on("bad")), journal=journal) as results:
        traces = {result.document: result.trace for result in results}

    found = reader()
    batch = found.batch("last")
    runs = list(found.runs(batch.batch))

    assert {run.document: Trace.from_records(unpack_records(run.records)) for run in runs} == traces
    assert [run.run for run in found.runs_of(batch.pipeline, "bad")] == [traces["bad"].run_id]
    assert list(found.runs("another batch")) == []


def test_what_was_restored_leaves_no_run_behind(journal, reader):
    """A batch that found all done has taken no time: its report has nothing to draw."""
    documents = [Document(name, {"document": name}) for name in ("a", "b")]
    for _ in range(2):
        run_batch(pipeline_of_notes(), documents, models=model(), journal=journal)

    found = reader()
    assert [len(list(found.runs(batch.batch))) for batch in found.batches()] == [0, 2]


def test_batches_are_found_by_the_beginning_of_their_id(journal, reader):
    """Nobody types a whole id."""
    for name in ("a", "b"):
        run_batch(pipeline_of_notes(), [Document(name, {"document": name})], models=model(), journal=journal)
    found = reader()
    latest, first = found.batches()

    assert found.batch("last") == latest
    assert found.batch(first.batch) == first
    assert found.batch(first.batch[:-1]) == first
    with pytest.raises(LookupError, match=f"several batches begin with '2'.*'{latest.batch}', '{first.batch}'"):
        found.batch("2")
    with pytest.raises(LookupError, match="there is no batch 'x'"):
        found.batch("x")


def test_an_empty_journal_says_that_it_has_no_batch(reader):
    """In memory it may be looked at before anything was run."""
    with read_journal(MemoryJournal()) as found, pytest.raises(LookupError, match="no batch in this journal yet"):
        found.batch("last")


def test_the_last_batch_is_one_of_many_documents_rather_than_a_single_run(journal, reader):
    """A request that a web server has answered meanwhile is not what somebody wants to see."""
    run_batch(pipeline_of_notes(), [Document("a", {"document": "a"})], models=model(), journal=journal)
    run_pipeline(pipeline_of_notes(), {"document": "b"}, models=model(), journal=journal)

    assert not reader().batch("last").is_single


def test_documents_come_in_pages_however_many_there_are(journal, reader):
    """A journal of millions is not held in memory."""
    documents = [Document(f"{number:04}", {"document": "x"}) for number in range(510)]
    pipeline = Pipeline("plain", inputs={"document": str})

    @pipeline.step(version="1")
    def same(document: str) -> str:
        return document

    batch = run_batch(pipeline, documents, journal=journal)
    found = reader()

    assert [document.document for document in found.documents("plain")] == [document.key for document in documents]
    assert len(list(found.documents("plain", batch.batch, ["completed"]))) == 510
    assert list(found.documents("plain", batch.batch, ["failed"])) == []
    assert [document.document for document in found.sample("plain", 3)] == ["0000", "0170", "0340"]


def test_a_document_is_found_by_a_part_of_its_key(journal, reader):
    """Keys are mostly paths, and what people know is the file's name."""
    documents = [Document(name, {"document": "x"}) for name in ("docs/a_1.md", "docs/ab1.md", "docs/b.md")]
    run_batch(pipeline_of_notes(), documents, models=model(), journal=journal)
    found = reader()

    assert found.document("notes", "a_1.md").document == "docs/a_1.md"
    assert found.document("notes", "docs/b").document == "docs/b.md"
    with pytest.raises(LookupError, match=r"several documents.*'docs/a_1.md', 'docs/ab1.md'"):
        found.document("notes", "docs/a")
    with pytest.raises(LookupError, match="has no document '%'"):
        found.document("notes", "%")


def test_a_history_has_every_attempt_and_what_came_of_it(journal, reader):
    """A refused attempt, a reply, and one whose process was gone before its end was told."""
    answers = iter([ConnectionError("reset"), *["fine"] * 5])
    run_batch(
        pipeline_of_notes(),
        [Document("a", {"document": "x|y"})],
        models=model(lambda _prompt: next(answers)),
        journal=journal,
        capacity=1,
    )
    found = reader()

    history = found.history(found.document("notes", "a"))

    states = [attempt.state for attempt in history.attempts]
    assert sorted(states) == ["failed", "replied", "replied", "replied", "replied"]
    failed = next(attempt for attempt in history.attempts if attempt.state == "failed")
    assert (failed.attempt, failed.message, failed.call) == (1, "reset", None)
    assert {output.step: output.via for output in history.outputs} == dict.fromkeys(history.outcomes["steps"])
    assert [output.item for output in history.outputs if output.step == "note"] == [0, 1]
    assert sum(attempt.cost.usd for attempt in history.attempts if attempt.cost) == 8.0
    json.dumps([attempt.told() for attempt in history.attempts])


def test_an_attempt_without_an_end_is_unknown_once_its_process_is_dead(tmp_path):
    """It may have been billed, and nobody must believe that it was not."""
    program = """
import os, trio
from tests.journal.test_reading import pipeline_of_notes, Document, run_batch
class Deadly:
    name = "deadly"
    async def complete(self, request):
        await trio.sleep(0.2)
        os._exit(9)
run_batch(pipeline_of_notes(), [Document("a", {"document": "x"})], models={"fast": Deadly()}, journal="runs.db")
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=False, timeout=60)

    with read_journal(journal_place(tmp_path / "runs.db")) as found:
        assert found.batch("last").state == "interrupted"
        document = found.document("notes", "a")
        attempts = found.history(document).attempts

    assert document.status == "processing"
    assert "unknown" in {attempt.state for attempt in attempts}


def test_prompts_come_back_as_they_were_sent(journal, reader):
    """A prompt names the parts of the document that it has; what is shown is the whole."""
    paid = PaidModel(seconds=0)
    run_batch(pipeline_of_notes(), [Document("a", {"document": LONG})], models={"fast": paid}, journal=journal)
    found = reader()
    document = found.document("notes", "a")

    [body] = found.replies(document, "headline")

    assert len(body.prompt) < 200
    assert unpack_prompt(body.prompt, found.inputs) == [["user", f"Title of: {LONG}"]]
    assert json.loads(body.reply)["text"] == f"Title of: {LONG}".upper()
    assert body.is_intact


def test_a_prompt_whose_document_is_gone_says_so(journal, reader):
    """After a pruning, the reply is there and the prompt is not."""
    run_batch(pipeline_of_notes(), [Document("a", {"document": LONG})], models=model(), journal=journal)
    found = reader()
    [body] = found.replies(found.document("notes", "a"), "headline")

    with pytest.raises(LookupError, match="the document's 'document' is not in the journal"):
        unpack_prompt(body.prompt, {}.get)


def test_replies_of_one_item_can_be_asked_for(journal, reader):
    """A mapped step over a thousand chunks has a thousand prompts."""
    run_batch(pipeline_of_notes(), [Document("a", {"document": "x|y|z"})], models=model(), journal=journal)
    found = reader()
    document = found.document("notes", "a")

    assert [body.item for body in found.replies(document, "note")] == [0, 1, 2]
    [body] = found.replies(document, "note", 1)
    assert unpack_prompt(body.prompt, found.inputs) == [["user", "Note on y"]]


def test_results_are_those_that_the_runs_have_had(journal, tmp_path):
    """A batch without `out=` gives them back from its journal, and needs none of the pipeline's code."""
    documents = [Document(name, {"document": f"{name}|x"}) for name in ("a", "b", "bad")]
    out = tmp_path / "out.jsonl"
    models = model(failing_on("bad"))
    run_batch(pipeline_of_notes(), documents, models=models, journal=journal, out=out)

    batch = run_batch(pipeline_of_notes(), documents, models=models, journal=journal)

    told = sorted((json.loads(line) for line in out.read_text().splitlines()), key=lambda told: told["document"])
    kept = list(batch.results)
    assert [result["outputs"] for result in kept] == [result["outputs"] for result in told]
    assert [result["status"] for result in kept] == ["completed", "completed", "failed"]
    assert "no answer to bad" in kept[2]["errors"]["headline"]


def test_results_of_an_earlier_batch_are_those_that_no_later_one_has_asked_for(journal, reader):
    """A document has one state in a journal, not one for each batch."""
    documents = [Document(name, {"document": name}) for name in ("a", "b")]
    first = run_batch(pipeline_of_notes(), documents, models=model(), journal=journal)
    second = run_batch(pipeline_of_notes(), documents[1:], models=model(), journal=journal)

    assert [result["document"] for result in first.results] == ["a"]
    assert [result["document"] for result in second.results] == ["b"]
    assert len(list(batch_results(reader(), "last"))) == 1


def test_a_batch_with_neither_journal_nor_file_has_no_results():
    """The error says what would have kept them."""
    batch = run_batch(pipeline_of_notes(), [{"document": "a"}], models=model())

    with pytest.raises(LookupError, match="journal="):
        batch.results  # noqa: B018


def test_vectors_of_an_embed_step_come_back_in_one_list(journal):
    """They were kept batch by batch."""
    pipeline = Pipeline("vectors", inputs={"texts": list})

    @pipeline.embed("small")
    def vectors(texts: list) -> list[str]:
        return texts

    class Small:
        name, max_texts = "small", 2

        async def embed(self, texts, *, connect_timeout=None):
            return Embeddings(tuple([float(len(text))] for text in texts), usage=Usage(1))

    batch = run_batch(pipeline, [{"texts": ["a", "bb", "ccc"]}], models={"small": Small()}, journal=journal)

    assert next(iter(batch.results))["outputs"] == {"vectors": [[1.0], [2.0], [3.0]]}


def test_hostile_names_and_texts_come_back_as_they_were(journal, reader):
    """Databases refuse NUL and lone surrogates; a journal must not."""
    run_batch(
        pipeline_of_notes(),
        [Document(HOSTILE, {"document": HOSTILE})],
        models=model(lambda _prompt: Completion(HOSTILE)),
        journal=journal,
    )
    found = reader()
    document = found.document("notes", HOSTILE)

    [body] = found.replies(document, "headline")
    assert document.document == HOSTILE
    assert unpack_prompt(body.prompt, found.inputs) == [["user", f"Title of: {HOSTILE}"]]


def test_a_damaged_entry_does_not_keep_the_others_from_being_seen(tmp_path):
    """Who looks for the damage needs the rest of the picture."""
    path = tmp_path / "runs.db"
    run_batch(pipeline_of_notes(), [Document("a", {"document": LONG})], models=model(), journal=path)
    with sqlite3.connect(path) as connection:
        connection.execute("update documents set outcomes = cast('{' as blob)")
        connection.execute("update blobs set body = cast('x' as blob)")
        connection.execute("update calls set reply = cast('x' as blob)")
    connection.close()

    with read_journal(journal_place(path)) as found:
        document = found.document("notes", "a")
        assert found.history(document).outcomes == {}
        assert found.inputs(document.inputs) is None
        assert [body.is_intact for body in found.replies(document, "headline")] == [False]


def test_somebody_else_s_journal_that_cannot_be_looked_at_says_so():
    """A journal object of a user's own needs no more than `open` and `close`."""
    with pytest.raises(JournalFileError, match=r"no open_to_read\(\)"), read_journal(object()):
        pass


def test_pages_and_bodies_give_every_row_once(tmp_path, monkeypatch):
    """Page after page by the key, and few megabytes at a time."""
    path = tmp_path / "runs.db"
    documents = [Document(f"{number}", {"document": str(number)}) for number in range(23)]
    run_batch(pipeline_of_notes(), documents, models=model(), journal=path)
    monkeypatch.setattr("pipeline_engine.journal.rows._GROUP_BYTES", 50)
    rows = SqliteRows(path)

    keys = [row for page in pages(rows, ("document",), "documents", ("pipeline", "document"), size=5) for row in page]
    read = list(bodies(rows, "calls", ("pipeline", "document", "call_key"), "reply", "step"))
    rows.close()

    assert keys == sorted((document.key,) for document in documents)
    assert len({key for key, _, _ in read}) == len(read) == 23 * 3
    assert all(body.startswith(b"{") for _, body, _ in read)


def test_results_are_those_of_the_version_that_ran_last(journal):
    """An edit that is taken back brings its outputs back, too, and they are older than the others."""
    documents = [Document("a", {"document": "x"})]

    for title in ("A", "B", "A"):
        batch = run_batch(pipeline_of_notes(title), documents, models=model(), journal=journal)

        assert [result["outputs"]["headline"] for result in batch.results] == [f"{title}: X"]
