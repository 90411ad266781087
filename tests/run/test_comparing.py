"""Two batches, wherever they were kept: each is told as it was, or said to be known no more."""

import json
from pathlib import Path

import pytest

from pipeline_engine import Document, MemoryJournal, Pipeline, compare, iter_batch, run_batch
from pipeline_engine.testing import ScriptedModel, http_error

DOCUMENTS = [Document(f"{name}.md", {"document": f"text {name}"}) for name in "abc"]


def pipeline_of(version):
    """Two steps, the second of which has another prompt in each version."""
    pipeline = Pipeline("article", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return f"Title?\n\n{document}"

    @pipeline.llm("fast", str, retry=None)
    def summary(document: str, title: str) -> str:
        return f"Summary, version {version}, of {title}?\n\n{document}"

    return pipeline


def run(version, journal=None, **options):
    model = ScriptedModel({"title": "A title", "summary": f"summary {version}"})
    return run_batch(pipeline_of(version), DOCUMENTS, models={"fast": model}, journal=journal, **options)


def summaries(comparison):
    """Return how the first document's summary is told to differ."""
    [step] = comparison.differences[0].steps
    return step.text_a, step.text_b


def counts(comparison):
    return {
        step.step: (step.equal, step.different, step.unknown, step.restored_a, step.restored_b)
        for step in comparison.steps
    }


def test_batches_of_one_journal_are_told_apart_although_a_document_has_one_state_there():
    """A prompt is edited in the same journal again and again: what it brought is asked for afterwards."""
    journal = MemoryJournal()
    first, second, third = (run(version, journal) for version in (1, 2, 3))

    assert summaries(compare(first, second)) == ("summary 1", "summary 2")
    assert summaries(compare(second, third)) == ("summary 2", "summary 3")
    assert counts(compare(first, third)) == {"title": (3, 0, 0, 0, 3), "summary": (0, 3, 0, 0, 0)}


def test_a_version_that_came_back_is_found_in_the_batch_that_had_made_it_first():
    """Its output was accepted once more, by a later batch: told by the run alone, the first one would have lost it."""
    journal = MemoryJournal()
    first, second, again = (run(version, journal) for version in (1, 2, 1))

    assert summaries(compare(first, second)) == ("summary 1", "summary 2")
    assert summaries(compare(second, again)) == ("summary 2", "summary 1")
    assert compare(first, again).different == 0


def run_function(version, journal, *, other=1):
    pipeline = Pipeline("numbers", inputs={"document": str})

    @pipeline.step(version=str(version))
    def shouted(document: str) -> str:
        return f"{document} {version}"

    @pipeline.step(version=str(other))
    def counted(document: str) -> int:
        return len(document) + other

    return run_batch(pipeline, DOCUMENTS, journal=journal)


def test_what_a_function_has_made_is_told_although_no_call_says_when():
    """It was made anew by the run, so that nothing which was there before can be it."""
    journal = MemoryJournal()
    first, second, _back = (run_function(version, journal) for version in (1, 2, 1))

    assert counts(compare(first, second))["shouted"] == (0, 3, 0, 0, 0)


def test_what_cannot_be_told_for_certain_is_not_told():
    """A function's output that came back later may have stood there in between: a guess would be a false result."""
    journal = MemoryJournal()
    first, _second = run_function(1, journal), run_function(2, journal)
    between = run_function(2, journal, other=2)
    run_function(1, journal)

    assert counts(compare(first, between))["shouted"] == (0, 0, 3, 0, 3)


def test_a_batch_that_found_all_done_has_the_results_until_a_later_one_asks():
    """It has run nothing: what it knows of its documents is what stands there."""
    journal = MemoryJournal()
    first, idle = run(1, journal), run(1, journal)

    assert counts(compare(first, idle)) == {"title": (3, 0, 0, 0, 3), "summary": (3, 0, 0, 0, 3)}

    run(2, journal)
    with pytest.raises(LookupError, match="has run nothing itself, or its runs were pruned, and later batches"):
        compare(first, idle)


def test_a_batch_that_has_not_come_to_its_end_is_said_to_have_not():
    """Somebody compares while the second one still runs, and takes half of it for the whole."""
    journal = MemoryJournal()
    first = run(1, journal)
    model = ScriptedModel({"*": "x"}, latency=lambda step: 0.0 if step.document == DOCUMENTS[0].key else 3600.0)
    with iter_batch(pipeline_of(1), DOCUMENTS, models={"fast": model}, journal=journal) as results:
        next(results)

    notes = compare("previous", "last", journal=journal).notes

    [note] = [note for note in notes if "is not done" in note]
    assert first.batch not in note


def test_batches_are_found_by_name_in_one_journal_or_in_two(tmp_path):
    """Ids are long; most comparisons are of the last batch with the one before."""
    one, other = tmp_path / "one.db", tmp_path / "other.db"
    first, second, third = run(1, one), run(2, one), run(3, other)

    assert summaries(compare("previous", "last", journal=one)) == ("summary 1", "summary 2")
    assert summaries(compare("last", first.batch, journal=one)) == ("summary 2", "summary 1")
    comparison = compare("last", "last", journal=one, other_journal=other)
    assert summaries(comparison) == ("summary 2", "summary 3")
    assert (comparison.name_a, comparison.name_b) == (second.batch, third.batch)


@pytest.mark.parametrize(
    ("a", "b", "why"),
    [
        ("previous", "previous", '"previous" is the batch before another one'),
        ("previous", "last", "there is no batch of pipeline 'article' before"),
        ("nothing", "last", "there is no batch 'nothing'"),
    ],
)
def test_a_batch_that_is_not_there_is_said_to_be_missing(a, b, why):
    """The next thing that the reader does is to look for the right name."""
    journal = MemoryJournal()
    run(1, journal)

    with pytest.raises(LookupError, match=why):
        compare(a, b, journal=journal)


def test_a_name_without_a_journal_is_refused():
    """It could be a file whose name was mistyped."""
    with pytest.raises(LookupError, match=r"'before.jsonl' is no file, and a batch is looked up in a journal"):
        compare("before.jsonl", "after.jsonl")


def test_files_of_results_and_of_rows_serve_as_well_and_rows_have_figures(tmp_path):
    """Who keeps no journal has kept a file; rows hold what each step took."""
    first = run(1, out=tmp_path / "1.jsonl", rows=tmp_path / "1.rows")
    run(2, out=tmp_path / "2.jsonl", rows=tmp_path / "2.rows")

    results = compare(first, tmp_path / "2.jsonl")
    rows = compare(tmp_path / "1.rows", str(tmp_path / "2.rows"))

    assert summaries(results) == summaries(rows) == ("summary 1", "summary 2")
    assert dict(results.figures) == {}
    assert rows.figures["attempts"].total_a == 6
    assert rows.steps[1].figures["seconds"].count == 3


def test_results_at_hand_can_be_compared_without_any_file():
    """In a notebook two lists of results are all there is."""
    models = [ScriptedModel({"title": "A title", "summary": answer}) for answer in (http_error(400), "a summary")]
    both = [list(iter_batch(pipeline_of(1), DOCUMENTS[:1], models={"fast": model})) for model in models]

    comparison = compare(*both)

    assert comparison.different == 1
    assert comparison.statuses[("failed", "completed")] == 1
    assert comparison.steps[1].outcomes == {("failed", "completed"): 1}
    assert compare(both[1], [result.to_dict() for result in both[1]]).equal == 1


def test_a_line_that_was_cut_off_is_left_out_and_one_that_is_wrong_is_named(tmp_path):
    """A run that was killed leaves half a line; a file of something else must not look like an empty batch."""
    good = json.dumps({"document": "a", "status": "completed", "outputs": {"x": 1}, "errors": {}})
    cut, wrong, other = (tmp_path / name for name in ("cut", "wrong", "other"))
    cut.write_text(f'{good}\n{{"docu')
    wrong.write_text(f"{good}\nnonsense\n")
    other.write_text('{"name": "x"}\n')

    assert compare(cut, cut).documents == 1
    with pytest.raises(ValueError, match=r"line 2 of '.*wrong' is no JSON"):
        compare(wrong, cut)
    with pytest.raises(ValueError, match=r"line 1 of '.*other' is neither a result nor a row"):
        compare(cut, other)


def test_what_was_run_in_several_goes_is_added_up():
    """A batch that was interrupted has paid in each of its runs, and its result is that of the last one."""
    journal = MemoryJournal()
    pipeline = pipeline_of(1)
    broken = ScriptedModel({"title": "A title", "summary": http_error(400)})
    run_batch(pipeline, DOCUMENTS, models={"fast": broken}, journal=journal)
    mended = ScriptedModel({"title": "A title", "summary": "summary"})
    after = run_batch(pipeline, DOCUMENTS, models={"fast": mended}, journal=journal, redo="failed")

    comparison = compare(after, after)

    assert comparison.equal == 3
    assert comparison.steps[0].restored_a == 3
    assert comparison.steps[1].figures["attempts"].total_a == 3


def test_mapped_steps_are_compared_as_lists_without_the_items_that_were_lost():
    """That is what the steps after them were given."""
    from pipeline_engine import Drop

    def run_mapped(lost):
        pipeline = Pipeline("mapped", inputs={"items": list[str]})

        @pipeline.step(each="items", on_error=Drop(1))
        def shouted(item: str) -> str:
            if item == lost:
                raise ValueError(item)
            return item.upper()

        return run_batch(pipeline, [Document("1", {"items": ["a", "b", "c"]})], journal=MemoryJournal())

    comparison = compare(run_mapped("b"), run_mapped("none"))

    assert summaries(comparison) == ('["A","C"]', '["A","B","C"]')


def test_vectors_come_back_as_the_list_that_the_step_has_given():
    """A journal keeps them in batches, as providers take them."""

    def run_vectors(count):
        pipeline = Pipeline("vectors", inputs={"document": str})

        @pipeline.embed("near")
        def vectors(document: str) -> list[str]:
            return [document] * count

        model = ScriptedModel(max_texts=2)
        return run_batch(pipeline, DOCUMENTS[:1], models={"near": model}, journal=MemoryJournal())

    comparison = compare(run_vectors(3), run_vectors(2))

    assert [len(json.loads(text)) for text in summaries(comparison)] == [3, 2]


def test_labels_may_be_a_file(tmp_path):
    """They are made in a spreadsheet, by people."""
    path = tmp_path / "labels.csv"
    path.write_text("document,summary,title\na.md,summary 2,\nb.md,summary 1,A title\n", encoding="utf-8-sig")
    journal = MemoryJournal()

    labels = compare(run(1, journal), run(2, journal), labels=path).labels

    assert [(one.name, one.count, one.right_a, one.right_b) for one in labels] == [
        ("summary", 2, 1, 1),
        ("title", 1, 1, 1),
    ]


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("labels.csv", "document,x\n,2\n", "line 2 of '.*' names no document"),
        ("labels.csv", "key,x\n1,2\n", "has no column 'document', but 'key' and 'x'"),
        ("labels.csv", "document;x\n1;2\n", "'document;x'. Its first line names the columns, with commas between"),
        ("labels.jsonl", "\udcff\udcfe", "'.*' holds no labels: .* Give lines of JSON, or CSV, in UTF-8"),
        ("labels.jsonl", '{"document": "1", "x": 1}\n\n{"document": "1", "x": 2}\n', "line 3 of .* a second time"),
        ("labels.jsonl", "[1]\n", "line 1 of .* names no document"),
        ("labels.jsonl", "{'x'}\n", "line 1 of .* is no JSON"),
    ],
)
def test_a_file_of_labels_that_is_wrong_names_the_line(tmp_path, name, text, why):
    """A label that silently counts for nothing would change the result."""
    path = tmp_path / name
    path.write_text(text, errors="surrogateescape")

    with pytest.raises(ValueError, match=why):
        compare([], [], labels=Path(path))
