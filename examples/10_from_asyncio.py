"""From asyncio: three documents at once; the engine runs on its own trio thread, the event loop stays free."""

import asyncio  # noqa: TID251 - that is what this example is about

from pipeline_engine import Pipeline, run_pipeline_async
from pipeline_engine.testing import ScriptedModel

pipeline = Pipeline("hello", inputs={"name": str})


@pipeline.llm("fast", str)
def greeting(name: str) -> str:
    return f"Greet {name} in one line."


model = ScriptedModel({"greeting": lambda request: f"Hello to {request.messages[0].text.split()[1]}!"}, latency=0.1)


async def tick(ticks: list[float]) -> None:
    while True:
        ticks.append(asyncio.get_running_loop().time())
        await asyncio.sleep(0.01)


async def main() -> None:
    ticks: list[float] = []
    clock = asyncio.create_task(tick(ticks))
    runs = [run_pipeline_async(pipeline, {"name": name}, models={"fast": model}) for name in ("Ada", "Bo", "Cy")]
    for result in await asyncio.gather(*runs):
        print(result[greeting], f"({result.trace.makespan:.2f} s)")
    clock.cancel()
    print(f"meanwhile the event loop ticked {len(ticks)} times")


asyncio.run(main())
