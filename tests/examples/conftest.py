"""What the tests of the examples share: an example as a module."""

import importlib.util
import sys

import pytest

from tests.house.pages import ROOT


@pytest.fixture
def example():
    """Return a function that imports an example afresh."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # FastAPI looks up annotations there
        spec.loader.exec_module(module)
        return module

    yield load
    for name in [name for name in sys.modules if name.startswith("example_")]:
        del sys.modules[name]
