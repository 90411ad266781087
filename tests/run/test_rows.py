"""Rows have one schema, whatever became of a step: a table needs the same columns in every row."""

import pytest

from pipeline_engine import (
    Document,
    Drop,
    Engine,
    MemoryJournal,
    Pipeline,
    Price,
    RejectedError,
    Usage,
    run_batch,
    run_pipeline,
)
from pipeline_engine.run.batch import BatchStream
from pipeline_engine.run.rows import COLUMNS, rows_of
from pipeline_engine.testing import Reply, ScriptedModel

NO = RejectedError("said no.", model="scripted:model", kind="invalid", status=400)


def papers():
    pipeline = Pipeline("papers", inputs={"document": str})

    @pipeline.step
    async def parts(document: str) -> list[str]:
        return document.split()

    @pipeline.llm("fast", str, each=parts, on_error=Drop(1))
    def note(part: str) -> str:
        return f"Note on {part}"

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return document

    @pipeline.llm("fast", str)
    def summary(title: str) -> str:
        return title

    @pipeline.llm("fast", str, fallback="none")
    def mood(document: str) -> str:
        return document

    @pipeline.step(when=lambda document: False)
    async def never(document: str) -> int:
        return 1

    return pipeline


def model(**answers):
    usage = Usage(10, 2)
    script = {"note": Reply("n", usage=usage), "title": Reply("t", usage=usage), "summary": "s", "mood": NO} | answers
    return ScriptedModel(script, price=Price(1, 1))


@pytest.fixture
def by_step():
    def rows(result):
        found = list(rows_of(result))
        assert [list(row) for row in found] == [list(COLUMNS)] * len(result.plan.steps)
        for row in found:
            for column, kind in COLUMNS.items():
                assert row[column] is None or type(row[column]) is kind, column
        return {row["step"]: row for row in found}

    return rows


def test_every_outcome_has_a_row_with_the_same_columns(by_step):
    """Completed, failed, skipped by choice and because of a failure, mapped with losses, by way of a fallback."""

    def refuse_b(request):
        return NO if request.messages[-1].text.endswith("b") else Reply("n", usage=Usage(10, 2))

    models = {"fast": model(note=refuse_b, title=NO)}
    rows = by_step(run_pipeline(papers(), {"document": "a b c"}, models=models))

    told = {step: (row["status"], row["via"], row["output"], row["error_kind"]) for step, row in rows.items()}
    assert told == {
        "parts": ("completed", None, '["a", "b", "c"]', None),
        "note": ("completed", None, '["n", "n"]', None),
        "title": ("failed", None, None, "RejectedError"),
        "summary": ("skipped", None, None, None),
        "mood": ("completed", "fallback:value", '"none"', None),
        "never": ("skipped", None, None, None),
    }
    assert rows["title"]["error"] == "model 'scripted:model' said no."
    assert rows["summary"]["error"] == "skipped, because 'title' has no output"
    assert rows["never"]["error"] is None
    assert (rows["note"]["items"], rows["note"]["items_lost"], rows["note"]["attempts"]) == (3, 1, 3)
    assert (rows["note"]["input_tokens"], rows["note"]["output_tokens"]) == (20, 4)


def test_what_nobody_knows_is_null_and_what_costs_nothing_is_zero(by_step):
    """Null and 0 are added up differently."""
    rows = by_step(run_pipeline(papers(), {"document": "a"}, models={"fast": model()}))

    figures = ("model", "attempts", "input_tokens", "output_tokens", "cost_usd")
    assert [rows["title"][figure] for figure in figures] == ["scripted:model", 1, 10, 2, 0.000012]
    assert [rows["summary"][figure] for figure in figures] == ["scripted:model", 1, None, None, None]
    assert [rows["parts"][figure] for figure in figures] == [None, 1, 0, 0, 0.0]
    assert [rows["never"][figure] for figure in figures] == [None, 0, 0, 0, 0.0]


def test_a_document_that_was_not_run_has_its_rows_too(by_step):
    """So that the number of rows is the number of documents times the number of steps."""
    [result] = run_batch(papers(), [Document("bad", {}, ValueError("no text"))], models={"fast": model()}).sample
    rows = by_step(result)

    assert {(row["document_status"], row["status"], row["error"], row["error_kind"]) for row in rows.values()} == {
        ("failed", "skipped", "no text", "ValueError")
    }


async def test_what_a_journal_had_costs_this_run_nothing(by_step):
    """The rows of two runs can be added up."""
    journal, documents = MemoryJournal(), [Document("a", {"document": "a"})]
    async with Engine(models={"fast": model()}) as engine:
        seen = []
        for _ in range(2):
            async with BatchStream(engine, engine.bind(papers()), documents, journal=journal) as results:
                seen += [by_step(result) async for result in results]
    first, second = seen

    assert {row["is_restored"] for row in first.values()} == {False}
    assert {row["is_restored"] for row in second.values()} == {True}
    assert second["title"] == first["title"] | {
        "is_restored": True, "run_id": second["title"]["run_id"], "model": None, "attempts": 0, "input_tokens": 0,
        "output_tokens": 0, "cost_usd": 0.0, "started_at": None, "seconds": None,
    }  # fmt: skip
