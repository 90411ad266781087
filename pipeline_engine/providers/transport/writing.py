"""Writing HTTP/1.1 requests: checked once, and kept as bytes for all requests with the same headers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:
    from pipeline_engine.providers.transport.exchange import WireRequest

__all__ = ["RequestWriter"]

_MAX_KEPT = 64
_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_TARGET = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_VALUE = re.compile(rb"[^\x00\r\n]*")
# Methods whose requests have a length even when it is 0.
_WITH_BODY = frozenset({b"POST", b"PUT", b"PATCH"})


class _Head(bytes):
    """The head of a request, which a traceback or a debugger shows without the key in it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<head of {len(self)} bytes>"


class RequestWriter:
    """Write requests as bytes; what a model's requests have in common is written once."""

    def __init__(self) -> None:
        self._kept: dict[int, tuple[WireRequest, bytes]] = {}

    def write(self, request: WireRequest) -> bytes:
        """Return the bytes to send.

        Raises:
            httpx2.LocalProtocolError: If it would be more than one request, or none.
        """
        body = request.body
        if not body and request.method not in _WITH_BODY:
            return self._head(request) + b"\r\n"
        return b"%bcontent-length: %d\r\n\r\n%b" % (self._head(request), len(body), body)

    def _head(self, request: WireRequest) -> bytes:
        """Return all lines of the head but the length."""
        headers = request.headers
        kept = self._kept.get(id(headers))
        if kept is not None:
            like, head = kept
            if like.headers is headers and like.target == request.target and like.method == request.method:
                return head
        head = _encoded(request)
        if isinstance(headers, tuple):  # a list might have changed by the next time
            if len(self._kept) >= _MAX_KEPT:
                self._kept.clear()
            self._kept[id(headers)] = request._replace(body=b""), head
        return head


def _encoded(request: WireRequest) -> bytes:
    if not _TOKEN.fullmatch(request.method) or not _TARGET.fullmatch(request.target):
        raise httpx2.LocalProtocolError("the method or the path of the request has characters that HTTP forbids")
    lines = [b"%b %b HTTP/1.1\r\n" % (request.method, request.target)]
    for name, value in request.headers:
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            shown = name.decode("ascii", "backslashreplace")
            # Not its value: that may be a key.
            raise httpx2.LocalProtocolError(f"the header {shown!r} of the request has characters that HTTP forbids")
        lines.append(b"%b: %b\r\n" % (name, value))
    return _Head(b"".join(lines))
