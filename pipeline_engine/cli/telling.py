"""Who else is told of a run: a log file, and OpenTelemetry."""

from __future__ import annotations

import logging
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from pipeline_engine.cli.failing import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from pipeline_engine.values import Sink

__all__ = ["opened_sinks"]


@contextmanager
def opened_sinks(log: Path | None, log_level: str, *, has_otel: bool) -> Iterator[list[Sink]]:
    """Give the sinks that the user asks for; when they are closed, all that they were told has been passed on.

    Args:
        log: The file that gets a line of JSON for each thing that is logged.
        log_level: The lowest level that it gets.
        has_otel: Whether spans and metrics are sent to where OpenTelemetry's variables say.

    Raises:
        CommandError: If the file cannot be written, or OpenTelemetry is not installed.
    """
    sinks: list[Sink] = []
    with ExitStack() as stack:
        if log is not None:
            sinks.append(stack.enter_context(_opened_log(log, log_level)))
        if has_otel:
            sinks.append(stack.enter_context(_opened_telemetry()))
        yield sinks


@contextmanager
def _opened_log(path: Path, level: str) -> Iterator[Sink]:
    from pipeline_engine.report.logs import JsonFormatter, LogRecords

    try:
        handler = logging.FileHandler(path, encoding="utf-8")  # the lines of earlier runs stay
    except OSError as error:
        raise CommandError(f"--log {str(path)!r} cannot be written: {error.strerror}. Name another file.") from error
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("pipeline_engine")
    before = logger.level
    logger.setLevel(level.upper())
    logger.addHandler(handler)
    try:
        yield LogRecords()
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
        handler.close()


@contextmanager
def _opened_telemetry() -> Iterator[Sink]:
    from pipeline_engine.report.telemetry import OpenTelemetry, providers_from_environment

    try:
        spans, figures, shut_down = providers_from_environment()
    except ImportError as error:
        raise CommandError(f"--otel: {error}") from error
    try:
        yield OpenTelemetry(spans, figures)
    finally:
        shut_down()
