"""A real browser for tests, driven through Node.js: Chromium of this machine, playwright-core at a pinned version."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.npm_package import Package, fetched, lacks_node

PLAYWRIGHT = Package(
    "playwright-core",
    "1.65.1",
    "hqPpz7blSMPxWVdoeE1yiBSzXsKiVOd2k+kjCvmUywD2GPO2Dd9HfcWnq9NN0GHbNZDFgZ9JfBFr+X5/BLo0qw==",
)
AXE = Package(
    "axe-core",
    "4.14.1",
    "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==",
)
SWITCH = "PIPELINE_ENGINE_BROWSER"
"""The environment variable without which the tests of this folder are skipped."""
EXECUTABLE = "CHROMIUM"
"""The environment variable that names the browser, where it is not on the path."""
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_END_SECONDS = 10.0


def executable() -> str | None:
    """Return where the browser is, or None."""
    return os.environ.get(EXECUTABLE) or next((found for found in map(shutil.which, _NAMES) if found), None)


def lacks() -> str | None:
    """Return why no browser can be driven here, or None."""
    if executable() is None:
        return f"no browser: {', '.join(_NAMES)} are not on the path, and ${EXECUTABLE} names none."
    return lacks_node(PLAYWRIGHT.name)


class BrowserError(Exception):
    """Raised when the browser did not do what it was asked to."""


class Browser:
    """Open pages and do things with them, one page at a time."""

    def __init__(self, process: subprocess.Popen[str], axe: Path) -> None:
        self._process = process
        self._axe = axe

    def open(
        self,
        page: Path | str,
        *,
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
        calm: float = 0.0,
        **options: Any,
    ) -> None:
        """Open a file, offline, or an address in a context of its own, and wait until its script is done.

        Args:
            page: What to open.
            width: The window's width in pixels.
            height: Its height.
            scheme: The colours that the reader prefers: "light" or "dark".
            calm: Seconds between the opening of the window and that of the page.
            options: More of what playwright's `newContext` takes.
        """
        address = page if isinstance(page, str) else page.as_uri()
        viewport = {"width": width, "height": height}
        told = {"viewport": viewport, "colorScheme": scheme, "offline": address.startswith("file:"), **options}
        self._ask("open", address=address, options=told, calm=1000 * calm)

    def run(self, steps: str) -> Any:
        """Run steps in JavaScript with playwright's `page` and `context`, and return what they return."""
        return self._ask("run", steps=steps)

    def evaluate(self, function: str) -> Any:
        """Run a function in the page."""
        return self.run(f"return await page.evaluate({function});")

    def seen(self) -> dict[str, Any]:
        """Return what the page has asked for and complained of: `requests`, `messages`, `dialogs`."""
        return self._ask("seen")

    def violations(self) -> list[str]:
        """Return what axe finds wrong with the page, which must have been opened with `bypassCSP=True`."""
        self.run(f"await page.addScriptTag({{path: {json.dumps(str(self._axe))}}});")
        return self.evaluate(
            "async () => (await axe.run()).violations.flatMap("
            "(one) => one.nodes.map((node) => `${one.id}: ${node.target.join(' ')}`))"
        )

    def _ask(self, what: str, **rest: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{json.dumps({'what': what, **rest})}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise BrowserError("the browser has ended.")
        told = json.loads(line)
        if "error" in told:
            raise BrowserError(told["error"])
        return told["value"]


@contextmanager
def browsing() -> Iterator[Browser]:
    """Start a browser, and end it with the pipe to its driver.

    Raises:
        PackageError: If what drives it cannot be fetched.
    """
    playwright, axe = fetched(PLAYWRIGHT), fetched(AXE) / "axe.min.js"
    driver = Path(__file__).parent / "driver.mjs"
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            ["node", str(driver), str(playwright), str(executable())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        )
        try:
            yield Browser(process, axe)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
