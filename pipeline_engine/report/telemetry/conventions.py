"""What runs, steps and calls are called in OpenTelemetry: all names of spans, attributes and metrics. Pure.

The names that begin with `gen_ai.` are those of the GenAI conventions, as release 0.66b2 of the package
`opentelemetry-semantic-conventions` has them. None of them is stable yet: when they change, this module does.
What the conventions have no word for begins with `pipeline.`.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline_engine.text import one_line
from pipeline_engine.values.messages import Text
from pipeline_engine.values.records import AttemptStarted, BreakerChanged, CooldownStarted, HedgeStarted

if TYPE_CHECKING:
    from pipeline_engine.report.spans import Origin, SegmentKind, Span
    from pipeline_engine.values.messages import Message, Part
    from pipeline_engine.values.models import Completion
    from pipeline_engine.values.records import AttemptFinished, Call, CredentialParked, RunStarted
    from pipeline_engine.values.usage import Cost, Usage

__all__ = [
    "CALLS",
    "CALLS_IN_FLIGHT",
    "COST",
    "DOCUMENTS",
    "DURATION",
    "FIRST_CHUNK",
    "REPAIR_ASKED",
    "SCOPE",
    "SECONDS_BUCKETS",
    "TOKENS",
    "TOKEN_BUCKETS",
    "WAITS",
    "Attributes",
    "attempt_attributes",
    "attempt_name",
    "call_attributes",
    "call_name",
    "content_attributes",
    "document_labels",
    "error_attributes",
    "lost_attributes",
    "model_event",
    "model_labels",
    "outcome_labels",
    "reply_attributes",
    "run_attributes",
    "run_name",
    "span_attributes",
    "span_name",
    "status_attributes",
    "step_labels",
    "text_of",
    "token_labels",
    "wait_attributes",
    "wait_labels",
    "wait_name",
]

Attributes = dict[str, Any]
"""What OpenTelemetry takes: strings, numbers, booleans, and lists of strings."""

SCOPE = "pipeline_engine"
"""Who tells all this."""
_MAX_TEXT = 400
"""Terminal cells of any text that is sent, content apart."""

# Attributes of the conventions

_OPERATION = "gen_ai.operation.name"
_WORKFLOW = "gen_ai.workflow.name"
_PROVIDER = "gen_ai.provider.name"
_REQUEST_MODEL = "gen_ai.request.model"
_REQUEST_STREAM = "gen_ai.request.stream"
_RESPONSE_MODEL = "gen_ai.response.model"
_RESPONSE_ID = "gen_ai.response.id"
_FINISH_REASONS = "gen_ai.response.finish_reasons"
_TIME_TO_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
_INPUT_MESSAGES = "gen_ai.input.messages"
_OUTPUT_MESSAGES = "gen_ai.output.messages"
_TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - the name of an attribute
_ERROR_TYPE = "error.type"
_HTTP_STATUS = "http.response.status_code"

_PROVIDERS = {"azure": "azure.ai.openai", "gemini": "gcp.gemini", "openai-responses": "openai"}
"""What the conventions call those of our providers that have another name there."""
_OPERATIONS = {"llm": "chat", "embed": "embeddings"}
_COUNTS = {
    "input_tokens": "gen_ai.usage.input_tokens",
    "output_tokens": "gen_ai.usage.output_tokens",
    "cache_read_tokens": "gen_ai.usage.cache_read.input_tokens",
    "cache_write_tokens": "gen_ai.usage.cache_creation.input_tokens",
    "reasoning_tokens": "gen_ai.usage.reasoning.output_tokens",
}
"""For each count of a `Usage` its attribute."""

# Our own attributes

_PIPELINE = "pipeline.name"
_CAPACITY = "pipeline.capacity"
_RUN_ID = "pipeline.run.id"
_RUN_STATUS = "pipeline.run.status"
_DOCUMENT = "pipeline.document.key"
_STEP = "pipeline.step.name"
_ITEM = "pipeline.step.item"
_WIDTH = "pipeline.step.width"
_OUTCOME = "pipeline.step.outcome"
_VIA = "pipeline.step.via"
_ORIGIN = "pipeline.step.origin"
_BECAUSE = "pipeline.step.because"
_UNBLOCKED_BY = "pipeline.step.unblocked_by"
_ATTEMPTS = "pipeline.step.attempts"
_ATTEMPT = "pipeline.attempt.number"
_ATTEMPT_ORIGIN = "pipeline.attempt.origin"
_IS_REPAIR = "pipeline.attempt.is_repair"
_MODEL = "pipeline.model"
_CALL_OUTCOME = "pipeline.call.outcome"
_IS_SECOND = "pipeline.call.is_second"
_HAS_LOST = "pipeline.call.has_lost"
_REPLAYS = "pipeline.call.replays"
_COST_USD = "pipeline.cost.usd"
_WAIT_CAUSE = "pipeline.wait.cause"
_WAIT_SECONDS = "pipeline.wait.seconds"
_BREAKER_BEFORE = "pipeline.breaker.before"
_BREAKER_AFTER = "pipeline.breaker.after"
_COOLDOWN_SECONDS = "pipeline.cooldown.seconds"

REPAIR_ASKED = "pipeline.repair.asked"
"""The event that a model is told what is wrong with its reply."""

# Metrics, with the buckets that the conventions advise

DURATION = "gen_ai.client.operation.duration"
FIRST_CHUNK = "gen_ai.client.operation.time_to_first_chunk"
TOKENS = "gen_ai.client.token.usage"
CALLS = "pipeline.calls"
CALLS_IN_FLIGHT = "pipeline.calls.in_flight"
COST = "pipeline.cost"
DOCUMENTS = "pipeline.documents"
WAITS = "pipeline.wait.duration"
SECONDS_BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))


def text_of(text: str) -> str:
    """Return a text as it may be sent: on one line, of bounded length, with nothing that cannot be encoded."""
    return one_line(text, _MAX_TEXT)


@lru_cache(maxsize=1024)
def _name_of(name: str) -> str:
    """Return a name that a program declares; there are few, and each is asked for all the time."""
    return text_of(name)


# Names of spans and events: there are few of each, because backends group by them


def run_name(started: RunStarted) -> str:
    """Return the name of a run's span."""
    return f"invoke_workflow {_name_of(started.outline.pipeline)}"


def span_name(step: str, item: int | None) -> str:
    """Return the name of the span of a step, or of any of its items.

    Example:
        >>> span_name("title", None), span_name("notes", 3), span_name("notes", 4)
        ('step title', 'item notes', 'item notes')
    """
    return f"{'step' if item is None else 'item'} {_name_of(step)}"


def attempt_name(step: str) -> str:
    """Return the name of the span of an attempt that sends nothing to a model."""
    return f"attempt {_name_of(step)}"


def call_name(model: str, step_kind: str) -> str:
    """Return the name of a call's span.

    Example:
        >>> call_name("openai:gpt-4o-mini", "llm")
        'chat gpt-4o-mini'
    """
    return f"{_OPERATIONS[step_kind]} {_name_of(_provider_and_name(model)[1])}"


def wait_name(cause: SegmentKind) -> str:
    """Return the name of the event that tells a wait."""
    return f"pipeline.wait.{cause}"


def _provider_and_name(model: str) -> tuple[str, str]:
    provider, colon, name = model.partition(":")
    return (provider, name) if colon else ("custom", model)


# Attributes of spans and events


def run_attributes(started: RunStarted) -> Attributes:
    """Return what is known of a run when it starts."""
    return {
        _OPERATION: "invoke_workflow",
        _WORKFLOW: _name_of(started.outline.pipeline),
        _RUN_ID: started.run_id,
        _DOCUMENT: text_of(started.document),
        _CAPACITY: started.capacity,
    }


def status_attributes(status: str) -> Attributes:
    """Return how a run has ended."""
    return {_RUN_STATUS: status}


def span_attributes(span: Span) -> Attributes:
    """Return what is known of a step or item when it has its outcome."""
    known = {
        _STEP: _name_of(span.step),
        _ITEM: span.item,
        _WIDTH: span.width,
        _OUTCOME: span.outcome,
        _VIA: None if span.via is None else _name_of(span.via),
        _ORIGIN: span.origin if span.outcome == "completed" and not span.is_mapped else None,
        _BECAUSE: span.because,
        _UNBLOCKED_BY: None if span.unblocked_by is None else _name_of(span.unblocked_by),
        _ATTEMPTS: None if span.is_mapped else span.attempts,
    }
    return {name: value for name, value in known.items() if value is not None}


def attempt_attributes(started: AttemptStarted | HedgeStarted, origin: Origin) -> Attributes:
    """Return what is known of an attempt, or of the second call of one, when it starts."""
    attributes: Attributes = {_STEP: _name_of(started.step), _ATTEMPT: started.attempt}
    if started.item is not None:
        attributes[_ITEM] = started.item
    if origin != "executed":
        attributes[_ATTEMPT_ORIGIN] = origin
    if isinstance(started, HedgeStarted):
        attributes[_IS_SECOND] = True
    elif started.is_repair:
        attributes[_IS_REPAIR] = True
    return attributes


def call_attributes(model: str, step_kind: str) -> Attributes:
    """Return what is known of a call when it is sent; of few values, as metrics want them.

    Example:
        >>> call_attributes("gemini:gemini-2.5-flash", "llm")["gen_ai.provider.name"]
        'gcp.gemini'
    """
    provider, name = _provider_and_name(model)
    return {
        _OPERATION: _OPERATIONS[step_kind],
        _PROVIDER: _PROVIDERS.get(provider, _name_of(provider)),
        _REQUEST_MODEL: _name_of(name),
    }


def reply_attributes(finished: AttemptFinished, first: float | None) -> Attributes:
    """Return what is known of a call when its attempt has ended.

    Args:
        finished: What the attempt has come to.
        first: Seconds until the first piece of its reply; None if it was not streamed.
    """
    attributes = _cost_attributes(finished.cost)
    if finished.usage is not None:
        counts = ((name, getattr(finished.usage, field)) for field, name in _COUNTS.items())
        attributes.update((name, count) for name, count in counts if count is not None)
    if first is not None:
        attributes[_REQUEST_STREAM] = True
        attributes[_TIME_TO_FIRST_CHUNK] = first
    if finished.replays:
        attributes[_REPLAYS] = finished.replays
    completion = None if finished.call is None else finished.call.completion
    if completion is not None:
        attributes[_FINISH_REASONS] = [text_of(completion.raw_finish or completion.finish)]
        if completion.model is not None:
            attributes[_RESPONSE_MODEL] = text_of(completion.model)
        if completion.request_id is not None:
            attributes[_RESPONSE_ID] = text_of(completion.request_id)
    return attributes


def lost_attributes(cost: Cost | None) -> Attributes:
    """Return what is known of a call when the other one of two was quicker."""
    return {_HAS_LOST: True} | _cost_attributes(cost)


def _cost_attributes(cost: Cost | None) -> Attributes:
    # What nobody knows is left out: it is not zero.
    return {_COST_USD: cost.usd} if cost is not None and cost.is_known else {}


def error_attributes(kind: str, status: int | None = None) -> Attributes:
    """Return what errors are told apart by: a class name, or a provider error's kind."""
    attributes: Attributes = {_ERROR_TYPE: text_of(kind)}
    if status is not None:
        attributes[_HTTP_STATUS] = status
    return attributes


def wait_attributes(cause: SegmentKind, seconds: float) -> Attributes:
    """Return what is known of a wait that is over."""
    return {_WAIT_CAUSE: cause, _WAIT_SECONDS: seconds}


def model_event(record: BreakerChanged | CooldownStarted | CredentialParked) -> tuple[str, Attributes]:
    """Return the name and the attributes of the event that tells what has become of a model."""
    attributes = model_labels(record.model)
    if isinstance(record, BreakerChanged):
        changed = {_BREAKER_BEFORE: record.before, _BREAKER_AFTER: record.after}
        return "pipeline.breaker.changed", attributes | changed
    if isinstance(record, CooldownStarted):
        return "pipeline.cooldown.started", attributes | {_COOLDOWN_SECONDS: record.until - record.at}
    return "pipeline.credential.parked", attributes


# Content, which is sent on request only


def content_attributes(call: Call) -> Attributes:
    """Return a call's messages and its reply as JSON: whatever documents say, and people in them."""
    attributes: Attributes = {_INPUT_MESSAGES: _json([_message(message) for message in call.messages])}
    if call.completion is not None:
        attributes[_OUTPUT_MESSAGES] = _json([_reply(call.completion)])
    return attributes


def _message(message: Message) -> dict[str, object]:
    return {"role": message.role, "parts": [_part(part) for part in message.parts]}


def _reply(completion: Completion) -> dict[str, object]:
    text = {"type": "text", "content": completion.text}
    return {"role": "assistant", "parts": [text], "finish_reason": completion.raw_finish or completion.finish}


def _part(part: Part) -> dict[str, object]:
    if isinstance(part, Text):
        return {"type": "text", "content": part.text}
    # Images and files are named and not sent: they are what exceeds a backend's limits.
    return {"type": type(part).__name__.lower(), "mime_type": part.media_type, "bytes": len(part.data or b"")}


def _json(value: object) -> str:
    # A lone surrogate cannot be encoded, and would cost an exporter all the spans beside it; \udc.. is valid JSON.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace").decode()


# Labels of metrics: names that a program declares, never an id, and nothing that a document or a model has said


def document_labels(pipeline: str, status: str) -> Attributes:
    """Return what documents are counted by."""
    return {_PIPELINE: _name_of(pipeline)} | status_attributes(status)


def step_labels(pipeline: str, step: str) -> Attributes:
    """Return what tells one step's figures from another's."""
    return {_PIPELINE: _name_of(pipeline), _STEP: _name_of(step)}


def model_labels(model: str) -> Attributes:
    """Return what tells one model's figures from another's."""
    return {_MODEL: _name_of(model)}


def outcome_labels(outcome: str) -> Attributes:
    """Return how a call has ended."""
    return {_CALL_OUTCOME: outcome}


def wait_labels(cause: SegmentKind) -> Attributes:
    """Return what was waited for."""
    return {_WAIT_CAUSE: cause}


def token_labels(usage: Usage, call: Attributes) -> list[tuple[int, Attributes]]:
    """Return the tokens of a call, as far as they are known, each count with its labels."""
    counts = ((usage.input_tokens, "input"), (usage.output_tokens, "output"))
    return [(count, {**call, _TOKEN_TYPE: kind}) for count, kind in counts if count is not None]
