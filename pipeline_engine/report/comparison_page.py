"""A comparison of two batches as tables: a page of its own, or a piece of one. It runs no script and loads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_engine.report.fragment import cell, fragment, heading, listed, number, small_table
from pipeline_engine.report.numbers import count_text, seconds_text, usd_text
from pipeline_engine.report.page.markup import safe
from pipeline_engine.report.page.writing import write_page
from pipeline_engine.report.palette import color_rules

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from pipeline_engine.report.comparing import Comparison, FigureComparison, FigureName, StepComparison
    from pipeline_engine.report.fragment import Cell

__all__ = [
    "FIGURE_NAMES",
    "comparison_html",
    "figure_text",
    "ratio_text",
    "render_comparison",
    "shown_figures",
    "write_comparison",
]

FIGURE_NAMES: Mapping[FigureName, str] = {
    "cost_usd": "cost",
    "seconds": "time",
    "input_tokens": "tokens in",
    "output_tokens": "tokens out",
    "attempts": "attempts",
    "retries": "retries",
}
"""What each figure is called, in the order in which they are shown."""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> Path:
    """Write a comparison's page to `path` and return it; a reader never sees half a page."""
    return write_page(render_comparison(comparison), path)


def render_comparison(comparison: Comparison) -> str:
    """Return a comparison's page: every document that it keeps, those first that differ most."""
    title = safe(f"{comparison.name_a} and {comparison.name_b}")
    style = f"{color_rules(':root')}:root{{color-scheme:light dark}}body{{margin:0;background:var(--page)}}"
    style += "main{max-width:1220px;margin:0 auto;padding:32px 20px 48px}"
    style += "h1{margin:0 0 12px;font:620 20px system-ui,sans-serif;color:var(--ink)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Comparison of {title}</title><style>{style}</style></head>"
        f"<body><main><h1>Comparison</h1>{_drawn(comparison, len(comparison.differences))}</main></body></html>\n"
    )


def comparison_html(comparison: Comparison) -> str:
    """Return a comparison as a piece of HTML, as notebooks show it."""
    return _drawn(comparison, 20)


def _drawn(comparison: Comparison, max_documents: int) -> str:
    return fragment(
        heading(f"A: {comparison.name_a} · B: {comparison.name_b}", "two batches on the same documents"),
        f'<p class="verdict">{safe(comparison.verdict)}.</p>',
        _documents(comparison),
        small_table(
            "Figures of documents",
            [("figure", "name"), *_FIGURE_HEADS],
            (_figure_cells(FIGURE_NAMES[name], figure) for name, figure in shown_figures(comparison.figures)),
        ),
        _steps(comparison.steps),
        _fields(comparison.steps),
        _labels(comparison),
        small_table(
            "Figures of steps",
            [("step", "name"), ("figure", "name"), *_FIGURE_HEADS],
            (
                [cell(step.step), *_figure_cells(FIGURE_NAMES[name], figure)]
                for step in comparison.steps
                for name, figure in shown_figures(step.figures)
            ),
            max_rows=200,
        ),
        _differences(comparison, max_documents),
        f"<h3>Notes</h3>{listed(comparison.notes)}" if comparison.notes else "",
    )


_FIGURE_HEADS: tuple[Cell, ...] = tuple(
    (name, "number") for name in ("documents", "A", "B", "B / A", "A p50", "B p50", "A p95", "B p95")
)


def figure_text(name: FigureName, value: float) -> str:
    """Return a figure as people read it.

    Example:
        >>> figure_text("cost_usd", 0.5), figure_text("seconds", 4.2), figure_text("output_tokens", 12_345)
        ('$0.50', '4.2 s', '12.3 k')
    """
    if name == "cost_usd":
        return usd_text(value)
    return seconds_text(value) if name == "seconds" else count_text(round(value))


def ratio_text(ratio: float | None) -> str:
    """Return how many times as much B takes.

    Example:
        >>> ratio_text(0.625), ratio_text(None)
        ('0.62 ×', '–')
    """
    return "–" if ratio is None else f"{ratio:.2f} ×"


def shown_figures(
    figures: Mapping[FigureName, FigureComparison],
) -> Iterator[tuple[FigureName, FigureComparison]]:
    """Yield the figures that say something: those that are not nothing, and counts that differ."""
    for name in FIGURE_NAMES:
        figure = figures.get(name)
        is_quiet = name in ("attempts", "retries") and figure is not None and figure.total_a == figure.total_b
        if figure is not None and (figure.total_a or figure.total_b) and not is_quiet:
            yield name, figure


def _figure_cells(label: str, figure: FigureComparison) -> list[Cell]:
    values = (figure.total_a, figure.total_b)
    parts = (figure.p50_a, figure.p50_b, figure.p95_a, figure.p95_b)
    return [
        cell(label),
        number(f"{figure.count:,}"),
        *(number(figure_text(figure.name, value)) for value in values),
        number(ratio_text(figure.ratio)),
        *(number(figure_text(figure.name, value)) for value in parts),
    ]


def _documents(comparison: Comparison) -> str:
    changed = [[cell(a), cell(b), number(f"{count:,}")] for (a, b), count in comparison.statuses.items() if a != b]
    counts = (
        ("in both", comparison.documents),
        ("no difference", comparison.equal),
        ("different", comparison.different),
        ("not all is kept", comparison.unknown),
        ("only in A", comparison.only_a),
        ("only in B", comparison.only_b),
    )
    rows = [[cell(name), number(f"{count:,}")] for name, count in counts if count or name == "in both"]
    return small_table("Documents", [("documents", "name"), ("count", "number")], rows) + small_table(
        "Documents that end differently", [("in A", "name"), ("in B", "name"), ("documents", "number")], changed
    )


def _steps(steps: Sequence[StepComparison]) -> str:
    heads = [("step", "name")]
    heads += [
        (name, "number") for name in ("equal", "different", "only A", "only B", "not kept", "from journal A", "B")
    ]
    heads += [("ends differently", "text")]
    return small_table(
        "Outputs of steps",
        heads,
        (
            [
                cell(step.step),
                number(f"{step.equal:,}"),
                (f'<b class="warn">{step.different:,}</b>' if step.different else "0", "number"),
                *(number(f"{count:,}") for count in (step.only_a, step.only_b, step.unknown)),
                *(number(f"{count:,}") for count in (step.restored_a, step.restored_b)),
                cell(", ".join(f"{a} → {b} {count:,}×" for (a, b), count in step.outcomes.items()), "text"),
            ]
            for step in steps
        ),
        max_rows=200,
        of="step",
    )


def _fields(steps: Sequence[StepComparison]) -> str:
    heads = [
        ("step", "name"),
        ("field", "name"),
        ("documents", "number"),
        ("same", "number"),
        ("how it differs", "text"),
    ]
    return small_table(
        "Fields that differ",
        heads,
        (
            [
                cell(step.step),
                cell(field.path or "–", max_width=60),
                number(f"{field.count:,}"),
                number(f"{field.share:.0%}"),
                cell(field.text, "text"),
            ]
            for step in steps
            for field in step.fields
            if field.equal < field.count or field.only_a or field.only_b
        ),
        max_rows=200,
        of="field",
    )


def _labels(comparison: Comparison) -> str:
    heads = [("label", "name"), *((name, "number") for name in ("documents", "A right", "B right", "only A", "only B"))]
    return small_table(
        "Against the labels",
        [*heads, ("what follows", "text")],
        (
            [
                cell(label.name),
                number(f"{label.count:,}"),
                number(_share(label.right_a, label.count)),
                number(_share(label.right_b, label.count)),
                number(f"{label.only_a:,}"),
                number(f"{label.only_b:,}"),
                cell(label.verdict, "text"),
            ]
            for label in comparison.labels
        ),
        of="label",
    )


def _share(count: int, of: int) -> str:
    return f"{count:,} ({count / of:.0%})" if of else "–"


def _differences(comparison: Comparison, max_documents: int) -> str:
    heads = [("document", "name"), ("step", "name"), ("apart", "number"), ("A", "text"), ("B", "text")]
    rows = []
    for document in comparison.differences[:max_documents]:
        ends = f"{document.status_a} → {document.status_b}" if document.status_a != document.status_b else ""
        name = safe(document.document, 80) + (f'<br><span class="warn">{safe(ends)}</span>' if ends else "")
        for place, step in enumerate(document.steps or (None,)):
            first = (name if place == 0 else "", "name")
            if step is None:
                rows.append([first, cell("–"), number(""), cell("", "text"), cell("", "text")])
            else:
                texts = (cell(step.text_a, "text"), cell(step.text_b, "text"))
                rows.append([first, cell(step.step), number(f"{step.distance:.2f}"), *texts])
    left = comparison.different - min(max_documents, len(comparison.differences))
    more = f'<p class="quiet">… and {left:,} more documents that differ less</p>' if left > 0 else ""
    return small_table("Documents that differ most", heads, rows, max_rows=2000, of="step") + more
