"""Run all tests of this folder, within a bound: `python -m tests.kills [pytest's arguments]`."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
BOUND = 900.0
"""Seconds after which everything is stopped: nothing here may hang a build."""


def main(arguments: list[str]) -> int:
    command = [sys.executable, "-m", "pytest", str(FOLDER), *arguments]
    environment = {**os.environ, "PIPELINE_ENGINE_KILLS": "1"}
    try:
        return subprocess.run(command, check=False, timeout=BOUND, cwd=FOLDER.parents[1], env=environment).returncode
    except subprocess.TimeoutExpired:
        print(f"Stopped: not done within {BOUND:g} s.")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
