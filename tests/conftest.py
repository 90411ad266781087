"""Fixtures for all tests: the virtual clock, and the folder of recorded data where there is one."""

import os
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import settings

# The same examples every time, so that a green main stays green; `HYPOTHESIS_PROFILE=explore` looks for new ones.
settings.register_profile("ci", derandomize=True, max_examples=100, deadline=None)
settings.register_profile("explore", max_examples=3000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def virtual_clock():
    """Jump to the next deadline whenever everything waits: hours pass in milliseconds, exactly."""
    return trio.testing.MockClock(autojump_threshold=0)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real test data, where there is one."""
    folder = os.environ.get("PIPELINE_ENGINE_DATA")
    if not folder:
        pytest.skip("PIPELINE_ENGINE_DATA is not set: there is no recorded traffic to replay")
    return Path(folder)
