"""What the tests of running share: a gauge of what goes on at once, threads by name, and a fresh warning flag."""

import threading

import pytest

from pipeline_engine.run import api


class Gauge:
    """Count how many are inside at once, from any thread; `with gauge:` around the work."""

    def __init__(self):
        self._lock = threading.Lock()
        self.now = 0
        self.most = 0

    def __enter__(self):
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        return self

    def __exit__(self, *_error):
        with self._lock:
            self.now -= 1


@pytest.fixture
def gauge():
    return Gauge()


@pytest.fixture
def threads_left():
    """Return a function that names the library's threads; the process' one bridge for asyncio may stay."""

    def names():
        ours = (thread.name for thread in threading.enumerate() if thread.name.startswith("pipeline_engine"))
        return sorted(name for name in ours if name != "pipeline_engine trio")

    return names


@pytest.fixture
def never_warned(monkeypatch):
    """Forget that this process was warned: the warning comes once per process."""
    monkeypatch.setattr(api, "_has_warned", False)


@pytest.fixture
def warned_before(monkeypatch):
    """Take the warning about a blocked loop as given, for tests about something else."""
    monkeypatch.setattr(api, "_has_warned", True)
