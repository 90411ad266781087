"""Which input gets the documents, which values the others get, and what --offline promises."""

import pytest

from pipeline_engine import Model, Pipeline, compile_pipeline
from pipeline_engine.cli.binding import document_input, shared_inputs, without_network


def plan_of(**inputs):
    pipeline = Pipeline("wants", inputs=inputs)
    names = ", ".join(inputs)
    space = {}
    exec(f"def told({names}) -> str:\n    return ''", space)
    pipeline.step(space["told"])
    return compile_pipeline(pipeline)


@pytest.mark.parametrize(
    ("inputs", "given", "chosen"),
    [
        (["text"], [], "text"),
        (["document", "language"], [("language", "de")], "document"),
        (["text", "language"], [("language", "de")], "text"),
        (["document", "language"], [("document", "fixed")], "language"),
    ],
)
def test_documents_go_into_the_one_input_that_is_left(inputs, given, chosen):
    """Most pipelines have one input; the others need no option for it either."""
    assert document_input(plan_of(**dict.fromkeys(inputs, str)), given) == chosen


@pytest.mark.parametrize(
    ("inputs", "given", "said"),
    [
        (
            ["text", "language"],
            [],
            (
                "pipeline 'wants' has 2 inputs that documents could go to: 'text' and 'language'. "
                "Give all but one of them, such as --input language=VALUE."
            ),
        ),
        (
            ["document", "language"],
            [],
            "pipeline 'wants' also needs 'language'. Give it: --input language=VALUE.",
        ),
        (
            ["document"],
            [("langage", "de")],
            "pipeline 'wants' has no input 'langage'. Its input is 'document'.",
        ),
        (
            ["document", "language"],
            [("langage", "de")],
            (
                "pipeline 'wants' has no input 'langage'. Its inputs are 'document' and 'language'. "
                "Did you mean 'language'?"
            ),
        ),
        (
            ["document"],
            [("document", "x")],
            "pipeline 'wants' gets 'document' from --input, so there is none for the documents. Leave one to them.",
        ),
        (
            ["document", "language"],
            [("language", "de"), ("language", "en")],
            "--input gives 'language' 2 values. Give it one.",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_told_before_anything_is_read(inputs, given, said):
    """A thousand documents that all fail for the same missing input would say it less clearly."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the whole message is compared
        document_input(plan_of(**dict.fromkeys(inputs, str)), given)

    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (str, "5", "5"),
        (str, '"quoted"', '"quoted"'),
        (int, "5", 5),
        (list[str], '["a", "b"]', ["a", "b"]),
        (str | None, "null", None),
        (str | None, "de", "de"),
        (str | None, "5", "5"),
        (bool, "true", True),
    ],
)
def test_a_value_is_text_where_text_is_wanted_and_json_elsewhere(kind, text, value):
    """Nobody quotes a language code for the shell and for JSON, and a number in a text stays a text."""
    assert shared_inputs(plan_of(document=str, extra=kind), [("extra", text)]) == {"extra": value}


def test_a_value_of_the_wrong_type_is_refused_once_not_per_document():
    """It is a mistake in the command, not in the documents."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the whole message is compared
        shared_inputs(plan_of(document=str, extra=int), [("extra", "many")])

    assert str(caught.value) == (
        "--input extra=many is no int: Input should be a valid integer, unable to parse string as an integer."
    )


def test_offline_replaces_the_models_that_a_pipeline_names_itself():
    """`--offline` promises that nothing is sent, also when a step falls back."""
    pipeline = Pipeline("careful", inputs={"document": str})

    @pipeline.llm("fast", str, fallback=(Model("openai:gpt-4o"), "nothing"))
    def title(document: str) -> str:
        return document

    plan = without_network(compile_pipeline(pipeline))

    assert plan.steps[0].fallbacks[0] == Model("offline:extractive")
    assert plan.steps[0].fallbacks[1:] == compile_pipeline(pipeline).steps[0].fallbacks[1:]
