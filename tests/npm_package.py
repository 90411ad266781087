"""Packages of npm for tests: fetched once at a pinned version, compared with a known hash, and never installed."""

import base64
import hashlib
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

CACHE = "PIPELINE_ENGINE_NPM_CACHE"
"""The environment variable that names the folder in which packages are kept, outside the repository."""
_FETCH_SECONDS = 120.0
_START_SECONDS = 20.0


class Package(NamedTuple):
    """Name a package that depends on no other one."""

    name: str
    version: str
    integrity: str
    """The SHA-512 of its archive: what runs here is what was read here."""


class PackageError(Exception):
    """Raised when a package cannot be fetched, or is not the one that is known here."""


def lacks_node(what: str) -> str | None:
    """Return why nothing that needs Node.js can run here, or None."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        return f"{what} needs Node.js 20 or later, and {' and '.join(missing)} cannot be found here."
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=_START_SECONDS, check=False)
    major = re.match(r"v(\d+)\.", told.stdout)
    if major is None or int(major[1]) < 20:
        return f"{what} needs Node.js 20 or later; node --version says {told.stdout.strip() or 'nothing'}."
    return None


def fetched(package: Package) -> Path:
    """Return the folder of the unpacked package, fetched with npm if it is not there yet; nothing is installed.

    None of its scripts is run.

    Raises:
        PackageError: If it cannot be fetched, or is not the archive that is known here.
    """
    name, version, integrity = package
    base = os.environ.get(CACHE) or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/pipeline-engine"
    home = Path(base).expanduser()
    unpacked = home / f"{name.rpartition('/')[2]}-{version}"
    if unpacked.is_dir():
        return unpacked / "package"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        command = ["npm", "pack", f"{name}@{version}", "--silent", "--ignore-scripts", "--pack-destination", folder]
        try:
            packed = subprocess.run(
                command, cwd=folder, capture_output=True, timeout=_FETCH_SECONDS, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise PackageError(f"npm did not fetch {name} {version} within {_FETCH_SECONDS:g} s.") from None
        archives = [*Path(folder).glob("*.tgz")]
        if packed.returncode or len(archives) != 1:
            raise PackageError(f"npm could not fetch {name} {version}; it ended with code {packed.returncode}.")
        found = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
        if found != integrity:
            raise PackageError(f"{name} {version} is not the archive that is known here. Do not run it.")
        whole = Path(folder) / "unpacked"
        with tarfile.open(archives[0]) as archive:
            archive.extractall(whole, filter="data")
        try:
            whole.rename(unpacked)
        except OSError:
            if not unpacked.is_dir():  # else another process was faster, with the same bytes
                raise
    return unpacked / "package"
