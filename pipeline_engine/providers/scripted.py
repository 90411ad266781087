"""A model that answers from a script: for tests, examples and simulations."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from pydantic_core import to_json

from pipeline_engine.declare import Breaker, Distribution, Limits, Price
from pipeline_engine.errors import RejectedError
from pipeline_engine.values import Completion, Embeddings, Timings, Usage, current_step

if TYPE_CHECKING:
    from pipeline_engine.values import Finish, Request, StepContext, TakePiece

__all__ = ["Fault", "InTurn", "Reply", "ScriptedModel", "in_turn"]


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure: an error made anew for each call that it meets, in the name of the model that is called."""

    error: Callable[[str], Exception]
    """Makes the error from the model's name."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Script one reply in detail.

    Example:
        >>> Reply({"text": "A title"}, latency=0.5).latency
        0.5
    """

    answer: Any = None
    """The output: text, anything that has a JSON form, or an exception to raise."""
    latency: float | Distribution | None = None
    """Seconds until the reply; if not given those of its pieces together, or else the model's own latency."""
    finish: Finish = "stop"
    """Why the reply ends."""
    usage: Usage = field(default_factory=Usage)
    """The tokens that the reply reports."""
    pieces: Sequence[tuple[float, str]] | None = None
    """How it comes when it is streamed: for each piece the seconds before it and its text; an empty text is
    thinking. The answer is the pieces put together, if it is None. An exception as the answer breaks off after
    the last piece."""
    first_token: float | None = None
    """Seconds until its first piece when it is streamed, where `pieces` say nothing: the others come at even
    distances in what is left of its latency."""
    refusal: str | None = None
    """The model's words, where it refuses to answer."""


@dataclass(frozen=True, slots=True)
class InTurn:
    """Give one answer after the other; the last one again and again."""

    answers: tuple[Any, ...]


def in_turn(*answers: Any) -> InTurn:
    """Script a different answer for each call of a document's step (or item).

    Example:
        >>> from pipeline_engine import UnavailableError
        >>> flaky = in_turn(UnavailableError("is down.", model="scripted:m", kind="server"), "fine")
    """
    if not answers:
        raise ValueError("in_turn() needs at least one answer.")
    return InTurn(answers)


Answer = Any
Seconds = float | Distribution
Latency = Seconds | Mapping[str, Seconds] | Callable[["StepContext"], float]


class ScriptedModel:
    """Answer from a script, by the name of the step that asks.

    An answer is a text, anything with a JSON form (a pydantic model, a dict, a list …), an
    exception to raise, a `Fault`, a `Reply`, `in_turn(…)`, or a function of the request that returns one of
    these. The name "*" answers every step that has no answer of its own.

    Args:
        script: For each step its answer.
        latency: Seconds that each reply takes: a number or a distribution, one of these for each step, or a
            function of the running step's context. They pass on trio's clock, so the virtual clock can jump.
        name: The model as `"provider:model"`.
        price: What its tokens cost; nothing if not given.
        max_texts: How many texts one call for vectors may hold.
        limits: How much it may be asked, as with `Model(limits=…)`.
        breaker: When it is left alone after failures, as with `Model(breaker=…)`.
        max_tokens: The cap of its replies that reservations count with.
        seed: What latencies are drawn by: with the same one each attempt at a step of a document takes the same
            time, in whichever order they come.

    Example:
        >>> from pipeline_engine import Pipeline, run_pipeline
        >>> pipeline = Pipeline("greeting", inputs={"name": str})
        >>> @pipeline.llm("fast", str)
        ... def greeting(name: str) -> str:
        ...     return f"Greet {name}."
        >>> model = ScriptedModel({"greeting": "Hello, Ada!"})
        >>> run_pipeline(pipeline, {"name": "Ada"}, models={"fast": model})[greeting]
        'Hello, Ada!'
        >>> model.requests[0].messages[0].text
        'Greet Ada.'
    """

    def __init__(
        self,
        script: Mapping[str, Answer] | None = None,
        *,
        latency: Latency = 0.0,
        name: str = "scripted:model",
        price: Price | None = None,
        max_texts: int = 100,
        limits: Limits | None = None,
        breaker: Breaker | None = None,
        max_tokens: int | None = None,
        seed: int = 0,
    ) -> None:
        given: tuple[tuple[object, type], ...] = ((limits, Limits), (breaker, Breaker))
        for value, kind in given:
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"ScriptedModel takes a {kind.__name__}(…) here, not {value!r}.")
        self.name = name
        self.limits = limits
        self.breaker = breaker
        self.max_tokens = max_tokens
        self.price = Price(0, 0) if price is None else price
        self.max_texts = max_texts
        self.script = dict(script or {})
        self.latency = latency
        self.seed = seed
        self.requests: list[Request] = []
        """Every request, in the order of arrival."""
        self.texts: list[list[str]] = []
        """Every batch of texts that vectors were asked for, in the order of arrival."""
        self._turns: dict[tuple[str, str, int | None, str], int] = {}

    @classmethod
    def from_file(cls, path: str | Path, name: str) -> ScriptedModel:
        """Read a script from a JSON file: `{"answers": {step: answer}, "latency": seconds}`.

        Raises:
            ValueError: If the file is no such script.
            OSError: If it cannot be read.
        """
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(data, dict) or not isinstance(data.get("answers"), dict):
            raise ValueError(f'{str(path)!r} is no script. Write {{"answers": {{"<step>": …}}, "latency": 0.1}}.')
        return cls(data["answers"], latency=data.get("latency", 0.0), name=name)

    async def complete(self, request: Request) -> Completion:
        """Return the scripted reply after its latency.

        Raises:
            RejectedError: If the script has no answer for the step.
            Exception: The one that the script says.
        """
        self.requests.append(request)
        context = current_step()
        reply = self._reply(request, context)
        await _pass(self._seconds(reply, context))
        return self._completion(reply, request)

    async def stream(self, request: Request, take: TakePiece) -> Completion:
        """Hand on the scripted reply piece by piece: word by word over its latency, if the script says no more.

        Raises:
            RejectedError: If the script has no answer for the step.
            Exception: The one that the script says.
        """
        self.requests.append(request)
        started = trio.current_time()
        context = current_step()
        reply = self._reply(request, context)
        if reply.pieces is not None:
            pieces = list(reply.pieces)
        elif isinstance(reply.answer, BaseException):
            pieces = []
            await _pass(self._seconds(reply, context))
        else:
            text = self._text(reply, request)
            words = re.findall(r"\s*\S+\s*$|\s*\S+", text) or [text]
            pieces = [*zip(_pauses(self._seconds(reply, context), reply.first_token, len(words)), words, strict=True)]
        first_token = None
        for pause, piece in pieces:
            await _pass(pause)
            first_token = trio.current_time() - started if first_token is None else first_token
            await take(piece)
        completion = self._completion(reply, request)
        return replace(completion, timings=Timings(None, first_token, trio.current_time() - started))

    async def embed(self, texts: Sequence[str], *, connect_timeout: float | None = None) -> Embeddings:
        """Return the scripted vectors, or three numbers made from each text's hash if the script has none.

        A scripted answer is a list of vectors, an exception, or a function of the texts that returns one of these.

        Raises:
            Exception: The one that the script says.
        """
        self.texts.append(list(texts))
        context = current_step()
        answer = self._answer(context, lambda: [_hashed(text) for text in texts])
        reply = self._replied(self._in_turn(answer, context, list(texts)))
        await _pass(self._seconds(reply, context))
        if isinstance(reply.answer, BaseException):
            raise reply.answer
        return Embeddings(tuple(list(vector) for vector in reply.answer), reply.usage, self.name)

    def _completion(self, reply: Reply, request: Request) -> Completion:
        if isinstance(reply.answer, BaseException):
            raise reply.answer
        return Completion(self._text(reply, request), reply.finish, reply.usage, self.name, refusal=reply.refusal)

    @staticmethod
    def _text(reply: Reply, request: Request) -> str:
        answer = reply.answer
        if answer is None and reply.pieces is not None:
            return "".join(piece for _pause, piece in reply.pieces)
        return answer if isinstance(answer, str) and request.schema is None else _as_json(answer)

    def _seconds(self, reply: Reply, context: StepContext) -> float:
        if reply.latency is None and reply.pieces is not None:
            return sum(pause for pause, _piece in reply.pieces)
        return self._latency(context) if reply.latency is None else self._drawn(reply.latency, context)

    def _reply(self, request: Request, context: StepContext) -> Reply:
        return self._replied(self._in_turn(self._answer(context, None), context, request))

    def _replied(self, answer: Any) -> Reply:
        reply = answer if isinstance(answer, Reply) else Reply(answer)
        return replace(reply, answer=reply.answer.error(self.name)) if isinstance(reply.answer, Fault) else reply

    def _answer(self, context: StepContext, otherwise: Callable[[], Any] | None) -> Any:
        if context.step in self.script:
            return self.script[context.step]
        if "*" in self.script:
            return self.script["*"]
        if otherwise is not None:
            return otherwise()
        known = ", ".join(sorted(self.script)) or "nothing"
        raise RejectedError(
            f"has no scripted answer for step {context.step!r}. It knows: {known}.",
            model=self.name,
            kind="unscripted",
        )

    def _in_turn(self, answer: Any, context: StepContext, asked: Any) -> Any:
        """Return what an answer comes to: of answers in turn the next one, of a function what it returns."""
        if callable(answer) and not isinstance(answer, type):
            answer = answer(asked)
        if isinstance(answer, InTurn):
            key = (context.run_id, context.document, context.item, context.step)
            turn = self._turns.get(key, 0)
            self._turns[key] = turn + 1
            answer = answer.answers[min(turn, len(answer.answers) - 1)]
            if callable(answer) and not isinstance(answer, type):
                answer = answer(asked)
        return answer

    def _latency(self, context: StepContext) -> float:
        if callable(self.latency):
            return self.latency(context)
        if isinstance(self.latency, Mapping):
            return self._drawn(self.latency.get(context.step, self.latency.get("*", 0.0)), context)
        return self._drawn(self.latency, context)

    def _drawn(self, latency: Seconds, context: StepContext) -> float:
        if not isinstance(latency, Distribution):
            return latency
        # By the call's own place, and not one after the other: tasks come in an order of trio's own.
        place = (self.seed, context.document, context.step, context.item, context.attempt)
        return latency.sample(random.Random(repr(place)))


def _pauses(seconds: float, first_token: float | None, count: int) -> list[float]:
    """Return the seconds before each piece of a reply."""
    if first_token is None:
        return [seconds / count] * count
    others = (seconds - first_token) / max(1, count - 1)
    return [first_token, *[max(0.0, others)] * (count - 1)]


async def _pass(seconds: float) -> None:
    if seconds > 0:
        await trio.sleep(seconds)
    else:
        await trio.lowlevel.checkpoint()


def _hashed(text: str) -> list[float]:
    digest = sha256(text.encode("utf-8", "surrogatepass")).digest()
    return [byte / 255 for byte in digest[:3]]


def _as_json(answer: Any) -> str:
    # A text for a step with a schema is taken as the raw reply if it looks like JSON already, so that
    # malformed replies can be scripted, too.
    if isinstance(answer, str) and answer.lstrip()[:1] in ("{", "[", '"', "`"):
        return answer
    return to_json(answer).decode()
