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
│   └── UnrecordedError      a request that a test's recordings do not know, where nothing may be sent
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
├── JournalError         a journal that cannot be opened, read or written
│   ├── JournalFileError     the place is no journal, or cannot be used as one
│   ├── JournalInUseError    another process writes the file
│   ├── JournalVersionError  written by a newer engine
│   ├── JournalDataError     what was read is not what was written
│   ├── JournalWriteError    it could write no more: the run was stopped
│   └── JournalClosedError   it is closed, or belongs to another process
├── DocumentBusyError    a document that another process works on
├── EarlierError         how a step failed in an earlier run, as the journal tells it
├── PlanChangedError     a pipeline that has changed since the journal's last batch, with on_change="error"
├── OverloadError        a run that a runner did not accept, because as many as it holds are pending
└── EngineClosedError    work given to an engine or a runner that is closed, or cut off by its closing

What a caller does differently has a class; what it only reads is an attribute. A retry asks one thing: `is_transient`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "BudgetError",
    "CircuitOpenError",
    "DocumentBusyError",
    "DocumentError",
    "DuplicateDocumentError",
    "EarlierError",
    "EngineClosedError",
    "InputError",
    "JournalClosedError",
    "JournalDataError",
    "JournalError",
    "JournalFileError",
    "JournalInUseError",
    "JournalVersionError",
    "JournalWriteError",
    "LimitError",
    "OutputError",
    "OverloadError",
    "ParkedError",
    "PipelineEngineError",
    "PlanChangedError",
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
    "UnrecordedError",
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


class UnrecordedError(StepCodeError):
    """Raised for a request that a file of recorded replies does not know, and that could not be recorded.

    Attributes:
        path: The file.
        recorded: How many calls it holds.
        nearest: The step of the recording that is most like the request; None if the file holds none.
        differences: Where the two differ.
    """

    def __init__(
        self, step: str, path: str, recorded: int, nearest: str | None, differences: Sequence[str], advice: str
    ) -> None:
        self.path = path
        self.recorded = recorded
        self.nearest = nearest
        self.differences = tuple(differences)
        shown = "; ".join(self.differences[:3])
        near = "" if nearest is None else f" The nearest one is of step {nearest!r}: {shown}."
        super().__init__(
            step, "model", f"has no recorded reply to its request in {path!r}, which holds {recorded}.{near} {advice}"
        )


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


class JournalError(PipelineEngineError):
    """Raised when a journal cannot be opened, read or written. A run never goes on without its journal."""

    def __init__(self, message: str) -> None:
        super().__init__(message)


class JournalFileError(JournalError):
    """Raised when a place is no journal, or cannot be used as one. Nothing in it was changed.

    Attributes:
        path: The file, or the database's address without its password.
        reason: What is wrong with it and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        self.reason = reason
        super().__init__(f"journal {path!r} {reason}.")


class JournalInUseError(JournalError):
    """Raised when another process writes the file: a SQLite journal is for one process at a time.

    Attributes:
        path: The file.
        pid: The other process, where it has told.
    """

    def __init__(self, path: str, pid: int | None) -> None:
        self.path = path
        self.pid = pid
        by = "another process" if pid is None else f"process {pid}"
        super().__init__(
            f"journal {path!r} is in use by {by}, and a SQLite journal is for one process at a time. "
            "Wait until it has ended, or give several processes a postgresql:// journal."
        )


class JournalVersionError(JournalError):
    """Raised when a journal was written by an engine of another version. Nothing in it was changed.

    Attributes:
        path: The file, or the database's address without its password.
        version: The version of its tables.
        known: The version that this engine knows.
    """

    def __init__(self, path: str, version: int, known: int) -> None:
        self.path = path
        self.version = version
        self.known = known
        if version > known:
            text = "was written by a newer pipeline_engine. Update this one, or name another file."
        else:
            text = "was written by an older pipeline_engine. Bring it up to date: `pipeline-engine doctor --repair`."
        super().__init__(f"journal {path!r} {text} (Its tables have version {version}, known here is {known}.)")


class JournalDataError(JournalError):
    """Raised when what is read from a journal is not what was written: the disk, or somebody, has changed it.

    Attributes:
        what: Which part of it.
    """

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(
            f"the journal's entry for {what} is not what was written: its hash differs. "
            "Run `pipeline-engine doctor` on it: it names the documents concerned, and has only these run again."
        )


class JournalWriteError(JournalError):
    """Raised when a journal could write no more. The run was stopped; nothing that was acknowledged is lost.

    Attributes:
        path: The file, or the database's address without its password.
        unsaved: How many results were paid for or made, and are not in the journal.
        spilled_to: The file that holds them instead; None if there are none, or no place took them.
    """

    def __init__(self, path: str, cause: Exception, unsaved: int, spilled_to: str | None) -> None:
        self.path = path
        self.unsaved = unsaved
        self.spilled_to = spilled_to
        text = f"journal {path!r} cannot be written any more, so the run was stopped: {str(cause).rstrip('.')}. "
        if spilled_to is not None:
            text += f"{_numbered(unsaved, 'result')} not yet saved went to {spilled_to!r}. "
            text += "Set the cause right and run again: what is there is taken in first."
        elif unsaved:
            text += f"{_numbered(unsaved, 'result')} could not be saved anywhere, and will be made again. "
            text += "Set the cause right and run again."
        else:
            text += "All results are saved. Set the cause right and run again."
        super().__init__(text)


class JournalClosedError(JournalError):
    """Raised when work is given to a journal that is closed, or that belongs to another process."""

    def __init__(self, path: str, why: str) -> None:
        self.path = path
        super().__init__(f"journal {path!r} {why}. Open it anew.")


class DocumentBusyError(PipelineEngineError):
    """Raised for a document that cannot be run now: somebody else works on it, or it is to be run alone.

    A batch runs it later by itself.

    Attributes:
        document: The document's key.
        worker: Who has it; None if nobody has.
        crashes: How many processes have died while it was in flight; if one more does when it is run alone, it
            is to blame.
    """

    is_transient: ClassVar[bool] = True

    def __init__(self, document: str, worker: str | None, crashes: int = 0) -> None:
        self.document = document
        self.worker = worker
        self.crashes = crashes
        if worker is not None:
            why = f"is being worked on by {worker!r}. Its result will be in the journal."
        else:
            why = f"was in flight when {crashes} processes died. Run it alone, to find out whether it is to blame."
        super().__init__(f"document {document!r} {why}")


class EarlierError(PipelineEngineError):
    """Stands for the error of a step that failed in an earlier run, as the journal tells it. It is never raised alone.

    Attributes:
        kind: The name of the error's class.
        message: What it said.
        provider_kind: A provider error's kind, where it was one and the kind was kept.
    """

    def __init__(self, kind: str, message: str, provider_kind: str | None = None) -> None:
        self.kind = kind
        self.message = message
        self.provider_kind = provider_kind
        super().__init__(message or kind)


class PlanChangedError(PipelineEngineError):
    """Raised with `on_change="error"` when a pipeline has changed since the journal's last batch. Nothing has run.

    Attributes:
        pipeline: The pipeline's name.
        changes: One sentence for each step that is new, removed or changed.
    """

    def __init__(self, pipeline: str, changes: Sequence[str]) -> None:
        self.pipeline = pipeline
        self.changes = tuple(changes)
        told = f"pipeline {pipeline!r} has changed since the journal's last batch:"
        cure = (
            'With on_change="reuse" only what has changed is run again; with "keep" nothing is; with "new" everything.'
        )
        super().__init__("\n".join([told, *(f"  {change}" for change in self.changes), cure]))


class OverloadError(PipelineEngineError):
    """Raised for a run that a runner did not accept, because as many as it holds are pending. Nothing has run.

    Attributes:
        pending: How many runs were pending: accepted and not yet ended.
        max_pending: How many the runner holds at most.
    """

    is_transient: ClassVar[bool] = True

    def __init__(self, pending: int, max_pending: int) -> None:
        self.pending = pending
        self.max_pending = max_pending
        super().__init__(
            f"this runner did not accept the run: {pending} of at most {max_pending} are pending. "
            "Try again when some have ended, or raise Runner(max_pending=…)."
        )


class EngineClosedError(PipelineEngineError):
    """Raised when work is given to an engine or runner that is not open here, or is cut off by its closing.

    Attributes:
        what: "engine" or "runner".
        reason: Why it cannot do the work, and what to do.
    """

    def __init__(self, what: str, reason: str | None = None) -> None:
        self.what = what
        self.reason = reason or "is not open. Use it inside its `with` block, and start no work after the block."
        super().__init__(f"this {what} {self.reason}")
