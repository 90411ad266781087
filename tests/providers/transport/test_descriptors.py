"""The limit of open files: raised as far as allowed, never lowered, and told as connections."""

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from pipeline_engine.providers.transport.descriptors import ensure_descriptors, max_connections
soft, hard, wanted = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
before = max_connections()
print(before, ensure_descriptors(wanted), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "expected"),
    [
        (256, 1024, 100, "192 192 256 1024"),
        (256, 1024, 500, "192 500 600 1024"),
        (256, 1024, 5000, "192 924 1024 1024"),
        (40, 40, 100, "30 30 40 40"),
        (1024, 1024, 10, "924 924 1024 1024"),
    ],
)
def test_the_limit_is_raised_as_far_as_needed_and_allowed(soft, hard, wanted, expected):
    """On macOS it starts at 256: a run of a thousand calls would fail there for no good reason."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(soft), str(hard), str(wanted)], capture_output=True, text=True, check=True
    )

    assert done.stdout.split() == expected.split()


def test_what_is_there_is_enough_for_a_few():
    """The tests themselves run under some limit."""
    from pipeline_engine.providers.transport import ensure_descriptors

    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    assert ensure_descriptors(1) >= 1
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= before[0]
