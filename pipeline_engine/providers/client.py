"""One call of a model over HTTP: a request sent, a reply read, whole or piece by piece. It retries nothing."""

from __future__ import annotations

import errno
import logging
import socket
import ssl
import traceback
import zlib
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import httpx2
import trio

from pipeline_engine.errors import ProviderError, RejectedError, StreamTruncatedError, UnavailableError
from pipeline_engine.providers.adapters.adapter import Reply
from pipeline_engine.providers.adapters.writing import UnsupportedPartError
from pipeline_engine.providers.transport import Origin, WireRequest, open_wire
from pipeline_engine.providers.wire.classification import unreadable_reply
from pipeline_engine.providers.wire.hints import odd_hint
from pipeline_engine.providers.wire.rate_limits import rate_limit_state
from pipeline_engine.providers.wire.replies import excerpt, header_id
from pipeline_engine.values import Timings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence

    from pipeline_engine.providers.adapters.adapter import ChatAdapter, EmbeddingAdapter, Endpoint, Settings
    from pipeline_engine.providers.transport import Wire, WireResponse
    from pipeline_engine.values import Completion, Embeddings, Request, TakePiece

__all__ = ["CONNECT_TIMEOUT", "MAX_REPLY_BYTES", "HttpModel"]

_log = logging.getLogger("pipeline_engine")
Answer = TypeVar("Answer", "Completion", "Embeddings")

CONNECT_TIMEOUT = 10.0
"""Seconds to reach a provider, unless a step or a model says otherwise."""
MAX_REPLY_BYTES = 32 * 1024 * 1024
"""The longest reply that is read; a longer one is a fault of the server."""
_MAX_VECTOR_BYTES = 128 * 1024 * 1024
"""The same for vectors: 2,048 of 3,072 numbers are 32 MiB in the shortest form that providers have."""
# Which kind of reply an adapter is asked to ask for.
_WHOLE, _STREAMED = False, True

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


class _Headers(tuple[tuple[bytes, bytes], ...]):
    """The headers of requests: a traceback that shows them shows their names alone."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"<headers {', '.join(name.decode() for name, _value in self)}>"


class _Target(NamedTuple):
    """Where one kind of request goes, made once for all of them."""

    origin: Origin
    target: bytes
    headers: _Headers


class HttpModel:
    """Ask a model over HTTP; one call is one request, and nothing is tried again in secret.

    Without `transport=` it opens connections of its own with its first call. They belong to the trio
    run that opened them: `aclose()` before that run ends.

    Args:
        endpoint: Who is asked, and the key.
        chat: How that provider's requests and replies are written.
        settings: How the model is asked.
        embedding: The same for vectors, where the provider has them.
        extra_headers: Further headers of each request.
        connect_timeout: Seconds to reach the provider, where a request does not say.
        transport: Shared connections, or a test's `httpx2.MockTransport`; whoever gives it closes it.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        chat: ChatAdapter,
        settings: Settings,
        *,
        embedding: EmbeddingAdapter | None = None,
        extra_headers: Mapping[str, str] | None = None,
        connect_timeout: float | None = None,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._chat = chat
        self._settings = settings
        self._embedding = embedding
        self.max_texts = 0 if embedding is None else embedding.max_texts
        """How many texts `embed` takes at once; 0 if the provider has no vectors."""
        self._connect_timeout = CONNECT_TIMEOUT if connect_timeout is None else connect_timeout
        self._shared = None if transport is None else open_wire(transport)
        self._own: Wire | None = None
        self._has_warned = False

        def target(path: str, keys: Mapping[str, str]) -> _Target:
            url = httpx2.URL(endpoint.base_url + path)
            port = url.port or (443 if url.scheme == "https" else 80)
            headers = {"host": url.netloc.decode("ascii"), **_BASE_HEADERS, **(extra_headers or {}), **keys}
            sealed = _Headers((name.lower().encode(), value.encode()) for name, value in headers.items())
            return _Target(Origin(url.scheme, url.raw_host.decode("ascii").strip("[]"), port), url.raw_path, sealed)

        keys = chat.headers(endpoint.secret)
        self._whole = target(chat.path(settings, _WHOLE), keys)
        self._streamed = target(
            chat.path(settings, _STREAMED), {**keys, "accept": "text/event-stream, application/x-ndjson"}
        )
        self._vectors = target(embedding.path(settings), embedding.headers(endpoint.secret)) if embedding else None

    @property
    def name(self) -> str:
        """The model as asked, `"provider:model"`."""
        return self._endpoint.name

    @property
    def base_url(self) -> str:
        """The address that is asked."""
        return self._endpoint.base_url

    @property
    def identity(self) -> dict[str, Any]:
        """All that makes a difference to its answers, without the key: what a journal knows its calls by."""
        settings = self._settings
        scheme, separator, rest = self.base_url.partition("://")
        return {
            "name": self.name,
            "address": f"{scheme}{separator}{rest.rpartition('@')[2].partition('?')[0]}",
            "model": settings.model,
            "temperature": settings.temperature,
            "max_tokens": settings.max_tokens,
            "seed": settings.seed,
            "structured_output": settings.structured_output,
            "extra_body": dict(settings.extra_body),
        }

    def __repr__(self) -> str:
        return f"<HttpModel {self.name!r} at {self._endpoint.base_url}>"

    async def complete(self, request: Request) -> Completion:
        """Send one request and return the reply.

        A caller cancelled while it waits leaves no connection half-read: it is closed. How long the
        reply may take is the caller's to bound; only reaching the provider has a timeout here.

        Raises:
            ProviderError: If there is no reply, or none that is a completion.
        """
        encode = partial(self._chat.encode, request, self._settings, _WHOLE)
        return await self._answered(self._whole, encode, request.connect_timeout, self._read_completion)

    async def stream(self, request: Request, take: TakePiece) -> Completion:
        """Send one request, hand on each piece of the reply as it arrives, and return the whole of it.

        While `take` waits nothing is read. What it raises, and a cancellation, close the connection.

        Raises:
            ProviderError: If there is no reply, it is none that is a completion, or it broke off.
        """
        encode = partial(self._chat.encode, request, self._settings, _STREAMED)
        read = partial(self._read_stream, take)
        return await self._answered(self._streamed, encode, request.connect_timeout, read)

    async def embed(self, texts: Sequence[str], *, connect_timeout: float | None = None) -> Embeddings:
        """Send one request for the vectors of some texts.

        Raises:
            ProviderError: If there is no reply, or none that holds a vector for each text.
        """
        embedding, target = self._embedding, self._vectors
        if embedding is None or target is None:
            raise RejectedError("has no embeddings. Bind the role to another one.", model=self.name, kind="invalid")

        async def read(response: WireResponse, _started: float) -> Embeddings:
            reply = await self._read_whole(response, _MAX_VECTOR_BYTES)
            return embedding.decode(reply, self._endpoint, len(texts))

        encode = partial(embedding.encode, texts, self._settings)
        return await self._answered(target, encode, connect_timeout, read)

    async def aclose(self) -> None:
        """Close the model's own connections; shared ones are left to whoever opened them."""
        own, self._own = self._own, None
        if own is not None:
            await own.aclose()

    async def _answered(
        self,
        target: _Target,
        encode: Callable[[], bytes],
        connect_timeout: float | None,
        read: Callable[[WireResponse, float], Awaitable[Answer]],
    ) -> Answer:
        """Make one exchange and return its answer.

        What goes wrong is raised here and not where it arose: the frames there hold keys and documents, and
        some tools print what is in frames. Where a bug arose is told in a note.
        """
        try:
            outcome = await self._outcome(target, encode, connect_timeout, read)
        except Exception as error:  # noqa: BLE001 - whatever it is, it goes on
            raise _noted(error) from None
        if isinstance(outcome, ProviderError):
            raise outcome
        return outcome

    async def _outcome(
        self,
        target: _Target,
        encode: Callable[[], bytes],
        connect_timeout: float | None,
        read: Callable[[WireResponse, float], Awaitable[Answer]],
    ) -> Answer | ProviderError:
        """Make one exchange, and return what came of it: an answer, or an error without a traceback."""
        try:
            body = encode()
        except UnsupportedPartError as error:
            return RejectedError(f"cannot be asked: {error}", model=self.name, kind="invalid")
        seconds = self._connect_timeout if connect_timeout is None else connect_timeout
        started = trio.current_time()
        try:
            response = await self._wire().send(WireRequest(*target, body, seconds))
        except (httpx2.TransportError, OSError) as error:
            fault = self._fault(error, seconds)
            fault.replays = getattr(error, "replays", 0)
            return fault
        try:
            answer = await read(response, started)
        except _BrokenOffError:
            cut = StreamTruncatedError(model=self.name, request_id=header_id(_by_name(response)))
            return _without_frames(cut, response)
        except ProviderError as error:
            self._warn_of_hint(response)
            return _without_frames(error, response)
        finally:
            await response.aclose()  # closes what is not read to its end
        timings = Timings(response.connect_seconds, answer.timings.first_token, trio.current_time() - started)
        return replace(
            answer, rate_limit=rate_limit_state(_by_name(response)), timings=timings, replays=response.replays
        )

    def _warn_of_hint(self, response: WireResponse) -> None:
        """Say once that a server asks for a wait which makes no sense: whoever runs it can mend it."""
        hint = _by_name(response).get("retry-after")
        odd = None if self._has_warned or hint is None else odd_hint(self._endpoint.redact(hint))
        if odd is not None:
            self._has_warned = True
            _log.warning(
                "model %r answered with the header retry-after: %r, which is no wait that makes sense. "
                "It is cut to a day if it is too long, and ignored otherwise.",
                self.name,
                odd,
            )

    def _wire(self) -> Wire:
        if self._shared is not None:
            return self._shared
        if self._own is None:
            self._own = open_wire(None)
        return self._own

    async def _read_completion(self, response: WireResponse, _started: float) -> Completion:
        return self._quotable(self._chat.decode(await self._read_whole(response), self._endpoint))

    def _quotable(self, completion: Completion) -> Completion:
        """Return a completion whose refusal, which will be quoted, does not hold the key."""
        refusal = completion.refusal
        return completion if refusal is None else replace(completion, refusal=self._endpoint.redact(refusal))

    async def _read_stream(self, take: TakePiece, response: WireResponse, started: float) -> Completion:
        head = Reply(response.status, _by_name(response))
        reader = self._chat.open_stream(head, self._endpoint) if head.status == 200 else None
        if reader is None:
            completion = await self._read_completion(response, started)
            if completion.text:
                await take(completion.text)
            return completion
        if _encoding(head.headers) != "identity":
            raise self._unreadable(head, "a stream in an encoding that was not asked for")
        first_token: float | None = None
        size = told = 0
        while not reader.is_complete:
            data = await _receive(response)
            if not data:
                break
            size += len(data)
            if size > MAX_REPLY_BYTES:
                raise self._too_long(head, MAX_REPLY_BYTES)
            for piece in reader.feed(data):
                if first_token is None:
                    first_token = trio.current_time() - started
                told += len(piece)
                await take(piece)
        completion = self._quotable(reader.close())
        response.release()
        if len(completion.text) > told:
            await take(completion.text[told:])  # it stood in a last event without an end
        return replace(completion, timings=Timings(first_token=first_token))

    async def _read_whole(self, response: WireResponse, max_bytes: int = MAX_REPLY_BYTES) -> Reply:
        """Return the reply with its body as it was sent, or inflated within bounds."""
        head = Reply(response.status, _by_name(response))
        body = bytearray()
        while data := await _receive(response):
            body += data
            if len(body) > max_bytes:
                raise self._too_long(head, max_bytes)
        response.release()
        encoding = _encoding(head.headers)
        if encoding == "identity" or not body:
            return head._replace(body=bytes(body))
        inflated = _inflated(bytes(body), encoding, max_bytes)
        if inflated is None:
            raise self._unreadable(head, "a body in an encoding that was not asked for")
        return head._replace(body=inflated)

    def _too_long(self, head: Reply, max_bytes: int) -> UnavailableError:
        lack = f"more than {max_bytes // 2**20} MiB, which is more than is read"
        return self._unreadable(head, lack)

    def _unreadable(self, head: Reply, lack: str) -> UnavailableError:
        return unreadable_reply(head.status, head.headers, "", self._endpoint, lack)

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
        if isinstance(error, httpx2.ProxyError):
            return RejectedError(
                f"could not be reached through the proxy: {excerpt(self._endpoint.redact(str(error)), 120)}. "
                "Check the proxy's address and what it asks for.",
                model=name,
                kind="invalid",
            )
        if isinstance(error, httpx2.RemoteProtocolError) and "without sending a response" in str(error):
            error = httpx2.ReadError("closed")  # that is how the stock transport says it
        if isinstance(error, httpx2.ProtocolError):
            return UnavailableError(
                f"answered with something that is no HTTP ({excerpt(self._endpoint.redact(str(error)), 120)}). "
                f"If it happens again, check that {address} is the base URL of this provider's interface.",
                model=name,
                kind="bad_response",
                billed="maybe",
            )
        return UnavailableError(
            f"was sent the request, but the connection to {address} broke before it answered. "
            "The call may have been billed; try again.",
            model=name,
            kind="server",
            billed="maybe",
        )


class _BrokenOffError(Exception):
    """The connection broke in the middle of a reply."""


async def _receive(response: WireResponse) -> bytes:
    try:
        return await response.receive()
    except (httpx2.TransportError, OSError):
        pass
    # Raised here, so that no frame of the transport hangs on it.
    raise _BrokenOffError


def _by_name(response: WireResponse) -> dict[str, str]:
    """Return the headers under their names; of two with one name the last one counts."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}


def _encoding(headers: Mapping[str, str]) -> str:
    return headers.get("content-encoding", "identity").strip().lower() or "identity"


def _noted(error: Exception) -> Exception:
    """Return the error without its frames, and with a note that says where they were."""
    places = traceback.format_list(traceback.extract_tb(error.__traceback__))
    error.add_note("It arose here:\n" + "".join(places))
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


def _without_frames(error: ProviderError, response: WireResponse) -> ProviderError:
    """Return the error without its traceback, whose frames hold headers and bodies."""
    error.replays = response.replays
    error.__context__ = None
    return error.with_traceback(None)


def _inflated(body: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """Return the body without its compression, or None if it is of another kind, broken or a bomb."""
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        return None
    try:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)
        inflated = inflater.decompress(body, max_bytes)
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
