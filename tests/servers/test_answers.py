"""Each adapter against a server of its provider's protocol that was written by somebody else."""

import pytest
import trio

from pipeline_engine import Completed, Delta, Engine, Failed, Pipeline, RejectedError, Restarted, StreamTruncatedError
from tests.servers.asking import BOUND, MODES, PROVIDERS, Counted, Tea, faults_of, tea_pipeline, visit

TEA = Tea(name="Sencha, in all its letters", grams=3)

each_provider = pytest.mark.parametrize("provider", PROVIDERS)
each_mode = pytest.mark.parametrize("stream", MODES, ids=MODES.values())


async def run(dag, model, name=""):
    with trio.fail_after(BOUND):
        async with Engine(models={"fast": model}) as engine:
            return await engine.run(dag, {"name": name})


@each_mode
@each_provider
async def test_a_typed_answer_comes_with_its_usage(server, provider, stream):
    """What is billed is what the server says, whichever of five protocols it says it in."""
    here = visit(server)

    result = await run(tea_pipeline("Describe a tea.", stream=stream), here.model(provider))

    assert result["tea"] == TEA
    assert faults_of(result) == [""]
    # Told by a fixture, but this server's Ollama counts nothing.
    assert (result.usage.input_tokens, result.usage.output_tokens) == ((0, 0) if provider == "ollama" else (21, 9))
    completion = result.calls("tea")[0].completion
    assert completion.model == (None if provider == "gemini" else "tiny")
    assert completion.finish == "stop"


@each_provider
async def test_pieces_come_in_order_and_make_up_the_reply(server, provider):
    """Whoever shows a reply while it is written must end up with the reply."""
    here = visit(server)
    dag = tea_pipeline("Describe a tea.", stream=True)

    with trio.fail_after(BOUND):
        async with (
            Engine(models={"fast": here.model(provider)}) as engine,
            engine.stream(dag, {"name": ""}) as events,
        ):
            pieces = [event.text async for event in events if isinstance(event, Delta)]

    assert len(pieces) > 3
    assert "".join(pieces) == events.result.calls("tea")[0].completion.text


@each_provider
async def test_a_wrong_key_is_said_to_be_one(server, provider):
    """The server looks for the key where the provider does, so the right one went there in the other tests."""
    here = visit(server)

    result = await run(tea_pipeline("Describe a tea.", stream=False), here.model(provider, key="no-such-key"))

    outcome = result.outcome("tea")
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, RejectedError)
    assert outcome.error.kind == "auth"
    assert "no-such-key" not in str(outcome.error)


@each_mode
@each_provider
async def test_a_refusal_for_rate_waits_as_long_as_it_says_and_spends_no_attempt(server, provider, stream):
    """One try is all this step has. Retry-After says 1 s; the headers beside it say six minutes and mean more."""
    here = visit(server)
    server.refuse_next(429, "Rate limit reached.", "rate_limit_error")
    started = trio.current_time()

    result = await run(tea_pipeline("Describe a tea.", stream=stream, attempts=1), here.model(provider))

    assert result["tea"] == TEA
    assert faults_of(result) == ["rate_limited", ""]
    assert 1.0 <= trio.current_time() - started < 3.0


@each_provider
async def test_an_overloaded_provider_spends_no_attempt(server, provider):
    """529 is Anthropic's word for "not now", and proxies pass it on."""
    here = visit(server)
    server.refuse_next(529, "Overloaded", "overloaded_error")

    result = await run(tea_pipeline("Describe a tea.", stream=False, attempts=1), here.model(provider))

    assert result["tea"] == TEA
    assert faults_of(result) == ["overloaded", ""]


@each_mode
@each_provider
async def test_a_broken_server_is_asked_again(server, provider, stream):
    """A 500 spends an attempt, and the next one may be fine."""
    here = visit(server)
    server.refuse_next(500, "The server had an error.", "server_error")

    result = await run(tea_pipeline("Describe a tea.", stream=stream), here.model(provider))

    assert result["tea"] == TEA
    assert faults_of(result) == ["server", ""]


@each_provider
async def test_a_stream_that_is_cut_is_asked_for_again(server, provider):
    """Half a reply must never pass for one, and whoever has shown it must be told to forget it."""
    here = visit(server)
    dag = tea_pipeline("Break off once.", stream=True)

    with trio.fail_after(BOUND):
        async with (
            Engine(models={"fast": here.model(provider)}) as engine,
            engine.stream(dag, {"name": ""}) as events,
        ):
            seen = [event async for event in events if isinstance(event, Delta | Restarted)]

    assert events.result["tea"] == TEA
    assert faults_of(events.result) == ["stream_truncated", ""]
    restarted = next(place for place, event in enumerate(seen) if isinstance(event, Restarted))
    assert "".join(event.text for event in seen[restarted + 1 :]) == events.result.calls("tea")[-1].completion.text


@each_provider
async def test_with_no_attempt_left_the_cut_stream_is_the_error(server, provider):
    """The caller is told what happened, and that it may have been billed."""
    here = visit(server)

    result = await run(tea_pipeline("Break off once.", stream=True, attempts=1), here.model(provider))

    outcome = result.outcome("tea")
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, StreamTruncatedError)
    assert outcome.error.billed == "maybe"


@each_provider
async def test_a_stream_that_does_not_begin_is_given_up(server, provider):
    """A model that loads for minutes costs one attempt, not the step."""
    here = visit(server)
    dag = tea_pipeline("Hesitate once.", stream=True, first_token=0.5)
    started = trio.current_time()

    result = await run(dag, here.model(provider))

    assert result["tea"] == TEA
    assert faults_of(result) == ["StepTimeoutError", ""]
    assert trio.current_time() - started < 5.0


@each_mode
@each_provider
async def test_an_answer_of_another_shape_is_repaired(server, provider, stream):
    """The server ignores the schema it is sent, as many do: the model is told what is wrong and asked again."""
    here = visit(server)

    result = await run(tea_pipeline("Err once.", stream=stream), here.model(provider))

    assert result["tea"] == TEA
    assert len(result.calls("tea")) == 2
    last = result.calls("tea")[1].messages
    assert [message.role for message in last] == ["user", "assistant", "user"]


@each_mode
@pytest.mark.parametrize(
    "provider",
    [
        "openai",
        "openai-responses",
        "azure",
        "anthropic",
        "gemini",
    ],  # this server's Ollama says of every reply that it is whole
)
async def test_an_answer_cut_at_its_token_cap_is_no_answer(server, provider, stream):
    """It would not parse, and to ask again for the same would cut it again."""
    here = visit(server)

    result = await run(tea_pipeline("Say too much.", stream=stream), here.model(provider))

    outcome = result.outcome("tea")
    assert isinstance(outcome, Failed)
    assert outcome.error.is_truncated
    assert len(here.journal) == 1


async def test_a_request_that_was_sent_twice_is_counted_twice_if_it_failed(server):
    """A kept connection that died is no fault of the request: it is sent once more, and each may be billed."""
    here = visit(server)
    dag = tea_pipeline("Describe a tea.", stream=False, attempts=1)

    with trio.fail_after(BOUND):
        async with Engine() as engine:
            await engine.run(dag, {"name": ""}, models={"fast": here.model("openai")})
            result = await engine.run(
                dag, {"name": ""}, models={"fast": here.model("openai", "other", chaos_disconnect="1")}
            )

    assert faults_of(result) == ["server"]
    assert Counted.of([result]).replays == 1
    assert len(here.journal) == 3


async def test_texts_become_vectors(server):
    """The embeddings go over the same connections, under the same key."""
    here = visit(server)
    pipeline = Pipeline("vectors", inputs={"texts": list[str]})

    @pipeline.embed("vectors")
    def vectors(texts: list[str]) -> list[str]:
        return texts

    with trio.fail_after(BOUND):
        async with Engine(models={"vectors": here.model("openai", "text-embedding-3-small")}) as engine:
            result = await engine.run(pipeline, {"texts": ["green tea", "green tea, again"]})

    assert result.outcome("vectors") == Completed([[0.25, -0.5, 1.0]] * 2)
    assert len(here.journal) == 1
