"""Replies recorded once and replayed for ever: a model that asks another one only for what it does not know yet."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import trio
from trio.testing import MockClock

from pipeline_engine.declare import Model
from pipeline_engine.errors import ProviderError, UnrecordedError
from pipeline_engine.journal import digest, digest_of, message_parts
from pipeline_engine.providers.profiles import PROFILES
from pipeline_engine.run.binding import ModelPool
from pipeline_engine.run.engine import DEFAULT_CAPACITY
from pipeline_engine.testing.answers import COMPLETION, EMBEDDINGS, error_from, error_parts
from pipeline_engine.testing.cassette import Recording, read_recordings, save_recording
from pipeline_engine.testing.nearest import differences, nearest
from pipeline_engine.testing.scrubbing import Scrubber, is_named_secret
from pipeline_engine.values import Completion, Cost, Embeddings, StreamingModel, current_step

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pydantic import TypeAdapter

    from pipeline_engine.values import CompletionModel, EmbeddingModel, Request, StepContext, TakePiece, Usage

__all__ = ["RecordMode", "RecordedModel"]

T = TypeVar("T")
RecordMode = Literal["once", "none", "all"]
"""Replay what is there and record what is missing; replay only; record everything anew."""

_MODES = ("once", "none", "all")
_VARIABLE = "PIPELINE_ENGINE_RECORD"
_SETTINGS = ("temperature", "max_tokens", "seed", "structured_output", "extra_body")
"""The fields of a `Model` that make a difference to its answers."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One call, as it is recorded."""

    step: str
    item: int | None
    key: str
    call: int
    """Which of the equal requests of this step and item in its run it is, counted from 1."""
    request: dict[str, Any]
    """Without secrets."""
    count: _Count
    """Where the calls are counted."""


@dataclass(slots=True)
class _Count:
    """How many equal requests a step or item has made in one run."""

    calls: int = 0


class RecordedModel:
    """Answer from a file of recorded replies; what is not there is asked of a real model, and put there.

    With its file it needs no key and no network. A reply takes as long as it took when it was recorded if the clock
    is virtual; on a real one it comes at once. Errors of the provider are recorded, too; a call that was cancelled
    is not.

    A request is found again by its model, its parameters, its messages and its schema. Equal ones of one step and
    item in a run are told apart by their order, so that a failure and the success after it stay two.

    Args:
        path: The file. Several models may share it.
        model: What is asked: `"provider:model"`, a `Model`, or a model object. It is not opened before it is needed.
        mode: "once" replays what is there and records what is missing, "none" only replays, and "all" records
            everything anew. If not given, the environment variable PIPELINE_ENGINE_RECORD says it, else it is "once".
        prompts: Whether the file holds prompts as "text", or only their "hash".
        scrub: What is done to each text before it is written; keys, tokens and passwords are taken out anyway.

    Raises:
        ValueError: If the file holds something else, or there is no such mode.

    Example:
        >>> import tempfile
        >>> from pipeline_engine import Pipeline, run_pipeline
        >>> from pipeline_engine.testing import ScriptedModel
        >>> pipeline = Pipeline("article", inputs={"document": str})
        >>> @pipeline.llm("fast", str)
        ... def title(document: str) -> str:
        ...     return f"Give this a title: {document}"
        >>> path = Path(tempfile.mkdtemp()) / "article.jsonl"
        >>> real = ScriptedModel({"title": "Tides"})
        >>> for _ in range(2):
        ...     model = RecordedModel(path, real)
        ...     print(run_pipeline(pipeline, {"document": "The sea rises."}, models={"fast": model})[title])
        Tides
        Tides
        >>> len(real.requests)
        1
    """

    def __init__(
        self,
        path: str | Path,
        model: str | Model | CompletionModel | EmbeddingModel,
        *,
        mode: RecordMode | None = None,
        prompts: Literal["text", "hash"] = "text",
        scrub: Callable[[str], str] | None = None,
    ) -> None:
        if prompts not in ("text", "hash"):
            raise ValueError(f"prompts={prompts!r}: write 'text' or 'hash'.")
        self.path = Path(path)
        if scrub is not None and not callable(scrub):
            raise TypeError(f"scrub= takes a function of a text, not a {type(scrub).__name__}.")
        self.mode = _checked_mode(mode)
        self._is_mode_given = mode is not None
        self._model: Any = Model(model) if isinstance(model, str) else model
        self._prompts = prompts
        self._scrubber = Scrubber(_known_secrets(self._model), scrub)
        self._recordings = read_recordings(self.path)
        self._found = {recording.place for recording in self._recordings}
        self._counts: dict[tuple[str, str, int | None, str], _Count] = {}
        self._opened: Any = None
        # What an engine asks a model about itself: the real one's own answers.
        self.name = str(getattr(self._model, "name", type(self._model).__name__))
        self.limits = getattr(self._model, "limits", None)
        self.breaker = getattr(self._model, "breaker", None)
        self.timeout = getattr(self._model, "timeout", None)
        self.max_tokens = getattr(self._model, "max_tokens", None)
        self.price = getattr(self._model, "price", None)
        self.identity = _identity(self._model)
        # The same number with and without a key, since it decides what one request holds.
        self.max_texts = getattr(self._model, "max_texts", 100)

    def __repr__(self) -> str:
        return f"RecordedModel({str(self.path)!r}, {self.name!r}, mode={self.mode!r})"

    def pricing(self, usage: Usage, answered_by: str | None) -> Cost:
        """Return what a call cost when it was recorded, by the public price lists."""
        from pipeline_engine.providers.prices import list_price

        found = list_price(self.name, answered_by, base_url=getattr(self._model, "base_url", None))
        return Cost(unpriced_calls=1) if found is None else found(usage)

    async def complete(self, request: Request) -> Completion:
        """Return the recorded reply, or the real one.

        Raises:
            UnrecordedError: If it is not recorded, and cannot be.
            ProviderError: If that was, or is, the model's answer.
        """
        asked = self._asked(request)
        recording = self._recorded(asked)
        if recording is not None:
            return await _replayed(recording, COMPLETION)
        return await self._record(asked, self._real(asked).complete(request), COMPLETION, None)

    async def stream(self, request: Request, take: TakePiece) -> Completion:
        """Hand on the recorded reply piece by piece, or the real one.

        Raises:
            UnrecordedError: If it is not recorded, and cannot be.
            ProviderError: If that was, or is, the model's answer.
        """
        asked = self._asked(request)
        recording = self._recorded(asked)
        if recording is not None:
            return await _replayed(recording, COMPLETION, take)
        model = self._real(asked)
        pieces = _Pieces(take)
        if isinstance(model, StreamingModel):
            return await self._record(asked, model.stream(request, pieces.take), COMPLETION, pieces)
        completion: Completion = await self._record(asked, model.complete(request), COMPLETION, None)
        if completion.text:
            await take(completion.text)
        return completion

    async def embed(self, texts: Sequence[str], *, connect_timeout: float | None = None) -> Embeddings:
        """Return the recorded vectors, or the real ones.

        Raises:
            UnrecordedError: If they are not recorded, and cannot be.
            ProviderError: If that was, or is, the model's answer.
        """
        form = {"texts": [*texts]}
        asked = self._place(form, {"texts": self._scrubbed([*texts])})
        recording = self._recorded(asked)
        if recording is not None:
            return await _replayed(recording, EMBEDDINGS)
        answer = self._real(asked).embed(texts, connect_timeout=connect_timeout)
        return await self._record(asked, answer, EMBEDDINGS, None)

    # What is asked

    def _asked(self, request: Request) -> _Asked:
        messages = message_parts(request.messages)
        schema = None if request.schema is None else {"name": request.schema_name, **request.schema}
        shown = {"messages": [[role, *self._scrubbed(parts)] for role, *parts in messages]}
        if schema is not None:
            shown["schema"] = self._scrubber.value(schema)
        return self._place({"messages": messages, "schema": schema}, shown)

    def _place(self, form: dict[str, Any], shown: dict[str, Any]) -> _Asked:
        context = _context()
        key = digest_of([self.name, self.identity, form])
        if self.identity is not None:
            shown = {"settings": self._scrubber.value(self.identity), **shown}
        run_id, step, item = ("", "", None) if context is None else (context.run_id, context.step, context.item)
        count = self._counts.setdefault((run_id, step, item, key), _Count())
        count.calls += 1
        return _Asked(step, item, key, count.calls, shown, count)

    def _scrubbed(self, parts: list[Any]) -> list[Any]:
        """Return texts as they are recorded; pictures and files are their hashes already."""
        if self._prompts == "text":
            return [self._scrubber.value(part) for part in parts]
        return [
            {"hash": digest(part.encode("utf-8", "surrogatepass")), "characters": len(part)}
            if isinstance(part, str)
            else part
            for part in parts
        ]

    # What is recorded

    def _recorded(self, asked: _Asked) -> Recording | None:
        """Return the recording of a call: of its own step and item, else of the first that has asked the same.

        Raises:
            UnrecordedError: If there is none, and none can be made.
        """
        if self.mode == "all":
            return None
        equal = self._equal(asked)
        if asked.call <= len(equal):
            return equal[asked.call - 1]
        if self.mode == "none":
            how = "mode='once'" if self._is_mode_given else f"{_VARIABLE}=once, or with pytest's --record-replies=once"
            raise self._unrecorded(asked, f"Record it with {how}.")
        return None

    def _equal(self, asked: _Asked) -> list[Recording]:
        """Return what equal requests were answered in one run, in their order."""
        equal = [recording for recording in self._recordings if recording.key == asked.key]
        own = [recording for recording in equal if (recording.step, recording.item) == (asked.step, asked.item)]
        if own:
            return own
        # A step that was renamed, or an item that has moved, finds its replies again; but what has only now been
        # recorded is the answer to somebody else.
        found = [recording for recording in equal if recording.place in self._found]
        return [one for one in found if (one.step, one.item) == (found[0].step, found[0].item)]

    def _unrecorded(self, asked: _Asked, advice: str) -> UnrecordedError:
        equal = self._equal(asked)
        near: Recording | None
        if equal:
            near, told = equal[0], [f"it was asked that {_times(len(equal))} in a run, and now it is once more"]
        else:
            near = nearest(self._recordings, asked.step, self.name, asked.request)
            told = [] if near is None else differences(near, self.name, asked.request)
        step = None if near is None else near.step
        return UnrecordedError(asked.step, str(self.path), len(self._recordings), step, told, advice)

    def _real(self, asked: _Asked) -> Any:
        if self._opened is None:
            try:
                self._opened = ModelPool(DEFAULT_CAPACITY).take(self._model).model
            except ValueError as error:
                raise self._unrecorded(asked, f"It cannot be recorded: {error}") from error
        return self._opened

    async def _record(self, asked: _Asked, answer: Awaitable[T], form: TypeAdapter[T], pieces: _Pieces | None) -> T:
        started = trio.current_time()
        is_saved = False

        def save(**told: Any) -> None:
            nonlocal is_saved
            seconds = trio.current_time() - started - (0.0 if pieces is None else pieces.blocked)
            self._save(asked, seconds, pieces, told)
            is_saved = True

        try:
            result = await answer
            save(reply=form.dump_python(result, mode="json", exclude_defaults=True))
        except ProviderError as error:
            save(error=error_parts(error))
            raise
        finally:
            if not is_saved:  # what was cancelled was not answered
                asked.count.calls -= 1
        return result

    def _save(self, asked: _Asked, seconds: float, pieces: _Pieces | None, told: dict[str, Any]) -> None:
        recording = Recording(
            step=asked.step,
            item=asked.item,
            call=asked.call,
            key=asked.key,
            model=self.name,
            request=asked.request,
            seconds=round(seconds, 6),
            pieces=None if pieces is None else self._scrubbed_pieces(pieces.taken),
            **{name: self._scrubber.value(value) for name, value in told.items()},
        )
        try:
            self._recordings = save_recording(self.path, recording)
        except (OSError, ValueError) as error:  # no fallback hides it: the next run would ask, and pay, again
            raise self._unrecorded(asked, f"It cannot be recorded: {error}") from error

    def _scrubbed_pieces(self, pieces: list[tuple[float, str]]) -> list[tuple[float, str]]:
        text = "".join(piece for _pause, piece in pieces)
        scrubbed = self._scrubber.text(text)
        # A secret may have come in several pieces: then they are told as one.
        return pieces if scrubbed == text else [(sum(pause for pause, _piece in pieces), scrubbed)]


class _Pieces:
    """Note how a streamed reply comes, while it is handed on."""

    def __init__(self, take: TakePiece) -> None:
        self._take = take
        self._mark = trio.current_time()
        self.taken: list[tuple[float, str]] = []
        self.blocked = 0.0
        """Seconds for which the reader did not take a piece: the provider was not slow."""

    async def take(self, piece: str) -> None:
        came = trio.current_time()
        self.taken.append((round(came - self._mark, 6), piece))
        await self._take(piece)
        self._mark = trio.current_time()
        self.blocked += self._mark - came


async def _replayed(recording: Recording, form: TypeAdapter[T], take: TakePiece | None = None) -> T:
    left = recording.seconds
    pieces = recording.pieces or []
    if take is not None:
        for pause, piece in pieces:
            await _pass(pause)
            left -= pause
            await take(piece)
    await _pass(left)
    if recording.error is not None:
        raise error_from(recording.error, recording.model)
    answer = form.validate_python(recording.reply)
    if take is not None and not pieces and isinstance(answer, Completion) and answer.text:
        await take(answer.text)
    return answer


async def _pass(seconds: float) -> None:
    """Let time pass as it did, if that costs nobody any."""
    if seconds > 0 and isinstance(trio.lowlevel.current_clock(), MockClock):
        await trio.sleep(seconds)
    else:
        await trio.lowlevel.checkpoint()


def _context() -> StepContext | None:
    try:
        return current_step()
    except LookupError:
        return None


def _checked_mode(mode: str | None) -> RecordMode:
    said = mode if mode is not None else os.environ.get(_VARIABLE, "").strip() or "once"
    if said not in _MODES:
        where = "mode=" if mode is not None else f"{_VARIABLE}="
        raise ValueError(f"{where}{said!r}: write 'once', 'none' or 'all'.")
    return cast("RecordMode", said)


def _identity(model: Any) -> Any:
    """Return what makes a difference to a model's answers besides its name, in JSON's types; None if nothing does."""
    if not isinstance(model, Model):
        return getattr(model, "identity", None)
    said = {name: getattr(model, name) for name in _SETTINGS}
    return {name: value for name, value in said.items() if value is not None} or None


def _known_secrets(model: Any) -> list[str]:
    names = {name for profile in PROFILES.values() for name in profile.key_names}
    known = [os.environ.get(name, "").strip() for name in names]
    if isinstance(model, Model):
        headers = model.extra_headers or {}
        known += [model.api_key or "", *headers.values()]
        # Behind the name of a scheme: an error may quote the key alone.
        known += [value.split()[-1] for name, value in headers.items() if is_named_secret(name) and value.strip()]
    return known


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
