"""The report of many steps: how large it is, how long it takes to make, and how long a browser takes to load it.

A page is compared with an empty one that has as many elements, each in a new window, in turn. It is shown with the
second frame after its first screen was drawn: verdict, figures, pipeline, charts and the first rows of the waterfall.
It is usable when all rows can be searched and sorted, too. Milliseconds are medians, from the start of the navigation.
"""

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from pipeline_engine.report import BatchTrace, render_html
from tests.benchmarks.measuring import judged, print_table
from tests.browser.browser import Browser, browsing, lacks
from tests.report.many import batch_of

DOCUMENTS = (200, 2_000, 20_000)
"""Of five steps each."""
LOADS = 7
MOST_KB = {10_000: 500, 100_000: 5_000}
"""What a page of so many steps may take."""
MOST_TIMES_EMPTY = 3.0
CALM = 0.5
"""Seconds that a new window has for work of its own."""
_MARK = "() => performance.getEntriesByName('{}')[0].startTime"
"""Milliseconds from the start of the navigation to something."""


def main() -> None:
    missing = lacks()
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for documents in DOCUMENTS:
            batch = batch_of(documents)
            path = Path(folder) / f"{documents}.html"
            started = perf_counter()
            path.write_text(render_html(batch), encoding="utf-8")
            made.append((path, [*_counts(batch), *_size(path, 5 * documents), f"{perf_counter() - started:.2f}"]))
            del batch
        if missing is None:
            with browsing() as browser:
                for path, row in made:
                    row.extend(_loads(browser, path))
    heads = ["steps", "bars", "KB", "target", "made in s"]
    heads += ["elements", "shown in ms", "empty page", "ratio", "target", "usable in ms"] if missing is None else []
    print_table("the report", heads, [row for _path, row in made])
    if missing is not None:
        print(f"Not loaded: {missing}")


def _counts(batch: BatchTrace) -> tuple[str, str]:
    spans = [span for trace in batch.traces for span in trace.spans]
    return f"{len(spans):,}", f"{sum(len(span.segments) for span in spans):,}"


def _size(path: Path, steps: int) -> tuple[str, str]:
    size = path.stat().st_size / 1000
    return f"{size:,.0f}", judged(size, MOST_KB[steps]) if steps in MOST_KB else ""


def _loads(browser: Browser, path: Path) -> list[str]:
    browser.open(path)
    elements = int(browser.evaluate("() => document.querySelectorAll('*').length"))
    empty = path.with_name(f"empty-{path.name}")
    head = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Empty</title></head><body><main>'
    empty.write_text(f"{head}{'<p></p>' * (elements - 6)}</main></body></html>", encoding="utf-8")
    shown: dict[Path, list[float]] = {path: [], empty: []}
    usable = []
    for _ in range(LOADS):
        for page, milliseconds in shown.items():
            browser.open(page, calm=CALM)
            milliseconds.append(float(browser.evaluate(_MARK.format("shown"))))
            if page == path:
                usable.append(float(browser.evaluate(_MARK.format("ready"))))
    own, other = median(shown[path]), median(shown[empty])
    ratio = own / other
    figures = [f"{elements:,}", f"{own:.0f}", f"{other:.0f}", f"{ratio:.1f}", judged(ratio, MOST_TIMES_EMPTY)]
    return [*figures, f"{median(usable):.0f}"]


if __name__ == "__main__":
    main()
