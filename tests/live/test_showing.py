"""Progress for programs: a line now and then, or a picture on a terminal, and nothing that breaks a run."""

import io

from pipeline_engine import Pipeline, run_batch, show_progress
from pipeline_engine.report import Present
from pipeline_engine.testing import ScriptedModel


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Gone(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def one_step():
    pipeline = Pipeline("one", inputs={"text": str})

    @pipeline.llm("fast", str)
    def title(text: str) -> str:
        return text

    return pipeline


def test_without_a_terminal_a_line_comes_now_and_then():
    """A log of a night's run must not have a line for each tenth of a second."""
    shown = io.StringIO()
    show = show_progress(every=10, file=shown)
    for tenth in range(251):
        show(Present(elapsed=tenth / 10, documents={"completed": tenth}, total=300, in_flight=4))
    show(Present(elapsed=25.1, documents={"completed": 300}, total=300, is_over=True))

    lines = shown.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["[100/300]", "[200/300]", "[300/300]"]


def test_on_a_terminal_the_last_picture_stays(monkeypatch):
    """What has come of it is the first thing that somebody looks for."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("CI", raising=False)
    shown = Terminal()

    run_batch(
        one_step(),
        [{"text": "a"}, {"text": "b"}],
        models={"fast": ScriptedModel({"*": "x"}, latency=0.05)},
        progress=show_progress("my batch", file=shown),
    )

    written = shown.getvalue()
    assert "my batch" in written
    assert "2 completed" in written.rpartition("\x1b[2K")[2]
    assert "\x1b[?25h" in written  # the cursor is back


def test_a_reader_that_has_gone_ends_nothing():
    """`| head` closes the pipe in the middle of a batch."""
    batch = run_batch(
        one_step(), [{"text": "a"}], models={"fast": ScriptedModel({"*": "x"})}, progress=show_progress(file=Gone())
    )

    assert batch.counts == {"completed": 1}
