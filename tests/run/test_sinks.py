"""Sinks: whoever starts a run says who is told of it, in the same words everywhere."""

import pytest
import trio

from pipeline_engine import (
    Engine,
    LogRecords,
    Pipeline,
    Runner,
    iter_batch,
    iter_batch_async,
    run_batch,
    run_batch_async,
    run_pipeline,
    run_pipeline_async,
)

pipeline = Pipeline("double", inputs={"number": int})


@pipeline.step
async def doubled(number: int) -> int:
    return number * 2


DOCUMENTS = [{"number": 1}]


class Keep:
    """A sink that keeps the names of all records."""

    def __init__(self):
        self.names = []

    def open_run(self, started):
        self.names.append(type(started).__name__)
        return lambda record: self.names.append(type(record).__name__)


def with_run_pipeline(sinks, engine=None):
    run_pipeline(pipeline, DOCUMENTS[0], sinks=sinks, engine=engine)


def with_run_pipeline_async(sinks, engine=None):
    trio.run(lambda: run_pipeline_async(pipeline, DOCUMENTS[0], sinks=sinks, engine=engine))


def with_run_batch(sinks, engine=None):
    run_batch(pipeline, DOCUMENTS, sinks=sinks, engine=engine)


def with_run_batch_async(sinks, engine=None):
    trio.run(lambda: run_batch_async(pipeline, DOCUMENTS, sinks=sinks, engine=engine))


def with_iter_batch(sinks, engine=None):
    with iter_batch(pipeline, DOCUMENTS, sinks=sinks, engine=engine) as results:
        list(results)


def with_iter_batch_async(sinks, engine=None):
    async def main():
        async with iter_batch_async(pipeline, DOCUMENTS, sinks=sinks, engine=engine) as results:
            async for _result in results:
                pass

    trio.run(main)


SYNC = [with_run_pipeline, with_run_batch, with_iter_batch]
ASYNC = [with_run_pipeline_async, with_run_batch_async, with_iter_batch_async]


@pytest.mark.parametrize("start", [*SYNC, *ASYNC])
def test_a_sink_gets_the_records_of_the_run(start):
    """Telemetry is one argument, whichever way a run is started."""
    sink = Keep()

    start([sink])

    assert sink.names == ["RunStarted", "StepReady", "AttemptStarted", "AttemptFinished", "StepFinished", "RunFinished"]


@pytest.mark.parametrize("start", [*SYNC, *ASYNC])
def test_sinks_and_an_engine_are_refused_together(start):
    """An engine's sinks are told of all its runs: adding one for a single run would be a surprise."""
    engine = Runner() if start in SYNC else Engine()

    with pytest.raises(TypeError, match="sinks= was given together with engine="):
        start([Keep()], engine)


@pytest.mark.parametrize(
    ("sinks", "message"),
    [
        (["otel"], "'otel' is no sink. Give objects with open_run"),
        ("otel", "'o' is no sink"),
        ([LogRecords], "is no sink. Give objects with open_run"),
        (LogRecords(), "Put the one that you have into brackets"),
    ],
)
def test_what_is_no_sink_is_refused_at_once(sinks, message):
    """A job that ran all night without telemetry has told so in a log that nobody reads."""
    with pytest.raises(TypeError, match=message):
        run_pipeline(pipeline, DOCUMENTS[0], sinks=sinks)


def test_a_sink_that_always_raises_is_told_of_once_and_ends_nothing(caplog):
    """A thousand tracebacks of one cause hide the one line that matters."""

    class Broken:
        def open_run(self, started):
            return lambda record: 1 / 0

    assert run_pipeline(pipeline, DOCUMENTS[0], sinks=[Broken()])[doubled] == 2
    [told] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert told.getMessage().startswith("sink Broken raised on ")
