"""The documents of a run: files, read one after the other when there is room, or texts that a journal has kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from pipeline_engine.documents import read_document
from pipeline_engine.errors import DocumentError, InputError
from pipeline_engine.report.numbers import counted
from pipeline_engine.run.document import Document
from pipeline_engine.run.durable import content_of
from pipeline_engine.run.engine import validate_inputs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Self

    from pipeline_engine.plan import Plan

    Source = Path | Callable[[], Document]
    """A file, or whatever else gives a document when it is asked for."""

__all__ = ["Documents", "some_of"]

_MAX_NAMES = 10


class Documents:
    """Read one document after the other, each when there is room for it, in a thread.

    Args:
        sources: Where they come from.
        plan: What they are for.
        target: The input that gets their text.
        shared: The values of the other inputs.
        contents: What a journal knows their content by, as far as it does.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        plan: Plan,
        target: str,
        shared: Mapping[str, Any],
        contents: Mapping[str, str],
    ) -> None:
        self._sources = sources
        self._left = iter(sources)
        self._plan = plan
        self._target = target
        self._shared = shared
        self._contents = contents
        self._changed: list[str] = []

    def __len__(self) -> int:
        return len(self._sources)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Document:
        source = next(self._left, None)
        if source is None:
            raise StopAsyncIteration
        # A large PDF must not hold up somebody who wants to leave.
        return await trio.to_thread.run_sync(self.read, source, abandon_on_cancel=True)

    def read(self, source: Source) -> Document:
        """Return a document; one that cannot be read has an error in the place of its text."""
        if not isinstance(source, Path):
            return source()
        key, place = str(source), str(source.absolute())
        try:
            text = read_document(source)
        except DocumentError as error:
            return Document(key, {}, error=error, source=place)
        document = Document(key, {**self._shared, self._target: text}, source=place)
        if self._contents.get(key) and self._contents[key] != self.content(document):
            self._changed.append(key)
        return document

    def size(self, document: Document) -> int:
        """Return how many characters a document has."""
        return len(document.inputs[self._target])

    def content(self, document: Document) -> str:
        """Return what a journal would know a document's content by."""
        try:
            return content_of(self._plan, validate_inputs(self._plan, document.inputs))
        except InputError:
            return ""  # the run will say what is wrong

    def notes(self) -> list[str]:
        """Return what the user should know about the documents that were read."""
        if not self._changed:
            return []
        return [f"changed since they were accepted, and run with their new text: {some_of(self._changed)}"]


def some_of(names: Sequence[str]) -> str:
    """Return the first names of many, and how many more there are.

    Example:
        >>> some_of(["a.md", "b.md"])
        'a.md, b.md'
    """
    more = len(names) - _MAX_NAMES
    shown = ", ".join(names[:_MAX_NAMES])
    return f"{shown} and {counted(more, 'more document')}" if more > 0 else shown
