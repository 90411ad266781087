"""Simulated against real: 500 documents over HTTP from a server with drawn latencies, and what was predicted.

The server runs in a process of its own on this machine's loopback. It draws the latency of each reply from a
log-normal distribution, and fails now and then. The same pipeline, over the real HTTP client, is timed by the wall
clock. Before each run two predictions are made, each the median of several simulations: from the distributions
themselves, and from what the run before has recorded. A third one is made afterwards, from what the run itself has
recorded: it does not have to guess how slow the machine was. The last column is the replay of the run by `what_if`.
"Stretch" is how much longer calls took than they were drawn: far from 1 the machine was busy with something else.

Run by name, with `python -m tests.benchmarks prediction`: it takes a minute.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import trio

from pipeline_engine import BatchResult, LogNormal, Model, Pipeline, Retry, run_batch, simulate, what_if
from tests.benchmarks.measuring import judged, load_averages, print_table

DOCUMENTS = 500
CAPACITY = 32
LATENCY = LogNormal(0.1, 0.2)
"""Narrow enough that one unlucky call at the end is no tenth of the makespan, which nobody could predict."""
FAILURES = 0.02
ROUNDS = 5
SEEDS = 5
WITHIN = 0.05
COLUMNS = ("distributions", "the run before", "the run itself", "its replay")

pipeline = Pipeline("article", inputs={"document": str})
RETRY = Retry(attempts=4, base_delay=0.1)


@pipeline.llm("fast", str, retry=RETRY)
def title(document: str) -> str:
    return f"Give this document a title.\n\n{document}"


@pipeline.llm("fast", str, retry=RETRY)
def keywords(document: str) -> str:
    return f"Name keywords.\n\n{document}"


@pipeline.llm("fast", str, retry=RETRY)
def category(document: str) -> str:
    return f"Classify this document.\n\n{document}"


@pipeline.llm("fast", str, retry=RETRY)
def summary(document: str, title: str, keywords: str) -> str:
    return f"Summarise “{title}” around {keywords}.\n\n{document}"


@pipeline.llm("fast", str, retry=RETRY)
def quality(document: str, title: str, category: str) -> str:
    return f"How well does “{title}” fit this {category}?\n\n{document}"


# The server


def reply(status: str, body: dict[str, object]) -> bytes:
    encoded = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(encoded)}\r\n\r\n"
    return head.encode() + encoded


FINE = reply(
    "200 OK",
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1795240800,
        "model": "drawn",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "A reply."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 120, "completion_tokens": 8, "total_tokens": 128},
    },
)
BROKEN = reply("500 Internal Server Error", {"error": {"message": "drawn", "type": "server_error"}})


async def answer(dice: random.Random, stream: trio.SocketStream) -> None:
    """Answer one connection's requests, one after the other."""
    received = b""
    async with stream:
        while True:
            while b"\r\n\r\n" not in received:
                more = await stream.receive_some()
                if not more:
                    return
                received += more
            head, _, received = received.partition(b"\r\n\r\n")
            length = int(next(line for line in head.lower().split(b"\r\n") if b"content-length" in line).split(b":")[1])
            while len(received) < length:
                received += await stream.receive_some()
            received = received[length:]
            await trio.sleep(LATENCY.sample(dice))
            await stream.send_all(BROKEN if dice.random() < FAILURES else FINE)


async def serve(seed: int) -> None:
    """Answer on a free port, which is printed, until standard input is closed."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=512)
    print(listeners[0].socket.getsockname()[1], flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(trio.serve_listeners, partial(answer, random.Random(seed)), listeners))
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


@contextmanager
def served(seed: int) -> Iterator[str]:
    """Run a server and yield its address."""
    command = [sys.executable, "-m", "tests.benchmarks.prediction", "serve", str(seed)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        finally:
            server.communicate()


# Runs


def really(seed: int, documents: int) -> tuple[float, float, BatchResult]:
    """Run the batch over HTTP; return the seconds that it took, those of CPU among them, and its result."""
    with served(seed) as address:
        model = Model("openai:drawn", base_url=address, api_key="none")
        started, cpu = time.perf_counter(), time.process_time()
        given = ({"document": f"Document {seed}-{number}. " * 20} for number in range(documents))
        batch = run_batch(pipeline, given, models={"fast": model}, capacity=CAPACITY)
        return time.perf_counter() - started, time.process_time() - cpu, batch


def predicted(documents: int, **calls: Any) -> float:
    """Return the makespan that simulations promise: the median over some seeds."""
    return median(
        simulate(pipeline, documents, capacity=CAPACITY, seed=seed, **calls).makespan for seed in range(SEEDS)
    )


def stretched(batch: BatchResult) -> float:
    """Return how much longer calls took than the server meant them to: 1.2 on a machine that has no time for it."""
    dice = random.Random(0)
    drawn = sum(LATENCY.sample(dice) for _ in range(20_000)) / 20_000
    steps = batch.trace.steps
    return sum(step.busy for step in steps) / sum(step.attempts for step in steps) / drawn


def main(scale: float = 1.0) -> None:
    """Let simulations and runs take turns.

    Args:
        scale: Which part of the documents is run: less than 1 for a look.
    """
    documents = int(DOCUMENTS * scale)
    really(99, max(CAPACITY, documents // 10))  # imports, and connections of the system
    *_, before = really(100, documents)
    rows, errors = [], []
    for number in range(ROUNDS):
        figures = [predicted(documents, latency=LATENCY, failures=FAILURES), predicted(documents, like=before)]
        seconds, cpu, before = really(number, documents)
        figures += [predicted(documents, like=before), what_if(before).replayed]
        found = [figure / seconds - 1 for figure in figures]
        errors.append(found)
        rows.append(
            (
                f"run {number + 1}",
                f"{seconds:.2f}",
                f"{cpu / seconds:.0%}",
                f"{stretched(before):.2f}",
                *(f"{error:+.1%}" for error in found),
            )
        )
    print_table(
        f"{documents} documents of five calls over loopback HTTP, {CAPACITY} at once: the prediction's error",
        ("", "seconds", "CPU", "stretch", *COLUMNS),
        rows,
    )
    for name, column in zip(COLUMNS, zip(*errors, strict=True), strict=True):
        worst = max(map(abs, column))
        print(f"  {name}: median {median(map(abs, column)):.1%}, worst {worst:.1%}, {judged(worst, WITHIN)}")
    print(f"  load averages {load_averages()}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        trio.run(serve, int(sys.argv[2]))
    else:
        main(*map(float, sys.argv[1:]))
