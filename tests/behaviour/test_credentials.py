"""A key that was refused is sent no more: not by any model that uses it, until somebody has set it right."""

import json

import httpx2
import pytest
import trio
import trio.testing

from pipeline_engine import (
    Completed,
    Document,
    Drop,
    Engine,
    Failed,
    Model,
    ParkedError,
    Pipeline,
    RejectedError,
    Retry,
    UnavailableError,
    iter_batch_async,
)
from pipeline_engine.testing import Reply, ScriptedModel
from pipeline_engine.values import AttemptStarted, CredentialParked

WELL = {"choices": [{"message": {"content": "fine"}, "finish_reason": "stop"}]}
ONCE = Retry(attempts=1, jitter="none")


class Provider(httpx2.MockTransport):
    """Answer after a second; refuse some keys, and some models by having no quota left for them."""

    def __init__(self, *, refused=(), spent=(), status=401):
        self.refused, self.spent, self.status = set(refused), set(spent), status
        self.asked = []
        super().__init__(self.answer)

    async def answer(self, request):
        """Answer one request."""
        key, model = request.headers["authorization"].removeprefix("Bearer "), json.loads(request.content)["model"]
        self.asked.append((trio.current_time(), key, model))
        is_refused = key in self.refused
        await trio.sleep(1)
        if is_refused:
            return httpx2.Response(self.status, json={"error": {"message": "no", "code": "invalid_api_key"}})
        if model in self.spent:
            return httpx2.Response(429, json={"error": {"message": "spent", "code": "insufficient_quota"}})
        return httpx2.Response(200, json=WELL)


def model(name, key="sk-one", provider="openai"):
    address = "http://127.0.0.1:9/v1" if provider == "openai" else f"http://127.0.0.1:{len(provider)}/v1"
    return Model(f"openai:{name}", api_key=key, base_url=address)


def one_step(role="fast", **options):
    pipeline = Pipeline("one", inputs={"document": str})
    pipeline.llm(role, str, name="ask", **options)(lambda document: document)
    return pipeline


async def given(documents):
    """Give documents, keyed by their numbers: each when the one before it stands where it has to wait."""
    for number, document in enumerate(documents):
        await trio.testing.wait_all_tasks_blocked()
        yield Document(f"{number}", {"document": f"{document}"})


async def run_all(engine, pipeline, documents, **options):
    with trio.fail_after(1e6):
        async with iter_batch_async(pipeline, given(documents), engine=engine, **options) as results:
            return [result async for result in results]


def starts(results):
    return sorted(r.at for result in results for r in result.records if isinstance(r, AttemptStarted))


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_key_costs_at_most_the_calls_in_flight(autojump_clock, status):
    """A thousand documents with a wrong key are ten refused calls, not four thousand."""
    provider = Provider(refused=["sk-one"], status=status)
    async with Engine(models={"fast": model("a")}, capacity=10, transport=provider) as engine:
        results = await run_all(engine, one_step(), range(1_000))
        statistics = engine.statistics().models["openai:a"]

    assert len(provider.asked) == 10
    assert {result.status for result in results} == {"failed"}
    assert max(result.records[-1].at for result in results) == 1
    assert (statistics.is_parked, statistics.in_flight, statistics.waiting) == (True, 0, 0)
    told = [record for result in results for record in result.records if isinstance(record, CredentialParked)]
    assert told == [CredentialParked(1, "openai:a")]


async def test_the_error_says_what_to_do_and_keeps_the_secret(autojump_clock):
    """Whoever reads it at night must not have to look up where the key comes from, nor find it in the log."""
    provider = Provider(refused=["sk-one"])
    async with Engine(models={"fast": model("a")}, transport=provider) as engine:
        first = await engine.run(one_step(), {"document": "x"})
        second = await engine.run(one_step(), {"document": "x"})
    refused, parked = (result.outcome("ask").error for result in (first, second))

    assert type(refused) is RejectedError
    assert isinstance(parked, ParkedError)
    assert parked.__cause__ is refused
    assert "refused the key" in str(parked)
    assert "Check api_key=" in str(parked)
    assert str(parked).endswith("Set that right; then start anew, or call engine.reset()")
    assert "sk-one" not in str(parked)


async def test_all_models_of_the_key_and_provider_are_parked(autojump_clock):
    """The next model with the same key would be refused as well."""
    provider = Provider(refused=["sk-one"])
    async with Engine(transport=provider) as engine:
        await engine.run(one_step(), {"document": "x"}, models={"fast": model("a")})
        other = await engine.run(one_step(), {"document": "x"}, models={"fast": model("b")})

    assert isinstance(other.outcome("ask").error, ParkedError)
    assert [asked[2] for asked in provider.asked] == ["a"]


async def test_other_keys_and_other_addresses_do_not_notice(autojump_clock):
    """One customer's expired key must not stop another's documents."""
    provider = Provider(refused=["sk-one"])
    async with Engine(transport=provider) as engine:
        await engine.run(one_step(), {"document": "x"}, models={"fast": model("a")})
        for other in (model("a", "sk-two"), model("b", "sk-two")):
            result = await engine.run(one_step(), {"document": "x"}, models={"fast": other})
            assert result["ask"] == "fine"
        provider.refused.clear()
        elsewhere = await engine.run(one_step(), {"document": "x"}, models={"fast": model("a", provider="my-own")})

    assert elsewhere["ask"] == "fine"


async def test_a_fallback_at_another_provider_goes_on(autojump_clock):
    """The batch is finished by who can: each document costs at most one refused call."""
    provider = Provider(refused=["sk-one"])
    second = ScriptedModel({"ask": "second"}, latency=1, name="b:model")
    async with Engine(models={"fast": [model("a"), model("b"), second]}, capacity=10, transport=provider) as engine:
        results = await run_all(engine, one_step(), range(100))

    assert {result.outcome("ask") for result in results} == {Completed("second", "fallback:b:model")}
    assert len(provider.asked) == 10
    # One second to find out, ten rounds of one second each.
    assert max(result.records[-1].at for result in results) == 11


async def test_used_up_quota_parks_the_model_and_not_its_key(autojump_clock):
    """Quota may be given per model: the key may still be good for others."""
    provider = Provider(spent=["a"])
    async with Engine(transport=provider, capacity=4) as engine:
        results = await run_all(engine, one_step(), range(20), models={"fast": model("a")})
        asked = len(provider.asked)
        other = await engine.run(one_step(), {"document": "x"}, models={"fast": model("b")})

    assert {result.status for result in results} == {"failed"}
    assert asked == 4
    assert other["ask"] == "fine"


@pytest.mark.parametrize("name", [None, "openai:a"])
async def test_engine_reset_sends_the_key_again(autojump_clock, name):
    """Whoever has topped up the account need not start the service anew."""
    provider = Provider(refused=["sk-one"])
    async with Engine(models={"fast": model("a")}, transport=provider) as engine:
        await engine.run(one_step(), {"document": "x"})
        provider.refused.clear()
        parked = await engine.run(one_step(), {"document": "x"})
        engine.reset(name)
        result = await engine.run(one_step(), {"document": "x"})

    assert (parked.status, result["ask"]) == ("failed", "fine")


async def test_calls_in_flight_with_a_refused_key_keep_their_replies(autojump_clock):
    """A key may be withdrawn while calls are on the wire: what they bring is paid for and good."""
    answers = iter(
        [
            Reply("fine", latency=3),
            Reply(RejectedError("refused the key.", model="a:model", kind="auth", status=401), latency=1),
        ]
    )
    scripted = ScriptedModel({"ask": lambda _request: next(answers)}, name="a:model")
    async with Engine(models={"fast": scripted}, capacity=2) as engine:
        results = await run_all(engine, one_step(), range(5))

    outcomes = {result.document: result.outcome("ask") for result in results}
    assert outcomes["0"] == Completed("fine")
    assert all(isinstance(outcomes[key], Failed) for key in "1234")
    assert len(scripted.requests) == 2


async def test_a_step_that_backs_off_ends_when_the_key_is_parked_meanwhile(autojump_clock):
    """It comes back to a model of no use: its run must end then, and not wait for ever."""
    refused = RejectedError("refused the key.", model="a:model", kind="auth", status=401)
    down = UnavailableError("answered HTTP 500.", model="a:model", kind="server", status=500)
    scripted = ScriptedModel({"ask": lambda request: {"0": down, "1": refused}[request.messages[0].text]})
    retry = Retry(attempts=4, jitter="none")
    async with Engine(models={"fast": scripted}) as engine:
        results = await run_all(engine, one_step(retry=retry), range(2))

    ended = {result.document: result.records[-1].at for result in results}
    assert ended == {"0": 1, "1": 0}


async def test_an_item_that_ended_after_its_back_off_has_one_outcome(autojump_clock):
    """An outcome told twice is counted twice by whoever reads the records."""
    refused = RejectedError("refused the key.", model="a:model", kind="auth", status=401)
    down = UnavailableError("answered HTTP 500.", model="a:model", kind="server", status=500)
    script = {"0": down, "1": Reply(refused, latency=0.5), "2": Reply("late", latency=1_000)}
    pipeline = Pipeline("mapped", inputs={"parts": list[str]})
    options = {"each": "parts", "retry": Retry(attempts=4, jitter="none"), "on_error": Drop(at_most=3)}
    pipeline.llm("fast", str, name="ask", **options)(lambda part: part)
    scripted = ScriptedModel({"ask": lambda request: script[request.messages[0].text]})
    async with Engine(models={"fast": scripted}) as engine:
        result = await engine.run(pipeline, {"parts": ["0", "1", "2"]}, timeout=10)
    ended = [record.item for record in result.records if type(record).__name__ == "StepFinished"]

    assert sorted(item for item in ended if item is not None) == [0, 1, 2]
