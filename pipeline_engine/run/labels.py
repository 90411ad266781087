"""Reads what is right from a file: a document's key and the values that are expected, as JSON lines or as CSV."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

from pipeline_engine.text import sentence_list

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["read_labels"]

_KEY = "document"


def read_labels(path: Path) -> dict[str, dict[str, Any]]:
    r"""Return what is right for each document, by step or by step and field.

    A file that ends in `.csv` has a column `document`, and one for each label; an empty cell is no label. Any other
    file has an object of JSON on each line, with a member `document`, and one for each label.

    Args:
        path: The file.

    Raises:
        ValueError: If a line has no document, or the same one as an earlier line, or is no JSON; if there is no
            column of documents; if it is no text.
        OSError: If it cannot be read.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "labels.csv"
        >>> _ = path.write_text("document,category,quality.score\na.md,news,0.5\nb.md,report,\n")
        >>> read_labels(path)
        {'a.md': {'category': 'news', 'quality.score': '0.5'}, 'b.md': {'category': 'report'}}
    """
    labels: dict[str, dict[str, Any]] = {}
    for number, told in _rows(path):
        document = told.get(_KEY)
        if not isinstance(document, str) or not document:
            raise ValueError(f"line {number} of {str(path)!r} names no document. Each has its key as {_KEY!r}.")
        if document in labels:
            raise ValueError(
                f"line {number} of {str(path)!r} has document {document!r} a second time. Keep one of them."
            )
        labels[document] = {name: value for name, value in told.items() if name != _KEY}
    return labels


def _rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        yield from _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{str(path)!r} holds no labels: {error}. Give lines of JSON, or CSV, in UTF-8.") from error


def _csv_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if rows.fieldnames and _KEY not in rows.fieldnames:
            raise ValueError(
                f"{str(path)!r} has no column {_KEY!r}, but {sentence_list(list(rows.fieldnames))}. "
                "Its first line names the columns, with commas between them."
            )
        for row in rows:
            yield rows.line_num, {name: value for name, value in row.items() if name and value}


def _json_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                told = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} of {str(path)!r} is no JSON: {error}.") from error
            yield number, told if isinstance(told, dict) else {}
