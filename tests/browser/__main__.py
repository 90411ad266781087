"""Run the tests of this folder in a browser, within a bound: `python -m tests.browser [pytest's arguments]`."""

import os
import subprocess
import sys
from pathlib import Path

from tests.browser.browser import SWITCH, lacks

FOLDER = Path(__file__).parent
BOUND = 600.0
"""Seconds after which everything is stopped: nothing here may hang a build."""


def main(arguments: list[str]) -> int:
    missing = lacks()
    if missing:
        print(f"Skipped: {missing}")
        return 0
    command = [sys.executable, "-m", "pytest", str(FOLDER), *arguments]
    try:
        return subprocess.run(
            command, check=False, timeout=BOUND, cwd=FOLDER.parents[1], env={**os.environ, SWITCH: "1"}
        ).returncode
    except subprocess.TimeoutExpired:
        print(f"Stopped: not done within {BOUND:g} s.")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
