"""Writing a page to its file: beside it first, so that a reader never sees half a page."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["write_page"]


def write_page(page: str, path: str | os.PathLike[str]) -> Path:
    """Write a page to `path` and return it."""
    target = Path(path)
    handle, beside = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(page.encode())
        Path(beside).replace(target)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    return target
