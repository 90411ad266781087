"""OpenTelemetry: spans and metrics of runs, with the times, parents and names that others' tools expect."""

import asyncio  # noqa: TID251 - runs are started from there, too
import json
import logging
from itertools import count

import pytest
import trio
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import BaseModel, Field

from pipeline_engine import (
    Engine,
    Hedge,
    Image,
    Limits,
    MemoryJournal,
    Message,
    OpenTelemetry,
    Pipeline,
    Price,
    Retry,
    Runner,
    Usage,
    run_pipeline,
    run_pipeline_async,
)
from pipeline_engine.errors import UnavailableError
from pipeline_engine.report import Trace
from pipeline_engine.testing import ScriptedModel
from pipeline_engine.values import Completion, CooldownStarted, CredentialParked


class Numbers(IdGenerator):
    """Number spans in the order in which they start."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def generate_span_id(self) -> int:
        return next(self._numbers)

    generate_trace_id = generate_span_id


class Told:
    """What an in-memory exporter and reader have been told, in seconds since the run's start."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider(id_generator=Numbers())
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])

    def sink(self, **options) -> OpenTelemetry:
        return OpenTelemetry(self.tracers, self.meters, **options)

    @property
    def spans(self):
        return sorted(self._exporter.get_finished_spans(), key=lambda span: span.context.span_id)

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def one(self, name):
        [span] = self.named(name)
        return span

    @property
    def run(self):
        return next(span for span in self.spans if span.name.startswith("invoke_workflow"))

    def times(self, span):
        start = self.run.start_time
        return ((span.start_time - start) / 1e9, (span.end_time - start) / 1e9)

    def parent(self, span):
        if span.parent is None:
            return None
        return next(other.name for other in self.spans if other.context.span_id == span.parent.span_id)

    def figures(self, name):
        """Return a metric's points, each as its labels and its value."""
        data = self._reader.get_metrics_data()
        found = {}
        if data is None:
            return found
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            if metric.name == name:
                for point in metric.data.data_points:
                    value = getattr(point, "value", None)
                    labels = tuple(sorted(point.attributes.items()))
                    found[labels] = (point.count, point.sum) if value is None else value
        return found


@pytest.fixture
def told():
    return Told()


def attributes(span, prefix):
    return {name: value for name, value in span.attributes.items() if name.startswith(prefix)}


async def run(dag, told, *, models=None, content=False, document="text", **options):
    engine = Engine(models=models, sinks=[told.sink(content=content)], seed=1, capacity=options.pop("capacity", 64))
    async with engine:
        return await engine.run(dag, {"document": document}, key="a.txt", **options)


def one_call(**options):
    pipeline = Pipeline("document", inputs={"document": str})

    @pipeline.llm("fast", str, **options)
    def title(document: str) -> str:
        return f"Name this: {document}"

    return pipeline


class Scripted:
    """A model that takes its time, and then says or raises what comes next in its script."""

    name = "openai:gpt-4o-mini"
    price = Price(1.0, 2.0)

    def __init__(self, *replies, seconds=1.0) -> None:
        self.replies = list(replies)
        self.seconds = seconds

    async def complete(self, request):
        await trio.sleep(self.seconds)
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return reply


def overloaded(message="is overloaded."):
    return UnavailableError(message, model="openai:gpt-4o-mini", kind="overloaded", status=503)


# Spans


async def test_a_run_its_step_and_its_call_are_three_spans_with_the_times_of_the_run(told, virtual_clock):
    """A span that is a millisecond off points at the wrong cause."""
    reply = Completion("A title", usage=Usage(1000, 200), model="gpt-4o-mini-2024-07-18", request_id="req_1")

    await run(one_call(), told, models={"fast": Scripted(reply, seconds=1.5)})

    assert [(span.name, told.parent(span), told.times(span)) for span in told.spans] == [
        ("invoke_workflow document", None, (0.0, 1.5)),
        ("step title", "invoke_workflow document", (0.0, 1.5)),
        ("chat gpt-4o-mini", "step title", (0.0, 1.5)),
    ]
    assert [span.kind for span in told.spans] == [SpanKind.INTERNAL, SpanKind.INTERNAL, SpanKind.CLIENT]


async def test_a_call_has_the_attributes_of_the_genai_conventions(told, virtual_clock):
    """Backends for LLM traces count tokens and cost by these names and no others."""
    usage = Usage(1000, 200, cache_read_tokens=900, cache_write_tokens=50, reasoning_tokens=120)
    reply = Completion("A title", "length", usage, model="gpt-4o-mini-2024-07-18", request_id="req_1")

    await run(one_call(retry=Retry(attempts=1, repair=0)), told, models={"fast": Scripted(reply)})

    assert attributes(told.one("chat gpt-4o-mini"), "gen_ai.") == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
        "gen_ai.response.model": "gpt-4o-mini-2024-07-18",
        "gen_ai.response.id": "req_1",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 1000,
        "gen_ai.usage.output_tokens": 200,
        "gen_ai.usage.cache_read.input_tokens": 900,
        "gen_ai.usage.cache_creation.input_tokens": 50,
        "gen_ai.usage.reasoning.output_tokens": 120,
    }
    assert attributes(told.run, "gen_ai.") == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.workflow.name": "document",
    }


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the names have moved to a repository of their own
def test_every_genai_name_is_one_of_the_conventions():
    """A misspelt attribute is silently shown nowhere."""
    from opentelemetry.semconv._incubating.attributes import gen_ai_attributes
    from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

    from pipeline_engine.report.telemetry import conventions

    known = {
        value for module in (gen_ai_attributes, gen_ai_metrics) for value in vars(module).values() if type(value) is str
    }
    named = {value for value in vars(conventions).values() if isinstance(value, str)}
    named |= set(conventions._COUNTS.values())

    assert sorted(name for name in named - known if name.startswith("gen_ai.")) == []


async def test_a_streamed_call_tells_when_its_first_piece_came(told, virtual_clock):
    """The time to the first token is what a provider's load shows in first."""
    model = ScriptedModel({"title": "A long title"}, latency=3.0, name="openai:gpt-4o-mini")

    result = await run(one_call(stream=True), told, models={"fast": model})

    first = result.trace["title"].segments[0].first_token_at
    call = told.one("chat gpt-4o-mini")
    assert call.attributes["gen_ai.request.stream"] is True
    assert call.attributes["gen_ai.response.time_to_first_chunk"] == first - result.trace.started_at


async def test_a_retry_is_a_span_of_its_own_and_the_wait_before_it_an_event(told, virtual_clock):
    """A retry storm is read off as spans, and the gaps between them have a cause."""
    broken = overloaded()
    model = Scripted(broken, Completion("A title"))

    await run(one_call(retry=Retry(attempts=2, base_delay=4, jitter="none")), told, models={"fast": model})

    failed, good = told.named("chat gpt-4o-mini")
    assert (told.times(failed), told.times(good)) == ((0.0, 1.0), (5.0, 6.0))
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "model 'openai:gpt-4o-mini' is overloaded."
    assert attributes(failed, "error.") == {"error.type": "overloaded"}
    assert failed.attributes["http.response.status_code"] == 503
    assert [call.attributes["pipeline.attempt.number"] for call in (failed, good)] == [1, 2]
    step = told.one("step title")
    [wait] = step.events
    assert (wait.name, dict(wait.attributes), (wait.timestamp - told.run.start_time) / 1e9) == (
        "pipeline.wait.backoff",
        {"pipeline.wait.cause": "backoff", "pipeline.wait.seconds": 4.0},
        1.0,
    )
    assert (step.attributes["pipeline.step.attempts"], step.status.status_code) == (2, StatusCode.UNSET)


async def test_a_failed_step_says_why_and_so_does_the_run(told, virtual_clock):
    """Whoever looks for errors finds them at every level of the trace."""
    model = Scripted(overloaded())

    result = await run(one_call(retry=Retry(attempts=1)), told, models={"fast": model})

    step = told.one("step title")
    assert step.status.status_code is told.run.status.status_code is StatusCode.ERROR
    assert step.status.description == result.trace["title"].error
    assert step.attributes["error.type"] == told.run.attributes["error.type"] == result.trace["title"].error_kind
    assert told.run.attributes["pipeline.run.status"] == "failed"


class Scores(BaseModel):
    score: float = Field(ge=0, le=1)


async def test_a_repair_is_an_attempt_that_says_so(told, virtual_clock):
    """Repairs cost as much as first calls, and are told from retries."""
    pipeline = Pipeline("document", inputs={"document": str})

    @pipeline.llm("fast", Scores)
    def quality(document: str) -> str:
        return "How good is this?"

    await run(pipeline, told, models={"fast": Scripted(Completion('{"score": 7}'), Completion('{"score": 0.7}'))})

    first, second = told.named("chat gpt-4o-mini")
    assert "pipeline.attempt.is_repair" not in first.attributes
    assert second.attributes["pipeline.attempt.is_repair"] is True
    assert [event.name for event in told.one("step quality").events] == ["pipeline.repair.asked"]


async def test_items_are_children_of_their_step(told, virtual_clock):
    """A step over a hundred chunks folds into one line, and unfolds into its items."""
    pipeline = Pipeline("document", inputs={"document": list[str]})

    @pipeline.step(each="document")
    async def note(part: str) -> str:
        await trio.sleep(1)
        return part.upper()

    await run(pipeline, told, document=["a", "b"], capacity=1)

    items = told.named("item note")
    assert [(told.parent(item), item.attributes["pipeline.step.item"], told.times(item)) for item in items] == [
        ("step note", 0, (0.0, 1.0)),
        ("step note", 1, (0.0, 2.0)),
    ]
    assert [event.name for event in items[1].events] == ["pipeline.wait.slot"]
    assert [told.parent(attempt) for attempt in told.named("attempt note")] == ["item note", "item note"]
    whole = told.one("step note")
    assert (whole.attributes["pipeline.step.width"], told.times(whole), whole.events) == (2, (0.0, 2.0), ())


async def test_a_skipped_step_is_a_span_of_no_length_that_says_why(told, virtual_clock):
    """What did not run is as much a part of the story as what did."""
    pipeline = Pipeline("document", inputs={"document": str})

    @pipeline.step(when=lambda document: False)
    def translation(document: str) -> str:
        return document

    await run(pipeline, told)

    step = told.one("step translation")
    assert step.start_time == step.end_time
    assert step.attributes["pipeline.step.outcome"] == "skipped"
    assert step.attributes["pipeline.step.because"] == "when"
    assert step.status.status_code is StatusCode.UNSET


async def test_a_second_call_is_a_span_beside_the_first_and_the_lost_one_says_so(told, virtual_clock):
    """Hedges double calls: a trace that hid one of them would hide its cost."""
    slow, quick = Scripted(Completion("late"), seconds=60.0), Scripted(Completion("A title"), seconds=1.0)
    slow.name, quick.name = "openai:slow", "openai:quick"
    pipeline = one_call(hedge=Hedge(after=5.0, max_extra=1.0))

    result = await run(pipeline, told, models={"fast": [slow, quick]})

    lost, won = told.one("chat slow"), told.one("chat quick")
    assert (told.times(lost), told.times(won)) == ((0.0, 6.0), (5.0, 6.0))
    assert lost.attributes["pipeline.call.has_lost"] is True
    assert won.attributes["pipeline.call.is_second"] is True
    assert "pipeline.call.has_lost" not in won.attributes
    assert won.attributes["gen_ai.response.finish_reasons"] == ("stop",)
    assert told.one("step title").attributes["pipeline.step.via"] == result.trace["title"].via
    assert set(told.figures("pipeline.calls.in_flight").values()) == {0}
    assert {
        dict(labels)["pipeline.call.outcome"]: count for labels, count in told.figures("pipeline.calls").items()
    } == {
        "lost": 1,
        "answered": 1,
    }


async def test_an_output_from_the_journal_is_a_step_without_a_call(told, virtual_clock):
    """What was not paid for again must not look as if it was."""
    journal = MemoryJournal()
    await run(one_call(), Told(), models={"fast": Scripted(Completion("A title"))}, journal=journal)

    pipeline = one_call()

    @pipeline.step
    async def shout(title: str) -> str:
        return title.upper()

    await run(pipeline, told, models={"fast": Scripted()}, journal=journal, on_change="keep")

    assert told.one("step title").attributes["pipeline.step.origin"] == "restored"
    assert [span.name for span in told.spans if span.kind is SpanKind.CLIENT] == []
    assert told.figures("pipeline.calls") == {}


async def test_waits_are_told_as_the_trace_tells_them(told, virtual_clock):
    """Two accounts of one run that differ are worse than one."""
    pipeline = Pipeline("document", inputs={"document": list[str]})

    @pipeline.llm("fast", str, each="document", retry=Retry(attempts=3, base_delay=2))
    def note(part: str) -> str:
        return part

    replies = [Completion("good"), overloaded(), *[Completion("good")] * 9]
    model = Scripted(*replies)
    model.limits = Limits(rpm=60, burst_requests=1, max_concurrency=2)

    result = await run(pipeline, told, models={"fast": model}, document=list("abcdefgh"), capacity=3)

    seconds = dict.fromkeys(result.trace.waits, 0.0)
    for span in told.named("item note"):
        for event in span.events:
            if event.name.startswith("pipeline.wait."):
                seconds[event.attributes["pipeline.wait.cause"]] += event.attributes["pipeline.wait.seconds"]
    assert seconds == pytest.approx(result.trace.waits)
    assert sum(seconds.values()) > 10
    counted = {
        dict(labels)["pipeline.wait.cause"]: total
        for labels, (_, total) in told.figures("pipeline.wait.duration").items()
    }
    assert counted == pytest.approx({kind: total for kind, total in seconds.items() if total})


async def test_what_becomes_of_a_model_is_an_event_of_the_run_that_caused_it(told, record_stream):
    """A cool-down explains the gaps of every run, so it stands where it began."""
    run = record_stream().declare("title").simple("title", 0.0, 0.0, 2.0)
    run.write(CooldownStarted(1.0, "openai:gpt-4o-mini", 31.0), CredentialParked(1.5, "openai:gpt-4o-mini"))

    told.sink().replay(run.records(2.0))

    assert [(event.name, dict(event.attributes)) for event in told.run.events] == [
        ("pipeline.cooldown.started", {"pipeline.model": "openai:gpt-4o-mini", "pipeline.cooldown.seconds": 30.0}),
        ("pipeline.credential.parked", {"pipeline.model": "openai:gpt-4o-mini"}),
    ]


# Which span is current


def current():
    return trace.get_current_span().get_span_context().span_id


async def test_what_a_step_does_is_a_child_of_its_attempt(told):
    """The spans of a database or of an HTTP client belong to the step that has used them."""
    pipeline = Pipeline("document", inputs={"document": str})
    tracer = told.tracers.get_tracer("a library of the user's")

    @pipeline.step
    async def on_trio(document: str) -> str:
        await trio.lowlevel.checkpoint()
        with tracer.start_as_current_span("on trio"):
            return document

    @pipeline.step
    def in_a_thread(document: str) -> str:
        with tracer.start_as_current_span("in a thread"):
            return document

    @pipeline.step(executor="asyncio")
    async def on_asyncio(document: str) -> str:
        await asyncio.sleep(0)
        with tracer.start_as_current_span("on asyncio"):
            return document

    @pipeline.llm("fast", str)
    def title(on_trio: str, in_a_thread: str, on_asyncio: str) -> str:
        with tracer.start_as_current_span("in a prompt"):
            return "Name this."

    class Client:
        async def complete(self, request):
            with tracer.start_as_current_span("in a client"):
                return Completion("A title")

    await run(pipeline, told, models={"fast": Client()})

    assert {
        span.name: told.parent(span) for span in told.spans if " a " in span.name or span.name.startswith("on ")
    } == {
        "on trio": "attempt on_trio",
        "in a thread": "attempt in_a_thread",
        "on asyncio": "attempt on_asyncio",
        "in a prompt": "invoke_workflow document",
        "in a client": "chat Client",
    }


def started_in_plain_code(dag, sink):
    return run_pipeline(dag, {"document": "text"}, models=MODELS, sinks=[sink])


def started_under_trio(dag, sink):
    return trio.run(lambda: run_pipeline_async(dag, {"document": "text"}, models=MODELS, sinks=[sink]))


def started_under_asyncio(dag, sink):
    return asyncio.run(run_pipeline_async(dag, {"document": "text"}, models=MODELS, sinks=[sink]))


def started_by_a_runner(dag, sink):
    with Runner(models=MODELS, sinks=[sink]) as runner:
        return runner.run(dag, {"document": "text"})


MODELS = {"fast": ScriptedModel({"title": "A title"})}


@pytest.mark.parametrize(
    "start", [started_in_plain_code, started_under_trio, started_under_asyncio, started_by_a_runner]
)
def test_a_run_is_a_child_of_the_span_that_it_was_started_in(told, start):
    """The trace of a web request shows the run that it has asked for, whatever loop or thread that takes."""
    tracer = told.tracers.get_tracer("a web server")

    with tracer.start_as_current_span("request"):
        before = current()
        start(one_call(), told.sink())
        after = current()

    assert told.parent(told.run) == "request"
    assert before == after


async def test_nothing_stays_current_when_a_run_is_cancelled(told, virtual_clock, caplog):
    """A leaked context would make every later span of the program a child of a run that is over."""
    before = current()

    with trio.move_on_after(0.5):
        await run(one_call(), told, models={"fast": Scripted(Completion("late"))})

    assert current() == before
    assert told.run.attributes["pipeline.run.status"] == "stopped"
    assert told.one("chat gpt-4o-mini").attributes["error.type"] == "cancelled"
    assert "Failed to detach" not in caplog.text


async def test_a_run_inside_a_step_is_a_child_of_its_attempt(told, virtual_clock):
    """Runs nest, and their traces do."""
    inner, outer = one_call(), Pipeline("outer", inputs={"document": str})

    @outer.step
    async def inside(document: str) -> str:
        result = await run_pipeline_async(inner, {"document": document}, models=MODELS)
        return result["title"]

    await run(outer, told)

    assert told.parent(told.one("invoke_workflow document")) == "attempt inside"


# Replays


async def test_a_recorded_run_is_told_again_with_its_own_times(told, virtual_clock):
    """A run of last week is looked at in the same tool as one of today."""
    first = Told()
    result = await run(one_call(), first, models={"fast": Scripted(Completion("A title"), seconds=1.5)})

    before = current()
    told.sink().replay(result.records)

    def seen(one):
        return [(span.name, one.parent(span), span.start_time, span.end_time, span.attributes) for span in one.spans]

    assert seen(told) == seen(first)
    assert current() == before
    assert told.figures("pipeline.documents") == {}


def test_records_without_a_beginning_are_refused(told):
    """A stream that was cut at its front has no place in time."""
    with pytest.raises(ValueError, match="begin with RunStarted"):
        told.sink().replay([])


def test_the_spans_of_a_hand_made_stream_have_the_lengths_of_its_trace(told, record_stream):
    """The spans of a step and its attempts are the trace's, to the nanosecond."""
    from tests.report.conftest import document_run

    run = document_run()
    told.sink().replay(run.records(4.5))
    expected = Trace.from_records(run.records(4.5))

    assert {span.name: told.times(span) for span in told.spans if span.name.startswith("step ")} == {
        f"step {span.step}": (
            span.ended_at if span.ready_at is None else span.ready_at,
            span.ended_at,
        )
        for span in expected.steps
    }


# Metrics


async def test_calls_tokens_cost_and_documents_are_counted(told, virtual_clock):
    """A dashboard asks how many, how much and how long, by step and by model."""
    broken = overloaded()
    model = Scripted(broken, Completion("A title", usage=Usage(1_000_000, 500_000)))

    result = await run(one_call(retry=Retry(attempts=2, base_delay=4, jitter="none")), told, models={"fast": model})

    of_step = {"pipeline.name": "document", "pipeline.step.name": "title", "pipeline.model": "openai:gpt-4o-mini"}
    assert told.figures("pipeline.calls") == {
        labels(**of_step, **{"pipeline.call.outcome": "failed"}): 1,
        labels(**of_step, **{"pipeline.call.outcome": "answered"}): 1,
    }
    call = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4o-mini",
    }
    assert told.figures("gen_ai.client.token.usage") == {
        labels(**call, **{"gen_ai.token.type": "input"}): (1, 1_000_000),
        labels(**call, **{"gen_ai.token.type": "output"}): (1, 500_000),
    }
    assert told.figures("gen_ai.client.operation.duration") == {
        labels(**call): (1, 1.0),
        labels(**call, **{"error.type": "overloaded"}): (1, 1.0),
    }
    assert told.figures("pipeline.cost") == {labels(**of_step): result.cost.usd} != {labels(**of_step): 0.0}
    assert told.figures("pipeline.calls.in_flight") == {labels(**{"pipeline.model": "openai:gpt-4o-mini"}): 0}
    assert told.figures("pipeline.documents") == {
        labels(**{"pipeline.name": "document", "pipeline.run.status": "completed"}): 1
    }


def labels(**pairs):
    return tuple(sorted(pairs.items()))


async def test_no_label_of_a_metric_is_an_id_or_anything_that_was_said(told, virtual_clock):
    """Each value of a label is a time series of its own: one id in a label, and the backend's bill explodes."""
    canary = "canary-4711"
    reply = Completion(canary, usage=Usage(1, 1), model=canary, request_id=canary)

    result = await run(one_call(), told, models={"fast": Scripted(reply)}, document=canary)

    names = ("pipeline.calls", "pipeline.documents", "gen_ai.client.token.usage", "gen_ai.client.operation.duration")
    said = str([told.figures(name) for name in names])
    assert "gpt-4o-mini" in said
    assert not any(secret in said for secret in (canary, "a.txt", result.run_id))


# What is sent, and what is not


async def test_prompts_and_replies_stay_here(told, virtual_clock):
    """Documents are other people's: they leave for a second place only if somebody has decided so."""
    await run(one_call(), told, models={"fast": Scripted(Completion("canary-reply"))}, document="canary-document")

    assert "canary" not in str([(span.to_json(), span.events) for span in told.spans])


async def test_with_content_prompts_and_replies_are_sent_as_the_conventions_want_them(told, virtual_clock):
    """Whoever asks for them gets them in the form that backends show."""
    pipeline = Pipeline("document", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> list[Message]:
        return [Message("system", "Be short."), Message("user", document, Image(b"GIF89a", media_type="image/gif"))]

    await run(pipeline, told, models={"fast": Scripted(Completion("Ein Titel ü"))}, content=True)

    call = told.one("chat gpt-4o-mini")
    assert json.loads(call.attributes["gen_ai.input.messages"]) == [
        {"role": "system", "parts": [{"type": "text", "content": "Be short."}]},
        {
            "role": "user",
            "parts": [
                {"type": "text", "content": "text"},
                {"type": "image", "mime_type": "image/gif", "bytes": 6},
            ],
        },
    ]
    assert json.loads(call.attributes["gen_ai.output.messages"]) == [
        {"role": "assistant", "parts": [{"type": "text", "content": "Ein Titel ü"}], "finish_reason": "stop"}
    ]


async def test_hostile_text_is_sent_as_text_that_every_encoder_takes(told, virtual_clock):
    """One lone surrogate would cost an exporter all the spans beside it, and ESC commands a terminal."""
    hostile = "\ud800\x1b[31m\u202e<script>\n" + "x" * 10_000
    reply = Completion(hostile, model=hostile, request_id=hostile, raw_finish=hostile)
    broken = overloaded(hostile)
    model = Scripted(broken, reply)
    engine = Engine(models={"fast": model}, sinks=[told.sink(content=True)], seed=1)

    async with engine:
        await engine.run(one_call(retry=Retry(attempts=2)), {"document": hostile}, key=hostile)

    for span in told.spans:
        for name, value in span.attributes.items():
            for text in value if isinstance(value, tuple) else [value]:
                if isinstance(text, str):
                    text.encode()
                    assert name.endswith(".messages") or (len(text) <= 400 and text.isprintable()), name
        assert span.status.description is None or span.status.description.isprintable()


async def test_a_backend_that_raises_disturbs_no_run(virtual_clock, caplog):
    """Telemetry is looked at when something is wrong: it must not be what is wrong."""

    class Broken(TracerProvider):
        def get_tracer(self, *arguments, **options):
            tracer = super().get_tracer(*arguments, **options)
            tracer.start_span = None
            return tracer

    engine = Engine(models={"fast": Scripted(Completion("A title"))}, sinks=[OpenTelemetry(Broken())])
    with caplog.at_level(logging.ERROR):
        async with engine:
            result = await engine.run(one_call(), {"document": "text"})

    assert result.status == "completed"
    assert "sink OpenTelemetry could not be opened" in caplog.text


def test_without_opentelemetry_the_error_names_the_extra(monkeypatch):
    """An extra that is missing is one command away, if one knows which."""
    import sys

    for module in ("opentelemetry", "opentelemetry.trace", "opentelemetry.context", "opentelemetry.metrics"):
        monkeypatch.setitem(sys.modules, module, None)

    with pytest.raises(ImportError, match=r"Install it with `pip install 'pipeline-engine\[otel\]'`"):
        OpenTelemetry()
