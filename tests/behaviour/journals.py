"""Journals that take their time, or fail, on the virtual clock: what a disk does to a run, exactly."""

import trio

from pipeline_engine import JournalWriteError, MemoryJournal


class SlowJournal:
    """A journal in memory whose answers come some seconds later; open `serve` in a nursery first.

    Like one on a disk it answers in the order of the submissions.
    """

    documents = "store"
    name = "slow"

    def __init__(self, seconds, memory=None):
        self.memory = MemoryJournal() if memory is None else memory
        self.seconds = seconds
        self.submitted = []
        self.acknowledged = []
        self.fails_after = None
        self._error = None

    async def serve(self, *, task_status=trio.TASK_STATUS_IGNORED):
        self._send, receive = trio.open_memory_channel(float("inf"))
        task_status.started()
        async for entries, done, at in receive:
            await trio.sleep_until(at)
            self._answer(entries, done)

    def open(self):
        self._inner = self.memory.open()
        self.worker = self._inner.worker
        return self

    def close(self, journal):
        pass

    def submit(self, entries, done=None):
        if self._error is not None:
            raise self._error
        self.submitted += entries
        self._send.send_nowait((entries, done, trio.current_time() + self.seconds))

    def _answer(self, entries, done):
        if self.fails_after is not None and len(self.acknowledged) + len(entries) > self.fails_after:
            self._error = self._error or JournalWriteError("slow", OSError("no space left"), 1, None)
            self.memory._store._held.clear()  # who opens the journal after a failure is another process
            answers = self._error
        else:
            answers = self._inner.submit(entries)
            self.acknowledged += entries
        if done is not None:
            done(answers)

    async def write(self, *entries):
        answered = trio.Event()
        result = []

        def done(answers):
            result.append(answers)
            answered.set()

        self.submit(entries, done)
        await answered.wait()
        if isinstance(result[0], Exception):
            raise result[0]
        return result[0]

    async def wait_for_room(self):
        pass

    def may_call(self, pipeline, document):
        return True

    def has_lost(self, pipeline, document):
        return False
