"""What came of an attempt: an output, or the error that says why it is none. Nothing here waits."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any, Literal

import trio
from pydantic_core import ValidationError

from pipeline_engine.errors import (
    OutputError,
    PipelineEngineError,
    ProviderError,
    RejectedError,
    StepCodeError,
)
from pipeline_engine.plan import reasons_of
from pipeline_engine.text import one_line
from pipeline_engine.values import Completion, Embeddings, Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pipeline_engine.plan import Condition, PlannedStep

__all__ = [
    "billing_of",
    "bug_in",
    "cancellation_in",
    "checked",
    "fault_of",
    "judged",
    "only_error",
    "texts_in",
    "texts_of",
    "unwrapped",
    "withheld",
]

_log = logging.getLogger("pipeline_engine")


def judged(step: PlannedStep, value: Any, arguments: Sequence[Any] = ()) -> tuple[Exception | None, Any]:
    """Return why a result is no output, or the output.

    Args:
        step: Whose result it is.
        value: What its function has returned, or its model has answered.
        arguments: What the attempt was given.
    """
    try:
        if inspect.iscoroutine(value):
            value.close()
            return _invalid(step, value, ("it is a coroutine, not its result",)), None
        if step.kind == "llm":
            value = _parsed(step, value)
        elif step.kind == "embed":
            value = _vectors(step, value, len(arguments[0]))
        elif step.output.validate is not None:
            value = step.output.validate(value)
    except ValidationError as error:
        return _invalid(step, value, reasons_of(error)), None
    except OutputError as error:
        return error, None
    except Exception as error:  # noqa: BLE001 - a validator is the user's own code
        return bug_in(step.name, "output", error), None
    return None, value


def checked(
    step: PlannedStep, check: Condition, value: Any, arguments: Sequence[Any], keywords: Mapping[str, Any]
) -> Exception | None:
    """Return why an output does not pass the step's check, if it does not."""
    try:
        answer = check.function(value, *arguments, **keywords)
        if inspect.iscoroutine(answer):
            answer.close()
            raise TypeError("is async. A check is a plain function")
        is_good = not isinstance(answer, str) and bool(answer)
    except Exception as error:  # noqa: BLE001 - the user's own code
        return bug_in(step.name, "check", error)
    if is_good:
        return None
    reason = answer if isinstance(answer, str) else "the check refused it"
    return OutputError(step.name, [reason], advice="Change the step, or what its check= accepts.")


def texts_of(returned: Any) -> list[str]:
    """Return the texts that an embed step's function has returned.

    Raises:
        TypeError: If it has returned anything else.
    """
    advice = "Return a list of texts."
    if returned is None:
        raise TypeError(f"returned nothing (is a `return` missing?). {advice}")
    if isinstance(returned, str | bytes) or not isinstance(returned, Iterable):
        raise TypeError(f"returned a {type(returned).__name__}. {advice}")
    texts = list(returned)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"returned a {type(returned).__name__} that holds an {type(text).__name__}. {advice}")
    return texts


def withheld(completion: Completion, model: str) -> RejectedError | None:
    """Return the error that a refused or filtered reply means; it was paid for, and is no answer."""
    if completion.finish == "filter":
        kind, what = "filter", "was stopped by its provider's content filter"
    elif completion.finish == "refusal" or completion.refusal:
        kind, what = "refusal", "refused to answer"
    else:
        return None
    said = one_line(completion.refusal or "", 300).removesuffix(".")
    quoted = f": “{said}”" if said else ""
    return RejectedError(
        f"{what}{quoted}. Give the step a fallback= for documents that this model does not take.",
        model=model,
        kind=kind,
        request_id=completion.request_id,
        billed="yes",
    )


def _invalid(step: PlannedStep, value: Any, reasons: tuple[str, ...]) -> OutputError:
    if step.kind == "llm":
        return OutputError(step.name, reasons, advice="Allow another Retry(repair=…), or use a stronger model.")
    got = f"a {type(value).__name__}"
    if value is None:
        got = "None (is a `return` missing?)"
    elif inspect.iscoroutine(value):
        got = "a coroutine (is an `await` missing, or `async def`?)"
    advice = f"It returned {got}. Return {step.output.name}, or change the annotation."
    return OutputError(step.name, reasons, advice=advice)


def _parsed(step: PlannedStep, completion: Any) -> Any:
    if not isinstance(completion, Completion):
        raise OutputError(
            step.name,
            [f"the model's complete() returned a {type(completion).__name__}"],
            advice="Return a Completion.",
        )
    if completion.finish == "length" and step.truncated == "fail":
        raise OutputError(
            step.name,
            ["the reply was cut at its token cap"],
            advice='Raise Model(max_tokens=…), ask for less, or accept it with truncated="keep".',
            is_truncated=True,
        )
    if completion.finish in ("tool", "pause") and not completion.text.strip():
        did = "asked for a tool, and it has none" if completion.finish == "tool" else "paused"
        raise OutputError(step.name, [f"instead of an answer the model {did}"], advice="Ask for an answer in words.")
    return step.output.parse(completion.text) if step.output.parse else completion.text


def _vectors(step: PlannedStep, embeddings: Any, wanted: int) -> list[list[float]]:
    if not isinstance(embeddings, Embeddings):
        reason = f"the model's embed() returned a {type(embeddings).__name__}"
        raise OutputError(step.name, [reason], advice="Return Embeddings.")
    if len(embeddings.vectors) != wanted:
        reason = f"the model gave {len(embeddings.vectors)} vectors for {wanted} texts"
        raise OutputError(step.name, [reason], advice="Each text needs one.")
    return [list(vector) for vector in embeddings.vectors]


def cancellation_in(group: BaseExceptionGroup[BaseException], step: str) -> BaseException:
    """Return what goes on when a cancelled step also raised: the cancellation; its clean-up's errors are logged."""
    cancelled, rest = group.split(trio.Cancelled)
    if cancelled is None or not isinstance(rest, ExceptionGroup):
        return group
    _log.warning("the clean-up of step %r raised while it was cancelled", step, exc_info=rest)
    return only_error(cancelled)


def only_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what a group of exceptions holds, if it is one thing; else the group."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def texts_in(value: Any) -> list[str]:
    """Return the texts that an output holds, in order.

    Example:
        >>> texts_in({"title": "A", "lines": ["B", "C"], "score": 1})
        ['A', 'B', 'C']
    """
    if isinstance(value, str):
        return [value]
    if hasattr(type(value), "model_fields"):  # a pydantic model
        value = dict(value)
    elif is_dataclass(value):
        value = {part.name: getattr(value, part.name) for part in fields(value)}
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [text for part in value for text in texts_in(part)]
    return []


def unwrapped(error: Exception, step: str) -> Exception:
    """Return what a step raised: a group of one is unwrapped, a foreign event loop is named."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    is_foreign = isinstance(error, TypeError) and "unrecognized yield message" in str(error)
    if is_foreign or (
        isinstance(error, RuntimeError)
        and ("no running event loop" in str(error) or "no current event loop" in str(error))
    ):
        reason = 'calls an asyncio library, but async steps run on trio. Declare it with executor="asyncio".'
        failure = StepCodeError(step, "function", reason)
        failure.__cause__ = error
        return failure
    return error


def bug_in(step: str, part: str, error: Exception) -> StepCodeError:
    """Return the error for user code that must not raise, its cause chained."""
    if isinstance(error, TypeError) and _text_of(error).startswith(("returned ", "is async")):
        failure = StepCodeError(step, part, str(error))
    else:
        failure = StepCodeError(
            step, part, f"raised {type(error).__name__}: {_text_of(error)}. Correct the pipeline's code."
        )
    failure.__cause__ = error
    return failure


def _text_of(error: Exception) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception's own __str__ may do anything
        return f"<{type(error).__name__} without a readable message>"


def billing_of(error: Exception | None) -> Literal["no", "maybe", "yes"]:
    """Return whether a call that gave no reply may have been billed; None stands for its cancellation."""
    if isinstance(error, ProviderError):
        return error.billed
    return "maybe" if error is None or isinstance(error, TimeoutError) else "no"


def fault_of(error: Exception) -> Fault:
    """Return why an attempt failed, as a record keeps it."""
    kind = error.kind if isinstance(error, ProviderError) else type(error).__name__
    status = error.status if isinstance(error, ProviderError) else None
    return Fault(kind, _text_of(error) or kind, isinstance(error, PipelineEngineError) and error.is_transient, status)
