"""Reading responses by h11, the parser that needs no compiled code."""

from __future__ import annotations

import h11

from pipeline_engine.providers.transport.parsing import MAX_HEAD_BYTES, ResponseParser

__all__ = ["H11Parser"]

# h11 reads a response only after a request. Ours are written elsewhere; these stand in for them.
_REQUEST = h11.Request(method="GET", target="/", headers=[("host", "host")])
_HEAD_REQUEST = h11.Request(method="HEAD", target="/", headers=[("host", "host")])
_REQUEST_END = h11.EndOfMessage()


class H11Parser(ResponseParser):
    """Read the responses of one connection by h11."""

    __slots__ = ("_connection",)

    def restart(self, method: bytes) -> None:
        """Make ready for the response to a request with this method."""
        super().restart(method)
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._connection.send(_HEAD_REQUEST if self._is_head else _REQUEST)
        self._connection.send(_REQUEST_END)

    def _parse(self, data: bytes) -> None:
        connection = self._connection
        if self.is_complete:
            self.has_surplus = True
            return
        connection.receive_data(data)
        try:
            while True:
                event = connection.next_event()
                if type(event) is h11.Data:
                    self._body.append(bytes(event.data))
                elif type(event) is h11.Response:
                    self.headers = list(event.headers)
                    self._take_head(event.status_code, is_http_1_1=event.http_version == b"1.1")
                elif type(event) is h11.EndOfMessage:
                    self.is_complete = True
                    self.has_surplus = bool(connection.trailing_data[0])
                    return
                elif event is h11.NEED_DATA:
                    return
        except h11.RemoteProtocolError:
            self._fault = self._fault or "the response is no HTTP/1.1"
