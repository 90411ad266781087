"""How long starting takes, each time in a fresh process: the imports and the command line.

Times include the start of Python itself. CPU time is given beside wall time, because it suffers less
from what else the machine does; the targets are judged by it.
"""

import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from tests.benchmarks.measuring import judged, print_table

ROUNDS = 11
HEAVY = ("trio", "pydantic", "networkx", "httpx2", "rich", "sqlite3", "asyncio")
OURS = "from pipeline_engine import Pipeline, run_pipeline"
FLOOR = "import trio, pydantic"


def main() -> None:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        FLOOR: [sys.executable, "-c", FLOOR],
        OURS: [sys.executable, "-c", OURS],
    }
    command_line = [str(Path(sys.executable).with_name("pipeline-engine")), "--help"]
    has_command_line = _works(command_line)
    if has_command_line:
        commands["pipeline-engine --help"] = command_line
    wall: dict[str, list[float]] = {name: [] for name in commands}
    cpu: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(ROUNDS + 1):
        for name, command in commands.items():
            taken = _run(command)
            if number > 0:  # the first round writes the bytecode
                wall[name].append(taken[0])
                cpu[name].append(taken[1])
    baselines = {OURS: (FLOOR, 1.3), "pipeline-engine --help": ("python -c pass", 5.0)}
    rows = []
    for name in commands:
        baseline, target = baselines.get(name, (name, 0.0))
        ratio = median(cpu[name]) / median(cpu[baseline])
        judgement = f"{judged(ratio, target)} of {baseline}" if target else ""
        rows.append((name, min(wall[name]), median(wall[name]), median(cpu[name]), ratio, judgement))
    print_table("Starting, in milliseconds", ("", "best wall", "median wall", "median CPU", "ratio", "target"), rows)
    if not has_command_line:
        print("  pipeline-engine --help: skipped, it does not run here")
    script = f"import sys; {OURS}; print(*[name for name in {HEAVY} if name in sys.modules], len(sys.modules))"
    *loaded, modules = _output(script).split()
    verdict = f"loads {', '.join(loaded)}: MISSED" if loaded else f"loads none of {', '.join(HEAVY)}: met"
    print(f"  {OURS}: {modules} modules, {verdict}")


def _works(command: list[str]) -> bool:
    return Path(command[0]).exists() and subprocess.run(command, check=False, capture_output=True).returncode == 0


def _run(command: list[str]) -> tuple[float, float]:
    """Return the milliseconds of wall time and of CPU time that a process took."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall * 1000, cpu * 1000


def _output(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
