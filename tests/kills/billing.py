"""A provider that keeps the bill, in a process of its own as seen from the workers: nothing that kills them stops it.

It speaks OpenAI's chat completions over real sockets. Its replies follow from the requests alone, so that runs can
be compared however often they were interrupted; only the samples of a document differ from each other, by a number
that is given out once.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from random import Random
from typing import Any, NamedTuple

import trio

_MARKER = re.compile(r"^\[\[([^\]]*)\]\]")
_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


class CallId(NamedTuple):
    """What tells one call that has to be paid for from all others, except for equal samples."""

    model: str
    place: str
    """Document, step and item, as the prompt names them."""
    turn: int
    """How many messages it has: a repair has two more than what it repairs."""


def call_id(model: str, messages: list[Any]) -> CallId:
    """Return what a conversation is known by, given as pairs of role and text."""
    found = _MARKER.match(messages[0][1])
    assert found, messages[0]
    return CallId(model.rpartition(":")[2], found[1], len(messages))


@dataclass
class Received:
    """Follow one request, from its arrival to the last byte of its answer."""

    call: CallId
    worker: str
    """Who has sent it, by its key."""
    at: float
    answered_at: float | None = None
    """When the last byte of the answer was handed to the network."""
    status: int = 0
    """0 as long as nobody has decided."""

    def is_answered(self, at: float) -> bool:
        """Whether all of its answer was on its way at some instant."""
        return self.answered_at is not None and self.answered_at <= at

    def is_paid(self, at: float) -> bool:
        """Whether it had to be paid for at some instant: refusals of the server's cost nothing."""
        return self.is_answered(at) and self.status == 200


@dataclass
class Billing:
    """Answer every request after a while, and remember when it came and when it was answered.

    Args:
        latency: The least and the most seconds that an answer takes.
    """

    latency: tuple[float, float] = (0.02, 0.2)
    requests: list[Received] = field(default_factory=list)
    url: str = ""
    _serials: Any = field(default_factory=count)
    _seen: Counter[CallId] = field(default_factory=Counter)

    async def serve(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/v1"
        await trio.serve_listeners(self._talk, listeners, task_status=task_status)

    def paid(self, worker: str | None = None) -> Counter[CallId]:
        """Return how often each call was answered and has to be paid for."""
        return Counter(
            request.call
            for request in self.requests
            if request.status == 200 and request.answered_at is not None and worker in (None, request.worker)
        )

    def sent_by(self, worker: str) -> list[Received]:
        """Return what one worker has asked, less what was refused and cost nothing."""
        return [request for request in self.requests if request.worker == worker and request.status in (0, 200)]

    async def _talk(self, stream: trio.SocketStream) -> None:
        data = bytearray()
        try:
            while piece := await stream.receive_some(65_536):
                data += piece
                while (found := _first_request(data)) is not None:
                    head, body, length = found
                    del data[:length]
                    await self._answer(stream, head, json.loads(body))
        except _GONE:
            pass  # the worker was killed, as it is to be
        finally:
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream, head: dict[str, str], body: dict[str, Any]) -> None:
        messages = [(message["role"], message["content"]) for message in body["messages"]]
        call = call_id(body["model"], messages)
        received = Received(call, head["authorization"].rpartition("-")[2], trio.current_time())
        self.requests.append(received)
        time_before = self._seen[call]
        self._seen[call] += 1
        status, answer, headers = decide(call, time_before, self._serials)
        low, high = self.latency
        await trio.sleep(Random(f"{call} {time_before}").uniform(low, high))
        content = json.dumps(answer).encode()
        received.status = status
        lines = [f"HTTP/1.1 {status} Told", "content-type: application/json", f"content-length: {len(content)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await stream.send_all("\r\n".join([*lines, "", ""]).encode() + content)
        received.answered_at = trio.current_time()


def decide(call: CallId, time_before: int, serials: Any) -> tuple[int, Any, dict[str, str]]:
    """Return status, body and headers of an answer.

    Documents differ in what goes wrong with them: a reply that has to be repaired, one that is refused, one that is
    cut off; a server's error or a refusal for rate at the first time.
    """
    document, step, *item = call.place.split("/")
    number = int(document.rpartition("-")[2])
    place = int(item[0]) if item else -1
    if step == "notes" and place == 1 and number % 7 == 2 and time_before == 0:
        return 500, {"error": {"message": "It went wrong"}}, {}
    if step == "summary" and number % 7 == 3 and time_before == 0:
        return 429, {"error": {"message": "Slow down", "code": "rate_limit_exceeded"}}, {"retry-after-ms": "20"}
    text, finish, refusal = _said(call, number, step, place, serials)
    message = {"role": "assistant", "content": text, **({"refusal": refusal} if refusal else {})}
    usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    return 200, {"id": "c-1", "model": call.model, "choices": [choice], "usage": usage}, {}


def _said(call: CallId, number: int, step: str, place: int, serials: Any) -> tuple[str | None, str, str | None]:
    """Return a reply's text, why it ended, and what it says if it is refused."""
    if step == "facts":
        if number % 5 == 1 and call.turn == 1:
            return "I would rather talk about it.", "stop", None
        return json.dumps({"title": f"Title of {call.place}", "topics": ["one", "two"]}), "stop", None
    if step == "notes":
        if number % 8 == 3 and place == 2:
            return None, "stop", "I will not."
        return json.dumps({"text": f"Note on {call.place}"}), "stop", None
    if step == "samples":
        return json.dumps({"text": f"{call.place} #{next(serials)}"}), "stop", None
    if step == "grade":
        score = number % 10 if call.model == "weak" else 9
        return json.dumps({"score": score, "by": call.model}), "stop", None
    if step == "tone":
        if number % 6 == 4:
            return None, "stop", "I will not."
        if number % 11 == 5:
            return '{"text": "it goes on and', "length", None
        return json.dumps({"text": f"Tone of {call.place}"}), "stop", None
    if step == "risk":
        if number % 9 == 6:
            return None, "stop", "I will not."
        if number % 13 == 7:
            return f"No JSON in turn {call.turn}.", "stop", None
        return json.dumps({"text": f"Risk of {call.place}"}), "stop", None
    return f"Said of {call.place}", "stop", None


def _first_request(data: bytes | bytearray) -> tuple[dict[str, str], bytes, int] | None:
    """Return headers and body of the first request, and its length; None if it is not whole."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    lines = bytes(data[:end]).decode("latin-1").split("\r\n")[1:]
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    length = end + 4 + int(headers.get("content-length", "0"))
    return (headers, bytes(data[end + 4 : length]), length) if len(data) >= length else None
