"""The map of the code is the code's own: a reader who trusts it must not be led to rooms that are gone."""

from tests.house.map import ROOT, draw_map, first_line, modules


def test_the_map_is_what_the_modules_say_of_themselves():
    """A map that is kept by hand is wrong within a week."""
    drawn = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")

    assert drawn == draw_map(), "run: python -m tests.house.map > docs/map.md"


def test_every_module_says_what_it_is_for():
    """An empty line on the map helps nobody."""
    silent = [str(path.relative_to(ROOT)) for path in modules() if not first_line(path)]

    assert [path for path in silent if not path.endswith("cli/__init__.py")] == []
