"""From `"provider:model"` to a model that answers: who the providers are, and where their keys are found."""

from __future__ import annotations

import difflib
import ipaddress
import os
import socket
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline_engine.providers.secrets import Secret
from pipeline_engine.text import one_line, sentence_list

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import httpx2

    from pipeline_engine.values import CompletionModel

__all__ = ["UnusableModelError", "open_model", "providers"]

_METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "fd00:ec2::254"})


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
    model: str
    """What stands after the colon."""
    base_url: str | None
    api_key: str | Secret | None
    connect_timeout: float | None
    parameters: Mapping[str, Any]
    environ: Mapping[str, str]
    transport: httpx2.AsyncBaseTransport | None

    def __repr__(self) -> str:  # it holds the environment
        return f"<_Wanted {self.spec!r}>"

    def refuse(self, reason: str) -> UnusableModelError:
        return UnusableModelError(self.spec, reason)


def open_model(
    spec: str,
    *,
    base_url: str | None = None,
    api_key: str | Secret | None = None,
    connect_timeout: float | None = None,
    parameters: Mapping[str, Any] = MappingProxyType({}),
    environ: Mapping[str, str] | None = None,
    transport: httpx2.AsyncBaseTransport | None = None,
) -> CompletionModel:
    """Return the model that `spec` names. Nothing is sent and nothing is connected yet.

    Args:
        spec: `"provider:model"`, such as "openai:gpt-4o-mini" or "offline:extractive".
        base_url: The address of a compatible server, as that provider's own SDK takes it.
        api_key: The key, if it is not in the environment; an empty one means that none is sent.
        connect_timeout: Seconds to reach the provider, where a step does not say.
        parameters: Such as `temperature` and `max_tokens`; those that are None are left out.
        environ: Where keys and addresses are looked up; the process's environment if not given.
        transport: Connections to share; the model opens its own if not given.

    Raises:
        UnusableModelError: If no such model can be opened.
    """
    provider, colon, model = spec.partition(":")
    known = sentence_list([*providers()])
    if not colon or not provider or not model.strip():
        reason = f'is not written as "provider:model", such as "openai:gpt-4o-mini". The providers are {known}.'
        raise UnusableModelError(spec, reason)
    opener = _PROVIDERS.get(provider)
    if opener is None:
        near = difflib.get_close_matches(provider.lower(), _PROVIDERS, n=1)
        meant = f" Did you mean {one_line(f'{near[0]}:{model}')!r}?" if near else ""
        raise UnusableModelError(spec, f"names a provider that is not known.{meant} The providers are {known}.")
    wanted = _Wanted(
        spec,
        model,
        base_url,
        api_key,
        connect_timeout,
        parameters,
        os.environ if environ is None else environ,
        transport,
    )
    return opener(wanted)


def providers() -> tuple[str, ...]:
    """Return the providers that a model can be named with, sorted.

    Example:
        >>> providers()
        ('offline', 'openai', 'scripted')
    """
    return tuple(sorted(_PROVIDERS))


def _open_offline(wanted: _Wanted) -> CompletionModel:
    if wanted.model != "extractive":
        raise wanted.refuse("is not one of the offline models. Use 'offline:extractive'.")
    from pipeline_engine.providers.offline import ExtractiveModel

    return ExtractiveModel()


def _open_openai(wanted: _Wanted) -> CompletionModel:
    from pipeline_engine.providers import openai_chat
    from pipeline_engine.providers.adapter import Endpoint
    from pipeline_engine.providers.http import HttpModel

    own_address = "https://api.openai.com/v1"
    given = wanted.base_url or wanted.environ.get("OPENAI_BASE_URL")
    base_url = _checked_address(wanted, given or own_address, openai_chat.ADAPTER.path)
    is_openai = urlsplit(base_url).hostname == urlsplit(own_address).hostname
    key_name, secret = _key(wanted, "OPENAI_API_KEY", base_url)
    if secret is None and is_openai:
        raise wanted.refuse(
            "needs a key. Set OPENAI_API_KEY, or name a server that needs none with base_url= or OPENAI_BASE_URL."
        )
    taken = sorted(openai_chat.RESERVED & wanted.parameters.keys())
    if taken:
        raise wanted.refuse(f"cannot take {sentence_list(taken)} as parameters. The engine writes them itself.")
    parameters = dict(wanted.parameters)
    if is_openai and "max_tokens" in parameters:
        # OpenAI's newer models reject the old name, and most compatible servers know only that one.
        parameters["max_completion_tokens"] = parameters.pop("max_tokens")
    return HttpModel(
        Endpoint(wanted.spec, base_url, key_name, secret),
        openai_chat.ADAPTER,
        wanted.model,
        parameters=parameters,
        connect_timeout=wanted.connect_timeout,
        transport=wanted.transport,
    )


def _open_scripted(wanted: _Wanted) -> CompletionModel:
    from pipeline_engine.providers.scripted import ScriptedModel

    try:
        return ScriptedModel.from_file(wanted.model, wanted.spec)
    except OSError as error:
        raise wanted.refuse(f"reads its script from {one_line(wanted.model)!r}: {error.strerror}.") from error
    except ValueError as error:
        raise wanted.refuse(f"cannot be opened: {error}") from error


_PROVIDERS: dict[str, Callable[[_Wanted], CompletionModel]] = {
    "offline": _open_offline,
    "openai": _open_openai,
    "scripted": _open_scripted,
}


def _key(wanted: _Wanted, variable: str, base_url: str) -> tuple[str, Secret | None]:
    """Return where the key comes from, for messages, and the key."""
    if isinstance(wanted.api_key, Secret):
        return "api_key=", wanted.api_key
    is_given = wanted.api_key is not None
    source = "api_key=" if is_given else variable
    key = (wanted.api_key if wanted.api_key is not None else wanted.environ.get(variable, "")).strip()
    if not key:
        return variable, None
    if not key.isascii() or not key.isprintable() or " " in key:
        raise wanted.refuse(
            f"has a key in {source} with characters that no key has, such as a line break. Copy it again."
        )
    parts = urlsplit(base_url)
    if parts.scheme == "http" and not is_given and not _is_loopback(parts.hostname or ""):
        raise wanted.refuse(
            f"would send {variable} in clear text to {base_url}. Use https, or pass api_key= to say "
            'which key that server gets (api_key="" for none).'
        )
    return source, Secret(key)


def _checked_address(wanted: _Wanted, address: str, path: str) -> str:
    """Return a base URL without its last slash, if a key may be sent there."""
    shown = one_line(address, 200)
    try:
        parts = urlsplit(address)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        raise wanted.refuse(f"has the base URL {shown!r}, which is not an address.") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not shown: what stands there may be a password.
        raise wanted.refuse(
            "has a base URL with a user, a query or a fragment. Give scheme, host and path; the key goes into api_key=."
        )
    is_plain = address.isascii() and address.isprintable() and " " not in address
    if parts.scheme not in {"http", "https"} or not host or not is_plain:
        raise wanted.refuse(f"has the base URL {shown!r}. Give one that begins with https:// and names a host.")
    if _is_forbidden(host):
        raise wanted.refuse(f"has the base URL {shown!r}, which serves this machine's own credentials.")
    base_url = address.rstrip("/")
    if base_url.endswith(path):
        raise wanted.refuse(f"has the base URL {shown!r}. Leave out {path!r}: it is added to the base URL.")
    return base_url


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        try:  # resolvers also take "127.1" and "2852039166"
            return ipaddress.IPv4Address(socket.inet_aton(host))
        except OSError:
            return None
    return (found.ipv4_mapped or found) if isinstance(found, ipaddress.IPv6Address) else found


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") or (address is not None and address.is_loopback)


def _is_forbidden(host: str) -> bool:
    """Whether a server there would hand out or take credentials of the machine itself."""
    address = _address(host)
    return host.rstrip(".") in _METADATA_HOSTS or (address is not None and address.is_link_local)
