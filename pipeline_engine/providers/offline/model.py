"""The offline model: answers a request from its source text alone."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

from pipeline_engine.declare import Price
from pipeline_engine.errors import RejectedError
from pipeline_engine.providers.offline.analysis import analyse
from pipeline_engine.providers.offline.filling import UnfillableError, fill
from pipeline_engine.values import Completion

if TYPE_CHECKING:
    from pipeline_engine.values import Request

__all__ = ["ExtractiveModel"]

_ONE_AT_A_TIME = threading.Lock()


class ExtractiveModel:
    r"""Fill schemas by extraction from the text: no network, no key, no language model.

    It does not understand, follow or obey a prompt. It copies titles, phrases and sentences that stand in
    the text, picks labels by the words of the text, and measures numbers. The same request always gives
    the same answer. Its calls cost nothing, so its usage is unknown and not zero.

    Example:
        >>> import trio
        >>> from pipeline_engine.values import Message, Request
        >>> schema = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
        >>> request = Request((Message("user", "A title?"),), schema, "Title", sources=("# Tea\n\nTea is hot.",))
        >>> trio.run(ExtractiveModel().complete, request).text
        '{"text": "Tea"}'
    """

    name = "offline:extractive"
    price = Price(0, 0)
    reads_sources = True
    """Whether a reply depends on more than the messages: equal ones with other sources are no equal calls."""

    async def complete(self, request: Request) -> Completion:
        """Return an answer after some milliseconds of work in a thread; a cancelled caller leaves it behind.

        The text is the first of `request.sources`, or the last user message where there are none.

        Raises:
            RejectedError: If the schema asks for what cannot be extracted; the message names the field.
        """
        # Imported here: everything else in this room is pure.
        import trio

        return await trio.to_thread.run_sync(self.answer, request, abandon_on_cancel=True)

    def answer(self, request: Request) -> Completion:
        """Do the work of `complete`, without waiting for anything.

        Raises:
            RejectedError: If the schema asks for what cannot be extracted; the message names the field.
        """
        # The steps of a document ask about the same text at once: the first one analyses it for all.
        with _ONE_AT_A_TIME:
            document = analyse(_text(request))
        if request.schema is None:
            return Completion(document.summary(), model=self.name)
        try:
            value = fill(request.schema, request.schema_name, document, request.sources[1:])
        except UnfillableError as error:
            message = f"cannot fill the schema: {error}. Make the field optional, or use a language model."
            raise RejectedError(message, model=self.name, kind="invalid") from error
        return Completion(json.dumps(value, ensure_ascii=False), model=self.name)

    def __repr__(self) -> str:
        return "ExtractiveModel()"


def _text(request: Request) -> str:
    if request.sources:
        return request.sources[0]
    return next((message.text for message in reversed(request.messages) if message.role == "user"), "")
