"""Entries as a run would submit them, for tests that need some."""

from pipeline_engine.values import (
    NO_ITEM,
    AttemptEnded,
    AttemptSent,
    BatchBegun,
    CallFinished,
    CallsVoided,
    Claim,
    DocumentEnded,
    OutputAccepted,
    RunRecorded,
)

PIPELINE = "letters"


def begun(batch="batch-1", at=1.0):
    return BatchBegun(batch, PIPELINE, "plan", b"{}", b"{}", "0.1.0", is_single=False, refuses_change=False, at=at)


def claim(document, at=2.0, inputs=b'{"text": "Dear all"}'):
    return Claim(PIPELINE, document, "batch-1", "plan", f"content of {document}", at, inputs)


def sent(document, step="title", attempt=1, at=3.0):
    return AttemptSent(PIPELINE, document, "run-1", step, NO_ITEM, attempt, "offline:small", at)


def ended(document, step="title", attempt=1, at=4.0, message="HTTP 500"):
    return AttemptEnded(
        PIPELINE, document, "run-1", step, NO_ITEM, attempt, "offline:small", 3.0, at, "server", message, 500, "no"
    )


def finished(document, step="title", attempt=1, reply=b'{"text": "A title"}', at=4.0):
    request = f"request of {step} of {document}"
    return CallFinished(
        PIPELINE,
        document,
        f"{request}.0",
        request,
        0,
        "batch-1",
        "run-1",
        step,
        NO_ITEM,
        attempt,
        "offline:small",
        b'[["user", "Give it a title."]]',
        reply,
        b'{"input": 10, "output": 3}',
        13,
        42,
        at,
    )


def voided(document, step="title"):
    return CallsVoided(PIPELINE, document, (f"request of {step} of {document}.0",))


def accepted(document, step="title", output=b'"A title"', fence=1, at=5.0):
    calls = (f"request of {step} of {document}.0",)
    return OutputAccepted(
        PIPELINE, document, fence, step, NO_ITEM, f"key of {step} of {document}", output, calls, None, "run-1", at
    )


def completed(document, fence=1, at=6.0):
    return DocumentEnded(PIPELINE, document, fence, "completed", b"{}", "", 4.0, b"{}", 42, 0, "run-1", at)


def recorded(document, run="run-1", batch="batch-1", at=6.0, records=b"records"):
    return RunRecorded(PIPELINE, document, run, batch, records, at)


def whole_document(document, steps=("title", "summary"), body=b"x" * 300):
    """Return what is told of one document, a group for each time that the journal is called."""
    yield [claim(document)]
    for step in steps:
        yield [sent(document, step)]
        yield [finished(document, step, reply=b'{"text": "' + body + b'"}')]
        yield [accepted(document, step, output=b'"' + body + b'"')]
    yield [recorded(document), completed(document)]
