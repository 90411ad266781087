"""Finding: what a user means by a path, a folder or a pattern."""

import pytest

from pipeline_engine.documents import SUPPORTED, find_documents
from pipeline_engine.errors import DocumentError

FILES = (
    "b.md",
    "a.txt",
    "image.png",
    ".hidden.md",
    "deep/c.html",
    "deep/er/d.PDF",
    "deep/notes.log",
    "node_modules/e.md",
    "__pycache__/f.md",
    ".git/g.md",
    "env/pyvenv.cfg",
    "env/lib/h.md",
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A small tree, in which the test stands."""
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("text")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*patterns):
    return [path.as_posix() for path in find_documents(patterns)]


@pytest.mark.parametrize(
    ("patterns", "paths"),
    [
        (["."], ["a.txt", "b.md", "deep/c.html", "deep/er/d.PDF"]),
        (["deep"], ["deep/c.html", "deep/er/d.PDF"]),
        (["b.md", "a.txt", "b.md", "./a.txt"], ["b.md", "a.txt"]),
        (["*"], ["a.txt", "b.md"]),
        (["**/*.md"], ["b.md"]),
        (["deep/**"], ["deep/c.html", "deep/er/d.PDF"]),
        (["**/*.log"], ["deep/notes.log"]),
        (["node_modules/*.md"], ["node_modules/e.md"]),
        (["image.png"], ["image.png"]),
        (["b.md", "."], ["b.md", "a.txt", "deep/c.html", "deep/er/d.PDF"]),
    ],
)
def test_patterns_give_documents_in_order_each_once(folder, patterns, paths):
    """A document given twice would be paid for twice, and an unsorted folder would differ between machines."""
    assert found(*patterns) == paths


def test_a_file_whose_name_has_glob_characters_is_that_file(folder):
    """`draft [1].md` is an ordinary name."""
    (folder / "draft [1].md").write_text("text")

    assert found("draft [1].md") == ["draft [1].md"]


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("missing.md", "does not exist. Check the path and the folder that you run from."),
        ("*.csv", "matches no file. Check the pattern and the folder that you run from."),
        (
            "__pycache__/deeper",
            f"holds no document. Documents end in {', '.join(sorted(SUPPORTED))}; name other files one by one.",
        ),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error(folder, pattern, reason):
    """A typing error must not look like a finished batch of no documents."""
    (folder / "__pycache__/deeper").mkdir()

    with pytest.raises(DocumentError) as caught:
        find_documents(["a.txt", pattern])

    assert str(caught.value) == f"{pattern!r} {reason}"
