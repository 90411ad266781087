"""What users write type-checks, and what cannot work is refused, by mypy --strict and by pyright."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RIGHT = [HERE / "api.py", ROOT / "pipelines" / "document.py"]


def run(*command, **environment):
    return subprocess.run(  # its exit code is the number of errors, or so
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def mypy(files, folder):
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed: pip install --group check")
    ran = run("mypy", "--strict", "--output", "json", "--cache-dir", folder / "mypy", *files)
    assert ran.stderr == ""
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    return [(ROOT / error["file"], error["line"], error["message"]) for error in found if error["severity"] == "error"]


def pyright(files, folder):
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed: pip install --group check")
    options = ("--pythonpath", sys.executable, "--outputjson")
    ran = run("pyright", *options, *files, PYRIGHT_PYTHON_IGNORE_WARNINGS="1")
    if not ran.stdout.startswith("{"):
        last = ran.stderr.strip().splitlines()[-1:] or ["no word"]
        pytest.skip(f"pyright cannot start its Node.js, which it downloads at its first start: {last[0]}")
    found = json.loads(ran.stdout)["generalDiagnostics"]
    return [
        (Path(error["file"]), error["range"]["start"]["line"] + 1, error["message"])
        for error in found
        if error["severity"] == "error"
    ]


@pytest.fixture(scope="module", params=[mypy, pyright], ids=["mypy", "pyright"])
def checked(request, tmp_path_factory):
    """Return the file with mistakes, and the errors that one type checker found in it and in the right ones."""
    folder = tmp_path_factory.mktemp(request.param.__name__).resolve()
    wrong = folder / "wrong.py"
    wrong.write_text((HERE / "wrong.txt").read_text(encoding="utf-8"), encoding="utf-8")
    return wrong, request.param([*RIGHT, wrong], folder)


def test_what_users_write_has_no_error(checked):
    """Outputs are typed from decorator to result: without a cast, an ignore or an Any."""
    wrong, errors = checked

    assert [error for error in errors if error[0] != wrong] == []


def test_exactly_the_marked_lines_are_refused(checked):
    """A signature that became too loose would accept everything, and the other test would still pass."""
    wrong, errors = checked
    lines = wrong.read_text(encoding="utf-8").splitlines()
    marked = [number for number, line in enumerate(lines, 1) if line.endswith("# expect-error")]

    assert sorted({line for path, line, _ in errors if path == wrong}) == marked
    assert len(marked) == 22
