"""Deep and wide graphs: a line of 10,000 steps, a fan of 10,000, and what compiling them costs.

All steps do nothing; the engine validates ints and keeps records. By hand, a line opens a nursery for each
step, as one does who waits level by level, and a fan is one nursery. Costs must not grow with the size.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from pipeline_engine import Engine, Pipeline, Plan, Timeout, compile_pipeline, use
from tests.benchmarks.measuring import Timing, cpu_seconds, in_turns, judged, print_table

SIZE = 10_000
SIZES = (100, 1_000, 10_000)
CAPACITY = 10_000
TIMEOUT = 60.0


def line(size: int, timeout: float | None = None) -> Pipeline:
    pipeline = Pipeline("line", inputs={"start": int})
    before = "start"
    for place in range(size):

        async def link(value: int = use(before)) -> int:
            return value

        before = f"link_{place}"
        pipeline.step(name=before, timeout=Timeout(attempt=timeout))(link)
    return pipeline


def fan_of_steps(size: int, timeout: float | None = None) -> Pipeline:
    pipeline = Pipeline("fan", inputs={"start": int})

    @pipeline.step
    async def first(start: int) -> int:
        return start

    for place in range(size):

        async def blade(first: int) -> int:
            return first

        pipeline.step(name=f"blade_{place}", timeout=Timeout(attempt=timeout))(blade)
    return pipeline


def fan_of_items(timeout: float | None = None) -> Pipeline:
    pipeline = Pipeline("items", inputs={"numbers": list[int]})

    @pipeline.step(each="numbers", timeout=Timeout(attempt=timeout))
    async def same(number: int) -> int:
        return number

    return pipeline


def on_engine(plan: Plan, inputs: dict[str, Any], steps: int, times: int = 1) -> float:
    async def measured() -> float:
        async with Engine(capacity=CAPACITY) as engine:
            await engine.run(plan, inputs)
            return await _cost(lambda: engine.run(plan, inputs), steps, times)

    return trio.run(measured)


async def _cost(run: Callable[[], Awaitable[Any]], steps: int, times: int) -> float:
    started = cpu_seconds()
    for _ in range(times):
        await run()
    return (cpu_seconds() - started) / (steps * times) * 1e6


async def _same(number: int) -> int:
    return number


async def line_by_hand() -> None:
    results: list[int] = [1]

    async def put(value: int) -> None:
        results.append(await _same(value))

    for _ in range(SIZE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(put, results[-1])


async def fan_by_hand() -> None:
    results = [0] * SIZE

    async def put(place: int, value: int) -> None:
        results[place] = await _same(value)

    async with trio.open_nursery() as nursery:
        for place in range(SIZE):
            nursery.start_soon(put, place, place)


def compile_cost(make: Callable[[int], Pipeline], size: int) -> float:
    """Return the microseconds for each step; the graph library is loaded before."""
    pipeline = make(size)
    started = cpu_seconds()
    compile_pipeline(pipeline)
    return (cpu_seconds() - started) / size * 1e6


def main() -> None:
    by_hand = {"line": line_by_hand, "fan": fan_by_hand}
    numbers = {"numbers": list(range(SIZE))}
    shapes: tuple[tuple[str, str, Callable[[float | None], Pipeline], dict[str, Any], float], ...] = (
        ("line of 10,000 steps", "line", lambda timeout: line(SIZE, timeout), {"start": 1}, 1.0),
        ("fan of 10,000 steps", "fan", lambda timeout: fan_of_steps(SIZE, timeout), {"start": 1}, 3.5),
        ("fan of 10,000 items", "fan", fan_of_items, numbers, 3.5),
    )
    rows = []
    for name, hand, make, inputs, target in shapes:
        plain, limited = compile_pipeline(make(None)), compile_pipeline(make(TIMEOUT))
        timings = in_turns(
            {
                "by hand": lambda hand=by_hand[hand]: trio.run(_cost, hand, SIZE, 3),
                "engine": lambda plan=plain, given=inputs: on_engine(plan, given, SIZE, 3),
                "engine, with a timeout": lambda plan=limited, given=inputs: on_engine(plan, given, SIZE, 3),
            }
        )
        for who, timing in timings.items():
            ratio = timing / timings["by hand"]
            judgement = judged(ratio, target) if who != "by hand" else ""
            rows.append((f"{name}, {who}", timing.median, timing.best, ratio, judgement))
    print_table("Deep and wide, no-op steps: CPU us per step", ("", "median", "best", "x by hand", "target"), rows)
    _print_linearity()


def _print_linearity() -> None:
    rows = []
    for name, make in (("line", line), ("fan", fan_of_steps)):
        compile_pipeline(make(10))
        compiling = in_turns(
            {f"{size:,}": lambda size=size, make=make: compile_cost(make, size) for size in SIZES}, rounds=3
        )
        plans = {size: compile_pipeline(make(size)) for size in SIZES}
        running = in_turns(
            {
                f"{size:,}": lambda size=size, plan=plan: on_engine(plan, {"start": 1}, size, SIZE // size)
                for size, plan in plans.items()
            },
            rounds=3,
        )
        rows += [_linear(f"compile a {name}", compiling), _linear(f"run a {name}", running)]
    header = ("", *(f"{size:,} steps" for size in SIZES), "10,000 : 1,000", "linear")
    print_table("Growth with the number of steps: CPU us per step", header, rows)


def _linear(name: str, timings: dict[str, Timing]) -> tuple[object, ...]:
    medians = [timing.median for timing in timings.values()]
    growth = medians[-1] / medians[-2]
    return (name, *medians, growth, judged(growth, 1.5))
