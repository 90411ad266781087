"""aimock, a server of the wire protocols of many providers: fetched once at a pinned version, started, stopped.

`python -m tests.servers.aimock` starts one to try things with, until the next line of input.
"""

import json
import os
import re
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.npm_package import Package, fetched, lacks_node

PACKAGE = Package(
    "@copilotkit/aimock",
    "1.43.0",
    "V8D8cjSMtAR4rHaD2ulp3DR/ZguXQjDNOqwKDNvjb/OJL/KR1I0SDf5xpRCd+TYKjhmf9fM8Xpg3QBKPmV9Kmw==",
)
"""The server; it depends on no other package."""
SWITCH = "PIPELINE_ENGINE_SERVERS"
"""The environment variable without which the tests of this folder are skipped."""
KEY = "loopback"
"""The only key that the server takes."""
START_SECONDS = 20.0
FIXTURES = Path(__file__).parent / "fixtures"
# The server ends when the pipe to its starter does, however the starter ended: nothing is left behind.
_END_WITH_STARTER = "data:text/javascript,process.stdin.resume();process.stdin.on('end',()=>process.exit(0))"


class ServerError(Exception):
    """Raised when the server cannot be started."""


def lacks() -> str | None:
    """Return why no server can run here, or None."""
    return lacks_node(PACKAGE.name)


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
        PackageError: If it cannot be fetched.
        ServerError: If it does not start.
    """
    package = fetched(PACKAGE)
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
