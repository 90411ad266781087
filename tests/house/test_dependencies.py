"""Each dependency has its reason in the decision record: what nobody can justify goes."""

import re
import tomllib

from tests.house.pages import ROOT

RECORD = ROOT / "docs" / "decisions" / "0007-dependencies.md"


def declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    groups = [
        project["build-system"]["requires"],
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    return {re.match(r"[\w.-]+", requirement)[0] for group in groups for requirement in group}


def reasons():
    rows = re.findall(r"^\| `([\w.-]+)` \| (.+?) \|$", RECORD.read_text(encoding="utf-8"), re.MULTILINE)
    return dict(rows)


def test_each_dependency_has_its_reason():
    """A dependency is somebody else's bugs, releases and licences: it is taken on purpose."""
    assert sorted(reasons()) == sorted(declared())


def test_each_reason_is_a_sentence():
    """An empty cell is no reason."""
    assert [name for name, reason in reasons().items() if len(reason.split()) < 5] == []
