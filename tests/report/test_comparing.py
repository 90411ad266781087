"""Comparing two batches: what differs is counted, measured, and judged against labels, and nothing is made up."""

import json
import math
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.report.comparing import ComparedDocument, ComparedStep, Spent, compare_documents
from pipeline_engine.report.comparison_page import comparison_html, render_comparison
from pipeline_engine.report.differences import FieldSums, distance_between, overlap, similarity
from pipeline_engine.report.labelled import LabelComparison, is_right, sign_test
from pipeline_engine.values import Cost

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False, allow_infinity=False) | st.text("ab c"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("xyz"), inner, max_size=3),
    max_leaves=6,
)
HOSTILE = ("<script>alert(1)</script>", '" onmouseover="x', "\x1b[31m\u202e</td></style>", "$verdict {0}", "&lt;b&gt;")


NOTHING_KNOWN = Spent()


def document(status="completed", spent=NOTHING_KNOWN, **steps):
    """Return a document whose steps have these outputs."""
    told = {
        name: value if isinstance(value, ComparedStep) else ComparedStep("completed", value)
        for name, value in steps.items()
    }
    return ComparedDocument(status, told, spent)


def compared(a, b, **options):
    """Compare two batches that are given as documents by key."""
    keys = sorted({**a, **b})
    return compare_documents(((key, a.get(key), b.get(key)) for key in keys), **options)


# Outputs


@given(JSON, JSON)
def test_the_distance_of_outputs_is_a_share_and_nothing_between_equal_ones(a, b):
    """Documents are sorted by it, and its sum over steps is compared."""
    assert 0 <= distance_between(a, b) <= 1
    assert distance_between(a, a) == 0


def test_a_truth_value_is_no_number():
    """In Python True equals 1: a model that answers 1 where true is meant has answered something else."""
    assert distance_between(True, 1) == 1
    assert distance_between({"is_new": True}, {"is_new": True}) == 0


def test_lists_are_compared_by_what_they_have_in_common_and_texts_by_words():
    """That two keyword lists differ says little; how much they share says how much the change has done."""
    assert overlap(["a", "b", "b"], ["b", "a"]) == 1
    assert overlap([], []) == 1
    assert similarity("one two three four", "one two three five") == 0.75


def test_comparing_texts_costs_no_more_than_their_beginnings():
    """Ten thousand equal words twice would take minutes, word by word: only the first few hundred are compared."""
    long = "word " * 400
    assert similarity(f"{long}and an end", f"{long}and another one") == 1


def test_outputs_are_counted_as_equal_different_and_present_on_one_side():
    """These are four different things to look into."""
    failed = ComparedStep("failed", error="model refused")
    a = {"1": document(x="a"), "2": document(x="a"), "3": document(x="a"), "4": document(x=failed), "5": document(x=1)}
    b = {"1": document(x="a"), "2": document(x="b"), "3": document(x=failed), "4": document(x="a"), "6": document(x=1)}

    comparison = compared(a, b)

    [step] = comparison.steps
    assert (step.equal, step.different, step.only_a, step.only_b) == (1, 1, 1, 1)
    assert step.outcomes == {("completed", "failed"): 1, ("failed", "completed"): 1}
    assert (comparison.documents, comparison.only_a, comparison.only_b) == (4, 1, 1)
    assert (comparison.equal, comparison.different) == (1, 3)
    assert {one.document for one in comparison.differences} == {"2", "3", "4"}


def test_an_output_that_is_not_kept_is_neither_equal_nor_different():
    """A guess would be a false result with a number on it."""
    lost = ComparedStep("completed", is_kept=False)
    comparison = compared({"1": document(x=lost, y=1)}, {"1": document(x="a", y=1)})

    assert comparison.steps[0].unknown == 1
    assert (comparison.equal, comparison.different, comparison.unknown) == (0, 0, 1)
    assert comparison.verdict == "1 document in both; nothing differs that is known"
    assert comparison.notes == ("1 output cannot be compared: the journal does not keep them any more.",)


def test_documents_that_end_differently_come_first_then_those_that_differ_most():
    """A reader looks at the first ten."""
    a = {str(n): document(score=10) for n in range(4)}
    b = {"0": document(score=9), "1": document(score=1), "2": document("failed", score=10), "3": document(score=10)}

    comparison = compared(a, b, max_differences=2)

    assert [one.document for one in comparison.differences] == ["2", "1"]
    assert comparison.different == 3
    assert comparison.statuses == {("completed", "completed"): 3, ("completed", "failed"): 1}


def fields(*pairs):
    sums = FieldSums("x")
    for a, b in pairs:
        sums.add(a, b)
    return sums.result()


def test_each_field_is_measured_by_what_it_holds():
    """An exact match is the wrong measure for a summary, and a mean the wrong one for a category."""
    labels = fields(*[("news", "news")] * 4, ("news", "other"), ("other", "news"))
    assert (labels.kind, labels.share, labels.changes) == ("label", 4 / 6, (("news", "other", 1), ("other", "news", 1)))
    numbers = fields((1, 2), (3, 2), (2, 2))
    assert (numbers.kind, numbers.mean_a, numbers.mean_b, numbers.mean_distance) == ("number", 2, 2, 2 / 3)
    lists = fields((["a"], ["a", "b"]), (["a"], ["a"]))
    assert (lists.kind, lists.overlap) == ("list", 0.75)
    texts = fields(("a long text of many words", "a long text of many words"), ("another text that differs", "x"))
    assert (texts.kind, texts.similarity) == ("text", 0.5)
    assert fields((None, None)).kind == "other"


def test_differences_are_handed_on_in_full():
    """The table cuts outputs; whoever reads on needs all of them."""
    told = []
    long = "x" * 5000
    compared({"1": document(x=long)}, {"1": document(x=ComparedStep("failed", error="no"))}, on_difference=told.append)

    [line] = told
    step = {"outcome_a": "completed", "outcome_b": "failed", "distance": 1.0, "error_a": None, "error_b": "no"}
    assert line["steps"] == {"x": step | {"a": long, "b": None}}
    assert json.loads(json.dumps(line)) == line


# Figures


def test_figures_are_of_those_that_both_sides_know():
    """A step taken from a journal has cost nothing: beside one that was paid for it would look like a saving."""
    paid = ComparedStep("completed", "a", spent=Spent(Cost(2.0), 10, 5, 4.0, 2, 1))
    cheap = ComparedStep("completed", "a", spent=Spent(Cost(1.0), 10, 5, 1.0, 1, 0))
    kept = ComparedStep("completed", "a", is_restored=True)
    a = {"1": document(x=paid), "2": document(x=paid)}
    comparison = compared(a, {"1": document(x=cheap), "2": document(x=kept)})

    [step] = comparison.steps
    cost = step.figures["cost_usd"]
    assert (cost.count, cost.total_a, cost.total_b, cost.ratio) == (1, 2.0, 1.0, 0.5)
    assert step.figures["retries"].total_b == 0
    assert step.figures["seconds"].p95_a == 4.0
    assert step.restored_b == 1
    assert comparison.notes[0].startswith("B has taken 1 output from a journal: ")


def test_an_unknown_price_is_not_zero():
    """A model without a price would win every comparison."""
    unknown, known = Spent(Cost(0.0, unpriced_calls=3)), Spent(Cost(1.0))
    comparison = compared({"1": document(x=1, spent=unknown)}, {"1": document(x=1, spent=known)})

    assert "cost_usd" not in comparison.figures
    assert (comparison.unpriced_a, comparison.unpriced_b) == (3, 0)
    assert comparison.notes == ("3 calls of A of unknown price: costs are of the documents without such calls.",)


# Labels


def test_labels_say_who_is_right_more_often_and_whether_chance_could_have_done_it():
    """With forty labelled documents a difference of two is nothing, and a reader should be told."""
    labels = {str(n): {"category": "news"} for n in range(12)} | {"lost": {"category": "x"}}
    a = {str(n): document(category={"label": "news" if n < 3 else "other"}) for n in range(12)}
    b = {str(n): document(category={"label": "news" if n > 0 else "other"}) for n in range(12)}

    comparison = compared(a, b, labels=labels)

    [label] = comparison.labels
    assert (label.count, label.right_a, label.right_b, label.both, label.only_a, label.only_b) == (12, 3, 11, 2, 1, 9)
    assert label.p_value == 0.021484375
    assert label.verdict == "B is right more often: chance alone would do as much in 2.1 of 100 such comparisons"
    assert comparison.notes == ("1 labelled document in neither batch: lost.",)


@pytest.mark.parametrize(
    ("only_a", "only_b", "verdict"),
    [
        (0, 0, "no document divides them"),
        (1, 0, "too few to tell: only 1 document divides them"),
        (5, 0, "too few to tell: only 5 documents divide them"),
        (6, 0, "A is right more often: chance alone would do as much in 3.1 of 100 such comparisons"),
        (4, 6, "no difference that chance could not make: alone it would do as much in 75 of 100"),
        (0, 40, "B is right more often: chance alone would do as much in less than 0.01 of 100 such comparisons"),
    ],
)
def test_what_follows_from_labels_is_said_with_the_caution_that_their_number_asks_for(only_a, only_b, verdict):
    """Five of five looks convincing and comes about by chance once in sixteen times."""
    assert LabelComparison("x", 100, 20, only_a, only_b).verdict == verdict


@given(st.integers(0, 1400), st.integers(0, 1400))
def test_the_sign_test_is_a_probability_and_takes_no_side(a, b):
    """Beyond a thousand documents it is reckoned by logarithms: it must not leap there."""
    p = sign_test(a, b)

    assert 0 <= p <= 1
    assert p == sign_test(b, a)
    if a > b:
        assert sign_test(a + 1, b) <= p + 1e-9


def test_large_counts_give_what_small_ones_would():
    """The two ways of reckoning meet at a thousand."""
    assert math.isclose(sign_test(460, 540), 0.0124, abs_tol=2e-4)
    assert math.isclose(sign_test(461, 541), sign_test(460, 540), rel_tol=0.1)


def test_a_missing_output_is_wrong_and_one_that_is_not_kept_is_left_out():
    """A model that refuses to answer must not get better for it; what nobody knows counts for nobody."""
    labels = {"1": {"x": "a"}, "2": {"x": "a"}, "3": {"x": "a"}}
    a = {"1": document(x=ComparedStep("failed")), "2": document(x=ComparedStep("completed", is_kept=False))}
    b = {"1": document(x="a"), "2": document(x="a"), "3": document(x="a")}

    [label] = compared(a, b, labels=labels).labels

    assert (label.count, label.only_b, label.missing_a, label.left_out) == (1, 1, 1, 2)


@pytest.mark.parametrize(
    ("expected", "output", "field", "right"),
    [
        ("news", " news\n", "", True),
        ("News", "news", "", False),
        ("3", 3, "", True),
        ("true", True, "", True),
        ('["b", "a"]', ["a", "b"], "", True),
        (1, True, "", False),
        (["a", "a"], ["a"], "", False),
        ("x", {"label": "x", "why": "y"}, "", False),
        ("x", {"label": "x", "why": "y"}, "label", True),
        ("x", {"why": "y"}, "label", False),
        (0.1, 0.30000000000000004 - 0.2, "", True),
    ],
)
def test_what_counts_as_right(expected, output, field, right):
    """CSV knows only texts, and models add white space; nothing else is forgiven."""
    assert is_right(expected, output, field) is right


def test_a_label_that_no_step_has_is_told():
    """A typing error in a file of labels would read as a model that is always wrong."""
    comparison = compared({"1": document(x=1)}, {"1": document(x=1)}, labels={"1": {"y": 1}})

    assert comparison.notes == ("no step has the name of these labels: y.",)


# The page


class Shape(HTMLParser):
    """Collect what a page is made of."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text.append(data)


def comparison_with(text):
    """Return a comparison in which whatever comes from outside is this text."""
    a = {text: document(f"{text}1", **{text: {text: text, "n": 1}}), "b": document(**{text: "x y z"})}
    b = {text: document(f"{text}2", **{text: {text: "other", "n": 2}}), "b": document(**{text: ComparedStep("failed")})}
    labels = {text: {text: text}, f"{text} unknown": {"nobody": 1}}
    return compared(a, b, labels=labels, name_a=text, name_b=text)


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("drawn", [render_comparison, comparison_html])
def test_hostile_text_adds_nothing_to_a_page(text, drawn):
    """Keys, outputs and labels are strangers' texts."""
    assert Shape(drawn(comparison_with(text))).found == Shape(drawn(comparison_with("harmless"))).found


def test_the_page_loads_nothing_and_runs_nothing(tmp_path):
    """It is opened from mail; and a reader with a screen reader finds one first heading."""
    path = compared({"1": document(x=1)}, {"1": document(x=2)}).to_html(tmp_path / "page.html")
    page = path.read_text(encoding="utf-8")

    assert "default-src 'none'; style-src 'unsafe-inline'" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert [tag for tag, _ in Shape(page).found].count("h1") == 1


def test_a_comparison_tells_itself_in_json():
    """Programs read it, too."""
    told = json.loads(json.dumps(compared({"1": document(x="a")}, {"1": document(x="b")}).told()))

    assert told["different"] == 1
    assert told["differences"][0]["steps"][0]["text_a"] == "a"
