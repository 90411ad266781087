"""The file of recorded replies: lines of JSON, sorted, one for each call."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from pipeline_engine.plan import reasons_of
from pipeline_engine.run.atomic import AtomicLines
from pipeline_engine.testing.answers import ANSWER, error_from

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Recording", "read_recordings", "save_recording"]

_HEAD = {"pipeline_engine": "recorded replies", "version": 1}
_saving = threading.Lock()


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """Hold one call: what was asked, and what came of it, in JSON's types."""

    step: str
    """The step that asked; "" outside of one."""
    item: int | None
    """The item of a mapped step."""
    call: int
    """Which of the equal requests of this step and item in one run it is, counted from 1."""
    key: str
    """The hash of all that makes a difference to the answer."""
    model: str
    """The model that was asked, as `"provider:model"`."""
    request: dict[str, Any]
    """What was asked, without secrets: for people, and to find the nearest one."""
    reply: dict[str, Any] | None = None
    """The completion or the vectors; None if there is an error."""
    error: dict[str, Any] | None = None
    """The error, if that was the answer."""
    seconds: float = 0.0
    """How long it took."""
    pieces: list[tuple[float, str]] | None = None
    """How it came, if it was streamed: for each piece the seconds before it, and its text."""

    @property
    def place(self) -> tuple[str, int, str, int]:
        """What no other recording of a file has, and what they are sorted by."""
        return self.step, -1 if self.item is None else self.item, self.key, self.call


_RECORDING = TypeAdapter(Recording)


def read_recordings(path: Path) -> list[Recording]:
    """Return what a file holds, in its order; nothing if there is no such file.

    Raises:
        ValueError: If it is no such file, or one of its lines is no recording.
        OSError: If it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a mark before it
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise _unreadable(path, 1, error) from error
    recordings = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
            if number == 1:
                if told != _HEAD:
                    raise ValueError(f"expected {json.dumps(_HEAD)}")
                continue
            recordings.append(_recording(told))
        except ValidationError as error:
            raise _unreadable(path, number, "; ".join(reasons_of(error))) from error
        except (TypeError, ValueError, RecursionError) as error:
            raise _unreadable(path, number, error) from error
    return recordings


def _recording(told: Any) -> Recording:
    """Return what a line holds, once all of it is known to be of use: people edit these files, and merge them."""
    recording = _RECORDING.validate_python(told)
    if (recording.reply is None) == (recording.error is None):
        raise ValueError("there must be either a reply or an error")
    if recording.reply is not None:
        ANSWER.validate_python(recording.reply)
    if recording.error is not None:
        try:
            error_from(recording.error, recording.model)
        except (LookupError, TypeError) as error:
            raise ValueError(f"its error cannot be raised again: {error!r}") from error
    return recording


def save_recording(path: Path, recording: Recording) -> list[Recording]:
    """Put a recording into a file, in the place of an older one of the same call; return all that it holds now.

    The file is read and written anew each time, so that several models, and several tests, can share it.

    Raises:
        ValueError: If the file holds something else.
        OSError: If it cannot be written.
    """
    with _saving:
        # With the first of equal calls older ones go: what came after them may not come again.
        is_first = recording.call == 1
        kept = {
            old.place: old for old in read_recordings(path) if not (is_first and old.place[:3] == recording.place[:3])
        }
        kept[recording.place] = recording
        recordings = [kept[place] for place in sorted(kept)]
        path.parent.mkdir(parents=True, exist_ok=True)
        with AtomicLines(path) as lines:
            for line in _lines(recordings):
                lines.write(line)
    return recordings


def _lines(recordings: Iterable[Recording]) -> Iterable[dict[str, Any]]:
    yield _HEAD
    for recording in recordings:
        # What is not there is not written: most calls have no item, no error and no pieces.
        yield {name: value for name, value in asdict(recording).items() if value is not None or name == "item"}


def _unreadable(path: Path, number: int, error: object) -> ValueError:
    return ValueError(
        f"{str(path)!r} holds no recorded replies: line {number} cannot be read ({error}). "
        "Restore the file, or delete it and record anew."
    )
