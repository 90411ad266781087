"""Every code block of the README and the docs runs, and prints what the page says it prints.

The Python blocks of a page share a namespace and run in order, warnings as errors. A block after a comment
`<!-- skip: reason -->` is not run. A text block after `<!-- prints -->` is what the block before it prints.
"""

import contextlib
import io
import re

import pytest
from sybil.document import Document
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser

from tests.house.pages import PAGES, ROOT, name_of, without_code

_SKIPPED = re.compile(r"<!-- skip: (?P<reason>\S.+) -->\s*\Z")
_PRINTS = re.compile(r"<!-- prints -->\s*\Z")
_CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMANDS = (
    "run",
    "resume",
    "retry",
    "estimate",
    "check",
    "graph",
    "batches",
    "show",
    "doctor",
    "prune",
    "diff",
    "watch",
    "serve",
)
_TWO_SENTENCES = re.compile(r"[a-z`)”][.!?] +[A-Z“`][^|]*$", re.MULTILINE)


class _Printed(CodeBlockParser):
    language = "text"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_runs_and_prints_what_the_page_says(page, tmp_path, monkeypatch):
    """A reader copies the block and expects it to work: nothing else on a page is read as closely."""
    monkeypatch.chdir(tmp_path)
    document = Document.parse(str(page), PythonCodeBlockParser(), _Printed())
    document.namespace["__name__"] = "page"
    printed = ""

    for example in document.examples():
        before = document.text[: example.region.start]
        place = f"{name_of(page)}:{document.line_column(example.region.start)}"
        if example.region.parsed is None or _SKIPPED.search(before):
            continue
        if example.region.lexemes["arguments"] == "text":
            if _PRINTS.search(before):
                assert _trimmed(printed) == _trimmed(str(example.parsed)), place
            continue
        with contextlib.redirect_stdout(io.StringIO()) as output:
            example.evaluate()
        printed = output.getvalue()


def _trimmed(text: str) -> list[str]:
    return [line.rstrip() for line in text.strip("\n").splitlines()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_block_is_skipped_without_a_reason(page):
    """What does not run rots; whoever lets it rot says why."""
    skips = re.findall(r"<!-- *skip.*?-->", page.read_text(encoding="utf-8"))

    assert [skip for skip in skips if not _SKIPPED.search(skip)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_source_line_holds_one_sentence(page):
    """Then a diff of the docs is a list of sentences."""
    # The cells of tables are short, and messages are quoted as they are.
    prose = "\n".join(line for line in without_code(page).splitlines() if line[:2] not in ("| ", "|-", "> "))

    assert _TWO_SENTENCES.findall(prose) == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_on_a_page_exists(page):
    """A command that was renamed must not live on in the docs."""
    lines = [line for block in _CONSOLE.findall(page.read_text(encoding="utf-8")) for line in block.splitlines()]
    commands = [line.split()[2:] for line in lines if line.startswith("$ pipeline-engine ")]
    if not commands:
        return
    for command in commands:
        known = _help_of(command[0])
        flags = [word.partition("=")[0] for word in command[1:] if word.startswith("--")]
        assert [flag for flag in flags if flag not in known] == [], " ".join(command)


def _help_of(command: str) -> str:
    from pipeline_engine import cli

    with contextlib.redirect_stdout(io.StringIO()) as output, pytest.raises(SystemExit) as left:
        cli.main(["--help"] if command.startswith("-") else [command, "--help"])
    assert left.value.code == 0, f"there is no command {command!r}"
    return output.getvalue()


def test_every_option_of_the_command_line_is_described():
    """An option that is documented nowhere does not exist."""
    page = (ROOT / "docs/reference/command-line.md").read_text(encoding="utf-8")
    known = {flag for command in _COMMANDS for flag in re.findall(r"(--[a-z-]+)", _help_of(command))}

    assert sorted(flag for flag in known - {"--help"} if f"`{flag}" not in page) == []
