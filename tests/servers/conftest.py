"""The server that these tests share, and the figures that they leave."""

import os

import pytest

from tests.servers.aimock import SWITCH, lacks, serving

_figures: list[str] = []


@pytest.fixture(scope="session")
def server():
    """A server that nobody here wrote, for as long as the tests run."""
    if not os.environ.get(SWITCH):
        pytest.skip("`make servers` runs the servers that nobody here wrote")
    missing = lacks()
    if missing:
        pytest.skip(missing)
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def _azure_version(monkeypatch):
    """The version of Azure's interface that the server knows: the one with deployments."""
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")


@pytest.fixture
def tell():
    """Say a figure, for the end of the output: what was counted is what these tests are read for."""
    return _figures.append


def pytest_terminal_summary(terminalreporter):
    """Print what was counted."""
    if _figures:
        terminalreporter.section("counted")
        for line in _figures:
            terminalreporter.line(line)
