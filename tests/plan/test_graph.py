"""Order and cycles: the same answer every time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.plan.graph import find_cycles, put_in_order


@pytest.mark.parametrize(
    ("edges", "cycles"),
    [
        ({}, []),
        ({"a": [], "b": ["a"]}, []),
        ({"a": ["a"]}, [["a", "a"]]),
        ({"b": ["a"], "a": ["b"]}, [["a", "b", "a"]]),
        ({"c": ["b"], "b": ["a"], "a": ["c"]}, [["a", "c", "b", "a"]]),
        ({"x": ["y"], "y": ["x"], "b": ["a"], "a": ["b"]}, [["a", "b", "a"], ["x", "y", "x"]]),
        # the shortest way round a knot, and among those the one with the smallest names
        ({"a": ["b", "c"], "b": ["d"], "c": ["a"], "d": ["a"]}, [["a", "c", "a"]]),
        ({"a": ["c", "b"], "b": ["a"], "c": ["a"]}, [["a", "b", "a"]]),
    ],
)
def test_a_cycle_starts_at_its_smallest_name(edges, cycles):
    """A message that reads another way each time looks like another fault."""
    assert find_cycles(edges) == cycles


@given(st.data())
def test_cycles_do_not_depend_on_the_order_of_declaration(data):
    """Moving a function in its file does not change what is wrong."""
    names = "abcdef"
    edges = {name: data.draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) for name in names}
    shuffled = [(name, sorted(needs, reverse=True)) for name, needs in edges.items()]
    random.Random(data.draw(st.integers())).shuffle(shuffled)

    assert find_cycles(dict(shuffled)) == find_cycles(edges)


@st.composite
def graphs(draw):
    """Draw needs without a cycle, declared in any order."""
    names = draw(st.permutations("abcdefgh"))
    edges = {
        name: draw(st.lists(st.sampled_from(names[:place]), unique=True)) if place else []
        for place, name in enumerate(names)
    }
    return {name: edges[name] for name in draw(st.permutations(names))}


@given(graphs())
def test_the_order_and_its_measures_follow_their_definitions(edges):
    """Layer: the longest way behind; remaining: the longest way ahead, itself included."""
    order = put_in_order(edges)
    place = {name: number for number, name in enumerate(order.names)}
    followers = {name: [other for other in edges if name in edges[other]] for name in edges}

    assert sorted(order.names) == sorted(edges)
    for name, needs in edges.items():
        assert all(place[need] < place[name] for need in needs)
        assert order.layer[name] == max((order.layer[need] + 1 for need in needs), default=0)
        assert order.remaining[name] == 1 + max((order.remaining[other] for other in followers[name]), default=0)
    assert find_cycles(edges) == []


def test_steps_that_are_free_keep_the_order_of_declaration():
    """Traces and drawings then read like the source."""
    assert put_in_order({"z": [], "a": [], "m": ["a"], "b": []}).names == ("z", "a", "m", "b")
