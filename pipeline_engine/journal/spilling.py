"""Entries that a failed journal could not take: kept as lines of JSON, and taken in when it is opened again."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import re
import stat
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_engine import values
from pipeline_engine.errors import JournalFileError
from pipeline_engine.journal.locking import sync_folder
from pipeline_engine.values import AttemptEnded, AttemptSent, CallFinished, CallsVoided, DocumentEnded, OutputAccepted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.values import Entry

__all__ = ["read_spilled", "spill", "spilled_files"]

_log = logging.getLogger("pipeline_engine")
# What has happened, and cannot be asked for again. Claims and batches are made anew by the next run.
_KEPT = (AttemptSent, AttemptEnded, CallFinished, CallsVoided, OutputAccepted, DocumentEnded)
_PAID = (CallFinished, OutputAccepted)


def spill(
    entries: Sequence[Entry], name: str, folders: Sequence[Path], *, onto: Path | None = None
) -> tuple[int, Path | None]:
    """Write entries into the first folder that takes them. Raises nothing: it is the last resort.

    Args:
        entries: What could not be written.
        name: What the journal is called.
        folders: Where to try, in order.
        onto: A file that earlier entries went to: these are added to it, if it takes them.

    Returns:
        How many of them are results, and the file; None if no folder took them, or there was nothing to keep.
    """
    kept = [entry for entry in entries if isinstance(entry, _KEPT)]
    unsaved = sum(isinstance(entry, _PAID) for entry in kept)
    if not kept:
        return 0, None
    if onto is not None and _write(kept, onto, os.O_APPEND):
        return unsaved, onto
    for folder in folders:
        path = folder / f"{_label(name, folder)}.unsaved-{os.getpid()}-{os.urandom(3).hex()}.jsonl"
        if _write(kept, path, os.O_CREAT | os.O_EXCL):
            return unsaved, path
        with contextlib.suppress(OSError):  # what was begun there would be taken for the whole
            path.unlink(missing_ok=True)
    return unsaved, None


def _write(entries: Sequence[Entry], path: Path, flags: int) -> bool:
    """Write entries to the end of a file, and return whether they are on the disk; if not, the file is as it was."""
    size = None
    try:
        size = path.stat().st_size if flags & os.O_APPEND else None
        with os.fdopen(os.open(path, os.O_WRONLY | flags, 0o600), "w", encoding="ascii") as out:
            out.writelines(f"{json.dumps(_to_json(entry))}\n" for entry in entries)
            out.flush()
            os.fsync(out.fileno())
        sync_folder(path.parent)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one place, the next one is tried
        _log.warning("%s could not be written: %s", path, error)
        if size is not None:
            with contextlib.suppress(OSError):  # a line that was cut off must stay the last one
                os.truncate(path, size)
        return False
    return True


def spilled_files(name: str, folders: Sequence[Path]) -> list[Path]:
    """Return the files that `spill` has left for a journal, oldest first; only those of this user.

    In a folder where everybody may put files, another user's would be believed to hold replies of models.
    """
    found: dict[Path, tuple[int, str]] = {}
    for folder in folders:
        pattern = re.compile(re.escape(_label(name, folder)) + r"\.unsaved-\d+-[0-9a-f]+\.jsonl")
        try:
            paths = [path for path in folder.iterdir() if pattern.fullmatch(path.name)]
        except OSError:
            continue  # it is not there, or may not be read: nothing was left in it
        for path in paths:
            told = path.lstat()
            if stat.S_ISREG(told.st_mode) and (not hasattr(os, "geteuid") or told.st_uid == os.geteuid()):
                found[path] = told.st_mtime_ns, path.name
            else:
                _log.warning("%s is left alone: it belongs to somebody else, or is a link", path)
    return sorted(found, key=lambda path: found[path])


def read_spilled(path: Path) -> list[Entry]:
    """Return the entries of a file that `spill` has written; a last line that was cut off is left out.

    Raises:
        JournalFileError: If the file cannot be read, or holds something else.
    """
    try:
        with path.open(encoding="ascii") as lines:
            return [_from_json(json.loads(line)) for line in lines if line.endswith("\n")]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = f"holds unsaved results that cannot be read: {error}"
        raise JournalFileError(str(path), f"{reason}; move the file away to go on without them") from error


def _label(name: str, folder: Path) -> str:
    """Return how a journal's files are called in a folder.

    Beside the journal the name of its file is enough, and stays right if all of it is moved. Elsewhere other
    journals of the same name may put theirs.
    """
    place, _, last = name.rpartition("/")
    stem = re.sub(r"[^A-Za-z0-9_.-]+", "_", last)[-80:]
    if place and Path(name).parent == folder:
        return stem
    return f"{stem}.{sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def _to_json(entry: Any) -> dict[str, Any]:
    fields = {name: _packed(value) for name, value in entry._asdict().items()}
    return {"entry": type(entry).__name__, **fields}


def _packed(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, str) and not value.isascii():
        return {"text": value.encode("utf-8", "surrogatepass").hex()}  # exact, also where it is no Unicode
    return value


def _from_json(told: dict[str, Any]) -> Any:
    kind = told.pop("entry")
    if kind not in {known.__name__ for known in _KEPT}:
        raise ValueError(f"{kind!r} is no entry")
    return getattr(values, kind)(**{name: _unpacked(value) for name, value in told.items()})


def _unpacked(value: Any) -> Any:
    match value:
        case {"bytes": body}:
            return base64.b64decode(body)
        case {"text": text}:
            return bytes.fromhex(text).decode("utf-8", "surrogatepass")
        case list():
            return tuple(value)
        case _:
            return value
