"""The picture in the README: the document pipeline with scripted latencies, on the virtual clock.

`python -m tests.house.picture` draws it anew.
"""

import sys

import trio
import trio.testing

from pipeline_engine import Engine, UnavailableError
from pipeline_engine.testing import ScriptedModel, in_turn
from pipelines.document import Category, Keywords, Quality, Summary, Title, pipeline

LATENCY = {"title": 1.1, "keywords": 1.4, "category": 0.9, "summary": 5.2, "quality": 0.8}


async def run():
    """Run one document; the model fails twice for its category."""
    down = UnavailableError("failed (HTTP 503).", model="scripted:fast", kind="server", status=503)
    script = {
        "title": Title(text="Tides"),
        "keywords": Keywords(items=["sea", "moon"]),
        "category": in_turn(down, down, Category(label="report")),
        "summary": Summary(text="The moon pulls the sea."),
        "quality": Quality(score=0.9),
    }
    models = {role: ScriptedModel(script, latency=LATENCY, name=f"scripted:{role}") for role in ("fast", "strong")}
    async with Engine(models=models, seed=2) as engine:
        return await engine.run(pipeline, {"document": "Twice a day the sea comes up the beach."}, key="tides.md")


def draw():
    """Return the waterfall."""
    result = trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    return result.trace.waterfall(width=96, color=False)


if __name__ == "__main__":
    sys.stdout.write(draw() + "\n")
