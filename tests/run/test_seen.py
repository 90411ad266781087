from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.run.seen import SeenKeys

ONE, OTHER = "a" * 32, "b" * 32


class Plain:
    """The same, as anybody would write it."""

    def __init__(self, most):
        self.most = most
        self.contents = OrderedDict()

    def meet(self, key, content):
        if key in self.contents:
            return "same" if content is not None and self.contents[key] == content else "other"
        self.contents[key] = content
        if len(self.contents) > self.most:
            self.contents.popitem(last=False)
        return "new"


@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 40), st.sampled_from([ONE, OTHER, None])), max_size=200))
def test_the_last_keys_are_remembered_and_the_oldest_is_forgotten(most, met):
    seen, plain = SeenKeys(most), Plain(most)
    for number, content in met:
        assert seen.meet(f"document-{number}", content) == plain.meet(f"document-{number}", content)


def test_thousands_of_keys_that_have_gone_round_are_found():
    seen, plain = SeenKeys(1_000), Plain(1_000)
    for number in [*range(5_000), *range(3_900, 5_000)]:
        assert seen.meet(f"document-{number}", ONE) == plain.meet(f"document-{number}", ONE)
