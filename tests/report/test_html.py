"""The page: complete, self-contained, and deaf to whatever a document or a model says in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from pipeline_engine.report import draw_dag_svg, render_html
from pipeline_engine.report.spans import SEGMENT_KINDS
from pipeline_engine.values import (
    BreakerChanged,
    Completed,
    CooldownStarted,
    Cost,
    CredentialParked,
    Dropped,
    Failed,
    Fault,
    HedgeFinished,
    HedgeStarted,
    LimitChanged,
    Outline,
    OutlineStep,
    OutputJudged,
    Skipped,
    Stopped,
)

HOSTILE = [
    "<script>alert(1)</script>",
    "</title><img src=x onerror=alert(1)>",
    "</script><svg onload=alert(1)>",
    "\"><b x='",
    "' onmouseover='alert(1)",
    '" style="background:url(//evil.example)" x="',
    "--><!--",
    "]]><![CDATA[",
    "&lt;b&gt;&#60;b&#62;",
    "javascript:alert(1)",
    "$pipeline ${verdict} $$ {0} %s",
    "\x1b[31m\u202etxt.exe\u200b\ud800\x00",
    "</style><base href=//evil.example>",
    "<a href=https://evil.example>click</a>",
    "a\nb\r\nc\u2028d",
]
VOID = {"meta", "link", "br", "img", "input", "hr"}
SELF_CLOSING = {"rect", "path", "circle"}


class Elements(HTMLParser):
    """Collect the elements and attributes of a page, and hold it to closing what it opens."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag, attrs):
        assert tag in SELF_CLOSING
        self.take(tag, attrs)

    def handle_starttag(self, tag, attrs):
        self.take(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def take(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += attrs


def run_with(record_stream, text, *, suffix=""):
    """Return a run in which every field that comes from outside is `text`."""

    def name(kind):
        return f"{text}{kind}{suffix}"

    run = record_stream(pipeline=text, document=text, run_id=text, inputs=(name("input"),))
    run.declare(name("a")).declare(name("b"), name("a"), each=name("a")).declare(name("c"), name("b"))
    run.declare(name("d"), name("a"), is_on_demand=True).declare(name("e"), name("a"))
    fault = Fault(text, text, True, 500)
    run.ready(0, name("a")).attempt(name("a"), 0, 1, model=text, fault=fault, usage=(3, 4))
    run.wait(name("a"), 1, 2, "fallback").simple(name("d"), 1, 1, 2, name("a"), model=text)
    run.finish(2, name("a"), Completed(text, via=f"fallback:{name('d')}"))
    run.ready(2, name("b"), name("a"), width=2).simple(name("b"), 2, 2, 3, name("a"), item=0, model=text)
    run.ready(2, name("b"), name("a"), item=1).attempt(name("b"), 2, 4, item=1, model=text)
    run.finish(4, name("b"), Dropped(ValueError(text)), item=1).finish(4, name("b"))
    run.ready(4, name("c"), name("b")).attempt(name("c"), 4, 5, model=text)
    run.finish(5, name("c"), Failed(ValueError(text)))
    run.finish(5, name("e"), Stopped(text))
    run.write(LimitChanged(1, text, 2), LimitChanged(2, text, 3), CooldownStarted(1, text, 3))
    run.write(BreakerChanged(1, text, text, text), BreakerChanged(3, text, text, text), CredentialParked(3, text))
    run.write(OutputJudged(1, name("a"), None, text, True), HedgeStarted(1, name("a"), None, 1, text))
    run.write(HedgeFinished(1, name("a"), None, 1, text, True, Cost(0.5)))
    return run.trace(5, "partial")


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_element_and_no_attribute(record_stream, text):
    """A document named like a script tag must not run in the browser of whoever reads the report."""
    benign = Elements(render_html(run_with(record_stream, "benign")))
    hostile = Elements(render_html(run_with(record_stream, text)))

    assert hostile.found == benign.found


def test_a_page_with_broken_characters_can_be_written(record_stream, tmp_path):
    """A lone surrogate from a damaged document has no bytes in UTF-8: it must not cost the whole report."""
    written = run_with(record_stream, "\ud800\x00").to_html(tmp_path / "run.html")

    assert "\\ud800\\x00" in written.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", HOSTILE)
def test_no_attribute_runs_anything_or_leads_anywhere(record_stream, text):
    """The page has no script, no handler and no address: there is nothing to hijack."""
    page = Elements(render_html(run_with(record_stream, text)))

    assert not [name for name, _ in page.attributes if name.startswith("on")]
    addresses = {(name, value) for name, value in page.attributes if name in {"href", "src", "action", "xlink:href"}}
    assert addresses == {("href", "data:,")}
    styles = [value for name, value in page.attributes if name == "style"]
    assert all(re.fullmatch(r"left:[\d.]+%|fill:var\(--[a-z-]+\)(;stroke:none)?", style) for style in styles)


def test_hostile_text_is_shown_as_it_is(record_stream):
    """Escaped once: a reader sees what the document said, not half of it."""
    page = Elements(render_html(run_with(record_stream, "<b>$verdict & more</b>")))

    assert "<b>$verdict & more</b>" in page.text


def test_the_page_loads_nothing(record_stream, document_trace):
    """It is opened offline, from mail and behind firewalls; what it cannot ask for cannot leak."""
    page = render_html(document_trace)

    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page
    assert set(re.findall(r"https?://[^\s\"'<>]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "<script" not in page
    assert "@import" not in page
    assert not re.search(r"url\((?!#p-)", page)


def test_the_page_names_its_language_landmark_and_headings(document_trace):
    """A screen reader finds its way by them."""
    page = render_html(document_trace)
    elements = Elements(page)

    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert [tag for tag, _ in elements.found].count("main") == 1
    assert [tag for tag, _ in elements.found].count("h1") == 1
    assert all("scope" in names for tag, names in elements.found if tag == "th")


def test_the_table_says_what_the_drawings_show(document_trace):
    """The drawings are for eyes; the same figures must be there as text."""
    page = render_html(document_trace)

    row = next(row for row in page.split("<tr>") if row.startswith('<th scope="row">keywords<'))
    assert re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) == [
        "keywords",
        '<span class="mark is-completed">✓</span> completed',
        "0 s",
        "2.2 s",
        "",
        "0.8 s",
        "0.6 s",
        "0.8 s",
        "",
        "2",
        "910 → 40",
        "openai:gpt-4o-mini",
    ]


def page_of_models(record_stream):
    run = record_stream().declare("title").simple("title", 0, 0, 10)
    run.write(LimitChanged(0, "openai:a", 2), LimitChanged(5, "openai:a", 4))
    run.write(BreakerChanged(1, "openai:a", "closed", "open"), BreakerChanged(4, "openai:a", "open", "closed"))
    run.write(CooldownStarted(6, "openai:a", 8), CooldownStarted(9, "openai:b", 20), CredentialParked(7, "openai:b"))
    run.write(OutputJudged(5, "title", None, "openai:a", True), HedgeStarted(5, "title", None, 1, "openai:b"))
    run.write(HedgeFinished(6, "title", None, 1, "openai:b", True, Cost(0.01)))
    return render_html(run.trace(10))


def test_models_have_a_section_that_says_what_happened_to_them(record_stream):
    """A run that was slow because a breaker was open looks, without it, like a run without a reason."""
    page = page_of_models(record_stream)

    section = page.partition("<h2>Models</h2>")[2].partition("</section>")[0]
    assert re.findall(r"<b>(.*?)</b><p>(.*?)</p>", section) == [
        (
            "openai:a",
            "limit 2 → 4 · breaker opened once, open for 3.0 s, closed at the end · cooled down once, for 2.0 s",
        ),
        ("openai:b", "cooled down once, for 11.0 s · its key was refused at 7.0 s"),
        ("title", "accepted 1 of 1 output (100 %) of openai:a"),
        ("Second calls", "1, of which 0 won; the lost calls cost $0.0100"),
    ]


def test_a_models_limit_is_a_step_line_and_its_pauses_are_bars(record_stream):
    """A limit holds until it changes: a slope between two of its values would be invented."""
    section = page_of_models(record_stream).partition("<h2>Models</h2>")[2]

    assert '<path class="s-limit" d="M0.0 51.0H500.0V6.0H1000"/>' in section
    assert re.findall(r'<rect class="s-(\w+)" x="([\d.]+)%" y="3" width="([\d.]+)%"', section) == [
        ("cooldown", "60.000", "20.000"),
        ("breaker", "10.000", "30.000"),
        ("cooldown", "90.000", "10.000"),
    ]
    assert "<title>cool-down · 6.0 s to 8.0 s</title>" in section


def test_a_page_of_a_run_that_told_nothing_of_models_has_no_such_section(document_trace):
    """An empty section is a question without an answer."""
    page = render_html(document_trace)

    assert "<h2>Models</h2>" not in page
    assert "Spent" not in page
    assert "Limit waits" not in page


def test_waits_for_limits_and_money_have_tiles_and_columns(record_stream):
    """The figures that decide what to do next stand at the top."""
    run = record_stream().declare("title").ready(0, "title").queue("title", 6, ("tokens", 2.0), ("requests", 4.0))
    run.attempt("title", 6, 8).finish(8, "title")
    run.write(HedgeFinished(7, "title", None, 1, "openai:b", True, Cost(0.25, unpriced_calls=1)))

    page = render_html(run.trace(8))

    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert tiles["Limit waits"] == "6.0 s<small>mostly requests per minute</small>"
    assert tiles["Spent"] == "$0.25<small>and 1 call of unknown price</small>"
    heads = re.findall(r"<th scope=\"col\"[^>]*>(.*?)</th>", page)
    assert heads[2:9] == ["Ready", "Took", "Requests/min", "Tokens/min", "Attempts", "Tries", "Cost"]


def test_every_kind_of_segment_has_a_fill_and_every_wait_a_pattern(document_trace):
    """A rectangle without a fill is black, and one without a pattern is a colour alone."""
    page = render_html(document_trace)

    for kind in SEGMENT_KINDS:
        assert f".s-{kind} {{ fill: " in page
        if kind != "attempt":
            assert f".s-{kind} {{ fill: url(#p-{kind}); }}" in page
            assert f'<pattern id="p-{kind}" ' in page


def test_each_segment_of_a_bar_explains_itself(document_trace):
    """Pointing at a red bar says why it is red."""
    page = render_html(document_trace)

    assert (
        "<title>keywords · failed attempt 1 · 0.6 s · 0 s to 0.6 s · openai:gpt-4o-mini · server: HTTP 503</title>"
        in page
    )


def test_a_run_that_goes_on_or_did_nothing_is_drawn_too(record_stream):
    """The report is what people open when something went wrong early."""
    nothing = record_stream().trace(0)
    begun = record_stream().declare("title").ready(0, "title").trace()
    skipped = record_stream().declare("title").finish(0, "title", Skipped("when", is_by_choice=True)).trace(0)

    for trace in (nothing, begun, skipped):
        assert Elements(render_html(trace)).found


def test_a_big_run_keeps_only_the_items_that_matter(record_stream):
    """A page of 4,000 rows opens slowly and tells nothing; the slowest and the failed tell."""
    run = record_stream(capacity=4000).declare("notes", each="document").ready(0, "notes", width=4000)
    for item in range(4000):
        outcome = Dropped(ValueError("empty")) if item == 17 else None
        run.ready(0, "notes", item=item).attempt("notes", 0, 1 + item / 1000, item=item)
        run.finish(1 + item / 1000, "notes", outcome, item=item)

    page = render_html(run.finish(5, "notes").trace(5))

    assert page.count('class="row item"') == 20
    assert "<b>[17]</b>" in page
    assert "20 of 4000 items: those that failed, and the slowest" in page
    assert len(page) < 100_000


def test_to_html_replaces_the_file_at_once_and_leaves_nothing_beside_it(document_trace, tmp_path):
    """A browser that reloads while a report is written must not see half of it."""
    target = tmp_path / "run.html"
    target.write_text("an older report")

    written = document_trace.to_html(str(target))

    assert written == target
    assert target.read_text(encoding="utf-8") == render_html(document_trace)
    assert list(tmp_path.iterdir()) == [target]


def test_a_report_that_cannot_be_placed_leaves_nothing_behind(document_trace, tmp_path):
    """A full disk or a wrong path is no reason to litter."""
    (tmp_path / "run.html").mkdir()

    with pytest.raises(OSError, match=r"run\.html"):
        document_trace.to_html(tmp_path / "run.html")

    assert [entry.name for entry in tmp_path.iterdir()] == ["run.html"]


def dag_boxes(svg):
    """Return the place of each step's box by name."""
    boxes = re.findall(r'class="dag-card" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg)
    names = re.findall(r'<text class="dag-name"[^>]*>([^<]+)<', svg)
    return {name: tuple(float(part) for part in box) for name, box in zip(names, boxes, strict=True)}


def test_the_drawing_of_a_pipeline_puts_needs_to_the_left():
    """Time runs from left to right, here as in the waterfall."""
    outline = Outline(
        "document",
        ("document",),
        (
            OutlineStep("title", "llm", ("document",), 1),
            OutlineStep("keywords", "llm", ("document",), 1),
            OutlineStep("summary", "llm", ("document", "title", "keywords"), 2),
        ),
    )

    boxes = dag_boxes(draw_dag_svg(outline))

    assert boxes["title"][0] == boxes["keywords"][0] < boxes["summary"][0]
    assert boxes["title"][1] != boxes["keywords"][1]


def test_boxes_of_a_wide_pipeline_do_not_overlap():
    """300 steps are still a drawing."""
    steps = [OutlineStep(f"a{index}", "llm", ("document",), 1) for index in range(20)]
    for layer in range(2, 16):
        needs = [step.name for step in steps[-20:]]
        steps += [
            OutlineStep(f"s{layer}_{index}", "llm", (needs[index], needs[(index * 7) % 20]), layer)
            for index in range(20)
        ]

    boxes = list(dag_boxes(draw_dag_svg(Outline("wide", ("document",), tuple(steps)))).values())

    for index, (x, y, width, height) in enumerate(boxes):
        for other_x, other_y, other_width, other_height in boxes[index + 1 :]:
            is_apart = (
                x + width <= other_x
                or other_x + other_width <= x
                or y + height <= other_y
                or other_y + other_height <= y
            )
            assert is_apart


def test_an_outline_without_inputs_or_steps_is_drawn():
    """A drawing that breaks on the smallest pipeline breaks a first impression."""
    assert draw_dag_svg(Outline("empty", (), ())).endswith("</svg>")
    assert "lonely" in draw_dag_svg(Outline("one", (), (OutlineStep("lonely", "function", (), 0),)))
