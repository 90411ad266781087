"""Where a model may be: whether an address can be right, and whether a key may be sent there. Pure."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["RefusedError", "checked_address", "gemini_address", "host_of", "is_exposed", "ollama_address"]

_METADATA_HOSTS = frozenset({"metadata", "metadata.google.internal", "fd00:ec2::254"})
_HOST_AND_PORT = re.compile(r"(?P<host>\[.*\]|[^:\[\]]*)(?::(?P<port>\d*))?")
_GEMINI_VERSION = re.compile(r"/v\d+(?:(?:alpha|beta)\d*)?")


class RefusedError(ValueError):
    """Raised for what would make a model unusable; the message is a sentence that begins with its verb."""


def checked_address(address: str, path: str, surplus: Iterable[str] = ()) -> str:
    """Return a base URL without its last slash, if a key may be sent there.

    Args:
        address: What was given.
        path: What follows it in requests.
        surplus: Ends that base URLs of other providers have, and this one's must not.

    Raises:
        RefusedError: If it may not be asked.

    Example:
        >>> checked_address("https://api.example/v1/", "/chat/completions")
        'https://api.example/v1'
    """
    shown = one_line(address, 200)
    try:
        parts = urlsplit(address)
        host, _port = parts.hostname or "", parts.port
    except ValueError:
        raise RefusedError(f"has the base URL {shown!r}, which is not an address.") from None
    if "@" in parts.netloc or parts.query or parts.fragment:
        # Not shown: what stands there may be a password.
        raise RefusedError(
            "has a base URL with a user, a query or a fragment. Give scheme, host and path; the key goes into api_key=."
        )
    is_plain = address.isascii() and address.isprintable() and " " not in address
    if parts.scheme not in {"http", "https"} or not host or not is_plain:
        raise RefusedError(f"has the base URL {shown!r}. Give one that begins with https:// and names a host.")
    if _is_forbidden(host):
        raise RefusedError(f"has the base URL {shown!r}, which serves this machine's own credentials.")
    base_url = address.rstrip("/")
    if base_url.endswith(path):
        raise RefusedError(f"has the base URL {shown!r}. Leave out {path!r}: it is added to the base URL.")
    for end in surplus:
        if base_url.endswith(end):
            raise RefusedError(f"has the base URL {shown!r}. Leave out {end!r}: it is no part of this provider's.")
    return base_url


def host_of(base_url: str) -> str:
    """Return the host of a checked address, in lower case."""
    return urlsplit(base_url).hostname or ""


def is_exposed(base_url: str) -> bool:
    """Return whether others could read what is sent there: it goes in clear text to another machine.

    Example:
        >>> [is_exposed(url) for url in ("http://gpu-box", "http://127.0.0.1:8000", "https://gpu-box")]
        [True, False, False]
    """
    return urlsplit(base_url).scheme == "http" and not _is_loopback(host_of(base_url))


def ollama_address(text: str) -> str:
    """Return a URL for what Ollama's own tools take: a host, a port or both, with or without a scheme.

    Example:
        >>> [ollama_address(text) for text in ("gpu-box", ":8080", "0.0.0.0", "https://ollama.com")]
        ['http://gpu-box:11434', 'http://127.0.0.1:8080', 'http://127.0.0.1:11434', 'https://ollama.com']
    """
    text = text.strip().strip("\"'").strip()
    scheme, marker, rest = text.partition("://")
    if not marker:
        scheme, rest = "http", text
    authority, slash, path = rest.partition("/")
    if _is_bare_ipv6(authority):
        authority = f"[{authority}]"
    match = _HOST_AND_PORT.fullmatch(authority)
    if match is None:
        return f"{scheme}://{rest}"
    # What a server listens on is no address to call: it means this machine.
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(match["host"], match["host"])  # noqa: S104
    port = match["port"] or ("" if marker else "11434")
    return f"{scheme}://{host}{':' if port else ''}{port}{slash}{path}"


def gemini_address(text: str) -> str:
    """Return a base URL with the version that Google's own tools add to it.

    Example:
        >>> gemini_address("https://gateway.example/"), gemini_address("https://gateway.example/v1")
        ('https://gateway.example/v1beta', 'https://gateway.example/v1')
    """
    base_url = text.rstrip("/")
    _, slash, last = base_url.rpartition("/")
    return base_url if _GEMINI_VERSION.fullmatch(slash + last) else f"{base_url}/v1beta"


def _is_bare_ipv6(text: str) -> bool:
    try:
        return isinstance(ipaddress.ip_address(text), ipaddress.IPv6Address)
    except ValueError:
        return False


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
