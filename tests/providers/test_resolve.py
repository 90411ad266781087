"""From a name to a model: what is wrong with a name, a key or an address is said before anything is sent."""

import json
import subprocess
import sys

import pytest

from pipeline_engine.providers import Secret, UnusableModelError, open_model, providers
from pipeline_engine.providers.adapters.adapter import Settings
from pipeline_engine.providers.keys import checked_headers
from pipeline_engine.providers.profiles import PROFILES
from pipeline_engine.values import CompletionModel, Message, Request

KEY = "sk-canary-5f1d"
NAMES = ("anthropic", "azure", "gemini", "offline", "ollama", "openai", "openai-responses", "scripted")
KNOWN = f"The providers are {', '.join(map(repr, NAMES[:-1]))} and 'scripted'."
NO_PROVIDER = f'is not written as "provider:model", such as "openai:gpt-4o-mini". {KNOWN}'


def refused(spec, **options):
    with pytest.raises(UnusableModelError) as caught:
        open_model(spec, **{"environ": {}, **options})
    return caught.value


def test_the_providers_are_listed_in_order():
    """Messages and the command line show them."""
    assert providers() == NAMES


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
            f"names a provider that is not known. Did you mean 'openai:gpt-4o'? {KNOWN}",
        ),
        (
            "OpenAI:gpt-4o",
            f"names a provider that is not known. Did you mean 'openai:gpt-4o'? {KNOWN}",
        ),
        ("zzz:m", f"names a provider that is not known. {KNOWN}"),
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


AZURE = {"AZURE_OPENAI_API_KEY": KEY, "OPENAI_API_VERSION": "2024-10-21"}
AZURE_ENDPOINT = "https://example.openai.azure.com"


def test_every_provider_is_found_under_its_name():
    """Each adapter is written elsewhere, and a row with a slip would be found by the first user."""
    found = {}
    for provider in sorted(PROFILES):
        base_url = AZURE_ENDPOINT if provider == "azure" else None
        model = open_model(
            f"{provider}:m", api_key=KEY, base_url=base_url, environ={"OPENAI_API_VERSION": "2024-10-21"}
        )
        found[provider] = model.base_url + model._chat.path(model._settings, False), model.max_texts

    assert found == {
        "anthropic": ("https://api.anthropic.com/v1/messages", 0),
        "azure": (f"{AZURE_ENDPOINT}/openai/deployments/m/chat/completions?api-version=2024-10-21", 2048),
        "gemini": ("https://generativelanguage.googleapis.com/v1beta/models/m:generateContent", 0),
        "ollama": ("http://127.0.0.1:11434/api/chat", 512),
        "openai": ("https://api.openai.com/v1/chat/completions", 2048),
        "openai-responses": ("https://api.openai.com/v1/responses", 0),
    }


@pytest.mark.parametrize(
    ("spec", "environ", "address"),
    [
        ("anthropic:m", {"ANTHROPIC_API_KEY": KEY}, "https://api.anthropic.com"),
        (
            "anthropic:m",
            {"ANTHROPIC_API_KEY": KEY, "ANTHROPIC_BASE_URL": "https://g.example/a/"},
            "https://g.example/a",
        ),
        ("gemini:m", {"GEMINI_API_KEY": KEY}, "https://generativelanguage.googleapis.com/v1beta"),
        (
            "gemini:m",
            {"GOOGLE_API_KEY": KEY, "GEMINI_API_KEY": "x"},
            "https://generativelanguage.googleapis.com/v1beta",
        ),
        (
            "gemini:m",
            {"GOOGLE_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": "https://g.example"},
            "https://g.example/v1beta",
        ),
        (
            "gemini:m",
            {"GOOGLE_API_KEY": KEY, "GOOGLE_GEMINI_BASE_URL": "https://g.example/v1/"},
            "https://g.example/v1",
        ),
        ("ollama:m", {"OLLAMA_API_KEY": KEY, "OLLAMA_HOST": "https://ollama.com"}, "https://ollama.com"),
        ("openai-responses:m", {"OPENAI_API_KEY": KEY}, "https://api.openai.com/v1"),
        (
            "openai-responses:m",
            {"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": "https://api.x.ai/v1"},
            "https://api.x.ai/v1",
        ),
        ("azure:m", {**AZURE, "AZURE_OPENAI_ENDPOINT": f"{AZURE_ENDPOINT}/"}, AZURE_ENDPOINT),
    ],
)
def test_keys_and_addresses_stand_where_each_providers_own_tools_look(spec, environ, address):
    """Whoever has used one of them has nothing to set."""
    model = open_model(spec, environ=environ)

    assert (model.base_url, model._endpoint.secret.reveal()) == (address, KEY)


@pytest.mark.parametrize(
    ("spec", "environ", "reason"),
    [
        (
            "anthropic:m",
            {},
            (
                "needs a key. Set ANTHROPIC_API_KEY, or name a server that needs none with base_url= "
                "or ANTHROPIC_BASE_URL."
            ),
        ),
        (
            "gemini:m",
            {"GOOGLE_API_KEY": " "},
            (
                "needs a key. Set GOOGLE_API_KEY or GEMINI_API_KEY, or name a server that needs none with base_url= "
                "or GOOGLE_GEMINI_BASE_URL."
            ),
        ),
        (
            "ollama:m",
            {"OLLAMA_HOST": "https://ollama.com"},
            "needs a key. Set OLLAMA_API_KEY, or name a server that needs none with base_url= or OLLAMA_HOST.",
        ),
        (
            "azure:m",
            AZURE,
            "needs an address. Set AZURE_OPENAI_ENDPOINT, such as https://NAME.openai.azure.com, or pass base_url=.",
        ),
        (
            "azure:m",
            {"AZURE_OPENAI_ENDPOINT": AZURE_ENDPOINT, "OPENAI_API_VERSION": "2024-10-21"},
            (
                "needs a key. Set AZURE_OPENAI_API_KEY, or name a server that needs none with base_url= "
                "or AZURE_OPENAI_ENDPOINT."
            ),
        ),
        (
            "azure:m",
            {"AZURE_OPENAI_ENDPOINT": AZURE_ENDPOINT, "AZURE_OPENAI_API_KEY": KEY},
            (
                "needs the version of its interface. Set OPENAI_API_VERSION, such as 2024-10-21, or give "
                "a base URL that ends in /openai/v1, which has none."
            ),
        ),
    ],
)
def test_what_is_missing_is_named(spec, environ, reason):
    """The variable is half of the cure."""
    assert refused(spec, environ=environ).reason == reason


@pytest.mark.parametrize("version", ["2024-10-21&x=1", "a b", "é", "v" * 65])
def test_a_version_that_cannot_be_one_is_refused(version):
    """It goes into the address."""
    assert (
        "needs the version"
        in refused("azure:m", base_url=AZURE_ENDPOINT, environ={"OPENAI_API_VERSION": version}).reason
    )


def test_azures_interface_without_versions_is_known_by_its_address():
    """It is the new one, and the model stands in the body there."""
    model = open_model("azure:m", base_url=f"{AZURE_ENDPOINT}/openai/v1/", api_key=KEY, environ={})

    assert model.base_url + model._chat.path(model._settings, False) == f"{AZURE_ENDPOINT}/openai/v1/chat/completions"


def test_azure_has_two_names_for_its_version():
    """OpenAI's client reads the first, and everybody else writes the second."""
    environ = {"AZURE_OPENAI_API_VERSION": "2025-01-01"}
    model = open_model("azure:m", base_url=AZURE_ENDPOINT, api_key=KEY, environ=environ)
    other = open_model("azure:m", base_url=AZURE_ENDPOINT, api_key=KEY, environ={**environ, **AZURE})

    assert model._chat.path(model._settings, False).endswith("?api-version=2025-01-01")
    assert other._chat.path(other._settings, False).endswith("?api-version=2024-10-21")


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("gpu-box", "http://gpu-box:11434"),
        ("gpu-box:8080", "http://gpu-box:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://gpu-box", "http://gpu-box"),
        ("http://gpu-box:11434/", "http://gpu-box:11434"),
        ("https://ollama.example", "https://ollama.example"),
        ("gpu-box/behind/nginx/", "http://gpu-box:11434/behind/nginx"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("[::]:8080", "http://[::1]:8080"),
        (' "gpu-box:8080" ', "http://gpu-box:8080"),
    ],
)
def test_ollamas_host_is_read_as_its_own_tools_read_it(host, address):
    """The same variable says where the server listens, hence hosts without a scheme and 0.0.0.0."""
    environ = {} if host is None else {"OLLAMA_HOST": host}

    assert open_model("ollama:m", environ=environ).base_url == address
    assert open_model("ollama:m", base_url=host, environ={}).base_url == address


@pytest.mark.parametrize(
    "host", ["me:canary@gpu-box", "http://me:canary@gpu-box", "gpu-box?key=canary", "gpu-box#canary", "me@gpu-box:1"]
)
def test_a_password_in_ollamas_host_is_refused_and_not_shown(host):
    """It has no scheme, and must be looked at all the same."""
    assert refused("ollama:m", environ={"OLLAMA_HOST": host}).reason == (
        "has a base URL with a user, a query or a fragment. Give scheme, host and path; the key goes into api_key=."
    )


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("http://a:b:c", "which is not an address"),
        ("http://[::1", "which is not an address"),
        ("gpu-box:x", "which is not an address"),
        ("ftp://gpu-box", "Give one that begins with https://"),
        ("169.254.169.254", "which serves this machine's own credentials"),
    ],
)
def test_a_host_of_ollamas_that_cannot_be_right_is_refused(host, words):
    """What comes without a scheme is checked like all others."""
    assert words in refused("ollama:m", environ={"OLLAMA_HOST": host}).reason


@pytest.mark.parametrize(
    ("spec", "base_url", "end"),
    [
        ("anthropic:m", "https://api.anthropic.com/v1/", "/v1"),
        ("ollama:m", "http://localhost:11434/v1", "/v1"),
        ("ollama:m", "http://localhost:11434/api", "/api"),
        ("azure:m", f"{AZURE_ENDPOINT}/openai", "/openai"),
    ],
)
def test_an_end_that_only_other_providers_addresses_have_is_refused(spec, base_url, end):
    """It is the commonest slip, and the answer would be a 404 that names the model."""
    assert refused(spec, base_url=base_url, api_key=KEY, environ=AZURE).reason == (
        f"has the base URL {base_url!r}. Leave out {end!r}: it is no part of this provider's."
    )


@pytest.mark.parametrize(
    ("spec", "base_url", "path"),
    [
        ("anthropic:m", "https://g.example/v1/messages", "/v1/messages"),
        ("openai-responses:m", "https://g.example/v1/responses", "/responses"),
        ("ollama:m", "http://localhost:11434/api/chat", "/api/chat"),
    ],
)
def test_an_address_with_the_path_of_the_request_is_refused(spec, base_url, path):
    """Documentation shows whole addresses, and they are what is copied."""
    assert refused(spec, base_url=base_url, api_key=KEY).reason == (
        f"has the base URL {base_url!r}. Leave out {path!r}: it is added to the base URL."
    )


@pytest.mark.parametrize(
    ("spec", "variable"),
    [("anthropic:m", "ANTHROPIC_API_KEY"), ("gemini:m", "GEMINI_API_KEY"), ("ollama:m", "OLLAMA_API_KEY")],
)
def test_no_environments_key_is_sent_in_clear_text(spec, variable):
    """Each was set for its provider, and whoever set it did not think of this server."""
    reason = refused(spec, base_url="http://gpu-box:8000", environ={variable: KEY}).reason

    assert reason.startswith(f"would send {variable} in clear text to http://gpu-box:8000")
    assert open_model(spec, base_url="http://localhost:8000", environ={variable: KEY})._endpoint.secret.reveal() == KEY


def test_fields_that_the_engine_writes_cannot_be_extra_fields():
    """`stream=True` would bring an answer that nobody here reads, `n=5` a bill for five."""
    assert refused("openai:m", api_key=KEY, extra_body={"stream": True, "n": 5, "top_k": 1}).reason == (
        "cannot take 'n' and 'stream' in extra_body=. The engine writes them itself."
    )


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        (None, "max_completion_tokens"),
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("http://localhost:1/v1", "max_tokens"),
    ],
)
def test_openai_itself_is_known_by_its_host(base_url, name):
    """Its newer models reject the old name of the token cap, and most compatible servers know only that one."""
    model = open_model("openai:m", api_key=KEY, base_url=base_url, max_tokens=5, environ={})
    body = json.loads(model._chat.encode(Request((Message("user", "Hi"),)), model._settings, False))

    assert body[name] == 5


def test_settings_reach_the_adapter_and_what_is_not_given_does_not():
    """What a step does not say is left to the provider."""
    extra = {"top_k": 5}
    given = open_model(
        "openai:m", api_key=KEY, temperature=0.5, max_tokens=5, seed=7, structured_output="json", extra_body=extra
    )
    extra["top_k"] = 6

    assert given._settings == Settings("m", 0.5, 5, 7, "json", {"top_k": 5})
    assert open_model("openai:m", api_key=KEY)._settings == Settings("m")


def test_a_way_to_structured_output_that_nobody_knows_is_refused():
    """A slip would pass for instructions alone."""
    assert refused("openai:m", api_key=KEY, structured_output="shema").reason == (
        "cannot take 'shema' as structured_output=. It is one of 'schema', 'json' and 'prompt'."
    )


def test_extra_headers_are_taken_under_lower_case_names():
    """Names of headers know no case, and two of one name would be sent otherwise."""
    headers = {"X-Title": "my pipeline", "anthropic-beta": "a,b", "User-Agent": "me/1.0"}

    assert checked_headers(headers, ["authorization"]) == {
        "x-title": "my pipeline",
        "anthropic-beta": "a,b",
        "user-agent": "me/1.0",
    }


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"Authorization": KEY}, "cannot take 'authorization' in extra_headers=. The key goes into api_key=."),
        (
            {"X-API-Key": KEY, "api-key": KEY},
            "cannot take 'api-key' and 'x-api-key' in extra_headers=. The key goes into api_key=.",
        ),
        (
            {"Host": "evil.example", "Content-Length": "0", "Transfer-Encoding": "chunked"},
            (
                "cannot take 'content-length', 'host' and 'transfer-encoding' in extra_headers=. "
                "The engine writes them itself."
            ),
        ),
        ({"": "x"}, "has a header in extra_headers= whose name '' no header has."),
        ({"a b": "x"}, "has a header in extra_headers= whose name 'a b' no header has."),
        ({"a\r\nb": "x"}, "has a header in extra_headers= whose name 'a b' no header has."),
        ({"é": "x"}, "has a header in extra_headers= whose name 'é' no header has."),
        ({7: "x"}, "has a header in extra_headers= whose name '7' no header has."),
    ],
)
def test_headers_that_would_change_the_request_or_carry_the_key_are_refused(headers, reason):
    """Headers are not sealed as a key is, and those of the transport are its own."""
    assert refused("openai:m", api_key=KEY, extra_headers=headers).reason == reason


@pytest.mark.parametrize("value", [f"{KEY}\r\nx: y", f"{KEY}\n", f"{KEY}é", f"{KEY}\x00", f"{KEY}\x7f", 7, None])
def test_a_header_that_cannot_be_sent_is_refused_and_not_shown(value):
    """A line break would become a header of its own, and a value may be a secret."""
    assert refused("openai:m", api_key=KEY, extra_headers={"x-title": value}).reason == (
        "has a value for 'x-title' in extra_headers= with characters that no header has, such as a line break. "
        "Give plain ASCII text."
    )


def test_headers_that_a_provider_has_besides_the_key_are_its_own():
    """The shape of a reply hangs on its version."""
    assert refused("anthropic:m", api_key=KEY, extra_headers={"Anthropic-Version": "2020-01-01"}).reason == (
        "cannot take 'anthropic-version' in extra_headers=. The engine writes them itself."
    )


def test_a_script_that_cannot_be_read_is_named(tmp_path):
    """The name is a path here."""
    path = tmp_path / "none.json"

    assert refused(f"scripted:{path}").reason == f"reads its script from {str(path)!r}: No such file or directory."


def test_importing_the_room_loads_no_http_client():
    """Commands that only look at a pipeline must not pay for one."""
    script = (
        "import sys, pipeline_engine.providers\n"
        "print(sorted({'httpx2', 'trio', 'pipeline_engine.providers.client'} & sys.modules.keys()))"
    )

    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert run.stdout.strip() == "[]"
