"""Branches by category that join again: one runs, the others are skipped by choice."""

import pytest

from pipeline_engine import Completed, RejectedError, Skipped, run_pipeline, run_pipeline_async
from pipeline_engine.providers.scripted import ScriptedModel
from pipelines.triage import complaint, invoice, kind, pipeline, question, reply, team

ANSWERS = {
    "invoice": {"number": "INV-7", "total": "EUR 12.50", "due": None},
    "complaint": {"problem": "The cup is broken.", "severity": "high"},
    "question": {"text": "When do you open?"},
    "reply": {"text": "Dear sender"},
}
BRANCHES = {"invoice": invoice, "complaint": complaint, "question": question}


def model_for(answer, **answers):
    latency = {"kind": 1.0, "invoice": 2.0, "complaint": 3.0, "question": 4.0, "reply": 5.0}
    return ScriptedModel({**ANSWERS, "kind": {"value": answer}, **answers}, latency=latency)


async def run(model):
    return await run_pipeline_async(pipeline, {"document": "A message."}, models={"fast": model, "strong": model})


@pytest.mark.parametrize(
    ("answer", "reply_at", "team_at", "chosen", "task"),
    [
        ("invoice", 3.0, 1.0, "accounting", "Confirm that invoice INV-7 over EUR 12.50 has arrived."),
        (
            "complaint",
            4.0,
            4.0,
            "urgent care",
            "Apologise for this high problem and say that somebody is on it: The cup is broken.",
        ),
        (
            "question",
            5.0,
            1.0,
            "sales",
            "Answer this question from the message alone, or say who will: When do you open?",
        ),
        ("other", 1.0, 1.0, "inbox", "Thank the sender and say that a colleague will read the message."),
    ],
)
async def test_only_the_branch_that_fits_runs(virtual_clock, answer, reply_at, team_at, chosen, task):
    """A branch not taken costs nothing, and the steps that join do not wait for it."""
    model = model_for(answer)

    result = await run(model)

    assert result.status == "completed"
    assert [name for name, step in BRANCHES.items() if isinstance(result.outcome(step), Completed)] == [
        name for name in BRANCHES if name == answer
    ]
    assert result.trace["reply"].started_at == reply_at
    assert result.trace["team"].started_at == team_at
    assert result[team] == chosen
    assert len(model.requests) == (2 if answer == "other" else 3)
    assert model.requests[-1].messages[-1].text == (
        f"Draft a short, friendly reply. {task}\n\nThe message:\n\nA message."
    )


async def test_a_branch_that_fails_skips_the_reply(virtual_clock):
    """A reply that ignores a complaint is worse than none."""
    refused = RejectedError("will not read this.", model="scripted:model", kind="refused")

    result = await run(model_for("complaint", complaint=refused))

    assert result.status == "failed"
    assert result.outcome(reply) == Skipped("complaint", is_by_choice=False)
    assert result.outcome(invoice) == Skipped("when", is_by_choice=True)


async def test_a_message_that_nobody_can_place_goes_to_a_person(virtual_clock):
    """The default branch: when the model fails, the message is not lost."""
    refused = RejectedError("will not read this.", model="scripted:model", kind="refused")

    result = await run(model_for("other", kind=refused))

    assert result.outcome(kind) == Completed("other", via="fallback:value")
    assert result[team] == "inbox"
    assert result[reply].text == "Dear sender"


def test_it_runs_offline():
    """Without a key and without a network, on any machine."""
    text = "I have a complaint. The cup arrived broken and nobody answers. I want my money back."
    offline = "offline:extractive"

    result = run_pipeline(pipeline, {"document": text}, models={"fast": offline, "strong": offline})

    assert result.status == "completed"
    assert result[team] in {"accounting", "care", "urgent care", "sales", "inbox"}
    assert result[reply].text
