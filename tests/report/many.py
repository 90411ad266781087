"""Runs by the thousand, made up but lifelike: waits, failures, back-off, second calls, streams, mapped steps."""

import random

from pipeline_engine.report import Totals, Trace
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    Completed,
    Cost,
    Failed,
    Fault,
    HedgeFinished,
    HedgeStarted,
    Outline,
    OutlineStep,
    QueueLeft,
    RunFinished,
    RunStarted,
    Skipped,
    StepFinished,
    StepMapped,
    StepReady,
    Usage,
    WaitEnded,
    WaitStarted,
)

MINI, SONNET = "openai:gpt-4o-mini", "anthropic:claude-sonnet-4-5"
STEPS = (
    OutlineStep("title", "llm", ("document",), 1),
    OutlineStep("keywords", "llm", ("document",), 1),
    OutlineStep("category", "llm", ("document",), 1),
    OutlineStep("summary", "llm", ("document", "title", "keywords"), 2),
    OutlineStep("quality", "llm", ("summary", "category"), 3),
)
NOTES = OutlineStep("notes", "llm", ("document",), 1, each="document")


def outline(items=0):
    """Return the pipeline's outline, with a mapped step if documents have items."""
    return Outline("document", ("document",), (*STEPS, NOTES) if items else STEPS)


def made_up(number, *, items=0, failing=0.02, start=1_700_000_000.0):
    """Return the trace of one document, the same each time."""
    dice = random.Random(number)
    begun = number * 0.13
    records = []
    ends = {"document": begun}
    failed = set()

    def attempt(at, step, item, count, model):
        seconds = dice.lognormvariate(0.1, 0.6)
        is_bad = dice.random() < 0.06
        usage = Usage(dice.randrange(400, 3000), dice.randrange(10, 400))
        first = at + seconds * 0.3 if step == "summary" and not is_bad else None
        records.append(AttemptStarted(at, step, item, count, model))
        if step == "summary" and seconds > 1.6:
            records.append(HedgeStarted(at + 1.2, step, item, count, MINI))
            records.append(HedgeFinished(at + seconds, step, item, count, model, True, Cost(0.0004)))
        fault = Fault("server", f"HTTP 503 from {model}: try again later.", True, 503) if is_bad else None
        cost = None if is_bad else Cost(seconds / 1000)
        records.append(
            AttemptFinished(
                at + seconds, step, item, count, fault, None if is_bad else usage, cost=cost, first_token_at=first
            )
        )
        return at + seconds, is_bad

    def tried(at, step, item=None, model=MINI):
        waited = dice.expovariate(1.5)
        records.append(QueueLeft(at + waited, step, item, (("requests", waited / 2), ("slot", waited / 2))))
        at += waited
        is_lost = dice.random() < failing
        for count in (1, 2, 3):
            at, is_bad = attempt(at, step, item, count, model)
            if not is_bad and not is_lost:
                break
            if count < 3:
                pause = dice.uniform(0.2, 1.5)
                records.append(WaitStarted(at, step, item, "backoff"))
                at += pause
                records.append(WaitEnded(at, step, item))
        outcome = Failed(RuntimeError(f"gave up on {step}")) if is_lost else Completed("fine")
        records.append(StepFinished(at + 0.004, step, item, outcome))
        return at + 0.004, is_lost

    for step in outline(items).steps:
        by = max(step.needs, key=lambda need: ends.get(need, 0.0))
        at = ends[by]
        lost = next((need for need in step.needs if need in failed), None)
        if lost is not None:
            failed.add(step.name)
            ends[step.name] = at
            records.append(StepFinished(at, step.name, None, Skipped(lost, is_by_choice=False)))
            continue
        records.append(StepReady(at, step.name, None, None if by == "document" else by))
        if step.each is not None:
            records.append(StepMapped(at, step.name, items))
            ended = []
            for item in range(items):
                records.append(StepReady(at, step.name, item, None))
                ended.append(tried(at + item * 0.01, step.name, item)[0])
            ends[step.name] = max(ended)
            records.append(StepFinished(max(ended), step.name, None, Completed("fine")))
            continue
        ends[step.name], is_lost = tried(at, step.name, model=SONNET if step.name == "summary" else MINI)
        if is_lost:
            failed.add(step.name)
    end = max(ends.values())
    key = f"reports/2026/{number:05d}-quarterly.md"
    first = RunStarted(begun, f"run-{number}", key, outline(items), start + begun, 64)
    middle = sorted(records, key=lambda record: record.at)
    return Trace.from_records([first, *middle, RunFinished(end, "failed" if failed else "completed")])


def batch_of(documents, *, items=0, max_spans=1_000_000):
    """Return the totals of so many documents, with all of their runs in full."""
    totals = Totals(max_spans=max_spans)
    for number in range(documents):
        totals.add(made_up(number, items=items))
    return totals.result()
