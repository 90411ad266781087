"""What a call of a model costs the client, against stock httpx2 and aiohttp, at 10 to 10,000 calls at the same time.

Everything runs on this machine's loopback: the client in a fresh process on one processor, the server in
another on the other one. Clients take turns within each round, so that what else the machine does hits all of
them; ratios are medians of the rounds' own ratios. CPU time is the client's, user and system, of the measured
part divided by its calls. Many processes and minutes: run it with `make bench-calls`, or `--quick` for a look.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from statistics import median

from tests.benchmarks.calls_clients import CLIENTS, Job, Measured
from tests.benchmarks.calls_server import Serving
from tests.benchmarks.measuring import ROUNDS, Timing, judged, print_table

PEER = "aiohttp"
STOCK = "httpx2"
SLOW_PER_CALL = 0.04
"""CPU seconds per call after which a client is given up: the stock pool's cost grows with the calls in it."""
MAX_STOCK_CALLS = 1_000
"""The stock pool is not run with more: it does not finish."""
TARGETS = {"ours, httptools": 1.3, "ours, h11": 2.0}
"""How many times aiohttp's CPU time a call may take, from 1,000 at the same time on."""
MAX_GROWTH = 1.5
"""How many times as much a call may cost at 5,000 as at 100: no pool that looks through its connections holds it."""
MAX_ADDED_MILLISECONDS = 50.0
FLOOR = "trio sockets"
USUAL_CLIENTS = ("ours, httptools", "ours, h11", "our transport alone, httptools", STOCK, PEER)
FIRST_TOKEN_CLIENTS = (FLOOR, "ours, httptools", "ours, h11", PEER)


@dataclass(frozen=True)
class Level:
    """Say how many calls run at the same time, and how long each takes."""

    calls: int
    serving: Serving
    rounds: int
    """Calls of each worker that are measured."""

    @property
    def seconds(self) -> float:
        """How long a call takes if neither side is busy."""
        return self.serving.latency + self.serving.chunks * self.serving.pause


def whole(calls: int, latency: float, rounds: int, spread: float = 0.0) -> Level:
    return Level(calls, Serving(latency, spread, held=calls), rounds)


def streamed(calls: int, latency: float, pause: float, rounds: int) -> Level:
    """Return a level of streams with 20 pieces of text, whose instants are spread: streams do not march in step."""
    return Level(calls, Serving(latency, 0.5, 20, pause, calls), rounds)


WHOLE = (whole(10, 0.2, 25), whole(100, 0.2, 20), whole(1_000, 2.0, 3), whole(5_000, 2.0, 3), whole(10_000, 2.0, 2))
SPREAD = (whole(100, 0.2, 20, 0.5), whole(1_000, 2.0, 3, 0.5), whole(5_000, 2.0, 3, 0.5))
"""The same without marching in step: with fewer replies in a turn of the loop, each carries more of its cost."""
STREAMED = (
    streamed(10, 0.2, 0.05, 4),
    streamed(100, 0.2, 0.05, 4),
    streamed(1_000, 1.0, 0.15, 2),
    streamed(5_000, 2.0, 0.45, 1),
    streamed(10_000, 2.0, 0.9, 1),
)
STEADY = Level(10_000, Serving(2.0, 0.5, 20, 1.0), 2)
"""10,000 streams open all the time, 455 new ones and 9,100 pieces of text each second."""


@contextmanager
def served(serving: Serving) -> Iterator[tuple[int, int]]:
    """Run a server on the last processor and yield its port and its process."""
    last = str(processors()[-1])
    command = [sys.executable, "-m", "tests.benchmarks.calls_server", serving.to_json(), last]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield int(server.stdout.readline()), server.pid
        finally:
            server.kill()


def processors() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def run(client: str, level: Level, ramp: float = 0.0, *, is_tuned: bool = False) -> Measured | None:
    """Run one client in a fresh process on the first processor; None if it does not finish in time."""
    with served(level.serving) as (port, server):
        job = Job(client, port, server, level.calls, level.rounds, level.serving.chunks > 0, ramp, is_tuned)
        command = [sys.executable, "-m", "tests.benchmarks.calls_clients", job.to_json(), str(processors()[0])]
        wanted = 2 * ramp + (level.rounds + 1) * (level.seconds * 1.5 + level.calls * SLOW_PER_CALL / 4) + 10
        try:
            reply = subprocess.run(command, capture_output=True, text=True, timeout=wanted, check=False)
        except subprocess.TimeoutExpired:
            return None
    if reply.returncode != 0:
        raise RuntimeError(f"client {client!r} failed at {level.calls:,} calls:\n{reply.stderr[-3000:]}")
    return Measured(**json.loads(reply.stdout))


def in_turns(level: Level, clients: Sequence[str], rounds: int) -> dict[str, list[Measured]]:
    """Run all clients, taking turns; one that does not finish is left out from then on."""
    results: dict[str, list[Measured]] = {client: [] for client in clients}
    for number in range(rounds):
        for client in clients:
            if len(results[client]) == number:
                measured = run(client, level)
                if measured is None:
                    print(f"  {client} did not finish with {level.calls:,} calls at the same time")
                else:
                    results[client].append(measured)
    return results


def microseconds(results: Sequence[Measured], level: Level) -> Timing:
    return Timing(tuple(result.cpu / (level.calls * level.rounds) * 1e6 for result in results))


def compare(title: str, levels: Sequence[Level], rounds: int, clients: Sequence[str]) -> None:
    """Print what a call costs each client at all levels."""
    costs: dict[str, dict[int, Timing]] = {client: {} for client in clients}
    rates: dict[str, dict[int, float]] = {client: {} for client in clients}
    every: list[Measured] = []
    for level in levels:
        asked = [client for client in clients if client != STOCK or level.calls <= MAX_STOCK_CALLS]
        for client, results in in_turns(level, asked, rounds).items():
            if len(results) == rounds:
                costs[client][level.calls] = microseconds(results, level)
                rates[client][level.calls] = median(level.calls * level.rounds / result.wall for result in results)
                every += results
    calls = [level.calls for level in levels]
    header = ("", *(f"{number:,}" for number in calls))
    missing = {(STOCK, number): "not run" for number in calls if number > MAX_STOCK_CALLS}

    def shown(client: str, figures: Mapping[int, float]) -> tuple[object, ...]:
        return (client, *(figures.get(number, missing.get((client, number), "DNF")) for number in calls))

    medians = {client: {number: cost.median for number, cost in of.items()} for client, of in costs.items()}
    title = f"{title}, at the same time: CPU us per call, medians of {rounds}"
    print_table(title, header, [shown(client, medians[client]) for client in clients])
    ideal = shown("ideal", {level.calls: level.calls / level.seconds for level in levels})
    rows = [ideal, *(shown(client, rates[client]) for client in clients)]
    print_table("  calls per second of wall time", header, rows)
    busiest = max(result.server_cpu / result.wall for result in every)
    starved = sum(result.starved for result in every) / sum(result.wall for result in every)
    print(f"  The server was busy for at most {busiest:.0%} of the time. {_starvation(starved)}")
    rows = []
    for client in clients:
        ratios = {number: cost / costs[PEER][number] for number, cost in costs[client].items() if number in costs[PEER]}
        judged_ratios = [ratio for number, ratio in ratios.items() if number >= 1_000 and client in TARGETS]
        verdict = f"1,000 on {judged(max(judged_ratios), TARGETS[client])}" if judged_ratios else ""
        rows.append((*shown(client, ratios), verdict))
    print_table(f"  x {PEER}", (*header, "target"), rows)
    growth = [(client, of[5_000] / of[100]) for client, of in costs.items() if 100 in of and 5_000 in of]
    if growth:
        targets = [judged(factor, MAX_GROWTH) if client in TARGETS else "" for client, factor in growth]
        rows = [(*row, target) for row, target in zip(growth, targets, strict=True)]
        print_table("  5,000 at the same time : 100", ("", "growth", "target"), rows)


def _starvation(share: float) -> str:
    noisy = " NOISY: run this again on a calm machine." if share > 0.05 else ""
    return f"Clients had to wait for their processor {share:.1%} of the time.{noisy}"


def print_first_tokens(level: Level, clients: Sequence[str], *, is_tuned: bool) -> None:
    """Print how late the first piece of a stream reaches the caller while all streams are open, and what one weighs."""
    rows: list[tuple[object, ...]] = []
    floor = 0.0
    for client in clients:
        measured = run(client, level, level.seconds, is_tuned=is_tuned)
        if measured is None:
            rows.append((client, "DNF", *[""] * 8))
            continue
        late = [second * 1000 for second in measured.first_tokens]
        middle, high, highest = late[len(late) // 2], late[int(len(late) * 0.95)], late[-1]
        floor = high if client == FLOOR else floor
        verdict = judged(high - floor, MAX_ADDED_MILLISECONDS) if client in TARGETS else ""
        shares = (measured.cpu, measured.server_cpu, measured.starved)
        shown = (f"{share / measured.wall:.0%}" for share in shares)
        kilobytes = measured.grown_kilobytes / level.calls
        rows.append((client, f"{len(late):,}", *shown, kilobytes, middle, high, highest, verdict))
    collector = "garbage collector tuned" if is_tuned else "garbage collector as it is"
    title = (
        f"{level.calls:,} streams open in one process, each of {level.serving.chunks} pieces "
        f"{level.serving.pause:g} s apart, {collector}:\n"
        "milliseconds from sending a stream's first piece to the caller's having it"
    )
    header = ("", "streams", "CPU", "server", "starved", "KB each", "p50", "p95", "max", "p95, less the floor's")
    print_table(title, header, rows)
    print("  Starved is the part of the time in which something else had the client's processor: it should be 0%.")


def print_setting() -> None:
    packages = ("aiohttp", "httpx2", "httptools", "h11", "trio")
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    print(", ".join(f"{package} {_version(package)}" for package in packages))
    print(f"JSON is written by {'orjson' if find_spec('orjson') else 'json'} and read by pydantic_core, in all clients")
    print(f"at most {hard:,} open files; load averages {', '.join(f'{load:.2f}' for load in os.getloadavg())}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main(arguments: Sequence[str] = ()) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.calls", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round, three levels, fewer streams")
    parser.add_argument("--rounds", type=int, help=f"rounds of each level, {ROUNDS} if not given")
    parser.add_argument("--levels", type=int, nargs="+", help="only these numbers of calls at the same time")
    parser.add_argument("--parts", nargs="+", choices=("whole", "spread", "streamed", "steady"), help="only these")
    parser.add_argument("--clients", nargs="+", choices=[*CLIENTS], help="only these, and aiohttp")
    options = parser.parse_args(arguments)
    if not hasattr(os, "sched_setaffinity") or len(processors()) < 2:
        print("\ncalls: skipped, it pins client and server to two processors, as Linux does.")
        return
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    wanted = options.levels or ([10, 100, 1_000] if options.quick else [level.calls for level in WHOLE])
    parts = options.parts or ("whole", "spread", "streamed", "steady")
    clients = list(USUAL_CLIENTS)
    if options.clients:
        clients = [name for name in CLIENTS if name in {*options.clients, PEER}]
    missing = {name for name in (PEER, STOCK) if find_spec(name) is None}
    if missing:
        print(f"\ncalls: skipped, {', '.join(sorted(missing))} is not installed.")
        return
    print_setting()
    compared = {
        "whole": ("Whole replies that all take equally long", WHOLE),
        "spread": ("Whole replies that take half to one and a half times as long", SPREAD),
        "streamed": ("Streams of 20 pieces of text", STREAMED),
    }
    for part, (title, levels) in compared.items():
        if part in parts:
            compare(title, [level for level in levels if level.calls in wanted], rounds, clients)
    if "steady" in parts:
        level = Level(1_000, Serving(1.0, 0.5, 20, 0.2), 2) if options.quick else STEADY
        asked = [name for name in FIRST_TOKEN_CLIENTS if not options.clients or name in {*clients, FLOOR}]
        for is_tuned in (False, True):
            print_first_tokens(level, asked, is_tuned=is_tuned)
    print(f"load averages at the end: {', '.join(f'{load:.2f}' for load in os.getloadavg())}")


if __name__ == "__main__":
    main(sys.argv[1:])
