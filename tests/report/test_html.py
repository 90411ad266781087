"""The page: complete, self-contained, and deaf to whatever a document or a model says in it."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import shutil
import subprocess
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from pipeline_engine.report import Scenario, Totals, draw_dag_svg, render_html
from pipeline_engine.report.palette import FILLS
from pipeline_engine.report.spans import SEGMENT_KINDS
from pipeline_engine.values import (
    BreakerChanged,
    CooldownStarted,
    Cost,
    CredentialParked,
    Dropped,
    HedgeFinished,
    HedgeStarted,
    LimitChanged,
    Outline,
    OutlineStep,
    OutputJudged,
    Skipped,
)
from tests.report.hostile import PAYLOADS, run_with
from tests.report.many import batch_of, made_up

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


def batch_with(record_stream, text):
    """Return the totals of two runs in which every text from outside is `text`."""
    totals = Totals()
    for suffix in ("", "2"):
        totals.add(run_with(record_stream, text, suffix=suffix))
    return totals.result()


def blocks(page):
    """Return the columns that a page's script draws from, in base64: those of the first screen, and all of them."""
    found = dict(re.findall(r'<script type="application/octet-stream" id="(first|all)">([^<]*)</script>', page))
    return found["first"], found["all"]


def packed(page):
    """Return the columns of all runs."""
    first, whole = blocks(page)
    return json.loads(zlib.decompress(base64.b64decode(whole)) if whole else base64.b64decode(first))


def scripts(page):
    """Return the scripts of a page: the one that runs before the body is read, and the one that draws."""
    return re.findall(r"<script>(.*?)</script>", page, re.DOTALL)


@pytest.mark.parametrize("text", PAYLOADS)
def test_hostile_text_adds_no_element_and_no_attribute(record_stream, text):
    """A document named like a script tag must not run in the browser of whoever reads the report."""
    for made in (run_with, batch_with):
        benign = Elements(render_html(made(record_stream, "benign")))
        hostile = Elements(render_html(made(record_stream, text)))

        assert hostile.found == benign.found


def test_a_page_with_broken_characters_can_be_written(record_stream, tmp_path):
    """A lone surrogate from a damaged document has no bytes in UTF-8: it must not cost the whole report."""
    written = run_with(record_stream, "\ud800\x00").to_html(tmp_path / "run.html")

    assert "\\ud800\\x00" in written.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", PAYLOADS)
def test_no_attribute_runs_anything_or_leads_anywhere(record_stream, text):
    """The page has no handler and no address but its own: there is nothing to hijack."""
    page = Elements(render_html(run_with(record_stream, text)))

    assert not [name for name, _ in page.attributes if name.startswith("on")]
    addresses = {(name, value) for name, value in page.attributes if name in {"href", "src", "action", "xlink:href"}}
    assert addresses == {("href", "data:,"), ("href", "#errors")}
    styles = [value for name, value in page.attributes if name == "style"]
    assert all(re.fullmatch(r"left:[\d.]+%|fill:var\(--[a-z-]+\)(;stroke:none)?", style) for style in styles)


def test_hostile_text_is_shown_as_it_is(record_stream):
    """Escaped once: a reader sees what the document said, not half of it."""
    page = Elements(render_html(run_with(record_stream, "<b>$verdict & more</b>")))

    assert "<b>$verdict & more</b>" in page.text


def test_the_page_loads_nothing(record_stream, document_trace):
    """It is opened offline, from mail and behind firewalls; what it cannot ask for cannot leak."""
    page = render_html(document_trace)

    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts(page)]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    policy = f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:"
    assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in page
    assert len(digests) == 2
    assert page.count("<script") == 4  # two are columns, which are no scripts
    assert set(re.findall(r"https?://[^\s\"'<>]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)


def test_the_script_shows_texts_as_texts_only(document_trace):
    """Its texts come from documents: there must be no way from one of them to an element or to code."""
    script = "\n".join(scripts(render_html(document_trace)))

    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "fetch("):
        assert way not in script


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
        '<span class="mark is-completed" aria-hidden="true">✓</span> completed',
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

    assert set(FILLS) == set(SEGMENT_KINDS)
    assert all(fill.marks for kind, fill in FILLS.items() if kind != "attempt")
    looks = {(fill.paper, fill.marks, fill.angle) for fill in FILLS.values()}
    assert len(looks) == len(FILLS)
    for kind in SEGMENT_KINDS:
        assert f".s-{kind}{{fill:url(#p-{kind})}}" in page
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

    labels = re.findall(r'<text x="30" y="16" class="quiet">([^<]*)', page)
    assert len(labels) == 21
    assert "[17]" in labels
    assert labels[-1] == "20 of 4,000 items: failed, slowest"
    assert len(packed(page)["rows"]["step"]) == 4001
    assert len(page) < 250_000


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


def test_the_first_screen_stands_by_itself_and_is_small():
    """It is drawn before the rest is read: the earliest documents, and what their bars are made of."""
    batch = batch_of(120, items=5)
    page = render_html(batch)

    first = json.loads(base64.b64decode(blocks(page)[0]))

    keys = [first["texts"][key] for key in first["documents"]["key"]]
    assert keys == [trace.document for trace in sorted(batch.traces, key=lambda trace: trace.wall_time)][:30]
    assert all(flags & 1 for flags in first["rows"]["flags"])
    assert sum(first["documents"]["rows"]) == len(first["rows"]["step"])
    assert sum(first["rows"]["bars"]) == len(first["bars"]["kind"])
    assert (first["is_whole"], packed(page)["is_whole"]) == (False, True)
    assert len(blocks(page)[0]) < 40_000


def test_a_small_page_holds_its_runs_once(document_trace):
    """What the first screen shows is then all that there is."""
    first, whole = blocks(render_html(document_trace))

    assert json.loads(base64.b64decode(first))["is_whole"] is True
    assert whole == ""


def test_the_columns_hold_each_bar_of_each_run(document_trace):
    """The script sees what the trace says: bars that tile each step from ready to its outcome."""
    data = packed(render_html(document_trace))

    assert data["steps"] == [step.name for step in document_trace.outline.steps]
    rows, bars = data["rows"], data["bars"]
    first = 0
    for row, span in enumerate(document_trace.steps):
        lengths = bars["length"][first : first + rows["bars"][row]]
        kinds = [data["kinds"][kind]["code"] for kind in bars["kind"][first : first + rows["bars"][row]]]
        first += rows["bars"][row]
        assert data["steps"][rows["step"][row]] == span.step
        assert kinds == [segment.kind for segment in span.segments]
        assert sum(lengths) * data["unit"] == pytest.approx(span.duration, abs=data["unit"])
    assert first == len(bars["kind"])


def test_a_batch_has_the_same_page_with_its_own_figures():
    """One thing to learn: verdict, tiles, drawing, time, steps, errors."""
    batch = batch_of(30, items=2)
    page = render_html(batch)

    tiles = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)<small>", page))
    assert tiles["Documents"] == f"{batch.documents['completed']:,}"
    heads = re.findall(r"<h2>(.*?)</h2>", page)
    failed = ["What failed"] if batch.errors else []
    assert heads == [
        "Steps and their needs",
        "What happened when",
        "Time by step",
        "Slowest documents",
        *failed,
        "Failed attempts",
        "Models",
    ]
    assert page.count('class="dag-step') == 6
    rows = re.findall(r'<th scope="row">([^<]*)</th>', page.partition('id="steps"')[2].partition("</section>")[0])
    assert rows == ["title", "keywords", "category", "summary", "quality", "notes"]
    assert packed(page)["is_batch"] is True


def test_a_batch_of_one_document_is_that_run(document_trace):
    """Nobody wants quantiles of one."""
    totals = Totals()
    totals.add(document_trace)

    assert render_html(totals.result()) == render_html(document_trace)


def test_a_batch_of_nothing_has_a_page():
    """It is opened by those who wonder why."""
    assert Elements(render_html(Totals().result())).found


def test_a_batch_that_keeps_some_runs_says_so():
    """A picture that leaves things out in silence is a wrong one."""
    page = render_html(batch_of(60, max_spans=100))

    assert "The waterfall shows 20 of 60 runs: the slowest, the first that failed, and others taken at random." in page
    assert "20 of 60 runs are kept in full" in page


def test_scenarios_are_a_table_below_that_of_the_steps(document_trace):
    """What to change is asked by who has seen where the time went."""
    page = render_html(document_trace, scenarios=[Scenario("4 slots", 3.9, 0.133), Scenario("no retries", 4.6, -0.02)])

    section = page.partition("<h2>What if</h2>")[2].partition("</section>")[0]
    assert re.findall(r"<t[hd][^>]*>([^<]+)</t[hd]>", section)[3:] == [
        *("4 slots", "3.9 s", "13 %"),
        *("no retries", "4.6 s", "costs 2 %"),
    ]
    order = [
        'class="verdict"',
        'class="tiles"',
        'id="pipeline"',
        'class="charts"',
        'id="live"',
        'id="steps"',
        "What if",
    ]
    assert sorted(order, key=page.index) == order


def test_a_page_of_ten_thousand_rows_is_small():
    """It goes by mail. The documents' own names are counted in."""
    batch = batch_of(2000)

    page = render_html(batch)

    assert sum(len(trace.spans) for trace in batch.traces) == 10_000
    assert len(page.encode()) < 500_000


def test_a_page_of_a_hundred_thousand_rows_is_no_larger_than_a_photograph():
    """Two thousand different runs in any order, each time under a new name."""
    totals, dice = Totals(max_spans=1_000_000), random.Random(1)
    made = [made_up(number) for number in range(2_000)]
    for number in range(20_000):
        key = f"reports/2026/{number:05d}-quarterly.md"
        totals.add(replace(dice.choice(made), document=key, wall_time=number * 0.13))
    batch = totals.result()

    page = render_html(batch)

    assert sum(len(trace.spans) for trace in batch.traces) == 100_000
    assert len(page.encode()) < 5_000_000


def test_the_scripts_are_valid(tmp_path):
    """A slip of the pen would show only in a browser, which most who change this do not have at hand."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js, which reads the scripts")
    for number, script in enumerate(scripts(render_html(made_up(1)))):
        path = tmp_path / f"{number}.js"
        path.write_text(script, encoding="utf-8")
        subprocess.run([node, "--check", path], check=True, timeout=30)


def test_equal_runs_have_equal_pages():
    """A report that changes without reason cannot be compared with the last one."""
    assert render_html(made_up(3)) == render_html(made_up(3))


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
