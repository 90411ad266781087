"""What the kills are counted for: figures at the end of the output; and the switch for those that take minutes."""

import os

import pytest

from tests.kills import harness

SWITCH = "PIPELINE_ENGINE_KILLS"
_figures: list[str] = []


@pytest.fixture
def many():
    """Let a test run that takes long."""
    if not os.environ.get(SWITCH):
        pytest.skip("`make kills` ends processes by the hundred")


@pytest.fixture
def tell():
    """Say a figure, for the end of the output: what was counted is what these tests are read for."""
    return _figures.append


@pytest.fixture
async def rig(tmp_path):
    """A provider that keeps the bill, and the workers that ask it."""
    async with harness.rig(tmp_path / "rig") as made:
        yield made


@pytest.fixture
def journal(tmp_path):
    """The path of a journal in a file."""
    return str(tmp_path / "runs.db")


def pytest_terminal_summary(terminalreporter):
    """Print what was counted."""
    if _figures:
        terminalreporter.section("counted")
        for line in _figures:
            terminalreporter.line(line)
