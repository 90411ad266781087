"""The command `show`: documents of a batch, all that has happened to one of them, exact prompts and raw replies."""

from __future__ import annotations

import json
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.text import Text

from pipeline_engine.cli.failing import COMPLETED, CommandError
from pipeline_engine.cli.journals import (
    MARKS,
    cost_text,
    counts_text,
    opened,
    print_json,
    print_lines,
    table_of,
    time_text,
)
from pipeline_engine.cli.progress import console_for
from pipeline_engine.live.histories import call_of, json_text, outcome_of, output_of, step_names, why
from pipeline_engine.report.numbers import count_text, counted, seconds_text
from pipeline_engine.text import display_width, one_line, safe_text, sentence_list
from pipeline_engine.values import Cost

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

    from pipeline_engine.journal import JournalReader
    from pipeline_engine.journal.reading import (
        StoredAttempt,
        StoredBatch,
        StoredBody,
        StoredDocument,
        StoredHistory,
    )

__all__ = ["show"]

_SHOWN_DOCUMENTS = 50
_SHOWN_OUTPUT = 200
_SHOWN_REASON = 90
_STYLES = {"completed": "green", "partial": "yellow", "failed": "red", "stopped": "yellow", "parked": "red"}


def show(arguments: Namespace) -> int:
    """Show what was asked for.

    Raises:
        CommandError: If it is not in the journal, or the options make no sense together.
        JournalError: If the journal cannot be read.
    """
    if arguments.step is not None and arguments.document is None:
        raise CommandError("--step needs --document: name the document whose step is meant.")
    if arguments.item is not None and arguments.step is None:
        raise CommandError("--item needs --step: name the mapped step whose item is meant.")
    with opened(arguments) as reader:
        batch = reader.batch(arguments.batch)
        if arguments.document is None:
            _show_batch(reader, batch, arguments)
            return COMPLETED
        document = reader.document(batch.pipeline, arguments.document)
        history = reader.history(document)
        if arguments.step is None:
            _show_document(reader, batch, history, is_json=arguments.json)
        else:
            _show_step(reader, _Step(reader, history, arguments.step, arguments.item), is_json=arguments.json)
    return COMPLETED


# A batch


def _show_batch(reader: JournalReader, batch: StoredBatch, arguments: Namespace) -> None:
    found = reader.documents(batch.pipeline, batch.batch, arguments.statuses)
    if arguments.json:
        for document in islice(found, arguments.limit):
            print_json(document.told())
        return
    console = console_for(sys.stdout)
    print_lines(console, [*_batch_lines(batch), ""])
    limit = arguments.limit or _SHOWN_DOCUMENTS
    shown = list(islice(found, limit))
    if shown:
        console.print(_documents_table(shown))
    counted_here = [batch.documents.get(status, 0) for status in arguments.statuses] or batch.documents.values()
    more = sum(counted_here) - len(shown)
    if more > 0:
        print_lines(console, [f"… and {counted(more, 'more document')}; --limit N or --json shows them."])
    elif not shown:
        print_lines(console, ["No document: a document belongs to the last batch that has asked for it."])


def _batch_lines(batch: StoredBatch) -> Iterator[str]:
    yield f"batch {batch.batch} · pipeline {one_line(batch.pipeline)} · {batch.state}"
    took = "" if batch.ended_at is None else f", took {seconds_text(batch.ended_at - batch.created_at)}"
    yield f"started {time_text(batch.created_at)}{took}, with version {one_line(batch.engine_version)}"
    words = batch.command.get("argv")
    if isinstance(words, list) and words:
        yield f"by: pipeline-engine {one_line(' '.join(map(str, words)))}"
    spent = f"{counted(batch.calls, 'call')}, {count_text(batch.tokens)} tokens, {batch.cost}"
    yield f"documents: {counts_text(batch.documents)} · {spent}"


def _documents_table(documents: Sequence[StoredDocument]) -> Table:
    table = table_of(
        [
            ("document", "fold"),
            ("status", "left"),
            ("took", "right"),
            ("calls", "right"),
            ("tokens", "right"),
            ("cost", "right"),
            *([("reason", "fold")] if any(document.reason for document in documents) else []),
        ]
    )
    for document in documents:
        table.add_row(
            Text(one_line(document.document)),
            _status(document.status),
            Text(_took(document)),
            Text(count_text(document.calls)),
            Text(count_text(document.tokens)),
            Text(cost_text(document.cost)),
            *([Text(_reason(document))] if len(table.columns) > 6 else []),
        )
    return table


def _reason(document: StoredDocument) -> str:
    """Return why a document did not complete, without its own name, which stands beside it."""
    return one_line(document.reason.replace(f" of document {document.document!r}", ""), _SHOWN_REASON)


def _status(status: str) -> Text:
    return Text(f"{MARKS[status]} {status}", style=_STYLES.get(status, ""))


def _took(document: StoredDocument) -> str:
    return "" if document.ended_at is None else seconds_text(document.elapsed)


# A document


def _show_document(reader: JournalReader, batch: StoredBatch, history: StoredHistory, *, is_json: bool) -> None:
    document = history.document
    if is_json:
        outputs = [output.told() | {"output": output_of(reader, document, output)} for output in history.outputs]
        told = {"pipeline": document.pipeline} | document.told() | {"outcomes": history.outcomes, "outputs": outputs}
        print_json(told | {"attempts": [attempt.told() for attempt in history.attempts]})
        return
    console = console_for(sys.stdout)
    print_lines(console, [*_document_lines(reader, history), ""])
    console.print(_steps_table(reader, batch, history))
    unanswered = [attempt for attempt in history.attempts if attempt.state != "replied"]
    if unanswered:
        print_lines(console, ["", "attempts without a reply:"])
        print_lines(console, (f"  {_of(attempt)}{_attempt_text(attempt)}" for attempt in unanswered))


def _document_lines(reader: JournalReader, history: StoredHistory) -> Iterator[str]:
    document = history.document
    took = f", took {_took(document)}" if document.ended_at is not None else ""
    yield f"document {one_line(document.document)} of pipeline {one_line(document.pipeline)}: {document.status}{took}"
    if document.reason:
        yield f"because: {one_line(document.reason)}"
    if document.crash_count:
        yield f"{counted(document.crash_count, 'process')} ended in a row while it was worked on"
    yield f"{counted(document.calls, 'call')}, {count_text(document.tokens)} tokens, {document.cost}"
    yield f"last asked for by batch {document.batch}, {time_text(document.admitted_at)}"
    if document.source is not None:
        yield f"read from: {one_line(document.source)}"
    for name, value in ((None if document.inputs is None else reader.inputs(document.inputs)) or {}).items():
        yield f"input {one_line(name)}: {one_line(json_text(value), _SHOWN_OUTPUT)}"


def _steps_table(reader: JournalReader, batch: StoredBatch, history: StoredHistory) -> Table:
    table = table_of(
        [
            ("step", "fold"),
            ("outcome", "left"),
            ("calls", "right"),
            ("cost", "right"),
            ("output, or why there is none", "fold"),
        ]
    )
    for name in step_names(batch, history):
        own = [attempt for attempt in history.attempts if attempt.step == name]
        spent = sum((attempt.cost for attempt in own if attempt.cost is not None), Cost())
        outcome, text = outcome_of(reader, history, name)
        if outcome == "completed" and name in history.outcomes.get("widths", {}):
            text += f"; --step {name} --item N shows one"
        table.add_row(
            Text(one_line(name)),
            _status(outcome) if outcome in MARKS else Text(outcome),
            Text(str(sum(attempt.call is not None for attempt in own))),
            Text(cost_text(spent) if own else ""),
            Text(one_line(text, _SHOWN_OUTPUT)),
        )
    return table


def _of(attempt: StoredAttempt) -> str:
    item = "" if attempt.item is None else f"[{attempt.item}]"
    return f"{one_line(attempt.step)}{item} "


def _attempt_text(attempt: StoredAttempt) -> str:
    """Return an attempt on one line."""
    parts = [f"attempt {attempt.attempt}", one_line(attempt.model or "function")]
    at = attempt.started_at if attempt.started_at is not None else attempt.ended_at
    parts.append(time_text(at)[11:])
    took = ""
    if attempt.started_at is not None and attempt.ended_at is not None:
        took = f" after {seconds_text(max(0.0, attempt.ended_at - attempt.started_at))}"
    if attempt.state == "replied":
        parts.append(f"replied{took}")
        parts += [f"{count_text(attempt.tokens)} tokens"] if attempt.tokens is not None else []
        parts += [cost_text(attempt.cost)] if attempt.cost is not None else []
        parts += ["led to a failure"] if attempt.is_void else []
    elif attempt.state == "failed":
        status = f" {attempt.status}" if attempt.status is not None else ""
        parts.append(f"failed{took}: {attempt.kind}{status}: {one_line(attempt.message or '')}")
        billed = {"yes": "billed", "no": "not billed", "unknown": "possibly billed"}
        parts.append(billed.get(attempt.billed or "", "possibly billed"))
    elif attempt.state == "open":
        parts.append("in flight")
    else:
        parts.append("end unknown, possibly billed")
    return " · ".join(parts)


# A step


class _Step:
    """Hold what there is of one step or item of a document."""

    def __init__(self, reader: JournalReader, history: StoredHistory, step: str, item: int | None) -> None:
        known = step_names(reader.batch(history.document.batch), history)
        if step not in known:
            raise CommandError(
                f"document {history.document.document!r} has no step {step!r}. "
                f"Its steps are {sentence_list(known) if known else 'not known yet'}."
            )
        self.document = history.document
        self.step = step
        self.item = item
        self.width: int | None = history.outcomes.get("widths", {}).get(step)
        self.outputs = [output for output in history.outputs if output.step == step and self._is_asked(output.item)]
        self.attempts = [made for made in history.attempts if made.step == step and self._is_asked(made.item)]
        self.bodies = reader.replies(self.document, step, item)
        self.told: Sequence[Any] | None = history.outcomes.get("steps", {}).get(step)
        if item is not None and self.width is not None:
            if item >= self.width:
                raise CommandError(f"step {step!r} has {counted(self.width, 'item')}; --item counts from 0.")
            lost: Mapping[str, Any] = history.outcomes.get("items", {}).get(step, {})
            self.told = lost.get(str(item), ["completed", None])

    def _is_asked(self, item: int | None) -> bool:
        return self.item is None or item == self.item

    @property
    def name(self) -> str:
        item = "" if self.item is None else f"[{self.item}]"
        return f"{one_line(self.step)}{item}"


def _show_step(reader: JournalReader, step: _Step, *, is_json: bool) -> None:
    if is_json:
        print_json(
            {
                "document": step.document.document,
                "step": step.step,
                "item": step.item,
                "outcome": step.told,
                "attempts": [attempt.told() for attempt in step.attempts],
                "calls": [call_of(reader, body) for body in step.bodies],
                "outputs": [out.told() | {"output": output_of(reader, step.document, out)} for out in step.outputs],
            }
        )
        return
    console = console_for(sys.stdout)
    outcome = "open" if step.told is None else step.told[0]
    print_lines(console, [f"step {step.name} of document {one_line(step.document.document)}: {outcome}"])
    if step.told is not None and step.told[0] != "completed":
        print_lines(console, [f"because: {one_line(why(step.told))}"])
    mapped = step.item is None and len({body.item for body in step.bodies}) > 1
    print_lines(console, (f"  {_of(made) if mapped else ''}{_attempt_text(made)}" for made in step.attempts))
    if mapped:
        print_lines(console, ["", "Its prompts and replies are shown item by item: give --item N, or --json for all."])
        return
    for body in step.bodies:
        _print_call(reader, console, body)
    for output in step.outputs:
        via = f", via {one_line(output.via)}" if output.via else ""
        value = output_of(reader, step.document, output)
        _print_part(console, f"output{via}", json.dumps(value, ensure_ascii=False, indent=2) if output.size else "")


def _print_call(reader: JournalReader, console: Console, body: StoredBody) -> None:
    told = call_of(reader, body)
    of = f"{one_line(body.model)} · call {one_line(body.key)[:12]}"
    if told["prompt"] is None:
        _print_part(console, f"prompt to {of}", "", f"It cannot be shown: {told['prompt_error']}.")
    for message in told["prompt"] or ():
        texts = [part if isinstance(part, str) else f"({json.dumps(part)})" for part in message["parts"]]
        _print_part(console, f"prompt to {of} · {one_line(message['role'])}", "\n".join(texts))
    reply = told["reply"]
    if not isinstance(reply, dict):
        _print_part(console, f"raw reply of {of}", body.reply.decode(errors="replace"), "It is damaged.")
        return
    rest = {name: value for name, value in reply.items() if name not in ("text", "vectors", "usage")}
    facts = " · ".join(f"{name} {one_line(json_text(value))}" for name, value in rest.items())
    text = reply["text"] if "text" in reply else json.dumps(reply.get("vectors"))
    note = "" if body.is_intact else "It is not what was written: `pipeline-engine doctor` tells more."
    _print_part(console, f"raw reply of {of}{f' · {facts}' if facts else ''}", text, note)


def _print_part(console: Console, title: str, text: str, note: str = "") -> None:
    """Print a text between others: every line of it is marked, so that it cannot pass for one of ours."""
    print_lines(console, ["", f"── {title}"])
    if note:
        print_lines(console, [note])
    if text:
        width = max(20, console.width - 2) if console.is_terminal else None
        lines = (part for line in safe_text(text).split("\n") for part in _folded(line, width))
        print("\n".join(f"│ {line}" for line in lines), file=console.file)


def _folded(line: str, width: int | None) -> Iterator[str]:
    """Yield a line in parts that fit: where a terminal folds it, the rest would stand there without its mark."""
    if width is None or display_width(line) <= width:
        yield line
        return
    start = used = 0
    for place, character in enumerate(line):
        used += display_width(character)
        if used > width:
            yield line[start:place]
            start, used = place, display_width(character)
    yield line[start:]
