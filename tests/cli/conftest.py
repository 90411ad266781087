"""A folder to run the command line in, and the command line itself, called in this process."""

import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trio.testing

from pipeline_engine.cli import main

DOCUMENT = """
from typing import Literal

from pydantic import BaseModel

from pipeline_engine import Pipeline


class Title(BaseModel):
    text: str


pipeline = Pipeline("notes", inputs={"document": str})


@pipeline.llm("fast", Title)
def title(document: str) -> str:
    return f"Title?\\n\\n{document}"


@pipeline.llm("strong", str)
def summary(document: str, title: Title) -> str:
    return f"Summary of {title.text}?\\n\\n{document}"


@pipeline.llm("fast", Literal["good", "bad"])
def mood(document: str) -> str:
    return f"Mood?\\n\\n{document}"
"""

ANSWERS = {"title": {"text": "A title"}, "summary": "A summary.", "mood": {"value": "good"}}


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder to run in, on a terminal 100 cells wide, with nothing in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("NO_COLOR", "CI", "FORCE_COLOR", "OPENAI_API_KEY", "OPENAI_BASE_URL", "PIPELINE_ENGINE_JOURNAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def write(folder):
    """Write a file into the folder: text, bytes, or anything with a JSON form."""

    def write_file(name: str, content: object) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write_file


@pytest.fixture
def cli(folder, capsys):
    """Call the command line and return how it ended."""

    def call(*argv: object) -> Ran:
        try:
            code = main([str(word) for word in argv])
        except SystemExit as left:
            code = left.code
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call


@pytest.fixture
def notes(write):
    """A pipeline file of three steps, and a scripted model for it; returns what binds its roles to that model."""
    write("notes.py", DOCUMENT)
    write("script.json", {"answers": ANSWERS})
    return ["--model", "fast=scripted:script.json", "--model", "strong=scripted:script.json"]


@pytest.fixture
def virtual_time(monkeypatch):
    """Let the command's own trio run jump over every wait, so that its times are exact.

    Only for one document: the clock may jump while a thread reads the next one.
    """
    clock = trio.testing.MockClock(autojump_threshold=0)
    monkeypatch.setattr(trio, "run", functools.partial(trio.run, clock=clock))
