"""The pytest plugin: fixtures for virtual time, for scripted models and for recorded replies.

It is loaded with every pytest run where this package is installed, so it imports nothing before a fixture is used.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from trio.testing import MockClock

    from pipeline_engine.providers.scripted import ScriptedModel
    from pipeline_engine.testing.recording import RecordedModel

_VARIABLE = "PIPELINE_ENGINE_RECORD"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--record-replies`."""
    parser.getgroup("pipeline_engine").addoption(
        "--record-replies",
        choices=("once", "none", "all"),
        help="recorded replies of models: replay them and record what is missing (once, the default), "
        "only replay (none), or record all anew (all); instead of the environment variable PIPELINE_ENGINE_RECORD",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Tell the mode of recording to whatever makes a model."""
    mode = config.getoption("--record-replies")
    if mode is None:
        return
    before = os.environ.get(_VARIABLE)
    os.environ[_VARIABLE] = mode

    def restore() -> None:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before

    config.add_cleanup(restore)


@pytest.fixture
def virtual_clock() -> Iterator[MockClock]:
    """Jump to the next deadline whenever everything waits: hours pass in milliseconds, exactly.

    With pytest-trio it is the clock of an async test. In any other test it is in effect for what the engine starts:
    `run_pipeline`, `run_batch`, a `Runner`, and `run_pipeline_async` under asyncio.
    """
    from trio.testing import MockClock

    from pipeline_engine.testing.clock import virtual_time

    with virtual_time():
        yield MockClock(autojump_threshold=0)


@pytest.fixture
def scripted_model() -> ScriptedModel:
    """Return a model without answers yet: `scripted_model.script["title"] = "Tides"`."""
    from pipeline_engine.providers.scripted import ScriptedModel

    return ScriptedModel()


@pytest.fixture
def recorded(request: pytest.FixtureRequest) -> Callable[..., RecordedModel]:
    """Return what makes a recorded model: `recorded("openai:gpt-4o-mini")`, with the options of `RecordedModel`.

    Its file is `recordings/<module>/<test>.jsonl` beside the test's own.
    """
    from functools import partial

    from pipeline_engine.testing.recording import RecordedModel

    name = re.sub(r"[^\w.-]+", "-", request.node.name).strip("-.")
    return partial(RecordedModel, request.path.parent / "recordings" / request.path.stem / f"{name}.jsonl")
