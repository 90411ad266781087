"""Reading a streamed reply: a splitter cuts it into events, and a provider's folding makes sense of them. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pipeline_engine.errors import StreamTruncatedError, UnavailableError
from pipeline_engine.providers.wire.classification import error_of_response, unreadable_reply
from pipeline_engine.providers.wire.replies import header_id, parse_json
from pipeline_engine.providers.wire.splitting import OversizedEventError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipeline_engine.providers.adapters.adapter import Endpoint, Reply
    from pipeline_engine.providers.wire.splitting import ServerEvent, Splitter
    from pipeline_engine.values import Completion

__all__ = ["EventReader", "Folding", "document_in", "without"]


def document_in(reply: Reply, endpoint: Endpoint) -> Any:
    """Return the JSON in a response whose status promises some.

    Raises:
        ProviderError: If the status says that there is none, or what came is no JSON.
    """
    if not 200 <= reply.status < 300:
        raise error_of_response(reply.status, reply.headers, reply.body, endpoint)
    try:
        return parse_json(reply.body)
    except ValueError:
        pass
    raise without(reply, endpoint, "something that is not JSON" if reply.body.strip() else "an empty body")


def without(reply: Reply, endpoint: Endpoint, lack: str) -> UnavailableError:
    """Return the error of a response without what was asked for; `lack` says what came instead."""
    text = reply.body[:4000].decode("utf-8", "replace")
    return unreadable_reply(reply.status, reply.headers, text, endpoint, lack)


class Folding(Protocol):
    """Make a completion of a provider's events."""

    @property
    def is_complete(self) -> bool:
        """Whether the terminal marker has come."""
        ...

    @property
    def may_end(self) -> bool:
        """Whether the reply counts as whole if the body ends here, though no marker has come."""
        ...

    def take(self, event: ServerEvent) -> str | None:
        """Take one event and return the piece of text in it, "" for thinking, None for no content.

        Raises:
            ProviderError: If the event is an error.
            ValueError: If it is no JSON.
        """
        ...

    def completion(self) -> Completion:
        """Return the whole reply."""
        ...


class EventReader:
    """Read one streamed reply: what an adapter's `open_stream` returns."""

    def __init__(self, splitter: Splitter, folding: Folding, head: Reply, endpoint: Endpoint) -> None:
        self._splitter = splitter
        self._folding = folding
        self._head = head
        self._endpoint = endpoint

    @property
    def is_complete(self) -> bool:
        """Whether the provider has said that the reply is whole."""
        return self._folding.is_complete

    def feed(self, data: bytes) -> list[str]:
        """Take the next bytes and return the pieces of text in them; an empty piece is thinking."""
        return self._fold(self._splitter.feed(data))

    def close(self) -> Completion:
        """Return the whole reply.

        Raises:
            StreamTruncatedError: If the provider has not said that it is whole.
        """
        if not self._folding.is_complete:
            self._take_rest()
        if self._folding.is_complete or self._folding.may_end:
            return self._folding.completion()
        raise StreamTruncatedError(model=self._endpoint.name, request_id=header_id(self._head.headers))

    def _take_rest(self) -> None:
        """Take a last event that has no end; where it is cut in the middle it counts for nothing."""
        for event in self._splitter.finish():
            try:
                self._folding.take(event)
            except ValueError:
                return

    def _fold(self, events: Iterator[ServerEvent]) -> list[str]:
        pieces = []
        try:
            for event in events:
                piece = self._take(event)
                if piece is not None:
                    pieces.append(piece)
                if self._folding.is_complete:
                    break  # whatever stands behind the marker is nothing that was asked for
        except OversizedEventError as error:
            raise self._unreadable(str(error), b"") from None
        return pieces

    def _take(self, event: ServerEvent) -> str | None:
        try:
            return self._folding.take(event)
        except ValueError:
            raise self._unreadable("a stream with an event that is not JSON", event.data) from None

    def _unreadable(self, lack: str, data: bytes) -> UnavailableError:
        text = data[:4000].decode("utf-8", "replace")
        return unreadable_reply(self._head.status, self._head.headers, text, self._endpoint, lack)
