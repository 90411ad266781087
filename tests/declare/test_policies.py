"""Policies: what is refused at once, and how the layers merge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.declare import INHERIT, Drop, Pipeline, Policy, Retry, Timeout, effective_policy
from pipeline_engine.plan import compile_pipeline

ONCE = Retry(attempts=1, repair=0, max_throttled=0)
UNBOUND = Timeout(connect=None, first_token=None, idle=None, attempt=None, step=None)


def test_an_llm_step_without_any_policy_is_tried_four_times():
    """What a newcomer gets without having read a word about policies."""
    retry, timeout, *_ = effective_policy("llm", [Policy(), Policy()])

    assert retry == Retry(attempts=4, base_delay=1.0, max_delay=60.0, jitter="full", repair=2, max_throttled=20)
    assert timeout == Timeout(connect=10, first_token=None, idle=None, attempt=300, step=None)


def test_a_function_step_without_any_policy_is_tried_once_and_unbounded():
    """Nobody but its author knows whether a function may run twice, or how long it takes."""
    retry, timeout, *_ = effective_policy("function", [Policy(), Policy()])

    assert retry.attempts == 1
    assert timeout == UNBOUND


def test_a_field_that_is_not_given_is_inherited():
    """A step that says something about time keeps what the pipeline says about retries."""
    retry, timeout, *_ = effective_policy("llm", [Policy(retry=Retry(attempts=7), timeout=20), Policy(timeout=5)])

    assert retry == Retry(attempts=7)
    assert timeout == Timeout(connect=10, first_token=None, idle=None, attempt=5, step=None)


def test_a_retry_replaces_the_inherited_one_whole():
    """Half of one retry and half of another would be a policy that nobody wrote."""
    outer = Policy(retry=Retry(attempts=7, base_delay=9, jitter="none"))

    retry, _, *_ = effective_policy("llm", [outer, Policy(retry=Retry(attempts=2))])

    assert retry == Retry(attempts=2)


def test_timeouts_merge_field_by_field():
    """Tightening one bound must not lift another."""
    layers = [Policy(timeout=Timeout(attempt=60, step=300)), Policy(timeout=Timeout(step=100, connect=None))]

    assert effective_policy("llm", layers).timeout == Timeout(
        connect=None, first_token=None, idle=None, attempt=60, step=100
    )


@pytest.mark.parametrize("kind", ["llm", "function"])
def test_none_switches_off_what_was_inherited(kind):
    """There must be a way to say: this one not at all."""
    outer = Policy(retry=Retry(attempts=7), timeout=Timeout(attempt=60, step=300))

    assert effective_policy(kind, [outer, Policy(retry=None, timeout=None)])[:2] == (ONCE, UNBOUND)


def test_a_timeout_after_none_starts_from_nothing():
    """What was switched off outside does not come back by a side door."""
    layers = [Policy(timeout=None), Policy(timeout=5)]

    assert effective_policy("llm", layers).timeout == Timeout(attempt=5).over(UNBOUND)


def test_a_pipelines_retry_does_not_reach_function_steps():
    """A function that sends a mail would send it four times."""
    outer = Policy(retry=Retry(attempts=7), timeout=20)

    retry, timeout, *_ = effective_policy("function", [outer, Policy()])

    assert retry.attempts == 1
    assert timeout == Timeout(connect=None, first_token=None, idle=None, attempt=20, step=None)


def test_a_function_steps_own_retry_counts():
    """Its author said that it may be repeated."""
    assert effective_policy("function", [Policy(), Policy(retry=Retry(attempts=3))])[0] == Retry(attempts=3)


def test_an_included_pipelines_policy_stands_between_the_outer_one_and_the_step():
    """Its author knew its steps better than the includer does, and worse than the steps themselves."""
    inner = Pipeline("inner", inputs={"text": str}, policy=Policy(timeout=Timeout(attempt=2, step=2)))

    @inner.llm("fast", str, timeout=Timeout(attempt=3))
    def title(text: str) -> str: ...

    outer = Pipeline("outer", inputs={"text": str}, policy=Policy(retry=None, timeout=Timeout(connect=1, attempt=1)))
    outer.include(inner, prefix="en")

    step = compile_pipeline(outer).steps[0]

    assert (step.retry, step.timeout) == (ONCE, Timeout(connect=1, first_token=None, idle=None, attempt=3, step=2))


def test_a_steps_keywords_win_over_its_policy():
    """`policy=` is for sharing one between steps; a keyword beside it is the exception."""
    pipeline = Pipeline("p", inputs={"text": str})
    shared = Policy(retry=Retry(attempts=9), timeout=Timeout(attempt=9, step=99))

    @pipeline.llm("fast", str, policy=shared, retry=None, timeout=Timeout(attempt=1))
    def title(text: str) -> str: ...

    assert title.policy == Policy(retry=None, timeout=Timeout(attempt=1, step=99))


def test_a_number_is_the_attempts_timeout():
    """What most people mean by `timeout=30`."""
    assert Policy(timeout=30) == Policy(timeout=Timeout(attempt=30))
    assert Policy().timeout is INHERIT


def test_unset_timeouts_bound_nothing():
    """The scheduler asks for seconds and must not meet a marker."""
    assert Timeout(attempt=3).seconds("attempt") == 3
    assert Timeout(attempt=3).seconds("step") is None
    assert Timeout(step=None).seconds("step") is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(attempts=0), "Retry(attempts=0): at least the first try is needed."),
        (lambda: Retry(base_delay=-1), "Retry(base_delay=-1): a delay is not negative."),
        (lambda: Retry(base_delay=float("nan")), "Retry(base_delay=nan): a delay is not negative."),
        (lambda: Retry(max_delay=-0.5), "Retry(max_delay=-0.5): a delay is not negative."),
        (lambda: Retry(repair=-1), "Retry(repair=-1): use 0 for no repair."),
        (lambda: Retry(max_throttled=-1), "Retry(max_throttled=-1): use 0 for none."),
        (
            lambda: Retry(strategy="quadratic"),
            "Retry(strategy='quadratic'): one of ('exponential', 'linear', 'constant').",
        ),
        (lambda: Retry(jitter="some"), "Retry(jitter='some'): one of ('full', 'equal', 'decorrelated', 'none')."),
        (lambda: Timeout(attempt=0), "Timeout(attempt=0): a timeout is positive; None switches it off."),
        (lambda: Timeout(step=-3), "Timeout(step=-3): a timeout is positive; None switches it off."),
        (lambda: Policy(timeout=0), "Timeout(attempt=0): a timeout is positive; None switches it off."),
        (lambda: Drop(at_most=-1), "Drop(at_most=-1): it is not negative."),
        (
            lambda: Drop(at_most=1.5),
            "Drop(at_most=1.5): a share is at most 1.0; give an int for a number of items.",
        ),
        (lambda: Retry().delay_before(0), "attempts are counted from 1, not from 0."),
    ],
)
def test_impossible_numbers_are_refused_where_they_are_written(make, message):
    """The traceback then points at the line to correct, not into the engine."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the whole message is compared
        make()

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Policy(retry=3), "retry= takes a Retry(…) or None, not 3."),
        (lambda: Policy(timeout="30s"), "timeout= takes a Timeout(…), seconds, or None, not '30s'."),
    ],
)
def test_values_of_another_kind_are_refused_by_name(make, message):
    """`retry=3` is a guess that many make; whether it counts the first try, they would guess too."""
    with pytest.raises(TypeError) as caught:
        make()

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("strategy", "delays"),
    [
        ("exponential", [0, 2, 4, 8, 16, 20, 20]),
        ("linear", [0, 2, 4, 6, 8, 10, 12]),
        ("constant", [0, 2, 2, 2, 2, 2, 2]),
    ],
)
def test_delays_follow_their_law(strategy, delays):
    """The formula is the promise; jitter only spreads it."""
    retry = Retry(strategy=strategy, base_delay=2, max_delay=20)

    assert [retry.delay_before(attempt) for attempt in range(1, 8)] == delays


@given(
    strategy=st.sampled_from(["exponential", "linear", "constant"]),
    base=st.floats(0, 1e6),
    longest=st.floats(0, 1e6),
    attempt=st.integers(2, 10_000),
)
def test_delays_never_shrink_and_never_pass_the_longest(strategy, base, longest, attempt):
    """However many attempts somebody allows: no overflow, no negative wait, no endless one."""
    retry = Retry(attempts=10_001, strategy=strategy, base_delay=base, max_delay=longest)

    assert min(base, longest) <= retry.delay_before(attempt) <= retry.delay_before(attempt + 1) <= longest


@pytest.mark.parametrize(
    ("at_most", "width", "allowance"),
    [(0.1, 9, 0), (0.1, 10, 1), (0.1, 30, 3), (0.25, 7, 1), (1.0, 4, 4), (0.0, 4, 0), (0, 4, 0), (3, 25, 3), (1, 1, 1)],
)
def test_a_share_is_rounded_down_and_a_number_is_a_number(at_most, width, allowance):
    """`1` and `1.0` mean one item and all items: the type decides, as documented."""
    assert Drop(at_most=at_most).allowance(width) == allowance


def test_policies_are_values():
    """They are shared between steps and pipelines: equal ones are the same, and none can be changed."""
    assert Policy(retry=Retry(attempts=2), timeout=3) == Policy(timeout=Timeout(attempt=3), retry=Retry(attempts=2))
    assert hash(Retry()) == hash(Retry())
    with pytest.raises(AttributeError):
        Retry().attempts = 5


def test_a_repr_shows_what_was_given():
    """In a message or a debugger, markers for "not given" are noise."""
    assert repr(Timeout(attempt=60, step=None)) == "Timeout(attempt=60, step=None)"
    assert repr(Policy(timeout=None)) == "Policy(timeout=None)"
