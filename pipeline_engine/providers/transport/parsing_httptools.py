"""Reading responses by httptools, the quick parser of the extra `fast`."""

from __future__ import annotations

import httptools

from pipeline_engine.providers.transport.parsing import ResponseParser

__all__ = ["HttptoolsParser"]


class HttptoolsParser(ResponseParser):
    """Read the responses of one connection by httptools, which calls the methods `on_…` back."""

    __slots__ = ("_parser",)

    def __init__(self) -> None:
        self._parser: httptools.HttpResponseParser | None = None
        super().__init__()

    def restart(self, method: bytes) -> None:
        """Make ready for the response to a request with this method."""
        # One parser reads all responses of a connection; but after a HEAD it still waits for a body.
        if self._parser is None or self._is_head:
            self._parser = httptools.HttpResponseParser(self)
        super().restart(method)

    def discard(self) -> None:
        """Let go of the library's parser: the two refer to each other."""
        self._parser = None

    def _parse(self, data: bytes) -> None:
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            if self.is_complete:
                self.has_surplus = True
            else:
                self._fault = self._fault or "the response is no HTTP/1.1"
        except httptools.HttpParserUpgrade:
            self._fault = "the server has switched to another protocol, which was not asked for"

    def on_message_begin(self) -> None:
        """Notice whatever follows a complete response."""
        if self.is_complete:
            self.has_surplus = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header; those behind a chunked body are of no use here."""
        if not self.has_head:
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """Take the head, or skip it if more are to come."""
        parser = self._parser
        if self.has_head or parser is None:
            return
        status = parser.get_status_code()
        if status >= 200:
            self._take_head(status, is_http_1_1=parser.get_http_version() == "1.1")
        else:
            self.headers.clear()

    def on_body(self, data: bytes) -> None:
        """Take bytes of the body."""
        if self.is_complete:
            self.has_surplus = True
        else:
            self._body.append(data)

    def on_message_complete(self) -> None:
        """Notice the end of the final response."""
        if self.has_head:
            self.is_complete = True
