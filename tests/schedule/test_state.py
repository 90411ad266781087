"""The state machine of a run: what may start when, told event by event, without trio."""

import pytest

from pipeline_engine import Drop, Pipeline, compile_pipeline
from pipeline_engine.errors import StepCodeError
from pipeline_engine.schedule import RunState
from pipeline_engine.schedule.state import Close, Evaluate, Open, Settle, Start
from pipeline_engine.values import Completed, Dropped, Failed, Skipped, Stopped

BROKEN = Failed(ValueError("broken"))
NOT_WANTED = Skipped("when", is_by_choice=True)


class Run:
    """Drive a `RunState` by names; `said` are its decisions in words, those to settle are settled back at once."""

    def __init__(self, pipeline, *inputs):
        self.plan = compile_pipeline(pipeline)
        self.state = RunState(self.plan, list(inputs))

    def begin(self):
        return self.words(self.state.begin())

    def settle(self, name, outcome="done", item=None):
        index = self.plan.index_of[name]
        outcome = outcome if isinstance(outcome, Completed | Failed | Skipped | Stopped) else Completed(outcome)
        if item is not None and isinstance(outcome, Failed):
            outcome = self.state.tolerate(index, outcome.error)
        return self.words(self.state.settle(index, item, outcome))

    def answer(self, name, is_wanted, item=None):
        return self.words(self.state.answer(self.plan.index_of[name], item, is_wanted=is_wanted))

    def demand(self, name, item=None):
        outcome, decisions = self.state.demand(self.plan.index_of[name], item)
        return outcome, self.words(decisions)

    def outcome(self, name):
        return self.state.outcomes[self.plan.index_of[name]]

    def items(self, name):
        return self.state.items(self.plan.index_of[name])

    def words(self, decisions):
        said = []
        for decision in decisions:
            name = self.plan.steps[decision.step].name
            place = name if getattr(decision, "item", None) is None else f"{name}[{decision.item}]"
            match decision:
                case Start():
                    said.append(f"start {place}")
                case Evaluate():
                    said.append(f"ask {place}")
                case Open(width=width):
                    said.append(f"open {name} ×{width}")
                case Close():
                    said.append(f"close {name}")
                case Settle(step, item, outcome):
                    said.append(f"{place} {type(outcome).__name__.lower()}")
                    said += self.words(self.state.settle(step, item, outcome))
        return said


def declare(**steps):
    """Declare steps over the input `text`, from `name=function` or `name=(function, options)`."""
    return with_input("text", steps)


def mapped(**steps):
    """Declare steps over the input `texts`."""
    return with_input("texts", steps)


def with_input(given, steps):
    pipeline = Pipeline("p", inputs={given: list if given == "texts" else object})
    for name, step in steps.items():
        function, options = step if isinstance(step, tuple) else (step, {})
        pipeline.step(name=name, **options)(function)
    return pipeline


# Readiness


def test_steps_that_need_inputs_alone_start_at_once_and_together():
    """In the order of their declaration, so that traces repeat."""
    run = Run(declare(b=lambda text: 0, a=lambda text: 0, c=lambda a: 0), "text")

    assert run.begin() == ["start b", "start a"]


def test_a_step_starts_when_its_last_need_is_settled():
    """Not earlier, and not when a whole level is."""
    run = Run(declare(a=lambda text: 0, b=lambda text: 0, slow=lambda text: 0, both=lambda a, b: 0), "text")
    run.begin()

    assert run.settle("b") == []
    assert run.settle("a") == ["start both"]
    assert run.state.unsettled == 2


def test_a_decision_names_the_step_that_gave_it_way():
    """The critical path is made of these."""
    run = Run(declare(a=lambda text: 0, b=lambda a: 0), "text")

    assert run.state.begin() == [Start(0, None, None)]
    assert run.state.settle(0, None, Completed(1)) == [Start(1, None, 0)]


def test_a_run_is_over_when_every_step_has_its_outcome():
    """Neither a step too early nor a step too late."""
    run = Run(declare(a=lambda text: 0, b=lambda a: 0), "text")
    run.begin()
    run.settle("a")
    assert not run.state.is_over

    run.settle("b")

    assert run.state.is_over


def test_arguments_are_the_outputs_in_the_order_of_the_parameters():
    """Keyword-only parameters go by name, optional ones that were skipped get their default."""

    def last(b, a, extra="none", *, text):
        return 0

    run = Run(
        declare(a=lambda text: 0, b=lambda text: 0, extra=(lambda text: 0, {"when": lambda: False}), last=last), "T"
    )
    run.begin()
    run.settle("a", "A")
    run.settle("b", "B")
    run.answer("extra", is_wanted=False)

    assert run.state.arguments(run.plan.steps[-1].needs, None) == (["B", "A", "none"], {"text": "T"})


# Failures and choices


def test_a_failure_skips_what_needs_it_and_nothing_else():
    """A document's other outputs are still worth having."""
    run = Run(declare(a=lambda text: 0, b=lambda a: 0, c=lambda b: 0, other=lambda text: 0), "text")
    run.begin()

    assert run.settle("a", BROKEN) == ["b skipped", "c skipped"]
    assert (run.outcome("b"), run.outcome("c")) == (Skipped("a", is_by_choice=False), Skipped("b", is_by_choice=False))
    assert run.settle("other") == []
    assert run.state.is_over


def test_a_failure_skips_only_when_all_needs_are_settled():
    """Until then one of them may still be skipped by choice, which is another answer."""
    run = Run(declare(a=lambda text: 0, b=lambda text: 0, both=lambda a, b: 0), "text")
    run.begin()

    assert run.settle("a", BROKEN) == []
    assert run.settle("b") == ["both skipped"]
    assert run.outcome("both") == Skipped("a", is_by_choice=False)


@pytest.mark.parametrize("first", ["failure", "choice"])
def test_choice_wins_over_failure_whichever_comes_first(first):
    """A step that was not wanted anyway has not failed, and timing must not decide it."""
    run = Run(
        declare(rate=lambda text: 0, amount=(lambda text: 0, {"when": lambda: False}), book=lambda rate, amount: 0), ""
    )
    run.begin()
    events = [lambda: run.settle("rate", BROKEN), lambda: run.answer("amount", is_wanted=False)]
    for event in events if first == "failure" else reversed(events):
        event()

    assert run.outcome("book") == Skipped("amount", is_by_choice=True)


def test_a_choice_skips_at_once():
    """There is nothing to wait for: the other needs cannot change it."""
    run = Run(
        declare(slow=lambda text: 0, amount=(lambda text: 0, {"when": lambda: 0}), book=lambda slow, amount: 0), ""
    )

    assert run.begin() == ["start slow", "ask amount"]
    assert run.answer("amount", is_wanted=False) == ["amount skipped", "book skipped"]


def test_an_optional_need_that_was_skipped_by_choice_is_met():
    """So branches join: whichever ran."""
    pipeline = declare(
        invoice=(lambda text: 0, {"when": lambda: True}),
        letter=(lambda text: 0, {"when": lambda: True}),
        reply=lambda invoice=None, letter=None: 0,
    )
    run = Run(pipeline, "text")
    run.begin()
    run.answer("invoice", is_wanted=False)
    run.answer("letter", is_wanted=True)

    assert run.settle("letter", "L") == ["start reply"]
    assert run.state.arguments(run.plan.steps[-1].needs, None) == ([None, "L"], {})


def test_an_optional_need_that_failed_skips_all_the_same():
    """A default stands for "not wanted", never for "lost": a reply without the invoice would be wrong."""
    run = Run(declare(invoice=lambda text: 0, reply=lambda text, invoice=None: 0), "text")
    run.begin()

    assert run.settle("invoice", BROKEN) == ["reply skipped"]
    assert run.outcome("reply") == Skipped("invoice", is_by_choice=False)


def test_skipping_by_choice_goes_on_through_optional_needs():
    """A step whose needs were all optional runs even if none of them did."""
    run = Run(declare(a=(lambda text: 0, {"when": lambda: 0}), b=lambda a: 0, c=lambda b=None: 0), "text")
    run.begin()

    assert run.answer("a", is_wanted=False) == ["a skipped", "b skipped", "start c"]
    assert run.outcome("b") == Skipped("a", is_by_choice=True)


# Conditions


def test_a_condition_is_asked_before_the_other_needs_are_there():
    """What is not wanted is known early, and its consumers with it."""
    pipeline = declare(kind=lambda text: 0, slow=lambda text: 0, book=(lambda slow: 0, {"when": lambda kind: True}))
    run = Run(pipeline, "text")
    run.begin()

    assert run.settle("kind") == ["ask book"]
    assert run.answer("book", is_wanted=True) == []
    assert run.settle("slow") == ["start book"]


def test_a_condition_is_waited_for_after_the_other_needs():
    """A step must not start while it may still be unwanted."""
    pipeline = declare(kind=lambda text: 0, fast=lambda text: 0, book=(lambda fast: 0, {"when": lambda kind: True}))
    run = Run(pipeline, "text")
    run.begin()

    assert run.settle("fast") == []
    assert run.settle("kind") == ["ask book"]
    assert run.answer("book", is_wanted=True) == ["start book"]


def test_a_condition_is_asked_once():
    """It may be costly, and it may count."""
    pipeline = declare(
        kind=lambda text: 0, a=lambda text: 0, b=lambda text: 0, book=(lambda a, b: 0, {"when": lambda kind: True})
    )
    run = Run(pipeline, "text")
    run.begin()

    assert run.settle("kind") == ["ask book"]
    assert run.settle("a") == run.settle("b") == []


def test_a_condition_without_needs_is_asked_at_the_start():
    """Such as a switch in the environment."""
    run = Run(declare(a=lambda text: 0, b=(lambda a: 0, {"when": lambda: True})), "text")

    assert run.begin() == ["start a", "ask b"]


def test_a_condition_whose_need_failed_is_not_asked():
    """It could only raise; the step is skipped as a failure."""
    run = Run(declare(kind=lambda text: 0, book=(lambda text: 0, {"when": lambda kind: True})), "text")
    run.begin()

    assert run.settle("kind", BROKEN) == ["book skipped"]
    assert run.outcome("book") == Skipped("kind", is_by_choice=False)


def test_a_failed_need_waits_for_the_conditions_answer():
    """The answer may be no, and then nothing has failed here."""
    pipeline = declare(kind=lambda text: 0, rate=lambda text: 0, book=(lambda rate: 0, {"when": lambda kind: True}))
    run = Run(pipeline, "text")
    run.begin()
    assert run.settle("rate", BROKEN) == []
    assert run.settle("kind") == ["ask book"]

    assert run.answer("book", is_wanted=False) == ["book skipped"]
    assert run.outcome("book") == NOT_WANTED


# Maps


def test_a_mapped_step_opens_and_starts_each_item():
    """All of them at once: how many run is for the slots to say."""
    run = Run(mapped(note=(lambda text: 0, {"each": "texts"}), total=lambda note: 0), ["a", "b", "c"])

    assert run.begin() == ["open note ×3", "start note[0]", "start note[1]", "start note[2]"]
    assert run.state.arguments(run.plan.steps[0].needs, 1) == (["b"], {})


def test_a_mapped_step_is_completed_with_its_outputs_in_input_order():
    """Whatever order the items finish in."""
    run = Run(mapped(note=(lambda text: 0, {"each": "texts"}), total=lambda note: 0), ["a", "b", "c"])
    run.begin()
    assert run.settle("note", "C", item=2) == run.settle("note", "A", item=0) == []

    assert run.settle("note", "B", item=1) == ["note completed", "start total"]
    assert run.outcome("note") == Completed(["A", "B", "C"])


def test_an_empty_list_completes_at_once():
    """A document without tables has a list of no tables."""
    run = Run(mapped(note=(lambda text: 0, {"each": "texts"}), total=lambda note: 0), [])

    assert run.begin() == ["open note ×0", "note completed", "start total"]
    assert run.outcome("note") == Completed([])


def test_an_item_follows_the_same_item_of_its_source():
    """Item 1 must not wait for item 0; who asks for the list waits for all."""
    pipeline = mapped(
        note=(lambda text: 0, {"each": "texts"}),
        short=(lambda note: 0, {"each": "note"}),
        total=lambda short: 0,
    )
    run = Run(pipeline, ["a", "b"])

    assert run.begin() == ["open note ×2", "start note[0]", "start note[1]", "open short ×2"]
    assert run.settle("note", "B", item=1) == ["start short[1]"]
    assert run.state.arguments(run.plan.steps[1].needs, 1) == (["B"], {})
    assert run.settle("note", "A", item=0) == ["start short[0]", "note completed"]
    assert run.settle("short", "SB", item=1) == []
    assert run.settle("short", "SA", item=0) == ["short completed", "start total"]


def test_a_mapped_step_waits_for_its_whole_needs_too():
    """Each item gets the same glossary, so no item starts before it is there."""
    run = Run(mapped(glossary=lambda texts: 0, note=(lambda text, glossary: 0, {"each": "texts"})), ["a", "b"])

    assert run.begin() == ["start glossary"]
    assert run.settle("glossary") == ["open note ×2", "start note[0]", "start note[1]"]


def test_a_failed_item_closes_its_step():
    """No further item is paid for; those on the wire finish, and then the step fails with the first cause."""
    run = Run(mapped(note=(lambda text: 0, {"each": "texts"}), total=lambda note: 0), ["a", "b", "c"])
    run.begin()

    assert run.settle("note", BROKEN, item=1) == ["close note"]
    assert run.settle("note", "A", item=0) == []
    assert run.settle("note", Skipped("note", is_by_choice=False), item=2) == ["note failed", "total skipped"]
    assert run.outcome("note") == BROKEN
    assert run.items("note") == (Completed("A"), BROKEN, Skipped("note", is_by_choice=False))


def test_a_failed_item_skips_the_same_item_of_what_follows_and_then_all():
    """A list that lacks an element nobody allowed to lose is no list."""
    pipeline = mapped(note=(lambda text: 0, {"each": "texts"}), short=(lambda note: 0, {"each": "note"}))
    run = Run(pipeline, ["a", "b"])
    run.begin()
    run.settle("note", "A", item=0)

    assert run.settle("note", BROKEN, item=1) == ["close note", "note failed", "close short"]
    assert run.settle("short", "SA", item=0) == ["short skipped"]
    assert run.outcome("short") == Skipped("note", is_by_choice=False)
    assert run.state.is_over


def test_dropped_items_are_missing_from_the_list():
    """`on_error=Drop(…)`: a summary of 49 chunks of 50 is better than none, and says what it lacks."""
    pipeline = mapped(note=(lambda text: 0, {"each": "texts", "on_error": Drop(at_most=1)}), total=lambda note: 0)
    run = Run(pipeline, ["a", "b", "c"])
    run.begin()
    run.settle("note", "A", item=0)
    run.settle("note", BROKEN, item=1)

    assert run.settle("note", "C", item=2) == ["note completed", "start total"]
    assert run.outcome("note") == Completed(["A", "C"])
    assert run.items("note") == (Completed("A"), Dropped(BROKEN.error), Completed("C"))


def test_one_loss_too_many_fails_the_step_at_once():
    """The allowance is a bound, not a hint."""
    pipeline = mapped(note=(lambda text: 0, {"each": "texts", "on_error": Drop(at_most=0.25)}), total=lambda note: 0)
    run = Run(pipeline, ["a", "b", "c", "d"])
    run.begin()

    assert run.settle("note", BROKEN, item=0) == []
    assert run.settle("note", BROKEN, item=1) == ["close note"]
    assert [type(outcome) for outcome in run.items("note")] == [Dropped, Failed, Skipped, Skipped]


def test_a_dropped_item_is_lost_to_the_steps_mapped_over_it():
    """They skip that item; whether they may lose it, too, is for them to say."""
    pipeline = mapped(
        note=(lambda text: 0, {"each": "texts", "on_error": Drop(at_most=1)}),
        short=(lambda note: 0, {"each": "note", "on_error": Drop(at_most=1)}),
        total=lambda short: 0,
    )
    run = Run(pipeline, ["a", "b"])
    run.begin()

    assert run.settle("note", BROKEN, item=0) == ["short[0] skipped"]
    assert run.settle("note", "B", item=1) == ["start short[1]", "note completed"]
    assert run.settle("short", "SB", item=1) == ["short completed", "start total"]
    assert run.outcome("short") == Completed(["SB"])
    assert run.items("short") == (Skipped("note", is_by_choice=False), Completed("SB"))


def test_a_map_that_is_not_wanted_has_no_items():
    """`when=` is asked per step: its answer holds for the whole list."""
    run = Run(mapped(note=(lambda text: 0, {"each": "texts", "when": lambda: False}), total=lambda note: 0), ["a"])

    assert run.begin() == ["ask note"]
    assert run.answer("note", is_wanted=False) == ["note skipped", "total skipped"]
    assert run.items("note") == ()


def test_a_condition_over_items_is_asked_for_each():
    """Inside a mapped inclusion every step's needs are items."""
    inner = Pipeline("inner", inputs={"text": object})
    inner.step(name="kind")(lambda text: 0)
    inner.step(name="reply", when=lambda kind: True)(lambda text: 0)
    outer = Pipeline("outer", inputs={"texts": list})
    outer.include(inner, prefix="in", each="texts")
    run = Run(outer, ["a", "b"])

    assert run.begin() == ["open in_kind ×2", "start in_kind[0]", "start in_kind[1]", "open in_reply ×2"]
    assert run.settle("in_kind", item=1) == ["ask in_reply[1]"]
    assert run.answer("in_reply", is_wanted=True, item=1) == ["start in_reply[1]"]
    assert run.settle("in_kind", item=0) == ["ask in_reply[0]", "in_kind completed"]
    assert run.answer("in_reply", is_wanted=False, item=0) == ["in_reply[0] skipped"]
    assert run.settle("in_reply", "B", item=1) == ["in_reply completed"]
    assert run.outcome("in_reply") == Completed(["B"])


def test_anything_iterable_is_listed_where_no_type_promised_a_list():
    """A generator can be read once: what was read is what everybody gets."""
    run = Run(declare(chunks=lambda text: 0, note=(lambda chunk: 0, {"each": "chunks"})), "text")
    run.begin()

    assert run.settle("chunks", Completed(letter for letter in "ab")) == [
        "open note ×2",
        "start note[0]",
        "start note[1]",
    ]
    assert run.state.values == ["text", ["a", "b"], None]


@pytest.mark.parametrize("value", ["text", b"bytes", {"a": 1}, 3, None])
def test_what_is_no_list_fails_the_mapped_step(value):
    """Mapping over the letters of a text would make a thousand calls of nonsense."""
    run = Run(declare(chunks=lambda text: 0, note=(lambda chunk: 0, {"each": "chunks"})), "text")
    run.begin()

    assert run.settle("chunks", Completed(value)) == ["note failed"]
    error = run.outcome("note").error
    assert type(error) is StepCodeError
    assert str(error) == (
        f"the each of step 'note' got a {type(value).__name__} to map over. Let the step before it return a list."
    )


# Fallback steps


def with_spare(**options):
    """`title` falls back to `spare`, which needs `draft`."""
    pipeline = Pipeline("p", inputs={"text": object})
    pipeline.step(name="draft")(lambda text: 0)
    spare = pipeline.step(name="spare", **options)(lambda draft: 0)
    pipeline.step(name="title", fallback=spare)(lambda text: 0)
    return pipeline


def test_a_step_named_only_as_a_fallback_waits_to_be_asked():
    """It is paid for only where it is called for."""
    run = Run(with_spare(), "text")

    assert run.begin() == ["start draft", "start title"]
    assert run.settle("draft") == []
    assert run.demand("spare") == (None, ["start spare"])


def test_a_demand_before_its_needs_starts_it_when_they_are_there():
    """A fallback is a step like any other."""
    run = Run(with_spare(), "text")
    run.begin()

    assert run.demand("spare") == (None, [])
    assert run.settle("draft") == ["start spare"]


def test_a_fallback_that_is_asked_twice_runs_once():
    """Two steps may share one fallback."""
    run = Run(with_spare(), "text")
    run.begin()
    run.settle("draft")
    run.demand("spare")

    assert run.demand("spare") == (None, [])
    run.settle("spare", "S")
    assert run.demand("spare") == (Completed("S"), [])


def test_a_run_waits_for_a_fallback_that_was_asked_for():
    """And not for one that was not."""
    run = Run(with_spare(), "text")
    run.begin()
    run.settle("draft")
    run.demand("spare")
    run.settle("title", "from spare")
    assert not run.state.is_over

    run.settle("spare")

    assert run.state.is_over


def test_a_fallback_that_nobody_asked_for_is_skipped_by_choice_at_the_end():
    """A document is not partial because its second-best way was not needed."""
    run = Run(with_spare(), "text")
    run.begin()
    run.settle("draft")
    run.settle("title")
    assert run.state.is_over

    assert run.words(run.state.finish()) == ["spare skipped"]
    assert run.outcome("spare") == Skipped("not called for", is_by_choice=True)
    assert run.state.status() == "completed"


def test_a_fallback_that_cannot_run_says_so_to_who_asks():
    """The asking step then goes on to its next fallback."""
    run = Run(with_spare(), "text")
    run.begin()
    run.settle("draft", BROKEN)

    assert run.demand("spare") == (Skipped("draft", is_by_choice=False), [])


def test_a_mapped_fallback_is_asked_for_item_by_item():
    """One bad chunk must not send the other forty-nine the expensive way."""
    pipeline = Pipeline("p", inputs={"texts": list})
    spare = pipeline.step(name="spare", each="texts")(lambda text: 0)
    pipeline.step(name="note", each="texts", fallback=spare)(lambda text: 0)
    run = Run(pipeline, ["a", "b"])

    assert run.begin() == ["open spare ×2", "open note ×2", "start note[0]", "start note[1]"]
    assert run.demand("spare", item=1) == (None, ["start spare[1]"])
    assert run.settle("spare", "S", item=1) == []
    assert run.settle("note", "S", item=1) == []
    assert run.settle("note", "A", item=0) == ["note completed"]
    assert run.state.is_over
    assert run.words(run.state.finish()) == ["spare completed"]
    assert run.outcome("spare") == Completed(["S"])


# The end


def test_stopping_gives_every_open_step_an_outcome():
    """What was finished is kept; what was not is told apart from what failed."""
    run = Run(declare(a=lambda text: 0, b=lambda a: 0, c=lambda b: 0), "text")
    run.begin()
    run.settle("a")

    assert run.state.stop("cancelled") == [
        Settle(1, None, Stopped("cancelled")),
        Settle(2, None, Stopped("cancelled")),
    ]
    assert run.state.outcomes == [Completed("done"), Stopped("cancelled"), Stopped("cancelled")]
    assert run.state.is_over


def test_stopping_tells_which_items_were_finished():
    """Forty of fifty chunks are done: a resume must know them."""
    run = Run(mapped(note=(lambda text: 0, {"each": "texts"})), ["a", "b"])
    run.begin()
    run.settle("note", "A", item=0)
    run.state.stop("cancelled")

    assert run.items("note") == (Completed("A"), Stopped("cancelled"))


DONE, FAILED, ENDED = Completed(1), BROKEN, Stopped("cancelled")
CHOSEN, LOST = Skipped("when", is_by_choice=True), Skipped("x", is_by_choice=False)


@pytest.mark.parametrize(
    ("leaves", "status"),
    [
        ((DONE, DONE), "completed"),
        ((DONE, CHOSEN), "completed"),
        ((CHOSEN, CHOSEN), "completed"),
        ((DONE, FAILED), "partial"),
        ((DONE, LOST), "partial"),
        ((FAILED, FAILED), "failed"),
        ((FAILED, CHOSEN), "failed"),
        ((LOST, CHOSEN), "failed"),
        ((DONE, ENDED), "stopped"),
        ((FAILED, ENDED), "stopped"),
        ((ENDED, ENDED), "stopped"),
    ],
)
def test_a_run_is_judged_by_its_leaves(leaves, status):
    """What nobody needs is what the run was for."""
    run = Run(declare(inner=lambda text: 0, one=lambda inner: 0, other=lambda inner: 0), "text")
    run.state.outcomes = [Completed("inner"), *leaves]

    assert run.state.status() == status


def test_an_inner_failure_that_a_default_does_not_hide_is_no_leaf():
    """A failed step whose consumers were not wanted anyway leaves the document completed."""
    run = Run(
        declare(rate=lambda text: 0, amount=(lambda text: 0, {"when": lambda: 0}), book=lambda rate, amount: 0), ""
    )
    run.begin()
    run.answer("amount", is_wanted=False)
    run.settle("rate", BROKEN)

    assert run.state.is_over
    assert run.state.status() == "completed"
