"""Program files as pages: what the docs link to outside of themselves can be read on the site as well."""

from __future__ import annotations

import ast
from pathlib import Path

from tests.house.pages import ROOT

__all__ = ["modules", "page_of_file", "page_of_folder"]

_LANGUAGES = {".py": "python", ".toml": "toml", ".yml": "yaml"}


def page_of_file(path: Path) -> str:
    """Return a text file as a page: its path and its lines."""
    text = path.read_text(encoding="utf-8").rstrip("\n")
    return f"# {path.relative_to(ROOT).as_posix()}\n\n~~~~{_LANGUAGES.get(path.suffix, 'text')}\n{text}\n~~~~\n"


def page_of_folder(folder: Path) -> str:
    """Return a page that lists a folder's modules, each with the first line of its docstring and a link to its page."""
    lines = [f"- [{module.name}]({module.name}.md): {_first_line(module)}" for module in modules(folder)]
    return "\n".join([f"# {folder.relative_to(ROOT).as_posix()}", "", *lines, ""])


def modules(folder: Path) -> list[Path]:
    """Return a folder's modules that say something about themselves."""
    return [path for path in sorted(folder.glob("*.py")) if _first_line(path)]


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]
