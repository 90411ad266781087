"""Reading HTTP/1.1 responses: one parser for each connection, by h11 or by httptools, that behave the same."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import httpx2

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_HEADERS", "MAX_HEAD_BYTES", "ParserName", "ResponseParser", "parser_factory"]

ParserName = Literal["auto", "h11", "httptools"]

MAX_HEAD_BYTES = 64 * 1024
"""So many bytes may come without one byte of a body: heads, trailers and the extensions of chunks."""
MAX_HEADERS = 100
"""As in the standard library's client; providers send about thirty."""

_FRAMING_HEADERS = frozenset({b"connection", b"content-length", b"transfer-encoding"})


def parser_factory(name: ParserName) -> Callable[[], ResponseParser]:
    """Return what makes a parser; "auto" is httptools where it is installed.

    Raises:
        ValueError: If the name is none of the three.
        ImportError: If httptools is asked for and not installed.
    """
    if name == "h11" or (name == "auto" and importlib.util.find_spec("httptools") is None):
        from pipeline_engine.providers.transport.parsing_h11 import H11Parser

        return H11Parser
    if name not in {"auto", "httptools"}:
        raise ValueError(f'parser={name!r} is not known. Use "auto", "h11" or "httptools".')
    try:
        from pipeline_engine.providers.transport.parsing_httptools import HttptoolsParser
    except ImportError as error:
        raise ImportError('parser="httptools" needs the extra: pip install "pipeline-engine[fast]"') from error
    return HttptoolsParser


class ResponseParser(ABC):
    """Read the responses of one connection, one after the other.

    Whatever decides how long a response is, and whether its connection is worth keeping, is decided here and
    not by the library that splits the bytes: so both do the same.
    """

    __slots__ = ("_body", "_fault", "_is_head", "_keeps", "_quiet_bytes", "_until_end", "has_bytes", "has_head",
                 "has_surplus", "headers", "is_complete", "status")  # fmt: skip

    def __init__(self) -> None:
        self.restart(b"POST")

    def restart(self, method: bytes) -> None:
        """Make ready for the response to a request with this method."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.has_bytes = False
        """Whether the server has said anything at all."""
        self.has_head = False
        """Whether the head of the final response is there; those of 1xx are skipped."""
        self.is_complete = False
        self.has_surplus = False
        """Whether bytes came that belong to no response: the next one could not be trusted."""
        self._is_head = method == b"HEAD"
        self._keeps = False
        self._until_end = False
        self._body: list[bytes] = []
        self._quiet_bytes = 0
        self._fault: str | None = None

    @property
    def is_reusable(self) -> bool:
        """Whether the connection may carry another request once this response is complete."""
        return self._keeps and not self.has_surplus

    def feed(self, data: bytes) -> None:
        """Take what has come; b"" says that the connection has ended.

        Raises:
            httpx2.RemoteProtocolError: If this is no HTTP/1.1, too long a head, or a response cut short.
        """
        if not data:
            self._end()
            return
        self.has_bytes = True
        self._parse(data)
        if self._fault is not None:
            raise httpx2.RemoteProtocolError(self._fault)
        if self._body:
            self._quiet_bytes = 0
            return
        self._quiet_bytes += len(data)
        if self._quiet_bytes > MAX_HEAD_BYTES:
            raise httpx2.RemoteProtocolError(f"the head of the response is longer than {MAX_HEAD_BYTES // 1024} KiB")

    def take_body(self) -> bytes:
        """Return the bytes of the body that are there and not yet taken."""
        body = self._body
        if not body:
            return b""
        self._body = []
        return body[0] if len(body) == 1 else b"".join(body)

    def discard(self) -> None:  # noqa: B027 (most parsers have nothing to do here)
        """Let go of the library's parser, which may refer back to this one."""

    @abstractmethod
    def _parse(self, data: bytes) -> None:
        """Split the bytes, calling `_take_head`, adding to `_body` and setting `is_complete`."""

    def _take_head(self, status: int, *, is_http_1_1: bool) -> None:
        """Decide from the head of the final response how its body ends."""
        self.status = status
        self.has_head = True
        if len(self.headers) > MAX_HEADERS:
            self._fault = f"the response has more than {MAX_HEADERS} headers"
        framing = [header for header in self.headers if header[0] in _FRAMING_HEADERS]
        lengths = {value for name, value in framing if name == b"content-length"}
        codings = [value.lower() for name, value in framing if name == b"transfer-encoding"]
        tokens = b",".join(value.lower() for name, value in framing if name == b"connection")
        self._keeps = is_http_1_1 and (not tokens or b"close" not in {token.strip() for token in tokens.split(b",")})
        if codings and codings != [b"chunked"]:
            self._fault = "the response has a transfer coding other than chunked"
        elif len(lengths) > 1 or (codings and lengths):
            # Whoever stands between may have taken another length: what follows could be somebody else's.
            self._fault = "the response says twice how long it is"
        if self._is_head or status in {204, 304}:
            self.is_complete = True
        elif not codings and not lengths:
            self._until_end = True
            self._keeps = False

    def _end(self) -> None:
        self._keeps = False
        if self.is_complete:
            return
        if not self._until_end:
            where = "in the middle of its body" if self.has_head else "before its head was complete"
            raise httpx2.RemoteProtocolError(f"the connection ended, and the response with it, {where}")
        self.is_complete = True
