"""A reply that does not validate, or does not pass its check, goes back to the model together with the reasons."""

from typing import Literal

from pydantic import BaseModel, Field

from pipeline_engine import Pipeline, run_pipeline
from pipeline_engine.testing import ScriptedModel, in_turn


class Invoice(BaseModel):
    total: float = Field(gt=0)
    currency: Literal["EUR", "USD"]


pipeline = Pipeline("invoice", inputs={"document": str})


def stands_in_document(invoice: Invoice, document: str) -> bool | str:
    return f"{invoice.total:.2f}" in document or f"the total {invoice.total:.2f} does not stand in the document"


@pipeline.llm("fast", Invoice, check=stands_in_document)
def invoice(document: str) -> str:
    return f"Read total and currency from this invoice.\n\n{document}"


model = ScriptedModel(
    {
        "invoice": in_turn(
            '{"total": "twelve", "currency": "euros"}',  # does not validate
            Invoice(total=12.0, currency="EUR"),  # validates, but was made up
            Invoice(total=12.5, currency="EUR"),
        )
    },
    latency=0.02,
)
result = run_pipeline(pipeline, {"document": "Two loaves of bread, 12.50 EUR."}, models={"fast": model})

print(repr(result[invoice]), "after", len(result.calls(invoice)), "calls")
for message in result.calls(invoice)[-1].messages:
    print(f"{message.role:>9}: {message.text}")
