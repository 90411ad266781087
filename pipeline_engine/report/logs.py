"""Runs as lines of a log: what steps and attempts came to, by the standard library's logging. Configures nothing."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline_engine.report.trace import SpanDraft, span_of
from pipeline_engine.text import one_line
from pipeline_engine.values.records import (
    AttemptFinished,
    AttemptStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    StepMapped,
    StepReady,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipeline_engine.report.spans import Span
    from pipeline_engine.values.records import Record

__all__ = ["JsonFormatter", "LogRecords"]

_MAX_ERROR_WIDTH = 400
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
"""What every line has; anything else came by `extra=`."""


class LogRecords:
    """Log how runs, steps and attempts end: `Engine(sinks=[LogRecords()])`.

    Runs and steps are told at level INFO, attempts at DEBUG. What failed is told at ERROR, and an attempt that
    failed at WARNING: others may follow. Each line has `run` and `document` in its `extra`, and where they
    apply `step`, `item`, `attempt`, `model`, `outcome`, `seconds` and `error_kind`. Prompts and replies are in
    no line.

    Args:
        logger: Where lines go; the logger "pipeline_engine.runs" if not given.

    Raises:
        TypeError: If `logger` is only the name of one.

    Example:
        >>> import sys
        >>> from pipeline_engine import Pipeline, run_pipeline
        >>> logger = logging.getLogger("docs.logs")
        >>> logger.setLevel(logging.INFO)
        >>> handler = logging.StreamHandler(sys.stdout)
        >>> handler.setFormatter(logging.Formatter("%(levelname)s %(document)s: step %(step)s %(outcome)s"))
        >>> logger.addHandler(handler)
        >>> logger.addFilter(lambda line: hasattr(line, "step"))
        >>> pipeline = Pipeline("greeting", inputs={"name": str})
        >>> @pipeline.step
        ... def hello(name: str) -> str:
        ...     return f"Hello, {name}!"
        >>> result = run_pipeline(pipeline, {"name": "Ada"}, key="a.txt", sinks=[LogRecords(logger)])
        INFO a.txt: step hello completed
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        if isinstance(logger, str):
            raise TypeError(f"LogRecords takes a logger. Write LogRecords(logging.getLogger({logger!r})).")
        self._logger = logging.getLogger("pipeline_engine.runs") if logger is None else logger

    def open_run(self, started: RunStarted) -> Callable[[Record], None]:
        """Return what logs the further records of a run."""
        return _RunLog(started, self._logger).read


class _RunLog:
    """Follow one run, and log what ends."""

    def __init__(self, started: RunStarted, logger: logging.Logger) -> None:
        self._logger = logger
        self._started_at = started.at
        self._ids = {"run": started.run_id, "document": one_line(started.document)}
        self._drafts: dict[tuple[str, int | None], SpanDraft] = {}
        self._widths: dict[str, int] = {}
        self._started: dict[tuple[str, int | None], AttemptStarted] = {}

    def read(self, record: Record) -> None:
        """Take in one record."""
        match record:
            case StepReady():
                self._draft_of(record).read(record)
            case StepMapped():
                self._widths[record.step] = record.width
            case AttemptStarted():
                self._draft_of(record).read(record)
                self._started[record.step, record.item] = record
            case AttemptFinished():
                self._draft_of(record).read(record)
                self._log_attempt(record)
            case StepFinished():
                self._log_step(record)
            case RunFinished():
                level = logging.ERROR if record.status == "failed" else logging.INFO
                seconds = record.at - self._started_at
                self._log(level, f"run {record.status}", seconds, outcome=record.status)
            case _:
                pass  # how long a step took is told, not what it waited for: that is the trace's business

    def _draft_of(self, record: StepReady | AttemptStarted | AttemptFinished | StepFinished) -> SpanDraft:
        key = record.step, record.item
        return self._drafts.setdefault(key, SpanDraft(*key))

    def _log_attempt(self, record: AttemptFinished) -> None:
        started = self._started.pop((record.step, record.item), None)
        seconds = 0.0 if started is None else record.at - started.at
        fault = record.fault
        extra: dict[str, Any] = {"step": record.step, "item": record.item, "attempt": record.attempt}
        extra["model"] = record.model or (None if started is None else started.model)
        name = _name(record.step, record.item)
        if fault is None:
            self._log(logging.DEBUG, f"attempt {record.attempt} of {name} succeeded", seconds, **extra)
            return
        told = one_line(fault.message, _MAX_ERROR_WIDTH)
        message = f"attempt {record.attempt} of {name} failed: {one_line(fault.kind)}: {told}"
        self._log(logging.WARNING, message, seconds, error_kind=one_line(fault.kind), **extra)

    def _log_step(self, record: StepFinished) -> None:
        draft = self._draft_of(record)
        draft.read(record)
        del self._drafts[record.step, record.item]
        span = span_of(draft, record.at, self._widths.get(record.step) if record.item is None else None)
        level = logging.ERROR if span.outcome == "failed" else logging.INFO
        extra = {"step": span.step, "item": span.item, "outcome": span.outcome, "error_kind": span.error_kind}
        self._log(level, _told(span), span.duration, attempts=None if span.is_mapped else span.attempts, **extra)

    def _log(self, level: int, message: str, seconds: float, **extra: object) -> None:
        if self._logger.isEnabledFor(level):
            known = {name: value for name, value in extra.items() if value is not None}
            self._logger.log(level, "%s", message, extra={**self._ids, **known, "seconds": seconds})


def _name(step: str, item: int | None) -> str:
    return f"step {one_line(step)}" if item is None else f"step {one_line(step)}[{item}]"


def _told(span: Span) -> str:
    why = span.error or span.because
    told = f"{_name(span.step, span.item)} {span.outcome}"
    return told if why is None else f"{told}: {why}"


class JsonFormatter(logging.Formatter):
    r"""Format a line of a log as one line of JSON, with all that came by `extra=`.

    Example:
        >>> line = logging.makeLogRecord({"msg": "two\nlines", "levelname": "INFO", "created": 0.0, "step": "title"})
        >>> print(JsonFormatter().format(line))
        {"time": "1970-01-01T00:00:00+00:00", "level": "INFO", "logger": null, "message": "two\nlines", "step": "title"}
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        # Plain ASCII: what a terminal would obey, and what no file can encode, is escaped.
        return json.dumps(line, default=str)
