"""What the site is built from: the pages of the repository, where they stand, and what they link to beside them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tests.house.pages import PAGES, ROOT, name_of
from tests.site.docstrings import groups
from tests.site.sources import modules, page_of_file, page_of_folder

__all__ = ["Entry", "Section", "llms", "outline", "stage", "with_links_to_pages"]

HERE = Path(__file__).parent

_CODE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)\s#]+)(?=[)#])")
_SECTION = re.compile(r"^## (.+)$", re.MULTILINE)
_ENTRY = re.compile(r"^(?:-|\d+\.) \[([^\]]+)\]\(([^)]+)\)(.*)$", re.MULTILINE)
_COPIED = {".ipynb", ".png"}


class Entry(NamedTuple):
    """A page that the index names."""

    title: str
    place: str
    """Where the page stands, from the root of the site."""
    note: str
    """What the index says about it, if anything."""


class Section(NamedTuple):
    """A section of the index."""

    title: str
    entries: list[Entry]


def stage(folder: Path) -> None:
    """Lay out in a folder what the site is built from.

    Pages keep their paths, so that the links between them hold. What they link to elsewhere in the repository
    becomes a page too: a program with its lines, a folder with the list of its programs.
    """
    pages = folder / "pages"
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        _write(pages / name_of(page), with_links_to_pages(text, page.parent))
        for target in _linked(text, page.parent):
            _stage_source(target, pages)
    for group in groups():
        _write(pages / group.place, group.page)
    _write(pages / "llms.txt", llms())
    shutil.copyfile(HERE / "extra.css", pages / "extra.css")
    settings = (HERE / "mkdocs.yml").read_text(encoding="utf-8")
    _write(folder / "mkdocs.yml", f"{settings}nav: {json.dumps(_navigation(), ensure_ascii=False)}\n")


def with_links_to_pages(text: str, folder: Path) -> str:
    """Return a page whose links to programs and folders lead to the pages made of them.

    Args:
        text: The page.
        folder: Where it stands, from which its links are relative.
    """
    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(lambda link: _page_for(link[1], folder), part) for part in parts[::2]]
    return "".join(parts)


def outline() -> list[Section]:
    """Return the index as sections and entries: the order of the pages is written there, and nowhere else."""
    index = ROOT / "docs" / "index.md"
    text = with_links_to_pages(index.read_text(encoding="utf-8"), index.parent)
    _, *parts = _SECTION.split(text)
    return [
        Section(title, [_entry(*found) for found in _ENTRY.findall(part)])
        for title, part in zip(parts[::2], parts[1::2], strict=True)
    ]


def llms() -> str:
    """Return the index in the form of llms.txt: each page as Markdown, for readers that are programs."""
    lines = ["# pipeline_engine", "", "> Run documents through pipelines of LLM steps, in Python, on trio.", ""]
    for section in outline():
        lines += [f"## {section.title}", ""]
        lines += [f"- [{entry.title}]({entry.place}){entry.note}" for entry in section.entries]
        lines.append("")
    return "\n".join(lines)


def _entry(title: str, link: str, note: str) -> Entry:
    place, _, _ = link.partition("#")
    target = (ROOT / "docs" / place).resolve().relative_to(ROOT).as_posix()
    # Links in a note are relative to the index, and would lead nowhere from elsewhere.
    return Entry(title, target, "" if "](" in note else note)


def _page_for(link: str, folder: Path) -> str:
    target = (folder / link).resolve()
    if target.is_dir():
        return f"{link.rstrip('/')}/index.md"
    return link if target.suffix in {".md", *_COPIED} else f"{link}.md"


def _linked(text: str, folder: Path) -> set[Path]:
    prose = "".join(_CODE.split(text)[::2])
    targets = {(folder / link).resolve() for link in _LINK.findall(prose)}
    return {target for target in targets if target not in PAGES}


def _stage_source(target: Path, pages: Path) -> None:
    place = pages / target.relative_to(ROOT)
    if target.is_dir():
        _write(place / "index.md", page_of_folder(target))
        for module in modules(target):
            _stage_source(module, pages)
    elif target.suffix in _COPIED:
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(target, place)
    else:
        _write(place.with_name(f"{place.name}.md"), page_of_file(target))


def _navigation() -> list[dict[str, Any]]:
    sections: list[dict[str, Any]] = [
        {section.title: [{entry.title: entry.place} for entry in section.entries]} for section in outline()
    ]
    docstrings = {"Docstrings in full": [{group.title: group.place} for group in groups()]}
    for section in sections:
        if "Reference" in section:
            section["Reference"].append(docstrings)
    return [{"Home": ["README.md", {"All pages": "docs/index.md"}, {"Changelog": "CHANGELOG.md"}]}, *sections]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
