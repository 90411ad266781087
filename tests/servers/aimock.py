"""aimock, a server of the wire protocols of many providers: fetched once at a pinned version, started, stopped.

`python -m tests.servers.aimock` starts one to try things with, until the next line of input.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = "@copilotkit/aimock"
VERSION = "1.43.0"
INTEGRITY = "V8D8cjSMtAR4rHaD2ulp3DR/ZguXQjDNOqwKDNvjb/OJL/KR1I0SDf5xpRCd+TYKjhmf9fM8Xpg3QBKPmV9Kmw=="
"""The SHA-512 of the package's archive: what runs here is what was read here."""
SWITCH = "PIPELINE_ENGINE_SERVERS"
"""The environment variable without which the tests of this folder are skipped."""
CACHE = "PIPELINE_ENGINE_SERVERS_CACHE"
"""The environment variable that names the folder in which the package is kept, outside the repository."""
KEY = "loopback"
"""The only key that the server takes."""
FETCH_SECONDS = 120.0
START_SECONDS = 20.0
FIXTURES = Path(__file__).parent / "fixtures"
# The server ends when the pipe to its starter does, however the starter ended: nothing is left behind.
_END_WITH_STARTER = "data:text/javascript,process.stdin.resume();process.stdin.on('end',()=>process.exit(0))"


class ServerError(Exception):
    """Raised when the server cannot be fetched or started."""


def lacks() -> str | None:
    """Return why no server can run here, or None."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        return f"{PACKAGE} needs Node.js 20 or later, and {' and '.join(missing)} cannot be found here."
    told = subprocess.run(["node", "--version"], capture_output=True, text=True, timeout=START_SECONDS, check=False)
    major = re.match(r"v(\d+)\.", told.stdout)
    if major is None or int(major[1]) < 20:
        return f"{PACKAGE} needs Node.js 20 or later; node --version says {told.stdout.strip() or 'nothing'}."
    return None


def fetched() -> Path:
    """Return the folder of the unpacked package, fetched with npm if it is not there yet; nothing is installed.

    The package depends on no other one, and none of its scripts is run.

    Raises:
        ServerError: If it cannot be fetched, or is not the archive that is known here.
    """
    base = os.environ.get(CACHE) or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/pipeline-engine"
    home = Path(base).expanduser()
    unpacked = home / f"aimock-{VERSION}"
    if unpacked.is_dir():
        return unpacked / "package"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--silent", "--ignore-scripts", "--pack-destination", folder]
        try:
            packed = subprocess.run(
                command, cwd=folder, capture_output=True, timeout=FETCH_SECONDS, check=False, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            raise ServerError(f"npm did not fetch {PACKAGE} {VERSION} within {FETCH_SECONDS:g} s.") from None
        archives = [*Path(folder).glob("*.tgz")]
        if packed.returncode or len(archives) != 1:
            raise ServerError(f"npm could not fetch {PACKAGE} {VERSION}; it ended with code {packed.returncode}.")
        found = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
        if found != INTEGRITY:
            raise ServerError(f"{PACKAGE} {VERSION} is not the archive that is known here. Do not run it.")
        whole = Path(folder) / "unpacked"
        with tarfile.open(archives[0]) as archive:
            archive.extractall(whole, filter="data")
        try:
            whole.rename(unpacked)
        except OSError:
            if not unpacked.is_dir():  # else another process was faster, with the same bytes
                raise
    return unpacked / "package"


@dataclass(frozen=True)
class Server:
    """A running server, and what it says of itself."""

    url: str

    def journal(self, test_id: str) -> list[dict[str, Any]]:
        """Return every request that came with a test's id, in order, and what was made of it."""
        return self._ask("GET", f"/__aimock/journal?testId={test_id}")

    def refuse_next(self, status: int, message: str, kind: str) -> None:
        """Answer the next request, whoever sends it, with an error; a 429 says `Retry-After: 1`."""
        error = {"message": message, "type": kind, "code": kind}
        self._ask("POST", "/__aimock/error", {"status": status, "body": error})

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {KEY}", "content-type": "application/json"},
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as reply:
            return json.load(reply)


@contextmanager
def serving() -> Iterator[Server]:
    """Start a server on a free port of the loopback, and stop that process, and no other, at the end.

    Raises:
        ServerError: If it cannot be fetched, or does not start.
    """
    package = fetched()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [
            *("node", "--import", _END_WITH_STARTER, str(package / "dist" / "cli.js")),
            *("--host", "127.0.0.1", "--port", "0", "--fixtures", str(FIXTURES), "--validate-on-load", "--strict"),
            *("--chunk-size", "7", "--journal-max", "0"),
        ]
        environment = {"PATH": os.environ["PATH"], "AIMOCK_API_KEYS": KEY}  # no key of the user's goes in
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT
            )
        try:
            yield Server(_address(process, log))
        finally:
            process.terminate()
            try:
                process.communicate(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Return the address that the server says it listens on."""
    step = 0.05
    for _ in range(int(START_SECONDS / step)):
        said = log.read_text(encoding="utf-8", errors="replace")
        found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", said)
        if found is not None:
            return found[1]
        try:
            code = process.wait(step)
        except subprocess.TimeoutExpired:
            continue
        raise ServerError(f"aimock ended with code {code} instead of starting:\n{said[-2000:]}")
    raise ServerError(f"aimock did not start within {START_SECONDS:g} s:\n{said[-2000:]}")


if __name__ == "__main__":
    with serving() as running:
        input(f"{running.url} takes the key {KEY!r} until you press Enter.\n")
