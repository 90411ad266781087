"""Finding the pipeline that a user names, and saying what is wrong with the file if there is none."""

import pytest

ONE = 'from pipeline_engine import Pipeline\n{name} = Pipeline("{name}", inputs={{"text": str}})\n'
STEP = "\n@{name}.step\ndef length(text: str) -> int:\n    return len(text)\n"


def pipeline_file(*names):
    return "".join(ONE.format(name=name) + STEP.format(name=name) for name in names)


@pytest.mark.parametrize("named", ["words.py", "words.py:words", "words", "words:words", "./words.py"])
def test_a_pipeline_is_found_by_file_and_by_module(cli, write, named):
    """A console script does not look into the folder it is run from, as `python -m` does; we do."""
    write("words.py", pipeline_file("words"))

    assert cli("check", named).out == "ok: pipeline 'words': 1 step, 1 input, no roles\n"


def test_a_file_in_a_package_may_import_its_neighbours(cli, write):
    """Real pipelines share their types."""
    write("shop/__init__.py", "")
    write("shop/types.py", "Text = str\n")
    source = pipeline_file("orders").replace("\n", "\nfrom .types import Text\n", 1)
    write("shop/orders.py", source.replace('"text": str', '"text": Text'))

    assert cli("check", "shop/orders.py").out == "ok: pipeline 'orders': 1 step, 1 input, no roles\n"
    assert cli("check", "shop.orders").out == "ok: pipeline 'orders': 1 step, 1 input, no roles\n"


def test_a_file_beside_others_may_import_them(cli, write):
    """As `python folder/words.py` has it."""
    write("folder/limits.py", "MOST = 3\n")
    write("folder/words.py", "from limits import MOST\n" + pipeline_file("words"))

    assert cli("check", "folder/words.py").code == 0


def test_a_file_that_is_named_like_a_module_takes_nothing_away(cli, write):
    """`json.py` is a fine name for a pipeline, but everybody else needs the real one."""
    import json

    write("json.py", pipeline_file("words"))

    assert cli("graph", "json.py").out == "words (text)\n└─ length  ← text\n"
    import sys

    assert sys.modules["json"] is json


def test_a_second_name_for_the_same_pipeline_is_no_second_pipeline(cli, write):
    """`pipeline = words` is a common last line."""
    write("words.py", pipeline_file("words") + "pipeline = words\n_draft = Pipeline('x', inputs={})\n")

    assert cli("check", "words.py").code == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = 1\n", "'p.py' has no pipeline at its top level. Declare one there: pipeline = Pipeline(…)."),
        (
            pipeline_file("a", "b"),
            "'p.py' has 2 pipelines: 'a' and 'b'. Name one of them: p.py:a.",
        ),
        (
            "from pipeline_engine import Pipeline\ndef broken(:\n",
            "pipeline file 'p.py' is not valid Python: p.py:2: invalid syntax. `def broken(:`",
        ),
        (
            "\nimport no_such_library\n",
            (
                "pipeline file 'p.py' cannot be imported: No module named 'no_such_library' (p.py:2). "
                "Check its name, or install it."
            ),
        ),
        (
            "from pipeline_engine import Pipelin\n",
            (
                "pipeline file 'p.py' cannot be imported: cannot import name 'Pipelin' from 'pipeline_engine' "
                "(pipeline_engine/__init__.py) (p.py:1). Check its name, or install it."
            ),
        ),
        (
            'def make():\n    return {}["key"]\n\nmake()\n',
            "pipeline file 'p.py' cannot be imported: KeyError: 'key' (p.py:2). See --debug for the traceback.",
        ),
        (
            "raise SystemExit(1)\n",
            (
                "pipeline file 'p.py' ends the program when it is imported (p.py:1). "
                'Put what shall not run at import under `if __name__ == "__main__":`.'
            ),
        ),
    ],
    ids=["none", "two", "syntax", "import", "name", "error", "exit"],
)
def test_a_file_that_holds_no_pipeline_says_why(cli, write, content, said):
    """The file is the user's own code: what they need is its line, not our traceback."""
    import pipeline_engine

    write("p.py", content)

    ran = cli("check", "p.py")

    err = ran.err.replace(pipeline_engine.__file__, "pipeline_engine/__init__.py")
    assert (ran.code, ran.out, err) == (2, "", f"pipeline-engine: {said}\n")


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("word.py", "pipeline file 'word.py' does not exist. Did you mean 'words.py'?"),
        ("no.py", "pipeline file 'no.py' does not exist. Check the path and the folder you run from."),
        ("some/words.py", "pipeline file 'some/words.py' does not exist. Check the path and the folder you run from."),
        ("./words", "'./words' is no pipeline file. Did you mean 'words.py'?"),
        ("folder", "'folder' is a folder. Name a file in it, such as 'folder/inner.py'."),
        ("folder/inner.py:x", "'folder/inner.py' has no 'x'. It has none at its top level."),
        ("words.py:length", "'length' in 'words.py' is a Step, not a Pipeline. Its pipeline is 'words'."),
        ("words.py:other", "'words.py' has no 'other'. Its pipeline is 'words'."),
        (
            "no.such.module",
            (
                "module 'no.such.module' cannot be imported: No module named 'no'. "
                "Check the name and the folder you run from."
            ),
        ),
        (
            "what is this",
            "'what is this' is neither a .py file nor the name of a module. Write file.py, or package.module.",
        ),
    ],
)
def test_a_name_that_leads_nowhere_is_answered_with_the_next_step(cli, write, named, said):
    """The commonest mistake of all."""
    write("words.py", pipeline_file("words"))
    write("folder/inner.py", "")

    ran = cli("check", named)

    assert (ran.code, ran.out, ran.err) == (2, "", f"pipeline-engine: {said}\n")


def test_debug_shows_the_traceback_before_the_line(cli, write):
    """Where one line is not enough."""
    write("p.py", '{}["key"]\n')

    ran = cli("check", "p.py", "--debug")

    assert ran.code == 2
    assert ran.err.startswith("Traceback (most recent call last):\n")
    assert 'p.py", line 1, in <module>\n' in ran.err
    assert ran.err.endswith("KeyError: 'key' (p.py:1). See --debug for the traceback.\n")
