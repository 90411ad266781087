"""A plan as text: exact drawings, and names that try to be more than names."""

import pytest

from pipeline_engine import Pipeline, compile_pipeline
from pipeline_engine.plan.draw import draw_dot, draw_mermaid, draw_text
from pipeline_engine.values import Outline, OutlineStep
from pipelines.document import pipeline as document

MERMAID = """\
flowchart LR
  document([document])
  title[title]
  keywords[keywords]
  category[category]
  summary[summary]
  quality[quality]
  document --> title
  document --> keywords
  document --> category
  document --> summary
  title --> summary
  keywords --> summary
  document --> quality
  title --> quality
  category --> quality"""

DOT = """\
digraph "document" {
  rankdir=LR;
  "document" [shape=ellipse];
  "title" [shape=box, label="title"];
  "keywords" [shape=box, label="keywords"];
  "category" [shape=box, label="category"];
  "summary" [shape=box, label="summary"];
  "quality" [shape=box, label="quality"];
  "document" -> "title";
  "document" -> "keywords";
  "document" -> "category";
  "document" -> "summary";
  "title" -> "summary";
  "keywords" -> "summary";
  "document" -> "quality";
  "title" -> "quality";
  "category" -> "quality";
}"""

TEXT = """\
document (document)
├─ title     ← document
│  keywords  ← document
│  category  ← document
├─ summary   ← document, title, keywords
└─ quality   ← document, title, category"""


def outline(*steps, pipeline="p", inputs=("text",)):
    return Outline(pipeline, inputs, tuple(OutlineStep(*step) for step in steps))


@pytest.mark.parametrize(
    ("draw", "drawing"), [("to_mermaid", MERMAID), ("to_dot", DOT), ("to_text", TEXT)], ids=["Mermaid", "DOT", "text"]
)
def test_the_document_pipeline_is_drawn_line_by_line(draw, drawing):
    """The drawings stand in READMEs and are compared in reviews: they change only on purpose."""
    assert getattr(compile_pipeline(document), draw)() == drawing


def test_mapped_steps_and_steps_on_demand_are_told_apart():
    """What runs many times, and what may not run at all, must not look like the rest."""
    pipeline = Pipeline("p", inputs={"texts": list[str]})
    pipeline.step(name="spare", each="texts")(lambda text: text)
    pipeline.step(name="note", each="texts", fallback=pipeline.steps[0])(lambda text: text)
    plan = compile_pipeline(pipeline)

    assert plan.to_text() == ("p (texts)\n├─ spare ×n  ← texts  (only as a fallback)\n└─ note ×n   ← texts, spare")
    assert plan.to_mermaid() == (
        "flowchart LR\n"
        "  texts([texts])\n"
        '  spare[["spare ×n"]]\n'
        '  note[["note ×n"]]\n'
        "  texts --> spare\n"
        "  texts --> note\n"
        "  spare -.-> note"
    )
    assert '"note" [shape=box, label="note ×n"];' in plan.to_dot().splitlines()[4]


def test_a_pipeline_without_inputs_is_drawn():
    """A step may read what it needs itself."""
    drawn = outline(("now", "function", (), 0), inputs=())

    assert draw_text(drawn) == "p ()\n└─ now"
    assert draw_mermaid(drawn) == "flowchart LR\n  now[now]"


def test_words_of_mermaids_own_are_no_identifiers():
    """A step called `end` would end the drawing."""
    drawn = outline(("end", "llm", ("text",), 0), ("style", "llm", ("end",), 1))

    assert draw_mermaid(drawn).splitlines()[2:] == ["  n1[end]", "  n2[style]", "  text --> n1", "  n1 --> n2"]


def test_names_in_other_alphabets_keep_their_looks():
    """Python names may be written in any script; Mermaid's identifiers may not."""
    drawn = outline(("größe", "function", ("text",), 0))

    assert draw_mermaid(drawn).splitlines()[2:] == ['  n1["größe"]', "  text --> n1"]
    assert draw_text(drawn) == "p (text)\n└─ größe  ← text"


HOSTILE = 'a"]; click a "javascript:alert(1)"\n<script>\x1b[31m\u202e\\'


def test_hostile_names_stay_inside_their_quotes():
    """An outline also comes from records: a name must neither break out of a drawing nor steer a terminal."""
    drawn = outline((HOSTILE, "llm", ("text",), 0), ("b", "llm", (HOSTILE,), 1), pipeline=HOSTILE)

    assert draw_mermaid(drawn) == (
        "flowchart LR\n"
        "  text([text])\n"
        '  n1["a&quot;]; click a &quot;javascript:alert(1)&quot; &lt;script&gt;\\x1b[31m\\u202e\\"]\n'
        "  b[b]\n"
        "  text --> n1\n"
        "  n1 --> b"
    )
    name = '"a\\"]; click a \\"javascript:alert(1)\\" <script>\\\\x1b[31m\\\\u202e\\\\"'
    assert draw_dot(drawn) == (
        f"digraph {name} {{\n"
        "  rankdir=LR;\n"
        '  "text" [shape=ellipse];\n'
        f"  {name} [shape=box, label={name}];\n"
        '  "b" [shape=box, label="b"];\n'
        f'  "text" -> {name};\n'
        f'  {name} -> "b";\n'
        "}"
    )
    shown = 'a"]; click a "javascript:alert(1)" <script>\\x1b[31m\\u202e\\'
    assert draw_text(drawn) == f"{shown} (text)\n├─ {shown}  ← text\n└─ {'b':<{len(shown)}}  ← {shown}"
