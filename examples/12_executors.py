"""Steps that are no trio code: blocking ones in threads, CPU-heavy ones in processes, asyncio ones on their loop."""

import asyncio  # noqa: TID251 - one step is written for it
import hashlib
import os
import threading

from pipeline_engine import Pipeline, run_pipeline

pipeline = Pipeline("executors", inputs={"text": str})


@pipeline.step
async def on_trio(text: str) -> str:
    is_main = threading.current_thread() is threading.main_thread()
    return f"{len(text)} characters, {'on the main thread' if is_main else 'in a worker thread'}"


@pipeline.step
def in_thread(text: str) -> str:
    is_main = threading.current_thread() is threading.main_thread()
    return (
        f"{hashlib.sha256(text.encode()).hexdigest()[:8]}…, {'on the main thread' if is_main else 'in a worker thread'}"
    )


@pipeline.step(executor="process", timeout=30)
def in_process(text: str) -> tuple[int, int]:
    return sum(len(text) * number for number in range(200_000)), os.getpid()


@pipeline.step(executor="asyncio")
async def on_asyncio(text: str) -> str:
    await asyncio.sleep(0.05)
    return f"slept, on {type(asyncio.get_running_loop()).__name__}"


if __name__ == "__main__":  # the worker process imports this file, too
    result = run_pipeline(pipeline, {"text": "Twice a day the sea comes up the beach."})
    for name, output in result.outputs.items():
        print(f"{name:<11} {output}")
    print(f"{'here':<11} process {os.getpid()}\n")
    print(result.trace.waterfall(width=90))
