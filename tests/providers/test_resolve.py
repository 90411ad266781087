"""From a name to a model: what is wrong with a name, a key or an address is said before anything is sent."""

import subprocess
import sys

import pytest

from pipeline_engine.providers import Secret, UnusableModelError, open_model, providers
from pipeline_engine.values import CompletionModel

KEY = "sk-canary-5f1d"
NO_PROVIDER = (
    'is not written as "provider:model", such as "openai:gpt-4o-mini". '
    "The providers are 'offline', 'openai' and 'scripted'."
)


def refused(spec, **options):
    with pytest.raises(UnusableModelError) as caught:
        open_model(spec, **{"environ": {}, **options})
    return caught.value


def test_the_providers_are_listed_in_order():
    """Messages and the command line show them."""
    assert providers() == ("offline", "openai", "scripted")


def test_an_openai_model_takes_its_key_from_the_environment():
    """It is where OpenAI's own tools look."""
    model = open_model("openai:ft:gpt-4o:acme::1", environ={"OPENAI_API_KEY": KEY})

    assert isinstance(model, CompletionModel)
    assert repr(model) == "<HttpModel 'openai:ft:gpt-4o:acme::1' at https://api.openai.com/v1>"


def test_the_process_environment_is_the_default(monkeypatch):
    """Nobody passes an environment by hand, except tests."""
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:8080/v1")

    assert repr(open_model("openai:tiny")) == "<HttpModel 'openai:tiny' at http://localhost:8080/v1>"


def test_the_offline_model_needs_no_key():
    """The demo and the docs run on any machine."""
    assert isinstance(open_model("offline:extractive", environ={}), CompletionModel)


@pytest.mark.parametrize(
    ("options", "address"),
    [
        ({"base_url": "http://127.0.0.1:8080/v1/"}, "http://127.0.0.1:8080/v1"),
        ({"environ": {"OPENAI_BASE_URL": "https://llm.example/v1"}}, "https://llm.example/v1"),
        (
            {"base_url": "http://[::1]:8080", "environ": {"OPENAI_BASE_URL": "https://llm.example/v1"}},
            "http://[::1]:8080",
        ),
        ({"base_url": "", "environ": {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": ""}}, "https://api.openai.com/v1"),
        ({"base_url": "http://gpu-box:8000/v1", "api_key": "EMPTY"}, "http://gpu-box:8000/v1"),
        ({"base_url": "http://gpu-box:8000/v1"}, "http://gpu-box:8000/v1"),
        (
            {"base_url": "http://gpu-box:8000/v1", "api_key": "", "environ": {"OPENAI_API_KEY": KEY}},
            "http://gpu-box:8000/v1",
        ),
    ],
)
def test_a_compatible_server_needs_no_key(options, address):
    """Local servers have none, and an argument goes before the environment."""
    assert repr(open_model("openai:tiny", **{"environ": {}, **options})) == f"<HttpModel 'openai:tiny' at {address}>"


@pytest.mark.parametrize("spec", ["gpt-4o", "", ":", ":gpt-4o", "openai:", "openai: "])
def test_a_name_without_provider_or_model_is_refused(spec):
    """The commonest slip, so it is answered with an example."""
    error = refused(spec)

    assert (error.spec, error.reason) == (spec, NO_PROVIDER)
    assert str(error) == f"model {spec.strip()!r} {NO_PROVIDER}"
    assert isinstance(error, ValueError)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (
            "opnai:gpt-4o",
            (
                "names a provider that is not known. Did you mean 'openai:gpt-4o'? "
                "The providers are 'offline', 'openai' and 'scripted'."
            ),
        ),
        (
            "OpenAI:gpt-4o",
            (
                "names a provider that is not known. Did you mean 'openai:gpt-4o'? "
                "The providers are 'offline', 'openai' and 'scripted'."
            ),
        ),
        ("zzz:m", "names a provider that is not known. The providers are 'offline', 'openai' and 'scripted'."),
        ("offline:abstractive", "is not one of the offline models. Use 'offline:extractive'."),
        (
            "openai:gpt-4o",
            "needs a key. Set OPENAI_API_KEY, or name a server that needs none with base_url= or OPENAI_BASE_URL.",
        ),
    ],
)
def test_a_model_that_cannot_be_opened_says_what_to_do(spec, reason):
    """It becomes one problem among others, before a single call is paid for."""
    assert refused(spec).reason == reason


@pytest.mark.parametrize(
    ("base_url", "reason"),
    [
        ("ftp://host", "has the base URL 'ftp://host'. Give one that begins with https:// and names a host."),
        ("host:8000/v1", "has the base URL 'host:8000/v1'. Give one that begins with https:// and names a host."),
        ("https://", "has the base URL 'https://'. Give one that begins with https:// and names a host."),
        (
            "https://a b\x1b",
            "has the base URL 'https://a b\\\\x1b'. Give one that begins with https:// and names a host.",
        ),
        ("https://host:port", "has the base URL 'https://host:port', which is not an address."),
        (
            "https://host/v1/chat/completions",
            (
                "has the base URL 'https://host/v1/chat/completions'. Leave out '/chat/completions': "
                "it is added to the base URL."
            ),
        ),
        (
            "http://169.254.169.254/latest",
            "has the base URL 'http://169.254.169.254/latest', which serves this machine's own credentials.",
        ),
    ],
)
def test_an_address_that_cannot_be_right_is_refused(base_url, reason):
    """Found here, it costs a message; found later, a batch."""
    assert refused("openai:m", base_url=base_url).reason == reason


@pytest.mark.parametrize(
    "host",
    ["2852039166", "[::ffff:169.254.169.254]", "[fe80::1]", "metadata.google.internal", "[fd00:ec2::254]"],
)
def test_the_clouds_credentials_are_not_within_reach(host):
    """An address from a form or a file must not fetch the machine's own credentials."""
    assert "serves this machine's own credentials" in refused("openai:m", base_url=f"http://{host}/v1").reason


@pytest.mark.parametrize("address", [f"https://me:{KEY}@host/v1", f"https://host/v1?key={KEY}", f"https://host#{KEY}"])
def test_a_key_in_the_address_is_refused_and_not_shown(address):
    """Addresses are printed in every error."""
    error = refused("openai:m", base_url=address)

    assert error.reason == (
        "has a base URL with a user, a query or a fragment. Give scheme, host and path; the key goes into api_key=."
    )


def test_the_environments_key_is_not_sent_in_clear_text():
    """It was set for OpenAI, and whoever set it did not think of this server."""
    error = refused("openai:m", base_url="http://gpu-box:8000/v1", environ={"OPENAI_API_KEY": KEY})

    assert error.reason == (
        "would send OPENAI_API_KEY in clear text to http://gpu-box:8000/v1. Use https, or pass api_key= to say "
        'which key that server gets (api_key="" for none).'
    )


@pytest.mark.parametrize("key", [f"{KEY}\nx", f"{KEY} x", f"{KEY}é", f"{KEY}\x00"])
def test_a_key_that_cannot_be_one_is_refused_and_not_shown(key):
    """A line break would become a header of its own."""
    error = refused("openai:m", api_key=key)

    assert error.reason == (
        "has a key in api_key= with characters that no key has, such as a line break. Copy it again."
    )


@pytest.mark.parametrize("key", [Secret(KEY), KEY, f" {KEY}\n"])
def test_a_key_can_be_given_as_text_or_as_a_secret(key):
    """Text read from a file ends in a line break, which is not part of it."""
    model = open_model("openai:m", api_key=key, environ={})

    assert model._endpoint.secret.reveal() == KEY


def test_fields_that_the_engine_writes_cannot_be_parameters():
    """`stream=True` would bring an answer that nobody here reads, `n=5` a bill for five."""
    assert refused("openai:m", api_key=KEY, parameters={"stream": True, "n": 5, "seed": 1}).reason == (
        "cannot take 'n' and 'stream' as parameters. The engine writes them itself."
    )


@pytest.mark.parametrize(
    ("base_url", "name"), [(None, "max_completion_tokens"), ("http://localhost:1/v1", "max_tokens")]
)
def test_the_token_cap_has_the_name_that_the_server_knows(base_url, name):
    """OpenAI's newer models reject the old name, and most compatible servers know only that one."""
    model = open_model("openai:m", api_key=KEY, base_url=base_url, parameters={"max_tokens": 5})

    assert model._parameters == {name: 5}


def test_importing_the_room_loads_no_http_client():
    """Commands that only look at a pipeline must not pay for one."""
    script = (
        "import sys, pipeline_engine.providers\n"
        "print(sorted({'httpx2', 'trio', 'pipeline_engine.providers.http'} & sys.modules.keys()))"
    )

    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"
