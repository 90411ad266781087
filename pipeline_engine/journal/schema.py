"""The tables of a journal, the same in SQLite and PostgreSQL, and how each version came from the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["APPLICATION_ID", "MIGRATIONS", "TABLES", "VERSION", "engine_version", "statements"]

APPLICATION_ID = 0x70_69_70_65
"""Marks a SQLite file as a journal: "pipe" in ASCII."""

TABLES = (
    "schema_version",
    "batches",
    "workers",
    "documents",
    "blobs",
    "calls",
    "step_outputs",
    "attempts",
    "cached_replies",
    "runs",
    "progress",
)
"""The names of the tables."""

# {blob}, {real} and {big} stand for the database's own names. What is compared or looked up is text; bodies are
# bytes, because PostgreSQL's text takes no NUL and its jsonb rewrites numbers.
_VERSION_1 = """
create table schema_version(version {big} not null, applied_at {real} not null, engine_version text not null);

create table batches(
  batch text primary key, pipeline text not null, plan text not null, parts {blob} not null, command {blob} not null,
  engine_version text not null, is_single {big} not null, created_at {real} not null, ended_at {real},
  state text not null check(state in ('open', 'done', 'stopped')), counts {blob} not null
);
create index batches_by_pipeline on batches(pipeline, created_at);

create table workers(
  worker text primary key, place text not null, pid {big} not null, birth {big} not null, opened_at {real} not null,
  beat {big} not null, is_open {big} not null
);

create table documents(
  pipeline text not null, document text not null, content text not null, inputs text, source text,
  status text not null check(status in ('queued', 'processing', 'completed', 'partial', 'failed', 'parked')),
  outcomes {blob} not null, reason text not null, plan text not null, batch text not null, run text not null,
  worker text, fence {big} not null, marks {big} not null, crash_count {big} not null,
  admitted_at {real} not null, ended_at {real}, elapsed {real} not null, usage {blob} not null,
  cost_micro_usd {big} not null, unpriced_calls {big} not null,
  primary key(pipeline, document)
);
create index documents_by_status on documents(pipeline, status, admitted_at);
create index documents_by_batch on documents(batch);

create table blobs(sha text primary key, codec text not null, size {big} not null, body {blob} not null);

create table calls(
  pipeline text not null, document text not null, call_key text not null, request text not null,
  ordinal {big} not null, batch text not null, run text not null, step text not null, item {big} not null,
  attempt {big} not null, model text not null, prompt {blob} not null, reply {blob} not null,
  reply_sha text not null, usage {blob} not null, tokens {big}, cost_micro_usd {big}, finished_at {real} not null,
  is_void {big} not null,
  primary key(pipeline, document, call_key)
);

create index calls_by_batch on calls(batch, cost_micro_usd, tokens);

create table step_outputs(
  pipeline text not null, document text not null, step text not null, item {big} not null, step_key text not null,
  output {blob} not null, output_sha text not null, call_keys {blob} not null, via text, fence {big} not null,
  run text not null, accepted_at {real} not null,
  primary key(pipeline, document, step, item, step_key)
);

create table attempts(
  pipeline text not null, document text not null, run text not null, step text not null, item {big} not null,
  attempt {big} not null, model text, started_at {real} not null, ended_at {real}, kind text, message text,
  status {big}, billed text,
  primary key(pipeline, document, run, step, item, attempt)
);

create table cached_replies(
  namespace text not null, request text not null, ordinal {big} not null, model text not null, reply {blob} not null,
  reply_sha text not null, cached_at {real} not null,
  primary key(namespace, request, ordinal)
);
"""

# Where the time went: the records of each run, and how far the processes are that work on a batch.
_VERSION_2 = """
create table runs(
  pipeline text not null, document text not null, run text not null, batch text not null, records {blob} not null,
  ended_at {real} not null,
  primary key(pipeline, document, run)
);
create index runs_by_batch on runs(batch, run);

create table progress(
  batch text not null, worker text not null, progress {blob} not null, told_at {real} not null,
  primary key(batch, worker)
);
"""

MIGRATIONS: tuple[str, ...] = (_VERSION_1, _VERSION_2)
"""What leads from each version to the next; the first one from nothing."""
VERSION = len(MIGRATIONS)
"""The version that this engine writes."""


def statements(script: str, names: Mapping[str, str]) -> list[str]:
    """Return the statements of a script, with a database's own names for its types.

    Example:
        >>> statements("create table a(b {big}); create table c(d {blob});", {"big": "integer", "blob": "blob"})
        ['create table a(b integer)', 'create table c(d blob)']
    """
    filled = script.format(**names)
    return [statement.strip() for statement in filled.split(";") if statement.strip()]


def engine_version() -> str:
    """Return the version of this engine, as a label for people."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pipeline-engine")
    except PackageNotFoundError:
        return "unknown"
