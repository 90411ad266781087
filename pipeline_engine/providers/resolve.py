"""From `"provider:model"` to a model that answers: what is wrong with it is said before anything is sent."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, get_args

from pipeline_engine.providers.addresses import RefusedError, checked_address, host_of
from pipeline_engine.providers.keys import checked_headers, found_key
from pipeline_engine.providers.profiles import PROFILES, Profile, adapter_at
from pipeline_engine.providers.secrets import Secret
from pipeline_engine.text import one_line, sentence_list

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import httpx2

    from pipeline_engine.providers.adapters.adapter import ChatAdapter, EmbeddingAdapter, StructuredOutput
    from pipeline_engine.values import CompletionModel

__all__ = ["UnusableModelError", "open_model", "providers"]

_VERSION = re.compile(r"[\w.-]{1,64}", re.ASCII)


class UnusableModelError(ValueError):
    """Raised when a model cannot be opened as it is named or configured; nothing was sent.

    Attributes:
        spec: The model as it was named.
        reason: What is wrong and what to do, as a sentence that begins with its verb.
    """

    def __init__(self, spec: str, reason: str) -> None:
        self.spec = spec
        self.reason = reason
        super().__init__(f"model {one_line(spec)!r} {reason}")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """Everything that `open_model` was asked for."""

    spec: str
    provider: str
    model: str
    """What stands after the colon."""
    base_url: str | None
    api_key: str | Secret | None
    connect_timeout: float | None
    settings: Mapping[str, Any]
    """The fields of `Settings` that were given."""
    extra_headers: Mapping[str, str]
    environ: Mapping[str, str]
    transport: httpx2.AsyncBaseTransport | Callable[[], httpx2.AsyncBaseTransport] | None

    def __repr__(self) -> str:  # it holds the environment
        return f"<_Wanted {self.spec!r}>"

    def variable(self, names: Sequence[str]) -> str:
        """Return what the first of these variables holds that holds anything."""
        return next((value for name in names if (value := self.environ.get(name, "").strip())), "")


def open_model(
    spec: str,
    *,
    base_url: str | None = None,
    api_key: str | Secret | None = None,
    connect_timeout: float | None = None,
    temperature: float | None = None,
    max_tokens: int | None = None,
    seed: int | None = None,
    structured_output: StructuredOutput | None = None,
    extra_body: Mapping[str, Any] = MappingProxyType({}),
    extra_headers: Mapping[str, str] = MappingProxyType({}),
    environ: Mapping[str, str] | None = None,
    transport: httpx2.AsyncBaseTransport | Callable[[], httpx2.AsyncBaseTransport] | None = None,
) -> CompletionModel:
    """Return the model that `spec` names. Nothing is sent and nothing is connected yet.

    Args:
        spec: `"provider:model"`, such as "openai:gpt-4o-mini" or "offline:extractive".
        base_url: The address of a compatible server, as that provider's own SDK takes it.
        api_key: The key, if it is not in the environment; an empty one means that none is sent.
        connect_timeout: Seconds to reach the provider, where a step does not say.
        temperature: How varied the replies are; the provider's default if not given.
        max_tokens: The longest reply in tokens; the provider's default if not given.
        seed: For providers that can repeat themselves.
        structured_output: How the model is made to answer in JSON; by its schema mode if not given.
        extra_body: Further fields of each request, under their names on the wire.
        extra_headers: Further headers of each request.
        environ: Where keys and addresses are looked up; the process's environment if not given.
        transport: Connections to share, or what opens them when a model wants some; the model opens its own
            if not given.

    Raises:
        UnusableModelError: If no such model can be opened.
    """
    provider, colon, model = spec.partition(":")
    known = sentence_list([*providers()])
    if not colon or not provider or not model.strip():
        reason = f'is not written as "provider:model", such as "openai:gpt-4o-mini". The providers are {known}.'
        raise UnusableModelError(spec, reason)
    if provider not in providers():
        near = difflib.get_close_matches(provider.lower(), providers(), n=1)
        meant = f" Did you mean {one_line(f'{near[0]}:{model}')!r}?" if near else ""
        raise UnusableModelError(spec, f"names a provider that is not known.{meant} The providers are {known}.")
    settings = {
        "temperature": temperature,
        "max_tokens": max_tokens,
        "seed": seed,
        "structured_output": structured_output or "schema",
        "extra_body": dict(extra_body),
    }
    wanted = _Wanted(
        spec,
        provider,
        model,
        base_url,
        api_key,
        connect_timeout,
        settings,
        extra_headers,
        os.environ if environ is None else environ,
        transport,
    )
    open_it = _WITHOUT_HTTP.get(provider, _open_http)
    try:
        return open_it(wanted)
    except RefusedError as error:
        raise UnusableModelError(spec, str(error)) from error.__cause__


def providers() -> tuple[str, ...]:
    """Return the providers that a model can be named with, sorted.

    Example:
        >>> providers()
        ('anthropic', 'azure', 'gemini', 'offline', 'ollama', 'openai', 'openai-responses', 'scripted')
    """
    return tuple(sorted((*PROFILES, *_WITHOUT_HTTP)))


def _open_http(wanted: _Wanted) -> CompletionModel:
    from pipeline_engine.providers.adapters.adapter import Endpoint, Settings, StructuredOutput
    from pipeline_engine.providers.client import HttpModel

    profile = PROFILES[wanted.provider]
    settings = Settings(wanted.model, **wanted.settings)
    modes = [*get_args(StructuredOutput)]
    if settings.structured_output not in modes:
        raise RefusedError(
            f"cannot take {settings.structured_output!r} as structured_output=. It is one of {sentence_list(modes)}."
        )
    given = wanted.base_url or wanted.variable(profile.address_names) or profile.own_address
    if given is None:
        name = profile.address_names[0]
        raise RefusedError(f"needs an address. Set {name}, such as https://NAME.openai.azure.com, or pass base_url=.")
    address = profile.full_address(given)
    chat, embedding = _adapters(wanted, profile, address)
    path = chat.path(settings, False)  # noqa: FBT003 - an adapter's port
    base_url = checked_address(address, path, profile.surplus)
    is_own = profile.is_own(host_of(base_url))
    if is_own and profile.own_chat is not None:
        chat = adapter_at(profile.own_chat)
    key_name, secret = found_key(wanted.api_key, profile.key_names, wanted.environ, base_url)
    if secret is None and is_own:
        raise RefusedError(
            f"needs a key. Set {key_name}, or name a server that needs none with base_url= "
            f"or {profile.address_names[0]}."
        )
    if taken := sorted(chat.reserved & settings.extra_body.keys()):
        raise RefusedError(f"cannot take {sentence_list(taken)} in extra_body=. The engine writes them itself.")
    return HttpModel(
        Endpoint(wanted.spec, base_url, key_name, secret),
        chat,
        settings,
        embedding=embedding,
        extra_headers=checked_headers(wanted.extra_headers, chat.headers(Secret("any"))),
        connect_timeout=wanted.connect_timeout,
        transport=wanted.transport() if callable(wanted.transport) else wanted.transport,
    )


def _adapters(wanted: _Wanted, profile: Profile, address: str) -> tuple[ChatAdapter, EmbeddingAdapter | None]:
    chat = adapter_at(profile.chat)
    embedding = None if profile.embedding is None else adapter_at(profile.embedding)
    if not profile.version_names:
        return chat, embedding
    version = None
    if not address.rstrip("/").endswith("/openai/v1"):
        version = wanted.variable(profile.version_names)
        if not _VERSION.fullmatch(version):
            raise RefusedError(
                f"needs the version of its interface. Set {profile.version_names[0]}, such as 2024-10-21, or give "
                "a base URL that ends in /openai/v1, which has none."
            )
    return chat(version), None if embedding is None else embedding(version)


def _open_offline(wanted: _Wanted) -> CompletionModel:
    if wanted.model != "extractive":
        raise RefusedError("is not one of the offline models. Use 'offline:extractive'.")
    from pipeline_engine.providers.offline import ExtractiveModel

    return ExtractiveModel()


def _open_scripted(wanted: _Wanted) -> CompletionModel:
    from pipeline_engine.providers.scripted import ScriptedModel

    try:
        return ScriptedModel.from_file(wanted.model, wanted.spec)
    except OSError as error:
        raise RefusedError(f"reads its script from {one_line(wanted.model)!r}: {error.strerror}.") from error
    except ValueError as error:
        raise RefusedError(f"cannot be opened: {error}") from error


_WITHOUT_HTTP: dict[str, Callable[[_Wanted], CompletionModel]] = {
    "offline": _open_offline,
    "scripted": _open_scripted,
}
