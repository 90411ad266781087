"""In which order ready steps start: laws, Graham's anomalies, and graphs that nobody here drew.

The makespans are those of a second simulation, which the benchmark of the same graphs uses; it shares no code
with the one that the orders are chosen by.
"""

from itertools import count, permutations, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline_engine.schedule import ordering
from pipeline_engine.schedule.ordering import best_order, longest_paths
from tests.benchmarks.workflows import by_arrival, by_heft, by_longest, by_rank, path_seconds, read_workflows

SLOTS = st.integers(1, 5)

# Graham's nine steps (SIAM Journal on Applied Mathematics 17, 1969): the first before the last, the fourth
# before four others.
GRAHAM = [[8], [], [], [4, 5, 6, 7], [], [], [], [], []]
GRAHAM_SECONDS = [3.0, 2.0, 2.0, 2.0, 4.0, 4.0, 4.0, 4.0, 9.0]


@st.composite
def graphs(draw, max_size=14):
    """Draw who needs whom, and seconds of which no two sums are the same: no two steps end at one instant."""
    size = draw(st.integers(0, max_size))
    seconds = [draw(st.integers(0, 9)) + 2.0 ** (-5 - step) for step in range(size)]
    later = [st.lists(st.integers(step + 1, size - 1), unique=True, max_size=3) for step in range(size - 1)]
    followers = [draw(steps) for steps in later] + [[]] * (size > 0)
    return followers, seconds


def by_places(followers, seconds, slots, places):
    return by_rank(followers, seconds, slots, lambda step, _ready_at: (places[step],))


def by_best(followers, seconds, slots):
    return by_places(followers, seconds, slots, best_order(followers, seconds, slots))


def bound(followers, seconds, slots):
    return max([0.0, *path_seconds(followers, seconds), sum(seconds) / slots])


def test_the_longest_path_counts_a_step_and_the_longer_of_its_ways_on():
    """What it leaves out starts late, and the document ends late."""
    followers = [[1, 2], [3], [3], [], []]

    assert longest_paths(followers, [1.0, 2.0, 5.0, 0.5, 7.0]) == [6.5, 2.5, 5.5, 0.5, 7.0]
    assert longest_paths([], []) == []


@given(graphs())
def test_a_path_is_longer_than_each_of_its_ends_by_the_step_itself(graph):
    """The definition, which no clever loop may miss."""
    followers, seconds = graph
    longest = longest_paths(followers, seconds)

    for step, after in enumerate(followers):
        assert longest[step] - seconds[step] == max((longest[follower] for follower in after), default=0.0)


@given(graphs(), SLOTS)
def test_every_step_has_a_place_of_its_own(graph, slots):
    """Places are what the queue sorts by: a tie would leave the order to chance."""
    followers, seconds = graph

    assert sorted(best_order(followers, seconds, slots)) == list(range(len(seconds)))


@given(graphs(), SLOTS)
def test_the_same_graph_has_the_same_order_each_time(graph, slots):
    """The same run gives the same trace: the dice are part of the rule."""
    followers, seconds = graph

    assert best_order(followers, seconds, slots) == best_order(followers, seconds, slots)


@given(graphs(), SLOTS)
def test_an_order_is_never_worse_than_the_longest_path_first(graph, slots):
    """That is what the engine would do without it: whoever gives better estimates must not wait longer for it."""
    followers, seconds = graph

    assert by_best(followers, seconds, slots) <= by_longest(followers, seconds, slots)


@given(graphs(), SLOTS)
def test_an_order_is_never_worse_than_first_come_first_served(graph, slots):
    """That is what people write by hand, with a semaphore."""
    followers, seconds = graph
    arrivals = count()

    first_come = by_rank(followers, seconds, slots, lambda _step, _ready_at: (next(arrivals),))

    assert by_best(followers, seconds, slots) <= first_come


@given(graphs(), SLOTS)
def test_no_order_beats_the_bound_or_misses_grahams(graph, slots):
    """A makespan out of these bounds would show that the simulation has lost a step, or waited for nothing."""
    followers, seconds = graph
    least = bound(followers, seconds, slots)

    assert least <= by_best(followers, seconds, slots) <= (2 - 1 / slots) * least


@given(graphs())
def test_with_a_slot_for_each_step_nothing_waits(graph):
    """Then every order ends with the critical path, and none is worth searching for."""
    followers, seconds = graph

    assert by_best(followers, seconds, max(1, len(seconds))) == bound(followers, seconds, len(seconds) + 1)


@given(graphs(max_size=6), st.integers(2, 3))
@settings(max_examples=50)
def test_for_a_few_steps_it_is_the_best_of_all_orders(graph, slots):
    """The pipelines that people write have five steps, and all 720 orders of six can be tried."""
    followers, seconds = graph
    steps = range(len(seconds))

    assert by_best(followers, seconds, slots) == min(
        by_places(followers, seconds, slots, places) for places in permutations(steps)
    )


def test_one_more_slot_does_not_make_grahams_graph_slower():
    """In the order of the list a fourth slot costs three seconds; that is the anomaly."""
    in_order = list(range(9))
    assert [by_places(GRAHAM, GRAHAM_SECONDS, slots, in_order) for slots in (3, 4)] == [12.0, 15.0]

    assert [by_best(GRAHAM, GRAHAM_SECONDS, slots) for slots in (3, 4)] == [12.0, 12.0]


def test_shorter_steps_do_not_make_grahams_graph_slower():
    """In the order of the list, steps of which each is shorter end a second later."""
    shorter = [2.25, *(seconds - 1 for seconds in GRAHAM_SECONDS[1:])]
    assert by_places(GRAHAM, shorter, 3, list(range(9))) == 13.0

    assert by_best(GRAHAM, shorter, 3) == 10.25


def test_fewer_needs_do_not_make_grahams_graph_slower():
    """In the order of the list, taking two edges away costs four seconds."""
    looser = [[8], [], [], [6, 7], [], [], [], [], []]
    assert by_places(looser, GRAHAM_SECONDS, 3, list(range(9))) == 16.0

    assert by_best(looser, GRAHAM_SECONDS, 3) == 12.0


def test_it_finds_what_the_longest_path_first_misses():
    """Five steps on two slots, 3 3 2 2 2: the longest first ends after 7 seconds, the best order after 6."""
    alone, seconds = [[]] * 5, [3.0, 3.0, 2.0, 2.0, 2.0]
    assert by_longest(alone, seconds, 2) == 7.0

    assert by_best(alone, seconds, 2) == 6.0


def test_a_long_step_that_nothing_needs_is_not_left_to_the_end():
    """The example of the docstring, in full: 2 seconds and not 3."""
    alone, seconds = [[], [], []], [1.0, 1.0, 2.0]
    assert by_arrival(alone, seconds, 2) == 3.0

    assert best_order(alone, seconds, 2) == [1, 2, 0]
    assert by_best(alone, seconds, 2) == 2.0


def test_an_order_does_not_count_on_who_is_heard_of_first():
    """Where steps end at one instant, trio wakes them in any order; here the wrong one can cost a second."""
    followers, seconds = [[], [3, 4], [4], [], []], [1.0, 2.0, 2.0, 2.0, 3.0]
    places = best_order(followers, seconds, 2)

    for later in product((0.0, 2.0**-20), repeat=5):
        turned = [whole + little for whole, little in zip(seconds, later, strict=True)]
        assert by_places(followers, turned, 2, places) < 5.001


@pytest.mark.parametrize("seconds", [[], [5.0], [0.0, 0.0, 0.0]])
def test_what_needs_no_order_gets_one(seconds):
    """A pipeline of one step, and one whose steps were all found in the journal, are pipelines too."""
    assert best_order([[] for _ in seconds], seconds, 1) == list(range(len(seconds)))


@pytest.mark.parametrize(("size", "at_most"), [(11, 2_300), (101, 270), (1_001, 40), (5_001, 20)])
def test_the_search_is_bounded(size, at_most, monkeypatch):
    """It runs before the first step starts: the more steps, the fewer orders are tried."""
    runs = 0
    run = ordering._Dispatcher.run

    def counted(*arguments, **options):
        nonlocal runs
        runs += 1
        return run(*arguments, **options)

    monkeypatch.setattr(ordering._Dispatcher, "run", counted)
    # An odd number of equal steps on two slots: the bound, at which the search would end early, is out of reach.
    best_order([[]] * size, [2.0] * size, 2)

    assert runs <= at_most


@pytest.mark.parametrize("slots", [2, 4, 8, 16])
def test_real_graphs_end_as_early_as_with_offline_planning(data, slots):
    """Greedy dispatch gives up nothing worth having: at most 2 % to the better of two planners, 5 % to no plan."""
    for workflow in read_workflows(data / "workflows"):
        graph = workflow.followers, workflow.seconds, slots
        makespan = by_best(*graph)

        assert makespan <= 1.02 * min(by_heft(*graph), by_longest(*graph)), workflow.name
        assert makespan <= 1.05 * by_arrival(*graph), workflow.name
