"""The present moment as a picture for a terminal: a bar, and a few lines that fit into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline_engine.report.legend import SHORT_NAMES
from pipeline_engine.report.numbers import count_text, seconds_text, spend_text
from pipeline_engine.text import display_width, fit, one_line
from pipeline_engine.values import Cost, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

    from pipeline_engine.report import ErrorCount, InFlight, ModelNow, Present

__all__ = ["draw_present", "facts_of", "model_text", "pace_of", "present_line", "spent_text", "wait_name"]

_LABEL = 10
_WIDEST = 120
_LEAST_BAR = 8
_NAME = 28
_LOW = 24
"""Rows of a terminal in which each section has one line less."""


def draw_present(present: Present, title: str, width: int, height: int) -> RenderableType:
    """Return the picture, at most `height` lines that are no wider than `width`; it does not change afterwards.

    Args:
        present: The moment.
        title: What is shown at its head; it may be hostile.
        width: Cells of a line.
        height: Lines.
    """
    width = min(width, _WIDEST)
    lines = [
        Text(fit(line, width).rstrip(), no_wrap=True, style=style, end="\n")
        for line, style in _lines(present, width, most=2 if height <= _LOW else 4)
    ]
    return Group(_head(present, title, width), *lines[: max(0, height - 1)])


def _head(present: Present, title: str, width: int) -> RenderableType:
    count = f"{present.finished:,}" if present.total is None else f"{present.finished:,}/{present.total:,}"
    elapsed = seconds_text(present.elapsed) if present.elapsed >= 1 else ""
    left = f"about {seconds_text(present.left)} left" if present.left is not None else ""
    cells = [(one_line(title, max(8, width // 4)), "bold"), (count, ""), (elapsed, ""), (left, "dim")]
    while len(cells) > 2 and _width_of(cells) > width:
        cells.pop()
    room = width - _width_of(cells) - 2
    head = Table.grid(padding=(0, 2, 0, 0))
    parts: list[RenderableType] = [Text(text, style=style, no_wrap=True) for text, style in cells if text]
    if present.total is not None and room >= _LEAST_BAR:
        total, width = max(1, present.total), min(room, 40)
        bar = ProgressBar(total, present.finished, width, complete_style="cyan", finished_style="green")
        parts.insert(1, bar)
    head.add_row(*parts)
    return head


def _width_of(cells: list[tuple[str, str]]) -> int:
    return sum(display_width(text) + 2 for text, _style in cells if text)


def _lines(present: Present, width: int, most: int) -> Iterator[tuple[str, str]]:
    """Yield the lines below the head with their styles, the most telling ones first."""
    yield " · ".join(facts_of(present)), ""
    spent = spent_text(present)
    if spent:
        yield spent, ""
    if not present.is_over:
        yield _labelled("calls", _calls(present)), ""
        if present.waits:
            yield _labelled("waiting", _waits(present)), ""
    for error in present.errors[:most]:
        yield _labelled("failed", f"{count_text(error.times)} × {_what(error)}"), "red"
    models = {name: model for name, model in present.models.items() if not present.is_over and _is_telling(model)}
    for name, model in list(models.items())[: most + 1]:
        yield _labelled("model", f"{one_line(name, _NAME)}  {model_text(model)}"), _model_style(model)
    for fault in present.faults[:most]:
        yield _labelled("attempts", f"{count_text(fault.times)} failed with {_what(fault)}"), "yellow"
    if not present.is_over:
        for document in [one for one in present.longest if one.elapsed >= 1][:most]:
            yield _labelled("longest", _in_flight(document, width)), "dim"


def _labelled(label: str, text: str) -> str:
    return f"{label:<{_LABEL}}{text}"


def facts_of(present: Present) -> list[str]:
    """Return how many documents have ended how and how fast, one short text for each fact."""
    counts = present.documents
    facts = [f"{count_text(counts.get('completed', 0))} completed"]
    facts += [f"{count_text(count)} {status}" for status, count in counts.items() if status != "completed" and count]
    facts += [f"{count_text(present.kept)} from the journal"] if present.kept else []
    facts += [f"{count_text(present.in_flight)} in flight"] if not present.is_over else []
    facts += pace_of(present)
    facts += [f"stopping ({one_line(present.stopped_by)})"] if present.stopped_by and not present.is_over else []
    return facts


def pace_of(present: Present) -> list[str]:
    """Return how fast documents end, and how often something was tried again."""
    facts = [_rate_text(present.rate)] if present.rate and not present.is_over else []
    if present.retries:
        facts.append(f"{count_text(present.retries)} {'retry' if present.retries == 1 else 'retries'}")
    return facts


def _rate_text(rate: float) -> str:
    """Return how many documents end in a time that people can picture."""
    for unit, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        if rate * seconds >= 1 or unit == "h":
            return f"{rate * seconds:.3g}/{unit}"
    raise AssertionError("hours are the last unit")


def spent_text(present: Present) -> str:
    """Return what was spent so far, beside the budget if there is one; nothing if nothing was."""
    usage = present.usage
    if present.tokens_before:
        usage += Usage(input_tokens=present.tokens_before)
    cost = present.cost + Cost(present.usd_before) if present.usd_before else present.cost
    return spend_text(cost, usage, present.budget_usd, present.budget_tokens)


def _calls(present: Present) -> str:
    steps = sorted(present.attempts.items(), key=lambda entry: -entry[1])
    running = " · ".join(f"{one_line(step, 24)} {count_text(count)}" for step, count in steps)
    return f"{count_text(present.calls)} of {count_text(present.capacity)} slots{'  ' if running else ''}{running}"


def _waits(present: Present) -> str:
    waits = sorted(present.waits.items(), key=lambda entry: (-entry[1], entry[0]))
    return " · ".join(f"{count_text(count)} {wait_name(cause)}" for cause, count in waits)


def wait_name(cause: str) -> str:
    """Return what a wait is called in a list of waits.

    Example:
        >>> wait_name("requests"), wait_name("something new")
        ('requests/min', 'something new')
    """
    names: Mapping[str, str] = dict[str, str](SHORT_NAMES.items())
    return "slot" if cause == "slot" else names.get(cause, one_line(cause, 24))


def _what(error: ErrorCount) -> str:
    return f"{one_line(error.kind, _NAME)}: {one_line(error.message)}"


def _is_telling(model: ModelNow) -> bool:
    return model.in_flight > 0 or model.waiting > 0 or model.is_parked or model.breaker in ("open", "half_open")


def model_text(model: ModelNow) -> str:
    """Return how a model is doing.

    Example:
        >>> from pipeline_engine.report import ModelNow
        >>> model_text(ModelNow(30, 32, 12, "open", 4.2))
        '30 of 32 · 12 ready · breaker open · cools down for 4.2 s'
    """
    bound = "" if model.max_in_flight is None else f" of {count_text(model.max_in_flight)}"
    facts = [f"{count_text(model.in_flight)}{bound}"]
    facts += [f"{count_text(model.waiting)} ready"] if model.waiting else []
    facts += [f"breaker {one_line(model.breaker).replace('_', ' ')}"] if model.breaker not in (None, "closed") else []
    facts += [f"cools down for {seconds_text(model.cooldown)}"] if model.cooldown > 0 else []
    facts += ["its key was refused"] if model.is_parked else []
    return " · ".join(facts)


def _model_style(model: ModelNow) -> str:
    return "red" if model.is_parked or model.breaker == "open" else "yellow" if model.cooldown > 0 else "cyan"


def _in_flight(document: InFlight, width: int) -> str:
    doing = "" if document.step is None else f"  {one_line(document.step, 24)}"
    cause = "" if document.cause is None else f" ({wait_name(document.cause)})"
    name = one_line(document.document, max(8, width // 3))
    return f"{seconds_text(document.elapsed)}  {name}{doing}{cause}"


def present_line(present: Present) -> str:
    """Return the moment on one line, for streams that are no terminal.

    Example:
        >>> from pipeline_engine.report import Present
        >>> present_line(Present(elapsed=90, documents={"completed": 30}, total=90, in_flight=4, rate=1 / 3))
        '[30/90] 30 completed · 4 in flight · 20/min · about 3 min 00 s left'
    """
    count = f"{present.finished:,}" if present.total is None else f"{present.finished:,}/{present.total:,}"
    facts = [*facts_of(present), spent_text(present)]
    facts += [f"about {seconds_text(present.left)} left"] if present.left is not None else []
    return f"[{count}] {' · '.join(filter(None, facts))}"
