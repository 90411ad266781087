"""Run benchmarks by name, or all that take minutes and not an hour: `python -m tests.benchmarks overhead ordering`."""

import sys
from importlib import import_module

from tests.benchmarks.measuring import print_setting, pure_python_milliseconds

BENCHMARKS = (
    "overhead",
    "shapes",
    "memory",
    "importing",
    "ordering",
    "workflows",
    "policies",
    "durability",
    "telemetry",
)
LONG = ("throughput", "adaptive", "calls", "endless", "simulation", "prediction")
"""Those that are only run by name."""
MODULES = {"adaptive": "adaptive_loop"}
"""Those whose module has another name."""


def main(names: list[str]) -> None:
    unknown = [name for name in names if name not in {*BENCHMARKS, *LONG}]
    if unknown:
        sys.exit(f"There is no benchmark {unknown[0]!r}. There are: {', '.join((*BENCHMARKS, *LONG))}.")
    print_setting()
    before = pure_python_milliseconds()
    for name in names or BENCHMARKS:
        import_module(f"tests.benchmarks.{MODULES.get(name, name)}").main()
    after = pure_python_milliseconds()
    remark = "" if abs(after / before - 1) < 0.2 else " NOISY: the machine itself changed by more than a fifth."
    print(f"\nA fixed loop of pure Python took {before:.0f} ms at the start and {after:.0f} ms at the end.{remark}")


if __name__ == "__main__":
    main(sys.argv[1:])
