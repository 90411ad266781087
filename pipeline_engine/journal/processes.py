"""Which process this is, and whether another one of the same machine still lives."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import NamedTuple

__all__ = ["Process", "has_died", "this_process"]

_BIRTH_FIELD = 19
"""Where the time of birth stands in /proc/<pid>/stat, counted behind the command's closing bracket."""


class Process(NamedTuple):
    """What a process is known by to others."""

    place: str
    """The machine, its boot and the namespace: processes of one place see each other's ids. Empty if unknown."""
    pid: int
    birth: int
    """Clock ticks from the machine's boot to the process's own: an id that is given again has another. 0 if unknown."""


def this_process() -> Process:
    """Return what this process is known by."""
    pid = os.getpid()
    return Process(_place(), pid, _birth(pid) or 0)


def has_died(process: Process) -> bool:
    """Return whether a process is certainly dead: False also where nobody can tell from here."""
    if not process.place or process.place != _place():
        return False
    try:
        os.kill(process.pid, 0)  # asks only; /proc alone would not do, as it may hide the processes of others
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it is there, and somebody else's
    birth = _birth(process.pid)
    return birth is not None and bool(process.birth) and birth != process.birth


@cache
def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""  # no Linux: then a process is known to be dead only by its silence
    # Clones of one virtual machine have the same boot; their names, mostly, tell them apart.
    return f"{platform.node()}:{boot}:{namespace}"


def _birth(pid: int) -> int | None:
    """Return when a process was born; -1 for one that has ended and waits for its parent, None if nobody can tell."""
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = told.rpartition(")")[2].split()  # the command stands in brackets, and may hold any character
    return -1 if fields[0] in "ZX" else int(fields[_BIRTH_FIELD])
