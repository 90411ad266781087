"""What an answer without a completion means: from a status and a body to an error. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline_engine.errors import ProviderError, RateLimitError, RejectedError, UnavailableError
from pipeline_engine.providers.wire.hints import retry_hint
from pipeline_engine.providers.wire.replies import excerpt, header_id, mapping_of, media_type, parse_json, text_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline_engine.providers.adapters.adapter import Endpoint

__all__ = ["error_in_reply", "error_of_response", "unreadable_reply"]

_QUOTE_WIDTH = 300

# Servers word it anew each; a refusal for the length of one prompt comes as 400, 413, 429 and 500.
_CONTEXT_OVERFLOW = re.compile(
    r"context_length|exceed_context_size|context_window_exceeded|string_above_max_length"
    r"|(?:max(?:imum)?|exceed\w*|larger than|longer than|beyond)\b.{0,60}\bcontext "
    r"(?:length|window|size|limit)"
    r"|context (?:length|window|size|limit)\b.{0,40}\bexceed"
    r"|(?:prompt|input)(?: is| was)? too long"
    r"|input token count.{0,40}exceeds|exceeds the maximum number of tokens"
)
_TOO_LARGE = re.compile(r"request too large|request_too_large|tokens must be reduced")
_NO_QUOTA = re.compile(
    r"insufficient_quota|billing_hard_limit_reached|billing_not_active|billing_error|insufficient_funds"
    r"|insufficient balance|credit balance is too low"
)
# Google says this for limits per minute, too: it counts only where no hint says when to come back.
_PERHAPS_NO_QUOTA = re.compile(r"exceeded your current quota|check your plan and billing")
_DAILY_QUOTA = re.compile(r"perday")
_FILTERED = re.compile(r"content_filter|content_policy_violation|responsibleaipolicyviolation")
_BAD_KEY = re.compile(r"invalid_api_key|api_key_invalid|api key not valid|incorrect api key")
_UNKNOWN_MODEL = re.compile(r"model_not_found|deploymentnotfound")
# The model wrote something else than it was made to; Groq answers that with a 400.
_BAD_OUTPUT = re.compile(r"json_validate_failed|tool_use_failed")
_OVERLOADED = re.compile(r"overloaded|insufficient_system_resource")

# An error inside a 200 has no status of its own, but often says in words which one it would have been.
_STATUS_IN_WORDS = (
    (re.compile(r"rate_?limit|too_many_requests|throttling|resource_exhausted|ratelimitreached"), 429),
    (_OVERLOADED, 529),
    (re.compile(r"authentication|unauthenticated|unauthorized"), 401),
    (re.compile(r"permission"), 403),
    (re.compile(r"not_found"), 404),
    (re.compile(r"invalid_|badrequest|_too_large|_too_small|unsupported_|_policy\b"), 400),
    (re.compile(r"server_error|api_error|internal"), 500),
)
_STREAMS = frozenset({"text/event-stream", "application/x-ndjson"})


class _Complaint(NamedTuple):
    """What an error body says, whichever of the many envelopes it came in."""

    message: str
    """The provider's words, for people."""
    words: str
    """Everything that rules look into, in lower case."""
    code: str
    """A number or a name."""


class _Verdict(NamedTuple):
    kind: str
    error: type[ProviderError]
    what: str
    advice: str
    billed: Literal["no", "maybe", "yes"] = "no"
    is_by_status: bool = False
    """Whether the status alone decided: then a server's `x-should-retry` knows better."""


def error_of_response(status: int, headers: Mapping[str, str], body: bytes, endpoint: Endpoint) -> ProviderError:
    """Return the error that a response with a status other than 2xx means.

    Args:
        status: The HTTP status.
        headers: The response's headers, with lower-case names.
        body: The response's body.
        endpoint: Who was asked; its key is taken out of everything that is quoted.
    """
    try:
        document = parse_json(body)
    except ValueError:
        document = None
    if document is None or isinstance(document, str):
        text = body.decode("utf-8", "replace")
        complaint = _Complaint(text, "" if _is_page(text, headers) else text[:2000].lower(), "")
    else:
        complaint = _complaint(document)
    return _error(status, status, headers, document, complaint, endpoint)


def error_in_reply(status: int, headers: Mapping[str, str], document: object, endpoint: Endpoint) -> ProviderError:
    """Return the error that a parsed body means which came with a status that promised none."""
    complaint = _complaint(document)
    meant = int(complaint.code) if re.fullmatch(r"[45]\d\d", complaint.code) else None
    if meant is None:
        found = (number for pattern, number in _STATUS_IN_WORDS if pattern.search(complaint.words))
        meant = next(found, None)
    error = _error(status, meant or 500, headers, document, complaint, endpoint)
    if meant is None and error.kind == "server" and media_type(headers) in _STREAMS:
        error.kind = "stream_error"
    return error


def unreadable_reply(
    status: int, headers: Mapping[str, str], text: str, endpoint: Endpoint, lack: str
) -> UnavailableError:
    """Return the error of a reply that is no completion and no error either, such as a login page.

    Args:
        status: The HTTP status.
        headers: The response's headers, with lower-case names.
        text: What came, of which the beginning is quoted.
        endpoint: Who was asked.
        lack: What is wrong with it, as in "answered … with `lack`".
    """
    quoted = excerpt(endpoint.redact(text), 200)
    begins = f" that begins “{quoted}”" if quoted else ""
    # Without the key before its letters are made small, or nobody would know it again.
    kind = media_type({"content-type": endpoint.redact(headers.get("content-type", ""))})
    of_type = f" ({kind})" if kind and kind != "application/json" else ""
    return UnavailableError(
        f"answered HTTP {status} with {lack}{of_type}{begins}. "
        f"If it happens again, check that {endpoint.base_url} is the base URL of this provider's interface.",
        model=endpoint.name,
        kind="bad_response",
        status=status,
        request_id=_request_id(headers, None, endpoint),
        billed="maybe",
    )


def _error(
    status: int,
    meant: int,
    headers: Mapping[str, str],
    document: object,
    complaint: _Complaint,
    endpoint: Endpoint,
) -> ProviderError:
    is_inside_success = status < 300
    # Some providers send `retry-after` with every 200, so there only the body's own hint is one.
    hint = retry_hint(meant, {} if is_inside_success else headers, document, complaint.message[:4000])
    verdict = _verdict(meant, complaint.words, hint, endpoint)
    verdict = _second_opinion(verdict, headers.get("x-should-retry", "").strip().lower())
    is_transient = verdict.error.is_transient
    quoted = excerpt(endpoint.redact(complaint.message), _QUOTE_WIDTH)
    words = f": “{quoted}”" if quoted else ""
    place = "an error inside HTTP 200" if is_inside_success else f"HTTP {status}"
    return verdict.error(
        f"{verdict.what} ({place}){words}. {verdict.advice}",
        model=endpoint.name,
        kind=verdict.kind,
        status=status,
        request_id=_request_id(headers, document, endpoint),
        retry_after=hint if is_transient else None,
        billed="maybe" if is_inside_success and is_transient else verdict.billed,
    )


def _verdict(status: int, words: str, hint: float | None, endpoint: Endpoint) -> _Verdict:
    """Judge by the body first, then by the status: a 429 may be permanent, a 400 a matter of length."""
    if 300 <= status < 400:
        return _Verdict(
            "redirect",
            RejectedError,
            "redirected the call",
            "Redirects are not followed, because the key would travel along. "
            f"Give the final address as base_url instead of {endpoint.base_url}.",
        )
    return _verdict_by_words(status, words, hint, endpoint) or _verdict_by_status(status, hint, endpoint)


def _verdict_by_words(status: int, words: str, hint: float | None, endpoint: Endpoint) -> _Verdict | None:
    if _CONTEXT_OVERFLOW.search(words):
        return _Verdict(
            "context_length",
            RejectedError,
            "was given more than fits its context",
            "Shorten the prompt, split the document, or use a model with a larger context.",
        )
    if status == 413 or _TOO_LARGE.search(words):
        return _Verdict(
            "invalid",
            RejectedError,
            "refused the request as too large, however long one waits",
            "Shorten the prompt or split the document.",
        )
    is_out_of_quota = _NO_QUOTA.search(words) or _DAILY_QUOTA.search(words)
    if status == 402 or is_out_of_quota or (hint is None and _PERHAPS_NO_QUOTA.search(words)):
        return _Verdict(
            "quota",
            RejectedError,
            "has no quota left for this account",
            f"Check plan and billing of the account behind {endpoint.key_name}.",
        )
    if _FILTERED.search(words):
        return _Verdict(
            "filter",
            RejectedError,
            "filtered the request",
            "Give the step a fallback= for documents that this provider does not take.",
            billed="maybe",  # Azure charges for prompts that its filter has read.
        )
    if _BAD_OUTPUT.search(words):
        return _Verdict(
            "bad_output",
            UnavailableError,
            "wrote a reply that its provider found invalid",
            "Another try may go better.",
            billed="maybe",
        )
    if _BAD_KEY.search(words):
        return _verdict_by_status(401, None, endpoint)
    if _UNKNOWN_MODEL.search(words):
        return _verdict_by_status(404, None, endpoint)
    return None


def _verdict_by_status(status: int, hint: float | None, endpoint: Endpoint) -> _Verdict:
    when = f"Its next call may start in {hint:g} s." if hint else "Try again later, with fewer calls at once."
    if status == 401:
        if endpoint.secret is None:
            return _Verdict("auth", RejectedError, "asked for a key", f"Set {endpoint.key_name}.")
        return _Verdict("auth", RejectedError, "refused the key", f"Check {endpoint.key_name}.")
    if status == 403:
        advice = f"Check what the key in {endpoint.key_name} may use."
        return _Verdict("auth", RejectedError, "denied access", advice)
    if status == 407:
        advice = "Check the user and the password in the proxy's address."
        return _Verdict("invalid", RejectedError, "was not asked: a proxy on the way wants a key of its own", advice)
    if status == 404:
        advice = f"Check the model's name and the base URL {endpoint.base_url}."
        return _Verdict("not_found", RejectedError, "was not found", advice)
    if status == 429:
        return _Verdict("rate_limited", RateLimitError, "is rate limited", when, is_by_status=True)
    if status == 529 or (status == 503 and hint):
        # A refusal before any work, like a 429: it is waited out and spends no attempt.
        return _Verdict("overloaded", RateLimitError, "is overloaded", when, is_by_status=True)
    if status == 503:
        return _Verdict("overloaded", UnavailableError, "is overloaded", when, is_by_status=True)
    if status in {409, 425}:
        return _Verdict("conflict", UnavailableError, "met a conflict", "Try again.", is_by_status=True)
    if status == 408 or (status >= 500 and status != 501):
        advice = when if hint else "The fault is on its side; try again later."
        return _Verdict("server", UnavailableError, "failed", advice, billed="maybe", is_by_status=True)
    advice = "Correct the request: sent again as it is, it will be rejected again."
    return _Verdict("invalid", RejectedError, "rejected the request", advice, is_by_status=True)


def _second_opinion(verdict: _Verdict, should_retry: str) -> _Verdict:
    if not verdict.is_by_status or should_retry not in {"true", "false"}:
        return verdict
    if should_retry == "false" and verdict.error.is_transient:
        advice = "The provider says that trying again will not help."
        return verdict._replace(error=RejectedError, advice=advice)
    if should_retry == "true" and not verdict.error.is_transient:
        advice = "The provider says that it may be tried again."
        return verdict._replace(error=UnavailableError, advice=advice)
    return verdict


def _complaint(document: object) -> _Complaint:
    """Find the provider's words in any of the known envelopes."""
    if isinstance(document, list) and len(document) == 1:  # Gemini wraps some errors in a list
        document = document[0]
    outer = mapping_of(document)
    error = outer.get("error")
    inner = mapping_of(error)
    fields = inner or outer
    # OpenRouter hands on what the provider behind it has said, which is the part worth reading.
    raw = text_of(mapping_of(inner.get("metadata")).get("raw"))
    candidates = (raw, text_of(error), fields.get("message"), fields.get("detail"), outer.get("title"))
    message = next((text for text in map(_sentence, candidates) if text), "")
    code = text_of(inner.get("code")) or text_of(outer.get("code"))
    names = (code, inner.get("type"), outer.get("type"), inner.get("status"), outer.get("status"))
    words = " ".join((*map(text_of, names), *_details(inner), *_sentences(fields), message))
    return _Complaint(message, words[:8000].lower(), code)


def _sentences(fields: Mapping[str, Any]) -> tuple[str, str]:
    return _sentence(fields.get("message")), _sentence(fields.get("detail"))


def _sentence(value: object) -> str:
    """Return a message as text; FastAPI's is a list whose entries also hold the input, which is left out."""
    if isinstance(value, list):
        entries = [mapping_of(entry) for entry in value[:5]]
        return "; ".join(text_of(entry.get("msg")) for entry in entries if entry.get("msg"))
    return text_of(value)


def _details(inner: Mapping[str, Any]) -> list[str]:
    """Return the reasons and quotas that Google and Azure name one level further down."""
    details = inner.get("details")
    reasons = [text_of(mapping_of(inner.get("innererror")).get("code"))]
    for detail in details[:20] if isinstance(details, list) else ():
        fields = mapping_of(detail)
        violations = fields.get("violations")
        reasons.append(text_of(fields.get("reason")))
        if isinstance(violations, list):
            reasons += [text_of(mapping_of(violation).get("quotaId")) for violation in violations[:20]]
    return reasons


def _is_page(text: str, headers: Mapping[str, str]) -> bool:
    return media_type(headers) == "text/html" or text.lstrip()[:1] == "<"


def _request_id(headers: Mapping[str, str], document: object, endpoint: Endpoint) -> str | None:
    found = header_id(headers) or header_id({"request-id": text_of(mapping_of(document).get("request_id"))})
    return None if found is None else endpoint.redact(found)
