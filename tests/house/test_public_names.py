"""The front door: one list of names, for people, for type checkers and at run time."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import pipeline_engine
from tests.house.map import modules
from tests.house.pages import ROOT, headings

NAMES = [name for name in pipeline_engine.__all__ if name != "__version__"]


def imported_for_type_checkers(package=pipeline_engine):
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    [block] = [
        statement
        for statement in tree.body
        if isinstance(statement, ast.If) and getattr(statement.test, "id", "") == "TYPE_CHECKING"
    ]
    return [alias.name for statement in block.body for alias in statement.names]


def test_type_checkers_and_run_time_see_the_same_names():
    """The names load lazily; a name in one list only is an error for half of the users."""
    assert sorted(imported_for_type_checkers()) == NAMES


def test_the_list_of_names_is_sorted_and_complete():
    """A reader looks a name up by its first letter, and `dir()` shows what there is."""
    assert sorted(NAMES) == NAMES
    assert dir(pipeline_engine) == sorted(pipeline_engine.__all__)
    assert sorted(pipeline_engine._ROOM_OF) == NAMES


def test_the_test_kit_keeps_the_same_rules():
    """It is the second door of the house, and loads its names as lazily."""
    from pipeline_engine import testing

    assert sorted(imported_for_type_checkers(testing)) == testing.__all__ == sorted(testing._ROOM_OF) == dir(testing)
    assert all(inspect.getdoc(getattr(testing, name)) for name in testing.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_can_be_imported_and_says_what_it_is(name):
    """`help(name)` is the documentation that is always at hand."""
    value = getattr(pipeline_engine, name)

    assert inspect.getdoc(value)
    assert value.__module__.startswith("pipeline_engine.")


def test_each_name_has_its_heading_in_the_reference():
    """What has no heading does not exist for a reader; what has one and is gone misleads."""
    found = [re.fullmatch(r"`(\w+)`", heading) for heading in headings(ROOT / "docs/reference/api.md")]
    described = [match[1] for match in found if match]

    assert sorted(described) == sorted({*NAMES, *names_for_tests()})


def names_for_tests():
    from pipeline_engine import testing

    return testing.__all__


# What the engine makes and users only read: how it is made is nobody's business.
MADE_BY_THE_ENGINE = {
    "BatchResult",
    "CompletionModel",
    "EmbeddingModel",
    "InTurn",
    "PipelineEngineError",
    "Plan",
    "Present",
    "Problem",
    "RunResult",
    "Simulation",
    "Step",
    "StepContext",
    "StreamingModel",
    "Sweep",
    "Trace",
    "WhatIf",
}


def signature_of(name):
    """Return how a name is called, without the types."""
    if name in MADE_BY_THE_ENGINE:
        return name
    from pipeline_engine import testing

    value = getattr(pipeline_engine, name, None) or getattr(testing, name)
    signature = inspect.signature(value)
    plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return f"{name}{signature.replace(parameters=plain, return_annotation=signature.empty)}"


@pytest.mark.parametrize("name", [*NAMES, *names_for_tests()])
def test_the_reference_has_the_signature(name):
    """A parameter that was renamed must be renamed for the reader, too."""
    page = (ROOT / "docs/reference/api.md").read_text(encoding="utf-8")
    section = page.partition(f"### `{name}`\n")[2]

    assert section.strip().startswith(f"`{signature_of(name)}`\n")


def test_an_unknown_name_is_an_attribute_error():
    """Typing mistakes must look like everywhere else in Python."""
    with pytest.raises(AttributeError, match=r"^module 'pipeline_engine' has no attribute 'Pipelin'$"):
        _ = pipeline_engine.Pipelin


def test_importing_the_package_loads_neither_trio_nor_pydantic():
    """A command line that only prints its version should not wait for them."""
    import subprocess
    import sys

    code = "import sys, pipeline_engine; print(sorted({'trio', 'pydantic', 'networkx', 'httpx2'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)

    assert shown.stdout == "[]\n"


def raised_by_docstrings():
    """Yield each exception that a `Raises:` names, with its place."""
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                section = re.search(r"^Raises:\n((?:    .*\n?|\n)+)", ast.get_docstring(node) or "", re.MULTILINE)
                for name in re.findall(r"^    (\w+):", section[1] if section else "", re.MULTILINE):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", name


def test_every_error_that_a_docstring_names_exists():
    """A caller who catches what the docs promise must be able to import it."""
    import builtins

    from pipeline_engine import errors

    own = [path.read_text(encoding="utf-8") for path in modules()]
    unknown = [
        (place, name)
        for place, name in raised_by_docstrings()
        if not hasattr(builtins, name)
        and not hasattr(errors, name)
        and not any(f"class {name}(" in source for source in own)
    ]

    assert unknown == []
