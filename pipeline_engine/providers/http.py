"""The one file of this room that does I/O: one request to a model, sent and received."""

from __future__ import annotations

import errno
import socket
import ssl
import zlib
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx2

from pipeline_engine.errors import ProviderError, RejectedError, UnavailableError
from pipeline_engine.providers.classification import unreadable_reply
from pipeline_engine.providers.replies import excerpt

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pipeline_engine.providers.adapter import Adapter, Endpoint
    from pipeline_engine.values import Completion, Request

__all__ = ["CONNECT_TIMEOUT", "MAX_REPLY_BYTES", "HttpModel", "open_transport"]

CONNECT_TIMEOUT = 10.0
"""Seconds to reach a provider, unless a step or a model says otherwise."""
MAX_REPLY_BYTES = 32 * 1024 * 1024
"""The longest reply that is read; a longer one is a fault of the server."""

_BASE_HEADERS = {
    "accept": "application/json",
    # Nothing is inflated that a hostile or broken server could have blown up.
    "accept-encoding": "identity",
    "content-type": "application/json",
    "user-agent": "pipeline-engine",
}
# Our own house is full, not the provider down: no more connections or files can be opened.
_LOCAL_ERRNOS = {
    errno.EMFILE: "too many open files",
    errno.ENFILE: "too many open files on this machine",
    errno.ENOMEM: "no memory",
    errno.ENOBUFS: "no buffer space",
    errno.EADDRNOTAVAIL: "no free local port",
}


class _Reply(NamedTuple):
    status: int
    headers: Mapping[str, str]
    body: bytes


def open_transport() -> httpx2.AsyncHTTPTransport:
    """Open the connections that the models of one engine share; close them with `aclose()`.

    How many calls run at once is the scheduler's business, so the pool has no limit of its own.
    Proxies and `.netrc` of the environment are not used: a key goes where the caller sent it.
    """
    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30.0)
    return httpx2.AsyncHTTPTransport(trust_env=False, limits=limits)


class HttpModel:
    """Ask a model over HTTP; one call is one request, and nothing is tried again in secret.

    Without `transport=` it opens connections of its own with its first call. They belong to the trio
    run that opened them: `aclose()` before that run ends.

    Args:
        endpoint: Who is asked, and the key.
        adapter: How that provider's requests and replies are written.
        model: The provider's name of the model.
        parameters: Further fields of each request, under their names on the wire.
        connect_timeout: Seconds to reach the provider, where a request does not say.
        transport: Shared connections, or a test's `httpx2.MockTransport`; whoever gives it closes it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        adapter: Adapter,
        model: str,
        *,
        parameters: Mapping[str, Any] | None = None,
        connect_timeout: float | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._adapter = adapter
        self._model = model
        self._parameters = dict(parameters or {})
        self._connect_timeout = CONNECT_TIMEOUT if connect_timeout is None else connect_timeout
        self._url = httpx2.URL(endpoint.base_url + adapter.path)
        self._shared_transport = transport
        self._own_transport: httpx2.AsyncBaseTransport | None = None

    @property
    def name(self) -> str:
        """The model as asked, `"provider:model"`."""
        return self._endpoint.name

    def __repr__(self) -> str:
        return f"<HttpModel {self.name!r} at {self._endpoint.base_url}>"

    async def complete(self, request: Request) -> Completion:
        """Send one request and return the reply.

        A caller cancelled while it waits leaves no connection half-read: it is closed. How long the
        reply may take is the caller's to bound; only reaching the provider has a timeout here.

        Raises:
            ProviderError: If there is no reply, or none that is a completion.
        """
        outcome = await self._outcome(request)
        # Raised here and not where it arose: a traceback from there holds headers and bodies in its frames.
        if isinstance(outcome, ProviderError):
            raise outcome
        return outcome

    async def aclose(self) -> None:
        """Close the model's own connections; shared ones are left to whoever opened them."""
        transport, self._own_transport = self._own_transport, None
        if transport is not None:
            await transport.aclose()

    async def _outcome(self, request: Request) -> Completion | ProviderError:
        body = self._adapter.encode(request, self._model, self._parameters)
        timeout = self._connect_timeout if request.connect_timeout is None else request.connect_timeout
        reply = await self._exchange(body, timeout)
        if isinstance(reply, ProviderError):
            return reply
        try:
            return self._adapter.decode(reply.status, reply.headers, reply.body, self._endpoint)
        except ProviderError as error:
            return error.with_traceback(None)

    async def _exchange(self, body: bytes, connect_timeout: float) -> _Reply | ProviderError:
        try:
            response = await self._transport().handle_async_request(self._request(body, connect_timeout))
            try:
                return await self._read(response)
            finally:
                await response.aclose()
        except (httpx2.TransportError, OSError) as error:
            return self._fault(error, connect_timeout)

    def _transport(self) -> httpx2.AsyncBaseTransport:
        if self._shared_transport is not None:
            return self._shared_transport
        if self._own_transport is None:
            self._own_transport = open_transport()
        return self._own_transport

    def _request(self, body: bytes, connect_timeout: float) -> httpx2.Request:
        secret = self._endpoint.secret
        keys = {} if secret is None else self._adapter.authorise(secret)
        timeouts = {"connect": connect_timeout, "read": None, "write": None, "pool": None}
        return httpx2.Request(
            "POST",
            self._url,
            headers={**_BASE_HEADERS, **keys},
            content=body,
            extensions={"timeout": timeouts},
        )

    async def _read(self, response: httpx2.Response) -> _Reply | ProviderError:
        headers = {name.lower(): value for name, value in response.headers.items()}
        status = response.status_code
        body = await _bounded(response)
        if body is None:
            lack = f"more than {MAX_REPLY_BYTES // 2**20} MiB, which is more than is read"
            return unreadable_reply(status, headers, "", self._endpoint, lack)
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding != "identity" and body:
            inflated = _inflated(body, encoding)
            if inflated is None:
                lack = "a body in an encoding that was not asked for"
                return unreadable_reply(status, headers, "", self._endpoint, lack)
            body = inflated
        return _Reply(status, headers, body)

    def _fault(self, error: Exception, connect_timeout: float) -> ProviderError:
        """Return what went wrong between us and the server, in words that hold no header and no key."""
        name, address = self._endpoint.name, self._endpoint.base_url
        causes = [*_causes(error)]
        local = next((_LOCAL_ERRNOS[cause.errno] for cause in causes if _is_local(cause)), None)
        if local is not None:
            return UnavailableError(
                f"could not be called because this process has {local}. "
                "Lower capacity=, or raise the limit of open files (ulimit -n).",
                model=name,
                kind="local",
            )
        refused = [cause for cause in causes if _is_tls_refusal(cause)]
        if refused and isinstance(error, httpx2.ConnectError):
            reason = excerpt(self._endpoint.redact(_tls_reason(refused[0])), 200)
            told = f" ({reason})" if reason else ""
            return RejectedError(
                f"could not be called safely: TLS with {address} failed{told}. "
                "Check the address, its certificate and this machine's trusted certificates.",
                model=name,
                kind="tls",
            )
        if isinstance(error, httpx2.ConnectTimeout):
            return UnavailableError(
                f"could not be reached at {address} within {connect_timeout:g} s. "
                "Check the address, or raise Timeout(connect=…).",
                model=name,
                kind="timeout",
            )
        if isinstance(error, httpx2.ConnectError):
            return UnavailableError(
                f"cannot be reached at {address}: {_why_unreachable(causes)}",
                model=name,
                kind="connect",
            )
        kind = "timeout" if isinstance(error, httpx2.TimeoutException) else "connect"
        return UnavailableError(
            f"was sent the request, but the connection to {address} broke before its reply was complete. "
            "The call may have been billed; try again.",
            model=name,
            kind=kind,
            billed="maybe",
        )


async def _bounded(response: httpx2.Response) -> bytes | None:
    """Return the body as it was sent, or None as soon as it is too long."""
    body = bytearray()
    # Not response.aread(), which knows no bound and inflates before it counts.
    chunks = aiter(response.stream)  # type: ignore[arg-type]  # a response of an async transport has an async stream
    try:
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_REPLY_BYTES:
                return None
    finally:
        if isinstance(chunks, AsyncGenerator):  # left half-way, it must not wait for the garbage collector
            await chunks.aclose()
    return bytes(body)


def _inflated(body: bytes, encoding: str) -> bytes | None:
    """Return the body without its compression, or None if it is of another kind, broken or a bomb."""
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        return None
    try:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        inflated = inflater.decompress(body, MAX_REPLY_BYTES)
    except zlib.error:
        return None
    return inflated if inflater.eof else None


def _causes(error: BaseException, depth: int = 8) -> Iterator[Any]:
    """Yield `error` and all its causes: clients wrap what the operating system said in layers."""
    yield error
    if depth == 0:
        return
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    for cause in (error.__cause__ or error.__context__, *inner):
        if cause is not None:
            yield from _causes(cause, depth - 1)


def _is_local(cause: object) -> bool:
    return isinstance(cause, OSError) and cause.errno in _LOCAL_ERRNOS


def _is_tls_refusal(cause: object) -> bool:
    """Whether TLS has refused the server; a TLS connection that just ended says nothing about it."""
    is_cut = isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
    return isinstance(cause, ssl.SSLError) and not is_cut


def _tls_reason(error: ssl.SSLError) -> str:
    """Return the reason in words, which only errors that OpenSSL itself has raised know."""
    reason = getattr(error, "verify_message", None) or getattr(error, "reason", None) or ""
    return reason.lower().replace("_", " ")


def _why_unreachable(causes: list[Any]) -> str:
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return "the connection was refused. Is the server running?"
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return "its host name is not known. Check the address and the network."
    if any(isinstance(cause, ConnectionResetError) for cause in causes):
        return "the connection was reset. Try again, and check the address."
    numbers = (cause.errno for cause in causes if isinstance(cause, OSError) and cause.errno)
    names = [errno.errorcode[number] for number in numbers if number in errno.errorcode]
    reason = f" ({names[0]})" if names else ""
    return f"no connection could be made{reason}. Check the address and the network."
