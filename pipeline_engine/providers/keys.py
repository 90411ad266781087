"""What goes into a request's headers: the key, and what the user adds to it. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pipeline_engine.providers.addresses import RefusedError, is_exposed
from pipeline_engine.providers.secrets import Secret
from pipeline_engine.text import one_line, sentence_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["checked_headers", "found_key"]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\x20-\x7e]*")
_KEY_HEADERS = frozenset({"api-key", "authorization", "cookie", "proxy-authorization", "x-api-key", "x-goog-api-key"})
# They say how the request is sent and how its reply is read, which whoever does that must know.
_OWN_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type", "expect"}
    | {"host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
)


def found_key(
    given: str | Secret | None, names: Sequence[str], environ: Mapping[str, str], base_url: str
) -> tuple[str, Secret | None]:
    """Return where the key comes from or would be looked for, for messages, and the key.

    Args:
        given: What the user has said; empty if no key shall be sent, None if it stands in the environment.
        names: Variables of the environment that may hold the key; the first that does counts.
        environ: The environment.
        base_url: Where the key would be sent.

    Raises:
        RefusedError: If it can be no key, or may not be sent there.
    """
    if isinstance(given, Secret):
        return "api_key=", given
    source, value = _source(given, names, environ)
    if not value:
        return " or ".join(names), None
    if not value.isascii() or not value.isprintable() or " " in value:
        raise RefusedError(
            f"has a key in {source} with characters that no key has, such as a line break. Copy it again."
        )
    if given is None and is_exposed(base_url):
        raise RefusedError(
            f"would send {source} in clear text to {base_url}. Use https, or pass api_key= to say "
            'which key that server gets (api_key="" for none).'
        )
    return source, Secret(value)


def _source(given: str | None, names: Sequence[str], environ: Mapping[str, str]) -> tuple[str, str]:
    if given is not None:
        return "api_key=", given.strip()
    found = ((name, environ.get(name, "").strip()) for name in names)
    return next(((name, value) for name, value in found if value), ("", ""))


def checked_headers(headers: Mapping[Any, Any], taken: Iterable[str]) -> dict[str, str]:
    """Return the user's headers under lower-case names.

    Args:
        headers: What the user adds to each request: from a file it may be of any type.
        taken: The names of those that the provider's own requests have.

    Raises:
        RefusedError: If one of them may not be sent; the message shows no value.
    """
    for name, value in headers.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise RefusedError(f"has a header in extra_headers= whose name {one_line(str(name), 80)!r} no header has.")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise RefusedError(
                f"has a value for {name!r} in extra_headers= with characters that no header has, such as a "
                "line break. Give plain ASCII text."
            )
    lowered = {name.lower(): value for name, value in headers.items()}
    if keys := sorted(_KEY_HEADERS & lowered.keys()):
        raise RefusedError(f"cannot take {sentence_list(keys)} in extra_headers=. The key goes into api_key=.")
    if written := sorted((_OWN_HEADERS | {*taken}) & lowered.keys()):
        raise RefusedError(f"cannot take {sentence_list(written)} in extra_headers=. The engine writes them itself.")
    return lowered
