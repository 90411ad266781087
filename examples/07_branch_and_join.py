"""Two branches, of which one is wanted: the other is skipped by choice, and they join in an optional need."""

from typing import Literal

from pydantic import BaseModel

from pipeline_engine import Pipeline, Request, run_pipeline
from pipeline_engine.testing import ScriptedModel


class Kind(BaseModel):
    label: Literal["invoice", "complaint"]


class Amount(BaseModel):
    euros: float


pipeline = Pipeline("mail", inputs={"mail": str})


@pipeline.llm("fast", Kind)
def kind(mail: str) -> str:
    return f"Is this an invoice or a complaint?\n\n{mail}"


@pipeline.llm("fast", Amount, when=lambda kind: kind.label == "invoice")
def amount(mail: str) -> str:
    return f"Which amount is due?\n\n{mail}"


@pipeline.llm("fast", str, when=lambda kind: kind.label == "complaint")
def apology(mail: str) -> str:
    return f"Apologise for what went wrong here.\n\n{mail}"


@pipeline.step
def reply(amount: Amount | None = None, apology: str | None = None) -> str:
    return f"We will pay {amount.euros:.2f} EUR." if amount else f"{apology} Our support will call you."


def answer(request: Request) -> Kind:
    return Kind(label="invoice" if "pay" in request.messages[0].text else "complaint")


model = ScriptedModel({"kind": answer, "amount": Amount(euros=120.5), "apology": "We are sorry."}, latency=0.02)
for mail in ("Please pay 120.50 EUR by Friday.", "The parcel was empty."):
    result = run_pipeline(pipeline, {"mail": mail}, models={"fast": model})
    print(result[reply])
    print("  ", result.status, result.outcome(amount), result.outcome(apology))
