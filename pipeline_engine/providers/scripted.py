"""A model that answers from a script: for tests, examples and simulations."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from pydantic_core import to_json

from pipeline_engine.errors import RejectedError
from pipeline_engine.values import Completion, Usage, current_step

if TYPE_CHECKING:
    from pipeline_engine.values import Request, StepContext
    from pipeline_engine.values.models import Finish

__all__ = ["InTurn", "Reply", "ScriptedModel", "in_turn"]


@dataclass(frozen=True, slots=True)
class Reply:
    """Script one reply in detail.

    Example:
        >>> Reply({"text": "A title"}, latency=0.5).latency
        0.5
    """

    answer: Any
    """The output: text, anything that has a JSON form, or an exception to raise."""
    latency: float | None = None
    """Seconds until the reply; the model's own latency if not given."""
    finish: Finish = "stop"
    """Why the reply ends."""
    usage: Usage = field(default_factory=Usage)
    """The tokens that the reply reports."""


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
Latency = float | Mapping[str, float] | Callable[["StepContext"], float]


class ScriptedModel:
    """Answer from a script, by the name of the step that asks.

    An answer is a text, anything with a JSON form (a pydantic model, a dict, a list …), an
    exception to raise, a `Reply`, `in_turn(…)`, or a function of the request that returns one of
    these. The name "*" answers every step that has no answer of its own.

    Args:
        script: For each step its answer.
        latency: Seconds that each reply takes: one number, one for each step, or a function of the
            running step's context. They pass on trio's clock, so the virtual clock can jump.
        name: The model as `"provider:model"`.

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
        self, script: Mapping[str, Answer] | None = None, *, latency: Latency = 0.0, name: str = "scripted:model"
    ) -> None:
        self.name = name
        self.script = dict(script or {})
        self.latency = latency
        self.requests: list[Request] = []
        """Every request, in the order of arrival."""
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
        latency = reply.latency if reply.latency is not None else self._latency(context)
        if latency > 0:
            await trio.sleep(latency)
        else:
            await trio.lowlevel.checkpoint()
        if isinstance(reply.answer, BaseException):
            raise reply.answer
        text = reply.answer if isinstance(reply.answer, str) and request.schema is None else _as_json(reply.answer)
        return Completion(text, reply.finish, reply.usage, self.name)

    def _reply(self, request: Request, context: StepContext) -> Reply:
        if context.step in self.script:
            answer = self.script[context.step]
        elif "*" in self.script:
            answer = self.script["*"]
        else:
            known = ", ".join(sorted(self.script)) or "nothing"
            raise RejectedError(
                f"has no scripted answer for step {context.step!r}. It knows: {known}.",
                model=self.name,
                kind="unscripted",
            )
        if callable(answer) and not isinstance(answer, type):
            answer = answer(request)
        if isinstance(answer, InTurn):
            key = (context.run_id, context.document, context.item, context.step)
            turn = self._turns.get(key, 0)
            self._turns[key] = turn + 1
            answer = answer.answers[min(turn, len(answer.answers) - 1)]
            if callable(answer) and not isinstance(answer, type):
                answer = answer(request)
        return answer if isinstance(answer, Reply) else Reply(answer)

    def _latency(self, context: StepContext) -> float:
        if callable(self.latency):
            return self.latency(context)
        if isinstance(self.latency, Mapping):
            return self.latency.get(context.step, self.latency.get("*", 0.0))
        return self.latency


def _as_json(answer: Any) -> str:
    # A text for a step with a schema is taken as the raw reply if it looks like JSON already, so that
    # malformed replies can be scripted, too.
    if isinstance(answer, str) and answer.lstrip()[:1] in ("{", "[", '"', "`"):
        return answer
    return to_json(answer).decode()
