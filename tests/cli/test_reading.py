"""Which documents a run gets, and when they are read."""

import pytest

from pipeline_engine import Document, Pipeline
from pipeline_engine.cli.reading import Documents, some_of
from pipeline_engine.plan import compile_pipeline
from pipeline_engine.run.durable import content_of


@pytest.fixture
def plan():
    pipeline = Pipeline("p", inputs={"text": str, "language": str})

    @pipeline.step
    async def length(text: str, language: str) -> int:
        return len(text)

    return compile_pipeline(pipeline)


async def test_a_document_is_read_when_it_is_asked_for(write, plan):
    """A folder of a million files is never in memory, and never read ahead of the run."""
    paths = [write("a.md", "first"), write("b.md", "second")]
    documents = Documents(paths, plan, "text", {"language": "de"}, {})

    first = await documents.__anext__()
    paths[1].write_text("changed")
    second = await documents.__anext__()

    assert first.inputs == {"text": "first", "language": "de"}
    assert second.inputs == {"text": "changed", "language": "de"}
    with pytest.raises(StopAsyncIteration):
        await documents.__anext__()


async def test_a_document_knows_where_it_can_be_read_again(write, plan, folder):
    """A journal outlives the folder that the command was run in."""
    documents = Documents([write("a.md", "text").relative_to(folder)], plan, "text", {"language": "de"}, {})

    document = await documents.__anext__()

    assert (document.key, document.source) == ("a.md", str(folder / "a.md"))


async def test_a_document_that_has_changed_since_it_was_accepted_is_named(write, plan, folder):
    """Its new text is run: whoever expected the old one should know."""
    paths = [write(name, "text").relative_to(folder) for name in ("a.md", "b.md")]
    same, other = (content_of(plan, [text, "de"]) for text in ("text", "another"))
    documents = Documents(paths, plan, "text", {"language": "de"}, {"a.md": same, "b.md": other})

    read = [document.key async for document in documents]

    assert read == ["a.md", "b.md"]
    assert documents.notes() == ["changed since they were accepted, and run with their new text: b.md"]


async def test_a_document_may_come_from_elsewhere(plan):
    """A journal holds the text of files that are gone."""
    kept = Document("gone.md", {"text": "kept", "language": "de"})
    documents = Documents([lambda: kept], plan, "text", {"language": "de"}, {})

    assert (len(documents), await documents.__anext__()) == (1, kept)
    assert documents.notes() == []


def test_of_many_names_the_first_ones_are_shown():
    """Ten names find the folder; a thousand hide the next line."""
    names = [f"{number}.md" for number in range(13)]

    assert some_of(names) == f"{', '.join(names[:10])} and 3 more documents"
