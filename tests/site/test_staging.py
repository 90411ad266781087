"""What the site is built from: nothing that the docs show or link to is missing."""

import json
import re

import pytest

import pipeline_engine
from pipeline_engine import resilience, testing
from tests.house.pages import PAGES, ROOT, name_of
from tests.site.docstrings import groups
from tests.site.staging import llms, outline, stage, with_links_to_pages


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    stage(folder)
    return folder


def test_every_page_is_on_the_site_under_its_own_path(staged):
    """Links between pages hold on the site because the pages stand where they stand in the repository."""
    assert [name_of(page) for page in PAGES if not (staged / "pages" / name_of(page)).is_file()] == []


@pytest.mark.parametrize(
    ("link", "on_the_site"),
    [
        ("[a program](../pipelines/document.py)", "[a program](../pipelines/document.py.md)"),
        ("[a folder](../examples)", "[a folder](../examples/index.md)"),
        ("[a page](how-to/fall-back.md#to-a-value)", "[a page](how-to/fall-back.md#to-a-value)"),
        ("[a notebook](../examples/notebook.ipynb)", "[a notebook](../examples/notebook.ipynb)"),
        ("[another site](https://example.org/a.py)", "[another site](https://example.org/a.py)"),
        ("```text\n[code](../x.py)\n```", "```text\n[code](../x.py)\n```"),
    ],
)
def test_links_to_programs_and_folders_lead_to_pages(link, on_the_site):
    """A browser shows a page; a Python file it downloads."""
    assert with_links_to_pages(link, ROOT / "docs") == on_the_site


def test_a_folder_lists_its_programs_each_with_what_it_is_for(staged):
    """The list of examples is how readers choose one."""
    listed = (staged / "pages/examples/index.md").read_text(encoding="utf-8")

    assert "- [01_hello.py](01_hello.py.md): " in listed
    assert (staged / "pages/examples/01_hello.py.md").is_file()


def test_every_public_name_has_its_docstring_on_the_site():
    """A name that is missing here is one that nobody can look up. What the kit has as well stands with the kit."""
    shown = [(group.module, name) for group in groups() for name in group.names]

    assert sorted(shown) == sorted(
        (module.__name__, name)
        for module in (pipeline_engine, resilience, testing)
        for name in module.__all__
        if name != "__version__" and not (module is pipeline_engine and name in testing.__all__)
    )


def test_the_navigation_is_the_index(staged):
    """The order of the pages is written down once."""
    settings = (staged / "mkdocs.yml").read_text(encoding="utf-8")
    home, *sections = json.loads(re.search(r"^nav: (.+)$", settings, re.MULTILINE)[1])

    assert home["Home"][0] == "README.md"
    assert [next(iter(section)) for section in sections] == [section.title for section in outline()]


def test_llms_txt_names_pages_that_are_there(staged):
    """A program that reads it fetches what it names, and nothing tells it that a link is stale."""
    places = re.findall(r"\]\(([^)]+)\)", llms())

    assert [place for place in places if not (staged / "pages" / place).exists()] == []
    assert "docs/how-to/bind-models.md" in places
