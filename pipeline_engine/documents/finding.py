"""Finds the files that a user means: named ones, folders and globs."""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_engine.errors import DocumentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["SUPPORTED", "find_documents"]

SUPPORTED = frozenset(
    {
        ".csv",
        ".docx",
        ".htm",
        ".html",
        ".json",
        ".jsonl",
        ".markdown",
        ".md",
        ".pdf",
        ".rst",
        ".txt",
    }
)
"""Extensions that are taken from folders and globs. A file that is named itself may have any other."""

_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})


def find_documents(patterns: Sequence[str]) -> list[Path]:
    """Return the files that `patterns` name, each once, in the order of the patterns.

    A folder stands for every document in it, however deep, in sorted order; hidden files and folders,
    `__pycache__`, `node_modules` and virtual environments are passed over. A glob (`**` crosses folders)
    stands for the documents that it matches, and, if it names an extension itself, for files of that
    extension. A file that is named is always returned, also if reading it will fail.

    Raises:
        DocumentError: If a pattern matches nothing.

    Example:
        >>> find_documents(["no-such-folder/*.md"])
        Traceback (most recent call last):
        ...
        pipeline_engine.errors.DocumentError: 'no-such-folder/*.md' matches no file. Check the pattern and the folder that you run from.
    """  # noqa: E501  # a message in full
    found: dict[Path, Path] = {}
    for pattern in patterns:
        matches = list(_matches(pattern))
        if not matches:
            raise DocumentError(pattern, _nothing(pattern))
        for path in matches:
            found.setdefault(path.resolve(), path)
    return list(found.values())


def _matches(pattern: str) -> Iterator[Path]:
    path = Path(pattern)
    if path.is_dir():
        yield from _documents_in(path)
    elif path.exists():
        yield path
    elif glob.has_magic(pattern):
        wants_any = path.suffix != "" and not glob.has_magic(path.suffix)
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207  # Path.glob takes no absolute patterns
        for match in map(Path, matches):
            is_wanted = wants_any or match.suffix.lower() in SUPPORTED
            if is_wanted and match.is_file() and not _is_passed_over(match, set(path.parts)):
                yield match


def _is_passed_over(match: Path, named: set[str]) -> bool:
    """Return whether a glob reached a file through a folder that holds no documents and that it did not name."""
    folders = (folder for folder in match.parents if folder.name and folder.name not in named)
    return any(_is_skipped(folder.name) or _is_venv(folder) for folder in folders)


def _documents_in(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_skipped(name) and not _is_venv(Path(parent, name)))
        for name in sorted(names):
            path = Path(parent, name)
            if not name.startswith(".") and path.suffix.lower() in SUPPORTED and path.is_file():
                yield path


def _is_skipped(name: str) -> bool:
    return name in _SKIPPED_FOLDERS or (name.startswith(".") and name not in {".", ".."})


def _is_venv(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").exists()


def _nothing(pattern: str) -> str:
    if Path(pattern).is_dir():
        return f"holds no document. Documents end in {', '.join(sorted(SUPPORTED))}; name other files one by one."
    if glob.has_magic(pattern):
        return "matches no file. Check the pattern and the folder that you run from."
    return "does not exist. Check the path and the folder that you run from."
