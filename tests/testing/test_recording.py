"""Recorded replies: asked once of a real provider, then answered without it, in the same words and seconds."""

import json
from contextlib import asynccontextmanager
from functools import partial
from itertools import accumulate

import pytest
import trio
from trio.testing import MockClock

from pipeline_engine import (
    Completed,
    Completion,
    Delta,
    Engine,
    Failed,
    File,
    Limits,
    Message,
    Model,
    Pipeline,
    Price,
    Request,
    Retry,
    UnrecordedError,
    run_pipeline,
    run_pipeline_async,
)
from pipeline_engine.testing import (
    RecordedModel,
    Reply,
    ScriptedModel,
    broken_off,
    in_turn,
    never,
    rate_limited,
    server_error,
)
from tests.faults.servers import Provider, chat, error, reply, spoken

CANARY = "CANARY-key-0123456789"
INPUTS = {"document": "The sea rises."}


@pytest.fixture(autouse=True)
def nobody_says_how(monkeypatch):
    """The mode is each test's own, whatever the run of pytest was told."""
    monkeypatch.delenv("PIPELINE_ENGINE_RECORD", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "recordings" / "article.jsonl"


def article(retry=None, *, stream=False, template="Give this a title"):
    pipeline = Pipeline("article", inputs={"document": str})

    @pipeline.llm("fast", str, retry=retry or Retry(attempts=3, base_delay=0, jitter="none"), stream=stream)
    def title(document: str) -> str:
        return f"{template}: {document}"

    return pipeline


def run(model, pipeline=None, inputs=INPUTS, **options):
    return run_pipeline(pipeline or article(), inputs, models={"fast": model}, **options)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@asynccontextmanager
async def serving(*script):
    provider = Provider(*script)
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda *, task_status: provider.serve(task_status=task_status))
        yield provider
        nursery.cancel_scope.cancel()


# Against a server, and then without it


async def record(path, *script, pipeline=None, **options):
    """Record a run against a server that is gone afterwards."""
    async with serving(*script) as provider:
        model = Model("openai:gpt-4o-mini", base_url=provider.base_url, api_key=CANARY, **options)
        result = await run_pipeline_async(
            pipeline or article(), INPUTS, models={"fast": RecordedModel(path, model, mode="once")}
        )
    return result, provider


async def test_a_reply_is_replayed_without_server_and_without_key(path):
    """That is what a recording is for: the same test on any machine, without a bill."""
    real, provider = await record(path, chat("Tides"))

    replayed = await run_pipeline_async(
        article(), INPUTS, models={"fast": RecordedModel(path, "openai:gpt-4o-mini", mode="none")}
    )

    assert (real["title"], replayed["title"]) == ("Tides", "Tides")
    assert len(provider.requests) == 1
    again, first = (result.calls("title")[0].completion for result in (replayed, real))
    assert again == first


def test_failures_are_replayed_as_they_were(path, virtual_clock):
    """What a pipeline does after a 429 and a 500 is worth a test, and no provider fails on request."""
    script = error(429, headers={"retry-after": "0"}), error(500), chat("Tides")
    real, _provider = trio.run(lambda: record(path, *script))

    result = run(RecordedModel(path, "openai:gpt-4o-mini", mode="none"))

    told = [(s.fault.kind, s.fault.message, s.fault.status) for s in result.trace["title"].segments if s.fault]
    assert told == [(s.fault.kind, s.fault.message, s.fault.status) for s in real.trace["title"].segments if s.fault]
    assert [kind for kind, _message, _status in told] == ["rate_limited", "server"]
    assert result["title"] == "Tides"


def test_a_stream_is_replayed_piece_by_piece_and_second_by_second(path, virtual_clock):
    """Whoever shows words as they come tests that with the words, and the pauses, that came."""
    streaming = article(stream=True)
    trio.run(lambda: record(path, spoken("Tides", gap=0.02), pipeline=streaming))

    async def follow():
        model = RecordedModel(path, "openai:gpt-4o-mini", mode="none")
        async with Engine(models={"fast": model}) as engine, engine.stream(streaming, INPUTS) as events:
            seen = [(trio.current_time(), event.text) async for event in events if isinstance(event, Delta)]
        return seen, events.result

    seen, result = trio.run(follow, clock=virtual_clock)

    recorded = lines(path)[1]
    came = [*accumulate(pause for pause, _piece in recorded["pieces"])]
    assert [text for _at, text in seen] == list("Tides")
    assert [at for at, _text in seen] == pytest.approx(came)
    assert result.trace["title"].duration == pytest.approx(recorded["seconds"])
    assert came[-1] > 0


async def test_vectors_are_replayed(path):
    """Embedding a corpus costs, too."""
    pipeline = Pipeline("vectors", inputs={"texts": list[str]})

    @pipeline.embed("vectors")
    def vectors(texts: list[str]) -> list[str]:
        return texts

    body = {"data": [{"index": 0, "embedding": [0.5, 1.0]}, {"index": 1, "embedding": [0.25, 2.0]}], "model": "m"}
    inputs = {"texts": ["a", "b"]}
    async with serving(reply(json.dumps({**body, "usage": {"prompt_tokens": 4}}).encode())) as provider:
        model = Model("openai:text-embedding-3-small", base_url=provider.base_url, api_key=CANARY)
        real = await run_pipeline_async(pipeline, inputs, models={"vectors": RecordedModel(path, model)})

    recorded = RecordedModel(path, "openai:text-embedding-3-small", mode="none")
    replayed = await run_pipeline_async(pipeline, inputs, models={"vectors": recorded})

    assert replayed["vectors"] == real["vectors"] == [[0.5, 1.0], [0.25, 2.0]]


async def test_no_secret_is_in_the_file(path, monkeypatch):
    """Recordings are committed: whatever the server echoes, and whatever stands in a prompt, must not be."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "CANARY-other-key-42")
    header = "CANARY-header-0123456789"
    template = f"Use Bearer {CANARY} or https://h/?key=CANARY-query, and CANARY-other-key-42"
    script = (error(500, f"Authorization: Bearer {CANARY}"), spoken(f"It is {CANARY} and {header}"))
    settings = {"extra_headers": {"x-tenant": header}, "extra_body": {"user": "ada", "access_token": "CANARY-word"}}

    await record(path, *script, pipeline=article(stream=True, template=template), **settings)

    text = path.read_text(encoding="utf-8")
    assert "CANARY" not in text
    assert text.count("[secret]") >= 6
    assert "".join(piece for _pause, piece in lines(path)[2]["pieces"]) == "It is [secret] and [secret]"


# What is found again


def test_in_mode_once_only_what_is_missing_is_asked(path):
    """A new step in a pipeline costs its own calls, and no others."""
    real = ScriptedModel({"*": "fine"})
    for text in ("one", "two", "one", "two", "three"):
        run(RecordedModel(path, real), inputs={"document": text})

    assert [request.messages[0].text[-3:] for request in real.requests] == ["one", "two", "ree"]
    assert len(lines(path)) == 1 + 3


def test_in_mode_all_everything_is_asked_and_replaced(path):
    """Models change: once in a while recordings are made anew, and older answers must not stay among them."""
    retry = Retry(attempts=3, base_delay=0, jitter="none")
    run(RecordedModel(path, ScriptedModel({"*": in_turn(server_error(), server_error(), "old")})), article(retry))
    run(RecordedModel(path, ScriptedModel({"*": in_turn(server_error(), "new")}), mode="all"), article(retry))

    calls = [(line["call"], "error" in line) for line in lines(path)[1:]]
    assert calls == [(1, True), (2, False)]
    assert run(RecordedModel(path, ScriptedModel(), mode="none"), article(retry))["title"] == "new"


def test_equal_requests_of_two_steps_stay_two(path):
    """Five samples of one prompt are five answers, and their order in time is nobody's promise."""
    pipeline = Pipeline("samples", inputs={"document": str, "numbers": list[int]})

    @pipeline.llm("fast", str, each="numbers")
    def sample(number: int, document: str) -> str:
        return f"Say something on: {document}"

    @pipeline.llm("fast", str)
    def other(document: str) -> str:
        return f"Say something on: {document}"

    numbers = iter(range(100))
    real = ScriptedModel({"*": lambda _request: Reply(f"answer {next(numbers)}")})
    inputs = {**INPUTS, "numbers": [1, 2, 3]}
    first = run(RecordedModel(path, real), pipeline, inputs)
    replayed = [run(RecordedModel(path, real, mode="none"), pipeline, inputs) for _ in range(3)]

    assert len({*first["sample"], first["other"]}) == 4
    assert all((one["sample"], one["other"]) == (first["sample"], first["other"]) for one in replayed)


def test_a_model_object_replays_the_same_in_every_run(path):
    """A module's models are made once, and serve many tests."""
    retry = Retry(attempts=2, base_delay=0, jitter="none")
    model = RecordedModel(path, ScriptedModel({"*": in_turn(server_error(), "fine")}))

    attempts = [run(model, article(retry)).trace["title"].attempts for _ in range(3)]

    assert attempts == [2, 2, 2]


def test_a_renamed_step_finds_its_replies_again(path):
    """A better name must not cost a cent."""
    run(RecordedModel(path, ScriptedModel({"*": "Tides"})))
    renamed = Pipeline("renamed", inputs={"document": str})

    @renamed.llm("fast", str)
    def headline(document: str) -> str:
        return f"Give this a title: {document}"

    assert run(RecordedModel(path, ScriptedModel(), mode="none"), renamed)["headline"] == "Tides"


@pytest.mark.parametrize(
    "other",
    [
        Model("openai:gpt-4o"),
        Model("openai:gpt-4o-mini", temperature=1),
        Model("openai:gpt-4o-mini", extra_body={"top_k": 1}),
    ],
)
async def test_another_model_or_parameter_asks_for_another_reply(path, other):
    """Its answer would be another one."""
    await record(path, chat("Tides"))
    result = await run_pipeline_async(article(), INPUTS, models={"fast": RecordedModel(path, other, mode="none")})

    assert isinstance(result.outcome("title").error, UnrecordedError)


def test_a_call_that_was_cancelled_is_not_recorded(path, virtual_clock):
    """Nobody answered: the try after it is what is replayed."""
    pipeline = Pipeline("article", inputs={"document": str})

    @pipeline.llm("fast", str, timeout=5, retry=Retry(base_delay=0, jitter="none"))
    def title(document: str) -> str:
        return f"Give this a title: {document}"

    real = run(RecordedModel(path, ScriptedModel({"*": in_turn(never(), "Tides")})), pipeline)
    replayed = run(RecordedModel(path, ScriptedModel(), mode="none"), pipeline)

    assert (real.trace["title"].attempts, replayed.trace["title"].attempts) == (2, 1)
    assert replayed["title"] == "Tides"


def test_two_roles_share_a_file(path):
    """A pipeline's replies belong together."""
    pipeline = Pipeline("two", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> str:
        return document

    @pipeline.llm("strong", str)
    def summary(document: str) -> str:
        return document

    def models(mode):
        real = {"fast": ("scripted:a", "quick"), "strong": ("scripted:b", "good")}
        return {
            role: RecordedModel(path, ScriptedModel({"*": answer}, name=name), mode=mode)
            for role, (name, answer) in real.items()
        }

    run_pipeline(pipeline, INPUTS, models=models("once"))
    replayed = run_pipeline(pipeline, INPUTS, models=models("none"))

    assert (replayed["title"], replayed["summary"]) == ("quick", "good")


# When nothing is found


def test_an_unknown_request_says_what_is_nearest_and_what_differs(path):
    """An edited prompt is the commonest reason, and the message shows the edit."""
    run(RecordedModel(path, ScriptedModel({"*": "Tides"}, name="openai:gpt-4o-mini")))

    result = run(RecordedModel(path, "openai:gpt-4o-mini", mode="none"), article(template="Give this a name"))

    failed = result.outcome("title").error
    assert isinstance(failed, UnrecordedError)
    assert (failed.path, failed.recorded, failed.nearest) == (str(path), 1, "title")
    assert str(failed) == (
        f"the model of step 'title' has no recorded reply to its request in {str(path)!r}, which holds 1. "
        "The nearest one is of step 'title': messages[0][1] differs from character 12 on: "
        "“Give this a title: The sea rises.” was recorded, “Give this a name: The sea rises.” is asked. "
        "Record it with mode='once'."
    )


def test_the_advice_is_one_that_helps(path, monkeypatch):
    """The environment does not overrule what the code says."""
    monkeypatch.setenv("PIPELINE_ENGINE_RECORD", "none")

    failed = run(RecordedModel(path, "openai:gpt-4o-mini")).outcome("title").error

    assert str(failed).endswith("Record it with PIPELINE_ENGINE_RECORD=once, or with pytest's --record-replies=once.")


def test_no_retry_and_no_fallback_hides_it(path):
    """A test that falls back in silence tests something else than it says."""
    pipeline = Pipeline("article", inputs={"document": str})

    @pipeline.llm("fast", str, fallback="No title")
    def title(document: str) -> str:
        return document

    outcome = run(RecordedModel(path, "openai:gpt-4o-mini", mode="none"), pipeline).outcome("title")

    assert isinstance(outcome, Failed)
    assert "which holds 0. Record it with" in str(outcome.error)


def test_asking_once_more_than_recorded_is_said_so(path):
    """A retry that was not there before is a change of the pipeline."""
    run(RecordedModel(path, ScriptedModel({"*": server_error()})), article(Retry(attempts=1)))

    result = run(RecordedModel(path, ScriptedModel(), mode="none"), article(Retry(attempts=2, base_delay=0)))

    assert result.outcome("title").error.differences == ("it was asked that once in a run, and now it is once more",)


def test_without_a_key_nothing_can_be_recorded(path):
    """The default mode on a machine without a key: the reason is the key, and the request."""
    failed = run(RecordedModel(path, "openai:gpt-4o-mini")).outcome("title").error

    assert isinstance(failed, UnrecordedError)
    assert "It cannot be recorded: model 'openai:gpt-4o-mini' needs a key. Set OPENAI_API_KEY" in str(failed)


def test_a_file_that_holds_something_else_is_left_alone(path):
    """The path may be wrong, and what stands there somebody's work."""
    path.parent.mkdir()
    path.write_text('{"document": "a.md"}\n')
    with pytest.raises(ValueError, match=r"holds no recorded replies: line 1 cannot be read \(expected"):
        RecordedModel(path, "openai:gpt-4o-mini")

    path.write_text('{"pipeline_engine": "recorded replies", "version": 1}\n{"step": "title"}\n')
    with pytest.raises(ValueError, match=r"line 2 cannot be read"):
        RecordedModel(path, "openai:gpt-4o-mini")


HEAD = '{"pipeline_engine": "recorded replies", "version": 1}'


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"reply": None}, "there must be either a reply or an error"),
        ({"reply": {"texte": "Tides"}}, "Completion.text: Field required"),
        ({"reply": None, "error": {"type": "OddError", "message": "odd"}}, "its error cannot be raised again"),
        ({"seconds": "soon"}, "seconds: Input should be a valid number"),
        ({"pieces": "Tides"}, "pieces: Input should be a valid list"),
        ({"speed": 1}, "speed: Unexpected keyword argument"),
    ],
)
def test_a_line_that_cannot_be_replayed_is_told_when_the_file_is_read(path, change, reason):
    """People edit replies by hand: a slip is told with its line, and not by a step that fails for no reason."""
    run(RecordedModel(path, ScriptedModel({"*": "Tides"})))
    path.write_text(f"{HEAD}\n{json.dumps({**lines(path)[1], **change})}\n")

    with pytest.raises(ValueError, match=rf"line 2 cannot be read \(.*{reason}"):
        RecordedModel(path, "openai:gpt-4o-mini")


def test_a_file_of_another_system_is_read(path):
    """Editors and version control put marks and line ends of their own into it."""
    run(RecordedModel(path, ScriptedModel({"*": "Tides"})))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))

    assert run(RecordedModel(path, ScriptedModel(), mode="none"))["title"] == "Tides"


def test_a_reply_that_cannot_be_written_is_no_failure_to_fall_back_from(path):
    """The test would go on with the fallback, and the next one would pay again."""
    path.parent.mkdir()
    pipeline = Pipeline("article", inputs={"document": str})

    @pipeline.llm("fast", str, fallback="No title")
    def title(document: str) -> str:
        return document

    model = RecordedModel(path, ScriptedModel({"*": "Tides"}))
    path.mkdir()

    failed = run(model, pipeline).outcome("title").error

    assert isinstance(failed, UnrecordedError)
    assert "It cannot be recorded: " in str(failed)
    assert isinstance(failed.__cause__, OSError)


def test_a_rule_that_is_no_function_is_refused(path):
    """Before anything is asked and paid for."""
    with pytest.raises(TypeError, match="scrub= takes a function of a text, not a str"):
        RecordedModel(path, "openai:gpt-4o-mini", scrub="Ada")


@pytest.mark.parametrize("mode", ["ones", ""])
def test_an_unknown_mode_is_refused(path, mode):
    """Nobody wants to find out by the bill."""
    with pytest.raises(ValueError, match="write 'once', 'none' or 'all'"):
        RecordedModel(path, "openai:gpt-4o-mini", mode=mode)


def test_the_environment_says_the_mode(path, monkeypatch):
    """CI sets it once for all tests."""
    monkeypatch.setenv("PIPELINE_ENGINE_RECORD", "none")

    assert RecordedModel(path, "openai:gpt-4o-mini").mode == "none"
    assert RecordedModel(path, "openai:gpt-4o-mini", mode="all").mode == "all"


# The file


def test_the_file_is_sorted_and_ends_where_it_began(path):
    """A diff shows what has changed, and not in which order calls came back."""
    for text in ("b", "a", "c"):
        run(RecordedModel(path, ScriptedModel({"*": f"on {text}"})), inputs={"document": text})
    before = path.read_bytes()
    keys = [line["key"] for line in lines(path)[1:]]
    for text in ("c", "b", "a"):
        run(RecordedModel(path, ScriptedModel({"*": f"on {text}"})), inputs={"document": text})

    assert keys == sorted(keys)
    assert path.read_bytes() == before


def test_a_line_can_be_read_by_a_person(path):
    """A review sees what was asked and what was answered."""
    run(RecordedModel(path, ScriptedModel({"*": "Gezeiten – 潮汐"})))

    head, line = lines(path)
    assert head == {"pipeline_engine": "recorded replies", "version": 1}
    assert line.pop("key")
    assert line == {
        "step": "title",
        "item": None,
        "call": 1,
        "model": "scripted:model",
        "request": {"messages": [["user", "Give this a title: The sea rises."]]},
        "reply": {"text": "Gezeiten – 潮汐", "model": "scripted:model"},
        "seconds": 0.0,
    } | {"seconds": line["seconds"]}
    assert "潮汐" in path.read_text(encoding="utf-8")


def test_prompts_may_be_kept_as_hashes(path):
    """Documents may be nobody else's business."""
    run(RecordedModel(path, ScriptedModel({"*": "Tides"}), prompts="hash"))

    assert "sea" not in path.read_text(encoding="utf-8")
    [[role, told]] = lines(path)[1]["request"]["messages"]
    assert (role, told["characters"]) == ("user", len("Give this a title: The sea rises."))
    assert run(RecordedModel(path, ScriptedModel(), mode="none", prompts="hash"))["title"] == "Tides"


def test_a_rule_of_ones_own_is_applied_to_every_text(path):
    """What is personal is known to the user alone."""
    model = RecordedModel(path, ScriptedModel({"*": "The sea"}), scrub=lambda text: text.replace("sea", "…"))
    run(model)

    assert "sea" not in path.read_text(encoding="utf-8")


def test_files_are_kept_as_hashes(path):
    """A recording is text, and stays small."""
    pipeline = Pipeline("picture", inputs={"document": str})

    @pipeline.llm("fast", str)
    def title(document: str) -> list[Message]:
        return [Message("user", "Look.", File(b"%PDF" * 1000, "application/pdf", "a.pdf"))]

    run(RecordedModel(path, ScriptedModel({"*": "A file"})), pipeline)

    assert path.stat().st_size < 1000
    assert run(RecordedModel(path, ScriptedModel(), mode="none"), pipeline)["title"] == "A file"


# As a model


def test_replies_take_virtual_time_and_no_real_one(path, virtual_clock):
    """A minute that was waited for once is exact on a virtual clock, and nobody waits for it on a real one."""
    run(RecordedModel(path, ScriptedModel({"*": in_turn(rate_limited(7), "Tides")}, latency=60)), article())

    trace = run(RecordedModel(path, ScriptedModel(), mode="none")).trace
    assert trace.makespan == 60 + 7 + 60


async def test_on_a_real_clock_replies_come_at_once(path):
    """A suite of recorded tests should take as long as any other."""
    virtual = MockClock(autojump_threshold=0)
    request = Request((Message("user", "Hello"),))
    await trio.to_thread.run_sync(partial(trio.run, clock=virtual), RecordedModel(path, Slow()).complete, request)

    with trio.fail_after(5):
        completion = await RecordedModel(path, Slow(), mode="none").complete(request)

    assert lines(path)[1]["seconds"] == 30
    assert completion == Completion("Hello")


class Slow:
    name = "scripted:model"

    async def complete(self, request):
        await trio.sleep(30)
        return Completion(request.messages[0].text)


def test_a_broken_stream_is_replayed_as_far_as_it_came(path, virtual_clock):
    """Its words were seen before they were taken back."""
    streaming = article(Retry(attempts=1), stream=True)
    run(RecordedModel(path, ScriptedModel({"*": broken_off("The ti", latency=3)})), streaming)

    result = run(RecordedModel(path, ScriptedModel(), mode="none"), streaming)

    assert lines(path)[1]["pieces"] == [[3, "The ti"]]
    assert (result.outcome("title").error.kind, result.trace.makespan) == ("stream_truncated", 3)


def test_it_has_the_limits_and_the_price_of_what_it_stands_for(path):
    """A replayed run is counted, limited and priced as the real one was."""
    limits, price = Limits(rpm=10), Price(2, 10)
    told = RecordedModel(path, Model("openai:gpt-4o-mini", limits=limits, price=price, max_tokens=50, timeout=9))
    plain = RecordedModel(path, "openai:gpt-4o-mini")

    assert (told.name, told.limits, told.price, told.max_tokens) == ("openai:gpt-4o-mini", limits, price, 50)
    assert told.timeout.attempt == 9
    assert (plain.limits, plain.price) == (None, None)


async def test_a_replayed_run_costs_what_the_list_says(path):
    """So the cost of a pipeline can be tested without paying it."""
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    await record(path, chat("Tides", usage=usage))

    model = RecordedModel(path, "openai:gpt-4o-mini", mode="none")
    result = await run_pipeline_async(article(), INPUTS, models={"fast": model})

    assert isinstance(result.outcome("title"), Completed)
    assert result.trace.cost.is_known
    assert result.trace.cost.usd > 0
