"""A file is whole or as it was, whatever ends the writing."""

import contextlib
import json
import stat

import pytest

from pipeline_engine.run.atomic import AtomicLines


def lines_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_the_old_file_stays_until_the_new_one_is_complete(tmp_path):
    """Whoever reads it meanwhile reads all of the last one."""
    path = tmp_path / "rows.jsonl"
    path.write_text("old\n")

    with AtomicLines(path) as lines:
        lines.write({"a": 1})
        assert path.read_text() == "old\n"

    assert lines_of(path) == [{"a": 1}]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_was_written_before_an_interruption_is_kept(tmp_path, error):
    """It is finished, and may have been paid for."""
    path = tmp_path / "rows.jsonl"

    with contextlib.suppress(error), AtomicLines(path) as lines:
        lines.write({"a": 1})
        raise error

    assert lines_of(path) == [{"a": 1}]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path):
    """Half a file would look like a whole one."""
    path = tmp_path / "rows.jsonl"
    path.write_text("old\n")

    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    with AtomicLines(path) as lines:
        lines._file.close()
        lines._file = Full()
        with pytest.raises(OSError, match="No space left"):
            lines.write({"a": 1})

    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_lines_of_other_documents_stay_where_only_some_are_run_again(tmp_path):
    """A retry of twelve documents must not lose the other thousand."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"document": "a", "n": 1}\n{"document": "b", "n": 1}\nno json\n{"document": "\\udce9", "n": 1}\n')

    with AtomicLines(path, replaces="document") as lines:
        lines.write({"document": "a", "n": 2})
        lines.write({"document": "\udce9", "n": 2})

    kept = path.read_text().splitlines()
    assert kept == [
        '{"document": "a", "n": 2}',
        '{"document": "\\udce9", "n": 2}',
        '{"document": "b", "n": 1}',
        "no json",
    ]


def test_a_file_keeps_its_rights_and_a_link_stays_a_link(tmp_path):
    """Somebody has made them so."""
    real, link = tmp_path / "real.jsonl", tmp_path / "link.jsonl"
    real.write_text("old\n")
    real.chmod(0o640)
    link.symlink_to(real)

    with AtomicLines(link) as lines:
        lines.write({"a": 1})

    assert link.is_symlink()
    assert lines_of(real) == [{"a": 1}]
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
