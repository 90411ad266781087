"""Hand-made record streams: the report is tested without running anything."""

from __future__ import annotations

import pytest

from pipeline_engine.report import Trace
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Completed,
    Fault,
    Outcome,
    Outline,
    OutlineStep,
    QueueLeft,
    Record,
    RunFinished,
    RunStarted,
    StepFinished,
    StepMapped,
    StepReady,
    Usage,
    WaitEnded,
    WaitStarted,
)

MINI = "openai:gpt-4o-mini"
SONNET = "anthropic:claude-sonnet-4-5"


class RecordStream:
    """Write a run's records down in any order; they are handed out in order of time."""

    def __init__(self, *, pipeline="document", document="a.txt", run_id="run-1", capacity=64, inputs=None):
        self.pipeline = pipeline
        self.document = document
        self.run_id = run_id
        self.capacity = capacity
        self.inputs = ("document",) if inputs is None else inputs
        self.steps: list[OutlineStep] = []
        self.written: list[Record] = []

    def declare(self, name, *needs, each=None, is_on_demand=False, kind="llm"):
        """Add a step to the outline, after its needs."""
        layers = {step.name: step.layer for step in self.steps}
        layer = 1 + max((layers.get(need, 0) for need in needs), default=0)
        self.steps.append(OutlineStep(name, kind, needs or self.inputs[:1], layer, each, is_on_demand))
        return self

    def write(self, *records):
        """Add records as they are."""
        self.written.extend(records)
        return self

    def ready(self, at, step, by=None, *, item=None, width=None):
        self.write(StepReady(at, step, item, by))
        return self if width is None else self.write(StepMapped(at, step, width))

    def attempt(self, step, start, end, *, number=1, item=None, model=MINI, fault=None, usage=None):
        """Add an attempt; a fault may be given by its kind alone."""
        fault = Fault(fault, "it did not answer") if isinstance(fault, str) else fault
        return self.write(
            AttemptStarted(start, step, item, number, model),
            AttemptFinished(end, step, item, number, fault, Usage(*usage) if usage else None),
        )

    def wait(self, step, start, end, cause="backoff", *, item=None):
        return self.write(WaitStarted(start, step, item, cause), WaitEnded(end, step, item))

    def queue(self, step, at, *waits, item=None):
        """Add the end of a wait in the queue, with the seconds that went to each cause."""
        return self.write(QueueLeft(at, step, item, waits))

    def finish(self, at, step, outcome: Outcome[object] | None = None, *, item=None):
        return self.write(StepFinished(at, step, item, outcome or Completed(None)))

    def simple(self, step, ready, start, end, by=None, *, item=None, model=MINI, usage=None):
        """Add a step that was ready, had one good attempt, and completed."""
        self.ready(ready, step, by, item=item)
        self.attempt(step, start, end, item=item, model=model, usage=usage)
        return self.finish(end, step, item=item)

    def records(self, end=None, status="completed"):
        """Return the stream; without an end the run still goes on."""
        outline = Outline(self.pipeline, self.inputs, tuple(self.steps))
        started = RunStarted(0.0, self.run_id, self.document, outline, 1_700_000_000.0, self.capacity)
        middle = sorted(self.written, key=lambda record: record.at)
        return [started, *middle, *([] if end is None else [RunFinished(end, status)])]

    def trace(self, end=None, status="completed"):
        return Trace.from_records(self.records(end, status))


def document_run():
    """Return the document pipeline's run: a retry, a wait for a slot, a repair's second attempt, a skip."""
    from pipeline_engine.values import RepairAsked, Skipped

    run = RecordStream(capacity=2)
    run.declare("title").declare("keywords").declare("category")
    run.declare("summary", "document", "title", "keywords").declare("quality", "document", "title", "category")
    run.declare("invoice", "category")
    run.simple("title", 0.0, 0.0, 1.2, usage=(900, 12))
    run.ready(0.0, "keywords").attempt("keywords", 0.0, 0.6, fault=Fault("server", "HTTP 503", True, 503))
    run.wait("keywords", 0.6, 1.4).attempt("keywords", 1.4, 2.2, number=2, usage=(910, 40))
    run.finish(2.2, "keywords")
    run.simple("category", 0.0, 0.6, 1.5, usage=(905, 4))
    run.ready(2.2, "summary", "keywords").attempt("summary", 2.2, 3.4, model=SONNET, usage=(2100, 180))
    run.write(RepairAsked(3.5, "summary", None, ("text is empty",)))
    run.attempt("summary", 3.5, 4.4, number=2, model=SONNET, usage=(2300, 170)).finish(4.5, "summary")
    run.ready(1.5, "quality", "category").attempt("quality", 1.5, 2.0, usage=(950, 6)).finish(2.0, "quality")
    run.finish(1.5, "invoice", Skipped("when", is_by_choice=True))
    return run


@pytest.fixture(scope="session")
def record_stream():
    """Give the builder of record streams."""
    return RecordStream


@pytest.fixture(scope="session")
def document_trace():
    """Give the trace of one eventful run of the document pipeline."""
    return document_run().trace(4.5)
