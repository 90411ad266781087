"""The module's public names: quick to import, described in the reference, and none of them shadowed."""

import enum
import inspect
import re
import subprocess
import sys

import pytest

from pipeline_engine import resilience
from tests.house.pages import ROOT, headings

PAGE = ROOT / "docs/reference/resilience.md"
NAMES = resilience.__all__


def signature_of(name):
    """Return how a name is called, without the types; an enum's members."""
    value = getattr(resilience, name)
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return ", ".join(f"`{name}.{member}`" for member in value.__members__)
    signature = inspect.signature(value)
    plain = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    return f"`{name}{signature.replace(parameters=plain, return_annotation=signature.empty)}`"


def test_each_name_has_its_heading_in_the_reference():
    """What has no heading does not exist for a reader; what has one and is gone misleads."""
    described = [match[1] for heading in headings(PAGE) if (match := re.fullmatch(r"`(\w+)`", heading))]

    assert sorted(described) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_reference_has_the_signature_and_the_name_says_what_it_is(name):
    """A parameter that was renamed must be renamed for the reader, too."""
    section = PAGE.read_text(encoding="utf-8").partition(f"### `{name}`\n")[2]

    assert section.strip().startswith(f"{signature_of(name)}\n")
    assert inspect.getdoc(getattr(resilience, name))


def test_the_list_of_names_is_sorted_and_complete():
    """`dir()` shows what there is, before and after it was used."""
    assert sorted(resilience.__all__) == resilience.__all__ == dir(resilience)


def test_importing_it_and_decorating_load_no_trio():
    """A module that decorates its functions should not make a program start later."""
    code = "import sys; from pipeline_engine.resilience import retry; print('trio' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)

    assert shown.stdout == "False\n"


def test_an_unknown_name_is_an_attribute_error():
    """Typing mistakes must look like everywhere else in Python."""
    with pytest.raises(AttributeError, match=r"^module 'pipeline_engine.resilience' has no attribute 'Limiter'$"):
        _ = resilience.Limiter
