"""The site of a journal: pages, their events and the same as JSON, read-only and for this machine alone."""

from __future__ import annotations

import json
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import trio

from pipeline_engine.errors import JournalError
from pipeline_engine.journal import read_journal
from pipeline_engine.live.http import Events, Reply, Request
from pipeline_engine.live.pages import PAGES, error_page, render
from pipeline_engine.live.reports import report_page
from pipeline_engine.live.views import Views
from pipeline_engine.live.watching import wall_time

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    from pipeline_engine.journal import JournalPlace, JournalReader
    from pipeline_engine.live.pages import Page

__all__ = ["Site"]

_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src data:; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
# A report is a page of its own, with script in it: it may run, but is nobody here, and can ask for nothing.
_REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
)
_HTML = "text/html; charset=utf-8"
_RESOURCES = {"/site.css": "text/css; charset=utf-8", "/site.js": "text/javascript; charset=utf-8"}
_TITLES = {404: "Not found", 503: "The journal cannot be read"}
_EVENT_SECONDS = 1.0
_SIGN_OF_LIFE = 15
"""After so many looks without anything new a word is sent all the same, so that a dead connection is noticed."""
_MAX_EVENTS = 24
_READERS = 4


class Site:
    """Answer requests about one journal, which is read in threads, each time by a connection of its own.

    Args:
        place: The journal.
    """

    def __init__(self, place: JournalPlace) -> None:
        self._place = place
        views = Views(place.name)
        self._views: dict[str, Callable[..., dict[str, Any]]] = {
            "/": views.batches,
            "/batch": views.batch,
            "/document": views.document,
            "/step": views.step,
        }
        self._readers = trio.CapacityLimiter(_READERS)
        self._reporting = trio.CapacityLimiter(1)  # the page of a large batch takes seconds, and memory
        self._streams = 0

    async def answer(self, request: Request) -> Reply | Events:
        """Return the answer to a request."""
        path, query = request
        if path in _RESOURCES:
            body = files("pipeline_engine.live").joinpath(path[1:]).read_bytes()
            return Reply(body, _RESOURCES[path], policy=_POLICY)
        if path in PAGES:
            return await self._page(path, query)
        if path == "/report":
            return await self._report(query)
        prefix, _, rest = path[1:].partition("/")
        if prefix == "api" and f"/{rest}" in PAGES:
            return await self._json(f"/{rest}", query)
        if prefix == "live" and f"/{rest}" in PAGES:
            if self._streams >= _MAX_EVENTS:
                return Reply(b"too many pages are open.\n", status=503)
            return Events(self._events(f"/{rest}", query))
        return _missing(LookupError("There is no such page."))

    async def _page(self, path: str, query: Mapping[str, str]) -> Reply:
        try:
            page = await self._made(path, query)
        except (LookupError, JournalError) as error:
            return _missing(error)
        return Reply(render(page, f"/live{Request(path, query).address}").encode(), _HTML, policy=_POLICY)

    async def _json(self, path: str, query: Mapping[str, str]) -> Reply:
        try:
            told, status = await self._asked(path, query), 200
        except (LookupError, JournalError) as error:
            told, status = {"error": _message(error)}, _status(error)
        return Reply(json.dumps(told).encode(), "application/json", status)

    async def _report(self, query: Mapping[str, str]) -> Reply:
        look = partial(self._look, partial(report_page, batch=query.get("batch") or "last", key=query.get("key")))
        try:
            html = await trio.to_thread.run_sync(look, limiter=self._reporting, abandon_on_cancel=True)
        except (LookupError, JournalError) as error:
            return _missing(error)
        return Reply(html.encode("utf-8", "replace"), _HTML, policy=_REPORT_POLICY)

    async def _events(self, path: str, query: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        """Yield the parts of a page that have changed, about once a second."""
        sent: dict[str, str] = {}
        silence = 0
        self._streams += 1
        try:
            while True:
                try:
                    page = await self._made(path, query)
                except (LookupError, JournalError):
                    return  # it was pruned, or its file has gone: the page stays as it is
                news = {
                    name: html for name, html in page.parts.items() if name not in page.fixed and sent.get(name) != html
                }
                sent |= news
                silence = 0 if news else silence + 1
                if news:
                    yield b"data: " + json.dumps(news).encode() + b"\n\n"
                elif silence % _SIGN_OF_LIFE == 0:
                    yield b": nothing new\n\n"
                await trio.sleep(_EVENT_SECONDS)
        finally:
            self._streams -= 1

    async def _made(self, path: str, query: Mapping[str, str]) -> Page:
        return PAGES[path](await self._asked(path, query))

    async def _asked(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:
        look = partial(self._look, lambda reader: self._views[path](reader, query, wall_time()))
        told: dict[str, Any] = await trio.to_thread.run_sync(look, limiter=self._readers, abandon_on_cancel=True)
        return told

    def _look(self, ask: Callable[[JournalReader], Any]) -> Any:
        with read_journal(self._place) as reader:
            return ask(reader)


def _missing(error: LookupError | JournalError) -> Reply:
    status = _status(error)
    return Reply(render(error_page(_TITLES[status], _message(error)), None).encode(), _HTML, status, _POLICY)


def _status(error: LookupError | JournalError) -> int:
    return 404 if isinstance(error, LookupError) else 503


def _message(error: LookupError | JournalError) -> str:
    return str(error.args[0] if error.args else error)
