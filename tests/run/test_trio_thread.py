"""A trio loop on a thread of its own: it starts or says why not, and its end can be waited for."""

import signal
import threading

import pytest
import trio

from pipeline_engine.run.trio_thread import TrioThread


def test_a_loop_that_cannot_start_is_an_error_of_its_caller(monkeypatch):
    """A process without file descriptors must not wait for ever for a loop that will not run."""

    def run(_function, **_options):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(trio, "run", run)
    thread = TrioThread("pipeline_engine test")
    with pytest.raises(RuntimeError) as caught:
        thread.start()
    assert str(caught.value) == "the thread 'pipeline_engine test' could not start its trio loop."
    assert isinstance(caught.value.__cause__, OSError)
    assert thread.join(5)


def test_the_end_can_be_waited_for_with_a_timeout():
    """Whoever has other means, such as to cancel what runs, comes back for them."""
    thread = TrioThread("pipeline_engine test")
    thread.start()
    may_end = trio.Event()
    thread.submit(may_end.wait)
    thread.end()
    assert not thread.join(0.01)
    thread.tell(may_end.set)
    assert thread.join(5)
    thread.close()


def test_an_interrupted_wait_for_the_end_can_be_taken_up_again():
    """Python 3.11's own `Thread.join` takes a thread for ended once an interrupt has come while it waited."""
    thread = TrioThread("pipeline_engine test")
    thread.start()
    may_end = trio.Event()
    thread.submit(may_end.wait)
    thread.end()
    interrupter = threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        thread.join()
    interrupter.join()
    assert not thread.join(0.01)
    thread.tell(may_end.set)
    assert thread.join(5)


def test_work_given_after_the_end_is_refused():
    """It would wait for ever otherwise."""
    thread = TrioThread("pipeline_engine test")
    thread.start()
    thread.close()
    with pytest.raises(RuntimeError, match="the trio thread is closed"):
        thread.submit(trio.lowlevel.checkpoint)


def test_what_is_spawned_runs_beside_what_was_submitted():
    """A runner finishes so: from inside, and after what is under way."""
    thread = TrioThread("pipeline_engine test")
    thread.start()
    began = threading.Event()

    async def work():
        began.set()

    thread.tell(lambda: thread.spawn(work))
    assert began.wait(5)
    thread.close()
