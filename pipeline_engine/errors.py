"""Every exception, its tree drawn here; the messages say what happened and what to do next.

PipelineEngineError
├── PlanError            a pipeline that cannot be compiled or bound: all its problems at once
├── InputError           inputs that do not fit the pipeline's declaration; nothing has run
├── DocumentError        a file that cannot be read as a document
├── DuplicateDocumentError   a key that came before with other content
├── StepError            a step whose output was asked for, though it failed or was skipped
├── RunError             raised on demand for a run with failed steps: a `StepError` for each
├── StepTimeoutError     a timeout of ours fired (also a builtin TimeoutError)
├── StepCodeError        the pipeline's own code (prompt, when=, check=) raised, or broke a rule: a bug, never retried
├── OutputError          an output that does not fit its declared type, or did not pass its check
├── ProviderError        a model that did not answer
│   ├── UnavailableError     may answer later: server errors, timeouts, connections
│   │   └── StreamTruncatedError     a streamed reply that broke off before its end
│   ├── RateLimitError       refused for rate; carries `retry_after`
│   └── RejectedError        will not answer this request: bad key, unknown model, invalid request
│       ├── LimitError           larger than the model's limit of tokens: it could never be sent
│       └── ParkedError          not sent, because the provider has refused the key of an earlier call
├── CircuitOpenError     a call that was not made, because what it calls has failed too often
├── BudgetError          a call that does not fit into what is left of a budget
└── EngineClosedError    work given to an engine or a runner that is closed

What a caller does differently has a class; what it only reads is an attribute. A retry asks one thing: `is_transient`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BudgetError",
    "CircuitOpenError",
    "DocumentError",
    "DuplicateDocumentError",
    "EngineClosedError",
    "InputError",
    "LimitError",
    "OutputError",
    "ParkedError",
    "PipelineEngineError",
    "PlanError",
    "ProviderError",
    "RateLimitError",
    "RejectedError",
    "RunError",
    "StepCodeError",
    "StepError",
    "StepTimeoutError",
    "StreamTruncatedError",
    "UnavailableError",
]

Billed = Literal["no", "maybe", "yes"]


class PipelineEngineError(Exception):
    """Catch every error of this library by this one root."""

    is_transient: ClassVar[bool] = False
    """Whether the same thing may succeed if tried again."""


def _numbered(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class PlanError(PipelineEngineError):
    """Raised when a pipeline cannot be compiled, or its roles cannot be bound to models.

    Attributes:
        pipeline: The pipeline's name.
        problems: Every reason, most basic first; each has a code, a place and a suggestion.
    """

    def __init__(self, pipeline: str, problems: Sequence[Any]) -> None:
        self.pipeline = pipeline
        self.problems = tuple(problems)
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        super().__init__(f"pipeline {pipeline!r} has {_numbered(len(self.problems), 'problem')}:{lines}")


class InputError(PipelineEngineError):
    """Raised before anything runs, when a document's inputs do not fit the declaration.

    Attributes:
        pipeline: The pipeline's name.
        problems: One sentence for each input that is missing, unknown or of another type.
    """

    def __init__(self, pipeline: str, problems: Sequence[str]) -> None:
        self.pipeline = pipeline
        self.problems = tuple(problems)
        super().__init__(f"inputs do not fit pipeline {pipeline!r}: {' '.join(self.problems)}")


class DocumentError(PipelineEngineError):
    """Raised when a file cannot be read as a document; other documents are not affected.

    Attributes:
        path: The file.
        reason: What is wrong with it and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"{path!r} {reason}")


class DuplicateDocumentError(PipelineEngineError):
    """Raised for a document of a batch whose key came before, with other content.

    Attributes:
        key: The key.
    """

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__(
            f"document {key!r} came before in this batch with other content. Give each document a key of its own."
        )


class StepError(PipelineEngineError):
    """Raised when the output of a step is read that has none; the cause is chained.

    Attributes:
        step: The step whose output was asked for.
        document: The key of the document.
        failed_step: The step that failed: `step` itself, or the one because of which it was skipped.
    """

    def __init__(self, step: str, document: str, reason: str, *, failed_step: str | None = None) -> None:
        self.step = step
        self.document = document
        self.failed_step = failed_step or step
        super().__init__(f"step {step!r} of document {document!r} {reason}")

    @property
    def is_transient(self) -> bool:  # type: ignore[override]  # an instance knows its cause
        """Whether the cause was transient: a job that failed by it may be run again."""
        return bool(getattr(self.__cause__, "is_transient", isinstance(self.__cause__, ConnectionError | TimeoutError)))


class RunError(PipelineEngineError):
    """Raised by `raise_for_failure()` for a run in which steps failed or were stopped.

    Attributes:
        document: The key of the document.
        errors: One error for each such step, its cause chained.
    """

    def __init__(self, document: str, errors: Sequence[StepError]) -> None:
        self.document = document
        self.errors = tuple(errors)
        lines = "".join(f"\n  {error}" for error in self.errors)
        super().__init__(f"the run of document {document!r} has {_numbered(len(self.errors), 'failed step')}:{lines}")

    @property
    def is_transient(self) -> bool:  # type: ignore[override]  # an instance knows its causes
        """Whether all of its errors are transient."""
        return all(error.is_transient for error in self.errors)


class StepTimeoutError(PipelineEngineError, TimeoutError):
    """Raised when one of a step's timeouts fired; the step's own is final, the others are transient.

    Attributes:
        step: The step.
        which: The field of `Timeout` that fired.
        timeout: Its length in seconds.
        is_abandoned: Whether the work goes on in a thread that cannot be stopped.
    """

    def __init__(self, step: str, which: str, timeout: float, *, is_abandoned: bool = False) -> None:
        self.step = step
        self.which = which
        self.timeout = timeout
        self.is_abandoned = is_abandoned
        self.is_transient = which != "step"  # type: ignore[misc]  # an instance knows which of its timeouts fired
        left = " Its thread cannot be stopped and keeps its slot until it returns." if is_abandoned else ""
        cure = f"Raise Timeout({which}=…)" + (
            " or use a faster model." if which != "connect" else " or check the address."
        )
        super().__init__(f"step {step!r} ran into its {which} timeout of {timeout:g} s.{left} {cure}")


class StepCodeError(PipelineEngineError):
    """Raised for a bug in the pipeline's own code: it is never retried and no fallback hides it.

    Attributes:
        step: The step.
        part: Which code: "prompt", "when", "check", "function", "each" or "Retry(on=…)".
    """

    def __init__(self, step: str, part: str, reason: str) -> None:
        self.step = step
        self.part = part
        super().__init__(f"the {part} of step {step!r} {reason}")


class OutputError(PipelineEngineError):
    """Raised when an output does not fit its declared type, or its `check=` refused it.

    Attributes:
        step: The step.
        reasons: What is wrong, one sentence each: what a repair tells the model.
        is_truncated: Whether a model's reply was cut at its token cap.
    """

    def __init__(self, step: str, reasons: Sequence[str], *, advice: str = "", is_truncated: bool = False) -> None:
        self.step = step
        self.reasons = tuple(reasons)
        self.is_truncated = is_truncated
        text = f"the output of step {step!r} is not what was declared: {'; '.join(self.reasons)}."
        super().__init__(f"{text} {advice}" if advice else text)


class ProviderError(PipelineEngineError):
    """Raised when a model did not give an answer.

    Attributes:
        model: The model as `"provider:model"`.
        kind: A short name of what happened, such as "auth", "server", "rate_limited" or "context_length".
        status: The HTTP status, where there was one.
        request_id: The provider's id of the request, where it gave one.
        retry_after: Seconds that the provider asked to wait, where it did.
        billed: Whether the provider may have charged for the call.
        replays: How often the request was sent once more, because a kept connection had died unanswered.
    """

    def __init__(
        self,
        message: str,
        *,
        model: str,
        kind: str,
        status: int | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        billed: Billed = "no",
        replays: int = 0,
    ) -> None:
        self.model = model
        self.kind = kind
        self.status = status
        self.request_id = request_id
        self.retry_after = retry_after
        self.billed: Billed = billed
        self.replays = replays
        suffix = f" (request {request_id})" if request_id else ""
        super().__init__(f"model {model!r} {message}{suffix}")


class UnavailableError(ProviderError):
    """Raised when a model cannot be reached or fails on its side; the same call may succeed later."""

    is_transient: ClassVar[bool] = True


class StreamTruncatedError(UnavailableError):
    """Raised when a streamed reply ended before the provider said that it is whole: half of it is no answer."""

    def __init__(self, *, model: str, request_id: str | None = None) -> None:
        super().__init__(
            "broke off its streamed reply before the end. What came is not used; try again.",
            model=model,
            kind="stream_truncated",
            status=200,
            request_id=request_id,
            billed="maybe",
        )


class RateLimitError(ProviderError):
    """Raised when a model refused a call for its rate; it spends no attempt of the step's retry."""

    is_transient: ClassVar[bool] = True


class RejectedError(ProviderError):
    """Raised when a model will not answer this request, however often it is sent."""


class LimitError(RejectedError):
    """Raised for a request that is larger than its model's limit of tokens: it could never be sent.

    Attributes:
        tokens: What the request and its reply may need, as estimated.
        most_tokens: The largest burst of tokens that the model's `Limits` allow.
    """

    def __init__(self, model: str, tokens: float, most_tokens: float) -> None:
        self.tokens = tokens
        self.most_tokens = most_tokens
        super().__init__(
            f"was not asked: the request may need {tokens:,.0f} tokens, and its limit allows {most_tokens:,.0f} "
            "at once. Shorten the prompt, lower max_tokens, or raise Limits(burst_tokens=…)",
            model=model,
            kind="too_large",
        )


class ParkedError(RejectedError):
    """Raised for a call that was not sent, because an earlier one had its key refused, or used up the quota.

    So a wrong key costs a few refused calls, not one for each document. `engine.reset()` tries again.
    """

    def __init__(self, model: str, cause: Exception) -> None:
        super().__init__(
            f"was not asked, because an earlier call was refused: {str(cause).rstrip('.')}. "
            "Set that right; then start anew, or call engine.reset()",
            model=model,
            kind="parked",
        )
        self.__cause__ = cause


class CircuitOpenError(PipelineEngineError):
    """Raised for a call that was not made, because what it calls has failed too often of late.

    Attributes:
        name: What is guarded: a model as `"provider:model"`, or a breaker's name.
        retry_after: Seconds until calls may go through again, to find out whether it is well; 0 while such
            probes are on their way.
    """

    is_transient: ClassVar[bool] = True

    def __init__(self, name: str, retry_after: float) -> None:
        self.name = name
        self.retry_after = retry_after
        what = f"the breaker of {name!r}" if name else "the breaker"
        if retry_after > 0:
            text = "is open: there were too many failures of late, so no call is made. "
            text += f"The next one may go in {retry_after:.1f} s."
        else:
            text = "is half open: its probes are on their way, and no other call is made until they have ended."
        super().__init__(f"{what} {text}")


class BudgetError(PipelineEngineError):
    """Raised for a call that does not fit into what is left of a budget with `on_exhausted="fail"`.

    Attributes:
        budget: Whose budget it is, and how large.
        spent_usd: US dollars spent so far.
        spent_tokens: Tokens spent so far.
    """

    def __init__(self, budget: str, spent_usd: float, spent_tokens: float) -> None:
        self.budget = budget
        self.spent_usd = spent_usd
        self.spent_tokens = spent_tokens
        super().__init__(
            f"the call was not sent: it may cost more than is left of {budget} "
            f"(spent so far: ${spent_usd:.4f}, {spent_tokens:,.0f} tokens). Raise the budget, or lower max_tokens."
        )


class EngineClosedError(PipelineEngineError):
    """Raised when work is given to an engine or runner that was never opened, or is closed."""

    def __init__(self, what: str) -> None:
        super().__init__(f"this {what} is not open. Use it inside its `with` block, and start no work after the block.")
