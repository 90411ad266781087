"""A plan as text: Mermaid, DOT and a drawing for the terminal."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipeline_engine.text import one_line

if TYPE_CHECKING:
    from pipeline_engine.values import Outline, OutlineStep

__all__ = ["draw_dot", "draw_mermaid", "draw_text"]

_WORD = re.compile(r"\A[A-Za-z_][A-Za-z0-9_]*\Z")
_MADE = re.compile(r"\An\d+\Z")  # what stands for names that are no words: a step may really be called so
# Words that Mermaid reads as syntax when they stand alone as an identifier.
_RESERVED = frozenset({"end", "graph", "subgraph", "style", "class", "click", "default", "flowchart"})


def _identifiers(outline: Outline) -> dict[str, str]:
    names = [*outline.inputs, *(step.name for step in outline.steps)]
    return {
        name: name if _WORD.match(name) and name not in _RESERVED and not _MADE.match(name) else f"n{place}"
        for place, name in enumerate(names)
    }


def _label(step: OutlineStep) -> str:
    mapped = " ×n" if step.each else ""
    return one_line(step.name) + mapped


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")


def draw_mermaid(outline: Outline) -> str:
    """Return a Mermaid flowchart: inputs round, llm steps as boxes, fallbacks dotted."""
    ids = _identifiers(outline)

    def box(name: str, label: str, left: str, right: str) -> str:
        shown = label if _WORD.match(label) else f'"{_quoted(label)}"'
        return f"  {ids[name]}{left}{shown}{right}"

    lines = ["flowchart LR"]
    lines += [box(name, one_line(name), "([", "])") for name in outline.inputs]
    lines += [
        box(step.name, _label(step), "[[" if step.each else "[", "]]" if step.each else "]") for step in outline.steps
    ]
    by_name = {step.name: step for step in outline.steps}
    for step in outline.steps:
        for need in step.needs:
            is_fallback = need in by_name and by_name[need].is_on_demand
            lines.append(f"  {ids[need]} {'-.->' if is_fallback else '-->'} {ids[step.name]}")
    return "\n".join(lines)


def draw_dot(outline: Outline) -> str:
    """Return the plan in Graphviz' language."""

    def quote(text: str) -> str:
        return '"' + one_line(text).replace("\\", "\\\\").replace('"', '\\"') + '"'

    lines = [f"digraph {quote(outline.pipeline)} {{", "  rankdir=LR;"]
    lines += [f"  {quote(name)} [shape=ellipse];" for name in outline.inputs]
    lines += [f"  {quote(step.name)} [shape=box, label={quote(_label(step))}];" for step in outline.steps]
    lines += [f"  {quote(need)} -> {quote(step.name)};" for step in outline.steps for need in step.needs]
    return "\n".join([*lines, "}"])


def draw_text(outline: Outline) -> str:
    """Return the plan by layers: what can run at the same time stands under one heading.

    Example:
        >>> from pipeline_engine.values import Outline, OutlineStep
        >>> steps = (OutlineStep("a", "llm", ("x",), 0), OutlineStep("b", "llm", ("a",), 1))
        >>> print(draw_text(Outline("p", ("x",), steps)))
        p (x)
        ├─ a  ← x
        └─ b  ← a
    """
    head = f"{one_line(outline.pipeline)} ({', '.join(one_line(name) for name in outline.inputs)})"
    layers: dict[int, list[OutlineStep]] = {}
    for step in outline.steps:
        layers.setdefault(step.layer, []).append(step)
    width = max((len(_label(step)) for step in outline.steps), default=0)
    rows: list[str] = []
    last_layer = max(layers, default=0)
    for layer, steps in sorted(layers.items()):
        for place, step in enumerate(steps):
            is_last = layer == last_layer and place == len(steps) - 1
            corner = "└─" if is_last else "├─" if place == 0 else "│ "
            needs = ", ".join(one_line(need) for need in step.needs)
            note = "  (only as a fallback)" if step.is_on_demand else ""
            arrow = f"  ← {needs}" if needs else ""
            rows.append(f"{corner} {_label(step):<{width}}{arrow}{note}".rstrip())
    return "\n".join([head, *rows])
