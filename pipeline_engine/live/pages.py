"""The site's pages: views as HTML. Whatever comes from a journal is a stranger's text, and goes through `_safe`."""

from __future__ import annotations

import json
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline_engine.live.histories import json_text
from pipeline_engine.live.http import Request
from pipeline_engine.live.picture import model_text, pace_of, spent_text, wait_name
from pipeline_engine.live.views import STATUSES
from pipeline_engine.report.numbers import count_text, counted, seconds_text
from pipeline_engine.report.present import Present
from pipeline_engine.text import one_line, safe_text
from pipeline_engine.values import Cost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["PAGES", "Page", "error_page", "render"]

_MARKS = {
    "completed": "✓",
    "partial": "◐",
    "failed": "✗",
    "stopped": "■",
    "skipped": "–",
    "dropped": "✗",
    "queued": "…",
    "processing": "▶",
    "parked": "‖",
    "running": "▶",
    "interrupted": "✗",
    "done": "✓",
    "open": "…",
}
_SHOWN = 400
_MAX_TEXT = 200_000


class Page(NamedTuple):
    """A page in its parts: those of a page that is open are replaced when they change."""

    title: str
    trail: tuple[tuple[str, str], ...]
    """The pages above it: names and addresses."""
    parts: dict[str, str]
    """HTML by the id of its section."""
    fixed: frozenset[str] = frozenset()
    """The sections that are never replaced, such as a form that somebody fills in."""


def render(page: Page, live: str | None) -> str:
    """Return a whole page.

    Args:
        page: Its parts.
        live: Where its events come from; None if it does not change.
    """
    trail = "".join(f'<a href="{_safe(address)}">{_safe(name)}</a> ' for name, address in page.trail)
    sections = "".join(f'<section id="{name}">{html}</section>' for name, html in page.parts.items())
    follow = f' data-live="{_safe(live)}"' if live else ""
    status = '<p id="live" role="status">not live without script</p>' if live else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{_safe(page.title)}</title><link rel="stylesheet" href="/site.css">'
        '<link rel="icon" href="data:,"><script src="/site.js" defer></script></head>'
        f'<body{follow}><header><nav aria-label="Where this is">{trail}</nav>{status}</header>'
        f"<main><h1>{_safe(page.title)}</h1>{sections}</main></body></html>"
    )


def error_page(title: str, message: str) -> Page:
    """Return the page of something that is not there."""
    return Page(title, (("batches", "/"),), {"error": f"<p>{_safe(message)}</p>"})


def _safe(text: object) -> str:
    return escape(safe_text(str(text)))


def _line(text: object, width: int = _SHOWN) -> str:
    return _safe(one_line(str(text)[: 4 * width], width))


def _link(path: str, text: object, **query: object) -> str:
    asked = {name: str(value) for name, value in query.items() if value not in (None, "")}
    return f'<a href="{_safe(Request(path, asked).address)}">{_line(text)}</a>'


def _mark(status: str) -> str:
    return f'<span class="mark {_safe(status)}">{_MARKS.get(status, "·")} {_safe(status)}</span>'


def _table(label: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a column whose name ends in `#` holds numbers. Cells are HTML."""
    numbers = [column.endswith("#") for column in columns]
    heads = "".join(
        f'<th scope="col"{_number(is_number)}>{_safe(column.rstrip("#"))}</th>'
        for column, is_number in zip(columns, numbers, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(f"<td{_number(n)}>{cell}</td>" for cell, n in zip(row, numbers, strict=True)) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_safe(label)}">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _number(is_number: bool) -> str:  # noqa: FBT001 - the only thing that a cell is asked
    return ' class="number"' if is_number else ""


def _cost(told: Mapping[str, Any]) -> str:
    cost = Cost(told.get("cost_usd", 0.0), unpriced_calls=told.get("unpriced_calls", 0))
    known = str(Cost(cost.usd))
    return known if cost.is_known else f"{known} + ?" if cost.usd else "unknown"


def _at(told: str | None) -> str:
    """Return a time as the clock on the wall here shows it."""
    return "" if told is None else f"{datetime.fromisoformat(told).astimezone():%Y-%m-%d %H:%M:%S}"


def _counts(documents: Mapping[str, int]) -> str:
    return " · ".join(f"{documents[status]:,} {status}" for status in STATUSES if documents.get(status)) or "none yet"


# Batches


def _batches(told: Mapping[str, Any]) -> Page:
    rows = [
        [
            _link("/batch", batch["batch"], batch=batch["batch"]),
            _line(batch["pipeline"], 60) + (" (single runs)" if batch["is_single"] else ""),
            _mark(batch["state"]),
            _safe(_at(batch["created_at"])),
            _safe(_counts(batch["documents"])),
            _safe(count_text(batch["calls"])),
            _safe(_cost(batch)),
        ]
        for batch in told["batches"]
    ]
    columns = ["batch", "pipeline", "state", "began", "documents", "calls#", "cost#"]
    html = _table("Batches", columns, rows) if rows else "<p>This journal has no batch yet.</p>"
    if told["has_more"]:
        html += '<p class="quiet">There are older ones; `pipeline-engine batches --all` lists them.</p>'
    if told["single_runs"] and not told["with_single"]:
        more = counted(told["single_runs"], "single run")
        html += f'<p class="quiet">{_link("/", f"and {more} beside them", all=1)}</p>'
    return Page(f"Journal {one_line(told['journal'], 60)}", (), {"batches": html})


# A batch


def _batch(told: Mapping[str, Any]) -> Page:
    moment = told["moment"]
    parts = {"now": _now(moment), "find": _form(told), "documents": _documents(told)}
    return Page(f"Batch {moment['batch']}", (("batches", "/"),), parts, frozenset({"find"}))


def _now(moment: Mapping[str, Any]) -> str:
    present = Present.from_json(moment["now"])
    lines = [f"pipeline {_line(moment['pipeline'], 60)} · began {_safe(_at(moment['created_at']))}"]
    if moment["state"] == "running":
        processes = "a process" if moment["processes"] == 1 else f"{moment['processes']} processes"
        lines.append(f"{processes} at work · {_safe(seconds_text(present.elapsed))} so far")
    if moment["state"] == "interrupted":
        how = "<code>pipeline-engine resume</code>" if moment["command"] else "the program that has started it"
        lines.append(f"its process has ended: {how} goes on with it")
    if moment["calls"]:
        lines.append(_link("/report", "report", batch=moment["batch"]))
    return (
        f"<p>{_mark(moment['state'])} {' · '.join(lines)}</p>{_bar(moment, present)}{_tiles(moment, present)}"
        f"{_waits(present)}{_models(present)}{_errors(present)}{_longest(moment, present)}"
    )


def _bar(moment: Mapping[str, Any], present: Present) -> str:
    if present.total is None:
        return ""
    left = f", about {seconds_text(present.left)} left" if present.left is not None else ""
    text = f"{present.finished:,} of {counted(present.total, 'document')}{left}"
    bar = f'<progress max="{max(1, present.total)}" value="{present.finished}" aria-label="documents"></progress>'
    return f'<p class="bar">{bar} {text}</p>'


def _tiles(moment: Mapping[str, Any], present: Present) -> str:
    spent = spent_text(present) or _cost(moment)
    tiles = [("documents", _counts(moment["documents"])), ("spent", spent)]
    if moment["state"] == "running":
        calls = " · ".join(f"{one_line(step, 30)} {count_text(count)}" for step, count in present.attempts.items())
        tiles.append(
            ("calls in flight", f"{present.calls:,} of {present.capacity:,} slots{': ' if calls else ''}{calls}")
        )
        tiles.append(("pace", " · ".join(pace_of(present)) or "nothing has ended yet"))
    cells = "".join(f"<div><dt>{name}</dt><dd>{_safe(text)}</dd></div>" for name, text in tiles)
    return f'<dl class="tiles">{cells}</dl>'


def _waits(present: Present) -> str:
    if not present.waits or present.is_over:
        return ""
    most = max(present.waits.values())
    rows = [
        [_safe(wait_name(cause)), _safe(f"{count:,}"), f'<meter min="0" max="{most}" value="{count}"></meter>']
        for cause, count in sorted(present.waits.items(), key=lambda entry: (-entry[1], entry[0]))
    ]
    return f"<h2>Waiting for</h2>{_table('What steps wait for', ['what', 'steps#', 'share'], rows)}"


def _models(present: Present) -> str:
    if not present.models or present.is_over:
        return ""
    rows = [[_line(name, 60), _safe(model_text(model))] for name, model in sorted(present.models.items())]
    return f"<h2>Models</h2>{_table('Models', ['model', 'calls in flight'], rows)}"


def _errors(present: Present) -> str:
    rows = [
        ["failed", _safe(f"{error.times:,}"), _line(error.kind, 60), _line(error.message)] for error in present.errors
    ]
    rows += [
        ["attempts", _safe(f"{fault.times:,}"), _line(fault.kind, 60), _line(fault.message)] for fault in present.faults
    ]
    if not rows:
        return ""
    return f"<h2>Errors</h2>{_table('Errors', ['what', 'times#', 'kind', 'the last one said'], rows)}"


def _longest(moment: Mapping[str, Any], present: Present) -> str:
    if not present.longest or present.is_over:
        return ""
    rows = [
        [
            _link("/document", one.document, batch=moment["batch"], key=one.document),
            _safe(seconds_text(one.elapsed)),
            _line(one.step or "", 60),
            "is tried" if one.cause is None else f"waits: {_safe(wait_name(one.cause))}",
        ]
        for one in present.longest
    ]
    return f"<h2>Longest in flight</h2>{_table('Longest in flight', ['document', 'for#', 'step', 'doing'], rows)}"


def _form(told: Mapping[str, Any]) -> str:
    options = "".join(
        f"<option{' selected' if status == told['status'] else ''}>{status}</option>" for status in STATUSES
    )
    batch = _safe(told["moment"]["batch"])
    return (
        f'<h2>Documents</h2><form action="/batch"><input type="hidden" name="batch" value="{batch}">'
        f'<label>Key holds <input name="part" type="search" value="{_safe(told["part"])}"></label> '
        f'<label>Status <select name="status"><option value="">any</option>{options}</select></label> '
        "<button>Find</button></form>"
    )


def _documents(told: Mapping[str, Any]) -> str:
    batch = told["moment"]["batch"]
    rows = [
        [
            _link("/document", document["document"], batch=batch, key=document["document"]),
            _mark(document["status"]),
            _safe(seconds_text(document["elapsed"]) if document["ended_at"] else ""),
            _safe(count_text(document["calls"])),
            _safe(count_text(document["tokens"])),
            _safe(_cost(document)),
            _line(document["reason"], 200),
        ]
        for document in told["shown"]
    ]
    if not rows:
        return "<p>No document is like that.</p>" if told["part"] or told["status"] else "<p>No document yet.</p>"
    columns = ["document", "status", "took#", "calls#", "tokens#", "cost#", "because"]
    asked = {"batch": batch, "status": told["status"], "part": told["part"]}
    pages = [_link("/batch", "first page", **asked)] if told["after"] is not None else []
    pages += [_link("/batch", "next page", **asked, after=told["next"])] if told["next"] is not None else []
    return _table("Documents", columns, rows) + (f"<p>{' · '.join(pages)}</p>" if pages else "")


# A document


def _document(told: Mapping[str, Any]) -> Page:
    key, batch = told["document"], told["asked_by"]
    facts = [_mark(told["status"]), f"pipeline {_line(told['pipeline'], 60)}"]
    facts += [f"took {_safe(seconds_text(told['elapsed']))}"] if told["ended_at"] else []
    facts += [
        _safe(counted(told["calls"], "call")),
        _safe(f"{count_text(told['tokens'])} tokens"),
        f"cost {_safe(_cost(told))}",
    ]
    if told["ended_at"]:
        facts.append(_link("/report", "report", batch=batch, key=key))
    html = f"<p>{' · '.join(facts)}</p>"
    html += f"<p>because: {_line(told['reason'], 1000)}</p>" if told["reason"] else ""
    html += f'<p class="quiet">read from {_line(told["source"])}</p>' if told["source"] else ""
    steps = [
        [
            _link("/step", step["step"], batch=batch, key=key, step=step["step"]),
            _mark(step["outcome"]),
            _safe(count_text(step["calls"])),
            _safe(_cost(step)),
            _line(step["text"]),
        ]
        for step in told["steps"]
    ]
    columns = ["step", "outcome", "calls#", "cost#", "output, or why there is none"]
    html += f"<h2>Steps</h2>{_table('Steps', columns, steps)}"
    html += _attempts(told["attempts"], told["earlier_attempts"])
    inputs = "".join(_text(name, json_text(value)) for name, value in told["inputs"].items())
    inputs = f"<h2>Inputs</h2>{inputs}" if inputs else ""
    title = f"Document {one_line(key, 80)}"
    return Page(title, _trail(batch), {"document": html, "inputs": inputs}, frozenset({"inputs"}))


def _trail(batch: str, key: str | None = None) -> tuple[tuple[str, str], ...]:
    above = (("batches", "/"), (f"batch {batch}", Request("/batch", {"batch": batch}).address))
    if key is None:
        return above
    return (*above, (one_line(key, 40), Request("/document", {"batch": batch, "key": key}).address))


def _attempts(attempts: Sequence[Mapping[str, Any]], earlier: int = 0) -> str:
    if not attempts:
        return ""
    rows = [
        [
            _line(one["step"], 40) + ("" if one["item"] is None else f"[{one['item']}]"),
            _safe(one["attempt"]),
            _line(one["model"] or "function", 60),
            _safe(_at(one["started_at"] or one["ended_at"])[11:]),
            _safe("in flight" if one["state"] == "open" else one["state"]) + (" (void)" if one["is_void"] else ""),
            _safe("" if one["tokens"] is None else count_text(one["tokens"])),
            _safe(_cost(one) if "cost_usd" in one else ""),
            _line(": ".join(filter(None, (one["kind"], one["message"])))),
        ]
        for one in attempts
    ]
    more = f'<p class="quiet">and {counted(earlier, "earlier attempt")}</p>' if earlier else ""
    columns = ["step", "attempt#", "model", "at", "came to", "tokens#", "cost#", "error"]
    return f"<h2>Attempts</h2>{_table('Attempts', columns, rows)}{more}"


# A step


def _step(told: Mapping[str, Any]) -> Page:
    key, batch = told["document"], told["asked_by"]
    item = "" if told["item"] is None else f"[{told['item']}]"
    because = f" because {_line(told['why'], 1000)}" if told["why"] else ""
    html = f"<p>{_mark(told['outcome'])}{because}</p>"
    if told["items"] and told["item"] is None:
        links = " ".join(
            _link("/step", number, batch=batch, key=key, step=told["step"], item=number) for number in told["items"]
        )
        more = f" and {told['more_items']:,} more" if told["more_items"] else ""
        html += f"<h2>Items</h2><p>{links}{more}</p>"
    html += _attempts(told["attempts"])
    bodies = "<h2>Prompts, replies and outputs</h2>" if told["calls"] or told["outputs"] else ""
    bodies += "".join(_call(call) for call in told["calls"])
    for output in told["outputs"]:
        via = f", via {one_line(output['via'], 60)}" if output["via"] else ""
        value = "" if output["bytes"] == 0 else json.dumps(output["output"], ensure_ascii=False, indent=2)
        bodies += _text(f"output{via}", value, is_open=True)
    return Page(
        f"Step {one_line(told['step'], 60)}{item}",
        _trail(batch, key),
        {"step": html, "bodies": bodies},
        frozenset({"bodies"}),
    )


def _call(call: Mapping[str, Any]) -> str:
    of = f"{one_line(call['model'], 60)}, call {one_line(call['key'], 13)}"
    html = ""
    for message in call["prompt"] or ():
        text = "\n".join(part if isinstance(part, str) else f"({json.dumps(part)})" for part in message["parts"])
        html += _text(f"prompt to {of}: {one_line(message['role'], 20)}", text)
    if call["prompt"] is None:
        html += f"<p>The prompt cannot be shown: {_line(call['prompt_error'])}.</p>"
    reply = call["reply"]
    text = reply["text"] if isinstance(reply, dict) and isinstance(reply.get("text"), str) else json_text(reply)
    note = "" if call["is_intact"] else " (not what was written)"
    return html + _text(f"raw reply of {of}{note}", text, is_open=True)


def _text(title: str, text: str, *, is_open: bool = False) -> str:
    """Return a long text that can be opened."""
    more = f"\n… and {count_text(len(text) - _MAX_TEXT)} more characters" if len(text) > _MAX_TEXT else ""
    return (
        f"<details{' open' if is_open else ''}><summary>{_line(title, 200)}</summary>"
        f'<pre tabindex="0">{_safe(text[:_MAX_TEXT])}{more}</pre></details>'
    )


PAGES: Mapping[str, Callable[[Mapping[str, Any]], Page]] = {
    "/": _batches,
    "/batch": _batch,
    "/document": _document,
    "/step": _step,
}
"""The pages by their paths, each made of what the view of that path has answered."""
