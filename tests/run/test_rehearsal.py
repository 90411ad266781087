"""What a changed pipeline would do with the documents of a journal, found out without doing it."""

import pytest
import trio

from pipeline_engine import Completion, Document, Engine, MemoryJournal, Pipeline, Price, run_batch
from pipeline_engine.journal import read_journal
from pipeline_engine.run.rehearsal import Rehearsal
from tests.behaviour.paying import PaidModel


def pipeline(title="Title of", summary="Sum up", words="1", check=None, executed=None):
    made = Pipeline("doc", inputs={"document": str})

    @made.llm("fast", str)
    def headline(document: str) -> str:
        return f"{title} {document}"

    @made.step(version=words)
    def parts(document: str) -> list[str]:
        if executed is not None:
            executed.append(document)
        return document.split()

    @made.llm("fast", str, each=parts, check=check)
    def note(part: str) -> str:
        return f"Note {part}"

    @made.llm("fast", str)
    def outline(headline: str, note: list[str]) -> str:
        return f"{summary} {headline} {note}"

    return made


@pytest.fixture
def journal():
    return MemoryJournal()


@pytest.fixture
def paid():
    return PaidModel(seconds=0)


def run(journal, model, made=None, texts=("a b", "c d")):
    documents = [Document(text, {"document": text}) for text in texts]
    return run_batch(made or pipeline(), documents, models={"fast": model}, journal=journal)


def rehearsed(journal, made, model):
    async def look():
        async with Engine() as engine:
            with read_journal(journal) as reader:
                rehearsal = Rehearsal(engine, engine.bind(made, {"fast": model}), reader)
                for document in reader.documents("doc"):
                    await rehearsal.look_at(document)
                return rehearsal

    return trio.run(look)


def told(rehearsal):
    return {name: (tally.kept, tally.again, tally.depends) for name, tally in rehearsal.steps.items()}


def test_an_unchanged_pipeline_keeps_everything(journal, paid):
    """Then the answer is: nothing."""
    run(journal, paid)

    found = rehearsed(journal, pipeline(), paid)

    assert told(found) == {"headline": (2, 0, 0), "parts": (2, 0, 0), "note": (4, 0, 0), "outline": (2, 0, 0)}
    assert (found.documents, found.touched) == (2, 0)


def test_a_changed_prompt_runs_its_step_again_and_all_else_depends(journal, paid):
    """Whether what follows is run again, only the new output can tell."""
    run(journal, paid)

    found = rehearsed(journal, pipeline(title="TITLE OF"), paid)

    assert told(found) == {"headline": (0, 2, 0), "parts": (2, 0, 0), "note": (4, 0, 0), "outline": (0, 0, 2)}
    assert found.price("headline") == (4.0, 0)
    assert found.steps["headline"].calls == {"paid:model": 2}


def test_what_it_says_is_what_a_run_does(journal, paid):
    """The number of calls that it names are those that are sent."""
    run(journal, paid)
    changed = pipeline(summary="Add up")

    found = rehearsed(journal, changed, paid)
    before = len(paid.sent)
    run(journal, paid, changed)

    assert len(paid.sent) - before == sum(found.steps["outline"].calls.values()) == 2
    assert told(found)["outline"] == (0, 2, 0)


def test_nothing_is_called_run_or_written(journal, paid):
    """Whoever asks what something costs has not ordered it."""
    run(journal, paid)
    executed = []
    with read_journal(journal) as reader:
        before = [reader.rows.query(f"select * from {table}") for table in ("documents", "calls", "step_outputs")]

    found = rehearsed(journal, pipeline(words="2", executed=executed), paid)

    with read_journal(journal) as reader:
        after = [reader.rows.query(f"select * from {table}") for table in ("documents", "calls", "step_outputs")]
    assert told(found)["parts"] == (0, 2, 0)
    assert told(found)["note"] == (0, 0, 2)
    assert len(paid.sent) == 8
    assert executed == []
    assert after == before


def test_an_edited_check_has_its_say_on_the_replies_that_are_there(journal, paid):
    """Only those that it refuses are asked again."""
    run(journal, paid)

    def no_b(note: str) -> bool:
        return "B" not in note

    found = rehearsed(journal, pipeline(check=no_b), paid)

    assert told(found)["note"] == (3, 1, 0)
    assert told(found)["outline"] == (1, 0, 1)


def test_a_document_that_failed_shows_what_is_missing(journal, paid):
    """With it, a pipeline that has changed is tried again from there."""
    run(journal, PaidModel(lambda prompt: ValueError("no") if "TITLE OF C" in prompt else prompt.upper(), seconds=0))

    assert told(rehearsed(journal, pipeline(), paid))["outline"] == (1, 1, 0)


def test_another_model_is_priced_by_its_own_price_and_the_tokens_so_far(journal, paid):
    """Its own replies nobody has seen yet."""
    run(journal, paid)
    dear = PaidModel(seconds=0, name="dear:model")
    dear.price = Price(input_usd=10.0, output_usd=20.0)

    found = rehearsed(journal, pipeline(), dear)

    assert found.price("headline") == (60.0, 0)
    assert found.price_of_one("outline") == 30.0


def test_a_price_that_nobody_knows_is_not_zero(journal):
    """Neither recorded nor told."""

    class Free:
        name = "free:model"

        async def complete(self, request):
            return Completion("x")

    run(journal, Free())

    found = rehearsed(journal, pipeline(title="T"), Free())

    assert found.price("headline") == (0.0, 2)
    assert found.price_of_one("headline") is None


def test_a_document_whose_inputs_were_not_kept_is_named(journal, paid):
    """Without its text there is no prompt to compare."""
    journal.documents = "none"
    run(journal, paid)

    found = rehearsed(journal, pipeline(), paid)

    assert found.not_stored == ["a b", "c d"]
    assert found.documents == 0


def test_changes_are_told_step_by_step(journal, paid):
    """The static half of the answer."""
    run(journal, paid)
    with read_journal(journal) as reader:
        parts = reader.batch("last").parts

    assert rehearsed(journal, pipeline(title="T"), paid).changes(parts) == ["step 'headline': its prompt has changed"]
