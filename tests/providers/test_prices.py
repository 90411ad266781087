"""What calls cost by the public price lists: exact where it is known, and said to be unknown where it is not."""

import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal

import genai_prices
import pytest
from genai_prices.data import providers
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    Tier,
    TieredPrices,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.providers.prices import ListPrice, list_price
from pipeline_engine.values import Cost, Usage

UNKNOWN = Cost(unpriced_calls=1)
LISTS = {provider.id: provider for provider in providers}
OF_OURS = {
    "anthropic": "anthropic",
    "azure": "azure",
    "gemini": "google",
    "openai": "openai",
    "openai-responses": "openai",
}
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def listed(**prices):
    """Price a model that no list has, in US dollars per million tokens."""
    prices = {f"{kind}_mtok": Decimal(str(price)) for kind, price in prices.items()}
    return ListPrice(ModelInfo("made-up", ClauseEquals("made-up"), prices=ModelPrice(**prices)))


def some_model(provider):
    """Return the name of a model that the list knows today, whichever that is."""
    found = LISTS[OF_OURS[provider]]
    return next(model.id for model in found.models if found.find_model(model.id) is model and ListPrice(model).is_known)


def test_a_call_costs_its_tokens_at_their_prices():
    """The one sum that everybody checks by hand."""
    price = listed(input=3, output=15)

    assert price(Usage(input_tokens=2000, output_tokens=500)) == Cost(usd=0.0135)


def test_tokens_from_the_prompt_cache_have_their_own_price():
    """Our input counts them in, so that they must not be paid for twice."""
    price = listed(input=4, output=16, cache_read=1)

    cost = price(Usage(input_tokens=1_000_000, output_tokens=0, cache_read_tokens=750_000))

    assert cost == Cost(usd=0.25 * 4 + 0.75 * 1, saved_usd=0.75 * 3)


def test_filling_the_prompt_cache_costs_more_than_not_using_it():
    """Somebody who fills a cache that is never read loses money, and must be able to see it."""
    price = listed(input=4, output=16, cache_read=1, cache_write=5)

    cost = price(Usage(input_tokens=1_000_000, output_tokens=0, cache_write_tokens=1_000_000))

    assert cost == Cost(usd=5, saved_usd=-1)


def test_without_prices_of_their_own_cached_tokens_cost_what_others_cost():
    """A discount that the list does not tell is not invented."""
    price = listed(input=4, output=16)

    usage = Usage(input_tokens=1_000_000, output_tokens=0, cache_read_tokens=500_000, cache_write_tokens=500_000)

    assert price(usage) == Cost(usd=4)


def test_reasoning_is_part_of_the_reply():
    """It is in the output already: counting it once more would double the dearest part of a bill."""
    price = listed(input=1, output=10)

    assert price(Usage(input_tokens=0, output_tokens=1000, reasoning_tokens=900)) == Cost(usd=0.01)


def test_a_long_request_is_dearer_as_a_whole():
    """One token more can double the price of all; the reply's price depends on the request's length, too."""
    tiered = {
        "input_mtok": TieredPrices(Decimal(1), [Tier(200_000, Decimal(2))]),
        "output_mtok": TieredPrices(Decimal(10), [Tier(200_000, Decimal(15))]),
        "cache_read_mtok": TieredPrices(Decimal("0.5"), [Tier(200_000, Decimal(1))]),
    }
    price = ListPrice(ModelInfo("made-up", ClauseEquals("made-up"), prices=ModelPrice(**tiered)))

    assert price(Usage(200_000, 100_000)) == Cost(usd=0.2 + 1.0)
    assert price(Usage(200_001, 100_000)) == Cost(usd=0.400002 + 1.5)
    assert price(Usage(1_000_000, 0, cache_read_tokens=1_000_000)) == Cost(usd=1, saved_usd=1)


def test_a_price_that_begins_on_a_date_begins_then():
    """A service that runs over New Year must not go on with the old price."""
    before = ConditionalPrice(prices=ModelPrice(input_mtok=Decimal(2), output_mtok=Decimal(2)))
    after = ConditionalPrice(
        StartDateConstraint(date(2027, 1, 1)), prices=ModelPrice(input_mtok=Decimal(1), output_mtok=Decimal(1))
    )
    price = ListPrice(ModelInfo("made-up", ClauseEquals("made-up"), prices=[before, after]))
    usage = Usage(1_000_000, 0)

    assert price(usage, datetime(2026, 12, 31, 23, 59, tzinfo=UTC)) == Cost(usd=2)
    assert price(usage, datetime(2027, 1, 1, tzinfo=UTC)) == Cost(usd=1)


def test_vectors_cost_their_input():
    """An embedding model has no price for replies, and needs none."""
    price = listed(input=0.02)

    assert price(Usage(1_000_000, 0)) == Cost(usd=0.02)
    assert price(Usage(1_000_000)) == Cost(usd=0.02)


def test_a_reply_that_has_no_price_makes_the_cost_unknown():
    """A sum without its dearer half looks like a bargain."""
    assert listed(input=1)(Usage(1000, 1000)) == UNKNOWN


@pytest.mark.parametrize("usage", [Usage(), Usage(input_tokens=5), Usage(output_tokens=5)])
def test_unknown_tokens_make_the_cost_unknown(usage):
    """Unknown is not zero."""
    assert listed(input=1, output=1)(usage) == UNKNOWN


def test_a_model_that_is_billed_by_seconds_has_no_price_here():
    """Its list price is not per token, so that no sum over tokens says what it costs."""
    by_the_hour = ModelInfo("ear", ClauseEquals("ear"), prices=ModelPrice(input_audio_hours=Decimal("0.36")))

    assert not ListPrice(by_the_hour).is_known
    assert ListPrice(by_the_hour)(Usage(10, 10)) == UNKNOWN


@pytest.mark.parametrize("tokens", [-1, -(10**400), 10**13, 10**400])
@pytest.mark.parametrize("count", ["input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"])
def test_a_count_that_cannot_be_right_is_not_priced(count, tokens):
    """A server that counts nonsense must neither end a run nor turn a bill negative."""
    usage = Usage(**{"input_tokens": 5, "output_tokens": 5, count: tokens})

    assert listed(input=1, output=1, cache_read=1, cache_write=1)(usage) == UNKNOWN


@given(*4 * [st.none() | st.integers(-(10**400), 10**400) | st.integers(0, 10**6)])
def test_no_usage_raises_or_earns_money(asked, replied, read, written):
    """Whatever a server counts, even parts that are larger than their whole."""
    cost = listed(input=3, output=15, cache_read=0.3, cache_write=3.75)(Usage(asked, replied, read, written))

    assert cost.usd >= 0
    assert cost == UNKNOWN or cost.is_known


@pytest.mark.parametrize("list_id", sorted(set(OF_OURS.values())))
def test_each_listed_model_costs_what_its_own_list_computes(list_id):
    """Our sum is forty times as quick as genai-prices' own, and must never be another."""
    usages = [Usage(1000, 100), Usage(150_000, 0, 100_000, 20_000), Usage(300_000, 4000, 0, 300_000)]
    models = [model for model in LISTS[list_id].models if ListPrice(model).is_known]
    ours, theirs = {}, {}
    for model in models:
        for usage in usages:
            cost = ListPrice(model)(usage, NOON)
            if cost.is_known:
                counted = genai_prices.Usage(
                    input_tokens=usage.input_tokens,
                    output_tokens=usage.output_tokens,
                    cache_read_tokens=usage.cache_read_tokens,
                    cache_write_tokens=usage.cache_write_tokens,
                )
                calculation = model.calc_price(counted, LISTS[list_id], genai_request_timestamp=NOON)
                ours[model.id, usage], theirs[model.id, usage] = cost.usd, float(calculation.total_price)

    assert len(ours) >= len(models)
    assert ours == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("provider", ["anthropic", "gemini", "openai", "openai-responses"])
def test_a_model_of_each_provider_is_found_in_its_list(provider):
    """The names of providers are ours, those of models are theirs."""
    name = some_model(provider)
    found = list_price(f"{provider}:{name}")

    assert found is not None
    assert found(Usage(1000, 0)).usd == ListPrice(LISTS[OF_OURS[provider]].find_model(name))(Usage(1000, 0)).usd


def test_the_model_that_has_answered_is_priced():
    """A name such as "…-latest" means another model from one day to the next."""
    first, second = (model.id for model in LISTS["openai"].models[:2])

    assert list_price(f"openai:{first}", second) is list_price(f"openai:{second}")


def test_an_answer_from_a_model_that_is_not_listed_costs_what_was_asked_for():
    """New versions answer under an old name before the list knows theirs."""
    name = f"openai:{some_model('openai')}"

    assert list_price(name, "made-up-2031-01-01") is list_price(name)


def test_on_azure_only_the_model_that_has_answered_is_priced():
    """A deployment may be called "gpt-4o" and be something else."""
    name = some_model("openai")

    assert list_price(f"azure:{name}") is None
    assert list_price(f"azure:{name}", "made-up") is None
    assert list_price("azure:my-deployment", name) is not None


@pytest.mark.parametrize(
    "model",
    ["openai:qwen3-8b", "openai:", "openai", "", "anthropic:made-up", "scripted:a.json", "house:tiny", "aws:claude"],
)
def test_what_no_list_knows_has_no_price(model):
    """Unknown is not zero."""
    assert list_price(model) is None


def test_another_server_has_no_list_price_whatever_it_calls_its_model():
    """A gateway sells a model at its own price, under the same name."""
    name = f"openai:{some_model('openai')}"

    assert list_price(name, base_url="https://gateway.example/v1") is None
    assert list_price(name, base_url="http://localhost:8000/v1") is None
    assert list_price(name, base_url="https://api.openai.com/v1") is list_price(name)


def test_an_azure_resource_is_azures_own_server():
    """There is no other way to name it than by a base URL."""
    name = some_model("openai")

    assert list_price("azure:mine", name, base_url="https://mine.openai.azure.com") is not None
    assert list_price("azure:mine", name, base_url="https://gateway.example") is None


def test_the_offline_model_is_free():
    """It is known to cost nothing, though its tokens are unknown."""
    assert list_price("offline:extractive")(Usage()) == Cost()


@pytest.mark.parametrize("base_url", [None, "http://127.0.0.1:11434", "http://localhost:11434", "http://[::1]:11434"])
def test_ollama_on_this_machine_is_free(base_url):
    """Nobody sends a bill for it."""
    assert list_price("ollama:qwen3:8b", base_url=base_url)(Usage(5000, 500)) == Cost()


@pytest.mark.parametrize(
    ("model", "base_url"),
    [
        ("ollama:gpt-oss:120b", "https://ollama.com"),
        ("ollama:gpt-oss:120b-cloud", None),
        ("ollama:kimi-k2:cloud", "http://127.0.0.1:11434"),
        ("ollama:qwen3:8b", "http://gpu-box:11434"),
    ],
)
def test_ollama_elsewhere_has_an_unknown_price(model, base_url):
    """A rented machine and a subscription are paid for, only not per call."""
    assert list_price(model, base_url=base_url) is None


def test_a_model_is_looked_up_once():
    """A look-up walks through a hundred patterns; a call is priced on the loop that serves all others."""
    name = f"openai:{some_model('openai')}"

    assert list_price(name) is list_price(name)


def in_a_new_process(code):
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.strip()


def test_the_lists_are_loaded_with_the_first_price():
    """They take as long to load as everything else together, and a pipeline without bills needs none."""
    code = """
import sys
import pipeline_engine
from pipeline_engine.providers.prices import list_price
print([list_price(name) is None for name in ("offline:extractive", "ollama:qwen3", "scripted:a.json")])
print("genai_prices" in sys.modules, list_price("openai:none"), "genai_prices" in sys.modules)
"""

    assert in_a_new_process(code) == "[False, False, True]\nFalse None True"


def test_nothing_is_fetched():
    """Whoever counts money must not be made to call somebody."""
    code = """
import sys, threading
events = []
sys.addaudithook(lambda event, _: events.append(event) if event.startswith("socket.") else None)
from pipeline_engine.providers.prices import list_price
from pipeline_engine.values import Usage
price = list_price("openai:gpt-4o-mini") or list_price("anthropic:claude-sonnet-4-5")
price and price(Usage(10, 10))
print(sorted(set(events) - {"socket.__new__"}), threading.active_count())
"""

    assert in_a_new_process(code) == "[] 1"
