"""What a call needs to start, what it holds meanwhile, and what its end gives back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline_engine.errors import ProviderError
from pipeline_engine.resilience.ledger import Amount
from pipeline_engine.resilience.retries import retry_hint
from pipeline_engine.resilience.verdicts import verdict_on
from pipeline_engine.schedule.step_run import BoundModel
from pipeline_engine.values import Completion, Cost, Embeddings, Text, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.schedule.estimates import StepEstimate
    from pipeline_engine.schedule.step_run import BoundBudget, StepRun

__all__ = [
    "RequestSize",
    "amount_needed",
    "cancel_call",
    "cost_of",
    "end_call",
    "size_of",
    "start_call",
    "tokens_needed",
]

_PART_TOKENS = 2000
"""What an image or a file is taken for: providers bill pictures at 85 to 1,600 tokens, depending on their size."""
_MESSAGE_BYTES = 16
"""What surrounds a message on the wire and is billed."""


class RequestSize(NamedTuple):
    """Say how much a call sends."""

    of: object
    """What was measured: a repair sends more."""
    characters: int
    """What its tokens are estimated from."""
    most_tokens: int
    """What it has at most: a token holds at least one byte of its text."""


def size_of(step_run: StepRun) -> RequestSize:
    """Measure what a call sends, once for each request."""
    of = step_run.arguments[0] if step_run.step.kind == "embed" else step_run.messages
    size = step_run.size
    if size is None or size.of is not of:
        size = step_run.size = _measured(step_run, of)
    return size


def _measured(step_run: StepRun, of: object) -> RequestSize:
    messages = 1
    others = 0
    if step_run.step.kind == "embed":
        texts: list[str] = step_run.arguments[0]
    else:
        parts = [part for message in step_run.messages for part in message.parts]
        texts = [part.text for part in parts if isinstance(part, Text)]
        others = _PART_TOKENS * (len(parts) - len(texts))
        messages = len(step_run.messages)
        if step_run.step.output.schema_json:
            texts.append(step_run.step.output.schema_json.decode())
    characters = sum(map(len, texts))
    most = sum(len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")) for text in texts)
    return RequestSize(of, characters + 3 * others, most + _MESSAGE_BYTES * messages + others)


def tokens_needed(step_run: StepRun, model: BoundModel, estimate: StepEstimate) -> float:
    """Return how many tokens a call may use, by what the step's calls have used so far."""
    asked = estimate.asked(size_of(step_run).characters)
    return asked if step_run.step.kind == "embed" else asked + estimate.replied(model.max_tokens)


def amount_needed(step_run: StepRun, model: BoundModel, estimate: StepEstimate) -> Amount:
    """Return the most that a call may cost. Without `max_tokens` the reply's part of it is an estimate."""
    asked = size_of(step_run).most_tokens
    if step_run.step.kind == "embed":
        replied = 0
    else:
        replied = model.max_tokens if model.max_tokens is not None else int(2 * estimate.replied(None))
    usd = 0.0 if model.price is None else model.price(Usage(asked, replied), None).usd
    return Amount(usd, asked + replied)


def start_call(step_run: StepRun, now: float, budgets: Sequence[BoundBudget], needed: Amount | None) -> None:
    """Take all that a call needs beside its slot. Everything was tested at this very instant."""
    if step_run.gate is not None:
        step_run.permit = step_run.gate.admit(now, step_run.tokens)
    if needed is not None:
        step_run.reserved = needed
        for budget in budgets:
            budget.ledger.reserve(needed)


def end_call(
    step_run: StepRun, value: Any, error: Exception | None, now: float, budgets: Sequence[BoundBudget]
) -> None:
    """Give back what a call held, and let its model's governor and the budgets learn from how it ended."""
    answer = value if isinstance(value, Completion | Embeddings) else None
    permit, step_run.permit = step_run.permit, None
    governor = step_run.gate
    if permit is not None and governor is not None:
        used = None if answer is None else _total(answer)
        is_unsent = error is not None and _is_unbilled(error)
        governor.finish(
            permit,
            now,
            verdict_on(error),
            tokens=0.0 if is_unsent else used,
            retry_after=None if error is None else retry_hint(error),
            has_jitter=step_run.step.retry.jitter != "none",
            told=None if answer is None else answer.rate_limit,
        )
        kind = getattr(error, "kind", None)
        if kind == "auth" and error is not None:
            governor.park(now, error)
        elif kind == "quota":
            governor.no_quota = error
    if step_run.reserved is not None:
        settle(step_run, _spent(step_run, answer, error), budgets)


def cancel_call(step_run: StepRun, budgets: Sequence[BoundBudget]) -> None:
    """Give back what a cancelled call held. It may be billed: what was reserved for it counts as spent."""
    permit, step_run.permit = step_run.permit, None
    if permit is not None and step_run.gate is not None:
        step_run.gate.cancel(permit)
    if step_run.reserved is not None:
        settle(step_run, step_run.reserved, budgets)


def settle(step_run: StepRun, spent: Amount, budgets: Sequence[BoundBudget]) -> None:
    """Replace what was reserved for a call by what it has cost."""
    reserved, step_run.reserved = step_run.reserved, None
    if reserved is not None:
        for budget in budgets:
            budget.ledger.settle(reserved, spent)


def _spent(step_run: StepRun, answer: Completion | Embeddings | None, error: Exception | None) -> Amount:
    reserved = step_run.reserved
    if reserved is None:
        raise AssertionError("nothing was reserved")
    if answer is None:
        return Amount(0.0, 0.0) if error is not None and _is_unbilled(error) else reserved
    tokens, cost = _total(answer), cost_of(step_run, answer)
    return Amount(
        cost.usd if cost.is_known else reserved.usd,
        reserved.tokens if tokens is None else tokens,
    )


def cost_of(step_run: StepRun, answer: Completion | Embeddings) -> Cost:
    """Return what an answer cost; reckoned once, by whoever asks first."""
    known = step_run.priced
    if known is None or known[0] is not answer:
        candidate = step_run.answered_by or step_run.candidate
        price = candidate.price if isinstance(candidate, BoundModel) else None
        cost = Cost(unpriced_calls=1) if price is None else price(answer.usage, answer.model)
        known = step_run.priced = answer, cost
    return known[1]


def _total(answer: Completion | Embeddings) -> float | None:
    """Return the tokens that a call has used; None if nobody has counted them."""
    usage = answer.usage
    replied = 0 if isinstance(answer, Embeddings) else usage.output_tokens
    if usage.input_tokens is None or replied is None:
        return None
    total = usage.input_tokens + replied
    return float(total) if total >= 0 else None


def _is_unbilled(error: Exception) -> bool:
    """Whether a failed call was certainly not billed; a timeout is not certain."""
    if isinstance(error, ProviderError):
        return error.billed == "no"
    return not isinstance(error, TimeoutError)
