"""Models, and what they cost: what is refused at once, what is shown, and what is one and the same."""

import pytest

from pipeline_engine.declare import Model, Price, Timeout
from pipeline_engine.values import Cost, Usage

KEY = "sk-canary-5f1d"


def test_a_price_is_per_million_tokens():
    """It is how every provider prints it, so it can be copied."""
    price = Price(input_usd=2.5, output_usd=10)

    assert price.cost(Usage(input_tokens=400_000, output_tokens=100_000)) == Cost(usd=2.0)


def test_tokens_from_the_prompt_cache_cost_their_own_price():
    """They are counted in the input: paying for both would double them."""
    price = Price(input_usd=4, output_usd=16, cached_usd=1)

    cost = price.cost(Usage(input_tokens=1_000_000, output_tokens=250_000, cache_read_tokens=750_000))

    assert cost == Cost(usd=1.0 + 0.75 + 4.0, saved_usd=2.25)


def test_without_a_cached_price_the_cache_saves_nothing():
    """A discount that nobody named is not assumed."""
    usage = Usage(input_tokens=1_000_000, output_tokens=0, cache_read_tokens=1_000_000)

    assert Price(input_usd=4, output_usd=16).cost(usage) == Cost(usd=4.0)


@pytest.mark.parametrize("usage", [Usage(), Usage(input_tokens=10), Usage(output_tokens=10)])
def test_unknown_tokens_make_an_unknown_cost(usage):
    """Unknown is not zero: a sum over a batch must say how many calls are missing."""
    assert Price(1, 1).cost(usage) == Cost(unpriced_calls=1)


def test_what_is_free_is_free_whatever_was_used():
    """A local server seldom counts tokens, and its owner knows the price anyway."""
    assert Price(0, 0).cost(Usage()) == Cost()


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), -0.01])
@pytest.mark.parametrize("name", ["input_usd", "output_usd", "cached_usd"])
def test_a_price_that_is_none_is_refused(name, value):
    """It would be noticed at the end of the month."""
    with pytest.raises(ValueError, match=rf"^Price\({name}={value}\): a price is zero or more US dollars per million"):
        Price(**{"input_usd": 1, "output_usd": 1, name: value})


def test_seconds_bound_each_attempt():
    """`timeout=30` means the same here as on a step."""
    assert Model("openai:gpt-4o", timeout=30).timeout == Timeout(attempt=30)
    assert Model("openai:gpt-4o", timeout=30) == Model("openai:gpt-4o", timeout=Timeout(attempt=30))


def test_a_timeout_is_kept_as_it_is():
    """Each of its fields fills in where a step says nothing."""
    timeout = Timeout(first_token=5, idle=2)

    assert Model("openai:gpt-4o", timeout=timeout).timeout is timeout


def test_a_model_cannot_bound_a_step():
    """A step may try several models: whose bound would it be?"""
    message = r"^Model\(timeout=Timeout\(step=…\)\): that one bounds a step over all its models\. Put it there\.$"
    with pytest.raises(ValueError, match=message):
        Model("openai:gpt-4o", timeout=Timeout(step=60))


def test_a_timeout_that_is_no_number_is_refused():
    """A text from an environment variable would otherwise fail in the middle of a run."""
    with pytest.raises(TypeError, match=r"^timeout= takes a Timeout\(…\) or seconds, not '30'\.$"):
        Model("openai:gpt-4o", timeout="30")


def test_no_key_is_shown():
    """Models are logged and printed; keys are sent as headers, too."""
    model = Model("openai:gpt-4o", api_key=KEY, extra_headers={"x-api-key": KEY, "authorization": f"Bearer {KEY}"})

    assert KEY not in repr(model)
    assert KEY not in str([model])
    assert repr(model) == "Model('openai:gpt-4o', extra_headers=…)"


def test_a_repr_shows_what_was_given_and_can_be_pasted():
    """What stands in a log is what one writes to get it again."""
    model = Model("openai:qwen3-8b", base_url="http://gpu:8000/v1", seed=7, price=Price(0.1, 0.2), temperature=0)

    assert repr(model) == (
        "Model('openai:qwen3-8b', base_url='http://gpu:8000/v1', temperature=0, seed=7, "
        "price=Price(input_usd=0.1, output_usd=0.2, cached_usd=None))"
    )
    assert eval(repr(model), {"Model": Model, "Price": Price}) == model


def test_equal_models_are_one():
    """An engine opens each model once, so that all runs share its connections."""
    first = Model("openai:gpt-4o", extra_body={"top_p": 0.9}, extra_headers={"x-team": "tea"}, price=Price(1, 2))
    second = Model("openai:gpt-4o", extra_body={"top_p": 0.9}, extra_headers={"x-team": "tea"}, price=Price(1, 2))

    assert first == second
    assert len({first, second}) == 1


@pytest.mark.parametrize(
    "difference",
    [
        {"base_url": "http://gpu:8000/v1"},
        {"api_key": "other"},
        {"temperature": 1},
        {"max_tokens": 5},
        {"seed": 5},
        {"timeout": 5},
        {"price": Price(1, 2)},
        {"structured_output": "json"},
        {"extra_body": {"top_p": 0.9}},
        {"extra_headers": {"x-team": "tea"}},
        {"transport": object()},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_models_that_differ_in_anything_are_two(difference):
    """Sharing one would send the calls of one with the settings of the other."""
    assert Model("openai:gpt-4o", **difference) != Model("openai:gpt-4o")


def test_an_object_that_is_a_model_is_not_wrapped_in_another():
    """A scripted model stands in the place of `Model(…)`, not inside it: told at once, and what to do instead."""
    with pytest.raises(TypeError, match="Bind an object that is a model as it is"):
        Model(object())
