"""The report in a real browser: it can be searched, zoomed, sorted, read by anyone, and it asks for nothing."""

import pytest

from pipeline_engine.report import Totals, render_html
from tests.report.conftest import RecordStream
from tests.report.hostile import PAYLOADS, run_with
from tests.report.many import batch_of, made_up

BATCH, RUN = "batch", "run"


@pytest.fixture(scope="session")
def pages(tmp_path_factory):
    """The page of a batch and that of one run with a mapped step."""
    folder = tmp_path_factory.mktemp("pages")
    made = {BATCH: batch_of(200), RUN: made_up(7, items=40), "small": batch_of(12, items=3)}
    paths = {}
    for name, trace in made.items():
        paths[name] = folder / f"{name}.html"
        paths[name].write_text(render_html(trace), encoding="utf-8")
    return paths


@pytest.fixture
def calm(browser):
    """After the test: the page has asked for nothing, and complained of nothing."""
    yield browser
    assert browser.seen() == {"requests": [], "messages": [], "dialogs": 0}


def count(browser):
    return browser.evaluate("() => document.getElementById('count').textContent")


def press(browser, *keys):
    browser.run("".join(f"await page.keyboard.press({key!r});" for key in keys))


def axis(browser):
    """Return what the chart above the waterfall shows of the time, in thousandths: where it begins, how long it is."""
    box = browser.evaluate("() => document.querySelector('.charts .stretched').getAttribute('viewBox')")
    return [float(part) for part in box.split()][::2]


def test_a_search_leaves_what_it_finds(calm, pages):
    """Of two hundred documents one is asked about: its key, a step, an error's words find it."""
    calm.open(pages[BATCH])

    assert count(calm) == "200 documents, 200 rows"
    calm.run("await page.fill('#find', '00042');")
    assert count(calm) == "1 document, 1 row"
    calm.run("await page.fill('#find', 'nothing like it');")
    assert count(calm) == "0 documents, 0 rows"
    calm.run("await page.fill('#find', 'gave up on'); await page.click('#open-all');")
    documents, rows = (int(part.split()[0]) for part in count(calm).split(", "))
    assert 0 < documents < 100
    assert documents < rows <= 2 * documents + 5


def test_the_first_rows_are_there_before_all_are_read(browser, pages):
    """Who opens 100,000 rows looks at thirty of them; what needs all says that it waits, and cannot be used so far."""
    browser.open(pages[BATCH])
    browser.run("""
        await context.addInitScript(() => {
            window.DecompressionStream = class {
                readable = new ReadableStream();
                writable = new WritableStream();
            };
        });
        await page.reload();
        while (!(await page.evaluate(() => performance.getEntriesByName('drawn').length)))
            await page.waitForTimeout(25);
    """)

    assert count(browser) == "Reading all rows …"
    assert browser.evaluate("() => document.getElementById('live').inert")
    drawn = browser.evaluate("""() => {
        const canvas = document.getElementById('canvas');
        const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
        const rows = new Set();
        for (let place = 0; place < pixels.length; place += 4)
            if (pixels[place] === 47 && pixels[place + 1] === 111 && pixels[place + 2] === 214)
                rows.add(Math.floor((place / 4 / canvas.width - 22) / 22));
        return rows.size;
    }""")
    assert drawn == 27  # attempts, in each row that is seen in full


@pytest.mark.parametrize("order", ["start", "length", "cost", "failed"])
def test_documents_are_sorted_as_asked(calm, pages, order):
    """The slowest, the dearest, those that failed: each is a question of its own."""
    calm.open(pages[BATCH])
    calm.run(f"await page.selectOption('#sort', '{order}'); await page.focus('#chart');")

    press(calm, "ArrowDown")
    told = calm.evaluate("() => document.getElementById('row').textContent")
    traces = batch_of(200).traces
    first = {
        "start": min(traces, key=lambda trace: trace.wall_time),
        "length": max(traces, key=lambda trace: trace.makespan),
        "cost": max(traces, key=lambda trace: trace.cost.usd),
        "failed": max(traces, key=lambda trace: sum(span.outcome == "failed" for span in trace.spans)),
    }[order]
    assert told.startswith(f"{first.document} · ")


def test_keys_zoom_pan_and_open(calm, pages):
    """Who uses no mouse sees as much as who does."""
    calm.open(pages[BATCH])
    calm.run("await page.focus('#chart');")

    assert axis(calm) == [0.0, 1000.0]
    press(calm, "+", "+")
    start, length = axis(calm)
    assert length == pytest.approx(360, abs=1)
    press(calm, "ArrowRight")
    assert axis(calm) == [pytest.approx(start + 0.2 * length, abs=1), pytest.approx(length, abs=1)]
    press(calm, "0")
    assert axis(calm) == [0.0, 1000.0]
    press(calm, "ArrowDown", "Enter")
    assert count(calm) == "200 documents, 205 rows"
    press(calm, "z")
    assert axis(calm)[1] < 500
    press(calm, "/")
    assert calm.evaluate("() => document.activeElement.id") == "find"


def test_a_range_that_is_dragged_over_has_its_totals(calm, pages):
    """What was waited for between two instants is what somebody asks who saw a gap."""
    calm.open(pages[BATCH])
    calm.run("""
        await page.locator('#chart').scrollIntoViewIfNeeded();
        const box = await page.locator('#chart').boundingBox();
        await page.mouse.move(box.x + 500, box.y + 100);
        await page.mouse.down();
        await page.mouse.move(box.x + 600, box.y + 110, {steps: 3});
        await page.mouse.up();
    """)

    told = calm.evaluate("() => document.getElementById('totals').textContent")
    assert told.startswith("Chosen range, ")
    assert "attempt " in told


def test_pointing_at_a_bar_says_what_it_is(calm, pages):
    """And who let the step begin."""
    calm.open(pages[RUN])
    calm.run("""
        await page.locator('#chart').scrollIntoViewIfNeeded();
        const box = await page.locator('#chart').boundingBox();
        await page.mouse.move(box.x + box.width * 0.26, box.y + 22 + 8);
    """)

    told = calm.evaluate("() => [...document.getElementById('tip').children].map((one) => one.textContent)")
    assert told[0] == "title"
    assert any(line.startswith("completed after") for line in told)


def test_a_document_that_is_picked_redraws_the_pipeline_and_has_a_table(calm, pages):
    """From all documents to one and back."""
    calm.open(pages[BATCH])
    figures = "() => [...document.querySelectorAll('.dag-figures')].map((one) => one.textContent)"
    before = calm.evaluate(figures)

    calm.run("await page.focus('#chart');")
    press(calm, "ArrowDown")
    one = calm.evaluate(figures)
    assert all(text.startswith("×200") for text in before)
    assert not any(text.startswith("×") for text in one)
    heads = calm.evaluate("() => [...document.querySelectorAll('#one-table tbody th')].map((one) => one.textContent)")
    assert heads == ["title", "keywords", "category", "summary", "quality"]
    calm.run("await page.click('#show-all');")
    assert calm.evaluate(figures) == before


def test_tables_sort_by_their_heads(calm, pages):
    """Numbers as numbers, the greatest first."""
    calm.open(pages[BATCH])
    calm.run("await page.click('#steps th:nth-child(4) button');")

    keys = calm.evaluate(
        "() => [...document.querySelectorAll('#steps tbody tr')].map((row) => +row.cells[3].dataset.key)"
    )
    assert keys == sorted(keys, reverse=True)
    calm.run("await page.click('#steps th:nth-child(4) button');")
    assert calm.evaluate("() => document.querySelector('#steps th:nth-child(4)').ariaSort") == "ascending"


@pytest.mark.parametrize("name", [BATCH, RUN, "small"])
def test_the_colours_follow_the_readers_scheme(calm, pages, name):
    """Also while the page is open, and on the canvas, too."""
    paper = "() => getComputedStyle(document.body).backgroundColor"
    calm.open(pages[name])
    assert calm.evaluate(paper) == "rgb(245, 246, 248)"
    pixel = """() => {
        const pen = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
        pen.drawImage(document.getElementById('canvas'), 0, 0);
        return [...pen.getImageData(2, 2, 1, 1).data];
    }"""
    assert calm.evaluate(pixel) == [255, 255, 255, 255]

    calm.run("await page.emulateMedia({colorScheme: 'dark'}); await page.waitForTimeout(200);")

    assert calm.evaluate(paper) == "rgb(14, 18, 24)"
    assert calm.evaluate(pixel) == [22, 28, 37, 255]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", [BATCH, RUN])
def test_axe_finds_nothing_wrong(calm, pages, name, scheme):
    """Contrast, names, roles, landmarks: with a document picked, so that all of the page is there."""
    calm.open(pages[name], scheme=scheme, bypassCSP=True)
    calm.run("await page.focus('#chart'); await page.keyboard.press('ArrowDown');")

    assert calm.violations() == []


@pytest.mark.parametrize("name", [BATCH, RUN])
def test_every_control_is_reached_by_the_keyboard(calm, pages, name):
    """Tab by Tab, and out of the chart again."""
    calm.open(pages[name])
    wanted = calm.evaluate("""() => [...document.querySelectorAll('button, input, select, a[href], [tabindex]')]
        .filter((one) => !one.disabled && one.checkVisibility()).length""")

    reached = calm.run("""
        const found = new Set();
        for (let tries = 0; tries < 300; tries++) {
            await page.keyboard.press('Tab');
            const place = await page.evaluate(
                () => [...document.querySelectorAll('*')].indexOf(document.activeElement));
            if (found.has(place)) break;
            found.add(place);
        }
        return await page.evaluate((places) => places.filter((place) => document.querySelectorAll('*')[place].matches(
            'button, input, select, a[href], [tabindex]')).length, [...found]);
    """)
    assert reached == wanted


def test_without_script_all_rows_are_drawn_and_no_dead_control_is_shown(calm, pages):
    """In a mail, behind a strict policy, in an archive."""
    calm.open(pages["small"], javaScriptEnabled=False)

    shown = calm.run("""return [
        await page.locator('.pe-waterfall .label').count(),
        await page.locator('.pe-waterfall').isVisible(),
        await page.locator('button:visible').count(),
        await page.locator('#steps table').isVisible(),
    ];""")
    rows = sum(len(trace.spans) + 1 for trace in batch_of(12, items=3).traces)
    assert shown == [rows, True, 0, True]


def test_with_script_one_waterfall_is_shown(calm, pages):
    """The drawing that stood for it is for paper."""
    calm.open(pages["small"])
    shown = "return [await page.locator('#chart').isVisible(), await page.locator('.pe-waterfall').isVisible()];"

    assert calm.run(shown) == [True, False]
    calm.run("await page.emulateMedia({media: 'print'});")
    assert calm.run(shown) == [False, True]
    assert calm.run("return (await page.pdf({format: 'A4', printBackground: true})).length;") > 10_000


@pytest.mark.parametrize("name", [BATCH, RUN, "small"])
@pytest.mark.parametrize("width", [320, 390, 768])
def test_a_narrow_page_does_not_scroll_sideways(calm, pages, name, width):
    """What is wide scrolls in a box of its own."""
    calm.open(pages[name], width=width)

    assert calm.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0


def test_hostile_texts_change_nothing_but_texts(browser, tmp_path):
    """Sixty ways out of a text, each in every field of the page, picked, pointed at, searched: none gets out."""

    def page(number, text):
        trace = run_with(RecordStream, text)
        totals = Totals()
        totals.add(trace)
        totals.add(run_with(RecordStream, text, suffix="2"))
        path = tmp_path / f"{number}.html"
        path.write_text(render_html(totals.result() if number % 2 else trace), encoding="utf-8")
        return path

    def elements(path):
        browser.open(path)
        browser.run("""
            await page.focus('#chart');
            for (const key of ['ArrowDown', 'Enter', 'ArrowDown', 'Enter', 'ArrowDown']) await page.keyboard.press(key);
            await page.locator('#chart').scrollIntoViewIfNeeded();
        const box = await page.locator('#chart').boundingBox();
            await page.mouse.move(box.x + box.width * 0.26, box.y + 30);
            await page.mouse.move(box.x + box.width * 0.3, box.y + 52);
        """)
        return browser.evaluate("() => document.querySelectorAll('*').length"), browser.seen()

    harmless = [elements(page(number, "benign"))[0] for number in (0, 1)]
    quiet = {"requests": [], "messages": [], "dialogs": 0}
    for number, text in enumerate(PAYLOADS):
        found, seen = elements(page(number, text))
        assert (text, found, seen) == (text, harmless[number % 2], quiet)
