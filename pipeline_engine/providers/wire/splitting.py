"""Cutting a stream of bytes into server-sent events or lines, wherever its chunks happen to end. Pure.

Server-sent events end their lines in CR, LF or CRLF, and nothing else (WHATWG HTML, section 9.2.6): the
line separators of Unicode are legal inside JSON, so that splitting decoded text at them corrupts it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_EVENT_BYTES", "EventSplitter", "LineSplitter", "OversizedEventError", "ServerEvent", "Splitter"]

MAX_EVENT_BYTES = 16 * 1024 * 1024
"""The longest event or line that is taken in: some providers repeat their whole reply in the last one."""

_END_OF_LINE = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class OversizedEventError(ValueError):
    """Raised for an event or line that is longer than any that a provider has reason to send."""

    def __init__(self) -> None:
        super().__init__(f"an event of more than {MAX_EVENT_BYTES // 2**20} MiB")


class ServerEvent(NamedTuple):
    """Hold one event of a stream."""

    name: str
    """What the server calls it; empty if it does not."""
    data: bytes
    """Its lines of data, joined by line feeds."""


class Splitter(Protocol):
    """Cut a stream into events."""

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """Yield the events that are whole with these bytes.

        Raises:
            OversizedEventError: If one is too long.
        """
        ...

    def finish(self) -> Iterator[ServerEvent]:
        """Yield what is left when the stream has ended: a last event without its blank line."""
        ...


class EventSplitter:
    r"""Cut a stream of server-sent events.

    Example:
        >>> splitter = EventSplitter()
        >>> list(splitter.feed(b': hello\r\nevent: ping\r\ndata: {"a"'))
        []
        >>> list(splitter.feed(b': 1}\r\n\r\ndata: [DONE]\n\n'))
        [ServerEvent(name='ping', data=b'{"a": 1}'), ServerEvent(name='', data=b'[DONE]')]
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        """The beginning of a line whose end has not come, as it came: joined once, not at each chunk."""
        self._waiting = 0
        self._skips_line_feed = False
        self._is_first = True
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """Yield the events that are whole with these bytes.

        Raises:
            OversizedEventError: If one is too long.
        """
        if not data:
            return
        if self._skips_line_feed and data[:1] == b"\n":
            # The last chunk ended in CR, which ended its line already: this is the rest of a CRLF.
            data = data[1:]
        is_plain = data.endswith(b"\n\n") and b"\r" not in data and len(data) <= MAX_EVENT_BYTES
        if is_plain and not (self._chunks or self._data or self._is_first):
            # Nearly every chunk of nearly every server: whole events of one line each.
            blocks = data[:-2].split(b"\n\n")
            if all(block[:6] == b"data: " and b"\n" not in block for block in blocks):
                self._skips_line_feed = False
                name, self._name = self._name, ""
                for block in blocks:
                    yield ServerEvent(name, block[6:])
                    name = ""
                return
        start = 0
        for end in _END_OF_LINE.finditer(data):
            line = data[start : end.start()]
            if self._chunks:
                line = b"".join((*self._chunks, line))
                self._chunks.clear()
                self._waiting = 0
            start = end.end()
            event = self._take(line)
            if event is not None:
                yield event
        self._skips_line_feed = data[-1:] == b"\r"
        if start < len(data):
            self._chunks.append(data[start:])
            self._waiting += len(data) - start
            if self._waiting + self._size > MAX_EVENT_BYTES:
                raise OversizedEventError

    def finish(self) -> Iterator[ServerEvent]:
        """Yield what is left when the stream has ended: a last event without its blank line."""
        if self._chunks:
            event = self._take(b"".join(self._chunks))
            self._chunks.clear()
            if event is not None:
                yield event
        last = self._take(b"")
        if last is not None:
            yield last

    def _take(self, line: bytes) -> ServerEvent | None:
        """Take a line without its end; the blank one completes an event."""
        # Lines are measured whole, as those are that come in pieces: how a stream is cut must not matter.
        if len(line) + self._size > MAX_EVENT_BYTES:
            raise OversizedEventError
        if self._is_first:
            self._is_first = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            if not self._data:
                self._name = ""
                return None
            event = ServerEvent(self._name, b"\n".join(self._data))
            self._name, self._data, self._size = "", [], 0
            return event
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._size += len(value) + 1  # with its line feed, or empty lines would be taken in without end
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        # Comments have an empty field name; ids and retry times are for clients that connect again.
        return None


class LineSplitter:
    r"""Cut a stream of JSON lines (NDJSON); blank lines are no events.

    Example:
        >>> splitter = LineSplitter()
        >>> list(splitter.feed(b'{"a": 1}\n\n{"b"'))
        [ServerEvent(name='', data=b'{"a": 1}')]
        >>> list(splitter.feed(b': 2}')), list(splitter.finish())
        ([], [ServerEvent(name='', data=b'{"b": 2}')])
    """

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._waiting = 0

    def feed(self, data: bytes) -> Iterator[ServerEvent]:
        """Yield the lines that are whole with these bytes.

        Raises:
            OversizedEventError: If one is too long.
        """
        first, *others = data.split(b"\n")
        if others:
            self._chunks.append(first)
            yield from self._line()
            for line in others[:-1]:
                self._chunks.append(line)
                yield from self._line()
            first = others[-1]
        if first:
            self._chunks.append(first)
            self._waiting += len(first)
            if self._waiting > MAX_EVENT_BYTES:
                raise OversizedEventError

    def finish(self) -> Iterator[ServerEvent]:
        """Yield what is left when the stream has ended: a last line without its end."""
        yield from self._line()

    def _line(self) -> Iterator[ServerEvent]:
        line = b"".join(self._chunks)
        self._chunks.clear()
        self._waiting = 0
        if len(line) > MAX_EVENT_BYTES:
            raise OversizedEventError
        if line := line.strip():
            yield ServerEvent("", line)
