"""The waterfall: exact text, for any width and for hostile names."""

from __future__ import annotations

import pytest

from pipeline_engine.report import Trace
from pipeline_engine.report.legend import GLYPHS, KIND_NAMES, SHORT_NAMES
from pipeline_engine.report.spans import SEGMENT_KINDS
from pipeline_engine.text import display_width
from pipeline_engine.values import (
    AttemptFinished,
    AttemptStarted,
    BreakerChanged,
    Completed,
    CooldownStarted,
    Cost,
    CredentialParked,
    Dropped,
    Failed,
    HedgeFinished,
    HedgeStarted,
    LimitChanged,
    OutputJudged,
    Usage,
)

EXACT = """\
document · a.txt · completed · 6 steps · 7 attempts

            0                2 s               4 s    start   took
            ┬────────────────┬─────────────────┬───
  title     ██████████                                 +0 s  1.2 s ✓
◆ keywords  ▓▓▓▓▓░░░░░░░███████                        +0 s  2.2 s ✓  ↻1
  category  ·····████████                            +0.6 s  1.5 s ✓
  quality                ████                        +1.5 s  0.5 s ✓
  invoice   skipped by its own condition                           –
◆ summary                      ██████████▒████████▒  +2.2 s  2.3 s ✓  ↻1

· waiting for a slot   █ attempt   ▓ failed attempt   ░ back-off
▒ validation   ◆ critical path   ↻ retries
makespan 4.5 s; the critical path keywords → summary needs all of it
(1.4 s in failed attempts and back-off); more slots cannot help"""
MAPPED = [
    "◆ notes ×3    █████████████████████████████    +0 s  4.0 s ✓",
    "◆   notes[0]  █████████████████████████████    +0 s  4.0 s ✓",
    "    notes[1]  ██████████████                   +0 s  2.0 s ✓",
    "    notes[2]  ···············██████████████  +2.0 s  4.0 s ✓",
]
HOSTILE = "\x1b[31mred\x1b[0m\nnew line \u202e\u200b漢字 " + "x" * 300


def told_of(model, step="title"):
    """Return all that can be told of a model."""
    return [
        LimitChanged(0.5, model, 2),
        BreakerChanged(0.5, model, "closed", "open"),
        BreakerChanged(1, model, "open", model),
        CooldownStarted(0.5, model, 3),
        CredentialParked(0.5, model),
        OutputJudged(0.5, step, None, model, True),
        HedgeStarted(0.5, step, None, 1, model),
        HedgeFinished(1, step, None, 1, model, True, Cost(0.001)),
    ]


def test_a_small_run_is_drawn_exactly(document_trace):
    """The picture is the promise: changing it is a decision, not an accident."""
    assert document_trace.waterfall(72, color=False) == EXACT


def test_a_mapped_step_has_a_row_for_each_of_few_items(record_stream):
    """Few items are read one by one."""
    run = record_stream(capacity=2).declare("notes", each="document").ready(0, "notes", width=3)
    run.simple("notes", 0, 0, 4, item=0).simple("notes", 0, 0, 2, item=1).simple("notes", 0, 2, 4, item=2)

    lines = run.finish(4, "notes").trace(4).waterfall(60, color=False).splitlines()

    assert lines[4:8] == MAPPED


def test_many_items_share_one_row(record_stream):
    """A thousand rows are no picture; what those at work did is."""
    run = record_stream(capacity=2).declare("notes", each="document").ready(0, "notes", width=40)
    for item in range(40):
        run.simple("notes", 0, item, item + 2, item=item)

    drawn = run.finish(41, "notes").trace(41).waterfall(60, color=False)

    assert "notes ×40" in drawn
    assert "notes[" not in drawn.split("makespan")[0]
    assert "·" not in drawn.splitlines()[4]


@pytest.mark.parametrize("width", [0, 1, 39, 40, 41, 57, 80, 133, 300])
def test_no_line_is_wider_than_asked(record_stream, document_trace, width):
    """A wrapped line destroys the picture; below 40 cells there is none to destroy."""
    run = record_stream(pipeline=HOSTILE, document=HOSTILE).declare(HOSTILE, each="document")
    run.ready(0, HOSTILE, width=2).simple(HOSTILE, 0, 0, 1, item=0, model=HOSTILE)
    run.ready(0, HOSTILE, item=1).attempt(HOSTILE, 0, 2, item=1, fault=HOSTILE)
    run.finish(2, HOSTILE, Dropped(ValueError(HOSTILE)), item=1).finish(2, HOSTILE)
    run.write(*told_of(HOSTILE))

    for trace in (run.trace(2), document_trace):
        lines = trace.waterfall(width, color=False).split("\n")
        assert max(display_width(line) for line in lines) <= max(40, width)


def test_hostile_names_reach_the_terminal_as_text(record_stream):
    """A document must not be able to clear the screen of whoever reads its report."""
    run = record_stream(pipeline=HOSTILE, document=HOSTILE, run_id=HOSTILE).declare(HOSTILE)
    run.ready(0, HOSTILE).attempt(HOSTILE, 0, 1, model=HOSTILE).finish(1, HOSTILE, Failed(ValueError(HOSTILE)))
    run.write(*told_of(HOSTILE))

    drawn = run.trace(1, "failed").waterfall(120, color=False)

    assert not {"\x1b", "\r", "\u202e", "\u200b"} & set(drawn)
    assert "\\x1b[31mred" in drawn


def test_colour_adds_codes_and_changes_no_cell(document_trace):
    """With and without colour it is the same picture, so glyphs alone suffice."""
    import re

    coloured = document_trace.waterfall(72, color=True)

    assert "\x1b[31m▓▓▓▓▓\x1b[0m" in coloured
    assert re.sub(r"\x1b\[\d+m", "", coloured) == document_trace.waterfall(72, color=False)


@pytest.mark.parametrize(
    ("is_terminal", "environment", "has_color"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colour_is_used_where_it_is_wanted(document_trace, monkeypatch, is_terminal, environment, has_color):
    """Codes in a log file or against a user's wish are noise."""
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)

    assert ("\x1b" in document_trace.waterfall(72)) is has_color


def test_the_terminal_is_asked_for_its_width(document_trace, monkeypatch):
    """Nobody counts cells by hand."""
    monkeypatch.setenv("COLUMNS", "72")

    assert document_trace.waterfall(color=False) == document_trace.waterfall(72, color=False)


def test_steps_that_took_no_time_are_seen(record_stream):
    """A step on the virtual clock, or a cheap function, is there although it is short."""
    run = record_stream().declare("parse").declare("title", "parse")
    run.simple("parse", 0, 0, 0, model=None).simple("title", 0, 0, 2, "parse")

    drawn = run.trace(2).waterfall(60, color=False)

    assert "◆ parse  | " in drawn
    assert "| took no time" in drawn


def test_equal_errors_of_many_items_are_told_once(record_stream):
    """Fifty equal lines bury the fifty-first, which is different."""
    run = record_stream().declare("notes", each="document").ready(0, "notes", width=3)
    for item in range(3):
        error = ValueError("too long" if item < 2 else "empty")
        run.ready(0, "notes", item=item).attempt("notes", 0, 1, item=item).finish(1, "notes", Dropped(error), item=item)

    lines = run.finish(1, "notes", Completed([])).trace(1).waterfall(80, color=False).splitlines()

    assert [line for line in lines if line.startswith("∅")] == [
        "∅ notes (×2): ValueError: too long",
        "∅ notes[2]: ValueError: empty",
    ]


def test_each_wait_has_a_glyph_and_words_of_its_own(record_stream):
    """Colour is seen by some, on some terminals; `r` and `waiting for requests per minute` by everybody."""
    run = record_stream().declare("title").ready(0, "title")
    causes = (("requests", 3.0), ("tokens", 2.0), ("cooldown", 2.0), ("concurrency", 1.5), ("breaker", 3.0))
    run.queue("title", 11.5, *causes).wait("title", 11.5, 13.5, "budget")
    drawn = run.attempt("title", 15.5, 17.5).finish(17.5, "title").trace(17.5).waterfall(72, color=False)

    assert drawn.splitlines()[4].split("  ")[1] == "rrrrtttzzzcc!!!!$$$··███"
    assert drawn.splitlines()[6:10] == [
        "· waiting for a slot   r waiting for requests per minute",
        "t waiting for tokens per minute   c waiting for a model's concurrency",
        "z model cooling down   ! breaker open   $ waiting for budget   █ attempt",
        "◆ critical path",
    ]


def test_every_kind_of_segment_can_be_told_from_every_other():
    """A kind that was added without its glyph or its words would be drawn as something else."""
    for words in (GLYPHS, KIND_NAMES, SHORT_NAMES):
        assert set(words) == set(SEGMENT_KINDS)
        assert len(set(words.values())) == len(SEGMENT_KINDS)


def test_of_many_items_that_wait_for_a_limit_those_that_work_are_seen(record_stream):
    """A thousand that wait for requests per minute say less than the five that are answered."""
    run = record_stream().declare("notes", each="document").ready(0, "notes", width=20)
    for item in range(20):
        run.ready(0, "notes", item=item).queue("notes", 2 + item, ("requests", 2.0 + item), item=item)
        run.attempt("notes", 2 + item, 3 + item, item=item).finish(3 + item, "notes", item=item)

    row = run.finish(22, "notes").trace(22).waterfall(60, color=False).splitlines()[4]

    assert row.split("  ")[1] == "rr" + "█" * 27


FACTS = """\
anthropic:claude-sonnet-4-5: breaker opened once, open for 2.0 s, half open at the end
openai:gpt-4o-mini: limit 2 → 4 (2 to 9) · cooled down twice, for 5.0 s · its key was refused
title: accepted 1 of 2 outputs (50 %) of openai:gpt-4o-mini
second calls: 1, of which 0 won; the lost calls cost $0.0010
spent: $0.2510 · 1,000 tokens in, 20 out"""


def test_models_and_money_stand_below_the_picture_one_line_each(record_stream):
    """What no bar shows: how the limit moved, that a breaker opened, what it all cost."""
    run = record_stream().declare("title").ready(0, "title").write(AttemptStarted(0, "title", None, 1, "openai:x"))
    mini, sonnet = "openai:gpt-4o-mini", "anthropic:claude-sonnet-4-5"
    run.write(LimitChanged(1, mini, 2), LimitChanged(2, mini, 9), LimitChanged(3, mini, 4))
    run.write(BreakerChanged(2, sonnet, "closed", "open"), BreakerChanged(4, sonnet, "open", "half_open"))
    run.write(CooldownStarted(1, mini, 4), CooldownStarted(3, mini, 6), CredentialParked(5, mini))
    run.write(OutputJudged(3, "title", None, mini, True), OutputJudged(3, "title", None, mini, False))
    run.write(HedgeStarted(1, "title", None, 1, sonnet), HedgeFinished(2, "title", None, 1, sonnet, True, Cost(0.001)))
    run.write(AttemptFinished(6, "title", None, 1, None, Usage(1000, 20), cost=Cost(0.25))).finish(6, "title")

    lines = run.trace(6).waterfall(100, color=False).splitlines()

    assert "\n".join(lines[-6:-1]) == FACTS
    assert lines[-1].startswith("makespan 6.0 s")


def test_where_nothing_was_told_no_line_is_added(document_trace):
    """Most runs have no breaker that opened: five lines that say so hide the one that matters."""
    lines = document_trace.waterfall(72, color=False).splitlines()

    assert [line for line in lines if ":" in line] == []


def test_a_cool_down_without_an_end_is_drawn(record_stream):
    """A provider may say anything: the report of the run must still open."""
    run = record_stream().declare("title").simple("title", 0, 0, 2)
    run.write(CooldownStarted(1, "openai:x", float("inf")))

    assert "openai:x: cooled down once, for ∞ s" in Trace.from_records(run.records(2)).waterfall(100, color=False)
