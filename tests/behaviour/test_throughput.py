"""A batch uses what it is bound by, though one call in twenty fails: replies as long and as large as recorded ones."""

import pytest

from tests.benchmarks.throughput import LEAST_SHARE, Traffic, measure


@pytest.fixture(scope="module")
def traffic(data):
    return Traffic.read(data)


@pytest.mark.parametrize("name", ["five steps", "one step"])
@pytest.mark.parametrize("binding", ["slots", "requests", "tokens"])
def test_failures_leave_hardly_anything_of_the_bound_unused(traffic, name, binding):
    """Work waits all the time, so whatever back-off, cool-downs and wrong estimates leave idle is lost for nothing."""
    measured = measure(traffic, name, binding, slots=32, calls=2_000)

    assert measured.share >= LEAST_SHARE
    assert measured.share <= 1.05, "more than is allowed: then it is the measure that is wrong"
    assert measured.cooldowns > 0
    assert measured.completed > 0.99
