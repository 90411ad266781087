"""A file of lines that is whole or not there: written beside, and renamed when it is complete."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from pipeline_engine.journal.locking import sync_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Self, TextIO

__all__ = ["AtomicLines"]


class AtomicLines:
    r"""Write lines of JSON into a file that appears, whole and durable, when the block is left.

    Until then there is the old file, or none. Whatever ends the block, the lines that were written are kept;
    only when they could not be written does the old file stay.

    Args:
        path: The file. A link stays a link: it is the file behind it that is replaced.
        replaces: The name of a member: lines of the old file stay, but for those whose member has a value that a
            new line has, too.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> path = Path(tempfile.mkdtemp()) / "rows.jsonl"
        >>> with AtomicLines(path) as lines:
        ...     lines.write({"document": "a.md"})
        ...     path.exists()
        False
        >>> path.read_text()
        '{"document": "a.md"}\n'
    """

    def __init__(self, path: Path, *, replaces: str | None = None) -> None:
        self._path = path.resolve()
        self._replaces = replaces
        self._part = self._path.with_name(f".{self._path.name}.{token_hex(4)}.part")
        self._new: set[Any] = set()
        self._is_sound = True
        self.count = 0
        """How many lines were written."""

    def __enter__(self) -> Self:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        # Lone surrogates, which UTF-8 cannot hold, become the escapes that JSON has for them.
        self._file: TextIO = open(  # noqa: PTH123 - closed by __exit__; with the rights that new files have
            os.open(self._part, flags, 0o666), "w", encoding="utf-8", errors="backslashreplace"
        )
        return self

    def write(self, line: Mapping[str, Any]) -> None:
        """Write one line.

        Raises:
            OSError: If it cannot be written; the old file stays then.
        """
        if self._replaces is not None:
            self._new.add(line.get(self._replaces))
        self._put(json.dumps(line, ensure_ascii=False))
        self.count += 1

    def _put(self, text: str) -> None:
        try:
            self._file.write(f"{text}\n")
        except OSError:
            self._is_sound = False
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._is_sound:
                self._complete()
        finally:
            with suppress(OSError):  # the error that led here is the one to tell
                self._file.close()
            self._part.unlink(missing_ok=True)

    def _complete(self) -> None:
        is_there = self._path.exists()
        if is_there and self._replaces is not None:
            self._keep_others(self._replaces)
        self._file.flush()
        os.fsync(self._file.fileno())
        if is_there:
            self._part.chmod(self._path.stat().st_mode & 0o7777)
        self._file.close()  # where files are locked, an open one cannot be renamed
        self._part.replace(self._path)
        sync_folder(self._path.parent)

    def _keep_others(self, member: str) -> None:
        with self._path.open(encoding="utf-8", errors="surrogateescape") as old:
            for line in old:
                if _member(line, member) not in self._new:
                    self._put(line.rstrip("\n"))


def _member(line: str, name: str) -> Any:
    try:
        told = json.loads(line)
    except ValueError:
        return None  # whatever it is, it is somebody's: it stays
    return told.get(name) if isinstance(told, dict) else None
