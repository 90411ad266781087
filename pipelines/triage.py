"""Answer incoming messages: find out what each one is, read it accordingly, draft a reply, choose who gets it."""

from typing import Literal

from pydantic import BaseModel, Field

from pipeline_engine import Pipeline, Policy, Retry, Timeout

Kind = Literal["invoice", "complaint", "question", "other"]


class Invoice(BaseModel):
    """What accounting needs to know."""

    number: str | None = Field(description="the invoice number as written, if there is one")
    total: str | None = Field(description="the total with its currency, as written")
    due: str | None = Field(description="when it must be paid, as written")


class Complaint(BaseModel):
    """What went wrong, for whoever makes it good."""

    problem: str
    severity: Literal["low", "medium", "high"]


class Question(BaseModel):
    """What the sender wants to know."""

    text: str


class Reply(BaseModel):
    """A draft, to be read by a person before it is sent."""

    text: str


pipeline = Pipeline(
    "triage",
    inputs={"document": str},
    policy=Policy(retry=Retry(attempts=4), timeout=Timeout(attempt=60, step=300)),
)


# Everything branches here. If no model answers, the message is "other" and a person will read it.
@pipeline.llm("fast", Kind, fallback="other")
def kind(document: str) -> str:
    return f"What is this message: an invoice, a complaint, a question, or something else?\n\n{document[:8000]}"


# Three branches, of which at most one runs. The others are skipped by choice, which is no failure.
@pipeline.llm("fast", Invoice, when=lambda kind: kind == "invoice")
def invoice(document: str) -> str:
    return f"Read number, total and due date off this invoice. Leave out what is not written there.\n\n{document}"


@pipeline.llm("strong", Complaint, when=lambda kind: kind == "complaint")
def complaint(document: str) -> str:
    return f"What went wrong for the sender, in one sentence, and how severe is it?\n\n{document}"


@pipeline.llm("fast", Question, when=lambda kind: kind == "question")
def question(document: str) -> str:
    return f"What does the sender want to know? One sentence.\n\n{document}"


# The branches join: an optional need that was skipped by choice is None here. A branch that *failed*
# skips the reply, because a reply that ignores a complaint is worse than none.
@pipeline.llm("strong", Reply)
def reply(
    document: str,
    invoice: Invoice | None = None,
    complaint: Complaint | None = None,
    question: Question | None = None,
) -> str:
    if invoice is not None:
        task = (
            f"Confirm that invoice {invoice.number or '(no number)'} over {invoice.total or '(no total)'} has arrived."
        )
    elif complaint is not None:
        task = f"Apologise for this {complaint.severity} problem and say that somebody is on it: {complaint.problem}"
    elif question is not None:
        task = f"Answer this question from the message alone, or say who will: {question.text}"
    else:
        task = "Thank the sender and say that a colleague will read the message."
    return f"Draft a short, friendly reply. {task}\n\nThe message:\n\n{document}"


# Plain code is a step, too; async, because what is quick needs no thread. It does not wait for the reply.
@pipeline.step
async def team(
    kind: Kind, complaint: Complaint | None = None
) -> Literal["accounting", "care", "urgent care", "sales", "inbox"]:
    if complaint is not None:
        return "urgent care" if complaint.severity == "high" else "care"
    return "accounting" if kind == "invoice" else "sales" if kind == "question" else "inbox"
