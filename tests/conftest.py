"""Fixtures for all tests: a PostgreSQL server, and recorded data where there is some. The plugin has the clock."""

import gc
import os
from pathlib import Path

import pytest
from hypothesis import settings

from tests.postgres_server import running_postgres

# The same examples every time, so that a green main stays green; `HYPOTHESIS_PROFILE=explore` looks for new ones.
settings.register_profile("ci", derandomize=True, max_examples=100, deadline=None)
settings.register_profile("explore", max_examples=3000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_finish(session):
    """Leave thousands of collected tests out of the garbage collector's rounds: each would look at all of them."""
    del session
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server that runs until the last test has ended; started by the first one that asks for it."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres(postgres_server) -> str:
    """The address of a PostgreSQL database in which nobody has written yet."""
    return postgres_server.address(postgres_server.emptied_database())


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real test data, where there is one."""
    folder = os.environ.get("PIPELINE_ENGINE_DATA")
    if not folder:
        pytest.skip("PIPELINE_ENGINE_DATA is not set: there is no recorded traffic to replay")
    return Path(folder)
