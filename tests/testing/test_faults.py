"""Faults by name: each does to a pipeline what the provider's own would."""

from math import inf

import pytest
from pydantic import BaseModel

from pipeline_engine import (
    OutputError,
    Pipeline,
    RateLimitError,
    RejectedError,
    Retry,
    StepTimeoutError,
    StreamTruncatedError,
    Timeout,
    UnavailableError,
    run_pipeline,
)
from pipeline_engine.testing import (
    Reply,
    ScriptedModel,
    broken_off,
    http_error,
    in_turn,
    invalid_json,
    never,
    overloaded,
    rate_limited,
    refused,
    server_error,
    truncated,
    unauthorized,
    unreachable,
)


class Title(BaseModel):
    text: str


def run(answer, *, retry=None, latency=1.0, timeout=None, stream=False):
    pipeline = Pipeline("article", inputs={"document": str})
    retry = retry or Retry(attempts=1, repair=0)

    @pipeline.llm("fast", Title, retry=retry, timeout=timeout, stream=stream)
    def title(document: str) -> str:
        return f"Give this a title: {document}"

    model = ScriptedModel({"title": answer}, latency=latency, name="openai:gpt-4o-mini")
    return run_pipeline(pipeline, {"document": "The sea rises."}, models={"fast": model})


def test_a_script_of_faults_is_lived_through_exactly(virtual_clock):
    """A refusal that asks for five seconds, a fault after which our own delay counts, and an answer."""
    retry = Retry(base_delay=2, jitter="none")

    trace = run(in_turn(rate_limited(retry_after=5), server_error(), {"text": "Tides"}), retry=retry).trace

    kinds = [(segment.kind, segment.duration) for segment in trace["title"].segments]
    assert kinds == [("failed", 1), ("backoff", 5), ("failed", 1), ("backoff", 2), ("attempt", 1)]


@pytest.mark.parametrize(
    ("answer", "error", "kind", "status"),
    [
        (rate_limited(), RateLimitError, "rate_limited", 429),
        (overloaded(), RateLimitError, "overloaded", 529),
        (server_error(), UnavailableError, "server", 500),
        (server_error(503), UnavailableError, "overloaded", 503),
        (unauthorized(), RejectedError, "auth", 401),
        (unreachable(), UnavailableError, "connect", None),
        (http_error(404), RejectedError, "not_found", 404),
        (http_error(400, "maximum context length exceeded"), RejectedError, "context_length", 400),
        (refused("Not this."), RejectedError, "refusal", None),
    ],
)
def test_each_fault_is_the_error_that_a_provider_would_cause(virtual_clock, answer, error, kind, status):
    """A pipeline that is tested with another error than it meets is not tested."""
    failed = run(answer, retry=Retry(attempts=1, max_throttled=0)).outcome("title").error

    assert type(failed) is error
    assert (failed.kind, failed.status, failed.model) == (kind, status, "openai:gpt-4o-mini")


def test_a_refusal_quotes_the_models_words(virtual_clock):
    """They are what the person who reads the report wants to know."""
    assert "“Not this”" in str(run(refused("Not this.")).outcome("title").error)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: http_error(0), "a status is a whole number from 100 to 599"),
        (lambda: http_error("503"), "a status is a whole number from 100 to 599"),
        (lambda: rate_limited("5"), "retry_after='5': it is a number of seconds"),
        (lambda: rate_limited(float("nan")), "retry_after=nan: it is a number of seconds"),
    ],
)
def test_nonsense_is_refused_where_it_is_written(make, message):
    """Told inside the step it would look like a fault of the pipeline."""
    with pytest.raises(ValueError, match=message):
        make()


def test_a_status_of_success_is_no_fault():
    """It would become an error that no provider ever sends."""
    with pytest.raises(ValueError, match=r"http_error\(200\): that is a status of success"):
        http_error(200)


def test_a_call_that_is_never_answered_ends_by_its_timeout(virtual_clock):
    """Only a timeout of ours ends it: nothing else ever happens."""
    result = run(never(), timeout=Timeout(attempt=60))

    assert isinstance(result.outcome("title").error, StepTimeoutError)
    assert result.trace["title"].ended_at == 60
    assert never().latency == inf


def test_invalid_json_is_repaired(virtual_clock):
    """The model is told what was wrong, and asked again."""
    result = run(in_turn(invalid_json(), {"text": "Tides"}), retry=Retry(attempts=1, repair=1))

    assert result["title"] == Title(text="Tides")
    assert result.trace["title"].attempts == 2


def test_a_truncated_reply_is_no_matter_for_repair(virtual_clock):
    """Asked again it would be cut again: the error names the cap."""
    error = run(truncated({"text": "The tides of the North Sea"}), retry=Retry(attempts=4)).outcome("title").error

    assert isinstance(error, OutputError)
    assert error.is_truncated
    assert truncated("0123456789").answer == "01234"


@pytest.mark.parametrize("stream", [True, False])
def test_a_reply_that_breaks_off_is_no_answer(virtual_clock, stream):
    """Half of it may even be valid, and is not what the model meant."""
    result = run(broken_off('{"text": "Ti', latency=3), stream=stream)

    assert type(result.outcome("title").error) is StreamTruncatedError
    assert result.trace["title"].ended_at == 3


def test_the_first_token_may_be_slow(virtual_clock):
    """It is what a first-token timeout is for."""
    answer = Reply({"text": "The tides"}, latency=10, first_token=8)

    patient = run(answer, stream=True, timeout=Timeout(first_token=9))
    hasty = run(answer, stream=True, timeout=Timeout(first_token=7))

    assert patient.trace["title"].ended_at == 10
    assert hasty.trace["title"].ended_at == 7
    assert hasty.outcome("title").error.which == "first_token"


def test_an_error_is_made_anew_for_each_call(virtual_clock):
    """One that is raised again and again would gather the frames of all calls."""
    retry = Retry(attempts=3, base_delay=1, jitter="none")

    first = run(server_error(), retry=retry).outcome("title").error
    second = run(server_error(), retry=retry).outcome("title").error

    assert first is not second
