"""The present moment: told as JSON and read again, added up over processes, and when it dares a guess."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine import Usage
from pipeline_engine.report import ErrorCount, InFlight, ModelNow, Present
from pipeline_engine.report.present import combined
from pipeline_engine.values import Cost

_counts = st.dictionaries(st.text(max_size=5), st.integers(1, 9), max_size=3)
_errors = st.lists(st.builds(ErrorCount, st.text(max_size=5), st.integers(1, 9), st.text(max_size=5)), max_size=3)
_seconds = st.floats(0, 1e6)
_models = st.dictionaries(
    st.text(max_size=5),
    st.builds(
        ModelNow,
        st.integers(0, 9),
        st.none() | st.integers(1, 9),
        st.integers(0, 9),
        st.sampled_from([None, "closed", "open", "half_open"]),
        _seconds,
        st.booleans(),
    ),
    max_size=3,
)
_longest = st.lists(
    st.builds(
        InFlight, st.text(max_size=5), _seconds, st.none() | st.text(max_size=5), st.none() | st.text(max_size=5)
    ),
    max_size=3,
)
_moments = st.builds(
    Present,
    elapsed=_seconds,
    documents=_counts,
    kept=st.integers(0, 9),
    total=st.none() | st.integers(1, 99),
    in_flight=st.integers(0, 9),
    capacity=st.integers(0, 99),
    attempts=_counts,
    models=_models,
    waits=_counts,
    ended_attempts=st.integers(0, 9),
    retries=st.integers(0, 9),
    usage=st.builds(Usage, st.none() | st.integers(0, 9), st.none() | st.integers(0, 9)),
    cost=st.builds(Cost, _seconds, _seconds, st.integers(0, 9)),
    usd_before=_seconds,
    tokens_before=st.integers(0, 9),
    budget_usd=st.none() | st.floats(0.01, 9),
    budget_tokens=st.none() | st.integers(1, 9),
    errors=_errors.map(tuple),
    faults=_errors.map(tuple),
    longest=_longest.map(tuple),
    rate=_seconds,
    stopped_by=st.none() | st.text(min_size=1, max_size=5),
    is_over=st.booleans(),
)


@given(_moments)
def test_a_moment_comes_back_from_json_as_it_was(moment):
    """What another process reads in the journal is what this one has seen."""
    assert Present.from_json(json.loads(json.dumps(moment.to_json()))) == moment


@pytest.mark.parametrize("told", [{"models": {"a": [1, 2, 3, 4, 5, 6, 7]}}, {"errors": [1]}, {"usage": 3}])
def test_what_is_no_moment_is_refused_in_one_way(told):
    """A watcher of an older version shows the rest; it does not end with a traceback."""
    with pytest.raises(ValueError, match="this tells no present moment"):
        Present.from_json(told)


@given(st.lists(_moments, max_size=4))
def test_processes_together_see_the_sum_of_what_each_sees(moments):
    """Who watches four processes wants one picture, and no document counted twice."""
    live = [moment for moment in moments if not moment.is_over]
    together = combined(moments)

    assert together.finished == sum(moment.finished for moment in moments)
    assert together.in_flight == sum(moment.in_flight for moment in live)
    assert together.calls == sum(moment.calls for moment in live)
    assert together.is_over == (not live)


def test_what_one_process_has_run_is_found_by_the_next_and_is_not_kept_twice():
    """Stopped and resumed three times, a batch would else have more from the journal than there is in it."""
    first = Present(documents={"completed": 300}, is_over=True)
    second = Present(documents={"completed": 700}, kept=300, is_over=True)
    third = Present(documents={"completed": 800}, kept=700, rate=1.0, total=1000)

    assert combined([first, second, third]).kept == 700


@pytest.mark.parametrize(
    ("finished", "kept", "total", "in_flight", "left"),
    [
        (50, 0, 100, 64, 100.0),
        (2, 0, 4, 1, None),  # too few
        (9, 0, 100, 64, None),  # not a tenth of them, nor twice as many as are in flight
        (9, 0, 100, 4, 182.0),
        (100, 0, 100, 0, None),
        (95, 90, 100, 1, 10.0),  # what the journal had came at once, and tells nothing
        (90, 89, 100, 8, None),
    ],
)
def test_nothing_is_guessed_from_too_little(finished, kept, total, in_flight, left):
    """The first documents take as long as all those that are under way with them."""
    moment = Present(documents={"completed": finished}, kept=kept, total=total, in_flight=in_flight, rate=0.5)

    assert moment.left == left


def test_a_batch_that_stops_or_has_ended_has_nothing_left():
    """An estimate beside "stopping" would be one of something that is not going to happen."""
    moment = {"documents": {"completed": 50}, "total": 100, "rate": 1.0}

    assert Present(**moment).left == 50.0
    assert Present(**moment, stopped_by="Ctrl-C").left is None
    assert Present(**moment, is_over=True).left is None
    assert Present(**moment | {"total": None}).left is None
