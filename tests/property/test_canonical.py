import json

from hypothesis import given
from hypothesis import strategies as st

from pipeline_engine.journal import canonical

texts = st.text() | st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=()))
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=20)


@given(values)
def test_the_quick_way_of_writing_gives_the_bytes_of_the_standard_library(value):
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    assert canonical(value) == text.encode("utf-8", "surrogatepass")
