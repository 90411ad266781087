"""The dependency graph: order, layers, cycles. The only module that knows networkx."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import networkx as nx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Order", "find_cycles", "put_in_order"]


@dataclass(frozen=True, slots=True)
class Order:
    """Hold what the graph says of each step, by name."""

    names: tuple[str, ...]
    """Every step after its needs; among equals in the order of declaration."""
    layer: Mapping[str, int]
    """The number of steps before it on the longest path."""
    remaining: Mapping[str, int]
    """The number of steps on the longest path from it to a leaf, itself included."""


def _graph(edges: Mapping[str, Sequence[str]]) -> nx.DiGraph[str]:
    graph: nx.DiGraph[str] = nx.DiGraph()
    graph.add_nodes_from(edges)
    graph.add_edges_from((need, name) for name, needs in edges.items() for need in needs)
    return graph


def find_cycles(edges: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return one cycle for each knot of steps, each beginning at its smallest name.

    Args:
        edges: For each step, the names of the steps it needs.

    Example:
        >>> find_cycles({"b": ["c"], "c": ["b"], "a": ["b"]})
        [['b', 'c', 'b']]
    """
    graph = _graph(edges)
    cycles = []
    for knot in nx.strongly_connected_components(graph):
        first = min(knot)
        if len(knot) == 1:
            if graph.has_edge(first, first):
                cycles.append([first, first])
            continue
        inside = graph.subgraph(knot).reverse(copy=False)  # from a step to what it needs
        paths = [nx.shortest_path(inside, need, first) for need in sorted(inside.successors(first))]
        cycles.append([first, *min(paths, key=lambda path: (len(path), path))])
    return sorted(cycles)


def put_in_order(edges: Mapping[str, Sequence[str]]) -> Order:
    """Return the order in which every step stands after its needs, in time linear in the edges.

    Args:
        edges: For each step, in the order of declaration, the names of the steps it needs; no cycle.
    """
    graph = _graph(edges)
    place = {name: number for number, name in enumerate(edges)}
    names = tuple(nx.lexicographical_topological_sort(graph, key=place.__getitem__))
    layer: dict[str, int] = {}
    for name in names:
        layer[name] = max((layer[need] + 1 for need in graph.predecessors(name)), default=0)
    remaining: dict[str, int] = {}
    for name in reversed(names):
        remaining[name] = max((remaining[other] for other in graph.successors(name)), default=0) + 1
    return Order(names, layer, remaining)
