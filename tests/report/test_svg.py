"""The waterfall as one SVG element: whole by itself, whatever page it stands in."""

import re

import pytest

from pipeline_engine.report.svg import draw_runs_svg, draw_waterfall_svg
from pipeline_engine.values import AttemptFinished, AttemptStarted, HedgeFinished, HedgeStarted
from tests.report.hostile import PAYLOADS, run_with
from tests.report.many import made_up


def elements(drawing):
    return re.findall(r"<([a-z]+)[\s>/]", re.sub(r"<style>.*?</style>", "", drawing, flags=re.DOTALL))


def test_it_is_one_element_that_needs_nothing(document_trace):
    """A notebook shows it among other people's output: it may not rely on their styles, or load any."""
    drawing = draw_waterfall_svg(document_trace)

    assert drawing.startswith("<svg ")
    assert drawing.endswith("</svg>")
    assert "<script" not in drawing
    assert not re.search(r"href|@import|url\((?!#w)", drawing)
    rules = re.search(r"<style>(.*?)</style>", drawing, re.DOTALL)[1]
    selectors = re.findall(r"(?:^|[{}])\s*([^{}@]+)\{", rules)
    assert selectors
    assert all(part.startswith(".pe-waterfall") for one in selectors for part in one.split(","))
    assert "prefers-color-scheme:dark" in rules


def test_two_drawings_on_a_page_do_not_share_their_patterns(document_trace):
    """A pattern of a drawing that is folded away fills nothing."""
    names = [set(re.findall(r'id="([^"]+)"', draw_waterfall_svg(trace))) for trace in (document_trace, made_up(2))]

    assert not names[0] & names[1]
    assert draw_waterfall_svg(document_trace) == draw_waterfall_svg(document_trace)


@pytest.mark.parametrize("text", PAYLOADS)
def test_hostile_texts_stay_texts(record_stream, text):
    """Wherever it is shown."""
    assert elements(draw_waterfall_svg(run_with(record_stream, text))) == elements(
        draw_waterfall_svg(run_with(record_stream, "benign"))
    )


def test_bars_stand_where_the_segments_were(document_trace):
    """In parts of the whole, so that it may be as wide as there is room."""
    row = draw_waterfall_svg(document_trace).split('class="label"')[2]  # keywords: failed, back-off, attempt

    bars = re.findall(r'<rect class="s-(\w+)" x="([\d.]+)%" y="5" width="([\d.]+)%"', row)
    assert bars == [("failed", "0.000", "13.333"), ("backoff", "13.333", "17.778"), ("attempt", "31.111", "17.778")]


def test_what_came_before_the_first_token_is_lighter_and_a_second_call_a_bar_of_its_own(record_stream):
    """The two things that make a streamed or hedged step understandable."""
    run = record_stream().declare("title").ready(0, "title")
    run.write(AttemptStarted(0, "title", None, 1, "openai:a"), HedgeStarted(2, "title", None, 1, "openai:b"))
    run.write(HedgeFinished(4, "title", None, 1, "openai:b", True, None))
    run.write(AttemptFinished(4, "title", None, 1, None, first_token_at=1.0)).finish(4, "title")

    drawing = draw_waterfall_svg(run.trace(4))

    assert re.findall(r'<rect class="early" x="([\d.]+)%" y="5" width="([\d.]+)%"', drawing) == [("0.000", "25.000")]
    assert re.findall(r'<rect class="second" x="([\d.]+)%" y="20" width="([\d.]+)%"', drawing) == [("50.000", "50.000")]
    assert "second call · 2.0 s · openai:b · lost" in drawing


def test_several_runs_stand_on_one_axis_each_below_its_document():
    """Who waited for whom is seen only side by side."""
    first, second = made_up(0), made_up(10)

    drawing = draw_runs_svg([first, second])

    labels = re.findall(r'class="strong">([^<]+)<', drawing)
    assert labels == [first.document, second.document]
    assert draw_runs_svg([first, second], has_steps=False).count('class="label"') == 2


def test_of_no_run_there_is_an_empty_drawing():
    """It is asked for by programs, which do not look first."""
    assert draw_runs_svg([]).endswith("</svg>")
