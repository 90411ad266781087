"""The palette: how each kind of segment is filled, one table for the page, its canvas and drawings elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline_engine.report.spans import SegmentKind

__all__ = ["FILLS", "Fill", "color_rules", "fill_rules", "pattern_defs"]

_Mark = tuple[float, float, float, float]


class Fill(NamedTuple):
    """Describe a fill: a colour, and marks on it that tell it from the others where colours cannot be seen."""

    paper: str
    """The variable of its colour."""
    ink: str
    """The variable of its marks' colour."""
    flat: str
    """The variable of its colour where it is stretched, and a pattern would be distorted."""
    opacity: float = 1.0
    """The opacity of that colour."""
    size: int = 6
    """The side of the square that is repeated, in pixels."""
    marks: tuple[_Mark, ...] = ()
    """Rectangles in that square: x, y, width, height."""
    angle: int = 0
    """Degrees by which the pattern is turned."""


FILLS: Mapping[SegmentKind, Fill] = {
    "slot": Fill("slot", "slot-ink", "slot-ink", 0.5, marks=((2, 2, 2, 2),)),
    "requests": Fill("limit", "limit-ink", "limit-ink", marks=((0, 0, 1.4, 6),), angle=-45),
    "tokens": Fill("limit", "limit-ink", "limit-ink", 0.75, marks=((0.5, 0.5, 2, 2), (3.5, 3.5, 2, 2))),
    "concurrency": Fill("limit", "limit-ink", "limit-ink", 0.5, marks=((0, 0, 1, 6), (0, 0, 6, 1))),
    "cooldown": Fill("limit", "limit-ink", "limit-ink", 0.3, marks=((0, 2, 3, 1.6),)),
    "breaker": Fill("breaker", "breaker-ink", "breaker-ink", marks=((0, 0, 1.3, 6), (0, 0, 6, 1.3)), angle=45),
    "budget": Fill("budget", "budget-ink", "budget-ink", marks=((1, 1, 3, 3),)),
    "attempt": Fill("attempt", "attempt", "attempt"),
    "failed": Fill("failed", "failed-ink", "failed", marks=((0, 0, 1.8, 6),), angle=45),
    "backoff": Fill("backoff", "backoff-ink", "backoff-ink", size=5, marks=((0, 0, 5, 1.4),)),
    "fallback": Fill("fallback", "fallback-ink", "fallback-ink", marks=((0, 0, 1.6, 6),)),
    "shared": Fill("fallback", "fallback-ink", "fallback-ink", 0.6, marks=((0, 1, 6, 1), (0, 4, 6, 1))),
    "warm": Fill("fallback", "fallback-ink", "fallback-ink", 0.6, marks=((0, 0, 1.2, 6),), angle=-45),
    "validate": Fill("validate", "validate-ink", "validate", size=4, marks=((0, 0, 2, 2),)),
    "commit": Fill("validate-ink", "validate", "validate-ink", size=5, marks=((0, 0, 5, 1.6),)),
    "lease": Fill("validate-ink", "validate", "validate-ink", size=7, marks=((0, 0, 3, 7),), angle=45),
}
"""The fill of each kind."""

_LIGHT = (
    "--page:#f5f6f8;--card:#fff;--ink:#18202c;--quiet:#566173;--line:#dde2ea;--hair:#e9edf2;"
    "--accent:#a84300;--good:#18733f;--bad:#b3242b;--warn:#8a5a00;"
    "--slot:#cfd5de;--slot-ink:#7b8798;--attempt:#2f6fd6;--failed:#d2383f;--failed-ink:#ffd9d6;"
    "--backoff:#e3d8f7;--backoff-ink:#7c4fd0;--fallback:#f6dfa8;--fallback-ink:#9a6a00;"
    "--validate:#0f8a80;--validate-ink:#aee6df;--heat:#e8590c;--need:#b3bcc9;--limit:#cfe8ee;--limit-ink:#1b7c93;"
    "--breaker:#f4d3df;--breaker-ink:#a61e4d;--budget:#d9ecd0;--budget-ink:#3c7a1f"
)
_DARK = (
    "--page:#0e1218;--card:#161c25;--ink:#e7ebf1;--quiet:#a0acbd;--line:#2b3441;--hair:#222a35;"
    "--accent:#ffab66;--good:#5fd18f;--bad:#ff8d8d;--warn:#f0c060;"
    "--slot:#333e4d;--slot-ink:#8492a6;--attempt:#5a9bff;--failed:#e5484d;--failed-ink:#5c1518;"
    "--backoff:#33275a;--backoff-ink:#b197fc;--fallback:#4a3a10;--fallback-ink:#f0c060;"
    "--validate:#2bb3a6;--validate-ink:#0a4a44;--heat:#ff8a3d;--need:#4a5668;--limit:#143a45;--limit-ink:#66d0e6;"
    "--breaker:#4a1a2c;--breaker-ink:#ff8fb3;--budget:#233d17;--budget-ink:#9bd67c"
)


def color_rules(selector: str) -> str:
    """Return the rules that give an element its colours: light ones, and dark ones for who asks for them.

    Paper is always light.
    """
    return f"{selector}{{{_LIGHT}}}@media screen and (prefers-color-scheme:dark){{{selector}{{{_DARK}}}}}"


def fill_rules(scope: str, prefix: str) -> str:
    """Return the rules of the classes `s-<kind>` below `scope`, whose patterns' ids begin with `prefix`.

    Example:
        >>> fill_rules(".drawing", "d-").split("}")[0]
        '.drawing .s-slot{fill:url(#d-slot)'
    """
    rules = [f"{scope} .s-{kind}{{fill:url(#{prefix}{kind})}}" for kind in FILLS]
    rules += [
        f"{scope} .stretched .s-{kind}{{fill:var(--{fill.flat});fill-opacity:{fill.opacity:g}}}"
        for kind, fill in FILLS.items()
    ]
    return "".join(rules)


def pattern_defs(prefix: str) -> str:
    """Return the patterns as one `defs` element of SVG."""
    return f"<defs>{''.join(_pattern(f'{prefix}{kind}', fill) for kind, fill in FILLS.items())}</defs>"


def _pattern(name: str, fill: Fill) -> str:
    turned = f' patternTransform="rotate({fill.angle})"' if fill.angle else ""
    square = f'width="{fill.size}" height="{fill.size}"'
    marks = "".join(
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" style="fill:var(--{fill.ink});stroke:none"/>'
        for x, y, width, height in fill.marks
    )
    paper = f'<rect {square} style="fill:var(--{fill.paper});stroke:none"/>'
    return f'<pattern id="{name}" {square} patternUnits="userSpaceOnUse"{turned}>{paper}{marks}</pattern>'
